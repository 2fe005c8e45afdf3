"""Which keys queries attend, as a function of their positions: what a program asks where keys are listed one by one."""

from __future__ import annotations

from pidsl.language.expr import Pred, show_pred
from pidsl.language.terms import Term
from pidsl.relation.build import rows_relation
from pidsl.relation.forms import predicate
from pidsl.relation.isl import coalesced, limited, read_set


def pairs_predicate(term: Term) -> Pred:
    """Whether a query attends a key, over their positions i and j and the lengths n and m, where both exist.

    `causal` gives `i - j >= 0`.
    """
    with limited(f"which keys a query of {term!r} attends"):
        pairs = rows_relation(term).wrap().flatten()
        known = read_set("[n, m, offset] -> { [i, j] : offset = 0 and 0 <= i < n and 0 <= j < m }")
        kept = coalesced(pairs.intersect(known)).gist(known)
        return predicate(kept, ("i", "j"))


def pairs_source(term: Term) -> str:
    """`attends(n, m, i, j)` of a pattern as source: positions of existing queries and keys, arrays or numbers."""
    return attends_source(pairs_predicate(term))


def attends_source(pred: Pred) -> str:
    """The same of a predicate over n, m, i and j."""
    return f"def attends(n, m, i, j):\n    return {show_pred(pred)}\n"
