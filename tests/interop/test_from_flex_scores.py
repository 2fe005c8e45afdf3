"""`from_flex` of score_mods: attention with what was read is FlexAttention's own."""

import attn_gym.mods as mods
import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

import pidsl
from pidsl import causal, from_flex, window
from pidsl.errors import PredicateError
from pidsl.interop.imported import Imported

N, H = 40, 3
TABLE = torch.randn(H, 2 * N - 1, generator=torch.Generator().manual_seed(0))
BUCKETS = torch.randn(9, H, generator=torch.Generator().manual_seed(1))
SLOPES = pidsl.alibi_slopes(H)


def at_or_before(b, h, q, k):
    return q >= k


def capped(score, b, h, q, k):
    return 20.0 * torch.tanh(score / 20.0)


def relative(score, b, h, q, k):
    return score + TABLE[h, q - k + N - 1]


def buckets(score, b, h, q, k):
    return score + BUCKETS[(q - k).clamp(-4, 4) + 4, h]


CASES = {
    "nothing": (at_or_before, lambda s, b, h, q, k: s, None),
    "softcap": (at_or_before, capped, pidsl.score(softcap=20.0)),
    "softcap of attention-gym": (None, mods.generate_tanh_softcap(30), pidsl.score(softcap=30.0)),
    "alibi": (at_or_before, mods.generate_alibi_bias(H), pidsl.score(alibi=True)),
    "alibi of both sides": (
        None, lambda s, b, h, q, k: s - SLOPES[h] * (q - k).abs(), pidsl.score(alibi=True),
    ),
    "one side below, the other above": (None, mods.generate_alibi_bias(H), pidsl.score(bias=(-39, 39))),
    "relative positions": (at_or_before, relative, pidsl.score(bias=(0, 39))),
    "relative positions of both sides": (None, relative, pidsl.score(bias=(-39, 39))),
    "buckets": (None, buckets, pidsl.score(bias=(-4, 4))),
    "a factor": (at_or_before, lambda s, b, h, q, k: s * (h + 1) * 0.5, pidsl.score(temperature=True)),
    "cap and slopes": (
        at_or_before, lambda s, b, h, q, k: capped(s, b, h, q, k) + (k - q) * SLOPES[h],
        pidsl.score(softcap=20.0, alibi=True),
    ),
    "sandwich": (at_or_before, mods.generate_sandwich_bias(H, N), pidsl.score(bias=(0, 39))),
    "a mask in it": (
        None, lambda s, b, h, q, k: torch.where(q >= k, s + (k - q) * SLOPES[h], float("-inf")),
        pidsl.score(alibi=True),
    ),
    "more of a mask in it": (
        at_or_before, lambda s, b, h, q, k: torch.where(q - k <= 3 * (h + 1), relative(s, b, h, q, k), -float("inf")),
        pidsl.score(bias=(0, 9)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_attention_with_the_score(name):
    mask_mod, score_mod, wanted = CASES[name]
    found = from_flex(mask_mod, H=H, n=N, score_mod=score_mod)
    logits = found.score if isinstance(found, Imported) else None
    if "more" not in name:
        assert logits == wanted
    q, k, v = torch.randn(3, 2, H, N, 16)
    block_mask = None if mask_mod is None else create_block_mask(mask_mod, 2, H, N, N, device="cpu")
    expected = flex_attention(q, k, v, score_mod=score_mod, block_mask=block_mask)
    pattern, inputs = (found.pattern, found.inputs) if isinstance(found, Imported) else (found, {})
    out = pidsl.compile(pattern, "torch", logits)(q, k, v, **inputs)
    torch.testing.assert_close(out, expected, atol=1e-4, rtol=1e-4)


def test_what_is_read():
    read = from_flex(at_or_before, score_mod=capped)
    assert repr(read) == "Imported(causal, score=score(softcap=20.0))"
    far = from_flex(lambda b, h, q, k: (q >= k) & (q - k <= 63), H=8, n=3000, score_mod=mods.generate_alibi_bias(8))
    assert far.pattern == window(63) and far.score == pidsl.score(alibi=True)
    torch.testing.assert_close(far.inputs["slopes"], pidsl.alibi_slopes(8))
    assert from_flex(at_or_before, score_mod=lambda s, b, h, q, k: s + 0.0) == causal
    masked = from_flex(None, score_mod=lambda s, b, h, q, k: torch.where(q >= k, s, -float("inf")))
    assert masked == causal
    ids = torch.tensor([0] * 10 + [1] * 30)
    packed = from_flex(lambda b, h, q, k: (ids[q] == ids[k]) & (q >= k), n=N, score_mod=capped)
    assert repr(packed.pattern) == "causal & documents" and packed.score == pidsl.score(softcap=20.0)


# follows the hints of pidsl/interop/scores.py: _of_the_score, _words, _table, _compare
def test_other_scores_are_refused():
    def refused(match, hint, score_mod, mask_mod=at_or_before, **lengths):
        with pytest.raises(PredicateError, match=match) as caught:
            from_flex(mask_mod, score_mod=score_mod, **lengths)
        assert hint in caught.value.hint

    given = {"n": N, "H": H}
    refused("none of these", "pidsl.score(softcap=50.0)", lambda s, b, h, q, k: s + torch.sin(q * 1.0), **given)
    refused("none of these", "score(bias=(low, high))", lambda s, b, h, q, k: s + torch.cos(s), **given)
    refused("none of these", "pidsl.score", lambda s, b, h, q, k: 9.0 * torch.tanh((s + k - q) / 9.0), **given)
    refused("none of these", "pidsl.score", mods.generate_activation_score_mod(), **given)
    refused("does not grow", "a factor above 0", lambda s, b, h, q, k: -s, **given)
    refused("does not grow", "a cap by tanh", lambda s, b, h, q, k: s * 0.0, **given)
    refused("some lags only", "n=...", lambda s, b, h, q, k: s + ((q - k) % 3), H=H)
    refused("temperature, one for each", "H=...", lambda s, b, h, q, k: s * 0.5, n=N)
    refused("the query head, h", "H=...", relative, n=N)
    refused("sequence of a batch, b", "B=...", lambda s, b, h, q, k: s + b, **given)
    refused("AssertionError: own", "", error_of_its_own, **given)

    def near(s, b, h, q, k):
        return torch.where(q - k + (q % 7) < 8, s + (q - k) % 5, -float("inf"))

    def near_mask(b, h, q, k):
        return q - k + (q % 7) < 8

    refused("the mask apart|get -inf", "the mask apart", near, n=400, H=H)
    assert from_flex(near_mask, n=400, H=H, score_mod=lambda s, b, h, q, k: s + (q - k) % 5).score is not None


def error_of_its_own(score, b, h, q, k):
    raise AssertionError("own")
