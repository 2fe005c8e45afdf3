"""From the boxes of a grid to few large batches of equal boxes.

A `Boxes` is what a generated program says about the pieces whose tiles are boxes: for every axis the bounds of the
keys that box t visits there, and which pairs of coordinates are kept. Axes are independent: on each, neighbouring
boxes with equal sizes, masks and steps form a group, and every combination of groups is one segment, whose boxes are
strided views with all axes as dimensions of their own.

Where the queries begin or end inside a row of the first axis, it is filled up with zeros. Boxes that meet missing keys
are computed one by one, each with a mask of its own, and the last key in their place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from hashlib import blake2b
from itertools import product
from math import prod
from operator import mul
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from pidsl.runtime.run_torch.gathered import GatheredBatch, GatheredSegment
from pidsl.runtime.run_torch.walks import Batch, Bools, Bound, Change, Mask, Operands, Schedule, Sizes, Walk


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a grid, as a generated program states it.

    Args:
        rows: queries of a box.
        first, last: over t, the keys that box t visits; a `last` of None is the end of the sequence.
        keep: over (a, b), the coordinates of query and key; None when every pair is kept.
        length: tokens; None for a first axis that goes on as far as the sequence does.
    """

    rows: int
    first: Bound
    last: Bound | None = None
    keep: Bound | None = None
    length: int | None = None


class Group(NamedTuple):
    """Boxes of one axis that are alike."""

    row: int  # coordinate of the first query of the first box
    row_step: int  # from box to box
    key: int
    key_step: int
    boxes: int
    height: int
    width: int
    axis: Axis
    masked: bytes | None  # a digest of the mask; None when every pair is kept

    @property
    def keep(self) -> Bools:
        """`[height, width]`: the pairs to keep. They are made when asked for: all at once are many."""
        if self.axis.keep is None:
            return np.ones((self.height, self.width), bool)
        a = np.arange(self.row, self.row + self.height)[:, None]
        b = np.arange(self.key, self.key + self.width)[None, :]
        return np.array(np.broadcast_to(self.axis.keep(a=a, b=b), (self.height, self.width)))


