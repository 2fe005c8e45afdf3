"""Which modules have a pattern of their own, in place of that of their model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from pidsl.language.heads import Heads
from pidsl.language.terms import Term

if TYPE_CHECKING:
    from pidsl.select.selector import Selector

NAME = "_pidsl_swapped"


class Swapped(NamedTuple):
    """A pattern that was put into a module.

    Args:
        term: the pattern.
        select: what makes the lists of one that chooses.
    """

    term: Term | Heads
    select: Selector | None = None


def swapped_in(module: Any) -> Swapped | None:
    """The pattern that was put into a module, if any."""
    found: Swapped | None = getattr(module, NAME, None)
    return found
