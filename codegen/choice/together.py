"""Patterns of several groups of query heads in one plan, so that one launch serves all heads.

    window(63) for heads 0-5, window(255) for heads 6-7

    ->  the pieces of both; the loops of the first run where q_head <= 5, those of the second where q_head >= 6

`q_head` is a variable of the plan like the tile. A program of dK and dV serves all query heads of a key head: a key
counts as attended there when one of the heads `first_head .. last_head` attends it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from typing import get_args

from pidsl.codegen.choice.cost import CLOSE, PRICES
from pidsl.codegen.emit_triton.expr import settled
from pidsl.codegen.plan.nodes import Diagonal, DiagonalPiece, Piece, Plan, Sweep, TilePiece
from pidsl.codegen.plan.stages import Pass, stages
from pidsl.language.expr import And, Compare, Or, Pred, Truth, Var
from pidsl.language.heads import Heads
from pidsl.language.terms import Term
from pidsl.relation.build import rows_relation

Size = tuple[int, int]  # (rows, keys) of a tile


def together(heads: Heads, lowered: Callable[[Term, Size | None], Plan]) -> Plan | None:
    """One plan for all heads, where their layouts agree and tiles of one size cost about the same; None elsewhere.

    Args:
        heads: the pattern of each query head.
        lowered: the Triton plan of a pattern in tiles of a size, None for the cheapest.
    """
    own = {term: lowered(term, None) for term in heads.distinct}
    sizes = {(x.forward.rows, x.forward.cols) for plan in own.values() for x in plan.tiles}
    found = []
    for size in sorted(sizes):
        plans = {term: lowered(term, size) for term in heads.distinct}
        if (plan := _joined(heads, plans)) is not None:
            found.append((_cost(heads, plans), size, plan))
    if not found:
        return None
    cost, _, plan = min(found, key=lambda x: x[:2])
    return plan if cost <= CLOSE * _cost(heads, own) else None


def _cost(heads: Heads, plans: Mapping[Term, Plan]) -> float:
    """Of the pairs in tiles, at the length at which plans are compared."""
    price = PRICES["triton"].pair_cost
    return sum(
        len(mine) * x.computed * price(x.forward.rows)
        for term, mine in heads.distinct.items()
        for x in plans[term].tiles
    )


def _joined(heads: Heads, plans: Mapping[Term, Plan]) -> Plan | None:
    """The pieces of all patterns, where they take no more launches than the pattern with the most."""
    pieces: list[Piece] = []
    for term, mine in heads.distinct.items():
        for piece in plans[term].pieces:
            if not isinstance(piece, TilePiece | DiagonalPiece):
                return None  # boxes and lists have kernels of their own
            pieces.append(_only(piece, of_heads(mine, len(heads))))
    first = next(iter(plans.values()))
    whole = Plan(
        term=heads,
        backend=first.backend,
        pieces=tuple(pieces),
        attended_keys=_each(heads, {term: plan.attended_keys for term, plan in plans.items()}),
        attended_rows=_each(heads, {term: plan.attended_rows for term, plan in plans.items()}),
        relation=None,
        notes=tuple(dict.fromkeys(note for plan in plans.values() for note in plan.notes)),
        attended_exact=all(plan.attended_exact for plan in plans.values()),
        reference=first.reference,
        frame=first.frame,
    )
    for task in get_args(Pass):
        if len(stages(whole, task)) > max(len(stages(plan, task)) for plan in plans.values()):
            return None  # their layouts differ
    return whole


def of_heads(mine: Sequence[int], count: int) -> Pred:
    """Whether the query head is one of `mine`, of so many heads.

    >>> from pidsl.language.expr import show_pred
    >>> show_pred(of_heads([0, 1, 4, 6, 7], 9))
    '(q_head <= 1) | (q_head == 4) | (q_head >= 6) & (q_head <= 7)'
    """
    spans: list[tuple[int, int]] = []
    for head in sorted(mine):
        if spans and head == spans[-1][1] + 1:
            spans[-1] = spans[-1][0], head
        else:
            spans.append((head, head))
    return _any([_between(a, b, count) for a, b in spans])


def _between(first: int, last: int, count: int) -> Pred:
    head = Var("q_head")
    if first == last:
        return Compare("==", head, first)
    if first == 0:
        return Compare("<=", head, last)
    after = Compare(">=", head, first)
    return after if last == count - 1 else And(after, Compare("<=", head, last))


def _any(tests: Sequence[Pred]) -> Pred:
    return reduce(lambda x, y: Or(x, y), tests)


def _each(heads: Heads, preds: Mapping[Term, Pred | None]) -> Pred | None:
    """The predicate of each head's pattern, None where all are."""
    if all(pred is None for pred in preds.values()):
        return None
    own = {term: Truth(True) if pred is None else pred for term, pred in preds.items()}
    return _any([And(of_heads(mine, len(heads)), own[term]) for term, mine in heads.distinct.items()])


