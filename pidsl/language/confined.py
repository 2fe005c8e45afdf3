"""`documents` in whatever is made of patterns: a gate, heads, layers and summaries have it in each part or in none.

T & documents                                   T within each document
heads([(2, a & documents), (1, b & documents)])
"""

from __future__ import annotations

from typing import Any, TypeVar, assert_never, cast

from pidsl.language.gate import Gate
from pidsl.language.heads import Heads
from pidsl.language.schedule import Schedule
from pidsl.language.summaries import Spans, Summaries
from pidsl.language.terms import Term, within

Pattern = TypeVar("Pattern", bound=Term | Gate | Heads | Schedule | Summaries)


def confined(pattern: Pattern) -> tuple[Pattern, bool]:
    """A pattern without the word `documents`, which then holds within a document; and whether it had the word.

    >>> import pidsl
    >>> confined(pidsl.window(3) & pidsl.documents)
    (window(3), True)
    >>> confined(pidsl.heads([(2, pidsl.window(3) & pidsl.documents), (1, pidsl.documents)]))
    (heads([(2, window(3)), (1, full)]), True)
    >>> confined(pidsl.layers([pidsl.causal]))
    (layers([causal]), False)

    Args:
        pattern: a term, a gate, heads, layers or summaries.
    """
    found, has = _without(pattern)
    return (cast(Pattern, found), True) if has else (pattern, False)


def _without(pattern: Term | Gate | Heads | Schedule | Summaries) -> tuple[Any, bool]:
    match pattern:
        case Term():
            return within(pattern)
        case Gate(branches):
            parts = [within(term) for _, term in branches]
            return Gate(tuple((name, term) for (name, _), (term, _) in zip(branches, parts, strict=True))), parts[0][1]
        case Heads(groups):
            parts = [within(term) for _, term in groups]
            return Heads(tuple((count, term) for (count, _), (term, _) in zip(groups, parts, strict=True))), parts[0][1]
        case Schedule(layers):
            inside = [_without(layer) for layer in layers]
            return Schedule(tuple(layer for layer, _ in inside)), inside[0][1]
        case Summaries(exact, levels):
            term, has = within(exact)
            return Summaries(term, tuple(Spans(x.size, within(x.seen)[0], x.of) for x in levels)), has
        case _:
            assert_never(pattern)
