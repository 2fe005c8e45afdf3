"""Tiles of pieces whose keys per row are no simple band, by isl's set operations.

    touched   the image of the mask under (a, b) -> tile
    full      touched tiles without the image of what is missing in the mask
    runs      isl's own loops over the full tiles and over the other touched ones

Each step has a sound fallback when isl's answer is too hard or cannot be said as loops: no full tiles, then the hull
of the touched tiles, then those between the least and the greatest distance of row and key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import reduce

import islpy as isl

from pidsl.codegen.plan.walks import Over, Run, Runs
from pidsl.codegen.tiling.coordinates import Coordinates
from pidsl.errors import TooHardError
from pidsl.language.expr import (
    Add,
    And,
    Compare,
    FloorDiv,
    Index,
    Max,
    Min,
    Mod,
    Mul,
    Pred,
    Sub,
    Var,
    simplify,
    substitute,
    substitute_pred,
)  # fmt: skip
from pidsl.relation.isl import Interval, coalesced, interval_of, limited, read_map, read_set
from pidsl.relation.loops import Loop, NoLoop, loops

FULL_LIMIT = 20_000  # isl operations spent on finding full tiles before giving them up
TILE_LIMIT = (
    1_000_000  # on which tiles are touched before those between the least and the greatest distance are visited
)
LOOP_LIMIT = 20_000  # and on loops over them before visiting their hull


def general_sweep(at: Coordinates, simple: isl.Set, over: Over, rows: int, cols: int, *, split: bool) -> Runs:
    """Loops over the tiles of one dimension for a given tile `t` of the other; see `tiles.sweep`."""
    try:
        with limited("the tiles of a piece", TILE_LIMIT):
            touched, full = _tile_sets(at, simple, rows, cols, split)
    except TooHardError:
        return Runs(
            at.layout,
            over,
            rows,
            cols,
            tuple(_cut(at, over, rows, cols, False, _between(at, simple, over, rows, cols))),
        )
    first = touched.dim(isl.dim_type.param)
    context = at.parameter_set("t, top", "t >= 0 and top >= -1")
    exist = read_set(f"[{at.parameters}, t, top] -> {{ [x] : 0 <= x <= top }}")

    def lines(tiles: isl.Set) -> isl.Set:
        line = tiles.move_dims(isl.dim_type.param, first, isl.dim_type.set, 0 if over == "keys" else 1, 1)
        line = line.set_dim_name(isl.dim_type.param, first, "t").set_dim_name(isl.dim_type.set, 0, "x")
        return coalesced(line & exist)

    found = _loops(lines(touched), lines(full), exist, context)
    if found is None:
        found = [(False, _between(at, simple, over, rows, cols))]
    return Runs(
        at.layout,
        over,
        rows,
        cols,
        tuple(run for is_full, x in found for run in _cut(at, over, rows, cols, is_full, x)),
    )


def every_tile(at: Coordinates, over: Over, rows: int, cols: int) -> Runs:
    """A loop over all tiles of the swept dimension, masked: right for any piece."""
    runs = _cut(at, over, rows, cols, False, Loop(0, Var("top")))
    return Runs(at.layout, over, rows, cols, tuple(runs))


def _tile_sets(at: Coordinates, simple: isl.Set, rows: int, cols: int, split: bool) -> tuple[isl.Set, isl.Set]:
    """`{ [t, x] }`: touched and full tiles of a mask, for rows and keys without end."""
    to_tile = read_map(
        f"[{at.parameters}] -> {{ [a, b] -> [t, x] : {rows} t <= a < {rows} t + {rows} "
        f"and {cols} x <= b < {cols} x + {cols} }}"
    )
    quadrant = read_set(f"[{at.parameters}] -> {{ [a, b] : a >= 0 and b >= 0 and {at.known} }}")
    pairs = simple & quadrant
    touched = coalesced(pairs.apply(to_tile))
    nothing = touched - touched
    if not split:
        return touched, nothing
    try:
        with limited("the full tiles of a piece", FULL_LIMIT):
            missing = coalesced((quadrant - pairs).apply(to_tile))
            return touched, coalesced(touched - missing)
    except TooHardError:
        return touched, nothing


def _loops(touched: isl.Set, full: isl.Set, exist: isl.Set, context: isl.Set) -> list[tuple[bool, Loop]] | None:
    """Full loops and masked loops over the other touched tiles, or masked loops over their hull; None: too hard."""
    try:
        with limited("the loops over the tiles of a piece", LOOP_LIMIT):
            rest = coalesced(touched - full)
            return [(True, x) for x in _scan(full, context)] + [(False, x) for x in _scan(rest, context)]
    except (NoLoop, TooHardError):
        pass
    supersets: tuple[Callable[[isl.Set], isl.Set], ...] = (isl.Set.copy, _hull)
    for superset in supersets:
        try:
            with limited("the loops over the touched tiles of a piece", LOOP_LIMIT):
                return [(False, x) for x in _scan(superset(touched) & exist, context)]
        except (NoLoop, TooHardError):
            continue
    return None


def _between(at: Coordinates, simple: isl.Set, over: Over, rows: int, cols: int) -> Loop:
    """One loop over the tiles between the least and the greatest distance, and index, of a mask's pairs."""
    row, key = at.starts
    pairs = simple & read_set(f"[{at.parameters}] -> {{ [a, b] : a >= 0 and b >= 0 and {at.known} }}")
    parameters = pairs.dim(isl.dim_type.param)

    def ends(value: str) -> Interval:
        found = pairs.apply(read_map(f"[{at.parameters}] -> {{ [a, b] -> [{value}] }}"))
        return interval_of(found.project_out(isl.dim_type.param, 0, parameters))

    t = Var("t")
    key_0: Index = 0 if key == "0" else Sub(0, Var(key))  # the keys in steps from position 0 on, less their index
    ahead = simplify(Add(Var(row), key_0))
    if over == "keys":  # the key is t * rows + ahead + distance
        swept, behind, own, size = f"b + {key}", f"a + {row}", rows, cols
        near: Index = Add(Mul(own, t), ahead)
        zero = key_0
    else:
        swept, behind, own, size = f"a + {row}", f"b + {key}", cols, rows
        near, zero = Sub(Mul(own, t), ahead), Sub(0, Var(row))
    try:
        with limited("the distances in a piece", TILE_LIMIT):
            distance, index = ends(f"{swept} - {behind.replace(' + ', ' - ')}"), ends(swept)
    except TooHardError:
        distance = index = None, None
    first: list[Index] = [0]
    last: list[Index] = [Var("top")]
    for base, further, (least, most) in ((near, own - 1, distance), (zero, 0, index)):
        if least is not None:
            first.append(_tile(base, least, size))
        if most is not None:
            last.append(_tile(base, further + most, size))
    return Loop(reduce(lambda x, y: simplify(Max(x, y)), first), reduce(lambda x, y: simplify(Min(x, y)), last))


