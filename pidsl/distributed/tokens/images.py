"""Which keys some rows attend, and which rows attend some keys: what one rank needs of the others, exactly.

The image of a union is the union of the images, that of two layers is the image of an image. What is left is looked up
in the dense mask of a short sequence, computed from runs of lags, or by isl at the given number of tokens; where isl's
limit strikes, from the keys of one query after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache, reduce
from math import inf
from operator import or_

import islpy as isl
import numpy as np

from pidsl.distributed.tokens.runs import Ints, Run, Runs, positions
from pidsl.distributed.tokens.unions import Members, joined
from pidsl.errors import SizeError, TooHardError
from pidsl.language.expr import evaluate, holds
from pidsl.language.terms import (
    Blocked,
    Compose,
    Pairs,
    Power,
    Term,
    Transpose,
    Union,
    require_concrete,
    require_free,
)  # fmt: skip
from pidsl.language.trees import parts_of
from pidsl.relation.build import patience_for, relation
from pidsl.relation.counting import key_loops
from pidsl.relation.isl import MAX_OPERATIONS, convex_parts, in_turn, largest, least, limited, read_set
from pidsl.relation.loops import VARIABLE, Loop, NoLoop, loops
from pidsl.relation.oracle import Bools, dense_mask, table
from pidsl.relation.pieces import inside
from pidsl.relation.runs import lag_runs
from pidsl.relation.sampled import settled

SHORT = 256  # tokens of a sequence whose mask is looked up
CHUNK = 1 << 22  # entries of a mask, or keys of a loop, at a time
MOST = 1 << 34  # entries of a mask that are looked at where nothing else works


def image(term: Term, n: int, rows: Runs) -> Runs:
    """Exactly the keys that some of the rows attend, among n tokens.

    >>> import pidsl
    >>> image(pidsl.window(4) | pidsl.keys(0, 2), 2**20, (Run(2**19, 100),))
    (Run(first=0, count=2, step=1), Run(first=524284, count=104, step=1))

    Args:
        term: a term without symbols, documents and choices.
        n: tokens: as many queries as keys.
        rows: positions of queries, at least 0; none is in two runs.

    Returns:
        Runs in the order of their first positions, no position in two of them; few, where there are few that say it.

    Raises:
        SymbolError: the term holds unbound symbols.
        TermError: it is confined to documents, or calls choose pairs of it.
        SizeError: a row is no position.
        TooHardError: isl's operation limit struck, and the keys of single queries are as hard to say.
    """
    _check(term, n, rows, "rows")
    return _image(term, n, rows, False)


def preimage(term: Term, n: int, keys: Runs) -> Runs:
    """Exactly the rows that attend some of the keys, among n tokens. As `image`, with queries for keys."""
    _check(term, n, keys, "keys")
    return _image(term, n, keys, True)


def _check(term: Term, n: int, given: Runs, what: str) -> None:
    require_concrete(term, "say which keys some rows attend")
    require_free(term, "which keys some rows attend")
    if wrong := [run for run in given if run.first < 0 or run.last >= n or run.count < 1 or run.step < 1]:
        raise SizeError(f"{wrong[0]}", f"positions from 0 to {n - 1}, at least one", f"the {what} of {term!r}")


@lru_cache(maxsize=1 << 14)
def _image(term: Term, n: int, of: Runs, back: bool) -> Runs:
    """Of rows, or back: the preimage of keys."""
    if not of:
        return ()
    match term:
        case Transpose(a):
            return _image(a, n, of, not back)
        case Union():
            return joined([run for part in parts_of(Union, term) for run in _image(part, n, of, back)], n)
        case Compose(last, first):
            order = (first, last) if back else (last, first)
            return _image(order[1], n, _image(order[0], n, of, back), back)
        case Power(layer, layers):
            return _repeated(layer, int(evaluate(layers, {})), n, of, back)
        case Blocked(a, size):
            return _of_blocks(a, int(evaluate(size, {})), n, of, back)
        case Pairs(values):
            i, j = np.array(values, np.int64).reshape(-1, 2).T
            near, far = (j, i) if back else (i, j)
            return joined(Members(np.unique(far[_held(near, of) & (far < n)])), n)
    if n <= SHORT:
        mask = _mask(term, n)
        at = positions(of)
        return joined(Members(np.flatnonzero(mask[:, at].any(1) if back else mask[at].any(0))), n)
    if (lags := lag_runs(term)) is not None:
        return joined(_moved(lags, of, n, back), n)
    ways: tuple[Callable[[Term, int, Runs, bool], list[Run] | Members], ...] = (_by_isl, _by_loops)
    for way in ways:
        with suppress(TooHardError, NoLoop):
            return joined(way(term, n, of, back), n)
    return joined(_by_rows(term, n, of, back), n)


def _repeated(layer: Term, layers: int, n: int, of: Runs, back: bool) -> Runs:
    """Through one layer after the other, until nothing changes any more."""
    found = joined(list(of), n)
    seen = {found: 0}
    for k in range(1, layers + 1):
        found = _image(layer, n, found, back)
        if found in seen:
            cycle = k - seen[found]
            return list(seen)[seen[found] + (layers - k) % cycle]
        seen[found] = k
    return found


def _of_blocks(inside: Term, size: int, n: int, of: Runs, back: bool) -> Runs:
    """The blocks of the positions, the blocks that those attend, and all positions in them."""
    count = -(-n // size)
    blocks = [Run(run.first // size, run.last // size - run.first // size + 1) for run in of if run.step <= size]
    if far := tuple(run for run in of if run.step > size):
        blocks += joined(Members(np.unique(positions(far) // size)), count)
    spread: list[Run] = []
    for run in _image(inside, count, joined(blocks, count), back):
        own = (
            Run(run.first * size, run.count, run.step * size)
            if run.step > 1
            else Run(run.first * size, run.count * size)
        )
        spread += _around(own, 0, size - 1 if run.step > 1 else 0, n)
    return joined(spread, n)


def _held(at: Ints, runs: Runs) -> Bools:
    """Which positions are in some run."""
    found = np.zeros(len(at), dtype=np.bool_)
    for first, count, step in runs:
        found |= (at >= first) & (at < first + count * step) & ((at - first) % step == 0)
    return found


@lru_cache(maxsize=512)
def _mask(term: Term, n: int) -> Bools:
    return dense_mask(term, n)


def _moved(lags: list[tuple[float, float]], of: Runs, n: int, back: bool) -> list[Run]:
    """Keys at some lags of the rows: i - last .. i - first of every row i."""
    found: list[Run] = []
    for low, high in lags:
        first, last = (low, high) if back else (-high, -low)
        for run in of:
            found += _around(run, first, last, n)
    return found


def _around(run: Run, first: float, last: float, n: int) -> Iterator[Run]:
    """Positions x + first .. x + last of every x of a run, below n and at least 0."""
    if last - first + 1 >= run.step or run.count == 1:
        start, stop = max(0, run.first + first), min(n - 1, run.last + last)
        if start <= stop:
            yield Run(int(start), int(stop - start) + 1)
        return
    assert -inf < first <= last < inf
    for at in range(int(first), int(last) + 1):
        start = run.first + at
        start += max(0, -(start // run.step)) * run.step if start < 0 else 0
        stop = min(n - 1, run.last + at)
        if start <= stop:
            yield Run(start, (stop - start) // run.step + 1, run.step)


@lru_cache(maxsize=256)
def _at(term: Term, n: int) -> isl.Map:
    """The relation at n tokens, without parameters."""
    whole = relation(term)
    with limited(f"the pairs of {term!r} at n = {n}", MAX_OPERATIONS * patience_for(term)):
        fixed = whole.intersect_params(read_set(f"[n, m] -> {{ : n = {n} and m = {n} }}"))
        return fixed.project_out(isl.dim_type.param, 0, fixed.dim(isl.dim_type.param)).coalesce()


@in_turn
def _by_isl(term: Term, n: int, of: Runs, back: bool) -> list[Run]:
    # one relation for sequences of many lengths, such as documents, where the length cuts pairs off and no more
    pairs = _at(term, 1 << (n - 1).bit_length() if settled(term) else n)
    with limited(f"the keys of some rows of {term!r}", MAX_OPERATIONS * patience_for(term)):
        found = read_set(_said(of)).apply(pairs.reverse() if back else pairs) & read_set(f"{{ [j] : 0 <= j < {n} }}")
        return [run for part in convex_parts(found) for run in _runs_of(part)]


def _said(runs: Runs) -> str:
    """Runs in isl's notation; of neighbouring residue classes, one condition."""
    parts: list[tuple[Run, int]] = []  # a run, and how many like it start right behind it
    for run in sorted(runs):
        if parts and run.step > 1:
            before, more = parts[-1]
            if run == Run(before.first + more, before.count, before.step):
                parts[-1] = before, more + 1
                continue
        parts.append((run, 1))
    said = []
    for run, more in parts:
        if run.step == 1:
            said.append(f"{run.first} <= i <= {run.last}")
        else:
            said.append(f"exists q: 0 <= q < {run.count} and 0 <= i - {run.first} - {run.step} q < {more}")
    return f"{{ {'; '.join(f'[i] : {condition}' for condition in said)} }}"


