"""Formulas: sympy expressions over integer symbols, and what sympy lacks for counts of lattice points.

A count that depends on n modulo a period is written with periodic numbers, as Ehrhart did: `Periodic(n, 3, 5)` is 3
for even n and 5 for odd n. `Table(n, 0, 1, 4)` lists the values at 0, 1, 2.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import lru_cache
from operator import itemgetter
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


def solved(x: sympy.Expr, kind: Any = sympy.Ge) -> sympy.Basic:
    """x >= 0, or x = 0, with n alone on the left where that can be, else what is positive on the larger side.

    >>> solved(i - n + 3), solved(2 * i - j - 1)
    (n <= i + 3, 2*i >= j + 1)
    """
    if abs(x.coeff(n, 1)) == 1 and not x.coeff(n, 0).has(n):
        rest = sympy.expand(x - x.coeff(n, 1) * n)
        return kind(n, -rest) if x.coeff(n, 1) == 1 else kind(rest, n).reversed
    terms = sympy.Add.make_args(x)
    less = sympy.Add(*(-t for t in terms if t.could_extract_minus_sign()))
    more = sympy.Add(*(t for t in terms if not t.could_extract_minus_sign()))
    return kind(more, less).reversed if more.is_Number and not less.is_Number else kind(more, less)


def divides(expr: sympy.Expr) -> bool:
    """Whether a formula has floors of divisions by a symbol, of which z3 decides not all."""
    floors = expr.atoms(sympy.floor, sympy.ceiling, sympy.Mod)
    return any(x.atoms(sympy.Pow) or isinstance(x, sympy.Mod) for x in floors)


def value_of(expr: sympy.Expr, numbers: Mapping[sympy.Symbol, sympy.Integer]) -> Value:
    """The exact value of a formula at numbers, worked out in integers and fractions and not by sympy's rewriting.

    Raises:
        ValueError: it has no value there: a symbol is left, a list ends before, or something is divided by zero.
    """
    try:
        found = _function(expr)({s: int(x) for s, x in numbers.items()})
    except (KeyError, ZeroDivisionError) as e:
        raise ValueError(f"no number: {expr} ({e!r})") from None
    if found != found:
        raise ValueError(f"no number: {expr}")
    return int(found) if isinstance(found, Fraction) and found.denominator == 1 else found


def holds(condition: sympy.Basic, at: Mapping[sympy.Symbol, int]) -> bool:
    """Whether a condition holds for numbers, one for each of its symbols.

    Raises:
        ValueError: it is no comparison, or a side of it has no value there.
    """
    try:
        return bool(_test(condition)(at))
    except (KeyError, ZeroDivisionError) as e:
        raise ValueError(f"no truth value: {condition} ({e!r})") from None


At = Mapping[sympy.Symbol, Any]


@lru_cache(maxsize=4096)
def _function(e: sympy.Basic) -> Callable[[At], Value]:
    """A formula as a function of numbers."""
    if e.is_Symbol:
        return itemgetter(e)
    if e.is_Rational:
        constant: Value = int(e) if e.is_Integer else Fraction(int(e.p), int(e.q))
        return lambda at: constant
    if e in (sympy.oo, -sympy.oo):
        infinite = math.inf if e == sympy.oo else -math.inf
        return lambda at: infinite
    if isinstance(e, sympy.Piecewise):
        return _cases([(_test(condition), _function(value)) for value, condition in e.args], e)
    args = [_function(a) for a in e.args]
    if isinstance(e, Periodic | Table):
        return _entry(args[0], args[1:], e)
    if e.is_Add:
        return lambda at: sum([f(at) for f in args])
    if e.is_Mul:
        return lambda at: math.prod([f(at) for f in args])
    if e.is_Pow:
        return lambda at: _power(args[0](at), args[1](at))
    if isinstance(e, sympy.Min | sympy.Max):
        choose: Any = min if isinstance(e, sympy.Min) else max
        return lambda at: choose([f(at) for f in args])
    if isinstance(e, sympy.Abs):
        return lambda at: max(args[0](at), -args[0](at))
    if isinstance(e, sympy.floor | sympy.ceiling):
        whole: Callable[[Value], int] = math.floor if isinstance(e, sympy.floor) else math.ceil
        return lambda at: _whole(args[0](at), whole)
    if isinstance(e, sympy.Mod):
        return lambda at: args[0](at) % args[1](at)
    if isinstance(e, CeilLog):
        return lambda at: _logarithm(args[0](at), args[1](at))
    raise ValueError(f"no number: {e}")


def _cases(cases: list[tuple[Callable[[At], bool], Callable[[At], Value]]], e: sympy.Basic) -> Callable[[At], Value]:
    def value(at: At) -> Value:
        for test, found in cases:
            if test(at):
                return found(at)
        raise ValueError(f"no case of {e} holds")

    return value


def _entry(index: Callable[[At], Value], values: list[Callable[[At], Value]], e: sympy.Basic) -> Callable[[At], Value]:
    def value(at: At) -> Value:
        k = int(index(at))
        if isinstance(e, Table) and not 0 <= k < len(values):
            raise ValueError(f"no entry {k} in {e}")
        return values[k % len(values)](at)

    return value


def _whole(x: Value, rounded: Callable[[Value], int]) -> Value:
    return x if math.isinf(x) else rounded(x)


def _logarithm(base: Value, x: Value) -> Value:
    if base != int(base) or base < 2 or x != int(x):
        raise ValueError(f"no number: the logarithm of {x} to the base {base}")
    return int(CeilLog(sympy.Integer(int(base)), sympy.Integer(int(x))))


def _power(base: Value, exponent: Value) -> Value:
    if exponent != int(exponent):
        raise ValueError(f"no number: {base}**{exponent}")
    return Fraction(base) ** int(exponent) if exponent < 0 else base ** int(exponent)


@lru_cache(maxsize=4096)
def _test(condition: sympy.Basic) -> Callable[[At], bool]:
    """A condition as a function of numbers."""
    if condition in (sympy.true, sympy.false):
        constant = condition == sympy.true
        return lambda at: constant
    if isinstance(condition, sympy.And | sympy.Or | sympy.Not | sympy.ITE):
        tests = [_test(c) for c in condition.args]
        if isinstance(condition, sympy.And | sympy.Or):
            join = all if isinstance(condition, sympy.And) else any
            return lambda at: join(test(at) for test in tests)
        return (lambda at: not tests[0](at)) if len(tests) == 1 else lambda at: tests[1 if tests[0](at) else 2](at)
    if not isinstance(condition, sympy.core.relational.Relational):
        raise ValueError(f"no condition: {condition}")
    compare = _COMPARE[condition.rel_op]
    x, y = (_function(side) for side in condition.args)
    return lambda at: compare(x(at), y(at))


_COMPARE: dict[str, Callable[[Value, Value], bool]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge
}  # fmt: skip
