"""Formulas at many points at once, exactly: numerators over one denominator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from math import lcm
from typing import Any

import numpy as np
import sympy
from numpy.typing import NDArray

from pidsl.analysis.formulas.words import Periodic, Table
from pidsl.errors import TooHardError

Numbers = NDArray[Any]  # int64, or Python's integers where 64 bits might not do
Bools = NDArray[np.bool_]
Points = Mapping[sympy.Symbol, Numbers]
Values = tuple[Numbers, int, Bools]

_COMPARE: dict[str, Callable[[Numbers, Numbers], Any]] = {
    "==": np.equal, "!=": np.not_equal, "<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal
}  # fmt: skip


def values_of(e: Any, at: Points) -> Values:
    """Numerators, the denominator, and where there is a value at all: a case, or an entry of a list.

    >>> from pidsl.analysis.formulas.words import n
    >>> values_of(sympy.floor(n / 2) + sympy.Rational(1, 3), {n: np.arange(4)})[:2]
    (array([1, 1, 4, 4]), 3)

    Args:
        e: the formula.
        at: numbers for its symbols, in arrays of one shape.

    Raises:
        TooHardError: it is made of other things than sums, products, powers, floors, remainders, minima and cases.
    """
    some = next(iter(at.values()))
    if e.is_Rational:
        return np.full(some.shape, int(e.p), dtype=some.dtype), int(e.q), np.ones(some.shape, dtype=np.bool_)
    if e in at:
        return at[e], 1, np.ones(some.shape, dtype=np.bool_)
    if isinstance(e, sympy.Piecewise):
        return _cases(e, at)
    if isinstance(e, Periodic | Table):
        return _entries(e, at)
    power = isinstance(e, sympy.Pow) and e.exp.is_Integer and e.exp >= 0
    remainder = isinstance(e, sympy.Mod) and e.args[1].is_Integer and e.args[1] > 0
    if not (power or remainder or isinstance(e, sympy.Add | sympy.Mul | sympy.Min | sympy.Max | sympy.floor)):
        raise TooHardError(f"the formula {e}", "sums, products, floors, remainders and cases")
    each = [values_of(a, at) for a in (e.args[:1] if power or remainder else e.args)]
    top, under, known = each[0]
    for _, _, also in each[1:]:
        known = known & also
    if power:
        return top ** int(e.exp), under ** int(e.exp), known
    if remainder:
        return top % (under * int(e.args[1])), under, known
    if isinstance(e, sympy.floor):
        return top // under, 1, known
    if isinstance(e, sympy.Mul):
        for other, below, _ in each[1:]:
            top, under = top * other, under * below
        return top, under, known
    join = np.add if isinstance(e, sympy.Add) else np.maximum if isinstance(e, sympy.Max) else np.minimum
    common = lcm(*(below for _, below, _ in each))
    return reduce(join, (other * (common // below) for other, below, _ in each)), common, known


def _entries(e: Any, at: Points) -> Values:
    key, under, known = values_of(e.args[0], at)
    entries, count = e.args[1:], len(e.args) - 1
    place = key // under
    place = place % count if isinstance(e, Periodic) else place
    inside = known & (place >= 0).astype(np.bool_) & (place < count).astype(np.bool_)
    numbers = [v if v.is_Rational else None for v in entries]
    common = lcm(*(int(v.q) for v in numbers if v is not None))
    tops = np.array([0 if v is None else int(v.p) * (common // int(v.q)) for v in numbers], dtype=key.dtype)
    there = np.array([v is not None for v in numbers], dtype=np.bool_)
    index = np.where(inside, place, 0).astype(np.int64)
    return tops[index], common, inside & there[index]


def _cases(e: sympy.Piecewise, at: Points) -> Values:
    some = next(iter(at.values()))
    found, bottom = np.zeros(some.shape, dtype=some.dtype), 1
    known, open_ = np.zeros(some.shape, dtype=np.bool_), np.ones(some.shape, dtype=np.bool_)
    for value, condition in e.args:
        holds, told = _truth(condition, at)
        here = open_ & holds & told
        open_ &= ~holds & told
        if here.any():
            top, under, given = values_of(value, at)
            common = lcm(bottom, under)
            found = np.where(here, top * (common // under), found * (common // bottom))
            known |= here & given
            bottom = common
    return found, bottom, known


def _truth(condition: Any, at: Points) -> tuple[Bools, Bools]:
    """Where a condition holds, and where that can be told."""
    shape = next(iter(at.values())).shape
    if condition in (sympy.true, sympy.false):
        return np.full(shape, condition == sympy.true), np.ones(shape, dtype=np.bool_)
    if isinstance(condition, sympy.And | sympy.Or | sympy.Not):
        each = [_truth(c, at) for c in condition.args]
        told = np.logical_and.reduce([x for _, x in each])
        if isinstance(condition, sympy.Not):
            return ~each[0][0], told
        join = np.logical_and if isinstance(condition, sympy.And) else np.logical_or
        return join.reduce([x for x, _ in each]), told
    if not isinstance(condition, sympy.Rel):
        raise TooHardError(f"the condition {condition}", "comparisons")
    (a, under, known), (b, below, also) = (values_of(side, at) for side in condition.args)
    holds = _COMPARE[condition.rel_op](a * below, b * under)
    return np.asarray(holds, dtype=np.bool_), known & also


def first_difference(e: Any, at: Points, right: Numbers) -> int | None:
    """The index of the first point at which a formula does not have a whole value; None where it has all of them."""
    top, bottom, known = values_of(e, at)
    wrong = ~known | np.asarray(top != right * bottom, dtype=np.bool_)
    return int(np.argmax(wrong)) if wrong.any() else None
