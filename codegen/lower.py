"""From a term to a plan: `lower` reads as the table of contents of the compiler.

    term -> relation -> parts -> layout per part -> pieces (parts that share a layout) -> tiles and loops -> plan
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import lcm

import islpy as isl

from pidsl.codegen.coordinates import Coordinates, coordinates
from pidsl.codegen.cost import PRICES, REFERENCE, Prices, Shape, shape, tile_cost
from pidsl.codegen.pieces import Part, part, parts
from pidsl.codegen.plan import (
    Alternative, Diagonal, DiagonalPiece, Layout, Piece, Plan, TilePiece,
)  # fmt: skip
from pidsl.codegen.tiles import TileSets, mask, mask_pred, sweep, tile_sets
from pidsl.language.expr import Pred, Sub, Truth, Var
from pidsl.language.terms import Term, require_concrete
from pidsl.relation.build import needs_square, rows_relation
from pidsl.relation.isl import limited, read_map, read_set
from pidsl.relation.loops import NoLoop, condition, loops

MAX_SHIFT = 4096  # longest translation looked for when batching equal masks


@lru_cache(maxsize=512)
def lower(term: Term, backend: str = "triton", head_dim: int = 64) -> Plan:
    """The plan of a concrete term.

    Args:
        term: a term without unbound symbols.
        backend: "triton" or "torch": whose prices and tile sizes to plan with.
        head_dim: head dims above 128 get smaller tiles on Triton.

    Raises:
        SymbolError: an unbound symbol.
        TooHardError: isl cannot compute the relation of the term within its limit.
    """
    require_concrete(term, "compile the pattern")
    prices = _prices(backend, head_dim)
    relation = rows_relation(term)
    square = needs_square(term)
    with limited(f"the plan of {term!r}", 40_000_000):
        chosen, rejected, notes = choose_layouts(parts(relation), prices, square)
        pieces = tuple(_piece(group, layout, prices, backend, square) for layout, group in chosen)
        return Plan(
            term=term,
            backend=backend,
            pieces=pieces,
            attended_keys=_attended(relation.range(), "j", "m") if any(layout is not None for layout, _ in chosen) else None,
            attended_rows=_attended(relation.domain(), "r", "n"),
            relation=relation,
            notes=tuple(notes),
            rejected=tuple(rejected),
            reference=REFERENCE,
        )


def _prices(backend: str, head_dim: int) -> Prices:
    prices = PRICES[backend]
    if backend == "triton" and head_dim > 128:
        from dataclasses import replace

        return replace(prices, sizes=((64, 32), (32, 32), (16, 16)))
    return prices


Choice = tuple[Layout | None, list[Part]]  # None: diagonals


def choose_layouts(
    found: Sequence[Part], prices: Prices, square: bool
) -> tuple[list[Choice], list[Alternative], list[str]]:
    """The cheapest layout of each part, parts with equal layouts together; and what was rejected."""
    groups: dict[Layout | None, list[Part]] = {}
    rejected: list[Alternative] = []
    for x in found:
        options: list[tuple[float, str, Layout | None]] = []
        for layout in x.layouts:
            outline = shape(x.relation, coordinates(layout, square))
            cost, rows, cols = min((tile_cost(outline, prices, r, c), r, c) for r, c in prices.sizes)
            options.append((cost, f"{_lags(x)}: {layout}, tiles {rows} x {cols}", layout))
        if (values := x.lags.values()) is not None:
            attended = shape(x.relation, coordinates(Layout(), square)).attended
            options.append((attended * prices.diagonal, f"{_lags(x)}: {len(values)} diagonals", None))
        options.sort(key=lambda o: o[0])
        groups.setdefault(options[0][2], []).append(x)
        rejected += [Alternative(what, cost / options[0][0]) for cost, what, _ in options[1:]]
    notes = [] if len(found) != 1 or len(found[0].relation.get_basic_maps()) < 2 else ["too many parts: one masked piece"]
    order = sorted(groups.items(), key=lambda g: (g[0] is not None and g[0] != Layout(), g[0] is None, str(g[0])))
    return order, rejected, notes


def _lags(x: Part) -> str:
    f = x.lags
    low = "-inf" if f.least is None else f.least
    high = "inf" if f.most is None else f.most
    if low == high:
        return f"lag {low}"
    return f"lags {low} .. {high}" + (f" step {f.step}" if f.step > 1 else "")


def _piece(group: list[Part], layout: Layout | None, prices: Prices, backend: str, square: bool) -> Piece:
    relation = group[0].relation
    for x in group[1:]:
        relation = relation | x.relation
    if layout is None:
        return diagonal_piece(group, relation)
    return tile_piece(relation.coalesce(), coordinates(layout, square), prices, backend)


def tile_piece(relation: isl.Map, at: Coordinates, prices: Prices, backend: str) -> TilePiece:
    """One piece in dense tiles: its mask, its tiles, and the loops of the forward and backward programs."""
    simple = mask(at, at.points(relation))
    outline = shape(relation, at)
    period = _period(simple)
    sizes = [(r, c) for r, c in prices.sizes]
    if backend == "torch":
        sizes += [(r, 1) for r in _multiples(period, prices)]
    costed = {size: _cost(outline, prices, *size) for size in sizes}
    rows, cols = min(costed, key=lambda s: costed[s])
    sets = tile_sets(at, simple, rows, cols)
    if backend == "torch":
        sets = _unsplit(sets, outline, rows)
    back_rows, back_cols = (min(rows, 64), cols) if backend == "triton" else (rows, cols)
    back = sets if (back_rows, back_cols) == (rows, cols) else tile_sets(at, simple, back_rows, back_cols)
    return TilePiece(
        layout=at.layout,
        keep=mask_pred(at, simple),
        forward=sweep(at, sets, "keys", rows, cols),
        grad_query=sweep(at, back, "keys", back_rows, back_cols),
        grad_key=sweep(at, back, "queries", back_rows, back_cols),
        relation=relation,
        shifts=_shifts(at, simple, rows, period) if backend == "torch" else (),
        attended=outline.attended,
        computed=outline.computed(rows, cols)[0],
    )


def _cost(outline: Shape, prices: Prices, rows: int, cols: int) -> float:
    known = min(prices.small, key=lambda s: abs(s - rows))
    return tile_cost(outline, _with_size(prices, rows, known), rows, cols)


def _with_size(prices: Prices, rows: int, known: int) -> Prices:
    from dataclasses import replace

    return prices if rows in prices.small else replace(prices, small={rows: prices.small[known]})


def _multiples(period: int, prices: Prices) -> list[int]:
    """Row counts that are whole periods of the mask, near the offered sizes."""
    if period <= 1 or period > 1024:
        return []
    return sorted({max(1, round(r / period)) * period for r, _ in prices.sizes})


def _period(points: isl.Set) -> int:
    """A translation length under which the divisions in the mask repeat."""
    period = 1
    for b in points.get_basic_sets():
        local = b.get_local_space()
        for k in range(b.dim(isl.dim_type.div)):
            period = lcm(period, int(local.get_div(k).get_denominator_val().to_python()))
            if period > MAX_SHIFT:
                return 1
    return period


def _shifts(at: Coordinates, simple: isl.Set, rows: int, period: int) -> tuple[tuple[int, int], ...]:
    """Translations (da, db), da a whole number of row tiles, that leave the mask as it is. isl checks each."""
    da = lcm(rows, period)
    out = []
    for db in (da, 0):
        moved = simple.apply(read_map(f"[{at.parameters}] -> {{ [a, b] -> [a + {da}, b + {db}] }}"))
        if da <= MAX_SHIFT * 4 and moved.is_equal(simple):
            out.append((da, db))
    return tuple(out)


def _unsplit(sets: TileSets, outline: Shape, rows: int) -> TileSets:
    """Narrow bands: one masked call over all touched keys is cheaper than full and masked calls to be merged."""
    pairs, _, programs = outline.computed(rows, 1)
    if programs and pairs / programs > 4 * rows * rows:
        return sets
    return sets.all_masked()


def diagonal_piece(group: Sequence[Part], relation: isl.Map) -> DiagonalPiece:
    """Isolated lags, each with the rows that have it."""
    by_lag: dict[int, isl.Set] = {}
    for x in group:
        for lag in x.lags.values() or ():
            only = read_map(f"[n, m, offset] -> {{ [r] -> [j] : j = r + offset - {lag} }}")
            rows = (x.relation & only).domain()
            by_lag[lag] = (by_lag[lag] | rows) if lag in by_lag else rows
    diagonals = tuple(_diagonal(lag, rows.coalesce()) for lag, rows in sorted(by_lag.items()) if not rows.is_empty())
    count = sum(max(0, REFERENCE - abs(d.lag)) for d in diagonals)
    return DiagonalPiece(diagonals, relation, attended=count, computed=count)


def _diagonal(lag: int, rows: isl.Set) -> Diagonal:
    context = read_set("[n, m, offset] -> { : n >= 1 and m >= 1 and offset >= 0 }")
    try:
        match loops(rows, context):
            case [only] if only.step == 1 and only.guard is None and only.inside is None:
                return Diagonal(lag, only.first, only.last)
    except NoLoop:
        pass
    keep = _attended(rows, "r", "n")
    return Diagonal(lag, 0, Sub(Var("n"), 1), keep if keep is not None else Truth(True))


def _attended(points: isl.Set, name: str, length: str) -> Pred | None:
    """The condition on an index that it is in `points`; None when every one is."""
    everything = read_set(f"[n, m, offset] -> {{ [x] : 0 <= x < {length} and n >= 1 and m >= 1 and offset >= 0 }}")
    if everything.is_subset(points):
        return None
    last = points.dim(isl.dim_type.param)
    lifted = points.gist(everything).move_dims(isl.dim_type.param, last, isl.dim_type.set, 0, 1)
    lifted = lifted.set_dim_name(isl.dim_type.param, last, name)
    context = read_set(
        f"[n, m, offset, {name}] -> {{ : 0 <= {name} < {length} and n >= 1 and m >= 1 and offset >= 0 }}"
    )
    return condition(lifted, context)
