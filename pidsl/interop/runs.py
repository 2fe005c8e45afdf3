"""Runs of queries and of keys as words, and unions of them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce

import numpy as np
from numpy.typing import NDArray

import pidsl.language.vocabulary as words
from pidsl.interop.traced_values import Unreadable
from pidsl.language.terms import Empty, Full, Term, Union
from pidsl.language.trees import parts_of

__all__ = ["MOST_CASES", "any_term", "of_runs", "runs_of"]

Bools = NDArray[np.bool_]
MOST_CASES = 256  # runs of queries times runs of keys, each a part of a pattern


def any_term(terms: Iterable[Term]) -> Term:
    """The union, written without parentheses."""
    parts = [part for term in terms for part in parts_of(Union, term) if not isinstance(part, Empty)]
    return reduce(lambda a, b: a | b, parts) if parts else Empty()


def runs_of(holds: Bools) -> list[tuple[int, int]]:
    """Where it holds without a break: from the first place up to, and without, the second.

    >>> runs_of(np.array([True, True, False, True]))
    [(0, 2), (3, 4)]
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], holds, [False]]).astype(np.int8)))
    return [(start, stop) for start, stop in edges.reshape(-1, 2).tolist()]


def of_runs(holds: Bools, axis: str) -> Term:
    """Queries or keys in runs, in steps where there are too many."""
    word = words.queries if axis == "i" else words.keys
    at = np.flatnonzero(holds)
    if not len(at):
        return Empty()
    runs = runs_of(holds)
    if runs == [(0, len(holds))]:
        return Full()
    steps = np.diff(at)
    if len(runs) > 2 and (steps == steps[0]).all():
        return word(int(at[0]), int(at[-1]) + 1, int(steps[0]))
    if len(runs) > MOST_CASES:
        name = "queries" if axis == "i" else "keys"
        raise Unreadable(f"a table with {len(runs)} runs of {name}", "keys(start, stop, step) for a few of them")
    return any_term(word(start, stop) for start, stop in runs)
