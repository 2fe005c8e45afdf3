"""Where two patterns differ, as cells of a picture."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from pidsl.errors import TermError, TooHardError
from pidsl.language.terms import Term, is_confined, within
from pidsl.pictures import cells

ONLY_FIRST, ONLY_SECOND, BOTH, MIXED = 1, 2, 3, 4


@dataclass(frozen=True, slots=True, eq=False)
class Differing:
    """Cells of two patterns over n tokens.

    Args:
        kinds: uint8: 0 no pair, ONLY_FIRST, ONLY_SECOND, BOTH; MIXED where a cell has pairs that only the first has
            and pairs that only the second has.
        n: tokens.
        first: the first pair (in the order of rows) that one of them has; None where they agree at n.
        only_in_first: which of them has it.
        beyond: what is known of other lengths, where they agree at n.
    """

    kinds: cells.Kinds
    n: int
    first: tuple[int, int] | None
    only_in_first: bool = False
    beyond: str = ""


def difference(a: Term, b: Term, n: int) -> Differing:
    """Compare two patterns over n tokens.

    Raises:
        TermError: only one of them is confined to documents.
    """
    if is_confined(a) != is_confined(b):
        raise TermError(f"{a!r} against {b!r}", "both confined to documents, or neither", where="plot(against=...)")
    a, b = within(a)[0], within(b)[0]
    ours, theirs, both = (cells.cells_of(x, n) for x in (a - b, b - a, a & b))
    kinds = np.where(both.kinds > 0, np.uint8(BOTH), np.uint8(0))
    kinds[ours.kinds > 0] = ONLY_FIRST
    kinds[theirs.kinds > 0] = ONLY_SECOND
    kinds[(ours.kinds > 0) & (theirs.kinds > 0)] = MIXED
    if not (kinds % BOTH).any():  # no cell of ONLY_FIRST, ONLY_SECOND or MIXED
        return Differing(kinds, ours.n, None, beyond=_beyond(a, b))
    if ours.of_pairs:
        i, j = np.argwhere(kinds % BOTH)[0].tolist()
        return Differing(kinds, ours.n, (i, j), bool(kinds[i, j] == ONLY_FIRST))
    found = a.difference_at(b, ours.n)
    assert found is not None, (a, b)
    return Differing(kinds, ours.n, (found.i, found.j), found.only_in == "self")


def _beyond(a: Term, b: Term) -> str:
    """What isl says of other lengths."""
    with suppress(TooHardError):
        found = a.difference_at(b)
        return "equal for every n" if found is None else str(found)
    return ""
