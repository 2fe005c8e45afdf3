"""Pairs, degrees, live keys and traffic of concrete terms: formulas against dense masks, proofs against tampering."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import sympy
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import pidsl
from pidsl.analysis.bound import Bound, asking, restated
from pidsl.analysis.counting import counts, degrees
from pidsl.analysis.counting.borders import Masks, borders
from pidsl.analysis.counting.inclusion import inclusion
from pidsl.analysis.counting.largest import Largest
from pidsl.analysis.counting.lattice import square
from pidsl.analysis.counting.windows import Windows
from pidsl.analysis.formulas.agreement import shape_of
from pidsl.analysis.formulas.evaluate import values_of
from pidsl.analysis.formulas.guess import guess
from pidsl.analysis.formulas.quasi import formula, interpolate
from pidsl.analysis.formulas.words import Periodic, Table, i, n, symbol
from pidsl.analysis.portfolio import answer
from pidsl.analysis.questions import degree, pairs, sparsity
from pidsl.analysis.ways import Asked
from pidsl.distributed.planning.traffic import communication
from pidsl.errors import SizeError, TooHardError
from pidsl.language.terms import Term
from pidsl.testing import terms

LENGTHS = range(41)
t = symbol("t")
random_terms = settings(suppress_health_check=list(HealthCheck))
few_terms = settings(random_terms, max_examples=settings.default.max_examples // 4)


def tampered(bound: Bound) -> list[Bound]:
    """Statements near the bound, all of them false."""
    x = t if bound.quantity in ("live keys", "live pages") else n
    wrong = [bound.expr + 1, bound.expr + sympy.Piecewise((1, sympy.Eq(x, 7)), (0, True))]
    return [dataclasses.replace(bound, expr=e) for e in wrong]


WAYS = (
    (counts.pairs, "pairs"), (degrees.of_query, "degree"), (degrees.largest, "max degree"),
    (degrees.largest_of_few, "max degree"), (counts.live, "live keys"),
)  # fmt: skip


def by(way: Callable[[Asked], Bound], term: Term, quantity: str) -> Bound | None:
    """What one way says, where it says anything."""
    try:
        return way(Asked(asking(term, quantity), (), answer))
    except TooHardError:
        return None


def live(term: Term, **given: Any) -> Bound:
    return counts.live(
        Asked(asking(term, "live keys" if given.get("page") is None else "live pages", **given), (), answer)
    )


def check(bound: Bound, *, also_tampered: bool = True) -> None:
    verdict = bound.proof.verdict()
    assert verdict.holds, verdict.failure
    if also_tampered:
        for wrong in tampered(bound):
            assert not wrong.proof.check(), wrong


# -- by eye ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        (pidsl.full, n**2),
        (pidsl.empty, 0),
        (pidsl.causal, n**2 / 2 + n / 2),
        (pidsl.window(0), n),
        (pidsl.window(2), sympy.Piecewise((n, n < 2), (3 * n - 3, True))),
        (pidsl.stride(256) & pidsl.causal, (n - 128 * sympy.floor(n / 256)) * (sympy.floor(n / 256) + 1)),
        (pidsl.ring(3), sympy.Piecewise((n**2, n < 7), (7 * n, True))),
        (pidsl.keys(-3, None), sympy.Piecewise((n**2, n < 3), (3 * n, True))),
        (pidsl.keys(100_000, None), sympy.Piecewise((0, n < 100_000), (n**2 - 100_000 * n, True))),
        (pidsl.window(0, 1) & pidsl.keys(3, 4), sympy.Piecewise((0, n < 4), (2, True))),
    ],
)
def test_pairs_by_eye(term: Term, expected: sympy.Expr) -> None:
    found = pairs(term)
    assert sympy.expand(found.expr) == sympy.expand(expected)
    check(found)


def test_pairs_of_a_union_with_large_coprime_periods_are_short() -> None:
    found = pairs(pidsl.stride(256) | pidsl.stride(7))
    assert len(str(found.expr)) < 250
    assert not found.expr.has(Periodic)
    for x in (0, 1, 255, 256, 257, 2000):
        assert found(n=x) == pidsl.stride(256).mask(x).sum() + (pidsl.stride(7) - pidsl.stride(256)).mask(x).sum()
    check(found, also_tampered=False)


def test_formulas_at_huge_lengths() -> None:
    big = 2**40
    assert pairs(pidsl.causal)(n=big) == big * (big + 1) // 2
    assert pairs(pidsl.window(63))(n=big) == 64 * big - 63 * 32
    assert degree(pidsl.stride(256) & pidsl.causal).maximum(n=big) == big // 256


def test_degree_by_eye() -> None:
    found = degree(pidsl.window(4))
    assert found.of_query.expr == sympy.Min(i, 4) + 1
    assert found.maximum.expr == sympy.Min(4, n - 1) + 1
    assert found.average(n=100) == Fraction(490, 100)
    assert str(found).count("proof:") == 3
    assert degree(pidsl.stride(256) & pidsl.causal).of_query.expr == sympy.floor(i / 256) + 1


def test_sparsity() -> None:
    found = sparsity(pidsl.causal)
    assert found(n=3) == Fraction(1, 3)
    check(found)
    with pytest.raises(SizeError):
        found(n=0)


@pytest.mark.parametrize(
    ("term", "size"),
    [
        (pidsl.window(4), sympy.Piecewise((t + 1, t < 3), (4, True))),
        (pidsl.stride(256), t + 1),
        (pidsl.window(4).T, 0),
        (pidsl.keys(0, 4) | pidsl.window(2), sympy.Piecewise((t + 1, t < 5), (6, True))),
        (pidsl.blocks(16) & pidsl.causal, t + 1 - 16 * sympy.floor((t + 1) / sympy.Integer(16))),
    ],
)
def test_live_keys_by_eye(term: Term, size: sympy.Expr) -> None:
    found = live(term)
    assert found.expr == size
    check(found)


@pytest.mark.parametrize("lookahead", [0, 2])
@pytest.mark.parametrize("page", [None, 1, 5])
@pytest.mark.parametrize(
    "term",
    [pidsl.window(4), (pidsl.window(3) | pidsl.keys(0, None, 4)) & pidsl.causal, pidsl.blocks(6) & pidsl.causal,
     pidsl.lags(0, 17) & pidsl.keys(0, None, 3), pidsl.window(2, 2)],
    ids=repr,
)  # fmt: skip
def test_live_keys_of_a_cache(term: Term, lookahead: int, page: int | None) -> None:
    """Rows behind the last token ask too; and pages with a live key."""
    found, mask = live(term, lookahead=lookahead, page=page), term.mask(80)
    for last in range(40):
        keys = mask[max(last - lookahead, 0) :, : last + 1].any(axis=0).nonzero()[0]
        assert found(t=last) == len({int(j) // (page or 1) for j in keys})
    check(found)
    assert term.live(lookahead=lookahead, page=page) == found


def test_communication_by_eye() -> None:
    found = communication(pidsl.window(4) | pidsl.keys(0, 2), 2**40, 3)
    own = -(-(2**40) // 3)
    assert found.rows[0].tolist() == [own, 0, 0]
    assert found.rows[1].tolist() == [2 + 4, own, 0]
    assert found.rows[2].tolist() == [2, 4, 2**40 - 2 * own]
    assert (found.total, found.most) == (12, 6)


# -- against dense masks -----------------------------------------------------------------------------------------------


@random_terms
@given(terms(3, ring=True))
def test_pairs_are_those_of_the_mask(term: Term) -> None:
    found = pairs(term)
    if found.is_known:
        assert [found(n=x) for x in LENGTHS] == [term.mask(x).sum() for x in LENGTHS]


@few_terms
@given(terms(2, ring=True))
def test_degrees_are_those_of_the_mask(term: Term) -> None:
    each, most = by(degrees.of_query, term, "degree"), by(degrees.largest, term, "max degree")
    for length in (1, 2, 9, 26):
        rows = term.mask(length).sum(axis=1)
        if each is not None:
            top, bottom, _ = values_of(each.expr, {i: np.arange(length), n: np.full(length, length)})
            assert (top == bottom * rows).all()
            assert each(i=length - 1, n=length) == rows[-1]
        if most is not None and not any(c.subs(n, length) == sympy.false for c in most.assumptions):
            assert most(n=length) == rows.max()


@few_terms
@given(terms(2, ring=True))
def test_live_keys_are_those_of_masks(term: Term) -> None:
    found = by(counts.live, term, "live keys")
    if found is None:
        return
    last = 14
    seen = np.zeros((last + 1, last + 1), dtype=np.bool_)
    for length in range(1, 180):
        mask = term.mask(length)
        for x in range(min(last + 1, length - 1)):
            seen[x, : x + 1] |= mask[x + 1 :, : x + 1].any(axis=0)
    for x in range(last + 1):
        assert found(t=x) == seen[x].sum()


@random_terms
@given(terms(3, ring=True), st.integers(0, 30), st.integers(1, 5))
def test_communication_is_that_of_the_mask(term: Term, length: int, workers: int) -> None:
    try:
        found = communication(term, length, workers)
    except TooHardError:
        return
    size, mask = -(-length // workers), term.mask(length)
    for w in range(workers):
        for x in range(workers):
            block = mask[w * size : (w + 1) * size, x * size : (x + 1) * size]
            assert found.rows[w, x] == block.any(axis=0).sum()


# -- proofs ------------------------------------------------------------------------------------------------------------


@few_terms
@given(terms(3, ring=True))
def test_what_is_claimed_is_verified_and_tampering_is_found(term: Term) -> None:
    bounds = [by(way, term, quantity) for way, quantity in WAYS]
    for bound in (*bounds, degree(term).average, sparsity(term)):
        if bound is not None and bound.is_known:
            check(bound)


def test_most_terms_have_exact_answers() -> None:
    drawn: list[Term] = []

    @settings(max_examples=150, derandomize=True, database=None, deadline=None, phases=[Phase.generate])
    @given(terms(3, ring=True))
    def draw(term: Term) -> None:
        drawn.append(term)

    draw()
    different = list(dict.fromkeys(drawn))
    assert np.mean([pairs(x).is_exact for x in different]) >= 0.95
    assert np.mean([by(counts.live, x, "live keys") is not None for x in different]) >= 0.95


@pytest.mark.parametrize(
    "term",
    [
        ((pidsl.stride(3) | pidsl.stride(6)) ^ pidsl.ring(5)).shift(1),
        (pidsl.stride(8) | pidsl.lags(1, 10, 6, -2)).blocked(3),
        pidsl.blocks(4).dilated(4).dilated(2),
        pidsl.queries(-10, None, 4) @ (pidsl.stride(2) - pidsl.queries(-10, None, 4)).blocked(2),
        (pidsl.lags(8, -2) | pidsl.ring(12)).T & (pidsl.queries(-12, None, 4) | pidsl.ring(7)).dilated(3),
    ],
)
def test_degrees_that_windows_decide(term: Term) -> None:
    found = degree(term)
    for bound in (found.of_query, found.maximum):
        check(bound)
        far = bound.expr + sympy.Piecewise((1, sympy.Eq(n, 1003)), (0, True))
        assert not dataclasses.replace(bound, expr=far).proof.check()
    for length in (1, 7, 30, 63, 121):
        rows = term.mask(length).sum(axis=1)
        assert found.maximum(n=length) == rows.max()
        assert [found.of_query(i=x, n=length) for x in range(0, length, 5)] == rows[::5].tolist()


@few_terms
@given(terms(3, ring=True))
def test_windows_decide_about_everything_behind_them(term: Term) -> None:
    points = square(term)
    lines = borders(points)
    try:
        largest_of = Windows(lines, 1, 1)
        equal = Windows(lines, 0, 2)
        masks = Masks(term, points, max(largest_of.last, equal.last))
    except TooHardError:
        return
    if equal.last > 70:
        return
    largest = Largest(largest_of, masks)
    last = max(equal.last, largest_of.last)
    for length in (last + 1, last + 2, last + largest.period + 1, 2 * last + 3):
        rows = term.mask(length).sum(axis=1)
        assert largest(length) == rows.max()
        for x in range(length):  # a function that is affine behind the windows: continued from two cells inside
            assert rows[x] == continued_degree(masks, equal, x, length)


def continued_degree(masks: Masks, windows: Windows, x: int, length: int) -> int:
    """Keys of query x among n, from the counts for n <= windows.last: along i in a gap, along the lines in a window."""
    n_, p = np.array([length]), windows.period
    for strip in windows.strips:
        begin, end = windows.bounds(strip, n_)
        if begin[0] <= x < end[0]:
            times = (length - windows.start - 1) // p
            a, b = (
                masks(np.array([x - (times - k) * windows.moved(strip)]), np.array([length - (times - k) * p]))[0]
                for k in (0, 1)
            )
            return int(a + times * (b - a))
    behind = max(int(windows.bounds(s, n_)[1][0]) for s in windows.strips if windows.bounds(s, n_)[1][0] <= x)
    step = windows.after // 2
    first = behind - windows.after + (x - behind) % step
    a, b = (continued_degree(masks, windows, at, length) for at in (first, first + step))
    return a + (x - first) // step * (b - a)


@given(st.lists(st.integers(0, 9), max_size=8), st.lists(st.integers(-3, 9), min_size=1, max_size=4), st.integers(0, 2))
def test_guesses_continue_what_they_saw(early: list[int], classes: list[int], slope: int) -> None:
    p = len(classes)
    values = [*early, *(classes[k % p] + slope * (k // p) for k in range(60))]
    found = guess(values[:-20], sympy.oo, 24, 12)
    assert found is not None
    assert [found.expr.subs(n, x + 1) for x in range(len(values)) if x + 1 >= found.least] == values[found.least - 1 :]


def test_a_proof_reads_the_statement_only() -> None:
    found = pairs(pidsl.window(3))
    other = restated(found, subject=pidsl.window(4))
    assert not other.proof.check()
    assert "at n = 0 it says == -3, the masks 0" in dataclasses.replace(found, expr=3 * n - 3).proof.verdict().failure
    assert not restated(found, quantity="sparsity").proof.check()
    assert dataclasses.replace(found, relation="<=").proof.check()  # what is equal is neither more nor less


# -- parts -------------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(-50, 50), min_size=12, max_size=12), st.integers(0, 20))
def test_interpolation_gives_back_the_values(values: list[int], start: int) -> None:
    found = interpolate(values, start, 4)
    assert [found(start + k) for k in range(12)] == values
    expr, _ = formula(found, n)
    assert [expr.subs(n, start + k) for k in range(12)] == values


@pytest.mark.parametrize(
    "expr",
    [
        n**2 - 3 * n * sympy.floor(n / 4),
        sympy.Piecewise((Table(n, 4, 5, 6), n < 3), (Periodic(n, 1, 2, sympy.Rational(1, 2)) + sympy.Mod(n, 5), True)),
        sympy.Min(n, 7) * n + sympy.Max(0, n - 5),
        sympy.floor((sympy.floor(n / 3) + n) / 2),
    ],
)
def test_values_and_shapes_of_formulas(expr: sympy.Expr) -> None:
    at = np.arange(60).astype(object)
    top, bottom, _ = values_of(expr, {n: at})
    values = [Fraction(x, bottom) for x in top]
    assert values == [Fraction(int(v.p), int(v.q)) for v in (expr.subs(n, x) for x in range(60))]
    shape = shape_of(expr, n)
    last, p = max(shape.starts), shape.period
    for x in range(last + 3 * p, 60):  # the recurrence of a quasi-polynomial of degree 2
        assert values[x] == 3 * values[x - p] - 3 * values[x - 2 * p] + values[x - 3 * p]


@random_terms
@given(terms(2))
def test_inclusion_and_exclusion(term: Term) -> None:
    signed = inclusion(term)
    if signed:
        assert (sum(sign * part.mask(20).astype(int) for sign, part in signed) == term.mask(20)).all()


def test_wrong_use() -> None:
    with pytest.raises(SizeError):
        communication(pidsl.causal, -1, 2)
    with pytest.raises(SizeError):
        communication(pidsl.causal, 4, 0)
    with pytest.raises(SizeError):
        pairs(pidsl.causal)(n=-1)


@pytest.mark.parametrize("border", ["clamp", "cut"])
@pytest.mark.parametrize("tokens", [59, 60, 83])
def test_pairs_of_grids(border: Any, tokens: int) -> None:
    for term in (pidsl.neighborhood((3, 4, 5), (2, 3, 4), (1, 2, 1), (1, 1, 1), (False, True, False), border),
                 pidsl.halo((6, 10), 4, (1, 2))):  # fmt: skip
        assert term.pairs(tokens) == int(term.mask(tokens).sum())
