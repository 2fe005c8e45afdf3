"""Questions about terms that isl decides for every n and m at once."""

from __future__ import annotations

from collections.abc import Callable

import islpy as isl

from pidsl.errors import TermError
from pidsl.language.terms import Term, is_confined, within
from pidsl.relation.build import needs_square, relation
from pidsl.relation.isl import limited, read_set


def equals(a: Term, b: Term) -> bool:
    """Same pairs for all n, m (for all n = m when either holds a ring)."""
    if is_confined(a) and is_confined(b):  # what holds within one document holds within each
        return equals(within(a)[0], within(b)[0])
    if is_confined(a) or is_confined(b):
        raise _apart(a, b, "equals")
    return _decide(a, b, "equals", isl.Map.is_equal)


def contained(a: Term, b: Term) -> bool:
    """Every pair of `a` is a pair of `b`, for all n, m (for all n = m when either holds a ring)."""
    if is_confined(b):
        if not is_confined(a):
            raise _apart(a, b, "<=")
        return contained(within(a)[0], within(b)[0])
    return _decide(a, b, "<=", isl.Map.is_subset)


def is_empty(term: Term) -> bool:
    """No pair for any n, m."""
    x = relation(term)
    with limited(f"whether {term!r} is empty"):
        return x.is_empty()


def _apart(a: Term, b: Term, question: str) -> TermError:
    expected = "both confined to documents, or neither: which pairs cross a document depends on where they start"
    return TermError(f"{a!r} {question} {b!r}", expected, hint="a & documents for the one that is not confined")


def _decide(a: Term, b: Term, question: str, ask: Callable[[isl.Map, isl.Map], bool]) -> bool:
    x, y = relation(a), relation(b)
    with limited(f"whether {a!r} {question} {b!r}"):
        if needs_square(a) or needs_square(b):
            square = read_set("[n, m] -> { : n = m }")
            x, y = x.intersect_params(square), y.intersect_params(square)
        return ask(x, y)
