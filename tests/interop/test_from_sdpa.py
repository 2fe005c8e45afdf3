"""`from_sdpa`: against `scaled_dot_product_attention` itself, and masks against themselves."""

import contextlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

import pidsl
from pidsl import blocks, causal, empty, from_sdpa, full, keys, lags, queries, stride, window
from pidsl.errors import ArgumentError, TermError
from pidsl.interop.imported import Imported

READ = {
    "full": full,
    "empty": empty,
    "causal": causal,
    "window(8)": window(8),
    "window(3, 5)": window(3, 5),
    "causal.shift(-3)": causal.shift(-3),
    "causal.shift(5)": causal.shift(5),
    "~causal": ~causal,
    "lags(0, 3, 9)": lags(0, 3, 9),
    "window(2) | lags(7)": window(2) | lags(7),
    "window(5).dilated(3)": window(5).dilated(3),
    "stride(4)": stride(4),
    "stride(4) & causal": stride(4) & causal,
    "window(3) | stride(6) & causal": window(3) | stride(6) & causal,
    "blocks(6)": blocks(6),
    "blocks(6) & causal": blocks(6) & causal,
    "causal | keys(0, 5)": causal | keys(0, 5),
    "window(4) | keys(0, 3) & causal": window(4) | keys(0, 3) & causal,
    "window(2, 2) | keys(0, 3) | queries(0, 3)": window(2, 2) | keys(0, 3) | queries(0, 3),
    "full & keys(0, 21)": full & keys(0, 21),
    "causal & keys(9, None)": causal & keys(9, None),
}


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize(("n", "m"), [(30, 30), (24, 32), (32, 24)])
def test_masks_in_few_words(name, n, m):
    mask = READ[name].mask(n, m)
    for given_mask in (torch.from_numpy(mask), torch.where(torch.from_numpy(mask), 0.0, float("-inf"))):
        found = from_sdpa(given_mask)
        np.testing.assert_array_equal(found.mask(n, m), mask)
    if (n, m) == (30, 30):
        assert len(repr(found)) <= len(name) + 14


@settings(max_examples=150)
@given(st.integers(1, 14), st.integers(1, 14), st.data())
def test_any_mask_is_read_or_refused(n, m, data):
    """Each entry at random, or few of them changed in a mask that words say."""
    if data.draw(st.booleans()):
        mask = data.draw(st.sampled_from(list(READ.values()))).mask(n, m).copy()
        for _ in range(data.draw(st.integers(0, 2))):
            mask[data.draw(st.integers(0, n - 1)), data.draw(st.integers(0, m - 1))] ^= True
    else:
        mask = np.array(data.draw(st.lists(st.booleans(), min_size=n * m, max_size=n * m))).reshape(n, m)
    with contextlib.suppress(ArgumentError):
        np.testing.assert_array_equal(from_sdpa(torch.from_numpy(mask)).mask(n, m), mask)


def attention(q, k, v, **given):
    """What is read, compiled and called."""
    found = from_sdpa(**given)
    if not isinstance(found, Imported):
        return pidsl.compile(found, "torch")(q, k, v)
    assert len(found.patterns) == 1
    return pidsl.compile(found.pattern, "torch", found.score)(q, k, v, **found.inputs)


def test_attention():
    q, k, v = torch.randn(2, 4, 20, 8), torch.randn(2, 2, 20, 8), torch.randn(2, 2, 20, 8)
    padded = (torch.arange(20) < torch.tensor([[20], [13]]))[:, None, None].expand(-1, 1, 20, -1)
    tokens = torch.ones(20, 20, dtype=torch.bool).tril()
    late = (torch.arange(20) >= torch.tensor([[0], [6]]))[:, None, None] & tokens
    by_head = torch.from_numpy(np.stack([window(w).mask(20) for w in (3, 3, 7, 9)]))[None]
    for given_call in (
        {"is_causal": True, "enable_gqa": True},
        {"scale": 0.7, "enable_gqa": True},
        {"attn_mask": tokens.triu(-4), "enable_gqa": True, "scale": 2.0},
        {"attn_mask": padded, "enable_gqa": True},
        {"attn_mask": padded & tokens, "enable_gqa": True, "scale": 0.5},
        {"attn_mask": late, "enable_gqa": True},
        {"attn_mask": by_head, "enable_gqa": True},
        {"attn_mask": torch.where(tokens, 0.0, torch.finfo(torch.float32).min), "enable_gqa": True},
    ):
        expected = scaled_dot_product_attention(q, k, v, **given_call)
        if (mask := given_call.get("attn_mask")) is not None and mask.dtype == torch.bool:
            expected = expected.masked_fill(~mask.any(-1, keepdim=True), 0.0)
        torch.testing.assert_close(attention(q, k, v, **given_call), expected, atol=1e-5, rtol=1e-5)
    more = torch.randn(2, 2, 31, 8), torch.randn(2, 2, 31, 8)
    expected = scaled_dot_product_attention(q, *more, is_causal=True, enable_gqa=True)  # aligned at the start
    torch.testing.assert_close(attention(q, *more, is_causal=True), expected)


