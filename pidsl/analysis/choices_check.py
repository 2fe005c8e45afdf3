"""Verifies what is said of patterns from which calls choose: see `choices` for the theorem."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import sympy

from pidsl.analysis import choices
from pidsl.analysis.bound import Bound
from pidsl.analysis.formulas import smt
from pidsl.analysis.formulas.assume import Condition
from pidsl.analysis.formulas.words import from_index, n, symbol
from pidsl.analysis.verdict import Verdict, failed
from pidsl.errors import TooHardError
from pidsl.language.terms import Chosen, Difference, Intersection, Term, Union, is_chosen, walk

FLIPPED = {"<=": ">=", ">=": "<="}
t, i = symbol("t"), symbol("i")


def check(bound: Bound) -> Verdict:
    """Every premise says something about the pattern, whatever is chosen, and together no less than is claimed."""
    wanted = choices.AT_MOST.get(bound.quantity)
    if wanted is None or not choices.any_chosen(bound.subject) or bound.relation == "==":
        return failed(f"no bound of what calls choose: {bound.quantity} {bound.relation}")
    if not bound.certificate.premises:
        return failed("no premise")
    said, needs = [], list[Condition]()
    for premise in bound.certificate.premises:
        said.append(_read(premise, bound, wanted))
        needs += premise.assumptions
    prover = smt.Prover([f"{x.name} of {x.shown_subject} {x.relation} {x.expr}" for x in bound.certificate.premises])
    known = (*bound.assumptions, *(x >= 0 for x in (n, t, i)))
    for condition in needs:
        if condition not in known:
            prover.prove(smt.Obligation(f"assumed: {condition}", known, condition))
    strongest = (sympy.Min if bound.relation == "<=" else sympy.Max)(*said)
    if strongest == bound.expr or sympy.expand(strongest - bound.expr) == 0:
        prover.steps.append("the formula is what they say, identically")
    else:
        weaker = sympy.Ge if bound.relation == "<=" else sympy.Le
        prover.prove(smt.Obligation("the formula", known, cast(Condition, weaker(bound.expr, strongest))))
    return prover.verdict()


def _read(premise: Bound, bound: Bound, wanted: str) -> sympy.Expr:
    """What a premise about the pattern with all, or nothing, chosen says of it under any choice.

    Raises:
        TooHardError: nothing of the kind that is claimed.
    """
    subject = premise.subject
    if premise.question == replace(bound.question, subject=subject):
        if (
            subject == choices.of_most(bound.subject)
            and bound.relation == wanted
            and premise.relation in ("==", wanted)
        ):
            return premise.expr
        if subject == choices.of_least(bound.subject) and premise.relation in ("==", bound.relation):
            if bound.relation == FLIPPED[wanted]:
                return premise.expr
            if bound.quantity in ("pairs", "degree", "max degree") and isinstance(bound.subject, Term):
                return premise.expr + _chosen(bound.subject) * (n if bound.quantity == "pairs" else 1)
    given = f"{premise.name} {premise.relation} of {premise.shown_subject}"
    raise TooHardError(given, f"a premise from which {bound.name} {bound.relation} follows")


def _chosen(term: Term) -> sympy.Expr:
    """The keys that a list adds to a query at most: those of its blocks, where it is one list of the query's own keys.

    Raises:
        TooHardError: there are several lists, or the keys are those of other tokens.
    """
    lists = {(x.block, x.budget, x.queries) for x in walk(term) if isinstance(x, Chosen)}
    moved = [x for x in walk(term) if is_chosen(x) and not isinstance(x, Chosen | Union | Intersection | Difference)]
    if len(lists) != 1 or moved:
        raise TooHardError(f"the budget of {term!r}", "one choice under |, & and - alone")
    ((block, budget, _),) = lists
    return cast(sympy.Expr, from_index(block) * from_index(budget))
