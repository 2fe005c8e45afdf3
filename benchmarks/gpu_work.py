"""What the launches of a program have to do: tiles of every one of its programs, and the tensors that they touch.

pidsl's come from its plan and from the launches that it really makes (see `compile_ahead`); FlexAttention's from the
block mask.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from flex_templates import Tiles
from gpu_cases import BLOCK, CASES, GpuCase, blocks
from gpu_model import GUESSES, Cost, Touch, Work, iteration, program

from pidsl.codegen.plan.nodes import Plan
from pidsl.codegen.plan.walks import Lags, Runs, Walk
from pidsl.codegen.plan.work import per_program
from pidsl.runtime.run_triton.ahead import KernelReport, LaunchReport, TensorFacts
from pidsl.runtime.run_triton.machine_code import LoopReport

ITEM = 2  # bytes of a bfloat16
BY_QUERY = ("q", "grad_out", "lse2", "pull")  # inputs of stages, by query head; k and v are by key head
WIDTHS = {"lse": "", "part_lse": "", "out": "V", "grad_q": "D", "grad_k": "D", "grad_v": "V", "grad": "WIDTH"}
RUNNING = {"running": "", "running_k": "D", "running_v": "V", "parts": ""}  # of results that were left: read
MERGES = ("join", "add_parts")


@dataclass(frozen=True)
class Load:
    """What programs do: the model's launches; and for each kernel the tiles that the programs of its launches visit,
    and into how many parts their walks are cut."""

    works: tuple[Work, ...]
    tiles: tuple[tuple[str, Any, int], ...]


def of_plan(plan: Plan, reports: Sequence[KernelReport], case: GpuCase, heads: int, head_dim: int) -> dict[str, Load]:
    """What pidsl's launches do, forward and backward."""
    launches = sorted(((x, launch) for x in reports for launch in x.launches), key=lambda x: x[1].number)
    backward = next(k for k, (kernel, _) in enumerate(launches) if kernel.name == "row_statistics")
    found = {}
    for direction, mine in (("forward", launches[:backward]), ("backward", launches[backward:])):
        works: list[Work] = []
        tiles: list[tuple[str, Any, int]] = []
        for kernel, launch in mine:
            works += [Work("fill", touches=(Touch(x, ((0, size),), written=True),)) for x, size in launch.filled]
            costs: tuple[Cost, ...] = ()
            if launch.pieces:
                costs, visited = _programs(kernel, launch, plan, case.length, head_dim)
                tiles.append((kernel.name, visited, launch.numbers["SPLITS"]))
            touches = tuple(_touches(kernel.name, launch, case.batch * heads))
            works.append(Work(kernel.name, kernel.programs or 1, costs, touches))
        found[direction] = Load(tuple(works), tuple(tiles))
    return found


