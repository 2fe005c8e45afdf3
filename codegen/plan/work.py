"""How much a piece of a plan computes and attends at a length: tiles of each program, and pairs.

The loops of a piece are evaluated for all its tiles at once, without isl, so a launcher may ask at every new length.
What a piece attends is counted by isl's loops over its relation, and on the axes of a grid or in listed blocks by the
mask; None where that takes too long.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache, reduce
from math import prod
from typing import TYPE_CHECKING, Any

import islpy as isl
import numpy as np
from numpy.typing import NDArray

from pidsl.codegen.plan.walks import BlockList, Boxes, ChosenBlocks, Grid, Lag, Lags, Listed, Runs, Selected, Walk
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
LONG = 64  # tiles of a sweep that is worth a kernel that can be split,
FEW = 8  # where at most one program in so many has any work

Counts = NDArray[np.int64]


@lru_cache(maxsize=256)
def computed(walk: Walk, n: int) -> int:
    """Pairs that a walk computes, n queries and n keys."""
    match walk:
        case Runs():  # heads have this piece, or do not: who has it, counts
            tiles = max(int(_of_runs(walk, _lengths_of(n), head).sum()) for head in _walking(walk))
            return tiles * walk.rows * walk.cols
        case Boxes(grid, _, own, swept, first, last):
            axes = zip(first, last, _lengths(grid, n), own, swept, strict=True)
            return prod(on_axis(*axis, exact=walk.visited == 1)[0] for axis in axes)
        case Listed(layout=BlockList(size, blocks)):
            return size**2 * sum(max(pair) * size < n for pair in blocks)
        case Selected(layout=x):  # at most: it is the calls that list them
            return -(-n // x.queries) * x.queries * min(x.budget, -(-n // x.block)) * x.block
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
        case Selected():
            return None
        case Lags(lags=lags):
            return sum(_on_lag(x, n) for x in lags)
        case Runs():
            return _of_relation(piece.relation, n)


def _lengths_of(n: int) -> dict[str, Any]:
    """The parameters of a plan at n queries and n keys, both from position 0 on."""
    return {"n": n, "m": n, "offset": 0, "key_offset": 0}


def per_program(walk: Walk, n: int, m: int, offset: int = 0, key_offset: int = 0) -> Counts:
    """int64 [classes, tiles]: tiles (boxes, lags) of the other dimension that each program of a walk visits.

    Programs are numbered as kernels number them: class by class, and in a class (of a grid: the grid itself, of a list:
    the blocks that own something) tile by tile. Classes beyond the last position have no programs. A program that
    visits nothing has no pairs to compute. Where heads have walks of their own, it is the head with most that counts.
    """
    env = {"n": n, "m": m, "offset": offset, "key_offset": key_offset}
    match walk:
        case Runs():
            return reduce(np.maximum, (_of_runs(walk, env, head) for head in _walking(walk)))
        case Boxes():
            return _of_boxes(walk, env)
        case Listed(layout=BlockList(size, blocks)):
            counts = Counter(own for own, _ in (blocks if walk.over == "keys" else ((j, i) for i, j in blocks)))
            tiles, visited = -(-size // walk.owned), -(-size // walk.visited)
            return np.repeat(np.array([counts[own] * visited for own in sorted(counts)], np.int64), tiles)[None, :]
        case Selected(layout=x):
            return _of_lists(walk, x, env)
        case Lags():
            return _of_lags(walk, env)


@lru_cache(maxsize=256)
def few(walk: Walk, length: int) -> bool:
    """Whether few programs of a walk have any work, but those have much of it, for so many queries and keys."""
    counts = per_program(walk, length, length)
    busy = np.count_nonzero(counts)
    return bool(counts.sum() > LONG * busy and busy * FEW <= counts.size)


def _walking(walk: Runs) -> set[int]:
    """Query heads that among them have every walk there is."""
    return {0, *(x for run in walk.runs for x in _heads(run.guard))}


def _of_runs(walk: Runs, env: dict[str, Any], head: int) -> Counts:
    """Tiles in the runs of every program, for one query head."""
    layout, by_keys = walk.layout, walk.over == "queries"
    length, step = (env["m"], layout.key_step) if by_keys else (env["n"], layout.query_step)
    own = np.arange(min(step, length))[:, None]
    if not layout.linked:
        own = np.array([[evaluate(layout.key_class_of() if by_keys else layout.row_class_of(), env)]])
    t = np.arange(-(-length // (step * walk.owned)))[None, :]
    other = layout.row_class_of(Var("d")) if by_keys else layout.key_class_of(Var("c"))
    mine, theirs = ("d", "c") if by_keys else ("c", "d")
    here = {**env, "t": t, "q_head": head, mine: own}
    here[theirs] = np.asarray(evaluate(other, here))
    found = np.zeros((len(own), t.shape[1]), np.int64)
    for run in walk.runs:
        first, last = (np.asarray(evaluate(x, here), dtype=np.int64) for x in (run.first, run.last))
        tiles = np.maximum((last - first) // run.step + 1, 0)
        found += tiles if run.guard is None else tiles * np.asarray(holds(run.guard, here))
    return np.where(step * walk.owned * t + own < length, found, 0)


def _of_boxes(walk: Boxes, env: dict[str, Any]) -> Counts:
    """Boxes in the loops of every box of a grid, the last axis fastest."""
    grid, found = walk.layout, np.ones((1, 1), np.int64)
    own, swept = ("offset", "n"), ("key_offset", "m")
    if walk.over == "queries":
        own, swept = swept, own
    (start, stop), (low, high) = ((env[first], env[first] + env[length]) for first, length in (own, swept))
    for axis, (length, stride) in enumerate(zip(grid.lengths, grid.strides, strict=True)):
        size, first, last = walk.own[axis], walk.first[axis], walk.last[axis]
        if axis == 0:  # from the box of the first position to that of the last one
            end = stop if grid.tokens is None else min(stop, grid.tokens)
            t = np.arange(start // (stride * size), -(-end // (stride * size)))
        else:
            t = np.arange(-(-(length or 0) // size))
        near, far = (evaluate(x, {"t": t}) + 0 * t for x in (first, (length or 0) - 1 if last is None else last))
        if axis == 0:
            near = np.maximum(near, low // stride)
            far = (high - 1) // stride + 0 * t if last is None else np.minimum(far, (high - 1) // stride)
        boxes = np.maximum(-(-(far + 1 - near) // walk.swept[axis]), 0)
        found = (found[:, :, None] * boxes[None, None, :]).reshape(1, -1)
    return found


def _of_lists(walk: Selected, lists: ChosenBlocks, env: dict[str, Any]) -> Counts:
    """Tiles of every program at most, whatever the call lists."""
    sides = ((lists.queries, "n", "offset"), (lists.block, "m", "key_offset"))
    counts = [-(-(env[start] + env[length]) // size) - env[start] // size for size, length, start in sides]
    (own, rows), (other, keys) = zip((lists.queries, lists.block), counts, strict=True)
    if walk.over == "queries":
        own, rows, other, listed = other, keys, own, rows
    else:
        listed = min(lists.budget, keys)
    tiles = listed * -(-other // walk.visited) if other >= walk.visited else -(-listed // (walk.visited // other))
    return np.full((1, rows * -(-own // walk.owned)), tiles, np.int64)


def _of_lags(walk: Lags, env: dict[str, Any]) -> Counts:
    """Lags that some row of every tile may have."""
    by_keys, ahead = walk.over == "queries", env["offset"] - env["key_offset"]
    length, size = env["m"] if by_keys else env["n"], walk.owned
    t = np.arange(-(-length // size))
    found = np.zeros(len(t), np.int64)
    for x in walk.lags:
        first, last = max(0, evaluate(x.first, env)), min(env["n"] - 1, evaluate(x.last, env))
        first, last = max(first, x.lag - ahead), min(last, env["m"] - 1 + x.lag - ahead)  # whose key exists
        shift = ahead - x.lag if by_keys else 0
        found += (first + shift < (t + 1) * size) & (last + shift >= t * size) & (first <= last)
    return found[None, :]


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


def on_axis(
    first: Index, last: Index | None, length: int, own: int, swept: int, *, exact: bool
) -> tuple[int, int, int, int]:  # fmt: skip
    """Pairs, boxes of keys, keys in them and boxes of queries of one axis; exact ones of queries end with the grid."""
    t = np.arange(-(-length // own))
    low = np.maximum(evaluate(first, {"t": t}), 0 * t)
    high = np.minimum(length - 1 if last is None else evaluate(last, {"t": t}), length - 1 + 0 * t)
    boxes = np.maximum(-(-(high - low + 1) // swept), 0)
    heights = np.minimum(own, length - t * own) if exact else np.full(t.shape, own)
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
