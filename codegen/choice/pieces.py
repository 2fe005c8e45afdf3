"""Pieces of a plan from parts of the relation: masks, tiles and loops of dense pieces, rows of diagonal ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import gcd, lcm

import islpy as isl

from pidsl.codegen.choice.choose import Choice
from pidsl.codegen.choice.cost import REFERENCE, Backend, Shape, alike, best_tiles, shape
from pidsl.codegen.choice.parts import union_of
from pidsl.codegen.plan.nodes import Piece
from pidsl.codegen.plan.walks import Grid, Lag, Lags, Layout
from pidsl.codegen.tiling.bands import Placed, interval, place
from pidsl.codegen.tiling.coordinates import Coordinates, Tiles, coordinates, mask_pred
from pidsl.codegen.tiling.tiles import sweep
from pidsl.language.algebra import greatest, smallest
from pidsl.language.expr import Pred, Truth, Var
from pidsl.relation.forms import Floor, atoms_of, predicate
from pidsl.relation.frame import HOME, Frame, frame_of
from pidsl.relation.isl import coalesced, convex_parts

MAX_SHIFT = 4096  # longest translation looked for when batching equal masks
MAX_PIECES = 12  # tile pieces of one layout; more parts than this share one mask and one set of loops


def pieces(choices: Sequence[Choice], backend: Backend, square: bool, length: int) -> tuple[Piece, ...]:
    """One piece per part; the isolated lags together, and parts of one layout together when they are many."""
    groups: dict[Layout | Grid | None, list[Choice]] = {}
    for x in choices:
        groups.setdefault(x.layout, []).append(x)
    tiled: list[Piece] = []
    boxes: list[Piece] = []  # last, so that pieces whose tiles are plain views write first
    for layout, group in groups.items():
        if layout is None:
            tiled.append(lags_piece(group, backend, length))
            continue
        if isinstance(layout, Grid):
            boxes += [x.product.piece(x.part.relation) for x in group if x.product]
            continue
        if len(group) > MAX_PIECES:
            group = [x for x in group if x.tiles] + [_in_one([x for x in group if not x.tiles], layout, square, length)]
        own = [backend] * len(group)
        if len(group) > 1 and not backend.calls:  # kernels are shared
            own = [backend.in_tiles(sizes) for sizes in alike([x.shape for x in group], backend)]
        for x, whose in zip(group, own, strict=True):
            tiled.append(x.tiles.piece(whose) if x.tiles else tile_piece(x.placed, x.shape, whose, length))
    return (*tiled, *boxes)


def _in_one(group: Sequence[Choice], layout: Layout, square: bool, length: int) -> Choice:
    """Many parts of a layout as one."""
    relation = union_of([x.part for x in group])
    placed = place(relation, coordinates(layout, square))
    return Choice(replace(group[0].part, relation=relation), layout, placed, shape(placed, length))


def tile_piece(placed: Placed, outline: Shape, backend: Backend, length: int) -> Piece:
    """One piece in dense tiles: its mask, its tiles, and the loops of the forward and backward programs."""
    calls = backend.calls
    period = _period(placed.mask) if calls else 1
    # rows that are whole periods of the mask, near the offered sizes: all tiles then have the same mask
    whole = {max(1, round(x.rows / period)) * period for x in backend.forward} if period > 1 else ()
    others = (backend.price("forward", height, 1) for height in sorted(whole))
    rows, cols = best_tiles(outline, backend, among=(*backend.forward, *others)).size
    shifts: tuple[tuple[int, int], ...] = ()
    split = True
    if calls:
        shifts = _shifts(placed, rows, period)
        if not shifts and outline.computed(rows, 1).programs > calls.few:
            rows = max(rows, calls.alone)
        # without a mask, tiles are computed in one call however they lie; one masked call over all touched keys is
        # cheaper than unmasked and masked calls and their merge where those are few
        work = outline.computed(rows, 1)
        split = not shifts or work.pairs > work.programs * rows * calls.split
    walks = backend.walks(
        rows, cols, outline, lambda over, height, width: sweep(placed, over, height, width, split=split)
    )
    return Piece((mask_pred(placed.at, placed.mask),), *walks, placed.relation, shifts, length)


def masked_piece(relation: isl.Map, at: Coordinates, backend: Backend) -> Piece:
    """Every tile, masked: right for any relation, and what is left when isl's limit strikes."""
    forward, back = backend.forward[0], (backend.grad_query or backend.forward)[0]
    over_keys, grad_query = (Tiles(at, "keys", x.rows, x.cols).every() for x in (forward, back))
    over_queries = next((Tiles(at, "queries", x.rows, x.cols).every() for x in backend.grad_key), None)
    keep = mask_pred(at, at.points(relation))
    return Piece((keep,), over_keys, grad_query, over_queries, relation, reference=REFERENCE)


