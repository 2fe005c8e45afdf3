"""Which tiles a piece touches, which of them it fills, and the loops that visit them, for every n at once.

A tile (t, x) holds `rows` rows and `cols` keys of one pair of classes. Where the sequence ends is kept apart from
the pattern: the tile sets are those of the mask alone, for rows and keys without end, and loops are cut at the last
tile that exists:

    touched   tiles that may hold a pair of the mask
    full      touched tiles without a missing pair: they need no mask
    runs      full tiles; the touched tiles before and after them; the ragged last tile of keys, masked

A mask that is one convex set gives its tiles directly, constraint by constraint: a tile is full when every constraint
holds in its worst corner, and may be touched when every constraint holds in its best corner. Other masks go through
isl's set operations. Every step has a sound fallback: no full tiles, then the hull of the touched tiles, then all
tiles. A mask is always right; the fallbacks only cost time.
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

FULL_LIMIT = 100_000  # isl operations spent on finding full tiles of a mask with divisions before giving them up


@dataclass(frozen=True, slots=True)
class TileSets:
    """`{ [t, x] }`: tiles that may be touched, and those of them without a missing pair."""

    touched: isl.Set
    full: isl.Set

    def all_masked(self) -> TileSets:
        """The same tiles, every one with a mask."""
        return TileSets(self.touched, self.full - self.full)


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
    parts = simple.get_basic_sets()
    if len(parts) == 1 and parts[0].dim(isl.dim_type.div) == 0:
        return TileSets(_corners(at, parts[0], rows, cols, best=True), _corners(at, parts[0], rows, cols, best=False))
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
            return TileSets(touched, (touched - missing).coalesce())
    except TooHardError:
        return TileSets(touched, touched - touched)


def _corners(at: Coordinates, convex: isl.BasicSet, rows: int, cols: int, *, best: bool) -> isl.Set:
    """Tiles in whose best (or worst) corner each constraint of `convex` holds.

    `a - b >= 0` with 64 x 64 tiles: best `64 t + 63 - 64 x >= 0`, worst `64 t - (64 x + 63) >= 0`.
    """
    tiles = read_set(f"[{at.parameters}] -> {{ [t, x] : t >= 0 and x >= 0 and {at.known} }}")
    space = isl.LocalSpace.from_space(tiles.get_space())
    for c in convex.get_constraints():
        sides = (1, -1) if c.is_equality() else (1,)  # an equality is two inequalities
        for sign in sides:
            constant = sign * int(c.get_constant_val().to_python())
            out = isl.Constraint.alloc_inequality(space)
            for k in range(tiles.dim(isl.dim_type.param)):
                value = sign * int(c.get_coefficient_val(isl.dim_type.param, k).to_python())
                out = out.set_coefficient_val(isl.dim_type.param, k, isl.Val(value, tiles.get_ctx()))
            for k, size in enumerate((rows, cols)):
                value = sign * int(c.get_coefficient_val(isl.dim_type.set, k).to_python())
                out = out.set_coefficient_val(isl.dim_type.set, k, isl.Val(value * size, tiles.get_ctx()))
                far = value * (size - 1)
                constant += max(far, 0) if best else min(far, 0)
            tiles = tiles.add_constraint(out.set_constant_val(isl.Val(constant, tiles.get_ctx())))
    return tiles


def sweep(at: Coordinates, sets: TileSets, over: Over, rows: int, cols: int) -> Sweep:
    """Loops over the tiles of one dimension for a given tile `t` of the other."""
    first = sets.touched.dim(isl.dim_type.param)
    context = at.parameter_set("t, top", "t >= 0 and top >= -1")
    below_top = read_set(f"[{at.parameters}, t, top] -> {{ [x] : x <= top }}")

    def lines(tiles: isl.Set) -> isl.Set:
        line = tiles.move_dims(isl.dim_type.param, first, isl.dim_type.set, 0 if over == "keys" else 1, 1)
        line = line.set_dim_name(isl.dim_type.param, first, "t").set_dim_name(isl.dim_type.set, 0, "x")
        return (line & below_top).coalesce()

    touched, full = lines(sets.touched), lines(sets.full)
    found = _split(touched, full, context) or [(False, x) for x in _scan_hull(touched, context)]
    runs = (run for is_full, x in found for run in _cut(at, over, rows, cols, is_full, x))
    return Sweep(over, rows, cols, tuple(runs))


def every_tile(at: Coordinates, over: Over, rows: int, cols: int) -> Sweep:
    """A loop over all tiles of the swept dimension, masked: right for any piece."""
    runs = _cut(at, over, rows, cols, False, Loop(0, Var("top")))
    return Sweep(over, rows, cols, tuple(runs))


def _split(touched: isl.Set, full: isl.Set, context: isl.Set) -> list[tuple[bool, Loop]] | None:
    """Full loops, then masked loops over the other touched tiles; None when isl's loops cannot say it."""
    try:
        outer, inner = _scan(touched, context), _scan(full, context)
        if not inner:
            return [(False, x) for x in outer]
        if len(outer) == len(inner) == 1 and _plain(outer[0]) and _plain(inner[0]):
            return [(True, inner[0]), *((False, x) for x in _around(outer[0], inner[0]))]
        rest = _scan((touched - full).coalesce(), context)
        return [(True, x) for x in inner] + [(False, x) for x in rest]
    except NoLoop:
        return None


def _plain(loop: Loop) -> bool:
    return loop.step == 1 and loop.guard is None


def _around(outer: Loop, inner: Loop) -> Iterator[Loop]:
    """The iterations of `outer` before and after `inner`; all of them, once, when `inner` is empty."""
    if inner.first != outer.first:
        yield Loop(outer.first, simplify(Min(simplify(Sub(inner.first, 1)), outer.last)))
    if inner.last != outer.last:
        after = simplify(Add(inner.last, 1))
        start = after if inner.first == 0 else simplify(Max(inner.first, after))
        yield Loop(simplify(Max(outer.first, start)), outer.last)


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
    first, last, guard = _until(at, loop, last_tile)
    if not full or over == "queries" or cols == 1:
        # a full tile may lack rows (they are not stored) but no keys; over queries the own keys may be cut as well
        yield Run(full, first, last, loop.step, guard)
        return
    whole = _whole_tiles(Var("m"), Var("d"), at.layout.key_step, cols)
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


def _last_tile(length: Var, own_class: Var, step: int, size: int) -> Index:
    """Index of the tile that holds the last member of a class; -1 when the class is empty."""
    top = Sub(length, 1) if step == 1 else Sub(Sub(length, 1), own_class)
    return simplify(FloorDiv(top, step * size))


def _whole_tiles(length: Var, own_class: Var, step: int, size: int) -> Index:
    """How many tiles of a class are complete."""
    return simplify(FloorDiv(length if step == 1 else Add(Sub(length, own_class), step - 1), step * size))
