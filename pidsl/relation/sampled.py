"""The pattern of some tokens of a longer sequence, as a term of its own: every 256th query with every 256th key.

    window(63) | stride(256) & causal     queries 3, 259, ... and keys 3, 259, ...    causal
                                          queries 3, 259, ... and keys 1, 257, ...    window(0)
    keys(-4)                              the first 8 of 16 tokens                    empty

Word by word, where a word says the same of evenly spaced tokens: what is said of lags depends on the distance between
the first query and the first key alone, so equal patterns are equal terms. Of what no word says, isl finds a predicate.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import lru_cache, reduce
from math import gcd, inf
from typing import cast

import islpy as isl
import numpy as np

from pidsl.errors import SizeError, TermError, TooHardError
from pidsl.language.algebra import reduced, tidied
from pidsl.language.expr import (
    And,
    Compare,
    FloorDiv,
    Index,
    Mod,
    Or,
    Pred,
    Sub,
    Truth,
    evaluate,
    fold,
    simplify,
    substitute_pred,
)  # fmt: skip
from pidsl.language.expr import (
    walk as walk_expr,
)
from pidsl.language.parse import parse
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
    Node,
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
    of_lags_alone,
    require_concrete,
    require_free,
    walk,
)  # fmt: skip
from pidsl.relation.build import needs_square, patience_for, relation, unclipped
from pidsl.relation.forms import predicate
from pidsl.relation.isl import MAX_OPERATIONS, in_turn, limited, read_map, read_set
from pidsl.relation.oracle import check_square, table
from pidsl.relation.recognise import recognised
from pidsl.relation.runs import Runs, lag_runs, merged
from pidsl.relation.view import View, both, either, empty, full, ring_lags, turned, without, word_of

MOST_PAIRS = 1 << 12  # that are listed, where isl finds no predicate
CELLS = 1 << 24  # of a mask in which they are looked for
LONGEST = 200  # comparisons and divisions of a predicate of which words are guessed


def sampled(term: Term, rows: tuple[int, int], keys: tuple[int, int], lengths: tuple[int, int]) -> Term:
    """The pattern of evenly spaced tokens of a longer sequence, in their own numbers.

    Local query t and local key u are a pair of it when `(rows[0] + rows[1] * t, keys[0] + keys[1] * u)` is a pair of
    `term` with n queries and m keys, whatever the numbers of local queries and keys: those of any stretch of them have
    the pairs that `offset` and `key_offset` say.

    >>> import pidsl
    >>> comb = pidsl.window(63) | pidsl.stride(256) & pidsl.causal
    >>> sampled(comb, (3, 256), (3, 256), (1024, 1024)), sampled(comb, (3, 256), (1, 256), (1024, 1024))
    (window(0) | causal, window(0))
    >>> sampled(comb, (0, 1), (0, 1), (1024, 1024)) is comb
    True
    >>> sampled(pidsl.keys(-4), (0, 1), (8, 1), (16, 16))
    keys(4, None)

    Args:
        term: a term without symbols, documents and choices.
        rows: the first query and the step to the next.
        keys: the first key and the step to the next.
        lengths: queries and keys of the whole sequence.

    Returns:
        A term that does not depend on its numbers of queries and keys.

    Raises:
        SymbolError, TermError: the term holds symbols, documents or a choice.
        SizeError: a first position or a length is negative, or a step below 1; a ring in a non-square pattern.
        TooHardError: isl finds no predicate within its limits, and there are too many pairs to list.
    """
    require_concrete(term, "take the pattern of some of the tokens")
    require_free(term, "the pattern of some tokens")
    given = (rows[0], rows[1] - 1, keys[0], keys[1] - 1, *lengths)
    if any(x < 0 for x in given):
        what = f"rows = {rows}, keys = {keys}, lengths = {lengths}"
        raise SizeError(what, "first positions and lengths from 0 on, steps from 1 on", repr(term))
    check_square(term, *lengths)
    return _sampled(term, rows, keys, lengths)


@lru_cache(maxsize=1 << 14)
def _sampled(term: Term, rows: tuple[int, int], keys: tuple[int, int], lengths: tuple[int, int]) -> Term:
    counts = [max(0, -(-(length - x[0]) // x[1])) for x, length in zip((rows, keys), lengths, strict=True)]
    if 0 in counts:
        return empty
    view = View(*rows, *keys, *lengths, *counts)
    if view.same and view.row == 0 and (of_lags_alone(term) or settled(term)):
        return term
    found = _of(term, view)
    # long predicates as their own text makes them, in which alternatives are grouped as they are read
    return parse(repr(found)) if any(isinstance(t, Where) for t in walk(found)) else found


# -- word by word ------------------------------------------------------------------------------------------------------


def _of(term: Term, view: View) -> Term:
    if view.same and of_lags_alone(term):
        return term
    if (runs := lag_runs(term)) is not None:
        return _of_runs(runs, view)
    node = cast(Node, term)
    match node:
        case Blocks() | Pairs() | Neighborhood() | Halo() | Where(_, 2) if view.same and view.row == 0:
            return term
        case Stride(period, phase):
            return _of_stride(_int(period), _int(phase), view)
        case Keys(start, stop, step):
            bounds = slice(_int(start), None if stop is None else _int(stop), _int(step))
            return _of_slice(bounds, view.key, view.key_step, view.m, view.keys)
        case Queries():
            return turned(_of(Keys(node.start, node.stop, node.step), view.swapped))
        case Blocks(size):
            s = _int(size)
            whole = _of_blocks(Window(0, 0), s, view)
            return _where(_lags_of_blocks([(0, 0)], s, view)) if whole is None else whole
        case Ring(radius) if view.inside:
            return _of_runs(ring_lags(_int(radius), view), view)
        case Where(pred, _):
            return _of_predicate(pred, view)
        case Pairs(values):
            found = [_local(i, view.row, view.row_step) + _local(j, view.key, view.key_step) for i, j in values]
            listed = tuple(sorted((x[0], x[1]) for x in found if len(x) == 2))
            return Pairs(listed) if listed else empty
        case Union(a, b):
            return either(_of(a, view), _of(b, view))
        case Intersection(a, b):
            x = _of(a, view)
            return x if isinstance(x, Empty) else both(x, _of(b, view))
        case Difference(a, b):
            x = _of(a, view)
            return x if isinstance(x, Empty) else without(x, _of(b, view))
        case SymmetricDifference(a, b):
            x, y = _of(a, view), _of(b, view)
            return either(x, y) if isinstance(x, Empty) or isinstance(y, Empty) else x ^ y
        case Complement(a):
            return without(full, _of(a, view))
        case Transpose(a):
            return turned(_of(a, view.swapped))
        case Shift(a, by):
            return _of(a, replace(view, key=view.key + _int(by)))
        case Power(a, layers) if _int(layers) == 1:
            return _of(a, view)
        case Power(a, layers) if _int(layers) == 0:
            return _of_runs([(0, 0)], view)
        case Blocked(a, size):
            s = _int(size)
            if (whole := _of_blocks(a, s, view)) is not None:
                return whole
            if (runs := lag_runs(a)) is not None:
                return _where(_lags_of_blocks(runs, s, view))
        case Dilated(a, step):
            if (classes := _of_classes(a, _int(step), view)) is not None:
                return classes
        case Full() | Empty() | Causal() | Window() | Lags() | Ring() | Neighborhood() | Halo() | Compose() | Power():
            pass
        case _:
            raise TypeError(f"no pattern of single tokens: {term!r}")
    return _by_isl(term, view)


def _of_runs(runs: Runs, view: View) -> Term:
    """Of the lags of some runs."""
    if not view.even:
        lag = simplify(Sub(view.i, view.j))
        return _where(reduce(Or, [_between(lag, run) for run in runs]) if runs else Truth(False))
    step, found = view.row_step, []
    for first, last in runs:
        low = first if first == -inf else -((view.lag - int(first)) // step)
        high = last if last == inf else (int(last) - view.lag) // step
        if low <= high:
            found.append((low, high))
    return word_of(merged(found))


def _between(value: Index, run: tuple[float, float]) -> Pred:
    first, last = run
    least = Truth(True) if first == -inf else Compare(">=", value, int(first))
    return fold(And(least, Truth(True) if last == inf else Compare("<=", value, int(last))))


def _of_stride(period: int, phase: int, view: View) -> Term:
    if not view.even:
        lag = simplify(Sub(view.i, view.j))
        return _where(Compare("==", simplify(Mod(simplify(Sub(lag, phase)), period)), 0))
    common = gcd(view.row_step, period)
    if (phase - view.lag) % common:
        return empty
    period //= common
    if period == 1:
        return full
    return Stride(period, (phase - view.lag) // common * pow(view.row_step // common, -1, period) % period)


def _of_slice(bounds: slice, key: int, key_step: int, m: int, count: int) -> Term:
    """Keys start .. stop in steps, as local keys."""
    first, last, step = bounds.indices(m)
    open_ = bounds.stop is None or (bounds.stop < 0 and key + key_step * (count - 1) < last)
    common = gcd(step, key_step)
    if (first - key) % common or first >= last:
        return empty
    local = step // common  # the local keys that are a step apart
    rest = (first - key) // common * pow(key_step // common, -1, local) % local if local > 1 else 0
    start = max(0, -((key - first) // key_step))  # the first local key at `first` or behind it
    start += (rest - start) % local
    stop = -(-(last - key) // key_step)
    if start >= min(stop, count):
        return empty
    # as far as the sequence goes, the local tokens go
    end = None if open_ and stop >= count else stop
    return full if start == 0 and end is None and local == 1 else Keys(start, end, local)


def _of_blocks(inside: Term, size: int, view: View) -> Term | None:
    """Of blocks that local tokens fill evenly, or of single tokens of blocks."""
    lengths = (-(-view.n // size), -(-view.m // size))
    if view.row_step % size == 0 and view.key_step % size == 0:
        blocks = (view.row // size, view.row_step // size, view.key // size, view.key_step // size)
        return _of(inside, View(*blocks, *lengths, view.rows, view.keys))
    if not view.even or size % view.row_step:
        return None
    if view.row % size >= view.row_step or view.key % size >= view.row_step:
        return None
    local = size // view.row_step
    found = _of(
        inside, View(view.row // size, 1, view.key // size, 1, *lengths, -(-view.rows // local), -(-view.keys // local))
    )
    if isinstance(found, Full | Empty) or local == 1:
        return found
    return Blocks(local) if found == Window(0, 0) else found.blocked(local)


def _lags_of_blocks(runs: Runs, size: int, view: View) -> Pred:
    """Of the lags between blocks, wherever the first tokens stand in theirs."""
    block, key_block = (simplify(FloorDiv(position, size)) for position in (view.i, view.j))
    if runs == [(0, 0)]:
        return Compare("==", block, key_block)
    return reduce(Or, [_between(simplify(Sub(block, key_block)), run) for run in runs]) if runs else Truth(False)


def _of_classes(inside: Term, step: int, view: View) -> Term | None:
    """Of residue classes: tokens of one class each, or of all of them."""
    if view.row_step % step == 0 and view.key_step % step == 0:
        if (c := view.row % step) != view.key % step:
            return empty
        own = (view.row // step, view.row_step // step, view.key // step, view.key_step // step)
        n, m = (max(0, -(-(length - c) // step)) for length in (view.n, view.m))
        return _of(inside, View(*own, n, m, view.rows, view.keys))
    if of_lags_alone(inside) and view.even:
        common = gcd(view.row_step, step)
        if view.lag % common:
            return empty
        local = step // common  # from one local lag in one class to the next; `first` is the least of them
        first = -view.lag // common * pow(view.row_step // common, -1, local) % local if local > 1 else 0
        lag = (view.lag + view.row_step * first) // step
        found = _of(
            inside, replace(view, row=lag, key=0, row_step=view.row_step // common, key_step=view.row_step // common)
        )
        if isinstance(found, Empty):
            return empty
        if isinstance(found, Full):
            return full if local == 1 else Stride(local, first)
        found = found.dilated(local) if local > 1 else found
        return found.shift(first) if first else found
    return None


def _of_predicate(pred: Pred, view: View) -> Term:
    held = substitute_pred(pred, {"i": view.i, "j": view.j, "n": view.n, "m": view.m})
    return _where(held)


# -- what no word says -------------------------------------------------------------------------------------------------


@in_turn
def _by_isl(term: Term, view: View) -> Term:
    """A predicate that isl finds, in words where there are some; few pairs one by one where it finds none."""
    with suppress(TooHardError, TermError):
        with limited(f"the pattern of some tokens of {term!r}", MAX_OPERATIONS * patience_for(term)):
            fixed = unclipped(term).intersect_params(read_set(f"[n, m] -> {{ : n = {view.n} and m = {view.m} }}"))
            fixed = fixed.project_out(isl.dim_type.param, 0, fixed.dim(isl.dim_type.param))
            there = f"0 <= t < {view.rows} and 0 <= u < {view.keys}"
            at = f"i = {view.row} + {view.row_step} t and j = {view.key} + {view.key_step} u"
            local = fixed.wrap().flatten().apply(read_map(f"{{ [i, j] -> [t, u] : {there} and {at} }}")).coalesce()
            local = local.gist(read_set(f"{{ [t, u] : {there} }}")).coalesce()
            held = predicate(local, ("i", "j"))
        short = sum(isinstance(x, Compare | FloorDiv | Mod) for x in walk_expr(held)) <= LONGEST
        return recognised(held) if short else Where.made(tidied(held))
    return _listed(term, view)


def _listed(term: Term, view: View) -> Term:
    """The pairs, from the mask."""
    given = f"{view.rows} x {view.keys} tokens of {term!r}"
    if view.rows * view.keys <= CELLS:
        at = [
            np.arange(count, dtype=np.int64) * step + first
            for first, step, count in ((view.row, view.row_step, view.rows), (view.key, view.key_step, view.keys))
        ]
        with suppress(SizeError):
            found = np.argwhere(table(term, at[0], at[1], view.n, view.m))
            if len(found) <= MOST_PAIRS:
                return Pairs(tuple((int(i), int(j)) for i, j in found)) if len(found) else empty
    hint = "simplify the term"
    raise TooHardError(given, f"a predicate within isl's limits, or at most {MOST_PAIRS} pairs", hint=hint)


@lru_cache(maxsize=1024)
@in_turn
def settled(term: Term) -> bool:
    """Whether a pair is one or not whatever the numbers of queries and keys; False also means "cannot tell"."""
    if needs_square(term):
        return False
    with suppress(TooHardError):
        pairs = relation(term)
        with limited(f"whether the lengths matter to {term!r}"):
            param = isl.dim_type.param
            longer = pairs.set_dim_name(param, 0, "N").set_dim_name(param, 1, "M")
            within = read_map("[n, m, N, M] -> { [i] -> [j] : 0 <= i < n <= N and 0 <= j < m <= M }")
            return bool((pairs & within).is_equal(longer & within))
    return False


# -- numbers and predicates --------------------------------------------------------------------------------------------


def _local(position: int, first: int, step: int) -> tuple[int, ...]:
    """The local number of a position, if it has one."""
    number, rest = divmod(position - first, step)
    return () if rest or number < 0 else (number,)


def _where(pred: Pred) -> Term:
    found = Where.made(tidied(reduced(pred)))
    runs = lag_runs(found)
    return found if runs is None else word_of(runs)


def _int(value: Index) -> int:
    return int(evaluate(value, {}))