def _runs_of(part: isl.BasicSet) -> list[Run]:
    """A bounded set of numbers: a progression, where isl agrees that it is one, or which of its range are in it."""
    points = isl.Set.from_basic_set(part)
    if points.is_empty():
        return []
    first, last = least(points), largest(points)
    if part.dim(isl.dim_type.div) == 0:
        return [Run(first, last - first + 1)]
    step = int(points.get_stride(0).to_python()) if last > first else 1
    run = Run(first, (last - first) // step + 1, step)
    if read_set(_said((run,))).is_subset(points):
        return [run]
    if last - first >= CHUNK:
        return [run for one in loops(points, read_set("{ : }")) for run in _visited(one)]
    at = np.arange(first, last + 1)
    here = points.set_dim_name(isl.dim_type.set, 0, VARIABLE).move_dims(isl.dim_type.param, 0, isl.dim_type.set, 0, 1)
    held = reduce(or_, (inside(own, {VARIABLE: at}) for own in convex_parts(here)))
    return list(joined(Members(at[held]), last + 1))


def _visited(one: Loop) -> Iterator[Run]:
    """What a loop without parameters visits."""
    if one.guard is not None and not holds(one.guard, {}):
        return
    first, last = int(evaluate(one.first, {})), int(evaluate(one.last, {}))
    if one.inside is None:
        if first <= last:
            yield Run(first, (last - first) // one.step + 1, one.step)
        return
    for start in range(first, last + 1, CHUNK * one.step):
        at = np.arange(start, min(last + 1, start + CHUNK * one.step), one.step)
        yield from joined(
            Members(at[np.broadcast_to(np.asarray(holds(one.inside, {VARIABLE: at})), at.shape)]), last + 1
        )


def _by_loops(term: Term, n: int, of: Runs, back: bool) -> Members:
    """The keys of one query after the other, for all of them at once."""
    found = np.zeros(n, dtype=np.bool_)
    rows = positions(of)
    for one in key_loops(term.T if back else term):
        env = {"n": n, "m": n, "i": rows}
        first, last = (np.broadcast_to(np.asarray(evaluate(x, env)), rows.shape) for x in (one.first, one.last))
        held = np.broadcast_to(np.asarray(True if one.guard is None else holds(one.guard, env)), rows.shape)
        counts = np.where(held, np.maximum((last - first) // one.step + 1, 0), 0)
        for some in _chunks(counts):
            at = np.repeat(np.arange(some.start, some.stop), counts[some])
            before = np.cumsum(counts[some]) - counts[some]
            keys = first[at] + one.step * (np.arange(len(at)) - before[at - some.start])
            if one.inside is not None:
                keys = keys[
                    np.broadcast_to(np.asarray(holds(one.inside, env | {"i": rows[at], VARIABLE: keys})), keys.shape)
                ]
            found[keys] = True
    return Members(np.flatnonzero(found))


def _chunks(counts: Ints) -> Iterator[slice]:
    """Rows with together about CHUNK keys."""
    ends = np.cumsum(counts)
    start = 0
    while start < len(counts):
        done = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + CHUNK, side="right")))
        yield slice(start, stop)
        start = stop


def _by_rows(term: Term, n: int, of: Runs, back: bool) -> Members:
    """From the mask, some rows at a time."""
    rows = positions(of)
    found = np.zeros(n, dtype=np.bool_)
    height = max(1, CHUNK // n)
    try:
        if len(rows) * n > MOST:
            raise SizeError(f"{len(rows)} rows of {n} keys each", f"at most {MOST} pairs", repr(term))
        for start in range(0, len(rows), height):
            found |= table(term.T if back else term, rows[start : start + height], range(n), n, n).any(0)
    except SizeError as e:
        hint = "simplify the term, or share the tokens out among more ranks"
        raise TooHardError(e.given, f"{e.expected}, where isl finds no formula", e.where, hint) from None
    return Members(np.flatnonzero(found))
