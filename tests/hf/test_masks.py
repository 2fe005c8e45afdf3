"""Mask functions of transformers: what is read from them, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, MistralConfig, masking_utils

import pidsl
from pidsl import blocks, causal, full, window
from pidsl.hf import described as module
from pidsl.hf.described import Described, described
from pidsl.hf.read import Reading, check_reading, read
from pidsl.hf.refused import UnsupportedError

# follows the hints of pidsl/hf/refused.py: refuse
# follows the hints of pidsl/hf/described.py: refuse_gaps
# follows the hints of pidsl/hf/padding.py: runs_of

CAUSAL = masking_utils.causal_mask_function
NO_PADDING = torch.zeros(2, dtype=torch.long)


def bidirectional(w: int) -> Any:
    return masking_utils.sliding_window_bidirectional_mask_function(w)


@pytest.mark.parametrize(
    ("mask", "term"),
    [
        (masking_utils.causal_mask_function, causal),
        (masking_utils.bidirectional_mask_function, full),
        (masking_utils.sliding_window_causal_mask_function(5), window(4)),
        (masking_utils.sliding_window_causal_mask_function(0), pidsl.empty),
        (bidirectional(3), window(3, 3)),
        (masking_utils.chunked_causal_mask_function(4, NO_PADDING), blocks(4) & causal),
        (masking_utils.or_masks(CAUSAL, lambda b, h, q, k: k < 2), causal | pidsl.keys(0, 2)),
        (masking_utils.and_masks(CAUSAL, lambda b, h, q, k: (q - k) % 3 == 0), pidsl.stride(3) & causal),
    ],
)  # fmt: skip
def test_read(mask: Any, term: pidsl.Term) -> None:
    assert read(mask).term.equals(term)
    check_reading(mask, read(mask), (2, 20, 20), (0, 0), torch.device("cpu"))


def test_a_wrong_reading_is_refused() -> None:
    wrong = Reading((("lower", 6), ("causal", 0)))
    mask = masking_utils.sliding_window_causal_mask_function(5)
    with pytest.raises(UnsupportedError, match=r"read as window\(5\) and is another one"):
        check_reading(mask, wrong, (1, 200, 200), (0, 0), torch.device("cpu"))


def test_a_function_of_entries_is_not_taken_for_one_of_positions() -> None:
    mask = masking_utils.and_masks(masking_utils.causal_mask_function, lambda b, h, q, k: (k < 3) | (b == 0))
    with pytest.raises(UnsupportedError):
        described(batch_size=2, q_length=9, kv_length=9, mask_function=mask)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["causal", "sliding", "chunked", "full", "both"]), st.integers(1, 7), st.integers(0, 6),
    st.integers(0, 4), st.integers(1, 6), st.sampled_from(["left", "right", "none", "gaps"]),
    st.integers(0, 2**10 - 1),
)  # fmt: skip
def test_calls_mean_the_mask(kind: str, w: int, before: int, dropped: int, n: int, side: str, bits: int) -> None:
    """The kernel that a description calls attends what transformers' own bool mask has, on rows of real tokens."""
    total, dropped = before + n, min(before, dropped)
    real = torch.ones(2, total, dtype=torch.bool)
    pad = min(2, total - 1)
    if side == "left":
        real[1, :pad] = False
    elif side == "right" and before == 0 and pad:
        real[1, -pad:] = False
    elif side == "gaps" and kind in ("causal", "sliding", "full"):
        real[1] = torch.tensor([bits >> x & 1 for x in range(total)], dtype=torch.bool)
    left = (real.cumsum(1) == 0).sum(1)
    mask = {
        "causal": masking_utils.causal_mask_function,
        "sliding": masking_utils.sliding_window_causal_mask_function(w),
        "chunked": masking_utils.chunked_causal_mask_function(w, left),
        "full": masking_utils.bidirectional_mask_function,
        "both": bidirectional(w),
    }[kind]
    sizes: dict[str, Any] = dict(
        batch_size=2, q_length=n, kv_length=total - dropped, q_offset=before, kv_offset=dropped
    )
    found = described(**sizes, mask_function=mask, attention_mask=real)
    wanted = masking_utils.sdpa_mask(**sizes, mask_function=mask, attention_mask=real, allow_is_causal_skip=False)
    assert wanted is not None
    kernel = pidsl.compile(found.term, backend="reference")
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, n, 8, generator=generator), torch.randn(2, 1, total - dropped, 8, generator=generator)
    calls = found.calls(found.is_full, found.by_lag)
    out, _ = pidsl.merge([kernel(q, k, k, **call, return_lse=True) for call in calls])
    rows = wanted[:, 0].any(-1) & real[:, before:]
    dense = torch.nn.functional.scaled_dot_product_attention(q, k, k, attn_mask=wanted)
    assert torch.allclose(out[:, 0][rows], dense[:, 0][rows], atol=1e-5)
    assert bool(torch.isfinite(out).all())


def mask_of(**more: Any) -> Any:
    config = LlamaConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, attn_implementation="pidsl")
    given = {"attention_mask": None, "cache": None, **more}
    n = 8 if given["attention_mask"] is None else given["attention_mask"].shape[1]
    return masking_utils.create_causal_mask(config, torch.zeros(2, n, 32), **given)


def test_no_array_of_pairs() -> None:
    pidsl.hf.register()
    config = MistralConfig(sliding_window=5, attn_implementation="pidsl")
    found = masking_utils.create_sliding_window_causal_mask(config, torch.zeros(1, 100_000, 1), None, None)
    assert isinstance(found, Described) and repr(found) == "Described(window(4), 100000 queries, 100000 keys)"
    assert not [x for x in vars(found).values() if isinstance(x, torch.Tensor)]


