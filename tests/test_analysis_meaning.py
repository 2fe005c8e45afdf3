"""Counting answers against masks that are written from the documented meaning, by no code of pidsl."""

from __future__ import annotations

from itertools import product
from typing import Any

import islpy as isl
import meaning
import numpy as np
import pytest
import sympy
from meaning import Meant, blocks, causal, classes, full, keys, lags, ring, stride, window

import pidsl
from pidsl.analysis import ask, counts, counts_check, lattice, memory
from pidsl.analysis.bound import Bound
from pidsl.analysis.counts import pairs
from pidsl.analysis.degrees import average
from pidsl.analysis.formulas import n
from pidsl.errors import PidslError
from pidsl.language.terms import Term
from pidsl.relation import counting
from pidsl.relation.isl import read_set
from pidsl.relation.loops import loops

LENGTHS = (*range(60), 97, 133, 200)


def wrong_pairs(p: Meant, lengths: Any = LENGTHS) -> list[int]:
    bound = pairs(p.term)
    assert bound.is_exact, bound.reason
    return [x for x in lengths if bound(n=x) != p.mask(x).sum()]


@pytest.mark.parametrize("period", range(1, 13))
def test_pairs_of_two_layers_of_a_stride(period: int) -> None:
    for phase in range(period):
        assert wrong_pairs(stride(period, phase) ** 2) == []


DETERMINED = [
    stride(6, 2) ** 2,
    full @ stride(3, 1),
    stride(5) @ full.dilated(12),
    (~stride(4)) ** 3,
    classes(3, 5) ** 3,
    (window(3).blocked(2) @ ring(2)) ** 3,
    stride(4, 1) @ stride(6, 5),
    (stride(7, 3) @ window(2, 1)).T,
    (stride(3, 1) ** 2).shift(2) | blocks(5),
    (stride(5, 2) @ keys(1, None, 3)) & causal,
]


@pytest.mark.parametrize("p", DETERMINED, ids=lambda p: repr(p.term))
def test_pairs_where_isl_leaves_divisions_open(p: Meant) -> None:
    assert wrong_pairs(p) == []
    bound = pairs(p.term)
    assert bound.proof.check(), bound.proof.verdict().failure
    for x in (1, 21, 60):
        assert ask.sparsity(p.term)(n=x) == 1 - bound(n=x) / sympy.Integer(x * x)
        assert average(p.term)(n=x) * x == p.mask(x).sum()


@pytest.mark.parametrize("p", [stride(6, 2) ** 2, full @ stride(3, 1)], ids=lambda p: repr(p.term))
def test_pairs_of_long_sequences_come_from_the_formula(p: Meant) -> None:
    long = (1 << 22) + 5
    assert p.term.pairs(long) == counting.pairs(p.term, long)


