"""`kernel.decode`: a step over the keys that a cache keeps is a step over all keys: wrappers, lengths, graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import pidsl
from pidsl import ArgumentError, BackendError, blocks, causal, heads, keys, lags, score, window
from pidsl.language.terms import Term
from pidsl.testing import terms

BACKENDS = ("torch", "reference")
SINKS = window(5) | keys(0, 4) & causal
MIXED = window(3) | window(31) & keys(0, None, 8) | lags(40)
HEADS = heads([(2, window(3)), (1, SINKS), (1, window(3))])
B, HQ, HKV, D = 2, 4, 2, 8


def tokens(count: int, heads: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    made = torch.Generator().manual_seed(seed)
    return torch.randn(B, heads, count, D, generator=made, dtype=torch.float64).to(dtype)


def cache_of(kernel: Any, **options: Any) -> Any:
    return pidsl.Cache(kernel, B, HKV, D, options.pop("dtype", torch.float32), "cpu", **options)


def same(kernel: Any, step: Any, all_: Any, tolerance: float = 1e-5) -> None:
    for x, y in zip(step, all_, strict=True):
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("page", [None, 4])
@pytest.mark.parametrize("backend", BACKENDS)
def test_random_terms(backend: Any, page: int | None) -> None:
    @settings(max_examples=settings.default.max_examples // 4)
    @given(terms(depth=2, grid=True), st.lists(st.integers(1, 9), min_size=1, max_size=9), st.integers(0, 3))
    def run(term: Term, steps: list[int], lookahead: int) -> None:
        kernel = pidsl.compile(term, backend)
        cache, done = cache_of(kernel, lookahead=lookahead, page_size=page), 0
        k, v, q = tokens(sum(steps), HKV, 1), tokens(sum(steps), HKV, 2), tokens(sum(steps), HQ, 3)
        for count in steps:
            cache.append(k[:, :, done : done + count], v[:, :, done : done + count])
            done += count
            rows = min(count, lookahead + 1)
            mine = q[:, :, done - rows : done]
            whole = kernel(mine, k[:, :, :done], v[:, :, :done], offset=done - rows, return_lse=True)
            same(kernel, kernel.decode(mine, cache, return_lse=True), whole)

    run()


WRAPPED: dict[str, tuple[Any, dict[str, Any], Callable[[int], dict[str, Any]]]] = {
    "term": (MIXED, {}, lambda n: {}),
    "heads": (HEADS, {}, lambda n: {}),
    "gate": (pidsl.gate(a=window(2), b=lags(0, 16)), {}, lambda n: {"weights": torch.rand(B, HQ, n, 2)}),
    "score": (
        SINKS,
        {"score": score(softcap=5.0, alibi=True, bias=(-3, 9), sinks=True, temperature=True, dropout=0.2)},
        lambda n: {
            "slopes": torch.rand(4), "bias": torch.randn(4, 13), "sinks": torch.randn(4),
            "temperature": 0.5 + torch.rand(4), "seed": 5,
        },
    ),
    "affine": (SINKS, {"affine": True}, lambda n: {"alpha": torch.rand(B, HQ, n), "beta": torch.rand(HQ)}),
    "output gate": (SINKS, {"output_gate": "head"}, lambda n: {"output_gate": torch.randn(B, HQ, n)}),
}  # fmt: skip


@pytest.mark.parametrize("page", [None, 4])
@pytest.mark.parametrize("backend", [*BACKENDS, "triton"])
@pytest.mark.parametrize("kind", WRAPPED)
def test_wrappers(kind: str, backend: Any, page: int | None) -> None:
    term, options, given = WRAPPED[kind]
    kernel = pidsl.compile(term, backend, **options)
    cache = cache_of(kernel, lookahead=1, page_size=page)
    k, v, q = tokens(60, HKV, 1), tokens(60, HKV, 2), tokens(60, HQ, 3)
    for first, last in ((0, 1), (1, 30), (30, 31), (31, 60)):
        cache.append(k[:, :, first:last], v[:, :, first:last])
        rows = min(2, last - first)
        more, mine = given(rows), q[:, :, last - rows : last]
        whole = kernel(mine, k[:, :, :last], v[:, :, :last], offset=last - rows, return_lse=True, **more)
        same(kernel, kernel.decode(mine, cache, return_lse=True, **more), whole)


@pytest.mark.parametrize("page", [None, 4])
@pytest.mark.parametrize("backend", [*BACKENDS, "triton"])
def test_a_length_for_each_entry(backend: Any, page: int | None) -> None:
    """Ragged prefill, then steps; an entry with fewer tokens than rows has padding first."""
    kernel = pidsl.compile(SINKS, backend)
    cache = cache_of(kernel, lookahead=2, page_size=page)
    k, v, q = tokens(30, HKV, 1), tokens(30, HKV, 2), tokens(3, HQ, 3)
    count = torch.tensor([1, 17])
    cache.append(k[:, :, :17], v[:, :, :17], lengths=count)
    for _ in range(8):
        out, lse = kernel.decode(q, cache, return_lse=True)
        for b, t in enumerate(count.tolist()):
            rows = min(3, t)
            whole = kernel(
                q[b : b + 1, :, 3 - rows :], k[b : b + 1, :, :t], v[b : b + 1, :, :t], offset=t - rows, return_lse=True
            )
            same(kernel, (out[b : b + 1, :, 3 - rows :], lse[b : b + 1, :, 3 - rows :]), whole)
            assert not out[b, :, : 3 - rows].any() and (lse[b, :, : 3 - rows] == -torch.inf).all()
        at = count.view(B, 1, 1, 1).expand(B, HKV, 1, D)
        cache.append(k.gather(2, at), v.gather(2, at))
        count += 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtypes(dtype: torch.dtype) -> None:
    kernel = pidsl.compile(MIXED, "torch")
    cache = cache_of(kernel, dtype=dtype)
    k, v, q = (tokens(50, heads, x, dtype) for x, heads in enumerate((HKV, HKV, HQ)))
    cache.append(k, v)
    found = kernel.decode(q[:, :, 49:], cache, return_lse=True)
    assert found[0].dtype == dtype
    same(kernel, found, kernel(q[:, :, 49:], k, v, offset=49, return_lse=True), 1e-2 if dtype.itemsize == 2 else 1e-12)


@pytest.mark.parametrize("term", [SINKS, HEADS], ids=["term", "heads"])
def test_one_graph_for_all_steps(term: Any) -> None:
    """Append and decode in one function, traced once; the buffers of the cache are written in place."""
    kernel, graphs = pidsl.compile(term, "torch"), []
    cache, other = (cache_of(kernel, max_tokens=64) for _ in range(2))

    def counting(graph: Any, example: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    def step(q: Tensor, k: Tensor, v: Tensor) -> Any:
        cache.append(k, v)
        return kernel.decode(q, cache)

    traced = torch.compile(step, fullgraph=True, backend=counting)
    k, v, q = tokens(40, HKV, 1), tokens(40, HKV, 2), tokens(40, HQ, 3)
    for t in range(40):
        mine = q[:, :, t : t + 1], k[:, :, t : t + 1], v[:, :, t : t + 1]
        other.append(mine[1], mine[2])
        assert torch.equal(traced(*mine), kernel.decode(mine[0], other))
    assert len(graphs) == 1


class Step(torch.nn.Module):
    """Append and decode, over a cache of its own."""

    def __init__(self, page: int | None) -> None:
        super().__init__()
        self.kernel = pidsl.compile(SINKS, "torch")
        self.cache = cache_of(self.kernel, max_tokens=64, page_size=page)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.cache.append(k, v)
        found: Tensor = self.kernel.decode(q, self.cache)
        return found


@pytest.mark.parametrize("page", [None, 4])
def test_an_exported_step(page: int | None) -> None:
    k, v, q = tokens(20, HKV, 1), tokens(20, HKV, 2), tokens(20, HQ, 3)
    steps = [(q[:, :, t : t + 1], k[:, :, t : t + 1], v[:, :, t : t + 1]) for t in range(20)]
    exported, other = torch.export.export(Step(page), steps[0]).module(), Step(page)
    assert all(torch.equal(exported(*step), other(*step)) for step in steps)


def test_a_gradient_is_refused() -> None:
    kernel = pidsl.compile(SINKS, "torch")
    cache = cache_of(kernel)
    cache.append(tokens(3, HKV), tokens(3, HKV))
    out = kernel.decode(tokens(1, HQ).requires_grad_(), cache)
    with pytest.raises(BackendError, match=r"a gradient of kernel\.decode"):
        out.sum().backward()


def filled(kernel: Any, **options: Any) -> Any:
    cache = cache_of(kernel, **options)
    cache.append(tokens(9, HKV), tokens(9, HKV))
    return cache


KERNEL = pidsl.compile(SINKS, "torch")
SPANS = pidsl.summaries(blocks(4) & causal, [pidsl.spans(4, pidsl.where(lambda i, j: j < i // 4))])
WRONG: list[tuple[Callable[[], Any], str]] = [
    (lambda: KERNEL.decode(tokens(2, HQ), filled(KERNEL)), r"2 queries\n.*at most 1"),
    (lambda: KERNEL.decode(tokens(1, HQ), filled(pidsl.compile(causal, "torch"))), "a cache of window"),
    (lambda: KERNEL.decode(tokens(1, HQ), None), r"NoneType"),  # type: ignore[arg-type]
    (lambda: KERNEL.decode(tokens(1, 3), filled(KERNEL)), r"3 heads\n.*multiple of the 2 kv_heads"),
    (lambda: KERNEL.decode(tokens(1, HQ)[:1], filled(KERNEL)), r"batch 1 "),
    (lambda: KERNEL.decode(tokens(1, HQ)[..., :4], filled(KERNEL)), r"head_dim 4 "),
    (lambda: KERNEL.decode(tokens(1, HQ).double(), filled(KERNEL)), r"dtype float64\n.*float32"),
    (lambda: KERNEL.decode(tokens(1, HQ)[0], filled(KERNEL)), r"rank 4"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_refused(number: int) -> None:
    call, text = WRONG[number]
    with pytest.raises(ArgumentError, match=f"(?s){text}"):
        call()
