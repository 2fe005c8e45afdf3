"""How many pairs a piece of a plan computes and attends at a length, exactly; None where that takes too long.

The loops of a piece are evaluated for all its tiles at once; what it attends is counted by isl's loops over its
relation, and on the axes of a grid or in listed blocks by the mask.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Any

import islpy as isl
import numpy as np

from pidsl.codegen.plan.walks import BlockList, Boxes, Grid, Lag, Lags, Listed, Runs, Walk
from pidsl.errors import TooHardError
from pidsl.language.expr import And, Compare, Index, Or, Pred, Var, evaluate, holds
from pidsl.relation.counting import count_loops
from pidsl.relation.isl import limited, read_set
from pidsl.relation.loops import NoLoop, loops

if TYPE_CHECKING:
    from pidsl.codegen.plan.nodes import Piece

OPERATIONS = 500_000  # of isl for the loops over the pairs of a piece
LOOKED_AT = 1 << 26  # pairs whose mask is evaluated to count them,
CHUNK = 1 << 20  # and so many at a time


@lru_cache(maxsize=256)
def computed(walk: Walk, n: int) -> int:
    """Pairs that a walk computes, n queries and n keys."""
    match walk:
        case Runs():
            return _in_runs(walk, n)
        case Boxes(grid, _, own, swept, first, last):
            return prod(on_axis(*axis)[0] for axis in zip(first, last, _lengths(grid, n), own, swept, strict=True))
        case Listed(layout=BlockList(size, blocks)):
            return size**2 * sum(max(pair) * size < n for pair in blocks)
        case Lags(lags=lags):  # the rows between the first and the last of each
            env = _lengths_of(n)
            return sum(max(0, evaluate(x.last, env) - evaluate(x.first, env) + 1) for x in lags)


@lru_cache(maxsize=256)
def attended(piece: Piece, n: int) -> int | None:
    """Pairs that a piece attends, n queries and n keys."""
    match piece.forward:
        case Boxes(layout=grid):
            return _on_axes(grid, piece.keep, n)
        case Listed(layout=blocks):
            return _in_blocks(blocks, piece.keep[0], n)
        case Lags(lags=lags):
            return sum(_on_lag(x, n) for x in lags)
        case Runs():
            return _of_relation(piece.relation, n)


def _lengths_of(n: int) -> dict[str, Any]:
    """The parameters of a plan at n queries and n keys, both from position 0 on."""
    return {"n": n, "m": n, "offset": 0, "key_offset": 0}


def _in_runs(walk: Runs, n: int) -> int:
    """Pairs in the tiles of all runs."""
    layout = walk.layout
    by_keys = walk.over == "keys"
    step = layout.query_step if by_keys else layout.key_step
    env = _lengths_of(n)
    fixed = layout.row_class_of() if by_keys else layout.key_class_of()
    own = np.arange(min(step, n)) if layout.linked else np.array([evaluate(fixed, env)])
    own = own[own < n]
    tiles = -((own - n) // (step * walk.owned))  # of each class
    which = np.repeat(own, tiles)
    t = np.arange(len(which)) - np.repeat(np.cumsum(tiles) - tiles, tiles)
    mine, other = ("c", "d") if by_keys else ("d", "c")
    env |= {"t": t, mine: which}
    env[other] = evaluate(layout.key_class_of(Var("c")) if by_keys else layout.row_class_of(Var("d")), env)
    heads = {x for run in walk.runs for x in _heads(run.guard)}  # they have this piece, or do not: who has it, counts
    return max(_tiles(walk, {**env, "q_head": head}, t) for head in heads | {0}) * walk.rows * walk.cols


def _tiles(walk: Runs, env: dict[str, Any], t: Any) -> int:
    """Tiles visited from the own tiles t."""
    total = 0
    for run in walk.runs:
        first, last = (np.asarray(evaluate(x, env), dtype=np.int64) for x in (run.first, run.last))
        found = np.maximum((last - first) // run.step + 1, 0) * np.ones_like(t)
        if run.guard is not None:
            found = found * np.asarray(holds(run.guard, env))
        total += int(found.sum())
    return total


def _heads(p: Pred | None) -> Iterator[int]:
    """The query heads that a test names."""
    match p:
        case And(a, b) | Or(a, b):
            yield from (*_heads(a), *_heads(b))
        case Compare(_, Var("q_head"), int(head)):
            yield head


def _on_lag(x: Lag, n: int) -> int:
    """The rows of a lag."""
    env = _lengths_of(n)
    r = np.arange(evaluate(x.first, env), evaluate(x.last, env) + 1)
    if x.keep is None:
        return len(r)
    kept = (np.asarray(holds(x.keep, {**env, "r": r, "q_head": h})) & (r >= 0) for h in {0, *_heads(x.keep)})
    return max(int(found.sum()) for found in kept)


def _lengths(grid: Grid, n: int) -> list[int]:
    """Coordinates of every axis that n tokens have."""
    found = (-(-n // stride) for stride in grid.strides)
    return [x if length is None else min(x, length) for x, length in zip(found, grid.lengths, strict=True)]


def on_axis(first: Index, last: Index | None, length: int, own: int, swept: int) -> tuple[int, int, int, int]:
    """Pairs, boxes of keys, keys in them and boxes of queries of one axis; boxes of single tokens end with the grid."""
    t = np.arange(-(-length // own))
    low = np.maximum(evaluate(first, {"t": t}), 0 * t)
    high = np.minimum(length - 1 if last is None else evaluate(last, {"t": t}), length - 1 + 0 * t)
    boxes = np.maximum(-(-(high - low + 1) // swept), 0)
    heights = np.minimum(own, length - t * own) if swept == 1 else np.full(t.shape, own)
    keys = boxes * swept
    return int((heights * keys).sum()), int(boxes.sum()), int(keys.sum()), int((boxes > 0).sum())


def _of_relation(relation: isl.Map, n: int) -> int | None:
    """The pairs of a relation of rows and keys; None where isl does not tell in time."""
    with suppress(TooHardError, NoLoop), limited("the pairs of a piece", OPERATIONS):
        return _pairs(relation, n)
    return None


def _pairs(relation: isl.Map, n: int) -> int:
    points = relation.wrap().flatten()
    parameters = points.dim(isl.dim_type.param)
    for k in range(parameters):
        value = _lengths_of(n)[str(points.get_dim_name(isl.dim_type.param, k))]
        points = points.fix_val(isl.dim_type.param, k, isl.Val(value, points.get_ctx()))
    points = points.project_out(isl.dim_type.param, 0, parameters)
    points = points.insert_dims(isl.dim_type.param, 0, 1).set_dim_name(isl.dim_type.param, 0, "r")
    here = read_set("[r] -> { [i, j] : i = r }")
    points = (points & here).project_out(isl.dim_type.set, 0, 1)
    found = loops(points, read_set(f"[r] -> {{ : 0 <= r < {n} }}"))
    return int(count_loops(tuple(found), {"r": np.arange(n)}).sum())


def _on_axes(grid: Grid, keeps: tuple[Pred, ...], n: int) -> int | None:
    """The pairs of whole rows of a grid: the product over its axes."""
    total = 1
    lengths = _lengths(grid, n)
    if (n % grid.strides[0] and n < (grid.tokens or n + 1)) or sum(x * x for x in lengths) > LOOKED_AT:
        return None
    for keep, length in zip(keeps, lengths, strict=True):
        b, many = np.arange(length)[None, :], max(1, CHUNK // length)
        rows = (np.arange(start, min(start + many, length))[:, None] for start in range(0, length, many))
        total *= sum(int(np.broadcast_to(holds(keep, {"a": a, "b": b}), (len(a), length)).sum()) for a in rows)
    return total


def _in_blocks(layout: BlockList, keep: Pred, n: int) -> int | None:
    """The pairs of listed blocks that the mask lets through."""
    size, inside = layout.size, np.arange(layout.size)
    found = np.array([pair for pair in layout.blocks if max(pair) * size < n], dtype=np.int64).reshape(-1, 2)
    if len(found) * size**2 > 16 * CHUNK:
        return None
    r, j = (x[:, None] * size + inside for x in found.T)
    exist = (r < n)[:, :, None] & (j < n)[:, None, :]
    env = _lengths_of(n) | {"r": r[:, :, None], "j": j[:, None, :]}
    return int(np.sum(exist & np.asarray(holds(keep, env))))
