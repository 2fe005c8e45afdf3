"""What the launches of a program have to do: tiles of every one of its programs, and the tensors that they touch.

pidsl's come from its plan and from the launches that it really makes (see `compile_ahead`); FlexAttention's from the
block mask.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flex_templates import Tiles
from gpu_cases import BLOCK, CASES, GpuCase, blocks
from gpu_model import GUESSES, Cost, Touch, Work, iteration, program

from pidsl.codegen.plan.nodes import Plan
from pidsl.codegen.plan.stages import Stage, stages
from pidsl.codegen.plan.walks import Boxes, Lags, Pass, Runs, Walk
from pidsl.language.expr import Var, evaluate, holds
from pidsl.runtime.run_triton.ahead import KernelReport, LaunchReport
from pidsl.runtime.run_triton.machine_code import LoopReport

ITEM = 2  # bytes of a bfloat16
PASSES: tuple[Pass, ...] = ("forward", "grad_query", "grad_key")
WRITTEN = {  # by a kernel's name; what else it gets is read
    "forward": {"out", "lse"}, "join": {"out", "lse"}, "row_statistics": {"lse2", "pull"}, "grad_query": {"grad_q"},
    "grad_key": {"grad_k", "grad_v"}, "add_parts": {"out", "grad_q", "grad_k", "grad_v"},
}  # fmt: skip
BY_ROWS = {"q", "out", "lse", "lse2", "pull", "grad_out", "grad_q", "running", "running_q"}
BY_KEYS = {"k", "v", "grad_k", "grad_v", "running_k", "running_v"}


@dataclass(frozen=True)
class Walked:
    """Tiles that the programs of one head of one batch entry walk, [classes, tiles], without a mask and with one."""

    full: Any
    masked: Any


@dataclass(frozen=True)
class Load:
    """What programs do: the model's launches, and the tiles that the programs of each visit."""

    works: tuple[Work, ...]
    tiles: tuple[tuple[str, Any], ...]  # name of the kernel, NumPy array


