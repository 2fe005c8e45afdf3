"""What plans say about query heads: tests of `q_head`, and the share of one head in a plan of several.

`q_head` is a variable of the plan like the tile. A program of dK and dV serves all query heads of a key head: a key
counts as attended there when one of the heads `first_head .. last_head` attends it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce

from pidsl.codegen.plan.nodes import DiagonalPiece, Piece, Plan, TilePiece
from pidsl.codegen.plan.walks import Sweep
from pidsl.language.algebra import settled
from pidsl.language.expr import And, Compare, Or, Pred, Truth, Var
from pidsl.language.heads import Heads
from pidsl.relation.build import rows_relation


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
    return reduce(Or, [_between(a, b, count) for a, b in spans])


def _between(first: int, last: int, count: int) -> Pred:
    head = Var("q_head")
    if first == last:
        return Compare("==", head, first)
    if first == 0:
        return Compare("<=", head, last)
    after = Compare(">=", head, first)
    return after if last == count - 1 else And(after, Compare("<=", head, last))


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
    relation = rows_relation(term)
    return replace(
        plan, term=term, pieces=tuple(pieces), attended_keys=keys, attended_rows=rows, relation=relation
    )  # fmt: skip
