"""Ragged batches: lengths and offsets of batch entries, packed documents, ids; values, gradients, lse, padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import pidsl
from pidsl import ArgumentError, blocks, causal, documents, full, heads, keys, lags, patterns, score, stride, window
from pidsl.language.terms import Term
from pidsl.runtime.call.segments import Sequence as One
from pidsl.testing import terms

BACKENDS = ("torch", "reference")
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-10, torch.bfloat16: 3e-2, torch.float16: 5e-3}
SINKS = keys(0, 2) & causal | window(3)
SLOW = patterns.power_attention(64, block=4, window=2)  # many pieces, each interpreted
SOME: list[Term] = [
    causal, full, window(5), window(4) | lags(16), stride(8) & causal, blocks(7) & causal, SINKS, keys(-3, None),
    window(3).dilated(4), SLOW, window(2, 2), causal & ~window(3),
]  # fmt: skip
POISON = float("nan")


# -- the oracle: every sequence by itself, densely, in float64 ------------------------------------------------------


def alone(term: Term, q: Tensor, k: Tensor, v: Tensor, one: One) -> tuple[Tensor, Tensor]:
    """(out [Hq, n, Dv], lse [Hq, n]) of the rows of a sequence, under its own mask."""
    rows, cols = slice(one.row, one.row + one.rows), slice(one.key, one.key + one.keys)
    q, k, v = q[one.batch, :, rows].double(), k[one.batch, :, cols].double(), v[one.batch, :, cols].double()
    group = q.shape[0] // k.shape[0]
    k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
    mask = np.zeros((one.rows, one.keys), bool)
    if one.rows and one.keys:
        whole = term.mask(one.offset + one.rows, one.key_offset + one.keys)
        mask = whole[one.offset :, one.key_offset :]
    kept = torch.from_numpy(mask.copy())
    logits = (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(~kept, -torch.inf)
    live = kept.any(1)[:, None]
    p = torch.softmax(logits.masked_fill(~live, 0.0), -1).masked_fill(~live, 0.0) if one.keys else logits
    return p @ v, torch.logsumexp(logits, -1) if one.keys else logits.new_full(logits.shape[:2], -torch.inf)


def judge(term: Term, q: Tensor, k: Tensor, v: Tensor, of: Sequence[One]) -> tuple[Tensor, Tensor]:
    """(out, lse) of all sequences; 0 and -inf elsewhere."""
    out = torch.zeros(*q.shape[:3], v.shape[3], dtype=torch.float64)
    lse = torch.full(q.shape[:3], -torch.inf, dtype=torch.float64)
    for one in of:
        part, part_lse = alone(term, q, k, v, one)
        out[one.batch, :, one.row : one.row + one.rows] = part
        lse[one.batch, :, one.row : one.row + one.rows] = part_lse
    return out, lse


def poisoned(x: Tensor, of: Sequence[One], rows: bool) -> Tensor:
    """NaN in all tokens that are in no sequence."""
    found = torch.full_like(x, POISON)
    for one in of:
        first, count = (one.row, one.rows) if rows else (one.key, one.keys)
        found[one.batch, :, first : first + count] = x[one.batch, :, first : first + count]
    return found


def close(a: Tensor, b: Tensor, tolerance: float) -> None:
    assert a.isnan().logical_not().all()
    torch.testing.assert_close(a.double(), b.double(), rtol=tolerance, atol=tolerance)


def agrees(term: Term, call: Any, given: tuple[Tensor, Tensor, Tensor], of: Sequence[One], tolerance: float) -> None:
    """Values, lse and gradients of `call(q, k, v)` are those of the sequences, whatever lies between them."""
    q, k, v = given
    clean = [x.detach().double().requires_grad_() for x in given]
    want, want_lse = judge(term, clean[0], clean[1], clean[2], of)
    mine = [poisoned(x, of, rows=name == "q").requires_grad_() for name, x in zip("qkv", (q, k, v), strict=True)]
    out, lse = call(*mine)
    close(out, want, tolerance)
    close(lse.exp(), want_lse.exp(), tolerance)
    assert ((lse == -torch.inf) == (want_lse == -torch.inf)).all()
    made = torch.Generator().manual_seed(1)
    seed = torch.randn(out.shape, generator=made, dtype=torch.float64)
    live = want_lse != -torch.inf
    seed_lse = torch.where(live, torch.randn(lse.shape, generator=made, dtype=torch.float64), 0.0)
    if not live.any():
        return
    grads = torch.autograd.grad(
        [want, want_lse.masked_fill(~live, 0.0)], clean, [seed, seed_lse], materialize_grads=True
    )
    found = torch.autograd.grad([out, lse], mine, [seed.to(out.dtype), seed_lse.to(lse.dtype)])
    for x, y in zip(found, grads, strict=True):
        close(x, y, 4 * tolerance)


def made(
    rows: int, cols: int, batch: int = 1, group: int = 1, dtype: torch.dtype = torch.float32, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = (batch, 2 * group, rows, 8), (batch, 2, cols, 8), (batch, 2, cols, 8)
    q, k, v = (torch.randn(x, generator=generator, dtype=torch.float64).to(dtype) for x in shapes)
    return q, k, v


# -- lengths -----------------------------------------------------------------------------------------------------

LENGTHS = st.integers(0, 40)
DTYPES = st.sampled_from([torch.float32, torch.float64, torch.bfloat16])


@pytest.mark.parametrize("backend", BACKENDS)
def test_lengths_of_random_terms(backend: Any) -> None:
    @settings(max_examples=settings.default.max_examples // 2)
    @given(terms(depth=3, grid=True), st.data(), DTYPES, st.integers(1, 2))
    def run(term: Term, data: st.DataObject, dtype: torch.dtype, group: int) -> None:
        n, m, batch = data.draw(LENGTHS), data.draw(LENGTHS), 3
        draw = {
            "lengths": st.integers(0, n), "key_lengths": st.integers(0, m),
            "offset": st.integers(-n, 20), "key_offset": st.integers(-m, 20),
        }  # fmt: skip
        named = {x: data.draw(st.lists(y, min_size=batch, max_size=batch)) for x, y in draw.items()}
        some = data.draw(st.sets(st.sampled_from(sorted(named))))
        usual = {"lengths": [n] * batch, "key_lengths": [m] * batch, "offset": [0] * batch, "key_offset": [0] * batch}
        named = usual | {x: named[x] for x in some}
        of = []
        for b in range(batch):
            row, key = max(0, -named["offset"][b]), max(0, -named["key_offset"][b])
            of.append(One(
                b, row, max(0, named["lengths"][b] - row), max(0, named["offset"][b]),
                key, max(0, named["key_lengths"][b] - key), max(0, named["key_offset"][b]),
            ))  # fmt: skip
        kernel = pidsl.compile(term, backend)
        at: Any = {x: torch.tensor(named[x]) for x in some}
        agrees(
            term, lambda q, k, v: kernel(q, k, v, **at, return_lse=True), made(n, m, batch, group, dtype), of,
            TOLERANCE[dtype],
        )  # fmt: skip

    run()


@pytest.mark.parametrize("backend", [*BACKENDS, "triton"])
@pytest.mark.parametrize("term", SOME, ids=str)
def test_lengths(backend: Any, term: Term) -> None:
    of = [One(0, 0, 13, 0, 0, 20, 0), One(1, 0, 0, 0, 0, 5, 0), One(2, 4, 16, 0, 0, 0, 0), One(3, 0, 7, 9, 0, 16, 0)]
    at: Any = {
        "lengths": torch.tensor([13, 0, 20, 7]), "key_lengths": torch.tensor([20, 5, 0, 16]).int(),
        "offset": torch.tensor([0, 0, -4, 9]),
    }  # fmt: skip
    kernel = pidsl.compile(term, backend)
    agrees(term, lambda q, k, v: kernel(q, k, v, **at, return_lse=True), made(20, 20, 4, 2), of, 2e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_numbers_are_lengths_of_all_entries(backend: Any) -> None:
    kernel, (q, k, v) = pidsl.compile(SINKS, backend), made(12, 15, 2)
    out = kernel(q, k, v, lengths=9, key_lengths=11, offset=2)
    assert torch.equal(out[:, :, :9], kernel(q[:, :, :9], k[:, :, :11], v[:, :, :11], offset=2))
    assert torch.equal(out, kernel(q, k, v, lengths=torch.tensor(9), key_lengths=np.int64(11), offset=2))
    assert not out[:, :, 9:].any()


# -- documents ---------------------------------------------------------------------------------------------------


def packed(lengths: Sequence[int], of_keys: Sequence[int] | None = None, align: str = "start") -> list[One]:
    found, row, key = [], 0, 0
    for rows, cols in zip(lengths, lengths if of_keys is None else of_keys, strict=True):
        offset = cols - rows if align == "end" else 0
        early = max(0, -offset)
        found.append(One(0, row + early, rows - early, max(0, offset), key, cols, 0))
        row, key = row + rows, key + cols
    return found


def ends(lengths: Sequence[int]) -> Tensor:
    return torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)


def as_packed(x: Tensor) -> Tensor:
    return x[0].transpose(0, 1)


def run_packed(kernel: Any, *cu: Any, **options: Any) -> Any:
    def run(*qkv: Tensor) -> tuple[Tensor, Tensor]:
        out, lse = kernel.packed(*map(as_packed, qkv), *cu, return_lse=True, **options)
        return out.transpose(0, 1)[None], lse[None]

    return run


@pytest.mark.parametrize("backend", BACKENDS)
def test_packed_random_terms(backend: Any) -> None:
    @settings(max_examples=settings.default.max_examples // 2)
    @given(
        terms(depth=3, ring=True, grid=True), st.lists(st.integers(0, 30), min_size=1, max_size=5), DTYPES,
        st.integers(1, 3),
    )  # fmt: skip
    def run(term: Term, lengths: list[int], dtype: torch.dtype, group: int) -> None:
        kernel, total = pidsl.compile(term, backend), sum(lengths)
        given = made(total, total, 1, group, dtype)
        agrees(term, run_packed(kernel, ends(lengths)), given, packed(lengths), TOLERANCE[dtype])

    run()


@pytest.mark.parametrize("align", ["start", "end"])
@pytest.mark.parametrize("backend", [*BACKENDS, "triton"])
def test_alignment(backend: Any, align: str) -> None:
    lengths, of_keys = [5, 0, 9, 4, 7], [8, 3, 9, 0, 2]
    for term in (causal, SINKS, blocks(4) & causal):
        call = run_packed(pidsl.compile(term, backend), ends(lengths), ends(of_keys), align=align)
        agrees(term, call, made(25, 22, 1, 2), packed(lengths, of_keys, align), 2e-5)


@pytest.mark.parametrize(
    ("backend", "term"),
    [
        pytest.param(backend, term, marks=pytest.mark.slow if (backend, term) == ("triton", SLOW) else [])
        for backend in (*BACKENDS, "triton") for term in SOME
    ], ids=str,
)  # fmt: skip
def test_packed(backend: Any, term: Term) -> None:
    lengths = [1, 0, 19, 40, 3]
    agrees(term, run_packed(pidsl.compile(term, backend), ends(lengths)), made(63, 63, 1, 2), packed(lengths), 2e-5)


@pytest.mark.parametrize("backend", [*BACKENDS, "triton"])
def test_ids(backend: Any) -> None:
    ids = torch.tensor([[3, 3, 3, 3, -1, 8, 8, 8, 8, 8, 8, 0], [-1, -1, 1, 1, 1, 1, 1, 2, -7, -7, 3, 3]])
    of = [(0, 0, 4), (0, 5, 6), (0, 11, 1), (1, 2, 5), (1, 7, 1), (1, 10, 2)]
    places = [One(b, first, count, 0, first, count, 0) for b, first, count in of]
    for term in (SINKS, stride(2) & causal, keys(-2, None)):
        kernel = pidsl.compile(term, backend)
        agrees(term, lambda *x, f=kernel: f(*x, documents=ids, return_lse=True), made(12, 12, 2, 2), places, 2e-5)


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_a_document_does_not_know_its_neighbours(backend: Any) -> None:
    """Bit for bit: alone, among others, and elsewhere in the tensor; gradients too."""
    q, k, v = (as_packed(x) for x in made(90, 90, 1, 2))
    for term in (causal, window(9) | lags(16), stride(4) & causal):
        kernel, seen = pidsl.compile(term, backend), []
        for lengths, at in (([30], 0), ([7, 30, 11], 7), ([41, 0, 30, 19], 41)):
            total = sum(lengths)
            mine = [torch.full((total, *x.shape[1:]), POISON) for x in (q, k, v)]
            for x, y in zip(mine, (q, k, v), strict=True):
                x[at : at + 30] = y[:30]
                x.requires_grad_()
            out = kernel.packed(*mine, ends(lengths))
            grads = torch.autograd.grad(out, mine, torch.ones_like(out))
            seen.append([x[at : at + 30].clone() for x in (out, *grads)])
        for others in seen[1:]:
            assert all(torch.equal(x, y) for x, y in zip(seen[0], others, strict=True)), term


# -- wrappers: each sequence by a plain call -----------------------------------------------------------------------

LENS = [5, 0, 13, 1, 9]
TOTAL = sum(LENS)
PARTS = score(softcap=5.0, alibi=True, bias=(-3, 9), sinks=True, temperature=True, dropout=0.2)
GIVEN = {
    "slopes": torch.rand(4), "bias": torch.randn(4, 13), "sinks": torch.randn(4), "temperature": 0.5 + torch.rand(4),
    "seed": 5,
}  # fmt: skip
SPANS = pidsl.summaries(blocks(4) & causal, [pidsl.spans(4, pidsl.where(lambda i, j: j < i // 4))])


def by_one(kernel: Any, x: Sequence[Tensor], more: dict[str, Tensor], named: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """(out [T, Hq, Dv], lse [Hq, T]) of calls on each document."""
    outs, lses, first = [], [], 0
    for count in LENS:
        rows = slice(first, first + count)
        q, k, v = (y[rows].transpose(0, 1)[None] for y in x)
        own = {name: y[rows].transpose(0, 1)[None] for name, y in more.items()}
        out, lse = kernel(q, k, v, return_lse=True, **own, **named)
        outs.append(out[0].transpose(0, 1))
        lses.append(lse[0])
        first += count
    return torch.cat(outs), torch.cat(lses, 1)


WRAPPED: dict[str, tuple[Any, dict[str, Any], dict[str, Tensor], dict[str, Any]]] = {
    "heads": (heads([(2, causal), (1, window(3)), (1, causal)]), {}, {}, {}),
    "gate": (pidsl.gate(a=window(2), b=lags(3)), {}, {"weights": torch.rand(TOTAL, 4, 2)}, {}),
    "score": (SINKS, {"score": score(softcap=5.0, alibi=True, bias=(-3, 9), sinks=True, temperature=True)}, {},
              {x: y for x, y in GIVEN.items() if x != "seed"}),
    "scored heads": (heads([(2, causal), (2, window(3))]), {"score": score(alibi=True, sinks=True)}, {},
                     {x: GIVEN[x] for x in ("slopes", "sinks")}),
    "output gate": (causal, {"output_gate": "element"}, {"output_gate": torch.randn(TOTAL, 4, 8)}, {}),
    "affine": (SINKS, {"affine": True}, {"alpha": torch.rand(TOTAL, 4), "beta": torch.rand(TOTAL, 4)}, {}),
    "summaries": (SPANS, {}, {}, {}),
}  # fmt: skip


@pytest.mark.parametrize("backend", [*BACKENDS, "triton"])
@pytest.mark.parametrize("kind", WRAPPED)
def test_wrappers(kind: str, backend: Any) -> None:
    term, options, more, named = WRAPPED[kind]
    kernel = pidsl.compile(term, backend, **options)
    q, k, v = (as_packed(x) for x in made(TOTAL, TOTAL, 1, 2))
    leaves = [x.clone().requires_grad_() for x in (q, k, v, *more.values())]
    numbers = {x: y.clone().requires_grad_() if isinstance(y, Tensor) else y for x, y in named.items()}
    leaves += [x for x in numbers.values() if isinstance(x, Tensor)]
    rows = dict(zip(more, leaves[3:], strict=False))
    results = []
    for run in (
        lambda: by_one(kernel, leaves[:3], rows, numbers),
        lambda: kernel.packed(*leaves[:3], ends(LENS), return_lse=True, **rows, **numbers),
    ):
        out, lse = run()
        loss = (out * torch.arange(8)).sum() + torch.where(lse == -torch.inf, 0.0, lse).sum()
        results.append((out, lse, *torch.autograd.grad(loss, leaves)))
    for x, y in zip(*results, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["gate", "output gate", "affine"])
def test_wrappers_in_padding(kind: str) -> None:
    """Weights and gates of rows that are padding may be anything."""
    term, options, more, _ = WRAPPED[kind]
    kernel, (q, k, v) = pidsl.compile(term, "torch", **options), made(9, 9, 2, 2)
    lengths = torch.tensor([6, 9])
    rows = {x: y[:9].transpose(0, 1)[None].expand(2, *y[:9].transpose(0, 1).shape).clone() for x, y in more.items()}
    for x in rows.values():
        x[0, :, 6:] = POISON
        x.requires_grad_()
    out = kernel(q, k, v, lengths=lengths, key_lengths=lengths, **rows)
    grads = torch.autograd.grad(out.sum(), list(rows.values()))
    assert not out[0, :, 6:].any() and out.isfinite().all()
    assert all(not x[0, :, 6:].any() and x.isfinite().all() for x in grads)


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_dropout_counts_sequences(backend: Any) -> None:
    """Batch entries with all their rows drop what a plain call drops; all backends drop the same of documents."""
    dropping = pidsl.compile(causal, backend, score=score(dropout=0.4))
    q, k, v = made(12, 12, 3, 2)
    full_length = torch.tensor([12, 12, 12])
    torch.testing.assert_close(
        dropping(q, k, v, seed=7, lengths=full_length, key_lengths=full_length), dropping(q, k, v, seed=7)
    )
    reference = pidsl.compile(causal, "reference", score=score(dropout=0.4))
    x = [as_packed(y[:1]) for y in (q, k, v)]
    torch.testing.assert_close(
        dropping.packed(*x, ends([3, 0, 5, 4]), seed=7), reference.packed(*x, ends([3, 0, 5, 4]), seed=7)
    )


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_sinks_of_padding(backend: Any) -> None:
    kernel = pidsl.compile(causal, backend, score=score(sinks=True))
    q, k, v = made(6, 6, 2)
    sinks = torch.zeros(2, requires_grad=True)
    lengths = torch.tensor([4, 6])
    out, lse = kernel(q, k, v, sinks=sinks, lengths=lengths, key_lengths=torch.tensor([0, 6]), return_lse=True)
    assert (lse[0, :, :4] == 0).all() and (lse[0, :, 4:] == -torch.inf).all() and not out[0].any()
    (grad,) = torch.autograd.grad((out[1].sum() + lse[0, :, :4].sum()), sinks)
    assert grad.isfinite().all()


# -- traced ------------------------------------------------------------------------------------------------------


def test_one_graph_for_all_lengths() -> None:
    kernel = pidsl.compile(SINKS, "torch")
    graphs = []

    def counting(graph: Any, example: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    def run(q: Tensor, k: Tensor, v: Tensor, offset: Tensor, lengths: Tensor) -> Any:
        return kernel(q, k, v, offset=offset, lengths=lengths, return_lse=True)

    traced = torch.compile(run, fullgraph=True, backend=counting)
    q, k, v = made(9, 20, 2)
    for offset, lengths in (([0, 3], [9, 4]), ([-2, 11], [9, 9]), ([5, 0], [0, 1])):
        at = torch.tensor(offset), torch.tensor(lengths)
        for x, y in zip(traced(q, k, v, *at), run(q, k, v, *at), strict=True):
            assert torch.equal(x, y)
    assert len(graphs) == 1


def test_gradients_of_a_traced_packing() -> None:
    kernel = pidsl.compile(SINKS, "torch")

    def run(q: Tensor, k: Tensor, v: Tensor, cu: Tensor) -> Any:
        return kernel.packed(q, k, v, cu)

    traced = torch.compile(run, fullgraph=True, backend="aot_eager")
    x = [as_packed(y).requires_grad_() for y in made(20, 20)]
    for lengths in ([4, 0, 16], [10, 9, 1]):
        found = [torch.autograd.grad(f(*x, ends(lengths)).square().sum(), x) for f in (run, traced)]
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_traced_ids() -> None:
    kernel = pidsl.compile(SINKS, "torch")
    traced = torch.compile(lambda q, k, v, ids: kernel(q, k, v, documents=ids), fullgraph=True, backend="aot_eager")
    q, k, v = made(6, 6)
    for ids in ([[0, 0, 1, 1, 1, 2]], [[0, 0, 0, 0, 0, -1]]):
        assert torch.equal(traced(q, k, v, torch.tensor(ids)), kernel(q, k, v, documents=torch.tensor(ids)))


def test_an_exported_call() -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel = pidsl.compile(SINKS, "torch")

        def forward(self, q: Tensor, k: Tensor, v: Tensor, offset: Tensor, lengths: Tensor) -> Tensor:
            found: Tensor = self.kernel(q, k, v, offset=offset, key_lengths=lengths)
            return found

    model, (q, k, v) = Model(), made(1, 30, 2)
    exported = torch.export.export(model, (q, k, v, torch.tensor([3, 4]), torch.tensor([4, 5]))).module()
    for offset in ([7, 1], [28, 29]):
        at = torch.tensor(offset)
        assert torch.equal(exported(q, k, v, at, at + 1), model(q, k, v, at, at + 1))


# -- what is refused -----------------------------------------------------------------------------------------------

Q, K, V = made(8, 8, 2)
ALL8 = torch.tensor([0, 8]).int()
FLAT = [as_packed(x[:1]) for x in (Q, K, V)]
CAUSAL = pidsl.compile(causal, "torch")
WRONG: list[tuple[Any, str]] = [
    (lambda: CAUSAL(Q, K, V, lengths=torch.tensor([3, 9])), r"lengths\[1\] = 9\n.*0 <= lengths <= 8"),
    (lambda: CAUSAL(Q, K, V, key_lengths=torch.tensor([-1, 3])), r"key_lengths\[0\] = -1"),
    (lambda: CAUSAL(Q, K, V, lengths=9), r"lengths\[0\] = 9"),
    (lambda: CAUSAL(Q, K, V, lengths=-1), r"lengths: -1"),
    (lambda: CAUSAL(Q, K, V, lengths=True), r"lengths: True \(bool\)"),
    (lambda: CAUSAL(Q, K, V, lengths=torch.tensor([3])), r"lengths: shape \[1\]"),
    (lambda: CAUSAL(Q, K, V, lengths=torch.ones(2)), r"dtype float32"),
    (lambda: CAUSAL(Q, K, V, offset=torch.tensor([0, 2**31 - 4])), r"offset\[1\] = 2147483644"),
    (lambda: CAUSAL(Q, K, V, documents=torch.zeros(2, 7).int()), r"documents: shape \[2, 7\]"),
    (lambda: CAUSAL(Q, K, V, documents=torch.tensor([[0, 0, 1, 1, 0, 0, 1, 1]] * 2)), r"documents\[0, 4\] = 0"),
    (lambda: CAUSAL(Q, K, V, documents=[0] * 8), r"documents: list"),
    (lambda: CAUSAL.packed(*FLAT, torch.tensor([1, 8]).int()), r"cu_seqlens_q\[0\] = 1"),
    (lambda: CAUSAL.packed(*FLAT, torch.tensor([0, 5, 4, 8]).int()), r"cu_seqlens_q\[2\] = 4 after 5"),
    (lambda: CAUSAL.packed(*FLAT, torch.tensor([0, 5]).int()), r"cu_seqlens_q\[1\] = 5\n.*8, the tokens of q"),
    (lambda: CAUSAL.packed(*FLAT, torch.tensor([0, 8])), r"dtype int64\n.*int32"),
    (lambda: CAUSAL.packed(*FLAT, ALL8, torch.tensor([0, 8]), align="end"), r"cu_seqlens_k: dtype"),
    (lambda: CAUSAL.packed(*FLAT, ALL8, torch.tensor([0, 2, 8]).int(), align="end"), r"2 documents"),
    (lambda: CAUSAL.packed(*FLAT, ALL8, ALL8.clone()), r"align: nothing"),
    (lambda: CAUSAL.packed(*FLAT, ALL8, align="middle"), r"align: 'middle'"),
    (lambda: CAUSAL.packed(*FLAT, torch.tensor([[0, 8]]).int()), r"shape \[1, 2\]"),
    (lambda: CAUSAL.packed(*FLAT, torch.tensor([]).int()), r"shape \[0\]"),
    (lambda: CAUSAL.packed(Q, K, V, ALL8), r"rank 3"),
    (lambda: pidsl.compile(pidsl.ring(2), "torch")(Q, K, V, lengths=torch.tensor([3, 8])), r"a ring"),
    (lambda: pidsl.compile(SPANS, "torch")(Q, K, V, lengths=torch.tensor([3, 8])), r"queries of all tokens"),
    (lambda: CAUSAL(Q, K, V, lengths=torch.tensor([3, 9]), scale="x"), r"scale"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_refused(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from pidsl.runtime import operator

    def never(*_: object) -> None:
        raise AssertionError("ran")

    monkeypatch.setattr(operator, "run_forward", never)
    call, text = WRONG[number]
    with pytest.raises(ArgumentError, match=f"(?s){text}"):
        call()


def test_a_traced_call_looks_at_values_when_it_runs() -> None:
    traced = torch.compile(lambda q, k, v, x: CAUSAL(q, k, v, lengths=x), fullgraph=True, backend="aot_eager")
    traced(Q, K, V, torch.tensor([3, 8]))
    with pytest.raises(ArgumentError, match=r"lengths\[1\] = 9"):
        traced(Q, K, V, torch.tensor([3, 9]))


# -- patterns of documents -----------------------------------------------------------------------------------------


CONFINED: list[Any] = [
    SINKS & documents, documents & causal, documents,
    heads([(1, SINKS & documents), (1, documents & window(2))]),
]  # fmt: skip


@pytest.mark.parametrize("backend", [*BACKENDS, "triton"])
@pytest.mark.parametrize("term", CONFINED, ids=str)
def test_a_pattern_of_documents(term: Any, backend: Any) -> None:
    kernel, ids = pidsl.compile(term, backend), torch.tensor([[0, 0, 0, 4, 4, 4, 4, 1, 1]])
    q, k, v = made(9, 9)
    out = kernel(q, k, v, documents=ids)
    of = [part for _, part in term.groups] if isinstance(term, pidsl.Heads) else [term, term]
    for head, part in enumerate(of):
        mask = torch.from_numpy(part.mask(9, documents=ids[0].tolist()).copy())
        one = [x[:, head : head + 1] for x in (q, k, v)]
        torch.testing.assert_close(
            out[:, head : head + 1], torch.nn.functional.scaled_dot_product_attention(*one, attn_mask=mask)
        )
    assert torch.equal(kernel.packed(*map(as_packed, (q, k, v)), ends([3, 4, 2])), as_packed(out))
    for text in (str(kernel.plan), kernel.explain()):
        assert "no pair crosses a document, for all documents and lengths: decided by isl" in text
    with pytest.raises(ArgumentError, match="documents: nothing"):
        kernel(q, k, v)
    assert pidsl.parse(repr(kernel)) == kernel.recipe


def test_a_plan_does_not_promise_what_is_not_so() -> None:
    assert "no pair crosses" not in str(pidsl.compile(SINKS, "torch").plan)
