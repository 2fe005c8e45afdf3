"""Attention modules in real batches: lengths, padding, documents and caches, each against the tokens alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import pidsl
from pidsl import ArgumentError, causal, keys, lags, window
from pidsl.nn import PiAttention, SparseAttention, rotate
from pidsl.testing import terms

# follows the hints of pidsl/nn/attention.py: _followed

Layer = SparseAttention | PiAttention
SINKS = window(4) | keys(0, 1) & causal
MAKE: dict[str, Callable[[], Layer]] = {
    "window": lambda: SparseAttention(32, 4, window(5) & causal, kv_heads=2, rope=1e4, backend="torch"),
    "sinks": lambda: SparseAttention(32, 4, SINKS, rope=1e4, bias=True, backend="reference"),
    "heads": lambda: SparseAttention(32, 4, pidsl.heads([(3, window(3)), (1, causal)]), rope=1e4, backend="torch"),
    "output": lambda: SparseAttention(32, 4, window(7), output_gate="element", affine=True, backend="torch"),
    "documents": lambda: SparseAttention(32, 4, SINKS & pidsl.documents, rope=1e4, backend="torch"),
    "pi": lambda: PiAttention(32, 4, 2, 6, rope=1e4, backend="torch"),
    "pi, comb": lambda: PiAttention(32, 4, 2, 6, skip="comb", kv_heads=2, rope=1e4, backend="torch"),
}
layers = pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
free = pytest.mark.parametrize("make", [MAKE[name] for name in MAKE if name != "documents"])


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5)


def made(make: Callable[[], Layer]) -> Layer:
    torch.manual_seed(0)
    return make()


def alone(layer: Layer, x: Tensor) -> Tensor:
    """The tokens of x [B, n, dim] and no others."""
    if not layer.kernel.confined:
        return layer(x)
    return layer(x, documents=torch.zeros(x.shape[:2], dtype=torch.int32))


@layers
def test_documents_are_as_each_alone(make: Callable[[], Layer]) -> None:
    layer = made(make)
    lengths = [9, 1, 14, 6]
    x = torch.randn(1, sum(lengths), 32, requires_grad=True)
    ids = torch.repeat_interleave(torch.tensor([3, 9, 1, 2]), torch.tensor(lengths))[None]
    y = layer(x, documents=ids)
    expected = torch.cat([alone(layer, part) for part in x.split(lengths, 1)], 1)
    close(y, expected)
    seed = torch.randn_like(y)
    close(*(torch.autograd.grad(out, x, seed)[0] for out in (y, expected)))


@free
def test_padding_on_the_right(make: Callable[[], Layer]) -> None:
    layer, lengths = made(make), torch.tensor([5, 12, 0])
    x = torch.randn(3, 12, 32)
    y = layer(x, lengths=lengths)
    for one, length, out in zip(x, lengths.tolist(), y, strict=True):
        if length:
            close(out[None, :length], layer(one[None, :length]))
    close(layer(x, lengths=12), layer(x))


@free
def test_padding_on_the_left(make: Callable[[], Layer]) -> None:
    layer, padding = made(make), torch.tensor([5, 0, 11])
    x = torch.randn(3, 12, 32)
    y = layer(x, offset=-padding)
    for one, before, out in zip(x, padding.tolist(), y, strict=True):
        close(out[None, before:], layer(one[None, before:]))


def test_tokens_from_a_position_on() -> None:
    """Without the tokens before it, a window over later ones has fewer keys; nothing else changes."""
    layer = SparseAttention(32, 4, window(5), rope=1e4, backend="torch").double()
    x = torch.randn(2, 10, 32, dtype=torch.float64)
    torch.testing.assert_close(layer(x, offset=100), layer(x), rtol=0, atol=1e-5)  # distances are the same
    close(layer(x, offset=torch.tensor([100, 100])), layer(x, offset=100))


@pytest.mark.parametrize(("static", "page_size"), [(True, None), (False, 4)])
@layers
def test_token_by_token(make: Callable[[], Layer], static: bool, page_size: int | None) -> None:
    layer, n = made(make), 16
    x = torch.randn(2, n, 32)
    with torch.no_grad():
        expected = alone(layer, x)
        cache = cache_of(layer, 2, max_tokens=n if static else None, page_size=page_size)
        found = torch.cat([layer(x[:, t : t + 1], cache=cache) for t in range(n)], 1)
    close(found, expected)
    assert cache.tokens.tolist() == [n, n]


def cache_of(layer: Layer, batch: int, **options: Any) -> Any:
    weight = layer.qkv.weight
    return pidsl.Cache(layer.kernel, batch, layer.kv_heads, layer.head_dim, weight.dtype, weight.device, **options)


@layers
def test_a_prompt_of_each_length_and_then_tokens(make: Callable[[], Layer]) -> None:
    layer, lengths = made(make), torch.tensor([9, 4])
    x, more = torch.randn(2, 9, 32), torch.randn(2, 12, 32)
    whole = [torch.cat([a[:n], b])[None] for a, b, n in zip(x, more, lengths.tolist(), strict=True)]
    with torch.no_grad():
        cache = cache_of(layer, 2, lookahead=2)
        prompt = layer(x, lengths=lengths, cache=cache)
        steps = [layer(more[:, t : t + 3], cache=cache) for t in range(0, 12, 3)]  # three at a time
        found = torch.cat(steps, 1)
        for b, n in enumerate(lengths.tolist()):
            expected = alone(layer, whole[b])
            close(prompt[b : b + 1, :n], expected[:, :n])
            close(found[b : b + 1], expected[:, n:])
    assert cache.tokens.tolist() == [21, 16]


def test_a_step_is_one_graph() -> None:
    layer = made(MAKE["window"])
    cache = cache_of(layer, 2, max_tokens=32)
    x = torch.randn(2, 12, 32)
    graphs = []

    def count(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    step = torch.compile(lambda x: layer(x, cache=cache), backend=count, fullgraph=True)
    with torch.no_grad():
        expected = layer(x)
        found = torch.cat([step(x[:, t : t + 1]) for t in range(12)], 1)
    close(found, expected)
    assert len(graphs) == 1


WHERE: dict[str, Callable[[int], dict[str, Any]]] = {
    "lengths": lambda s: {"lengths": torch.tensor([5 + s, 12 - s])},
    "documents": lambda s: {"documents": (torch.arange(12) >= 3 + s).int().expand(2, 12)},
    "offset": lambda s: {"offset": torch.tensor([-s, -3])},
}


@pytest.mark.parametrize("name", list(WHERE))
@pytest.mark.parametrize("make", [MAKE["window"], MAKE["pi"]], ids=["sparse", "pi"])
def test_one_graph_for_all_batches(make: Callable[[], Layer], name: str) -> None:
    layer, x, graphs = made(make), torch.randn(2, 12, 32), []

    def count(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    traced = torch.compile(lambda x, **where: layer(x, **where), backend=count, fullgraph=True)
    for s in range(3):
        close(traced(x, **WHERE[name](s)), layer(x, **WHERE[name](s)))
    assert len(graphs) == 1


@settings(max_examples=settings.default.max_examples // 5)
@given(terms(2), st.lists(st.integers(0, 9), min_size=1, max_size=4))
def test_any_pattern(pattern: pidsl.Term, lengths: list[int]) -> None:
    torch.manual_seed(0)
    layer = SparseAttention(16, 2, pattern, rope=1e4, backend="reference")
    x = torch.randn(1, sum(lengths), 16)
    ids = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))[None]
    with torch.no_grad():
        expected = torch.cat([layer(part) for part in x.split(lengths, 1)], 1)
        close(layer(x, documents=ids), expected)


def test_can_skip_where_there_is_something() -> None:
    layer = PiAttention(32, 2, 2, 5, skip="both", causal=False)
    ids = torch.tensor([[0] * 8 + [1] * 3 + [2] * 6])
    skip = (lags(5, -5) & pidsl.documents).mask(17, documents=ids[0].numpy()).any(1)
    from pidsl.nn.places import place

    x = torch.randn(1, 17, 32)
    where = place(x, {"lengths": None, "documents": ids, "offset": 0}, "")
    assert layer.can_skip(17, x.device, where)[0, 0].tolist() == skip.tolist()
    where = place(x, {"lengths": torch.tensor([7]), "documents": None, "offset": 0}, "")
    assert layer.can_skip(17, x.device, where)[0, 0].tolist()[:7] == lags(5, -5).mask(7).any(1).tolist()


def test_rotation_at_positions() -> None:
    x = torch.randn(2, 3, 5, 8)
    at = torch.tensor([[3, 4, 5, 6, 7], [0, 1, 2, 3, 4]])
    found = rotate(x, 1e4, positions=at)
    assert torch.equal(found[:1], rotate(x[:1], 1e4, offset=3)) and torch.equal(found[1:], rotate(x[1:], 1e4))
    assert torch.equal(rotate(x, 1e4, positions=at[0]), rotate(x, 1e4, offset=3))
    for wrong in (at[:, :4], at.float(), [0, 1, 2, 3, 4]):
        with pytest.raises(ArgumentError, match="positions"):
            rotate(x, 1e4, positions=wrong)  # type: ignore[arg-type]


LAYER = SparseAttention(32, 4, window(5), rope=1e4, backend="torch")
OTHER = SparseAttention(32, 4, window(7), rope=1e4, backend="torch")
X = torch.randn(2, 6, 32)


def behind(n: int, layer: Layer = LAYER, **options: Any) -> Any:
    cache = cache_of(layer, 2, **options)
    with torch.no_grad():
        layer(X[:, :n], cache=cache)
    return cache


FAULTS: list[tuple[Callable[[], Any], str]] = [
    (lambda: LAYER(X, documents=torch.zeros(2, 5, dtype=torch.int64)), "documents: shape [2, 5]"),
    (lambda: LAYER(X, documents=torch.zeros(2, 6)), "documents: dtype float32"),
    (lambda: LAYER(X, documents=[0] * 6), "documents: list"),
    (lambda: LAYER(X, documents=torch.tensor([[0, 1, 0, 1, 1, 1]] * 2)), "which an earlier run has too"),
    (lambda: LAYER(X, documents=torch.zeros(2, 6, dtype=torch.int64), offset=3), "offset: a value with documents"),
    (lambda: LAYER(X, lengths=torch.tensor([3])), "lengths: shape [1]"),
    (lambda: LAYER(X, lengths=torch.tensor([3, 7])), "2 faults"),
    (lambda: LAYER(X, lengths="3"), "lengths: '3'"),
    (lambda: LAYER(X, lengths=-1), "lengths: -1"),
    (lambda: LAYER(X, offset=torch.zeros(2)), "offset: dtype float32"),
    (lambda: LAYER(X, offset=1.5), "offset: 1.5"),
    (lambda: LAYER(X, cache={}), "cache: {}"),
    (lambda: LAYER(X, cache=behind(3, OTHER)), "cache: Cache(window(7)"),
    (lambda: LAYER(X, cache=cache_of(LAYER, 2), offset=1), "offset: a value with a cache"),
    (lambda: LAYER(X, cache=cache_of(LAYER, 2), documents=torch.zeros(2, 6, dtype=torch.int64)), "documents: a value"),
    (lambda: LAYER(X, cache=behind(3)), "x: 6 tokens behind 3"),
    (lambda: LAYER(X[:, :1], lengths=1, cache=behind(3)), "x: 1 tokens behind 3, with lengths"),
]


@pytest.mark.parametrize(("call", "says"), FAULTS, ids=[says for _, says in FAULTS])
def test_faults(call: Callable[[], Any], says: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        call()
    assert says in caught.value.given
    assert caught.value.where and (caught.value.expected or "2 faults" in says)


def test_hints_followed() -> None:
    with pytest.raises(ArgumentError) as caught:
        LAYER(X, cache=pidsl.Cache(OTHER.kernel, 2, 4, 8, torch.float32, "cpu"))
    assert caught.value.hint.startswith("pidsl.Cache(layer.kernel, batch, layer.kv_heads")
    close(LAYER(X, cache=cache_of(LAYER, 2)), LAYER(X))
    with pytest.raises(ArgumentError) as late:
        LAYER(X[:, 3:], cache=behind(3))
    assert "lookahead" in late.value.hint
    with torch.no_grad():
        close(LAYER(X[:, 3:], cache=behind(3, lookahead=2)), LAYER(X)[:, 3:])
    with pytest.raises(ArgumentError) as moved:
        LAYER(X, cache=cache_of(LAYER, 2), offset=2)
    assert moved.value.hint == "lengths=... for prompts of different lengths"
    LAYER(X, cache=cache_of(LAYER, 2), lengths=torch.tensor([6, 2]))


def test_nothing_is_appended_by_a_call_that_fails() -> None:
    cache = behind(3)
    for call in (lambda: LAYER(X, cache=cache), lambda: LAYER(X[:, :1], cache=cache, offset=3)):
        with pytest.raises(ArgumentError):
            call()
    assert cache.tokens.tolist() == [3, 3]
