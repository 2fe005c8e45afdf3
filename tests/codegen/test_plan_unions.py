"""Plans of many parts and of long periods: documents, hundreds of lags, a billion tokens; what they count and keep."""

from __future__ import annotations

import gc
import tracemalloc
from functools import reduce
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import pytest
import torch
from test_plan import visits
from test_plan_faults import attention

import pidsl
from pidsl import blocks, causal, keys, lags, neighborhood, pairs, queries, stride, where, window
from pidsl.codegen.check import check_plan
from pidsl.codegen.choice.cost import BACKENDS
from pidsl.codegen.emit_torch.source import torch_source
from pidsl.codegen.emit_triton.source import triton_source
from pidsl.codegen.lower import lower
from pidsl.language.terms import Term
from pidsl.runtime.run_torch import walks

BILLION = 10**9


def union(terms: list[Term]) -> Term:
    while len(terms) > 1:
        terms = [reduce(lambda a, b: a | b, terms[k : k + 2]) for k in range(0, len(terms), 2)]
    return terms[0]


def lengths_of(count: int, longest: int = 40) -> list[int]:
    return [int(x) for x in np.random.default_rng(count).integers(1, longest, count)]


def documents(lengths: list[int], within: Term | None = None) -> Term:
    ends = [0, *accumulate(lengths)]
    parts = [queries(a, b) & keys(a, b) for a, b in pairwise(ends)]
    return union(parts if within is None else [x & within for x in parts])


def shuffled(lengths: list[int]) -> Term:
    """Documents whose keys lie in another order than their queries, some of them shared."""
    ends = list(pairwise([0, *accumulate(lengths)]))
    order = np.random.default_rng(7).integers(0, len(ends), len(ends))
    return union([queries(a, b) & keys(*ends[k]) for (a, b), k in zip(ends, order, strict=True)])


PACKED = {
    "13 documents": documents(lengths_of(13)),
    "equal": documents([16] * 20),
    "causal": documents(lengths_of(30), causal),
    "causal outside": documents(lengths_of(20)) & causal,
    "window": documents(lengths_of(25), window(9, 2)),
    "gaps": union([queries(7 * k, 7 * k + 4) & keys(5 * k, 5 * k + 3 + k % 4) for k in range(16)]),
    "shuffled": shuffled(lengths_of(16)),
    "beside a window": documents(lengths_of(15)) | window(3),
    "beside a sink": documents(lengths_of(15), causal) | keys(0, 2) & causal,
    "looked up": where(lambda i, j: (i >= 9) == (j >= 9)) & documents(lengths_of(14)),
    "slopes": union([queries(9 * k, 9 * k + 9) & window(k % 5, k % 3) for k in range(20)]),
}


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("name", PACKED)
def test_documents_visit_few_tiles(name: str, backend: str) -> None:
    term = PACKED[name]
    plan = lower(term, backend)
    for n, m, offset in ((150, 150, 0), (40, 33, 0), (60, 130, 70)):
        for which in BACKENDS[backend].passes:
            np.testing.assert_array_equal(visits(plan, n, m, offset, which), term.mask(n, m, offset))
    check_plan(plan, 100_000_000)
    assert sum(piece.computed for piece in plan.pieces) < 0.01 * plan.reference**2  # all tiles would be all of it
    ast = torch_source(plan) if backend == "torch" else triton_source(plan)
    compile(ast, "<plan>", "exec")


@pytest.mark.parametrize("name", PACKED)
def test_documents_run(name: str) -> None:
    term = PACKED[name]
    generator = torch.Generator().manual_seed(0)
    for n, offset in ((200, 0), (50, 61)):
        q, k, v = (
            torch.randn(1, 1, x, 4, dtype=torch.float64, generator=generator, requires_grad=True)
            for x in (n, n + offset, n + offset)
        )
        found = pidsl.compile(term, backend="torch")(q, k, v, offset=offset)
        expected = attention(term.mask(n, n + offset, offset), q, k, v)
        torch.testing.assert_close(found, expected)
        for a, b in zip(*(torch.autograd.grad(x.square().sum(), (q, k, v)) for x in (found, expected)), strict=True):
            torch.testing.assert_close(a, b)


