"""Blocks of pairs that a program lists one by one, gathered into batches: rows with equally many blocks of keys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pidsl.runtime.run_torch.gathered import GatheredBatch, GatheredSegment
from pidsl.runtime.run_torch.walks import (
    LARGEST_MASK,
    Batch,
    Bools,
    Bound,
    Change,
    Ints,
    Operands,
    Schedule,
    Sizes,
    Walk,
    write,
)


@dataclass(slots=True, eq=False)
class ListSegment(GatheredSegment):
    """Blocks of queries with equally many blocks of keys each.

    Args:
        size: tokens of a block.
        sizes: those of the call.
        blocks: `[tiles]`, blocks of queries.
        others: `[tiles, each]`, blocks of keys.
        kept: over (n, m, offsets, r, j); None when every pair of the blocks is kept.
    """

    size: int
    sizes: Sizes
    blocks: Ints
    others: Ints
    kept: Bound | None
    cuts: dict[int, tuple[ListSegment, ...]] = field(default_factory=dict, init=False, repr=False)

    @staticmethod
    def of(size: int, sizes: Sizes, blocks: Ints, others: Ints, kept: Bound | None) -> ListSegment:
        """The segment of these blocks; its mask is one of every block."""
        tiles, each = others.shape
        visited = tiles * each * size
        return ListSegment(visited, visited * size, tiles, size, each * size, size, sizes, blocks, others, kept)

    def parts(self, limit: int) -> tuple[ListSegment, ...]:
        """The same in segments of at most so many blocks of queries; they keep masks of their own."""
        step = max(1, limit)
        if self.tiles <= step:
            return (self,)
        if step not in self.cuts:
            starts = range(0, self.tiles, step)
            parts = [
                ListSegment.of(self.size, self.sizes, self.blocks[x : x + step], self.others[x : x + step], self.kept)
                for x in starts
            ]
            for part in parts:
                part.remember = self.remember
            self.cuts[step] = tuple(parts)
        return self.cuts[step]

    def keep(self) -> Bools:
        """The pairs to keep, `[1, blocks, queries, keys]`."""
        r, j = self._rows()[:, :, None], self._keys()[:, None, :]
        kept: Any = (j >= 0) & (j < self.sizes.m) & (r >= 0) & (r < self.sizes.n)
        if self.kept is not None:
            kept = kept & self.kept(**self.sizes.names, r=r, j=j)
        return np.array(np.broadcast_to(kept, (self.tiles, self.height, self.width)))[None]

    def _rows(self) -> Ints:
        """`[blocks, queries]`: rows of q, among them some that do not exist."""
        return self.blocks[:, None] * self.size + np.arange(self.size) - self.sizes.offset

    def _keys(self) -> Ints:
        """`[blocks, keys]`: rows of k, among them some that do not exist."""
        found = self.others[:, :, None] * self.size + np.arange(self.size) - self.sizes.key_offset
        return found.reshape(self.tiles, -1)

    def row_positions(self, device: torch.device) -> Tensor:
        return _index(self._rows() + self.sizes.offset, device)

    def key_rows(self, device: torch.device) -> Tensor:
        return _index(np.clip(self._keys(), 0, self.sizes.m - 1), device)

    def of_rows(self, x: Tensor, members: int) -> Tensor:
        rows = _index(np.clip(self._rows(), 0, self.sizes.n - 1).ravel(), x.device)
        found = x.unflatten(1, (-1, members)).index_select(3, rows).unflatten(3, (-1, self.size)).transpose(2, 3)
        return found.reshape(-1, self.tiles, members * self.size, *x.shape[3:])

    def of_keys(self, x: Tensor) -> Tensor:
        found = x.index_select(2, self.key_rows(x.device).view(-1))
        return found.reshape(-1, self.tiles, self.width, x.shape[3])

    def put(self, results: Sequence[Tensor], values: Sequence[Tensor], change: Change, members: int) -> None:
        """Change rows of the results: gathered, unless nothing was there, and written back."""
        if change is not write:
            found = [self.of_rows(x, members) for x in results]
            change(found, values)
            values = found
        rows = self._rows().ravel()
        there = (rows >= 0) & (rows < self.sizes.n)
        some = None if there.all() else _index(there, results[0].device)
        index = _index(rows[there], results[0].device)
        for x, y in zip(results, values, strict=True):
            shape = (x.shape[0], x.shape[1] // members, self.tiles, members, self.size, *x.shape[3:])
            y = y.reshape(shape).transpose(2, 3).flatten(3, 4)
            x.unflatten(1, (-1, members)).index_copy_(3, index, y if some is None else y[:, :, :, some])

    def add_keys(self, target: Tensor, grads: Tensor) -> None:
        """Add to the gathered keys; a block that occurs twice is added in a fixed order."""
        index = self.key_rows(target.device).view(-1)
        grads = grads.reshape(*target.shape[:2], len(index), target.shape[3])
        if target.device.type == "cpu":
            target.index_add_(2, index, grads)
        else:  # sorted by index there, and not by the chance of who comes first
            target.transpose(0, 2).index_put_((index,), grads.transpose(0, 2), accumulate=True)


def _index(values: NDArray[Any], device: torch.device) -> Tensor:
    return torch.from_numpy(values).to(device)


@dataclass(frozen=True, slots=True)
class Listed(Walk[ListSegment]):
    """A piece of listed blocks, as a generated program states it.

    Args:
        size: tokens of a block.
        blocks: sorted (query block, key block).
        keep: over (n, m, offsets, r, j), true on the pairs of the piece; None when it is on all.
    """

    size: int
    blocks: tuple[tuple[int, int], ...]
    keep: Bound | None = None

    def cut(self, sizes: Sizes) -> Iterator[ListSegment]:
        """Batches that together visit every block that exists once."""
        n, m, offset, key_offset = sizes
        rows_in = range(offset // self.size, -(-(offset + n) // self.size))
        keys_in = range(key_offset // self.size, -(-(key_offset + m) // self.size))
        by_row: dict[int, list[int]] = {}
        for row, key in self.blocks:
            if row in rows_in and key in keys_in:
                by_row.setdefault(row, []).append(key)
        for each in sorted({len(keys) for keys in by_row.values()}):
            rows = [row for row, keys in by_row.items() if len(keys) == each]
            keys = np.array([by_row[row] for row in rows], dtype=np.int64)
            yield ListSegment.of(self.size, sizes, np.array(rows, dtype=np.int64), keys, self.keep)

    def batches(self, schedule: Schedule[ListSegment], given: Operands) -> Iterator[Batch]:
        """Copies of the blocks."""
        for segment in schedule.segments:
            largest = LARGEST_MASK // (given.group * segment.height * segment.width)
            for s in segment.parts(min(segment.at_once(given), largest)):
                yield GatheredBatch(s, given, given.rows, given.results, s.mask(given.rows[0], given.group))
