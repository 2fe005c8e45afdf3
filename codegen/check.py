"""Proof, by isl and for all n, m and offsets at once, that a plan computes its pattern: nothing lost, nothing twice.

The checks read the plan as an emitter does: they turn its expressions (bounds, guards, masks) back into isl sets, and
share with the planner only the pieces' relations, which are themselves held against the term's.

    check_fields     walks go over what they should, in tiles that the backend has; layouts are well formed
    check_pieces     the pieces are disjoint, and their union is the relation
    check_mask       `keep` is true on exactly the pairs of its piece
    check_runs       no tile is visited twice or out of range, every attended pair lies in a visited tile, and a tile
                     called full is full
    check_lags       rows and lags are exactly the pairs of their piece
    check_shifts     tiles that `shifts` calls alike have equal masks
    check_list       a list is that of the term, and its mask holds what no other piece has
    check_choice     what calls choose is what the term lets them, less all other pieces; blocks called full are full
    check_grid       the axes of a grid are exactly the pairs of their piece
    check_walk       every pair of a piece is visited, of a grid in some box
    check_attended   `attended_keys` and `attended_rows` are the range and the domain of the relation, or hold there;
                     None says that they are everything
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import combinations

import islpy as isl

from pidsl.codegen.choice.cost import BACKENDS
from pidsl.codegen.choice.lists import separate
from pidsl.codegen.choice.parts import occurring
from pidsl.codegen.choice.pieces import without_ends
from pidsl.codegen.plan.heads import share
from pidsl.codegen.plan.nodes import Piece, Plan
from pidsl.codegen.plan.walks import (
    LARGEST_TILE,
    SMALLEST_TILE,
    BlockList,
    Boxes,
    ChosenBlocks,
    Grid,
    Lags,
    Layout,
    Listed,
    Run,
    Runs,
    Selected,
    Walk,
)
from pidsl.codegen.tiling.coordinates import Coordinates, coordinates, mask
from pidsl.errors import PlanError
from pidsl.language.algebra import both
from pidsl.language.chosen import forced, possible, selection
from pidsl.language.expr import And, Compare, Var, substitute_pred
from pidsl.language.heads import Heads
from pidsl.language.terms import Term
from pidsl.relation.build import needs_square, rows_relation
from pidsl.relation.frame import Frame, frame_of
from pidsl.relation.isl import affine, coalesced, limited, read_set, region, scope

OPERATIONS = 20_000_000  # about ten seconds


def check_plan(plan: Plan, operations: int = OPERATIONS) -> None:
    """Raise PlanError naming every property that does not hold.

    Args:
        plan: what `lower` or `together` made, or a changed copy.
        operations: isl's operation limit.

    Raises:
        TooHardError: isl could not decide within its limit.
    """
    term = plan.term
    if isinstance(term, Heads):  # each head by itself; heads of one pattern have one share
        shares: list[Plan] = []
        for head in range(len(term)):
            if (own := share(plan, head)) not in shares:
                shares.append(own)
                check_plan(own, operations)
        return
    if plan.backend == "reference":  # has no pieces: it evaluates the oracle
        return
    faults = [f"piece {k}: {x}" for k, piece in enumerate(plan.pieces) for x in check_fields(piece, plan)]
    if faults:  # the other checks read plans of the right shape only
        raise _wrong(plan, faults)
    with limited(f"the checks of the plan of {term!r}", operations):
        static = forced(term)  # of which calls choose nothing
        unlisted = static if (listed := separate(static)) is None else listed.other
        whole = rows_relation(unlisted, plan.frame)
        faults += list(check_pieces(plan, whole)) + list(check_attended(plan, whole, needs_square(term)))
        faults += [f"piece {k}: {x}" for k, y in enumerate(plan.pieces) for x in check_piece(y, static, plan.frame)]
        faults += check_choice(plan, term)
    if faults:
        raise _wrong(plan, faults)


def _wrong(plan: Plan, faults: Sequence[str]) -> PlanError:
    text = "a plan that cannot be printed"
    with suppress(Exception):  # whatever is wrong with it, the faults are what matters
        text = str(plan)
    given = "; ".join(faults)
    return PlanError(given, "a plan that computes exactly its pattern", where=f"{plan.term!r}\n{text}")


def check_fields(piece: Piece, plan: Plan) -> Iterator[str]:
    """The right dimensions are swept, in tiles that the backend has, and a layout says one thing."""
    backend, walks, layout = BACKENDS[plan.backend], piece.walks, piece.layout
    kind = type(piece.forward)
    if [x.over for x in walks] != ["keys", "keys", "queries"][: len(backend.passes)]:
        yield "a walk over the wrong dimension, or one that is not there, or one that nobody runs"
    if any((type(x), x.layout) != (kind, layout) for x in walks):
        yield "walks of two kinds, or of two layouts"
        return
    axes = 0 if kind is Lags else len(layout.lengths) if isinstance(layout, Grid) else 1
    if len(piece.keep) != axes:
        yield "a mask too many or too few"
    match layout:
        case Layout():
            yield from _layout_fields(layout)
            if layout.frame != plan.frame:
                yield "a layout of other positions of keys than the plan's"
        case Grid(lengths):
            if not lengths or any(x is None for x in lengths[1:]) or any(x is not None and x < 1 for x in lengths):
                yield "only the first axis goes on, and none is empty"
    for walk in dict.fromkeys(walks):
        match walk:
            case Lags(own_layout):
                if not own_layout.identity:
                    yield "lags have no layout but the identity"
                continue
            case Boxes(grid, _, own, swept, first, last):
                if any(len(x) != axes for x in (own, swept, first, last)):
                    yield "not every axis is told"
                elif any(x is None and y is not None for x, y in zip(last, grid.lengths, strict=True)):
                    yield "an axis that ends has no last box"
            case Runs(runs=runs):
                if any(run.step < 1 for run in runs):
                    yield "a run that does not go on"
                if backend.exact and walk.cols != 1:
                    yield "tiles that are no exact ranges of keys"
        sizes = walk.owned, walk.visited
        if min(sizes) < 1:
            yield "a tile without pairs"
        elif not backend.exact and any(not SMALLEST_TILE <= x <= LARGEST_TILE or x & (x - 1) for x in sizes):
            yield f"a tile that is no power of two from {SMALLEST_TILE} to {LARGEST_TILE}"


def _layout_fields(layout: Layout) -> Iterator[str]:
    s, t, classes = layout.query_step, layout.key_step, (layout.query_class, layout.key_class)
    if min(s, t) < 1:
        yield "a step below 1"
    elif layout.linked:
        if s != t or classes != (None, None):
            yield "a layout that links classes of different steps, or fixes them too"
    elif any(step > 1 and fixed is None for step, fixed in zip((s, t), classes, strict=True)):
        yield "a step without a class"
    elif any(fixed is not None and not 0 <= fixed < step for step, fixed in zip((s, t), classes, strict=True)):
        yield "a class that its step does not have"


def check_pieces(plan: Plan, whole: isl.Map) -> Iterator[str]:
    """Disjoint, and together the relation of the term, or of what is not listed in it."""
    if len(list(plan.walked(Listed))) > 1 or len(list(plan.walked(Selected))) > 1:
        yield "a list twice"
    if not plan.relation.is_equal(whole):
        yield "the relation of the plan is not that of its term"
    pieces = [(x, y) for x, y in enumerate(plan.pieces) if not isinstance(y.layout, BlockList | ChosenBlocks)]
    for (x, a), (y, b) in combinations(pieces, 2):
        if not (a.relation & b.relation).is_empty():
            yield f"pieces {x} and {y} overlap"
    union = whole - whole
    for _, piece in pieces:
        union = union | piece.relation
    lengths = plan.frame.compared()
    if not union.intersect_params(lengths).is_equal(whole.intersect_params(lengths)):
        yield "the union of the pieces is not the relation"


def check_attended(plan: Plan, whole: isl.Map, square: bool) -> Iterator[str]:
    """The emitted conditions say which keys and rows occur."""
    frame = plan.frame
    # diagonals load no key that they do not attend, so a plan of nothing else need not say which keys occur
    tiled = not all(isinstance(x.forward, Lags) for x in plan.pieces)
    for pred, points, name, length in (
        (plan.attended_keys, whole.range(), "j", "m"),
        (plan.attended_rows, whole.domain(), "r", "n"),
    ):
        if pred is None and (not plan.attended_exact or (name == "j" and not tiled)):
            continue
        known = f"{frame.known} and {frame.square}" if square else frame.known
        exist = frame.set(f"[{name}] : 0 <= {name} < {length} and {known}")
        said = exist if pred is None else region(pred, _scope(frame, name)) & exist
        if any(plan.walked(Listed)) and not exist.is_subset(said):
            yield f"the condition on attended {name} leaves out what is listed"
        if not (said.is_equal(points & exist) if plan.attended_exact else points.is_subset(said)):
            yield f"the condition on attended {name} is wrong"


def check_piece(piece: Piece, term: Term, frame: Frame) -> Iterator[str]:
    """The mask of a piece is its pairs, and every pass visits them."""
    match piece.forward:
        case Runs(layout):
            at = coordinates(layout, needs_square(term))
            yield from check_mask(piece, at)
            yield from check_shifts(piece, at)
        case Boxes(grid):
            yield from check_grid(piece, grid)
        case Listed(blocks):
            yield from check_list(piece, blocks, term, frame)
    for walk in dict.fromkeys(piece.walks):
        yield from (f"over {walk.over}: {x}" for x in check_walk(piece, walk, term))


def check_walk(piece: Piece, walk: Walk, term: Term) -> Iterator[str]:
    """One pass visits every pair of a piece, and none twice; what is listed is visited as it is."""
    match walk:
        case Runs(layout):
            yield from check_runs(piece, walk, coordinates(layout, needs_square(term)))
        case Boxes(grid):
            axes = zip(grid.lengths, piece.keep, walk.own, walk.first, walk.last, strict=True)
            for axis, (length, keep, size, first, last) in enumerate(axes):
                own, swept = ("a", Var("b")) if walk.over == "keys" else ("b", Var("a"))
                end = "" if length is None else f"and a < {length} and b < {length}"
                space = f"{{ [a, b, t] : a >= 0 and b >= 0 {end} and {size} t <= {own} < {size} t + {size} }}"
                visited = both(None if last is None else Compare("<=", swept, last), Compare("<=", first, swept))
                if not (read_set(space) & region(keep, scope(space))).is_subset(region(visited, scope(space))):
                    yield f"a pair on axis {axis} is not visited"
        case Lags():
            yield from check_lags(piece.relation, walk)


def check_mask(piece: Piece, at: Coordinates) -> Iterator[str]:
    """`keep` on existing rows and keys of the layout's classes is the piece."""
    kept = _kept(piece, at)
    if not kept.is_equal(at.points(piece.relation)):
        yield "the mask is not the piece"
    layout, frame = at.layout, at.layout.frame
    classes = frame.map("[r] -> [j]")
    for position, of_class, step in (
        (frame.lag, layout.phase, layout.query_step),
        (frame.query, layout.query_class, layout.query_step),
        (frame.key, layout.key_class, layout.key_step),
    ):
        if of_class is not None:
            classes = classes & frame.map(f"[r] -> [j] : ({position} - {of_class}) mod {step} = 0")
    if not piece.relation.intersect_params(frame.compared()).is_subset(classes):
        yield "a pair of the piece lies outside the classes of its layout"