def _tile(base: Index, plus: int, size: int) -> Index:
    return simplify(FloorDiv(simplify(Add(simplify(base), plus)), size))


def _hull(tiles: isl.Set) -> isl.Set:
    return isl.Set.from_basic_set(tiles.remove_divs().simple_hull())


def _scan(points: isl.Set, context: isl.Set) -> list[Loop]:
    found = loops(coalesced(points.gist_params(context)), context)
    if any(x.inside is not None for x in found):
        raise NoLoop("a loop with a test inside")
    return found


def _cut(at: Coordinates, over: Over, rows: int, cols: int, full: bool, loop: Loop) -> Iterator[Run]:
    """A loop as runs that end where the sequence does."""
    first, last, guard = _until(at, loop, last_tile(at, over, cols if over == "keys" else rows))
    if not full or over == "queries" or cols == 1:
        # a full tile may lack rows (they are not stored) but no keys; over queries the own keys may be cut as well
        yield Run(full, first, last, loop.step, guard)
        return
    whole = whole_tiles(at, cols)
    whole_first, whole_last, whole_guard = _until(at, loop, simplify(Sub(whole, 1)))
    yield Run(True, whole_first, whole_last, loop.step, whole_guard)
    if loop.step == 1:
        yield Run(False, simplify(Max(first, whole)), last, 1, guard)
        return
    meets = And(Compare("<=", first, whole), Compare("<=", whole, last))
    inside = And(meets, Compare("==", Mod(Sub(whole, first), loop.step), 0))
    yield Run(False, whole, whole, 1, inside if guard is None else And(guard, inside))


def _until(at: Coordinates, loop: Loop, top: Index) -> tuple[Index, Index, Pred | None]:
    """First, last and guard of a loop over tiles up to `top`."""
    ends = {"top": top}
    guard = None if loop.guard is None else at.plain_pred(substitute_pred(loop.guard, ends))
    return at.plain(substitute(loop.first, ends)), at.plain(substitute(loop.last, ends)), guard


def last_tile(at: Coordinates, over: Over, size: int) -> Index:
    """Index of the last swept tile that exists; -1 when the class is empty."""
    length, own_class, step = ("m", "d", at.layout.key_step) if over == "keys" else ("n", "c", at.layout.query_step)
    top: Index = Var(length) - 1 if step == 1 else Var(length) - 1 - Var(own_class)
    return simplify(FloorDiv(top, step * size))


def whole_tiles(at: Coordinates, size: int) -> Index:
    """How many tiles of keys of a class are complete."""
    step = at.layout.key_step
    length: Index = Var("m") if step == 1 else Var("m") - Var("d") + (step - 1)
    return simplify(FloorDiv(length, step * size))