HUNDREDS = {
    "documents": documents(lengths_of(150), causal),
    "shifts": union([window(2).shift(10 * k) for k in range(150)]),
    "shifted keys": union([keys(0, 3).shift(-10 * k) for k in range(150)]),
    "lags": lags(*(3 * k * k % 5003 for k in range(150))),
    "strides": union([stride(100 + k) & causal for k in range(50)]),
    "rows of windows": union([queries(5 * k, 5 * k + 5) & window(k, 0) for k in range(100)]),
}


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        pytest.param(name, backend, marks=pytest.mark.slow if (name, backend) == ("strides", "triton") else [])
        for name in HUNDREDS for backend in ("torch", "triton")
    ],
)  # fmt: skip
def test_hundreds_of_parts(name: str, backend: str) -> None:
    term = HUNDREDS[name]
    plan = lower(term, backend)
    assert not plan.notes  # isl's limit did not strike
    source = torch_source(plan) if backend == "torch" else triton_source(plan)
    compile(source, "<plan>", "exec")
    np.testing.assert_array_equal(visits(plan, 33, 210, 170, "forward"), term.mask(33, 210, 170))
    if backend == "torch":
        q, k, v = (torch.randn(1, 1, x, 4, dtype=torch.float64) for x in (230, 700, 700))
        found = pidsl.compile(term, backend="torch")(q, k, v, offset=440)
        torch.testing.assert_close(found, attention(term.mask(230, 700, 440), q, k, v))


