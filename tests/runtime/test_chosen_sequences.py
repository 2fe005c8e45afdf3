"""Blocks that calls list in ragged batches, packed documents and behind a cache: as calls of each sequence alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dense import gradients, tensors
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import pidsl
from pidsl import causal, chosen, documents, keys, stride, window
from pidsl.errors import ArgumentError
from pidsl.language.terms import Term

HERE = ("torch", "reference")
MIXED = window(2) & causal | keys(0, 1) & causal | chosen(4, 3, queries=2)
TOKENS = chosen(1, 6, queries=1) | stride(5) & causal
NEAR = chosen(4, 3, queries=4, within=window(25) & causal) | window(0)
SIZES = {MIXED: (4, 2), TOKENS: (1, 1), NEAR: (4, 4)}
LISTED_HEADS = st.sampled_from((1, 2, 4))


def lists(term: Term, lengths: list[int], heads: int, seed: int = 0) -> list[Tensor]:
    """For each sequence int32 [1, heads, its blocks of queries, 3]."""
    made, (block, queries) = torch.Generator().manual_seed(seed), SIZES[term]
    return [
        torch.randint(-1, max(-(-x // block), 1), (1, heads, -(-x // queries), 3), generator=made, dtype=torch.int32)
        for x in lengths
    ]


def grads_of(out: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    seed = torch.randn(out.shape, generator=torch.Generator().manual_seed(9))
    return gradients([out], leaves, [seed])


@settings(deadline=None, max_examples=25)
@given(
    st.sampled_from(HERE),
    st.sampled_from(tuple(SIZES)),
    st.lists(st.integers(0, 23), min_size=1, max_size=4),
    LISTED_HEADS,
)
def test_documents_are_calls_of_their_own(backend: Any, term: Term, lengths: list[int], heads: int) -> None:
    total = sum(lengths)
    q, k, v = leaves = [x.requires_grad_() for x in tensors(total, total, heads=4, kv_heads=2)]
    own, ends = lists(term, lengths, heads), torch.tensor([0, *lengths]).cumsum(0)
    kernel, plain = pidsl.compile(term & documents, backend), pidsl.compile(term, backend)
    rows = [x[0].transpose(0, 1) for x in leaves]
    packed = kernel.packed(*rows, ends.int(), blocks=torch.cat(own, 2)).transpose(0, 1)[None]
    parts = [
        plain(q[:, :, a:b], k[:, :, a:b], v[:, :, a:b], blocks=x)
        for a, b, x in zip(ends[:-1].tolist(), ends[1:].tolist(), own, strict=True)
    ]  # fmt: skip
    alone = torch.cat(parts, 2)
    torch.testing.assert_close(packed, alone)
    for got, want in zip(grads_of(packed, leaves), grads_of(alone, leaves), strict=True):
        torch.testing.assert_close(got, want)


@settings(deadline=None, max_examples=20)
@given(
    st.sampled_from(HERE),
    st.sampled_from(tuple(SIZES)),
    st.lists(st.integers(0, 23), min_size=3, max_size=3),
    LISTED_HEADS,
)
def test_entries_of_any_length_are_calls_of_their_own(backend: Any, term: Term, lengths: list[int], heads: int) -> None:
    """Rows behind those of an entry hold anything."""
    q, k, v = leaves = [x.requires_grad_() for x in tensors(23, 23, heads=4, kv_heads=2, batch=3)]
    own = lists(term, lengths, heads)
    blocks = torch.full((3, heads, -(-23 // SIZES[term][1]), 3), 77, dtype=torch.int32)
    for b, x in enumerate(own):
        blocks[b, :, : x.shape[2]] = x
    kernel = pidsl.compile(term, backend)
    out = kernel(q, k, v, lengths=torch.tensor(lengths), blocks=blocks)
    alone = torch.zeros_like(out)
    for b, (n, x) in enumerate(zip(lengths, own, strict=True)):
        at = slice(b, b + 1), slice(None), slice(0, n)
        alone[at] = kernel(q[at], k[at], v[at], blocks=x)
    torch.testing.assert_close(out, alone)
    for got, want in zip(grads_of(out, leaves), grads_of(alone, leaves), strict=True):
        torch.testing.assert_close(got, want)


def test_too_few_rows_for_the_sequences() -> None:
    q, k, v = tensors(20, 20)
    kernel = pidsl.compile(MIXED & documents, "torch")
    ids = torch.tensor([[0] * 7 + [1] * 13])  # 4 and 7 blocks of two queries
    blocks = torch.zeros(1, 1, 10, 3, dtype=torch.int32)
    with pytest.raises(ArgumentError, match="11 rows or more"):
        kernel(q, k, v, documents=ids, blocks=blocks)
    blocks = torch.zeros(1, 1, 11, 3, dtype=torch.int32)
    kernel(q, k, v, documents=ids, blocks=blocks)
    blocks[0, 0, 3, 1] = 2  # a block of the second document alone
    with pytest.raises(ArgumentError, match=r"0 \.\. 1"):
        kernel(q, k, v, documents=ids, blocks=blocks)


@pytest.mark.parametrize("backend", HERE)
@pytest.mark.parametrize("term", SIZES, ids=str)
@pytest.mark.parametrize("pages", [{}, {"page_size": 8}], ids=["derived", "paged"])
def test_decoding_from_a_cache(backend: Any, term: Term, pages: dict[str, Any]) -> None:
    """Step by step, entries of different lengths, lists of any number of heads, two tokens at once."""
    (block, queries), batch, total = SIZES[term], 3, 30
    q, k, v = tensors(total, total, heads=4, kv_heads=2, batch=batch)
    behind, made = [0, 3, 11], torch.Generator().manual_seed(4)
    kernel: Any = pidsl.compile(term, backend)
    cache = pidsl.Cache(kernel, batch, 2, 16, torch.float32, "cpu", lookahead=1, **pages)
    first = torch.tensor([total - 12 - x for x in behind])
    cache.append(k[:, :, : total - 12], v[:, :, : total - 12], lengths=first)
    for step in range(6):
        n, begin = 1 + step % 2, first.tolist()
        new = [torch.stack([x[b, :, begin[b] : begin[b] + n] for b in range(batch)]) for x in (q, k, v)]
        cache.append(*new[1:])
        first = first + n
        heads = (1, 2, 4)[step % 3]
        blocks = torch.full((batch, heads, 2, 3), -1, dtype=torch.int32)
        for b in range(batch):
            last = (begin[b] + n - 1) // block
            blocks[b] = torch.randint(-1, last + 1, (heads, 2, 3), generator=made, dtype=torch.int32)
        out, lse = kernel.decode(new[0], cache, blocks=blocks, return_lse=True)
        for b in range(batch):
            at, end = begin[b], begin[b] + n
            rows = (end - 1) // queries - at // queries + 1
            keys_of = k[b : b + 1, :, :end], v[b : b + 1, :, :end]
            want = kernel(new[0][b : b + 1], *keys_of, offset=at, blocks=blocks[b : b + 1, :, :rows], return_lse=True)
            torch.testing.assert_close((out[b : b + 1], lse[b : b + 1]), want)


def test_decoding_with_a_block_that_there_is_not() -> None:
    q, k, v = tensors(30, 30)
    kernel: Any = pidsl.compile(MIXED, "torch")
    cache = pidsl.Cache(kernel, 1, 2, 16, torch.float32, "cpu")
    cache.append(k, v)
    blocks = torch.tensor([0, 8, 1], dtype=torch.int32).view(1, 1, 1, 3)
    with pytest.raises(ArgumentError, match=r"0 \.\. 7"):
        kernel.decode(q[:, :, -1:], cache, blocks=blocks)
