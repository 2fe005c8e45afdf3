"""Patterns of several groups of query heads in one plan, so that one launch serves all heads.

window(63) for heads 0-5, window(255) for heads 6-7

->  the pieces of both; the loops of the first run where q_head <= 5, those of the second where q_head >= 6
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import reduce
from typing import get_args

from pidsl.codegen.choice.cost import BACKENDS, CLOSE, Backend, Sizes
from pidsl.codegen.plan.heads import guarded, of_heads
from pidsl.codegen.plan.nodes import Piece, Plan
from pidsl.codegen.plan.stages import stages
from pidsl.codegen.plan.walks import Lags, Pass, Runs
from pidsl.language.expr import And, Or, Pred, Truth
from pidsl.language.heads import Heads
from pidsl.language.terms import Term


def together(
    heads: Heads, lowered: Callable[[Term, Sizes | None], Plan], backend: Backend = BACKENDS["triton"]
) -> Plan | None:
    """One plan for all heads, where their layouts agree and tiles of one size cost about the same; None elsewhere.

    Args:
        heads: the pattern of each query head.
        lowered: the plan of a pattern with tiles of these sizes in its passes, None for the cheapest.
        backend: whose prices.
    """
    own = {term: lowered(term, None) for term in heads.distinct}
    sizes = {tuple((x.rows, x.cols) for x in walks) for plan in own.values() for walks, _ in _tiled(plan)}
    found = []
    for size in sorted(sizes):
        plans = {term: lowered(term, size) for term in heads.distinct}
        if (plan := _joined(heads, plans)) is not None:
            found.append((_cost(heads, plans, backend), size, plan))
    if not found:
        return None
    cost, _, plan = min(found, key=lambda x: x[:2])
    return plan if cost <= CLOSE * _cost(heads, own, backend) else None


def _cost(heads: Heads, plans: Mapping[Term, Plan], backend: Backend) -> float:
    """Of the pairs in tiles of all passes, at the length at which plans are compared."""
    return sum(
        len(mine) * piece.computed_at(piece.reference, task) * backend.price(task, x.rows, x.cols).masked
        for term, mine in heads.distinct.items()
        for walks, piece in _tiled(plans[term])
        for task, x in zip(backend.passes, walks, strict=True)
    )


def _tiled(plan: Plan) -> Iterator[tuple[list[Runs], Piece]]:
    """The pieces in tiles, with their walks."""
    return (([x for x in piece.walks if isinstance(x, Runs)], piece) for piece in plan.walked(Runs))


def _joined(heads: Heads, plans: Mapping[Term, Plan]) -> Plan | None:
    """The pieces of all patterns, where they take no more launches than the pattern with the most."""
    pieces: list[Piece] = []
    for term, mine in heads.distinct.items():
        heads_of = of_heads(mine, len(heads))
        for piece in plans[term].pieces:
            if not isinstance(piece.forward, Runs | Lags):
                return None  # boxes and lists have kernels of their own
            only = guarded(piece, lambda test, own=heads_of: own if test is None else And(own, test))  # type: ignore[misc]
            assert only is not None
            pieces.append(only)
    first = next(iter(plans.values()))
    keys = _each(heads, {term: plan.attended_keys for term, plan in plans.items()})
    rows = _each(heads, {term: plan.attended_rows for term, plan in plans.items()})
    notes = tuple(dict.fromkeys(note for plan in plans.values() for note in plan.notes))
    exact = all(plan.attended_exact for plan in plans.values())
    whole = Plan(
        heads, first.backend, tuple(pieces), keys, rows, None, notes,
        attended_exact=exact, reference=first.reference, frame=first.frame,
    )  # fmt: skip
    for task in get_args(Pass):
        if len(stages(whole, task)) > max(len(stages(plan, task)) for plan in plans.values()):
            return None  # their layouts differ
    return whole


def _each(heads: Heads, preds: Mapping[Term, Pred | None]) -> Pred | None:
    """The predicate of each head's pattern, None where all are."""
    if all(pred is None for pred in preds.values()):
        return None
    own = {term: Truth(True) if pred is None else pred for term, pred in preds.items()}
    tests: list[Pred] = [And(of_heads(mine, len(heads)), own[term]) for term, mine in heads.distinct.items()]
    return reduce(Or, tests)
