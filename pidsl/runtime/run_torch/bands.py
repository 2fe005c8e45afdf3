"""From the loop bounds of a piece to few large batches of equal tiles.

A `Band` is what a generated program says about one sweep: bounds of the key runs of row tile t of class c, and which
pairs inside them to keep. For given (n, m, offset) `segments` finds the tiles that can be computed by one batched
call: same height, same width, a constant step from window to window and, by the band's `shifts`, the same mask.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import gcd
from threading import Lock
from typing import Any
from weakref import ref

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Bound = Callable[..., Any]
Ints = NDArray[np.int64]
MISSING: Any = object()

KNOWN_SIZES = 4  # (n, m, offset) whose schedules a band remembers
LARGEST_MASK = 1 << 22  # pairs in one mask; taller tiles are cut
KEPT_MASKS = 1 << 23  # pairs in the masks that one schedule keeps between calls,
KEPT_PER_TOKEN = 512  # and for each of its rows and keys: what is kept grows with the lengths, not with their product
KEPT_BYTES = 1 << 28  # in the masks of all schedules together; the oldest go first


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
class Band:
    """One sweep over keys, as a generated program states it.

    Args:
        rows: rows of one tile.
        runs: disjoint runs of key columns.
        keep: over (n, m, offset, c, d, a, b), true on the pairs of the piece; None when every run is full.
        shifts: translations (da, db) of (a, b) that leave `keep` unchanged.
        query_step, key_step: row r = query_step * a + c, key j = key_step * b + d.
        phase: if not None, all classes are visited, and row class c meets key class (c + offset - phase) % key_step.
        query_class, key_class: otherwise, the fixed class of positions and of keys.
        alike: over (n, m, offset, c, d), the values through which alone `keep` depends on c and d; classes with equal
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
    _known: dict[tuple[int, int, int], tuple[Segment, ...]] = field(default_factory=dict, repr=False, compare=False)

    def segments(self, n: int, m: int, offset: int) -> tuple[Segment, ...]:
        """Batches of equal tiles that together visit every run once; those of one tile in the order of the runs."""
        sizes = (n, m, offset)
        known = self._known.pop(sizes, None)
        if known is None:
            known = tuple(_segments(self, *sizes))
            for s, remember in zip(known, remembered(n, m, [s.keep_pairs for s in known]), strict=True):
                s.remember = remember
            for oldest in list(self._known)[: 1 - KNOWN_SIZES]:
                self._known.pop(oldest, None)
        self._known[sizes] = known
        return known

    def visited(self, n: int, m: int, offset: int) -> int:
        """Keys in all tiles."""
        return sum(s.classes * s.tiles * s.width for s in self.segments(n, m, offset))


@dataclass(frozen=True, slots=True)
class Mask:
    """The pairs that every tile of a segment keeps."""

    bias: Tensor  # [height, width] 0 where kept, -inf elsewhere
    dead: Tensor | None  # [height] 0, -inf for rows that keep nothing; None when every row keeps a key

    @property
    def keep(self) -> Tensor:
        """The pairs, as booleans."""
        return self.bias == 0


class Masks(dict[Hashable, Mask | None]):
    """The masks that a part of a schedule keeps between calls."""

    __slots__ = ("__weakref__",)

    def keep(self, key: Hashable, mask: Mask | None) -> None:
        """Keep a mask, and let go of the oldest of all schedules where they are too many."""
        global _kept_bytes
        self[key] = mask
        if mask is None:
            return
        size = mask.bias.nbytes
        with _keeping:
            _kept.append((ref(self), key, size))
            _kept_bytes += size
            while _kept_bytes > KEPT_BYTES:
                owner, oldest, less = _kept.popleft()
                _kept_bytes -= less
                if (found := owner()) is not None:
                    found.pop(oldest, None)


_kept: deque[tuple[ref[Masks], Hashable, int]] = deque()
_kept_bytes = 0
_keeping = Lock()


def remembered(n: int, m: int, pairs: Sequence[int]) -> Iterator[bool]:
    """Whether a schedule keeps each of its masks, given how many pairs they have."""
    left = min(KEPT_MASKS, KEPT_PER_TOKEN * (n + m))
    for size in pairs:
        yield size <= left
        left -= size if size <= left else 0


@dataclass(slots=True, eq=False)
class Segment:
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
    keep: Callable[[], NDArray[np.bool_]] | None
    keep_pairs: int  # elements of the mask
    remember: bool
    _masks: Masks

    def mask(self, dtype: torch.dtype, device: torch.device) -> Mask | None:
        """The mask of every tile in `dtype`, or None when all pairs are kept."""
        if self.keep is None:
            return None
        key = dtype, device
        mask = self._masks.get(key, MISSING)
        if mask is MISSING:
            mask = mask_of(self.keep(), dtype, device)
            if self.remember or mask is None:
                self._masks.keep(key, mask)
        return mask


def mask_of(keep: NDArray[np.bool_], dtype: torch.dtype, device: torch.device) -> Mask | None:
    """The mask that keeps these pairs of a tile; None when it keeps all."""
    if keep.all():
        return None
    kept = torch.from_numpy(keep).to(device)
    some = kept.any(-1)
    bias = torch.zeros(kept.shape, dtype=dtype, device=device).masked_fill_(~kept, -torch.inf)
    dead = torch.zeros(some.shape, dtype=dtype, device=device).masked_fill_(~some, -torch.inf)
    return Mask(bias, None if bool(some.all()) else dead)


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


