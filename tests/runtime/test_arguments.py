"""Every fault of a call is named, with what was got and expected, before anything runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from dense import tensors

import pidsl
from pidsl.errors import ArgumentError, BackendError, PidslError, SymbolError, TermError
from pidsl.language.recipe import Recipe
from pidsl.runtime import operator
from pidsl.runtime.compile import compile
from pidsl.runtime.kernels.kernel import Kernel
from pidsl.runtime.kernels.softmax import Softmax

Arguments = dict[str, Any]
TERM = pidsl.window(3)


def arguments(**changes: Any) -> Arguments:
    q, k, v = tensors(8, 8, heads=4)
    return {"q": q, "k": k, "v": v} | changes


def call(kernel: Any, given: Arguments) -> Any:
    given = dict(given)
    tensors_given = [given.pop(name) for name in ("q", "k", "v", "weights") if name in given]
    return kernel(*tensors_given, **given)


def message(backend: Any, change: Callable[[Arguments], Arguments], term: pidsl.Term = TERM) -> str:
    given = arguments()
    with pytest.raises(ArgumentError) as caught:
        call(compile(term, backend), given | change(given))
    assert isinstance(caught.value, ValueError)
    return str(caught.value)


WRONG: list[tuple[str, str, Callable[[Arguments], Arguments], str]] = [
    ("not a tensor", "torch", lambda a: {"q": a["q"].numpy()},
     "q: ndarray\n  expected: a torch.Tensor [batch, heads, queries, head_dim]\n"
     "  where: kernel(q, k, v) of window(3)\n  try: torch.as_tensor(q)"),
    ("none", "torch", lambda a: {"k": None},
     "k: NoneType\n  expected: a torch.Tensor [batch, kv_heads, keys, head_dim]\n"
     "  where: kernel(q, k, v) of window(3)"),
    ("rank", "torch", lambda a: {"v": a["v"][0]},
     "v: shape [2, 8, 16]\n  expected: rank 4, [batch, kv_heads, keys, value_dim]\n"
     "  where: kernel(q, k, v) of window(3)\n  try: v.unsqueeze(0) adds the batch"),
    ("sparse", "torch", lambda a: {"k": a["k"].to_sparse()},
     "k: layout torch.sparse_coo\n  expected: an ordinary (strided) tensor\n"
     "  where: kernel(q, k, v) of window(3)\n  try: k.to_dense()"),
    ("mixed dtypes", "torch", lambda a: {"k": a["k"].half()},
     "k: dtype float16\n  expected: float32, the dtype of q\n"
     "  where: kernel(q, k, v) of window(3)\n  try: k.to(q.dtype)"),
    ("integers", "torch", lambda a: {x: a[x].int() for x in "qkv"},
     "q: dtype int32\n  expected: one of float32, float16, bfloat16, float64 (backend 'torch')\n"
     "  where: kernel(q, k, v) of window(3)\n  try: q.float()"),
    ("float64 on triton", "triton", lambda a: {x: a[x].double() for x in "qkv"},
     "q: dtype float64\n  expected: one of float32, float16, bfloat16 (backend 'triton')\n"
     "  where: kernel(q, k, v) of window(3)\n  try: q.float(), or compile(..., backend=\"torch\")"),
    ("batch", "torch", lambda a: {"k": a["k"].expand(3, -1, -1, -1), "v": a["v"].expand(3, -1, -1, -1)},
     "2 faults in kernel(q, k, v) of window(3)\n  where: \n"
     "    k: got batch 3 in shape [3, 2, 8, 16], expected 1, as in q [1, 4, 8, 16]\n"
     "    v: got batch 3 in shape [3, 2, 8, 16], expected 1, as in q [1, 4, 8, 16]"),
    ("head dim", "torch", lambda a: {"k": a["k"][..., :8]},
     "k: head_dim 8 in shape [1, 2, 8, 8]\n  expected: 16, as in q [1, 4, 8, 16]\n"
     "  where: kernel(q, k, v) of window(3)"),
    ("value length", "torch", lambda a: {"v": a["v"][:, :, :5]},
     "v: keys 5 in shape [1, 2, 5, 16]\n  expected: 8, as in k [1, 2, 8, 16]\n  where: kernel(q, k, v) of window(3)"),
    ("value heads", "torch", lambda a: {"v": a["v"][:, :1]},
     "v: kv_heads 1 in shape [1, 1, 8, 16]\n  expected: 2, as in k [1, 2, 8, 16]\n"
     "  where: kernel(q, k, v) of window(3)"),
    ("groups", "torch", lambda a: {"q": a["q"][:, :3]},
     "q: 3 heads with 2 kv_heads\n  expected: heads a multiple of k's kv_heads\n"
     "  where: kernel(q, k, v) of window(3)\n"
     "  try: q and k are [batch, heads, tokens, dim]: is `transpose(1, 2)` missing?"),
    ("no kv heads", "torch", lambda a: {"k": a["k"][:, :0], "v": a["v"][:, :0]},
     "q: 4 heads with 0 kv_heads\n  expected: heads a multiple of k's kv_heads\n"
     "  where: kernel(q, k, v) of window(3)\n"
     "  try: q and k are [batch, heads, tokens, dim]: is `transpose(1, 2)` missing?"),
    ("head dim of triton", "triton", lambda a: {"q": a["q"][..., :12], "k": a["k"][..., :12]},
     "q: head_dim 12\n  expected: a multiple of 8 from 8 to 256 (backend 'triton')\n"
     "  where: kernel(q, k, v) of window(3)\n"
     "  try: pad with zeros (and pass scale=), or compile(..., backend=\"torch\")"),
    ("value dim of triton", "triton", lambda a: {"v": torch.zeros(1, 2, 8, 264)},
     "v: value_dim 264\n  expected: a multiple of 8 from 8 to 256 (backend 'triton')\n"
     "  where: kernel(q, k, v) of window(3)\n"
     "  try: pad with zeros (and pass scale=), or compile(..., backend=\"torch\")"),
    ("no head dim", "torch", lambda a: {"q": a["q"][..., :0], "k": a["k"][..., :0]},
     "q: head_dim 0\n  expected: at least 1\n  where: kernel(q, k, v) of window(3)"),
    ("negative offset", "torch", lambda a: {"offset": -1},
     "offset: -1\n  expected: an integer >= 0: the position of the first query\n"
     "  where: kernel(q, k, v) of window(3)\n  try: no offset, and term.shift(1) for a pattern of lags such as window "
     "or causal: 1 queries stand before the first key"),
    ("float offset", "torch", lambda a: {"offset": 1.0},
     "offset: 1.0 (float)\n  expected: an integer >= 0, or integers [batch]\n  where: kernel(q, k, v) of window(3)"),
    ("tensor offset", "torch", lambda a: {"offset": torch.tensor(3.0)},
     "offset: dtype float32\n  expected: int32 or int64\n"
     "  where: kernel(q, k, v) of window(3)\n  try: offset.int()"),
    ("far offset", "torch", lambda a: {"offset": 2**31 - 8},
     "offset: 2147483640 with 8 queries\n  expected: offset + queries < 2147483648\n"
     "  where: kernel(q, k, v) of window(3)"),
    ("infinite scale", "torch", lambda a: {"scale": float("inf")},
     "scale: inf\n  expected: a finite number, or None for 1 / sqrt(head_dim)\n  where: kernel(q, k, v) of window(3)"),
    ("tensor scale", "torch", lambda a: {"scale": torch.tensor(0.5)},
     "scale: Tensor\n  expected: a finite number, or None for 1 / sqrt(head_dim)\n"
     "  where: kernel(q, k, v) of window(3)\n  try: scale.item() for a constant; for a learned one "
     "pidsl.compile(term, score=pidsl.score(scale=1.0, temperature=True)), "
     "then kernel(q, k, v, temperature=(1 / scale).expand(heads))"),
    ("huge scale", "torch", lambda a: {"scale": 10**400},
     "scale: inf\n  expected: a finite number, or None for 1 / sqrt(head_dim)\n"
     "  where: kernel(q, k, v) of window(3)"),
]  # fmt: skip


@pytest.mark.parametrize(("backend", "change", "text"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
def test_each_fault_is_told(backend: str, change: Callable[[Arguments], Arguments], text: str) -> None:
    assert message(backend, change) == text


def test_device() -> None:
    text = message("torch", lambda a: {"v": a["v"].to("meta")})
    assert text.startswith("v: device meta\n  expected: cpu, the device of q")


def test_ring_needs_one_set_of_positions() -> None:
    text = message("reference", lambda a: {"offset": 3}, pidsl.ring(2) | pidsl.window(1))
    assert text.startswith("k: 11 query positions and 8 keys\n  expected: as many keys as query positions")
    assert "ring(2)" in text
    q, k, v = tensors(5, 8)
    assert compile(pidsl.ring(2), "reference")(q, k, v, offset=3).shape == (1, 2, 5, 16)


def test_all_faults_are_told_together() -> None:
    text = message(
        "torch",
        lambda a: {"q": a["q"][:, :3], "k": a["k"].half(), "v": None, "scale": float("nan"), "offset": "0"},
    )
    assert text.splitlines()[0] == "5 faults in kernel(q, k, v) of window(3)"
    assert [line.split(":")[0].strip() for line in text.splitlines()[2:]] == ["v", "k", "q", "scale", "offset"]


def test_nothing_runs_before_the_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("ran")

    kernels = [compile(TERM, "reference"), compile(pidsl.gate(a=TERM), "reference")]
    monkeypatch.setattr(operator, "run_forward", never)
    for kernel, more in zip(kernels, ({}, {"weights": torch.ones(1, 4, 8, 2)}), strict=True):
        with pytest.raises(ArgumentError):
            call(kernel, arguments(offset=-1) | more)


def test_numbers_of_other_libraries_are_numbers() -> None:
    kernel, a = compile(TERM, "reference"), arguments()
    expected = call(kernel, a | {"scale": 0.5, "offset": 2})
    assert torch.equal(call(kernel, a | {"scale": np.float32(0.5), "offset": np.int64(2)}), expected)
    assert torch.isfinite(call(kernel, a | {"scale": 1, "offset": 0})).all()
    for wrong in ({"scale": True}, {"offset": True}, {"scale": "1"}):
        with pytest.raises(ArgumentError):
            call(kernel, a | wrong)


def test_what_cannot_be_compiled() -> None:
    k = pidsl.symbols("k")
    given: list[tuple[Any, Any, type[PidslError], str]] = [
        (pidsl.window(k), "torch", SymbolError, "term.bind(k=...)"),
        (pidsl.gate(a=pidsl.window(k)), "torch", SymbolError, "term.bind(k=...)"),
        ("window(3)", "torch", TermError, "pidsl.parse('window(3)')"),
        (np.ones((3, 3), dtype=bool), "torch", TermError, "a pidsl term, gate, heads, layers or summaries"),
        (TERM, "cuda", BackendError, "one of 'auto', 'triton', 'torch', 'reference'"),
        (TERM, "tritn", BackendError, "backend='triton'"),
        (TERM, None, BackendError, "backend = None"),
        (TERM, ["torch"], BackendError, "backend = ['torch']"),
    ]
    for term, backend, error, text in given:
        with pytest.raises(error) as caught:
            pidsl.compile(term, backend)
        assert text in str(caught.value)


def test_triton_must_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pidsl.runtime.compile.triton_installed", lambda: False)
    with pytest.raises(BackendError, match="triton is not installed"):
        pidsl.compile(pidsl.window(11), "triton")


def test_the_backend_that_auto_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(Recipe(TERM), Softmax(TERM, "auto", None))
    kernel.chosen = "triton"  # as on a machine with a GPU
    q, _, v = tensors(8, 8)
    assert kernel._backend_for(q, v) == "torch"  # a tensor on the CPU
    for dtype, d, expected in (
        (torch.float32, 64, "triton"), (torch.bfloat16, 256, "triton"),
        (torch.float64, 64, "torch"), (torch.float32, 20, "torch"), (torch.float32, 264, "torch"),
    ):  # fmt: skip

        class OnGpu(torch.Tensor):
            device = torch.device("cuda")  # type: ignore[assignment]

        x = torch.empty(1, 2, 8, d, dtype=dtype).as_subclass(OnGpu)
        assert kernel._backend_for(x, x) == expected
