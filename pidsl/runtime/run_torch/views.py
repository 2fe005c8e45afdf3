"""Zero-copy batches of tiles: the tiles of one segment, cut into calls of bounded size.

All tiles of a segment form a grid (batch, key head, query head in its group, class, tile), and every tensor that
takes part is a strided view over that grid: overlapping windows for keys and values, stride 0 where query heads
share a key head. Torch's flash operation knows two batch dimensions, so neighbouring grid dimensions are merged
where the strides of *all* tensors allow it, the two largest remain, and Python loops over the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from operator import mul
from typing import NamedTuple

from torch import Tensor


class Tiles(NamedTuple):
    """A tensor seen as a grid of equal tiles: element (g, x) lies at `offset + g . outer + x . strides`."""

    offset: int  # of the first tile, in elements from the start of the storage
    outer: tuple[int, ...]  # a stride for every dimension of the grid
    shape: tuple[int, ...]  # of a tile
    strides: tuple[int, ...]  # in it


View = tuple[tuple[int, ...], tuple[int, ...], int]  # sizes, strides and offset of a view


def merge_grid(counts: Sequence[int], strides: Sequence[Sequence[int]]) -> tuple[list[int], list[list[int]]]:
    """Merge neighbouring grid dimensions that every tensor walks as one; drop those of size 1.

    `strides[x]` are the strides of tensor x: counts (2, 3), strides [(30, 10)] -> counts (6,), strides [(10,)].
    """
    merged: list[int] = []
    steps: list[list[int]] = [[] for _ in strides]
    for axis, count in enumerate(counts):
        if count == 1:
            continue
        here = [s[axis] for s in strides]
        if merged and all(s[-1] == x * count for s, x in zip(steps, here, strict=True)):
            merged[-1] *= count
            for s, x in zip(steps, here, strict=True):
                s[-1] = x
        else:
            merged.append(count)
            for s, x in zip(steps, here, strict=True):
                s.append(x)
    return merged, steps


def batches(counts: Sequence[int], tiles: Sequence[Tiles], limit: int, whole: bool = False) -> Iterator[list[View]]:
    """For each batch of at most `limit` tiles, every tensor as `[x, y, *tile]`; or as `[*grid, *tile]` (whole)."""
    if 0 in counts:
        return
    grid, steps = list(counts), [list(t.outer) for t in tiles]
    if not whole:
        grid, steps = merge_grid(grid, steps)
    while len(grid) < 2:
        grid.insert(0, 1)
        for s in steps:
            s.insert(0, 0)
    by_size = sorted(range(len(grid)), key=grid.__getitem__)
    axes = sorted(by_size if whole else by_size[-2:])
    piece = [1] * len(grid)
    for axis in by_size[-len(axes) :]:
        piece[axis] = max(1, min(grid[axis], limit))
        limit //= piece[axis]
    for start in product(*(range(0, count, size) for count, size in zip(grid, piece, strict=True))):
        size = [min(piece[axis], grid[axis] - start[axis]) for axis in axes]
        yield [
            ((*size, *shape), (*[s[axis] for axis in axes], *strides), sum(map(mul, start, s), offset))
            for (offset, _, shape, strides), s in zip(tiles, steps, strict=True)
        ]


def add_windows(target: Tensor, grads: Tensor, grid: int = 2) -> None:
    """`target += grads` for `[*grid, *tile, D]` views whose tiles may overlap or coincide, in a fixed order.

    A dimension of stride 0 is summed. Where windows overlap, they are cut into slices as long as the step from one
    window to the next: equal slices of all windows never overlap, so each is one plain addition. Fewer windows than
    slices are taken one by one.
    """
    cuts = []
    for axis in range(grid):
        count, stride = target.shape[axis], target.stride(axis)
        if count == 1:
            continue
        if stride == 0:
            grads, target = grads.sum(axis, keepdim=True), target.narrow(axis, 0, 1)
            continue
        for inside in range(grid, target.ndim - 1):
            keys, row = target.shape[inside], target.stride(inside)
            if keys > 1 and stride % row == 0 and (step := stride // row) < keys:
                cut, size, step = (axis, count, 1) if count * step < keys else (inside, keys, step)
                cuts.append([(cut, x, min(step, size - x)) for x in range(0, size, step)])
    for part in product(*cuts):
        some, given = target, grads
        for where in part:
            some, given = some.narrow(*where), given.narrow(*where)
        some.add_(given)
