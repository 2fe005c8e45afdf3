"""What can be said of patterns from which calls choose, whatever they list.

    T.forced  <=  T  <=  T.possible                               pair by pair, in every call
    keys of a query  <=  those of T.forced + budget * block

More pairs, in whichever layer, are more keys, more that is kept and farther reach, and no more layers to connect what
is asked. So what is known of the one pattern is a bound from below, of the other one from above, and a budget caps it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

import sympy

from pidsl.analysis.bound import Bound, Certificate, Question, Relation
from pidsl.analysis.formulas.words import from_index, n
from pidsl.errors import TermError, TooHardError
from pidsl.language.chosen import Selection, forced, possible, selection
from pidsl.language.terms import Term, is_chosen

RULE = "choice"
AT_MOST: Mapping[str, Relation] = {
    "pairs": "<=", "degree": "<=", "max degree": "<=", "live keys": "<=", "live pages": "<=", "received keys": "<=",
    "farthest": "<=", "contiguous": "<=", "depth": ">=",
}  # fmt: skip
"""What a quantity of all that is possible says about it under any choice."""
CAPPED = {"pairs": n, "degree": sympy.Integer(1), "max degree": sympy.Integer(1)}
"""Queries that a budget is added for."""


def any_chosen(subject: Any) -> bool:
    """Whether calls choose pairs of a pattern, or of one of several."""
    return any(isinstance(term, Term) and is_chosen(term) for term in _terms(subject))


def of_most(subject: Any) -> Any:
    """The pattern, or each of several, with all that may be chosen."""
    return tuple(map(possible, subject)) if isinstance(subject, tuple) else possible(subject)


def of_least(subject: Any) -> Any:
    """The pattern, or each of several, with nothing chosen."""
    return tuple(map(forced, subject)) if isinstance(subject, tuple) else forced(subject)


def bounded(question: Question, ask: Callable[[Question], Bound]) -> Bound:
    """The bound from all that is possible and, of counts of keys, from the budget: the lesser of both.

    Args:
        question: about a pattern from which calls choose.
        ask: answers it about the patterns without a choice.
    """
    if question.quantity not in AT_MOST:
        raise KeyError(question.quantity)
    wanted = AT_MOST[question.quantity]
    premises = [ask(replace(question, subject=of_most(question.subject)))]
    if question.quantity in CAPPED and _sizes(question.subject) is not None:
        premises.append(ask(replace(question, subject=of_least(question.subject))))
    known = [x for x in premises if x.is_known and x.relation in ("==", wanted)]
    if not known:
        return Bound(question, "unknown", sympy.nan, reason=premises[0].reason or "no bound of what is possible")
    said = [_said(x, question) for x in known]
    pick = sympy.Min if wanted == "<=" else sympy.Max
    needs = dict.fromkeys(c for x in known for c in x.assumptions)
    reason = "whatever calls choose" + (f"; {known[0].reason}" if known[0].reason else "")
    return Bound(question, wanted, pick(*said), tuple(needs), Certificate(RULE, (), tuple(known)), reason)


def _said(premise: Bound, question: Question) -> sympy.Expr:
    """What a premise says about a quantity of the pattern under any choice."""
    return premise.expr if premise.subject == of_most(question.subject) else _capped(premise.expr, question)


def _capped(expr: sympy.Expr, question: Question) -> sympy.Expr:
    """A count of what is forced, and the most that a budget adds to it."""
    sizes = _sizes(question.subject)
    if sizes is None:
        raise TooHardError(f"a budget for {question.subject!r}", "a choice under |, & and - alone")
    queries = CAPPED[question.quantity]
    if question.quantity == "pairs" and question.n is not None:
        queries = sympy.Integer(question.n)
    return cast(sympy.Expr, expr + queries * from_index(sizes.budget) * from_index(sizes.block))


def _sizes(subject: Any) -> Selection | None:
    """What calls list for a pattern; None where that caps no count of keys."""
    try:
        return selection(subject) if isinstance(subject, Term) else None
    except TermError:  # a choice inside of layers, or several
        return None


def _terms(subject: Any) -> tuple[Any, ...]:
    return subject if isinstance(subject, tuple) else (subject,)
