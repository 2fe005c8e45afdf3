"""Keys that a rank gets from others, verified: for every number of tokens, and however many ranks share them.

A rank has the consecutive tokens a .. b - 1 of n. What its rows attend elsewhere lies before a, or from b on:

    before a    keys of tokens 0 .. a - 1 that some query after a - 1 attends: the live keys at t = a - 1 <= n - 2
    from b on   keys up to b - 1 + g, if no query attends a key more than g after itself: at most max(0, g)
    together    at most the n - 1 tokens that are not its own

How far queries see ahead is the largest lag of the transposed pattern, a premise; or, where the pattern has a
definition, a fact that follows from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import sympy

from pidsl.analysis.bound import Bound, Question
from pidsl.analysis.domains import domain
from pidsl.analysis.formulas.smt import Obligation, Prover
from pidsl.analysis.formulas.smtlib import Definition
from pidsl.analysis.formulas.words import n, symbol
from pidsl.analysis.symbolic.definition import I, J, attends, refusing
from pidsl.analysis.verdict import Verdict, failed
from pidsl.language.terms import Term

t = symbol("t")
LATER = (t >= 0, t <= n - 2)  # t is before the first token of a rank


def behind(question: Question) -> Question:
    """What is to be known of the keys before a rank's own."""
    return replace(question, quantity="live keys")


def ahead(question: Question) -> Question:
    """What is to be known of the keys after a rank's own."""
    return replace(question, subject=cast(Term, question.subject).T, quantity="farthest", layers=1)


@refusing
def check(bound: Bound) -> Verdict:
    """The live keys and those ahead are together no more than is claimed, for each place where a rank can start."""
    certificate = bound.certificate
    live, *others = certificate.premises
    if bound.relation != "<=" or live.question != behind(bound.question) or live.relation not in ("==", "<="):
        return failed(f"{live.name} {live.relation} of {live.shown_subject} does not bound {bound.name} from above")
    if others and (
        len(others) > 1 or others[0].question != ahead(bound.question) or others[0].relation not in ("==", "<=")
    ):
        return failed("not a premise of how far queries see ahead")
    reach = others[0].expr if others else certificate.fact("ahead")
    if reach.has(sympy.oo, sympy.zoo, sympy.nan) and reach != -sympy.oo:
        return failed(f"no number of keys ahead: {reach}")
    term = Definition("attends", (I, J), attends(bound.term, I, J) if not others else sympy.false)
    prover = Prover(definitions=() if others else (term,), heading=str(bound))
    prover.all(_obligations(bound, live, None if others else term, sympy.Integer(0) if reach == -sympy.oo else reach))
    for premise in others:
        prover.all(Obligation(f"assumed: {c}", (*_known(bound),), c) for c in premise.assumptions)
    return prover.verdict()


def _known(bound: Bound) -> tuple[sympy.Basic, ...]:
    return tuple(dict.fromkeys((*bound.assumptions, *domain(bound.term), n >= 1)))


def _obligations(bound: Bound, live: Bound, term: Definition | None, reach: sympy.Expr) -> Iterator[Obligation]:
    known = _known(bound)
    for condition in live.assumptions:
        yield Obligation(f"assumed: {condition}", (*known, *LATER), condition)
    if term is not None:
        pair = (I >= 0, J > I, J < n, term(I, J))
        yield Obligation("no key is attended farther ahead", (*known, *pair), J - I <= reach)
    most = sympy.Max(0, reach)
    yield Obligation("the first rank", known, sympy.Min(most, n - 1) <= bound.expr)
    yield Obligation("any other rank", (*known, *LATER), sympy.Min(live.expr + most, n - 1) <= bound.expr)
