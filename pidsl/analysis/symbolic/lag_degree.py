"""Keys per query of patterns that depend on the lag, with symbols.

Query i of n attends one key per lag d <= i of the past and one per lag -d >= -(n - 1 - i) of the future:

    degree(i, n) = P(i) + F(n - 1 - i)      P(x), F(x): how many lags up to x

Proof: P(0) = [0 in S], P(x + 1) - P(x) = [x + 1 in S], the same for F with F(0) = 0. P never falls, so the query with
the most keys of a causal pattern is the last one.
"""

from __future__ import annotations

import sympy

from pidsl.analysis.bound import Bound, Certificate, Relation, asking, exact
from pidsl.analysis.domains import domain
from pidsl.analysis.formulas import smt
from pidsl.analysis.formulas.smtlib import Condition
from pidsl.analysis.formulas.words import i, internal, n
from pidsl.analysis.symbolic.definition import NotByLag, holds_at
from pidsl.analysis.symbolic.lag_pairs import SIDES, indicator, steps_to
from pidsl.analysis.symbolic.progressions import Progression, Reader, subsets
from pidsl.analysis.verdict import Verdict
from pidsl.analysis.ways import Asked
from pidsl.language.terms import Term

METHOD = "first differences"
x = internal("x")


def degree(asked: Asked) -> Bound:
    """Keys of query i.

    Raises:
        NotByLag: the pattern is no union of progressions of lags, or symbols hide how they meet.
        TermError: contradictory assumptions.
    """
    past, future, conditions = _counts(asked.subject, asked.assume)
    of_query = past.subs(x, i) + future.subs(x, n - 1 - i)
    return exact(asked.subject, "degree", of_query, METHOD, assumptions=(*conditions, i >= 0, i < n))


def largest(asked: Asked) -> Bound:
    """The most keys of any query. Errors as in `degree`."""
    past, future, conditions = _counts(asked.subject, asked.assume)
    most = past.subs(x, n - 1) + future.subs(x, n - 1)
    relation: Relation = "==" if future == 0 or past == 0 else "<="
    reason = "" if relation == "==" else "an upper bound: the most of the past and the most of the future"
    return Bound(
        asking(asked.subject, "max degree"), relation, most, (*conditions, n >= 1), Certificate(METHOD), reason
    )


def _counts(term: Term, given: tuple[Condition, ...]) -> tuple[sympy.Expr, sympy.Expr, tuple[Condition, ...]]:
    """How many lags of the past are at most x, how many of the future, and under which conditions."""
    smt.require_consistent([*domain(term), *given])
    reader = Reader.of(term, given)
    sides = reader.sides(term)
    past, future = (
        sum((sign * _upto(p, reader) for sign, p in subsets(side, reader)), sympy.Integer(0))
        for side in (sides.past, sides.future)
    )
    return past, future, (*domain(term), *given, *reader.chosen)


def _upto(p: Progression, reader: Reader) -> sympy.Expr:
    """How many lags of a progression are at most x, for x >= 0."""
    if p.is_single:
        return sympy.Piecewise((1, x >= p.start), (0, True)) if p.start != 0 else sympy.Integer(1)
    below = sympy.floor((x - p.start) / p.step)
    count = 1 + (below if p.last is None else sympy.Min(steps_to(p), below))
    return count if reader.certain(p.start <= p.step) else sympy.Max(0, count)


def check_degree(bound: Bound) -> Verdict:
    """Verify by first differences."""
    term = bound.term
    assumptions = tuple(dict.fromkeys((*domain(term), *bound.assumptions)))
    about_rows = {i, n}
    plain = tuple(c for c in assumptions if not c.free_symbols & about_rows)
    prover = smt.Prover()
    try:
        past, future, _ = _counts(term, plain)
        for name, count, sign in (("past", past, 1), ("future", future, -1)):
            first = holds_at(term, sympy.Integer(0)) if sign > 0 else sympy.false
            gained = indicator(holds_at(term, sign * (x + 1)))
            start = sympy.Eq(count.subs(x, 0) - indicator(first), 0)
            prover.prove(smt.Obligation(f"lag 0 of the {name}", plain, start))
            step = sympy.Eq(count.subs(x, x + 1) - count - gained, 0)
            split = smt.split_by_divisor(x, count, gained)
            prover.prove(smt.Obligation(f"one more lag of the {name}", (*plain, x >= 0), step, split))
    except NotByLag as e:
        return Verdict(False, failure=str(e))
    relation, rows = "==", [n >= 1]
    if bound.quantity == "max degree":
        relation = "==" if past == 0 or future == 0 else "<="  # the most of both sides, which no query need have
        gap = bound.expr - past.subs(x, n - 1) - future.subs(x, n - 1)
    else:
        rows = [i >= 0, i < n]
        gap = bound.expr - past.subs(x, i) - future.subs(x, n - 1 - i)
    if relation not in ("==", bound.relation):
        return Verdict(False, tuple(prover.steps), f"{relation} does not give {bound.relation}")
    for condition in rows:
        prover.prove(smt.Obligation(f"assumed: {condition}", assumptions, condition))
    prover.prove(smt.Obligation("the formula", assumptions, SIDES[bound.relation](gap)))
    return prover.verdict()
