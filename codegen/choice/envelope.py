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

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from pidsl.codegen.choice.cost import (
    GRAIN,
    NEVER,
    REFERENCE,
    Backend,
    Shape,
    best_tiles,
    grouped,
)
from pidsl.codegen.choice.grid_axes import GridAxis, axes_of
from pidsl.codegen.plan.nodes import Piece
from pidsl.codegen.plan.walks import Over, Run, Runs
from pidsl.codegen.tiling.coordinates import Coordinates, Tiles
from pidsl.language.algebra import div, greatest, mod, plus, smallest, times
from pidsl.language.expr import (
    Add,
    And,
    Compare,
    Index,
    Not,
    Or,
    Pred,
    Sub,
    Truth,
    Var,
    evaluate,
    fold,
    holds,
    simplify,
    substitute_pred,
)
from pidsl.language.terms import (
    Causal,
    Difference,
    Empty,
    Full,
    Halo,
    Intersection,
    Keys,
    Neighborhood,
    Queries,
    Term,
    Transpose,
    Union,
    Window,
    walk,
)  # fmt: skip

Bound = Callable[[Index], Index]  # of a position; never falls
I, J = Var("i"), Var("j")
SAMPLE = 1 << 21  # pairs looked at to count the attended ones


@dataclass(frozen=True, slots=True)
class Envelope:
    """A predicate over i and j, and bounds: None is no bound."""

    keep: Pred
    first_key: Bound | None = None
    last_key: Bound | None = None
    first_query: Bound | None = None
    last_query: Bound | None = None
    queries: int | None = None  # positions from here on attend nothing
    keys: int | None = None  # and are attended by nobody

    @property
    def transposed(self) -> Envelope:
        keep = substitute_pred(self.keep, {"i": Var("j"), "j": Var("i")})
        return Envelope(keep, self.first_query, self.last_query, self.first_key, self.last_key, self.keys, self.queries)


def on_grids(term: Term) -> bool:
    """Whether a term speaks of a grid with more than one axis."""
    return any(isinstance(t, Neighborhood | Halo) and sum(x > 1 for x in t.shape) > 1 for t in walk(term))


def envelope(term: Term) -> Envelope | None:
    """The envelope of a term without symbols; None for words that have none."""
    match term:
        case Full():
            return Envelope(Truth(True))
        case Empty():
            return Envelope(Truth(False), queries=0, keys=0)
        case Causal():
            return Envelope(Compare(">=", I, J), None, lambda i: i, lambda j: j, None)
        case Window(int(left), int(right)):
            keep = And(Compare("<=", I, plus(J, left)), Compare("<=", J, plus(I, right)))
            return Envelope(
                keep, lambda i: plus(i, -left), lambda i: plus(i, right),
                lambda j: plus(j, -right), lambda j: plus(j, left),
            )  # fmt: skip
        case Keys(int(start), int(stop), 1) if start >= 0 and stop >= 0:
            last = stop - 1
            inside = And(Compare(">=", J, start), Compare("<", J, stop))
            return Envelope(inside, lambda i: start, lambda i: last, keys=stop)
        case Keys(int(start), None, 1) if start >= 0:
            return Envelope(Compare(">=", J, start), lambda i: start)
        case Queries(start, stop, step):
            turned = envelope(Keys(start, stop, step))
            return None if turned is None else turned.transposed
        case Neighborhood() | Halo():
            return _on_grid(term)
        case Union(a, b):
            return _both(a, b, Or, smallest, greatest, wide=True)
        case Intersection(a, b):
            return _both(a, b, And, greatest, smallest, wide=False)
        case Difference(a, b):
            kept, cut = envelope(a), envelope(b)
            if kept is None or cut is None:
                return None
            return Envelope(
                And(kept.keep, Not(cut.keep)), kept.first_key, kept.last_key, kept.first_query, kept.last_query,
                kept.queries, kept.keys,
            )  # fmt: skip
        case Transpose(a):
            found = envelope(a)
            return None if found is None else found.transposed
        case _:
            return None


def _both(left: Term, right: Term, join: Any, low: Any, high: Any, *, wide: bool) -> Envelope | None:
    a, b = envelope(left), envelope(right)
    if a is None or b is None:
        return None

    def bound(pick: Any, x: Bound | None, y: Bound | None) -> Bound | None:
        if x is None or y is None:
            return None if wide else (x or y)
        return lambda position: pick([x(position), y(position)])

    def end(x: int | None, y: int | None) -> int | None:
        if x is None or y is None:
            return None if wide else (y if x is None else x)
        return max(x, y) if wide else min(x, y)

    return Envelope(
        join(a.keep, b.keep),
        bound(low, a.first_key, b.first_key), bound(high, a.last_key, b.last_key),
        bound(low, a.first_query, b.first_query), bound(high, a.last_query, b.last_query),
        end(a.queries, b.queries), end(a.keys, b.keys),
    )  # fmt: skip


