"""Formulas in n that are proved by values: what is quasi-affine from some n on is known by two periods from there.

A quantity whose `start` and `period` a theorem gives (`short`, `two_sided`, `blocked`) is worked out for all n up to
there and a little beyond; the formula that the values follow is the answer, and comparing the two is its proof.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import lcm

import sympy

from pidsl.analysis.bound import Bound
from pidsl.analysis.formulas.agreement import Shape, shape_of
from pidsl.analysis.formulas.guess import guess
from pidsl.analysis.formulas.piecewise import Formula
from pidsl.analysis.formulas.read import tokens_of
from pidsl.analysis.formulas.words import Value, n, value_of
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


def shape(expr: sympy.Expr) -> Shape:
    """Where a formula in n changes, and its period; infinite cases count as numbers.

    Raises:
        TooHardError: it is not quasi-affine.
    """
    found = shape_of(expr.xreplace({sympy.oo: sympy.Integer(0), -sympy.oo: sympy.Integer(0)}), n)
    if found.degree > 1:
        raise TooHardError(f"the formula {expr}", "affine in classes of n")
    return found


def value_at(expr: sympy.Expr, count: int) -> Value:
    """A formula at n; where it has no value, nan, which is no other's equal."""
    try:
        return value_of(expr, {n: sympy.Integer(count)})
    except ValueError:
        return math.nan


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
        """The n up to which values decide, of what is quasi-affine from `start` on."""
        if self.given is not None:
            return self.given
        own = shape(self.bound.expr)
        return max(start, self.least, *own.starts) + 2 * lcm(period, own.period)

    def failure(self, value: Callable[[int], int | None], last: int, infinite: float) -> str:
        """Why the claim is wrong, "" if it is right: `value` says what is, None for `infinite`."""
        for count in range(self.least, (last if self.most is None else min(last, self.most)) + 1):
            found = value(count)
            known = infinite if found is None else found
            if value_at(self.bound.expr, count) != known:
                return f"{known} for {count} tokens"
        return ""
