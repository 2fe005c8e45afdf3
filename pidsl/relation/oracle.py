"""The meaning of a term: its dense mask, computed the slow obvious way.

This file is the judge of everything else in pidsl, so it favours being checkable by eye. It uses NumPy only and
shares nothing with the relation builder but the term classes.

A term is a relation on positions; `n` is the number of query positions and `m` of key positions (both counted from
0). An offset slices the relation: rows offset .. offset + n - 1 of the pattern with offset + n query positions.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray

from pidsl.errors import SizeError
from pidsl.language.expr import evaluate, holds
from pidsl.language.terms import (
    Blocked,
    Blocks,
    Causal,
    Complement,
    Compose,
    Difference,
    Dilated,
    Empty,
    Full,
    Halo,
    Intersection,
    Keys,
    Lags,
    Neighborhood,
    Pairs,
    Power,
    Queries,
    Ring,
    Shift,
    Stride,
    SymmetricDifference,
    Term,
    Transpose,
    Union,
    Where,
    Window,
    require_concrete,
    walk,
)  # fmt: skip

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def check_lengths(term: Term, n: object, m: object, offset: object) -> tuple[int, int, int]:
    """`n`, `m` (default n) and `offset` as integers >= 0 that fit the term.

    Raises:
        SizeError: a length or the offset is negative or not an integer; a ring in a non-square pattern.
        SymbolError: the term holds unbound symbols.
    """
    require_concrete(term, "evaluate the pattern")
    values = []
    for name, value in (("n", n), ("m", n if m is None else m), ("offset", offset)):
        if isinstance(value, bool) or not hasattr(value, "__index__") or int(value.__index__()) < 0:
            raise SizeError(f"{name} = {value!r}", "an integer >= 0", where=repr(term))
        values.append(int(value.__index__()))
    rows, columns, first = values
    check_square(term, first + rows, columns)
    return rows, columns, first


def check_square(term: Term, positions: int, keys: int) -> None:
    """Raise for a ring unless there are as many keys as positions of queries.

    Raises:
        SizeError: a ring in a non-square pattern.
    """
    if positions == keys:
        return
    for t in walk(term):
        if isinstance(t, Ring):
            raise SizeError(
                f"{positions} query positions and {keys} keys",
                "as many keys as query positions (offset + n == m): a ring closes over one set of positions",
                where=repr(t),
            )


def dense_mask(term: Term, n: int, m: int | None = None, offset: int = 0) -> Bools:
    """bool array [n, m]: whether position r + offset attends key j. See `Algebra.mask`."""
    n, m, offset = check_lengths(term, n, m, offset)
    return table(term, np.arange(offset, offset + n), np.arange(m), offset + n, m)


def table(term: Term, i: Ints, j: Ints, n: int, m: int) -> Bools:
    """bool [len(i), len(j)]: the term at any integer positions i (queries) and j (keys), also outside 0..n, 0..m."""
    row, column = i[:, None], j[None, :]
    lag = row - column
    everywhere = np.ones_like(lag, dtype=np.bool_)
    match term:
        case Full():
            return everywhere
        case Empty():
            return ~everywhere
        case Causal():
            return lag >= 0
        case Window(left, right):
            return (-_int(right) <= lag) & (lag <= _int(left))
        case Stride(period, phase):
            return lag % _int(period) == _int(phase)
        case Lags(values):
            return np.isin(lag, np.array([_int(v) for v in values], dtype=np.int64))
        case Ring(radius):
            inside = (0 <= row) & (row < n) & (0 <= column) & (column < n)
            return inside & (np.minimum(lag % max(n, 1), -lag % max(n, 1)) <= _int(radius))
        case Keys(start, stop, step):
            return everywhere & np.isin(column, _sliced(m, start, stop, step))
        case Queries(start, stop, step):
            return everywhere & np.isin(row, _sliced(n, start, stop, step))
        case Blocks(size):
            return row // _int(size) == column // _int(size)
        case Where(pred, _):
            return everywhere & np.asarray(holds(pred, {"i": row, "j": column, "n": n, "m": m}))
        case Pairs(values):
            found = set(values)
            return np.array([[(a, b) in found for b in j] for a in i], dtype=np.bool_).reshape(lag.shape)
        case Neighborhood(shape):
            return _on_grid(shape, i, j, lambda axis, y, u: _neighbors(term, axis, y, u))
        case Halo(shape, block, halo):
            return _on_grid(shape, i, j, lambda axis, y, u: _grown(block[axis], halo[axis], y, u))
        case Union(a, b):
            return table(a, i, j, n, m) | table(b, i, j, n, m)
        case Intersection(a, b):
            return table(a, i, j, n, m) & table(b, i, j, n, m)
        case Difference(a, b):
            return table(a, i, j, n, m) & ~table(b, i, j, n, m)
        case SymmetricDifference(a, b):
            return table(a, i, j, n, m) ^ table(b, i, j, n, m)
        case Complement(a):
            return ~table(a, i, j, n, m)
        case Transpose(a):
            return table(a, j, i, m, n).T
        case Compose(a, b):
            tokens = np.arange(m)  # the tokens between two layers are the keys of the last one
            return _product(table(a, i, tokens, n, m), table(b, tokens, j, m, m))
        case Power(a, layers):
            if _int(layers) == 0:
                return lag == 0
            if _int(layers) == 1:
                return table(a, i, j, n, m)
            tokens = np.arange(m)
            reached = table(a, i, tokens, n, m)
            for _ in range(_int(layers) - 2):
                reached = _product(reached, table(a, tokens, tokens, m, m))
            return _product(reached, table(a, tokens, j, m, m))
        case Shift(a, by):
            return table(a, i, j + _int(by), n, m)
        case Blocked(a, size):
            s = _int(size)
            return table(a, i // s, j // s, -(-n // s), -(-m // s))
        case Dilated(a, step):
            s = _int(step)
            out = ~everywhere
            for c in range(s):  # each residue class is a sequence of its own, with its own length
                rows, columns = np.flatnonzero(i % s == c), np.flatnonzero(j % s == c)
                inside = table(a, i[rows] // s, j[columns] // s, len(range(c, n, s)), len(range(c, m, s)))
                out[np.ix_(rows, columns)] = inside
            return out
        case _:
            assert_never(term)


def _product(a: Bools, b: Bools) -> Bools:
    """Boolean matrix product."""
    return (a.astype(np.float32) @ b.astype(np.float32)) > 0


def _on_grid(shape: tuple[int, ...], i: Ints, j: Ints, near: Callable[[int, int, Ints], Bools]) -> Bools:
    """Pairs on the grid for which `near(axis, query, keys)` holds on every axis."""
    out = np.zeros((len(i), len(j)), dtype=np.bool_)
    tokens = prod(shape)
    on_grid = (0 <= j) & (j < tokens)
    keys = np.unravel_index(np.where(on_grid, j, 0), shape)
    for row, position in enumerate(i):
        if 0 <= position < tokens:
            query = np.unravel_index(int(position), shape)
            out[row] = on_grid
            for axis in range(len(shape)):
                out[row] &= near(axis, int(query[axis]), keys[axis])
    return out


def _neighbors(term: Neighborhood, axis: int, y: int, u: Ints) -> Bools:
    """Which keys u are in the window of query y on an axis."""
    window, stride, step = term.window[axis], term.stride[axis], term.dilation[axis]
    count = len(range(y % step, term.shape[axis], step))  # tokens of the residue class
    t = y // step  # and which of them the query is
    group = t // stride * stride
    if term.causal[axis]:
        leader = min(group + stride - 1, count - 1)
        first, last = leader - (window - 1), t
    else:
        leader = min(group + stride // 2, count - 1)
        first, last = leader - window // 2, leader - window // 2 + window - 1
        if term.border == "clamp" and last >= count:
            first, last = first - (last - (count - 1)), count - 1
        if term.border == "clamp" and first < 0:
            first, last = 0, window - 1
    return (u % step == y % step) & (first <= u // step) & (u // step <= last)


def _grown(block: int, halo: int, y: int, u: Ints) -> Bools:
    """Which keys u are in the block of query y or at most `halo` tokens beside it."""
    start = y // block * block
    return (start - halo <= u) & (u < start + block + halo)


def _sliced(length: int, start: Any, stop: Any, step: Any) -> Ints:
    return np.arange(length)[_int(start) : None if stop is None else _int(stop) : _int(step)]


def _int(value: Any) -> int:
    return int(evaluate(value, {}))
