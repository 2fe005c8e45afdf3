"""Normalizers of a score: softplus over its sum, and logits that grow with the position, against their formulas."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from dense import tensors
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize, softplus

import pidsl
from pidsl import Term, causal, compile, keys, lags, score, stride, window
from pidsl.runtime.call.logits import log_softplus
from pidsl.testing import Inputs, assert_matches_dense, inputs, shapes, terms

ALL = ("torch", "reference", "triton")
NAMES: tuple[Any, ...] = ("softplus", "length_scaled_softmax", "length_scaled_softplus")
PI = window(2) | stride(4) & causal


def formula(term: Term, name: str, given: Inputs, scale: float) -> tuple[Tensor, Tensor]:
    """(out, lse) as one would write them down, from weights that no logarithm was taken of."""
    q, k, v = (x.double() for x in (given.q, given.k, given.v))
    n, m, group = q.shape[2], k.shape[2], q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(group, 1) for x in (k, v))
    s = scale * q @ k.mT
    if name.startswith("length_scaled"):
        s = s * torch.log(torch.arange(n, dtype=torch.float64) + given.offset + 1)[:, None]
    weights = softplus(s) if name.endswith("softplus") else s.exp()
    weights = weights * torch.from_numpy(term.mask(n, m, given.offset).copy())
    total = weights.sum(-1, keepdim=True)
    seen = torch.where(total > 0, total, 1.0)
    return weights / seen @ v, torch.where(total > 0, seen.log(), -torch.inf)[..., 0]


@st.composite
def calls(draw: st.DrawFn, longest: int, dtype: str) -> tuple[Term, str, Inputs]:
    return draw(terms(depth=2)), draw(st.sampled_from(NAMES)), draw(inputs(shapes(longest), dtypes=(dtype,)))


def agrees(backend: Any, call: tuple[Term, str, Inputs]) -> None:
    """Values and gradients of (out, lse)."""
    term, name, given = call
    exact = given.q.dtype == torch.float64
    results = []
    for which in (0, 1):
        leaves = [x.detach().clone().requires_grad_() for x in (given.q, given.k, given.v)]
        own, scale = replace(given, q=leaves[0], k=leaves[1], v=leaves[2]), given.q.shape[3] ** -0.5
        if which:
            kernel = compile(term, backend, score(normalizer=name))  # type: ignore[arg-type]
            out, lse = kernel(*leaves, offset=given.offset, return_lse=True)
        else:
            out, lse = formula(term, name, own, scale)
        total = (out.double() * torch.linspace(-1, 2, out.shape[-1])).sum() + lse[lse > -torch.inf].double().sum()
        results.append([out, lse, *torch.autograd.grad(total, leaves)])
    for want, found in zip(*results, strict=True):
        tolerance = 1e-10 if exact else 1e-4
        torch.testing.assert_close(found.double(), want.double(), rtol=tolerance, atol=tolerance)


@settings(max_examples=settings.default.max_examples * 2 // 5)
@given(calls(40, "float64"))
def test_random_patterns_on_torch(call: tuple[Term, str, Inputs]) -> None:
    agrees("torch", call)
    agrees("reference", call)


@settings(max_examples=max(1, settings.default.max_examples // 20))
@given(calls(16, "float32"))
def test_random_patterns_on_triton(call: tuple[Term, str, Inputs]) -> None:
    agrees("triton", call)


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("name", NAMES)
def test_with_every_other_part(name: Any, backend: Any) -> None:
    parts = score(scale=-0.3, softcap=3.0, alibi=True, bias=(0, 6), sinks=True, temperature=True, dropout=0.2)
    made = torch.Generator().manual_seed(1)
    numbers = {
        "slopes": torch.rand(4, generator=made),
        "bias": torch.randn(4, 7, generator=made),
        "sinks": torch.randn(4, generator=made),
        "temperature": torch.rand(4, generator=made) + 0.5,
    }
    n, few = (15, (PI, lags(0, 2, 5))) if backend == "torch" else (7, (window(2) | lags(4),))
    q, k, v = tensors(n, n + 2, 8, 16, heads=4, kv_heads=2)
    for term in few:
        kernel = compile(term, backend, replace(parts, normalizer=name))
        assert_matches_dense(kernel, Inputs(q, k, v, 2), parameters=numbers | {"seed": 3})


def test_the_first_stage_of_the_paper() -> None:
    """LSSA: softplus(log d log N q . k) over its sum, of unit queries and keys, N the tokens up to the query."""
    q, k, v = tensors(12, 12, 8, 8, heads=2, dtype=torch.float64)
    q, k = normalize(q, dim=-1), normalize(k, dim=-1)
    tokens = torch.arange(1, 13, dtype=torch.float64)[:, None]
    weights = softplus(math.log(8) * tokens.log() * (q @ k.mT)).tril()
    s = score(scale=math.log(8), normalizer="length_scaled_softplus")
    want = weights / weights.sum(-1, keepdim=True) @ v
    torch.testing.assert_close(compile(causal, "torch", s)(q, k, v), want)


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_rows_that_come_later_know_their_positions(backend: Any) -> None:
    kernel = compile(PI, backend, score(normalizer="length_scaled_softplus"))
    q, k, v = tensors(20, 20, 8, 8)
    whole = kernel(q, k, v)
    torch.testing.assert_close(kernel(q[:, :, 13:], k, v, offset=13), whole[:, :, 13:])
    cu_seqlens = torch.tensor([0, 8, 20], dtype=torch.int32)
    packed = kernel.packed(*(x[0].transpose(0, 1) for x in (q, k, v)), cu_seqlens)
    alone = kernel(*(x[:, :, 8:] for x in (q, k, v)))
    torch.testing.assert_close(packed[8:], alone[0].transpose(0, 1))
    cache = pidsl.Cache(kernel, 1, 2, 8, torch.float32, "cpu")
    cache.append(k, v)
    torch.testing.assert_close(kernel.decode(q[:, :, 19:], cache), whole[:, :, 19:])


def test_the_results_of_disjoint_keys_merge() -> None:
    q, k, v = tensors(16, 16, 8, 8)
    s = score(normalizer="softplus")
    (left, a), (right, b), (whole, total) = (
        compile(term, "torch", s)(q, k, v, return_lse=True) for term in (window(3), causal - window(3), causal)
    )
    both = torch.logaddexp(a, b)
    torch.testing.assert_close(both, total)
    merged = left * (a - both).exp().unsqueeze(-1) + right * (b - both).exp().unsqueeze(-1)
    torch.testing.assert_close(merged, whole)


# -- numbers -----------------------------------------------------------------------------------------------------


def test_the_logarithm_of_softplus() -> None:
    s = torch.cat([torch.linspace(-60, 60, 1001), torch.tensor([-1e30, -1e4, -0.0, 1e-30, 1e4, 1e30])]).double()
    value, bend = log_softplus(s)
    exact = s.clone().requires_grad_()
    low = torch.where(exact < -36, exact, torch.log(torch.log1p(exact.clamp(-36, 700).exp())))
    want = torch.where(exact > 700, exact.clamp(min=1).log(), low)
    torch.testing.assert_close(value, want.detach(), rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(bend, torch.autograd.grad(want.sum(), exact)[0], rtol=1e-14, atol=1e-14)
    value, bend = log_softplus(torch.tensor([-torch.inf, torch.inf]))
    assert value.tolist() == [-torch.inf, torch.inf] and bend.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("size", [1e-3, 30.0, 1e3, 1e5])
def test_extreme_logits(backend: Any, size: float) -> None:
    """Weights of e^s where every s is far below 0, of s where one is far above: finite, and those of the formula."""
    made = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 1, 11, 16, generator=made) for _ in range(3))
    for sign in (-1.0, 1.0, 0.0):
        own = [x.clone() for x in (q * size, k if sign == 0 else k.abs() * sign, v)]
        own[0] = own[0] if sign == 0 else own[0].abs()
        leaves = [x.requires_grad_() for x in own]
        out, lse = compile(PI, backend, score(normalizer="softplus"))(*leaves, return_lse=True)
        grads = torch.autograd.grad(out.sum() + lse.sum(), leaves)
        assert all(x.isfinite().all() for x in (out, lse, *grads))
        want, total = compile(PI, "reference", score(normalizer="softplus"))(
            *(x.detach().double() for x in leaves), return_lse=True
        )
        torch.testing.assert_close(lse.double(), total, rtol=1e-5, atol=1e-5)
        if size < 1e3:  # beyond, single precision knows too little of s
            torch.testing.assert_close(out.double(), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", ALL)
def test_nan_where_nobody_looks(backend: Any) -> None:
    term = (lags(3, 9) | stride(8)) & keys(4, 20)
    mask = torch.from_numpy(term.mask(26).copy())
    clean, results = tensors(26, 26), []
    for poison in (0.0, torch.nan):
        q, k, v = (x.clone() for x in clean)
        k[:, :, ~mask.any(0)] = v[:, :, ~mask.any(0)] = poison
        q[:, :, ~mask.any(1)] = poison
        leaves = [x.requires_grad_() for x in (q, k, v)]
        out = compile(term, backend, score(normalizer="length_scaled_softplus"))(*leaves)
        results.append([out, *torch.autograd.grad(out[:, :, mask.any(1)].sum(), leaves)])
    for plain, poisoned in zip(*results, strict=True):
        assert torch.equal(plain, poisoned)
