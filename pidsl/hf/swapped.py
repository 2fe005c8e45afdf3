"""Which modules have a pattern of their own, in place of that of their model."""

from __future__ import annotations

from typing import Any, NamedTuple

from pidsl.language.heads import Heads
from pidsl.language.terms import Term

NAME = "_pidsl_swapped"


class Swapped(NamedTuple):
    """A pattern that was put into a module."""

    term: Term | Heads


def swapped_in(module: Any) -> Swapped | None:
    """The pattern that was put into a module, if any."""
    found: Swapped | None = getattr(module, NAME, None)
    return found
