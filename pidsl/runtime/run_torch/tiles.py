"""Equal tiles at regular places, and batches of them: what sweeps, boxes of a grid and listed blocks have in common.

The tiles of a segment form a grid, and every tensor that takes part is a strided view over it; nothing is copied but
tiles of several axes, and windows whose keys lie far apart. Where tiles are copied, the rows of all query heads of a
group lie above each other, so that their keys are copied once.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from pidsl.runtime.call.logits import Place
from pidsl.runtime.run_torch.views import Tiles, View, batches
from pidsl.runtime.run_torch.walks import Mask, Operands, Schedule, Segment, Sizes, Walk

KNOWN_BATCHES = 16  # so many batches of a segment are remembered as views,
KNOWN_LAYOUTS = 4  # for tensors that lie in so many ways
PACKED_ROWS = 128  # tiles this tall read each key often enough that gathering spread keys first pays
Change = Callable[[Sequence[Tensor], Sequence[Tensor]], None]  # of results by values, in place


class Side(NamedTuple):
    """Rows or keys of tiles: those of tile g are numbered `start + g . steps + x . inside`, for x below `sizes`."""

    start: int
    steps: tuple[int, ...]
    sizes: tuple[int, ...]
    inside: tuple[int, ...]


@dataclass(slots=True, eq=False, kw_only=True)
class TileSegment(Segment):
    """Tiles of equal shape.

    Args:
        counts: how many, by the axes of their grid.
        rows, keys: which.
        fresh: no earlier segment of the walk has these rows.
        copied: tiles are copied.
        triangle: row x of a tile attends its first x + 1 keys.
    """

    counts: tuple[int, ...]
    rows: Side
    keys: Side
    fresh: bool
    copied: bool = False
    triangle: bool = False
    layouts: dict[Hashable, list[list[View]]] = field(default_factory=dict, init=False, repr=False)

    @property
    def tiles(self) -> int:
        """All of them."""
        return prod(self.counts)

    @property
    def height(self) -> int:
        """Rows of a tile."""
        return prod(self.rows.sizes)

    @property
    def width(self) -> int:
        """Keys of a tile."""
        return prod(self.keys.sizes)

    def view(self, x: Tensor, side: Side, members: int) -> Tiles:
        """x `[B, heads, rows, ...]` by tiles, `members` heads for each key head."""
        (b, h, r), rest = x.stride()[:3], x.stride()[3:]
        outer = b, h * members, h if members > 1 else 0, *[r * s for s in side.steps]
        start, inside = int(x.storage_offset()) + r * side.start, [r * s for s in side.inside]
        return self.lifted(Tiles(start, outer, (*side.sizes, *x.shape[3:]), (*inside, *rest)), members)

    def of_keys(self, x: Tensor) -> Tiles:
        """Keys `[B, Hkv, m, D]`, or numbers `[B, Hkv, *counts, *sizes]` of every key of every tile, by tiles."""
        if x.is_floating_point():
            return self.view(x, self.keys, 1)
        axes, (b, h, *s) = len(self.counts), x.stride()
        return self.lifted(Tiles(0, (b, h, 0, *s[:axes]), self.keys.sizes, tuple(s[axes:])), 1)

    def lifted(self, x: Tiles, members: int) -> Tiles:
        """With the members of a group as the first dimension of tiles that are copied, and not one of the grid."""
        if not self.copied:
            return x
        return Tiles(x.offset, x.outer[:2] + x.outer[3:], (members, *x.shape), (x.outer[2], *x.strides))

    def key_rows(self, device: torch.device) -> Tensor:
        """`[*counts, *sizes]`: the keys of every tile."""
        start, steps, sizes, inside = self.keys
        total = torch.tensor(start, device=device)
        for size, step in zip((*self.counts, *sizes), (*steps, *inside), strict=True):
            total = total[..., None] if size == 1 else total[..., None] + step * torch.arange(size, device=device)
        return total

    def sums(self, given: Operands) -> list[Tensor]:
        """What the gradients of keys are added to, see `KeySums.add`."""
        return [x.numbers(self.key_rows(x.like.device)) if x.whole is None else x.whole for x in given.sums]

    def batches(self, given: Operands) -> Iterator[Batch]:
        """As many tiles at a time as one call takes."""
        mask = self.mask(given.rows[0], given.group if self.copied else 1)
        of_rows, of_keys = [*given.rows, *given.results], [*given.keys, *self.sums(given)]
        if given.places is not None:
            j = self.key_rows(given.places[0].device) + given.sizes.key_offset
            of_rows += given.places
            of_keys.append(j.expand(given.batch, given.kv_heads, *j.shape))
        members = given.group if self.copied else 1
        limit, tensors = given.at_once(members * self.height, self.width), of_rows + of_keys
        key = limit, tuple([(x.shape, x.stride(), x.storage_offset()) for x in tensors])
        layout: Iterable[list[View]] | None = self.layouts.get(key)
        if layout is None:
            tiles = [self.view(x, self.rows, given.group) for x in of_rows] + [self.of_keys(x) for x in of_keys]
            grid = given.batch, given.kv_heads, given.group // members, *self.counts
            layout = batches(grid[:2] + grid[3:] if self.copied else grid, tiles, limit, self.copied)
            if prod(grid) <= KNOWN_BATCHES * limit:
                if len(self.layouts) == KNOWN_LAYOUTS:
                    self.layouts.clear()
                layout = self.layouts[key] = list(layout)
        for views in layout:
            yield Batch(self, given, [x.as_strided(*y) for x, y in zip(tensors, views, strict=True)], mask)

    def flat(self, x: Tensor) -> Tensor:
        """Views of copied tiles as `[x, y, rows, ...]`."""
        axes = 2 + len(self.counts)
        end = axes + 1 + len(self.rows.sizes)
        shape = x.shape
        return x.reshape(shape[0] * shape[1], prod(shape[2:axes]), prod(shape[axes:end]), *shape[end:])


class Batch:
    """Some tiles of a segment: views of rows, results, places of rows, keys, sums and places of keys, in this order.

    Attributes:
        rows: what the pass reads of its rows, `[x, y, queries, ...]`.
        keys: of its keys, `[x, y, keys, D]`.
        mask: the pairs to keep; None for all.
        triangle: row x keeps the first x + 1 keys.
        fresh: its rows hold nothing yet.
    """

    __slots__ = ("_places", "_results", "_segment", "_where", "fresh", "given", "keys", "mask", "rows", "triangle")

    def __init__(self, segment: TileSegment, given: Operands, views: list[Tensor], mask: Mask | None) -> None:
        self._segment, self.given, self.mask = segment, given, mask
        self.fresh, self.triangle = segment.fresh and not given.started, segment.triangle
        results = len(given.rows)
        places = results + len(given.results)
        first = places if given.places is None else places + len(given.places)
        sums = first + len(given.keys)
        end = sums + len(given.sums)
        self.rows, self.keys = views[:results], views[first:sums]
        self._results, self._where = views[results:places], views[sums:end]
        self._places = views[places:first] + views[end:]
        if segment.copied:
            self.rows, self.keys = [segment.flat(x) for x in self.rows], [segment.flat(x) for x in self.keys]
        elif segment.keys.inside[0] > 1 and segment.height >= PACKED_ROWS and self.keys[0].device.type == "cpu":
            # windows of keys that lie apart: at strides of many KiB they share few cache sets
            self.keys = [x.contiguous() for x in self.keys]

    def place(self) -> Place:
        """Where the pairs are, for a pass with `places`; each distinct value once."""
        if self._segment.copied:
            axes = range(2), range(2, 2 + len(self._segment.counts))
            i, head, stream, j = (self._segment.flat(distinct(x, axes)) for x in self._places)
        else:
            i, head, stream, j = (distinct(x, ((0,), (1,), (2,))) for x in self._places)
        return Place(i[..., None], j[..., None, :], head[..., None], stream[..., None])

    def put(self, values: Sequence[Tensor], change: Change) -> None:
        """Change the results of the rows, in place."""
        if self._segment.copied:
            values = [y.reshape(x.shape) for x, y in zip(self._results, values, strict=True)]
        change(self._results, values)

    def add(self, grads: Sequence[Tensor]) -> None:
        """Add `[x, y, keys, D]` to the sums of the keys, in a fixed order."""
        for x, where, grad in zip(self.given.sums, self._where, grads, strict=True):
            x.add(where, grad, len(self._segment.counts) + 2 if self._segment.copied else 2)


def distinct(x: Tensor, groups: Iterable[Sequence[int]]) -> Tensor:
    """x with one element along the axes of every group along all of which it repeats."""
    for axes in groups:
        if not any(x.stride(axis) for axis in axes):
            for axis in axes:
                x = x.narrow(axis, 0, 1)
    return x


T = TypeVar("T", bound=TileSegment)


@dataclass(frozen=True, slots=True)
class TileWalk(Walk[T]):
    """A piece in tiles."""

    def written(self, segments: Sequence[T], sizes: Sizes) -> int:
        """Rows of the tiles that are the first on theirs."""
        return sum(s.tiles * s.height for s in segments if s.fresh)

    def batches(self, schedule: Schedule[T], given: Operands) -> Iterator[Batch]:
        """The tiles of a schedule, as many at a time as one call takes."""
        for segment in schedule.segments:
            yield from segment.batches(given)
