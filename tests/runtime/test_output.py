"""What happens to the output of a kernel: sigmoid gates and affine weights, against dense attention in float64."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from dense import tensors
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import pidsl
from pidsl import (
    ArgumentError,
    Heads,
    Term,
    TermError,
    causal,
    compile,
    gate,
    heads,
    keys,
    lags,
    layers,
    score,
    stride,
    window,
)
from pidsl.nn import SparseAttention
from pidsl.patterns import combiner_fixed
from pidsl.runtime.kernels.output import Weighed
from pidsl.testing import Inputs, inputs, shapes, terms

ALL = ("torch", "reference", "triton")
PI = window(2) | stride(4) & causal
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}


def dense(
    term: Term | Heads, q: Tensor, k: Tensor, v: Tensor, offset: int = 0, scale: float | None = None,
    alpha: Any = 1.0, beta: Any = 0.0, logits: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The definition in float64: weights alpha p + beta on the attended keys, then the sigmoid of the logits."""
    mask = torch.from_numpy(term.mask(q.shape[2], k.shape[2], offset).copy())
    group = max(1, q.shape[1] // max(1, k.shape[1]))
    q, k, v = q.double(), k.double().repeat_interleave(group, 1), v.double().repeat_interleave(group, 1)
    scores = (q @ k.mT * (q.shape[3] ** -0.5 if scale is None else scale)).masked_fill(~mask, -torch.inf)
    live = mask.any(-1)[..., None]
    p = torch.softmax(scores.masked_fill(~live, 0.0), -1)

    def rows(x: Any) -> Any:  # one number per row of a head
        if isinstance(x, Tensor) and x.dim():
            return x.double()[:, None, None] if x.dim() == 1 else x.double()[..., None]
        return x

    out = (rows(alpha) * p + rows(beta)).masked_fill(~mask, 0.0) @ v
    if logits is not None:
        out = out * torch.sigmoid(logits.double() if logits.dim() == 4 else logits.double()[..., None])
    return out


def numbers(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 5) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def assert_same(got: Tensor, want: Tensor, given_: list[Tensor], within: float) -> None:
    torch.testing.assert_close(got.double(), want, rtol=within, atol=within)
    seed = numbers(*want.shape, dtype=torch.float64, seed=11)
    grads = torch.autograd.grad(got, given_, seed.to(got.dtype), materialize_grads=True)
    for a, b in zip(grads, torch.autograd.grad(want, given_, seed, materialize_grads=True), strict=True):
        torch.testing.assert_close(a.double(), b.double(), rtol=4 * within, atol=4 * within)


# -- against the definition --------------------------------------------------------------------------------------


@st.composite
def calls(draw: st.DrawFn, backend: str) -> tuple[Term, Inputs, str, str]:
    longest, dims = (14, (8, 16)) if backend == "triton" else (40, (1, 8, 24))
    dtypes = ("float32", "float32", "float16") + (() if backend == "triton" else ("float64", "bfloat16"))
    called = draw(inputs(shapes(longest, head_dims=dims), dtypes=dtypes))
    form = draw(st.sampled_from(["number", "scalar", "head", "row"]))
    return draw(terms(depth=2)), called, draw(st.sampled_from(["none", "head", "element"])), form


@pytest.mark.parametrize("backend", ALL)
def test_random_outputs(backend: Any) -> None:
    share = {"torch": 3, "reference": 10, "triton": 16}[backend]

    @settings(max_examples=settings.default.max_examples // share)
    @given(calls(backend))
    def run(call: tuple[Term, Inputs, str, str]) -> None:
        term, x, gated, form = call
        q, k, v = (t.detach().requires_grad_() for t in (x.q, x.k, x.v))
        given_, dtype = [q, k, v], x.q.dtype
        logits: Tensor | None = None
        if gated != "none":
            shape = q.shape[:3] if gated == "head" else (*q.shape[:3], v.shape[3])
            logits = numbers(*shape, dtype=dtype).requires_grad_()
            given_.append(logits)
        alpha: Any = 0.7
        beta: Any = -0.1
        if form != "number":
            shape = {"scalar": (), "head": q.shape[1:2], "row": q.shape[:3]}[form]
            precise = torch.float64 if dtype == torch.float64 else torch.float32  # parameters stay in float32
            alpha, beta = (numbers(*shape, dtype=precise, seed=s).mul(0.2).requires_grad_() for s in (1, 2))
            given_ += [alpha, beta]
        kernel = compile(term, backend, output_gate=None if gated == "none" else gated, affine=True)
        out = kernel(q, k, v, output_gate=logits, alpha=alpha, beta=beta, offset=x.offset)
        assert out.dtype == dtype
        assert_same(out, dense(term, q, k, v, x.offset, None, alpha, beta, logits), given_, TOLERANCE[dtype])

    run()


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_with_a_score(backend: Any) -> None:
    s = score(softcap=2.0, alibi=True, sinks=True, dropout=0.3)
    q, k, v = (x.requires_grad_() for x in tensors(9, 11, heads=4, kv_heads=2))
    given_: dict[str, Any] = {"slopes": numbers(4).requires_grad_(), "sinks": numbers(4, seed=6).requires_grad_()}
    logits, alpha, beta = (numbers(*shape, seed=8).requires_grad_() for shape in ((1, 4, 9), (4,), (4,)))
    leaves = [q, k, v, *given_.values(), logits, alpha, beta]
    mixed = heads([(1, window(2)), (2, causal), (1, window(2))])
    for of in (mixed,) if backend == "triton" else (mixed, PI):
        own = given_ | {"seed": 3, "offset": 2}
        sigmoid = logits.double().sigmoid()[..., None]
        plain = compile(of, "reference", s)(*(x.double() for x in (q, k, v)), **own)
        with torch.no_grad():
            got = compile(of, backend, s, output_gate="head")(q, k, v, output_gate=logits, **own)
        torch.testing.assert_close(got.double(), plain * sigmoid, rtol=2e-5, atol=2e-5)
        kernel = compile(of, backend, s, output_gate="head", affine=True)
        added = dense(of, q, k, v, 2, alpha=0.0, beta=beta)  # whatever the score, on every attended key
        want = (plain * alpha.double()[:, None, None] + added) * sigmoid
        assert_same(kernel(q, k, v, output_gate=logits, alpha=alpha, beta=beta, **own), want, leaves, 2e-5)


def test_layers_with_a_score_and_a_gate() -> None:
    schedule, s = layers([PI, heads([(1, causal), (1, window(2))]), PI]), score(sinks=True)
    kernels = compile(schedule, "torch", s, output_gate="head")
    assert kernels[0] is kernels[2] is compile(PI, "torch", s, output_gate="head")
    assert kernels[1].kernels["kernel"] is compile(schedule[1], "torch", s)
    assert repr(kernels) == f"pidsl.compile({schedule!r}, backend='torch', score={s!r}, output_gate='head')"
    assert pickle.loads(pickle.dumps(kernels)) is kernels and pickle.loads(pickle.dumps(kernels[1])) is kernels[1]
    q, k, v = tensors(9, 9)
    with pytest.raises(ArgumentError, match="sinks: nothing"):
        kernels[1](q, k, v, output_gate=torch.zeros(1, 2, 9))
    with pytest.raises(TermError, match="gate or affine weights"):
        compile(gate(a=causal), "torch", s, affine=True)


def test_weights_of_every_row_add_up() -> None:
    q, k, _ = tensors(12, 12, dtype=torch.float64)
    v = torch.ones(1, 2, 12, 1, dtype=torch.float64)
    out = compile(PI, "torch", affine=True)(q, k, v, alpha=2.0, beta=0.5)
    want = 2.0 + 0.5 * torch.from_numpy(PI.degree(12)).double()
    torch.testing.assert_close(out, want[None, None, :, None].expand_as(out))


def test_long_rows_are_counted_exactly() -> None:
    q = torch.zeros(1, 1, 3000, 8)
    v = torch.ones(1, 1, 3000, 8)
    out = compile(causal, "torch", affine=True)(q, q, v, alpha=0.0, beta=1.0)
    assert torch.equal(out[0, 0, :, 0].round(), torch.arange(1.0, 3001.0))


@pytest.mark.parametrize("output_gate", ["head", "element"])
def test_gradcheck(output_gate: Any) -> None:
    q, k, v = (x.requires_grad_() for x in tensors(4, 5, 1, 2, heads=2, kv_heads=1, dtype=torch.float64))
    shape = (1, 2, 4) if output_gate == "head" else (1, 2, 4, 2)
    logits = numbers(*shape, dtype=torch.float64).requires_grad_()
    alpha, beta = (numbers(2, dtype=torch.float64, seed=s).requires_grad_() for s in (1, 2))
    kernel = compile(PI, "torch", output_gate=output_gate, affine=True)

    def call(*x: Tensor) -> Any:
        return kernel(*x[:3], output_gate=x[3], alpha=x[4], beta=x[5], scale=0.6)

    assert torch.autograd.gradcheck(call, (q, k, v, logits, alpha, beta), fast_mode=True)


def test_heads_gates_and_summaries() -> None:
    h = heads([(1, window(2)), (2, causal), (1, window(2))])
    q, k, v = (x.requires_grad_() for x in tensors(11, 11, 8, 5, heads=4, kv_heads=2, dtype=torch.float64))
    logits, beta = numbers(1, 4, 11, dtype=torch.float64), numbers(4, dtype=torch.float64)
    out = compile(h, "torch", output_gate="head", affine=True)(q, k, v, output_gate=logits, beta=beta)
    assert_same(out, dense(h, q, k, v, beta=beta, logits=logits), [q, k, v], 1e-9)

    g = gate(a=window(2), b=lags(3))
    weights = numbers(1, 4, 11, 2, dtype=torch.float64)
    gated = compile(g, "torch", output_gate="head")
    want = compile(g, "torch")(q, k, v, weights) * logits.sigmoid()[..., None]
    torch.testing.assert_close(gated(q, k, v, weights, output_gate=logits), want)

    spans = combiner_fixed(4)
    want = compile(spans, "torch")(q, k, v, scale=0.3) * logits.sigmoid()[..., None]
    got = compile(spans, "torch", output_gate="head")(q, k, v, output_gate=logits, scale=0.3)
    torch.testing.assert_close(got, want)


def test_the_second_launch_is_only_for_beta(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = tensors(9, 9)
    kernel = compile(PI, "torch", affine=True)
    attended, plain = (
        [],
        kernel.kernels["kernel"].form,
    )  # not a kernel compiled again: the cache may have let go of this one
    attend = plain.attend
    monkeypatch.setattr(
        plain, "attend", lambda call, backend: attended.append(call.q.shape[3]) or attend(call, backend)
    )
    torch.testing.assert_close(kernel(q, k, v, alpha=2.0), 2 * kernel(q, k, v))
    assert attended == [16, 16]
    kernel(q, k, v, beta=1.0)
    assert attended == [16, 16, 16, 8]


def test_lse_empty_rows_and_nan() -> None:
    term = keys(2, 4) & causal
    kernel = compile(term, "torch", output_gate="head", affine=True)
    q, k, v = tensors(6, 6)
    v[:, :, 0] = torch.nan  # nobody attends it
    out, lse = kernel(q, k, v, output_gate=torch.zeros(1, 2, 6), beta=1.0, return_lse=True)
    assert not out[:, :, :2].any()
    assert out.isfinite().all()
    assert torch.equal(lse, compile(term, "torch")(q, k, v, return_lse=True)[1])
    assert kernel(q[:, :, :0], k, v, output_gate=torch.zeros(1, 2, 0), beta=1.0).shape == (1, 2, 0, 16)
    assert not kernel(q, k[:, :, :0], v[:, :, :0], output_gate=torch.zeros(1, 2, 6), beta=1.0).any()


# -- errors ------------------------------------------------------------------------------------------------------


def test_what_does_not_go_together() -> None:
    said: list[tuple[Any, dict[str, Any], str]] = [
        (causal, {"output_gate": "token"}, "output_gate = 'token'\n  expected: None, 'head' or 'element'"),
        (
            gate(a=causal),
            {"affine": True},
            "compile(gate(a=causal), backend='torch', affine=True)\n  expected: gate or affine",
        ),
        (
            combiner_fixed(4),
            {"affine": True},
            f"compile({combiner_fixed(4)!r}, backend='torch', affine=True)\n  expected: summaries",
        ),
    ]
    for of, options, text in said:
        with pytest.raises(TermError) as caught:
            compile(of, "torch", **options)
        assert str(caught.value).startswith(text)


def test_wrong_calls() -> None:
    q, k, v = tensors(9, 9, 16, 8)
    kernel = compile(PI, "torch", output_gate="head", affine=True)
    logits = torch.zeros(1, 2, 9)
    where = f"  where: kernel(q, k, v) of {PI!r}"
    said: list[tuple[dict[str, Any], str]] = [
        ({}, f"output_gate: None\n  expected: logits, as compiled: output_gate='head'\n{where}"),
        ({"output_gate": torch.zeros(1, 2, 9, 8)}, "output_gate: shape [1, 2, 9, 8]\n  expected: [1, 2, 9]"),
        ({"output_gate": logits.double()}, "output_gate: torch.float64\n  expected: torch.float32, the dtype of q"),
        ({"output_gate": [0.0]}, "output_gate: list"),
        ({"output_gate": logits, "alpha": torch.ones(3)}, "alpha: shape [3]\n  expected: [] or [2] or [1, 2, 9]"),
        ({"output_gate": logits, "alpha": torch.ones(2).long()}, "alpha: dtype int64\n  expected: a floating dtype"),
        ({"output_gate": logits, "beta": "1"}, "beta: str\n  expected: a number or a torch.Tensor"),
        ({"output_gate": logits, "beta": torch.ones(2, device="meta")}, "beta: device meta\n  expected: cpu"),
    ]
    for given_, text in said:
        with pytest.raises(ArgumentError) as caught:
            kernel(q, k, v, **given_)
        assert str(caught.value).startswith(text)
    with pytest.raises(ArgumentError, match="2 faults"):
        kernel(q, k, v, alpha=torch.ones(3))
    with pytest.raises(ArgumentError, match=r"compile\(..., affine=True\)"):
        compile(PI, "torch", output_gate="head")(q, k, v, output_gate=logits, beta=1.0)
    with pytest.raises(ArgumentError, match=r'compile\(..., output_gate="head"\)'):
        compile(PI, "torch", affine=True)(q, k, v, output_gate=logits)
    with pytest.raises(ArgumentError, match="kv_heads"):
        kernel(q[:, :1], k, v, output_gate=logits[:, :1])
    with pytest.raises(ArgumentError, match="list"):
        kernel([0.0], k, v)


# -- handle, torch.compile, modules ------------------------------------------------------------------------------


def test_handle() -> None:
    kernel = compile(PI, "torch", output_gate="head", affine=True)
    assert isinstance(kernel.form, Weighed)
    assert pickle.loads(pickle.dumps(kernel)) is kernel
    assert kernel is compile(PI, "torch", output_gate="head", affine=True)
    assert repr(kernel) == f"pidsl.compile({PI!r}, backend='torch', output_gate='head', affine=True)"
    assert kernel.kernels["kernel"] is compile(PI, "torch")
    assert kernel.source() == compile(PI, "torch").source()
    assert kernel.explain().splitlines()[:2] == [
        "output   alpha * attention + beta * (sum of the attended values): two launches with beta",
        "output   times the sigmoid of a gate, one number per head",
    ]
    kernels = compile(layers([PI, causal, PI]), "torch", output_gate="element")
    assert kernels[0] is kernels[2] is compile(PI, "torch", output_gate="element")
    assert pickle.loads(pickle.dumps(kernels)) is kernels
    assert repr(kernels) == f"pidsl.compile({kernels.schedule!r}, backend='torch', output_gate='element')"


def test_autocast_and_compile() -> None:
    q, k, v = (x.requires_grad_() for x in tensors(12, 12))
    kernel = compile(PI, "torch", output_gate="head", affine=True)
    logits, alpha, beta = numbers(1, 2, 12), numbers(2).requires_grad_(), numbers(2, seed=8).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        assert kernel(q, k, v, output_gate=logits, alpha=alpha, beta=beta).dtype == torch.bfloat16

    def model(*x: Tensor) -> Tensor:
        return kernel(*x[:3], output_gate=x[3], alpha=x[4], beta=x[5]).sin()

    every = (q, k, v, logits, alpha, beta)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    got, want = compiled(*every), model(*every)
    torch.testing.assert_close(got, want)
    wanted = [q, k, v, alpha, beta]
    pairs = zip(*(torch.autograd.grad(x.sum(), wanted) for x in (got, want)), strict=True)
    for a, b in pairs:
        torch.testing.assert_close(a, b)


def test_modules() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 13, 32)
    for output_gate, extra in (("head", 4), ("element", 32)):
        layer = SparseAttention(32, 4, PI, kv_heads=2, output_gate=output_gate, affine=True)  # type: ignore[arg-type]
        assert layer.gate.weight.shape == (extra, 32)
        with torch.no_grad():
            layer.beta.add_(0.1)
        q, k, v = layer.project(x)
        logits = layer.gate(x)
        logits = logits.transpose(1, 2) if output_gate == "head" else logits.unflatten(2, (4, 8)).transpose(1, 2)
        want = dense(PI, q, k, v, beta=0.1, logits=logits).float().transpose(1, 2).flatten(2)
        torch.testing.assert_close(layer(x), layer.out(want), rtol=1e-4, atol=1e-4)
        layer(x).sum().backward()
        assert all(p.grad is not None and p.grad.any() for p in layer.parameters())
    mixed = SparseAttention(32, 4, heads([(3, window(2)), (1, causal)]))
    assert mixed(x).shape == x.shape
    summarised = SparseAttention(32, 4, combiner_fixed(4), kv_heads=2, rope=10000.0, output_gate="head")
    assert summarised(x).shape == x.shape
    with pytest.raises(ArgumentError, match="4, as the pattern has"):
        SparseAttention(32, 2, heads([(3, window(2)), (1, causal)]))
    assert pidsl.compile(PI) is pidsl.compile(PI, output_gate=None, affine=False)