def _segments(band: Band, n: int, m: int, offset: int) -> Iterator[Segment]:
    classes, keys = _classes(band, n, offset)
    if not len(classes) or m == 0:
        return
    row_counts = -((classes - n) // band.query_step)
    key_counts = np.maximum(-((keys - m) // band.key_step), 0)
    tiles = np.arange(-(-int(row_counts.max()) // band.rows), dtype=np.int64)
    heights = np.clip(row_counts[:, None] - tiles * band.rows, 0, band.rows)
    names = dict(n=np.int64(n), m=np.int64(m), offset=np.int64(offset), c=classes[:, None], d=keys[:, None], t=tiles)
    lattice = Lattice.of(band.shifts)
    seen = np.zeros(heights.shape, dtype=bool)
    alike = None if band.alike is None else [np.broadcast_to(x, keys[:, None].shape) for x in band.alike(**names)]
    for run in band.runs:
        first = np.maximum(np.broadcast_to(run.first(**names), heights.shape), 0)
        last = np.minimum(np.broadcast_to(run.last(**names), heights.shape), key_counts[:, None] - 1)
        if run.step > 1 and bool((np.broadcast_to(run.first(**names), heights.shape) < 0).any()):
            raise AssertionError("a strided run must start at an existing key")
        widths = np.maximum((last - first) // run.step + 1, 0) * (heights > 0)
        if run.guard is not None:
            widths = widths * np.broadcast_to(run.guard(**names), heights.shape)
        masked = not run.full and band.keep is not None
        for start, stop in _equal_classes(widths, heights, first, keys, alike if masked else None):
            shared = (Lattice.of(()) if run.edge else lattice) if masked else None
            for ts in _progressions(widths[start], heights[start], first[start], band.rows, shared):
                fresh = not seen[start:stop, ts].any()
                yield from _cut(band, run, names, (start, stop), ts, first, widths, heights, fresh)
        seen |= widths > 0


def _classes(band: Band, n: int, offset: int) -> tuple[Ints, Ints]:
    """The row classes that exist, and the key class that each meets."""
    if band.phase is not None:
        rows = np.arange(min(band.query_step, n), dtype=np.int64)
        return rows, (rows + offset - band.phase) % band.key_step
    row = (band.query_class - offset) % band.query_step
    rows = np.array([row] if row < n else [], dtype=np.int64)
    return rows, np.full(rows.shape, band.key_class, dtype=np.int64)


def _equal_classes(
    widths: Ints, heights: Ints, first: Ints, keys: Ints, alike: list[NDArray[Any]] | None
) -> Iterator[tuple[int, int]]:
    """Ranges of consecutive classes with equal tiles and masks, whose key classes are consecutive too."""
    same = (widths[1:] == widths[:-1]).all(1) & (heights[1:] == heights[:-1]).all(1)
    same &= (np.where(widths[1:] > 0, first[1:] - first[:-1], 0) == 0).all(1) & (keys[1:] == keys[:-1] + 1)
    for value in alike or ():
        same &= (value[1:] == value[:-1]).all(1)
    cuts = [0, *(np.flatnonzero(~same) + 1).tolist(), len(widths)]
    yield from pairwise(cuts)


def _progressions(widths: Ints, heights: Ints, first: Ints, rows: int, lattice: Lattice | None) -> list[Ints]:
    """Cut the non-empty tiles of one class into arithmetic progressions that one batched call can compute.

    `lattice` None: no mask, so any constant step will do. A mask asks that the step be one of its translations.
    """
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


def _cut(
    band: Band, run: Run, names: dict[str, Any], cs: tuple[int, int], ts: Ints, first: Ints, widths: Ints,
    heights: Ints, fresh: bool,
) -> Iterator[Segment]:  # fmt: skip
    """The segment of classes `cs` and tiles `ts`, cut into lower ones where its mask would be too large."""
    c, t = cs[0], int(ts[0])
    width, height = int(widths[c, t]), int(heights[c, t])
    step = int(first[c, ts[1]] - first[c, t]) if len(ts) > 1 else 0
    stride = int(ts[1] - ts[0]) if len(ts) > 1 else 1
    masked = not run.full and band.keep is not None
    lower = max(1, min(height, LARGEST_MASK // width)) if masked else height
    for x in range(0, height, lower):
        rows = min(lower, height - x)
        a = range(t * band.rows + x, t * band.rows + x + rows)
        b = range(int(first[c, t]), int(first[c, t]) + run.step * width, run.step)
        keep = _keep(band, names, c, a, b) if masked else None
        yield Segment(
            row=int(names["c"][c, 0]) + band.query_step * (t * band.rows + x),
            row_tile=band.query_step * band.rows * stride,
            row_step=band.query_step,
            key=int(names["d"][c, 0]) + band.key_step * int(first[c, t]),
            key_tile=band.key_step * step,
            key_step=band.key_step * run.step,
            classes=cs[1] - cs[0],
            tiles=len(ts),
            height=rows,
            width=width,
            fresh=fresh,
            keep=keep,
            keep_pairs=rows * width if masked else 0,
            remember=False,
            _masks=Masks(),
        )


def _keep(band: Band, names: dict[str, Any], c: int, a: range, b: range) -> Callable[[], NDArray[np.bool_]]:
    keep = band.keep
    assert keep is not None
    sizes = {name: names[name] for name in ("n", "m", "offset")}
    classes = {name: names[name][c, 0] for name in ("c", "d")}

    def mask() -> NDArray[np.bool_]:
        rows, columns = (np.arange(x.start, x.stop, x.step, dtype=np.int64) for x in (a, b))
        found = keep(**sizes, **classes, a=rows[:, None], b=columns)
        return np.array(np.broadcast_to(found, (len(a), len(b))))

    return mask
