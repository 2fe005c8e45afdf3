"""Faults planted in plans: each field of each node is changed, and the checker refuses it or nothing has changed.

What passes is run: the loops one tile at a time, and for torch the program, against the dense mask.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from test_plan import moved, visits
from torch import Tensor

from pidsl import causal, chosen, halo, keys, lags, neighborhood, pairs, queries, stride, where, window
from pidsl.codegen.check import check_plan
from pidsl.codegen.choice.cost import BACKENDS
from pidsl.codegen.lower import lower
from pidsl.codegen.plan.nodes import Plan
from pidsl.errors import PlanError
from pidsl.language.expr import Add, Sub, Truth
from pidsl.language.terms import Term
from pidsl.relation.frame import Frame
from pidsl.runtime.call.call import Call, Positions
from pidsl.runtime.run_torch.program import TorchProgram

SKEWED = where(lambda i, j: (2 * i - 3 * j) % 11 < 6) & window(40)
TERMS: list[tuple[Term, str]] = [
    (SKEWED, "torch"),
    (stride(5, 2) & causal, "triton"),
    (keys(1, None, 3) & queries(2, None, 5), "torch"),
    (lags(0, 5) & keys(2, None), "torch"),
    (neighborhood((3, 4), 3), "torch"),
    (halo((2, 8), (1, 4), 1), "triton"),
    (pairs([(k, 3 * k % 8) for k in range(30)]).blocked(4) | window(2), "torch"),
]
MOVED_TERMS = [TERMS[1], TERMS[2], TERMS[3], TERMS[6]]
SIZES = [(9, 31, 22), (15, 12, 3), (100, 100, 0)]
UNREAD = {
    "term",
    "backend",
    "notes",
    "rejected",
    "reference",
    "score",
    "other",
    "within",
}  # by no program, or the truth


def changed(name: str, value: Any) -> Iterator[Any]:
    """Other values of a field."""
    match value:
        case None if name == "relation":  # of a list
            return
        case _ if name == "relation":
            yield value.subtract(value.lexmin())
            yield value.reverse()
        case None:
            yield from {"shifts": (), "last": (0,), "phase": (0, 1), "query_class": (0, 1), "key_class": (0, 1)}.get(
                name, (Truth(False), Truth(True))
            )
        case "keys" | "queries":
            yield "queries" if value == "keys" else "keys"
        case bool():
            yield not value
        case int():
            yield from (value + 1, value - 1, 2 * value)
            if name in ("phase", "query_class", "key_class"):
                yield None
        case tuple():
            if name == "shifts":
                yield from (((1, 1),), ((1, 0),), ((64, 63),), (*value, (0, 1)))
            elif value:
                yield value[1:]
                yield (value[0], *value)
            for k, x in enumerate(value[:1] if name == "blocks" else () if name == "shifts" else value):
                yield from ((*value[:k], other, *value[k + 1 :]) for other in changed(name, x))
        case _ if name in ("keep", "guard", "attended_keys", "attended_rows"):
            yield from (Truth(True), Truth(False), None) if name != "keep" else (Truth(True), Truth(False))
        case _ if is_dataclass(value) and not type(value).__module__.endswith("expr"):
            yield from planted(value)
        case _:
            yield from (Add(value, 1), Sub(value, 1))


def planted(node: Any) -> Iterator[Any]:
    """Copies of a node of a plan with one fault each."""
    for field in fields(node):
        if field.name == "grad_key":  # None where no program runs it
            there = node.grad_key is not None
            yield replace(node, grad_key=None if there else replace(node.forward, over="queries"))
            if not there:
                continue
        if field.name == "forward":  # the layout of all walks
            yield from (moved(node, layout) for layout in changed("layout", node.layout))
        if field.name not in UNREAD:
            for other in changed(field.name, getattr(node, field.name)):
                if field.name == "relation" or other != getattr(node, field.name):
                    yield replace(node, **{field.name: other})


def attention(mask: np.ndarray, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    kept = torch.from_numpy(mask)
    scores = (q @ k.mT / q.shape[3] ** 0.5).masked_fill(~kept, -torch.inf)
    return torch.softmax(scores, -1).masked_fill(~kept, 0.0) @ v


def differs(plan: Plan, term: Term, key_offset: int) -> str:
    """What a plan computes otherwise than its term; empty: nothing."""
    for n, m, offset in SIZES:
        expected = term.mask(n, m, offset, key_offset)
        for which in BACKENDS[plan.backend].passes:
            if n < 50 and not (visits(plan, n, m, offset, which, key_offset) == expected).all():
                return f"{which} at {n, m, offset}"
        if plan.backend == "torch":
            generator = torch.Generator().manual_seed(n)
            q, k, v = (torch.randn(1, 1, x, 4, dtype=torch.float64, generator=generator) for x in (n, m, m))
            call = Call(q, k, v, 0.5, Positions(offset, key_offset))
            out, lse = TorchProgram(plan).forward(call)
            q.requires_grad_(True)
            found = attention(expected, q, k, v)
            if not torch.allclose(out, found, atol=1e-9):
                return f"program at {n, m, offset}"
            gradient = torch.autograd.grad(found.sum(), q)[0]
            given = (call._replace(q=q.detach()), out, lse, torch.ones_like(out), None, False)
            if not torch.allclose(TorchProgram(plan).backward(*given)[0], gradient, atol=1e-9):
                return f"gradient at {n, m, offset}"
    return ""


@pytest.mark.parametrize(
    ("term", "backend", "key_offset"), [*((*x, 0) for x in TERMS), *((*x, 4) for x in MOVED_TERMS)], ids=str
)
def test_planted_faults_are_refused_or_harmless(term: Term, backend: str, key_offset: int) -> None:
    plan = lower(term, backend, frame=Frame(moved=key_offset > 0))
    check_plan(plan)
    refused = 0
    for wrong in planted(plan):
        try:
            check_plan(wrong)
        except PlanError:
            refused += 1
        else:
            assert not differs(wrong, term, key_offset), wrong
    assert refused > 20


@pytest.mark.parametrize("shifts", [((1, 1),), ((352, 351),), ((352, 352), (0, 1))])
def test_masks_that_are_not_alike(shifts: tuple[tuple[int, int], ...]) -> None:
    plan = lower(SKEWED, "torch")
    (piece,) = plan.pieces
    assert piece.shifts == ((352, 352),)
    with pytest.raises(PlanError, match="called alike"):
        check_plan(replace(plan, pieces=(replace(piece, shifts=shifts),)))


@pytest.mark.parametrize("field", ["attended_keys", "attended_rows"])
@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_none_says_that_everything_is_attended(field: str, backend: str) -> None:
    plan = lower(keys(3, None, 2) & queries(1, None) & causal, backend)
    assert getattr(plan, field) is not None
    check_plan(plan)
    with pytest.raises(PlanError, match="attended"):
        check_plan(replace(plan, **{field: None}))


@pytest.mark.parametrize("term", [causal, stride(3), keys(0, 4), window(2)], ids=repr)
def test_a_wrong_relation_is_found(term: Term) -> None:
    plan = lower(term, "torch")
    with pytest.raises(PlanError, match="relation of the plan"):
        check_plan(replace(plan, relation=lower(causal.T, "torch").relation))


def test_faults_of_a_choice_are_refused() -> None:
    plan = lower(window(63) | chosen(64, 16))
    check_plan(plan)
    *static, piece = plan.pieces

    def laid(**changes: Any) -> Plan:
        walks: dict[str, Any] = {
            name: replace(getattr(piece, name), layout=replace(piece.layout, **changes))
            for name in ("forward", "grad_query", "grad_key")
        }
        return replace(plan, pieces=(*static, replace(piece, **walks)))

    wrong = {
        "the mask of the choice is wrong": replace(plan, pieces=(*static, replace(piece, keep=(Truth(True),)))),
        "blocks that are called full are not": laid(full=Truth(True)),
        "the choice is not that of the term": laid(budget=17),
        "none where it has one": replace(plan, pieces=tuple(static)),
    }
    for message, faulty in wrong.items():
        with pytest.raises(PlanError, match=message):
            check_plan(faulty)
