"""When two quasi-polynomials are equal, and where a formula is one.

Theorem: quasi-polynomials of degree <= d and period p that agree at (d + 1) p consecutive points are equal, since on
each residue class they are polynomials of degree <= d that agree at d + 1 points.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor, lcm
from typing import Any

import numpy as np
import sympy
from numpy.typing import NDArray

from pidsl.analysis.formulas.words import Periodic, Table
from pidsl.errors import TooHardError

Objects = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Shape:
    """What kind of function a formula is.

    Args:
        starts: the formula is one quasi-polynomial between two of them.
        period: of it.
        degree: an upper bound.
        slope: where every step by `period` adds slope * period, that slope; None where it may not.
    """

    starts: frozenset[int] = frozenset({0})
    period: int = 1
    degree: int = 0
    slope: Fraction | None = Fraction(0)


def shape_of(e: sympy.Expr, x: sympy.Symbol) -> Shape:
    """The shape of a formula in x.

    >>> from pidsl.analysis.formulas.words import n
    >>> shape_of(n * sympy.floor(n / 4), n)
    Shape(starts=frozenset({0}), period=4, degree=2, slope=None)

    Raises:
        TooHardError: it is not piecewise quasi-polynomial.
    """
    if e.is_Rational:
        return Shape()
    if e == x:
        return Shape(degree=1, slope=Fraction(1))
    if isinstance(e, sympy.Piecewise):
        shapes = [shape_of(value, x) for value, _ in e.args]
        starts = frozenset(s for _, condition in e.args for s in _starts(condition, x))
        return _joined([*shapes, Shape(starts)], max(s.degree for s in shapes), None)
    shapes = [shape_of(a, x) for a in e.args]
    slopes = [s.slope for s in shapes]
    if isinstance(e, sympy.Add):
        slope = None if None in slopes else sum((s for s in slopes if s is not None), Fraction(0))
        return _joined(shapes, max(s.degree for s in shapes), slope)
    if isinstance(e, sympy.Mul):
        factor, rest = e.as_coeff_Mul()
        inner = shape_of(rest, x) if factor != 1 else None
        if inner is not None:
            slope = None if inner.slope is None else inner.slope * Fraction(int(factor.p), int(factor.q))
            return Shape(inner.starts, inner.period, inner.degree, slope)
        return _joined(shapes, sum(s.degree for s in shapes), None)
    if isinstance(e, sympy.Pow) and e.exp.is_Integer and e.exp >= 0:
        return _joined(shapes, shapes[0].degree * int(e.exp), None)
    if isinstance(e, sympy.floor | sympy.Mod | Periodic) and (slope := slopes[0]) is not None:
        first = shapes[0]
        modulus = 1 if isinstance(e, sympy.floor) else int(e.args[1]) if isinstance(e, sympy.Mod) else len(e.args) - 1
        period = first.period * (slope * first.period / modulus).denominator
        kept = slope if isinstance(e, sympy.floor) else Fraction(0)
        return Shape(first.starts, period, 1 if kept else 0, kept)
    if isinstance(e, Table) and slopes[0] == 1 and shapes[0].period == 1:
        begin = int(e.args[0].subs(x, 0))
        return Shape(frozenset(range(max(-begin, 0), max(len(e.args) - begin, 0))), 1, 0, None)
    if isinstance(e, sympy.Min | sympy.Max) and slopes[0] is not None and len(set(slopes)) == 1:
        return _joined(shapes, max(s.degree for s in shapes), slopes[0])  # in each class, the same one is the least
    if isinstance(e, sympy.Min | sympy.Max) and all(s.period == 1 and s.slope is not None for s in shapes):
        crossings = [s for a in e.args for b in e.args if a != b for s in _starts(sympy.Lt(a, b), x)]
        return _joined([*shapes, Shape(frozenset(crossings))], 1, None)
    raise TooHardError(f"the formula {e}", "a piecewise quasi-polynomial")


def branch_starts(e: sympy.Expr, x: sympy.Symbol) -> set[int]:
    """Where the conditions of a formula's cases may change; 0 too."""
    conditions = [c for _, c in e.args] if isinstance(e, sympy.Piecewise) else []
    return {0}.union(*(_starts(c, x) for c in conditions))


def _joined(shapes: list[Shape], degree: int, slope: Fraction | None) -> Shape:
    starts = frozenset({0}).union(*(s.starts for s in shapes))
    return Shape(starts, lcm(*(s.period for s in shapes)), degree, slope)


def _starts(condition: Any, x: sympy.Symbol) -> list[int]:
    """Where a comparison of affine functions may change."""
    if condition in (sympy.true, sympy.false):
        return []
    if isinstance(condition, sympy.And | sympy.Or | sympy.Not):
        return [s for c in condition.args for s in _starts(c, x)]
    if not isinstance(condition, sympy.core.relational.Relational):
        raise TooHardError(f"the condition {condition}", "comparisons of affine functions")
    gap = sympy.expand(condition.lhs - condition.rhs)
    slope, constant = gap.coeff(x, 1), gap.coeff(x, 0)
    if not (slope.is_Rational and constant.is_Rational) or sympy.expand(slope * x + constant - gap) != 0:
        raise TooHardError(f"the condition {condition}", "comparisons of affine functions")
    if slope == 0:
        return []
    at = Fraction(int(constant.p), int(constant.q)) / Fraction(-int(slope.p), int(slope.q))
    return [s for s in {ceil(at), floor(at) + 1} if s >= 0]


