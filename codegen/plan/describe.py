"""A plan as a person reads it: each piece with its layout, its tiles, its loops, and what was rejected."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from pidsl.codegen.plan.nodes import BoxSweep, DiagonalPiece, GridPiece, ListPiece, Piece, Plan, Sweep, TilePiece
from pidsl.language.expr import show, show_pred
from pidsl.language.score import PLAIN

MAX_REJECTED = 6  # alternatives printed; all of them are in `plan.rejected`


def describe(plan: Plan) -> str:
    """The text that `print(plan)` shows."""
    return "\n".join(_lines(plan))


def _lines(plan: Plan) -> Iterator[str]:
    yield f"plan of {plan.term!r} for {plan.backend}"
    if plan.score != PLAIN:
        yield f"  logits: {plan.score!r}"
    for note in plan.notes:
        yield f"  note: {note}"
    if not plan.pieces and plan.backend != "reference":
        yield "  nothing to compute: no query attends any key"
    for k, piece in enumerate(plan.pieces):
        if isinstance(piece, DiagonalPiece):
            yield from _diagonals(k, piece)
        elif isinstance(piece, ListPiece):
            yield f"  piece {k}: {piece.layout}, in tiles of {piece.rows} rows x {piece.cols} keys"
            yield f"    {_pairs(piece)}"
            yield f"    mask: {show_pred(piece.keep)}"
        elif isinstance(piece, GridPiece):
            yield from _boxes(k, piece)
        else:
            yield from _tiles(k, piece)
    if plan.attended_keys is not None:
        yield f"  keys some query attends: {show_pred(plan.attended_keys)}"
    for other in plan.rejected[:MAX_REJECTED]:
        yield f"  rejected: {other.what} ({other.cost:.1f}x the cost)"
    if len(plan.rejected) > MAX_REJECTED:
        yield f"  and {len(plan.rejected) - MAX_REJECTED} more rejected alternatives"


def _tiles(k: int, piece: TilePiece) -> Iterator[str]:
    forward = piece.forward
    width = "exact key ranges" if forward.cols == 1 else f"{forward.cols} keys"
    yield f"  piece {k}: {piece.layout}"
    yield f"    tiles of {forward.rows} rows x {width}"
    yield f"    {_pairs(piece)}"
    yield f"    mask: {show_pred(piece.keep)}"
    yield from _sweep(forward, "row tile t, keys")
    if forward.cols > 1:
        yield from _sweep(piece.grad_key, f"backward, key tile t ({piece.grad_key.cols} keys), rows")


def _boxes(k: int, piece: GridPiece) -> Iterator[str]:
    forward = piece.forward
    own = " x ".join(map(str, forward.own))
    width = "exact key ranges" if prod(forward.swept) == 1 else f"{' x '.join(map(str, forward.swept))} keys"
    yield f"  piece {k}: {piece.layout}"
    yield f"    boxes of {own} queries x {width}"
    yield f"    {_pairs(piece)}"
    for axis, keep in enumerate(piece.keep):
        yield f"    mask of axis {axis}: {show_pred(keep)}"
        yield f"      {_range(forward, axis, 'keys')}"
        if prod(forward.swept) > 1:
            yield f"      backward, {_range(piece.grad_key, axis, 'queries')}"


def _pairs(piece: Piece) -> str:
    """What a piece computes and, where it can be counted, what it attends."""
    text, attended = f"at n = {piece.reference}: computed {piece.computed:,}", piece.attended
    if attended is None:
        return f"{text} pairs"
    ratio = f" = {piece.computed / attended:.2f}" if attended else ""
    return f"{text} / attended {attended:,}{ratio} pairs"


def _range(sweep: BoxSweep, axis: int, what: str) -> str:
    last = sweep.last[axis]
    return f"box t, {what}: {show(sweep.first[axis])} .. {'the end' if last is None else show(last)}"


def _sweep(sweep: Sweep, title: str) -> Iterator[str]:
    yield f"    {title}:"
    for run in sweep.runs:
        yield f"      {run}"


def _diagonals(k: int, piece: DiagonalPiece) -> Iterator[str]:
    yield f"  piece {k}: {len(piece.diagonals)} diagonals, elementwise"
    yield f"    {_pairs(piece)}"
    for x in piece.diagonals:
        extra = f" if {show_pred(x.keep)}" if x.keep is not None else ""
        yield f"    lag {x.lag}: rows {show(x.first)} .. {show(x.last)}{extra}"
