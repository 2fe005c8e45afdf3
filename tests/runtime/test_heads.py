"""Patterns per group of query heads and per layer: the declared values, one launch per pattern, and its gradients."""

from __future__ import annotations

import copy
import itertools
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from dense import tensors
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import pidsl
from pidsl import Heads, Score, causal, compile, empty, gate, heads, keys, lags, layers, ring, score, stride, window
from pidsl.errors import ArgumentError, SymbolError, TermError
from pidsl.runtime.kernels import shares as sharing
from pidsl.runtime.kernels.heads import ByHead
from pidsl.testing import Inputs, Shapes, assert_matches_dense, inputs, shapes, terms

ALL = ("torch", "reference", "triton")
MIXED = heads([(1, window(3)), (2, causal), (1, window(3)), (3, stride(4) & causal), (1, window(3))])


# -- the value ---------------------------------------------------------------------------------------------------


def test_value() -> None:
    h = heads([(2, window(63)), (1, stride(256) & causal), (1, window(63))])
    assert repr(h) == "heads([(2, window(63)), (1, stride(256) & causal), (1, window(63))])"
    assert eval(repr(h), vars(pidsl)) == h
    assert h == heads([(1, window(63)), (1, window(63)), (1, stride(256) & causal), (1, window(63))])
    assert hash(h) == hash(heads(h.groups))
    assert h != heads([(3, window(63)), (1, stride(256) & causal)])
    assert list(h) == [window(63), window(63), stride(256) & causal, window(63)]
    assert (len(h), h[-1], h[2]) == (4, window(63), stride(256) & causal)
    assert h.distinct == {window(63): (0, 1, 3), stride(256) & causal: (2,)}
    assert h.union == window(63) | stride(256) & causal
    assert pickle.loads(pickle.dumps(h)) == copy.deepcopy(h) == h
    with pytest.raises(AttributeError):
        h.groups = ()  # type: ignore[misc]


def test_symbols() -> None:
    k, step = pidsl.symbols("k step")
    h = heads([(2, window(k)), (1, window(k).dilated(step))])
    assert h.symbols == {"k", "step"}
    assert h.bind(k=3).bind(step=2) == heads([(2, window(3)), (1, window(3).dilated(2))])
    assert len(h.bind(k=3, step=1).groups) == 2  # terms are compared as they are written
    with pytest.raises(SymbolError, match="symbols of the heads: k, step"):
        h.bind(radius=3)
    with pytest.raises(SymbolError):
        compile(h)


@pytest.mark.parametrize(
    ("groups", "text"),
    [
        ([], "heads([])\n  expected: at least one group\n  try: heads([(6, window(63)), (2, causal)])"),
        (
            [(0, window(1))],
            "group 0: 0 heads\n  expected: how many query heads, at least 1\n  where: heads([(count, term), ...])",
        ),
        (
            [(2, window(1)), (window(1), 3)],
            "group 1: window(1) heads\n  expected: how many query heads, at least 1\n"
            "  where: heads([(count, term), ...])\n  try: (3, window(1))",
        ),
        (
            [window(1)],
            "group 0: window(1)\n  expected: a pair of a count of query heads and a term\n"
            "  where: heads([(count, term), ...])",
        ),
        (
            [(1, "causal")],
            "group 0: 'causal' (str)\n  expected: a pidsl term\n  where: heads([(count, term), ...])",
        ),
        (
            [(4, gate(a=causal))],
            "group 0: gate(a=causal) (Gate)\n  expected: heads or gate, one of the two: the branches of a gate are "
            "weighed for all heads of a call\n  where: heads([(count, term), ...])\n"
            "  try: a kernel for each, called with its query heads: compile(gate)(q[:, :4], k, v, weights)",
        ),
    ],
    ids=["empty", "no heads", "turned round", "no pair", "text", "gate"],
)
def test_wrong_heads(groups: Any, text: str) -> None:
    with pytest.raises(TermError) as caught:
        heads(groups)
    assert str(caught.value) == text


def test_heads_are_not_terms() -> None:
    with pytest.raises(TermError, match="a pidsl term on both sides"):
        window(3) | MIXED  # type: ignore[operator]
    with pytest.raises(TermError, match="a kernel for each, called"):
        gate(a=MIXED)  # type: ignore[arg-type]


