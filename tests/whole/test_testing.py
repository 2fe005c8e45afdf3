"""The assertions for users fail when they should, and the strategies draw what they promise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import find, given, settings
from hypothesis import strategies as st
from torch import Tensor

import pidsl
from pidsl import causal, halo, neighborhood, window
from pidsl.codegen import lower as lowering
from pidsl.errors import PlanError
from pidsl.testing import Inputs, Shapes, assert_matches_dense, assert_plan_sound, inputs, shapes

GIVEN = Inputs(*(torch.randn(1, 2, 9, 8, generator=torch.Generator().manual_seed(0)) for _ in range(3)), offset=0)


@given(inputs(shapes(20)))
@settings(max_examples=20)
def test_inputs_fit_a_kernel(given_: Inputs) -> None:
    assert_matches_dense(causal, given_, backend="reference")
    assert_matches_dense(pidsl.compile(window(2), "torch"), given_)


@pytest.mark.parametrize(
    "wanted",
    [
        lambda s: s.n == 0 < s.m,
        lambda s: s.heads > s.kv_heads > 1,
        lambda s: s.n > s.m > 0,
        lambda s: s.head_dim != s.value_dim and s.batch == 2,
    ],
)
def test_shapes_have_corners(wanted: Any) -> None:
    assert wanted(find(shapes(), wanted))


def test_square_shapes_are_square() -> None:
    @given(shapes(square=True))
    def run(s: Shapes) -> None:
        assert s.n + s.offset == s.m

    run()


@given(st.data())
@settings(max_examples=20)
def test_inputs_of_given_shapes(data: st.DataObject) -> None:
    drawn = data.draw(inputs(Shapes(2, 4, 2, 5, 7, 8, 16, 1), dtypes=("bfloat16",)))
    assert drawn.q.shape == (2, 4, 5, 8)
    assert drawn.k.shape == (2, 2, 7, 8)
    assert drawn.v.shape == (2, 2, 7, 16)
    assert drawn.q.dtype == torch.bfloat16


def wrong(what: str) -> Any:
    """A kernel with one fault."""

    def kernel(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Any:
        out, lse = pidsl.compile(causal, "reference")(q, k, v, **options)
        if what == "gradient":
            out = out.detach() + 2 * (out - out.detach())
        return out * (1.01 if what == "out" else 1), lse + (what == "lse")

    return kernel


@pytest.mark.parametrize("what", ["out", "lse", "gradient"])
def test_a_wrong_kernel_is_told(what: str) -> None:
    with pytest.raises(AssertionError, match=rf"{what}.* of causal, q \[1, 2, 9, 8\]"):
        assert_matches_dense(wrong(what), GIVEN, term=causal)
    assert_matches_dense(wrong(""), GIVEN, term=causal)
    if what == "gradient":
        assert_matches_dense(wrong(what), GIVEN, term=causal, backward=False)


def test_a_function_needs_its_pattern() -> None:
    with pytest.raises(ValueError, match=r"term=\.\.\."):
        assert_matches_dense(wrong(""), GIVEN)


@pytest.mark.parametrize(
    "term",
    [
        neighborhood((5, 7), 3), neighborhood((6, 6), (5, 2), border="cut"), neighborhood((9, 8), 3, dilation=2),
        neighborhood((8, 6), 4, stride=(2, 3)), neighborhood((5, 5), 3, causal=(True, False)), halo((6, 7), 2, 1),
        neighborhood((7, 5), 3) & causal, neighborhood((4, 9), (1, 3)) | window(2), neighborhood((6, 4), 3).T,
        neighborhood(23, 5), neighborhood(23, 4, stride=2), halo(20, 4, 3),
        neighborhood((64, 64), 13), halo((64, 64), 8, 3), neighborhood((8, 16, 16), (4, 7, 7)),
        neighborhood((4, 6, 6), 3, causal=(True, False, False), border="cut"), halo((4, 6, 8), (2, 3, 4), 1),
    ],
    ids=repr,
)  # fmt: skip
def test_plans_of_grids_are_sound(term: pidsl.Term) -> None:
    assert_plan_sound(term)


def test_an_unsound_plan_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    good = lowering.lower(window(9), "torch")
    monkeypatch.setattr(lowering, "lower", lambda *_, **__: replace(good, pieces=()))
    with pytest.raises(PlanError, match="union"):
        assert_plan_sound(window(9))