def values_at(e: sympy.Expr, x: sympy.Symbol, at: Objects) -> tuple[Objects, int]:
    """Numerators and the one denominator of a formula at many integers; None where it has no value.

    Raises:
        TooHardError: it is no formula of the kinds that `shape_of` knows.
    """
    if e.is_Rational:
        return np.full(len(at), int(e.p), dtype=object), int(e.q)
    if e == x:
        return at.copy(), 1
    if isinstance(e, sympy.Piecewise):
        return _cases(e, x, at)
    if isinstance(e, Periodic | Table):
        key, bottom = values_at(e.args[0], x, at)
        if any(v is None for v in key):
            raise TooHardError(f"the formula {e}", "a place in its list everywhere")
        values = [Fraction(int(v.p), int(v.q)) if v.is_Rational else None for v in e.args[1:]]
        common = lcm(*(v.denominator for v in values if v is not None))
        tops = np.array([None if v is None else int(v * common) for v in values] + [None], dtype=object)
        index = key // bottom
        count = len(values)
        if isinstance(e, Periodic):
            place = (index % count).astype(np.int64)
        else:
            place = np.where((index >= 0) & (index < count), index, count).astype(np.int64)
        return tops[place], common
    if isinstance(e, sympy.Pow) and not (e.exp.is_Integer and e.exp >= 0):
        raise TooHardError(f"the formula {e}", "a piecewise quasi-polynomial")
    each = [values_at(a, x, at) for a in (e.args[:1] if isinstance(e, sympy.Pow | sympy.Mod) else e.args)]
    if not e.has(sympy.Piecewise, Table):
        return _combined(e, each)
    none = np.logical_or.reduce([np.array([v is None for v in top], dtype=np.bool_) for top, _ in each])
    found, bottom = _combined(e, [(np.where(none, 0, top), under) for top, under in each])
    found[none] = None
    return found, bottom


def _combined(e: sympy.Expr, each: list[tuple[Objects, int]]) -> tuple[Objects, int]:
    """An operation on numerators and denominators of its arguments, all of which have values."""
    top, under = each[0]
    if isinstance(e, sympy.Mul):
        for other, below in each[1:]:
            top, under = top * other, under * below
        return top, under
    if isinstance(e, sympy.Pow):
        return top ** int(e.exp), under ** int(e.exp)
    if isinstance(e, sympy.floor):
        return top // under, 1
    if isinstance(e, sympy.Mod) and e.args[1].is_Integer:
        return top % (under * int(e.args[1])), under
    joins: dict[Any, Callable[[Objects, Objects], Objects]] = {
        sympy.Add: np.add, sympy.Min: np.minimum, sympy.Max: np.maximum
    }  # fmt: skip
    if e.func not in joins:
        raise TooHardError(f"the formula {e}", "a piecewise quasi-polynomial")
    common = lcm(*(below for _, below in each))
    found = top * (common // under)
    for other, below in each[1:]:
        found = joins[e.func](found, other * (common // below))
    return found, common


def _cases(e: sympy.Piecewise, x: sympy.Symbol, at: Objects) -> tuple[Objects, int]:
    found, bottom = np.full(len(at), None, dtype=object), 1
    open_ = np.ones(len(at), dtype=np.bool_)
    for value, condition in e.args:
        here = open_ & _holds(condition, x, at)
        open_ &= ~here
        if here.any():
            top, under = values_at(value, x, at[here])
            common = lcm(bottom, under)
            known = found != None  # noqa: E711 - elementwise
            found[known] *= common // bottom
            found[here] = _scaled(top, common // under)
            bottom = common
    return found, bottom


def _scaled(top: Objects, by: int) -> Objects:
    return top if by == 1 else np.array([None if v is None else v * by for v in top], dtype=object)


def _holds(condition: Any, x: sympy.Symbol, at: Objects) -> NDArray[np.bool_]:
    if condition in (sympy.true, sympy.false):
        return np.full(len(at), condition == sympy.true)
    if isinstance(condition, sympy.And):
        return np.logical_and.reduce([_holds(c, x, at) for c in condition.args])
    if isinstance(condition, sympy.Or):
        return np.logical_or.reduce([_holds(c, x, at) for c in condition.args])
    if isinstance(condition, sympy.Not):
        return ~_holds(condition.args[0], x, at)
    if not isinstance(condition, sympy.core.relational.Relational):
        raise TooHardError(f"the condition {condition}", "comparisons of affine functions")
    gap, _ = values_at(sympy.expand(condition.lhs - condition.rhs), x, at)
    if any(v is None for v in gap):
        raise TooHardError(f"the condition {condition}", "one that can be decided everywhere")
    tests: dict[str, Any] = {
        "<": gap < 0, "<=": gap <= 0, ">": gap > 0, ">=": gap >= 0, "==": gap == 0, "!=": gap != 0
    }  # fmt: skip
    return np.asarray(tests[condition.rel_op], dtype=np.bool_)
