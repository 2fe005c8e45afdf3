"""When two quasi-polynomials are equal, and where a formula is one.

Theorem: quasi-polynomials of degree <= d and period p that agree at (d + 1) p consecutive points are equal, since on
each residue class they are polynomials of degree <= d that agree at d + 1 points.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor, lcm
from typing import Any

import sympy

from pidsl.analysis.formulas.words import Periodic, Table
from pidsl.errors import TooHardError


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
