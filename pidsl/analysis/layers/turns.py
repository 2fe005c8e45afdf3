"""Formulas in L that are a formula in n for each number of layers, up to where these come again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import lcm
from typing import Any

import sympy

from pidsl.analysis.formulas.piecewise import Formula
from pidsl.analysis.formulas.words import L, holds
from pidsl.errors import TooHardError


def by_number(formulas: Sequence[Formula], first: int, period: int) -> tuple[sympy.Expr, int]:
    """A formula in L from one for each number of layers below `first + period`, and the first n that it is for.

    >>> from pidsl.analysis.formulas.words import n
    >>> by_number([Formula(n * 0), Formula(n - 1), Formula(n - 2)], 1, 2)[0]
    Piecewise((0, Eq(L, 0)), (n - 1, Eq(Mod(L + 1, 2), 0)), (n - 2, True))
    """
    each = [f.expr for f in formulas]
    least = max(f.least for f in formulas)
    turn = each[first:]
    period = next(p for p in range(1, period + 1) if period % p == 0 and turn == turn[:p] * (period // p))
    while first and each[first - 1] == each[first - 1 + period]:
        first -= 1
    cases: list[tuple[sympy.Expr, Any]] = [(each[k], sympy.Eq(L, k)) for k in range(first)]
    for k in range(first, first + period):
        cases.append((each[k], sympy.Eq(sympy.Mod(L - k % period, period), 0)))
    return (sympy.Piecewise(*cases[:-1], (cases[-1][0], True)) if len(cases) > 1 else cases[0][0]), least


def numbers_of(expr: sympy.Expr) -> tuple[int, int, Callable[[int], sympy.Expr]]:
    """From which L on a formula comes again, after how many, and the formula for a number.

    Raises:
        TooHardError: its cases are no comparisons of L with numbers, or of remainders of L.
    """
    cases = expr.args if isinstance(expr, sympy.Piecewise) and expr.has(L) else ((expr, sympy.true),)
    first, period = 0, 1
    for value, condition in cases:
        start, own = turns_of(condition)
        first, period = max(first, start), lcm(period, own)
        if value.has(L):
            raise TooHardError(f"the formula {expr}", "cases of L, with formulas in n")

    def chosen(layers: int) -> sympy.Expr:
        return next((value for value, condition in cases if holds(condition, {L: layers})), sympy.nan)

    return first, period, chosen


def turns_of(condition: Any) -> tuple[int, int]:
    """From which L on a condition comes again, and after how many."""
    if condition in (sympy.true, sympy.false):
        return 0, 1
    if isinstance(condition, sympy.And | sympy.Or | sympy.Not):
        each = [turns_of(c) for c in condition.args]
        return max(a for a, _ in each), lcm(*(p for _, p in each))
    if isinstance(condition, sympy.Rel) and condition.rhs.is_Integer:
        if condition.lhs == L:
            return max(0, int(condition.rhs) + 1), 1
        mod = condition.lhs
        if isinstance(mod, sympy.Mod) and (mod.args[0] - L).is_Integer and mod.args[1].is_Integer:
            return 0, int(mod.args[1])
    raise TooHardError(f"the condition {condition}", "L or a remainder of L compared with a number")
