"""What Triton's kernels are made of on each target: facts, candidate tiles, what those cost, and launch options.

A program is made for a `Kind`: the target, the class of the head dimension and that of the elements. A kernel is made
for one pass, and owns rows (forward, grad_query) or keys (grad_key) in tiles of a size of that pass. For each pass the
table has a few sizes; the cost model takes the cheapest for a pattern, `neighbours` are what a tuner would try.

Costs are cycles of one multiprocessor, modelled from machine code of sm_90 in bfloat16 (benchmarks/ahead.py); nothing
in them was measured. Those of other targets keep the proportions of tiles that were in use before there was a table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pidsl.codegen.plan.walks import Pass

KIB, MIB = 1024, 1024 * 1024
SPARE = 2 * KIB  # bytes of shared memory for sums, barriers and what else a kernel keeps there
FEWEST_STAGES, FEWEST_WARPS, EXACT_WARPS = 1, 4, 16


@dataclass(frozen=True, slots=True)
class Target:
    """A GPU as far as plans and launches ask about it.

    Args:
        name: "cuda:<compute capability>" or "hip:<architecture>".
        shared: bytes of shared memory that one program may have.
        multiprocessors: of the largest card.
        l2: bytes of the second-level cache of that card.
        descriptors: tensor descriptors are copied by hardware (TMA).
        operands: whether both factors of a product come from shared memory; else those owned live in registers.
        tiles: the target whose row of the table holds for it.
        specialized: warps of a forward program may be given copies, products and the softmax as tasks of their own.
    """

    name: str
    shared: int
    multiprocessors: int
    l2: int
    descriptors: bool
    operands: bool
    tiles: str
    specialized: bool = False


TARGETS = {
    x.name: x
    for x in (
        Target("cuda:80", 163 * KIB, 108, 40 * MIB, False, False, "cuda:80"),
        Target("cuda:86", 99 * KIB, 84, 6 * MIB, False, False, "cuda:80"),
        Target("cuda:89", 99 * KIB, 142, 96 * MIB, False, False, "cuda:80"),
        Target("cuda:90", 227 * KIB, 132, 50 * MIB, True, True, "cuda:90"),
        Target("cuda:100", 227 * KIB, 148, 126 * MIB, True, True, "cuda:90", specialized=True),
        Target("cuda:120", 99 * KIB, 188, 128 * MIB, True, False, "cuda:80"),
        Target("hip:gfx942", 64 * KIB, 304, 4 * MIB, False, False, "cuda:80"),
    )
}
DEFAULT = "cuda:90"  # where there is no GPU to ask


def target(name: str) -> Target:
    """A target by name. One that is not in the table is like the newest that is not newer (or like the oldest) of the
    same maker, with the least shared memory of all: a launcher asks the device how much there is.

    >>> target("cuda:87").tiles
    'cuda:80'
    """
    if name in TARGETS:
        return TARGETS[name]
    maker, _, which = name.partition(":")
    known = [x for x in TARGETS if x.startswith(maker + ":")]  # the oldest first
    older = [x for x in known if which.isdigit() and int(x.partition(":")[2]) <= int(which)]
    like = TARGETS[[*known[:1], *older, DEFAULT][len(older) if known else -1]]
    return replace(like, name=name, shared=min(x.shared for x in TARGETS.values()))


@dataclass(frozen=True, slots=True)
class Tile:
    """A candidate: its size, how its kernel is compiled, and what computing in it costs.

    Args:
        rows, cols: of a tile.
        warps, stages: of a program and its software pipeline, where they fit.
        full, masked: cycles for 64 x 64 pairs, without a mask and with one.
        program: cycles to begin and end on one more tile of what is owned.
        registers: the most per thread that the compiler may take; None: as it likes.
    """

    rows: int
    cols: int
    warps: int
    stages: int
    full: float
    masked: float
    program: float
    registers: int | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table.

    Args:
        forward, grad_query, grad_key: the candidates of each pass, the largest first.
        diagonal: cycles per pair of a diagonal, elementwise: as long as its keys take from the second-level cache.
        resume: cycles per row for which a kernel goes on from what another one wrote.
    """

    forward: tuple[Tile, ...]
    grad_query: tuple[Tile, ...]
    grad_key: tuple[Tile, ...]
    diagonal: float
    resume: float

    def of(self, task: Pass) -> tuple[Tile, ...]:
        """The candidates of a pass."""
        return {"forward": self.forward, "grad_query": self.grad_query, "grad_key": self.grad_key}[task]


