"""Sets of positions as few arithmetic progressions: what a rank holds, asks for and is sent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class Run(NamedTuple):
    """The positions first, first + step, ..., of which there are `count`, at least one."""

    first: int
    count: int  # type: ignore[assignment]
    step: int = 1

    @property
    def last(self) -> int:
        """The greatest position."""
        return self.first + (self.count - 1) * self.step

    @property
    def positions(self) -> Ints:
        """int64 [count], ascending."""
        return np.arange(self.first, self.last + 1, self.step, dtype=np.int64)


Runs = tuple[Run, ...]


def total(runs: Iterable[Run]) -> int:
    """How many positions there are."""
    return sum(run.count for run in runs)


def positions(runs: Iterable[Run]) -> Ints:
    """int64: all positions, run after run."""
    return np.concatenate([np.empty(0, np.int64), *(run.positions for run in runs)])
