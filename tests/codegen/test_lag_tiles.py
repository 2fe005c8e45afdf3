"""Lags in tiles: the tests that tell them, the tiles that hold them, and what that costs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from dense import tensors
from hypothesis import given, settings
from hypothesis import strategies as st

import pidsl
from pidsl import causal, keys, lags, stride, where, window
from pidsl.codegen.check import check_plan
from pidsl.codegen.choice.cost import BACKENDS
from pidsl.codegen.choice.lag_tiles import LagTiles
from pidsl.codegen.emit_triton.expr import pred_source
from pidsl.codegen.lower import lower
from pidsl.codegen.plan.nodes import Piece
from pidsl.codegen.plan.numbers import Numbers, joined, numbers
from pidsl.codegen.plan.walks import Lags, Runs
from pidsl.language.algebra import any_of, between, separated
from pidsl.language.expr import And, Compare, Or, Pred, Var, holds, show
from pidsl.language.terms import Term
from pidsl.relation.frame import HOME, MOVED, Frame
from pidsl.testing import assert_matches_dense, inputs, shapes

POWERS = lags(*[0] + [2**k for k in range(14)])
SETS = st.one_of(
    st.lists(st.integers(-40, 200), min_size=1, max_size=14),
    st.tuples(st.integers(-9, 9), st.integers(0, 5), st.integers(1, 9), st.lists(st.integers(-9, 60), max_size=4)).map(
        lambda x: [*(x[0] + (1 << k) for k in range(x[1], x[1] + x[2])), *x[3]]
    ),
)


def told(found: Numbers, x: np.ndarray) -> Any:
    """Whether numbers are in a set, by its parts."""
    out = np.zeros(x.shape, bool)
    for first, last in found.ranges:
        out |= (first <= x) & (x <= last)
    if (p := found.powers) is not None:
        out |= ((x - p.base) & (x - p.base - 1) == 0) & (p.least <= x) & (x <= p.most)
    for bits in found.bits:
        out |= (bits.word >> ((x - bits.start) & 31) & 1 == 1) & (bits.start <= x) & (x <= bits.most)
    return out


@given(SETS)
def test_a_short_test_tells_the_same_numbers(values: list[int]) -> None:
    x = np.arange(-300, 3000)
    found = numbers([(v, v) for v in values])
    np.testing.assert_array_equal(told(found, x), np.isin(x, values))
    assert found.instructions <= sum(1 if a == b else 2 for a, b in joined([(v, v) for v in values]))


@given(SETS, st.integers(0, 3))
def test_masks_print_it(values: list[int], offset: int) -> None:
    a, b = Var("a"), Var("b")
    tests: list[Pred] = [
        Compare("==", a + offset, b + first)
        if first == last
        else And(Compare(">=", a + offset, b + first), Compare("<=", a + offset, b + last))
        for first, last in joined([(v, v) for v in values])
    ]
    pred = any_of(tests)
    for said in (pred, separated(pred, frozenset({"b"})), separated(pred, frozenset({"a"}))):
        found = between(said)
        assert found is not None and show(found[0]) in ("a - b", "b - a")
        env: dict[str, Any] = {"a": np.arange(0, 2500)[:, None], "b": np.arange(0, 40)[None, :]}
        text = eval(pred_source(said).replace("\n", " "), {}, env)
        np.testing.assert_array_equal(np.broadcast_to(text, (2500, 40)), holds(pred, env))


def test_what_is_no_set_of_numbers() -> None:
    a, b = Var("a"), Var("b")
    assert between(Compare("<=", a, b)) is None  # no end
    assert between(Or(Compare("==", a, b), Compare("==", a, 3))) is None  # of two sums
    assert between(Compare("<", a, b)) is None
    assert between(Compare("==", 3, 3)) is None


def tiled(term: Term, head_dim: int = 64) -> tuple[list[Piece], list[int]]:
    """The pieces in tiles, and the lags that are diagonals."""
    plan = lower(term, head_dim=head_dim)
    check_plan(plan)
    diagonals = [x.lag for piece in plan.walked(Lags) for x in piece.forward.lags]
    return list(plan.walked(Runs)), diagonals


@pytest.mark.parametrize("head_dim", [64, 128])
def test_lags_that_double_are_one_piece(head_dim: int) -> None:
    (piece,), diagonals = tiled(POWERS, head_dim)
    assert not diagonals
    size = piece.forward.rows, piece.forward.cols
    assert size == (64, 64)
    # of lags up to 128 three tiles; then one each, as the lag is a multiple of 64
    assert piece.computed_at(32768) == sum(64 * 64 * (512 - x) for x in (0, 1, 2, *(2**k for k in range(2, 8))))
    for swept in ("a", "b"):  # in the forward pass, and in that of dK and dV
        assert pred_source(separated(piece.keep[0], frozenset({swept}))).count("==") == 1


def test_lags_near_a_tile_that_is_loaded_anyway_are_in_it() -> None:
    (piece,), diagonals = tiled(window(2) | lags(4, 8, 16, 32, 64))
    assert not diagonals and piece.computed_at(6400) == 64 * 64 * (100 + 99)
    _, diagonals = tiled(lags(0, 1000))
    assert diagonals == [0, 1000]  # a tile for one, two for the other
    _, diagonals = tiled(window(40) | lags(1003))
    assert not diagonals  # two tiles cost less than a kernel that goes on from another
    assert [type(x.forward) for x in lower(POWERS, "torch").pieces] == [Lags]


def test_only_whole_lags_are_joined() -> None:
    term = lags(0, 1, 2, 4) | lags(8) & keys(100, None)
    pieces, _ = tiled(term)
    assert len(pieces) <= 2
    (wide, *others), _ = tiled(window(500) | lags(600))
    assert any(run.full for run in wide.forward.runs)  # it keeps its loops, and the lag is in the same kernel
    assert [x.forward.rows for x in others] == [wide.forward.rows]


def test_groups_have_tiles_of_their_own() -> None:
    own = LagTiles(((0, 2), (64, 64), (191, 191), (318, 318)), HOME, False, 1024)
    assert own.groups(64, 64) == [(0, 64), (191, 191), (318, 318)]
    assert own.groups(128, 64) == [(0, 318)]
    assert own.cost(BACKENDS["triton"]) > 0


@settings(max_examples=settings.default.max_examples // 2)
@given(st.lists(st.integers(-70, 300), min_size=2, max_size=9, unique=True), st.sampled_from([HOME, MOVED]))
def test_random_lags_in_tiles(values: list[int], frame: Frame) -> None:
    piece = LagTiles(joined([(v, v) for v in values]), frame, False, 16384).piece(BACKENDS["triton"])
    check_plan(replace(lower(lags(*values), frame=frame), pieces=(piece,), attended_keys=None, attended_exact=False))


@settings(max_examples=settings.default.max_examples // 8)
@given(data=st.data())
def test_against_dense_attention(data: st.DataObject) -> None:
    term = data.draw(
        st.sampled_from(
            (
                lags(0, 1, 2, 4, 8, 16, 32, 64), window(7) | lags(8, 9, 11, 15, 23, 39, 71), lags(-64, -3, 0, 5, 9, 70),
                lags(0, 3, 5, 6, 9, 12, 17), lags(1, 2, 3, 5, 8, 13, 21, 34) | stride(50) & causal,
                where(lambda i, j: (i - j == 3) | (i - j == 5) | (i - j == 20)) & causal,
            )
        )
    )  # fmt: skip
    given_ = data.draw(inputs(shapes(150, head_dims=(16,)), dtypes=("float16", "float32")))
    assert_matches_dense(term, given_, backend="triton")


def test_gradients_of_lags_in_tiles() -> None:
    q, k, v = (x.requires_grad_() for x in tensors(140, 140, heads=2, kv_heads=1))
    found = []
    for backend in ("triton", "torch"):
        out = pidsl.compile(POWERS, backend)(q, k, v)  # type: ignore[call-overload]
        found.append(torch.autograd.grad(out.square().sum(), (q, k, v)))
    for got, want in zip(*found, strict=True):
        np.testing.assert_allclose(got.numpy(), want.numpy(), atol=2e-4)
