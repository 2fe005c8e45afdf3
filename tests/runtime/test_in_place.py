"""What a kernel returns may be changed in place, as any tensor may, and the gradients are those of other names."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import pidsl
from pidsl import causal, gate, heads, lags, layers, score, spans, stride, summaries, window
from pidsl.nn import PiAttention, SparseAttention

NEAR, FAR = window(3), stride(5) & causal
PARTS = score(softcap=5.0, alibi=True, sinks=True, dropout=0.2)
GIVEN = {"slopes": torch.rand(2), "sinks": torch.rand(2), "seed": 3}
SPANS = summaries(NEAR, [spans(4, pidsl.where(lambda i, j: 4 * j + 3 < i - 3))])


def kernel(term: Any, backend: Any = "torch", **options: Any) -> Callable[..., Any]:
    return pidsl.compile(term, backend=backend, **options)


KERNELS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "plain": (lambda: kernel(NEAR | FAR), {}),
    "diagonals": (lambda: kernel(lags(0, 5, 11)), {}),
    "reference": (lambda: kernel(NEAR, "reference"), {}),
    "triton": (lambda: kernel(NEAR, "triton"), {}),
    "heads": (lambda: kernel(heads([(1, NEAR), (1, FAR)])), {}),
    "heads alike": (lambda: kernel(heads([(1, NEAR), (1, window(5))]), "triton"), {}),
    "gate": (lambda: kernel(gate(a=NEAR, b=FAR)), {"weights": torch.rand(1, 2, 12, 2)}),
    "one branch": (lambda: kernel(gate(a=NEAR)), {"weights": torch.ones(1, 2, 12, 1)}),
    "layer": (lambda: kernel(layers([NEAR, FAR]))[1], {}),
    "summaries": (lambda: kernel(SPANS), {}),
    "no spans": (lambda: kernel(summaries(NEAR, [])), {}),
    "score": (lambda: kernel(NEAR | FAR, score=PARTS), GIVEN),
    "score, triton": (lambda: kernel(NEAR, "triton", score=PARTS), GIVEN),
    "score, heads": (lambda: kernel(heads([(1, NEAR), (1, FAR)]), score=PARTS), GIVEN),
    "output gate": (lambda: kernel(NEAR, output_gate="head"), {"output_gate": torch.rand(1, 2, 12)}),
    "affine": (lambda: kernel(NEAR, affine=True), {"beta": 0.3}),
}
CHANGES: dict[str, tuple[Callable[[Tensor], Any], Callable[[Tensor], Tensor]]] = {
    "add": (lambda x: x.add_(1), lambda x: x + 1),
    "multiply": (lambda x: x.mul_(2), lambda x: x * 2),
    "zero a row": (
        lambda x: x[:, :, 0].zero_(),
        lambda x: x * (torch.arange(x.shape[2]) > 0).view(-1, *[1] * (x.dim() - 3)),
    ),
}


def qkv(n: int = 12, d: int = 16, dv: int = 16) -> list[Tensor]:
    torch.manual_seed(n + dv)
    return [torch.randn(1, 2, n, width, requires_grad=True) for width in (d, d, dv)]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(("make", "given"), KERNELS.values(), ids=KERNELS)
def test_in_place(make: Callable[[], Any], given: dict[str, Any], change: str) -> None:
    called, (inside, outside), inputs = make(), CHANGES[change], qkv()

    def gradients(*results: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(sum(x.sin().sum() for x in results), inputs)

    def equal(changed: list[Tensor], other: list[Tensor]) -> None:
        for a, b in zip([*changed, *gradients(*changed)], [*other, *gradients(*other)], strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-6)

    out = called(*inputs, **given)
    inside(out)
    equal([out], [outside(called(*inputs, **given))])
    out, lse = called(*inputs, **given, return_lse=True)
    inside(out)
    inside(lse)
    equal([out, lse], [outside(x) for x in called(*inputs, **given, return_lse=True)])
    out, lse = called(*inputs, **given, return_lse=True)
    inside(lse)
    equal([out, lse], [x if i == 0 else outside(x) for i, x in enumerate(called(*inputs, **given, return_lse=True))])


@pytest.mark.parametrize(("n", "dv"), [(1, 8), (12, 8), (12, 24), (1, 16)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_in_place_whatever_the_program_returns(n: int, dv: int, dtype: torch.dtype) -> None:
    """Padded value dimensions, one row, results that are cast: some of them are views inside."""
    called = kernel(NEAR)
    q, k, v = (x.detach().to(dtype)[:, :1].requires_grad_() for x in qkv(n, 16, dv))
    out = called(q, k, v)
    out += 1
    got = torch.autograd.grad(out.sin().sum(), (q, k, v))
    want = torch.autograd.grad((called(q, k, v) + 1).sin().sum(), (q, k, v))
    assert all(map(torch.equal, got, want))


@pytest.mark.parametrize("make", [lambda: SparseAttention(16, 2, NEAR), lambda: PiAttention(16, 2, 3, 5)])
def test_modules_in_place(make: Callable[[], Any]) -> None:
    layer, x = make(), torch.randn(1, 9, 16, requires_grad=True)
    found = layer.mixed(x)
    found += 1
    (got,) = torch.autograd.grad(found.sin().sum(), x)
    (want,) = torch.autograd.grad((layer.mixed(x) + 1).sin().sum(), x)
    assert torch.equal(got, want)


def test_a_checkpoint_and_a_change_in_place() -> None:
    called, inputs = kernel(NEAR | FAR), qkv()

    def f(*x: Tensor) -> Tensor:
        out: Tensor = called(*x)
        out += 1
        return out.sin()

    got = torch.utils.checkpoint.checkpoint(f, *inputs, use_reentrant=False)
    grads = [torch.autograd.grad(y.sum(), inputs) for y in (got, (called(*inputs) + 1).sin())]
    assert all(map(torch.equal, *grads))


def test_inputs_may_not_be_changed() -> None:
    """As everywhere in torch: the backward pass needs them."""
    q, k, v = qkv()
    k_, out = k * 1, None
    out = kernel(NEAR)(q, k_, v)
    k_ += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_nothing_is_kept_alive() -> None:
    """No circle between a result and what its backward pass remembers."""
    import gc
    import weakref

    gc.disable()
    try:
        q, k, v = qkv()
        out = kernel(NEAR)(q * 1, k, v)
        seen = weakref.ref(out.grad_fn)
        del out
        assert seen() is None
    finally:
        gc.enable()


def test_traced_in_place() -> None:
    called = kernel(NEAR | FAR)

    def f(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out, lse = called(q, k, v, return_lse=True)
        out += 1
        lse.mul_(2)
        return out.sin() + lse[..., None]

    inputs = qkv()
    got = torch.autograd.grad(torch.compile(f, backend="aot_eager", fullgraph=True)(*inputs).sum(), inputs)
    assert all(map(torch.equal, got, torch.autograd.grad(f(*inputs).sum(), inputs)))
