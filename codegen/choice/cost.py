"""What a way of computing a part would cost, from its shape at a reference length.

The shape of a part in a layout is, per row, the interval of keys it attends (isl's loops, evaluated for all rows at
the reference length). Tiles of a given size then compute rows x covered keys, whatever is attended in them. Costs
are in nanoseconds per head at head dim 64; only their ratios matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any

import islpy as isl
import numpy as np
from numpy.typing import NDArray

from pidsl.codegen.plan.walks import Over, Pass, Runs
from pidsl.codegen.tiling.bands import Placed
from pidsl.codegen.tiling.coordinates import mask_pred
from pidsl.codegen.tiling.forms import Form
from pidsl.errors import TooHardError
from pidsl.language.expr import FloorDiv, Index, Sub, Var, evaluate, holds
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
class Prices:
    """What the steps of a backend cost, and the tile sizes it offers."""

    pair: float  # one computed pair in a tile
    small: dict[int, float]  # factor on `pair` by rows of a tile: small tiles use the machine badly
    tile: float  # starting on one more tile of keys
    call: float  # starting on one more tile of rows
    row: float  # one row of a piece: reading the query, merging the result
    diagonal: float  # one attended pair, elementwise
    gather: float  # one key of a box, which is no strided view
    sizes: tuple[tuple[int, int], ...]  # (rows, cols) of tiles

    def pair_cost(self, rows: int) -> float:
        """One computed pair in a tile of this many rows."""
        return self.pair * self.small[min(self.small, key=lambda known: abs(known - rows))]


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of the tiles of a backward program, from those of the forward one."""

    least: int = 1  # about; a multiple of the forward tile
    most: int = 1 << 30

    def of(self, rows: int) -> int:
        """For a forward program with tiles of so many rows."""
        return min(rows, self.most) * max(1, self.least // rows)


@dataclass(frozen=True, slots=True)
class Calls:
    """What counts where each tile is a call, but for tiles with one mask, which are computed in one together."""

    few: int  # tiles of a piece that may well be calls of their own;
    alone: int  # rows of a tile where they are more
    split: int  # keys per row above which unmasked runs pay for the merge with masked ones
    parts: int  # of a packing that are pieces of their own


@dataclass(frozen=True, slots=True)
class Backend:
    """What a backend asks of a plan; an emitter and a program make it one that runs."""

    name: str
    prices: Prices
    wide: tuple[tuple[int, int], ...]  # `prices.sizes` for head dims above 128
    exact: bool  # tiles are exact ranges of keys (cols 1); else both sides are powers of two, 16 or more
    grad_query: Rows
    grad_key: Rows | None  # None: the program of `grad_query` gives all gradients
    calls: Calls | None = None

    @property
    def passes(self) -> tuple[Pass, ...]:
        """The passes that have programs of their own."""
        return ("forward", "grad_query") if self.grad_key is None else ("forward", "grad_query", "grad_key")

    def walks(self, rows: int, walk: Callable[[Over, int], Runs]) -> tuple[Runs, Runs, Runs | None]:
        """The walks of a piece in all passes, from its walk over keys or queries in tiles of so many rows."""
        forward, back = walk("keys", rows), self.grad_query.of(rows)
        over_queries = None if self.grad_key is None else walk("queries", self.grad_key.of(rows))
        return forward, forward if back == rows else walk("keys", back), over_queries

    def for_head_dim(self, head_dim: int) -> Backend:
        """With the tile sizes for a head dim."""
        return self if head_dim <= 128 else self.in_tiles(self.wide)

    def in_tiles(self, sizes: tuple[tuple[int, int], ...]) -> Backend:
        """With these tile sizes."""
        return replace(self, prices=replace(self.prices, sizes=sizes))


TRITON = Backend(
    name="triton",
    prices=Prices(
        pair=1.0,
        small={128: 1.0, 64: 1.1, 32: 1.8, 16: 3.0},
        tile=1500.0,
        call=4000.0,
        row=0.0,
        diagonal=120.0,
        gather=0.0,
        sizes=((128, 64), (64, 64), (32, 32), (16, 16)),
    ),
    wide=((64, 32), (32, 32), (16, 16)),
    exact=False,
    grad_query=Rows(most=64),
    grad_key=Rows(most=32),  # two accumulators: fewer rows keep them in registers at head dim 128 (sm_90)
)
TORCH = Backend(
    name="torch",
    prices=Prices(
        pair=3.2,
        small={512: 0.97, 256: 0.97, 128: 1.0, 64: 1.08, 32: 1.1, 16: 1.7},
        tile=0.0,
        call=1100.0,
        row=300.0,
        diagonal=75.0,
        gather=60.0,
        sizes=((512, 1), (256, 1), (128, 1), (64, 1), (32, 1), (16, 1)),
    ),
    wide=((512, 1), (256, 1), (128, 1), (64, 1), (32, 1), (16, 1)),
    exact=True,
    grad_query=Rows(least=64),
    grad_key=None,  # it sweeps keys and folds what falls on the same key
    calls=Calls(few=4, alone=256, split=2048, parts=512),
)
BACKENDS = {x.name: x for x in (TRITON, TORCH)}


Ends = tuple[NDArray[np.int64], NDArray[np.int64]]  # first and last key [classes, rows]; NEVER and -1 where none is


Box = tuple[int, ...]  # tokens on every axis


@dataclass(frozen=True, slots=True)
class Work:
    """What tiles or boxes of one size compute at the reference length."""

    pairs: int
    tiles: int  # of keys, visited
    programs: int  # tiles of queries with any work
    keys: int = 0  # in boxes, which gather them

    def cost(self, prices: Prices, rows: int) -> float:
        """In nanoseconds."""
        inside = self.pairs * prices.pair_cost(rows) + self.keys * prices.gather
        return inside + self.tiles * prices.tile + self.programs * (prices.call + rows * prices.row)


@dataclass(frozen=True, slots=True, order=True)
class Tiling:
    """Tiles or boxes of queries and of keys, and what they cost."""

    cost: float
    own: Box
    swept: Box
    work: Work = field(compare=False)


@dataclass(frozen=True, slots=True)
class Shape:
    """Key intervals per row at the reference length, of the sampled classes of one layout."""

    rows: tuple[Ends, ...]
    grains: tuple[Ends, ...]  # of GRAIN rows together: most tiles are whole grains
    attended: int
    spread: int  # keys from the first to the last of each row, those of other classes too: at least that many in tiles
    weight: float  # classes there are / classes sampled

    def computed(self, rows: int, cols: int) -> Work:
        """What tiles of this size compute."""
        tiles = programs = 0
        known, times = (self.rows, rows) if rows % GRAIN else (self.grains, rows // GRAIN)
        for ends in known:
            first, last = grouped(ends, times)
            used = first <= last
            tiles += int((last // cols - first // cols + 1)[used].sum())
            programs += int(used.sum())
        w = self.weight
        return Work(int(tiles * rows * cols * w), int(tiles * w), int(programs * w))


def grouped(ends: Ends, times: int) -> Ends:
    """The first and the last key of every so many neighbours together."""
    first, last = ends
    classes, length = first.shape
    if pad := -length % times:
        first = np.concatenate([first, np.full((classes, pad), NEVER)], axis=1)
        last = np.concatenate([last, np.full((classes, pad), -1)], axis=1)
    return first.reshape(classes, -1, times).min(axis=2), last.reshape(classes, -1, times).max(axis=2)


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
    grains = tuple(grouped(ends, GRAIN) for ends in found)
    if placed.keys is not None and not placed.keys.exact:
        attended = round(attended * _kept(placed, found[0], env))
    return Shape(tuple(found), grains, int(attended * weight), int(spread * weight), weight)


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


def best_tiles(found: Shape, prices: Prices, others: Sequence[tuple[int, int]] = ()) -> Tiling:
    """The tile size of a backend, or of `others`, in which a part is computed."""
    works = ((rows, cols, found.computed(rows, cols)) for rows, cols in (*prices.sizes, *others))
    return cheapest([Tiling(x.cost(prices, rows), (rows,), (cols,), x) for rows, cols, x in works], found.attended)


def cheapest(sizes: Iterable[Tiling], attended: int) -> Tiling:
    """The cheapest of some sizes; where it wastes more than half its pairs, the first that does not.

    One that costs clearly more is not taken for that. At larger head dims than the model's, pairs weigh more.
    """
    best, *others = sorted(sizes)
    lean = (x for x in (best, *others) if x.cost <= CLOSE * best.cost and x.work.pairs <= WASTE * attended)
    return next(lean, best)
