"""The derived cache against a plain list of all keys: what is kept, where, and how much."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import pidsl
from pidsl import ArgumentError, Cache, blocks, causal, heads, keys, lags, stride, window
from pidsl.language.terms import Term
from pidsl.relation.lives import FOREVER
from pidsl.runtime.cache.patterns import patterns_of
from pidsl.testing import terms

HKV, D = 2, 4
LONG = 80  # tokens of the masks
SINKS = window(5) | keys(0, 4) & causal
COMB = (window(7) | keys(0, None, 8)) & causal
MIXED = window(3) | window(31) & keys(0, None, 8)
GAPS = lags(0, 24) & keys(0, None, 3)  # pages in the middle are given back before others


def compiled(of: Any) -> Any:
    return pidsl.compile(of, "torch")


def made(of: Any, batch: int = 2, **options: Any) -> Any:
    kind = {"dtype": torch.float32, "device": "cpu", **options}
    return Cache(of if hasattr(of, "recipe") else compiled(of), batch, HKV, D, **kind)


@lru_cache
def ever(term: Term) -> np.ndarray:
    """bool [i, j]: i attends j at some length."""
    found = np.zeros((LONG, LONG), dtype=np.bool_)
    for n in range(1, LONG + 1):
        found[:n, :n] |= term.mask(n)
    return found


def live(terms: Any, tokens: int, first_row: int) -> set[int]:
    """By the masks: keys below `tokens` that a row from `first_row` on attends."""
    found = [ever(term)[max(first_row, 0) :, :tokens].any(0).nonzero()[0] for term in terms]
    return set(np.concatenate(found).tolist())


class Plain:
    """Every key that there is, in lists; what rows may ask is looked up in masks."""

    def __init__(self, cache: Cache) -> None:
        self.cache, self.seed = cache, torch.Generator().manual_seed(3)
        self.keys: list[list[Tensor]] = [[] for _ in range(cache.form.batch)]
        self.values: list[list[Tensor]] = [[] for _ in range(cache.form.batch)]
        self.furthest = [0] * cache.form.batch

    def append(self, count: int, lengths: list[int] | None = None) -> None:
        batch = len(self.keys)
        k, v = (torch.randn(batch, HKV, count, D, generator=self.seed) for _ in range(2))
        for b in range(batch):
            real = count if lengths is None else lengths[b]
            self.keys[b] += k[b, :, :real].unbind(1)
            self.values[b] += v[b, :, :real].unbind(1)
            k[b, :, real:] = torch.nan
            self.furthest[b] = max(self.furthest[b], len(self.keys[b]))
        self.cache.append(k, v, lengths=None if lengths is None else torch.tensor(lengths))

    def crop(self, back: list[int]) -> None:
        left = [max(f - x, 0) for f, x in zip(self.furthest, back, strict=True)]
        left = [min(x, len(k)) for x, k in zip(left, self.keys, strict=True)]
        self.keys = [k[:x] for k, x in zip(self.keys, left, strict=True)]
        self.values = [v[:x] for v, x in zip(self.values, left, strict=True)]
        self.cache.crop(left[0] if len(set(left)) == 1 else torch.tensor(left))

    def reorder(self, indices: list[int]) -> None:
        self.keys = [list(self.keys[b]) for b in indices]
        self.values = [list(self.values[b]) for b in indices]
        self.furthest = [self.furthest[b] for b in indices]
        self.cache.reorder(torch.tensor(indices))

    def check(self) -> None:
        """Every live key is there, at its place; and nothing that was taken back."""
        cache = self.cache
        assert cache.tokens.tolist() == [len(k) for k in self.keys]
        assert cache.tokens.dtype == cache.positions.dtype == torch.int32
        for b, (k, v) in enumerate(zip(self.keys, self.values, strict=True)):
            places, positions = placed(cache, b), cache.positions[b].tolist()
            alive = live(cache.terms, len(k), self.furthest[b] - 1 - cache.lookahead)
            assert alive <= places.keys() == set(positions) - {-1}
            assert all(p < len(k) for p in places)
            for p in alive:
                entry, row = places[p]
                torch.testing.assert_close(cache.keys[entry, :, row], k[p])
                torch.testing.assert_close(cache.values[entry, :, row], v[p])
            if cache.page_size is not None:
                pages = {p // cache.page_size for p in alive}
                assert {p // cache.page_size for p in places} >= pages
                held = set((cache.keys_at.table[b] >= 0).nonzero().flatten().tolist())
                reach, row = cache.store.proof.lives, self.furthest[b] - 1 - cache.lookahead
                ends = np.arange(len(k)) + reach.at(np.arange(len(k)))
                assert held == {p // cache.page_size for p in np.flatnonzero(ends >= row).tolist()} >= pages
                if len(reach.classes) > 1:  # else lives may be as long as the longest
                    assert held == pages or FOREVER in (*reach.first, *reach.classes)  # which masks need not show


def placed(cache: Cache, b: int) -> dict[int, tuple[int, int]]:
    """By position, where in `cache.keys` the keys of a batch entry lie: by the closed function, or the table."""
    at, tokens = cache.keys_at, int(cache.tokens[b])
    if cache.page_size is None:
        found = {}
        for p in range(tokens):
            if p < at.prefix:
                slot = p
            else:
                x, c = divmod(p - at.prefix, len(at.table))
                base, many, rank, size = at.table[c].tolist()
                slot = base + (x * many + rank) % size
            if slot < at.positions.shape[1] and int(at.positions[b, slot]) == p:
                found[p] = (b, slot)
        return found
    table = at.table[b].tolist()
    return {p: (table[p // at.size], p % at.size) for p in range(tokens) if table[p // at.size] >= 0}


STEPS = st.lists(
    st.one_of(
        st.integers(1, 12).map(lambda count: ("append", count)),
        st.lists(st.integers(0, 5), min_size=2, max_size=2).map(lambda counts: ("ragged", counts)),
        st.lists(st.integers(0, 3), min_size=2, max_size=2).map(lambda back: ("crop", back)),
        st.lists(st.integers(0, 1), min_size=2, max_size=2).map(lambda indices: ("reorder", indices)),
    ),
    max_size=9,
)


def run(cache: Cache, steps: list[Any]) -> Plain:
    plain = Plain(cache)
    for what, how in steps:
        if max(plain.furthest) > LONG - 20:
            break
        if what == "append":
            plain.append(how)
        elif what == "ragged":
            plain.append(5, how)
        elif what == "crop":
            plain.crop([min(x, cache.lookahead) for x in how])
        else:
            plain.reorder(how)
        plain.check()
    return plain


@pytest.mark.parametrize("options", [{}, {"page_size": 4}], ids=["slots", "pages"])
def test_random_terms(options: dict[str, Any]) -> None:
    @settings(max_examples=settings.default.max_examples // 2)
    @given(term=terms(2), steps=STEPS, lookahead=st.integers(0, 3), fixed=st.booleans())
    def check(term: Term, steps: list[Any], lookahead: int, fixed: bool) -> None:
        run(made(term, lookahead=lookahead, max_tokens=LONG if fixed else None, **options), steps)

    check()


@pytest.mark.parametrize("layout", [None, "NHD", "HND"])
@pytest.mark.parametrize("term", [SINKS, COMB, MIXED, GAPS, blocks(8) & causal, window(2).dilated(3)], ids=repr)
def test_every_kind_of_step(term: Term, layout: Any) -> None:
    steps = [
        ("append", 30), ("ragged", [5, 1]), ("append", 1), ("crop", [2, 0]), ("append", 2), ("reorder", [1, 1]),
        ("append", 3), ("crop", [3, 3]), ("ragged", [0, 2]), ("append", 4), ("reorder", [1, 0]), ("append", 12),
    ]  # fmt: skip
    for fixed in (None, LONG):
        options = {} if layout is None else {"page_size": 4, "layout": layout}
        plain = run(made(term, lookahead=3, max_tokens=fixed, **options), steps)
        pool = getattr(plain.cache.store, "pool", None)
        if pool is not None:
            assert list(pool.shape[1:]) == ([2, 4, HKV, D] if layout == "NHD" else [2, HKV, 4, D])
        plain.cache.clear()
        assert plain.cache.tokens.tolist() == [0, 0] and (plain.cache.positions == -1).all()
        run(plain.cache, steps[:3])


def test_a_prefill_longer_than_the_ring() -> None:
    """Of many new keys in one slot the last one stays, whatever order they are written in."""
    for chunks in ((70,), (1, 69), (6, 7, 57)):
        plain = Plain(made(SINKS))
        for count in chunks:
            plain.append(count)
            plain.check()
        assert sorted(plain.cache.positions[0].tolist()) == [0, 1, 2, 3, *range(64, 70)]
    assert plain.cache.positions.shape == (2, 10)


def test_nothing_is_kept_of_padding_and_of_keys_that_nobody_asks_for() -> None:
    cache = made(lags(0) & keys(0, None, 3))
    k = torch.full((2, HKV, 7, D), torch.nan)
    cache.append(k, k, lengths=torch.tensor([0, 0]))
    assert not cache.keys.isnan().any() and (cache.positions == -1).all()
    k[:, :, 0] = k[:, :, 3] = k[:, :, 6] = 1.0
    cache.append(k, k)
    assert cache.keys.shape[2] == 1 and (cache.keys == 1).all() and (cache.positions == 6).all()


# --- whose


def test_heads_are_unioned_and_gates_too() -> None:
    for of in (heads([(2, window(3)), (2, keys(0, 2) & causal)]), pidsl.gate(a=window(3), b=keys(0, 2) & causal)):
        plain = run(made(of), [("append", 20), ("append", 1)])
        assert sorted(plain.cache.positions[0].tolist()) == [0, 1, 17, 18, 19, 20]


def test_which_kernels_a_cache_serves() -> None:
    split = compiled(heads([(1, window(3)), (1, SINKS)]))
    cache = made(split)
    assert all(cache.serves(x) for x in (split, compiled(window(3)), compiled(SINKS), compiled(pidsl.gate(a=SINKS))))
    assert cache.serves(pidsl.compile(SINKS, "reference", score=pidsl.score(softcap=9.0)))
    assert not any(cache.serves(x) for x in (compiled(window(4)), compiled(heads([(1, window(3)), (1, causal)]))))
    assert not made(window(3)).serves(split)
    assert patterns_of(pidsl.compile(window(3), "torch", affine=True)) == (window(3),)


def test_layers() -> None:
    kernels = compiled(pidsl.layers([window(3), COMB, heads([(1, window(3)), (1, causal)])]))
    caches = made(kernels, max_tokens=40, lookahead=2)
    assert [cache.keys.shape[2] for cache in caches] == [4 + 2, 7 + 2 + 5, 40]
    assert len(caches) == 3 and caches[1:] == (caches[1], caches[2]) and caches.lookahead == 2
    assert all(cache.serves(kernel) for cache, kernel in zip(caches, kernels, strict=True)) and caches.serves(kernels)
    assert not caches.serves(kernels[0]) and not caches.serves(compiled(pidsl.layers([window(3), COMB])))
    k = [torch.randn(2, HKV, 12, D) for _ in range(3)]
    caches.append(k, k)
    caches.crop(11)
    caches.append([x[:, :, :1] for x in k], [x[:, :, :1] for x in k])
    caches.reorder(torch.tensor([1, 1]))
    assert caches.tokens.tolist() == [12, 12]
    assert sorted(caches[0].positions[0].tolist()) == list(range(6, 12))
    assert caches.nbytes == sum(cache.nbytes for cache in caches)
    assert [x(t=11) for x in caches.bound] == [6, 7 + 2 + 2, 12]
    assert [x(t=11) for x in caches.bytes_bound] == [2 * 2 * HKV * D * 4 * x for x in (6, 11, 12)]
    assert [len(x) for x in caches.resume(12)] == [6, 11, 12]
    assert "layer 2\nCache(window(3), causal, batch=2" in caches.explain() and "LayerCaches([Cache(" in repr(caches)
    caches.clear()
    assert caches.tokens.tolist() == [0, 0]
    for wrong in (k[:2], k[0], [k[0], k[1], k[2][:1]]):  # nothing is written to any layer
        with pytest.raises(ArgumentError):
            caches.append(wrong, k)
    with pytest.raises(ArgumentError):
        caches.crop(1)
    assert all(x.tokens.tolist() == [0, 0] for x in caches)
    paged = made(kernels, page_size=4)
    assert [x(t=40) for x in paged.pages_bound] == [2, 7, 11]


# --- how much


@pytest.mark.parametrize("term", [SINKS, COMB, MIXED, GAPS, blocks(8) & causal, stride(16) & causal], ids=repr)
@pytest.mark.parametrize("lookahead", [0, 3])
def test_bounds_are_what_the_masks_say(term: Term, lookahead: int) -> None:
    cache = made(term, lookahead=lookahead, page_size=4)
    for t in (0, 1, 7, 30, 41):
        alive = live((term,), t + 1, t - lookahead)
        assert cache.bound(t=t) == len(alive)
        assert cache.pages_bound(t=t) == len({p // 4 for p in alive})
        assert cache.bytes_bound(t=t) == len(alive) * 2 * 2 * HKV * D * 4
        assert set(cache.resume(t + 1).tolist()) == alive
    for bound in (cache.bound, cache.pages_bound, cache.bytes_bound):
        assert bound.is_exact and bound.proof.check()


def test_bytes_of_values_of_another_width() -> None:
    cache = made(window(3), value_dim=6, dtype=torch.bfloat16)
    cache.append(torch.zeros(2, HKV, 9, D).bfloat16(), torch.ones(2, HKV, 9, 6).bfloat16())
    assert cache.values.shape == (2, HKV, 4, 6) and (cache.values == 1).all()
    assert cache.bytes_bound(t=8) == 2 * HKV * 4 * (D + 6) * 2 and cache.bytes_bound.proof.check()


@pytest.mark.parametrize("fixed", [None, 100_000])
@pytest.mark.parametrize("term", [window(255), (window(63) | keys(0, None, 8)) & causal], ids=["window", "comb"])
def test_memory_after_100000_tokens(term: Term, fixed: int | None) -> None:
    """Within one page of 256 keys of the proved bound."""
    cache = Cache(compiled(term), 1, 1, 1, torch.float32, "cpu", max_tokens=fixed)
    for count in [1] * 300 + [97] * 300 + [1000] * 70 + [600]:
        cache.append(torch.zeros(1, 1, count, 1), torch.zeros(1, 1, count, 1))
    assert cache.tokens.tolist() == [100_000] and cache.bound.is_exact
    page, slots = 256, cache.bound(t=99_999)
    assert slots == (256 if term == window(255) else 56 + 12_500)
    each = 4 + 4 + 4  # the key, the value, its position
    assert slots * each <= cache.nbytes <= (slots + page) * each
    assert slots * 8 == cache.bytes_bound(t=99_999) <= cache.keys.nbytes + cache.values.nbytes <= (slots + page) * 8


@pytest.mark.parametrize("fixed", [None, 400])
@pytest.mark.parametrize("term", [window(30), SINKS, GAPS, COMB, lags(0, 100) & keys(0, None, 50)], ids=repr)
def test_pages_in_use_are_those_with_a_live_key(term: Term, fixed: int | None) -> None:
    cache = made(term, batch=1, page_size=4, max_tokens=fixed)
    reach, seen = cache.store.proof.lives, set()
    for t in range(300):
        cache.append(torch.zeros(1, HKV, 1, D), torch.zeros(1, HKV, 1, D))
        at = np.arange(t + 1)
        alive = at[reach.at(at) + at >= t]
        held = (cache.keys_at.table[0] >= 0).nonzero().flatten().tolist()
        assert held == sorted({p // 4 for p in alive.tolist()})
        assert len(held) == cache.store.in_use[0] == cache.store.used.sum()
        if t % 13 == 0:
            assert len(held) == cache.pages_bound(t=t)
        pages = cache.keys_at.table[0][cache.keys_at.table[0] >= 0].tolist()
        assert len(set(pages)) == len(pages) and max(pages, default=0) < cache.store.pages
        seen.update(pages)
    assert cache.store.proof.check()
    if fixed:
        assert cache.store.pages == max(cache.pages_bound(t=t) for t in range(400)) or term == GAPS
    if term == GAPS:
        gaps = cache.keys_at.table[0] < 0
        assert len(seen) < 20 and gaps[: 300 // 4].any()


def test_what_cannot_be_proved_is_kept_and_said() -> None:
    growing = pidsl.where(lambda i, j: (j <= i) & (i <= 2 * j))
    cache = made(growing)
    cache.append(torch.zeros(2, HKV, 9, D), torch.zeros(2, HKV, 9, D))
    assert cache.positions[0, :9].tolist() == list(range(9))
    assert "all keys" in repr(cache) and "for ever" in cache.explain()
    assert cache.proof.check()
    for _ in range(40):
        cache.append(torch.zeros(2, HKV, 9, D), torch.zeros(2, HKV, 9, D))
    assert cache.positions[0, : 41 * 9].tolist() == list(range(41 * 9))


def test_what_is_said() -> None:
    text = made(COMB, lookahead=1, max_tokens=64).explain()
    assert "max_tokens=64, lookahead=1; 8 slots and 1 of each 8 keys" in text
    assert "p mod 8 in 1, 2, 3, 4, 5, 6, 7: a ring of 8 slots from 0 on; asked for until 7 rows later" in text
    assert "p mod 8 in 0: slots from 8 on, for ever" in text
    text = made(SINKS).explain()
    assert "slot(p) = p for p < 4" in text and "all others: a ring of 6 slots from 4 on" in text
    assert "2 of 3 classes are never asked for" in made(lags(0, 5) & keys(0, None, 3)).explain()
    assert "a pool of 6 pages, HND" in made(window(5), page_size=4, max_tokens=19, layout="HND").explain()


# --- graphs


@pytest.mark.parametrize("options", [{}, {"page_size": 4}], ids=["slots", "pages"])
@pytest.mark.parametrize("term", [SINKS, COMB], ids=repr)
def test_append_is_one_graph_for_all_steps(term: Term, options: dict[str, Any]) -> None:
    cache, other = (made(term, max_tokens=LONG, lookahead=1, **options) for _ in range(2))
    graphs = []

    def counted(graph: Any, example: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    @torch.compile(fullgraph=True, backend=counted)
    def step(k: Tensor, v: Tensor, left: Tensor) -> Tensor:
        cache.append(k, v)
        cache.crop(left)
        cache.append(k[:, :, :1], v[:, :, :1])
        return cache.positions

    for t in range(12):
        k, v = torch.randn(2, HKV, 2, D), torch.randn(2, HKV, 2, D)
        left = torch.tensor([2 * t + 1, 2 * t + 1], dtype=torch.int32)
        positions = step(k, v, left)
        other.append(k, v)
        other.crop(left)
        other.append(k[:, :, :1], v[:, :, :1])
        assert torch.equal(positions, other.positions)
        assert torch.equal(cache.keys, other.keys) and torch.equal(cache.values, other.values)
        assert torch.equal(cache.tokens, other.tokens)
    assert len(graphs) == 1


@pytest.mark.parametrize("options", [{}, {"page_size": 4}], ids=["slots", "pages"])
def test_a_speculative_step_is_one_graph(options: dict[str, Any]) -> None:
    """Append guesses, ask for their rows, take some back: traced once."""
    kernel, graphs = compiled(COMB), []
    cache, other = (made(kernel, max_tokens=LONG, lookahead=2, **options) for _ in range(2))

    def counted(graph: Any, example: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    def step(q: Tensor, k: Tensor, v: Tensor, accepted: Tensor) -> Tensor:
        held = traced if torch.compiler.is_compiling() else other
        left = held.tokens + accepted
        held.append(k, v)
        out = kernel.decode(q, held)
        held.crop(left)
        return out

    traced, graph = cache, torch.compile(step, fullgraph=True, backend=counted)
    for t in range(15):
        given = [torch.randn(2, HKV, 3, D) for _ in range(3)]
        accepted = torch.tensor([1 + t % 3, 1 + t % 2], dtype=torch.int32)
        torch.testing.assert_close(graph(*given, accepted), step(*given, accepted))
    assert torch.equal(cache.tokens, other.tokens) and len(graphs) == 1


def test_append_through_inductor() -> None:
    cache, other = (made(COMB, max_tokens=LONG) for _ in range(2))

    @torch.compile(fullgraph=True)
    def step(k: Tensor, v: Tensor) -> None:
        cache.append(k, v)

    for _ in range(20):
        k, v = torch.randn(2, HKV, 1, D), torch.randn(2, HKV, 1, D)
        step(k, v)
        other.append(k, v)
    assert torch.equal(cache.keys, other.keys) and torch.equal(cache.positions, other.positions)


def test_gradients_do_not_reach_the_cache() -> None:
    cache = made(SINKS)
    k = torch.randn(2, HKV, 3, D, requires_grad=True)
    cache.append(k, k)
    assert not cache.keys.requires_grad


# --- what is refused


def filled(count: int = 9, **options: Any) -> Any:
    cache = made(options.pop("term", SINKS), **options)
    cache.append(torch.randn(2, HKV, count, D), torch.randn(2, HKV, count, D))
    return cache


K = torch.zeros(2, HKV, 3, D)
REFUSED: list[tuple[Callable[[Any], Any], dict[str, Any], str]] = [
    (lambda c: c.append(K[:1], K), {}, r"shape \[1, 2, 3, 4\]"),
    (lambda c: c.append(K.transpose(1, 2), K), {}, r"k\.transpose\(1, 2\)"),
    (lambda c: c.append(K, K[..., :2]), {}, r"v: shape \[2, 2, 3, 2\]"),
    (lambda c: c.append(K, K[:, :, :2]), {}, "v: 2 tokens"),
    (lambda c: c.append(K[0], K), {}, "rank 4"),
    (lambda c: c.append(K.double(), K.half()), {}, "(?s)2 faults.*dtype float64.*dtype float16"),
    (lambda c: c.append(K.to("meta"), K), {}, "device meta"),
    (lambda c: c.append(K.tolist(), K), {}, "list"),
    (lambda c: c.append(K, K, lengths=torch.tensor([1, 4])), {}, r"lengths: 4 for batch entry 1\n.*0 \.\. 3"),
    (lambda c: c.append(K, K, lengths=torch.tensor([-1, 3])), {}, "lengths: -1 for batch entry 0"),
    (lambda c: c.append(K, K, lengths=torch.tensor([1.0, 3.0])), {}, "dtype float32"),
    (lambda c: c.append(K, K, lengths=torch.tensor([1])), {}, r"shape \[1\]"),
    (lambda c: c.append(K, K, lengths=[1, 2]), {}, "list"),
    (lambda c: c.append(K, K), {"max_tokens": 11}, r"tokens: 12 for batch entry 0\n.*0 \.\. 11: max_tokens = 11"),
    (lambda c: c.append(K, K), {"max_tokens": 11, "page_size": 4}, "max_tokens = 11"),
    (lambda c: c.crop(8), {}, r"8 for batch entry 0\n.*9 \.\. 9: at most lookahead = 0"),
    (lambda c: c.crop(5), {"lookahead": 3}, r"5 for batch entry 0\n.*6 \.\. 9: at most lookahead = 3"),
    (lambda c: (c.crop(7), c.crop(5)), {"lookahead": 3}, r"5 for batch entry 0\n.*6 \.\. 7"),
    (lambda c: c.crop(10), {"lookahead": 3}, "10 for batch entry 0"),
    (lambda c: c.crop(torch.tensor([9, 5])), {"lookahead": 3}, "5 for batch entry 1"),
    (lambda c: c.crop(-1), {}, "-1"),
    (lambda c: c.crop(9.0), {}, r"9\.0 \(float\)"),
    (lambda c: c.reorder(torch.tensor([0, 2])), {}, r"2 for batch entry 1\n.*0 \.\. 1"),
    (lambda c: c.reorder(torch.tensor([0])), {}, r"shape \[1\]"),
    (lambda c: c.reorder([0, 1]), {}, "list"),
    (lambda c: c.resume(-1), {}, "-1"),
    (lambda c: c.pages_bound, {}, "without pages"),
    (lambda c: c.load(K, K, K), {}, "without pages"),
]


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_refused(number: int) -> None:
    do, options, text = REFUSED[number]
    cache = filled(**options)
    before = [x.clone() for x in (cache.keys, cache.values, cache.positions)]
    with pytest.raises(ArgumentError, match=text):
        do(cache)
    if number != 17:  # whose first crop is right
        assert all(torch.equal(a, b) for a, b in zip(before, (cache.keys, cache.values, cache.positions), strict=True))
        assert cache.tokens.tolist() == [9, 9]


MADE: list[tuple[dict[str, Any], str]] = [
    ({"batch": 0}, "batch: 0"),
    ({"max_tokens": 0}, "max_tokens: 0"),
    ({"max_tokens": 2**31}, "max_tokens"),
    ({"lookahead": -1}, "lookahead: -1"),
    ({"lookahead": True}, "True"),
    ({"page_size": 1.5}, r"1\.5"),
    ({"dtype": torch.int32}, "torch.int32"),
    ({"layout": "HDN"}, "'HDN'"),
    ({"page_size": 4, "value_dim": 8}, "share the pages"),
]


@pytest.mark.parametrize("options", MADE, ids=[text for _, text in MADE])
def test_no_such_cache(options: tuple[dict[str, Any], str]) -> None:
    with pytest.raises(ArgumentError, match=options[1]):
        made(SINKS, **options[0])


@pytest.mark.parametrize("of", [SINKS, None, pidsl.layers([SINKS])], ids=["term", "None", "schedule"])
def test_no_kernel(of: Any) -> None:
    with pytest.raises(ArgumentError, match="a compiled kernel"):
        Cache(of, 1, 1, 4, torch.float32, "cpu")


def test_values_are_not_looked_at_where_that_is_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = filled()
    monkeypatch.setattr("pidsl.runtime.cache.cache.checked", lambda device: False)
    cache.append(K, K, lengths=torch.tensor([1, 4]))


# --- hints, followed
# follows the hints of pidsl/runtime/cache/checks.py: check_new, check_place, check_each, check_pages
# follows the hints of pidsl/runtime/cache/cache.py: _too_many, check_crop, pages_bound, load
# follows the hints of pidsl/runtime/cache/pages.py: check_load
# follows the hints of pidsl/runtime/cache/layers.py: append
# follows the hints of pidsl/runtime/cache/patterns.py: patterns_of


def prefix(cache: Any) -> Any:
    """Of a prefix found elsewhere, the keys that must be held; the others may hold anything."""
    k = torch.full((2, HKV, 40, D), torch.nan)
    k[:, :, cache.resume(40)] = 1.0
    cache.append(k, k)
    assert (compiled(SINKS).decode(torch.randn(2, HKV, 1, D), cache) == 1.0).all()
    return cache


def stack() -> Any:
    return made(compiled(pidsl.layers([SINKS, window(3)])))


SPANS = pidsl.summaries(blocks(4) & causal, [pidsl.spans(4, pidsl.where(lambda i, j: j < i // 4))])
HINTS: list[tuple[str, Callable[[], Any], Callable[[], Any]]] = [
    (
        "k.transpose(1, 2)",
        lambda: made(SINKS).append(K.transpose(1, 2), K),
        lambda: made(SINKS).append(K.transpose(1, 2).transpose(1, 2), K),
    ),
    (
        "k.to(torch.float32)",
        lambda: made(SINKS).append(K.double(), K),
        lambda: made(SINKS).append(K.double().to(torch.float32), K),
    ),
    ("k.to('cpu')", lambda: made(SINKS).append(K.to("meta"), K), lambda: made(SINKS).append(K.to("cpu"), K)),
    (
        "table.to(torch.int32)",
        lambda: loaded(lambda table: table.long()),
        lambda: loaded(lambda table: table.long().to(torch.int32)),
    ),
    (
        "the pages of the positions of cache.resume(tokens)",
        lambda: loaded(lambda table: table.masked_fill(torch.arange(table.shape[1]) == 9, -1)),
        lambda: loaded(needed),
    ),
    (
        "torch.as_tensor(lengths)",
        lambda: made(SINKS).append(K, K, lengths=[1, 2]),
        lambda: made(SINKS).append(K, K, lengths=torch.as_tensor([1, 2])),
    ),
    (
        "without max_tokens: it grows",
        lambda: made(SINKS, max_tokens=2).append(K, K),
        lambda: made(SINKS).append(K, K),
    ),
    ("pidsl.Cache(..., lookahead=...)", lambda: filled().crop(7), lambda: filled(lookahead=2).crop(7)),
    ("page_size=16", lambda: made(SINKS).pages_bound, lambda: made(SINKS, page_size=16).pages_bound(t=99)),
    ("takes those of resume(tokens) alone", lambda: made(SINKS).load(K, K, K), lambda: prefix(made(SINKS))),
    (
        "caches[layer].append(k, v)",
        lambda: stack().append(K, K),
        lambda: [stack()[layer].append(K, K) for layer in range(2)],
    ),
    (
        "a cache of pidsl.compile(summaries.exact)",
        lambda: made(compiled(SPANS)),
        lambda: made(compiled(SPANS.exact)).append(K, K),
    ),
    ("pidsl.compile(term)", lambda: Cache(SINKS, 1, 1, 4, torch.float32, "cpu"), lambda: made(compiled(SINKS))),  # type: ignore[arg-type]
]


def needed(table: Tensor) -> Tensor:
    """A table of nothing but the pages that a cache must have to resume."""
    pages = {p // 4 for p in made(SINKS).resume(40).tolist()}
    return table.masked_fill(torch.tensor([x not in pages for x in range(table.shape[1])]), -1)


def loaded(changed: Callable[[Tensor], Tensor]) -> Any:
    source, cache = filled(40, page_size=4), made(SINKS, page_size=4)
    cache.load(source.store.pool, changed(source.keys_at.table), torch.tensor([40, 40]))
    return cache


@pytest.mark.parametrize("hint", HINTS, ids=[says for says, _, _ in HINTS])
def test_a_hint_followed_works(hint: tuple[str, Callable[[], Any], Callable[[], Any]]) -> None:
    says, wrong, right = hint
    with pytest.raises(ArgumentError) as caught:
        wrong()
    assert says in f"{caught.value.hint}\n{caught.value.where}"  # of several faults, the hints are there
    right()


# --- pages of another cache


def test_pages_are_loaded() -> None:
    for term in (SINKS, COMB, GAPS):
        first = Plain(made(term, page_size=4, batch=2))
        first.append(40, [40, 33])
        for fixed in (None, LONG):
            second = Plain(made(term, page_size=4, batch=2, max_tokens=fixed))
            table = torch.stack([first.cache.keys_at.table[b] for b in (1, 0)])
            second.cache.load(first.cache.store.pool, table, torch.tensor([33, 40]))
            second.keys, second.values = [list(first.keys[b]) for b in (1, 0)], [list(first.values[b]) for b in (1, 0)]
            second.furthest = [33, 40]
            second.check()
            second.append(9)
            second.check()
        shared = made(term, page_size=4, batch=3)  # a prefix that all have
        shared.load(first.cache.store.pool, table[1:].expand(3, -1).contiguous(), torch.tensor([40, 40, 40]))
        assert int(shared.store.used.sum()) == 3 * int(first.cache.store.in_use[0])


def test_a_table_out_of_range() -> None:
    source, cache = filled(40, page_size=4), made(SINKS, page_size=4)
    pool, table, tokens = source.store.pool, source.keys_at.table, torch.tensor([40, 40])

    def changed(row: int, column: int, value: int) -> Tensor:
        other = table.clone()
        other[row, column] = value
        return other

    wrong: list[tuple[tuple[Any, ...], str]] = [
        ((pool, changed(1, 3, len(pool)), tokens), f"{len(pool)} for page 3 of batch entry 1"),
        ((pool, changed(0, 2, -2), tokens), "-2 for page 2 of batch entry 0"),
        ((pool, changed(0, 9, -1), tokens), r"-1 for page 9 of batch entry 0\n.*positions 36 \.\. 39"),
        ((pool, table[:, :9], tokens), "at least 10, for 40 tokens"),
        ((pool, table.long(), tokens), "dtype int64"),
        ((pool, table[:1], tokens), r"shape \[1, "),
        ((pool[:, :1], table, tokens), r"\[pages, 2, 4, 2, 4\]"),
        ((pool.half(), table, tokens), "dtype float16"),
        ((pool, table, torch.tensor([40, -1])), "-1 for batch entry 1"),
        ((pool, table, 40), "int"),
        ((None, table, tokens), "NoneType"),
        ((pool, None, tokens), "NoneType"),
    ]
    for arguments, text in wrong:
        with pytest.raises(ArgumentError, match=text):
            cache.load(*arguments)
        assert cache.tokens.tolist() == [0, 0] and cache.store.table.numel() == 0
    cache.load(pool, table, tokens)
    assert torch.equal(cache.positions[:, :40] >= 0, source.positions[:, :40] >= 0)


def test_rows_before_what_a_crop_leaves_are_refused() -> None:
    kernel = compiled(SINKS)
    cache = made(kernel, lookahead=3)
    cache.append(torch.randn(2, HKV, 20, D), torch.randn(2, HKV, 20, D))
    q = torch.randn(2, HKV, 4, D)
    kernel.decode(q, cache)
    cache.crop(18)
    kernel.decode(q[:, :, :2], cache)
    with pytest.raises(ArgumentError, match=r"(?s)the first query: 14 for batch entry 0\n.*16 \.\. 18"):
        kernel.decode(q, cache)
    cache.append(torch.randn(2, HKV, 2, D), torch.randn(2, HKV, 2, D))
    kernel.decode(q, cache)