def test_a_checker_with_the_finders_fault_refuses_what_it_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chambers of parts with divisions that the point leaves open: most of 35 formulas are wrong, none is proved."""

    def parts(points: isl.Set) -> list[isl.BasicSet]:
        return list(points.make_disjoint().get_basic_sets())

    for module in (counts, counts_check, lattice):
        monkeypatch.setattr(module, "disjoint", parts)
    counts._pairs.cache_clear()
    wrong = 0
    for period in range(2, 9):
        for phase in range(period):
            if wrong_pairs(p := stride(period, phase) ** 2, range(48)):
                wrong += 1
                assert not pairs(p.term).proof.check()
    counts._pairs.cache_clear()
    assert wrong >= 25


def test_loops_visit_what_isls_program_forgets() -> None:
    """isl's generator of programs takes j = 0 to be all of this set."""
    points = read_set("[n, i] -> { [j] : 0 <= j <= 1 and 2*floor((1 + n + j)/2) >= -6 + 2n - i + 2j"
                      " and 2*floor((1 + n)/2) <= -5 + 2n - i }")  # fmt: skip
    found = tuple(loops(points, read_set("[n, i] -> { : 0 <= i < n }")))
    for length, query in product(range(30, 40), range(24, 40)):
        wanted = sum(2 * ((1 + length + j) // 2) >= 2 * length - 6 - query + 2 * j
                     and 2 * ((1 + length) // 2) <= 2 * length - 5 - query for j in (0, 1))  # fmt: skip
        if query < length:
            assert counting.count_loops(found, {"n": np.array([length]), "i": np.array([query])})[0] == wanted


def test_numbers_of_pairs_that_isls_program_forgets() -> None:
    p = (window(3).blocked(2) @ ring(2)) ** 3
    assert [p.term.pairs(x) for x in range(28, 44)] == [p.mask(x).sum() for x in range(28, 44)]
    assert (p.term.degree(36) == p.mask(36).sum(axis=1)).all()


def test_random_patterns() -> None:
    """Pairs, degrees and the largest of them: each formula at lengths past every one that it is made of."""
    rng = np.random.default_rng(11)
    for _ in range(25):
        p = meaning.random(rng, 3)
        masks = {x: p.mask(x) for x in (*range(12), 17, 24, 31, 40, 53, 64, 91)}
        assert all((p.term.mask(x) == masks[x]).all() for x in (5, 17))
        count, degree = ask.pairs(p.term), ask.degree(p.term)
        for x, mask in masks.items():
            if count.is_known:
                assert count(n=x) == mask.sum(), (p.term, x)
            if degree.of_query.is_known:
                assert [degree.of_query(n=x, i=i) for i in range(0, x, 3)] == mask.sum(axis=1)[::3].tolist(), p.term
            if degree.maximum.is_known and x and all(c.subs(n, x) != sympy.false for c in degree.maximum.assumptions):
                assert degree.maximum(n=x) == mask.sum(axis=1).max(), (p.term, x)


# -- live keys ---------------------------------------------------------------------------------------------------------


def live_keys(p: Meant, last: int, horizon: int) -> list[int]:
    """Keys 0 .. t that a query i > t attends in a sequence of some length up to the horizon."""
    seen = np.zeros((last, last), dtype=np.bool_)
    for length in range(1, horizon):
        mask = p.mask(length)
        for t in range(min(last, length - 1)):
            seen[t, : t + 1] |= mask[t + 1 :, : t + 1].any(axis=0)
    return seen.sum(axis=1).tolist()


@pytest.mark.parametrize(
    "p", [blocks(5) @ window(32, 18), stride(6, 2) ** 2 & window(20), (window(3).blocked(2) @ lags(2, 9)) & causal],
    ids=lambda p: repr(p.term),
)  # fmt: skip
def test_live_keys_of_numbers(p: Meant) -> None:
    bound = memory.live(p.term).size
    assert [bound(t=t) for t in range(45)] == live_keys(p, 45, 110)
    assert bound.proof.check(), bound.proof.verdict().failure


def test_live_keys_of_random_patterns() -> None:
    rng = np.random.default_rng(5)
    for _ in range(20):
        p = meaning.random(rng, 2, most=7)
        bound = ask.live(p.term)
        if bound.is_known:
            assert [bound(t=t) for t in range(16)] == live_keys(p, 16, 90), p.term


def test_live_keys_of_large_blocks() -> None:
    for term in (pidsl.blocks(10**8) & pidsl.causal, pidsl.blocks(10**8)):
        bound = term.live()
        assert [bound(t=t) for t in (0, 7, 10**8 - 2, 10**8 - 1, 3 * 10**8 + 4)] == [1, 8, 10**8 - 1, 0, 5]
        assert bound.proof.check()
    assert not ((pidsl.blocks(10**8) & pidsl.causal) | pidsl.window(3)).live().is_known


k, p, s, b = pidsl.symbols("k p s b")
PAST = pidsl.causal
SYMBOLIC: list[tuple[Any, str]] = [
    (pidsl.keys(0, s) & PAST, "=="),
    (pidsl.stride(p + 1) & PAST & pidsl.window(4), "=="),
    (pidsl.window(k) & pidsl.window(k).dilated(4), "=="),
    (pidsl.keys(0, s), "=="),
    (pidsl.keys(0, s) & pidsl.window(k), "=="),
    ((pidsl.window(k) | pidsl.keys(0, s)) & PAST, "=="),
    (pidsl.keys(0, s) & PAST | pidsl.keys(0, k) & PAST, "=="),
    (pidsl.keys(0, s) & PAST & pidsl.stride(p), "=="),
    (pidsl.keys(0, s) & PAST | pidsl.stride(p) & pidsl.window(7), "=="),
    (pidsl.window(k).T, "=="),
    (pidsl.stride(p) & pidsl.window(k), "=="),
    (pidsl.stride(p, 1) & pidsl.window(k), "=="),
    (pidsl.window(k).dilated(p) & pidsl.window(4), "=="),
    (pidsl.window(k).shift(2) & pidsl.window(p), "=="),
    (pidsl.window(k) & pidsl.window(p) & pidsl.stride(3), "=="),
    ((pidsl.window(k) | pidsl.stride(p)) & pidsl.window(10), "=="),
    (pidsl.window(k) & pidsl.stride(p) & pidsl.stride(p + 1), "<="),
    ((pidsl.window(k) | pidsl.lags(p)) & pidsl.stride(2) & PAST, "<="),
    (pidsl.stride(p).shift(b) & PAST & pidsl.window(k), "<="),
]


@pytest.mark.parametrize(("term", "relation"), SYMBOLIC, ids=lambda x: repr(x) if not isinstance(x, str) else x)
def test_live_keys_with_symbols(term: Term, relation: str) -> None:
    """The largest lag of an intersection is not that of its sides, and progressions need not end at their last."""
    bound = term.live()
    assert bound.relation == relation
    assert bound.proof.check(), bound.proof.verdict().failure
    names = sorted(term.symbols)
    compared = 0
    for values in product((0, 1, 2, 3, 6, 9), repeat=len(names)):
        numbers = dict(zip(names, values, strict=True))
        try:
            mask = term.bind(**numbers).mask(80)
            found = {t: bound(t=t, **numbers) for t in (0, 1, 2, 3, 5, 8, 13, 25)}
        except PidslError:
            continue
        compared += 1
        for t, value in found.items():
            right = mask[t + 1 :, : t + 1].any(axis=0).sum()
            assert value == right if relation == "==" else value >= right, (numbers, t)
    assert compared >= 4


def test_the_sinks_of_a_cache() -> None:
    sinks, t, size = sympy.Symbol("s", integer=True), memory.t, (pidsl.keys(0, s) & PAST).live()
    assert size.expr == sympy.Min(sinks, t + 1)
    wrong: list[Bound] = [
        Bound(size.subject, "live keys", "==", t + 1, size.assumptions, size.method),
        Bound(size.subject, "live keys", ">=", t + 1, size.assumptions, size.method),
        Bound(size.subject, "live keys", "<=", size.expr - 1, size.assumptions, size.method),
    ]
    assert not any(bound.proof.check() for bound in wrong)