def walked(walk: Walk, length: int) -> Walked:
    """The tiles of a walk, for so many queries and keys."""
    match walk:
        case Runs():
            return _in_runs(walk, length)
        case Boxes(grid, _, own, swept, first, last):
            found = np.ones(1, dtype=np.int64)
            for low, high, size, mine, other in zip(first, last, grid.lengths, own, swept, strict=True):
                on_axis = _on_axis(low, high, size or -(-length // grid.strides[0]), mine, other)
                found = (found[:, None] * on_axis[None, :]).ravel()
            return Walked(np.zeros_like(found)[None], found[None])
        case Lags():
            count = np.full((1, _parts(length, walk.owned)), len(walk.lags))
            return Walked(np.zeros_like(count), count)
        case _:
            raise NotImplementedError(type(walk).__name__)


def _parts(length: int, size: int) -> int:
    return -(-length // size)


def _on_axis(first: Any, last: Any, length: int, own: int, swept: int) -> Any:
    t = np.arange(-(-length // own))
    low = np.maximum(evaluate(first, {"t": t}), 0 * t)
    high = np.minimum(length - 1 if last is None else evaluate(last, {"t": t}), length - 1 + 0 * t)
    return np.maximum(-(-(high - low + 1) // swept), 0)


def _in_runs(walk: Runs, length: int) -> Walked:
    layout = walk.layout
    by_keys = walk.over == "keys"
    step = layout.query_step if by_keys else layout.key_step
    env: dict[str, Any] = {"n": length, "m": length, "offset": 0, "key_offset": 0}
    mine, other = ("c", "d") if by_keys else ("d", "c")
    fixed = layout.row_class_of() if by_keys else layout.key_class_of()
    own = (np.arange(step) if layout.linked else np.array([evaluate(fixed, env)]))[:, None]
    t = np.arange(_parts(_parts(length, step), walk.owned))[None, :]
    env |= {"t": t, mine: own}
    env[other] = evaluate(layout.key_class_of(Var("c")) if by_keys else layout.row_class_of(Var("d")), env)
    exists = step * walk.owned * t + own < length
    found = {True: np.zeros(exists.shape, dtype=np.int64), False: np.zeros(exists.shape, dtype=np.int64)}
    for run in walk.runs:
        first, last = (np.asarray(evaluate(x, env), dtype=np.int64) for x in (run.first, run.last))
        count = np.maximum((last - first) // run.step + 1, 0) * exists
        if run.guard is not None:
            count = count * np.asarray(holds(run.guard, env))
        found[run.full] += count
    return Walked(found[True], found[False])


def of_plan(plan: Plan, reports: Sequence[KernelReport], case: GpuCase, heads: int, head_dim: int) -> dict[str, Load]:
    """What pidsl's launches do, forward and backward."""
    launches = sorted(((x, launch) for x in reports for launch in x.launches), key=lambda x: x[1].number)
    backward = next(k for k, (kernel, _) in enumerate(launches) if kernel.name == "row_statistics")
    found = {}
    for direction, mine in (("forward", launches[:backward]), ("backward", launches[backward:])):
        works: list[Work] = []
        tiles: list[tuple[str, Any]] = []
        for kernel, launch in mine:
            works += [Work("fill", touches=(Touch(x, size, written=True),)) for x, size in launch.filled]
            task = next((x for x in PASSES if kernel.name.startswith(x)), None)
            programs = Programs()
            if task is not None and launch.stage is not None:
                programs = _programs(kernel, launch, stages(plan, task)[launch.stage], case, head_dim)
                tiles.append((kernel.name, programs.tiles))
            touches = tuple(_touches(kernel.name, launch, programs, case.batch * heads))
            works.append(Work(kernel.name, kernel.programs or 1, programs.costs, touches))
        elements = case.batch * heads * case.length * head_dim
        for name in ("out", "grad_q", "grad_k", "grad_v"):  # what the last launch left in float32 is copied
            for _, launch in mine[::-1]:
                if name in launch.tensors and launch.tensors[name][1] == elements * 4:
                    copied = Touch(launch.tensors[name][0], elements * 4.0), Touch(name, elements * ITEM, written=True)
                    works.append(Work("cast", touches=copied))
                    break
                if name in launch.tensors:
                    break
        found[direction] = Load(tuple(works), tuple(tiles))
    return found


@dataclass(frozen=True)
class Programs:
    """The programs of a launch in the order of their numbers.

    Args:
        costs: of each.
        tiles: that each visits, a NumPy array.
        share: of the rows (keys) that they own.
        pairs: heads of batch entries; None: all that there are.
    """

    costs: tuple[Cost, ...] = ()
    tiles: Any = ()
    share: float = 1.0
    pairs: int | None = None


def _programs(kernel: KernelReport, launch: LaunchReport, stage: Stage, case: GpuCase, head_dim: int) -> Programs:
    fit, asked = kernel.programs or 1, launch.integers
    splits = asked.get("SPLITS", 1)
    loops = _Loops(kernel)
    parts: list[tuple[Cost, Any]] = []  # cost of a tile, tiles of every program [classes, tiles]
    for _, piece in stage.pieces:
        walk = piece.walk(stage.task)
        found = walked(walk, case.length)
        if isinstance(walk, Lags):
            parts.append((_of_lag(kernel, walk, head_dim), found.masked))
            continue
        for masked, tiles in ((False, found.full), (True, found.masked)):
            if tiles.any():
                loop = loops.take(masked)
                copied = loop.copied_bytes or walk.visited * 2 * head_dim * ITEM  # by the copy engine
                parts.append((iteration(loop, fit, copied), -(-tiles // splits)))
    classes, all_tiles = (int(x) for x in np.broadcast_shapes(*(x.shape for _, x in parts)))
    first, count = asked.get("first_tile", 0), asked.get("tiles", all_tiles)

    def in_order(x: Any) -> Any:
        """The programs of one head of one batch entry."""
        chosen = np.broadcast_to(x, (classes, all_tiles))[: asked.get("classes", classes), first : first + count]
        return (chosen[:, ::-1] if asked.get("DESCENDING") else chosen).ravel().repeat(splits)

    fixed = program(fit)
    total = [
        sum(getattr(cost, x) * in_order(n) for cost, n in parts) + getattr(fixed, x)
        for x in ("shared", "alone", "limit")
    ]
    tiles = np.asarray(sum(in_order(n) for _, n in parts))
    times, rest = divmod(launch.grid, max(len(tiles), 1))
    if rest:
        raise ValueError(f"{kernel.name}: {launch.grid} programs, {len(tiles)} for every head of the plan")
    costs = tuple(Cost(*x) for x in zip(*(x.tolist() for x in total), strict=True))
    return Programs(costs * times, np.tile(tiles, times), count / all_tiles, times)


class _Loops:
    """The loops of a kernel, in the order in which its walks have them."""

    def __init__(self, kernel: KernelReport) -> None:
        self.all = kernel.loops
        self.left = {kind: [x for x in kernel.loops if x.masked == kind] for kind in (False, True)}

    def take(self, masked: bool) -> LoopReport:
        """The next one of a kind; the last of them again where several walks share it."""
        found = self.left[masked] or list(self.all)
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


def _touches(name: str, launch: LaunchReport, programs: Programs, pairs: int) -> Iterator[Touch]:
    """The tensors of a launch, head by head where they have all heads."""
    task = next((x for x in WRITTEN if name.startswith(x)), "")
    own = BY_KEYS if task == "grad_key" else BY_ROWS
    first = launch.integers.get("first_pair", 0)
    for argument, (storage, size, parts) in launch.tensors.items():
        rows = (float(launch.integers.get("first_tile", 0)), programs.share) if argument in own else (0.0, 1.0)
        written = argument in WRITTEN.get(task, ())
        if parts == pairs:
            yield Touch(storage, float(size), written, rows, parts, first, programs.pairs)
        else:
            yield Touch(storage, float(size), written)


def of_flex(
    reports: Sequence[KernelReport], name: str, heads: int, head_dim: int, tiles: dict[str, Tiles]
) -> dict[str, Load]:
    """What FlexAttention's launches do: one forward; one backward, after the sums of its rows."""
    case, kinds = CASES[name], blocks(name).kinds
    whole = float(case.batch * heads * case.length * head_dim * ITEM)
    per_row = whole / head_dim / ITEM * 4

    def touches(read: str, written: str, by_row: str = "") -> tuple[Touch, ...]:
        parts = case.batch * heads
        matrices = [Touch(x, whole, x in written.split(), parts=parts) for x in f"{read} {written}".split()]
        return (*matrices, *(Touch(x, per_row, parts=parts) for x in by_row.split()))

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
        "forward": Load((first,), (("flex_forward", np.tile(visited, pairs)),)),
        "backward": Load((sums, second), (("flex_backward", np.tile(np.concatenate([key_tiles, row_tiles]), pairs)),)),
    }


def macs_per_pair(loop: LoopReport) -> float:
    """Multiply-adds of the tensor cores for each pair; 0 where the machine code does not tell."""
    if not loop.pairs:
        return 0.0
    groups = sum(int(x.split()[1][1:]) * n for x, n in loop.counts.items() if x.startswith("HGMMA"))
    return (groups * 64 * 16 * loop.warps / 4 + loop.hmma * 16 * 8 * 16 * loop.warps) / loop.pairs