GAP = torch.tensor([[1] * 8, [1, 0, 1, 1, 1, 1, 1, 1]])
BLOCKS = torch.tensor([[0, 0, -1, 1, 1, 1, -1, -1]] * 2)
BROKEN = torch.tensor([[0, 0, -1, 0, -1, -1, -1, -1]] * 2)
STARTS = torch.arange(8)[None] + torch.tensor([3])


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"attention_mask": torch.tensor([[1] * 40, [1, 0] * 20])}, "20 stretches of ones in batch entry 1"),
        ({"block_sequence_ids": BROKEN}, "a block that others stand in"),
        ({"block_sequence_ids": BLOCKS, "attention_mask": GAP}, "block_sequence_ids with packed documents, gaps"),
        (
            {"block_sequence_ids": BLOCKS, "or_mask_function": lambda b, h, q, k: k < 2},
            "block_sequence_ids with packed",
        ),
        ({"or_mask_function": lambda b, h, q, k: torch.abs(q - k) < 3}, "no predicate of query and key positions"),
        ({"and_mask_function": lambda b, h, q, k: GAP[b, k] == 1}, "no predicate of query and key positions"),
    ],
)
def test_refused(more: dict[str, Any], said: str) -> None:
    pidsl.hf.register()
    with pytest.raises(UnsupportedError, match=said):
        mask_of(**more)


def test_gaps_under_chunks() -> None:
    chunks = masking_utils.chunked_causal_mask_function(4, NO_PADDING)
    with pytest.raises(UnsupportedError, match=r"zeros between ones, under blocks\(4\)[\s\S]*padding_side"):
        described(batch_size=2, q_length=8, kv_length=8, mask_function=chunks, attention_mask=GAP.bool())


def test_blocks() -> None:
    """Tokens of a block see one another; padding is in none."""
    pidsl.hf.register()
    found = mask_of(block_sequence_ids=BLOCKS, attention_mask=torch.tensor([[1] * 8, [0] * 4 + [1] * 4]))
    assert found.term == causal and "blocks" in repr(found)
    assert found.blocks[0].tolist() == [[1, 1, 2, 3, 3, 3, 4, 5], [1, 2, 3, 4, 5, 5, 6, 7]]


@pytest.mark.parametrize("sliding", [1, 2, 4, 9])
def test_blocks_and_windows(sliding: int) -> None:
    """A window that is narrower than a block holds within it where it is applied last, and does not where it is not."""
    overlay = masking_utils.sliding_window_overlay(sliding)
    blocks_of = masking_utils.blockwise_overlay(BLOCKS)
    either, both = masking_utils.or_masks, masking_utils.and_masks
    for mask in (both(either(CAUSAL, blocks_of), overlay), either(both(CAUSAL, overlay), blocks_of)):
        reading = read(mask)
        check_reading(mask, reading, (2, 8, 8), (0, 0), torch.device("cpu"))
        found = described(batch_size=2, q_length=8, kv_length=8, mask_function=mask)
        ids, besides = found.blocks
        same = (ids[0][:, None] == ids[0][None]).numpy()
        wanted = masking_utils.sdpa_mask(2, 8, 8, mask_function=mask, allow_is_causal_skip=False)
        assert ((found.term.mask(8) | besides.mask(8) & same) == wanted[0, 0].numpy()).all()
        assert not (found.term.mask(8) & besides.mask(8)).any()


def test_unions_of_blocks() -> None:
    blocks_of = masking_utils.blockwise_overlay(BLOCKS)
    once = masking_utils.or_masks(CAUSAL, blocks_of)
    for mask in (masking_utils.or_masks(once, bidirectional(2)), masking_utils.or_masks(once, blocks_of), blocks_of):
        with pytest.raises(UnsupportedError, match=r"blocks|block_sequence_ids and"):
            described(batch_size=2, q_length=8, kv_length=8, mask_function=mask)


def test_blocks_of_nothing() -> None:
    pidsl.hf.register()
    assert mask_of(block_sequence_ids=torch.full((2, 8), -1)).term == causal


def test_padding_on_the_left_of_a_function_of_positions() -> None:
    pidsl.hf.register()
    padded = torch.tensor([[1] * 8, [0, 0, 1, 1, 1, 1, 1, 1]])
    with pytest.raises(UnsupportedError, match="padding on the left"):
        mask_of(attention_mask=padded, or_mask_function=lambda b, h, q, k: k < 2)
    near = mask_of(attention_mask=padded, or_mask_function=lambda b, h, q, k: abs(q - k) < 3)  # positions from anywhere
    assert near.term.equals(causal | window(2, 2)) and near.by_lag and near.left.tolist() == [0, 2]
    everything = mask_of(attention_mask=padded, or_mask_function=lambda *at: torch.tensor(True))
    assert everything.is_full and everything.term == full
    assert mask_of(attention_mask=padded.flip(1), or_mask_function=lambda b, h, q, k: k < 2).stop.tolist() == [8, 6]


def test_a_description_is_no_tensor() -> None:
    found = described(batch_size=1, q_length=4, kv_length=4, mask_function=masking_utils.causal_mask_function)
    some = described(batch_size=1, q_length=9, kv_length=9, mask_function=masking_utils.causal_mask_function)[:, :, -2:]
    assert (some.n, some.m, some.row) == (2, 9, 7)
    for use in (
        lambda: found + 1,
        lambda: torch.zeros(4) + found,
        lambda: found[:, 0],
        lambda: found.to("cpu"),
        lambda: ~found,
    ):
        with pytest.raises(UnsupportedError, match="does not go through transformers' attention interface"):
            use()
    assert not hasattr(found, "no_such_thing")
    assert module.described is described
    assert np.shape(found.n) == ()
