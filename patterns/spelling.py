"""How another library writes a pattern: the type of the rows in `pidsl.patterns.spellings`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pidsl.language.vocabulary as words
from pidsl.language.terms import Term
from pidsl.language.trace import maximum, minimum, where

__all__ = ["Spelling"]


@dataclass(frozen=True)
class Spelling:
    """How another library writes a pattern.

    Args:
        library: whose.
        written: its call, with its own names of the parameters.
        term: the same as DSL source, sizes as names; "" where there is none.
        note: what differs, or how sure this is.
    """

    library: str
    written: str
    term: str
    note: str = ""

    def made(self, **sizes: Any) -> Term:
        """The term with numbers, or tuples of them, for the names of the call.

        >>> Spelling("NATTEN", "na1d(kernel_size=w, is_causal=True)", "window(w - 1)").made(w=9)
        window(8)
        """
        known = {x: getattr(words, x) for x in words.__all__} | {x.__name__: x for x in (where, minimum, maximum)}
        found: Term = eval(self.term, {"__builtins__": {"abs": abs, "range": range, "sum": sum}, **known, **sizes})
        return found
