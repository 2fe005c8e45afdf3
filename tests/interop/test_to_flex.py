"""`to_flex`: masks and BlockMasks against FlexAttention's own, and attention through them against dense attention."""

import contextlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_block_mask, create_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

import pidsl
from pidsl import blocks, causal, documents, empty, full, keys, parse, ring, stride, to_flex, window
from pidsl.errors import ArgumentError, PidslError, SizeError, TermError, TooHardError
from pidsl.testing import terms

# follows the hints of pidsl/interop/flex.py: to_flex, block_mask, mask_mod
# follows the hints of pidsl/relation/tiles.py: tile_map

FIELDS = ["kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices",
          "q_num_blocks", "q_indices", "full_q_num_blocks", "full_q_indices"]  # fmt: skip
PATTERNS = [
    causal, full, empty, window(63) | stride(256) & causal, window(20, 3), blocks(50) & causal, ring(9),
    keys(-3, None) | window(4), window(3).dilated(5), pidsl.neighborhood((15, 20), (3, 5)), window(2).blocked(30),
]  # fmt: skip
HEADS = pidsl.heads([(2, window(9)), (1, causal), (1, window(9)), (3, blocks(64))])


def dense(term, n, m=None):
    mask = torch.from_numpy(term.mask(n, n if m is None else m))
    return mask[None, None] if mask.dim() == 2 else mask[None]


def lists(mask):
    """Which tiles are partial and which full, by rows and by columns, whatever stands behind the listed ones."""
    found = []
    for count, which in zip(FIELDS[::2], FIELDS[1::2], strict=True):
        count, which = getattr(mask, count), getattr(mask, which)
        listed = torch.arange(which.shape[-1]) < count[..., None]
        found += [count.tolist(), torch.where(listed, which, -1).tolist()]
    return found


def check(term, n, m, block_size):
    found = to_flex(term, block_size=block_size).block_mask(n, m)
    own = len(term) if isinstance(term, pidsl.Heads) else None
    mask = dense(term, n, m)
    assert torch.equal(create_mask(found.mask_mod, None, own, n, m, device="cpu"), mask)
    made = create_block_mask(lambda b, h, q, k: mask[b, h, q, k], None, own, n, m, "cpu", BLOCK_SIZE=block_size)
    assert lists(found) == lists(made)
    assert (found.shape, found.BLOCK_SIZE, found.seq_lengths) == (made.shape, made.BLOCK_SIZE, made.seq_lengths)


@pytest.mark.parametrize("term", [*PATTERNS, HEADS], ids=repr)
def test_the_block_mask_is_the_one_that_flex_attention_makes(term):
    check(term, 300, 300, 64)


@settings(max_examples=25)
@given(terms(depth=2), st.integers(1, 40), st.integers(1, 40), st.sampled_from([8, (4, 16)]))
def test_block_masks_of_any_term(term, n, m, block_size):
    with contextlib.suppress(TooHardError):
        check(term, n, m, block_size)


@pytest.mark.parametrize("term", [*PATTERNS, HEADS], ids=repr)
def test_attention_through_it_is_dense_attention(term):
    heads = len(term) if isinstance(term, pidsl.Heads) else 2
    q, k, v = torch.randn(3, 1, heads, 300, 16)
    mask = dense(term, 300)
    expected = scaled_dot_product_attention(q, k, v, attn_mask=mask)
    expected = expected.masked_fill(~mask.any(-1, keepdim=True), 0.0)
    out = flex_attention(q, k, v, block_mask=to_flex(term).block_mask(300))
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="FlexAttention has no backward on a CPU")
@pytest.mark.parametrize("term", [*PATTERNS, HEADS], ids=repr)
def test_gradients_are_those_through_its_own_block_mask(term):
    own = len(term) if isinstance(term, pidsl.Heads) else 2
    flex = to_flex(term, 300, device="cuda")
    found = []
    tensors = torch.randn(4, 1, own, 300, 16, device="cuda")
    for block_mask in (flex.block_mask(), create_block_mask(flex.mask_mod, None, own, 300, 300, "cuda")):
        q, k, v = (x.clone().requires_grad_() for x in tensors[:3])
        out = torch.compile(flex_attention)(q, k, v, block_mask=block_mask)
        found.append([out, *torch.autograd.grad(out, (q, k, v), tensors[3])])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_compiled_attention():
    term = window(63) | stride(64) & causal
    q, k, v = torch.randn(3, 1, 2, 300, 16)
    out = torch.compile(flex_attention)(q, k, v, block_mask=to_flex(term).block_mask(300))
    expected = scaled_dot_product_attention(q, k, v, attn_mask=dense(term, 300))
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


def test_lengths_are_asked_for_where_pairs_depend_on_them():
    with pytest.raises(SizeError, match="depend") as caught:
        _ = to_flex(keys(-3, None)).mask_mod
    assert caught.value.hint == "pidsl.to_flex(term, n)"
    mask = create_mask(to_flex(keys(-3, None), 9).mask_mod, None, None, 9, 9, device="cpu")
    assert torch.equal(mask, dense(keys(-3, None), 9))
    assert to_flex(causal, 7, 9).block_mask().shape == (1, 1, 7, 9)
    assert to_flex(causal, 7, 9).block_mask(3).shape == (1, 1, 3, 3)
    with pytest.raises(SizeError, match="number of queries") as caught:
        to_flex(causal).block_mask()
    assert caught.value.hint == "block_mask(n)"
    with pytest.raises(SizeError, match="ring"):
        to_flex(ring(3)).block_mask(4, 5)


def test_what_is_no_mask():
    gate = pidsl.gate(a=causal, b=stride(3))
    for other in (gate, pidsl.layers([causal]), parse("compile(causal)"), "causal"):
        with pytest.raises(TermError, match="a pattern, or heads"):
            to_flex(other)
    assert [to_flex(term).mask_mod for _, term in gate.branches]
    with pytest.raises(TermError, match="documents") as caught:
        to_flex(causal & documents)
    assert "Packing.of_documents(ids).block_mask(term)" in caught.value.hint
    assert pidsl.Packing.of_documents([0, 0, 1]).block_mask(causal & documents).shape == (1, 1, 3, 3)
    for size in (0, 2.5, (4, 4, 4), True):
        with pytest.raises(SizeError, match="block_size"):
            to_flex(causal, block_size=size)
    for device in ("nope", "cuda:99", 2.5):
        with pytest.raises(ArgumentError, match="device"):
            to_flex(causal, device=device)
    with pytest.raises(PidslError, match="symbol"):
        to_flex(window(pidsl.symbols("k")))


def test_large_tiles_where_there_are_too_many():
    with pytest.raises(SizeError, match="tiles") as caught:
        to_flex(causal, block_size=1).block_mask(1 << 20)
    assert caught.value.hint == "larger tiles: rows=1024, columns=1024"
    assert pidsl.relation.tiles.tile_map(causal, 1 << 20, rows=1024, columns=1024).some[1, 0]


def test_a_long_sequence():
    mask = to_flex(window(1023) | keys(0, 4) & causal).block_mask(131_072)
    assert mask.shape == (1, 1, 131_072, 131_072)
    assert int(mask.kv_num_blocks.sum() + mask.full_kv_num_blocks.sum()) < 12_000
