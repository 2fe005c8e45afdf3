"""Pairs of patterns that depend on the lag, with symbols: sums over progressions, proved by second differences.

A lag d >= 0 is attended by n - d of n queries, so with S the lags of a pattern

    pairs(n) = sum over d in S, |d| < n, of n - |d|

and a progression d = a, a + s, ..., c of them below n, contributes c (n - a) - s c (c - 1) / 2.

Proof: pairs is the one function with pairs(0) = 0, pairs(1) = [0 in S] and

    pairs(n + 2) - 2 pairs(n + 1) + pairs(n) = [n + 1 in S] + [-(n + 1) in S].
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import sympy

from pidsl.analysis.bound import Bound, Certificate, asking
from pidsl.analysis.domains import domain
from pidsl.analysis.formulas import smt
from pidsl.analysis.formulas.smtlib import Condition, IsZero
from pidsl.analysis.formulas.words import n
from pidsl.analysis.symbolic.definition import NotByLag, holds_at
from pidsl.analysis.symbolic.progressions import Progression, Reader, subsets
from pidsl.analysis.verdict import Verdict
from pidsl.analysis.ways import Asked
from pidsl.language.terms import Term


def pairs_by_lag(term: Term, assume: Iterable[Condition] = ()) -> Bound:
    """The number of attended pairs of n queries and n keys.

    Exact where it can be told how the progressions of the pattern meet; else the sum over all of them, an upper bound.

    Raises:
        NotByLag: the pattern does not depend on the lag alone, or its lags are no progressions.
        TermError: contradictory assumptions.
    """
    given = tuple(assume)
    smt.require_consistent([*domain(term), *given])
    reader = Reader.of(term, given)
    sides = reader.sides(term)
    try:
        total = sum(
            (sign * pairs_of(p, reader) for side in (sides.past, sides.future) for sign, p in subsets(side, reader)),
            sympy.Integer(0),
        )
        relation = "=="
        reason = ""
    except NotByLag as e:
        total = sum((pairs_of(p, reader) for side in (sides.past, sides.future) for p in side), sympy.Integer(0))
        relation, reason = "<=", f"an upper bound: it depends on the symbols {e}"
    assumptions = (*domain(term), *given, *reader.chosen)
    method = "second differences" if relation == "==" else "second differences, at most"
    return Bound(asking(term, "pairs"), relation, total, assumptions, Certificate(method), reason)  # type: ignore[arg-type]


def pairs(asked: Asked) -> Bound:
    """`pairs_by_lag` as a way."""
    return pairs_by_lag(asked.subject, asked.assume)


def pairs_of(p: Progression, reader: Reader) -> sympy.Expr:
    """The sum of n - d over the lags d < n of one progression."""
    if p.is_single:
        return sympy.Max(0, n - p.start)
    if p.step == 1 and p.start == 0:
        c = n if p.last is None else sympy.Min(p.last + 1, n)
    else:
        below_n = sympy.floor((n - 1 - p.start) / p.step)
        c = 1 + (below_n if p.last is None else sympy.Min(steps_to(p), below_n))
        # where the progression begins beyond n, c must be 0; with c = -1 (a = s and n = 0) the sum is 0 as well
        if sympy.expand(p.start - p.step) != 0 and not reader.certain(p.start < p.step):
            c = sympy.Max(0, c)
    return c * (2 * (n - p.start) - p.step * (c - 1)) / 2


def steps_to(p: Progression) -> sympy.Expr:
    """How many steps lead to the last lag: floor((last - start) / step), taken into a minimum."""
    assert p.last is not None
    ends = p.last.args if isinstance(p.last, sympy.Min) else (p.last,)
    return sympy.Min(*(sympy.floor(sympy.expand((end - p.start) / p.step)) for end in ends))


SIDES: dict[str, Callable[[sympy.Expr], Condition]] = {
    "==": IsZero, "<=": lambda gap: gap >= 0, ">=": lambda gap: gap <= 0
}  # fmt: skip


def check_pairs(bound: Bound) -> Verdict:
    """Verify the formula by its second differences."""
    term, assumptions, f = bound.term, bound.assumptions, bound.expr
    compare = SIDES[bound.relation]
    assumptions = tuple(dict.fromkeys((*domain(term), *assumptions)))
    prover = smt.Prover()
    try:
        zero, ahead, behind = holds_at(term, sympy.Integer(0)), holds_at(term, n + 1), holds_at(term, -n - 1)
    except NotByLag as e:
        return Verdict(False, failure=str(e))
    about_n = [c for c in assumptions if n in c.free_symbols]
    if about_n:  # induction over n needs a formula for every n: prove one, then that both agree where it matters
        whole = pairs_by_lag(term, [c for c in assumptions if c not in about_n])
        if whole.relation not in ("==", bound.relation):
            return Verdict(False, failure=f"{whole.name} {whole.relation} does not give {bound.relation}")
        for condition in whole.assumptions:
            prover.prove(smt.Obligation(f"assumed: {condition}", assumptions, condition))
        prover.include(check_pairs(whole))
        prover.prove(smt.Obligation("the same where n is as assumed", (*assumptions, n >= 0), compare(f - whole.expr)))
        return prover.verdict()
    one = indicator(zero)
    second = f.subs(n, n + 2) - 2 * f.subs(n, n + 1) + f - indicator(ahead) - indicator(behind)
    start = (*assumptions, n >= 0)
    prover.prove(smt.Obligation("no token, no pair", assumptions, IsZero(f.subs(n, 0))))
    prover.prove(smt.Obligation("one token", assumptions, compare(f.subs(n, 1) - one)))
    prover.prove(
        smt.Obligation("second difference = keys gained", start, compare(second), smt.split_by_divisor(n, f, ahead))
    )
    return prover.verdict()


def indicator(condition: Condition) -> sympy.Expr:
    """1 where the condition holds, else 0."""
    if condition in (sympy.true, sympy.false):
        return sympy.Integer(int(condition == sympy.true))
    return sympy.Piecewise((1, condition), (0, True))
