"""Compiled kernels against dense attention in float64: values, gradients, autograd, torch.compile, and the handle."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from dense import dense, gradients, sdpa, tensors
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import pidsl
from pidsl import (
    BackendError,
    causal,
    compile,
    empty,
    full,
    halo,
    keys,
    lags,
    neighborhood,
    pairs,
    queries,
    ring,
    stride,
    where,
    window,
)
from pidsl.language.terms import Term
from pidsl.runtime import compile as compiling
from pidsl.runtime import programs
from pidsl.testing import Inputs, assert_matches_dense, inputs, shapes, terms

FAST = ("torch", "reference")
ALL = ("torch", "reference", "triton")  # triton in interpreter mode: tiny sizes
SHAPES = {"torch": 96, "reference": 96, "triton": 20}  # longest sequence tried
DIMS = {"torch": (1, 5, 8, 16, 40), "reference": (1, 16), "triton": (8, 16, 40)}
PI = window(2) | stride(4) & causal


def close(got: Tensor, want: Tensor, dtype: torch.dtype) -> None:
    tolerance = {torch.float64: 1e-9, torch.float32: 2e-5, torch.float16: 1e-2, torch.bfloat16: 8e-2}[dtype]
    torch.testing.assert_close(got.double(), want.double(), rtol=tolerance, atol=tolerance)


def check(
    backend: Any, term: pidsl.Term, q: Tensor, k: Tensor, v: Tensor, offset: int = 0, scale: float | None = None
) -> None:
    """out, lse and all gradients, through both results, against dense float64."""
    assert_matches_dense(term, Inputs(q, k, v, offset), backend=backend, scale=scale)


@st.composite
def calls(draw: st.DrawFn, backend: str) -> tuple[Term, Inputs]:
    term = draw(terms(depth=3, ring=True))
    longest = SHAPES[backend]
    square = any(isinstance(t, pidsl.language.terms.Ring) for t in pidsl.language.terms.walk(term))
    dtypes = ("float32", "float32", "float16") + (() if backend == "triton" else ("float64",))
    return term, draw(inputs(shapes(longest, square=square, head_dims=DIMS[backend]), dtypes=dtypes))


@pytest.mark.parametrize("backend", ALL)
def test_random_terms(backend: Any) -> None:
    share = {"torch": 1, "reference": 2, "triton": 10}[backend]

    @settings(max_examples=settings.default.max_examples // share)
    @given(calls(backend))
    def run(call: tuple[Term, Inputs]) -> None:
        assert_matches_dense(call[0], call[1], backend=backend)

    run()


FEW = [
    full, empty, causal, window(0), window(2, 3), stride(4), PI, lags(0, 1, 2, 4, 8, 16), keys(0, 2) | window(3),
    queries(3, 5), pairs([(0, 3), (7, 2)]), ring(2), pidsl.blocks(5), causal & where(lambda i, j: (i + j) % 3 == 0),
    window(1) @ stride(3), (window(1).blocked(4)) & causal, window(2).dilated(3),
    neighborhood((3, 5), 3), neighborhood((4, 4), (3, 2), stride=(2, 1), causal=(False, True), border="cut"),
    neighborhood((2, 3, 4), (1, 3, 2), dilation=(1, 1, 2)), halo((4, 5), 2, 1), neighborhood((4, 4), 3) & causal,
    neighborhood((3, 4), (1, 3)) | keys(0, 2),
]  # fmt: skip


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("term", FEW, ids=map(repr, FEW))
def test_each_word(backend: str, term: pidsl.Term) -> None:
    check(backend, term, *(tensors(9, 9, 8, 8, 1, 1) if backend == "triton" else tensors(19, 19, heads=4, dv=8)))


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("scale", [0.0, 0.3, -0.7])
def test_scale(backend: str, scale: float) -> None:
    check(backend, PI, *tensors(11, 11, heads=1, kv_heads=1), scale=scale)


# -- accuracy ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", ALL)
def test_error_is_at_most_twice_that_of_sdpa(backend: str, dtype: torch.dtype) -> None:
    cases = [(PI, 200, 64), (window(63) | stride(16), 300, 40), (causal, 150, 128), (lags(0, 1, 2, 4, 8), 130, 16)]
    if backend == "triton":
        cases = [(PI, 20, 16), (causal, 33, 40)]
    for term, n, d in cases:
        inputs = [x.requires_grad_() for x in tensors(n, n, d, d, heads=2, kv_heads=1, dtype=dtype)]
        seed = torch.randn(1, 2, n, d, generator=torch.Generator().manual_seed(1)).to(dtype)
        errors = []
        # the gradient of a leaf has the leaf's dtype: differentiate with respect to float64 copies instead
        doubles = [x.detach().double().requires_grad_() for x in inputs]
        exact, _ = dense(term, *doubles)
        want = [exact.detach(), *gradients([exact], doubles, [seed])]
        for out in (compile(term, backend)(*inputs), sdpa(term, *inputs)):
            got = [out.detach(), *gradients([out], inputs, [seed])]
            errors.append([float((g.double() - w).abs().max()) for g, w in zip(got, want, strict=True)])
        for ours, theirs, w in zip(*errors, want, strict=True):
            assert ours <= 2 * theirs + torch.finfo(dtype).eps * float(w.abs().max()) / 2


# -- rows without keys, NaN, empty tensors -----------------------------------------------------------------------


@pytest.mark.parametrize("backend", ALL)
def test_rows_without_keys(backend: str) -> None:
    term = lags(3, 9) & keys(4, 20)
    q, k, v = (x.requires_grad_() for x in tensors(26, 26, kv_heads=1))
    out, lse = compile(term, backend)(q, k, v, return_lse=True)
    dead = torch.from_numpy(~term.mask(26).any(1))
    assert bool(dead.any())
    assert not out[:, :, dead].any()
    assert (lse[:, :, dead] == -torch.inf).all()
    for grad_lse in (torch.zeros_like(lse), torch.randn(lse.shape)):  # what flows into lse = -inf goes nowhere
        dq, dk, dv = torch.autograd.grad([out, lse], [q, k, v], [torch.ones_like(out), grad_lse], retain_graph=True)
        assert not dq[:, :, dead].any()
        assert all(g.isfinite().all() for g in (dq, dk, dv))


@pytest.mark.parametrize("backend", ALL)
def test_nan_where_nobody_looks(backend: str) -> None:
    term = (lags(3, 9) | stride(8)) & keys(4, 20) & queries(0, 22)
    mask = torch.from_numpy(term.mask(26).copy())
    unseen, blind = ~mask.any(0), ~mask.any(1)
    assert bool(unseen.any())
    assert bool(blind.any())
    clean = tensors(26, 26, heads=4)
    seed = torch.randn(1, 4, 26, 16)
    results = []
    for poison in (0.0, torch.nan):
        q, k, v = (x.clone() for x in clean)
        grad = seed.clone()
        k[:, :, unseen] = v[:, :, unseen] = poison
        q[:, :, blind] = grad[:, :, blind] = poison
        inputs = [x.requires_grad_() for x in (q, k, v)]
        out, lse = compile(term, backend)(*inputs, return_lse=True)
        results.append([out, lse, *torch.autograd.grad([out], inputs, [grad])])
    for plain, poisoned in zip(*results, strict=True):
        assert torch.equal(plain, poisoned)


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize(
    ("n", "m", "batch", "heads"), [(0, 5, 1, 2), (5, 0, 1, 2), (0, 0, 1, 2), (5, 5, 0, 2), (5, 5, 1, 0)]
)
def test_empty_tensors(backend: str, n: int, m: int, batch: int, heads: int) -> None:
    q, k, v = (x.requires_grad_() for x in tensors(n, m, 16, 8, heads, heads, batch))
    out, lse = compile(window(3, 3), backend)(q, k, v, return_lse=True)
    assert out.shape == (batch, heads, n, 8)
    assert lse.shape == (batch, heads, n)
    assert not out.any()
    assert (lse == -torch.inf).all()
    (out.sum() + lse.exp().sum()).backward()
    for x in (q, k, v):
        assert x.grad is not None
        assert x.grad.shape == x.shape
        assert not x.grad.any()


@pytest.mark.parametrize("backend", ALL)
def test_same_bits_every_time(backend: str) -> None:
    def run() -> list[Tensor]:
        q, k, v = (x.requires_grad_() for x in tensors(11, 11, heads=1, kv_heads=1))
        out, lse = compile(PI, backend)(q, k, v, return_lse=True)
        return [out, lse, *torch.autograd.grad(out.square().sum() + lse.sum(), [q, k, v])]

    assert all(map(torch.equal, run(), run()))


# -- autograd ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("term", [PI, lags(1, 2, 5), keys(1, 3) - window(1), ring(1)], ids=repr)
def test_gradcheck(backend: str, term: pidsl.Term) -> None:
    inputs = [x.requires_grad_() for x in tensors(9, 9, 3, 2, heads=2, kv_heads=1, dtype=torch.float64)]
    live = torch.from_numpy(term.mask(9).any(1).copy())
    kernel = compile(term, backend)

    def function(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        out, lse = kernel(q, k, v, return_lse=True)
        return out, lse[:, :, live]  # finite differences of -inf are NaN

    assert torch.autograd.gradcheck(function, inputs)


@pytest.mark.parametrize("backend", ALL)
def test_only_what_is_needed(backend: str) -> None:
    q, k, v = tensors(9, 9, kv_heads=1)
    k.requires_grad_()
    out, lse = compile(PI, backend)(q, k, v, return_lse=True)
    lse.sum().backward()  # no gradient at all reaches out
    assert k.grad is not None
    assert q.grad is None
    (expected,) = gradients([dense(PI, q, k, v)[1]], [k], [torch.ones(1, 2, 9)])
    close(k.grad, expected, torch.float32)
    with torch.no_grad():
        assert not compile(PI, backend)(q, k, v).requires_grad
    with torch.inference_mode():
        assert torch.equal(compile(PI, backend)(q, k, v), out)


def test_twice_differentiated_is_an_error() -> None:
    q, k, v = (x.requires_grad_() for x in tensors(9, 9))
    (dq,) = torch.autograd.grad(compile(PI, "torch")(q, k, v).sum(), q, create_graph=True)
    with pytest.raises(BackendError, match="first derivatives only"):
        (dq.sum() + q.sum()).backward()


def test_function_transforms_are_refused() -> None:
    q, k, v = tensors(9, 9)
    kernel = compile(PI, "torch")
    with pytest.raises(RuntimeError, match=r"inside a transform of torch\.func"):
        torch.func.vmap(kernel)(q[None], k[None], v[None])
    with pytest.raises(RuntimeError, match=r"inside a transform of torch\.func"):
        torch.func.grad(lambda q: kernel(q, k, v).sum())(q)


@pytest.mark.parametrize("backend", FAST)
def test_autocast(backend: str) -> None:
    q, k, v = (x.requires_grad_() for x in tensors(20, 20))
    low = [x.detach().bfloat16() for x in (q, k, v)]
    kernel = compile(PI, backend)
    with torch.autocast("cpu", torch.bfloat16):
        out, lse = kernel(q, k.bfloat16(), v, return_lse=True)
        assert kernel(q.double(), k.double(), v.double()).dtype == torch.float64  # as SDPA: left alone
        expected = torch.nn.functional.scaled_dot_product_attention(q, k, v).dtype
        assert out.dtype == expected == torch.bfloat16
        assert lse.dtype == torch.float32
        out.float().sum().backward()  # inside autocast too, the program chooses its own precision
    assert q.grad is not None
    assert q.grad.dtype == torch.float32
    with torch.autocast("cpu", enabled=False):
        assert torch.equal(out, kernel(*low))


# -- torch.compile and torch.export ------------------------------------------------------------------------------


def test_compiled_in_one_graph() -> None:
    kernel = compile(PI, "torch")
    graphs = []

    def counting(graph: Any, example: Any) -> Any:
        graphs.append(graph)
        from torch._dynamo.backends.debugging import aot_eager

        return aot_eager(graph, example)

    def model(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out, lse = kernel(q * 2, k, v, return_lse=True)
        return out.sin() + lse[..., None]

    compiled = torch.compile(model, backend=counting, fullgraph=True, dynamic=True)
    for n in (9, 14):
        inputs = [x.requires_grad_() for x in tensors(n, n, heads=4)]
        got, want = compiled(*inputs), model(*inputs)
        assert torch.equal(got, want)
        seed = [torch.ones_like(want)]
        assert all(map(torch.equal, gradients([got], inputs, seed), gradients([want], inputs, seed)))
    assert len(graphs) == 1


def test_exported_graph_names_the_pattern() -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel = compile(PI, "torch")

        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            result: Tensor = self.kernel(q, k, v)
            return result

    inputs = tensors(9, 9)
    exported = torch.export.export(Model(), inputs)
    assert repr(PI) in str(exported.graph)
    assert torch.equal(exported.module()(*inputs), Model()(*inputs))


# -- the handle --------------------------------------------------------------------------------------------------


def test_compiled_once() -> None:
    assert compile(window(3) | stride(8)) is compile(window(3) | stride(8))
    assert compile(window(3), "torch") is not compile(window(3), "reference")


def test_kernels_travel() -> None:
    kernel = compile(PI, "torch")
    assert pickle.loads(pickle.dumps(kernel)) is kernel
    assert copy.deepcopy(kernel) is kernel


def test_what_a_kernel_says() -> None:
    kernel = compile(window(3) | stride(256))
    assert repr(kernel) == "pidsl.compile(window(3) | stride(256), backend='auto')"
    assert kernel.plan.term == window(3) | stride(256)
    assert kernel.plan.backend == ("triton" if torch.cuda.is_available() else "torch")
    assert kernel.plan.notes[0].startswith(f"auto: {kernel.plan.backend}, ")
    text = kernel.explain()
    assert text.startswith("pattern  window(3) | stride(256)\nbackend  ")
    assert str(kernel.plan) in text
    assert "def forward" in kernel.source()
    assert compile(PI, "reference").plan.backend == "reference"
    assert "def forward" in compile(PI, "reference").source()


def test_triton_programs_by_head_dim() -> None:
    kernel = compile(window(100), "triton")
    assert kernel.plan.backend == "triton"
    assert "tl.dot" in kernel.source()
    assert kernel.source(16) == kernel.source(64) != kernel.source(80) == kernel.source(128)
    assert kernel.source(128) != kernel.source(136) == kernel.source(256)
    check("triton", window(5), *tensors(7, 7, d=136, dv=136))


def test_few_programs_serve_all_calls() -> None:
    kept = compile(window(101), "triton").form.programs.kept
    for d, dv in ((16, 16), (64, 32), (32, 64)):
        for dtype in (torch.float16, torch.bfloat16):
            check("triton", window(101), *tensors(7, 7, d=d, dv=dv, dtype=dtype))
    assert len(kept) == 1  # the program that the kernel was made with
    check("triton", window(101), *tensors(7, 7, d=16, dv=72, dtype=torch.float16))
    check("triton", window(101), *tensors(7, 7))
    assert [key[1][1:] for key in kept] == [(64, 2), (128, 2), (128, 4)]
    torch_kept = compile(window(101), "torch").form.programs.kept
    check("torch", window(101), *tensors(7, 7, d=136, dv=136))
    assert len(torch_kept) == 1


def test_show(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PIDSL_SHOW", "plan, source")
    kernel = compile(window(1234), "torch")
    shown = capsys.readouterr().err
    assert str(kernel.plan) in shown
    assert kernel.source() in shown


def test_threads() -> None:
    programs._compiled.cache_clear()
    compiling._kept.cache_clear()
    inputs = tensors(40, 40)
    expected = dense(PI, *inputs)[0]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda i: compile(PI | lags(20 + i % 3), "torch")(*inputs), range(24)))
        assert [torch.equal(results[i], results[i % 3]) for i in range(24)] == [True] * 24
        close(list(pool.map(lambda _: compile(PI, "torch")(*inputs), range(8)))[-1], expected, torch.float32)


def fresh(code: str, **environment: str) -> str:
    """What `code` prints in a process of its own."""
    variables = {**os.environ, **environment}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=variables, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_declaring_patterns_imports_no_torch() -> None:
    code = """
import sys, pidsl
g = pidsl.gate(local=pidsl.window(3), skip=pidsl.stride(8))
g, hash(g), pidsl.window(3).mask(5)
assert not {"torch", "triton"} & set(sys.modules)
try:
    pidsl.kernels
except AttributeError as e:
    print(e)
pidsl.compile, pidsl.Kernel
assert "torch" in sys.modules and "triton" not in sys.modules
"""
    assert fresh(code) == "module 'pidsl' has no attribute 'kernels'"


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_triton_without_a_gpu() -> None:
    code = """
import torch, pidsl
kernel = pidsl.compile(pidsl.window(63), "triton")
print("tl.dot" in kernel.source(), kernel.plan.backend)
q, k, v = torch.randn(3, 1, 2, 8, 16)
try:
    kernel(q, k, v)
except pidsl.BackendError as e:
    print(type(e).__name__)
print(pidsl.compile(pidsl.window(3))(q, k, v).shape)
"""
    lines = ["True triton", "BackendError", "torch.Size([1, 2, 8, 16])"]
    assert fresh(code, TRITON_INTERPRET="0").splitlines() == lines
