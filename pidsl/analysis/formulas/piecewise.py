"""isl's piecewise quasi-affine functions of n as formulas that people read, from their values in a period.

`read` reads them back, so that isl can decide whether a formula is right. Where a function is infinite (no number of
layers is enough, the maximum of nothing), isl's has no value.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import islpy as isl
import sympy

from pidsl.analysis.formulas.pieces import written
from pidsl.analysis.formulas.quasi import affine
from pidsl.analysis.formulas.read import function
from pidsl.analysis.formulas.words import n
from pidsl.errors import TooHardError
from pidsl.relation.isl import CONTEXT, disjoint, largest, read_set

BRANCHES = 8  # of a formula; with more of them for short n, the formula is for long n only, and says so
IRREGULAR = 400  # the last n that is written down one by one
PERIOD = 1000  # the longest period of a formula that is found from the values in a period

Branch = tuple[sympy.Expr, int]  # a formula and the n from which on it holds (up to the next branch)


@dataclass(frozen=True, slots=True)
class Formula:
    """A function of n.

    Args:
        expr: the formula.
        least: it holds for n >= least.
    """

    expr: sympy.Expr
    least: int = 1

    @property
    def assumptions(self) -> tuple[sympy.Basic, ...]:
        return (sympy.Ge(n, self.least),)


def formula(f: isl.PwAff, missing: sympy.Expr, least: int = 1, most: int = BRANCHES) -> Formula:
    """A function `[n] -> { [value] }` for n >= least as a formula, exact.

    >>> from pidsl.relation.isl import read_set
    >>> f = read_set("[n] -> { [d] : 0 <= d < n and d <= 5 or d = 0 }").dim_max(0)
    >>> formula(f, sympy.oo).expr
    Piecewise((5, n >= 6), (n - 1, True))

    Args:
        f: the function.
        missing: what the formula is where `f` has no value.
        least: the first n that matters.
        most: how many branches it may have; with more of them, it is for long n only.

    Raises:
        TooHardError: it has too many cases, or is irregular for long.
    """
    f = f.coalesce()
    breaks, period = _shape(f, least)
    if period > PERIOD:
        where = read_set(f"[n] -> {{ : n >= {least} }}")
        return Formula(written(f, where, missing, most), least)
    at = _evaluator(f)
    early: list[Branch] = []
    for _ in range(2):
        branches = [*early]
        for first, stop in zip(breaks, [*breaks[1:], None], strict=True):
            branches += fit(at, first, stop, period, missing)
        found = chain(branches, lambda x: at(x) if at(x) is not None else missing, most)
        late = _last_difference(found, f)
        if late is None:
            return found
        # a condition such as n mod 9 >= n//9 is irregular until it holds for good: one by one up to there
        if late > IRREGULAR:
            break
        early = runs(at, least, late + 1, missing)
        breaks = [late + 1, *(b for b in breaks if b > late + 1)]
    raise TooHardError(f"a function that is irregular up to n = {late}", f"at most {IRREGULAR}")


def _last_difference(found: Formula, f: isl.PwAff) -> int | None:
    """The last n at which a formula is not the function; None where they are the same.

    Raises:
        TooHardError: they differ for ever.
    """
    where = read_set(f"[n] -> {{ : n >= {found.least} }}")
    mine = function(found.expr)
    a, b = mine.domain(), f.domain()
    wrong = ((a - b) | (b - a) | mine.ne_set(f)) & where
    if wrong.is_empty():
        return None
    line = wrong.move_dims(isl.dim_type.set, 0, isl.dim_type.param, 0, 1)
    if not line.is_bounded():
        raise TooHardError(f"the formula {found.expr}", "one that is right for all n")
    return largest(line)


def chain(branches: list[Branch], at: Callable[[int], Any], most: int = BRANCHES) -> Formula:
    """Branches in the order of n as one formula, the one for long n first.

    Args:
        branches: each holds from its n up to the next one's.
        at: the value at any n, for moving a branch down to where it begins to hold.
        most: how many branches the formula may have.
    """
    merged: list[Branch] = []
    for expr, first in branches:
        while merged:  # does the new branch hold where the one before it was?
            before = merged[-1][1]
            if first - before > 64 or any(expr.subs(n, x) != at(x) for x in range(before, first)):
                break
            merged.pop()
            first = before
        if merged and merged[-1][0] == expr:
            continue
        stop = first - 64
        while merged and first - 1 > max(merged[-1][1], stop) and expr.subs(n, first - 1) == at(first - 1):
            first -= 1
        merged.append((expr, first))
    if len(merged) > most:
        return Formula(*merged[-1])
    least = merged[0][1]
    rest = [(expr, sympy.Ge(n, first)) for expr, first in reversed(merged[1:])]
    return Formula(sympy.Piecewise(*rest, (merged[0][0], True)) if rest else merged[0][0], least)


def _shape(f: isl.PwAff, least: int) -> tuple[list[int], int]:
    """The n where something begins, and a period of the function between two of them."""
    breaks, period = {least}, 1

    def denominators(space: Any) -> None:
        nonlocal period
        for k in range(space.dim(isl.dim_type.div)):
            period = math.lcm(period, int(space.get_div(k).get_denominator_val().to_python()))

    for where, value in [*f.get_pieces(), (f.domain().complement(), None)]:
        if value is not None:
            denominators(value)
            period = math.lcm(period, int(value.get_denominator_val().to_python()))
        for part in disjoint(where):
            denominators(part.get_local_space())
            line = isl.Set.from_basic_set(part).move_dims(isl.dim_type.set, 0, isl.dim_type.param, 0, 1)
            line = line & read_set(f"{{ [x] : x >= {least} }}")
            if line.is_empty():
                continue
            breaks.add(int(line.dim_min_val(0).to_python()))
            if line.is_bounded():
                breaks.add(int(line.dim_max_val(0).to_python()) + 1)
    return sorted(breaks), period


def _evaluator(f: isl.PwAff) -> Callable[[int], int | None]:
    origin = isl.Point.zero(f.domain().get_space())
    known: dict[int, int | None] = {}

    def at(x: int) -> int | None:
        if x not in known:
            value = f.eval(origin.set_coordinate_val(isl.dim_type.param, 0, isl.Val(x, CONTEXT)))
            known[x] = None if value.is_nan() else int(value.to_python())
        return known[x]

    return at


def fit(
    at: Callable[[int], int | None], first: int, stop: int | None, period: int, missing: sympy.Expr
) -> list[Branch]:
    """Branches for first <= n < stop (None: no end), where the function is affine in each class mod period."""
    if stop is not None and stop - first < 2 * period + 2:
        return runs(at, first, stop, missing)
    values = [at(x) for x in range(first, first + 2 * period)]
    return [(affine(values, first, period, n, missing), first)]


def runs(at: Callable[[int], int | None], first: int, stop: int, missing: sympy.Expr) -> list[Branch]:
    """Short stretches of n as straight lines."""
    found: list[Branch] = []
    x = first
    while x < stop:
        a = at(x)
        b = at(x + 1) if x + 1 < stop else a
        if a is None or b is None:
            expr, step = (missing if a is None else sympy.Integer(a)), None
        else:
            step = b - a if b - a in (0, 1, -1) else 0
            expr = sympy.Integer(a) + step * (n - x)
        found.append((expr, x))
        y = x + 1
        while y < stop and (at(y) is None if a is None else step is not None and at(y) == a + step * (y - x)):
            y += 1
        x = y
    return found
