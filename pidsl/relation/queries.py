"""Questions about terms that isl decides for every n and m at once."""

from __future__ import annotations

import islpy as isl

from pidsl.language.terms import Term
from pidsl.relation.build import needs_square, relation
from pidsl.relation.isl import limited, read_set


def equals(a: Term, b: Term) -> bool:
    """Same pairs for all n, m (for all n = m when either holds a ring)."""
    x, y = _comparable(a, b)
    with limited(f"whether {a!r} equals {b!r}"):
        return bool(x.is_equal(y))


def contained(a: Term, b: Term) -> bool:
    """Every pair of `a` is a pair of `b`, for all n, m (for all n = m when either holds a ring)."""
    x, y = _comparable(a, b)
    with limited(f"whether {a!r} <= {b!r}"):
        return bool(x.is_subset(y))


def is_empty(term: Term) -> bool:
    """No pair for any n, m."""
    x = relation(term)
    with limited(f"whether {term!r} is empty"):
        return bool(x.is_empty())


def _comparable(a: Term, b: Term) -> tuple[isl.Map, isl.Map]:
    x, y = relation(a), relation(b)
    if needs_square(a) or needs_square(b):
        square = read_set("[n, m] -> { : n = m }")
        x, y = x.intersect_params(square), y.intersect_params(square)
    return x, y
