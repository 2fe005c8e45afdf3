"""Equal tiles at regular places, and batches of them: what sweeps, boxes of a grid and listed blocks have in common.

The tiles of a segment form a grid, and every tensor that takes part is a strided view over it; nothing is copied but
tiles of several axes, and windows whose keys lie far apart. Where tiles are copied, the rows of all query heads of a
group lie above each other, so that their keys are copied once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import prod
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from pidsl.runtime.call.logits import Place
from pidsl.runtime.run_torch.views import Tiles, batches
from pidsl.runtime.run_torch.walks import Mask, Operands, Schedule, Segment, Sizes, Walk

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
    """

    counts: tuple[int, ...]
    rows: Side
    keys: Side
    fresh: bool
    copied: bool = False

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
        own = h if members > 1 else 0  # from member to member: a dimension of the grid, or of the tiles
        steps, inside = [r * s for s in side.steps], [r * s for s in side.inside]
        start = int(x.storage_offset()) + r * side.start
        if self.copied:
            shape = members, *side.sizes, *x.shape[3:]
            return Tiles(x, start, (b, h * members, *steps), shape, (own, *inside, *rest))
        return Tiles(x, start, (b, h * members, own, *steps), (*side.sizes, *x.shape[3:]), (*inside, *rest))

    def numbered(self, x: Tensor) -> Tiles:
        """Something `[B, Hkv, *counts, *sizes]` about every key of every tile, by tiles."""
        s, axes = x.stride(), 2 + len(self.counts)
        member = (0,) * (not self.copied), (1,) * self.copied, (0,) * self.copied
        return Tiles(x, 0, (*s[:2], *member[0], *s[2:axes]), (*member[1], *x.shape[axes:]), (*member[2], *s[axes:]))

    def key_rows(self, device: torch.device) -> Tensor:
        """`[*counts, *sizes]`: the keys of every tile."""
        start, steps, sizes, inside = self.keys
        total = torch.tensor(start, device=device)
        for size, step in zip((*self.counts, *sizes), (*steps, *inside), strict=True):
            total = total[..., None] + step * torch.arange(size, device=device)
        return total

    def batches(self, given: Operands) -> Iterator[Batch]:
        """As many tiles at a time as one call takes."""
        mask = self.mask(given.rows[0], given.group if self.copied else 1)
        tiles = [self.view(x, self.rows, given.group) for x in given.rows + given.results]
        tiles += [self.view(x, self.keys, 1) for x in given.keys]
        tiles += self.sums(given)
        if given.places is not None:
            tiles += [self.view(x, self.rows, given.group) for x in given.places]
            j = self.key_rows(given.places[0].device) + given.sizes.key_offset
            tiles.append(self.numbered(j.expand(given.batch, given.kv_heads, *j.shape)))
        members = () if self.copied else (given.group,)
        grid = given.batch, given.kv_heads, *members, *self.counts
        height = given.group * self.height if self.copied else self.height
        for views in batches(grid, tiles, given.at_once(height, self.width), self.copied):
            yield Batch(self, given, views, mask)

    def sums(self, given: Operands) -> Iterator[Tiles]:
        """What the gradients of keys are added to, see `KeySums.add`."""
        for x in given.sums:
            if x.whole is None:
                yield self.numbered(x.numbers(self.key_rows(x.like.device)))
            else:
                yield self.view(x.whole, self.keys, 1)

    def flat(self, x: Tensor) -> Tensor:
        """Views of copied tiles as `[x, y, rows, ...]`."""
        if not self.copied:
            return x
        axes = 2 + len(self.counts)
        end = axes + 1 + len(self.rows.sizes)
        return x.reshape(prod(x.shape[:2]), prod(x.shape[2:axes]), prod(x.shape[axes:end]), *x.shape[end:])


class Batch:
    """Some tiles of a segment.

    Args:
        segment: which.
        given: what the pass says.
        views: of rows, results, keys, sums and places, in this order.
        mask: the pairs to keep.

    Attributes:
        rows: what the pass reads of its rows, `[x, y, queries, ...]`.
        keys: of its keys, `[x, y, keys, D]`.
        mask: the pairs to keep; None for all.
        fresh: no earlier batch of this walk changes these rows.
    """

    __slots__ = ("_places", "_results", "_segment", "_where", "fresh", "given", "keys", "mask", "rows")

    def __init__(self, segment: TileSegment, given: Operands, views: Sequence[Tensor], mask: Mask | None) -> None:
        self._segment, self.given, self.mask, self.fresh = segment, given, mask, segment.fresh
        found = iter(views)
        rows, self._results, keys, self._where, self._places = (
            list(islice(found, len(x))) for x in (given.rows, given.results, given.keys, given.sums, "ihsj")
        )
        self.rows, self.keys = [segment.flat(x) for x in rows], [segment.flat(x) for x in keys]
        # windows of keys that lie apart are copied: at strides of many KiB they share few cache sets
        if segment.keys.inside[-1] > 1 and segment.height >= PACKED_ROWS and keys[0].device.type == "cpu":
            self.keys = [x.contiguous() for x in self.keys]

    def place(self) -> Place:
        """Where the pairs are, for a pass with `places`; each distinct value once."""
        axes = range(2 + len(self._segment.counts) if self._segment.copied else 3)
        i, head, stream, j = (self._segment.flat(distinct(x, axes)) for x in self._places)
        return Place(i[..., None], j[..., None, :], head[..., None], stream[..., None])

    def put(self, values: Sequence[Tensor], change: Change) -> None:
        """Change the results of the rows, in place."""
        change(self._results, [y.reshape(x.shape) for x, y in zip(self._results, values, strict=True)])

    def add(self, grads: Sequence[Tensor]) -> None:
        """Add `[x, y, keys, D]` to the sums of the keys, in a fixed order."""
        for x, where, grad in zip(self.given.sums, self._where, grads, strict=True):
            x.add(where, grad, len(self._segment.counts) + 2 if self._segment.copied else 2)


def distinct(x: Tensor, axes: Sequence[int]) -> Tensor:
    """x with one element along those of the axes that repeat it."""
    for axis in axes:
        x = x if x.stride(axis) else x.narrow(axis, 0, 1)
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
