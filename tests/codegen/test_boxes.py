"""Pieces in boxes of a grid: proved, enumerated, and run on both backends against dense attention."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pidsl
from pidsl import blocks, causal, halo, keys, neighborhood, queries, stride, where, window
from pidsl.codegen.check import check_grid, check_plan
from pidsl.codegen.choice import choose
from pidsl.codegen.choice.boxes import Product
from pidsl.codegen.choice.cost import BACKENDS, Tiling, Work
from pidsl.codegen.choice.digits import products
from pidsl.codegen.choice.grid_axes import axes_of
from pidsl.codegen.choice.parts import parts
from pidsl.codegen.lower import lower, planned
from pidsl.codegen.plan.nodes import Plan
from pidsl.codegen.plan.walks import Boxes
from pidsl.errors import PlanError
from pidsl.language.expr import Truth
from pidsl.language.recipe import Recipe
from pidsl.language.terms import Halo, Neighborhood, Term
from pidsl.relation.build import rows_relation
from pidsl.relation.isl import read_set
from pidsl.runtime.kernels.kernel import Kernel
from pidsl.runtime.kernels.softmax import Softmax
from pidsl.runtime.programs import kind_of
from pidsl.runtime.run_torch.program import TorchProgram
from pidsl.runtime.run_torch.walks import Sizes
from pidsl.runtime.run_triton.ahead import compile_ahead
from pidsl.runtime.run_triton.program import TritonProgram
from pidsl.testing import Inputs, Shapes, assert_matches_dense, assert_plan_sound, grids, inputs, shapes

GRIDS: list[Term] = [
    neighborhood((6, 5), 3), neighborhood((9, 7), (4, 3), stride=(2, 1)), neighborhood((8, 6), 3, dilation=2),
    neighborhood((7, 5), 3, dilation=2), halo((7, 9), 3, 1), neighborhood((3, 4, 5), 3),
    neighborhood((8, 8), (3, 5), causal=(True, False), border="cut"),
]  # fmt: skip


@st.composite
def calls(draw: st.DrawFn, term: Term) -> Inputs:
    """A call with as many tokens as the grid has, or fewer, or more."""
    assert isinstance(term, Neighborhood | Halo)
    tokens = int(np.prod(term.shape))
    n = draw(st.sampled_from((tokens, tokens, max(1, tokens - 3), tokens + 2, 1)))
    offset = draw(st.sampled_from((0, 0, 0, 4)))
    m = draw(st.sampled_from((n + offset, tokens, 2)))
    kv_heads, group = draw(st.sampled_from(((1, 1), (2, 2), (1, 3))))
    return draw(inputs(Shapes(1, kv_heads * group, kv_heads, n, m, 16, 8, offset), dtypes=("float32",)))


@pytest.mark.parametrize("backend", ["torch", "triton"])
@settings(max_examples=settings.default.max_examples // 4)
@given(data=st.data())
def test_random_grids(backend: str, data: st.DataObject) -> None:
    term = data.draw(grids())
    assert_matches_dense(term, data.draw(calls(term)), backend=backend, tolerance=1e-4)  # type: ignore[arg-type]


@pytest.mark.parametrize("term", GRIDS, ids=repr)
def test_plans_are_proved(term: Term) -> None:
    assert_plan_sound(term)
    assert all(isinstance(piece.forward, Boxes) for b in ("torch", "triton") for piece in lower(term, b).pieces)


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("other", [keys(0, 2) | queries(0, 2), window(2), halo((6, 5), 2, 1)], ids=repr)
def test_unions_keep_the_boxes(other: Term, backend: str) -> None:
    term = other | neighborhood((6, 5), 3)
    plan = lower(term, backend)
    assert isinstance(plan.pieces[0].forward, Boxes)
    check_plan(plan)
    q, k, v = (torch.randn(1, 2, n, 16) for n in (30, 33, 33))
    assert_matches_dense(term, Inputs(q, k, v, offset=0), backend=backend, tolerance=1e-4)  # type: ignore[arg-type]


def broken(plan: Plan, change: str) -> Plan:
    (piece,) = plan.walked(Boxes)
    forward = piece.forward
    match change:
        case "mask":
            piece = replace(piece, keep=(Truth(True), *piece.keep[1:]))
        case "first":
            piece = replace(piece, forward=replace(forward, first=(forward.first[0] + 1, *forward.first[1:])))
        case "last":
            last = forward.last[1]
            assert last is not None
            piece = replace(piece, grad_query=replace(forward, last=(forward.last[0], last - 1)))
    return replace(plan, pieces=(piece,))


@pytest.mark.parametrize(
    ("change", "message"),
    [("mask", "axes of the grid are not the piece"), ("first", "pair on axis 0"), ("last", "pair on axis 1")],
)
def test_checks_catch_wrong_boxes(change: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        check_plan(broken(lower(neighborhood((6, 5), 3), "torch"), change))


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_boxes_are_dense_where_tiles_are_not(backend: str) -> None:
    """8 x 8 tokens meet 14 x 14 keys, not all keys of 14 rows."""
    (piece,) = lower(neighborhood((64, 64), 7), backend).walked(Boxes)
    assert piece.computed / piece.attended < 6
    assert max(piece.forward.own) < 64


def test_a_dilated_axis_is_split_into_its_classes() -> None:
    found = Product(axes_of(neighborhood((64, 64), 7, dilation=4), split=True), BACKENDS["torch"])
    assert found.grid.lengths == (16, 4, 16, 4)
    sizes = found.cheapest
    assert sizes.rows[1] == sizes.rows[3] == 1 and sizes.work.pairs < 4 * (64 * 7) ** 2


def test_work_is_what_is_visited() -> None:
    term = neighborhood((20, 12), (7, 5))
    found = Product(axes_of(term), BACKENDS["torch"])
    (piece,) = lower(term, "torch").walked(Boxes)
    walk = pidsl.compile(term, "torch").form.made("torch", 64).module.PIECE_0
    visited = sum(s.tiles * s.height * s.width for s in walk.schedule(Sizes(240, 240, 0)).segments)
    assert found.work(piece.forward.own, piece.forward.swept).pairs == visited == piece.computed
    assert piece.attended == term.pairs(240)


def test_memory_of_missing_keys_is_not_read() -> None:
    """Keys beyond the grid hold NaN: nobody attends them."""
    term = neighborhood((4, 4), 3)
    q, k, v = (torch.randn(1, 1, 20, 8) for _ in range(3))
    k[:, :, 16:], v[:, :, 16:] = torch.nan, torch.nan
    for backend in ("torch", "triton"):
        out = pidsl.compile(term, backend)(q, k, v)  # type: ignore[call-overload]
        assert out.isfinite().all() and (out[:, :, 16:] == 0).all()


def test_sm_90_does_not_spill(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIDSL_CACHE", str(tmp_path_factory.mktemp("programs")))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("binaries")))
    reports = compile_ahead(lower(neighborhood((64, 64), 7)), "cuda:90", torch.bfloat16, 64)
    for report in reports:
        assert report.spills == 0, report
        assert report.name == "row_statistics" or all(loop.hgmma for loop in report.loops), report


@st.composite
def in_digits(draw: st.DrawFn) -> Term:
    """Patterns that say something of blocks and of places in them."""
    size, count = draw(st.integers(2, 6)), draw(st.integers(2, 5))
    first = draw(st.integers(0, size - 1))
    term: Term = draw(
        st.sampled_from(
            (
                where(lambda i, j: j % size >= first), where(lambda i, j: (i % size < first) & (j // size < i // size)),
                keys(first, None, count).blocked(size), queries(first, None, count).blocked(size),
                (blocks(size * count) & stride(count)).blocked(2), blocks(count * size) & stride(size, first),
            )
        )
    )  # fmt: skip
    if draw(st.booleans()):
        term = term & causal
    return term - draw(st.sampled_from((window(0), blocks(size), window(2).blocked(size))))


@settings(max_examples=2 * settings.default.max_examples)
@given(term=in_digits(), backend=st.sampled_from(("torch", "triton")))
def test_products_of_digits_are_their_part(term: Term, backend: str) -> None:
    for part in parts(rows_relation(term)):
        found = products(part.relation)
        if found is None:
            continue
        union = part.relation - part.relation
        for relation, axes in found:
            assert (union & relation).is_empty()
            union = union | relation
            piece = Product(axes, BACKENDS[backend]).piece(relation)
            assert list(check_grid(piece, piece.layout)) == []
        lengths = read_set("[n, m, offset] -> { : n >= 1 and m >= 1 and offset >= 0 }")
        assert union.is_equal(part.relation.intersect_params(lengths))


@pytest.mark.parametrize("backend", ["torch", "triton"])
@settings(max_examples=settings.default.max_examples // 12)
@given(data=st.data())
def test_digits_run(backend: str, data: st.DataObject) -> None:
    """Every part that falls into products runs in boxes, whatever that costs."""
    term = data.draw(in_digits())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choose, "SPARSE", -1.0)
        patch.setattr(choose, "best_tiles", lambda *_, **__: Tiling(float("inf"), (16,), (16,), Work(0, 0, 0)))
        plan = planned(term, backend)
    form = Softmax(term, backend, None)  # type: ignore[arg-type]
    program = TorchProgram(plan) if backend == "torch" else TritonProgram(plan)
    given_ = data.draw(inputs(shapes(30, head_dims=(16,)), dtypes=("float32",)))
    form.programs.kept = {(backend, kind_of(backend, given_.q, given_.v), False): program}
    assert_matches_dense(Kernel(Recipe(term, backend), form), given_, tolerance=1e-4)