COUNTED: list[Term] = [
    documents(lengths_of(13)),
    documents(lengths_of(13)) & causal,
    shuffled(lengths_of(16)),
    window(63) | stride(256) & causal,
    stride(100, 3) & causal,
    lags(0, 5, 300) & keys(7, None),
    neighborhood((9, 7), 3),
    stride(3).dilated(5) & causal,
    where(lambda i, j: (j // 8 < i // 64) & (j % 64 >= 56)),
    pairs([(k, 3 * k % 50) for k in range(60)]).blocked(4) & causal,
    where(lambda i, j: (2 * i - 3 * j) % 11 < 6) & window(40),
]


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("term", COUNTED, ids=lambda x: repr(x)[:40])
def test_counts_are_true_or_absent(term: Term, backend: str) -> None:
    plan = lower(term, backend)
    text = str(plan)
    known = [piece.attended for piece in plan.pieces]
    assert any(x is not None for x in known)
    for piece, attended in zip(plan.pieces, known, strict=True):
        if attended is not None:
            assert attended <= piece.computed
            assert f"at n = {piece.reference}: computed {piece.computed:,} / attended {attended:,}" in text
    if None not in known and len({piece.reference for piece in plan.pieces}) == 1:
        assert sum(x or 0 for x in known) == term.pairs(plan.pieces[0].reference)


def kept_pairs(module: Any) -> int:
    """Elements of the masks that a torch program keeps."""
    total = 0
    for piece in vars(module).values():
        for schedule in piece._known.values() if isinstance(piece, walks.Walk) else ():
            for s in schedule.segments:
                total += sum(x.bias.numel() for x in s.masks.values() if x is not None)
    return total


@pytest.mark.parametrize(
    "term",
    [
        where(lambda i, j: (i * 3 + j * 5) // 7 % 3 == 0),
        documents([300] * 14) | window(700).blocked(3),
        shuffled([99] * 20),
    ],
    ids=["skewed", "documents", "shuffled"],
)
def test_kept_masks_grow_with_the_lengths_only(term: Term) -> None:
    kernel = pidsl.compile(term, backend="torch")
    module = kernel.form.made("torch", 64).module
    for n in (1024, 2048, 4096):
        q = torch.randn(1, 1, n, 8)
        kernel(q, q, q)
        known = kept_pairs(module)
        assert known <= len([x for x in vars(module) if x.startswith("PIECE")]) * 3 * walks.KEPT_PER_TOKEN * 2 * n


def test_masks_of_all_kernels_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walks, "KEPT_BYTES", 200_000)
    kernels = [pidsl.compile(where(lambda i, j: (i * 3 + j * p) % 7 < 3), backend="torch") for p in (2, 4, 5)]  # noqa: B023
    q = torch.randn(1, 1, 300, 8)
    first = [kernel(q, q, q) for kernel in kernels]
    total = sum(4 * kept_pairs(kernel.form.made("torch", 64).module) for kernel in kernels)
    assert total <= 200_000
    assert all(torch.equal(kernel(q, q, q), x) for kernel, x in zip(kernels, first, strict=True))


PERIODS: dict[str, Term] = {
    "stride": stride(BILLION) & causal,
    "phase": stride(BILLION, 5) & causal,
    "dilated": causal.dilated(BILLION),
    "dilated window": window(3, 2).dilated(BILLION),
    "dilated stride": stride(3).dilated(BILLION),
    "blocks": blocks(BILLION),
    "causal blocks": blocks(BILLION) & causal,
    "keys": keys(5, None, BILLION),
    "queries": queries(3, None, BILLION),
    "sinks": keys(0, None, BILLION) | window(3),
    "lags": lags(0, 5, BILLION),
    "blocked": window(1).blocked(BILLION),
    "transposed": (stride(BILLION, 7) | blocks(BILLION)).T,
    "power": stride(BILLION, 7) ** 2,
    "where": where(lambda i, j: i % 1000000000 == 3),
    "skewed": where(lambda i, j: (2 * i - 3 * j) % 1000000000 < 6),
    "blocked stride": stride(10**6, 3).blocked(1000),
    "grid": neighborhood((2, BILLION), (1, 3)),
}


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("name", PERIODS)
def test_planning_does_not_grow_with_a_period(name: str, backend: str) -> None:
    term = PERIODS[name]
    gc.collect()
    tracemalloc.start()
    try:
        plan = lower(term, backend)
        str(plan)
        compile(torch_source(plan) if backend == "torch" else triton_source(plan), "<plan>", "exec")
        check_plan(plan)
        if backend == "torch":
            q, k, v = (torch.randn(1, 1, x, 4, dtype=torch.float64, requires_grad=True) for x in (9, 20, 20))
            out = pidsl.compile(term, backend="torch")(q, k, v, offset=11)
            mask = np.eye(9, 20, 11, dtype=bool) if "dilated" in name else term.mask(9, 20, 11)
            torch.testing.assert_close(out, attention(mask, q, k, v))
            torch.autograd.grad(out.sum(), (q, k, v))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 << 20


COMPOSED: list[Term] = [
    (blocks(11) ^ window(3, 7)) @ stride(11, 7).T,
    (blocks(7) ^ window(2, 3)) @ stride(7, 3).T,
    stride(5, 2).T @ (window(2) ^ blocks(5)),
    (stride(6, 1) ^ blocks(4)) @ blocks(6),
    (where(lambda i, j: i % 3 == j % 5) ^ window(2)) @ stride(4).T,
    (stride(6, 2) ** 2) ^ window(3),
]


@pytest.mark.parametrize("term", COMPOSED, ids=repr)
def test_compositions_have_plans(term: Term) -> None:
    compile(triton_source(lower(term, "triton")), "<plan>", "exec")
    q, k, v = (torch.randn(1, 1, 41, 4, dtype=torch.float64) for _ in range(3))
    found = pidsl.compile(term, backend="torch")(q, k, v)
    torch.testing.assert_close(found, attention(term.mask(41), q, k, v))
