"""Pieces from the term itself: its own predicate as mask, and around the keys of every query an envelope.

A neighbourhood in a grid has windows that are dense on every axis, but not in positions: between two rows of its
window lie keys that it does not attend. isl cuts such a relation into dozens of parts, and their masks are long. The
term knows better: a pair is attended when each axis says so, and the window of the outermost axis bounds the keys.

    neighborhood((64, 64), 7):   keys 64 * first(y) .. 64 * last(y) + 63 of query y = i // 64, by
                                 first(y) = max(min(y - 3, 57), 0)      last(y) = min(max(y + 3, 6), 63)

The bounds never fall from one query to the next, so those of a tile are the first query's first key and the last
one's last; likewise the queries of a key. They need not be tight: `codegen.check` proves that no pair lies outside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from pidsl.codegen.choice.cost import NEVER, REFERENCE, Backend, Shape, best_tiles
from pidsl.codegen.choice.grid_axes import Ends, GridAxis, Met, axes_of
from pidsl.codegen.plan.nodes import Piece
from pidsl.codegen.plan.walks import Over, Run, Runs
from pidsl.codegen.tiling.coordinates import Coordinates, Tiles
from pidsl.language import terms
from pidsl.language.algebra import div, greatest, mod, plus, smallest, times
from pidsl.language.expr import And, Compare, Index, Not, Or, Pred, Truth, Var, evaluate, fold, holds, substitute_pred

I, J = Var("i"), Var("j")
SAMPLE = 1 << 21  # pairs looked at to count the attended ones


def anywhere(near: Index, far: Index) -> Ends:
    """No bounds."""
    return None, None


@dataclass(frozen=True, slots=True)
class Envelope:
    """A predicate over i and j, and between which ends lies what neighbouring positions attend and are attended by."""

    keep: Pred
    attends: Met = anywhere
    attended_by: Met = anywhere
    queries: int | None = None  # positions from here on attend nothing
    keys: int | None = None  # and are attended by nobody
    dense: bool = False  # nearly all pairs between the ends are attended


def on_grids(term: terms.Term) -> bool:
    """Whether a term speaks of a grid with more than one axis."""
    return any(
        isinstance(t, terms.Neighborhood | terms.Halo) and sum(x > 1 for x in t.shape) > 1 for t in terms.walk(term)
    )


def envelope(term: terms.Term) -> Envelope | None:
    """The envelope of a term without symbols; None for words that have none."""
    match term:
        case terms.Full():
            return Envelope(Truth(True))
        case terms.Empty():
            return Envelope(Truth(False), queries=0, keys=0)
        case terms.Causal():
            return Envelope(Compare(">=", I, J), lambda near, far: (None, far), lambda near, far: (near, None))
        case terms.Window(int(left), int(right)):
            keep = And(Compare("<=", I, plus(J, left)), Compare("<=", J, plus(I, right)))
            return Envelope(
                keep,
                lambda near, far: (plus(near, -left), plus(far, right)),
                lambda near, far: (plus(near, -right), plus(far, left)),
            )
        case terms.Keys(int(start), int(stop), 1) if start >= 0 and stop >= 0:
            inside, last = And(Compare(">=", J, start), Compare("<", J, stop)), stop - 1
            return Envelope(inside, lambda near, far: (start, last), keys=stop)
        case terms.Keys(int(start), None, 1) if start >= 0:
            return Envelope(Compare(">=", J, start), lambda near, far: (start, None))
        case terms.Queries(start, stop, step):
            return envelope(terms.Transpose(terms.Keys(start, stop, step)))
        case terms.Neighborhood() | terms.Halo():
            return _on_grid(term)
        case terms.Union(a, b):
            return _joined(envelope(a), envelope(b), wide=True)
        case terms.Intersection(a, b):
            return _joined(envelope(a), envelope(b), wide=False)
        case terms.Difference(a, b):
            kept, cut = envelope(a), envelope(b)
            return kept and cut and replace(kept, keep=And(kept.keep, Not(cut.keep)))
        case terms.Transpose(a):
            found = envelope(a)
            if found is None:
                return None
            turned = substitute_pred(found.keep, {"i": J, "j": I})
            return Envelope(turned, found.attended_by, found.attends, found.keys, found.queries)
        case _:
            return None


def _joined(a: Envelope | None, b: Envelope | None, *, wide: bool) -> Envelope | None:
    """The envelope of a union (`wide`) or of an intersection."""
    if a is None or b is None:
        return None
    low, high = (smallest, greatest) if wide else (greatest, smallest)

    def end(pick: Callable[[Sequence[Index]], Index], x: Index | None, y: Index | None) -> Any:
        if x is None or y is None:
            return None if wide else (y if x is None else x)
        return pick([x, y])

    def ends(x: Met, y: Met) -> Met:
        def met(near: Index, far: Index) -> Ends:
            (first, last), (other_first, other_last) = x(near, far), y(near, far)
            return end(low, first, other_first), end(high, last, other_last)

        return met

    return Envelope(
        (Or if wide else And)(a.keep, b.keep),
        ends(a.attends, b.attends),
        ends(a.attended_by, b.attended_by),
        end(high, a.queries, b.queries),
        end(high, a.keys, b.keys),
    )


def _on_grid(term: terms.Neighborhood | terms.Halo) -> Envelope:
    shape, axes = term.shape, axes_of(term)
    tokens = prod(shape)
    keep: Pred = And(Compare("<", I, tokens), Compare("<", J, tokens))
    for k, axis in enumerate(axes):
        inner = prod(shape[k + 1 :])
        if shape[k] > 1:
            query, key = (div(x, inner) if k == 0 else mod(div(x, inner), shape[k]) for x in (I, J))
            keep = fold(And(keep, axis.keep(query, key)))
    sides = [x.attends for x in axes], [x.attended_by for x in axes]
    attends, attended_by = (lambda near, far, side=side: _ends(axes, side, near, far) for side in sides)
    return Envelope(keep, attends, attended_by, tokens, tokens)


def _ends(axes: Sequence[GridAxis], sides: Sequence[Met], near: Index, far: Index) -> tuple[Index, Index]:
    """The ends in positions by the first axis that looks further than its own coordinate."""
    if not axes:
        return 0, 0
    axis, inner = axes[0], prod(x.length or 1 for x in axes[1:])
    a, b = div(near, inner), div(far, inner)
    if axis.own:
        first, last = _ends(axes[1:], sides[1:], mod(near, inner), mod(far, inner))
        return plus(times(a, inner), first), plus(times(b, inner), last)
    low, high = sides[0](a, b)
    assert low is not None and high is not None, axis  # the axes of words have bounds
    return times(low, inner), plus(times(high, inner), inner - 1)


def envelope_piece(found: Envelope, relation: Any, at: Coordinates, backend: Backend) -> Piece:
    """The whole relation in masked tiles within its envelope; layout: identity."""
    outline = _outline(found)
    rows, cols = best_tiles(outline, backend).size
    if backend.calls:  # no two tiles have the same mask
        rows = max(rows, backend.calls.alone)
    keep = substitute_pred(found.keep, {"i": Var("a") + Var("offset"), "j": at.layout.frame.key_at(Var("b"))})
    walks = backend.walks(rows, cols, outline, lambda over, height, width: _sweep(found, at, over, height, width))
    return Piece((fold(keep),), *walks, relation, reference=REFERENCE)


def _sweep(found: Envelope, at: Coordinates, over: Over, rows: int, cols: int) -> Runs:
    tiles = Tiles(at, over, rows, cols)
    met, end = (found.attends, found.queries) if over == "keys" else (found.attended_by, found.keys)
    zeros: tuple[Index, Index] = Var("offset"), at.layout.frame.key_at(0)  # the positions of row 0 and key 0
    own, visited = zeros if over == "keys" else zeros[::-1]
    near = plus(times(Var("t"), tiles.owned), own)
    ends = met(near, plus(near, tiles.owned - 1))
    first, last = (None if x is None else div(x - visited, tiles.visited) for x in ends)
    low = 0 if first is None else greatest([0, first])
    high = tiles.last if last is None else smallest([tiles.last, last])
    guard = None if end is None else Compare("<", near, end)
    return tiles.walk([Run(False, low, high, 1, guard)])


def _outline(found: Envelope) -> Shape:
    """The intervals at the reference length; attended pairs are counted in as many rows as the sample allows."""
    count = REFERENCE if found.queries is None else min(REFERENCE, found.queries)
    i = np.arange(REFERENCE)
    low, high = found.attends(I, I)
    first = np.maximum(0 if low is None else evaluate(low, {"i": i}), 0 * i)
    last = np.minimum(REFERENCE - 1 if high is None else evaluate(high, {"i": i}), REFERENCE - 1 + 0 * i)
    inside = (i < count) & (first <= last)
    spread = int((last - first)[inside].sum())
    ends = np.where(inside, first, NEVER)[None], np.where(inside, last, -1)[None]
    rows = np.flatnonzero(inside)
    if found.dense:
        return Shape((ends,), spread + len(rows), spread, 1.0)
    rows = rows[:: max(1, -(-spread // SAMPLE))]
    each = [int(np.sum(holds(found.keep, {"i": int(r), "j": np.arange(first[r], last[r] + 1)}))) for r in rows[:4096]]
    share = inside.sum() / max(1, len(each))
    return Shape((ends,), int(sum(each) * share), spread, 1.0)
