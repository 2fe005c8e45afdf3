"""`from_flex` of masks as people write them: what comes back is the mask, entry for entry, or a reason."""

import functools

import numpy as np
import pytest
import torch
from test_from_flex import IDS, check, refused
from torch.nn.attention.flex_attention import and_masks, or_masks

import pidsl
from pidsl import from_flex
from pidsl.errors import PredicateError
from pidsl.interop.imported import Imported
from pidsl.relation.oracle import table

N = len(IDS)  # 48 tokens in three documents
SEED = torch.Generator().manual_seed(0)
SHUFFLED = torch.randperm(N, generator=SEED)
ALTERNATING = torch.tensor([0, 1, 0, 1, 2, 2] * 8)
BATCH = torch.stack([IDS, torch.zeros(N, dtype=torch.int64), IDS.flip(0)])
STARTS = torch.tensor([0] * 10 + [10] * 17 + [27] * 21)
PADDED = torch.where(torch.arange(N) < 30, IDS, -1)
ROW, COLUMN = torch.arange(N) // 8, torch.arange(N) % 8
WIDTHS = torch.tensor([2, 5, 5, 9])
AHEAD = torch.tensor([4, 0, 11])
SOME = torch.rand(6, 6, generator=SEED) < 0.5
FEW = torch.rand(N, N, generator=SEED) < 0.1
KEYS = torch.arange(N)
HALVES = np.repeat([0, 1], N // 2)


def causal(b, h, q, k):
    return q >= k


def near(width, b, h, q, k):
    return (q - k <= width) & (q >= k)


class Near:
    def __init__(self, width):
        self.width = width

    def __call__(self, b, h, q, k):
        return near(self.width, b, h, q, k)


def in_place(b, h, q, k):
    found = q >= k
    found &= q - k < 5
    return found.logical_or_(k < 2)


def in_a_loop(b, h, q, k):
    found = q < 0
    for start in range(0, 50, 10):
        found = found | ((q >= start) & (q < start + 10) & (k >= start) & (k < start + 10))
    return found


ONE = {
    "documents apart": lambda b, h, q, k: (ALTERNATING[q] == ALTERNATING[k]) & (q >= k),
    "documents, window, prefix": lambda b, h, q, k: (IDS[q] == IDS[k]) & ((q - k).abs() <= 3) | (k < 2),
    "blocks in documents": lambda b, h, q, k: (
        (IDS[q] == IDS[k]) & ((q - STARTS[q]) // 4 == (k - STARTS[k]) // 4) & (q >= k)
    ),
    "prefix of documents": lambda b, h, q, k: (IDS[q] == IDS[k]) & ((q >= k) | (k - STARTS[k] < 2)),
    "previous document": lambda b, h, q, k: ROW[q] == ROW[k] + 1,
    "later documents": lambda b, h, q, k: IDS[q] >= IDS[k],
    "one of two": lambda b, h, q, k: torch.where(IDS[q] == 0, q >= k, IDS[q] == IDS[k]),
    "sums": lambda b, h, q, k: ((IDS == 2).int().cumsum(0)[q] == (IDS == 2).int().cumsum(0)[k]) & (q >= k),
    "small integers": lambda b, h, q, k: IDS.to(torch.uint8)[q] - IDS.to(torch.uint8)[k] <= 1,
    "overflow": lambda b, h, q, k: KEYS.to(torch.int8)[q] * 20 > 0,
    "floats": lambda b, h, q, k: IDS.float()[q] == IDS.float()[k],
    "fractions": lambda b, h, q, k: torch.linspace(0, 1, N)[q] > 0.3,
    "fractions cast": lambda b, h, q, k: (torch.linspace(0, 9, N)[q].floor().long() >= k) & (q >= k),
    "fractions of both": lambda b, h, q, k: torch.linspace(0, 1, N)[q] >= torch.linspace(0, 1, N)[k],
    "requires grad": lambda b, h, q, k: torch.linspace(0, 1, N, requires_grad=True)[k] > 0.5,
    "a table of both": lambda b, h, q, k: FEW[q, k] & (q >= k),
    "a triangle": lambda b, h, q, k: torch.ones(N, N).tril().bool()[q, k],
    "tiles": lambda b, h, q, k: SOME[q // 8, k // 8] & (q >= k),
    "lags": lambda b, h, q, k: (KEYS % 3 == 0)[(q - k).abs()],
    "lags, shifted": lambda b, h, q, k: (torch.arange(2 * N) % 4 == 0)[q - k + N],
    "periodic": lambda b, h, q, k: (q - k).abs() <= WIDTHS[q % 4],
    "periodic of both": lambda b, h, q, k: WIDTHS[q % 4] == WIDTHS[k // 2 % 4],
    "searchsorted": lambda b, h, q, k: (
        torch.searchsorted(torch.tensor([0, 7, 20]), q, right=True)
        == torch.searchsorted(torch.tensor([0, 7, 20]), k, right=True)
    ),
    "gather": lambda b, h, q, k: (KEYS // 8 * 8 + 7).gather(0, q.view(1))[0] >= k,
    "from the end": lambda b, h, q, k: (KEYS // 8 * 8 + 7)[q - N] >= k,
    "shuffled": lambda b, h, q, k: SHUFFLED[q] >= SHUFFLED[k],
    "shuffled grid": lambda b, h, q, k: (
        ((ROW[SHUFFLED][q] - ROW[SHUFFLED][k]).abs() <= 1) & ((COLUMN[SHUFFLED][q] - COLUMN[SHUFFLED][k]).abs() <= 1)
    ),
    "shuffled blocks": lambda b, h, q, k: SHUFFLED[q] // 8 == SHUFFLED[k] // 8,
    "coordinates": lambda b, h, q, k: (
        (torch.stack([ROW, COLUMN], -1)[q] - torch.stack([ROW, COLUMN], -1)[k]).abs().amax(-1) <= 1
    ),
    "numpy": lambda b, h, q, k: torch.tensor(HALVES)[q] == torch.tensor(HALVES)[k],
    "a longer table": lambda b, h, q, k: torch.arange(99)[q] // 5 >= torch.arange(99)[k] // 5,
}  # fmt: skip


@pytest.mark.parametrize("name", ONE)
def test_tables(name):
    check(ONE[name], N, n=N)


ANYWHERE = {
    "and of masks": and_masks(causal, lambda b, h, q, k: q - k < 9, lambda b, h, q, k: k % 2 == 0),
    "nested": or_masks(and_masks(causal, Near(4)), and_masks(lambda b, h, q, k: k < 2, lambda b, h, q, k: q > 7)),
    "not": lambda b, h, q, k: ~((q < k) | ~(q - k < 7)) | ~(k >= 2),
    "class": Near(5),
    "method": Near(5).__call__,
    "partial": functools.partial(near, 6),
    "positions alone": lambda *given: given[2] >= given[3],
    "in place": in_place,
    "loop": in_a_loop,
    "from a sum": lambda b, h, q, k: sum(k == x for x in range(4)).bool() | (q >= k),
    "no keys before": lambda b, h, q, k: k >= q,
    "reversed": lambda b, h, q, k: q >= 39 - k,
    "grid": lambda b, h, q, k: ((q // 8 - k // 8).abs() <= 1) & ((q % 8 - k % 8).abs() <= 2),
    "grid by steps": lambda b, h, q, k: (q // 8 - k // 8).abs() + (q % 8 - k % 8).abs() <= 3,
    "largest of both": lambda b, h, q, k: (
        (torch.stack([q // 8, q % 8]) - torch.stack([k // 8, k % 8])).abs().max() <= 2
    ),
    "largest by axis": lambda b, h, q, k: torch.stack([q - k, k - q]).max(dim=0).values <= 2,
    "tiles": lambda b, h, q, k: q // 64 == k // 64,
    "floor of negative": lambda b, h, q, k: torch.div(q - k, -5, rounding_mode="floor") >= -2,
    "remainder of negative": lambda b, h, q, k: torch.remainder(q - k, -4) == -1,
    "fmod of negative": lambda b, h, q, k: torch.fmod(q - k, -4) == 1,
    "bits of the lag": lambda b, h, q, k: torch.bitwise_and(q - k, 3) == 0,
    "bits put together": lambda b, h, q, k: ((q & ~7) | (k & 7)) >= k,
    "neighbour by a bit": lambda b, h, q, k: (q ^ 1) == k,
    "more bits": lambda b, h, q, k: (q | 5) >= (k ^ 6),
    "two shifts": lambda b, h, q, k: ((q << 1) >> 3) == (k >> 2),
    "sign": lambda b, h, q, k: torch.sign(q - k) >= 0,
    "relu": lambda b, h, q, k: torch.relu(q - k) <= 4,
    "weighted": lambda b, h, q, k: torch.sub(q, k, alpha=2) >= 0,
    "isin": lambda b, h, q, k: torch.isin(q - k, torch.tensor([0, 3, 9])),
    "halves": lambda b, h, q, k: (q - k) / 3 <= 2.5,
    "huge": lambda b, h, q, k: q * (1 << 40) >= k * (1 << 40),
    "integers": lambda b, h, q, k: (q >= k).int(),
    "none": lambda b, h, q, k: (q > k) & (k > q),
    "all": lambda b, h, q, k: torch.ones_like(q, dtype=torch.bool),
    "nothing asked": lambda b, h, q, k: torch.tensor(True),
}


@pytest.mark.parametrize("name", ANYWHERE)
def test_at_any_length(name):
    """Read without being told a length, and compared at others than these."""
    check(ANYWHERE[name], 45)
    check(ANYWHERE[name], 13, 29)


SMALL = {
    "circles": lambda b, h, q, k: (q // 8 - k // 8) ** 2 + (q % 8 - k % 8) ** 2 <= 5,
    "both bits": lambda b, h, q, k: (q & k) == k,
    "butterfly": lambda b, h, q, k: (q ^ k) & ((q ^ k) - 1) == 0,
    "powers of two": lambda b, h, q, k: torch.log2((q - k).float()) % 1 == 0,
    "root": lambda b, h, q, k: torch.sqrt((q - k).abs().float()) <= 2.5,
    "product": lambda b, h, q, k: q * k <= 40,
    "divisors": lambda b, h, q, k: torch.gcd(q + 1, k + 1) == 1,
    "a large number": lambda b, h, q, k: q - k < (1 << 62),
}


@pytest.mark.parametrize("name", SMALL)
def test_what_no_word_says_is_read_from_the_entries_of_few(name):
    check(SMALL[name], 40, n=40)
    check(SMALL[name], 9, 21, n=9, m=21)
    with pytest.raises(pidsl.PidslError):
        from_flex(SMALL[name])


def test_offsets_and_other_lengths():
    ahead = torch.tensor(7)
    assert (
        repr(check(lambda b, h, q, k: (q + ahead >= k) & (q + ahead - k <= 5), 4, 12)) == "lags(-7, -6, -5, -4, -3, -2)"
    )
    check(lambda b, h, q, k: q + 29 >= k, 1, 30)
    check(lambda b, h, q, k: q - 15 >= k, 30, 15)
    found = check(lambda b, h, q, k: (q + AHEAD[b] >= k) & (q + AHEAD[b] - k < 6), 10, 30, batch=3)
    assert repr(found.pattern) == "window(5)" and found.inputs["offset"].tolist() == AHEAD.tolist()
    left, right = torch.tensor([0] * 5 + [1] * 5), torch.tensor([0] * 12 + [1] * 18)
    check(lambda b, h, q, k: left[q] == right[k], 10, 30, n=10, m=30)


def test_heads():
    def by_heads(mask_mod, *shown, **given):
        assert repr(check(mask_mod, N, heads=4, **given)) == f"heads([{', '.join(shown)}])"

    by_heads(lambda b, h, q, k: (q - k <= 4 * h + 1) & (q >= k),
             "(1, window(1))", "(1, window(5))", "(1, window(9))", "(1, window(13))")  # fmt: skip
    by_heads(lambda b, h, q, k: (q - k < torch.pow(2, h + 1)) & (q >= k) & (q - k < 1 << (h + 1)),
             "(1, window(1))", "(1, window(3))", "(1, window(7))", "(1, window(15))")  # fmt: skip
    dilated = [f"(1, window(8).dilated({step}))" for step in (2, 3, 4)]
    by_heads(lambda b, h, q, k: ((q - k) % (h + 1) == 0) & near(8 * (h + 1), b, h, q, k), "(1, window(8))", *dilated)
    by_heads(lambda b, h, q, k: torch.where(h % 2 == 0, q >= k, (q - k).abs() <= 3),
             "(1, causal)", "(1, window(3, 3))", "(1, causal)", "(1, window(3, 3))")  # fmt: skip
    check(lambda b, h, q, k: torch.where(h == 0, IDS[q] == IDS[k], q >= k), N, heads=2, n=N)
    check(lambda b, h, q, k: torch.stack([IDS, ROW])[h, q] == torch.stack([IDS, ROW])[h, k], N, heads=2, n=N)
    check(lambda b, h, q, k: SOME[h, q // 8] | (q >= k), N, heads=3, n=N)
    found = check(lambda b, h, q, k: (BATCH[b, q] == BATCH[b, k]) & near(WIDTHS[h], b, h, q, k), N, None, 3, 4, n=N)
    assert repr(found.pattern).startswith("heads([(1, window(2) & documents), (2, window(5) & documents)")


def test_batches():
    found = check(lambda b, h, q, k: (BATCH[b][q] == BATCH[b][k]) & (q >= k), N, batch=3, n=N)
    assert repr(found.pattern) == "causal & documents" and (found.inputs["documents"][1] == 0).all()
    short = KEYS[None] < torch.tensor([[N], [13]])
    found = check(lambda b, h, q, k: short[b, k] & (q >= k), N, batch=2, n=N)
    assert repr(found.pattern) == "causal" and found.inputs["key_lengths"].tolist() == [N, 13]
    late = KEYS[None] >= torch.tensor([[0], [13]])
    found = check(lambda b, h, q, k: late[b, k] & (q >= k), N, batch=2, n=N)
    assert repr(found.pattern) == "causal & documents"
    check(lambda b, h, q, k: late[b, k] & late[b, q] & (q >= k), N, batch=2, n=N)
    check(lambda b, h, q, k: short[b, q] & short[b, k] & (q - k <= 3), N, batch=2, n=N)
    holes = torch.stack([KEYS % 5 != 3, KEYS > 2])
    check(lambda b, h, q, k: holes[b, k] & (q >= k), N, batch=2, n=N)
    check(lambda b, h, q, k: (q - k <= WIDTHS[h] + AHEAD[b]) & (q >= k), 30, batch=3, heads=4)
    one = torch.tensor([9])
    assert repr(from_flex(lambda b, h, q, k: (k < one[b]) & (q >= k))) == "causal & keys(0, 9)"


def changed_in_place(b, h, q, k):
    near = q.clone()
    near.sub_(3).clamp_(min=0)
    found = k >= near
    also = found
    also &= q >= k
    return found


NARROW = {
    "int8": lambda b, h, q, k: q.to(torch.int8) >= k.to(torch.int8),
    "uint8": lambda b, h, q, k: q.to(dtype=torch.uint8) - k.type(torch.uint8) < 10,
    "short": lambda b, h, q, k: q.short() * 1000 >= k.short() * 1000,
    "float16": lambda b, h, q, k: q.to(torch.float16) >= k.half(),
    "int32": lambda b, h, q, k: q.int() * 1_000_000 >= k.int() * 1_000_000,
}  # fmt: skip


@pytest.mark.parametrize("name", NARROW)
def test_numbers_of_few_bits_are_no_pattern_of_every_length(name):
    with pytest.raises(PredicateError):
        from_flex(NARROW[name])
    check(NARROW[name], 64, n=64)


def test_truth_values_as_numbers_of_few_bits():
    assert repr(check(lambda b, h, q, k: (q >= k).byte() * (q - k < 4).to(torch.int8) > 0, 30)) == "window(3)"
    assert repr(check(changed_in_place, 30)) == "window(3)"


def test_lengths_beyond_the_keys_are_no_lengths_of_a_call():
    ends = torch.tensor([10, 50, 30])
    for n in (20, 60):
        found = check(lambda b, h, q, k: (k < ends[b]) & (q >= k), n, batch=3, n=n)
        assert ("key_lengths" in found.inputs) == (n == 60)


def test_documents_are_found_in_the_entries():
    both = (IDS[:, None] == IDS) & (torch.arange(N)[:, None] >= torch.arange(N))
    found = check(lambda b, h, q, k: both.reshape(-1)[q * N + k], N, n=N)
    assert repr(found.pattern) == "causal & documents"


def boom(b, h, q, k):
    raise AssertionError("of the mask itself")


def of_a_dictionary(b, h, q, k):
    return {}[q]


def test_a_reason_is_given():
    python = "truth value of Python"
    for mask_mod in (
        lambda b, h, q, k: k <= q <= k + 5,
        lambda b, h, q, k: k <= q and q <= k + 5,
        lambda b, h, q, k: not k <= q,
        lambda b, h, q, k: q >= int(k),
        lambda b, h, q, k: q.item() >= k,
        lambda b, h, q, k: bool(q >= k),
        lambda b, h, q, k: IDS.tolist()[q] == 0,
        lambda b, h, q, k: max(q, k) > 3,
    ):  # fmt: skip
        refused(mask_mod, python, "torch.where", n=48)
    refused(boom, "AssertionError: of the mask itself", "")
    refused(lambda b, h, q, k: 1 // 0 > q, "ZeroDivisionError", "")
    refused(lambda b, h, q, k: nothing_of_this_name > q, "NameError", "")  # noqa: F821
    refused(of_a_dictionary, "KeyError", "")
    refused(lambda b, h, q, k: torch.rand(()) < 0.5, "random", "", n=8)
    refused(lambda b, h, q, k: IDS[q + 5] == IDS[k], "out of bounds", "", n=48)
    refused(lambda b, h, q, k: torch.empty(48, device="meta")[q] > 0, "meta tensor", "", n=48)
    refused(lambda b, h, q, k: (q >= k).unsqueeze(0), "shape", "truth value", n=8)
    refused(lambda b, h, q, k: (q >= k, k), "type tuple", "truth value", n=8)
    refused(lambda b, h, q, k: torch.where(h == 0, q >= k, q < 3), "query head, h", "H=...", n=8)
    for of_others in (lambda b, h, q: q > 0, lambda b, h, q, k, more: q > k, lambda: True, lambda b, h, q, *, k: q > k):
        refused(of_others, "a function of", "")


LONG = {  # 4096 tokens, of which all pairs are not looked at
    "max(abs(i // 64 - j // 64), abs(i % 64 - j % 64)) <= 3": lambda b, h, q, k: (
        torch.maximum((LEFT[q] - LEFT[k]).abs(), (RIGHT[q] - RIGHT[k]).abs()) <= 3
    ),
    "pairs([...]).blocked(64) & causal": lambda b, h, q, k: TILES[q // 64, k // 64] & (q >= k),
    "stride(3)": lambda b, h, q, k: (torch.arange(4096) % 3)[q] == (torch.arange(4096) % 3)[k],
    "documents & window(63)": lambda b, h, q, k: (TILED[q] == TILED[k]) & near(63, b, h, q, k),
    "window(9, 9) | queries(...) | keys(...)": lambda b, h, q, k: (
        (TILED[q] == 2) | (TILED[k] == 4) | ((q - k).abs() < 10)
    ),
}  # fmt: skip
LEFT, RIGHT = torch.arange(4096) // 64, torch.arange(4096) % 64
TILES = torch.rand(64, 64, generator=SEED) < 0.3
TILED = torch.bucketize(torch.arange(4096), torch.tensor([100, 777, 801, 1500, 3000]), right=True)


@pytest.mark.parametrize("name", LONG)
def test_thousands_of_tokens(name):
    """Those of which a few hundred are looked at once more."""
    found = from_flex(LONG[name], n=4096)
    at = torch.randint(0, 4096, (2, 4000), generator=SEED)
    at[1, ::2] = (at[0, ::2] - at[1, ::2] % 70).clamp(min=0)
    wanted = torch.vmap(lambda q, k: LONG[name](0, 0, q, k))(*at)
    if isinstance(found, Imported):
        assert repr(found.pattern) == "window(63) & documents" and torch.equal(found.inputs["documents"], TILED.int())
    else:
        own = table(found, at[0].numpy(), at[1].numpy(), 4096, 4096)[range(4000), range(4000)]
        np.testing.assert_array_equal(own, wanted.numpy())
