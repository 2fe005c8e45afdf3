"""Formulas: sympy expressions over integer symbols, and what sympy lacks for counts of lattice points.

A count that depends on n modulo a period is written with periodic numbers, as Ehrhart did: `Periodic(n, 3, 5)` is 3
for even n and 5 for odd n. `Table(n, 0, 1, 4)` lists the values at 0, 1, 2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any, assert_never

import sympy

from pidsl.language import expr as e

Value = int | float | Fraction


@lru_cache(maxsize=256)
def symbol(name: str) -> sympy.Symbol:
    """The integer symbol of this name; the same one everywhere."""
    return sympy.Symbol(name, integer=True)


n, m, i, j, L = (symbol(name) for name in "nmijL")


class Periodic(sympy.Function):
    """`Periodic(x, c_0, ..., c_{p-1})` is `c_{x mod p}`.

    >>> Periodic(7, 10, 20)
    20
    """

    is_real = True

    @classmethod
    def eval(cls, x: Any, *values: Any) -> Any:
        if len(values) == 1 or len(set(values)) == 1:
            return values[0]
        if x.is_Integer:
            return values[int(x) % len(values)]
        return None


class Table(sympy.Function):
    """`Table(x, c_0, c_1, ...)` is `c_x`, for x in range.

    >>> Table(2, 10, 20, 40)
    40
    """

    is_real = True

    @classmethod
    def eval(cls, x: Any, *values: Any) -> Any:
        if x.is_Integer:
            return values[int(x)] if 0 <= int(x) < len(values) else sympy.nan
        return None


class CeilLog(sympy.Function):
    """`CeilLog(b, x)` is the least L >= 0 with b**L >= x.

    >>> CeilLog(2, 1024), CeilLog(2, 1025)
    (10, 11)
    """

    is_integer = True

    @classmethod
    def eval(cls, base: Any, x: Any) -> Any:
        if base.is_Integer and x.is_Integer and base >= 2:
            power, layers = 1, 0
            while power < x:
                power, layers = power * int(base), layers + 1
            return sympy.Integer(layers)
        return None


def number(x: object) -> sympy.Expr:
    """`x` as a sympy expression: a number, a size of a term, or a sympy expression already."""
    if isinstance(x, sympy.Basic):
        return x
    if isinstance(x, e.Expr):
        return from_index(x)
    if isinstance(x, float) and math.isinf(x):
        return sympy.oo if x > 0 else -sympy.oo
    return sympy.sympify(x)


def from_index(x: e.Index) -> sympy.Expr:
    """A size or an expression over positions as a sympy expression."""
    match x:
        case int():
            return sympy.Integer(x)
        case e.Var(name) | e.Symbol(name):
            return symbol(name)
        case e.Add(a, b):
            return from_index(a) + from_index(b)
        case e.Sub(a, b):
            return from_index(a) - from_index(b)
        case e.Mul(a, b):
            return from_index(a) * from_index(b)
        case e.FloorDiv(a, b):
            return sympy.floor(from_index(a) / from_index(b))
        case e.Mod(a, b):
            return sympy.Mod(from_index(a), from_index(b))
        case e.Abs(a):
            return sympy.Abs(from_index(a))
        case e.Min(a, b):
            return sympy.Min(from_index(a), from_index(b))
        case e.Max(a, b):
            return sympy.Max(from_index(a), from_index(b))
        case _:
            assert_never(x)


def value_of(expr: sympy.Expr, numbers: Mapping[sympy.Symbol, sympy.Integer]) -> Value:
    """The exact value of a formula at numbers."""
    found = expr.subs(numbers)
    if found == sympy.oo:
        return math.inf
    if found == -sympy.oo:
        return -math.inf
    found = sympy.nsimplify(found) if not found.is_Rational else found
    if not found.is_Rational:
        raise ValueError(f"no number: {found}")
    return int(found) if found.is_Integer else Fraction(int(found.p), int(found.q))