def _programs(
    kernel: KernelReport, launch: LaunchReport, plan: Plan, length: int, head_dim: int
) -> tuple[tuple[Cost, ...], Any]:
    """The cost of every program of a launch, and the tiles that it visits, in the order of their numbers."""
    fit, asked = kernel.programs or 1, launch.numbers
    splits, task = asked["SPLITS"], kernel.name
    loops = _Loops(kernel) if kernel.loops else None
    parts: list[tuple[Cost, Any]] = []  # cost of a tile, tiles of every program [classes, tiles]
    for number in launch.pieces:
        walk = plan.pieces[number].walk(task)  # type: ignore[arg-type]
        if isinstance(walk, Lags):
            parts.append((_of_lag(kernel, walk, head_dim), per_program(walk, length, length)))
            continue
        for masked, part in ((False, _kind_of(walk, full=True)), (True, _kind_of(walk, full=False))):
            if part is not None:
                assert loops is not None, kernel.name
                loop = loops.take(masked)
                copied = loop.copied_bytes or walk.visited * 2 * head_dim * ITEM  # by the copy engine
                parts.append((iteration(loop, fit, copied), -(-per_program(part, length, length) // splits)))

    def in_order(x: Any) -> Any:
        """The programs of one head of one batch entry."""
        chosen = x[: asked["classes"], asked["first_tile"] : asked["first_tile"] + asked["tiles"]]
        return (chosen[:, ::-1] if asked["DESCENDING"] else chosen).ravel().repeat(splits)

    fixed = program(fit)
    total = [
        sum(getattr(cost, x) * in_order(n) for cost, n in parts) + getattr(fixed, x)
        for x in ("shared", "alone", "limit")
    ]
    tiles = np.asarray(sum(in_order(n) for _, n in parts))
    if launch.grid != len(tiles) * asked["pairs"]:
        raise ValueError(f"{kernel.name}: {launch.grid} programs, {len(tiles)} for each of {asked['pairs']} heads")
    costs = tuple(Cost(*x) for x in zip(*(x.tolist() for x in total), strict=True))
    return costs * asked["pairs"], np.tile(tiles, asked["pairs"])


def _kind_of(walk: Walk, *, full: bool) -> Walk | None:
    """The part of a walk whose tiles are all attended, or the part with a mask."""
    if not isinstance(walk, Runs):
        return None if full else walk
    runs = tuple(run for run in walk.runs if run.full == full)
    return replace(walk, runs=runs) if runs else None


class _Loops:
    """The loops of a kernel, in the order in which its walks have them."""

    def __init__(self, kernel: KernelReport) -> None:
        self.left = {kind: [x for x in kernel.loops if x.masked == kind] for kind in (False, True)}
        self.last = kernel.loops[-1]

    def take(self, masked: bool) -> LoopReport:
        """The next one of a kind; the last of them again where several walks share it."""
        found = self.left[masked] or [self.last]
        return found.pop(0) if len(found) > 1 else found[0]


def _of_lag(kernel: KernelReport, walk: Lags, head_dim: int) -> Cost:
    """One lag of a program of elementwise products: its part of the instructions, or the rows it reads from L2."""
    lags = len(walk.lags)
    instructions = sum(kernel.instructions.values()) / lags
    if kernel.loops:  # over lags, or over the query heads of a key head and each time over all lags
        loop = kernel.loops[0]
        instructions = loop.instructions / (lags if loop.count("EX2") >= lags else 1)
    copied = walk.owned * 2 * head_dim * ITEM
    cycles = max(kernel.warps / 4 * instructions, copied / GUESSES.l2_bytes_per_cycle)
    return Cost(cycles, cycles, cycles)


def _touches(name: str, launch: LaunchReport, pairs: int) -> Iterator[Touch]:
    """The tensors of a launch, head by head; `pairs` are the query heads of all batch entries."""
    asked = launch.numbers
    group = asked.get("group", 1)
    owned = slice(0, None)
    if launch.pieces and name != "grad_score":
        tile = asked["TILE"] * asked["STEP"]
        owned = slice(asked["first_tile"] * tile, (asked["first_tile"] + asked["tiles"]) * tile)
    by_keys = name == "grad_key"
    first, many = asked.get("first_pair", 0), asked.get("pairs", pairs)
    for argument, tensor in launch.tensors.items():
        written = argument in WIDTHS and name != "row_statistics"
        if name == "row_statistics":
            yield Touch(tensor.storage, ((0, tensor.size),), argument in ("lse2", "pull"))
        elif argument in BY_QUERY:
            heads = range(first * group, (first + many) * group) if by_keys else range(first, first + many)
            yield Touch(tensor.storage, _rows(tensor, pairs, heads, slice(0, None) if by_keys else owned, asked["n"]))
        elif argument in ("k", "v"):
            heads = range(first, first + many) if by_keys else range(first // group, -(-(first + many) // group))
            rows = owned if by_keys else slice(0, None)
            yield Touch(tensor.storage, _rows(tensor, pairs // group, heads, rows, asked["m"]))
        elif written or argument in RUNNING or argument == "part_lse":
            yield Touch(
                tensor.storage, tuple(_results(name, argument, launch, owned)), written and argument != "part_lse"
            )


def _rows(tensor: TensorFacts, heads: int, chosen: range, owned: slice, length: int) -> tuple[tuple[int, int], ...]:
    """Some rows of some heads of a contiguous tensor that has all of them."""
    each = tensor.size // heads
    start, stop, _ = owned.indices(length)
    return tuple((each * x + each * start // length, each * x + each * stop // length) for x in chosen)


def _results(name: str, argument: str, launch: LaunchReport, owned: slice) -> Iterator[tuple[int, int]]:
    """What a launch writes, or reads of what others left: of every head, from its first one on."""
    asked, tensor = launch.numbers, launch.tensors[argument]
    width = {**WIDTHS, **RUNNING}[argument] or {"forward": "V", "join": "V", "grad_query": "D"}.get(name, "WIDTH")
    item = tensor.itemsize * (1 if argument in ("lse", "part_lse") else asked[width])
    rows, parts, first, count = asked["own_rows"], 1, 0, asked["own_rows"]
    if name in MERGES:
        if argument in ("parts", "part_lse"):
            parts = asked["SPLITS"]
        else:
            rows, first = asked["target_rows"], asked["target_first"]
    else:
        parts = asked["SPLITS"]
        start, stop, _ = owned.indices(asked["own_first"] + count)
        first, count = max(0, start - asked["own_first"]), stop - max(start, asked["own_first"])
    for pair in range(asked["pairs"]):
        for part in range(parts):
            start = tensor.start + item * ((part * asked["pairs"] + pair) * rows + first)
            yield start, start + item * count


def of_flex(
    reports: Sequence[KernelReport], name: str, heads: int, head_dim: int, tiles: dict[str, Tiles]
) -> dict[str, Load]:
    """What FlexAttention's launches do: one forward; one backward, after the sums of its rows."""
    case, kinds = CASES[name], blocks(name).kinds
    whole = case.batch * heads * case.length * head_dim * ITEM
    per_row = whole // head_dim // ITEM * 4

    def touches(read: str, written: str, by_row: str = "") -> tuple[Touch, ...]:
        matrices = [Touch(x, ((0, whole),), x in written.split()) for x in f"{read} {written}".split()]
        return (*matrices, *(Touch(x, ((0, per_row),)) for x in by_row.split()))

    def programs(kernel: KernelReport, size: tuple[int, int], owned: int, products: int) -> tuple[list[Cost], Any]:
        """Those that own blocks on axis `owned` (0 rows, 1 keys), in the order of their numbers."""
        fit = kernel.programs or 1
        mine = [x for x in kernel.loops if round(macs_per_pair(x) / head_dim) == products]
        found = []
        for masked, kind in ((True, 1), (False, 2)):
            loop = next(x for x in mine if x.masked == masked)
            per_block = (kinds == kind).sum(1 - owned) * (BLOCK // size[1 - owned])
            found.append((iteration(loop, fit, loop.copied_bytes), np.repeat(per_block, BLOCK // size[owned])))
        (partial, a), (full, b) = found
        return [program(fit) + partial * x + full * y for x, y in zip(a.tolist(), b.tolist(), strict=True)], a + b

    forward, backward = reports
    costs, visited = programs(forward, tiles["forward"].sizes[0], 0, 2)
    pairs = case.batch * heads
    first = Work("flex_forward", forward.programs or 1, tuple(costs) * pairs, touches("q k v", "out", "lse"))
    of_keys, of_rows = tiles["backward"].sizes
    key_costs, key_tiles = programs(backward, of_keys, 1, 4)
    row_costs, row_tiles = programs(backward, of_rows, 0, 3)
    second = Work(
        "flex_backward", backward.programs or 1, (*key_costs, *row_costs) * pairs,
        touches("q k v grad_out", "grad_q grad_k grad_v", "lse delta"),
    )  # fmt: skip
    sums = Work("delta", touches=touches("out grad_out", "", "lse delta"))
    return {
        "forward": Load((first,), (("flex_forward", np.tile(visited, pairs), 1),)),
        "backward": Load(
            (sums, second), (("flex_backward", np.tile(np.concatenate([key_tiles, row_tiles]), pairs), 1),)
        ),
    }


def macs_per_pair(loop: LoopReport) -> float:
    """Multiply-adds of the tensor cores for each pair; 0 where the machine code does not tell."""
    if not loop.pairs:
        return 0.0
    groups = sum(int(x.split()[1][1:]) * n for x, n in loop.counts.items() if x.startswith("HGMMA"))
    return (groups * 64 * 16 * loop.warps / 4 + loop.hmma * 16 * 8 * 16 * loop.warps) / loop.pairs
