"""Formulas in n that are proved by values: what is quasi-affine from some n on is known by two periods from there.

A quantity whose `start` and `period` a theorem gives (`gaps`) is worked out for all n up to there and a little beyond;
the formula that the values follow is the answer, and comparing the two is its proof.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import lcm

import sympy

from pidsl.analysis.bound import Bound
from pidsl.analysis.formulas.agreement import shape_of
from pidsl.analysis.formulas.guess import guess
from pidsl.analysis.formulas.piecewise import Formula
from pidsl.analysis.formulas.read import tokens_of
from pidsl.analysis.formulas.words import n
from pidsl.analysis.measured import formula_at
from pidsl.errors import TooHardError

BRANCHES = 24
LATEST = 10_000  # the first n of a formula that is compared value by value
PERIODS = 3  # that are worked out where one formula holds: two say what it is, one that it goes on


def fitted(values: Sequence[int | None], infinite: sympy.Expr, period: int) -> Formula:
    """The formula that values at n = 1, 2, ... follow; None among them is `infinite`.

    Raises:
        TooHardError: they follow none that could be written down.
    """
    found = guess(values, infinite, BRANCHES, 2 * period)
    if found is None:
        raise TooHardError(f"values for up to {len(values)} tokens", "a formula that they follow")
    return found


@dataclass(frozen=True, slots=True)
class Claim:
    """A formula in n for n from `least` to `most` (None: all), or a number for the one n that is `given`.

    Raises:
        TooHardError: the assumptions leave gaps, or begin too late.
    """

    bound: Bound
    least: int = field(init=False)
    most: int | None = field(init=False)

    def __post_init__(self) -> None:
        bound, given = self.bound, self.given
        assumed = bound.assumptions if given is None else (*bound.assumptions, sympy.Eq(n, given))
        least, most = tokens_of(assumed)
        if given is None and least > LATEST:
            raise TooHardError(f"a formula for n >= {least}", f"for n from at most {LATEST} on")
        object.__setattr__(self, "least", least)
        object.__setattr__(self, "most", most)

    @property
    def given(self) -> int | None:
        found: int | None = self.bound.argument("n")
        return found

    def last(self, start: int, period: int) -> int:
        """The n up to which values decide, of what is quasi-affine from `start` on; infinite cases count as numbers.

        Raises:
            TooHardError: the formula is not quasi-affine.
        """
        if self.given is not None:
            return self.given
        own = shape_of(self.bound.expr.xreplace({sympy.oo: sympy.Integer(0), -sympy.oo: sympy.Integer(0)}), n)
        if own.degree > 1:
            raise TooHardError(f"the formula {self.bound.expr}", "affine in classes of n")
        return max(start, self.least, *own.starts) + 2 * lcm(period, own.period)

    def admits(self, count: int) -> bool:
        """Whether it says something about so many tokens."""
        return self.least <= count and (self.most is None or count <= self.most)

    def failure(self, values: Sequence[int | None], infinite: float) -> str:
        """Why the claim is wrong, "" if it is right: the values are those for 1, 2, ... tokens, None for `infinite`."""
        for count, value in enumerate(values, 1):
            known = infinite if value is None else value
            if self.admits(count) and formula_at(self.bound.expr, {"n": count}) != known:
                return f"{known} for {count} tokens"
        return ""
