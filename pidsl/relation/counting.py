"""Exact counts from the relation, for concrete lengths: keys per query, pairs, sparsity.

For every disjoint part of the relation, isl's loops over the keys of one query give the count as a formula in the
query position, evaluated for all queries at once. No n x m array is built.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from fractions import Fraction
from functools import lru_cache
from math import gcd, lcm, prod
from typing import Any, assert_never

import islpy as isl
import numpy as np
from numpy.typing import NDArray

from pidsl.errors import SizeError, TooHardError
from pidsl.language.expr import (
    Abs,
    Add,
    And,
    Compare,
    FloorDiv,
    Index,
    Max,
    Min,
    Mod,
    Mul,
    Not,
    Or,
    Pred,
    Sub,
    Symbol,
    Truth,
    Var,
    evaluate,
    holds,
    largest,
)
from pidsl.language.terms import Halo, Neighborhood, Term, require_free
from pidsl.relation.build import patience_for, relation
from pidsl.relation.isl import MAX_OPERATIONS, limited, read_set
from pidsl.relation.loops import VARIABLE, Loop, NoLoop, loops
from pidsl.relation.oracle import check_lengths, dense_mask
from pidsl.relation.runs import loop, runs_within

CHUNK = 1 << 20  # rows counted at a time
SAFE = 1 << 62  # numbers below it are counted in 64 bits


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
    if (runs := runs_within(term).get(id(term))) is not None:
        return tuple(map(loop, runs))
    what = f"the keys of one query of {term!r}"
    whole = relation(term)
    context = read_set("[n, m, i] -> { : 0 <= i < n and m > 0 }")
    try:
        with limited(what, MAX_OPERATIONS * patience_for(term)):
            points = whole.wrap().flatten()
            points = points.move_dims(isl.dim_type.param, 2, isl.dim_type.set, 0, 1)
            points = points.set_dim_name(isl.dim_type.param, 2, "i")
            return tuple(loops(points, context))
    except NoLoop as e:
        return TooHardError(f"isl's program holds {e}", "plain loops over the keys", what, "simplify the term")
    except TooHardError as e:
        return e.with_traceback(None)


def degree(term: Term, n: int, m: int | None = None, offset: int = 0, key_offset: int = 0) -> NDArray[np.int64]:
    """int64 [n]: how many keys each of the n queries attends."""
    require_free(term, "how many keys a query has")
    rows, columns, first, first_key = check_lengths(term, n, m, offset, key_offset)
    found = _count(key_loops(term), range(first, first + rows), rows + first, range(first_key, first_key + columns))
    try:
        return found.astype(np.int64)
    except OverflowError:
        raise SizeError(f"m = {columns}", "counts below 2**63", repr(term), "pairs(n, m), a Python integer") from None


def pairs(term: Term, n: int, m: int | None = None, offset: int = 0, key_offset: int = 0) -> int:
    """The number of attended pairs."""
    require_free(term, "how many pairs there are")
    rows, columns, first, first_key = check_lengths(term, n, m, offset, key_offset)
    if isinstance(term, Neighborhood | Halo) and first == first_key == 0 and min(rows, columns) >= prod(term.shape):
        return prod(int(dense_mask(axis, axis.shape[0]).sum()) for axis in axes(term))
    parts = key_loops(term)
    queries, keys = range(first, first + rows), range(first_key, first_key + columns)
    counts = (_count(parts, queries[s : s + CHUNK], first + rows, keys) for s in range(0, rows, CHUNK))
    return sum(int(x.sum()) if columns * CHUNK < SAFE else sum(x.tolist()) for x in counts)


def axes(term: Neighborhood | Halo) -> Iterator[Neighborhood | Halo]:
    """A whole grid by its axes: a pair is attended when every axis says so."""
    for k in range(len(term.shape)):
        own = {f.name: getattr(term, f.name)[k : k + 1] for f in fields(term) if f.name != "border"}
        yield replace(term, **own)


def sparsity(term: Term, n: int, m: int | None = None, offset: int = 0, key_offset: int = 0) -> float:
    """1 - pairs / (n * m); 1.0 when there are no pairs to attend."""
    require_free(term, "how many pairs there are")
    rows, columns, first, first_key = check_lengths(term, n, m, offset, key_offset)
    total = rows * columns
    return (total - pairs(term, rows, columns, first, first_key)) / total if total else 1.0


def _count(parts: tuple[Loop, ...], queries: range, n: int, keys: range) -> NDArray[Any]:
    """int64, or Python's integers where 64 bits might not do."""
    if n == 0 or not keys:
        return np.zeros(len(queries), dtype=np.int64)
    m = keys.stop
    tests = [test for part in parts for test in (part.first, part.last, part.guard, part.inside) if test is not None]
    if max([n + m, *(largest(test, n + m) for test in tests)]) < SAFE:
        i = np.arange(queries.start, queries.stop)
    else:
        i = np.array(queries, dtype=object)
    return count_loops(parts, {"n": n, "m": m, "i": i}, keys.start or None)