@dataclass(frozen=True, slots=True)
class Extent:
    """The part of a grid in which queries and keys lie, in whole rows of the first axis."""

    strides: tuple[int, ...]
    first_row: int  # of the queries, on the first axis
    rows: int  # so many
    keys: range  # of the keys, likewise
    sizes: Sizes

    @property
    def before(self) -> int:
        """Positions before the first query that fill up its row."""
        return self.sizes.offset - self.first_row * self.strides[0]

    @property
    def positions(self) -> int:
        """All of them, in whole rows."""
        return self.rows * self.strides[0]

    @property
    def complete(self) -> bool:
        """Every query lies in the grid."""
        return self.before + self.sizes.n <= self.positions

    @property
    def filled(self) -> bool:
        """Some rows are filled up with queries that there are not."""
        return self.before > 0 or self.before + self.sizes.n < self.positions

    @property
    def whole_keys(self) -> range:
        """The rows all of whose keys exist."""
        stride, (_, m, _, first) = self.strides[0], self.sizes
        return range(-(-first // stride), min((first + m) // stride, self.keys.stop))

    def of_queries(self, x: Tensor) -> Tensor:
        """x `[B, H, n, ...]` by position, in whole rows: itself, a part of it, or a copy with zeros around it."""
        return _fitted(x, self.before, self.positions)

    def give_back(self, x: Tensor, whole: Tensor) -> None:
        """Write to x `[B, H, n, ...]` what has changed in `whole`, unless it is a part of x."""
        if whole.untyped_storage().data_ptr() != x.untyped_storage().data_ptr():
            x[:, :, : self._length(whole)].copy_(whole[:, :, self.before : self.before + self._length(whole)])

    def around(self, whole: Tensor) -> list[Tensor]:
        """The parts of `whole` that no query has."""
        parts = [whole[:, :, : self.before], whole[:, :, self.before + self._length(whole) :]]
        return [x for x in parts if x.shape[2]]

    def _length(self, whole: Tensor) -> int:
        return min(self.sizes.n, whole.shape[2] - self.before)


def _fitted(x: Tensor, before: int, length: int) -> Tensor:
    after = length - before - x.shape[2]
    if before == 0 and after <= 0:
        return x[:, :, :length]
    rest = x[:, :, : length - before] if after < 0 else x
    return pad(rest, (0, 0) * (x.ndim - 3) + (before, max(after, 0)))


class Side(NamedTuple):
    """Queries or keys of boxes, by axes."""

    start: int  # position of the first token
    steps: tuple[int, ...]  # from box to box
    sizes: tuple[int, ...]  # of a box


@dataclass(slots=True, eq=False)
class BoxSegment(GatheredSegment):
    """Boxes of equal shape, one group per axis."""

    groups: tuple[Group, ...]
    extent: Extent
    ragged: bool  # some keys are missing
    counts: tuple[int, ...]  # boxes, by axes
    queries: Side
    others: Side  # keys

    @staticmethod
    def of(groups: tuple[Group, ...], extent: Extent, ragged: bool = False) -> BoxSegment:
        """The boxes of these groups."""
        rows, row_steps, keys, key_steps, counts, heights, widths = zip(*(g[:7] for g in groups), strict=True)

        def side(first: tuple[int, ...], steps: tuple[int, ...], sizes: tuple[int, ...]) -> Side:
            return Side(sum(map(mul, first, extent.strides)), tuple(map(mul, steps, extent.strides)), sizes)

        tiles, height, width = prod(counts), prod(heights), prod(widths)
        masked = height * width if ragged or any(g.masked for g in groups) else 0
        queries, others = side(rows, row_steps, heights), side(keys, key_steps, widths)
        return BoxSegment(
            tiles * width, masked, tiles, height, width, groups, extent, ragged, counts, queries, others
        )  # fmt: skip

    def keep(self) -> Bools:
        found = reduce(np.kron, (x.keep for x in self.groups))
        return found & self._there().numpy() if self.ragged else found

    def mask_of_rows(self, mask: Mask | None, x: Tensor, members: int) -> Mask | None:
        """`mask` without queries that fill up a row of the grid, `[1, boxes, members * queries, keys]`; like x."""
        start, stop = self.extent.sizes.offset, self.extent.sizes.offset + self.extent.sizes.n
        rows = self.row_positions(x.device)
        there = ((rows >= start) & (rows < stop)).repeat(1, members)[None, :, :, None]
        if bool(there.all()):
            return mask
        bias = x.new_zeros(()) if mask is None else mask.bias
        return Mask(torch.where(there, bias, -torch.inf).expand(*there.shape[:3], self.width), None)

    def parts(self, limit: int) -> Iterator[BoxSegment]:
        """The same boxes in segments of at most `limit` of them."""
        if self.tiles <= max(limit, 1):
            yield self
            return
        axis = self.counts.index(max(self.counts))
        group = self.groups[axis]
        half = group.boxes // 2
        row, key = group.row + half * group.row_step, group.key + half * group.key_step
        for part in (group._replace(boxes=half), group._replace(row=row, key=key, boxes=group.boxes - half)):
            cut = BoxSegment.of((*self.groups[:axis], part, *self.groups[axis + 1 :]), self.extent, self.ragged)
            cut.masks, cut.remember = self.masks, self.remember
            yield from cut.parts(limit)

    def rows(self, x: Tensor, members: int) -> Tensor:
        """A view of the rows of a grid."""
        return self._view(x, self.queries, members, self.extent.first_row * self.extent.strides[0])

    def _keys(self, x: Tensor) -> Tensor:
        """A view of keys, all of which exist."""
        return self._view(x, self.others, 1, self.extent.sizes.key_offset)

    def _view(self, x: Tensor, side: Side, members: int, first: int) -> Tensor:
        """x `[B, H, tokens, ...]`, from position `first` on, as `[B, H / members, *boxes, members, *box, ...]`.

        Boxes of keys may overlap.
        """
        b, h, r = x.stride()[:3]
        inside = self.extent.strides
        shape = (x.shape[0], x.shape[1] // members, *self.counts, members, *side.sizes, *x.shape[3:])
        strides = (b, h * members, *(s * r for s in side.steps), h, *(s * r for s in inside), *x.stride()[3:])
        return x.as_strided(shape, strides, int(x.storage_offset()) + (side.start - first) * r)

    def of_rows(self, x: Tensor, members: int) -> Tensor:
        return self.rows(x, members).reshape(-1, self.tiles, members * self.height, *x.shape[3:])

    def of_keys(self, x: Tensor) -> Tensor:
        found = x.index_select(2, self.key_rows(x.device)[0]) if self.ragged else self._keys(x)
        return found.reshape(-1, self.tiles, self.width, x.shape[3])

    def put(self, results: Sequence[Tensor], values: Sequence[Tensor], change: Change, members: int) -> None:
        views = [self.rows(x, members) for x in results]
        change(views, [y.reshape(x.shape) for x, y in zip(views, values, strict=True)])

    def row_positions(self, device: torch.device) -> Tensor:
        return self._positions(self.queries, device)

    def key_rows(self, device: torch.device) -> Tensor:
        sizes = self.extent.sizes
        return (self._positions(self.others, device) - sizes.key_offset).clamp_(0, sizes.m - 1)

    def _positions(self, side: Side, device: torch.device) -> Tensor:
        """`[boxes, tokens]`: where they stand."""
        total = torch.tensor(side.start, device=device)
        sizes, steps = (*self.counts, *side.sizes), (*side.steps, *self.extent.strides)
        for size, step in zip(sizes, steps, strict=True):
            total = total[..., None] + step * torch.arange(size, device=device)
        return total.view(self.tiles, -1)

    def _there(self) -> Tensor:
        """`[keys]`: which of them exist, of a box of which some are missing."""
        rows = self._positions(self.others, torch.device("cpu"))[0] - self.extent.sizes.key_offset
        return (rows >= 0) & (rows < self.extent.sizes.m)

    def add_keys(self, target: Tensor, grads: Tensor) -> None:
        if self.ragged:
            there = self._there().to(target.device)
            rows = self.key_rows(target.device)[0, there]
            target.index_add_(2, rows, grads.reshape(*target.shape[:2], *grads.shape[2:])[:, :, there])
            return
        view = self._keys(target)
        grads = grads.reshape(view.shape)
        slices: list[list[slice]] = []
        for axis, (_, _, _, step, count, _, width, *_) in enumerate(self.groups, 2):
            if count > 1 and step == 0:  # the same keys for every box
                grads = grads.sum(axis, keepdim=True)
                view = view.narrow(axis, 0, 1)
            step = width if count == 1 or step == 0 else min(step, width)
            slices.append([slice(x, min(x + step, width)) for x in range(0, width, step)])
        every = (slice(None),) * (3 + len(self.groups))
        for part in product(*slices):  # no two boxes overlap in it
            view[(*every, *part)].add_(grads[(*every, *part)])


@dataclass(frozen=True, slots=True)
class Boxes(Walk[BoxSegment]):
    """A piece in boxes of a grid, as a generated program states it."""

    axes: tuple[Axis, ...]

    def written(self, segments: Sequence[BoxSegment], sizes: Sizes) -> int:
        """All rows where every query lies in a box, else none: they are in whole rows of the grid."""
        total = sum(s.tiles * s.height for s in segments)
        extent = segments[0].extent if segments else None
        return sizes.n if extent is not None and extent.complete and total == extent.positions else 0

    def batches(self, schedule: Schedule[BoxSegment], given: Operands) -> Iterator[Batch]:
        """Copies of the boxes, of rows of the grid that are filled up."""
        if not schedule.segments:
            return
        extent = schedule.segments[0].extent
        rows, results = ([extent.of_queries(x) for x in tensors] for tensors in (given.rows, given.results))
        for segment in schedule.segments:
            for s in segment.parts(segment.at_once(given)):
                mask = s.mask(rows[0], given.group)
                if given.exact and extent.filled:
                    mask = s.mask_of_rows(mask, rows[0], given.group)
                yield GatheredBatch(s, given, rows, results, mask)
        for x, whole in zip(given.results, results, strict=True):
            extent.give_back(x, whole)
        given.invented += extent.around(results[0])

    def cut(self, sizes: Sizes) -> Iterator[BoxSegment]:
        """Batches of equal boxes that together visit every box of queries once."""
        extent = self._extent(sizes)
        last = max(sizes.offset + sizes.n, sizes.key_offset + sizes.m)
        if len(self.axes) > 1 and last <= extent.strides[0]:
            if any(
                x.keep.any() for x in _groups(self.axes[0], 0, 1, range(1))
            ):  # all in one row: there is none to fill up
                yield from Boxes(self.axes[1:]).cut(sizes)
            return
        groups = []
        low, high = extent.before, extent.before + sizes.n - 1  # queries in the rows of the axes before that are one
        for k, axis in enumerate(self.axes):
            start, stop = low // extent.strides[k], high // extent.strides[k] + 1
            if k == 0:
                start, stop = extent.first_row, extent.first_row + extent.rows
            if stop - start == 1:
                low, high = low % extent.strides[k], min(high, extent.positions - 1) % extent.strides[k]
            else:
                low, high = 0, extent.strides[k] - 1
            groups.append(list(_groups(axis, start, stop, extent.keys if k == 0 else range(axis.length or 0))))
        whole = extent.whole_keys
        for found in product(*groups):
            top = found[0].key + (found[0].boxes - 1) * found[0].key_step + found[0].width
            segment = BoxSegment.of(found, extent)
            if whole.start <= found[0].key and top <= whole.stop:
                yield segment
                continue
            for part in segment.parts(1):
                yield BoxSegment.of(part.groups, extent, ragged=True)

    def _extent(self, sizes: Sizes) -> Extent:
        lengths = [x.length for x in self.axes]
        strides = tuple(prod(x or 1 for x in lengths[k + 1 :]) for k in range(len(lengths)))
        end, key_end = (-(-x // strides[0]) for x in (sizes.offset + sizes.n, sizes.key_offset + sizes.m))
        if lengths[0] is not None:
            end, key_end = min(end, lengths[0]), min(key_end, lengths[0])
        first = sizes.offset // strides[0]
        return Extent(strides, first, max(end - first, 0), range(sizes.key_offset // strides[0], key_end), sizes)


def _groups(axis: Axis, start: int, stop: int, keys: range) -> Iterator[Group]:
    """The boxes of one axis, for queries from `start` to `stop` and these keys."""
    now: Group | None = None
    for t in range(start // axis.rows, -(-stop // axis.rows)):
        low = max(t * axis.rows, start)
        height = min(t * axis.rows + axis.rows, stop) - low
        first = max(int(axis.first(t=t)), keys.start)
        last = keys.stop - 1 if axis.last is None else min(int(axis.last(t=t)), keys.stop - 1)
        if height <= 0 or first > last:
            continue
        found = Group(low, 0, first, 0, 1, height, last + 1 - first, axis, None)
        if axis.keep is not None and not (keep := found.keep).all():
            found = found._replace(masked=blake2b(keep.tobytes(), digest_size=16).digest())
        if now is not None and (grown := _grown(now, found)) is not None:
            now = grown
            continue
        if now is not None:
            yield now
        now = found
    if now is not None:
        yield now


def _grown(group: Group, box: Group) -> Group | None:
    """The group with one more box, if that is like the others and lies where it should."""
    if (group.height, group.width) != (box.height, box.width):
        return None
    row_step, key_step = box.row - group.row, box.key - group.key
    if group.boxes > 1:
        if row_step != group.boxes * group.row_step or key_step != group.boxes * group.key_step:
            return None
        row_step, key_step = group.row_step, group.key_step
    if key_step < 0:
        return None
    same = group.masked == box.masked
    return group._replace(row_step=row_step, key_step=key_step, boxes=group.boxes + 1) if same else None