def check_lags(pairs: isl.Map, walk: Lags) -> Iterator[str]:
    """The rows of each lag, together, are the pairs of a piece."""
    frame = walk.layout.frame
    names, lengths = _scope(frame, "r"), frame.compared()
    relation = pairs.intersect_params(lengths)
    for x in walk.lags:
        between = And(Compare("<=", x.first, Var("r")), Compare("<=", Var("r"), x.last))
        rows = region(both(x.keep, between), names)
        lag = frame.map(f"[r] -> [j] : {frame.lag} = {x.lag}")
        if not lag.intersect_domain(rows).intersect_params(lengths).is_equal(relation & lag):
            yield f"the rows of lag {x.lag}: the diagonals are not the piece"
    lags = [x.lag for x in walk.lags]
    if len(set(lags)) < len(lags):
        yield "a lag twice"
    known = read_set("{ " + "; ".join(f"[{lag}]" for lag in lags) + " }")
    if not occurring(pairs, frame.lag).is_subset(known):
        yield "a lag is missing: the diagonals are not the piece"


def check_runs(piece: Piece, walk: Runs, at: Coordinates) -> Iterator[str]:
    """Every tile at most once and in range, every pair visited, full tiles full."""
    own, moved = ("a", "b") if walk.over == "keys" else ("b", "a")
    size, moved_size = walk.owned, walk.visited
    own_tile = f"{size} t <= {own} < {size} t + {size}"
    to_tile = at.map(f"[a, b] -> [t, x] : {own_tile} and {moved_size} x <= {moved} < {moved_size} x + {moved_size}")
    exist = at.exists
    own_exists = f"{at.row} < n" if walk.over == "keys" else f"{at.key} < m"
    programs = at.set(f"[t, x] : t >= 0 and (exists a, b: {own} = {size} t and {own_exists})")
    visited = [_visited(run, at) & programs for run in walk.runs]
    in_range = exist.apply(to_tile)
    union = programs - programs
    for k, tile in enumerate(visited):
        if not (union & tile).is_empty():
            yield f"run {k} visits a tile again"
        union = union | tile
        if not tile.is_subset(in_range):
            yield f"run {k} visits a tile that does not exist"
    pairs = _kept(piece, at)
    if not pairs.apply(to_tile).is_subset(union):
        yield "an attended pair is not visited"
    # rows beyond n may hang over a full tile (they are never stored), keys beyond m may not when keys are swept
    must = at.set(f"[a, b] : a >= 0 and b >= 0 and {at.row} < n") if walk.over == "keys" else exist
    for k, (run, tile) in enumerate(zip(walk.runs, visited, strict=True)):
        if run.full and not (must & tile.apply(to_tile.reverse())).is_subset(pairs):
            yield f"run {k} is not full"


