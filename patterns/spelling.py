"""How another library writes a pattern: the type of the rows in `pidsl.patterns.spellings`."""

from __future__ import annotations

from dataclasses import dataclass

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
