"""A plan as a person reads it: each piece with its layout, its tiles, its loops, and what was rejected."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from pidsl.codegen.plan import BoxSweep, DiagonalPiece, GridPiece, ListPiece, Plan, Sweep, TilePiece
from pidsl.language.expr import show, show_pred

MAX_REJECTED = 6  # alternatives printed; all of them are in `plan.rejected`


def describe(plan: Plan) -> str:
    """The text that `print(plan)` shows."""
    return "\n".join(_lines(plan))


def _lines(plan: Plan) -> Iterator[str]:
    yield f"plan of {plan.term!r} for {plan.backend}"
    if plan.score is not None:
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
            yield f"    mask: {show_pred(piece.keep)}"
        elif isinstance(piece, GridPiece):
            yield from _boxes(k, piece, plan.reference)
        else:
            yield from _tiles(k, piece, plan.reference)
    if plan.attended_keys is not None:
        yield f"  keys some query attends: {show_pred(plan.attended_keys)}"
    for other in plan.rejected[:MAX_REJECTED]:
        yield f"  rejected: {other.what} ({other.cost:.1f}x the cost)"
    if len(plan.rejected) > MAX_REJECTED:
        yield f"  and {len(plan.rejected) - MAX_REJECTED} more rejected alternatives"


def _tiles(k: int, piece: TilePiece, reference: int) -> Iterator[str]:
    forward = piece.forward
    width = "exact key ranges" if forward.cols == 1 else f"{forward.cols} keys"
    yield f"  piece {k}: {piece.layout}"
    yield f"    tiles of {forward.rows} rows x {width}"
    if piece.attended:
        ratio = piece.computed / piece.attended
        counts = f"computed {piece.computed:,} / attended {piece.attended:,} = {ratio:.2f}"
        yield f"    at n = {reference}: {counts} pairs"
    yield f"    mask: {show_pred(piece.keep)}"
    yield from _sweep(forward, "row tile t, keys")
    if forward.cols > 1:
        yield from _sweep(piece.grad_key, f"backward, key tile t ({piece.grad_key.cols} keys), rows")


def _boxes(k: int, piece: GridPiece, reference: int) -> Iterator[str]:
    forward = piece.forward
    own = " x ".join(map(str, forward.own))
    width = "exact key ranges" if prod(forward.swept) == 1 else f"{' x '.join(map(str, forward.swept))} keys"
    yield f"  piece {k}: {piece.layout}"
    yield f"    boxes of {own} queries x {width}"
    length = piece.layout.tokens or reference
    ratio = piece.computed / max(1, piece.attended)
    yield f"    at n = {length}: computed {piece.computed:,} / attended {piece.attended:,} = {ratio:.2f} pairs"
    for axis, keep in enumerate(piece.keep):
        yield f"    mask of axis {axis}: {show_pred(keep)}"
        yield f"      {_range(forward, axis, 'keys')}"
        if prod(forward.swept) > 1:
            yield f"      backward, {_range(piece.grad_key, axis, 'queries')}"


def _range(sweep: BoxSweep, axis: int, what: str) -> str:
    last = sweep.last[axis]
    return f"box t, {what}: {show(sweep.first[axis])} .. {'the end' if last is None else show(last)}"


def _sweep(sweep: Sweep, title: str) -> Iterator[str]:
    yield f"    {title}:"
    for run in sweep.runs:
        yield f"      {run}"


def _diagonals(k: int, piece: DiagonalPiece) -> Iterator[str]:
    yield f"  piece {k}: {len(piece.diagonals)} diagonals, elementwise: {piece.attended:,} pairs"
    for x in piece.diagonals:
        extra = f" if {show_pred(x.keep)}" if x.keep is not None else ""
        yield f"    lag {x.lag}: rows {show(x.first)} .. {show(x.last)}{extra}"
