"""Layers that come to repeat for every n, which short sequences show where `gaps` says that they decide.

For each n the sets that 0, 1, 2, ... layers connect repeat at last. Where that is so after numbers of layers that do
not grow with n, there is one number k and one period p with S_(L + p) = S_L for all L >= k: for n up to where `gaps`
says that k + p layers are like those of a shorter sequence, by dense masks; so for all n. Where every token sees itself
it is enough that the largest lag there is, n - 1, is reached: more layers connect no less. Farthest and contiguous of L
layers are then one of k + p formulas in n.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import lcm
from typing import Any

import numpy as np
import sympy

from pidsl.analysis.bound import ANY, Bound, exact, restated
from pidsl.analysis.dense import Bools, contiguous_in, farthest_in, times
from pidsl.analysis.formulas.piecewise import Formula
from pidsl.analysis.formulas.words import L, holds, n
from pidsl.analysis.layers.by_values import PERIODS, Claim, fitted
from pidsl.analysis.layers.gaps import Gaps, gaps_of
from pidsl.analysis.layers.short import Masks
from pidsl.analysis.verdict import Verdict
from pidsl.analysis.ways import Asked, NotMine
from pidsl.errors import TooHardError
from pidsl.language.terms import Term

METHOD = "repeating layers"
WORK = 4e10  # multiplications of single numbers, about a second
PROOF = 20 * WORK
GIVEN = {"layers": "L"}


@dataclass(frozen=True, slots=True)
class Cycle:
    """What any number of layers gives.

    Args:
        first: the number of layers from which on they repeat.
        period: after how many more.
        values: for each number of layers below `first + period`, what is counted at n = 1, 2, ...
        gaps: of `first + period` layers.
    """

    first: int
    period: int
    values: list[list[int | None]]
    gaps: Gaps

    def of(self, layers: int) -> list[int | None]:
        """The values of so many layers."""
        return self.values[turned(layers, self.first, self.period)]


def turned(layers: int, first: int, period: int) -> int:
    """The number of layers below `first + period` that connects the same."""
    return layers if layers < first else first + (layers - first) % period


def by_cycles(asked: Asked) -> Bound:
    """Farthest or contiguous of L layers that repeat.

    Raises:
        TooHardError: they do not for all n, long sequences are not like short ones, or short ones take too long.
    """
    quantity, term = asked.question.quantity, asked.subject
    if asked.question.layers != ANY or not isinstance(term, Term):
        raise NotMine
    found = _cycle(quantity, term, lambda gaps: gaps.start + PERIODS * gaps.period, WORK)
    formulas = [fitted(values, -sympy.oo, found.gaps.period) for values in found.values]
    expr, least = by_number(formulas, found.first, found.period)
    return exact(term, quantity, expr, METHOD, given=GIVEN, assumptions=(sympy.Ge(L, 0), sympy.Ge(n, least)))


def by_number(formulas: Sequence[Formula], first: int, period: int) -> tuple[sympy.Expr, int]:
    """A formula in L from one for each number of layers below `first + period`, and the first n that it is for.

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
        start, own = _turns(condition)
        first, period = max(first, start), lcm(period, own)
        if value.has(L):
            raise TooHardError(f"the formula {expr}", "cases of L, with formulas in n")

    def chosen(layers: int) -> sympy.Expr:
        return next((value for value, condition in cases if holds(condition, {L: layers})), sympy.nan)

    return first, period, chosen


def _turns(condition: Any) -> tuple[int, int]:
    if condition in (sympy.true, sympy.false):
        return 0, 1
    if isinstance(condition, sympy.And | sympy.Or | sympy.Not):
        each = [_turns(c) for c in condition.args]
        return max(a for a, _ in each), lcm(*(p for _, p in each))
    if isinstance(condition, sympy.Rel) and condition.rhs.is_Integer:
        if condition.lhs == L:
            return max(0, int(condition.rhs) + 1), 1
        mod = condition.lhs
        if isinstance(mod, sympy.Mod) and (mod.args[0] - L).is_Integer and mod.args[1].is_Integer:
            return 0, int(mod.args[1])
    raise TooHardError(f"the condition {condition}", "L or a remainder of L compared with a number")


def _cycle(quantity: str, term: Term, last: Callable[[Gaps], int], work: float) -> Cycle:
    one, masks = gaps_of([term]), Masks(term)
    measure = farthest_in if quantity == "farthest" else contiguous_in
    first, period = 0, 1
    each: list[tuple[int, list[int | None]]] = []
    while len(each) < last(one.through(first + period)):
        layer = masks.among(len(each) + 1)
        values, again = _until_repeated(layer, measure, work / (len(each) + 1))
        each.append((again, values))
        first, period = max(first, again), lcm(period, len(values) - again)
        if (first + period) * float(last(one.through(first + period))) ** 4 / 4 > work:
            raise TooHardError(f"layers that go on to connect more, or others, after {len(values)}", "a cycle")
    turns = range(first + period)
    by_layers = [[v[turned(k, again, len(v) - again)] for again, v in each] for k in turns]
    return Cycle(first, period, by_layers, one.through(first + period))


def _until_repeated(layer: Bools, measure: Callable[[Bools], int | None], work: float) -> tuple[list[int | None], int]:
    """What is measured after 0, 1, 2, ... layers until it repeats for good, and after how many it does so."""
    seen = np.eye(len(layer), dtype=np.bool_)
    past, values = {np.packbits(seen).tobytes(): 0}, [measure(seen)]
    grows = bool(layer.diagonal().all())
    while not (grows and values[-1] == len(layer) - 1):  # no lag is larger, and more layers connect no less
        seen = times(layer, seen)
        if (again := past.setdefault(np.packbits(seen).tobytes(), len(values))) < len(values):
            return values, again
        values.append(measure(seen))
        if len(values) * float(len(layer)) ** 3 > work:
            raise TooHardError(f"layers of {len(layer)} tokens that go on to connect others", "a cycle")
    return values, len(values) - 1


def _at(values: list[int | None], count: int) -> int | None:
    return values[count - 1]


def check_cycles(bound: Bound) -> Verdict:
    """Count again from the term, and compare for each number of layers at as many n as determine a formula."""
    about_l = [c for c in bound.assumptions if c.has(L)]
    about_n = tuple(c for c in bound.assumptions if not c.has(L))
    start, turns, chosen = numbers_of(bound.expr)
    for condition in about_l:
        first, period = _turns(condition)
        start, turns = max(start, first), lcm(turns, period)
    claims = {
        k: Claim(restated(bound, expr=chosen(k), layers=None, assumptions=about_n))
        for k in range(start + turns)
        if all(holds(c, {L: k}) for c in about_l)
    }
    if not claims:
        return Verdict(False, failure="no L satisfies the assumptions")

    def last(gaps: Gaps) -> int:
        return max(claim.last(gaps.start, gaps.period) for claim in claims.values())

    found = _cycle(bound.quantity, bound.term, last, PROOF)
    for layers in range(max(start, found.first) + lcm(turns, found.period)):
        at, claim = partial(_at, found.of(layers)), claims.get(turned(layers, start, turns))
        if claim and (failure := claim.failure(at, len(found.of(layers)), float("-inf"))):
            return Verdict(False, failure=f"{layers} layers: {failure}")
    return Verdict(
        True,
        (f"{found.first + found.period} layers give what {found.first} do for n <= {len(found.values[0])}, so for "
         f"every n: of gaps of {found.gaps.size} tokens only the remainder by {found.gaps.period} matters",
         "the formula agrees with dense masks for each number of layers"),
    )  # fmt: skip
