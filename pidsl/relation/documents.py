"""Whether pairs cross from one document into another: decided for all starts, lengths and positions at once.

    a sequence     its rows are those from `row` on, n of them, at positions offset, offset + 1, ...
                   its keys are those from `key` on, m of them, at positions key_offset, key_offset + 1, ...
    what programs  { [row + r] -> [key + j] : (r, j) is a pair of the pattern for n, m, offset, key_offset }
    compute of it

Sequences share no row and no key, so a pair whose row is one of a sequence and whose key is not crosses over.
"""

from __future__ import annotations

from contextlib import suppress

import islpy as isl

from pidsl.errors import TooHardError
from pidsl.language.terms import Term, within
from pidsl.language.vocabulary import full
from pidsl.relation.build import relation, rows_relation
from pidsl.relation.frame import MOVED
from pidsl.relation.isl import limited, read_map


def crossing(term: Term) -> isl.Map:
    """The pairs that leave their document, over all starts, lengths and offsets of documents; none of `T & documents`.

    >>> import pidsl
    >>> crossing(pidsl.window(3) & pidsl.documents).is_empty(), crossing(pidsl.window(3)).is_empty()
    (True, False)

    Args:
        term: a pattern; symbols may be open in one that is confined to documents: whatever they stand for, it attends
            rows and keys that there are.

    Raises:
        SymbolError: symbols in another one.
        TooHardError: isl's operation limit struck.
    """
    pattern, confined = within(term)
    if not confined:
        return _of_one_sequence(term)
    computed = _of_one_document(pattern)
    names = f"[{MOVED.parameters}, row, key]"
    with limited(f"whether a pair of {term!r} crosses a document"):
        computed = computed.apply_domain(read_map(f"{names} -> {{ [r] -> [row + r] }}"))
        computed = computed.apply_range(read_map(f"{names} -> {{ [j] -> [key + j] }}"))
        return computed - read_map(f"{names} -> {{ [i] -> [k] : row <= i < row + n and key <= k < key + m }}")


def _of_one_document(pattern: Term) -> isl.Map:
    """What is computed of rows and keys; of a pattern with symbols, or too hard for isl, all that could be."""
    if not pattern.symbols:
        with suppress(TooHardError):
            return rows_relation(pattern, MOVED)
    return rows_relation(full, MOVED)


def _of_one_sequence(term: Term) -> isl.Map:
    """Without `documents`, all of them are one sequence, of n tokens; one of them is start .. stop - 1."""
    whole = relation(term)
    with limited(f"whether a pair of {term!r} crosses a document"):
        inside = "start <= {} < stop and 0 <= start and stop <= n and n = m"
        names = "[n, m, start, stop]"
        leaves = read_map(f"{names} -> {{ [i] -> [j] : {inside.format('i')} and not (start <= j < stop) }}")
        enters = read_map(f"{names} -> {{ [i] -> [j] : {inside.format('j')} and not (start <= i < stop) }}")
        return whole & (leaves | enters)
