"""Verifies formulas for patterns of a grid of several axes.

The masks of the axes are read off rows of the pattern's own mask, of which rows of all tokens (a sample of large grids)
must then be their product. Layers are composed again, as bits of integers, until they repeat, and what the formula is
about is counted token by token.
"""

from __future__ import annotations

from functools import partial
from math import lcm, prod
from random import Random
from typing import Any

import numpy as np
import sympy

from pidsl.analysis.bound import ANY, Bound
from pidsl.analysis.dense import Bits, Bools, by_bits
from pidsl.analysis.formulas.agreement import shape_of
from pidsl.analysis.formulas.evaluate import values_of
from pidsl.analysis.formulas.words import L, i, n, symbol, value_of
from pidsl.analysis.smaller.axes import Grid, shape_of_grid, strides_of
from pidsl.analysis.verdict import Verdict, failed
from pidsl.errors import TooHardError
from pidsl.language.terms import Term
from pidsl.relation.oracle import table
from pidsl.relation.pieces import Ints

ENTRIES = 20_000_000  # of rows of a mask that are compared with the product of the axes, a second or less
CHUNK = 1 << 21
BEHIND = 3  # tokens behind the grid that are looked at
WORK = 60_000_000  # unions of rows of bits, some seconds
NEAR = 63  # lags among which one that is missing is looked for first
WINDOWS = 400_000_000  # pairs of tokens that are looked at for the first that is missing
t = symbol("t")


def check_grid(bound: Bound) -> Verdict:
    """That the pattern is a product of its axes, and the formula what these say."""
    shape = shape_of_grid(bound.subject)
    if shape is None:
        return failed("not a grid of several axes")
    tokens = prod(shape)
    wanted = {sympy.Ge(t, 0)} if bound.quantity == "live keys" else {sympy.Ge(n, tokens)}
    if bound.quantity == "degree":
        wanted |= {sympy.Ge(i, 0), sympy.Lt(i, n)}
    if bound.question.layers == ANY:
        wanted.add(sympy.Ge(L, 1))
    if set(bound.assumptions) != wanted:
        return failed(f"assumptions {bound.assumptions}, not {wanted}")
    layers = []
    for term in bound.subject if isinstance(bound.subject, tuple) else (bound.term,):
        masks = _axes(term, shape)
        if failure := _no_product(term, shape, masks):
            return failed(failure)
        layers.append(masks)
    axes = Grid(shape, tuple(layers))
    steps = (f"masks of the {len(shape)} axes", f"the mask of a grid of {tokens} tokens is their product")
    failure = _differs(bound, axes)
    return failed(failure, *steps) if failure else Verdict(True, (*steps, "the formula is what they say"))


def _axes(term: Term, shape: tuple[int, ...]) -> tuple[Bools, ...]:
    """The mask of each axis: which positions are attended from a token that is first on the other axes."""
    found, tokens = [], prod(shape)
    for k, stride in enumerate(strides_of(shape)):
        rows = table(term, np.arange(shape[k]) * stride, np.arange(tokens), tokens, tokens).reshape(-1, *shape)
        found.append(np.any(rows, axis=tuple(1 + x for x in range(len(shape)) if x != k)))
    return tuple(found)


