"""Formulas in n that are proved by values: what is quasi-affine from some n on is known by two periods from there.

A quantity whose `start` and `period` a theorem gives (`short`, `two_sided`, `blocked`) is worked out for all n up to
there and a little beyond; the formula that the values follow is the answer, and comparing the two is its proof.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import lcm

import sympy

from pidsl.analysis.agreement import Shape, shape_of
from pidsl.analysis.bound import Bound
from pidsl.analysis.formulas import n, value_of
from pidsl.analysis.guess import guess
from pidsl.analysis.piecewise import Formula
from pidsl.errors import TooHardError

BRANCHES = 24
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


@dataclass(frozen=True, slots=True)
class Claim:
    """A formula in n for n >= `least`, or a number for the one n that is `given`.

    Raises:
        TooHardError: the statement is neither.
    """

    bound: Bound

    def __post_init__(self) -> None:
        bound = self.bound
        if bound.relation != "==" or bound.expr.free_symbols - {n} or bound.expr.has(sympy.nan):
            raise TooHardError(f"the statement {bound.relation} {bound.expr}", "a formula in n")
        if self.given is None and bound.assumptions != (sympy.Ge(n, self.least),):
            raise TooHardError(f"the assumptions {bound.assumptions}", "n >= a number >= 1")

    @property
    def given(self) -> int | None:
        found: int | None = self.bound.argument("n")
        return found

    @property
    def least(self) -> int:
        first = self.bound.assumptions[0] if self.bound.assumptions else sympy.true
        return max(1, int(first.rhs)) if isinstance(first, sympy.Ge) and first.rhs.is_Integer else 1

    def last(self, start: int, period: int) -> int:
        """The n up to which values decide, of what is quasi-affine from `start` on."""
        own = shape(self.bound.expr)
        return max(start, *own.starts) + 2 * lcm(period, own.period)

    def failure(self, value: Callable[[int], int | None], last: int, infinite: float) -> str:
        """Why the claim is wrong, "" if it is right: `value` says what is, None for `infinite`."""
        for count in range(self.least, last + 1) if self.given is None else (self.given,):
            found = value(count)
            known = infinite if found is None else found
            if value_of(self.bound.expr, {n: sympy.Integer(count)}) != known:
                return f"{known} for {count} tokens"
        return ""
