"""The keys of many queries of many documents at once, from counts alone: no table of all pairs is made.

count(e)   how many keys at position e or behind it a query attends; it falls as e grows
runs       where `count` falls by one with each step: found by bisection, for all queries together
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pidsl.language.terms import Term
from pidsl.relation.counting import count_loops, key_loops
from pidsl.relation.oracle import check_square

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class Attended:
    """The keys that queries attend, each in a sequence with its own lengths.

    Args:
        term: the pattern.
        position: int64 [queries], where each query stands in its sequence.
        positions: how many positions of queries that sequence has.
        keys: and how many keys.

    Raises:
        SizeError: a pattern with a ring, and sequences with other numbers of keys than of queries.
        TooHardError: isl found no loops over the keys of a query.
    """

    def __init__(self, term: Term, position: Ints, positions: Ints, keys: Ints) -> None:
        for n, m in sorted(set(zip(positions.tolist(), keys.tolist(), strict=True))):
            check_square(term, n, m)
        self.keys = keys
        self.some = keys > 0
        self.parts = key_loops(term) if len(position) else ()
        self.env = {"n": positions, "m": np.maximum(keys, 1), "i": position}

    def count(self, start: Any) -> Ints:
        """How many keys at `start` or behind it each query attends; one start, or one for each query."""
        if not len(self.keys):
            return np.zeros(0, dtype=np.int64)
        return np.where(self.some, count_loops(self.parts, self.env, start), 0)

    def runs(self, begin: Any, most: int) -> tuple[list[tuple[Ints, Ints]], Bools]:
        """The first runs of keys at `begin` or behind it, (start, stop) of each; and which queries have more.

        Runs that a query lacks are empty ones.
        """
        found: list[tuple[Ints, Ints]] = []
        left, at = self.count(begin), np.broadcast_to(np.asarray(begin, dtype=np.int64), self.keys.shape)
        for _ in range(most):
            start = self._next(at, left)
            stop = self._end(start, left)
            start, stop = (np.where(left > 0, x, at) for x in (start, stop))
            found.append((start, stop))
            left, at = left - (stop - start), stop
        return found, left > 0

    def _next(self, at: Ints, left: Ints) -> Ints:
        """The first key at `at` or behind it, where `left` keys are: as far as none has been passed."""
        return self._last(at, lambda e: self.count(e) == left)

    def _end(self, start: Ints, left: Ints) -> Ints:
        """Where the run ends that begins at `start`: as far as every key has been passed."""
        return self._last(start, lambda e: left - self.count(e) == e - start)

    def _last(self, low: Ints, holds: Callable[[Ints], Bools]) -> Ints:
        """The last number from `low`, for which it holds, to the number of keys, for which something still holds."""
        low, high = low.copy(), np.maximum(self.keys, low)
        while (low < high).any():
            middle = (low + high + 1) // 2
            fits = holds(middle)
            low, high = np.where(fits, middle, low), np.where(fits, high, middle - 1)
        return low
