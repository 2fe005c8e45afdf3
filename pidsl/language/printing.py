"""Terms as DSL source: what `repr` prints and `parse` reads back.

Every kind of term says its own part, with the precedence of its operator; here they are put together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pidsl.language.trees import bottom_up

# Python's precedence of the operators that terms use; a child binding less tightly than its place is parenthesised.
OR, XOR, AND, MINUS, AT, INVERT, POWER, ATOM = range(1, 9)

PARTS_IN_A_ROW = 512  # of a union; Python's parser, which `parse` uses, is a recursive one

Shown = tuple[int, str]  # the precedence of a term's own operator, and its source
Inside = Callable[[Any, int], str]  # the source of a term inside, in a place of a precedence


def show_term(term: Any, level: int = 0) -> str:
    """`term` as source, with the fewest parentheses."""
    try:
        return _recursed(term, level)
    except RecursionError:  # deeper than Python's stack
        shown: dict[int, Shown] = {}
        for part in bottom_up(term):
            if hasattr(part, "source"):  # a term: the expressions in it print themselves
                shown[id(part)] = part.source(lambda inner, level: _at(level, *shown[id(inner)]))
        return _at(level, *shown[id(term)])


def _recursed(term: Any, level: int) -> str:
    return _at(level, *term.source(_recursed))


def _at(level: int, own: int, text: str) -> str:
    return f"({text})" if own < level else text


def call(word: str, *values: object) -> str:
    """A word and its arguments."""
    return f"{word}({', '.join(map(repr, values))})"


def axes(values: tuple[int, ...]) -> object:
    """One value where all axes of a grid have the same."""
    return values[0] if len(set(values)) == 1 else values
