"""Whether a bound says something at all: what no checker needs to look at again.

formula      integers, symbols, + * **, floor, ceiling, Mod, Min, Max, Abs, cases, periodic numbers, logarithms
condition    comparisons of formulas, and, or, not
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import sympy
from sympy.logic.boolalg import BooleanFalse, BooleanTrue

from pidsl.analysis.formulas import CeilLog, Periodic, Table, symbol
from pidsl.analysis.schedules import LayerRule
from pidsl.language.terms import Algebra

if TYPE_CHECKING:
    from pidsl.analysis.bound import Bound

_FORMULAS = (
    sympy.Add, sympy.Mul, sympy.Pow, sympy.floor, sympy.ceiling, sympy.Mod, sympy.Min, sympy.Max, sympy.Abs,
    sympy.Piecewise, Periodic, Table, CeilLog,
)  # fmt: skip
_CONDITIONS = (sympy.And, sympy.Or, sympy.Not, sympy.ITE, sympy.Implies)


def malformed(bound: Bound) -> str:
    """The first reason why a statement cannot be true or false; "" for none."""
    return next(_faults(bound), "")


def _faults(bound: Bound) -> Iterator[str]:
    layers = bound.subject if isinstance(bound.subject, tuple) else (bound.subject,)
    if not all(isinstance(x, Algebra | LayerRule) for x in layers):
        yield f"the subject {bound.subject!r} is no pattern"
    if not isinstance(bound.quantity, str) or bound.relation not in ("==", "<=", ">="):
        yield f"no statement: {bound.quantity!r} {bound.relation!r}"
    if not isinstance(bound.expr, sympy.Expr) or not _is_formula(bound.expr):
        yield f"no formula: {bound.expr!r}"
    if not isinstance(bound.assumptions, tuple):
        yield f"assumptions {bound.assumptions!r}"
        return
    for condition in bound.assumptions:
        if not _is_condition(condition):
            yield f"no condition: {condition!r}"
    pair = isinstance(bound.given, tuple) and all(isinstance(x, tuple) and len(x) == 2 for x in bound.given)
    if not pair or not all(isinstance(x[0], str) for x in bound.given) or len(dict(bound.given)) < len(bound.given):
        yield f"arguments {bound.given!r}"


def _is_formula(e: Any) -> bool:
    if not isinstance(e, sympy.Expr):
        return False
    if e.is_Symbol:
        return bool(e == symbol(e.name))
    if e.is_Number:
        return bool(e.is_Rational) or e in (sympy.oo, -sympy.oo)
    if isinstance(e, sympy.Piecewise):
        return all(_is_formula(value) and _is_condition(condition) for value, condition in e.args)
    if isinstance(e, sympy.Mod) and e.args[1].is_Number and not e.args[1] > 0:
        return False
    return isinstance(e, _FORMULAS) and all(map(_is_formula, e.args))


def _is_condition(c: Any) -> bool:
    if isinstance(c, BooleanTrue | BooleanFalse):
        return True
    if isinstance(c, sympy.Rel):
        return all(map(_is_formula, c.args))
    return isinstance(c, _CONDITIONS) and all(map(_is_condition, c.args))
