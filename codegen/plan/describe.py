"""A plan as a person reads it: each piece with its layout, its tiles, its loops, and what was rejected."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pidsl.codegen.plan.walks import Boxes, Lags, Listed, Runs, Selected
from pidsl.language.expr import show, show_pred
from pidsl.language.score import PLAIN

if TYPE_CHECKING:
    from pidsl.codegen.plan.nodes import Piece, Plan

MAX_REJECTED = 6  # alternatives printed; all of them are in `plan.rejected`


def describe(plan: Plan) -> str:
    """The text that `print(plan)` shows."""
    return "\n".join(_lines(plan))


def _lines(plan: Plan) -> Iterator[str]:
    yield f"plan of {plan.term!r} for {plan.backend}" + (", keys from key_offset on" if plan.frame.moved else "")
    if plan.score != PLAIN:
        yield f"  logits: {plan.score!r}"
    for note in plan.notes:
        yield f"  note: {note}"
    if not plan.pieces and plan.backend != "reference":
        yield "  nothing to compute: no query attends any key"
    for k, piece in enumerate(plan.pieces):
        title, *more = _piece(piece)
        yield f"  piece {k}: {title}"
        yield from (f"    {line}" for line in more)
    if plan.attended_keys is not None:
        yield f"  keys some query attends: {show_pred(plan.attended_keys)}"
    for other in plan.rejected[:MAX_REJECTED]:
        yield f"  rejected: {other.what} ({other.cost:.1f}x the cost)"
    if len(plan.rejected) > MAX_REJECTED:
        yield f"  and {len(plan.rejected) - MAX_REJECTED} more rejected alternatives"


def _piece(piece: Piece) -> Iterator[str]:
    match piece.forward:
        case Runs(rows=rows, cols=cols):
            yield str(piece.layout)
            yield f"tiles of {rows} rows x {'exact key ranges' if cols == 1 else f'{cols} keys'}"
            yield _pairs(piece)
            yield f"mask: {show_pred(piece.keep[0])}"
            yield from _runs(piece.forward, "row tile t, keys")
            if isinstance(back := piece.grad_key, Runs):
                yield from _runs(back, f"backward, key tile t ({back.cols} keys), rows")
        case Boxes(own=own) as walk:
            width = "exact key ranges" if walk.visited == 1 else f"{' x '.join(map(str, walk.swept))} keys"
            yield str(piece.layout)
            yield f"boxes of {' x '.join(map(str, own))} queries x {width}"
            yield _pairs(piece)
            for axis, keep in enumerate(piece.keep):
                yield f"mask of axis {axis}: {show_pred(keep)}"
                yield f"  {_range(walk, axis, 'keys')}"
                if isinstance(back := piece.grad_key, Boxes):
                    yield f"  backward, {_range(back, axis, 'queries')}"
        case Listed(rows=rows, cols=cols):
            yield f"{piece.layout}, in tiles of {rows} rows x {cols} keys"
            yield _pairs(piece)
            yield f"mask: {show_pred(piece.keep[0])}"
        case Selected(rows=rows, cols=cols, layout=layout):
            yield f"{layout}, in tiles of {rows} rows x {cols} keys"
            yield f"at n = {piece.reference}: computed at most {piece.computed:,} pairs"
            yield f"mask: {show_pred(piece.keep[0])}"
            yield f"no mask for block x of queries and block y of keys if {show_pred(layout.full)}"
        case Lags(lags=lags):
            yield f"{len(lags)} diagonals, elementwise"
            yield _pairs(piece)
            for x in lags:
                extra = f" if {show_pred(x.keep)}" if x.keep is not None else ""
                yield f"lag {x.lag}: rows {show(x.first)} .. {show(x.last)}{extra}"


def _pairs(piece: Piece) -> str:
    """What a piece computes and, where it can be counted, what it attends."""
    text, attended = f"at n = {piece.reference}: computed {piece.computed:,}", piece.attended
    if attended is None:
        return f"{text} pairs"
    ratio = f" = {piece.computed / attended:.2f}" if attended else ""
    return f"{text} / attended {attended:,}{ratio} pairs"


def _range(walk: Boxes, axis: int, what: str) -> str:
    last = walk.last[axis]
    return f"box t, {what}: {show(walk.first[axis])} .. {'the end' if last is None else show(last)}"


def _runs(walk: Runs, title: str) -> Iterator[str]:
    yield f"{title}:"
    yield from (f"  {run}" for run in walk.runs)
