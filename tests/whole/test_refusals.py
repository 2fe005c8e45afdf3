"""Whatever is wrong with a call of any kernel, module or `compile` is refused by name before anything runs."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from dense import tensors
from torch import nn

import pidsl
from pidsl import blocks, causal, layers, spans, stride, where, window
from pidsl.errors import ArgumentError, BackendError, KeywordError, PidslError, TermError
from pidsl.nn import PiAttention, SparseAttention, rotate
from pidsl.runtime import operator

TERM = window(3)
Q, K, V = tensors(8, 8, heads=4, kv_heads=4)
W, G = torch.rand(1, 4, 8, 2), torch.randn(1, 4, 8)
GATE = pidsl.gate(a=TERM, b=stride(3))
HEADS = pidsl.heads([(2, TERM), (2, causal)])
SPANS = pidsl.summaries(blocks(4) & causal, [spans(4, where(lambda i, j: j < i // 4))])
BESIDE = pidsl.summaries(blocks(4) & causal, [spans(4, where(lambda i, j: j == i), of="beside")])
SCORE = pidsl.score(alibi=True, bias=(0, 3), sinks=True, temperature=True, dropout=0.1)
PARAMETERS = {
    "slopes": torch.rand(4),
    "bias": torch.rand(4, 4),
    "sinks": torch.rand(4),
    "temperature": torch.ones(4),
    "seed": 3,
}
KEYWORDS = (*PARAMETERS, "scale", "offset", "return_lse", "output_gate", "alpha", "beta", "summaries")

# each kind of kernel: what is compiled, with what, and what a call has beside q, k and v
KINDS: dict[str, tuple[Any, dict[str, Any], tuple[Any, ...], dict[str, Any]]] = {
    "plain": (TERM, {}, (), {}),
    "scored": (TERM, {"score": SCORE}, (), PARAMETERS),
    "gate": (GATE, {}, (W,), {}),
    "heads": (HEADS, {}, (), {}),
    "summaries": (SPANS, {}, (), {}),
    "summaries beside": (BESIDE, {}, (), {}),
    "output gate": (TERM, {"output_gate": "head", "affine": True}, (), {"output_gate": G, "alpha": 1.0, "beta": 0.5}),
    "output of heads": (HEADS, {"output_gate": "element"}, (), {"output_gate": torch.randn(1, 4, 8, 16)}),
    "output of a gate": (GATE, {"output_gate": "head"}, (W,), {"output_gate": G}),
    "output of summaries": (SPANS, {"output_gate": "head"}, (), {"output_gate": G}),
}
ONES = torch.ones(1, 4, 8, 16)
ODD: dict[str, Any] = {
    "none": None,
    "list": [1, 2],
    "array": ONES.numpy(),
    "text": "x",
    "int": 3,
    "float": 1.5,
    "bool": True,
    "set": {1},
    "empty": torch.zeros(0),
    "scalar": torch.tensor(1.0),
    "1d": torch.ones(4),
    "2d": torch.ones(4, 4),
    "3d": ONES[0],
    "5d": ONES[None],
    "half": ONES.half(),
    "long": ONES.long(),
    "complex": ONES + 0j,
    "meta": ONES.to("meta"),
    "sparse": ONES.to_sparse(),
    "nan": math.nan,
    "negative": -1,
    "huge": 2**70,
    "type": int,
    "function": len,
    "nested": torch.nested.nested_tensor([torch.ones(2, 3)], layout=torch.jagged),
    "float8": ONES.to(torch.float8_e4m3fn),
}


def made(kind: str) -> Any:
    term, options, _, _ = KINDS[kind]
    return pidsl.compile(term, "torch", **options)


def tried(kernel: Callable[..., Any], *given: Any, **named: Any) -> None:
    """A call that works, and gives no NaN, or is refused; nothing else."""
    try:
        out = kernel(*given, **named)
    except PidslError:
        return
    out = out[0] if isinstance(out, tuple) else out
    assert out.is_meta or not out.isnan().any()


@pytest.mark.parametrize("kind", KINDS)
def test_odd_arguments(kind: str) -> None:
    kernel, (_, _, more, named) = made(kind), KINDS[kind]
    usual = [Q, K, V, *more]
    for odd in ODD.values():
        for place in range(len(usual)):
            tried(kernel, *usual[:place], odd, *usual[place + 1 :], **named)
        tried(kernel, odd, odd, odd, *more, **named)
        for name in KEYWORDS:
            tried(kernel, *usual, **named | {name: odd})


@pytest.mark.parametrize("kind", KINDS)
def test_no_batch_no_heads_no_tokens_no_width(kind: str) -> None:
    kernel, (_, _, more, named) = made(kind), KINDS[kind]

    def none(x: Any, axis: int) -> Any:
        return x.narrow(axis, 0, 0) if isinstance(x, torch.Tensor) and x.dim() > max(axis, 2) else x

    for axis in range(4):
        q, k, v = (none(x, axis) for x in (Q, K, V))
        own = {
            name: x[:0] if axis == 1 and torch.is_tensor(x) and x.dim() < 3 else none(x, axis)
            for name, x in named.items()
        }
        tried(kernel, q, k, v, *(none(x, axis) if axis < 3 else x for x in more), **own)
        for given in ((q, K, V), (Q, k, V), (Q, K, v), (Q, k, v), (q, k, V)):
            tried(kernel, *given, *more, **named)


def given_summaries() -> Iterator[Any]:
    kbar, vbar = K[:, :, :2], V[:, :, :2]
    yield from (
        [5],
        [(5, 5)],
        kbar,
        kbar[None],
        "ab",
        {1: 2},
        [()],
        [(kbar,)],
        [(kbar, None)],
        (kbar, vbar),
        [kbar, vbar],
    )
    yield from (
        [torch.stack([kbar, vbar])],
        [kbar],
        [(kbar.half(), vbar)],
        [(kbar.to("meta"), vbar)],
        0,
        [False],
        [0],
        [],
    )
    yield from (
        [(kbar[:, :3], vbar)],
        [(kbar[:, :0], vbar[:, :0])],
        [(kbar[:, :, :0], vbar)],
        [(kbar.numpy(), vbar.numpy())],
    )
    yield from (
        [(kbar, vbar)] * 2,
        {(kbar, vbar)},
        [(kbar, vbar, vbar)],
        iter([(kbar, vbar)]),
        np.ones(3),
        ["ab"],
        [{}],
    )


@pytest.mark.parametrize("kind", ["summaries", "output of summaries"])
def test_odd_summaries(kind: str) -> None:
    kernel, named = made(kind), KINDS[kind][3]
    for given in given_summaries():
        with pytest.raises(ArgumentError):
            kernel(Q, K, V, summaries=given, **named)
    for q, k, v in ((Q[:, :0], K[:, :0], V[:, :0]), (Q[:, :0], K, V)):
        gate = {"output_gate": G[:, :0]} if named else {}
        with pytest.raises(ArgumentError, match="at least 1 head"):
            kernel(q, k, v, **gate)
    good = kernel(Q, K, V, summaries=[[K[:, :, :2], V[:, :, :2]]], **named)
    assert torch.equal(good, kernel(Q, K, V, summaries=((K[:, :, :2], V[:, :, :2]),), **named))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"affine": "yes"}, "affine = 'yes'\n  expected: True or False"),
        ({"affine": 1}, "affine = 1"),
        ({"tune": "yes"}, "tune = 'yes'\n  expected: True or False"),
        ({"affine": []}, "affine = []"),
        ({"affine": torch.ones(2)}, "affine = tensor"),
        ({"output_gate": "heads"}, "output_gate = 'heads'\n  expected: None, 'head' or 'element'"),
        ({"output_gate": True}, "output_gate: bool"),
        ({"output_gate": ["head"]}, "output_gate: list"),
        ({"output_gate": G}, "output_gate: Tensor"),
        ({"backend": np.ones(2)}, "backend = array"),
        ({"score": torch.ones(2)}, "score = tensor"),
        (
            {"mode": "max-autotune"},
            "mode = 'max-autotune'\n  expected: backend=, score=, output_gate=, affine=, tune= and no others",
        ),
        ({"softcap": 30.0}, "pidsl.compile(term, score=pidsl.score(softcap=50.0))"),
        ({"causal": True}, "pidsl.compile(term & pidsl.causal)"),
        ({"scale": 1.0}, "kernel(q, k, v, ...) takes it"),
        ({"back": "torch"}, "back: backend="),
    ],
)
@pytest.mark.parametrize(
    "term", [TERM, GATE, HEADS, SPANS, layers([TERM])], ids=["term", "gate", "heads", "spans", "layers"]
)
def test_options_of_compile(term: Any, options: dict[str, Any], text: str) -> None:
    with pytest.raises(PidslError) as caught:
        pidsl.compile(term, **options)
    assert text in str(caught.value)


def test_positions_too_many_for_compile() -> None:
    with pytest.raises(KeywordError, match="options by keyword"):
        pidsl.compile(TERM, "torch", None, "head")


FOREIGN = {
    "attn_mask": "the pattern is the mask",
    "is_causal": "term & pidsl.causal",
    "dropout_p": "dropout=0.1",
    "softcap": "softcap=50.0",
    "enable_gqa": "fewer heads than q",
    "score_mod": "pidsl.score(...)",
    "block_mask": "is the mask",
    "mask": "is the mask",
    "key_padding_mask": "lengths and key_lengths",
    "alibi_slopes": "alibi=True",
    "softmax_scale": "scale=",
    "window_size": "pidsl.window(left, right)",
    "backend": "pidsl.compile(term, ...)",
    "ofset": "offset=",
    "nonsense": "",
}


@pytest.mark.parametrize("kind", KINDS)
def test_keywords_of_others(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("ran")

    monkeypatch.setattr(operator, "run_forward", never)
    kernel, (_, _, more, named) = made(kind), KINDS[kind]
    for name, text in FOREIGN.items():
        with pytest.raises(KeywordError) as caught:
            kernel(Q, K, V, *more, **named, **{name: 1})
        assert isinstance(caught.value, ArgumentError) and isinstance(caught.value, TypeError)
        assert name in caught.value.given and text in caught.value.hint and bool(text) == bool(caught.value.hint)
        assert all(f"{own}=" in caught.value.expected for own in ("scale", "offset", "return_lse", *named))
    with pytest.raises(KeywordError) as caught:
        kernel(Q, K, V, *more, **named, is_causal=True, dropout_p=0.0)
    assert caught.value.given == "is_causal = True; dropout_p = 0.0"
    with pytest.raises(KeywordError, match="the pattern is the mask"):
        kernel(Q, K, V, *more, Q[0, 0], **named)


def test_a_gate_without_weights() -> None:
    for kernel in (pidsl.compile(GATE), pidsl.compile(GATE, output_gate="head")):
        with pytest.raises(KeywordError, match=r"pidsl\.causal"):
            kernel(Q, K, V, is_causal=True)
        with pytest.raises(ArgumentError, match=r"weights: (got )?NoneType|output_gate: None"):
            kernel(Q, K, V)


def test_a_sequence_of_kernels_is_not_called() -> None:
    kernels: Any = pidsl.compile(layers([TERM, causal]), "torch")
    for named in ({}, {"attn_mask": Q}):
        with pytest.raises(KeywordError, match=r"kernels\[layer\]\(q, k, v\)"):
            kernels(Q, K, V, **named)
    with pytest.raises(TermError, match="the pattern of one layer"):
        SparseAttention(16, 2, layers([TERM, causal]))


# --- modules


@pytest.mark.parametrize(
    ("named", "text"),
    [
        ({"embed_dim": 16, "num_heads": 2}, "embed_dim: dim=; num_heads: heads="),
        ({"num_kv_heads": 1}, "num_kv_heads: kv_heads="),
        ({"dropout": 0.1}, "dropout=0.1"),
        ({"batch_first": True}, "x is [batch, tokens, dim]"),
        ({"is_causal": True}, "term & pidsl.causal"),
        ({"dtype": torch.half}, "layer.to(...)"),
        ({"kvheads": 1}, "kvheads: kv_heads="),
        ({"nonsense": 1}, "kv_heads=, bias=, rope="),
    ],
)
@pytest.mark.parametrize("module", [SparseAttention, PiAttention])
def test_keywords_of_other_modules(module: Any, named: dict[str, Any], text: str) -> None:
    with pytest.raises(KeywordError) as caught:
        module(**named)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    "named",
    [
        {"bias": "no"},
        {"bias": None},
        {"rope": "x"},
        {"rope": -1.0},
        {"rope": True},
        {"rope": math.nan},
        {"rope": math.inf},
        {"kv_heads": 0},
        {"kv_heads": "1"},
        {"output_gate": "heads"},
        {"affine": "yes"},
        {"backend": "cuda"},
    ],
    ids=str,
)
def test_odd_modules(named: dict[str, Any]) -> None:
    with pytest.raises(PidslError):
        SparseAttention(16, 2, TERM, **named)


@pytest.mark.parametrize("layer", [SparseAttention(16, 2, TERM), PiAttention(16, 2, 3, 5)], ids=["sparse", "pi"])
def test_odd_calls_of_modules(layer: nn.Module) -> None:
    x = torch.randn(1, 5, 16)
    for odd in (x.numpy(), [1], None, x[0], x[None], x[..., :8], x.half(), x.long(), x.to("meta"), x.to_sparse()):
        with pytest.raises(ArgumentError):
            layer(odd)
    for more, named in (((x, x), {}), ((), {"attn_mask": x}), ((), {"is_causal": True}), ((), {"need_weights": False})):
        with pytest.raises(KeywordError):
            layer(x, *more, **named)
    assert layer(x[:0]).shape == (0, 5, 16) and layer(x[:, :0]).shape == (1, 0, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x.bfloat16()).shape == x.shape
    for same in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), layer.double()):
        assert same(x.to(same.qkv.weight.dtype)).shape == x.shape


def test_a_projection_of_another_kind_is_left_alone() -> None:
    class Halved(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.to(self.weight.dtype))

    layer = SparseAttention(16, 2, TERM, backend="torch")
    layer.qkv = Halved(16, 48)
    assert layer(torch.randn(1, 5, 16, dtype=torch.float64)).shape == (1, 5, 16)


def test_odd_rotations() -> None:
    x = torch.randn(2, 3, 4)
    for odd, base in (
        (x[..., :3], 1e4),
        (x.long(), 1e4),
        ([1, 2], 1e4),
        (x[0, 0], 1e4),
        (x, "a"),
        (x, 0.0),
        (x, math.nan),
    ):
        with pytest.raises(ArgumentError):
            rotate(odd, base)


# --- derivatives that kernels have not


@pytest.mark.parametrize("kind", KINDS)
def test_transforms_are_refused_by_name(kind: str) -> None:
    kernel, (_, _, more, named) = made(kind), KINDS[kind]

    def total(q: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = kernel(q, K, V, *more, **named)
        return out.square().sum()

    for refused in (
        lambda: torch.func.grad(total)(Q),
        lambda: torch.func.jvp(total, (Q,), (Q,)),
        lambda: torch.vmap(total)(torch.stack([Q, Q])),
        lambda: torch.autograd.functional.hessian(total, Q[:, :, :, :]),
        lambda: torch.autograd.functional.jacobian(lambda q: kernel(q, K, V, *more, **named), Q, vectorize=True),
    ):
        with pytest.raises(BackendError, match=r"the kernel of (window|stride|heads|blocks|where|causal)"):
            refused()


# --- forward mode: tangents are never dropped


class Plain(torch.Tensor):
    pass


@pytest.mark.parametrize("kind", ["plain", "scored", "heads", "output gate"])
def test_no_tangent_is_dropped(kind: str) -> None:
    kernel, (_, _, more, named) = made(kind), KINDS[kind]
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(Q, torch.ones_like(Q))
        for q in (dual, dual.as_subclass(Plain)):
            with pytest.raises(BackendError, match="forward-mode"):
                kernel(q, K, V, *more, **named)


def test_no_tangent_is_dropped_in_a_graph() -> None:
    kernel = made("plain")
    f = torch.compile(lambda q: torch.func.jvp(lambda x: kernel(x, K, V), (q,), (q,))[1], backend="eager")
    with pytest.raises(Exception, match=r"the kernel of window\(3\) in forward-mode"):
        f(Q)
