"""From what a mask says with tables to a pattern: documents where it holds within runs of tokens, else by cases.

documents        (query and key in one run) and the same in every run      T & documents, ids for the call
one axis         is_global[q]                                              queries(2, 4) | queries(7, 8)
runs             start[q] <= kv                                            queries(0, 5) & keys(0, None) | ...
both axes        tree[q, kv]                                               pairs([...])
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

import numpy as np
from numpy.typing import NDArray

import pidsl.language.vocabulary as words
from pidsl.interop.entries import of_entries, of_mask
from pidsl.interop.runs import MOST_CASES, any_term, of_runs
from pidsl.interop.traced_values import Columns, Unreadable
from pidsl.language.algebra import positive, tidied
from pidsl.language.expr import Add, And, Index, Not, Or, Pred, Truth, Var, joint, simplify, substitute_pred
from pidsl.language.terms import Blocked, Documents, Empty, Full, Term
from pidsl.language.trees import parts_of
from pidsl.relation.recognise import recognised

__all__ = ["by_cases", "documents_of"]

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Run = tuple[int, int]

MOST_DOCUMENTS = 1 << 14


def documents_of(pred: Pred, columns: Columns) -> tuple[Term, Ints] | None:
    """The pattern that may hold within documents, and the document of each token (-1: none); None: no such guess.

    Runs of tokens over which all tables are constant, or grow with the position, are taken for documents; the pattern
    is what the longest of them says. Whether the others say the same is not looked at.

    Args:
        pred: over i, j and tables.
        columns: the tables.
    """
    tables = columns.tables(pred)
    n = columns.n
    if n is None or n != columns.m or not all(_in_runs(columns, x) for x in tables):
        return None
    starts = sorted({0, *(int(x) for name in tables for x in _starts(columns.by_name[name].values))})
    if len(starts) > MOST_DOCUMENTS:
        return None
    runs = sorted(zip(starts, [*starts[1:], n], strict=True), key=lambda run: run[0] - run[1])
    ids, found = np.full(n, -1, dtype=np.int64), None
    for start, stop in runs:
        here = {name: _value(columns, name, start) for name in tables}
        moved: Mapping[str, Index] = {axis: simplify(Add(Var(axis), start)) for axis in "ij"}
        own = tidied(substitute_pred(substitute_pred(pred, here), moved))
        if own != Truth(False):
            ids[start:stop] = starts.index(start)
            found = found or own
    if found is None or {*ids.tolist()} == {0}:
        return None
    of = np.unique(ids, return_inverse=True)[1] - (ids.min() < 0)
    pattern = recognised(found)
    return (Documents() if isinstance(pattern, Full) else pattern & Documents()), of.astype(np.int64)


def by_cases(pred: Pred, columns: Columns) -> Term:
    """The pattern of a predicate over i, j and tables, for the lengths of the tables.

    Raises:
        Unreadable: there would be too many cases.
    """
    return _by_cases(tidied(positive(pred)), columns)


def _by_cases(pred: Pred, columns: Columns) -> Term:
    tables = columns.tables(pred)
    if not tables:
        return recognised(pred)
    axes = columns.axes(pred)
    if len(axes) == 1:
        axis = next(iter(axes))
        return of_runs(columns.values(pred, axis), axis)
    if isinstance(pred, Not):
        return ~_by_cases(pred.of, columns)
    if isinstance(pred, Or):
        return any_term(_by_cases(x, columns) for x in _joined(pred, columns))
    if any(len(columns.by_name[name].axes) > 1 for name in tables):
        return _with_lists(pred, columns)
    parts = list(parts_of(And, pred))
    apart = [x for x in parts if not columns.tables(x) or len(columns.axes(x)) == 1]
    if apart and len(parts) > 1:
        free = [x for x in apart if not columns.tables(x)]
        terms = [recognised(reduce(lambda a, b: joint(And, a, b), free))] if free else []
        terms += [_by_cases(x, columns) for x in apart if columns.tables(x)]
        if mixed := [x for x in parts if x not in apart]:
            terms.append(_by_cases(reduce(lambda a, b: joint(And, a, b), mixed), columns))
        return reduce(lambda a, b: a & b, [x for x in terms if not isinstance(x, Full)] or terms)
    return _split(pred, columns)


def _joined(pred: Or, columns: Columns) -> list[Pred]:
    """The parts of a disjunction; those without tables as one, and those that compare both axes as one."""
    parts = list(parts_of(Or, pred))
    kinds: dict[str, list[Pred]] = {}
    for x in parts:
        axes = columns.axes(x)
        kind = "free" if not columns.tables(x) else "".join(sorted(axes))
        kinds.setdefault(kind, []).append(x)
    if len(kinds) == 1 and len(kinds.get("ij", ())) > 1:
        return parts
    out = []
    for kind, same in kinds.items():
        out += same if kind == "ij" else [reduce(lambda a, b: joint(Or, a, b), same)]
    return out


def _with_lists(pred: Pred, columns: Columns) -> Term:
    """A table of both in words, beside what needs none; else what is left of it with that."""
    parts = list(parts_of(And, pred))
    free = [x for x in parts if not columns.tables(x)]
    if free and len(free) < len(parts):
        listed = reduce(lambda a, b: joint(And, a, b), [x for x in parts if x not in free])
        mask = columns.values(listed, "ij")
        if (found := of_mask(mask)) is not None:
            return recognised(reduce(lambda a, b: joint(And, a, b), free)) & found
    return _listed(pred, columns)


def _listed(pred: Pred, columns: Columns) -> Term:
    mask = columns.values(pred, "ij")
    if (found := of_entries(mask)) is None:
        given = f"a table of query and key with {np.count_nonzero(mask)} pairs"
        raise Unreadable(given, "pairs([...]) for a few; a mask that is data is no pattern")
    return found


def _split(pred: Pred, columns: Columns) -> Term:
    """By runs of queries and of keys over which all tables are constant, or grow with the position."""
    n, m = columns.n, columns.m
    assert n is not None and m is not None
    if not all(_in_runs(columns, x) for x in columns.tables(pred)):
        raise Unreadable("a table of numbers that are not whole, of query and key together", "a table of integers")
    cuts: dict[str, list[Run]] = {}
    for axis, length in (("i", n), ("j", m)):
        tables = [columns.by_name[x].values for x in columns.tables(pred) if columns.by_name[x].axes == axis]
        starts = sorted({0, *(int(x) for values in tables for x in _starts(values))})
        cuts[axis] = list(zip(starts, [*starts[1:], length], strict=True))
    if max(len(runs) for runs in cuts.values()) > MOST_DOCUMENTS:
        raise _too_many(cuts)
    found: dict[Pred, list[tuple[Run, Run]]] = {}
    size = 0
    for rows in cuts["i"]:
        own = {x: _value(columns, x, rows[0]) for x in columns.tables(pred) if columns.by_name[x].axes == "i"}
        inner = substitute_pred(pred, own)
        for keys in cuts["j"] if columns.tables(inner) else [(0, m)]:
            other = {x: _value(columns, x, keys[0]) for x in columns.tables(inner)}
            case = tidied(substitute_pred(inner, other))
            if case != Truth(False):
                found.setdefault(case, []).append((rows, keys))
                size += 1
        if size > MOST_CASES:
            raise _too_many(cuts)
    terms = []
    for case, places in found.items():
        term = recognised(case)
        if term == Empty():
            continue
        boxes = _boxes(places, n, m)
        terms.append(boxes if isinstance(term, Full) else term if isinstance(boxes, Full) else boxes & term)
    return any_term(terms)


def _too_many(cuts: Mapping[str, list[Run]]) -> Unreadable:
    given = f"tables with {len(cuts['i'])} runs of queries and {len(cuts['j'])} runs of keys"
    hint = (
        "pidsl.documents and an id for each token, where it holds within documents; a mask that is data is no pattern"
    )
    return Unreadable(given, hint)


def _boxes(places: list[tuple[Run, Run]], n: int, m: int) -> Term:
    """Runs of queries by runs of keys; runs side by side are one, and equal tiles are pairs of blocks."""
    merged: list[tuple[Run, Run]] = []
    for rows, keys in places:
        if merged and merged[-1][0] == rows and merged[-1][1][1] == keys[0]:
            merged[-1] = (rows, (merged[-1][1][0], keys[1]))
        elif merged and merged[-1][1] == keys and merged[-1][0][1] == rows[0]:
            merged[-1] = ((merged[-1][0][0], rows[1]), keys)
        else:
            merged.append((rows, keys))
    if (tiles := _blocked(places, n, m)) is not None and len(merged) > 4:
        return tiles
    return any_term(_box(rows, keys, n, m) for rows, keys in merged)


def _blocked(places: list[tuple[Run, Run]], n: int, m: int) -> Term | None:
    size = places[0][0][1] - places[0][0][0]
    chosen = []
    for rows, keys in places:
        for (start, stop), length in ((rows, n), (keys, m)):
            if start % size or (stop - start != size and (stop != length or stop - start > size)):
                return None
        chosen.append((rows[0] // size, keys[0] // size))
    return Blocked(words.pairs(chosen), size)


def _box(rows: Run, keys: Run, n: int, m: int) -> Term:
    parts = [
        word(*run) for word, run, length in ((words.queries, rows, n), (words.keys, keys, m)) if run != (0, length)
    ]
    return reduce(lambda a, b: a & b, parts) if parts else Full()


def _in_runs(columns: Columns, name: str) -> bool:
    column = columns.by_name[name]
    return len(column.axes) == 1 and column.whole


def _starts(values: Ints) -> Ints:
    """Where runs begin over which a table is constant, or else grows with the position: whichever are fewer."""
    constant, growing = (np.flatnonzero(np.diff(x)) + 1 for x in (values, values - np.arange(len(values))))
    return constant if len(constant) <= len(growing) else growing


def _grows(values: Ints) -> bool:
    constant, growing = (np.count_nonzero(np.diff(x)) for x in (values, values - np.arange(len(values))))
    return bool(growing < constant)


def _value(columns: Columns, name: str, at: int) -> Index:
    """What a table says in the run that begins at a position."""
    column = columns.by_name[name]
    value = int(column.values[at])
    return simplify(Add(Var(column.axes), value - at)) if _grows(column.values) else value