def of_group(pred: Pred) -> Pred:
    """A predicate of `q_head` for a group of them: whether it holds of one from `first_head` to `last_head`.

    `(q_head >= 3) & (q_head <= 5) & x -> (last_head >= 3) & (first_head <= 5) & x`
    """
    match pred:
        case Compare("==", Var("q_head"), head):
            return And(Compare(">=", Var("last_head"), head), Compare("<=", Var("first_head"), head))
        case Compare(">=", Var("q_head"), head):
            return Compare(">=", Var("last_head"), head)
        case Compare("<=", Var("q_head"), head):
            return Compare("<=", Var("first_head"), head)
        case And(x, y):
            return And(of_group(x), of_group(y))
        case Or(x, y):
            return Or(of_group(x), of_group(y))
        case _:
            return pred


def share(plan: Plan, head: int) -> Plan:
    """The plan of one query head: its pieces, with the tests of the head decided."""
    assert isinstance(plan.term, Heads)
    at = {"q_head": head}

    def decided(pred: Pred | None) -> Pred | None:
        found = Truth(True) if pred is None else settled(pred, at)
        return None if found == Truth(True) else found

    def swept(sweep: Sweep) -> Sweep:
        runs = (replace(x, guard=decided(x.guard)) for x in sweep.runs)
        return replace(sweep, runs=tuple(x for x in runs if x.guard != Truth(False)))

    pieces: list[Piece] = []
    for piece in plan.pieces:
        if isinstance(piece, DiagonalPiece):
            lags = (replace(x, keep=decided(x.keep)) for x in piece.diagonals)
            kept = tuple(x for x in lags if x.keep != Truth(False))
            pieces += [replace(piece, diagonals=kept)] if kept else []
        elif isinstance(piece, TilePiece):
            passes = swept(piece.forward), swept(piece.grad_query), swept(piece.grad_key)
            if any(x.runs for x in passes):
                pieces.append(replace(piece, forward=passes[0], grad_query=passes[1], grad_key=passes[2]))
    term = plan.term[head]
    keys, rows = decided(plan.attended_keys), decided(plan.attended_rows)
    relation = rows_relation(term, plan.frame)
    return replace(
        plan, term=term, pieces=tuple(pieces), attended_keys=keys, attended_rows=rows, relation=relation
    )  # fmt: skip


def _only(piece: TilePiece | DiagonalPiece, heads: Pred) -> Piece:
    """A piece that some heads have."""
    if isinstance(piece, DiagonalPiece):
        return replace(piece, diagonals=tuple(_lag_only(x, heads) for x in piece.diagonals))
    return replace(
        piece,
        forward=_sweep_only(piece.forward, heads),
        grad_query=_sweep_only(piece.grad_query, heads),
        grad_key=_sweep_only(piece.grad_key, heads),
    )


def _lag_only(x: Diagonal, heads: Pred) -> Diagonal:
    return replace(x, keep=heads if x.keep is None else And(heads, x.keep))


def _sweep_only(sweep: Sweep, heads: Pred) -> Sweep:
    runs = (replace(x, guard=heads if x.guard is None else And(heads, x.guard)) for x in sweep.runs)
    return replace(sweep, runs=tuple(runs))
