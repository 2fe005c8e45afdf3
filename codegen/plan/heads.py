"""What plans say about query heads: tests of `q_head`, and the share of one head in a plan of several.

`q_head` is a variable of the plan like the tile. A program of dK and dV serves all query heads of a key head: a key
counts as attended there when one of the heads `first_head .. last_head` attends it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce

from pidsl.codegen.plan.nodes import Piece, Plan
from pidsl.codegen.plan.walks import Boxes, Lags, Listed, Runs, Selected, Walk
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


def guarded(piece: Piece, change: Callable[[Pred | None], Pred | None]) -> Piece | None:
    """A piece with the tests of its runs and lags changed; None where no test is left that can hold."""

    def tested(walk: Walk) -> Walk:
        match walk:
            case Runs(runs=runs):
                changed = (replace(x, guard=change(x.guard)) for x in runs)
                return replace(walk, runs=tuple(x for x in changed if x.guard != Truth(False)))
            case Lags(lags=lags):
                kept = (replace(x, keep=change(x.keep)) for x in lags)
                return replace(walk, lags=tuple(x for x in kept if x.keep != Truth(False)))
            case Boxes() | Listed() | Selected():
                raise TypeError(f"no test of heads in {walk}")

    keys = None if piece.grad_key is None else tested(piece.grad_key)
    found = replace(piece, forward=tested(piece.forward), grad_query=tested(piece.grad_query), grad_key=keys)
    some = any(x.runs if isinstance(x, Runs) else isinstance(x, Lags) and x.lags for x in found.walks)
    return found if some else None


def share(plan: Plan, head: int) -> Plan:
    """The plan of one query head: its pieces, with the tests of the head decided."""
    assert isinstance(plan.term, Heads)

    def decided(pred: Pred | None) -> Pred | None:
        found = Truth(True) if pred is None else settled(pred, {"q_head": head})
        return None if found == Truth(True) else found

    pieces = (guarded(piece, decided) for piece in plan.pieces)
    term = plan.term[head]
    return replace(
        plan,
        term=term,
        pieces=tuple(x for x in pieces if x is not None),
        attended_keys=decided(plan.attended_keys),
        attended_rows=decided(plan.attended_rows),
        relation=rows_relation(term, plan.frame),
    )