def _plain(*sizes: tuple[int, int], stages: int = 2) -> tuple[Tile, ...]:
    """Tiles at prices that were in use before there was a table; small ones use the machine badly."""
    costs = {128: 512.0, 64: 563.0, 32: 922.0, 16: 1536.0}  # by rows, and 188 more for every tile

    def cost(rows: int, cols: int) -> float:
        return costs[rows] + 188.0 * 4096 / (rows * cols)

    return tuple(Tile(r, c, max(FEWEST_WARPS, r // 16), stages, cost(r, c), cost(r, c), 500.0) for r, c in sizes)


_SMALL = (32, 32), (16, 16)


def _row(forward: tuple[int, int], back: tuple[int, int], keys: tuple[int, int], stages: int = 2) -> Row:
    """A row whose largest tiles are these, of the forward pass and of the gradients of queries and keys."""
    sizes = (dict.fromkeys((x, (min(64, x[0]), x[1]), *_SMALL)) for x in (forward, back, keys))
    forward_tiles, back_tiles, key_tiles = (_plain(*x, stages=stages) for x in sizes)
    return Row(forward_tiles, back_tiles, key_tiles, diagonal=15.0, resume=34.0)


_FLOAT32 = _row((128, 64), (64, 64), (32, 64))
_LARGE = _row((64, 32), (64, 32), (32, 32))


def _small(cost: float, program: float) -> tuple[Tile, ...]:
    """Tiles of fewer rows than the tensor cores of sm_90 take, for classes and blocks of few tokens: every token is
    loaded once more for each halving."""
    return tuple(Tile(r, r, FEWEST_WARPS, 2, x, x, program) for r, x in ((32, cost), (16, 2.5 * cost)))


# By the target, the class of head dimensions (the largest of it) and bytes per element; see `kind`.
TILES: Mapping[tuple[str, int, int], Row] = {
    ("cuda:90", 64, 2): Row(
        forward=(
            Tile(128, 128, 8, 3, full=582, masked=680, program=2500),
            Tile(128, 64, 4, 3, full=590, masked=665, program=1250),
            Tile(64, 64, 4, 3, full=630, masked=750, program=833),
            *_small(1660, 500),
        ),
        grad_query=(
            Tile(128, 64, 8, 3, full=785, masked=940, program=2500),
            Tile(64, 64, 4, 3, full=740, masked=910, program=833),
            *_small(2000, 500),
        ),
        grad_key=(  # products of 64 rows: with fewer, they wait for shared memory
            Tile(64, 128, 8, 3, full=998, masked=1160, program=2500),
            Tile(64, 64, 4, 3, full=1000, masked=1170, program=1250),
            *_small(2400, 600),
        ),
        diagonal=16.0,
        resume=34.0,
    ),
    ("cuda:90", 128, 2): Row(
        forward=(
            Tile(128, 128, 8, 3, full=850, masked=960, program=2500),
            Tile(128, 64, 8, 3, full=1006, masked=1110, program=2500),
            Tile(64, 64, 4, 3, full=1260, masked=1260, program=1250),
            *_small(2900, 800),
        ),
        grad_query=(
            Tile(128, 64, 8, 3, full=1227, masked=1390, program=2500),
            Tile(64, 64, 4, 3, full=1365, masked=1545, program=2500),
            *_small(4000, 800),
        ),
        grad_key=(
            Tile(64, 128, 8, 3, full=1581, masked=1755, program=2500),
            Tile(64, 64, 4, 3, full=1850, masked=2050, program=2500),
            *_small(5000, 1000),
        ),
        diagonal=30.0,
        resume=68.0,
    ),
    ("cuda:80", 64, 2): _row((128, 64), (64, 64), (64, 64), stages=3),
    ("cuda:80", 128, 2): _row((128, 64), (64, 64), (32, 64), stages=3),
    **{(x, 128, 4): _FLOAT32 for x in ("cuda:80", "cuda:90")},
    **{(x, 256, 4): _LARGE for x in ("cuda:80", "cuda:90")},
}


class Kind(NamedTuple):
    """What a Triton program is made for: one for each of the few there are.

    Args:
        target: the name of one.
        head_dim: the largest of its class.
        itemsize: bytes per element, of its class.
    """

    target: str = DEFAULT
    head_dim: int = 64
    itemsize: int = 2


def kind(name: str, head_dim: int, itemsize: int) -> Kind:
    """The kind of program for a call.

    Head dimensions up to 64 and up to 128 have tiles of their own in 16 bits, not in 32; above, all have the same.

    >>> kind("cuda:90", 80, 2), kind("cuda:90", 80, 4)
    (Kind(target='cuda:90', head_dim=128, itemsize=2), Kind(target='cuda:90', head_dim=128, itemsize=4))
    """
    if head_dim > 128:
        return Kind(name, 256, 4)
    return Kind(name, 64 if head_dim <= 64 and itemsize <= 2 else 128, 2 if itemsize <= 2 else 4)


def table(of: Kind) -> Row:
    """The row of the table for a kind of program."""
    return TILES[target(of.target).tiles, of.head_dim, of.itemsize]


def neighbours(of: Kind, task: Pass, rows: int, cols: int) -> tuple[Tile, ...]:
    """The few candidates of a pass that a tuner tries where a plan has tiles of a size: that size first, then those
    of at most four times and at least a quarter of its pairs."""
    near = (x for x in table(of).of(task) if rows * cols <= 4 * x.rows * x.cols <= 16 * rows * cols)
    return tuple(sorted(near, key=lambda x: (x.rows, x.cols) != (rows, cols)))


def options(
    name: str | Target, task: str, rows: int, cols: int, head_dim: int, itemsize: int, tensor_cores: bool = True
) -> dict[str, int]:
    """Warps, pipeline stages and registers with which the kernel of a stage is compiled.

    Args:
        name: the target, by its name or as it is: `replace(target(...), shared=...)` for what a device says of itself.
        task: the pass: "forward", "grad_query", "grad_key" or "grad_score".
        rows, cols: of its largest tile; 0 for what is not swept.
        head_dim: the padded length of rows of q and k, or that of v where it is greater.
        itemsize: bytes per element.
        tensor_cores: False for exact float32 products, which need many more registers.

    Returns:
        Keyword arguments of the launch.
    """
    where = target(name) if isinstance(name, str) else name
    pass_: Pass = "grad_key" if task == "grad_key" else "forward" if task == "forward" else "grad_query"
    owned, swept = (cols, rows) if pass_ == "grad_key" else (rows, cols)
    known = TILES[where.tiles, *kind(where.name, head_dim, itemsize)[1:]].of(pass_)
    found = next((x for x in known if (x.rows, x.cols) == (rows, cols)), None)
    warps = found.warps if found else max(FEWEST_WARPS, owned // 16)
    if swept and not tensor_cores:
        warps = EXACT_WARPS
    stages = found.stages if found else 2
    if not where.name.startswith("cuda"):
        stages = min(stages, 2)
    while (
        stages > FEWEST_STAGES and shared_bytes(where, pass_, owned, swept, head_dim * itemsize, stages) > where.shared
    ):
        stages -= 1
    chosen = {"num_warps": warps, "num_stages": stages}
    if found and found.registers and tensor_cores and where.name.startswith("cuda"):
        chosen["maxnreg"] = found.registers
    return chosen


def shared_bytes(where: Target, task: Pass, owned: int, swept: int, row_bytes: int, stages: int) -> int:
    """About how much shared memory a program takes: two tensors are owned or one, two are swept."""
    tensors = 1 if task == "forward" else 2
    kept = tensors * owned * row_bytes if where.operands else 0
    between = 0 if task == "forward" else 2 * owned * swept  # of the products of one tile, in 16 bits
    held = stages if where.name.startswith("cuda") else stages - 1  # the last is in registers
    return kept + 2 * held * swept * row_bytes + between + SPARE
