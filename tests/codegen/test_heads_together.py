"""Patterns of several groups of heads in one Triton program: proved, counted, and held against dense attention."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from dense import tensors
from hypothesis import given, settings
from hypothesis import strategies as st

import pidsl
from pidsl import Heads, causal, compile, heads, keys, lags, neighborhood, queries, score, stride, window
from pidsl.codegen.check import check_plan
from pidsl.codegen.choice.together import together
from pidsl.codegen.lower import lower
from pidsl.codegen.plan.heads import share
from pidsl.codegen.plan.nodes import Plan
from pidsl.codegen.plan.walks import Runs
from pidsl.errors import ParseError, PlanError, TermError
from pidsl.language.expr import Compare, Truth, Var
from pidsl.language.parse import parse
from pidsl.language.terms import Term
from pidsl.runtime.run_triton.prepared import Step
from pidsl.testing import Inputs, Shapes, assert_matches_dense, inputs, shapes

NEAR = heads([(2, window(5)), (1, window(20)), (1, causal)])
SIMPLE = [
    *(
        window(3),
        window(40),
        causal,
        keys(0, 3) & causal,
        window(2, 2),
        keys(2, 5),
        queries(1, 4),
        window(70) - keys(4),
    ),
    *(window(70) - keys(4), lags(0, 30, 31), lags(7), window(4) | keys(0, 2), pidsl.full, pidsl.empty),
]


def in_one(h: Heads) -> Plan | None:
    return together(h, lambda term, size: lower(term, "triton", 64, size))


def test_one_launch_for_all_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    launched: list[str] = []
    run = Step.run

    def counted(step: Step, given: Any) -> None:
        launched.append(step.kernel.fn.__name__ if hasattr(step.kernel, "fn") else step.kernel.__name__)
        run(step, given)

    monkeypatch.setattr(Step, "run", counted)
    kernel = compile(NEAR, "triton")
    q, k, v = (x.requires_grad_() for x in tensors(9, 9, heads=4, kv_heads=2))
    out = kernel(q, k, v)
    assert launched == ["forward"]
    out.sum().backward()
    assert launched == ["forward", "row_statistics", "grad_query", "grad_key"]
    assert str(kernel.plan).startswith("1 launch for 4 query heads\n\nheads 0-3\n  plan of heads([(2, window(5)), ")
    assert kernel.explain() == str(kernel.plan)
    assert kernel.source().count("def forward(") == 1


def test_what_does_not_agree_keeps_its_launches() -> None:
    assert in_one(heads([(1, window(5)), (1, stride(4) & causal)])) is None  # other layouts
    assert in_one(heads([(1, window(5)), (1, neighborhood((8, 8), 3))])) is None  # boxes
    assert in_one(heads([(7, window(2)), (1, lags(0, 500, 501))])) is None  # diagonals have kernels of their own
    assert in_one(heads([(1, window(5)), (1, window(5) | lags(500))])) is not None  # as many launches as the second
    kernel = compile(heads([(1, window(5)), (1, stride(4) & causal)]), "triton")
    assert len(kernel.plan.parts) == 2
    dropped = compile(NEAR, "triton", score(dropout=0.5))
    assert len(dropped.plan.parts) == 3  # each launch has a seed of its own, on every backend


@st.composite
def calls(draw: st.DrawFn) -> tuple[Heads, Inputs]:
    group, kv_heads = draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([1, 2]))
    each = draw(st.lists(st.sampled_from(SIMPLE), min_size=group * kv_heads, max_size=group * kv_heads))
    s = draw(shapes(90, head_dims=(16,)))
    of = Shapes(s.batch, kv_heads * group, kv_heads, s.n, s.m, s.head_dim, s.value_dim, s.offset)
    return heads((1, term) for term in each), draw(inputs(of, dtypes=("float32",)))


@settings(max_examples=settings.default.max_examples // 6)
@given(calls())
def test_against_dense_attention(call: tuple[Heads, Inputs]) -> None:
    assert_matches_dense(call[0], call[1], backend="triton", scale=0.4)


@settings(max_examples=settings.default.max_examples // 4)
@given(st.lists(st.sampled_from(SIMPLE), min_size=2, max_size=5))
def test_every_head_has_its_pattern(each: list[Term]) -> None:
    h = heads((1, term) for term in each)
    plan = in_one(h)
    if plan is None or len(h.distinct) == 1:
        return
    check_plan(plan)
    for head, term in enumerate(each):
        assert share(plan, head).term == term


def test_a_plan_with_other_heads_is_refused() -> None:
    plan = in_one(NEAR)
    assert plan is not None
    first = plan.pieces[0]
    assert isinstance(first.forward, Runs)
    everywhere = tuple(replace(run, guard=None) for run in first.forward.runs)
    wider = replace(first, forward=replace(first.forward, runs=everywhere))
    with pytest.raises(PlanError):
        check_plan(replace(plan, pieces=(wider, *plan.pieces[1:])))
    nowhere = tuple(replace(run, guard=Compare(">=", Var("q_head"), 4)) for run in first.forward.runs)
    with pytest.raises(PlanError):
        check_plan(
            replace(plan, pieces=(replace(first, forward=replace(first.forward, runs=nowhere)), *plan.pieces[1:]))
        )
    with pytest.raises(PlanError):
        check_plan(replace(plan, attended_keys=Truth(False)))


def test_keys_that_a_head_does_not_attend_may_hold_anything() -> None:
    """Key head 0 serves heads 0 and 1, key head 1 serves heads 2 and 3."""
    h = heads([(1, keys(0, 3)), (1, keys(2, 5)), (2, keys(4, 6))])
    assert in_one(h) is not None
    q, k, v = tensors(12, 12, heads=4, kv_heads=2)
    k[:, 0, 5:] = v[:, 0, 5:] = torch.nan  # attended by heads 2 and 3 alone, whose keys these are not
    k[:, 1, :4] = v[:, 1, :4] = torch.inf
    given_ = [x.requires_grad_() for x in (q, k, v)]
    out, lse = compile(h, "triton")(*given_, return_lse=True)
    assert out.isfinite().all() and lse.isfinite().all()
    for gradient in torch.autograd.grad(out.sum() + lse.sum(), given_):
        assert gradient.isfinite().all()


def test_scores_of_all_heads() -> None:
    own = score(softcap=20.0, alibi=True, bias=(0, 7), sinks=True, temperature=True)
    kernel = compile(NEAR, "triton", own)
    assert len(kernel.plan.parts) == 1
    given_ = [x.requires_grad_() for x in tensors(40, 40, heads=4, kv_heads=2)]
    parameters = {"slopes": torch.rand(4), "bias": torch.randn(4, 8), "sinks": torch.randn(4),
                  "temperature": 1 + torch.rand(4)}  # fmt: skip
    wanted = [*given_, *(x.requires_grad_() for x in parameters.values())]
    got, exact = (compile(NEAR, x, own)(*given_, **parameters) for x in ("triton", "reference"))
    torch.testing.assert_close(got, exact, atol=1e-5, rtol=1e-5)
    pairs = zip(*(torch.autograd.grad(x.square().sum(), wanted) for x in (got, exact)), strict=True)
    for a, b in pairs:
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_named_in_a_graph() -> None:
    q, k, v = tensors(20, 20, heads=4, kv_heads=2)
    op: Any = torch.ops.pidsl.attention
    out, lse = op(q, k, v, [], None, f"{NEAR!r}; ; triton", 0.25, [0, 0, 0])
    want, want_lse = compile(NEAR, "triton")(q, k, v, scale=0.25, return_lse=True)
    assert torch.equal(out, want) and torch.equal(lse, want_lse)


def test_heads_are_read_back() -> None:
    for h in (NEAR, heads([(1, window(3) | stride(4) & causal)])):
        assert parse(repr(h)) == h
    for text in ("heads()", "heads([causal])", "heads([(2, 3)])", "heads([(x, causal)])"):
        with pytest.raises(ParseError):
            parse(text)
    with pytest.raises(TermError, match="at least 1"):
        parse("heads([(0, causal)])")


def test_wide_heads_have_tiles_of_their_own() -> None:
    made = partial(lower, head_dim=256)
    plan = together(NEAR, lambda term, size: made(term, "triton", size=size))
    assert plan is not None and {x.forward.rows for x in plan.walked(Runs)} == {64}
    check_plan(plan)
