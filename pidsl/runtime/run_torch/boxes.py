"""From the boxes of a grid to few large batches of equal boxes.

A `Boxes` is what a generated program says about the pieces whose tiles are boxes: for every axis the bounds of the
keys that box t visits there, and which pairs of coordinates are kept. Axes are independent: on each, neighbouring
boxes with equal sizes, masks and steps form a group, and every combination of groups is one segment, with all axes as
dimensions of its own.

Queries or keys that begin or end inside a row of the first axis are several products of ranges, each taken by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial, reduce
from hashlib import blake2b
from itertools import pairwise, product
from math import prod
from operator import mul
from typing import NamedTuple

import numpy as np

from pidsl.runtime.run_torch.tiles import Side, TileSegment, TileWalk
from pidsl.runtime.run_torch.walks import Bools, Bound, Sizes


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
class Boxes(TileWalk[TileSegment]):
    """A piece in boxes of a grid, as a generated program states it."""

    axes: tuple[Axis, ...]

    def cut(self, sizes: Sizes) -> Iterator[TileSegment]:
        """Batches of equal boxes that together visit every box of queries with all of its keys."""
        lengths = [x.length or 1 for x in self.axes]
        strides = tuple(prod(lengths[k + 1 :]) for k in range(len(lengths)))
        tokens = None if self.axes[0].length is None else prod(lengths)

        def parts(start: int, count: int) -> list[tuple[range, ...]]:
            return list(products(start, start + count if tokens is None else min(start + count, tokens), strides))

        for queries in parts(sizes.offset, sizes.n):
            for x, keys in enumerate(parts(sizes.key_offset, sizes.m)):
                for groups in product(*map(_groups, self.axes, queries, keys)):
                    yield _segment(groups, strides, sizes, x == 0)


def products(start: int, stop: int, strides: tuple[int, ...]) -> Iterator[tuple[range, ...]]:
    """The tokens from start to stop as products of ranges of coordinates, first the one of whole rows."""
    stride, *inner = strides
    first, last = -(-start // stride), stop // stride
    if first < last:
        yield (range(first, last), *(range(x // y) for x, y in pairwise(strides)))
    for low, high in ((start, min(first * stride, stop)), (max(first, last) * stride, stop)):
        if low < high:
            row = low // stride
            for rest in products(low - row * stride, high - row * stride, tuple(inner)):
                yield range(row, row + 1), *rest


def _segment(groups: tuple[Group, ...], strides: tuple[int, ...], sizes: Sizes, fresh: bool) -> TileSegment:
    """The boxes of these groups."""
    rows, row_steps, keys, key_steps, counts, heights, widths, *_ = zip(*groups, strict=True)

    def side(first: tuple[int, ...], moved: int, steps: tuple[int, ...], shape: tuple[int, ...]) -> Side:
        return Side(sum(map(mul, first, strides)) - moved, tuple(map(mul, steps, strides)), shape, strides)

    masked = any(g.masked for g in groups)
    return TileSegment(
        visited=prod(counts) * prod(widths),
        masked=prod(heights) * prod(widths) if masked else 0,
        pairs=partial(_keep, groups) if masked else None,
        counts=counts,
        rows=side(rows, sizes.offset, row_steps, heights),
        keys=side(keys, sizes.key_offset, key_steps, widths),
        fresh=fresh,
        copied=True,
    )


def _keep(groups: tuple[Group, ...]) -> Bools:
    return reduce(np.kron, (g.keep for g in groups))


def _groups(axis: Axis, queries: range, keys: range) -> list[Group]:
    """The boxes of one axis, for these queries and keys."""
    groups: list[Group] = []
    for t in range(queries.start // axis.rows, -(-queries.stop // axis.rows)):
        low, high = max(t * axis.rows, queries.start), min(t * axis.rows + axis.rows, queries.stop)
        first = max(int(axis.first(t=t)), keys.start)
        last = keys.stop - 1 if axis.last is None else min(int(axis.last(t=t)), keys.stop - 1)
        if first > last:
            continue
        found = Group(low, 0, first, 0, 1, high - low, last + 1 - first, axis, None)
        if axis.keep is not None and not (keep := found.keep).all():
            found = found._replace(masked=blake2b(keep.tobytes(), digest_size=16).digest())
        if groups and (grown := _grown(groups[-1], found)) is not None:
            groups[-1] = grown
        else:
            groups.append(found)
    return groups


def _grown(group: Group, box: Group) -> Group | None:
    """The group with one more box, if that is like the others and lies where it should."""
    if (group.height, group.width, group.masked) != (box.height, box.width, box.masked):
        return None
    row_step, key_step = box.row - group.row, box.key - group.key
    if group.boxes > 1:
        if row_step != group.boxes * group.row_step or key_step != group.boxes * group.key_step:
            return None
        row_step, key_step = group.row_step, group.key_step
    return group._replace(row_step=row_step, key_step=key_step, boxes=group.boxes + 1) if key_step >= 0 else None
