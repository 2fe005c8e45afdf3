"""Formulas for patterns of a grid of several axes, from masks of its axes: a few hundred entries each.

They say what isl does not finish for grids of thousands of tokens: for n >= N, the tokens of the grid. After L layers
the axes are as after some fewer, sooner or later: so what L layers do is known from finitely many of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, islice, pairwise
from math import prod
from typing import Any

import numpy as np
import sympy

from pidsl.analysis import dense
from pidsl.analysis.bound import ANY, Bound, Certificate
from pidsl.analysis.dense import Masks, Of
from pidsl.analysis.formulas.words import L, Periodic, i, n, symbol
from pidsl.analysis.smaller.axes import Grid, grid_of
from pidsl.analysis.ways import NEVER, Asked, NotMine
from pidsl.errors import TooHardError

METHOD = "whole grids"
MANY = 256  # tokens of a grid of several axes, of which isl's operations take long
SEARCHED = 300_000_000  # pairs that are looked at for the first that is missing
WORK = 30_000_000_000  # multiplications of single numbers for layers of masks, a second or two
CASES = 4  # of values that do not grow evenly
t = symbol("t")
ROWS = (sympy.Ge(i, 0), sympy.Lt(i, n))


def answer(asked: Asked) -> Bound:
    """What is asked of a grid of many tokens, about which isl can seldom say anything soon.

    Raises:
        TooHardError: it takes too much work.
    """
    grid = grid_of(asked.subject)
    if grid is None or grid.tokens <= MANY:
        raise NotMine
    return of_few_tokens(asked)


def of_few_tokens(asked: Asked) -> Bound:
    """What is asked of any grid.

    Raises:
        TooHardError: it takes too much work.
    """
    q, grid = asked.question, grid_of(asked.subject)
    if grid is None or q.n is not None or q.page is not None or q.lookahead is not None:
        raise NotMine
    assumptions, reason = [sympy.Ge(n, grid.tokens)], ""
    keys = [mask.sum(axis=1) for mask in grid.layers[0]]
    match q.quantity:
        case "pairs":
            expr = sympy.Integer(prod(int(x.sum()) for x in keys))
        case "max degree":
            expr = sympy.Integer(prod(int(x.max()) for x in keys))
        case "degree":
            at = _positions(grid, i)
            factors = [steps(x.tolist(), p) for x, p in zip(keys, at, strict=True)]
            expr = sympy.Piecewise((sympy.Mul(*factors), i < grid.tokens), (0, True))
            assumptions += ROWS
        case "live keys":
            expr, assumptions = _live(grid), [sympy.Ge(t, 0)]
        case "depth":
            assert q.of is not None
            expr, reason = _depth(grid, q.of)
        case _:
            measure: Measure = _farthest if q.quantity == "farthest" else _contiguous
            if q.layers == ANY:
                expr = _for_layers(grid, measure)
                assumptions.append(sympy.Ge(L, 1))
            else:
                if not isinstance(q.layers, int) or q.layers < 1:
                    raise NotMine
                seen, _ = next(islice(_composed(grid), q.layers - 1, None))
                expr = sympy.sympify(measure(grid, seen))
            if q.quantity == "contiguous":
                expr = sympy.Piecewise((expr, sympy.Eq(n, grid.tokens)), (-1, True))
    certificate = Certificate(METHOD, (("shape", grid.shape),))
    return Bound(q, "==", expr, tuple(assumptions), certificate, reason)


def _positions(grid: Grid, token: sympy.Symbol) -> list[sympy.Expr]:
    """The position of a token of the grid on each axis."""
    blocks = [sympy.floor(token / sympy.Integer(stride)) for stride in grid.strides]
    return [b if k == 0 else sympy.Mod(b, grid.shape[k]) for k, b in enumerate(blocks)]


def steps(values: Sequence[int], x: sympy.Expr) -> sympy.Expr:
    """A function with these values at 0, 1, ..., written as what changes where it changes; then as the last.

    >>> steps([4, 5, 6, 7, 7], L)
    Min(3, L) + 4
    """
    runs = [(move, len(list(same))) for move, same in groupby(b - a for a, b in pairwise(values))]
    expr: sympy.Expr = sympy.Integer(values[0])
    end = 0
    for (move, count), (after, _) in pairwise([*runs, (0, 0)]):  # what rises by `move` up to `end`, and by `after` then
        end += count
        expr += (move - after) * sympy.Min(end, x)
    return expr


# -- layers ------------------------------------------------------------------------------------------------------------

Measure = Callable[[Grid, Masks], "int | sympy.Expr"]


def _composed(grid: Grid) -> Iterator[tuple[Masks, int]]:
    """What 1, 2, ... layers connect on each axis, and how many layers before connected the same, 0 if none did."""
    return dense.layered(grid.layers, WORK)


def _for_layers(grid: Grid, measure: Measure) -> sympy.Expr:
    """The values after 1, 2, ... layers as a formula in L: those until layers repeat, which then do."""
    values: list[Any] = []
    for seen, period in _composed(grid):
        if period:
            break
        values.append(measure(grid, seen))
    start = len(values) - period
    tail = values[start:]
    if len(set(tail)) == 1:
        return _listed([*values[:start], tail[0]])
    late = Periodic(L, *(tail[(k - start - 1) % period] for k in range(period)))
    return late if start == 0 else sympy.Piecewise((_listed(values[:start]), start >= L), (late, True))


def _listed(values: list[Any]) -> sympy.Expr:
    """Values after 1, 2, ... layers, and then as the last: by cases where these are few."""
    runs = [(value, len(list(same))) for value, same in groupby(values)]
    if len(runs) <= CASES:
        cases, last = [], 0
        for value, count in runs[:-1]:
            last += count
            cases.append((value, last >= L))
        return sympy.Piecewise(*cases, (runs[-1][0], True))
    if any(not isinstance(value, int) for value in values):
        raise TooHardError(f"{len(runs)} cases of L", f"at most {CASES}")
    return steps([0, *values], L)


def _farthest(grid: Grid, seen: Masks) -> int | sympy.Expr:
    lags = [dense.farthest_in(x) for x in seen]
    known = [lag * stride for lag, stride in zip(lags, grid.strides, strict=True) if lag is not None]
    return sum(known) if len(known) == len(lags) else -sympy.oo


def _contiguous(grid: Grid, seen: Masks) -> int:
    """The lag before the first one >= 0 that some token of the grid lacks."""
    if all(x.all() for x in seen):
        return grid.tokens - 1
    positions = np.unravel_index(np.arange(grid.tokens), grid.shape)
    for lag in range(grid.tokens):
        if (lag + 1) * grid.tokens > SEARCHED:
            raise TooHardError(f"the first missing of the lags of {grid.tokens} tokens", f"one below {lag}")
        there = np.ones(grid.tokens - lag, dtype=np.bool_)
        for x, position in zip(seen, positions, strict=True):
            there &= x[position[lag:], position[: grid.tokens - lag]]
        if not there.all():
            return lag - 1
    return grid.tokens - 1


def _depth(grid: Grid, of: Of) -> tuple[sympy.Expr, str]:
    for done, (seen, period) in enumerate(_composed(grid), 1):
        if _connects(seen, of):
            expr = sympy.Piecewise((done, sympy.Eq(n, grid.tokens)), (sympy.oo, True))
            return expr, "tokens behind the grid see nothing"
        if period:
            break
    return sympy.oo, NEVER


def _connects(seen: Masks, of: Of) -> bool:
    if of == "all":
        return all(x.all() for x in seen)
    long = [x for x in seen if len(x) > 1]  # behind on the first axis, a token may be anywhere on the others
    return all((x | np.triu(np.ones_like(x), 1)).all() if k == 0 else x.all() for k, x in enumerate(long))


# -- live keys ---------------------------------------------------------------------------------------------------------


def _live(grid: Grid) -> sympy.Expr:
    """Keys up to t whose last query is after t.

    The last query of a key is at the last position of each axis that attends it. It is after t where it is after t on
    the first axis, or level with t there and after t on the others; and a key is up to t likewise. `live`, `after` and
    `up_to` are, of the axes behind, keys up to t whose last query is after t, those whose last query is, and those up
    to t; `alive` are all keys that some query attends.
    """
    live: sympy.Expr = sympy.Integer(0)
    after, up_to, alive = live, sympy.Integer(1), 1
    for mask, at in reversed(list(zip(grid.layers[0], _positions(grid, t), strict=True))):
        here, some = np.arange(len(mask)), mask.any(axis=0)
        last = np.where(some, len(mask) - 1 - mask[::-1].argmax(axis=0), -1)
        gap, before = last[:, None] - here[None], here[:, None] < here[None]  # [key, t]

        def of(counts: Any, at: sympy.Expr = at) -> sympy.Expr:
            return steps(counts.astype(int).tolist(), at)

        live = (
            alive * of(((gap > 0) & before).sum(axis=0)) + after * of(((gap == 0) & before).sum(axis=0))
            + up_to * of(np.diagonal(gap) > 0) + live * of(np.diagonal(gap) == 0)
        )  # fmt: skip
        after = alive * of((gap > 0).sum(axis=0)) + after * of((gap == 0).sum(axis=0))
        up_to = alive * of(np.cumsum(some) - some) + up_to * of(some)
        alive *= int(some.sum())
    return sympy.Piecewise((live, t < grid.tokens), (0, True))
