"""What can be said of patterns within documents, `T & documents`, wherever these start.

No pair crosses from one document into another: that is proved. How many pairs there are, and how far they reach,
depends on the documents: a formula about every pair that some documents allow is a bound of what any of them have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pidsl.analysis.bound import Bound, Question, Relation, exact, unknown
from pidsl.analysis.verdict import Verdict
from pidsl.errors import TermError
from pidsl.language.terms import Term, is_confined, of_lags_alone, within
from pidsl.relation.documents import crossing
from pidsl.relation.isl import in_turn

ACROSS, METHOD = "pairs across documents", "documents apart"
AT_MOST: Mapping[str, Relation] = {
    "pairs": "<=", "degree": "<=", "max degree": "<=", "average degree": "<=", "live keys": "<=", "live pages": "<=",
    "received keys": "<=", "farthest": "<=", "sparsity": ">=",
}  # fmt: skip


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


def every_pair(question: Question) -> Question:
    """The question about all pairs that some documents allow."""
    subject = allowed(question.subject)
    return replace(question, subject=subject, allowed=any_confined(subject))


def check_apart(bound: Bound) -> Verdict:
    """Verify that no pair crosses: isl subtracts from what programs compute of a document what lies within it."""
    if bound.expr != 0 or bound.relation == ">=":
        return Verdict(False, failure="only none is proved")
    left = crossing(bound.term)
    if not left.is_empty():
        return Verdict(False, failure=f"pairs cross: {left.sample()}")
    return Verdict(True, ("no pair that is computed of a document leaves it, for all starts, lengths and offsets",))
