"""From the loop bounds of a piece to few large batches of equal tiles.

A `Band` is what a generated program says about one sweep: bounds of the key runs of row tile t of class c, and which
pairs inside them to keep. For given sizes its segments are the tiles that can be computed by one batched call: same
height, same width, a constant step from window to window and, by the band's `shifts`, the same mask. Their batches
are views: nothing is copied but windows whose keys lie far apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import gcd
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pidsl.runtime.call.logits import Place
from pidsl.runtime.run_torch.key_sums import KeySums
from pidsl.runtime.run_torch.views import Tiles, batches
from pidsl.runtime.run_torch.walks import (
    LARGEST_MASK,
    Batch,
    Bools,
    Bound,
    Change,
    Ints,
    Mask,
    Operands,
    Schedule,
    Segment,
    Sizes,
    Walk,
)

PACKED_ROWS = 128  # tiles this tall read each key often enough that gathering spread keys first pays


@dataclass(frozen=True, slots=True)
class Run:
    """Key columns `first, first + step, ..., <= last` for row tile t of class c, where `guard` holds.

    The mask of an `edge` may be like that of no other tile, whatever shifts the band has.
    """

    first: Bound
    last: Bound
    full: bool = False
    step: int = 1
    guard: Bound | None = None
    edge: bool = False


@dataclass(frozen=True, slots=True)
class Band(Walk["BandSegment"]):
    """One sweep over keys, as a generated program states it.

    Args:
        rows: rows of one tile.
        runs: disjoint runs of key columns.
        keep: over (n, m, offsets, c, d, a, b), true on the pairs of the piece; None when every run is full.
        shifts: translations (da, db) of (a, b) that leave `keep` unchanged.
        query_step, key_step: row r = query_step * a + c, key j = key_step * b + d.
        phase: if not None, all classes are visited, and row class c meets the key class that lies `phase` behind it.
        query_class, key_class: otherwise, the fixed class of positions of rows and of keys.
        alike: over (n, m, offsets, c, d), the values through which alone `keep` depends on c and d; classes with equal
            values have equal masks. None when `keep` mentions neither.
    """

    rows: int
    runs: tuple[Run, ...]
    keep: Bound | None = None
    shifts: tuple[tuple[int, int], ...] = ()
    query_step: int = 1
    key_step: int = 1
    phase: int | None = None
    query_class: int = 0
    key_class: int = 0
    alike: Bound | None = None

    def cut(self, sizes: Sizes) -> Iterator[BandSegment]:
        """Batches of equal tiles that together visit every run once; those of one tile in the order of the runs."""
        return _segments(self, sizes)

    def written(self, segments: Sequence[BandSegment], sizes: Sizes) -> int:
        """Rows of the tiles that are the first on theirs."""
        return sum(s.classes * s.tiles * s.height for s in segments if s.fresh)

    def batches(self, schedule: Schedule[BandSegment], given: Operands) -> Iterator[Batch]:
        """Views of the tiles."""
        for s in schedule.segments:
            mask = s.mask(given.rows[0])
            tiles = [s.of_rows(x, given.group) for x in given.rows + given.results]
            tiles += [s.of_keys(x) for x in given.keys]
            tiles += s.of_sums(given.sums)
            if given.places is not None:
                tiles += s.places(given.places, given)
            # windows of keys that lie apart are copied: at strides of many KiB they share few cache sets
            packs = s.key_step > 1 and s.height >= PACKED_ROWS and given.keys[0].device.type == "cpu"
            grid = given.batch, given.kv_heads, given.group, s.classes, s.tiles
            for views in batches(grid, tiles, given.at_once(s.height, s.width)):
                yield BandBatch(given, views, mask, s.fresh, packs)


class BandBatch(Batch):
    """Views of some tiles of a segment: of rows, results, keys, sums and places, in this order."""

    __slots__ = ("places", "results", "where")

    def __init__(self, given: Operands, views: list[Tensor], mask: Mask | None, fresh: bool, packs: bool) -> None:
        results = len(given.rows)
        keys = results + len(given.results)
        sums = keys + len(given.keys)
        of_keys = [x.contiguous() for x in views[keys:sums]] if packs else views[keys:sums]
        super().__init__(given, views[:results], of_keys, mask, fresh)
        self.results, places = views[results:keys], sums + len(given.sums)
        self.where, self.places = views[sums:places], views[places:]

    def place(self) -> Place:
        """Positions and heads of the pairs, each distinct one once."""
        views = self.places
        for axis in (0, 1):
            views = [x if x.stride(axis) else x.narrow(axis, 0, 1) for x in views]
        return Place(*views)

    def put(self, values: Sequence[Tensor], change: Change) -> None:
        change(self.results, values)

    def add(self, grads: Sequence[Tensor]) -> None:
        for x, where, grad in zip(self.given.sums, self.where, grads, strict=True):
            x.add(where, grad)


@dataclass(slots=True, eq=False)
class BandSegment(Segment):
    """Tiles (class, tile) of equal shape in one arithmetic progression.

    Row x of tile (class, tile) is row `row + class + tile * row_tile + x * row_step` of q; column y is row
    `key + class + tile * key_tile + y * key_step` of k.
    """

    row: int
    row_tile: int
    row_step: int
    key: int
    key_tile: int
    key_step: int
    classes: int
    tiles: int
    height: int
    width: int
    fresh: bool  # no earlier segment of the band touches these rows
    pairs: Callable[[], Bools]  # what `keep` of the band says about the first tile

    def keep(self) -> Bools:
        return self.pairs()

    def of_rows(self, x: Tensor, group: int) -> Tiles:
        """x `[B, Hq, n]` or `[B, Hq, n, D]` by row tiles."""
        b, h, r = x.stride()[:3]
        outer = (b, h * group, h, r, r * self.row_tile)
        offset = int(x.storage_offset()) + r * self.row
        if x.ndim == 3:
            return Tiles(x, offset, outer, (self.height,), (r * self.row_step,))
        return Tiles(x, offset, outer, (self.height, x.shape[3]), (r * self.row_step, 1))

    def of_keys(self, x: Tensor) -> Tiles:
        """x `[B, Hkv, m, D]` by windows of keys, shared by the query heads of a group."""
        b, h, j, d = x.stride()
        outer = (b, h, 0, j, j * self.key_tile)
        return Tiles(x, int(x.storage_offset()) + j * self.key, outer, (self.width, x.shape[3]), (j * self.key_step, d))

    def of_sums(self, sums: tuple[KeySums, ...]) -> list[Tiles]:
        """What windows of keys add to, see `KeySums.add`."""
        if all(x.whole is not None for x in sums):
            return [self.of_keys(x.whole) for x in sums if x.whole is not None]
        numbers = sums[0].numbers(self.key_rows(sums[0].like.device))
        b, h, c, t, j = numbers.stride()
        numbered = Tiles(numbers, 0, (b, h, 0, c, t), (self.width,), (j,))
        return [numbered if x.whole is None else self.of_keys(x.whole) for x in sums]

    def places(self, places: tuple[Tensor, Tensor, Tensor], given: Operands) -> list[Tiles]:
        """What `BandBatch.place` reads."""
        i, head, stream = places
        j, group = self.key_rows(i.device) + given.sizes.key_offset, given.group
        return [
            Tiles(i, self.row, (0, 0, 0, 1, self.row_tile), (self.height, 1), (self.row_step, 0)),
            Tiles(j, 0, (0, 0, 0, *j.stride()[:2]), (1, self.width), (0, 1)),
            Tiles(head, 0, (0, group, 1, 0, 0), (1, 1), (0, 0)),
            Tiles(stream, 0, (given.heads, group, 1, 0, 0), (1, 1), (0, 0)),
        ]

    def key_rows(self, device: torch.device) -> Tensor:
        """`[classes, tiles, width]`: the keys of every window."""
        classes, tiles, width = (torch.arange(x, device=device) for x in (self.classes, self.tiles, self.width))
        return self.key + classes[:, None, None] + self.key_tile * tiles[:, None] + self.key_step * width


@dataclass(frozen=True, slots=True)
class Lattice:
    """The translations generated by `shifts`, in echelon form: multiples of (da, db), plus multiples of (0, free)."""

    da: int
    db: int
    free: int

    @staticmethod
    def of(shifts: Sequence[tuple[int, int]]) -> Lattice:
        da, db, free = 0, 0, 0
        for x, y in shifts:
            while x:  # Euclid on the first coordinate, the second carried along
                q = da // x
                da, db, x, y = x, y, da - q * x, db - q * y
            free = gcd(free, y)
        if da < 0:
            da, db = -da, -db
        return Lattice(da, db, free)

    def period(self, rows: int) -> int:
        """How many tiles of `rows` rows until a translation can map one to the other; 0 for never."""
        return self.da // gcd(self.da, rows) if self.da else 0

    def contains(self, x: int, y: Ints) -> NDArray[np.bool_]:
        if self.da == 0 or x % self.da:
            return np.zeros(y.shape, dtype=bool)
        rest = y - x // self.da * self.db
        return rest % self.free == 0 if self.free else rest == 0


class _Swept(NamedTuple):
    """The tiles of one run, `[classes, tiles]` each, or of one of its classes."""

    first: Ints  # keys
    widths: Ints
    heights: Ints  # rows


def _segments(band: Band, sizes: Sizes) -> Iterator[BandSegment]:
    n, m, *_ = sizes
    classes, keys = _classes(band, sizes)
    if not len(classes) or m == 0:
        return
    row_counts = -((classes - n) // band.query_step)
    key_counts = np.maximum(-((keys - m) // band.key_step), 0)
    tiles = np.arange(-(-int(row_counts.max()) // band.rows), dtype=np.int64)
    heights = np.clip(row_counts[:, None] - tiles * band.rows, 0, band.rows)
    names = sizes.names | dict(c=classes[:, None], d=keys[:, None], t=tiles)
    lattice = Lattice.of(band.shifts)
    seen = np.zeros(heights.shape, dtype=bool)
    alike = None if band.alike is None else [np.broadcast_to(x, keys[:, None].shape) for x in band.alike(**names)]
    for run in band.runs:
        start = np.broadcast_to(run.first(**names), heights.shape)
        if run.step > 1 and bool((start < 0).any()):
            raise AssertionError("a strided run must start at an existing key")
        first = np.maximum(start, 0)
        last = np.minimum(np.broadcast_to(run.last(**names), heights.shape), key_counts[:, None] - 1)
        widths = np.maximum((last - first) // run.step + 1, 0) * (heights > 0)
        if run.guard is not None:
            widths = widths * np.broadcast_to(run.guard(**names), heights.shape)
        masked = not run.full and band.keep is not None
        swept = _Swept(first, widths, heights)
        for cs in _equal_classes(swept, keys, alike if masked else None):
            shared = (Lattice.of(()) if run.edge else lattice) if masked else None
            for ts in _progressions(_Swept(*(x[cs.start] for x in swept)), band.rows, shared):
                fresh = not seen[cs.start : cs.stop, ts].any()
                yield from _lowered(band, run, names, cs, ts, swept, fresh)
        seen |= widths > 0


def _classes(band: Band, sizes: Sizes) -> tuple[Ints, Ints]:
    """The row classes that exist, and the key class that each meets."""
    if band.phase is not None:
        rows = np.arange(min(band.query_step, sizes.n), dtype=np.int64)
        return rows, (rows + sizes.offset - sizes.key_offset - band.phase) % band.key_step
    row = (band.query_class - sizes.offset) % band.query_step
    rows = np.array([row] if row < sizes.n else [], dtype=np.int64)
    return rows, np.full(rows.shape, (band.key_class - sizes.key_offset) % band.key_step, dtype=np.int64)


def _equal_classes(swept: _Swept, keys: Ints, alike: list[NDArray[Any]] | None) -> Iterator[range]:
    """Ranges of consecutive classes with equal tiles and masks, whose key classes are consecutive too."""
    first, widths, heights = swept
    same = (widths[1:] == widths[:-1]).all(1) & (heights[1:] == heights[:-1]).all(1)
    same &= (np.where(widths[1:] > 0, first[1:] - first[:-1], 0) == 0).all(1) & (keys[1:] == keys[:-1] + 1)
    for value in alike or ():
        same &= (value[1:] == value[:-1]).all(1)
    cuts = [0, *(np.flatnonzero(~same) + 1).tolist(), len(widths)]
    yield from (range(*ends) for ends in pairwise(cuts))


def _progressions(swept: _Swept, rows: int, lattice: Lattice | None) -> list[Ints]:
    """Cut the non-empty tiles of one class into arithmetic progressions that one batched call can compute.

    `lattice` None: no mask, so any constant step will do. A mask asks that the step be one of its translations.
    """
    first, widths, heights = swept
    period = 1 if lattice is None else lattice.period(rows)
    if period == 0 or period >= len(widths):
        return [np.array([t]) for t in np.flatnonzero(widths)]
    result = []
    for phase in range(period):
        ts = np.arange(phase, len(widths), period)
        w, h, f = widths[ts], heights[ts], first[ts]
        step = np.diff(f)
        linked = (w[1:] == w[:-1]) & (h[1:] == h[:-1]) & (step >= 0)
        if lattice is not None:
            linked &= lattice.contains(period * rows, step)
        start = 0
        while start < len(ts):
            stop = start + 1
            if stop < len(ts) and linked[start]:
                breaks = np.flatnonzero(~(linked[start:] & (step[start:] == step[start])))
                stop = start + int(breaks[0]) + 1 if len(breaks) else len(ts)
            if w[start]:
                result.append(ts[start:stop])
            start = stop
    return sorted(result, key=lambda ts: int(ts[0]))


def _lowered(
    band: Band, run: Run, names: dict[str, Any], cs: range, ts: Ints, swept: _Swept, fresh: bool
) -> Iterator[BandSegment]:
    """The segment of classes `cs` and tiles `ts`, cut into lower ones where its mask would be too large."""
    c, t, stride = cs.start, int(ts[0]), int(ts[1] - ts[0]) if len(ts) > 1 else 1
    first, width, height = (int(x[c, t]) for x in swept)
    step = int(swept.first[c, ts[1]]) - first if len(ts) > 1 else 0
    masked = not run.full and band.keep is not None
    lower = max(1, min(height, LARGEST_MASK // width)) if masked else height
    d, known = names["d"][c, 0], {x: y for x, y in names.items() if x != "t"} | {x: names[x][c, 0] for x in ("c", "d")}
    b = range(first, first + run.step * width, run.step)
    for x in range(t * band.rows, t * band.rows + height, lower):
        a = range(x, min(x + lower, t * band.rows + height))
        yield BandSegment(
            visited=len(cs) * len(ts) * width,
            masked=len(a) * width if masked else 0,
            row=int(names["c"][c, 0]) + band.query_step * x,
            row_tile=band.query_step * band.rows * stride,
            row_step=band.query_step,
            key=int(d) + band.key_step * first,
            key_tile=band.key_step * step,
            key_step=band.key_step * run.step,
            classes=len(cs),
            tiles=len(ts),
            height=len(a),
            width=width,
            fresh=fresh,
            pairs=partial(_pairs, band.keep, known, a, b),
        )


def _pairs(keep: Bound | None, names: dict[str, Any], a: range, b: range) -> Bools:
    """What `keep` says about rows a and keys b of a class."""
    assert keep is not None
    rows, columns = (np.arange(x.start, x.stop, x.step, dtype=np.int64) for x in (a, b))
    return np.array(np.broadcast_to(keep(**names, a=rows[:, None], b=columns), (len(a), len(b))))
