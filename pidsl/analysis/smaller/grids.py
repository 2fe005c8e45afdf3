"""Whole grids of several axes: a token attends another where every axis says so, and layers act on each axis alone.

The relation of a grid is a product of relations between the positions on its axes, and a product of products is the
product of the compositions. So masks of the axes, a few hundred entries each, say what isl does not finish for grids of
thousands of tokens: for n = N, the tokens of the grid, and for n > N, where the tokens behind the grid attend nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import numpy as np
import sympy

from pidsl.analysis import dense
from pidsl.analysis.bound import Bound, Certificate
from pidsl.analysis.dense import Bools, Of
from pidsl.analysis.formulas.words import i, n
from pidsl.analysis.verdict import Verdict
from pidsl.analysis.ways import Asked, NotMine
from pidsl.errors import TooHardError
from pidsl.language.terms import Halo, Neighborhood
from pidsl.relation.counting import axes
from pidsl.relation.oracle import dense_mask

METHOD = "whole grids"
MANY = 256  # tokens of a grid of several axes, of which isl's operations take long
LONGEST = 2048  # positions on an axis
SEARCHED = 300_000_000  # pairs that are looked at for the first that is missing
ROWS = (sympy.Ge(i, 0), sympy.Lt(i, n))


@dataclass(frozen=True)
class Grid:
    """Layers of patterns of one grid.

    Args:
        shape: positions on each axis.
        layers: for each layer, the one at the input first, the mask of each axis.
    """

    shape: tuple[int, ...]
    layers: tuple[tuple[Bools, ...], ...]

    @property
    def tokens(self) -> int:
        return prod(self.shape)

    @property
    def strides(self) -> tuple[int, ...]:
        """How many tokens one position on each axis is."""
        return tuple(prod(self.shape[k + 1 :]) for k in range(len(self.shape)))

    def after(self, count: int) -> tuple[Bools, ...]:
        """What so many layers connect on each axis, at least one; a schedule begins again after its last."""
        seen = self.layers[0]
        for done in range(1, count):
            seen = self.one_more(seen, done)
        return seen

    def one_more(self, seen: tuple[Bools, ...], done: int) -> tuple[Bools, ...]:
        """What the layer after so many adds to what they connect."""
        layer = self.layers[done % len(self.layers)]
        return tuple(dense.times(x, y) for x, y in zip(layer, seen, strict=True))


def grid_of(subject: object) -> Grid | None:
    """Patterns of one grid of several axes, by their axes; None for anything else, or for long axes."""
    terms = subject if isinstance(subject, tuple) else (subject,)
    if not terms or not all(isinstance(term, Neighborhood | Halo) for term in terms):
        return None
    shapes = {term.shape for term in terms}
    if len(shapes) > 1 or len(shape := shapes.pop()) < 2 or max(shape) > LONGEST:
        return None
    masks = {term: tuple(dense_mask(axis, axis.shape[0]) for axis in axes(term)) for term in terms}
    return Grid(shape, tuple(masks[term] for term in terms))


# -- answers, for n >= N -----------------------------------------------------------------------------------------------


def pairs(asked: Asked) -> Bound:
    """Pairs: as many as the pairs of the axes multiply to."""
    return _bound(asked, sympy.Integer(_pairs(_grid(asked))))


def degree(asked: Asked) -> Bound:
    """Keys of query i."""
    return _bound(asked, _of_query(_grid(asked)), more=ROWS)


def largest(asked: Asked) -> Bound:
    """The most keys of any query."""
    return _bound(asked, sympy.Integer(_largest(_grid(asked))))


def _pairs(grid: Grid) -> int:
    return prod(int(mask.sum()) for mask in grid.layers[0])


def _largest(grid: Grid) -> int:
    return prod(int(mask.sum(axis=1).max()) for mask in grid.layers[0])


def _grid(asked: Asked) -> Grid:
    """A grid of many tokens, about which isl can seldom say anything soon."""
    grid = grid_of(asked.subject)
    if grid is None or grid.tokens <= MANY:
        raise NotMine
    return grid


def _of_query(grid: Grid) -> sympy.Expr:
    """A table of each axis at the position of query i on it."""
    factors = []
    for mask, stride, size in zip(grid.layers[0], grid.strides, grid.shape, strict=True):
        position = sympy.Mod(sympy.floor(i / sympy.Integer(stride)), size)
        factors.append(_steps(mask.sum(axis=1).tolist(), position))
    return sympy.Piecewise((sympy.Mul(*factors), i < grid.tokens), (0, True))


def _steps(values: Sequence[int], x: sympy.Expr) -> sympy.Expr:
    """A function with these values at 0, 1, ..., written as what changes where it changes."""
    moves = [b - a for a, b in pairwise(values)]
    expr: sympy.Expr = sympy.Integer(values[0])
    k = 0
    while k < len(moves):
        last = k
        while last + 1 < len(moves) and moves[last + 1] == moves[k]:
            last += 1
        if moves[k]:  # from k on it rises by the same, up to `last`
            expr += moves[k] * sympy.Min(last - k + 1, sympy.Max(0, x - k))
        k = last + 1
    return expr


def reach(asked: Asked) -> Bound:
    """Farthest or contiguous of so many layers.

    Raises:
        TooHardError: the first missing lag is one among too many.
    """
    grid, layers = _grid(asked), asked.question.layers
    if not isinstance(layers, int):
        raise NotMine
    return _bound(asked, _reach(grid, asked.question.quantity, layers))


def _reach(grid: Grid, quantity: str, layers: int) -> sympy.Expr:
    seen = grid.after(layers)
    if quantity == "contiguous":
        first = _first_missing(grid, seen) - 1
        return sympy.Piecewise((first, sympy.Eq(n, grid.tokens)), (-1, True))
    lags = [dense.farthest_in(x) for x in seen]
    known = [lag * stride for lag, stride in zip(lags, grid.strides, strict=True) if lag is not None]
    return sympy.Integer(sum(known)) if len(known) == len(lags) else -sympy.oo


def _first_missing(grid: Grid, seen: tuple[Bools, ...]) -> int:
    """The first lag >= 0 that some token of the grid lacks."""
    if all(x.all() for x in seen):
        return grid.tokens
    positions = np.unravel_index(np.arange(grid.tokens), grid.shape)
    for lag in range(grid.tokens):
        if (lag + 1) * grid.tokens > SEARCHED:
            raise TooHardError(f"the first missing of the lags of {grid.tokens} tokens", f"one below {lag}")
        there = np.ones(grid.tokens - lag, dtype=np.bool_)
        for x, position in zip(seen, positions, strict=True):
            there &= x[position[lag:], position[: grid.tokens - lag]]
        if not there.all():
            return lag
    return grid.tokens


def depth(asked: Asked) -> Bound:
    """The fewest layers that connect every pair in question."""
    grid, q = _grid(asked), asked.question
    if q.n is not None or q.of is None:
        raise NotMine
    expr, reason = _depth(grid, q.of)
    return _bound(asked, expr, reason=reason)


def _depth(grid: Grid, of: Of) -> tuple[sympy.Expr, str]:
    seen, count, past = grid.layers[0], 1, set()
    while not _connects(seen, of):
        state = (count % len(grid.layers), *(np.packbits(x).tobytes() for x in seen))
        if state in past:
            return sympy.oo, "some pair stays out of reach of every number of layers"
        past.add(state)
        seen, count = grid.one_more(seen, count), count + 1
    return sympy.Piecewise((count, sympy.Eq(n, grid.tokens)), (sympy.oo, True)), "tokens behind the grid see nothing"


def looks_back(grid: Grid) -> bool:
    """Whether no token attends a later one."""
    return not any(np.triu(mask, 1).any() for layer in grid.layers for mask in layer)


def _connects(seen: tuple[Bools, ...], of: Of) -> bool:
    if of == "all":
        return all(x.all() for x in seen)
    long = [x for x in seen if len(x) > 1]  # behind on the first axis, a token may be anywhere on the others
    return all((x | np.triu(np.ones_like(x), 1)).all() if k == 0 else x.all() for k, x in enumerate(long))


def _bound(asked: Asked, expr: sympy.Expr, *, more: tuple[sympy.Basic, ...] = (), reason: str = "") -> Bound:
    grid = _grid(asked)
    return Bound(asked.question, "==", expr, (sympy.Ge(n, grid.tokens), *more), Certificate(METHOD), reason)


def check_grid(bound: Bound) -> Verdict:
    """The masks of the axes from the term, and from them the formula once more."""
    more: tuple[sympy.Basic, ...] = ()
    grid = grid_of(bound.subject)
    if grid is None:
        return Verdict(False, failure="not a grid of several axes")
    match bound.quantity:
        case "farthest" | "contiguous":
            expr = _reach(grid, bound.quantity, bound.argument("layers"))
        case "depth":
            expr, _ = _depth(grid, bound.argument("of"))
        case "degree":
            expr, more = _of_query(grid), ROWS
        case "max degree":
            expr = sympy.Integer(_largest(grid))
        case _:
            expr = sympy.Integer(_pairs(grid))
    if (expr, (sympy.Ge(n, grid.tokens), *more)) != (bound.expr, bound.assumptions):
        return Verdict(False, failure=f"not the formula {expr}")
    return Verdict(True, (f"masks of the {len(grid.shape)} axes", f"a grid of {grid.tokens} tokens is their product"))
