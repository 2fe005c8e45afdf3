"""How large the integers of a Triton program can get, as a line in the longest of n, m and offsets.

A launch proves by it that 32-bit arithmetic is exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
Met = tuple[Index | Pred | None, Limits]  # what a program computes; variables in it that stay below another line


def reach(met: Iterable[Met]) -> tuple[int, int]:
    """`(constant, slope)`: every number on the way to what is met is at most `constant + slope * longest`.

    Variables without a limit are at most `longest`, the largest of n, m and offsets.
    """
    most: list[Rational] = [0, 1]

    def size(e: Index | Pred | None, limits: Limits) -> tuple[Rational, Rational]:
        match e:
            case int():
                found: tuple[Rational, Rational] = abs(e), 0
            case Var(name) | Symbol(name):
                found = limits.get(name, (0, 1))
            case Abs(x) | Not(x):
                found = size(x, limits)
            case Add(x, y) | Sub(x, y):
                (c0, s0), (c1, s1) = size(x, limits), size(y, limits)
                found = c0 + c1, s0 + s1
            case Mul(x, int(y)) | Mul(int(y), x):
                c0, s0 = size(x, limits)
                found = ratio(c0 * abs(y), 1), ratio(s0 * abs(y), 1)
            case Mul(x, y):  # not linear: no length is proved to fit
                size(x, limits), size(y, limits)
                found = 2**31, 0
            case FloorDiv(x, int(y)):
                c0, s0 = size(x, limits)
                found = ratio(c0, abs(y)) + 1, ratio(s0, abs(y))
            case Mod(x, int(y)):
                size(x, limits)
                found = abs(y), 0
            case FloorDiv(x, y) | Mod(x, y) | Min(x, y) | Max(x, y) | Compare(_, x, y) | And(x, y) | Or(x, y):
                (c0, s0), (c1, s1) = size(x, limits), size(y, limits)
                found = max(c0, c1), max(s0, s1)
            case Truth() | None:
                found = 0, 0
            case _:
                assert_never(e)
        for k in (0, 1):
            if found[k] > most[k]:
                most[k] = found[k]
        return found

    for root, limits in met:
        size(root, limits)
    return ceil(most[0]), ceil(most[1])


def ratio(x: Rational, y: int) -> Rational:
    """x / y, exactly."""
    if isinstance(x, int) and x % y == 0:
        return x // y
    exact = Fraction(x, y)
    return exact.numerator if exact.denominator == 1 else exact
