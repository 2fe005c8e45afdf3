"""The sequences of a ragged batch: which rows and keys each has, and where they stand.

    lengths      one sequence for each batch entry, from its first row on; behind a length there is nothing
    documents    sequences one after the other along the tokens of a batch entry

Both are one table, an argument of the programs: a sequence has rows `row .. row + rows - 1` of batch entry `batch` of
q, the first of which stands at position `offset`, and keys `key .. key + keys - 1` of k and v, the first of which
stands at `key_offset`. A pattern holds on the positions of a sequence, `rows + offset` of queries and
`keys + key_offset` of keys. Nothing else of q, k and v is read.
"""

from __future__ import annotations

from collections.abc import Sequence as Values
from typing import Any, NamedTuple

import torch
from torch import Tensor

COLUMNS = ("batch", "row", "rows", "offset", "key", "keys", "key_offset")  # of the table, and one that is not used


class Sequence(NamedTuple):
    """A row of the table, as numbers."""

    batch: int
    row: int
    rows: int
    offset: int
    key: int
    keys: int
    key_offset: int


class Slots(NamedTuple):
    """Where the keys of a derived cache lie: the one at position p in row slot(p) of k and v `[B, Hkv, slots, D]`.

    `slot(p) = p` for `p < prefix`; after that, with `x, c = divmod(p - prefix, period)` and
    `base, many, rank, size = table[c]`, `slot(p) = base + (x * many + rank) % size`.

    Args:
        table: int32 [period, 4], on the device of k.
        prefix: positions that have their own slots.
        positions: int32 [B, slots], the position of the key in each slot; -1 for none.
    """

    table: Tensor
    prefix: int
    positions: Tensor


class Pages(NamedTuple):
    """Where the keys of a paged cache lie: the one at position p in row `p % size` of page `table[batch, p // size]`.

    k and v are `[pages, Hkv, size, D]`, of any strides.

    Args:
        table: int32 [B, pages of a sequence], on the device of k; -1 for a page that was given back.
        size: keys of a page.
    """

    table: Tensor
    size: int


class Segments(NamedTuple):
    """The sequences of a call; the positions of a `Call` that is ragged.

    Args:
        table: int32 [sequences, 8], contiguous, on the device of q; columns as in `COLUMNS`.
        rows: no sequence has more rows,
        keys: and none more keys;
        all_rows: all sequences together have no more rows than that,
        all_keys: nor more keys.
        moved: keys may start at a position other than 0.
        square: every sequence is known to have as many rows as keys, from position 0 on.
        keys_at: where keys lie, if it is not in the order of their positions.
        whole: every row of q and every key belongs to a sequence.
        stop: no row and no key stands at this position or behind it; None where nobody knows.
        apart: each sequence is a batch entry: what is known of all rows and keys does not depend on the other ones.
    """

    table: Tensor
    rows: int
    keys: int
    all_rows: int
    all_keys: int
    moved: bool = False
    square: bool = False
    keys_at: Slots | Pages | None = None
    whole: bool = False
    stop: int | None = None
    apart: bool = False

    @property
    def on_host(self) -> list[Sequence]:
        """The table as numbers; waits for the device."""
        return [Sequence(*row[: len(COLUMNS)]) for row in self.table.tolist()]

    def present(self, batch: int, n: int) -> Tensor:
        """bool [B, n]: the rows that are in a sequence."""
        of, row, rows, *_ = self.table.long().unbind(1)
        changes = torch.zeros(batch, n + 1, dtype=torch.int64, device=self.table.device)
        changes.index_put_((of, row.clamp(max=n)), (rows > 0).long(), accumulate=True)
        changes.index_put_((of, (row + rows).clamp(max=n)), -(rows > 0).long(), accumulate=True)
        return changes.cumsum(1)[:, :n] > 0

    # -- as an op of torch takes it: tensors, and numbers --------------------------------------------------------

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors among its values."""
        at = self.keys_at  # no `match`: torch 2.11 does not trace it
        if isinstance(at, Slots):
            return [self.table, at.table, at.positions]
        return [self.table] if at is None else [self.table, at.table]

    @property
    def numbers(self) -> list[Any]:
        """The numbers among its values."""
        at, stop = self.keys_at, -1 if self.stop is None else self.stop
        last = 0 if at is None else at.prefix if isinstance(at, Slots) else at.size
        flags = int(self.moved), int(self.square), int(self.whole), int(self.apart)
        return [self.rows, self.keys, self.all_rows, self.all_keys, *flags, stop, last]

    @classmethod
    def of(cls, tensors: Values[Tensor], numbers: Values[Any]) -> Segments:
        """From its tensors and its numbers."""
        table, *places = tensors
        rows, keys, all_rows, all_keys, moved, square, whole, apart, stop, last = numbers
        at: Slots | Pages | None = None
        if places:
            at = Slots(places[0], last, places[1]) if len(places) > 1 else Pages(places[0], last)
        known = None if stop < 0 else stop
        flags = bool(moved), bool(square), at, bool(whole), known, bool(apart)
        return cls(table, rows, keys, all_rows, all_keys, *flags)
