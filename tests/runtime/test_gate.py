"""Gates: the declared value, the blended kernel and its gradients."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from dense import dense, tensors
from torch import Tensor

import pidsl
from pidsl import Gate, causal, compile, empty, gate, keys, lags, queries, ring, stride, window
from pidsl.errors import ArgumentError, SymbolError, TermError
from pidsl.runtime.kernels.gate import Blend

PI = gate(local=window(3), skip=stride(4) & causal, late=keys(0, 2) & queries(5, None))
ALL = ("torch", "reference", "triton")


def weights_for(q: Tensor, branches: int) -> Tensor:
    made = torch.Generator().manual_seed(7)
    return torch.randn(*q.shape[:3], branches, generator=made, dtype=torch.float64).to(q.dtype)


def blended(
    g: Gate, q: Tensor, k: Tensor, v: Tensor, weights: Tensor, offset: int = 0, scale: float | None = None
) -> Tensor:
    outs = [dense(term, q, k, v, scale, offset)[0] for _, term in g.branches]
    return (torch.stack(outs, -2) * weights.double()[..., None]).sum(-2)


# -- the value ---------------------------------------------------------------------------------------------------


def test_value() -> None:
    g = gate(local=window(63), skip=stride(256))
    assert repr(g) == "gate(local=window(63), skip=stride(256))"
    assert g == gate(local=window(63), skip=stride(256))
    assert hash(g) == hash(gate(local=window(63), skip=stride(256)))
    assert g != gate(skip=stride(256), local=window(63))  # the order is that of the weights
    assert g.names == ("local", "skip")
    assert g.branches == (("local", window(63)), ("skip", stride(256)))
    assert eval(repr(g), vars(pidsl)) == g
    assert pickle.loads(pickle.dumps(g)) == copy.deepcopy(g) == g
    with pytest.raises(AttributeError):
        g.branches = ()  # type: ignore[misc]


def test_symbols() -> None:
    k, period = pidsl.symbols("k period")
    g = gate(local=window(k), skip=stride(period) | window(k))
    assert g.symbols == {"k", "period"}
    assert g.bind(k=2).bind(period=8) == gate(local=window(2), skip=stride(8) | window(2))
    with pytest.raises(SymbolError, match="symbols of the gate: k, period"):
        g.bind(radius=3)
    with pytest.raises(TermError, match="period = 0"):
        g.bind(period=0)


@pytest.mark.parametrize(
    ("branches", "text"),
    [
        ({}, "gate()\n  expected: at least one branch\n  try: gate(local=window(63), skip=stride(256))"),
        (
            {"a b": window(1)},
            "branch name 'a b'\n  expected: an identifier that is not a Python keyword\n  where: gate(...)",
        ),
        (
            {"for": window(1)},
            "branch name 'for'\n  expected: an identifier that is not a Python keyword\n  where: gate(...)",
        ),
        ({"a": 3}, "a = 3 (int)\n  expected: a pidsl term\n  where: gate(...)\n  try: build it with pidsl.where"),
        (
            {"a": gate(b=window(1))},
            "a = gate(b=window(1)) (Gate)\n  expected: a pidsl term\n  where: gate(...)\n"
            "  try: one softmax over both is a | b",
        ),
    ],
    ids=["empty", "spaced name", "keyword", "number", "nested"],
)
def test_wrong_gates(branches: dict[str, Any], text: str) -> None:
    with pytest.raises(TermError) as caught:
        gate(**branches)
    assert str(caught.value) == text


def test_a_gate_is_not_a_term() -> None:
    with pytest.raises(TermError, match="a pidsl term on both sides"):
        window(3) | PI  # type: ignore[operator]
    with pytest.raises((TermError, TypeError)):
        PI | window(3)  # type: ignore[operator]


# -- the kernel --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ALL)
def test_blend(backend: str) -> None:
    kernel = compile(PI, backend)
    assert isinstance(kernel.form, Blend)
    inputs = [x.requires_grad_() for x in tensors(9, 12, dv=8, kv_heads=1)]
    weights = weights_for(inputs[0], 3).requires_grad_()
    out, lse = kernel(*inputs, weights, offset=3, scale=0.3, return_lse=True)
    exact = blended(PI, *inputs, weights, offset=3, scale=0.3)
    torch.testing.assert_close(out.double(), exact, rtol=1e-5, atol=1e-5)
    lses = torch.stack([dense(t, *inputs, 0.3, 3)[1] for _, t in PI.branches], -1)
    torch.testing.assert_close(lse.double(), lses, rtol=1e-5, atol=1e-5)
    assert lse.isinf().any()  # rows without a key in one branch
    every = [*inputs, weights]
    seed = torch.randn(out.shape)
    got = torch.autograd.grad(out, every, seed)
    for g, e in zip(got, torch.autograd.grad(exact, every, seed.double()), strict=True):
        torch.testing.assert_close(g, e, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_gradcheck(backend: str) -> None:
    inputs = [x.requires_grad_() for x in tensors(6, 6, 2, 1, heads=2, kv_heads=1, dtype=torch.float64)]
    weights = weights_for(inputs[0], 3).requires_grad_()
    assert torch.autograd.gradcheck(compile(PI, backend), (*inputs, weights))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half(dtype: torch.dtype) -> None:
    inputs = tensors(50, 50, 32, 32, dtype=dtype)
    weights = weights_for(inputs[0], 3)
    exact = blended(PI, *inputs, weights)
    error = (compile(PI, "torch")(*inputs, weights).double() - exact).abs().max()
    # each branch is rounded once, each product and sum once
    assert error <= 4 * torch.finfo(dtype).eps * float(weights.abs().sum(-1).max() * inputs[2].abs().max())


@pytest.mark.parametrize("backend", ALL)
def test_branches_without_keys_add_nothing(backend: str) -> None:
    q, k, v = tensors(9, 9)
    weights = weights_for(q, 2).requires_grad_()
    out = compile(gate(some=window(2), none=empty), backend)(q, k, v, weights)
    only = compile(window(2), backend)(q, k, v) * weights[..., :1]
    assert torch.equal(out, only)
    (grad,) = torch.autograd.grad(out.sum(), weights)
    assert not grad[..., 1].any()


def test_strided_weights_and_empty_tensors() -> None:
    q, k, v = tensors(9, 9)
    kernel = compile(gate(a=window(2), b=lags(3)), "torch")
    weights = weights_for(q, 2)
    turned = weights.permute(3, 2, 0, 1).contiguous().permute(2, 3, 1, 0)
    assert torch.equal(kernel(q, k, v, turned), kernel(q, k, v, weights))
    shared = torch.ones(1, 1, 1, 2).expand(1, 2, 9, 2)
    assert torch.equal(kernel(q, k, v, shared), kernel(q, k, v, shared.contiguous()))
    assert kernel(q[:, :, :0], k, v, weights[:, :, :0]).shape == (1, 2, 0, 16)
    assert not kernel(q, k[:, :, :0], v[:, :, :0], weights).any()


def test_wrong_weights() -> None:
    q, k, v = tensors(9, 9)
    kernel = compile(gate(a=window(2), b=lags(3)), "torch")
    where = "  where: kernel(q, k, v, weights) of gate(a=window(2), b=lags(3))"
    expected = "  expected: [1, 2, 9, 2]: [batch, heads, queries] of q, and branches a, b"
    given: list[tuple[Any, str]] = [
        (
            torch.ones(1, 2, 9, 3),
            f"weights: shape [1, 2, 9, 3]\n{expected}\n{where}\n  try: weights.expand([1, 2, 9, 2])",
        ),
        (
            torch.ones(1, 1, 9, 2),
            f"weights: shape [1, 1, 9, 2]\n{expected}\n{where}\n  try: weights.expand([1, 2, 9, 2])",
        ),
        (
            torch.ones(2, 9, 2),
            "weights: shape [2, 9, 2]\n  expected: rank 4, [batch, heads, queries, 2] (branches a, b)",
        ),
        (torch.ones(1, 2, 9, 2).half(), "weights: dtype float16\n  expected: float32, the dtype of q"),
        (torch.ones(1, 2, 9, 2, device="meta"), "weights: device meta\n  expected: cpu, the device of q"),
        ([0.5, 0.5], "weights: list\n  expected: a torch.Tensor [batch, heads, queries, 2]"),
    ]
    for weights, text in given:
        with pytest.raises(ArgumentError) as caught:
            kernel(q, k, v, weights)
        assert str(caught.value).startswith(text)
    with pytest.raises(ArgumentError) as caught:  # together with the others, each once
        kernel(q, k[:, :, :, :8], v, torch.ones(1, 2, 9, 3), scale=float("nan"))
    assert str(caught.value).startswith("3 faults in kernel(q, k, v, weights)")
    with pytest.raises(ArgumentError, match=r"ring\(1\)"):
        compile(gate(a=window(2), b=ring(1)), "torch")(q, k[:, :, :5], v[:, :, :5], torch.ones(1, 2, 9, 2))


def test_autocast_and_compile() -> None:
    q, k, v = tensors(12, 12)
    kernel = compile(gate(a=window(2), b=stride(3)), "torch")
    weights = weights_for(q, 2).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        assert kernel(q, k, v, weights).dtype == torch.bfloat16
    compiled = torch.compile(lambda *x: kernel(*x).sin(), backend="aot_eager", fullgraph=True)
    got, want = compiled(q, k, v, weights), kernel(q, k, v, weights).sin()
    assert torch.equal(got, want)
    assert torch.equal(torch.autograd.grad(got.sum(), weights)[0], torch.autograd.grad(want.sum(), weights)[0])


def test_handle() -> None:
    g = gate(a=window(2), b=stride(3))
    kernel = compile(g, "torch")
    assert kernel is compile(gate(a=window(2), b=stride(3)), "torch")
    assert pickle.loads(pickle.dumps(kernel)) is kernel
    assert repr(kernel) == "pidsl.compile(gate(a=window(2), b=stride(3)), backend='torch')"
    assert kernel.kernels["b"] is compile(stride(3), "torch")
    assert "branch a\npattern  window(2)" in kernel.explain()
    assert kernel.source().startswith("# branch a\n")
    assert compile(g).backend == "auto"