def _on_grid(term: Neighborhood | Halo) -> Envelope:
    shape, axes = term.shape, axes_of(term)
    tokens = prod(shape)
    keep: Pred = And(Compare("<", I, tokens), Compare("<", J, tokens))
    for k, axis in enumerate(axes):
        inner = prod(shape[k + 1 :])
        if shape[k] > 1:
            query, key = (div(x, inner) if k == 0 else mod(div(x, inner), shape[k]) for x in (I, J))
            keep = fold(And(keep, axis.keep(query, key)))
    return Envelope(
        keep,
        lambda i: _end(axes, i, "first_key"), lambda i: _end(axes, i, "last_key"),
        lambda j: _end(axes, j, "first_query"), lambda j: _end(axes, j, "last_query"),
        tokens, tokens,
    )  # fmt: skip


def _end(axes: list[GridAxis], position: Index, side: str) -> Index:
    """The bound on positions by the first axis that looks further than its own coordinate."""
    if not axes:
        return 0
    axis, inner = axes[0], prod(x.length or 1 for x in axes[1:])
    own = div(position, inner)
    if axis.own:
        return plus(times(own, inner), _end(axes[1:], mod(position, inner), side))
    return plus(times(getattr(axis, side)(own, own), inner), inner - 1 if side.startswith("last") else 0)


def envelope_piece(
    found: Envelope, relation: Any, at: Coordinates, backend: Backend, *, dense: bool = False
) -> Piece:  # fmt: skip
    """The whole relation in masked tiles within its envelope; layout: identity.

    Args:
        found: the envelope, `dense` when the relation is about all of it.
        relation: the pairs.
        at: the identity.
        backend: whose tiles.
        dense: see `found`.
    """
    size = best_tiles(_outline(found, dense), backend.prices)
    rows, cols = size.rows, size.cols
    if backend.calls:  # no two tiles have the same mask
        rows = max(rows, backend.calls.alone)
    keep = substitute_pred(found.keep, {"i": Add(Var("a"), Var("offset")), "j": at.layout.frame.key_at(Var("b"))})
    return Piece(
        (fold(keep),),
        *backend.walks(rows, lambda over, height: _sweep(found, at, over, height, cols)),
        relation,
        reference=REFERENCE,
    )


def _sweep(found: Envelope, at: Coordinates, over: Over, rows: int, cols: int) -> Runs:
    t, offset, key_offset = Var("t"), Var("offset"), at.layout.frame.key_at(0)
    if over == "keys":
        own, size = plus(times(t, rows), offset), cols
        near, far, back = own, plus(own, rows - 1), key_offset
        first, last, end = found.first_key, found.last_key, found.queries
    else:
        own, size = plus(times(t, cols), key_offset), rows
        near, far, back = own, plus(own, cols - 1), offset  # rows are counted from the offset
        first, last, end = found.first_query, found.last_query, found.keys

    def tile(position: Index) -> Index:
        return div(simplify(Sub(position, back)), size)

    low: Index = 0 if first is None else greatest([0, tile(first(near))])
    tiles = Tiles(at, over, rows, cols)
    top = tiles.last
    high = top if last is None else smallest([top, tile(last(far))])
    guard = None if end is None else Compare("<", own, end)
    return tiles.walk([Run(False, low, high, 1, guard)])


def _outline(found: Envelope, dense: bool) -> Shape:
    """The intervals at the reference length; attended pairs are counted in as many rows as the sample allows."""
    count = REFERENCE if found.queries is None else min(REFERENCE, found.queries)
    i = np.arange(REFERENCE)

    def value(bound: Bound | None, default: int) -> Any:
        return np.full(REFERENCE, default) if bound is None else evaluate(bound(I), {"i": i}) + 0 * i

    first = np.maximum(value(found.first_key, 0), 0)
    last = np.minimum(value(found.last_key, REFERENCE - 1), REFERENCE - 1)
    inside = (i < count) & (first <= last)
    spread = int((last - first)[inside].sum())
    ends = np.where(inside, first, NEVER)[None], np.where(inside, last, -1)[None]
    rows = np.flatnonzero(inside)
    if dense:
        return Shape((ends,), (grouped(ends, GRAIN),), spread + len(rows), spread, 1.0)
    rows = rows[:: max(1, -(-spread // SAMPLE))]
    each = [int(np.sum(holds(found.keep, {"i": int(r), "j": np.arange(first[r], last[r] + 1)}))) for r in rows[:4096]]
    share = inside.sum() / max(1, len(each))
    return Shape((ends,), (grouped(ends, GRAIN),), int(sum(each) * share), spread, 1.0)
