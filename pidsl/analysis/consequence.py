"""What follows from another statement: the same quantity under more assumptions, at one n or for one number of layers,
a multiple of it, a weaker bound.

    pairs == f(n)   =>   sparsity == 1 - f(n)/n**2,   FLOPs == 4 D f(n),   pairs <= f(n) + 1,   pairs at n = 100

`read` says what a premise states about the question at hand; a consequence is verified by comparing two formulas.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import lcm
from typing import Any

import numpy as np
import sympy

from pidsl.analysis import documents
from pidsl.analysis.bound import ANY, Bound, Certificate, Question, Relation
from pidsl.analysis.formulas import smt
from pidsl.analysis.formulas.agreement import branch_starts, shape_of
from pidsl.analysis.formulas.assume import Condition, conditions, require_known, simplified
from pidsl.analysis.formulas.evaluate import values_of
from pidsl.analysis.formulas.smtlib import SIDES
from pidsl.analysis.formulas.words import L, holds, internal, n, symbol
from pidsl.analysis.sizes import FLOPS, factor
from pidsl.analysis.statements import VARIABLES, names_of
from pidsl.analysis.verdict import Verdict, failed
from pidsl.errors import TooHardError

RULE = "consequence"
POINTS = 20_000  # most n at which two formulas are compared
FLIPPED: dict[str, Relation] = {"==": "==", "<=": ">=", ">=": "<="}
t = symbol("t")
SOURCES = {
    "sparsity": "pairs", "average degree": "pairs", "kv bytes": "live keys", "decode bytes": "max degree",
    "received bytes": "received keys",
    **dict.fromkeys(FLOPS, "pairs"),
}  # fmt: skip
"""Quantities that are made of another one."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a statement says about another question: a relation and a formula, where its needs are met."""

    relation: Relation
    expr: sympy.Expr
    needs: tuple[Condition, ...]


def read(premise: Bound, question: Question) -> Reading:
    """What a premise says about a question.

    Raises:
        TooHardError: nothing.
    """
    of = premise.question
    expr, needs, relation = premise.expr, premise.assumptions, premise.relation
    if of.quantity != question.quantity:
        if SOURCES.get(question.quantity) != of.quantity:
            raise TooHardError(f"{premise.name} as a premise", f"one about {question.quantity}")
        if question.quantity == "sparsity":
            expr, needs, relation = 1 - expr / n**2, (*needs, n >= 1), FLIPPED[relation]
        elif question.quantity == "average degree":
            expr, needs = expr / n, (*needs, n >= 1)
        else:
            expr = factor(question.quantity, question.given) * expr
    if of.layers == ANY and isinstance(question.layers, int):
        expr, needs = expr.subs(L, question.layers), tuple(c.subs(L, question.layers) for c in needs)
    elif of.layers != question.layers:
        raise TooHardError(f"{premise.name} as a premise", f"one about {question.layers} layers")
    if (of.subject, of.allowed) != (question.subject, question.allowed):  # of all pairs that some documents allow
        confined = documents.any_confined(question.subject) and not question.allowed
        allows = confined and of.subject == documents.allowed(question.subject)
        most = documents.AT_MOST.get(question.quantity)
        if not allows or most is None or relation not in ("==", most):
            raise TooHardError(f"{premise.name} of {premise.shown_subject} as a premise", "one about the same")
        relation = most
    if (of.of, of.lookahead, of.page) != (question.of, question.lookahead, question.page) or of.form not in (
        None, question.form
    ):  # fmt: skip
        raise TooHardError(f"{premise.name} of {premise.shown_subject} as a premise", "one about the same")
    if of.n is None and question.n is not None:
        at = {t: question.n - 1} if of.quantity in ("live keys", "kv bytes") else {n: question.n}
        if question.n == 0 and (t in at or question.quantity == "decode bytes"):  # no token, no key
            return Reading("==", sympy.Integer(0), ())
        expr, needs = expr.subs(at), tuple(c.subs(at) for c in needs)
    elif of.n != question.n:
        raise TooHardError(f"{premise.name} as a premise", f"one for n = {question.n}")
    return Reading(relation, expr, tuple(c for c in needs if c != sympy.true))


def derived(premise: Bound, question: Question, reason: str | None = None) -> Bound:
    """What a premise says about a question, as a bound of its own; unknown where it says nothing."""
    why = premise.reason if reason is None else reason
    if not premise.is_known:
        return Bound(question, "unknown", sympy.nan, reason=why)
    found = read(premise, question)
    if sympy.false in found.needs:
        return Bound(question, "unknown", sympy.nan, reason=f"the formula does not hold for n = {question.n}")
    return Bound(question, found.relation, found.expr, found.needs, Certificate(RULE, (), (premise,)), why)


