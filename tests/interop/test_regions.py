"""Tokens by class: patterns within classes that do not lie together, against the dense mask of equal ids."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import pidsl
from pidsl import ArgumentError, Regions, Term, causal, documents, full, stride, window

TERMS = (full, causal, window(1, 2), stride(2), window(2) | pidsl.keys(0, 1) & causal)


def by_hand(term: Term, ids: Tensor, ids_k: Tensor, align: str) -> Tensor:
    """bool [B, n, m]: pairs of one class that the term keeps, by how many tokens of the class stand before each."""
    out = torch.zeros(len(ids), ids.shape[1], ids_k.shape[1], dtype=torch.bool)
    for entry, (rows, columns) in enumerate(zip(ids.tolist(), ids_k.tolist(), strict=True)):
        for name in {x for x in rows if x >= 0}:
            i = [x for x, of in enumerate(rows) if of == name]
            j = [x for x, of in enumerate(columns) if of == name]
            moved = len(j) - len(i) if align == "end" else 0
            first = max(0, -moved)  # queries before the first key attend nothing
            kept = np.zeros((len(i), len(j)), dtype=bool)
            if first < len(i):
                kept[first:] = term.mask(len(i) - first, len(j), max(0, moved))
            for x, row in enumerate(i):
                out[entry, row, j] = torch.from_numpy(kept[x])
    return out


def dense(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    group = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(group, 1) for x in (k, v))
    weights = (q @ k.mT / q.shape[3] ** 0.5).exp() * mask[:, None]
    total = weights.sum(-1, keepdim=True)
    return weights / torch.where(total > 0, total, 1.0) @ v


@st.composite
def batches(draw: st.DrawFn) -> tuple[Tensor, Tensor | None, Literal["start", "end"] | None]:
    batch, n, m = draw(st.integers(1, 3)), draw(st.integers(0, 12)), draw(st.integers(0, 12))
    names = st.sampled_from([-2, -1, 0, 1, 5, 2**40])
    ids, ids_k = (
        torch.tensor(draw(st.lists(names, min_size=batch * x, max_size=batch * x)), dtype=torch.int64).view(batch, x)
        for x in (n, m)
    )
    align: Literal["start", "end"] | None = draw(st.sampled_from([None, "start", "end"]))
    return ids, None if align is None else ids_k, align


@given(batches(), st.sampled_from(TERMS), st.randoms(use_true_random=False))
def test_any_classes(batch: Any, term: Term, random: Any) -> None:
    ids, ids_k, align = batch
    regions, other = Regions(ids, ids_k, align), ids if ids_k is None else ids_k
    made = torch.Generator().manual_seed(random.randrange(1 << 30))
    shapes = (ids.shape[1], 4), (other.shape[1], 2), (other.shape[1], 2)
    leaves = [
        torch.randn(len(ids), heads, n, 8, generator=made, dtype=torch.float64, requires_grad=True)
        for n, heads in shapes
    ]
    q, k, v = leaves
    packing = regions.packing
    ends = () if ids_k is None else (packing.cu_seqlens_k,)
    rows = regions.sort(q), regions.sort_keys(k), regions.sort_keys(v)
    kernel = pidsl.compile(term & documents, "torch")
    out = regions.restore(kernel.packed(*rows, packing.cu_seqlens_q, *ends, align=align))
    want = dense(q, k, v, by_hand(term, ids, other, align or "start"))
    torch.testing.assert_close(out, want)
    weight = torch.linspace(-1, 2, 8, dtype=torch.float64)
    for x, y in zip(*(torch.autograd.grad((y * weight).sum(), leaves) for y in (out, want)), strict=True):
        torch.testing.assert_close(x, y)


def test_equal_ids_are_the_mask() -> None:
    ids = torch.tensor([[3, 0, 3, -1, 0, 3]])
    mask = by_hand(full, ids, ids, "start")
    assert torch.equal(mask, (ids[:, :, None] == ids[:, None]) & (ids >= 0)[:, None])
    assert Regions(ids[0]).packing.documents.tolist() == [0, 0, 1, 1, 1]


def test_order_and_back() -> None:
    ids = torch.tensor([[1, 0, 1, -1], [0, 0, -1, 1]], dtype=torch.int32)
    regions = Regions(ids)
    assert regions.order.tolist() == [1, 0, 2, 4, 5, 7]
    for x in (torch.randn(2, 4, 3), torch.randn(2, 5, 4, 3)):
        back = regions.restore(regions.sort(x))
        there = (ids >= 0).view(2, *[1] * (x.dim() - 3), 4, 1)
        assert torch.equal(back, torch.where(there, x, 0.0))
    layer = pidsl.nn.SparseAttention(8, 2, full & documents)
    x = torch.randn(2, 4, 8)
    out = regions.restore(layer(regions.sort(x)[None], documents=regions.packing.documents[None])[0])
    same = torch.where(ids[1] == 0, 0, -1)[None]
    torch.testing.assert_close(out[1:, :2], layer(x[1:], documents=same)[:, :2])


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda: Regions([0, 1]), "ids: list"),
        (lambda: Regions(torch.zeros(2, 3)), "integers"),
        (lambda: Regions(torch.zeros(1, 2, 3, dtype=torch.int64)), r"\[n\] of one sequence"),
        (lambda: Regions(torch.zeros(2, 3, dtype=torch.int64), torch.zeros(1, 3, dtype=torch.int64)), "batch entries"),
        (lambda: Regions(torch.zeros(1, 3, dtype=torch.int64), torch.zeros(1, 3, dtype=torch.int64)), "align"),
        (lambda: Regions(torch.tensor([0, 1])).sort(torch.zeros(1, 3, 4)), r"\[1, H, 2, D\] or \[1, 2, D\]"),
        (lambda: Regions(torch.tensor([0, 1])).restore(torch.zeros(3, 4)), r"\[2, H, D\] or \[2, D\]"),
    ],
)
def test_what_does_not_fit(action: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        action()
