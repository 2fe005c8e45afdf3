"""A piece of one tile: all rows, and keys that stand at listed positions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pidsl.runtime.run_torch.tiles import Side, TileSegment, TileWalk
from pidsl.runtime.run_torch.walks import Bools, Sizes


@dataclass(slots=True, eq=False, kw_only=True)
class PickedSegment(TileSegment):
    """The tile.

    Args:
        at: int64 [keys], their positions.
    """

    at: NDArray[np.int64]

    def key_rows(self, device: torch.device) -> Tensor:
        """The positions, where a score asks for them: keys have no gradients here."""
        return torch.from_numpy(self.at).to(device)[None]


@dataclass(frozen=True, slots=True)
class Picked(TileWalk[PickedSegment]):
    """Which pairs of the rows and the keys of a call are kept.

    Args:
        keep_of: bool [rows, keys].
        at: int64 [keys], their positions.
    """

    keep_of: Bools
    at: NDArray[np.int64]

    def cut(self, sizes: Sizes) -> Iterator[PickedSegment]:
        """The tile."""
        rows, keys = self.keep_of.shape
        yield PickedSegment(
            visited=keys, masked=rows * keys, pairs=lambda: self.keep_of, counts=(1,),
            rows=Side(0, (rows,), (rows,), (1,)), keys=Side(0, (keys,), (keys,), (1,)), fresh=True, at=self.at,
        )  # fmt: skip
