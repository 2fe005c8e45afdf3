"""Which tiles a piece touches, which of them it fills, and the loops that visit them, for every n at once.

A tile (t, x) holds `rows` rows and `cols` keys of one pair of classes. Where the sequence ends is kept apart from
the pattern: isl works on the mask alone, for rows and keys without end, and the last tile is cut here:

    touched   tiles with a pair of the mask
    full      touched tiles without a missing pair: they need no mask
    runs      loops over the full and over the other touched tiles, up to the last tile that exists; the part of a
              full loop that meets the ragged last tile of keys becomes a masked run of its own

Every step has a sound fallback when isl's answer is too hard or cannot be said as loops: no full tiles, then the hull
of the touched tiles, then all tiles. A mask is always right; the fallbacks only cost time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import islpy as isl

from pidsl.codegen.coordinates import Coordinates
from pidsl.codegen.plan import Over, Run, Sweep
from pidsl.errors import TooHardError
from pidsl.language.expr import (
    Add, And, Compare, FloorDiv, Index, Max, Min, Mod, Pred, Sub, Var, simplify, substitute, substitute_pred,
)  # fmt: skip
from pidsl.relation.isl import limited, read_map, read_set
from pidsl.relation.loops import Loop, NoLoop, condition, loops

FULL_LIMIT = 400_000  # isl operations spent on finding full tiles before giving them up


@dataclass(frozen=True, slots=True)
class TileSets:
    """`{ [t, x] }`: touched tiles, split in those without a missing pair and those that need a mask."""

    full: isl.Set
    masked: isl.Set

    def all_masked(self) -> TileSets:
        """The same tiles, every one with a mask."""
        return TileSets(self.full - self.full, (self.full | self.masked).coalesce())


def mask(at: Coordinates, points: isl.Set) -> isl.Set:
    """The condition on (a, b) under which an existing row and key are a pair of the piece."""
    return points.gist(at.exists).coalesce()


def mask_pred(at: Coordinates, simple: isl.Set) -> Pred:
    """`mask` as a predicate over the variables of the plan."""
    first = simple.dim(isl.dim_type.param)
    lifted = simple.move_dims(isl.dim_type.param, first, isl.dim_type.set, 0, 2)
    lifted = lifted.set_dim_name(isl.dim_type.param, first, "a").set_dim_name(isl.dim_type.param, first + 1, "b")
    return at.plain_pred(condition(lifted, at.parameter_set("a, b", "a >= 0 and b >= 0")))


def tile_sets(at: Coordinates, simple: isl.Set, rows: int, cols: int) -> TileSets:
    """The tiles of a mask, for rows and keys without end."""
    to_tile = read_map(
        f"[{at.parameters}] -> {{ [a, b] -> [t, x] : {rows} t <= a < {rows} t + {rows} "
        f"and {cols} x <= b < {cols} x + {cols} }}"
    )
    quadrant = read_set(f"[{at.parameters}] -> {{ [a, b] : a >= 0 and b >= 0 and {at.known} }}")
    pairs = simple & quadrant
    touched = pairs.apply(to_tile).coalesce()
    try:
        with limited("the full tiles of a piece", FULL_LIMIT):
            missing = (quadrant - pairs).apply(to_tile).coalesce()
            full = (touched - missing).coalesce()
            return TileSets(full, (touched - full).coalesce())
    except TooHardError:
        return TileSets(touched - touched, touched)


def sweep(at: Coordinates, sets: TileSets, over: Over, rows: int, cols: int) -> Sweep:
    """Loops over the tiles of one dimension for a given tile `t` of the other."""
    first = sets.full.dim(isl.dim_type.param)
    context = at.parameter_set("t, top", "t >= 0 and top >= -1")
    below_top = read_set(f"[{at.parameters}, t, top] -> {{ [x] : x <= top }}")

    def lines(tiles: isl.Set) -> isl.Set:
        line = tiles.move_dims(isl.dim_type.param, first, isl.dim_type.set, 0 if over == "keys" else 1, 1)
        line = line.set_dim_name(isl.dim_type.param, first, "t").set_dim_name(isl.dim_type.set, 0, "x")
        return (line & below_top).coalesce()

    full, masked = lines(sets.full), lines(sets.masked)
    try:
        found = [(True, x) for x in _scan(full, context)] + [(False, x) for x in _scan(masked, context)]
    except NoLoop:
        touched = (full | masked).coalesce()
        found = [(False, x) for x in _scan_hull(touched, context)]
    runs = (run for is_full, x in found for run in _cut(at, over, rows, cols, is_full, x))
    return Sweep(over, rows, cols, tuple(runs))


def every_tile(at: Coordinates, over: Over, rows: int, cols: int) -> Sweep:
    """A loop over all tiles of the swept dimension, masked: right for any piece."""
    runs = _cut(at, over, rows, cols, False, Loop(0, Var("top")))
    return Sweep(over, rows, cols, tuple(runs))


def _scan(points: isl.Set, context: isl.Set) -> list[Loop]:
    found = loops(points.gist_params(context).coalesce(), context)
    if any(x.inside is not None for x in found):
        raise NoLoop("a loop with a test inside")
    return found


def _scan_hull(touched: isl.Set, context: isl.Set) -> list[Loop]:
    """Loops over a superset of the touched tiles, each tile once."""
    hull = isl.Set.from_basic_set(touched.remove_divs().simple_hull())
    for points in (touched, hull):
        try:
            return _scan(points, context)
        except NoLoop:
            continue
    return [Loop(0, Var("top"))]


def _cut(at: Coordinates, over: Over, rows: int, cols: int, full: bool, loop: Loop) -> Iterator[Run]:
    """A loop as runs that end where the sequence does."""
    if over == "keys":
        last_tile = _last_tile(Var("m"), Var("d"), at.layout.key_step, cols)
    else:
        last_tile = _last_tile(Var("n"), Var("c"), at.layout.query_step, rows)
    ends = {"top": last_tile}
    first, last = (at.plain(substitute(x, ends)) for x in (loop.first, loop.last))
    guard = None if loop.guard is None else at.plain_pred(substitute_pred(loop.guard, ends))
    if not full or over == "queries" or cols == 1:
        # a full tile may lack rows (they are not stored) but no keys; over queries the own keys may be cut as well
        yield Run(full, first, last, loop.step, guard)
        return
    whole = _whole_tiles(Var("m"), Var("d"), at.layout.key_step, cols)
    yield Run(True, first, simplify(Min(last, simplify(Sub(whole, 1)))), loop.step, guard)
    if loop.step == 1:
        yield Run(False, simplify(Max(first, whole)), last, 1, guard)
        return
    meets = And(Compare("<=", first, whole), Compare("<=", whole, last))
    on_step = Compare("==", Mod(Sub(whole, first), loop.step), 0)
    inside = And(meets, on_step)
    yield Run(False, whole, whole, 1, inside if guard is None else And(guard, inside))


def _last_tile(length: Var, own_class: Var, step: int, size: int) -> Index:
    """Index of the tile that holds the last member of a class; -1 when the class is empty."""
    top = Sub(length, 1) if step == 1 else Sub(Sub(length, 1), own_class)
    return simplify(FloorDiv(top, step * size))


def _whole_tiles(length: Var, own_class: Var, step: int, size: int) -> Index:
    """How many tiles of a class are complete."""
    return simplify(FloorDiv(length if step == 1 else Add(Sub(length, own_class), step - 1), step * size))
