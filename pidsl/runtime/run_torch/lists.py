"""Blocks of pairs that a program lists one by one, gathered into batches: rows with equally many blocks of keys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pidsl.runtime.run_torch.tiles import Batch, Side, TileSegment, TileWalk
from pidsl.runtime.run_torch.walks import LARGEST_MASK, Bools, Bound, Ints, Operands, Schedule, Sizes


@dataclass(slots=True, eq=False, kw_only=True)
class ListSegment(TileSegment):
    """Blocks of queries with equally many blocks of keys each, among what has been gathered of rows and keys.

    Args:
        walk: the list.
        sizes: those of the call.
        blocks: `[tiles]`, blocks of queries.
        others: `[tiles, each]`, blocks of keys.
    """

    walk: Listed
    sizes: Sizes
    blocks: Ints
    others: Ints
    known: dict[torch.device, list[Tensor]] = field(default_factory=dict, init=False, repr=False)

    @staticmethod
    def of(walk: Listed, sizes: Sizes, blocks: Ints, others: Ints) -> ListSegment:
        """The segment of these blocks; its mask is one of every block."""
        (tiles, each), size = others.shape, walk.size
        visited = tiles * each * size
        rows, keys = (Side(0, (x,), (x,), (1,)) for x in (size, each * size))
        return ListSegment(
            visited=visited, masked=visited * size, counts=(tiles,), rows=rows, keys=keys, fresh=True, copied=True,
            walk=walk, sizes=sizes, blocks=blocks, others=others,
        )  # fmt: skip

    def parts(self, limit: int) -> Iterator[ListSegment]:
        """The same in segments of at most so many blocks of queries."""
        if self.tiles <= limit:
            yield self
            return
        for x in range(0, self.tiles, limit):
            some = slice(x, x + limit)
            part = ListSegment.of(self.walk, self.sizes, self.blocks[some], self.others[some])
            part.masks, part.remember, part.name = self.masks, self.remember, (x, limit)
            yield part

    def numbers(self) -> tuple[Ints, Ints]:
        """`[blocks, queries]` rows of q and `[blocks, keys]` rows of k, among them some that do not exist."""
        inside, (_, _, offset, key_offset) = np.arange(self.walk.size), self.sizes
        keys = self.others[:, :, None] * self.walk.size + inside - key_offset
        return self.blocks[:, None] * self.walk.size + inside - offset, keys.reshape(self.tiles, -1)

    def index(self, device: torch.device) -> list[Tensor]:
        """The same numbers, of the nearest ones instead of those that do not exist, and which of the rows do."""
        if device not in self.known:
            (rows, keys), (n, m, *_) = self.numbers(), self.sizes
            there = np.flatnonzero((rows >= 0) & (rows < n))
            found = np.clip(rows, 0, n - 1).ravel(), np.clip(keys, 0, m - 1), there
            self.known[device] = [torch.from_numpy(x).to(device) for x in found]
        return self.known[device]

    def key_rows(self, device: torch.device) -> Tensor:
        return self.index(device)[1]

    def sums(self, given: Operands) -> list[Tensor]:
        """Numbers of keys, of which several may be one."""
        keys = self.key_rows(given.rows[0].device)
        return [x.numbers(keys) if x.whole is None else keys.expand(*x.like.shape[:2], -1, -1) for x in given.sums]

    def batches(self, given: Operands) -> Iterator[Batch]:
        """Gathers rows and keys, and writes the results back."""
        rows, keys, there = self.index(given.rows[0].device)
        part = copy(given)
        part.rows = tuple(x.index_select(2, rows) for x in given.rows)
        part.results = tuple(
            x.index_select(2, rows) if given.started else x.new_empty((*x.shape[:2], len(rows), *x.shape[3:]))
            for x in given.results
        )
        part.keys = tuple(x.index_select(2, keys.view(-1)) for x in given.keys)
        if given.places is not None:
            i, head, stream = given.places
            part.places = i[0, 0, rows].expand(*i.shape[:2], -1), head, stream
        yield from TileSegment.batches(self, part)
        for x, y in zip(given.results, part.results, strict=True):
            if len(there) == len(rows):
                x.index_copy_(2, rows, y)
            else:
                x.index_copy_(2, rows[there], y.index_select(2, there))

    def keep(self) -> Bools:
        """The pairs to keep, `[1, blocks, queries, keys]`."""
        rows, keys = self.numbers()
        r, j = rows[:, :, None], keys[:, None, :]
        kept: Any = (j >= 0) & (j < self.sizes.m) & (r >= 0) & (r < self.sizes.n)
        if self.walk.keep is not None:
            kept = kept & self.walk.keep(**self.sizes.names, r=r, j=j)
        return np.array(np.broadcast_to(kept, (self.tiles, self.height, self.width)))[None]


@dataclass(frozen=True, slots=True)
class Listed(TileWalk[ListSegment]):
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
            yield ListSegment.of(self, sizes, np.array(rows, dtype=np.int64), keys)

    def written(self, segments: Sequence[ListSegment], sizes: Sizes) -> int:
        """None for sure: blocks may hold rows that do not exist."""
        return 0

    def batches(self, schedule: Schedule[ListSegment], given: Operands) -> Iterator[Batch]:
        """As many blocks at a time as one call takes, with all heads of the keys."""
        for s in schedule.segments:
            height, heads = given.group * s.height, max(1, given.batch * given.kv_heads)
            limit = min(given.at_once(height, s.width) // heads, LARGEST_MASK // (height * s.width))
            for part in s.parts(max(1, limit)):
                yield from part.batches(given)