def test_what_is_the_same_for_all_queries_or_keys():
    q, k, v = torch.randn(3, 2, 2, 20, 8)
    early = torch.arange(20) < torch.tensor([[20], [13]])
    for mask in (early[1:], early[1][:, None], early[:, None, None], early[:, None, None].flip(-1), early[:1, :1]):
        expected = scaled_dot_product_attention(q, k, v, mask).nan_to_num(0.0)
        found = from_sdpa(mask)
        each = found.patterns if isinstance(found, Imported) else [found]
        more = found.inputs if isinstance(found, Imported) else {}
        out = [pidsl.compile(pattern, "torch")(q, k, v, **more) for pattern in each]
        own = out[0] if len(out) == 1 else torch.stack([x[b] for b, x in enumerate(out)])
        torch.testing.assert_close(own, expected, atol=1e-5, rtol=1e-5)


def test_packed_documents():
    q, k, v = torch.randn(3, 2, 4, 40, 8)
    ids = torch.tensor([[0] * 7 + [1] * 20 + [2] * 13, [0] * 31 + [-1] * 9])
    same = (ids[:, :, None] == ids[:, None]) & (ids >= 0)[:, None]
    near = torch.ones(40, 40, dtype=torch.bool).tril().triu(-3)
    by_head = torch.stack([same, same & near, same & near.mT, same & near], 1)
    for mask in (same[:1, None], (same & near)[:, None], same[0] & near.tril(), by_head):
        found = from_sdpa(mask)
        assert set(found.inputs) == {"documents"} and len(found.patterns) == 1
        expected = scaled_dot_product_attention(q, k, v, mask).masked_fill(~mask.any(-1, keepdim=True), 0.0)
        out = pidsl.compile(found.pattern, "torch")(q, k, v, **found.inputs)
        torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


def test_dropout():
    found = from_sdpa(is_causal=True, dropout_p=0.25)
    assert found.score == pidsl.score(dropout=0.25) and found.pattern == causal
    assert pidsl.compile(found.pattern, "torch", found.score)(*torch.randn(3, 1, 2, 9, 8), seed=1).shape == (1, 2, 9, 8)
    assert from_sdpa(is_causal=True, dropout_p=0.0) == causal


# follows the hints of pidsl/interop/from_sdpa.py: from_sdpa, _truths, _of_table
def test_what_is_no_pattern_is_refused():
    def refused(match, hint, error=ArgumentError, **given):
        with pytest.raises(error, match=match) as caught:
            from_sdpa(**given)
        assert hint in caught.value.hint

    noise = torch.rand(30, 30, generator=torch.Generator().manual_seed(0))
    refused("of [0-9]+ pairs that are no set of lags", "pidsl.pairs(np.argwhere(mask))", attn_mask=noise < 0.5)
    assert (pidsl.pairs(np.argwhere((noise < 0.5).numpy())).mask(30) == (noise < 0.5).numpy()).all()
    refused("numbers other than 0 and -inf", "pidsl.score(bias=(low, high))", attn_mask=noise)
    both = {"attn_mask": noise < 2, "is_causal": True}
    refused("attn_mask and is_causal", "attn_mask & torch.ones_like(attn_mask).tril()", **both)
    assert from_sdpa(both["attn_mask"] & torch.ones_like(both["attn_mask"]).tril()) == causal
    refused("torch.int64", "attn_mask.bool()", attn_mask=torch.ones(4, 4, dtype=torch.int64))
    assert from_sdpa(torch.ones(4, 4, dtype=torch.int64).bool()) == full
    refused("attn_mask = \\[4\\]", "", attn_mask=torch.ones(4))
    refused("attn_mask = ndarray", "", attn_mask=np.ones((4, 4)))
    refused("dropout = 1.5", "", TermError, dropout_p=1.5)
    for scale in ("half", float("nan"), float("inf")):
        refused("scale", "", scale=scale)
    refused("meta", "", attn_mask=torch.ones(4, 4, device="meta"))
    refused("layout", "", attn_mask=torch.eye(4).bool().to_sparse())
    refused("attn_mask = \\[0, 4\\]", "", attn_mask=torch.ones(0, 4))
    refused("is_causal = 'yes'", "", is_causal="yes")
