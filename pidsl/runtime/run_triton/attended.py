"""Whether all keys and all rows of a call are attended: decided once for a form, so that kernels need not ask."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from typing import Any

import numpy as np

from pidsl.errors import TooHardError
from pidsl.language.expr import Compare, Pred, Truth, Var, holds, walk
from pidsl.runtime.call.call import Positions
from pidsl.runtime.run_triton.sequences import Bounds

LOOKED_AT = 1 << 24  # keys or rows beyond which nobody looks
CHUNK = 1 << 18  # looked at together
OPERATIONS = 200_000  # of isl, for all lengths at once


def every_key(plan: Any, n: int, m: int, positions: Positions | Bounds, heads: int = 1) -> bool:
    """Whether every key is attended by some row, whichever the query head; False where it is not known.

    Args:
        plan: a plan, or None for one that is not known.
        n, m: rows and keys.
        positions: where they stand; of several sequences, what is known of all of them.
        heads: query heads.
    """
    if plan is None or not plan.attended_exact:
        return False
    if isinstance(positions, Bounds):
        return _always(plan.attended_keys, "j", positions.square)
    return _all(plan.attended_keys, "j", m, _at(n, m, positions), heads)


def every_row(plan: Any, n: int, m: int, positions: Positions | Bounds, heads: int = 1) -> bool:
    """Whether every row attends some key, whichever the query head; False where it is not known."""
    if plan is None or not plan.attended_exact:
        return False
    if isinstance(positions, Bounds):
        return _always(plan.attended_rows, "r", positions.square)
    return _all(plan.attended_rows, "r", n, _at(n, m, positions), heads)


def _at(n: int, m: int, positions: Positions) -> dict[str, Any]:
    return {"n": n, "m": m, "offset": positions.offset, "key_offset": positions.key_offset}


def _all(pred: Pred | None, name: str, count: int, env: dict[str, Any], heads: int) -> bool:
    """Whether a predicate holds of `name` = 0 .. count - 1, for every query head."""
    if pred is None or pred == Truth(True):
        return True
    if count > LOOKED_AT:
        return False
    told_apart = sorted(_heads(pred, heads))
    for part in _parts(count):
        for head in told_apart:
            if not np.all(holds(pred, {**env, name: part, "q_head": head})):
                return False
    return True


@lru_cache(maxsize=256)
def _always(pred: Pred | None, name: str, square: bool) -> bool:
    """Whether a predicate holds of every row (key) of every sequence, or of those with as many rows as keys that start
    at position 0: isl says."""
    if pred is None or pred == Truth(True):
        return True
    if not square:
        return False
    from pidsl.relation.isl import alone, limited, read_set, region, scope

    space = f"[n, m, offset, key_offset, q_head] -> {{ [{name}]"
    with alone, suppress(TooHardError, TypeError, KeyError), limited("sequences", OPERATIONS):
        known = f"0 <= {name} < n and n = m and offset = 0 and key_offset = 0 and q_head >= 0"
        return bool(read_set(f"{space} : {known} }}") <= region(pred, scope(f"{space} }}")))
    return False


def _parts(count: int) -> Iterator[Any]:
    """0 .. count - 1: the two ends first, as it is there that most predicates fail."""
    yield np.array([0, count - 1])
    for start in range(0, count, CHUNK):
        yield np.arange(start, min(start + CHUNK, count))


def _heads(pred: Pred, heads: int) -> set[int]:
    """Query heads that among them meet every case of the tests of `q_head` in a predicate."""
    found = {0, heads - 1}
    for x in walk(pred):
        match x:
            case Compare(_, Var("q_head"), int(head)):
                found |= {head - 1, head, head + 1}
    return {head for head in found if 0 <= head < heads}
