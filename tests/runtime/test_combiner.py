"""Exact keys and spans in one softmax: the declared value, Combiner's partitions, and kernels against loops."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from dense import tensors
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import pidsl
from pidsl import ArgumentError, Summaries, TermError, blocks, causal, compile, keys, lags, spans, summaries, where
from pidsl.patterns import combiner_axial, combiner_fixed, combiner_logsparse, combiner_rowmajor
from pidsl.runtime.kernels.merge import merge
from pidsl.testing import lengths, terms

FAST = ("torch", "reference")
Span = tuple[list[int], list[int]]  # its tokens, and those whose keys are pooled
Definition = Callable[[int], tuple[list[int], list[Span]]]  # query -> exact keys, spans


def fixed(size: int) -> Definition:
    def keys_of(i: int) -> tuple[list[int], list[Span]]:
        own = i // size * size
        found = [list(range(start, start + size)) for start in range(0, own, size)]
        return list(range(own, i + 1)), [(x, x) for x in found]

    return keys_of


def logsparse(i: int) -> tuple[list[int], list[Span]]:
    exact, found, stop = [i], [], i
    for digit in range(i.bit_length()):
        if i >> digit & 1:
            block = list(range(stop - 2**digit, stop))
            stop -= 2**digit
            if digit == 0:
                exact += block
            else:
                found.append((block, block))
    return exact, found


def axial(width: int, direction: str) -> Definition:
    def keys_of(i: int) -> tuple[list[int], list[Span]]:
        row, column = divmod(i, width)
        exact = [j for j in range(i + 1) if j // width == row or j % width == column]
        if direction == "vertical":
            found = [[r * width + c for r in range(row)] for c in range(width) if c != column]
        else:
            found = [[r * width + c for c in range(width) if c != column] for r in range(row)]
        return exact, [(x, x) for x in found if x]

    return keys_of


def rowmajor(width: int) -> Definition:
    def keys_of(i: int) -> tuple[list[int], list[Span]]:
        row, column = divmod(i, width)
        found: list[Span] = [(list(range(r * width, (r + 1) * width)), [r * width + column]) for r in range(row)]
        return list(range(row * width, i + 1)), found

    return keys_of


CASES: list[tuple[str, Summaries, Definition]] = [
    ("fixed 4", combiner_fixed(4), fixed(4)), ("fixed 1", combiner_fixed(1), fixed(1)),
    ("fixed 7", combiner_fixed(7), fixed(7)), ("logsparse", combiner_logsparse(80), logsparse),
    ("vertical 4", combiner_axial(4), axial(4, "vertical")), ("vertical 1", combiner_axial(1), axial(1, "vertical")),
    ("horizontal 5", combiner_axial(5, "horizontal"), axial(5, "horizontal")),
    ("horizontal 1", combiner_axial(1, "horizontal"), axial(1, "horizontal")),
    ("rowmajor 4", combiner_rowmajor(4), rowmajor(4)), ("rowmajor 1", combiner_rowmajor(1), rowmajor(1)),
]  # fmt: skip
IDS = [name for name, _, _ in CASES]


def by_loops(of: Definition, q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> tuple[Tensor, Tensor]:
    """(out, lse) in float64: for each query the list of its keys and values, one softmax over all of them."""
    group = q.shape[1] // k.shape[1]
    q, k, v = q.double(), k.double().repeat_interleave(group, 1), v.double().repeat_interleave(group, 1)
    scale = q.shape[3] ** -0.5 if scale is None else scale
    outs, lses = [], []
    for i in range(q.shape[2]):
        exact, found = of(i)
        all_keys, all_values = [k[:, :, j] for j in exact], [v[:, :, j] for j in exact]
        for tokens, pooled in found:
            kbar, qbar = (x[:, :, pooled].amax(2) for x in (k, q))
            inside = torch.softmax((k[:, :, tokens] @ qbar[..., None]).squeeze(-1) * scale, -1)
            all_keys.append(kbar)
            all_values.append((inside[..., None] * v[:, :, tokens]).sum(2))
        logits = (torch.stack(all_keys, 2) @ q[:, :, i, :, None]).squeeze(-1) * scale
        outs.append((torch.softmax(logits, -1)[..., None] * torch.stack(all_values, 2)).sum(2))
        lses.append(torch.logsumexp(logits, -1))
    return torch.stack(outs, 2), torch.stack(lses, 2)


def assert_as_loops(kernel: Any, of: Definition, given_: list[Tensor], within: float) -> None:
    given_ = [x.requires_grad_() for x in given_]
    got, want = kernel(*given_, return_lse=True), by_loops(of, *given_)
    assert got[0].dtype == given_[0].dtype
    made = torch.Generator().manual_seed(3)
    seeds = [torch.randn(x.shape, generator=made, dtype=torch.float64) for x in want]
    got_grads = torch.autograd.grad(got, given_, [s.to(x.dtype) for s, x in zip(seeds, got, strict=True)])
    want_grads = torch.autograd.grad(want, given_, seeds)
    for a, b in zip((*got, *got_grads), (*want, *want_grads), strict=True):
        torch.testing.assert_close(a.double(), b.double(), rtol=within, atol=within)


# -- the value ---------------------------------------------------------------------------------------------------


def test_value() -> None:
    found = combiner_fixed(64)
    assert repr(found) == "summaries(blocks(64) & causal, [spans(64, where(lambda i, j: j < i // 64))])"
    for _, case, _ in CASES:
        assert eval(repr(case), vars(pidsl)) == case
        assert pickle.loads(pickle.dumps(case)) == case
        assert hash(case) == hash(eval(repr(case), vars(pidsl)))


@pytest.mark.parametrize(("name", "case", "of"), CASES, ids=IDS)
def test_every_past_token_counts_once(name: str, case: Summaries, of: Definition) -> None:
    for n in (*range(41), 64, 79, 80):
        np.testing.assert_array_equal(case.times(n), causal.mask(n))
    for i in range(80):  # and so it is in the definition
        exact, found = of(i)
        assert sorted(exact + [j for tokens, _ in found for j in tokens]) == list(range(i + 1))
        assert case.exact.mask(80)[i].nonzero()[0].tolist() == sorted(exact)
        seen = sum(int(x.seen.mask(80, x.count(80))[i].sum()) for x in case.levels)
        assert seen == len(found)


@pytest.mark.parametrize(("name", "case", "of"), CASES, ids=IDS)
def test_every_past_token_counts_once_for_every_length(name: str, case: Summaries, of: Definition) -> None:
    most = 128 if name == "logsparse" else None  # its levels end with blocks of 64
    assert case.covers(causal, most)
    assert not case.covers(causal - lags(1), most)
    if name == "logsparse":
        assert not case.covers(causal)


def test_what_does_not_cover() -> None:
    past = where(lambda i, j: j < i // 4)
    assert not summaries(causal, [spans(4, past)]).covers(causal)  # exact and in a span
    assert not summaries(blocks(4) & causal, [spans(4, past), spans(4, past)]).covers(causal)
    assert not summaries(blocks(4) & causal, [spans(4, past, of="row")]).covers(causal)  # a row through each token
    assert not summaries(blocks(4) & causal, [spans(4, where(lambda i, j: j < i // 4 - 1))]).covers(causal)
    everything = summaries(blocks(3), [spans(3, where(lambda i, j: j != i // 3))])
    assert everything.covers(pidsl.full)
    assert everything.times(11).tolist() == pidsl.full.mask(11).astype(int).tolist()


@settings(max_examples=settings.default.max_examples // 2)
@given(terms(depth=1), terms(depth=1), st.integers(1, 4), st.sampled_from(("block", "above", "beside", "row")))
def test_covers_what_is_counted(exact: pidsl.Term, seen: pidsl.Term, size: int, of: Any) -> None:
    case = summaries(exact, [spans(size, seen, of)])
    counted = [case.times(n) for n in range(14)]
    union = [x > 0 for x in counted]
    for term in (causal, pidsl.full, exact):
        if case.covers(term, 13):
            assert all((x == term.mask(n)).all() for n, x in enumerate(counted))
        else:
            assert any(
                (u != term.mask(n)).any() or x.max(initial=0) > 1
                for n, (u, x) in enumerate(zip(union, counted, strict=True))
            )


def test_logits() -> None:
    for n in (64, 256, 1024):
        root = math.isqrt(n)
        s = root
        rows = n // s
        # own block up to i, earlier blocks, and each token once inside its block
        assert combiner_fixed(s).logits(n) == n * (s + 1) // 2 + s * rows * (rows - 1) // 2 + n <= 2 * n * root
        assert combiner_axial(root).logits(n) <= 4 * n * root
        assert combiner_axial(root, "horizontal").logits(n) <= 4 * n * root
        assert combiner_rowmajor(root).logits(n) <= 4 * n * root
        digits = sum(i.bit_count() for i in range(n))  # a key for each 1, one of them exact if i is odd, and i itself
        levels = (n - 1).bit_length() - 1
        assert combiner_logsparse(n).logits(n) == digits + n + levels * n <= 2 * n * math.log2(n)


def test_wrong_summaries() -> None:
    with pytest.raises(TermError, match="of = 'column'"):
        spans(4, causal, of="column")  # type: ignore[arg-type]
    with pytest.raises(TermError, match="size = 0"):
        spans(0, causal)
    with pytest.raises(TermError, match="size = s"):
        spans(pidsl.symbols("s"), causal)
    with pytest.raises(TermError, match="seen = 3"):
        spans(4, 3)  # type: ignore[arg-type]
    with pytest.raises(TermError, match="without rings"):
        spans(4, pidsl.ring(2))
    with pytest.raises(pidsl.SymbolError):
        summaries(pidsl.window(pidsl.symbols("k")), [])
    with pytest.raises(TermError, match="level 0: causal"):
        summaries(causal, [causal])  # type: ignore[list-item]
    with pytest.raises(TermError, match="layers or summaries, one of the two"):
        pidsl.layers([combiner_fixed(4)])  # type: ignore[list-item]
    for call in (
        lambda: combiner_fixed(0), lambda: combiner_logsparse(0), lambda: combiner_axial(0),
        lambda: combiner_rowmajor(pidsl.symbols("w")), lambda: combiner_axial(2, "diagonal"),  # type: ignore[arg-type]
    ):  # fmt: skip
        with pytest.raises(TermError):
            call()


# -- the kernel --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize(("name", "case", "of"), CASES, ids=IDS)
def test_against_loops(name: str, case: Summaries, of: Definition, backend: Any) -> None:
    kernel = compile(case, backend)
    for n, heads, kv_heads in ((1, 1, 1), (9, 4, 2), (23, 2, 1)):
        assert_as_loops(kernel, of, list(tensors(n, n, 8, 5, heads, kv_heads, dtype=torch.float64)), 1e-9)


@pytest.mark.parametrize(("name", "case", "of"), [CASES[0], CASES[4], CASES[6]], ids=["fixed", "vertical", "beside"])
def test_interpreted_triton(name: str, case: Summaries, of: Definition) -> None:
    assert_as_loops(compile(case, "triton"), of, list(tensors(11, 11, 8, 8, 2, 1)), 2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_half(dtype: torch.dtype) -> None:
    within = {torch.float32: 2e-5, torch.float16: 1e-2, torch.bfloat16: 1e-1}[dtype]
    for _, case, of in (CASES[0], CASES[3], CASES[8]):
        given_ = [x.mul(0.5) for x in tensors(29, 29, 16, 16, dtype=dtype)]
        got, want = compile(case, "torch")(*given_), by_loops(of, *given_)[0]
        torch.testing.assert_close(got.double(), want, rtol=within, atol=within)


@settings(max_examples=settings.default.max_examples // 2)
@given(st.sampled_from(CASES), lengths(40), st.sampled_from(((1, 1), (2, 1), (4, 2))), st.integers(0, 9))
def test_any_length(case: tuple[str, Summaries, Definition], n: int, heads: tuple[int, int], seed: int) -> None:
    q, k, v = tensors(n, n, 4, 3, *heads, batch=2, dtype=torch.float64, seed=seed)
    out, lse = compile(case[1], "torch")(q, k, v, scale=0.7, return_lse=True)
    if n == 0:
        assert out.shape == (2, heads[0], 0, 3)
        return
    want = by_loops(case[2], q, k, v, 0.7)
    torch.testing.assert_close(out, want[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(lse, want[1], rtol=1e-9, atol=1e-9)


@settings(max_examples=settings.default.max_examples // 2)
@given(terms(depth=2), terms(depth=2), st.integers(1, 5), st.integers(0, 20))
def test_any_blocks(exact: pidsl.Term, seen: pidsl.Term, size: int, n: int) -> None:
    """Blocks that end early, tokens that count twice or never: the same formula for any terms."""
    q, k, v = tensors(n, n, 4, 3, 2, 1, dtype=torch.float64)
    case = summaries(exact, [spans(size, seen)])
    out, lse = compile(case, "torch")(q, k, v, return_lse=True)
    own, blocks_ = exact.mask(n), seen.mask(n, -(-n // size))

    def of(i: int) -> tuple[list[int], list[Span]]:
        found = [list(range(s * size, min(n, s * size + size))) for s in blocks_[i].nonzero()[0]]
        return own[i].nonzero()[0].tolist(), [(x, x) for x in found]

    for i in range(n):
        if not own[i].any() and not blocks_[i].any():
            assert not out[:, :, i].any()
            assert (lse[:, :, i] == -torch.inf).all()
    if n and (own.any(1) | blocks_.any(1)).all():
        want = by_loops(of, q, k, v)
        torch.testing.assert_close(out, want[0], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(lse, want[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("name", "case", "of"), [CASES[0], CASES[3], CASES[4], CASES[6], CASES[8]])
def test_gradcheck(name: str, case: Summaries, of: Definition) -> None:
    kernel = compile(case, "torch")
    given_ = [x.requires_grad_() for x in tensors(9, 9, 2, 1, heads=2, kv_heads=1, dtype=torch.float64)]
    assert torch.autograd.gradcheck(lambda *x: kernel(*x, return_lse=True), given_, fast_mode=True)


def test_rows_without_keys() -> None:
    case = summaries(keys(0, 3) & causal & pidsl.queries(2, None), [spans(2, where(lambda i, j: (i >= 4) & (j == 1)))])
    given_ = [x.requires_grad_() for x in tensors(7, 7, 2, 1, dtype=torch.float64)]
    out, lse = compile(case, "torch")(*given_, return_lse=True)
    assert not out[:, :, :2].any()
    assert (lse[:, :, :2] == -torch.inf).all()
    assert lse[:, :, 2:].isfinite().all()
    grads = torch.autograd.grad(out.sum() + lse[:, :, 2:].sum(), given_)
    assert all(g.isfinite().all() for g in grads)


def test_merge_is_attention_over_the_union() -> None:
    q, k, v = (x.requires_grad_() for x in tensors(9, 12, dtype=torch.float64))
    parts = (lags(0, 3), keys(4, 6) - lags(0, 3), pidsl.empty)
    got = merge([compile(t, "torch")(q, k, v, return_lse=True) for t in parts])
    want = compile(parts[0] | parts[1], "torch")(q, k, v, return_lse=True)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)
        seed = torch.randn_like(a)
        pairs = zip(*(torch.autograd.grad(x, [q, k], seed, retain_graph=True) for x in (a, b)), strict=True)
        for x, y in pairs:
            torch.testing.assert_close(x, y)


def test_given_summaries() -> None:
    kernel = compile(combiner_fixed(4), "torch")
    q, k, v = tensors(11, 11, 8, 5, 4, 2, dtype=torch.float64)
    kbar, vbar = (torch.randn(1, h, 3, d, dtype=torch.float64, requires_grad=True) for h, d in ((2, 8), (4, 5)))
    out = kernel(q, k, v, summaries=[(kbar, vbar)])
    assert not torch.equal(out, kernel(q, k, v))
    # decoding: the last rows alone, with the summaries kept
    torch.testing.assert_close(kernel(q[:, :, 9:], k, v, summaries=[(kbar, vbar)], offset=9), out[:, :, 9:])
    assert all(x.any() for x in torch.autograd.grad(out.sum(), [kbar, vbar]))
    for heads in (2, 4):
        a, b = (x[:, :2].repeat_interleave(heads // 2, 1) for x in (kbar, vbar))
        torch.testing.assert_close(
            kernel(q, k, v, summaries=[(a, b)]), kernel(q, k, v, summaries=[(kbar, vbar[:, :2])])
        )
    assert torch.equal(kernel(q, k, v, summaries=[None]), kernel(q, k, v))


def test_wrong_calls() -> None:
    kernel = compile(combiner_fixed(4), "torch")
    q, k, v = tensors(11, 11, 8, 5, 4, 2)
    where_ = "  where: kernel(q, k, v) of summaries(blocks(4) & causal, [spans(4, where(lambda i, j: j < i // 4))])"
    with pytest.raises(ArgumentError) as caught:
        kernel(q[:, :, 9:], k, v, offset=9)
    assert str(caught.value) == (
        "q: 2 queries from position 9 on with 11 keys\n  expected: the queries of all tokens, which the default "
        f"summaries pool\n{where_}\n  try: summaries=[(kbar, vbar), ...], kept from earlier"
    )
    bars = torch.zeros(1, 2, 3, 8), torch.zeros(1, 4, 3, 5)
    for given_, text in (
        ([], "0 levels"), ([(bars[0],)], r"1 tensors for level 0"),
        ([(bars[0][:, :, :2], bars[1])], r"kbar of level 0: shape \[1, 2, 2, 8\]"),
        ([(bars[0], bars[1][:, :3])], r"vbar of level 0: shape \[1, 3, 3, 5\]"),
        ([(bars[0].half(), bars[1])], "float32, the dtype of q"), ([(bars[0], bars[1][0])], "rank 4"),
    ):  # fmt: skip
        with pytest.raises(ArgumentError, match=text):
            kernel(q, k, v, summaries=given_)
    with pytest.raises(ArgumentError, match="head_dim"):
        kernel(q[..., :4], k, v)


def test_autocast_compile_and_handle() -> None:
    kernel = compile(combiner_axial(4), "torch")
    assert pickle.loads(pickle.dumps(kernel)) is kernel is compile(combiner_axial(4), "torch")
    assert repr(kernel) == f"pidsl.compile({combiner_axial(4)!r}, backend='torch')"
    assert [*kernel.kernels] == ["exact", "seen 0", "members 0"]
    assert kernel.source().startswith("# exact\n")
    assert "seen 0\npattern  " in kernel.explain()
    assert compile(combiner_fixed(4)).backend == "auto"
    q, k, v = (x.requires_grad_() for x in tensors(13, 13, 8, 8, 2, 1))
    with torch.autocast("cpu", torch.bfloat16):
        assert kernel(q, k, v).dtype == torch.bfloat16
    fixed_kernel = compile(combiner_fixed(4), "torch")
    compiled = torch.compile(lambda *x: fixed_kernel(*x) + kernel(*x), backend="aot_eager", fullgraph=True)
    got, want = compiled(q, k, v), fixed_kernel(q, k, v) + kernel(q, k, v)
    torch.testing.assert_close(got, want)
    grads = zip(*(torch.autograd.grad(x.sum(), [q, k, v]) for x in (got, want)), strict=True)
    for a, b in grads:
        torch.testing.assert_close(a, b)
    assert blocks(4) <= combiner_fixed(4).exact | ~causal
