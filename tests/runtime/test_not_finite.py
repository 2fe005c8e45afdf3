"""NaN and infinity in keys, values and queries: they reach the rows that attend them, and nothing else.

The oracle takes each row on its own, in float64, over the keys that it attends: what it does not attend is not there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from dense import mask_of, tensors
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

import pidsl
from pidsl import (
    blocks,
    causal,
    compile,
    full,
    halo,
    heads,
    keys,
    lags,
    layers,
    neighborhood,
    pairs,
    queries,
    ring,
    score,
    stride,
    where,
    window,
)
from pidsl.language.terms import Ring, Term, walk
from pidsl.testing import Shapes, grids, shapes, terms

NAN, INF = float("nan"), float("inf")
LIST = pairs([(0, 3), (7, 2), (9, 1), (5, 5), (4, 0), (2, 8), (3, 3), (8, 8), (6, 1), (1, 1), (9, 9), (0, 0)])

# term, queries, keys, offset
CASES: list[tuple[Term, int, int, int]] = [
    (neighborhood((2, 2), 1), 1, 4, 0),
    (blocks(2) & causal, 1, 4, 2),
    (blocks(2) & causal, 3, 8, 2),
    (blocks(8) & causal, 3, 20, 9),
    (window(3) & keys(0, None, 2), 2, 16, 6),
    (neighborhood((8, 8), 3, causal=True), 3, 64, 9),
    (neighborhood((6, 5), (3, 2), dilation=(1, 2)), 4, 30, 8),
    (neighborhood((4, 4), 3), 5, 13, 6),
    (halo((8, 8), 4, 1) & causal, 3, 64, 9),
    (halo((4, 6), 2, 1), 7, 23, 5),
    (neighborhood((4, 4), 3) & causal, 2, 16, 5),
    (neighborhood((4, 4), 3) | window(2), 2, 20, 6),
    (neighborhood((4, 4), 3) - keys(0, None, 3), 4, 16, 3),
    (lags(0, 3, 5), 2, 16, 8),
    (lags(0, 3) & keys(0, None, 3), 3, 16, 8),
    (lags(1, 40) & where(lambda i, j: (i + j) % 3 == 0), 20, 50, 30),
    (window(3).dilated(3), 2, 24, 12),
    (stride(5) & causal, 2, 24, 13),
    (LIST, 3, 12, 7),
    (LIST.blocked(3), 5, 28, 4),
    (LIST.blocked(2) | window(1), 4, 24, 9),
    (window(1) @ stride(3), 2, 18, 7),
    (window(2).blocked(4), 2, 18, 7),
    (queries(3, 5), 4, 9, 1),
    (keys(0, 2) | window(2), 3, 30, 20),
    (blocks(5) ^ window(3), 2, 20, 9),
    (window(20) - window(3), 9, 40, 25),
]
ON_TRITON = [*CASES[:7], CASES[8], *CASES[11:13], CASES[14], CASES[18]]  # interpreted, slowly
each_case = pytest.mark.parametrize(("term", "n", "m", "offset"), CASES, ids=lambda x: repr(x))


def by_rows(mask: Tensor, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """(out, lse) in float64, row by row over the attended keys alone."""
    group = q.shape[1] // k.shape[1]
    q, k, v = q.double(), k.double().repeat_interleave(group, 1), v.double().repeat_interleave(group, 1)
    outs, lses = [], []
    for r, row in enumerate(mask):
        j = row.nonzero()[:, 0]
        s = torch.einsum("bhd,bhjd->bhj", q[:, :, r], k[:, :, j]) * scale
        lses.append(torch.logsumexp(s, -1))
        p = torch.softmax(s, -1)[..., None]
        outs.append((p * v[:, :, j]).sum(2))
    return torch.stack(outs, 2), torch.stack(lses, 2)


def run(kernel: Any, q: Tensor, k: Tensor, v: Tensor, seeds: list[Tensor], **call: Any) -> list[Tensor]:
    """out, lse, dq, dk and dv."""
    inputs = [x.detach().clone().requires_grad_() for x in (q, k, v)]
    results = kernel(*inputs, return_lse=True, **call)
    grads = torch.autograd.grad(results, inputs, [s.to(r.dtype) for s, r in zip(seeds, results, strict=True)])
    return [x.detach() for x in (*results, *grads)]


def seeds_of(q: Tensor, v: Tensor) -> list[Tensor]:
    made = torch.Generator().manual_seed(1)
    return [torch.randn(*shape, generator=made) for shape in ((*q.shape[:3], v.shape[3]), q.shape[:3])]


def same(got: Tensor, want: Tensor, where_: Tensor, dtype: torch.dtype = torch.float32) -> None:
    """Equal in the rows (dimension 2) that are marked."""
    tolerance = {torch.float64: 1e-9, torch.float32: 3e-5, torch.float16: 1e-2, torch.bfloat16: 8e-2}[dtype]
    torch.testing.assert_close(got[:, :, where_].double(), want[:, :, where_].double(), rtol=tolerance, atol=tolerance)


def check_unattended(
    kernel: Any, mask: Tensor, q: Tensor, k: Tensor, v: Tensor, value: float, clean: bool = False, **call: Any
) -> None:
    """What nobody attends may be anything: outputs and gradients are those of the oracle (clean: of a clean call)."""
    seeds, unattended = seeds_of(q, v), ~mask.any(0)
    k, v = k.clone(), v.clone()
    if clean:
        want = run(kernel, q, k, v, seeds, **call)
    else:
        inputs = [x.double().requires_grad_() for x in (q, k, v)]
        found = by_rows(mask, *inputs, scale=q.shape[3] ** -0.5)
        lse = torch.where(mask.any(1), found[1], 0.0)
        grads = torch.autograd.grad([found[0], lse], inputs, [x.double() for x in seeds], materialize_grads=True)
        want = [*found, *grads]
    dead = ~mask.any(1)
    for fill in ((k, v), (k,), (v,)) if getattr(kernel, "chosen", "") != "triton" else ((k, v),):
        kk, vv = k.clone(), v.clone()
        for x in fill:
            (kk if x is k else vv)[:, :, unattended] = value
        qq = q.clone()
        qq[:, :, dead] = value  # nor may rows without keys reach anything
        got = run(kernel, qq, kk, vv, seeds, **call)
        for x, y in zip(got, want, strict=True):
            torch.testing.assert_close(x.double(), y.detach().double(), rtol=3e-5, atol=3e-5)


def check_attended(
    kernel: Any, mask: Tensor, q: Tensor, k: Tensor, v: Tensor, which: str, at: int, **call: Any
) -> None:
    """NaN at one key, value or query reaches exactly the rows that attend it, and their keys; lse as the oracle's."""
    seeds = seeds_of(q, v)
    clean = run(kernel, q, k, v, seeds, **call)
    poisoned = {name: x.clone() for name, x in (("q", q), ("k", k), ("v", v))}
    poisoned[which][:, :, at] = NAN
    out, lse, dq, dk, dv = run(kernel, *poisoned.values(), seeds, **call)
    hit = torch.zeros(len(mask), dtype=torch.bool)
    if which == "q":
        hit[at] = mask[at].any()
    else:
        hit = mask[:, at]
    met = mask[hit].any(0)  # keys of rows that are NaN
    assert out[:, :, hit].isnan().all()
    assert lse[:, :, hit].isnan().all() == (which != "v" or not hit.any())
    same(out, clean[0], ~hit)
    same(lse, clean[1], ~hit if which != "v" else torch.ones_like(hit))
    assert dq[:, :, hit].isnan().all()
    same(dq, clean[2], ~hit)
    assert dk[:, :, met].isnan().all()
    same(dk, clean[3], ~met)
    if which != "v":
        assert dv[:, :, met].isnan().all()
    same(dv, clean[4], ~met)


