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


def internal(name: str) -> sympy.Symbol:
    """An integer symbol of a proof's own, which no symbol of a pattern can be mistaken for."""
    return symbol(f"{name}!")


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
            return floor_div(from_index(a), from_index(b))
        case e.Mod(a, b):
            return sympy.Mod(from_index(a), from_index(b))
        case e.Abs(a):
            return sympy.Abs(from_index(a))
        case e.Min(a, b):
            return extreme(sympy.Min, from_index(a), from_index(b))
        case e.Max(a, b):
            return extreme(sympy.Max, from_index(a), from_index(b))
        case _:
            assert_never(x)


def extreme(kind: Any, *args: sympy.Expr) -> sympy.Expr:
    """`sympy.Min` or `sympy.Max`, of which only arguments that differ by a number are compared.

    sympy compares all of them, by what it can infer about their signs: seconds, where there are floors.

    >>> extreme(sympy.Min, n, sympy.Min(n + 2, 5), 7)
    Min(5, n)
    """
    kept: dict[sympy.Expr, sympy.Expr] = {}
    for arg in args:
        for one in arg.args if isinstance(arg, kind) else (sympy.sympify(arg),):
            number, rest = one.as_coeff_Add()
            kept[rest] = kind(number, kept[rest]) if rest in kept else number
    found = [rest + number for rest, number in kept.items()]
    return found[0] if len(found) == 1 else kind(*found, evaluate=False)


def floor_div(x: sympy.Expr, by: sympy.Expr) -> sympy.Expr:
    """The floor of x / by for by >= 1, taken into minima and maxima: floor is monotone.

    sympy takes an even number divided by 6 for an integer and drops the floor, and knows minima of even numbers to be
    even; without minima under the floor there is nothing to mistake.

    >>> floor_div(sympy.Max(2, 2 * n), 6)
    Max(0, floor(n/3))
    """
    terms = sympy.Add.make_args(sympy.expand(x))
    for term in terms:
        factor, rest = term.as_coeff_Mul()
        if isinstance(rest, sympy.Min | sympy.Max):
            others = sympy.Add(*(t for t in terms if t is not term))
            same = isinstance(rest, sympy.Max) == (factor > 0)
            return extreme(sympy.Max if same else sympy.Min, *(floor_div(others + factor * a, by) for a in rest.args))
    return sympy.floor(x / by)


def value_of(expr: sympy.Expr, numbers: Mapping[sympy.Symbol, sympy.Integer]) -> Value:
    """The exact value of a formula at numbers, worked out in integers and fractions and not by sympy's rewriting.

    Raises:
        ValueError: it has no value there: a symbol is left, or a list ends before.
    """
    found = _value(expr, {s: int(x) for s, x in numbers.items()})
    return int(found) if isinstance(found, Fraction) and found.denominator == 1 else found


def _value(e: sympy.Basic, at: Mapping[sympy.Symbol, int]) -> Value:
    if e.is_Symbol and e in at:
        return Fraction(at[e])
    if e.is_Rational:
        return Fraction(int(e.p), int(e.q))
    if e in (sympy.oo, -sympy.oo):
        return math.inf if e == sympy.oo else -math.inf
    if isinstance(e, sympy.Piecewise):
        for value, condition in e.args:
            if holds(condition, at):
                return _value(value, at)
        raise ValueError(f"no case of {e} holds")
    if isinstance(e, Periodic | Table):
        entry, values = int(_value(e.args[0], at)), e.args[1:]
        if isinstance(e, Table) and not 0 <= entry < len(values):
            raise ValueError(f"no entry {entry} in {e}")
        return _value(values[entry % len(values)], at)
    args = [_value(a, at) for a in e.args]
    if e.is_Add:
        return sum(args[1:], args[0])
    if e.is_Mul:
        return math.prod(args[1:], start=args[0])
    if e.is_Pow and isinstance(args[1], Fraction) and args[1].denominator == 1:
        return args[0] ** int(args[1])
    if isinstance(e, sympy.Min | sympy.Max):
        return min(args) if isinstance(e, sympy.Min) else max(args)
    if isinstance(e, sympy.Abs):
        return max(args[0], -args[0])
    if isinstance(e, sympy.floor | sympy.ceiling) and math.isfinite(args[0]):
        return Fraction(math.floor(args[0]) if isinstance(e, sympy.floor) else math.ceil(args[0]))
    if isinstance(e, sympy.Mod):
        return args[0] % args[1]
    if isinstance(e, CeilLog):
        return Fraction(int(CeilLog(*(sympy.Rational(a) for a in args))))
    raise ValueError(f"no number: {e}")


def holds(condition: sympy.Basic, at: Mapping[sympy.Symbol, int]) -> bool:
    """Whether a condition holds for numbers, one for each of its symbols."""
    if condition in (sympy.true, sympy.false):
        return condition == sympy.true
    if isinstance(condition, sympy.And):
        return all(holds(c, at) for c in condition.args)
    if isinstance(condition, sympy.Or):
        return any(holds(c, at) for c in condition.args)
    if isinstance(condition, sympy.Not):
        return not holds(condition.args[0], at)
    if isinstance(condition, sympy.ITE):
        return holds(condition.args[1] if holds(condition.args[0], at) else condition.args[2], at)
    x, y = (_value(side, at) for side in condition.args)
    return {"==": x == y, "!=": x != y, "<": x < y, "<=": x <= y, ">": x > y, ">=": x >= y}[condition.rel_op]
