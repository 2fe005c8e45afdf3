"""Calls whose keys start at a position: values and gradients on every backend, scores, heads, parts that are merged."""

from __future__ import annotations

from functools import reduce
from itertools import pairwise
from operator import or_
from typing import Any

import numpy as np
import pytest
import torch
from dense import tensors
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import pidsl
from pidsl import (
    blocks,
    causal,
    full,
    halo,
    heads,
    keys,
    lags,
    neighborhood,
    pairs,
    patterns,
    queries,
    ring,
    score,
    stride,
    where,
    window,
)  # fmt: skip
from pidsl.codegen.check import check_plan
from pidsl.codegen.choice.together import together
from pidsl.codegen.lower import lower
from pidsl.language.terms import Term
from pidsl.relation.build import needs_square
from pidsl.relation.frame import MOVED
from pidsl.runtime.run_triton.ahead import compile_ahead
from pidsl.testing import Inputs, assert_matches_dense, inputs, shapes, terms

ALL = ("torch", "reference", "triton")
LONGEST = {"torch": 60, "reference": 60, "triton": 20}
MIXED = window(9) | stride(8) & causal | keys(0, 2) & causal | lags(40)
LISTED = patterns.bigbird(56, block=4, random=2)
PAIRS = pairs([(x, 3 * x % 41) for x in range(40)]) & causal
DOCUMENTS = [3 + x % 7 for x in range(20)]
ENDS = list(np.cumsum(DOCUMENTS))
# (n, m, offset, key_offset): queries before all keys, among them and behind them; keys that end before the queries
SIZES = [(9, 31, 22, 5), (20, 30, 3, 40), (33, 20, 0, 13), (5, 60, 90, 31), (70, 70, 64, 64), (1, 1, 8, 7)]
SOME: list[Term] = [
    full, causal, window(255), stride(16) & causal, window(5) | stride(16), blocks(100), blocks(7) & causal, ring(3),
    window(15).dilated(16), keys(0, 4) | window(40), keys(0, None, 16), queries(1, None, 3), stride(7, 3), ~window(3),
    keys(1, None, 3) & queries(2, None, 5), lags(-3, 0, 1, 2, 4, 40), (window(3) | lags(16)) ** 3, keys(-7, None),
    window(2).blocked(16), where(lambda i, j: (i + j) % 5 == 0), where(lambda i, j, n, m: i // 2 + m - n == j),
    neighborhood((8, 8), 3), neighborhood((40, 12), (5, 3)), halo((6, 9), (2, 3), 1) | causal, LISTED, MIXED,
    neighborhood((5, 7), 3) - keys(3, 9), PAIRS,
    reduce(or_, (queries(a, b) & keys(a, b) for a, b in pairwise([0, *map(int, ENDS)]))) & causal,
]  # fmt: skip
PARTS = score(softcap=5.0, alibi=True, bias=(-8, 24), sinks=True, temperature=True, dropout=0.2)
SCORES = (PARTS, score(alibi=True), score(dropout=0.3), score(bias=(0, 20)))


def calls(longest: int, **options: Any) -> st.SearchStrategy[Inputs]:
    sizes = shapes(longest, head_dims=(8, 16), offsets=(0, 0, 5, 33), key_offsets=(1, 4, 16, 45), **options)
    return inputs(sizes, dtypes=("float32",))


@pytest.mark.parametrize("backend", ALL)
def test_random_terms(backend: Any) -> None:
    share = {"torch": 1, "reference": 2, "triton": 8}[backend]

    @settings(max_examples=settings.default.max_examples // share)
    @given(terms(depth=3, ring=True, grid=True), st.data())
    def run(term: Term, data: st.DataObject) -> None:
        called = data.draw(calls(LONGEST[backend], square=needs_square(term)))
        assert_matches_dense(term, called, backend=backend, tolerance=1e-4)

    run()


@pytest.mark.parametrize("term", SOME, ids=lambda term: repr(term)[:40])
def test_where_queries_stand(term: Term) -> None:
    """Before all keys, among them, behind them."""
    for n, m, offset, key_offset in SIZES:
        if needs_square(term):
            offset = max(offset, m - n)
            key_offset = n + offset - m
        given_ = Inputs(*tensors(n, m, kv_heads=1), offset, key_offset)
        assert_matches_dense(term, given_, backend="torch", tolerance=1e-4)


ON_TRITON = [  # interpreted: few programs each
    (MIXED, (7, 20, 43, 5)), (blocks(6) - keys(1, None, 4), (9, 12, 20, 7)), (keys(1, None, 3), (6, 14, 0, 10)),
    (neighborhood((4, 6), 3), (9, 13, 12, 7)), (LISTED, (5, 12, 14, 9)),
]  # fmt: skip


@pytest.mark.parametrize(("term", "sizes"), ON_TRITON, ids=lambda x: str(x)[:40])
def test_where_queries_stand_on_triton(term: Term, sizes: tuple[int, ...]) -> None:
    n, m, *positions = sizes
    assert_matches_dense(term, Inputs(*tensors(n, m, kv_heads=1), *positions), backend="triton", tolerance=1e-4)


def numbers(s: Any, count: int, generator: torch.Generator) -> dict[str, Any]:
    """Parameters of a score."""
    sizes = {"slopes": (count,), "bias": (count, s.table), "sinks": (count,), "temperature": (count,)}
    found: dict[str, Any] = {x: 0.3 + torch.rand(*sizes[x], generator=generator) for x in s.parameters if x in sizes}
    return found | ({"seed": 7} if "seed" in s.parameters else {})


@pytest.mark.parametrize("own", SCORES, ids=repr)
@pytest.mark.parametrize("term", [MIXED, neighborhood((4, 6), 3), LISTED], ids=["mixed", "grid", "list"])
def test_scores_see_positions(own: Any, term: Term) -> None:
    parameters = numbers(own, 2, torch.Generator().manual_seed(3))
    for n, m, *positions in ((9, 31, 40, 12), (14, 10, 5, 9)):
        kernel = pidsl.compile(term, "torch", own)
        given_ = Inputs(*tensors(n, m, kv_heads=1), *positions)
        assert_matches_dense(kernel, given_, parameters=parameters, tolerance=2e-4)


@pytest.mark.parametrize(("term", "sizes"), ON_TRITON[:1] + ON_TRITON[3:], ids=lambda x: str(x)[:40])
def test_scores_see_positions_on_triton(term: Term, sizes: tuple[int, ...]) -> None:
    n, m, *positions = sizes
    kernel, given_ = pidsl.compile(term, "triton", PARTS), Inputs(*tensors(n, m, heads=1, kv_heads=1), *positions)
    parameters = numbers(PARTS, 1, torch.Generator().manual_seed(3))
    assert_matches_dense(kernel, given_, parameters=parameters, tolerance=2e-4)


def test_the_reference_drops_and_biases_by_position() -> None:
    """What a part of the keys contributes is what it contributes among all of them."""
    s = score(alibi=True, bias=(-8, 24), dropout=0.4)
    q, k, v = tensors(12, 30)
    parameters = numbers(s, 2, torch.Generator().manual_seed(0))
    kernel = pidsl.compile(causal, "reference", s)
    whole = kernel(q, k, v, offset=18, return_lse=True, **parameters)
    cuts = [slice(0, 11), slice(11, 16), slice(16, 30)]
    parts = [
        kernel(q, k[:, :, x], v[:, :, x], offset=18, key_offset=x.start, return_lse=True, **parameters) for x in cuts
    ]
    for a, b in zip(pidsl.merge(parts), whole, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize(
    "term", [MIXED, neighborhood((5, 8), 3), blocks(6) | keys(1, None, 4)], ids=["mixed", "grid", "blocks"]
)
def test_parts_of_the_keys_make_the_whole(backend: Any, term: Term) -> None:
    """Keys in parts, as they come around a ring, and queries in chunks: the same attention and the same gradients."""
    count, chunk, part = (14, 9, 8) if backend == "triton" else (40, 13, 9)
    q, k, v = (x.requires_grad_() for x in tensors(count, count, heads=1, kv_heads=1))
    kernel = pidsl.compile(term, backend)

    def of_rows(start: int) -> tuple[Tensor, Tensor]:
        mine, found = q[:, :, start : start + chunk], []
        for x in range(0, count, part):
            keys_, values = (y[:, :, x : x + part] for y in (k, v))
            found.append(kernel(mine, keys_, values, offset=start, key_offset=x, return_lse=True))
        return pidsl.merge(found)

    rows = [of_rows(start) for start in range(0, count, chunk)]
    in_parts = [torch.cat(x, 2) for x in zip(*rows, strict=True)]
    results = []
    for out, lse in (in_parts, kernel(q, k, v, return_lse=True)):
        loss = out.sin().sum() + torch.where(lse.isfinite(), lse, 0.0).cos().sum()
        results.append((out, lse, *torch.autograd.grad(loss, (q, k, v))))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_heads(backend: Any) -> None:
    """One launch for all heads on Triton, where layouts agree."""
    term = heads([(1, window(7)), (1, window(3) | keys(0, 2) & causal), (2, causal)])
    if backend == "triton":
        plan = together(term, lambda part, size: lower(part, size=size, frame=MOVED))
        assert plan is not None and plan.frame == MOVED
        check_plan(plan)
    given_ = Inputs(*tensors(11, 17, heads=4, kv_heads=2), 19, 6)
    assert_matches_dense(term, given_, backend=backend, tolerance=1e-4)
    apart = heads([(1, window(7)), (1, stride(4) & causal), (2, keys(1, None, 5))])
    assert_matches_dense(apart, given_, backend=backend, tolerance=1e-4)


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("term", [MIXED, neighborhood((5, 8), 3), PAIRS], ids=["mixed", "grid", "list"])
def test_keys_that_nobody_attends_are_not_read(backend: Any, term: Term) -> None:
    q, k, v = tensors(9, 40, heads=1, kv_heads=1)
    mask = term.mask(9, 40, 20, 7)
    dead = torch.from_numpy(~mask.any(0))
    assert dead.any()
    k[:, :, dead], v[:, :, dead] = torch.nan, torch.nan
    leaves = [x.requires_grad_() for x in (q, k, v)]
    kernel = pidsl.compile(term, backend)
    out, lse = kernel(q, k, v, offset=20, key_offset=7, return_lse=True)
    grads = torch.autograd.grad(out.sum() + lse[lse.isfinite()].sum(), leaves)
    assert out.isfinite().all() and all(x.isfinite().all() for x in grads)
    assert not grads[1][:, :, dead].any()


@pytest.mark.parametrize("backend", ALL)
def test_queries_before_all_keys_attend_nothing(backend: Any) -> None:
    out, lse = pidsl.compile(causal, backend)(*tensors(5, 8), key_offset=100, return_lse=True)
    assert not out.any() and (lse == -torch.inf).all()


def test_a_graph_of_torch_holds_both_programs() -> None:
    """The op picks the program by the key offset of the call."""
    kernel = pidsl.compile(MIXED, "torch")

    def called(q: Tensor, k: Tensor, v: Tensor, at: int) -> Any:
        return kernel(q, k, v, offset=12, key_offset=at)

    torch._dynamo.reset()
    traced = torch.compile(called, backend="aot_eager", fullgraph=True, dynamic=True)
    q, k, v = (x.requires_grad_() for x in tensors(6, 18))
    for at in (0, 5, 9, 1):
        results = []
        for run in (called, traced):
            out = run(q, k, v, at)
            results.append((out, *torch.autograd.grad(out.sin().sum(), (q, k, v))))
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_a_ring_closes_over_one_set_of_positions() -> None:
    given_ = Inputs(*tensors(6, 9), offset=8, key_offset=5)
    assert_matches_dense(ring(2), given_, backend="torch")
    with pytest.raises(pidsl.SizeError, match="key_offset"):
        ring(2).mask(6, 9, 8, 4)


def test_masks_in_memory_do_not_mix_up_positions() -> None:
    """Schedules and masks are kept by sizes, key_offset among them."""
    kernel, (q, k, v) = pidsl.compile(MIXED, "torch"), tensors(30, 30)
    for key_offset in (0, 3, 0, 4, 3):
        mask = torch.from_numpy(np.array(MIXED.mask(30, 30, 7, key_offset)))
        scores = (q @ k.mT / 4).masked_fill(~mask, -torch.inf)
        live = mask.any(1)[:, None]
        expected = torch.softmax(scores.masked_fill(~live, 0.0), -1).masked_fill(~live, 0.0) @ v
        torch.testing.assert_close(kernel(q, k, v, offset=7, key_offset=key_offset), expected, atol=1e-5, rtol=1e-4)


def test_sm_90_does_not_spill(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIDSL_CACHE", str(tmp_path_factory.mktemp("programs")))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("binaries")))
    for report in compile_ahead(lower(window(255), frame=MOVED)):
        assert report.spills == 0, report
        assert report.name == "row_statistics" or all(loop.hgmma for loop in report.loops), report
