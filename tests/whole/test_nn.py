"""Attention modules against the dense formula: values, gradients, state."""

import copy
import pickle

import pytest
import torch
from torch import Tensor

import pidsl
from pidsl.nn import PiAttention, SparseAttention, rotate

N = 40


def dense(mask: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention by the formula; kv heads repeated, rows without keys zero."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~mask, float("-inf"))
    return scores.softmax(-1).nan_to_num(0.0) @ v


def turned(x: Tensor, base: float | None) -> Tensor:
    """Rotary embedding by complex numbers."""
    if base is None:
        return x
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[-2], dtype=x.dtype)[:, None] * base ** (-torch.arange(half, dtype=x.dtype) / half)
    z = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([z.real, z.imag], -1)


def formula(layer: SparseAttention | PiAttention, x: Tensor) -> Tensor:
    """What the module should compute, in separate steps."""
    batch, n, _ = x.shape
    sizes = [h * layer.head_dim for h in (layer.heads, layer.kv_heads, layer.kv_heads)]
    q, k, v = (y.view(batch, n, -1, layer.head_dim).transpose(1, 2) for y in layer.qkv(x).split(sizes, 2))
    args = turned(q, layer.rope), turned(k, layer.rope), v
    if isinstance(layer, SparseAttention):
        y = dense(torch.from_numpy(layer.kernel.term.mask(n)), *args)
    else:
        local, skip = (torch.from_numpy(term.mask(n)) for _, term in layer.kernel.term.branches)
        alpha = layer.gate(q).sigmoid()
        alpha = torch.where(skip.any(-1)[:, None], alpha, 1.0)
        y = alpha * dense(local, *args) + (1 - alpha) * dense(skip, *args)
    return layer.out(y.transpose(1, 2).reshape(batch, n, -1))


LAYERS = {
    "window": lambda: SparseAttention(48, 4, pidsl.window(5), bias=True),
    "grouped, rope": lambda: SparseAttention(48, 4, pidsl.window(5) | pidsl.lags(16), kv_heads=2, rope=1e4),
    "ring": lambda: SparseAttention(32, 2, pidsl.ring(3)),
    "pi": lambda: PiAttention(48, 4, 3, 8),
    "pi, rope": lambda: PiAttention(48, 4, 3, 8, skip="comb", kv_heads=1, rope=1e4),
    "pi, both sides": lambda: PiAttention(32, 2, 2, 30, skip="both", causal=False, bias=True),
}


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("n", [1, N])
def test_values_and_gradients_are_the_formulas(make, n: int) -> None:
    torch.manual_seed(0)
    layer = make().double()
    x = torch.randn(2, n, layer.dim, dtype=torch.float64, requires_grad=True)
    inputs = [x, *layer.parameters()]
    y, expected = layer(x), formula(layer, x)
    # the rotation's angles are float32 inside
    close = {"rtol": 0, "atol": 1e-5 if layer.rope else 1e-10}
    torch.testing.assert_close(y, expected, **close)
    seed = torch.randn_like(y)
    for got, want in zip(
        torch.autograd.grad(y, inputs, seed, allow_unused=True),
        torch.autograd.grad(expected, inputs, seed, allow_unused=True),
        strict=True,
    ):
        assert (got is None) == (want is None)
        if got is not None:
            torch.testing.assert_close(got, want, rtol=0, atol=100 * close["atol"])


def test_causal_means_that_later_tokens_do_not_matter() -> None:
    torch.manual_seed(0)
    for layer in (SparseAttention(32, 2, pidsl.causal, rope=1e4), PiAttention(32, 2, 3, 8, rope=1e4)):
        x = torch.randn(1, N, 32)
        changed = x.clone()
        changed[:, 20:] += 1.0
        torch.testing.assert_close(layer(x)[:, :20], layer(changed)[:, :20])


def test_the_gate_says_how_much_of_each_branch() -> None:
    torch.manual_seed(0)
    layer = PiAttention(32, 2, 3, 8)
    with torch.no_grad():
        weights = layer.weights(torch.randn(1, 2, N, 16))
    assert weights.shape == (1, 2, N, 2)
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 2, N))
    assert (weights[:, :, :8, 0] == 1).all()  # nothing to skip to
    assert ((weights[:, :, 8:, 0] > 0) & (weights[:, :, 8:, 0] < 1)).all()


def test_bfloat16_stays_bfloat16() -> None:
    layer = PiAttention(32, 2, 3, 8, rope=1e4).to(torch.bfloat16)
    x = torch.randn(1, N, 32, dtype=torch.bfloat16)
    assert layer(x).dtype == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert PiAttention(32, 2, 3, 8, rope=1e4)(x.float()).dtype == torch.bfloat16


def test_evaluation_first_training_after() -> None:
    """What a module keeps from inference mode must serve autograd."""
    layer = PiAttention(32, 2, 3, 9, rope=12345.0)
    x = torch.randn(1, 33, 32)
    with torch.inference_mode():
        layer(x)
    layer(x).sum().backward()


@pytest.mark.parametrize("make", [LAYERS["grouped, rope"], LAYERS["pi, rope"]], ids=["sparse", "pi"])
def test_state_and_copies(make) -> None:
    torch.manual_seed(0)
    layer, other = make(), make()
    x = torch.randn(1, N, 48)
    with torch.no_grad():
        y = layer(x)
        other.load_state_dict(layer.state_dict())
        for same in (other, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            assert torch.equal(same(x), y)


def test_rotation_depends_on_distances_only() -> None:
    q, k = torch.randn(2, 1, 1, 30, 16, dtype=torch.float64)
    scores = rotate(q, 1e4) @ rotate(k, 1e4).mT
    moved = rotate(q, 1e4, offset=100) @ rotate(k, 1e4, offset=100).mT
    torch.testing.assert_close(scores, moved, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: SparseAttention(30, 4, pidsl.causal), pidsl.ArgumentError, "dim % heads"),
        (lambda: SparseAttention(32, 4, pidsl.causal, kv_heads=3), pidsl.ArgumentError, "heads % kv_heads"),
        (lambda: SparseAttention(32, 0, pidsl.causal), pidsl.ArgumentError, "heads = 0"),
        (lambda: SparseAttention(32.0, 4, pidsl.causal), pidsl.ArgumentError, "dim = 32.0"),
        (lambda: SparseAttention(36, 4, pidsl.causal, rope=1e4), pidsl.ArgumentError, "even"),
        (lambda: SparseAttention(32, 4, pidsl.window(pidsl.symbols("k"))), pidsl.SymbolError, "k"),
        (lambda: SparseAttention(32, 4, pidsl.gate(a=pidsl.causal)), pidsl.TermError, "PiAttention"),
        (lambda: SparseAttention(32, 4, "causal"), pidsl.TermError, "parse"),
        (lambda: SparseAttention(32, 4, pidsl.causal)(torch.zeros(1, 5, 31)), pidsl.ArgumentError, "[batch, n, 32]"),
        (lambda: SparseAttention(32, 4, pidsl.causal)(torch.zeros(5, 32)), pidsl.ArgumentError, "[batch, n, 32]"),
        (lambda: PiAttention(32, 4, 3, 0), pidsl.TermError, "period = 0"),
        (lambda: PiAttention(32, 4, 3, 8, skip="both"), pidsl.TermError, "causal"),
    ],
)
def test_faults(call, error: type[Exception], said: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert said in str(caught.value)
