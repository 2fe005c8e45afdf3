"""Exact counts from the relation, for concrete lengths: keys per query, pairs, sparsity.

For every disjoint part of the relation, isl's loops over the keys of one query give the count as a formula in the
query position, evaluated for all queries at once. No n x m array is built.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import islpy as isl
import numpy as np
from numpy.typing import NDArray

from pidsl.errors import TooHardError
from pidsl.language.expr import evaluate, holds
from pidsl.language.terms import Term
from pidsl.relation.build import relation
from pidsl.relation.isl import limited, read_set
from pidsl.relation.loops import VARIABLE, Loop, NoLoop, loops, part_loops
from pidsl.relation.oracle import check_lengths

CHUNK = 1 << 20  # rows counted at a time


def key_loops(term: Term) -> tuple[Loop, ...]:
    """Loops over the keys of query i, each key once: over n, m and i.

    Raises:
        TooHardError: isl found no such loops within its limits.
    """
    found = _key_loops(term)
    if isinstance(found, TooHardError):
        raise TooHardError(found.given, found.expected, found.where, found.hint)
    return found


@lru_cache(maxsize=256)
def _key_loops(term: Term) -> tuple[Loop, ...] | TooHardError:
    what = f"the keys of one query of {term!r}"
    whole = relation(term)
    context = read_set("[n, m, i] -> { : 0 <= i < n and m > 0 }")
    try:
        with limited(what):
            points = whole.wrap().flatten()
            points = points.move_dims(isl.dim_type.param, 2, isl.dim_type.set, 0, 1)
            points = points.set_dim_name(isl.dim_type.param, 2, "i")
            try:
                return tuple(part_loops(points, context))
            except TooHardError:
                return tuple(loops(points, context))
    except NoLoop as e:
        return TooHardError(f"isl's program holds {e}", "plain loops over the keys", what, "simplify the term")
    except TooHardError as e:
        return e.with_traceback(None)


def degree(term: Term, n: int, m: int | None = None, offset: int = 0) -> NDArray[np.int64]:
    """int64 [n]: how many keys each of the n queries attends."""
    rows, columns, first = check_lengths(term, n, m, offset)
    return _count(key_loops(term), np.arange(first, first + rows), rows + first, columns)


def pairs(term: Term, n: int, m: int | None = None, offset: int = 0) -> int:
    """The number of attended pairs."""
    rows, columns, first = check_lengths(term, n, m, offset)
    parts = key_loops(term)
    starts = range(first, first + rows, CHUNK)
    chunks = (np.arange(s, min(s + CHUNK, first + rows)) for s in starts)
    return sum(int(_count(parts, i, first + rows, columns).sum()) for i in chunks)


def sparsity(term: Term, n: int, m: int | None = None, offset: int = 0) -> float:
    """1 - pairs / (n * m); 1.0 when there are no pairs to attend."""
    rows, columns, first = check_lengths(term, n, m, offset)
    total = rows * columns
    return (total - pairs(term, rows, columns, first)) / total if total else 1.0


def _count(parts: tuple[Loop, ...], i: NDArray[np.int64], n: int, m: int) -> NDArray[np.int64]:
    count = np.zeros(len(i), dtype=np.int64)
    if n == 0 or m == 0:
        return count
    env: dict[str, Any] = {"n": n, "m": m, "i": i}
    for part in parts:
        first = np.broadcast_to(np.asarray(evaluate(part.first, env), dtype=np.int64), i.shape)
        last = np.broadcast_to(np.asarray(evaluate(part.last, env), dtype=np.int64), i.shape)
        found = np.maximum((last - first) // part.step + 1, 0)
        if part.inside is not None:
            found = _count_inside(part, first, last, env)
        if part.guard is not None:
            found = found * np.asarray(holds(part.guard, env))
        count += found
    return count


def _count_inside(part: Loop, first: Any, last: Any, env: dict[str, Any]) -> NDArray[np.int64]:
    """Iterations that pass the loop's own test: all queries advance through their keys together."""
    assert part.inside is not None
    found = np.zeros(len(first), dtype=np.int64)
    for k in range(int((last - first).max(initial=-1)) // part.step + 1):
        x = first + k * part.step
        found += (x <= last) & np.asarray(holds(part.inside, {**env, VARIABLE: x}))
    return found
