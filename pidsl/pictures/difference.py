"""Where two patterns differ, as cells of a picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pidsl.errors import TermError
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
    first, only = _first(a, b, ours, theirs)
    beyond = "" if first is not None else "equal for every n" if a.equals(b) else "but at other lengths"
    return Differing(kinds, ours.n, first, only, beyond)


def _first(a: Term, b: Term, ours: cells.Cells, theirs: cells.Cells) -> tuple[tuple[int, int] | None, bool]:
    """The first pair that differs, looked for in the first row of cells that has one."""
    rows = np.flatnonzero((ours.kinds | theirs.kinds).any(axis=1))
    if not len(rows):
        return None, False
    from pidsl.relation.oracle import table

    n, start = ours.n, int(rows[0]) * ours.rows
    columns = np.flatnonzero((ours.kinds | theirs.kinds)[rows[0]])
    found: list[tuple[int, int, bool]] = []
    queries = range(start, min(start + ours.rows, n))
    for column in columns.tolist():
        keys = range(column * ours.columns, min((column + 1) * ours.columns, n))
        mine, other = table(a, queries, keys, n, n), table(b, queries, keys, n, n)
        at = np.argwhere(mine ^ other)
        if len(at):
            i, j = at[0].tolist()
            found.append((queries[i], keys[j], bool(mine[i, j])))
    i, j, only = min(found)
    return (i, j), only
