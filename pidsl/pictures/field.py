"""Which keys a token sees through several layers, from the relation: exact, without an n x n mask.

The keys of a query are loops in closed form (`pidsl.relation.counting.key_loops`); those of many queries are marked
together, by their ends: `mark[first] += 1, mark[last + step] -= 1`, and a running sum along the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pidsl.errors import SizeError, TooHardError
from pidsl.language.expr import evaluate, holds, largest, whole
from pidsl.language.terms import Term, require_concrete
from pidsl.relation.counting import SAFE, key_loops
from pidsl.relation.loops import VARIABLE, Loop
from pidsl.relation.oracle import check_square, dense_mask

DENSE = 8192  # tokens of a mask, where a pattern has no loops
LONGEST = 1 << 24  # tokens
MOST_LAYERS = 64

Tokens = NDArray[np.bool_]


def fields(patterns: Sequence[Term], token: object, n: object, layers: object = None) -> NDArray[np.bool_]:
    """bool [layers + 1, n]: row l says which tokens at the input reach `token` through the first l layers.

    >>> import pidsl
    >>> fields([pidsl.window(1)], 3, 5, 2).astype(int)
    array([[0, 0, 0, 1, 0],
           [0, 0, 1, 1, 0],
           [0, 1, 1, 1, 0]])

    Args:
        patterns: one per layer, the layer at the input first; they begin again after the last.
        token: one of the n.
        n: how many tokens.
        layers: how many layers; None: each pattern once.

    Raises:
        SizeError: a number that is none, or too large.
        TooHardError: a pattern without loops over more tokens than have a mask.
    """
    tokens, i = whole(n), whole(token)
    count = len(patterns) if layers is None else whole(layers)
    if tokens is None or not 1 <= tokens <= LONGEST:
        raise SizeError(f"n = {n!r}", f"1 <= n <= {LONGEST} tokens")
    if i is None or not 0 <= i < tokens:
        raise SizeError(f"token {token!r}", f"one of the {tokens} tokens 0 .. {tokens - 1}")
    if count is None or not 0 <= count <= MOST_LAYERS:
        raise SizeError(f"layers = {layers!r}", f"0 <= layers <= {MOST_LAYERS}")
    for term in patterns:
        require_concrete(term, "follow a token")
        check_square(term, tokens, tokens)
    found = np.zeros((count + 1, tokens), dtype=np.bool_)
    found[0, i] = True
    for last in range(1, count + 1):
        if len(patterns) == 1:  # one layer more is one step more
            found[last] = keys_of(patterns[0], found[last - 1])
            continue
        seen = found[0]
        for layer in range(last - 1, -1, -1):
            seen = keys_of(patterns[layer % len(patterns)], seen)
        found[last] = seen
    return found


def keys_of(term: Term, queries: Tokens) -> Tokens:
    """bool [n]: the keys that any of the queries attends, n queries and n keys."""
    n, i = len(queries), np.flatnonzero(queries)
    if not len(i):
        return np.zeros(n, dtype=np.bool_)
    try:
        parts = key_loops(term)
    except TooHardError:
        if n > DENSE:
            raise
        return np.asarray(dense_mask(term, n)[i].any(axis=0))
    tests = [test for part in parts for test in (part.first, part.last, part.guard, part.inside) if test is not None]
    if max([0, *(largest(test, 2 * n) for test in tests)]) >= SAFE:
        i = i.astype(object)
    found = np.zeros(n, dtype=np.bool_)
    for part in parts:
        _mark(part, {"n": n, "m": n, "i": i}, found)
    return found


def _mark(part: Loop, env: dict[str, Any], found: Tokens) -> None:
    """The keys of one loop, of all queries."""
    n, i = len(found), env["i"]
    rows = np.broadcast_to(np.asarray(True if part.guard is None else holds(part.guard, env)), i.shape)
    first = np.broadcast_to(np.asarray(evaluate(part.first, env)), i.shape)
    last = np.broadcast_to(np.asarray(evaluate(part.last, env)), i.shape)
    rows = rows.astype(bool) & (first <= last).astype(bool)
    first, last, step = first[rows], last[rows], part.step
    if part.inside is not None:
        for row, a, b in zip(i[rows].tolist(), first.tolist(), last.tolist(), strict=True):
            keys = np.arange(a, b + 1, step)
            passes = np.asarray(holds(part.inside, {**env, "i": row, VARIABLE: keys}))
            found[keys[np.broadcast_to(passes, keys.shape)]] = True
        return
    first, last = first.astype(np.int64), last.astype(np.int64)
    last -= (last - first) % step
    length = -(-(n + step) // step) * step
    marks = np.zeros(length, dtype=np.int64)
    np.add.at(marks, first, 1)
    np.add.at(marks, last + step, -1)
    found |= (np.cumsum(marks.reshape(-1, step), axis=0).reshape(-1) > 0)[:n]
