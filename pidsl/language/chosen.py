"""What a choice can be and must be: `chosen` in a pattern, for all lists that a call may give.

    T.forced      T with nothing chosen: attended whatever a call lists
    T.possible    T with everything chosen: no call attends more

No operator takes pairs away where more are chosen, so every call is between the two, and where the choice stands
under `|`, `&` and `-` alone, T is `T.forced | (C & T.possible)` for the pairs C that the lists of a call say.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from pidsl.errors import TermError
from pidsl.language.expr import Index, evaluate
from pidsl.language.terms import (
    Chosen,
    Difference,
    Empty,
    Intersection,
    Term,
    Union,
    is_chosen,
    is_confined,
    walk,
)  # fmt: skip
from pidsl.language.trees import Steps, own_values, run, shallow


class Selection(NamedTuple):
    """What the lists of a pattern are lists of.

    Args:
        block: keys of a block.
        budget: blocks that are listed for a block of queries, at most.
        queries: queries of a block.
    """

    block: Index
    budget: Index
    queries: Index

    @property
    def numbers(self) -> tuple[int, int, int]:
        """The sizes of a pattern without symbols."""
        block, budget, queries = (int(evaluate(x, {})) for x in self)
        return block, budget, queries


def forced(term: Term) -> Term:
    """What is attended whatever is chosen."""
    return run(_replaced(term, lambda _: Empty()))


def possible(term: Term) -> Term:
    """What is attended at most, whatever is chosen."""
    return run(_replaced(term, lambda x: x.within))


def selection(term: Term) -> Selection | None:
    """What calls list for a pattern; None where it has no choice.

    >>> import pidsl
    >>> selection(pidsl.window(63) | pidsl.chosen(64, 16))
    Selection(block=64, budget=16, queries=64)

    Raises:
        TermError: two choices of different sizes, which one list cannot say; a choice inside of what moves or joins
            pairs (`@`, `**`, `.T`, shift, blocked, dilated), where it is no list of the pattern's own keys.
    """
    if not is_chosen(term):
        return None
    found = {Selection(x.block, x.budget, x.queries): x for x in walk(term) if isinstance(x, Chosen)}
    if len(found) > 1:
        shown = " and ".join(map(repr, found.values()))
        hint = "chosen(...) of the same block, budget and queries; or a gate, or heads, with a choice in each"
        raise TermError(f"{shown} in one pattern", "one choice: a call has one list for it", f"{term!r}", hint)
    for node in walk(term):
        if is_chosen(node) and not isinstance(node, Chosen | Union | Intersection | Difference):
            expected = "a choice under |, & and - alone: a call lists keys of the pattern itself"
            hint = f"chosen(block, budget, within={type(node).__name__.lower()} of what may be chosen)"
            raise TermError(f"{node!r}", expected, f"{term!r}", hint)
    (one,) = found
    return one


def _replaced(term: Term, by: Callable[[Chosen], Term]) -> Steps[Term]:
    if not is_chosen(term):
        return term
    if isinstance(term, Chosen):
        return by(term)
    parts = []
    for part in own_values(term):
        parts.append((yield _replaced(part, by)) if isinstance(part, Term) else part)
    match term, parts:
        case Union(), [x, Empty()] | [Empty(), x]:
            return x
        case (Intersection(), [Empty(), _] | [_, Empty()]) | (Difference(), [Empty(), _]) if not is_confined(term):
            return Empty()
        case Union() | Intersection(), _:
            return shallow(type(term)(*parts))
    return type(term)(*parts)
