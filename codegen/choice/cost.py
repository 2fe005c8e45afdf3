"""What a way of computing a part would cost, from its shape at a reference length.

The shape of a part in a layout is, per row, the interval of keys it attends (isl's loops, evaluated for all rows at
the reference length). Tiles of a given size then compute rows x covered keys, whatever is attended in them, and those
whose pairs are all attended need no mask. Only the ratios of costs matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, reduce
from math import prod
from typing import Any, get_args

import islpy as isl
import numpy as np
from numpy.typing import NDArray

from pidsl.codegen.choice.targets import Kind, table
from pidsl.codegen.plan.walks import Over, Pass, Runs
from pidsl.codegen.plan.work import FEW, LONG
from pidsl.codegen.tiling.bands import Placed
from pidsl.codegen.tiling.coordinates import mask_pred
from pidsl.errors import TooHardError
from pidsl.language.expr import FloorDiv, Index, Sub, Var, evaluate, holds
from pidsl.relation.forms import Form
from pidsl.relation.isl import limited
from pidsl.relation.loops import Loop, NoLoop, loops

REFERENCE = 16384  # rows and keys at which plans are compared; twice the longest lag where that is more
LONGEST = 1 << 18  # but never more than this
CLASSES = 8  # residue classes looked at
SAMPLE = 24  # rows looked at where a band holds more than its piece
WASTE = 2.0  # computed pairs per attended one, beyond which a leaner way is taken where it costs about the same
CLOSE = 1.2  # times the least cost: about the same, as far as this model can tell
GRAIN = 16  # rows whose keys are looked at together
NEVER = np.iinfo(np.int64).max  # the first key of a row without keys


@dataclass(frozen=True, slots=True)
class Price:
    """Tiles of one size, and what the steps of computing in them cost."""

    rows: int
    cols: int
    full: float  # one pair of a tile without a mask
    masked: float  # and of one with a mask
    program: float  # starting on one more tile of what is owned
    row: float = 0.0  # one row (key) of it: reading the query, merging the result
    gather: float = 0.0  # one key of a box, which is no strided view

    def cost(self, work: Work, owned: int) -> float:
        """Of the work in these tiles, which own so many positions."""
        pairs = work.full * self.full + (work.pairs - work.full) * self.masked
        return pairs + work.keys * self.gather + work.programs * (self.program + owned * self.row)


Sizes = tuple[tuple[int, int], ...]  # (rows, cols) of the tiles of each pass


@dataclass(frozen=True, slots=True)
class Calls:
    """What counts where each tile is a call, but for tiles with one mask, which are computed in one together."""

    few: int  # tiles of a piece that may well be calls of their own;
    alone: int  # rows of a tile where they are more
    split: int  # keys per row above which unmasked runs pay for the merge with masked ones
    parts: int  # of a packing that are pieces of their own


@dataclass(frozen=True, slots=True)
class Backend:
    """What a backend asks of a plan; an emitter and a program make it one that runs.

    Args:
        name: as `compile` knows it.
        forward: its tiles in the forward pass, and what they cost.
        grad_query: those in the pass of dQ; none: the tiles of the forward pass, or a few of them together.
        grad_key: those in the pass of dK and dV; none: the program of dQ gives all gradients.
        pair: one attended pair, where tiles fit.
        diagonal: one attended pair, elementwise.
        resume: one row of a kernel that goes on from what another one wrote.
        exact: tiles are exact ranges of keys (cols 1); else both sides are powers of two, 16 or more.
        close: times the least cost: about the same, where prices are those of one head dim for all of them.
        least: rows that tiles of dQ should have, where they are those of the forward pass.
        calls: where each tile is a call.
    """

    name: str
    forward: tuple[Price, ...]
    grad_query: tuple[Price, ...]
    grad_key: tuple[Price, ...]
    pair: float
    diagonal: float
    resume: float
    exact: bool
    close: float = 1.0
    least: int = 1
    calls: Calls | None = None

    @property
    def passes(self) -> tuple[Pass, ...]:
        """The passes that have programs of their own."""
        return ("forward", "grad_query", "grad_key") if self.grad_key else ("forward", "grad_query")

    def prices(self, task: Pass) -> tuple[Price, ...]:
        """The tiles of a pass."""
        return {"forward": self.forward, "grad_query": self.grad_query, "grad_key": self.grad_key}[task]

    def price(self, task: Pass, rows: int, cols: int) -> Price:
        """Tiles of a size, at the price of those most like them."""
        known = self.prices(task) or self.forward
        like = min(known, key=lambda x: (abs(x.rows - rows) + abs(x.cols - cols), x.rows))
        return replace(like, rows=rows, cols=cols)

    def walks(
        self, rows: int, cols: int, outline: Shape, walk: Callable[[Over, int, int], Runs]
    ) -> tuple[Runs, Runs, Runs | None]:
        """The walks of a piece in all passes, from its walk over keys or queries in tiles of so many rows and keys.

        Args:
            rows, cols: of the tiles of the forward pass.
            outline: what the tiles of the others are chosen by.
            walk: makes them.
        """
        forward = walk("keys", rows, cols)
        back = rows * max(1, self.least // rows), cols
        if self.grad_query:
            back = best_tiles(outline, self, "grad_query").size
        grad_query = forward if back == (rows, cols) else walk("keys", *back)
        if not self.grad_key:
            return forward, grad_query, None
        return forward, grad_query, walk("queries", *best_tiles(outline, self, "grad_key").size)

    def in_tiles(self, sizes: Sizes) -> Backend:
        """With these tile sizes for its passes."""
        own = [(self.price(task, *size),) for task, size in zip(self.passes, sizes, strict=True)]
        forward, grad_query, grad_key = [*own, ()][:3]
        return replace(self, forward=forward, grad_query=grad_query, grad_key=grad_key)


def _triton(of: Kind) -> Backend:
    """Triton's prices for a kind of program: cycles of a multiprocessor per head."""
    row = table(of)
    own = (
        tuple(Price(x.rows, x.cols, x.full / 4096, x.masked / 4096, x.program) for x in row.of(task))
        for task in get_args(Pass)
    )
    forward, grad_query, grad_key = own
    pair = min(x.full for x in forward)
    return Backend("triton", forward, grad_query, grad_key, pair, row.diagonal, row.resume, exact=False)


