"""From a term to a plan: `lower` reads as the table of contents of the compiler.

    term -> relation -> parts -> layout per part -> pieces (parts that share a layout) -> tiles and loops -> plan
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import islpy as isl

from pidsl.codegen.choose import Group, choose_layouts
from pidsl.codegen.coordinates import coordinates
from pidsl.codegen.cost import PRICES, REFERENCE, Prices
from pidsl.codegen.parts import parts
from pidsl.codegen.pieces import attended, diagonal_piece, masked_piece, tile_piece, union, with_counts
from pidsl.codegen.plan import Alternative, Layout, Piece, Plan, TilePiece
from pidsl.errors import TooHardError
from pidsl.language.terms import Term, require_concrete
from pidsl.relation.build import needs_square, rows_relation
from pidsl.relation.isl import limited

OPERATIONS = 10_000_000  # about five seconds; most terms need a hundredth


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
    try:
        with limited(f"the plan of {term!r}", OPERATIONS):
            groups, rejected = choose_layouts(parts(relation), prices, square)
            pieces = tuple(_piece(group, prices, backend, square) for group in groups)
            return _plan(term, backend, pieces, relation, rejected)
    except TooHardError:
        with limited(f"the mask of {term!r}", OPERATIONS):
            pieces = (masked_piece(relation, coordinates(Layout(), square), prices),)
            plan = _plan(term, backend, pieces, relation, [])
            return replace(plan, notes=("isl's limit struck while planning: every tile is computed, with a mask",))


def _prices(backend: str, head_dim: int) -> Prices:
    prices = PRICES[backend]
    return prices if head_dim <= 128 else replace(prices, sizes=prices.large_head_sizes)


def _piece(group: Group, prices: Prices, backend: str, square: bool) -> Piece:
    layout, members = group
    if layout is None:
        return with_counts(diagonal_piece(members), members, coordinates(Layout(), square))
    return tile_piece(union(members), coordinates(layout, square), prices, backend)


def _plan(
    term: Term, backend: str, pieces: tuple[Piece, ...], relation: isl.Map, rejected: list[Alternative]
) -> Plan:
    # diagonals load only the keys they attend, so they never need unattended keys blanked
    tiled = any(isinstance(piece, TilePiece) for piece in pieces)
    return Plan(
        term=term,
        backend=backend,
        pieces=pieces,
        attended_keys=attended(relation.range(), "j", "m") if tiled else None,
        attended_rows=attended(relation.domain(), "r", "n"),
        relation=relation,
        rejected=tuple(rejected),
        reference=REFERENCE,
    )
