"""Exports of packed documents: each against the dense mask, which is the pattern document by document.

# follows the hints of pidsl/interop/packing.py: of_documents, intervals
# follows the hints of pidsl/interop/flash.py: flash_columns
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

import pidsl
from pidsl import ArgumentError, Packing, Term, TermError, blocks, causal, documents, full, keys, lags, stride, window
from pidsl.testing import terms

SINKS = window(2) | keys(0, 2) & causal


def cu(*ends: int) -> Tensor:
    return torch.tensor(ends, dtype=torch.int32)


@st.composite
def packings(draw: st.DrawFn, most: int = 12) -> Packing:
    count = draw(st.integers(0, 4))
    lengths = draw(st.lists(st.integers(0, most), min_size=count, max_size=count))
    if draw(st.booleans()):
        return Packing.of_lengths(lengths)
    others = draw(st.lists(st.integers(0, most), min_size=count, max_size=count))
    ends = [torch.tensor([0, *x], dtype=torch.int64).cumsum(0).int() for x in (lengths, others)]
    return Packing(*ends, align=draw(st.sampled_from(["start", "end"])))


def dense(packing: Packing, term: Term) -> Tensor:
    """By the definition."""
    out = torch.zeros(packing.tokens, packing.keys, dtype=torch.bool)
    starts = zip(packing.cu_seqlens_q.tolist(), packing.cu_seqlens_k.tolist(), strict=True)
    for (q0, k0), (q1, k1) in pairwise(starts):
        n, m = q1 - q0, k1 - k0
        first = int(packing.position_ids[q0]) if n else 0
        total = n + max(first, 0) if first >= 0 else n + first
        whole = torch.from_numpy(term.mask(max(total, 0), m))
        for r in range(n):
            if 0 <= first + r:
                out[q0 + r, k0:k1] = whole[first + r]
    return out


# --- what it is made from


def test_from_whatever_says_it() -> None:
    ends = [0, 3, 5, 6]
    for packing in (
        Packing(cu(*ends)),
        Packing.of_lengths([3, 2, 1]),
        Packing.of_lengths(torch.tensor([3, 2, 1])),
        Packing.of_documents([4, 4, 4, 0, 0, 9]),
        Packing.of_documents(torch.tensor([[4, 4, 4, 0, 0, 9]])),
        Packing.of_position_ids([0, 1, 2, 0, 1, 0]),
        Packing.of_position_ids(torch.tensor([[0, 1, 2, 0, 1, 0]])),
    ):
        assert packing.cu_seqlens_q.tolist() == packing.cu_seqlens_k.tolist() == ends
        assert packing.cu_seqlens_q.dtype == torch.int32
        assert packing.position_ids.tolist() == [0, 1, 2, 0, 1, 0] and packing.position_ids.dtype == torch.int64
        assert packing.documents.tolist() == [0, 0, 0, 1, 1, 2] and packing.documents.dtype == torch.int32
        assert (packing.max_seqlen, packing.tokens, packing.keys) == (3, 6, 6)
    for empty in (Packing.of_lengths([]), Packing.of_documents([]), Packing.of_position_ids([]), Packing(cu(0))):
        assert empty.tokens == empty.max_seqlen == 0 and empty.position_ids.shape == (0,)
        assert empty.mask(causal).shape == (0, 0) and empty.intervals(causal).shape == (0, 2)
    assert Packing.of_lengths([0, 2, 0]).documents.tolist() == [1, 1]


def test_queries_and_keys_of_other_lengths() -> None:
    ends = cu(0, 2, 5), cu(0, 4, 5)
    at_end, at_start = Packing(*ends, align="end"), Packing(*ends, align="start")
    assert at_end.position_ids.tolist() == [2, 3, -2, -1, 0]
    assert at_start.position_ids.tolist() == [0, 1, 0, 1, 2]
    assert (at_end.max_seqlen_q, at_end.max_seqlen_k, at_end.max_seqlen) == (3, 4, 4)
    assert repr(at_end) == "Packing of 2 documents, 5 tokens, 5 keys"
    assert at_end.mask(causal).int().tolist() == [
        [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 1]
    ]  # fmt: skip


BAD: list[tuple[Any, str]] = [
    (lambda: Packing([0, 3]), "cu_seqlens_q: list"),
    (lambda: Packing(cu(1, 3)), "cu_seqlens_q[0] = 1"),
    (lambda: Packing(cu(0, 3, 2)), "cu_seqlens_q[2] = 2 after 3"),
    (lambda: Packing(cu(0, 3), cu(0, 2, 1), align="end"), "cu_seqlens_k: 2 documents"),
    (lambda: Packing(cu(0, 3, 4), cu(0, 2, 1), align="end"), "cu_seqlens_k[2] = 1 after 2"),
    (lambda: Packing(cu(0, 3), cu(0, 2)), "align: nothing"),
    (lambda: Packing(cu(0, 3), cu(0, 2), align="left"), "align: 'left'"),
    (lambda: Packing(torch.tensor([0, 3])), "dtype int64"),
    (lambda: Packing(torch.tensor([0, 3]), torch.tensor([0.0]), align="end"), "2 faults"),
    (lambda: Packing(cu(0, 3)[None]), "shape [1, 2]"),
    (lambda: Packing(cu()), "shape [0]"),
    (lambda: Packing(cu(0, 3), cu(0, 3).to("meta"), align="end"), "device meta"),
    (lambda: Packing.of_lengths([3, -1]), "lengths = [3, -1]"),
    (lambda: Packing.of_lengths([0.5]), "lengths = [0.5]"),
    (lambda: Packing.of_documents([0, 1, 0]), "id 0 from token 0 and again from token 2"),
    (lambda: Packing.of_documents([0.0, 1.0]), "dtype torch.float64"),
    (lambda: Packing.of_position_ids([1, 2, 0]), "position_ids[0] = 1"),
    (lambda: Packing.of_position_ids([0, 1, 3, 4]), "position_ids[2] = 3"),
    (lambda: Packing.of_position_ids(torch.zeros(3, 1, 4, dtype=torch.int64)), "shape [3, 1, 4]"),
]


@pytest.mark.parametrize(("make", "says"), BAD, ids=[says for _, says in BAD])
def test_what_is_none(make: Any, says: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        make()
    assert says in caught.value.given
    assert caught.value.where and (caught.value.expected or "2 faults" in says)


def test_padding_is_left_out() -> None:
    ids = torch.tensor([0, 0, 1, -1, -1])
    with pytest.raises(ArgumentError) as caught:
        Packing.of_documents(ids)
    assert caught.value.hint.startswith("Packing.of_documents(ids[ids >= 0])")
    assert Packing.of_documents(ids[ids >= 0]).cu_seqlens_q.tolist() == [0, 2, 3]


def test_only_of_terms() -> None:
    packing = Packing.of_lengths([3])
    for ask in (packing.mask, packing.intervals, packing.flash_mask, packing.block_mask):
        with pytest.raises(TermError):
            ask(pidsl.heads([(1, causal)]))  # type: ignore[arg-type]
        with pytest.raises(pidsl.SymbolError):
            ask(window(pidsl.symbols("k")))
    with pytest.raises(pidsl.SizeError):
        packing.block_mask(causal, 0)
    with pytest.raises(pidsl.SizeError):
        Packing(cu(0, 3), cu(0, 2), align="start").intervals(pidsl.ring(1))


# --- what it makes


def attempt(ask: Any) -> tuple[Any, ArgumentError | None]:
    """What is asked for, or why it cannot be."""
    try:
        return ask(), None
    except ArgumentError as e:
        return None, e
    except pidsl.TooHardError:
        assume(False)
        raise


@given(packings(), terms(2))
def test_the_mask(packing: Packing, term: Term) -> None:
    expected = dense(packing, term)
    assert torch.equal(packing.mask(term), expected)
    assert torch.equal(packing.mask(term & documents), expected)


def rows_of(intervals: Tensor, keys: int) -> Tensor:
    at = torch.arange(keys)
    return (intervals[:, :1] <= at) & (at < intervals[:, 1:])


@settings(deadline=None)
@given(packings(), terms(2))
def test_intervals(packing: Packing, term: Term) -> None:
    mask = dense(packing, term)
    steps = torch.nn.functional.pad(mask.int(), (1, 1)).diff(dim=1)
    contiguous = bool(((steps == 1).sum(1) <= 1).all())
    found, why = attempt(lambda: packing.intervals(term & documents))
    if why is not None:
        first = int(((steps == 1).sum(1) > 1).nonzero()[0])
        assert not contiguous and f"query {first} " in why.given and "block_mask" in why.hint
        return
    assert contiguous and found.dtype == torch.int32
    assert torch.equal(rows_of(found, packing.keys), mask)


def mask_of(found: Any, tokens: int) -> Tensor:
    """What FlashMask computes: queries of each key that are masked, by its documentation."""
    row = torch.arange(tokens)[:, None]
    columns = found.startend_row_indices[0, 0]
    r = columns.unbind(1)
    match len(r), found.causal:
        case 1, True:
            masked = row >= r[0]
        case 2, True:
            masked = (row >= r[0]) & (row < r[1])
        case 2, False:
            masked = (row >= r[0]) | (row < r[1])
        case 4, False:
            masked = (row >= r[0]) & (row < r[1]) | (row >= r[2]) & (row < r[3])
        case _:
            raise AssertionError(columns.shape)
    if found.causal:
        masked = masked | (row < torch.arange(len(columns)))
    return ~masked


@settings(deadline=None)
@given(packings(), terms(2))
def test_flash_mask(packing: Packing, term: Term) -> None:
    mask = dense(packing, term)
    found, why = attempt(lambda: packing.flash_mask(term))
    if why is not None:
        steps = torch.nn.functional.pad((~mask).int(), (0, 0, 1, 1)).diff(dim=0)
        assert bool(((steps == 1).sum(0) > 2).any()) and "block_mask" in why.hint
        return
    assert found.startend_row_indices.dtype == torch.int32
    assert torch.equal(mask_of(found, packing.tokens), mask)


@pytest.mark.parametrize(
    ("term", "columns", "causal_"),
    [
        (causal, 1, True), (window(4), 1, True), (SINKS, 1, True), (blocks(4) & causal, 1, True),
        (full, 2, False), (window(2, 2), 2, False), (causal.T, 2, False),
    ],
)  # fmt: skip
def test_columns_of_flash_mask(term: Term, columns: int, causal_: bool) -> None:
    packing = Packing.of_lengths([7, 1, 12, 5])
    found = packing.flash_mask(term & documents)
    assert found.startend_row_indices.shape == (1, 1, 25, columns) and found.causal is causal_
    assert torch.equal(mask_of(found, 25), packing.mask(term))


def test_one_document_may_have_a_gap() -> None:
    packing = Packing.of_lengths([12])
    two = packing.flash_mask(causal - lags(3, 4))
    assert two.startend_row_indices.shape[3] == 2 and two.causal
    four = packing.flash_mask(full - lags(3, 4) - lags(-3))
    assert four.startend_row_indices.shape[3] == 4 and not four.causal
    for found, term in ((two, causal - lags(3, 4)), (four, full - lags(3, 4) - lags(-3))):
        assert torch.equal(mask_of(found, 12), packing.mask(term))
    with pytest.raises(ArgumentError) as caught:
        Packing.of_lengths([3, 12]).flash_mask(stride(3) & causal)
    assert "key 3 " in caught.value.given or "key 4 " in caught.value.given
    with pytest.raises(ArgumentError) as gaps:
        packing.intervals(stride(3) & causal)
    assert gaps.value.hint == caught.value.hint == "packing.block_mask(term), which takes any pattern"
    assert torch.equal(tiles_of(packing, stride(3) & causal, 4), packing.mask(stride(3) & causal))


def tiles_of(packing: Packing, term: Term, block: int) -> Tensor:
    """The mask that a BlockMask means: full tiles, and the function in partial ones."""
    found = packing.block_mask(term, block)
    n, m = packing.tokens, packing.keys
    out = torch.zeros(n, m, dtype=torch.bool)
    exact = torch.zeros(n, m, dtype=torch.bool)
    if n and m:
        zero = torch.zeros((), dtype=torch.int64)
        exact = found.mask_mod(zero, zero, torch.arange(n)[:, None], torch.arange(m)[None, :])
    for counts, indices, is_full in (
        (found.kv_num_blocks, found.kv_indices, False),
        (found.full_kv_num_blocks, found.full_kv_indices, True),
    ):
        assert counts is not None and indices is not None
        for x, count in enumerate(counts[0, 0].tolist()):
            for y in indices[0, 0, x, :count].tolist():
                tile = slice(x * block, (x + 1) * block), slice(y * block, (y + 1) * block)
                assert not out[tile].any()
                assert exact[tile].any() and bool(exact[tile].sum() == block * block) == is_full
                out[tile] = exact[tile]
    return out


@settings(deadline=None)
@given(packings(), terms(2), st.integers(1, 7))
def test_block_mask(packing: Packing, term: Term, block: int) -> None:
    if packing.tokens and packing.keys:
        assert torch.equal(attempt(lambda: tiles_of(packing, term, block))[0], dense(packing, term))


@pytest.mark.parametrize("term", [causal, window(70), SINKS, window(40, 9) | stride(50), blocks(64)], ids=repr)
def test_block_mask_is_the_one_flex_attention_makes(term: Term) -> None:
    packing = Packing.of_lengths([200, 1, 0, 129, 54])
    n = packing.tokens
    mask = packing.mask(term)
    found = packing.block_mask(term & documents, 64)
    made = create_block_mask(lambda b, h, q, k: mask[q, k], 1, 1, n, n, device="cpu", BLOCK_SIZE=64)
    for name in ("kv_num_blocks", "full_kv_num_blocks", "q_num_blocks", "full_q_num_blocks"):
        assert torch.equal(getattr(found, name), getattr(made, name)), name
    assert torch.equal(found.to_dense(), made.to_dense())
    assert found.seq_lengths == made.seq_lengths
    q, k, v = torch.randn(3, 1, 2, n, 16)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(flex_attention(q, k, v, block_mask=found), expected)


def test_no_table_of_all_pairs_is_made() -> None:
    """A table of the pairs of all 262,144 tokens would take 64 GiB."""
    packing = Packing.of_lengths([1 << 15] * 8)
    found = packing.intervals(window(255) & documents)
    assert found[(1 << 15) - 1 : (1 << 15) + 2].tolist() == [
        [(1 << 15) - 256, 1 << 15], [1 << 15, (1 << 15) + 1], [1 << 15, (1 << 15) + 2]
    ]  # fmt: skip
    assert packing.flash_mask(causal).startend_row_indices.shape == (1, 1, 1 << 18, 1)