def check_shifts(piece: Piece, at: Coordinates) -> Iterator[str]:
    """Tiles a translation apart have equal masks: in all of them the mask is a set that no translation changes.

    That set is the mask itself or, where rows and keys at the ends of the sequence are left to edges, less of it.
    """
    if not piece.shifts:
        return
    kept = _kept(piece, at)
    simple = mask(at, at.points(piece.relation))
    here = at.exists - at.exists
    for walk in (x for x in dict.fromkeys(piece.walks) if isinstance(x, Runs) and x.over == "keys"):
        rows, cols = walk.rows, walk.cols
        tiles = f"{rows} t <= a < {rows} t + {rows} and {cols} x <= b < {cols} x + {cols}"
        pairs = at.map(f"[t, x] -> [a, b] : {tiles}")
        for run in walk.runs:
            if not run.full and not run.edge:
                here = here | (_visited(run, at).apply(pairs) & at.exists)
    for still in (simple, without_ends(simple)):
        moved = (still.apply(at.map(f"[a, b] -> [a + {da}, b + {db}]")) for da, db in piece.shifts)
        if (still & here).is_equal(kept & here) and all(x.is_equal(still) for x in moved):
            return
    yield "tiles that are called alike have different masks"


def check_list(piece: Piece, listed: BlockList, term: Term, frame: Frame) -> Iterator[str]:
    """The list is that of the term, and its mask lets through what is wanted and not in other pieces."""
    if separate(term) != listed:
        yield "the list is not that of the term"
    if not _is_kept(piece, _beside(listed.within, listed.other, frame), frame):
        yield "the mask of the list is wrong"


