"""Blocks of pairs that a program lists one by one, gathered into batches: rows with equally many blocks of keys."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pidsl.runtime.run_torch.bands import KNOWN_SIZES, MISSING, Bound, Mask, Masks, mask_of, remembered
from pidsl.runtime.run_torch.boxes import Extent

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class ListSegment:
    """Blocks of queries with equally many blocks of keys each.

    Args:
        extent: the blocks that exist, as a grid whose rows are blocks.
        rows: `[blocks]`, indices of blocks of queries, counted from the first one that exists.
        keys: `[blocks, each]`, indices of blocks of keys.
        keep: over (n, m, offset, r, j); None when every pair of the blocks is kept.
    """

    extent: Extent
    rows: Ints
    keys: Ints
    keep: Bound | None
    remember: bool = True
    _masks: dict[tuple[int, int], Masks] = field(default_factory=dict)  # by part

    @property
    def size(self) -> int:
        """Tokens of a block."""
        return self.extent.strides[0]

    def parts(self, limit: int) -> Iterator[ListSegment]:
        """The same in segments of at most so many blocks of queries."""
        step = max(1, limit)
        for start in range(0, len(self.rows), step):
            here = slice(start, start + step)
            known = {(0, 0): self._masks.setdefault((start, step), Masks())}
            yield ListSegment(self.extent, self.rows[here], self.keys[here], self.keep, self.remember, known)

    def mask(self, dtype: torch.dtype, device: torch.device, members: int) -> Mask | None:
        """The pairs to keep, `[1, blocks, members * queries, keys]`."""
        key, known = (dtype, device, members), self._masks.setdefault((0, 0), Masks())
        mask = known.get(key, MISSING)
        if mask is MISSING:
            mask = self._mask(dtype, device, members)
            if self.remember or mask is None:
                known.keep(key, mask)
        return mask

    def _mask(self, dtype: torch.dtype, device: torch.device, members: int) -> Mask | None:
        e = self.extent
        r, j = self._rows()[:, :, None], self._keys()[:, None, :]
        kept: Any = (j < e.m) & (r >= 0) & (r < e.n)
        if self.keep is not None:
            kept = kept & self.keep(n=np.int64(e.n), m=np.int64(e.m), offset=np.int64(e.offset), r=r, j=j)
        kept = np.broadcast_to(kept, (len(self.rows), self.size, j.shape[2]))
        return mask_of(np.tile(kept, (1, members, 1))[None], dtype, device)

    def _rows(self) -> Ints:
        """`[blocks, queries]`: rows of q, among them some that do not exist."""
        return (self.rows + self.extent.first_row)[:, None] * self.size + np.arange(self.size) - self.extent.offset

    def _keys(self) -> Ints:
        """`[blocks, keys]`, among them some that do not exist."""
        return (self.keys[:, :, None] * self.size + np.arange(self.size)).reshape(len(self.keys), -1)

    def row_positions(self, device: torch.device) -> Tensor:
        """`[blocks, queries]`: where the queries stand."""
        return self._index(self._rows() + self.extent.offset, device)

    def key_positions(self, device: torch.device) -> Tensor:
        """`[blocks, keys]`: which keys they meet, the last one for those that are missing."""
        return self._index(np.minimum(self._keys(), self.extent.m - 1), device)

    def of_rows(self, x: Tensor, members: int) -> Tensor:
        """x `[B, Hq, n, ...]` in its blocks, gathered: `[B * Hkv, blocks, members * queries, ...]`."""
        rows = self._index(np.clip(self._rows(), 0, self.extent.n - 1).ravel(), x.device)
        found = x.unflatten(1, (-1, members)).index_select(3, rows).unflatten(3, (-1, self.size)).transpose(2, 3)
        return found.reshape(-1, len(self.rows), members * self.size, *x.shape[3:])

    def put_rows(self, x: Tensor, values: Tensor, members: int) -> None:
        """Write what `of_rows` has gathered."""
        rows = self._rows().ravel()
        shape = (x.shape[0], x.shape[1] // members, len(self.rows), members, self.size, *x.shape[3:])
        found = values.reshape(shape).transpose(2, 3).flatten(3, 4)
        there = (rows >= 0) & (rows < self.extent.n)
        if not there.all():
            found, rows = found[:, :, :, self._index(there, x.device)], rows[there]
        x.unflatten(1, (-1, members)).index_copy_(3, self._index(rows, x.device), found)

    def of_keys(self, x: Tensor) -> Tensor:
        """x `[B, Hkv, m, D]`, gathered: `[B * Hkv, blocks, keys, D]`."""
        found = x.index_select(2, self.key_positions(x.device).view(-1))
        return found.reshape(-1, len(self.rows), self.keys.shape[1] * self.size, x.shape[3])

    def add_keys(self, x: Tensor, grads: Tensor) -> None:
        """Add to the gathered keys; a block that occurs twice is added in a fixed order."""
        index = self.key_positions(x.device).view(-1)
        grads = grads.reshape(*x.shape[:2], len(index), x.shape[3])
        if x.device.type == "cpu":
            x.index_add_(2, index, grads)
        else:  # sorted by index there, and not by the chance of who comes first
            x.transpose(0, 2).index_put_((index,), grads.transpose(0, 2), accumulate=True)

    @staticmethod
    def _index(values: NDArray[Any], device: torch.device) -> Tensor:
        return torch.from_numpy(values).to(device)


@dataclass(frozen=True, slots=True)
class Listed:
    """A piece of listed blocks, as a generated program states it.

    Args:
        size: tokens of a block.
        blocks: sorted (query block, key block).
        keep: over (n, m, offset, r, j), true on the pairs of the piece; None when it is on all.
    """

    size: int
    blocks: tuple[tuple[int, int], ...]
    keep: Bound | None = None
    _known: dict[tuple[int, int, int], tuple[ListSegment, ...]] = field(default_factory=dict, repr=False, compare=False)

    def segments(self, n: int, m: int, offset: int) -> tuple[ListSegment, ...]:
        """Batches that together visit every block that exists once."""
        sizes = (n, m, offset)
        known = self._known.pop(sizes, None)
        if known is None:
            made = list(self._segments(*sizes))
            kept = remembered(n, m, [s.keys.size * self.size**2 for s in made])
            known = tuple(replace(s, remember=x) for s, x in zip(made, kept, strict=True))
            for oldest in list(self._known)[: 1 - KNOWN_SIZES]:
                self._known.pop(oldest, None)
        self._known[sizes] = known
        return known

    def visited(self, n: int, m: int, offset: int) -> int:
        """Keys in all blocks."""
        return sum(s.keys.size * s.size for s in self.segments(n, m, offset))

    def _segments(self, n: int, m: int, offset: int) -> Iterator[ListSegment]:
        first, end, key_end = offset // self.size, -(-(offset + n) // self.size), -(-m // self.size)
        extent = Extent((self.size, 1), first, end - first, key_end, n, m, offset)
        by_row: dict[int, list[int]] = {}
        for row, key in self.blocks:
            if first <= row < end and key < key_end:
                by_row.setdefault(row, []).append(key)
        for each in sorted({len(keys) for keys in by_row.values()}):
            rows = [row for row, keys in by_row.items() if len(keys) == each]
            keys = np.array([by_row[row] for row in rows], dtype=np.int64)
            yield ListSegment(extent, np.array(rows, dtype=np.int64) - first, keys, self.keep)
