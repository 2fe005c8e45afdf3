"""What is drawn of several patterns together: a panel for each, and the layers that a token is followed through."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pidsl.errors import TermError
from pidsl.language.gate import Gate
from pidsl.language.heads import Heads
from pidsl.language.schedule import Schedule
from pidsl.language.summaries import Summaries
from pidsl.language.terms import Term
from pidsl.pictures.style import shortened


@dataclass(frozen=True, slots=True)
class Panel:
    """One pattern of a picture.

    Args:
        title: what it is.
        term: the pattern.
        keys: how many keys n queries have, where that is another number.
    """

    title: str
    term: Term
    keys: Callable[[int], int] | None = None


def panels_of(subject: Any) -> list[Panel]:
    """The patterns that are drawn, each once."""
    match subject:
        case Term():
            return [Panel(shortened(repr(subject)), subject)]
        case Heads():
            return [
                Panel(f"head{'s' * (len(x) > 1)} {numbers(x)}: {shortened(repr(t))}", t)
                for t, x in subject.distinct.items()
            ]
        case Schedule():
            found: list[Panel] = []
            for layer, part in enumerate(subject):
                own = panels_of(part)
                between = ", " if len(own) > 1 else ": "
                found += [Panel(f"layer {layer}{between}{panel.title}", panel.term) for panel in own]
            return found
        case Gate():
            return [Panel(f"{name}: {shortened(repr(term))}", term) for name, term in subject.branches]
        case Summaries():
            levels = [
                Panel(f"spans of {level.size}, {level.of}: {shortened(repr(level.seen))}", level.seen, level.count)
                for level in subject.levels
            ]
            return [Panel(f"exact: {shortened(repr(subject.exact))}", subject.exact), *levels]
        case _:
            given = f"{subject!r} ({type(subject).__name__})"
            raise TermError(given, "a pattern, heads, layers, a gate or summaries", where="a picture")


def schedule_of(subject: Any, where: str = "plot(n, of=..., layers=...)") -> Sequence[Term]:
    """A pattern per layer: over it information flows. Through a gate it flows by any branch.

    Raises:
        TermError: of summaries, no pattern says what a token sees.
    """
    match subject:
        case Term():
            return (subject,)
        case Heads():
            return (subject.union,)
        case Schedule():
            return subject.unions
        case Gate():
            return (subject.union,)
        case _:
            given = f"what a token sees through {subject!r}"
            raise TermError(given, "a pattern, heads, layers or a gate", where=where)


def numbers(given: Sequence[int]) -> str:
    """Ascending numbers, runs of them by their ends.

    >>> numbers((0, 1, 2, 5))
    '0-2, 5'
    """
    runs: list[list[int]] = []
    for x in given:
        if runs and x == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], x]
        else:
            runs.append([x])
    return ", ".join("-".join(map(str, run)) for run in runs)
