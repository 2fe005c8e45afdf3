"""Depth of a pattern of finitely many lags, some behind the query and some ahead of it.

Let the lags be A, from -b to a with a, b >= 1. Among n >= a + b tokens, L layers connect i with j exactly when i - j is
a sum of L lags: the lags can be taken in such an order that the path stays among the tokens. From a position >= a every
lag behind leads to a token, from one < a <= n - b every lag ahead does, so a path goes behind or ahead as it can, and
once only one kind is left it goes straight to j.

So everything is connected when the sums of L elements of B = A + b are all of [L b - (n - 1), L b + (n - 1)]. Let c be
the number from which on every number is a sum of elements of B, and d the same for a + b - B. Then L layers need

    L b - (n - 1) >= c    and    L a - (n - 1) >= d

because c - 1 and its mirror are no sums; and that is enough from the first L on for which all of [c, L (a + b) - d] are
sums and a + b more layers' worth of it overlaps, by induction: adding 0 and a + b moves and keeps the interval.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import gcd

import sympy

from pidsl.analysis import dense as matrices
from pidsl.analysis.bound import Bound, exact
from pidsl.analysis.layers.by_values import PERIODS, Claim, fitted
from pidsl.analysis.layers.stacks import Intervals, added, finite_lags, merged, to_bits
from pidsl.analysis.verdict import Verdict
from pidsl.analysis.ways import Asked, NotMine
from pidsl.errors import TooHardError
from pidsl.language.terms import Term

WIDEST = 256  # a + b
REGULAR = (1, 40)  # n from which on a pattern may be one of lags


@dataclass(frozen=True, slots=True)
class Sides:
    """Lags from -ahead to behind, ahead and behind >= 1: their sums, and the depth of n tokens.

    Args:
        term: the pattern.
        lags: its lags + ahead.
        ahead, behind: b and a.
        first, last: c and d.
        enough: the layers from which on the two conditions are enough; None where no number is, since all sums of L
            lags are in one class, and c and d say nothing.
        regular: the n from which on these are the lags.
    """

    term: Term
    lags: Intervals
    ahead: int
    behind: int
    first: int
    last: int
    enough: int | None
    regular: int

    def depth(self, count: int) -> int | None:
        """The fewest layers that connect all pairs of `count` tokens; None where no number does."""
        if count < max(self.ahead + self.behind, self.regular):
            return matrices.depth_of((self.term,), count, "all")
        if self.enough is None:
            return None
        layers = self.needed(count)
        while layers < self.enough and not self._connect(layers, count):
            layers += 1
        return layers

    def needed(self, count: int) -> int:
        """The fewest layers that satisfy both conditions."""
        return max(1, -(-(count - 1 + self.first) // self.ahead), -(-(count - 1 + self.last) // self.behind))

    def _connect(self, layers: int, count: int) -> bool:
        middle = layers * self.ahead
        return any(a <= middle - count + 1 and middle + count - 1 <= b for a, b in _sums(self.lags, layers))

    @property
    def steady(self) -> int:
        """The n from which on the depth is one of the two conditions, so quasi-affine."""
        a, b, c, d = self.behind, self.ahead, self.first, self.last
        start = max(a + b, self.regular)
        if a != b:  # the side with the shorter lags decides from here on: (n - 1 + c) / b >= (n - 1 + d) / a
            short, long_, more, less = (b, a, c, d) if b < a else (a, b, d, c)
            start = max(start, 1 + -(-(less * short - more * long_) // (long_ - short)) + a + b)
        while self.enough is not None and self.needed(start) < self.enough:
            start += 1
        return start

    @property
    def period(self) -> int:
        """Of the depth from `steady` on."""
        return min(self.ahead, self.behind)


@lru_cache(maxsize=64)
def sides(term: Term) -> Sides | None:
    """The lags of a term that looks both ways, up to some lag each; None for any other.

    Raises:
        TooHardError: they are far apart, or isl's operation limit struck.
    """
    for regular in REGULAR:
        found = finite_lags(term, regular)
        if found and found[0][0] < 0 < found[-1][1]:
            break
    else:
        return None
    ahead, behind = -found[0][0], found[-1][1]
    if ahead + behind > WIDEST:
        raise TooHardError(f"lags from {-ahead} to {behind}", f"at most {WIDEST} of them")
    moved = tuple((a + ahead, b + ahead) for a, b in found)
    mirrored = merged((ahead + behind - b, ahead + behind - a) for a, b in moved)
    if gcd(*(x for a, b in moved for x in (a, b, min(a + 1, b)))) > 1:
        return Sides(term, moved, ahead, behind, 0, 0, None, regular)
    first, last = _conductor(moved), _conductor(mirrored)
    span, layers = ahead + behind, 1
    while not (
        layers * span >= first + last + span - 1
        and any(a <= first and layers * span - last <= b for a, b in _sums(moved, layers))
    ):
        layers += 1
    return Sides(term, moved, ahead, behind, first, last, layers, regular)


def _conductor(lags: Intervals) -> int:
    """The number from which on every number is a sum of lags, which have no common divisor and are >= 0."""
    largest = lags[-1][1]
    limit = (1 << (largest * largest + 1)) - 1
    sums, before = to_bits(lags), 0
    while sums != before:
        before = sums
        for a, b in lags:
            for lag in range(max(a, 1), b + 1):
                sums |= sums << lag & limit
    return (~sums & limit).bit_length()


@lru_cache(maxsize=256)
def _sums(lags: Intervals, layers: int) -> Intervals:
    if layers == 1:
        return lags
    return added(_sums(lags, layers // 2), _sums(lags, layers - layers // 2))


def depth(asked: Asked) -> Bound:
    """Depth of a term that looks both ways, up to some lag each."""
    q = asked.question
    if q.of != "all" or q.n is not None or not isinstance(q.subject, Term) or (found := sides(q.subject)) is None:
        raise NotMine
    last = found.steady + PERIODS * found.period + 1
    made = fitted([found.depth(count) for count in range(1, last + 1)], sympy.oo, found.period)
    reason = "some pair stays out of reach of every number of layers" if made.expr.has(sympy.oo) else ""
    given = {"of": q.of}
    return exact(
        q.subject, "depth", made.expr, "two-sided lags", given=given, assumptions=made.assumptions, reason=reason
    )  # fmt: skip


def check_sides(bound: Bound) -> Verdict:
    """The lags from the term, and the formula compared until the depth is quasi-affine, and for two periods more."""
    claim, found = Claim(bound), sides(bound.term)
    if found is None:
        return Verdict(False, failure="other lags than finitely many, behind and ahead")
    last = claim.last(found.steady, found.period)
    if failure := claim.failure(found.depth, last, float("inf")):
        return Verdict(False, failure=failure)
    return Verdict(True, ("sums of lags, in an order that a path can take", f"the depth for n up to {last}"))
