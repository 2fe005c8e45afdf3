"""Counts verified by their differences: a key more, a query more, a token more.

    pairs, by lag       pairs(0) = 0, pairs(1) = [0], pairs(n + 2) - 2 pairs(n + 1) + pairs(n) = [n + 1] + [-(n + 1)]
    degree, by lag      d(0, 1) = [0], d(i + 1, n + 1) - d(i, n) = [i + 1], d(i, n + 1) - d(i, n) = [i - n]
    both, by corners    the term is a signed sum of corners, whose keys and pairs `corner` counts
    largest degree      the degrees rise up to one query and fall from it on, or none is larger

[d] is 1 where the term attends the lag d, else 0: its definition. Nothing here finds a formula.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps

import sympy

from pidsl.analysis.bound import Bound
from pidsl.analysis.domains import domain
from pidsl.analysis.formulas.smt import Obligation, Prover, split_by_divisor
from pidsl.analysis.formulas.smtlib import SIDES, Condition, Count, Definition, IsZero
from pidsl.analysis.formulas.words import i, internal, j, n
from pidsl.analysis.symbolic.corner import shape_from
from pidsl.analysis.symbolic.definition import NotByLag, attends, holds_at, refusing
from pidsl.analysis.verdict import Verdict

Conditions = tuple[Condition, ...]
LAG = internal("lag")

Obligations = Callable[[Bound, Conditions, Definition, Definition], Iterator[Obligation]]


def _checker(obligations: Obligations) -> Callable[[Bound], Verdict]:
    """A checker from the obligations of a statement, under all that is assumed, with the formula and the term by name.

    The term is a condition on a lag, or on a query and a key where more matters.
    """

    @refusing
    @wraps(obligations)
    def check(bound: Bound) -> Verdict:
        given = tuple(dict.fromkeys((*domain(bound.term), *bound.assumptions)))
        formula = Definition("formula", (i, n) if bound.quantity == "degree" else (n,), bound.expr)
        term = Definition("attends", (i, j), attends(bound.term, i, j))
        if bound.method != "corners" and bound.quantity != "max degree":
            term = Definition("attends", (LAG,), holds_at(bound.term, LAG))
        prover = Prover(definitions=(formula, term), heading=str(bound))
        prover.all(obligations(bound, given, formula, term))
        return prover.verdict()

    return check


def indicator(condition: Condition) -> sympy.Expr:
    """1 where the condition holds, else 0."""
    return sympy.Piecewise((1, condition), (0, True))


def _every_n(given: Conditions) -> Conditions:
    """What is assumed of the sizes; induction over n needs a formula for every n."""
    if about_n := [c for c in given if n in c.free_symbols]:
        raise NotByLag(f"a formula for some n only: {about_n}")
    return given


@_checker
def check_pairs(bound: Bound, given: Conditions, formula: Definition, term: Definition) -> Iterator[Obligation]:
    """Verify the pairs of what the lag decides, by second differences."""
    known, compare = _every_n(given), SIDES[bound.relation]
    first, ahead, behind = (indicator(term(d)) for d in (0, n + 1, -n - 1))
    yield Obligation("no token, no pair", known, IsZero(formula(0)))
    yield Obligation("one token", known, compare(formula(1) - first))
    second = formula(n + 2) - 2 * formula(n + 1) + formula(n) - ahead - behind
    split = split_by_divisor(n, bound.expr, term.at(n + 1))
    yield Obligation("second difference = keys gained", (*known, n >= 0), compare(second), split)


@_checker
def check_degree(bound: Bound, given: Conditions, formula: Definition, term: Definition) -> Iterator[Obligation]:
    """Verify the degrees of what the lag decides, by first differences."""
    rows = (i >= 0, i < n)
    known, compare = tuple(c for c in given if not c.free_symbols & {i, n}), SIDES[bound.relation]
    first, ahead, behind = (indicator(term(d)) for d in (0, i + 1, i - n))
    yield from (Obligation(f"assumed: {c}", given, c) for c in rows if c not in given)
    yield Obligation("one token", known, compare(formula(0, 1) - first))
    later = formula(i + 1, n + 1) - formula(i, n) - ahead
    split = split_by_divisor(i, term.at(i + 1), bound.expr.subs(n, i))
    yield Obligation("one more token before the query", (*known, *rows), compare(later), split)
    longer = formula(i, n + 1) - formula(i, n) - behind
    x = internal("x")  # n - 1 - i tokens come after the query
    moved = {n: x + 1 + i}
    conditions = tuple(c.subs(moved) for c in (*known, *rows))
    split = split_by_divisor(x, term.at(-x - 1), bound.expr.subs(moved).subs(i, 0))
    yield Obligation("one more token after the query", conditions, compare(longer.subs(moved)), split)


@_checker
def check_corners(bound: Bound, given: Conditions, formula: Definition, term: Definition) -> Iterator[Obligation]:
    """Verify that the term is a sum of corners, what is in a corner, and that the formula is the sum."""
    corners = [(w, f, d, shape_from(shape)) for w, f, d, shape in bound.certificate.fact("corners")]
    known = tuple(c for c in given if not c.free_symbols & {i, n})
    pair = (*known, i >= 0, i < n, j >= 0, j < n)
    for end in dict.fromkeys(x for _, f, d, _ in corners for x in (f, d)):
        if end not in (n, sympy.Integer(0)):
            yield Obligation(f"{end} is an end", (*known, n >= 0), sympy.And(end >= 0, end <= n))
    counted: list[sympy.Basic] = []
    for w, f, d, shape in corners:
        ends = (a < end for a, end in ((i, f), (j, d)) if end != n)
        counted += [sympy.Integer(w), sympy.And(*ends, shape.inside(i, j))]
    is_sum = Count(sympy.Integer(-1), term(i, j), *counted)
    yield Obligation("the term is the sum of its corners", pair, is_sum)
    shapes = [shape for *_, shape in corners]
    yield from dict.fromkeys(o for shape in shapes for o in shape.keys_counted(known))
    if bound.quantity == "degree":
        rows: Conditions = (i >= 0, i < n)
        yield from (Obligation(f"assumed: {c}", given, c) for c in rows if c not in given)
        of = [(w * s.row(i, d), f) for w, f, d, s in corners]
        total = [keys if f == n else sympy.Piecewise((keys, i < f), (0, True)) for keys, f in of]
        value = formula(i, n)
    else:
        yield from dict.fromkeys(o for shape in shapes for o in shape.pairs_counted(known))
        rows, value = (n >= 0,), formula(n)
        total = [w * s.area(f, d) for w, f, d, s in corners]
    yield Obligation("the formula", (*given, *rows), SIDES[bound.relation](value - sympy.Add(*total)))


@_checker
def check_largest(bound: Bound, given: Conditions, formula: Definition, term: Definition) -> Iterator[Obligation]:
    """Verify the largest degree from the degree of each query: that of one, up to which they rise, and fall then."""
    (premise,) = bound.certificate.premises
    of, at = premise.question, bound.certificate.fact("query")
    if (of.subject, of.quantity, of.n, premise.relation) != (bound.subject, "degree", None, "=="):
        raise NotByLag(f"{premise.name} {premise.relation} as a premise")
    degree = premise.expr
    known = tuple(c for c in given if i not in c.free_symbols)
    rows = (*known, i >= 0, i < n)
    yield from (Obligation(f"assumed: {c}", rows, c) for c in premise.assumptions if c not in rows)
    yield Obligation("assumed: n >= 1", known, n >= 1)
    if at is None and bound.relation != "<=":
        raise NotByLag("no query that has as many keys")
    if at is not None:
        yield Obligation("a query", known, sympy.And(at >= 0, at < n))
        yield Obligation("its keys", known, SIDES[bound.relation](formula(n) - degree.subs(i, at)))
    if not bound.certificate.fact("turns"):
        yield Obligation("no query has more", rows, degree <= (formula(n) if at is None else degree.subs(i, at)))
        return
    more = degree.subs(i, i + 1) - degree
    split = split_by_divisor(i, degree)
    if at != 0:
        yield Obligation("degrees rise up to it", (*known, i >= 0, i < at), more >= 0, split)
    if sympy.expand(at - n + 1) != 0:
        yield Obligation("degrees fall from it on", (*known, i >= 0, i >= at, i < n - 1), more <= 0, split)
