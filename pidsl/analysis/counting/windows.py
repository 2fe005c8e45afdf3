"""At which (i, n) functions of query i among n queries must be looked at to know them everywhere.

`plane.Lines` says where the functions change and how they repeat: in each class of (i mod M, n mod M) they are affine
between the lines. So, with n fixed, they are affine in i from just after the lines of one direction to just before
those of the next; and where i follows the lines of a direction as n grows by a period P, which keeps the classes, they
are affine in n from the last crossing of different directions on. What is asked at a window around the lines of each
direction, for all n up to two periods beyond the last crossing, is then known for all 0 <= i < n.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import lcm

import numpy as np

from pidsl.analysis.formulas.plane import Lines
from pidsl.errors import TooHardError
from pidsl.relation.pieces import Ints

LONGEST = 12_000  # most n of a window
CHUNK = 1 << 19  # cells of the square of all (i, n) that are looked through at a time


@dataclass(frozen=True, slots=True)
class Strip:
    """The lines `query * i + length * n + c = 0` with low <= c <= high, query > 0: where they are for each n."""

    query: int
    length: int
    low: Fraction
    high: Fraction

    def first(self, n: Ints) -> Ints:
        """The last i before all of the lines, or on the first of them."""
        return (-self.length * n - _above(self.high)) // self.query

    def last(self, n: Ints) -> Ints:
        """The first i behind all of the lines, or on the last of them."""
        return -((self.length * n + _below(self.low)) // self.query)


def _above(x: Fraction) -> int:
    return -(-x.numerator // x.denominator)


def _below(x: Fraction) -> int:
    return x.numerator // x.denominator


class Windows:
    """The cells (i, n) to look at: for each n, those from `before` before each direction's lines to `after` after.

    Args:
        lines: where the functions change.
        before, after: in periods of the classes: how much beside the lines.

    Attributes:
        start: beyond this n, lines of different directions cross no more, not even their windows.
        period: how far n grows until everything is as it was, moved along the lines.
    """

    def __init__(self, lines: Lines, before: int, after: int) -> None:
        self.before, self.after = before * lines.modulus, after * lines.modulus
        directions = lines.directions()
        self.strips = [Strip(a, b, *ends) for (a, b), ends in directions.items() if a]
        self.period = lines.modulus * lcm(*(s.query for s in self.strips))
        wide = {  # c of the lines through the window's cells
            (s.query, s.length): (s.low - s.query * (self.after + 1), s.high + s.query * (self.before + 1))
            for s in self.strips
        }
        crossing = Fraction(0)
        for (a, b), ends in wide.items():
            for (c, d), others in directions.items():
                if det := a * d - b * c:  # a i + b n + x = 0 and c i + d n + y = 0  =>  n = (c x - a y) / det
                    corners = [(c * x - a * y) / det for x in ends for y in others]
                    crossing = max(crossing, *map(abs, corners))
        self.start = int(crossing) + 1
        self.last = self.start + 2 * self.period
        if self.last > LONGEST:
            raise TooHardError(f"cells for all n up to {self.last} to look at", f"up to {LONGEST}")

    def bounds(self, strip: Strip, n: Ints) -> tuple[Ints, Ints]:
        """The first i of a strip's window and the one after its last, before they are cut to 0 <= i < n."""
        return strip.first(n) - self.before, strip.last(n) + self.after + 1

    def size(self) -> int:
        """How many cells there are at most, for 1 <= n <= last."""
        n = np.arange(1, self.last + 1)
        total = np.zeros(self.last, dtype=np.int64)
        for strip in self.strips:
            begin, end = self.bounds(strip, n)
            total += np.maximum(np.minimum(end, n) - np.maximum(begin, 0), 0)
        return int(np.minimum(total, n).sum())

    def cells(self) -> Iterator[tuple[Ints, Ints]]:
        """The cells of all windows, for 1 <= n <= last: arrays of i and n, some at a time, in the order of n."""
        n = 1
        while n <= self.last:
            stop = min(self.last + 1, n + max(1, CHUNK // (n + 64)))
            lengths = np.arange(n, stop)
            edges = np.zeros((len(lengths), stop), dtype=np.int32)
            row = np.arange(len(lengths))
            for strip in self.strips:
                begin, end = (np.clip(x, 0, lengths) for x in self.bounds(strip, lengths))
                keep = begin < end
                np.add.at(edges, (row[keep], begin[keep]), 1)
                np.add.at(edges, (row[keep], end[keep]), -1)
            which, queries = np.nonzero(np.cumsum(edges, axis=1) > 0)
            yield queries, lengths[which]
            n = stop

    def moved(self, strip: Strip) -> int:
        """By how much i moves along a strip in one period of n."""
        return -strip.length * self.period // strip.query
