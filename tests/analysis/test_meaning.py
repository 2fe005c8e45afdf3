"""Counting answers against masks that are written from the documented meaning, by no code of pidsl."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any

import documented
import islpy as isl
import numpy as np
import pytest
import sympy

import pidsl
from pidsl import blocks, causal, full, keys, lags, ring, stride, where, window
from pidsl.analysis import portfolio
from pidsl.analysis import questions as ask
from pidsl.analysis.bound import Bound, asking, restated
from pidsl.analysis.counting import counts, counts_check, lattice
from pidsl.analysis.questions import pairs
from pidsl.analysis.ways import Asked
from pidsl.errors import PidslError
from pidsl.language.terms import Term
from pidsl.relation import counting
from pidsl.relation.isl import read_set
from pidsl.relation.loops import loops

LENGTHS = (*range(48), 60, 75, 97)


def masks(term: Term, lengths: Iterable[int]) -> dict[int, documented.Bools]:
    meant = documented.meaning(repr(term))
    return {x: meant.mask(x) for x in lengths}


def wrong_pairs(term: Term, lengths: Iterable[int] = LENGTHS) -> list[int]:
    bound = pairs(term)
    assert bound.is_exact, bound.reason
    return [x for x, mask in masks(term, lengths).items() if bound(n=x) != mask.sum()]


@pytest.mark.parametrize("period", range(1, 13))
def test_pairs_of_two_layers_of_a_stride(period: int) -> None:
    for phase in range(period):
        assert wrong_pairs(stride(period, phase) ** 2) == []


DETERMINED = [
    stride(6, 2) ** 2,
    full @ stride(3, 1),
    stride(5) @ full.dilated(12),
    (~stride(4)) ** 3,
    where(lambda i, j: i % 3 == j % 5) ** 3,
    (window(3).blocked(2) @ ring(2)) ** 3,
    stride(4, 1) @ stride(6, 5),
    (stride(7, 3) @ window(2, 1)).T,
    (stride(3, 1) ** 2).shift(2) | blocks(5),
    (stride(5, 2) @ keys(1, None, 3)) & causal,
]


@pytest.mark.parametrize("term", DETERMINED, ids=repr)
def test_pairs_where_isl_leaves_divisions_open(term: Term) -> None:
    assert wrong_pairs(term) == []
    bound = pairs(term)
    assert bound.proof.check(), bound.proof.verdict().failure
    for x, mask in masks(term, (1, 21, 60)).items():
        assert ask.sparsity(term)(n=x) == 1 - bound(n=x) / sympy.Integer(x * x)
        assert ask.degree(term).average(n=x) * x == mask.sum()


@pytest.mark.parametrize("term", [stride(6, 2) ** 2, full @ stride(3, 1)], ids=repr)
def test_pairs_of_long_sequences_come_from_the_formula(term: Term) -> None:
    long = (1 << 22) + 5
    assert term.pairs(long) == counting.pairs(term, long)


def test_a_checker_with_the_finders_fault_refuses_what_it_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chambers of parts with divisions that the point leaves open: most of 35 formulas are wrong, none is proved."""

    def parts(points: isl.Set) -> list[isl.BasicSet]:
        return list(points.make_disjoint().get_basic_sets())

    for module in (counts, counts_check, lattice):
        monkeypatch.setattr(module, "disjoint", parts)
    wrong = 0
    for period in range(2, 9):
        for phase in range(period):
            term = stride(period, phase) ** 2
            bound = counts.pairs(Asked(asking(term, "pairs"), (), portfolio.answer))
            if any(bound(n=x) != mask.sum() for x, mask in masks(term, range(48)).items()):
                wrong += 1
                assert not bound.proof.check()
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
    term = (window(3).blocked(2) @ ring(2)) ** 3
    meant = masks(term, range(28, 44))
    assert [term.pairs(x) for x in meant] == [mask.sum() for mask in meant.values()]
    assert (term.degree(36) == meant[36].sum(axis=1)).all()


# -- live keys ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "term",
    [blocks(5) @ window(32, 18), stride(6, 2) ** 2 & window(20), (window(3).blocked(2) @ lags(2, 9)) & causal],
    ids=repr,
)
def test_live_keys_of_numbers(term: Term) -> None:
    bound = counts.live(Asked(asking(term, "live keys"), (), portfolio.answer))
    assert [bound(t=t) for t in range(45)] == documented.live(documented.meaning(repr(term)), 44, 110)
    assert bound.proof.check(), bound.proof.verdict().failure


def test_live_keys_of_large_blocks() -> None:
    for term in (pidsl.blocks(10**8) & pidsl.causal, pidsl.blocks(10**8)):
        bound = term.live()
        assert [bound(t=t) for t in (0, 7, 10**8 - 2, 10**8 - 1, 3 * 10**8 + 4)] == [1, 8, 10**8 - 1, 0, 5]
        assert bound.proof.check()
    beside = (pidsl.blocks(10**8) & pidsl.causal | pidsl.window(3)).live()
    assert not beside.is_known or [beside(t=t) for t in (0, 7, 10**8 + 4)] == [1, 8, 5]


k, p, s, b = pidsl.symbols("k p s b")
PAST = pidsl.causal
SYMBOLIC: list[Any] = [
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
    pytest.param((pidsl.window(k) | pidsl.stride(p)) & pidsl.window(10), "==", marks=pytest.mark.slow),
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
    sinks, t, size = sympy.Symbol("s", integer=True), counts.t, (pidsl.keys(0, s) & PAST).live()
    assert size.expr == sympy.Min(sinks, t + 1)
    wrong: list[Bound] = [
        restated(size, expr=t + 1),
        restated(size, relation=">=", expr=t + 1),
        restated(size, relation="<=", expr=size.expr - 1),
    ]
    assert not any(bound.proof.check() for bound in wrong)
