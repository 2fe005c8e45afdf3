"""The meaning of a term: its dense mask, computed the slow obvious way.

This file is the judge of everything else in pidsl, so it favours being checkable by eye. It uses NumPy only and
shares nothing with the relation builder but the term classes.

Only booleans are as large as the mask: what is computed on the way is computed for a block of it at a time, and in
Python's integers where 64 bits might not do.

A term is a relation on positions; `n` is the number of query positions and `m` of key positions (both counted from
0). Offsets slice the relation: rows offset .. offset + n - 1 of the pattern with offset + n query positions, and keys
key_offset .. key_offset + m - 1 of the pattern with key_offset + m keys.

`T & documents` has, within each document, the mask of T at that document's length, and no other pairs. Where documents
are not given it has the pairs that some documents allow.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from math import prod
from typing import Any, assert_never, cast

import numpy as np
from numpy.typing import NDArray

from pidsl.errors import SizeError, TermError
from pidsl.language.chosen import forced, possible, selection
from pidsl.language.expr import evaluate, holds, largest, whole
from pidsl.language.sizes import LIMIT
from pidsl.language.terms import (
    Blocked,
    Blocks,
    Causal,
    Chosen,
    Complement,
    Compose,
    Difference,
    Dilated,
    Documents,
    Empty,
    Full,
    Halo,
    Intersection,
    Keys,
    Lags,
    Leaf,
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
    misplaced,
    of_lags_alone,
    require_concrete,
    walk,
    within,
)  # fmt: skip
from pidsl.language.trees import Steps, bottom_up, children, run

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Positions = range | Ints

BLOCK = 1 << 16  # entries of a table that are computed at once
SIDE = 512  # of the blocks of a product
MOST = 1 << 34  # entries of the table of a layer
CUT = 512  # tokens that are cut into documents in every way


def check_lengths(
    term: Term, n: object, m: object, offset: object, key_offset: object = 0
) -> tuple[int, int, int, int]:  # fmt: skip
    """`n`, `m` (default n), `offset` and `key_offset` as integers >= 0 that fit the term.

    Raises:
        SizeError: a length or the offset is negative or not an integer; a ring in a non-square pattern.
        SymbolError: the term holds unbound symbols.
    """
    require_concrete(term, "evaluate the pattern")
    values = []
    given = {"n": n, "m": n if m is None else m, "offset": offset, "key_offset": key_offset}
    for name, value in given.items():
        number = whole(value)
        if number is None or number < 0:
            hint = ""
            if name == "offset" and number is not None:
                hint = f"no offset, and term.shift({-number}) for a pattern of lags such as window or causal"
            raise SizeError(f"{name} = {value!r}", "an integer >= 0", repr(term), hint)
        values.append(number)
    rows, columns, first, first_key = values
    check_square(term, first + rows, first_key + columns)
    return rows, columns, first, first_key


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
                "as many keys as query positions (offset + n == m + key_offset): a ring closes over one set of them",
                where=repr(t),
            )


def dense_mask(
    term: Term, n: int, m: int | None = None, offset: int = 0, key_offset: int = 0, blocks: Any = None
) -> Bools:  # fmt: skip
    """bool array [n, m]: whether position r + offset attends position c + key_offset. See `Questions.mask`."""
    n, m, offset, key_offset = check_lengths(term, n, m, offset, key_offset)
    stop, end = offset + n, key_offset + m
    if blocks is None:
        return table(term, range(offset, stop), range(key_offset, end), stop, end)
    size, lists = lists_of(term, blocks)
    first = offset // size.queries
    check_rows(lists, -(-stop // size.queries) - first if n else 0, term)
    listed = np.zeros((n, m), dtype=np.bool_)
    for r in range(n):
        own = lists[(r + offset) // size.queries - first]
        listed[r] = np.isin((np.arange(m) + key_offset) // size.block, own[own >= 0])
    most, least = (dense_mask(x, n, m, offset, key_offset) for x in (possible(term), forced(term)))
    return least | (most & listed)


def lists_of(term: Term, blocks: Any) -> tuple[Any, Ints]:
    """What a pattern lists, and the lists as an array [query blocks, up to budget]."""
    size = selection(term)
    if size is None:
        raise TermError(f"blocks for {term!r}", "a pattern with a choice", hint=f"{term!r} | chosen(64, 16)")
    lists = np.asarray(blocks)
    if lists.ndim != 2 or (lists.dtype.kind not in "iu" and lists.size) or lists.shape[1] > size.budget:
        given = f"blocks of shape {list(lists.shape)} and dtype {lists.dtype}"
        raise SizeError(given, f"integers [query blocks, up to {size.budget}]", f"{term!r}.mask(...)")
    return size, lists


def check_rows(lists: Ints, rows: int, term: Term) -> None:
    """Raise where there are not as many lists as blocks of queries."""
    if len(lists) != rows:
        raise SizeError(f"{len(lists)} rows of blocks", f"{rows}, one for each block of queries", f"{term!r}.mask(...)")


def document_mask(
    term: Term, n: int, m: object, offset: object, key_offset: object, documents: Any, blocks: Any = None
) -> Bools:  # fmt: skip
    """bool array [n, n]: the mask of a pattern `T & documents`, one document after the other. See `Questions.mask`."""
    pattern, confined = within(term)
    if not confined:
        hint = f"({term!r}) & documents" if type(term).__name__ in ("Union", "SymmetricDifference") else ""
        hint = hint or f"{term!r} & documents"
        raise TermError(f"documents for {term!r}", "a pattern that is confined to documents", hint=hint)
    tokens, keys, first, first_key = check_lengths(term, n, m, offset, key_offset)
    if keys != tokens or first or first_key:
        given = f"documents with m = {m!r}, offset = {offset!r}, key_offset = {key_offset!r}"
        raise SizeError(given, "as many keys as queries, both from position 0 on", f"{term!r}.mask(...)")
    out = np.zeros((tokens, tokens), dtype=np.bool_)
    runs = document_runs(documents, tokens)
    own: list[Any] = [None] * len(runs)
    if blocks is not None:
        size, lists = lists_of(pattern, blocks)
        ends = np.cumsum([-(-(stop - start) // size.queries) for start, stop in runs], dtype=np.int64)
        check_rows(lists, int(ends[-1]) if runs else 0, term)
        own = np.split(lists, ends[:-1])
    for (start, stop), listed in zip(runs, own, strict=True):
        out[start:stop, start:stop] = dense_mask(pattern, stop - start, blocks=listed)
    return out


def document_runs(documents: Any, tokens: int) -> list[tuple[int, int]]:
    """The first token of each document, and the one after its last; negative ids are padding.

    Raises:
        SizeError: the ids are no integers, not one for each token, or not in runs.
    """
    ids = np.asarray(documents)
    where = "term.mask(n, documents=ids)"
    if ids.shape != (tokens,) or (ids.dtype.kind not in "iu" and tokens):
        given = f"documents of shape {list(ids.shape)} and dtype {ids.dtype}"
        raise SizeError(given, f"{tokens} integers, the document of each token", where)
    starts = [0, *(np.flatnonzero(ids[1:] != ids[:-1]) + 1).tolist()] if tokens else []
    seen: dict[int, int] = {}
    for start in (x for x in starts if ids[x] >= 0):
        if (before := seen.setdefault(int(ids[start]), start)) != start:
            given = f"document {int(ids[start])} from token {before} and again from token {start}"
            raise SizeError(given, "each document in one run of tokens", where)
    return [(start, stop) for start, stop in pairwise([*starts, tokens]) if ids[start] >= 0]


def table(term: Term, i: Positions, j: Positions, n: int, m: int) -> Bools:
    """bool [len(i), len(j)]: the term at any integer positions i (queries) and j (keys), also outside 0..n, 0..m."""
    pattern, confined = within(term)
    if confined and not of_lags_alone(pattern):
        return _any_documents(pattern, i, j, n, m)
    if confined:  # wherever a document starts, it has the lags that the pattern has
        return table(pattern, i, j, n, m)
    layered: set[int] = set()
    for t in bottom_up(term):
        if isinstance(t, Compose | Power) or any(id(part) in layered for part in children(t)):
            layered.add(id(t))
    exact = _largest(term, i, j, n, m) >= 1 << 63
    return run(_Table(layered, object if exact else np.int64).of(term, i, j, n, m))


def _any_documents(pattern: Term, i: Positions, j: Positions, n: int, m: int) -> Bools:
    """Where a pattern holds within some document s .. e - 1, which has the positions below n and the keys below m."""
    if max(n, m) > CUT:
        hint = "term.mask(n, documents=ids), which knows them"
        raise SizeError(f"{max(n, m)} tokens, cut into documents in every way", f"at most {CUT}", repr(pattern), hint)
    found = np.zeros((n, m), dtype=np.bool_)
    mask = lru_cache(maxsize=2 * CUT)(lambda rows, keys: dense_mask(pattern, rows, keys))
    for e in range(1, max(n, m) + 1):
        for s in range(min(e, n, m)):
            rows, keys = min(e, n) - s, min(e, m) - s
            found[s : s + rows, s : s + keys] |= mask(rows, keys)
    (row, column) = (_int64(x) for x in (i, j))
    at = np.pad(found, 1)[np.clip(row + 1, 0, n + 1)[:, None], np.clip(column + 1, 0, m + 1)[None, :]]
    return np.asarray(at, dtype=np.bool_)


class _Table:
    """One evaluation.

    Args:
        layered: the ids of all terms that hold layers of attention: these need tables of whole layers.
        dtype: of positions: int64, or object for Python's integers.
    """

    def __init__(self, layered: set[int], dtype: Any) -> None:
        self.layered, self.dtype = layered, dtype

    def of(self, term: Term, i: Positions, j: Positions, n: int, m: int) -> Steps[Bools]:
        """The table of a term, block by block where that can be."""
        if id(term) in self.layered or len(i) * len(j) <= BLOCK:
            return (yield self._block(term, i, j, n, m))
        out = np.empty((len(i), len(j)), dtype=np.bool_)
        width = min(len(j), BLOCK)
        height = BLOCK // width
        for x in range(0, len(i), height):
            for y in range(0, len(j), width):
                rows, columns = slice(x, x + height), slice(y, y + width)
                out[rows, columns] = yield self._block(term, i[rows], j[columns], n, m)
        return out

    def _block(self, term: Term, i: Positions, j: Positions, n: int, m: int) -> Steps[Bools]:
        match term:
            case Union(a, b):
                out = yield self.of(a, i, j, n, m)
                out |= yield self.of(b, i, j, n, m)
            case Intersection(a, b):
                out = yield self.of(a, i, j, n, m)
                out &= yield self.of(b, i, j, n, m)
            case Difference(a, b):
                out = yield self.of(a, i, j, n, m)
                out &= ~(yield self.of(b, i, j, n, m))
            case SymmetricDifference(a, b):
                out = yield self.of(a, i, j, n, m)
                out ^= yield self.of(b, i, j, n, m)
            case Complement(a):
                out = yield self.of(a, i, j, n, m)
                np.logical_not(out, out=out)
            case Transpose(a):
                return (yield self.of(a, j, i, m, n)).T
            case Shift(a, by):
                return (yield self.of(a, i, _plus(j, _int(by)), n, m))
            case Chosen(within=pairs):
                return (yield self.of(pairs, i, j, n, m))
            case Compose(a, b):
                tokens = _tokens(term, m, i, j)  # between two layers: the keys of the last one
                reached = yield self.of(a, i, tokens, n, m)
                return _product(reached, (yield self.of(b, tokens, j, m, m)))
            case Power(a, layers) if _int(layers) > 1:
                tokens = _tokens(term, m, i, j)
                reached = yield self.of(a, i, tokens, n, m)
                if between := _int(layers) - 2:
                    layer = yield self.of(a, tokens, tokens, m, m)
                while between:  # by repeated squaring
                    reached = _product(reached, layer) if between & 1 else reached
                    between >>= 1
                    layer = _product(layer, layer) if between else None
                return _product(reached, (yield self.of(a, tokens, j, m, m)))
            case Power(a, layers) if _int(layers) == 1:
                return (yield self.of(a, i, j, n, m))
            case Blocked(a, size):
                s = _int(size)
                (rows, row), (columns, column) = (_different(self._array(x) // s) for x in (i, j))
                inside = yield self.of(a, rows, columns, -(-n // s), -(-m // s))
                return inside[row][:, column]
            case Dilated(a, step):
                s = _int(step)
                row, column = self._array(i), self._array(j)
                out = np.zeros((len(row), len(column)), dtype=np.bool_)
                # Each residue class is a sequence of its own, with its own length: the same one from border to border.
                for first, last in pairwise(sorted({0, n % s, m % s, s})):
                    own = [np.flatnonzero((first <= x % s) & (x % s < last)) for x in (row, column)]
                    (rows, r), (columns, k) = (_different(x[at] // s) for x, at in zip((row, column), own, strict=True))
                    lengths = (max(-(-(length - first) // s), 0) for length in (n, m))
                    inside = yield self.of(a, rows, columns, *lengths)
                    same = (row[own[0]] % s)[:, None] == (column[own[1]] % s)[None, :]
                    inside = inside[r][:, k] & same
                    if inside.shape == out.shape:  # all of them, and no other class has any
                        return inside
                    out[np.ix_(*own)] = inside
            case _:
                found = _leaf(cast("Leaf | Power", term), self._array(i)[:, None], self._array(j)[None, :], n, m)
                out = np.empty((len(i), len(j)), dtype=np.bool_)
                out[...] = found
        return out

    def _array(self, x: Positions) -> Ints:
        return np.array(x, dtype=self.dtype) if self.dtype is object else _int64(x)


def _leaf(term: Leaf | Power, row: Ints, column: Ints, n: int, m: int) -> Any:
    """A word of the language (or no layer at all) at positions [rows, 1] and [1, columns]."""
    lag = row - column
    match term:
        case Full():
            return True
        case Empty():
            return False
        case Causal():
            return lag >= 0
        case Window(left, right):
            return (-_int(right) <= lag) & (lag <= _int(left))
        case Stride(period, phase):
            return lag % _int(period) == _int(phase)
        case Lags(values):
            return np.isin(lag, np.array([_int(v) for v in values], dtype=lag.dtype))
        case Ring(radius):
            inside = (0 <= row) & (row < n) & (0 <= column) & (column < n)
            return inside & ((lag % max(n, 1) <= _int(radius)) | (-lag % max(n, 1) <= _int(radius)))
        case Keys(start, stop, step):
            return _sliced(column, m, start, stop, step)
        case Queries(start, stop, step):
            return _sliced(row, n, start, stop, step)
        case Blocks(size):
            return row // _int(size) == column // _int(size)
        case Where(pred, _):
            return holds(pred, {"i": row, "j": column, "n": n, "m": m})
        case Pairs():
            return _listed(_pairs(term), row[:, 0], column[0])
        case Neighborhood(shape):
            return _on_grid(shape, row[:, 0], column[0], lambda axis, y, u: _neighbors(term, axis, y, u))
        case Halo(shape, block, halo):
            return _on_grid(shape, row[:, 0], column[0], lambda axis, y, u: _grown(block[axis], halo[axis], y, u))
        case Power():
            return lag == 0
        case Chosen() | Documents():
            raise misplaced(term)
        case _:
            assert_never(term)


def _largest(term: Term, i: Positions, j: Positions, n: int, m: int) -> int:
    """No number that the evaluation meets is larger in magnitude."""
    far = max(n, m, *(abs(x) for positions in (i, j) for x in _ends(positions)))
    far += sum(abs(_int(t.by)) for t in walk(term) if isinstance(t, Shift))
    return max(4 * far + LIMIT, *(largest(t.pred, far) for t in walk(term) if isinstance(t, Where)), 0)


def _int64(x: Positions) -> Ints:
    return np.arange(x.start, x.stop, x.step, dtype=np.int64) if isinstance(x, range) else x


def _ends(x: Positions) -> tuple[int, int]:
    if len(x) == 0:
        return 0, 0
    return (x[0], x[-1]) if isinstance(x, range) else (int(x.min()), int(x.max()))


def _plus(x: Positions, by: int) -> Positions:
    return range(x.start + by, x.stop + by, x.step) if isinstance(x, range) else x + by


def _different(x: Ints) -> tuple[Ints, Ints]:
    """The different values in x, and where each entry of x is among them."""
    values, place = np.unique(x, return_inverse=True)
    return values, place


def _tokens(term: Term, m: int, i: Positions, j: Positions) -> range:
    """The tokens between two layers."""
    if m * max(len(i), len(j)) > MOST:
        given = f"{m} tokens between the layers, for {len(i)} x {len(j)} pairs"
        raise SizeError(given, f"tables of at most {MOST} entries", repr(term), "term.relation() knows no lengths")
    return range(m)


def _product(a: Bools, b: Bools) -> Bools:
    """Boolean matrix product."""
    out = np.zeros((a.shape[0], b.shape[1]), dtype=np.bool_)
    for t in range(0, len(b), SIDE):
        first = b[t : t + SIDE].astype(np.float32)
        for r in range(0, len(a), SIDE):
            out[r : r + SIDE] |= (a[r : r + SIDE, t : t + SIDE].astype(np.float32) @ first) > 0
    return out


@lru_cache(maxsize=16)
def _pairs(term: Pairs) -> Ints:
    return np.array(term.values, dtype=np.int64).reshape(-1, 2)


def _listed(values: Ints, i: Ints, j: Ints) -> Bools:
    """Pairs that are among `values`, which are sorted."""
    out = np.zeros((len(i), len(j)), dtype=np.bool_)
    first, last = (np.searchsorted(values[:, 0], i, side) for side in ("left", "right"))
    for row in np.flatnonzero(first < last):
        out[row] = np.isin(j, values[first[row] : last[row], 1])
    return out


def _on_grid(shape: tuple[int, ...], i: Ints, j: Ints, near: Callable[[int, int, Ints], Bools]) -> Bools:
    """Pairs on the grid for which `near(axis, query, keys)` holds on every axis."""
    out = np.zeros((len(i), len(j)), dtype=np.bool_)
    tokens = prod(shape)
    on_grid = ((0 <= j) & (j < tokens)).astype(np.bool_)
    keys = np.unravel_index(np.where(on_grid, j, 0).astype(np.int64), shape)
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


def _sliced(x: Ints, length: int, start: Any, stop: Any, step: Any) -> Bools:
    """`x in range(length)[start:stop:step]`."""
    bounds = (_int(start), None if stop is None else _int(stop), _int(step))
    first, last, by = slice(*bounds).indices(length)
    return (first <= x) & (x < last) & ((x - first) % by == 0)


def _int(value: Any) -> int:
    return int(evaluate(value, {}))
