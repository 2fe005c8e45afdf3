"""Questions about terms that isl decides for every n and m at once."""

from __future__ import annotations

from collections.abc import Callable

import islpy as isl

from pidsl.language.terms import Term
from pidsl.relation.build import needs_square, relation
from pidsl.relation.isl import limited, read_set


def equals(a: Term, b: Term) -> bool:
    """Same pairs for all n, m (for all n = m when either holds a ring)."""
    return _decide(a, b, "equals", isl.Map.is_equal)


def contained(a: Term, b: Term) -> bool:
    """Every pair of `a` is a pair of `b`, for all n, m (for all n = m when either holds a ring)."""
    return _decide(a, b, "<=", isl.Map.is_subset)


def is_empty(term: Term) -> bool:
    """No pair for any n, m."""
    x = relation(term)
    with limited(f"whether {term!r} is empty"):
        return x.is_empty()


def _decide(a: Term, b: Term, question: str, ask: Callable[[isl.Map, isl.Map], bool]) -> bool:
    x, y = relation(a), relation(b)
    with limited(f"whether {a!r} {question} {b!r}"):
        if needs_square(a) or needs_square(b):
            square = read_set("[n, m] -> { : n = m }")
            x, y = x.intersect_params(square), y.intersect_params(square)
        return ask(x, y)
