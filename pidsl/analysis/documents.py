"""What can be said of patterns within documents, `T & documents`, wherever these start.

No pair crosses from one document into another: that is proved. How many pairs there are, and how far they reach,
depends on the documents: a formula about every pair that some documents allow is a bound of what any of them have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pidsl.analysis.bound import Bound, Relation, exact, unknown
from pidsl.errors import TermError
from pidsl.language.terms import Term, is_confined, of_lags_alone, within
from pidsl.relation.documents import crossing
from pidsl.relation.isl import in_turn

ACROSS, METHOD = "pairs across documents", "documents apart"
AT_MOST: Mapping[str, Relation] = {
    "pairs": "<=", "degree": "<=", "max degree": "<=", "average degree": "<=", "live keys": "<=", "live pages": "<=",
    "farthest": "<=", "sparsity": ">=",
}  # fmt: skip

WITHIN = ("contiguous", "depth")  # of one document only


@in_turn
def no_leak(term: Term) -> Bound:
    """How many pairs have a query in one document and a key in another, however tokens are cut into documents: none.

    >>> import pidsl
    >>> print(no_leak(pidsl.window(63) & pidsl.documents))
    pairs across documents of window(63) & documents
      == 0
      proof: isl: of what programs compute of a document, every pair stays in it, for all starts, lengths and offsets
    >>> no_leak(pidsl.window(63)).is_known
    False

    Args:
        term: a pattern; symbols may be open.

    Returns:
        A `Bound`; unknown where pairs do cross, as they do of nearly every pattern without `documents`.

    Raises:
        TermError: not a pattern.
    """
    if not isinstance(term, Term):
        raise TermError(f"{term!r} ({type(term).__name__})", "a pattern: window(64) & documents")
    if not is_confined(term) and (term.symbols or not crossing(term).is_empty()):
        why = "a query attends keys of other documents wherever one starts between them; `T & documents` does not"
        return unknown(term, ACROSS, why)
    return exact(term, ACROSS, 0, METHOD)


def any_confined(subject: Any) -> bool:
    """Whether a pattern, or each of several, holds within documents."""
    terms = subject if isinstance(subject, tuple) else (subject,)
    return any(isinstance(term, Term) and is_confined(term) for term in terms)


def allowed(subject: Any) -> Any:
    """A pattern of all pairs that some documents allow: of lags alone, wherever documents start, the pattern itself.

    Of others, no term says which these are: the relation and the mask of the confined pattern do.
    """
    if isinstance(subject, tuple):
        return tuple(map(allowed, subject))
    pattern, _ = within(subject)
    return pattern if of_lags_alone(pattern) else subject


def bounded(answer: Bound, subject: Any) -> Bound:
    """What an answer about all pairs that some documents allow says about those of any documents."""
    relation = AT_MOST.get(answer.quantity)
    if relation is None:
        why = "documents are not connected, and within one it is that of the pattern without `documents`"
        return unknown(subject, answer.quantity, why, dict(answer.given))
    if answer.relation not in ("==", relation):
        why = answer.reason if not answer.is_known else "it depends on the documents"
        return unknown(subject, answer.quantity, why, dict(answer.given))
    return replace(answer, subject=subject, relation=relation)


def proving(bound: Bound) -> tuple[Bound, ...]:
    """Statements each of which proves a bound: itself, or what it says of all pairs that some documents allow."""
    if not any_confined(bound.subject) or bound.quantity not in (*AT_MOST, *WITHIN):
        return (bound,)
    if AT_MOST.get(bound.quantity) != bound.relation:
        return ()
    whole = replace(bound, subject=allowed(bound.subject))
    return replace(whole, relation="=="), whole


def check_apart(bound: Bound) -> Any:
    """Verify that no pair crosses: isl subtracts from what programs compute of a document what lies within it."""
    from pidsl.analysis.proofs import Verdict

    if bound.expr != 0 or bound.relation == ">=":
        return Verdict(False, failure="only none is proved")
    left = crossing(bound.term)
    if not left.is_empty():
        return Verdict(False, failure=f"pairs cross: {left.sample()}")
    return Verdict(True, ("no pair that is computed of a document leaves it, for all starts, lengths and offsets",))