def check_choice(plan: Plan, term: Term) -> Iterator[str]:
    """What calls choose is what the term lets them, its mask leaves out other pieces, and blocks called full are."""
    lists, pieces = selection(term), list(plan.walked(Selected))
    if (lists is None) != (not pieces):
        yield "a choice that the term has not, or none where it has one"
    for piece in pieces:
        layout, frame = piece.layout, plan.frame
        assert isinstance(layout, ChosenBlocks)
        if (layout.block, layout.budget, layout.queries) != lists or layout.within != possible(term):
            yield "the choice is not that of the term"
        pairs = _beside(possible(term), forced(term), frame)
        if not _is_kept(piece, pairs, frame):
            yield "the mask of the choice is wrong"
        blocks = f"x = floor((r + offset)/{layout.queries}) and y = floor({frame.key}/{layout.block})"
        full = region(layout.full, _scope(frame, "x, y")).apply(frame.map(f"[x, y] -> [r, j] : {blocks}"))
        if not (full & frame.existing()).is_subset(pairs):
            yield "blocks that are called full are not"


def _beside(within: Term, other: Term, frame: Frame) -> isl.Set:
    """The existing rows and keys whose pair is in one term and not in the other."""
    flat, exist = frame.map("[[r] -> [j]] -> [r, j]"), frame.existing()
    first, less = (rows_relation(x, frame).wrap().apply(flat) & exist for x in (within, other))
    return first - less


