"""`summaries`: exact keys and keys that each stand for a span of tokens, in one softmax.

    Summaries ::= summaries(Term, [Spans, ...])
    Spans     ::= spans(size, Term, of="block" | "above" | "beside" | "row")

    query i attends    tokens j of the exact term             logit  scale q_i . k_j        value  v_j
                       spans  s of every level that it sees   logit  scale q_i . kbar_s     value  vbar_s
    a span's value     vbar_s = sum over its tokens j of softmax_j(scale qbar_s . k_j) v_j

The term of a level is rectangular: its `j` is the index of a span, and its number of keys the number of spans. Where n
tokens lie in rows of `size`, the spans are:

    of          how many                  span s stands for                          kbar_s (and qbar_s)
    "block"     ceil(n / size)            the tokens of row s                        maximum over its tokens of k (of q)
    "above"     ceil(n / size) * size     tokens of s's column, in the rows above s  the same
    "beside"    n                         the other tokens of s's row                the same
    "row"       n                         all tokens of s's row                      k_s (q_s), those of token s

Any exact term and any levels may go together. `Summaries.covers` decides whether they hold each token once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from pidsl.errors import TermError
from pidsl.language.door import behind
from pidsl.language.goes_with import check_documents, check_inside
from pidsl.language.shown import Shown
from pidsl.language.sizes import checked_size
from pidsl.language.terms import Ring, Term, require_concrete, walk, within
from pidsl.language.trace import where
from pidsl.language.vocabulary import blocks, causal, lags, stride

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Of = Literal["block", "above", "beside", "row"]


@dataclass(frozen=True, slots=True, repr=False)
class Spans:
    """One level of spans; made by `spans`.

    Args:
        size: tokens per row.
        seen: which query sees which span.
        of: what a span stands for.
    """

    size: int
    seen: Term
    of: Of = "block"

    @property
    def members(self) -> Term:
        """Which span (`i`) stands for which token (`j`)."""
        size = self.size
        match self.of:
            case "block":
                return where(lambda i, j: j // size == i)
            case "above":
                return stride(size) & causal - lags(0)
            case "beside":
                return blocks(size) - lags(0)
            case "row":
                return blocks(size)

    def count(self, n: int) -> int:
        """How many spans there are over n tokens."""
        rows = -(-n // self.size)
        return {"block": rows, "above": rows * self.size}.get(self.of, n)

    def __repr__(self) -> str:
        return f"spans({self.size}, {self.seen!r}{'' if self.of == 'block' else f', of={self.of!r}'})"


@dataclass(frozen=True, slots=True, repr=False)
class Summaries(Shown):
    """Exact keys and levels of spans; made by `summaries`.

    Args:
        exact: which query attends which token by itself.
        levels: the spans.

    Where exact keys and spans are confined to documents, numbers are those of one document.
    """

    part: ClassVar[str] = "summaries"
    exact: Term
    levels: tuple[Spans, ...]

    def times(self, n: int) -> NDArray[np.int64]:
        """How often token j stands in the softmax of query i, exactly or in a span: int64 array [n, n].

        >>> import pidsl
        >>> fixed = summaries(pidsl.blocks(2) & pidsl.causal, [spans(2, pidsl.where(lambda i, j: j < i // 2))])
        >>> bool((fixed.times(9) == pidsl.causal.mask(9)).all())
        True
        """
        import numpy as np

        found = within(self.exact)[0].mask(n).astype(np.int64)
        for level in self.levels:
            spans = level.count(n)
            seen = within(level.seen)[0].mask(n, spans)
            found += seen.astype(np.int64) @ level.members.mask(spans, n).astype(np.int64)
        return found

    def covers(self, term: Term, most: int | None = None) -> bool:
        """Whether exact keys and spans hold exactly the pairs of `term`, each once: for every number of tokens.

        >>> import pidsl
        >>> fixed = summaries(pidsl.blocks(64) & pidsl.causal, [spans(64, pidsl.where(lambda i, j: j < i // 64))])
        >>> fixed.covers(pidsl.causal)
        True

        Args:
            term: a pattern without symbols.
            most: only for at most so many tokens.

        Raises:
            TooHardError: isl's operation limit struck.
        """
        return behind("covers")(self, term, most)

    def logits(self, n: int) -> int:
        """How many logits all softmaxes have: (query, token) pairs and (query, span) pairs, and, inside the spans,
        (span, token) pairs.

        >>> import pidsl
        >>> fixed = summaries(pidsl.blocks(64) & pidsl.causal, [spans(64, pidsl.where(lambda i, j: j < i // 64))])
        >>> fixed.logits(4096), pidsl.causal.pairs(4096)
        (266240, 8390656)
        """
        seen = sum(within(x.seen)[0].pairs(n, x.count(n)) for x in self.levels)
        members = sum(x.members.pairs(x.count(n), n) for x in self.levels)
        return within(self.exact)[0].pairs(n) + seen + members

    def __repr__(self) -> str:
        return f"summaries({self.exact!r}, [{', '.join(map(repr, self.levels))}])"


def spans(size: int, seen: Term, of: Of = "block") -> Spans:
    """A level of keys that stand for spans of tokens, for `summaries`.

    >>> import pidsl
    >>> spans(64, pidsl.where(lambda i, j: j < i // 64))
    spans(64, where(lambda i, j: j < i // 64))

    Args:
        size: tokens per row, see the table of this module.
        seen: which query sees which span: a rectangular term, in which j counts spans. A query should see no span
            without tokens.
        of: what a span stands for: the "block" of `size` tokens; the tokens "above" a token, if tokens lie in rows of
            `size`; those "beside" it; or its "row".

    Raises:
        TermError: size < 1 or no number, a term that is none or holds a ring, another `of`.
        SymbolError: a term with symbols.
    """
    where_ = f"spans({size!r}, {seen!r}, of={of!r})"
    found = checked_size(size, "size", where_, least=1)
    if not isinstance(found, int):
        raise TermError(f"size = {found!r}", "a number: how many spans there are depends on it", where_)
    if of not in get_args(Of):
        raise TermError(f"of = {of!r}", f"one of {', '.join(map(repr, get_args(Of)))}", where_)
    term = _term(seen, "seen", where_)
    if any(isinstance(t, Ring) for t in walk(term)):
        raise TermError(f"{term!r}", "a term without rings: there are not as many spans as queries", where_)
    return Spans(found, term, of)


def summaries(exact: Term, levels: Iterable[Spans]) -> Summaries:
    """One softmax over exact keys and over keys that stand for spans of tokens (Combiner, arXiv 2107.05768).

    >>> import pidsl
    >>> past = pidsl.where(lambda i, j: j < i // 64)  # the blocks before the query's own
    >>> pidsl.summaries(pidsl.blocks(64) & pidsl.causal, [pidsl.spans(64, past)])
    summaries(blocks(64) & causal, [spans(64, where(lambda i, j: j < i // 64))])

    Args:
        exact: which query attends which token by itself.
        levels: the spans, made by `spans`.

    Returns:
        `Summaries`, for `pidsl.compile`.

    Raises:
        TermError: something that is not a term or a level.
        SymbolError: a term with symbols.
    """
    found = tuple(levels)
    for index, level in enumerate(found):
        if not isinstance(level, Spans):
            given = f"level {index}: {level!r} ({type(level).__name__})"
            raise TermError(given, "spans", "summaries(exact, [spans, ...])", "spans(64, seen)")
    made = Summaries(_term(exact, "exact", "summaries(exact, [spans, ...])"), found)
    check_documents([made.exact, *(level.seen for level in found)], repr(made), "summaries(exact, [spans, ...])")
    return made


def _term(term: Term, name: str, where_: str) -> Term:
    if not isinstance(term, Term):
        given = f"{name} = {term!r} ({type(term).__name__})"
        check_inside("summaries", term, given, where_)
        raise TermError(given, "a pidsl term", where_)
    require_concrete(term, "summarise spans")
    return term
