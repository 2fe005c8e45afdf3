"""Formulas for patterns between blocks, from answers to smaller questions: one token per block."""

from __future__ import annotations

import sympy

from pidsl.analysis.bound import ANY, Bound, Certificate
from pidsl.analysis.formulas.pieces import written
from pidsl.analysis.smaller.between import Levels, assumed, between, in_tokens, levels, questions, unlike
from pidsl.analysis.smaller.block_keys import lengths, most_keys
from pidsl.analysis.ways import Asked, NotMine
from pidsl.errors import TooHardError
from pidsl.language.terms import Term
from pidsl.relation.isl import limited

METHOD = "blocks"
WORK = 300_000  # operations of isl for the largest degree


def answer(asked: Asked) -> Bound:
    """What is asked of a term that can be read on blocks.

    Raises:
        TooHardError: what it needs to know between blocks is not known.
    """
    q = asked.question
    found = levels(q.subject) if isinstance(q.subject, Term) else None
    if found is None or q.n is not None or q.page is not None or q.lookahead is not None:
        raise NotMine
    if why := unlike(q.quantity, found):
        raise TooHardError(repr(q.subject), "a pattern of whole blocks, or a causal one", why)
    premises = []
    for one in questions(q, found):
        premise = asked.ask(one)
        if not premise.is_exact:
            raise TooHardError(f"the {premise.name} of {premise.shown_subject}", "known", hint=premise.reason)
        premises.append(premise)
    known = [premise.expr for premise in premises]
    assumptions = assumed(q, found, premises)
    expr = _largest(found, known) if q.quantity == "max degree" else between(q.quantity, found, known)
    facts = (("size", found.size), ("off", found.off), ("low", found.low), ("high", found.high))
    reason = premises[0].reason if q.quantity == "depth" else ""
    return Bound(q, "==", expr, assumptions, Certificate(METHOD, facts, tuple(premises)), reason)


def of_so_many_layers(asked: Asked) -> Bound:
    """As `answer`, not of any number of layers."""
    if asked.question.layers == ANY:
        raise NotMine
    return answer(asked)


def _largest(found: Levels, known: list[sympy.Expr]) -> sympy.Expr:
    """The most keys of any query."""
    with limited(f"the largest degree of {found.any!r}", WORK):
        return in_tokens(written(most_keys(found, known), lengths(found.size)), found.size)