def _is_kept(piece: Piece, pairs: isl.Set, frame: Frame) -> bool:
    """Whether the mask of a piece over (r, j) is true on exactly these."""
    return bool((region(piece.keep[0], _scope(frame, "r, j")) & frame.existing()).is_equal(pairs))


def check_grid(piece: Piece, grid: Grid) -> Iterator[str]:
    """A pair is in the piece when every axis keeps it."""
    frame = frame_of(piece.relation)
    i, j = Var("r") + Var("offset"), frame.key_at(Var("j"))
    said = frame.existing()
    if grid.tokens is not None:
        said = said & frame.set(f"[r, j] : r + offset < {grid.tokens} and {frame.key} < {grid.tokens}")
    for keep, a, b in zip(piece.keep, grid.coordinates(i), grid.coordinates(j), strict=True):
        said = said & region(substitute_pred(keep, {"a": a, "b": b}), _scope(frame, "r, j"))
    flat = frame.map("[[r] -> [j]] -> [r, j]")
    if not said.is_equal(piece.relation.intersect_params(frame.compared()).wrap().apply(flat)):
        yield "the axes of the grid are not the piece"


def _kept(piece: Piece, at: Coordinates) -> isl.Set:
    return coalesced(region(piece.keep[0], _names(at, "a, b")) & at.exists)


def _visited(run: Run, at: Coordinates) -> isl.Set:
    x = Var("x")
    inside = both(run.guard, And(Compare("<=", run.first, x), Compare("<=", x, run.last)))
    if run.step != 1:
        inside = And(inside, Compare("==", (x - run.first) % run.step, 0))
    return region(inside, _names(at, "t, x"))


def _names(at: Coordinates, dims: str) -> dict[str, isl.PwAff]:
    """What the plan's variables are: dimensions, parameters, and the offset by its definition."""
    names, layout = scope(f"[{at.parameters}] -> {{ [{dims}] }}"), at.layout
    if "offset" not in names:
        residue = layout.frame.key_at(Var("d") + layout.phase) if layout.phase is not None else layout.query_class or 0
        names["offset"] = affine(layout.query_step * Var("e") + residue - Var("c"), names)
    if layout.frame.moved and "key_offset" not in names:
        names["key_offset"] = affine(layout.key_step * Var("f") + (layout.key_class or 0) - Var("d"), names)
    return names


def _scope(frame: Frame, dims: str) -> dict[str, isl.PwAff]:
    """What the plan's variables are in the space of rows and keys."""
    return scope(f"[{frame.parameters}] -> {{ [{dims}] }}")
