"""From a term to a plan: `lower` reads as the table of contents of the compiler.

term -> relation -> disjoint parts -> a layout for each -> pieces with masks, tiles and loops -> plan
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

import islpy as isl

from pidsl.codegen.choice.boxes import Product
from pidsl.codegen.choice.choose import choose_layouts
from pidsl.codegen.choice.chosen import chosen_piece
from pidsl.codegen.choice.cost import REFERENCE, Backend, Sizes, backend_of
from pidsl.codegen.choice.envelope import Envelope, envelope, envelope_piece, on_grids
from pidsl.codegen.choice.grid_axes import axes_of
from pidsl.codegen.choice.lists import list_piece, separate
from pidsl.codegen.choice.packing import packed_pieces, packings
from pidsl.codegen.choice.parts import MAX_PARTS, part, parts, reference, union_of
from pidsl.codegen.choice.pieces import MAX_PIECES, attended, masked_piece, pieces
from pidsl.codegen.choice.targets import DEFAULT, kind
from pidsl.codegen.plan.nodes import Piece, Plan
from pidsl.codegen.plan.walks import Lags, Layout
from pidsl.codegen.tiling.coordinates import coordinates
from pidsl.errors import TooHardError
from pidsl.language.chosen import forced, selection
from pidsl.language.expr import Compare, Var
from pidsl.language.terms import Halo, Neighborhood, Term, Union, require_concrete
from pidsl.relation.build import needs_square, rows_relation
from pidsl.relation.frame import HOME, Frame, frame_of
from pidsl.relation.isl import limited

OPERATIONS = 10_000_000  # about five seconds; most terms need a hundredth
ATTENDED = 3_000_000  # of them, on which rows and keys are attended: without an answer, tiles ask their masks


def planned(
    term: Term, backend: str = "triton", head_dim: int = 64, size: Sizes | None = None, frame: Frame = HOME,
    target: str = DEFAULT, itemsize: int = 2,
) -> Plan:  # fmt: skip
    """The plan of a concrete term, made now; `lower` remembers it.

    Args:
        term: a term without unbound symbols.
        backend: one of `BACKENDS`: whose prices and tile sizes to plan with.
        head_dim: elements of a row of q, k and v.
        size: (rows, keys) of the tiles of each pass; None: the cheapest.
        frame: MOVED for keys that start at a position `key_offset`.
        target: for Triton, the GPU: "cuda:<compute capability>" or "hip:<architecture>".
        itemsize: bytes per element.

    Raises:
        SymbolError: an unbound symbol.
        TooHardError: isl cannot compute the relation of the term within its limit.
    """
    require_concrete(term, "compile the pattern")
    whose = backend_of(backend, kind(target, head_dim, itemsize))
    if (lists := selection(term)) is not None:
        other = lower(forced(term), backend, head_dim, size, frame, target, itemsize)
        return replace(other, term=term, pieces=(*other.pieces, chosen_piece(term, lists, whose, frame)))
    if (listed := separate(term)) is not None:
        other = lower(listed.other, backend, head_dim, size, frame, target, itemsize)
        return _with_list(term, list_piece(listed, whose, frame), other)
    if size is not None:
        whose = whose.in_tiles(size)
    relation = rows_relation(term, frame)
    square = needs_square(term)
    try:
        with limited(f"the plan of {term!r}", OPERATIONS):
            own = envelope(term) if on_grids(term) else None
            if own is not None:
                return _on_grids(term, whose, own, relation)
            found = parts(relation)
            length = reference(found)
            rows, others = packings(found, square) if len(found) > MAX_PIECES else ([], found)
            if len(others) > MAX_PARTS:  # no packing: one mask over all of them
                others = [part(union_of(others))]
            choices, rejected = choose_layouts(others, whose, square, length)
            packed = (x for row in rows for x in packed_pieces(row, whose, length))
            plan = _plan(term, backend, (*packed, *pieces(choices, whose, square, length)), relation)
            return replace(plan, rejected=tuple(rejected), reference=length)
    except TooHardError:
        with limited(f"the mask of {term!r}", OPERATIONS):
            everything = masked_piece(relation, coordinates(Layout(frame=frame), square), whose)
            notes = ("isl's limit struck while planning: every tile is computed, with a mask",)
            return replace(_plan(term, backend, (everything,), relation), notes=notes)


lower = lru_cache(maxsize=512)(planned)


def _with_list(term: Term, piece: Piece, plan: Plan) -> Plan:
    """The plan of all other pairs, and the list."""
    plan = replace(plan, term=term, pieces=(*plan.pieces, piece))
    if plan.attended_keys is None and plan.attended_rows is None:
        return plan
    return replace(plan, attended_keys=None, attended_rows=None, attended_exact=False)  # the list may attend more


def _on_grids(term: Term, backend: Backend, own: Envelope, relation: isl.Map) -> Plan:
    """A piece for every term of a union, less those before it: grids first, in boxes.

    Which tokens of a part of a grid take part is a long condition: what is on the grid is told instead.
    """
    frame = frame_of(relation)
    keys = None if own.keys is None else Compare("<", frame.key_at(Var("j")), own.keys)
    rows = None if own.queries is None else Compare("<", Var("r") + Var("offset"), own.queries)
    at = coordinates(Layout(frame=frame), needs_square(term))
    found: list[Piece] = []
    notes: tuple[str, ...] = ()
    done: Term | None = None
    for word in sorted(_union(term), key=lambda x: not isinstance(x, Neighborhood | Halo)):
        rest = word if done is None else word - done
        done = word if done is None else done | word
        if rest == word and isinstance(word, Neighborhood | Halo):
            found.append(Product(axes_of(word, split=True), backend).piece(rows_relation(word, frame)))
            continue
        within = envelope(rest)
        assert within is not None, rest  # as the whole has one
        found.append(envelope_piece(within, rows_relation(rest, frame), at, backend))
        notes = ("parts that are no boxes of a grid have one mask each, within bounds read off the term",)
    plan = Plan(term, backend.name, tuple(found), keys, rows, relation, reference=REFERENCE, frame=frame)
    return replace(plan, notes=notes, attended_exact=False)


def _union(term: Term) -> Iterator[Term]:
    """The terms of a union."""
    if isinstance(term, Union):
        yield from _union(term.left)
        yield from _union(term.right)
    else:
        yield term


def _plan(term: Term, backend: str, found: tuple[Piece, ...], relation: isl.Map) -> Plan:
    # diagonals load only the keys they attend, so they never need unattended keys blanked
    tiled = not all(isinstance(piece.forward, Lags) for piece in found)
    square, frame = needs_square(term), frame_of(relation)
    keys = rows = None
    exact = True
    try:
        with limited(f"what is attended in {term!r}", ATTENDED):
            keys = attended(relation.range(), "j", "m", frame, square=square) if tiled else None
            rows = attended(relation.domain(), "r", "n", frame, square=square)
    except TooHardError:
        exact = False
    plan = Plan(term, backend, found, keys, rows, relation, reference=REFERENCE, frame=frame)
    return replace(plan, attended_exact=exact)
