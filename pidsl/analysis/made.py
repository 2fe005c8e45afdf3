"""Ways that need no look at the pattern: what a quantity is made of, and what no layer reaches."""

from __future__ import annotations

from dataclasses import replace

from pidsl.analysis.bound import Bound, Question, exact
from pidsl.analysis.consequence import SOURCES, derived
from pidsl.analysis.ways import Asked, NotMine


def by_source(asked: Asked) -> Bound:
    """From the quantity that this one is made of."""
    found = asked.ask(source(asked.question), asked.assume)
    return derived(found, asked.question)


def source(question: Question) -> Question:
    """The question about the quantity that this one is made of, for every n; itself, where it is made of none."""
    if question.quantity in SOURCES:
        return replace(question, quantity=SOURCES[question.quantity], n=None, form=None)
    return replace(question, n=None)


def no_layer(asked: Asked) -> Bound:
    """Without a layer, every token is itself."""
    if asked.question.layers != 0:
        raise NotMine
    q = asked.question
    reason = "no layer: every token is itself"
    return exact(q.subject, q.quantity, 0, "no layer", given={"layers": 0}, reason=reason)