@pytest.mark.parametrize(("term", "n", "m", "offset"), ON_TRITON, ids=lambda x: repr(x))
def test_what_nobody_attends_may_be_anything_on_triton(term: Term, n: int, m: int, offset: int) -> None:
    q, k, v = tensors(n, m, heads=1, kv_heads=1)
    check_unattended(compile(term, "triton"), mask_of(term, q, k, offset), q, k, v, NAN, offset=offset)


@pytest.mark.parametrize("backend", ["torch", "reference"])
@each_case
def test_what_nobody_attends_may_be_anything(backend: Any, term: Term, n: int, m: int, offset: int) -> None:
    q, k, v = tensors(n, m, heads=2, kv_heads=1)
    for value in (NAN, INF, -INF):
        check_unattended(compile(term, backend), mask_of(term, q, k, offset), q, k, v, value, offset=offset)


@pytest.mark.parametrize("backend", ["torch", "reference"])
@each_case
def test_nan_reaches_the_rows_that_attend_it(backend: Any, term: Term, n: int, m: int, offset: int) -> None:
    q, k, v = tensors(n, m, heads=2, kv_heads=1)
    mask = mask_of(term, q, k, offset)
    kernel = compile(term, backend)
    for at in {0, n // 2, n - 1}:
        check_attended(kernel, mask, q, k, v, "q", at, offset=offset)
    for at in sorted({0, m - 1, *mask.any(0).nonzero()[::3, 0].tolist()}):
        check_attended(kernel, mask, q, k, v, "k", at, offset=offset)
        check_attended(kernel, mask, q, k, v, "v", at, offset=offset)


GRIDS = [x for x in CASES if any(isinstance(part, pidsl.language.terms.Neighborhood) for part in walk(x[0]))]


@pytest.mark.parametrize(("term", "n", "m", "offset"), [*CASES[:6], *GRIDS[-2:]], ids=lambda x: repr(x))
def test_nan_in_a_query_or_key_reaches_its_rows_on_triton(term: Term, n: int, m: int, offset: int) -> None:
    q, k, v = tensors(n, m, heads=1, kv_heads=1)
    mask = mask_of(term, q, k, offset)
    kernel = compile(term, "triton")
    for which, count in (("q", n), ("k", m)):
        at = count // 2
        poisoned = {name: x.clone() for name, x in (("q", q), ("k", k), ("v", v))}
        poisoned[which][:, :, at] = NAN
        out, lse = kernel(*poisoned.values(), offset=offset, return_lse=True)
        want = by_rows(mask, *poisoned.values(), scale=0.25)
        torch.testing.assert_close(out.double(), want[0], rtol=3e-5, atol=3e-5, equal_nan=True)
        torch.testing.assert_close(lse.double(), want[1], rtol=3e-5, atol=3e-5, equal_nan=True)


def test_rows_of_one_key_and_of_few_keys() -> None:
    """The flash operation takes a row of NaN with fewer keys than a vector has lanes for a row without keys."""
    for size in (1, 2, 3, 7, 8, 15, 16, 17):
        for term in (blocks(size), window(size), lags(*range(size)), keys(0, size)):
            q, k, v = tensors(20, 20, heads=1, kv_heads=1)
            q[:, :, 4] = NAN
            out, lse = compile(term, "torch")(q, k, v, return_lse=True)
            want = by_rows(mask_of(term, q, k), q, k, v, 0.25)
            torch.testing.assert_close(out.double(), want[0], rtol=3e-5, atol=3e-5, equal_nan=True)
            torch.testing.assert_close(lse.double(), want[1], rtol=3e-5, atol=3e-5, equal_nan=True)


def test_zero_queries_with_one_key_are_not_taken_for_nan() -> None:
    q, k, v = tensors(9, 9)
    out, lse = compile(window(0), "torch")(torch.zeros_like(q), k, v, return_lse=True)
    torch.testing.assert_close(out, v)
    assert (lse == 0).all()


def test_infinite_values_and_columns_stay_where_they_are() -> None:
    q, k, v = tensors(6, 6, heads=1, kv_heads=1, dtype=torch.float64)
    v[..., 2, 0], v[..., 2, 1], v[..., 3, 1], v[..., 4, 5] = INF, INF, -INF, NAN
    term = window(1)
    for backend in ("torch", "reference"):
        out = compile(term, backend)(q, k, v)
        want, _ = by_rows(mask_of(term, q, k), q, k, v, 0.25)
        torch.testing.assert_close(out, want, equal_nan=True)
    assert torch.isposinf(want[0, 0, 2, 0]) and want[0, 0, 3, 1].isnan() and want[0, 0, 5, :5].isfinite().all()


@settings(max_examples=2 * settings.default.max_examples)
@given(data=st.data())
def test_random_terms(data: st.DataObject) -> None:
    term = data.draw(st.one_of(terms(depth=3, ring=True), grids()))
    square = any(isinstance(x, Ring) for x in walk(term))
    shape: Shapes = data.draw(shapes(40, square=square, head_dims=(8, 16)))
    assume(shape.n > 0)
    dtype = data.draw(st.sampled_from((torch.float32, torch.float64)))
    q, k, v = tensors(
        shape.n, shape.m, shape.head_dim, shape.value_dim, shape.heads, shape.kv_heads, shape.batch, dtype
    )  # fmt: skip
    mask = mask_of(term, q, k, shape.offset)
    kernel = compile(term, "torch")
    check_unattended(kernel, mask, q, k, v, data.draw(st.sampled_from((NAN, INF, -INF))), offset=shape.offset)
    for which, count in (("q", len(mask)), ("k", mask.shape[1]), ("v", mask.shape[1])):
        if count:
            check_attended(kernel, mask, q, k, v, which, data.draw(st.integers(0, count - 1)), offset=shape.offset)


HALVES = [*(("torch", *CASES[x]) for x in (2, 8, 13, 19)), ("triton", *CASES[2])]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("backend", "term", "n", "m", "offset"), HALVES, ids=lambda x: repr(x))
def test_half_precision(backend: Any, term: Term, n: int, m: int, offset: int, dtype: torch.dtype) -> None:
    q, k, v = tensors(n, m, heads=2, kv_heads=1, dtype=dtype)
    kernel, mask = compile(term, backend), mask_of(term, q, k, offset)
    check_unattended(kernel, mask, q, k, v, NAN, clean=True, offset=offset)
    if backend == "torch":
        for which in "qkv":
            check_attended(kernel, mask, q, k, v, which, n // 2, offset=offset)


SCORES = [
    score(alibi=True), score(bias=(-3, 3)), score(softcap=5.0), score(sinks=True), score(temperature=True),
    score(softcap=5.0, alibi=True, bias=(0, 4), sinks=True, temperature=True, dropout=0.3),
]  # fmt: skip


def parameters_of(which: Any, count: int) -> dict[str, Any]:
    made = torch.Generator().manual_seed(2)
    sizes: dict[str, tuple[int, ...]] = dict(slopes=(count,), sinks=(count,), temperature=(count,))
    sizes["bias"] = (count, which.table)
    given_ = {x: torch.rand(*sizes[x], generator=made) + 0.5 for x in which.parameters if x != "seed"}
    return given_ | ({"seed": 3} if "seed" in which.parameters else {})


@pytest.mark.parametrize("backend", ["torch", "triton", "reference"])
@pytest.mark.parametrize("which", SCORES, ids=repr)
def test_scores(backend: Any, which: Any) -> None:
    for term, n, m, offset in (CASES[0], CASES[2], CASES[5], CASES[14], CASES[15], CASES[19]):
        if backend == "triton" and (len(which.parameters) not in (1, 5) or n + m > 11):
            continue
        q, k, v = tensors(n, m, heads=2, kv_heads=1)
        given_ = parameters_of(which, 2)
        tensors_ = {name: x.requires_grad_() for name, x in given_.items() if isinstance(x, Tensor)}
        kernel, mask = compile(term, backend, which), mask_of(term, q, k, offset)
        check_unattended(kernel, mask, q, k, v, NAN, clean=True, offset=offset, **given_)
        if not which.dropout and not which.sinks and backend != "triton":
            for name in "qkv":
                check_attended(kernel, mask, q, k, v, name, n // 2, offset=offset, **given_)
        if tensors_:  # the gradients of the parameters
            k2, v2 = k.clone(), v.clone()
            k2[:, :, ~mask.any(0)] = v2[:, :, ~mask.any(0)] = NAN
            grads = [
                torch.autograd.grad(kernel(q, *kv, offset=offset, **given_).sum(), list(tensors_.values()))
                for kv in ((k, v), (k2, v2))
            ]
            torch.testing.assert_close(grads[0], grads[1], rtol=3e-5, atol=3e-5)


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_other_wrappers(backend: Any) -> None:
    """Gates, heads, summaries, layers, output gates and affine weights."""
    term, n, m, offset = blocks(2) & causal, 3, 8, 2
    other = neighborhood((2, 4), 3)
    q, k, v = tensors(n, m, heads=2, kv_heads=2)
    mask = mask_of(term, q, k, offset) | mask_of(other, q, k, offset)
    weights, gate = torch.rand(1, 2, n, 2), torch.randn(1, 2, n)

    def output(of: Any, **options: Any) -> Callable[..., Any]:
        return lambda q, k, v, **call: compile(of, backend, output_gate="head", **options)(
            q, k, v, output_gate=gate, **call
        )

    wrapped: list[Callable[..., Any]] = [
        compile(heads([(1, term), (1, other)]), backend),
        compile(layers([term, other]), backend)[1],
        output(term),
        lambda q, k, v, **call: compile(other, backend, affine=True)(q, k, v, alpha=0.5, beta=0.25, **call),
        output(other, affine=True),
    ]
    for kernel in wrapped:
        check_unattended(kernel, mask, q, k, v, NAN, clean=True, offset=offset)

    branches = compile(pidsl.gate(a=term, b=other), backend)
    unattended, results = ~mask.any(0), []
    for value in (1.0, NAN):
        kk, vv = k.clone(), v.clone()
        kk[:, :, unattended] = vv[:, :, unattended] = value
        inputs = [x.requires_grad_() for x in (q.clone(), kk, vv, weights.clone())]
        out = branches(*inputs, offset=offset)
        results.append([out.detach(), *torch.autograd.grad(out.sum(), inputs)])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_rows_of_other_heads_stay_clean(backend: Any) -> None:
    q, k, v = tensors(12, 12, heads=4, kv_heads=2)
    kernel = compile(heads([(1, window(1)), (3, causal & blocks(4))]), backend)
    clean = kernel(q, k, v)
    v[:, 1, 11] = NAN  # attended by row 11 of the heads 2 and 3 alone
    out = kernel(q, k, v)
    touched = out.isnan().any(-1)
    assert touched[:, 2:, 11].all() and not touched[:, :2].any()
    if backend == "torch":
        assert touched.sum() == 2
        torch.testing.assert_close(out[~touched], clean[~touched])


def test_full_and_ring_have_no_masks() -> None:
    for term in (full, ring(2)):
        q, k, v = tensors(7, 7)
        for which in "qkv":
            check_attended(compile(term, "torch"), mask_of(term, q, k), q, k, v, which, 3)
