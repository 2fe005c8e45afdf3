"""Tiles of pieces whose keys per row are no simple band, by isl's set operations.

    touched   the image of the mask under (a, b) -> tile
    full      touched tiles without the image of what is missing in the mask
    runs      isl's own loops over the full tiles and over the other touched ones

Each step has a sound fallback when isl's answer is too hard or cannot be said as loops: no full tiles, then the hull
of the touched tiles, then those between the least and the greatest distance of row and key.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import islpy as isl

from pidsl.codegen.plan.walks import Run, Runs
from pidsl.codegen.tiling.coordinates import Tiles
from pidsl.errors import TooHardError
from pidsl.language.algebra import both, greatest, smallest
from pidsl.language.expr import And, Compare, Index, Max, Mod, Sub, Var, simplify, substitute, substitute_pred
from pidsl.relation.isl import Interval, coalesced, interval_of, limited
from pidsl.relation.loops import Loop, NoLoop, loops

FULL_LIMIT = 20_000  # isl operations spent on finding full tiles before giving them up
TILE_LIMIT = 1_000_000  # on touched tiles before those between the least and the greatest distance are visited
LOOP_LIMIT = 20_000  # and on loops over them before visiting their hull


def general_sweep(tiles: Tiles, simple: isl.Set, *, split: bool) -> Runs:
    """Loops over the tiles of one dimension for a given tile `t` of the other; see `tiles.sweep`."""
    try:
        with limited("the tiles of a piece", TILE_LIMIT):
            touched, full = _tile_sets(tiles, simple, split)
    except TooHardError:
        found = None
    else:
        found = _loops(tiles, touched, full)
    if found is None:
        found = [(False, _between(tiles, simple))]
    return tiles.walk(run for is_full, x in found for run in _cut(tiles, is_full, x))


def _tile_sets(tiles: Tiles, simple: isl.Set, split: bool) -> tuple[isl.Set, isl.Set]:
    """`{ [t, x] }`: touched and full tiles of a mask, for rows and keys without end."""
    at, rows, cols = tiles.at, tiles.rows, tiles.cols
    inside = f"{rows} t <= a < {rows} t + {rows} and {cols} x <= b < {cols} x + {cols}"
    to_tile = at.map(f"[a, b] -> [t, x] : {inside}")
    pairs = simple & at.quadrant
    touched = coalesced(pairs.apply(to_tile))
    if split:
        with suppress(TooHardError), limited("the full tiles of a piece", FULL_LIMIT):
            missing = coalesced((at.quadrant - pairs).apply(to_tile))
            return touched, coalesced(touched - missing)
    return touched, touched - touched


def _loops(tiles: Tiles, touched: isl.Set, full: isl.Set) -> list[tuple[bool, Loop]] | None:
    """Full loops and masked loops over the other touched tiles, or masked loops over their hull; None: too hard."""
    at, first = tiles.at, touched.dim(isl.dim_type.param)
    context = at.set(": t >= 0 and top >= -1", ", t, top")
    exist = at.set("[x] : 0 <= x <= top", ", t, top")

    def lines(found: isl.Set) -> isl.Set:
        own = 0 if tiles.over == "keys" else 1
        line = found.move_dims(isl.dim_type.param, first, isl.dim_type.set, own, 1)
        line = line.set_dim_name(isl.dim_type.param, first, "t").set_dim_name(isl.dim_type.set, 0, "x")
        return coalesced(line & exist)

    touched, full = lines(touched), lines(full)
    with suppress(NoLoop, TooHardError), limited("the loops over the tiles of a piece", LOOP_LIMIT):
        rest = coalesced(touched - full)
        return [(True, x) for x in _scan(full, context)] + [(False, x) for x in _scan(rest, context)]
    for hull in (False, True):
        with suppress(NoLoop, TooHardError), limited("the loops over the touched tiles of a piece", LOOP_LIMIT):
            return [(False, x) for x in _scan((_hull(touched) if hull else touched) & exist, context)]
    return None


def _between(tiles: Tiles, simple: isl.Set) -> Loop:
    """One loop over the tiles between the least and the greatest distance, and index, of a mask's pairs."""
    at, layout = tiles.at, tiles.at.layout
    # by which parameters index 0 of rows and of keys lies ahead, in steps of the layout
    row, key = ("offset", "key_offset") if layout.identity else ("e", "0" if layout.linked else "f")
    if not layout.frame.moved:
        key = "0"
    pairs = simple & at.quadrant
    parameters = pairs.dim(isl.dim_type.param)

    def ends(value: str) -> Interval:
        found = pairs.apply(at.map(f"[a, b] -> [{value}]"))
        return interval_of(found.project_out(isl.dim_type.param, 0, parameters))

    own = tiles.owned * Var("t")
    key_0: Index = 0 if key == "0" else Sub(0, Var(key))  # the keys in steps from position 0 on, less their index
    ahead = Var(row) + key_0
    if tiles.over == "keys":  # the key is t * rows + ahead + distance
        swept, behind, near, zero = f"b + {key}", f"a - {row}", own + ahead, key_0
    else:
        swept, behind, near, zero = f"a + {row}", f"b - {key}", own - ahead, 0 - Var(row)
    try:
        with limited("the distances in a piece", TILE_LIMIT):
            distance, index = ends(f"{swept} - {behind}"), ends(swept)
    except TooHardError:
        distance = index = None, None
    first: list[Index] = [0]
    last: list[Index] = [Var("top")]
    for base, further, (least, most) in ((near, tiles.owned - 1, distance), (zero, 0, index)):
        if least is not None:
            first.append((base + least) // tiles.visited)
        if most is not None:
            last.append((base + (further + most)) // tiles.visited)
    return Loop(greatest(first), smallest(last))


def _hull(tiles: isl.Set) -> isl.Set:
    return isl.Set.from_basic_set(tiles.remove_divs().simple_hull())


def _scan(points: isl.Set, context: isl.Set) -> list[Loop]:
    found = loops(coalesced(points.gist_params(context)), context)
    if any(x.inside is not None for x in found):
        raise NoLoop("a loop with a test inside")
    return found


def _cut(tiles: Tiles, full: bool, loop: Loop) -> Iterator[Run]:
    """A loop as runs that end where the sequence does."""
    masked = _until(loop, False, tiles.last)
    if not full or tiles.over == "queries" or tiles.cols == 1:
        # a full tile may lack rows (they are not stored) but no keys; over queries the own keys may be cut as well
        yield replace(masked, full=full)
        return
    whole, first, last = tiles.whole, masked.first, masked.last
    yield _until(loop, True, whole - 1)
    if loop.step == 1:
        yield replace(masked, first=simplify(Max(first, whole)))
        return
    meets = And(Compare("<=", first, whole), Compare("<=", whole, last))
    inside = And(meets, Compare("==", Mod(Sub(whole, first), loop.step), 0))
    yield Run(False, whole, whole, 1, both(masked.guard, inside))


def _until(loop: Loop, full: bool, top: Index) -> Run:
    """A loop over tiles up to `top`."""
    ends = {"top": top}
    guard = None if loop.guard is None else substitute_pred(loop.guard, ends)
    return Run(full, substitute(loop.first, ends), substitute(loop.last, ends), loop.step, guard)
