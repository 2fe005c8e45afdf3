"""The largest number of keys of any query, for every n, from exact counts at finitely many (i, n).

In each class and between two lines the number of keys is affine in i, so it is largest at one of the ends: in a window
beside the lines (`windows`). Beyond the last crossing, each cell of a window follows its line as n grows by a period,
and its number of keys grows by the same each time. So the largest is, for the n of one class, the larger of finitely
many affine functions, which are known from two counts each; from some n on it is the steepest of them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pidsl.analysis.counting.windows import Windows
from pidsl.relation.pieces import Ints

Counts = Callable[[Ints, Ints], Ints]  # the keys of query i among n, for arrays of i and n
NONE = -(1 << 40)


class Largest:
    """The largest count over 0 <= i < n, for every n >= 1.

    Args:
        windows: cells of a period before and after the lines on which the counts change.
        counts: exact, for n <= windows.last.

    Attributes:
        stable: for n >= stable, it grows by the same whenever n grows by `period`.
    """

    def __init__(self, windows: Windows, counts: Counts) -> None:
        self.start, self.period = windows.start, windows.period
        self.values = np.full(windows.last + 1, NONE, dtype=np.int64)
        for queries, lengths in windows.cells():
            np.maximum.at(self.values, lengths, counts(queries, lengths))
        now, steps = zip(*(_followed(windows, counts, k) for k in range(len(windows.strips))), strict=True)
        self.now, self.steps = np.concatenate(now, axis=1), np.concatenate(steps, axis=1)  # a row for each n mod period
        steepest = self.steps.max(axis=1, keepdims=True)
        tail = np.where(self.steps == steepest, self.now, NONE).max(axis=1, keepdims=True)
        late = np.where(self.now > tail, -((tail - self.now) // np.maximum(steepest - self.steps, 1)), 0)
        self.stable = self.start + 1 + self.period * (1 + int(late.max()))

    def __call__(self, n: int) -> int:
        if n < len(self.values):
            return int(self.values[n])
        times, row = divmod(n - self.start - 1, self.period)
        return int((self.now[row] + times * self.steps[row]).max())


def _followed(windows: Windows, counts: Counts, which: int) -> tuple[Ints, Ints]:
    """For each n of the first period beyond the crossings, a row: the counts of a window's cells, and their growth."""
    strip = windows.strips[which]
    lengths = np.arange(windows.start + 1, windows.start + windows.period + 1)
    begin, end = windows.bounds(strip, lengths)
    queries = begin[:, None] + np.arange(int((end - begin).max()))
    inside = (queries < end[:, None]) & (queries >= 0) & (queries < lengths[:, None])
    each = np.broadcast_to(lengths[:, None], queries.shape)[inside]
    now, steps = np.full(queries.shape, NONE, dtype=np.int64), np.full(queries.shape, NONE, dtype=np.int64)
    now[inside] = counts(queries[inside], each)
    steps[inside] = counts(queries[inside] + windows.moved(strip), each + windows.period) - now[inside]
    return now, steps