def test_answers() -> None:
    mask = MIXED.mask(9, 12, 3)
    assert mask.shape == (8, 9, 12)
    for head, term in enumerate(MIXED):
        np.testing.assert_array_equal(mask[head], term.mask(9, 12, 3))
    assert MIXED.pairs(9, 12, 3) == mask.sum()
    np.testing.assert_array_equal(MIXED.degree(9, 12, 3), mask.sum(-1))
    assert MIXED.sparsity(9, 12, 3) == pytest.approx(1 - mask.mean())


# -- shares ------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12).filter(lambda x: len(x) in (1, 2, 3, 4, 6, 8, 12)))
def test_shares(pattern_of: list[int]) -> None:
    count = len(pattern_of)
    mine = tuple(tuple(h for h in range(count) if pattern_of[h] == p) for p in sorted(set(pattern_of)))
    for group in (g for g in range(1, count + 1) if count % g == 0):
        found = sharing.shares(mine, group)
        q, k = torch.arange(count)[None], torch.arange(count // group)[None]
        for own, queries, shared in zip(mine, found.queries, found.keys, strict=True):
            assert sharing._take(q, queries)[0].tolist() == list(own)
            on = sharing._take(k, shared)[0]
            assert len(own) % len(on) == 0
            assert on.repeat_interleave(len(own) // len(on)).tolist() == [h // group for h in own]


def test_evenly_spaced_heads_are_views() -> None:
    q = torch.zeros(1, 32, 5, 8)
    found = sharing.shares(tuple(tuple(range(p, 32, 8)) for p in range(8)), 1)
    assert all(
        x.untyped_storage().data_ptr() == q.untyped_storage().data_ptr() for x in sharing.split(q, found.queries)
    )
    found = sharing.shares(((0, 1, 2, 3), (4, 5, 6, 7)), 8)
    assert found.keys == (((0, 1, 1),), ((0, 1, 1),))  # one key head for all: never copied


# -- the kernel --------------------------------------------------------------------------------------------------


@st.composite
def calls(draw: st.DrawFn, backend: str) -> tuple[Heads, Inputs]:
    few = draw(st.lists(terms(depth=2), min_size=1, max_size=3))
    kv_heads, group = draw(st.sampled_from(((1, 1), (2, 1), (1, 4), (2, 2), (2, 3), (3, 2))))
    each = draw(st.lists(st.sampled_from(few), min_size=kv_heads * group, max_size=kv_heads * group))
    longest, dims = (16, (8, 16)) if backend == "triton" else (48, (1, 8, 24))
    s = draw(shapes(longest, head_dims=dims))
    of = Shapes(s.batch, kv_heads * group, kv_heads, s.n, s.m, s.head_dim, s.value_dim, s.offset)
    dtypes = ("float32", "float16") + (() if backend == "triton" else ("float64", "bfloat16"))
    return heads((1, term) for term in each), draw(inputs(of, dtypes=dtypes))


@pytest.mark.parametrize("backend", ALL)
def test_random_heads(backend: Any) -> None:
    share = {"torch": 2, "reference": 10, "triton": 16}[backend]

    @settings(max_examples=settings.default.max_examples // share)
    @given(calls(backend))
    def run(call: tuple[Heads, Inputs]) -> None:
        assert_matches_dense(call[0], call[1], backend=backend, scale=0.4)

    run()


@pytest.mark.parametrize("backend", ALL)
def test_groups_cut_through_shared_keys(backend: Any) -> None:
    h = heads([(3, window(2)), (5, causal)])  # key heads of 4, 2 and 1 query heads
    for kv_heads in (2,) if backend == "triton" else (1, 2, 4, 8):
        assert_matches_dense(h, Inputs(*tensors(11, 11, 8, 16, 8, kv_heads), 0), backend=backend)


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_gradcheck(backend: Any) -> None:
    h = heads([(1, window(1)), (1, lags(0, 2)), (2, window(1))])
    given_ = [x.requires_grad_() for x in tensors(5, 5, 2, 1, heads=4, kv_heads=2, dtype=torch.float64)]
    kernel = compile(h, backend)
    assert torch.autograd.gradcheck(lambda *x: kernel(*x, return_lse=True), given_, fast_mode=True)


def test_one_launch_per_pattern(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = compile(MIXED, "torch")
    assert isinstance(kernel.form, ByHead)
    run: list[tuple[str, int]] = []
    for term, one in kernel.kernels.items():
        assert one is compile(term, "torch")

        def counted(*x: Any, term: Any = term, attend: Any = one.form.attend) -> Any:
            run.append((repr(term), x[0].q.shape[1]))
            return attend(*x)

        monkeypatch.setattr(one.form, "attend", counted)
    kernel(*tensors(9, 9, heads=8, kv_heads=4))
    assert run == [("window(3)", 3), ("causal", 2), ("stride(4) & causal", 3)]
    assert len(kernel.plan.parts) == 3


def test_one_pattern_is_the_plain_kernel() -> None:
    q, k, v = tensors(9, 9, heads=4)
    assert torch.equal(compile(heads([(4, causal)]), "torch")(q, k, v), compile(causal, "torch")(q, k, v))


def test_only_what_is_needed() -> None:
    q, k, v = tensors(9, 9, heads=8, kv_heads=4)
    k.requires_grad_()
    out, lse = compile(MIXED, "torch")(q, k, v, return_lse=True)
    (from_lse,) = torch.autograd.grad(lse.sum(), k, retain_graph=True)
    assert from_lse.any()
    (both,) = torch.autograd.grad(lse.sum() + out.sum(), k, retain_graph=True)
    (from_out,) = torch.autograd.grad(out.sum(), k)
    torch.testing.assert_close(both, from_lse + from_out)
    with torch.inference_mode():
        assert torch.equal(compile(MIXED, "torch")(q, k, v), out)


def test_half_autocast_and_empty() -> None:
    kernel = compile(MIXED, "torch")
    q, k, v = (x.requires_grad_() for x in tensors(20, 20, heads=8, kv_heads=4))
    with torch.autocast("cpu", torch.bfloat16):
        out = kernel(q, k, v)
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert q.grad is not None
    assert q.grad.dtype == torch.float32
    assert kernel(q[:, :, :0], k, v).shape == (1, 8, 0, 16)
    assert not kernel(q, k[:, :, :0], v[:, :, :0]).any()
    assert kernel(q[:0], k[:0], v[:0]).shape == (0, 8, 20, 16)


def test_rows_and_heads_without_keys() -> None:
    h = heads([(1, empty), (1, keys(2, 4))])
    assert_matches_dense(h, Inputs(*tensors(5, 2), 0))
    out, lse = compile(h, "torch")(*tensors(5, 5), return_lse=True)
    assert not out[:, 0].any()
    assert (lse[:, 0] == -torch.inf).all()


def test_compiled_in_one_graph() -> None:
    kernel = compile(heads([(1, window(3)), (2, causal), (1, window(3))]), "torch")

    def model(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out, lse = kernel(q * 2, k, v, return_lse=True)
        return out.sin() + lse[..., None]

    compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=True)
    for n in (9, 14):
        given_ = [x.requires_grad_() for x in tensors(n, n, heads=4, kv_heads=2)]
        got, want = compiled(*given_), model(*given_)
        assert torch.equal(got, want)
        pairs = zip(torch.autograd.grad(got.sum(), given_), torch.autograd.grad(want.sum(), given_), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def test_wrong_calls() -> None:
    q, k, v = tensors(9, 9, heads=6, kv_heads=2)
    with pytest.raises(ArgumentError) as caught:
        compile(heads([(4, causal), (4, window(2))]), "torch")(q, k, v)
    where = "kernel(q, k, v) of heads([(4, causal), (4, window(2))])"
    assert str(caught.value) == f"q: 6 heads\n  expected: 8 = 4 + 4, as declared\n  where: {where}"
    with pytest.raises(ArgumentError, match="2 faults"):
        compile(heads([(4, causal), (4, window(2))]), "torch")(q, k[:, :, :, :8], v)
    with pytest.raises(ArgumentError, match=r"ring\(1\)"):
        compile(heads([(5, causal), (1, ring(1))]), "torch")(q, k[:, :, :5], v[:, :, :5])


def test_handle() -> None:
    kernel = compile(MIXED, "torch")
    assert kernel is compile(heads(MIXED.groups), "torch")
    assert pickle.loads(pickle.dumps(kernel)) is kernel
    assert repr(kernel) == f"pidsl.compile({MIXED!r}, backend='torch')"
    assert str(kernel.plan).startswith("3 launches for 8 query heads\n\nheads 0, 3, 7\n  plan of window(3) for torch\n")
    assert kernel.explain().startswith("3 launches for 8 query heads\n\nheads 0, 3, 7\npattern  window(3)\n")
    assert compile(MIXED).backend == "auto"


# -- with a score ------------------------------------------------------------------------------------------------

EVERYTHING = score(softcap=3.0, alibi=True, bias=(-1, 4), sinks=True, temperature=True, dropout=0.3)
NO_DROPOUT = replace(EVERYTHING, dropout=0.0)


def numbers(s: Score, count: int) -> dict[str, Any]:
    made = torch.Generator().manual_seed(count)
    shaped = {"slopes": (count,), "bias": (count, s.table), "sinks": (count,), "temperature": (count,)}
    values: dict[str, Any] = {name: torch.rand(shape, generator=made) + 0.5 for name, shape in shaped.items()}
    return {name: (values | {"seed": 7})[name] for name in s.parameters}


def head_by_head(h: Heads, s: Score, q: Tensor, k: Tensor, v: Tensor, offset: int, given_: Any) -> tuple[Any, ...]:
    """(out, lse) in float64 of one reference kernel for each head, called with its rows of the parameters."""
    group = q.shape[1] // k.shape[1]
    results = [
        compile(term, "reference", s)(
            q[:, x, None].double(), k[:, x // group, None].double(), v[:, x // group, None].double(), offset=offset,
            return_lse=True, **{name: value[x, None].double() for name, value in given_.items()},
        )
        for x, term in enumerate(h)
    ]  # fmt: skip
    return tuple(torch.cat(each, 1) for each in zip(*results, strict=True))


@pytest.mark.parametrize("backend", ALL)
def test_random_heads_with_a_score(backend: Any) -> None:
    share = {"torch": 12, "reference": 40, "triton": 40}[backend]

    @settings(max_examples=max(1, settings.default.max_examples // share))
    @given(calls(backend))
    def run(call: tuple[Heads, Inputs]) -> None:
        h, x = call
        leaves = [t.float().detach().requires_grad_() for t in (x.q, x.k, x.v)]
        given_ = {name: t.requires_grad_() for name, t in numbers(NO_DROPOUT, len(h)).items()}
        leaves += given_.values()
        got = compile(h, backend, NO_DROPOUT)(*leaves[:3], offset=x.offset, return_lse=True, **given_)
        want = head_by_head(h, NO_DROPOUT, *leaves[:3], x.offset, given_)
        along = [torch.sin(torch.arange(t.numel(), dtype=torch.float64)).reshape(t.shape) for t in want]
        grads = torch.autograd.grad(got, leaves, [t.float() for t in along])
        for a, b in zip((*got, *grads), (*want, *torch.autograd.grad(want, leaves, along)), strict=True):
            torch.testing.assert_close(a.double(), b.double(), rtol=2e-4, atol=2e-4)

    run()


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_every_part_of_a_score(backend: Any) -> None:
    h = heads([(1, window(3)), (2, causal), (1, window(3))])
    x = Inputs(*tensors(9, 11, heads=4, kv_heads=2), 2)
    assert_matches_dense(compile(h, backend, EVERYTHING), x, parameters=numbers(EVERYTHING, 4))


def test_dropout_of_launches_is_not_the_same() -> None:
    h = heads([(1, causal), (1, window(40)), (1, causal), (1, window(40))])
    q, k, v = (x.expand(2, 4, 32, 32) for x in (torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), torch.eye(32)))

    def kept(seed: int, backend: Any = "torch") -> Tensor:
        return compile(h, backend, score(dropout=0.5))(q, k, v, seed=seed) != 0

    for seed in (0, 2**63 - 1):
        assert torch.equal(kept(seed), kept(seed))
        assert torch.equal(kept(seed), kept(seed, "reference"))
        assert torch.equal(kept(seed), kept(seed, "triton"))
        masks = [*kept(seed).flatten(0, 1), *kept(seed ^ 1).flatten(0, 1)]
        below = torch.ones(32, 32).tril().bool()
        for a, b in itertools.combinations(masks, 2):
            assert abs(float((a == b)[below].float().mean()) - 0.5) < 0.12
    plain = compile(causal, "torch", score(dropout=0.5))
    assert torch.equal(compile(heads([(4, causal)]), "torch", plain.score)(q, k, v, seed=3), plain(q, k, v, seed=3))


def test_scored_in_one_graph() -> None:
    s = score(bias=(-1, 4), dropout=0.3)
    kernel = compile(heads([(1, window(3)), (1, causal)]), "torch", s)

    def model(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, seed: int) -> Tensor:
        return torch.sin(kernel(q * 2, k, v, bias=bias, seed=seed))

    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    leaves = [x.requires_grad_() for x in (*tensors(9, 9), numbers(s, 2)["bias"])]
    for seed in (1, 2**62 + 3):  # the second is a symbol of the graph
        got, want = compiled(*leaves, seed), model(*leaves, seed)
        assert torch.equal(got, want)
        grads = [torch.autograd.grad(x.sum(), leaves) for x in (got, want)]
        assert all(map(torch.equal, *grads))


def test_parameters_of_heads_are_checked() -> None:
    q, k, v = tensors(9, 9, heads=8, kv_heads=4)
    kernel = compile(MIXED, "torch", score(alibi=True, bias=(0, 3), dropout=0.5))
    with pytest.raises(ArgumentError) as caught:
        kernel(q, k, v, slopes=torch.ones(3), sinks=torch.ones(8), seed=-1)
    assert str(caught.value).startswith("4 faults in kernel(q, k, v) of heads(")
    for text in ("slopes: got shape [3], expected [8]", "bias: got nothing", "sinks: got a value", "seed: got -1"):
        assert text in str(caught.value)
    with pytest.raises(ArgumentError, match="a kernel without a score"):
        compile(MIXED, "torch")(q, k, v, slopes=torch.ones(8))


def test_scored_handles() -> None:
    kernel, schedule = compile(MIXED, "torch", NO_DROPOUT), layers([window(3), MIXED, window(3)])
    assert kernel is compile(MIXED, "torch", NO_DROPOUT) is pickle.loads(pickle.dumps(kernel))
    assert repr(kernel) == f"pidsl.compile({MIXED!r}, backend='torch', score={NO_DROPOUT!r})"
    kernels = compile(schedule, "torch", NO_DROPOUT)
    assert kernels[1] is kernel and kernels[0] is kernels[2] is compile(window(3), "torch", NO_DROPOUT)
    assert pickle.loads(pickle.dumps(kernels)) is kernels
    assert repr(kernels) == f"pidsl.compile({schedule!r}, backend='torch', score={NO_DROPOUT!r})"


def test_changing_one_group_changes_its_section() -> None:
    def sections(h: Heads) -> list[str]:
        return ("\n\n" + compile(h, "torch").source()).split("\n\n# head")[1:]

    before = sections(heads([(4, window(3)), (2, causal), (2, window(3))]))
    after = sections(heads([(4, window(3)), (2, stride(4) & causal), (2, window(3))]))
    assert len(before) == len(after) == 2
    assert before[0] == after[0]
    assert before[1] != after[1]


# -- layers ------------------------------------------------------------------------------------------------------


def test_layers_of_heads() -> None:
    schedule = layers([window(3), MIXED, causal, window(3)])
    assert schedule[1] == MIXED
    assert eval(repr(schedule), vars(pidsl)) == schedule
    kernels = compile(schedule, "torch")
    assert len(kernels) == 4
    assert kernels[1] is compile(MIXED, "torch")
    assert kernels[0] is kernels[3] is compile(window(3), "torch")
    assert kernels[-2] is compile(causal, "torch")
    assert kernels[1:3] == (kernels[1], kernels[2])
    assert list(kernels) == [kernels[layer] for layer in range(4)]
    assert kernels is pickle.loads(pickle.dumps(kernels))
    assert repr(kernels) == f"pidsl.compile({schedule!r}, backend='torch')"
    assert kernels.source().count("# layers 0, 3\n") == 1
    assert kernels.source().count("# layer 2\n") == 1
    assert kernels.explain().startswith("layers 0, 3\npattern  window(3)\n")
    q, k, v = tensors(9, 9, heads=8, kv_heads=4)
    for kernel, layer in zip(kernels, schedule, strict=True):
        assert_matches_dense(kernel, Inputs(q, k, v, 0), term=layer)


def test_information_flows_over_any_head() -> None:
    h = heads([(2, window(3)), (2, lags(0, 16))])
    schedule = layers([h, window(3)])
    assert schedule.unions == (window(3) | lags(0, 16), window(3))
    plain = layers(schedule.unions)
    assert schedule.farthest()(n=100) == plain.farthest()(n=100) == 19
    assert schedule.path(19, 0) == plain.path(19, 0)
    k = pidsl.symbols("k")
    assert layers([heads([(1, window(k)), (1, causal)]), window(k)]).bind(k=2)[0][0] == window(2)
    with pytest.raises(TermError, match="a schedule of patterns"):
        pidsl.compare([schedule], n=64, layers=2)
    with pytest.raises(TermError, match="layers or gate, one of the two"):
        layers([gate(a=causal)])  # type: ignore[list-item]