def _no_product(term: Term, shape: tuple[int, ...], masks: tuple[Bools, ...]) -> str:
    """Which row of a mask is not the product of those of the axes, "" if none of those that are looked at."""
    tokens = prod(shape)
    count = max(1, CHUNK // tokens)
    most = max(ENTRIES // tokens, 4)
    rows = np.arange(tokens)
    if tokens > most:
        draw = Random(f"rows of {term!r}")
        rows = np.array(sorted({0, tokens - 1, *draw.sample(range(tokens), most - 2)}))
    keys, length = np.arange(tokens + BEHIND), tokens + BEHIND
    if table(term, keys[tokens:], keys, length, length).any():
        return "a token behind the grid attends something"
    for start in range(0, len(rows), count):
        some = rows[start : start + count]
        right = np.ones((len(some), 1), dtype=np.bool_)
        for mask, at in zip(masks, np.unravel_index(some, shape), strict=True):
            right = (right[:, :, None] & mask[at][:, None, :]).reshape(len(some), -1)
        found = table(term, some, keys, length, length)
        if found[:, tokens:].any() or (found[:, :tokens] != right).any():
            return "the mask is no product of those of the axes"
    return ""


def _differs(bound: Bound, axes: Grid) -> str:
    """Why the formula is not what the axes say, "" if it is."""
    match bound.quantity:
        case "pairs" | "max degree" | "degree":
            keys = _of_tokens([mask.sum(axis=1) for mask in axes.layers[0]])
            if bound.quantity == "degree":
                return _not_until(bound.expr, i, keys)
            right = int(keys.sum() if bound.quantity == "pairs" else keys.max())
            return "" if bound.expr == right else f"it is {right}"
        case "live keys":
            return _not_until(bound.expr, t, _live(axes))
        case "depth":
            return _wrong_depth(bound, axes)
        case _:
            return _wrong_reach(bound, axes)


def _of_tokens(each: list[Ints]) -> Ints:
    """What is a product of numbers on each axis, for every token."""
    found = np.ones(1, dtype=np.int64)
    for values in each:
        found = np.multiply.outer(found, values.astype(np.int64)).ravel()
    return found


def _not_until(expr: sympy.Expr, x: sympy.Symbol, values: Ints) -> str:
    """Why a formula is not these values at 0, 1, ..., and then 0; "" if it is."""
    inside = _where(expr, x < len(values), 0)
    if inside is None:
        return f"not a formula for {x} < {len(values)}, and 0 for others"
    found, bottom, known = values_of(inside, {x: np.arange(len(values))})
    wrong = ~known | (found != values * bottom)
    return f"at {x} = {(k := int(np.argmax(wrong)))} it is {values[k]}" if wrong.any() else ""


def _where(expr: sympy.Expr, condition: Any, other: object) -> sympy.Expr | None:
    """The value of a formula where a condition holds, if it is `other` where it does not; None for other formulas."""
    if expr == other:
        return expr
    if not isinstance(expr, sympy.Piecewise) or len(expr.args) != 2 or expr.args[1] != (other, True):
        return None
    return expr.args[0][0] if expr.args[0][1] == condition else None


def _live(axes: Grid) -> Ints:
    """Keys up to t whose last query is after t, for every t of the grid."""
    none = axes.tokens
    last = np.zeros(1, dtype=np.int64)
    for mask in axes.layers[0]:  # the last position that attends one; far below 0 if none does
        own = np.array([max(np.flatnonzero(column), default=-none) for column in mask.T])
        last = np.add.outer(last * len(mask), own).ravel()
    change = np.zeros(none + 1, dtype=np.int64)
    for key in np.flatnonzero(last > np.arange(none)):
        change[key] += 1
        change[last[key]] -= 1
    return np.cumsum(change)[:none]


# -- layers ------------------------------------------------------------------------------------------------------------


def _wrong_depth(bound: Bound, axes: Grid) -> str:
    inside = _where(bound.expr, sympy.Eq(n, axes.tokens), sympy.oo)
    if inside is None or bound.question.of is None:
        return f"not a formula for n = {axes.tokens}, and oo for more"
    for count, (seen, again) in enumerate(by_bits(axes.layers, WORK), 1):
        if _connected(seen, axes.shape, bound.question.of):
            return "" if inside == count else f"{count} layers are enough"
        if again:
            return "" if inside == sympy.oo else "no number of layers is enough"
        if inside == count:
            return f"{count} layers are not enough"
    raise AssertionError


def _connected(seen: Bits, shape: tuple[int, ...], of: str) -> bool:
    """Whether all pairs are connected: a token before another is before it on the first axis on which they differ."""
    wide = [k for k, size in enumerate(shape) if size > 1]
    for k, rows in enumerate(seen):
        for p, row in enumerate(rows):
            wanted = (2 << p) - 1 if of == "causal" and k == min(wide, default=k) else (1 << shape[k]) - 1
            if row & wanted != wanted:
                return False
    return True


def _wrong_reach(bound: Bound, axes: Grid) -> str:
    expr, layers = bound.expr, bound.question.layers
    if bound.quantity == "contiguous":
        inside = _where(expr, sympy.Eq(n, axes.tokens), -1)
        if inside is None:
            return f"not a formula for n = {axes.tokens}, and -1 for more"
        expr = inside
    value = partial(_contiguous if bound.quantity == "contiguous" else _farthest, axes)
    last = layers if isinstance(layers, int) else None
    for count, (seen, again) in enumerate(by_bits(axes.layers, WORK), 1):
        if layers == ANY or count == last:
            right = value(seen)
            if value_of(expr, {L: sympy.Integer(count)}) != right:
                return f"after {count} layers it is {right}"
        if count == last:
            return ""
        if again and last is None:  # what follows repeats with this period
            own = shape_of(expr.xreplace({sympy.oo: sympy.Integer(0)}), L)
            last = max(count, *own.starts) + (own.degree + 1) * lcm(own.period, again)
    raise AssertionError


def _farthest(axes: Grid, seen: Bits) -> float:
    """The largest lag on each axis, from the first key of each row of bits."""
    total = 0.0
    for rows, stride in zip(seen, strides_of(axes.shape), strict=True):
        lags = [p - ((row & -row).bit_length() - 1) for p, row in enumerate(rows) if row]
        total += stride * max(lags, default=-float("inf"))
    return total


def _contiguous(axes: Grid, seen: Bits) -> int:
    """The least number of predecessors, in a row from itself on, that a token which misses one before sees."""
    tokens = axes.tokens
    if all(row == (1 << len(rows)) - 1 for rows in seen for row in rows):
        return tokens - 1
    masks = [_as_mask(rows) for rows in seen]
    for most in (min(NEAR, tokens - 1), tokens - 1):
        if (least := _first_missing(axes.shape, masks, most)) < most:
            break
    return least


def _first_missing(shape: tuple[int, ...], masks: list[Bools], least: int) -> int:
    """The lag before the first that some token lacks, up to a largest one."""
    tokens, work = prod(shape), 0
    per = max(1, CHUNK // (least + 1))
    for start in range(0, tokens, per):  # some tokens at a time, back as far as the least so far
        some = np.arange(start, min(start + per, tokens))
        back = np.arange(least + 1)
        keys = some[:, None] - back[None]
        work += keys.size
        if work > WINDOWS:
            raise TooHardError(f"the first missing of the lags of {tokens} tokens", "a smaller grid")
        there = keys >= 0
        inside = np.maximum(keys, 0)
        for mask, p, q in zip(masks, np.unravel_index(some, shape), np.unravel_index(inside, shape), strict=True):
            there &= mask[p[:, None], q]
        missing = ~there & (keys >= 0)
        if missing.any():
            least = int(np.flatnonzero(missing.any(axis=0))[0]) - 1
            if least < 0:
                return -1
    return least


def _as_mask(rows: list[int]) -> Bools:
    size = len(rows)
    data = b"".join(row.to_bytes(-(-size // 8), "little") for row in rows)
    bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8).reshape(size, -1), axis=1, bitorder="little")
    return bits[:, :size].astype(np.bool_)
