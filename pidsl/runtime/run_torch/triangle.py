"""All keys up to the position of a row, by the operation that torch has for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pidsl.runtime.run_torch.bands import Band
from pidsl.runtime.run_torch.tiles import Batch, Side, TileSegment, TileWalk
from pidsl.runtime.run_torch.walks import Operands, Schedule, Sizes


@dataclass(frozen=True, slots=True)
class Triangle(TileWalk[TileSegment]):
    """A piece with exactly the keys j <= r + offset of every row r, as one tile or two.

    Where the flash operation does the work, it leaves out the keys behind each row itself, in blocks as large as it
    likes; where it does not (scores, other devices, results that are not finite), the band does.

    Args:
        band: the same piece.
    """

    band: Band

    def cut(self, sizes: Sizes) -> Iterator[TileSegment]:
        """The keys from the position of row 0 on, of which row r attends the first r + 1; and those before."""
        n, m, offset, _ = sizes
        for first, count, triangle in ((offset, min(m - offset, n), True), (0, min(offset, m), False)):
            if count > 0:
                keys, fresh = Side(first, (count,), (count,), (1,)), triangle or offset >= m
                rows = Side(0, (n,), (n,), (1,))
                yield TileSegment(visited=count, counts=(1,), rows=rows, keys=keys, fresh=fresh, triangle=triangle)

    def batches(self, schedule: Schedule[TileSegment], given: Operands) -> Iterator[Batch]:
        """The tiles, or those of the band."""
        if given.native:
            yield from TileWalk.batches(self, schedule, given)
        else:
            yield from self.band.batches(self.band.schedule(given.sizes), given)

    def written(self, segments: Sequence[TileSegment], sizes: Sizes) -> int:
        """Every row has a key, in the band too."""
        return sizes.n if segments else 0