# In nanoseconds per head at head dim 64, on a CPU. Small tiles use the machine badly.
_TORCH_PAIR = 3.2
_TORCH_ROWS = {512: 0.97, 256: 0.97, 128: 1.0, 64: 1.08, 32: 1.1, 16: 1.7}
TORCH = Backend(
    "torch",
    tuple(
        Price(rows, 1, _TORCH_PAIR * x, _TORCH_PAIR * x, program=1100.0, row=300.0, gather=60.0)
        for rows, x in _TORCH_ROWS.items()
    ),
    grad_query=(),
    grad_key=(),  # it sweeps keys and folds what falls on the same key
    pair=_TORCH_PAIR,
    diagonal=75.0,
    resume=0.0,
    exact=True,
    close=CLOSE,
    least=64,
    calls=Calls(few=4, alone=256, split=2048, parts=512),
)


@lru_cache
def backend_of(name: str, of: Kind | None = None) -> Backend:
    """What a backend asks of a plan, for a kind of program."""
    return TORCH if name == "torch" else _triton(of or Kind())


BACKENDS = {name: backend_of(name) for name in ("triton", "torch")}  # for the kind that nobody has asked for


Ends = tuple[NDArray[np.int64], NDArray[np.int64]]  # first and last key [classes, rows]; NEVER and -1 where none is


Box = tuple[int, ...]  # tokens on every axis


@dataclass(frozen=True, slots=True)
class Work:
    """What tiles or boxes of one size compute at the reference length."""

    pairs: int
    tiles: int  # of the other dimension, visited
    programs: int  # own tiles with any work
    keys: int = 0  # in boxes, which gather them
    full: int = 0  # pairs in tiles that need no mask
    own: int = 0  # all own tiles


@dataclass(frozen=True, slots=True, order=True)
class Tiling:
    """Tiles or boxes of queries and of keys, and what they cost."""

    cost: float
    rows: Box
    cols: Box
    work: Work = field(compare=False)

    @property
    def size(self) -> tuple[int, int]:
        """Rows and keys of a tile."""
        return prod(self.rows), prod(self.cols)

    @property
    def few(self) -> bool:
        """Few programs have any work, and those have much of it: see `plan.stages`."""
        work = self.work
        return work.tiles > LONG * work.programs and work.programs * FEW <= work.own