def bounded(answer: Bound, subject: Any) -> Bound:
    """What an answer about all pairs that some documents allow says about those of any documents."""
    question = replace(answer.question, subject=subject, allowed=False)
    if question.quantity not in documents.AT_MOST:
        why = "documents are not connected, and within one it is that of the pattern without `documents`"
        return Bound(question, "unknown", sympy.nan, reason=why)
    if answer.relation not in ("==", documents.AT_MOST[question.quantity]):
        why = answer.reason if not answer.is_known else "it depends on the documents"
        return Bound(question, "unknown", sympy.nan, reason=why)
    return derived(answer, question)


def under(bound: Bound, assume: Iterable[str | Condition]) -> Bound:
    """`Bound.under`."""
    more = conditions(assume)
    require_known(more, names_of(bound.subject), VARIABLES[bound.quantity], bound.shown_subject)
    known = (*bound.assumptions, *(c for c in more if c not in bound.assumptions))
    positive = [symbol(name) >= 0 for name in ("n", "t") if name in bound.symbols]
    smt.require_consistent([*known, *positive])
    stated = []
    for c in known:
        others = [*positive, *(d for d in known if d != c)]
        plain = isinstance(c, sympy.Rel) and c.has(sympy.Piecewise)
        stated.append(c.func(simplified(c.lhs, others), simplified(c.rhs, others)) if plain else c)
    expr = simplified(bound.expr, [*known, *positive])
    if (expr, tuple(stated)) == (bound.expr, bound.assumptions):
        return bound
    first = bound.certificate.premises[0] if bound.method == RULE else bound
    return replace(bound, expr=expr, assumptions=tuple(stated), certificate=Certificate(RULE, (), (first,)))


def check(bound: Bound) -> Verdict:
    """The premise says about this question what is claimed, or more."""
    if len(bound.certificate.premises) != 1:
        return failed("not one premise")
    (premise,) = bound.certificate.premises
    try:
        said = read(premise, bound.question)
    except TooHardError as e:
        return failed(str(e))
    if said.relation not in ("==", bound.relation):
        return failed(f"{premise.name} {said.relation} does not give {bound.relation}")
    prover = smt.Prover([f"{premise.name} {premise.relation} {premise.expr}"])
    known = (*bound.assumptions, *(x >= 0 for x in (n, t)))
    for condition in said.needs:
        if condition not in known:
            prover.prove(smt.Obligation(f"assumed: {condition}", known, condition))
    if sympy.expand(bound.expr - said.expr) == 0:
        prover.steps.append("the formula is what it says, identically")
    elif bound.relation == "==" and _agree(bound.expr, said.expr, bound.assumptions):
        prover.steps.append("the formula agrees with what it says at as many n as make them equal")
    else:
        prover.prove(smt.Obligation("the formula", known, _compared(bound, said.expr)))
    return prover.verdict()


def _compared(bound: Bound, said: sympy.Expr) -> Condition:
    """The two formulas compared, with symbols for what is infinite; of a share, times n * n."""
    infinite = {sympy.oo: internal("infinity"), -sympy.oo: -internal("infinity")}
    claimed, said = bound.expr.xreplace(infinite), said.xreplace(infinite)
    times = {"sparsity": n**2, "average degree": n}.get(bound.quantity, 1)
    return SIDES[bound.relation](sympy.expand((claimed - said) * times))


def _agree(a: sympy.Expr, b: sympy.Expr, assumptions: Iterable[Condition]) -> bool:
    """Whether two formulas in one variable are equal where the assumptions hold, by `agreement`; False: not told."""
    names = a.free_symbols | b.free_symbols
    if len(names) > 1 or any(c.free_symbols - names for c in assumptions):
        return False
    x = names.pop() if names else n
    try:
        finite = {sympy.oo: sympy.Integer(0), -sympy.oo: sympy.Integer(0)}
        shapes = [shape_of(e.xreplace(finite), x) for e in (a, b)]
        starts = {0}.union(*(s.starts for s in shapes))
        for c in assumptions:
            starts |= branch_starts(sympy.Piecewise((1, c), (0, True)), x)
        many = (max(s.degree for s in shapes) + 1) * lcm(*(s.period for s in shapes))
        if max(starts) + many > POINTS:
            return False
        at = np.arange(max(starts) + many).astype(object)
        at = at[[all(holds(c, {x: k}) for c in assumptions) for k in at]]
        for infinite in (1, -1):  # what is infinite is not equal to a number
            put = {sympy.oo: sympy.Integer(infinite), -sympy.oo: sympy.Integer(infinite * 7)}
            (p, under, known), (q, below, also) = (values_of(e.xreplace(put), {x: at}) for e in (a, b))
            if not (known & also & (p * below == q * under)).all():
                return False
    except (TooHardError, ValueError):
        return False
    return True
