"""How large the integers of a Triton program can get, as a line in the longest of n, m and offset."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from math import ceil
from typing import assert_never

from pidsl.language.expr import (
    Abs,
    Add,
    And,
    Compare,
    FloorDiv,
    Index,
    Max,
    Min,
    Mod,
    Mul,
    Not,
    Or,
    Pred,
    Sub,
    Symbol,
    Truth,
    Var,
)  # fmt: skip

Rational = int | Fraction  # an int where it is one: sums of those take a tenth of the time
Limits = Mapping[str, tuple[int, Rational]]


class Reach:
    """How large the integers of a program can get: `constant + slope * longest` bounds every intermediate value.

    `longest` bounds n, m and offset. The launch uses this to prove that 32-bit arithmetic is exact.
    """

    def __init__(self) -> None:
        self._constant: Rational = 0
        self._slope: Rational = 1

    @property
    def bound(self) -> tuple[int, int]:
        """`(constant, slope)`, rounded up."""
        return ceil(self._constant), ceil(self._slope)

    def add(self, *roots: Index | Pred | None, limits: Limits) -> None:
        """Take every number that computing `roots` meets into account.

        Args:
            roots: what a program computes.
            limits: for variables that stay below `constant + slope * longest`, that pair; other variables stay
                below `longest`.
        """
        for root in roots:
            match root:
                case Compare(_, x, y):
                    self._visit(x, limits)
                    self._visit(y, limits)
                case And(x, y) | Or(x, y):
                    self.add(x, y, limits=limits)
                case Not(x):
                    self.add(x, limits=limits)
                case Truth() | None:
                    pass
                case _:
                    self._visit(root, limits)

    def _visit(self, e: Index, limits: Limits) -> tuple[Rational, Rational]:
        constant, slope = self._size(e, limits)
        if constant > self._constant:
            self._constant = constant
        if slope > self._slope:
            self._slope = slope
        return constant, slope

    def _size(self, e: Index, limits: Limits) -> tuple[Rational, Rational]:
        match e:
            case int():
                return abs(e), 0
            case Var(name) | Symbol(name):
                return limits.get(name, (0, 1))
            case Abs(x):
                return self._visit(x, limits)
            case Add(x, y) | Sub(x, y):
                (c0, s0), (c1, s1) = self._visit(x, limits), self._visit(y, limits)
                return c0 + c1, s0 + s1
            case Mul(x, int(y)) | Mul(int(y), x):
                c0, s0 = self._visit(x, limits)
                return _ratio(c0 * abs(y), 1), _ratio(s0 * abs(y), 1)
            case Mul(x, y):  # not linear: no length is proved to fit
                self.add(x, y, limits=limits)
                return 2**31, 0
            case FloorDiv(x, int(y)):
                c0, s0 = self._visit(x, limits)
                return _ratio(c0, abs(y)) + 1, _ratio(s0, abs(y))
            case Mod(x, int(y)):
                self._visit(x, limits)
                return abs(y), 0
            case FloorDiv(x, y) | Mod(x, y) | Min(x, y) | Max(x, y):
                (c0, s0), (c1, s1) = self._visit(x, limits), self._visit(y, limits)
                return max(c0, c1), max(s0, s1)
            case _:
                assert_never(e)


def _ratio(x: Rational, y: int) -> Rational:
    if isinstance(x, int) and x % y == 0:
        return x // y
    exact = Fraction(x, y)
    return exact.numerator if exact.denominator == 1 else exact