def count_loops(parts: tuple[Loop, ...], env: Mapping[str, Any], start: Any = None) -> NDArray[Any]:
    """Iterations of all loops, from `start` on, for parameters that are numbers or arrays of one shape."""
    shape = np.broadcast_shapes(*(np.shape(value) for value in env.values()))
    dtype = object if any(getattr(value, "dtype", None) is np.dtype(object) for value in env.values()) else np.int64
    count = np.zeros(shape, dtype=dtype)
    for part in parts:
        first = np.broadcast_to(np.asarray(evaluate(part.first, env), dtype=dtype), shape)
        last = np.broadcast_to(np.asarray(evaluate(part.last, env), dtype=dtype), shape)
        if start is not None:
            first = first + np.maximum(-((first - start) // part.step), 0) * part.step
        found = np.maximum((last - first) // part.step + 1, 0)
        if part.inside is not None:
            found = _count_inside(part, first, last, env)
        if part.guard is not None:
            found = found * np.asarray(holds(part.guard, env))
        count += found
    return count


def _count_inside(part: Loop, first: Any, last: Any, env: Mapping[str, Any]) -> NDArray[np.int64]:
    """Iterations that pass the loop's own test: all queries advance through their keys together.

    Where the test repeats with the key, one period is enough.
    """
    assert part.inside is not None
    total = np.maximum((last - first) // part.step + 1, 0)
    period = period_of(part.inside)
    cycle = int(total.max(initial=0)) if period is None else period // gcd(period, part.step)
    cycles, rest = total // max(cycle, 1), total % max(cycle, 1)
    found = np.zeros(len(first), dtype=first.dtype)
    for k in range(min(cycle, int(total.max(initial=0)))):
        passes = np.asarray(holds(part.inside, {**env, VARIABLE: first + k * part.step}))
        found += passes * (cycles + (k < rest))
    return found


def period_of(p: Pred) -> int | None:
    """After how many keys `p` repeats, whatever the query; None: perhaps never.

    `(x - i) % 6 >= 3 -> 6`, `x + 5 * ((i - x) // 5) >= i -> 5`, `x <= i -> None`.
    """
    match p:
        case Truth():
            return 1
        case Not(a):
            return period_of(a)
        case And(a, b) | Or(a, b):
            left, right = period_of(a), period_of(b)
            return None if left is None or right is None else lcm(left, right)
        case Compare(_, a, b):
            found = _drift(Sub(a, b))
            return found[0] if found is not None and found[1] == 0 else None
        case _:
            assert_never(p)


def _drift(e: Index) -> tuple[int, Fraction] | None:
    """(period, slope): when the key grows by a multiple of `period`, `e` grows by slope times as much."""
    match e:
        case int() | Symbol():
            return 1, Fraction(0)
        case Var(name):
            return 1, Fraction(name == VARIABLE)
        case Abs(a):
            found = _drift(a)
            return found if found is not None and found[1] == 0 else None
        case FloorDiv(a, int(b)) | Mod(a, int(b)):
            found = _drift(a)
            if found is None:
                return None
            period, slope = found
            period *= b // gcd(b, int(slope * period))  # until `a` has grown by a multiple of b
            return period, slope / b if isinstance(e, FloorDiv) else Fraction(0)
        case Add(a, b) | Sub(a, b) | Mul(a, b) | Min(a, b) | Max(a, b) | FloorDiv(a, b) | Mod(a, b):
            left, right = _drift(a), _drift(b)
        case _:
            assert_never(e)
    if left is None or right is None:
        return None
    period, x, y = lcm(left[0], right[0]), left[1], right[1]
    match e:
        case Add():
            return period, x + y
        case Sub():
            return period, x - y
        case Mul(int(c), _):
            return period, c * y
        case Mul(_, int(c)):
            return period, c * x
        case _:
            return (period, x) if x == y == 0 else None