def _period(points: isl.Set) -> int:
    """A translation length under which the divisions in the mask repeat; 1 when there are none, or it is too long."""
    period = 1
    for x in (x for part in convex_parts(points) for x in atoms_of(part, ("a", "b")) if isinstance(x, Floor)):
        period = lcm(period, x.by)
        if period > MAX_SHIFT:
            return 1
    return period


def _shifts(placed: Placed, rows: int, period: int) -> tuple[tuple[int, int], ...]:
    """Translations (da, db), da a whole number of row tiles, that leave the mask as it is. isl checks each.

    Candidates keep the lag (along the diagonal), or the keys.
    """
    at, s, t = placed.at, placed.at.layout.query_step, placed.at.layout.key_step
    still = lcm(rows, period)
    along = lcm(still, t // gcd(s, t))
    out = []
    inside = placed.mask if placed.keys is None else without_ends(placed.mask)
    for da, db in ((along, along * s // t), (still, 0)):
        moved = inside.apply(at.map(f"[a, b] -> [a + {da}, b + {db}]"))
        if moved.is_equal(inside):
            out.append((da, db))
    return tuple(out)


def without_ends(simple: isl.Set) -> isl.Set:
    """The mask of a band without its bounds on rows alone and on keys alone.

    Tiles in which the former do not hold for all rows are edges, and no tile sweeps keys beyond the latter.
    """
    parts = simple.get_basic_sets()
    if len(parts) != 1:
        return simple
    kept = isl.BasicSet.universe(parts[0].get_space())
    divisions = parts[0].dim(isl.dim_type.div)
    for x in parts[0].get_constraints():
        if all(x.involves_dims(isl.dim_type.set, k, 1) for k in (0, 1)):
            kept = kept.add_constraint(x)
        elif x.involves_dims(isl.dim_type.div, 0, divisions):  # of a bound with divisions the sweep may say less
            return simple
    return isl.Set.from_basic_set(kept)


def lags_piece(group: Sequence[Choice], backend: Backend, length: int) -> Piece:
    """Isolated lags, each with the rows that have it."""
    by_lag: dict[int, isl.Set] = {}
    frame = frame_of(group[0].part.relation)
    for x in group:
        for lag in x.part.lags.values() or ():
            rows = (x.part.relation & frame.map(f"[r] -> [j] : {frame.lag} = {lag}")).domain()
            by_lag[lag] = (by_lag[lag] | rows) if lag in by_lag else rows
    lags = ((lag, coalesced(rows)) for lag, rows in sorted(by_lag.items()) if not rows.is_empty())
    found = tuple(_lag(lag, rows, frame) for lag, rows in lags)
    over_keys = Lags(Layout(frame=frame), "keys", found)
    over_queries = replace(over_keys, over="queries") if backend.grad_key else None
    return Piece((), over_keys, over_keys, over_queries, union_of([x.part for x in group]), reference=length)


def _lag(lag: int, rows: isl.Set, frame: Frame) -> Lag:
    simple = rows.gist_params(frame.compared())
    found = interval(simple, "r")
    if found is not None:
        first = greatest([0, *(x.value.index() for x in found.lower)])
        return Lag(lag, first, smallest([Var("n") - 1, *(x.value.index() for x in found.upper)]))
    keep = attended(rows, "r", "n", frame)
    return Lag(lag, 0, Var("n") - 1, keep if keep is not None else Truth(True))


def attended(points: isl.Set, name: str, length: str, frame: Frame = HOME, *, square: bool = False) -> Pred | None:
    """The condition on an index that it is in `points`; None when every one is."""
    known = frame.known + (f" and {frame.square}" if square else "")
    everything = frame.set(f"[x] : 0 <= x < {length} and {known}")
    if everything.is_subset(points):
        return None
    return predicate(coalesced(points.gist(everything)), (name,))