@dataclass(frozen=True, slots=True)
class Shape:
    """Key intervals per row at the reference length, of the sampled classes of one layout."""

    rows: tuple[Ends, ...]
    attended: int
    spread: int  # keys from the first to the last of each row, those of other classes too: at least that many in tiles
    weight: float  # classes there are / classes sampled
    exact: bool = False  # every key of an interval is attended
    grains: tuple[Ends, ...] = field(init=False)  # what any of GRAIN rows attends: most tiles are whole grains
    inner: tuple[Ends, ...] = field(init=False)  # and what all of them do

    def __post_init__(self) -> None:
        object.__setattr__(self, "grains", tuple(any_of(ends, GRAIN) for ends in self.rows))
        object.__setattr__(self, "inner", tuple(all_of(ends, GRAIN) for ends in self.rows if self.exact))

    def computed(self, rows: int, cols: int, over: Over = "keys") -> Work:
        """What tiles of this size compute; a tile in several intervals of its rows is computed once."""
        known, times = (self.rows, rows) if rows % GRAIN else (self.grains, rows // GRAIN)
        ends = [any_of(x, times) for x in known]
        low, high = np.stack([first // cols for first, _ in ends]), np.stack([last // cols for _, last in ends])
        if len(ends) > 1:  # from the first on, without those of the intervals before
            order = np.argsort(low, axis=0, kind="stable")
            low, high = np.take_along_axis(low, order, axis=0), np.take_along_axis(high, order, axis=0)
            low[1:] = np.maximum(low[1:], np.maximum.accumulate(high, axis=0)[:-1] + 1)
        used = low <= high
        tiles = int((high - low + 1)[used].sum())
        programs = int(used.any(axis=0).sum()) if over == "keys" else _met(low, high, used)
        full = 0
        for x in self.inner if cols > 1 and rows % GRAIN == 0 else ():
            first, last = all_of(x, times)
            full += int(np.maximum((last + 1) // cols + -first // cols, 0)[first <= last].sum())
        w, pairs = self.weight, rows * cols
        own = self.rows[0][0].size // (rows if over == "keys" else cols)  # about as many keys as rows
        return Work(int(tiles * pairs * w), int(tiles * w), int(programs * w), 0, int(full * pairs * w), int(own * w))


def _met(low: NDArray[np.int64], high: NDArray[np.int64], used: NDArray[np.bool_]) -> int:
    """How many tiles of keys, of all classes, some tile of rows visits."""
    if not used.any():
        return 0
    steps = np.zeros((low.shape[1], int(high[used].max()) + 2), np.int64)
    own = np.nonzero(used)[1]
    np.add.at(steps, (own, low[used]), 1)
    np.add.at(steps, (own, high[used] + 1), -1)
    return int((steps.cumsum(axis=1) > 0).sum())


def any_of(ends: Ends, times: int) -> Ends:
    """The first and the last key of every so many neighbours together."""
    first, last = _together(ends, times)
    return first.min(axis=2), last.max(axis=2)


def all_of(ends: Ends, times: int) -> Ends:
    """The first and the last key that every so many neighbours all have."""
    first, last = _together(ends, times)
    return first.max(axis=2), last.min(axis=2)


def _together(ends: Ends, times: int) -> Ends:
    first, last = ends
    classes, length = first.shape
    if pad := -length % times:
        first = np.concatenate([first, np.full((classes, pad), NEVER)], axis=1)
        last = np.concatenate([last, np.full((classes, pad), -1)], axis=1)
    return first.reshape(classes, -1, times), last.reshape(classes, -1, times)


def shape(placed: Placed, length: int = REFERENCE) -> Shape:
    """The shape of a part in a layout at n = m = length; a part without a band is priced by its hull, or as dense."""
    layout = placed.at.layout
    classes = layout.query_step if layout.linked else 1
    sample = np.unique(np.linspace(0, classes - 1, min(classes, CLASSES)).astype(np.int64))[:, None]
    rows = -(-length // layout.query_step)
    a = np.arange(rows)[None, :]
    own = sample if layout.linked else evaluate(layout.row_class_of(), {"offset": 0})
    env: dict[str, Any] = {"n": length, "m": length, "offset": 0, "key_offset": 0, "a": a, "c": own}
    env["d"] = evaluate(layout.key_class_of(Var("c")), env)
    weight = classes / len(sample)
    exists = layout.query_step * a + env["c"] < length
    last_key = (length - 1 - env["d"]) // layout.key_step
    found: list[Ends] = []
    attended = spread = 0
    for first, last, valid in _intervals(placed, env):
        lo, hi = np.maximum(first, 0), np.minimum(last, last_key)
        inside = exists & valid & (lo <= hi)
        between = int(np.where(inside, hi - lo, 0).sum())
        attended += between + int(inside.sum())
        spread += between * layout.key_step
        found.append((np.where(inside, lo, NEVER), np.where(inside, hi, -1)))
    keys = placed.keys
    if keys is not None and not keys.exact:
        attended = round(attended * _kept(placed, found[0], env))
    exact = keys is not None and keys.exact and keys.guard is None
    return Shape(tuple(found), int(attended * weight), int(spread * weight), weight, exact)


def _kept(placed: Placed, ends: Ends, env: dict[str, Any]) -> float:
    """The share of the pairs of a band that its piece holds, in a few rows of the first class."""
    keep = mask_pred(placed.at, placed.mask)
    rows = np.flatnonzero(ends[0][0] <= ends[1][0])
    inside = held = 0
    for a in rows[:: max(1, len(rows) // SAMPLE)]:
        b = np.arange(ends[0][0][a], ends[1][0][a] + 1)
        here = {**env, "c": np.ravel(env["c"])[0], "d": np.ravel(env["d"])[0], "a": int(a), "b": b}
        inside += len(b)
        held += int(np.broadcast_to(holds(keep, here), b.shape).sum())
    return held / max(1, inside)


def _intervals(placed: Placed, env: dict[str, Any]) -> Iterator[tuple[Any, Any, Any]]:
    """First key, last key and whether there are any, for the rows `a` of `env`; several when a row has several."""
    at, points, found = placed.at, placed.points, placed.keys

    def value(e: Index | Form) -> Any:
        return np.asarray(evaluate(at.plain(e.index() if isinstance(e, Form) else e), env), dtype=np.int64)

    if found is not None:
        last_key = np.asarray((env["m"] - 1 - env["d"]) // at.layout.key_step)
        first = reduce(np.maximum, [value(x.value) for x in found.lower], np.zeros_like(env["a"]))
        last = reduce(np.minimum, [value(x.value) for x in found.upper], last_key + 0 * env["a"])
        valid = reduce(np.logical_and, [value(x) <= env["a"] for x in found.first], np.ones_like(env["a"], dtype=bool))
        valid = reduce(np.logical_and, [env["a"] <= value(x) for x in found.last], valid)
        yield first, last, valid if found.guard is None else valid & np.asarray(holds(at.plain_pred(found.guard), env))
        return
    line = points.move_dims(isl.dim_type.param, points.dim(isl.dim_type.param), isl.dim_type.set, 0, 1)
    line = line.set_dim_name(isl.dim_type.param, line.dim(isl.dim_type.param) - 1, "a")
    try:
        with limited("the keys of one row of a part", 20_000):
            parts = loops(line, at.set(f": a >= 0 and {at.row} < n", ", a"))
    except (TooHardError, NoLoop):
        parts = [Loop(0, FloorDiv(Sub(Var("m"), 1), at.layout.key_step))]
    for x in parts:
        valid = np.asarray(True if x.guard is None else holds(at.plain_pred(x.guard), env))
        yield value(x.first), value(x.last), valid


def best_tiles(
    found: Shape, backend: Backend, task: Pass = "forward", among: Iterable[Price] | None = None
) -> Tiling:  # fmt: skip
    """The tiles of a pass in which a part is computed: of the backend's, or among some."""
    over: Over = "queries" if task == "grad_key" else "keys"
    tilings = []
    for x in backend.prices(task) if among is None else among:
        work = found.computed(x.rows, x.cols, over)
        cost = x.cost(work, x.rows if over == "keys" else x.cols)
        tilings.append(Tiling(cost, (x.rows,), (x.cols,), work))
    return cheapest(tilings, found.attended, backend)


def alike(found: Sequence[Shape], backend: Backend) -> list[Sizes]:
    """The tiles of several parts in one layout: they own as many rows (keys) where one kernel for all of them, with
    tiles that do not suit each, costs less than several that go on from one another.

    Parts with work for few programs have kernels of their own (see `plan.stages`), in tiles that fit.
    """
    passes = [_alike(found, backend, task) for task in backend.passes]
    return [tuple(x.size for x in own) for own in zip(*passes, strict=True)]


def _alike(found: Sequence[Shape], backend: Backend, task: Pass) -> list[Tiling]:
    each = [best_tiles(x, backend, task) for x in found]
    sharing = [k for k, x in enumerate(each) if not x.few]
    sizes = {_owned(each[k].size, task) for k in sharing}
    ways = []
    for owned in {_owned((x.rows, x.cols), task) for x in backend.prices(task)} if len(sizes) > 1 else sizes:
        same = [x for x in backend.prices(task) if _owned((x.rows, x.cols), task) == owned]
        own = [best_tiles(x, backend, task, among=same) for x in found]
        ways.append((sum(own[k].cost for k in sharing), owned, own))
    if not ways:
        return each
    cost, _, best = min(ways, key=lambda x: x[:2])
    rows = found[0].rows[0][0].size * found[0].weight
    apart = sum(each[k].cost for k in sharing) + (len(sizes) - 1) * rows * backend.resume
    return best if cost <= apart else each


def _owned(size: tuple[int, int], task: Pass) -> int:
    """What a program owns of a tile."""
    return size[1] if task == "grad_key" else size[0]


def cheapest(sizes: Iterable[Tiling], attended: int, backend: Backend) -> Tiling:
    """The cheapest of some sizes; where it wastes more than half its pairs, the first that does not.

    One that costs clearly more is not taken for that, and none where prices are those of the head dim.
    """
    best, *others = sorted(sizes)
    lean = (x for x in (best, *others) if x.cost <= backend.close * best.cost and x.work.pairs <= WASTE * attended)
    return next(lean, best)
