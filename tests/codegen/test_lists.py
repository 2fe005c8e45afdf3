"""Long lists of pairs: taken apart as terms, proved, and run on both backends against dense attention."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_plan import moved

import pidsl
from pidsl import causal, keys, pairs, patterns, window
from pidsl.codegen.check import check_plan
from pidsl.codegen.choice.lists import SHORT, separate
from pidsl.codegen.lower import lower
from pidsl.codegen.plan.walks import BlockList, Listed
from pidsl.errors import PlanError
from pidsl.language.expr import Truth
from pidsl.language.terms import Empty, Pairs, Term
from pidsl.runtime.run_triton.ahead import compile_ahead
from pidsl.testing import assert_matches_dense, assert_plan_sound, inputs, shapes, terms


@st.composite
def listed(draw: st.DrawFn) -> Term:
    """A long list of pairs of tokens or blocks, joined with another pattern in the ways that are looked through."""
    most = draw(st.sampled_from((6, 12, 40)))
    index = st.integers(0, most - 1)
    every = st.lists(st.tuples(index, index), min_size=SHORT, max_size=40, unique=True)
    term: Term = pairs(draw(every))
    other = draw(terms(depth=1))
    for _ in range(draw(st.integers(0, 3))):
        match draw(st.sampled_from(("|", "&", "-", "T", "blocked"))):
            case "|":
                term = draw(st.sampled_from((term | other, other | term)))
            case "&":
                term = term & causal
            case "-":
                term = term - window(2)
            case "T":
                term = term.T
            case "blocked":
                term = term.blocked(draw(st.integers(2, 5)))
    return term


def meaning(found: BlockList) -> Term:
    """The term that was taken apart."""
    blocks: Term = Pairs(found.blocks)
    whole = blocks if found.size == 1 else blocks.blocked(found.size)
    rest = whole & found.within
    return rest if isinstance(found.other, Empty) else found.other | rest


@given(term=listed(), n=st.integers(0, 60), more=st.integers(0, 20))
def test_taken_apart_is_the_same(term: Term, n: int, more: int) -> None:
    found = separate(term)
    assume(found is not None)  # `other` may have a list of its own
    assert found is not None
    np.testing.assert_array_equal(meaning(found).mask(n, n + more), term.mask(n, n + more))


def test_short_lists_are_left_to_isl() -> None:
    assert separate(pairs([(0, 0), (3, 9)]) | window(3)) is None
    assert separate(window(3)) is None


@pytest.mark.parametrize("backend", ["torch", "triton"])
@settings(max_examples=settings.default.max_examples // 12)
@given(data=st.data())
def test_random_lists(backend: str, data: st.DataObject) -> None:
    given_ = data.draw(inputs(shapes(30, head_dims=(16,)), dtypes=("float32",)))
    assert_matches_dense(data.draw(listed()), given_, backend=backend, tolerance=1e-4)  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_with_a_score(backend: str) -> None:
    term = patterns.bigbird(56, block=4, random=2)
    kernel = pidsl.compile(term, backend, score=pidsl.score(softcap=5.0, alibi=True))  # type: ignore[call-overload]
    (q, k, v), slopes = (torch.randn(2, 2, 50, 16) for _ in range(3)), torch.rand(2)
    exact = pidsl.compile(term, "reference", score=pidsl.score(softcap=5.0, alibi=True))
    torch.testing.assert_close(kernel(q, k, v, slopes=slopes), exact(q, k, v, slopes=slopes), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("offset", [0, 3, 6, 11])
def test_rows_beside_the_listed_blocks_see_nothing(offset: int) -> None:
    """Listed blocks hold more rows than there are: others must still be found empty."""
    k = v = torch.randn(1, 1, 24, 8)
    term, q = pairs([(0, 1), (2, 0), (3, 3)]).blocked(4), torch.randn(1, 1, 2, 8)
    torch.use_deterministic_algorithms(True)  # what is not written is NaN
    try:
        out, lse = pidsl.compile(term, "torch")(q, k, v, offset=offset, return_lse=True)
    finally:
        torch.use_deterministic_algorithms(False)
    want = pidsl.compile(term, "reference")(q, k, v, offset=offset, return_lse=True)
    torch.testing.assert_close((out, lse), want)


def test_bigbird_is_planned_at_any_length() -> None:
    """As a relation, 32768 tokens have 1530 random blocks, one part each."""
    plan = lower(patterns.bigbird(32768), "torch")
    (piece,) = plan.walked(Listed)
    assert piece.layout.size == 64 and len(piece.layout.blocks) == 510 * 3
    assert_plan_sound(patterns.bigbird(32768))


def test_checks_catch_wrong_lists() -> None:
    plan = lower(patterns.bigbird(300, block=16), "torch")
    (piece,) = plan.walked(Listed)
    for wrong, message in (
        (replace(piece, keep=(Truth(True),)), "mask of the list is wrong"),
        (moved(piece, replace(piece.layout, blocks=piece.layout.blocks[1:])), "not that of the term"),
        (moved(piece, replace(piece.layout, within=keys(0, 5))), "not that of the term"),
    ):
        rest = tuple(x for x in plan.pieces if not isinstance(x.forward, Listed))
        with pytest.raises(PlanError, match=message):
            check_plan(replace(plan, pieces=(*rest, wrong)))


def test_the_same_bits_every_run() -> None:
    kernel = pidsl.compile(patterns.bigbird(300, block=16), "torch")
    q, k, v = (torch.randn(1, 2, 300, 16, requires_grad=True) for _ in range(3))
    grads = [torch.autograd.grad(kernel(q, k, v).sum(), (q, k, v)) for _ in range(2)]
    assert all(torch.equal(x, y) for x, y in zip(*grads, strict=True))


def test_sm_90_does_not_spill(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIDSL_CACHE", str(tmp_path_factory.mktemp("programs")))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("binaries")))
    reports = compile_ahead(lower(pairs([(x, x * 7 % 31) for x in range(31)]).blocked(64)), "cuda:90", torch.bfloat16)
    for report in reports:
        assert report.spills == 0, report
        assert report.name == "row_statistics" or all(loop.hgmma for loop in report.loops), report
