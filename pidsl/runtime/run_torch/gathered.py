"""Batches whose tiles are copied: what boxes of a grid and listed blocks have in common.

Rows of all query heads of a group lie above each other in a tile, so that its keys are copied once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pidsl.runtime.call.logits import Place
from pidsl.runtime.run_torch.walks import Batch, Change, Mask, Operands, Segment


@dataclass(slots=True, eq=False)
class GatheredSegment(Segment):
    """So many tiles of so many queries and keys."""

    tiles: int
    height: int
    width: int

    def row_positions(self, device: torch.device) -> Tensor:
        """`[tiles, queries]`: where the queries stand."""
        raise NotImplementedError

    def key_rows(self, device: torch.device) -> Tensor:
        """`[tiles, keys]`: which keys they meet, the last one for those that are missing."""
        raise NotImplementedError

    def of_rows(self, x: Tensor, members: int) -> Tensor:
        """x `[B, Hq, n, ...]` by tiles: `[B * Hkv, tiles, members * queries, ...]`, a copy."""
        raise NotImplementedError

    def of_keys(self, x: Tensor) -> Tensor:
        """x `[B, Hkv, m, D]` by tiles: `[B * Hkv, tiles, keys, D]`, a copy."""
        raise NotImplementedError

    def put(self, results: Sequence[Tensor], values: Sequence[Tensor], change: Change, members: int) -> None:
        """Change rows of the results by values in the form of `of_rows`."""
        raise NotImplementedError

    def add_keys(self, target: Tensor, grads: Tensor) -> None:
        """`target += grads`, in the form of `of_keys`, in a fixed order."""
        raise NotImplementedError

    def at_once(self, given: Operands) -> int:
        """How many tiles one call takes."""
        heads = max(1, given.batch * given.kv_heads)
        return given.at_once(given.group * self.height, self.width) // heads


class GatheredBatch(Batch):
    """Copies of the tiles of a segment, whose rows are read from and written to tensors in whole rows of a grid."""

    __slots__ = ("results", "segment")

    def __init__(
        self, segment: GatheredSegment, given: Operands, rows: Sequence[Tensor], results: Sequence[Tensor],
        mask: Mask | None,
    ) -> None:  # fmt: skip
        found = [segment.of_rows(x, given.group) for x in rows]
        super().__init__(given, found, [segment.of_keys(x) for x in given.keys], mask, True)
        self.segment, self.results = segment, results

    def place(self) -> Place:
        """Positions and heads of the pairs."""
        assert self.given.places is not None
        stream, group = self.given.places[2], self.given.group
        i = self.segment.row_positions(stream.device)
        stream = stream.view(-1, group, 1).expand(-1, -1, i.shape[1]).reshape(-1, 1, group * i.shape[1], 1)
        j = self.segment.key_rows(stream.device) + self.given.sizes.key_offset
        return Place(i.repeat(1, group)[:, :, None], j[:, None, :], stream % self.given.heads, stream)

    def put(self, values: Sequence[Tensor], change: Change) -> None:
        """Change the results."""
        self.segment.put(self.results, values, change, self.given.group)

    def add(self, grads: Sequence[Tensor]) -> None:
        """Add to the sums of the keys."""
        for x, grad in zip(self.given.sums, grads, strict=True):
            if x.whole is None:
                x.add(x.numbers(self.segment.key_rows(grad.device)), grad)
            else:
                self.segment.add_keys(x.whole, grad)
