"""`from_flex`: masks read as patterns, entry for entry; what it cannot read is named."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import and_masks, create_mask, noop_mask, or_masks
from torch.nn.functional import scaled_dot_product_attention

import pidsl
from pidsl import (
    Heads,
    Packing,
    blocks,
    causal,
    documents,
    from_flex,
    full,
    keys,
    parse,
    queries,
    stride,
    to_flex,
    window,
)
from pidsl.codegen.emit_torch.pairs import pairs_predicate
from pidsl.errors import PredicateError, SizeError, TooHardError
from pidsl.interop.imported import Imported
from pidsl.interop.traced_values import bits_of, of_bits
from pidsl.language.algebra import tidied
from pidsl.language.expr import Var, evaluate, holds, vars_in
from pidsl.testing import predicates, terms

IDS = torch.tensor([0] * 10 + [4] * 17 + [2] * 21)
WIDTHS = torch.tensor([3, 5, 5])


def entries(found, n, m=None, batch=1, heads=1):
    """bool [batch, heads, n, m]: what was read."""
    inputs = found.inputs if isinstance(found, Imported) else {}
    patterns = found.patterns if isinstance(found, Imported) else (found,)
    out = np.zeros((batch, heads, n, n if m is None else m), dtype=bool)
    for b in range(batch):
        of = patterns[b if len(patterns) > 1 else 0]
        own = {name: x if x.dim() < 1 or (name == "documents" and x.dim() == 1) else x[b] for name, x in inputs.items()}
        for h in range(heads):
            term = of[h] if isinstance(of, Heads) else of
            if "documents" in own:
                mask = term.mask(n, documents=own["documents"].numpy())
            elif "key_lengths" in own:
                mask = np.zeros(out.shape[2:], dtype=bool)
                mask[:, : int(own["key_lengths"])] = term.mask(n, int(own["key_lengths"]))
            elif "key_offset" in own:
                pad = -int(own["offset"])
                mask = np.zeros(out.shape[2:], dtype=bool)
                mask[pad:, pad:] = term.mask(n - pad, mask.shape[1] - pad)
            else:
                mask = term.mask(n, m, int(own.get("offset", 0)))
            out[b, h] = mask
    return out


def check(mask_mod, rows, columns=None, batch=None, heads=None, **lengths):
    found = from_flex(mask_mod, batch, heads, **lengths)
    sizes = batch or 1, heads or 1, rows, columns or rows
    wanted = create_mask(lambda b, h, q, k: torch.as_tensor(mask_mod(b, h, q, k)), *sizes, device="cpu")
    np.testing.assert_array_equal(entries(found, rows, columns, batch or 1, heads or 1), wanted.numpy())
    return found


PLAIN = {
    "causal": lambda b, h, q, k: q >= k,
    "window(8)": lambda b, h, q, k: (torch.abs(q - k) <= 8) & (q >= k),
    "window(3, 2)": lambda b, h, q, k: torch.logical_and(k - q <= 2, (q - k).le(3)),
    "causal & stride(4)": lambda b, h, q, k: (q >= k) & ((q - k) % 4 == 0),
    "blocks(4)": lambda b, h, q, k: torch.div(q, 4, rounding_mode="floor") == k.floor_divide(4),
    "blocks(5)": lambda b, h, q, k: torch.floor(q / 5) == (k / 5).long(),
    "keys(0, 5) | causal": lambda b, h, q, k: torch.where(k < 5, k == k, q >= k),
    "window(6)": lambda b, h, q, k: (q >= k) * (q - k < 7),
    "window(3)": lambda b, h, q, k: (q - k < 3.5) & ~(k > q),
    "full": lambda b, h, q, k: q.new_ones((), dtype=torch.bool),
    "empty": lambda b, h, q, k: torch.zeros((), dtype=torch.bool),
    "keys(2, None, 3)": lambda b, h, q, k: torch.remainder(k, 3).eq(torch.tensor(2)),
    "keys(1, 2) | keys(5, 6)": lambda b, h, q, k: torch.isin(k, torch.tensor([1, 5])),
    "causal & keys(3, None) | ~causal & keys(0, 3)": lambda b, h, q, k: (q >= k) ^ (k < 3),
    "window(4, 4).dilated(3)": lambda b, h, q, k: ((q - k).abs() <= 12) & ((q - k).abs() % 3 == 0),
    "where(lambda i, j: i - j <= 4)": lambda b, h, q, k: k >= q - 4,
    "queries(0, 8) & keys(0, 8) | causal & queries(8, None)": lambda b, h, q, k: k <= torch.where(q < 8, 7, q),
    "blocks(8) & causal": lambda b, h, q, k: ((q >> 3) == (k >> 3)) & ((q & 7) >= (k & 7)),
}  # fmt: skip


@pytest.mark.parametrize("written", PLAIN)
def test_plain_masks(written):
    found = check(PLAIN[written], 40)
    assert repr(found) == written
    check(PLAIN[written], 23, 31)


OTHERS = {
    "clamp": lambda b, h, q, k: k >= (q - 4).clamp(min=0, max=9),
    "clamp_min": lambda b, h, q, k: torch.clamp_min(q - k, 0) == 0,
    "minimum": lambda b, h, q, k: torch.minimum(q, torch.tensor(9)) >= torch.maximum(k, q // 2),
    "min": lambda b, h, q, k: torch.min(q, k) < 7,
    "fmod": lambda b, h, q, k: torch.fmod(q - k, 3) == -1,
    "trunc": lambda b, h, q, k: torch.div(q - k, 4, rounding_mode="trunc") == 0,
    "ceil": lambda b, h, q, k: torch.ceil(q / 4) >= k.float(),
    "negative divisor": lambda b, h, q, k: (q - k) // 3 >= -2,
    "cast": lambda b, h, q, k: ((q < 4).int() + (k < 4).to(torch.int64) + (q >= k).long()) >= 2,
    "bool of number": lambda b, h, q, k: (q - k).bool(),
    "method where": lambda b, h, q, k: (q >= k).where(k > 3, q < 5),
    "numeric where": lambda b, h, q, k: q - torch.where(k % 2 == 0, 4, 9) <= k,
    "xor of parts": lambda b, h, q, k: torch.logical_xor(q < 4, ~(k < 9)) | (q == k),
    "reversed": lambda b, h, q, k: (10 - q > k) | (20 // 3 == k) | (~(q == k) & (7 <= k)),
    "powers": lambda b, h, q, k: (q - k == torch.tensor(2) ** 3) | (q**1 == 3),
    "bits": lambda b, h, q, k: ((q & 0b101) | ((q >> 3) << 3)) == k,
    "stacked": lambda b, h, q, k: (torch.stack([q // 8, q // 8 - 1]) == k // 8).any(dim=-1),
    "like": lambda b, h, q, k: torch.ones_like(q, dtype=torch.bool) & (torch.zeros_like(k) <= q - k),
    "and, or": and_masks(or_masks(lambda b, h, q, k: k < 4, lambda b, h, q, k: q >= k), lambda b, h, q, k: q < 30),
    "noop": noop_mask,
    "true": lambda b, h, q, k: True,
    "default": lambda b, h, q, k, w=4: q - k <= w,
}


@pytest.mark.parametrize("name", OTHERS)
def test_functions_of_torch(name):
    check(OTHERS[name], 33)
    check(OTHERS[name], 9, 21)


def test_heads_and_sequences():
    found = check(lambda b, h, q, k: (q - k <= WIDTHS[h]) & (q >= k), 20, heads=3)
    assert repr(found) == "heads([(1, window(3)), (2, window(5))])"
    assert repr(check(lambda b, h, q, k: (h >= 0) & (q >= k), 20, heads=3)) == "causal"
    prefix = torch.tensor([3, 7])
    found = check(lambda b, h, q, k: (k < prefix[b]) | (q >= k), 20, batch=2)
    assert [repr(x) for x in found.patterns] == ["keys(0, 3) | causal", "keys(0, 7) | causal"]
    with pytest.raises(PredicateError, match="2 patterns") as caught:
        _ = found.pattern
    assert caught.value.hint == "found.patterns[b] for sequence b" and found.patterns[1] == keys(0, 7) | causal
    found = check(lambda b, h, q, k: (k < prefix[b]) & (q >= k), 20, batch=2)
    assert (repr(found.pattern), found.inputs["key_lengths"].tolist()) == ("causal", [3, 7])
    found = check(lambda b, h, q, k: (k >= prefix[b]) & (q >= k), 20, batch=2)
    assert (repr(found.pattern), found.inputs["key_offset"].tolist()) == ("causal", [-3, -7])
    found = check(lambda b, h, q, k: (q + prefix[b] >= k) & (q + prefix[b] - k <= 9), 20, batch=2)
    assert (repr(found.pattern), found.inputs["offset"].tolist()) == ("window(9)", [3, 7])
    check(lambda b, h, q, k: (q >= k) & (k < prefix[b]) & (q - k <= WIDTHS[h]), 20, batch=2, heads=3)
    same = torch.tensor([5, 5])
    assert repr(check(lambda b, h, q, k: q - k == same[b], 20, batch=2)) == "lags(5)"


def test_what_is_read_is_what_a_kernel_computes():
    prefix = torch.tensor([3, 17])
    q, k, v = torch.randn(3, 2, 2, 20, 8)
    for mask_mod in (
        lambda b, h, q, k: (k < prefix[b]) & (q >= k),
        lambda b, h, q, k: (k >= prefix[b]) & (q >= k),
        lambda b, h, q, k: (IDS[q + 5 * b] == IDS[k + 5 * b]) & (q >= k),
    ):
        found = from_flex(mask_mod, B=2, n=20)
        mask = create_mask(mask_mod, 2, 1, 20, 20, device="cpu")
        expected = scaled_dot_product_attention(q, k, v, attn_mask=mask).masked_fill(~mask.any(-1, keepdim=True), 0.0)
        out = pidsl.compile(found.pattern, "torch")(q, k, v, **found.inputs)
        torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


def of_documents(mask_mod, tokens, **more):
    found = check(mask_mod, tokens, n=tokens, **more)
    return repr(found.pattern), found.inputs["documents"]


def test_documents():
    starts = torch.tensor([0, 10, 27])
    start = starts.repeat_interleave(torch.tensor([10, 17, 21]))
    same = lambda b, h, q, k: IDS[q] == IDS[k]  # noqa: E731
    assert of_documents(same, 48)[0] == "documents"
    assert of_documents(and_masks(same, lambda b, h, q, k: q >= k), 48)[0] == "causal & documents"
    read, ids = of_documents(lambda b, h, q, k: (k >= start[q]) & (k <= q) & (q - k <= 4), 48)
    assert read == "window(4) & documents" and ids.unique().numel() == 3
    read, _ = of_documents(lambda b, h, q, k: (start[q] == start[k]) & ((q - start[q]) // 4 == (k - start[k]) // 4), 48)
    assert read == "blocks(4) & documents"
    both = torch.stack([IDS, torch.arange(48) // 16])
    read, ids = of_documents(lambda b, h, q, k: (both[b, q] == both[b][k]) & (q >= k), 48, batch=2)
    assert read == "causal & documents" and ids.shape == (2, 48)
    padded = torch.where(torch.arange(48) < 40, IDS, -1)
    read, ids = of_documents(lambda b, h, q, k: (padded[q] == padded[k]) & (padded[q] >= 0) & (q >= k), 48)
    assert read == "causal & documents" and (ids[40:] == -1).all() and (ids[:40] >= 0).all()


@pytest.mark.parametrize(
    "term", [window(3), causal, keys(0, 2) | window(1), blocks(4) & causal, keys(-2, None)], ids=repr
)
def test_packed_documents_come_back(term):
    mask_mod = Packing.of_lengths([10, 1, 20, 17]).block_mask(term).mask_mod
    found = from_flex(mask_mod, n=48)
    np.testing.assert_array_equal(entries(found, 48)[0, 0], create_mask(mask_mod, 1, 1, 48, 48, "cpu")[0, 0].numpy())
    if term != keys(-2, None):
        assert found.pattern.equals(term & documents)


def test_long_documents():
    """Whose mask has more entries than are looked at."""
    ids = torch.arange(40_000) // 777
    found = from_flex(lambda b, h, q, k: (ids[q] == ids[k]) & (q - k <= 63) & (q >= k), n=40_000)
    assert repr(found.pattern) == "window(63) & documents"
    assert torch.equal(found.inputs["documents"], ids.int())


def test_tables():
    some = torch.zeros(48, dtype=torch.bool)
    some[[0, 7, 8, 30]] = True
    found = check(lambda b, h, q, k: ((q - k).abs() <= 3) | some[q] | some[k], 48, n=48)
    assert repr(found).startswith("window(3, 3) | queries(0, 1) | queries(7, 9)")
    tree = torch.rand(9, 9) < 0.4
    check(lambda b, h, q, k: (k < 3) | tree[q, (k - 3).clamp(0, 8)] & (k >= 3), 9, 12, n=9, m=12)
    chosen = torch.tensor([[0, 1], [2, 1], [0, 2]])
    check(lambda b, h, q, k: (chosen[q // 5] == (k // 5).unsqueeze(-1)).any(-1), 15, n=15)
    reach = torch.tensor([4.0, 2.5, 7.0]).repeat_interleave(5)
    check(lambda b, h, q, k: (q - k).abs() <= reach[q], 15, n=15)
    check(lambda b, h, q, k: (torch.cos(q * 0.3) > 0) & (q >= k), 48, n=48)
    with pytest.raises(PredicateError, match="some lengths only") as caught:
        from_flex(lambda b, h, q, k: some[q])
    assert caught.value.hint == "from_flex(mask_mod, n=...)"


def refused(mask_mod, match, hint, **lengths):
    with pytest.raises(PredicateError, match=match) as caught:
        from_flex(mask_mod, **lengths)
    assert hint in caught.value.hint
    assert "score" in match or "function" in match or re.search(r"test_\w+\.py:\d+", caught.value.where)


def test_what_cannot_be_read_is_named():
    table = torch.randn(100, 100)
    refused(lambda b, h, q, k: torch.sin(q) < torch.sin(k), "torch.sin.*some lengths", "n=...")
    refused(lambda b, h, q, k: torch.atan2(q, k) > 0, "torch.atan2 of query and key", "tables indexed by")
    refused(lambda b, h, q, k: torch.atan2(q, k) > 0.4, "torch.atan2 of query and key", "tables indexed by", n=99)
    refused(lambda b, h, q, k: q >= k if q > 3 else k < 2, "truth value of Python", "torch.where")
    refused(lambda b, h, q, k: q * k > 5, "product of positions", "where(lambda")
    refused(lambda b, h, q, k: q % (k + 1) == 0, "division by a position", "")
    refused(lambda b, h, q, k: q - k <= WIDTHS[h], "query head, h", "from_flex(mask_mod, H=...)")
    refused(lambda b, h, q, k: q - k <= WIDTHS[b], "sequence of a batch, b", "from_flex(mask_mod, B=...)")
    refused(lambda b, h, q, k: table[q, k] > 0, "a table of query and key with", "data", n=100)
    refused(lambda b, h, q, k: (table > -1.2)[q, k] | (q == 3), "a table of query and key", "pairs([...])", n=100)
    order, turns = torch.randperm(99), list(range(99))
    refused(lambda b, h, q, k: order[q] >= order[k], "runs", "data", n=99)
    refused(lambda b, h, q, k: (q / 3).exp(), "torch.exp", "n=...")
    refused(lambda b, h, q, k: q + 0.5, "result that is a float", "score_mod")
    refused(lambda b, h, q, k: "yes", "result of type str", "")
    refused(lambda b, h, q, k: WIDTHS[q] > 0, "index", "", n=9)
    refused(lambda b, h, q, k: q.undefined > 3, "undefined", "")
    refused(lambda b, h, q, k: q >= k + turns.pop(), "query .* and key .* differ|random", "")
    refused(lambda score, b, h, q, k: score, "score", "score_mod=score_mod")
    refused(lambda i, j: i >= j, "function of", "pidsl.where(lambda")
    refused(7, "function|7", "")
    for bad in (0, True, 2.5, -1):
        with pytest.raises(SizeError, match="n = "):
            from_flex(lambda b, h, q, k: q >= k, n=bad)


# follows the hints of pidsl/interop/from_flex.py: from_flex, _check_signature, _with_score
# follows the hints of pidsl/interop/imported.py: pattern
# follows the hints of pidsl/interop/tables.py: _too_many
# follows the hints of pidsl/interop/traced.py: __torch_function__
def test_hints_are_followed():
    mask = to_flex(window(4)).block_mask(30)
    refused(mask, "a BlockMask|function", "pidsl.from_flex(block_mask.mask_mod)")
    assert from_flex(mask.mask_mod) == window(4)

    def score_mod(score, b, h, q, k):
        return torch.where(q >= k, 50.0 * torch.tanh(score / 50.0), -float("inf"))

    refused(score_mod, "score", "from_flex(None, score_mod=score_mod), which gives a pidsl.score(...)")
    found = from_flex(None, score_mod=score_mod)
    assert found.pattern == causal and found.score == pidsl.score(softcap=50.0)
    refused(lambda i, j: i - j < 4, "function of", "pidsl.where(lambda i, j: i - j < 4)")
    assert pidsl.where(lambda i, j: i - j < 4).mask(9).sum() == (window(3) | ~causal).mask(9).sum()

    ahead, slopes = torch.tensor([3, 7]), pidsl.alibi_slopes(2)
    given = {"B": 2, "H": 2, "n": 20, "score_mod": lambda s, b, h, q, k: s + slopes[h] * (k - q)}
    refused(lambda b, h, q, k: q + ahead[b] >= k, "function|slopes and an offset", "from_flex(mask_mod) alone", **given)
    assert from_flex(lambda b, h, q, k: q + ahead[b] >= k, B=2).pattern == causal

    ids = (torch.arange(3000) * 7 % 3000) // 30
    refused(lambda b, h, q, k: ids[q] == ids[k], "runs of queries", "pidsl.documents", n=3000)
    sorted_ids = ids.sort().values
    found = from_flex(lambda b, h, q, k: sorted_ids[q] == sorted_ids[k], n=3000)
    assert found.pattern == documents and torch.equal(found.inputs["documents"], sorted_ids.int())
    refused(lambda b, h, q, k: k <= q <= k + 4, "as a number or truth value", "(a) & (b)")
    assert from_flex(lambda b, h, q, k: (k <= q) & (q <= k + 4)) == window(4)


ROUND = [
    causal, full, window(63) | stride(256) & causal, window(5, 2), keys(-3, None) | window(4), pidsl.ring(4),
    pidsl.neighborhood((4, 6), (3, 5)), blocks(7) & causal, (window(3) | stride(8) & causal).blocked(2),
    queries(-1, None) | keys(0, 4), parse("heads([(2, window(9)), (1, keys(-2, None)), (3, blocks(4))])"),
]  # fmt: skip


def read_anew(flex):
    """The mask_mod without what it was made from."""
    mask_mod = flex.mask_mod
    return lambda b, h, q, k: mask_mod(b, h, q, k)


@pytest.mark.parametrize("term", ROUND, ids=repr)
def test_round_trip(term):
    own = len(term) if isinstance(term, Heads) else None
    for flex in (to_flex(term, 30), to_flex(term, 30).mask_mod, to_flex(term).block_mask(30).mask_mod):
        assert from_flex(flex, H=own, n=30) == term
    assert from_flex(to_flex(term, 30)) == term
    found = from_flex(read_anew(to_flex(term, 30)), H=own, n=30)
    for a, b in zip(found, term, strict=True) if own else [(found, term)]:
        np.testing.assert_array_equal(a.mask(30), b.mask(30))
    if term in {causal, full, window(63) | stride(256) & causal, window(5, 2)}:
        assert found.equals(term) and len(repr(found)) == len(repr(term))


@settings(max_examples=60)
@given(terms(depth=2), st.integers(1, 40), st.integers(1, 40))
def test_round_trip_of_any_term(term, n, m):
    flex = to_flex(term, n, m)
    assert from_flex(flex) == term
    try:
        found = from_flex(read_anew(flex), n=n, m=m)
    except TooHardError:
        return
    np.testing.assert_array_equal(found.mask(n, m), term.mask(n, m))
    if not {"n", "m"} & vars_in(pairs_predicate(term)):
        assert found.equals(term)


@settings(max_examples=25)
@given(st.lists(terms(depth=1), min_size=1, max_size=3), st.integers(1, 30), st.integers(1, 30))
def test_round_trip_of_heads(each, n, m):
    term = pidsl.heads([(1 + k % 2, x) for k, x in enumerate(each)])
    flex = to_flex(term, n, m)
    assert from_flex(flex) == term
    found = from_flex(read_anew(flex), H=len(term), n=n, m=m)
    for h in range(len(term)):
        own = found[h] if isinstance(found, Heads) else found
        np.testing.assert_array_equal(own.mask(n, m), term[h].mask(n, m))


@given(predicates())
def test_words_of_a_predicate_say_the_same(term):
    if not isinstance(term, pidsl.language.terms.Where):
        return
    found = pidsl.relation.recognise.recognised(term.pred)
    for n, m in ((17, 17), (9, 14)):
        np.testing.assert_array_equal(found.mask(n, m), term.mask(n, m))
    env = {"i": np.arange(20)[:, None], "j": np.arange(23), "n": 20, "m": 23}
    np.testing.assert_array_equal(
        np.broadcast_to(holds(tidied(term.pred), env), (20, 23)), np.broadcast_to(holds(term.pred, env), (20, 23))
    )


@given(st.lists(st.sampled_from([("&", 0x55), ("&", 0x33), ("//", 2), ("*", 4), ("%", 16)]), max_size=5))
def test_bits(steps):
    expr, number = Var("i"), np.arange(256)
    for op, by in steps:
        bits = bits_of(expr, 8)
        expr = of_bits({k: x for k, x in bits.items() if by >> k & 1}) if op == "&" else eval(f"expr {op} by")
        number = eval(f"number {op} by")
    np.testing.assert_array_equal(np.broadcast_to(evaluate(expr, {"i": np.arange(256)}), 256), number)


def test_documents_of_every_batch_entry():
    """As they are read without B: [n]."""
    found = from_flex(lambda b, h, q, k: (IDS[q] == IDS[k]) & (q >= k), n=48)
    q, k, v = torch.randn(3, 2, 2, 48, 8)
    kernel = pidsl.compile(found.pattern, "torch")
    each = kernel(q, k, v, documents=found.inputs["documents"].repeat(2, 1))
    assert found.inputs["documents"].shape == (48,) and torch.equal(kernel(q, k, v, **found.inputs), each)
