"""Farthest and contiguous of any number of layers: formulas in L against products of masks, proofs, tampering."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st
from own_ways import by, contiguous, farthest

from pidsl import blocks, causal, empty, keys, lags, ring, stride, where, window
from pidsl.analysis.bound import ANY, Bound
from pidsl.analysis.dense import contiguous_in, farthest_in, times
from pidsl.analysis.formulas.piecewise import Formula
from pidsl.analysis.formulas.words import L, n
from pidsl.analysis.layers import by_lags, by_short
from pidsl.analysis.layers.gaps import turned
from pidsl.analysis.layers.turns import by_number, numbers_of
from pidsl.errors import TooHardError
from pidsl.language.terms import Term
from pidsl.relation.oracle import dense_mask
from pidsl.testing import terms

EXAMPLES = settings.default.max_examples
QUESTIONS = ((farthest, farthest_in), (contiguous, contiguous_in))
SMALL = (1, 2, 3, 4, 5, 7, 11, 16, 23, 30, 40, 43, 57)
COMB = window(4) | stride(16) & causal


def cycles(quantity: str, term: Term) -> Bound:
    return by(by_short.any_number, term, quantity, layers=ANY)


def holds(bound: Bound, measure: Any, most: int, lengths: Sequence[int]) -> None:
    """The bound agrees with products of masks, for all lengths and numbers of layers that it is about."""
    for length in lengths:
        layer = dense_mask(bound.term, length)
        seen = np.eye(length, dtype=np.bool_)
        for layers in range(most + 1):
            if all(c.subs({n: length, L: layers}) != sympy.false for c in bound.assumptions):
                found = measure(seen)
                wanted = -math.inf if found is None else found
                assert bound(n=length, L=layers) == wanted, (str(bound), layers, length)
            seen = times(layer, seen)


def tampered(bound: Bound) -> list[Bound]:
    """Statements that are false."""
    later = sympy.Piecewise((n, sympy.Eq(L, 17)), (bound.expr, True))
    more = n if bound.expr.has(-sympy.oo) else bound.expr + 1
    return [replace(bound, expr=more), replace(bound, expr=later)]


def verified(bound: Bound) -> None:
    verdict = bound.proof.verdict()
    assert verdict.holds or "operations" in verdict.failure, verdict.failure
    for wrong in tampered(bound):
        assert not wrong.proof.check(), wrong


@settings(max_examples=EXAMPLES // 5)
@given(terms(3, ring=True))
def test_formulas_in_l_are_those_of_masks(term: Term) -> None:
    for question, measure in QUESTIONS:
        bound = question(term)
        if bound.is_known:
            holds(bound, measure, 12, SMALL)


@settings(max_examples=EXAMPLES // 10)
@given(terms(2, ring=True))
def test_what_is_claimed_is_verified_and_tampering_is_found(term: Term) -> None:
    for question, _ in QUESTIONS:
        bound = question(term)
        if bound.is_known:
            verified(bound)


def test_any_number_of_layers_by_eye() -> None:
    assert farthest(window(3, 3)).expr == contiguous(window(3, 3)).expr == sympy.Min(3 * L, n - 1)
    assert contiguous(ring(2)).expr == sympy.Piecewise((n - 1, n <= 4 * L + 1), (2 * L, True))
    assert contiguous(keys(0, 4) & causal | window(8)).expr == sympy.Piecewise(
        (0, sympy.Eq(L, 0)), (n - 1, n <= 8 * L + 5), (8 * L, True)
    )
    assert farthest(blocks(4))(n=100, L=10**9) == 3
    assert farthest(COMB)(n=100, L=5) == 99
    for term in (window(3, 3), ring(2), keys(0, 4) & causal | window(8), blocks(4), COMB):
        for bound in (farthest(term), contiguous(term)):
            verified(bound)


def test_floors_and_remainders_in_l() -> None:
    assert farthest(window(64, 64).dilated(8)).expr == sympy.Min(
        512 * L, 8 * sympy.floor(n / 8 + sympy.Rational(7, 8)) - 8
    )
    for term, method in (
        (window(64, 64).dilated(8), "form in L"), (window(3).blocked(64) & causal, "form in L"),
        (stride(5, 2) & causal, "form in L"), (stride(11, 9), "form in L"), (stride(12, 6), "form in L"),
        (stride(256), "form in L"), (window(4096) | stride(512) & causal, "form in L"),
    ):  # fmt: skip
        bound = farthest(term)
        assert bound.method == method, bound
        holds(bound, farthest_in, 5, (300, 301))
        verified(bound)


def test_lags_behind_and_ahead_without_a_form() -> None:
    for term, expr in (
        (lags(-2, -5, -6, 6), 6 * L),
        (lags(-2, -5), sympy.Piecewise((-2 * L, 2 * L < n), (-sympy.oo, True))),
    ):
        bound = farthest(term)
        assert bound.expr.subs({n: 9, L: 3}) == expr.subs({n: 9, L: 3})
        holds(bound, farthest_in, 9, (30, 60))
        verified(bound)


@settings(max_examples=EXAMPLES // 3)
@given(st.sets(st.integers(-9, 12), min_size=1, max_size=6), st.sampled_from(["farthest", "contiguous"]))
def test_sums_of_lags_for_every_n_and_l(values: set[int], quantity: str) -> None:
    try:
        bound = by(by_lags.reach, lags(*values), quantity, layers=ANY)
    except TooHardError:
        return
    holds(bound, farthest_in if quantity == "farthest" else contiguous_in, 14, SMALL)
    verified(bound)


# -- layers that repeat ------------------------------------------------------------------------------------------------


@settings(max_examples=EXAMPLES // 5)
@given(terms(2, ring=True), st.sampled_from(["farthest", "contiguous"]))
def test_cycles_are_those_of_masks(term: Term, quantity: str) -> None:
    try:
        bound = cycles(quantity, term)
    except TooHardError:
        return
    holds(bound, farthest_in if quantity == "farthest" else contiguous_in, 12, SMALL)
    verified(bound)


def test_cycles_by_eye() -> None:
    bound = cycles("farthest", blocks(4))
    assert bound.expr == sympy.Piecewise((0, sympy.Eq(L, 0)), (sympy.Piecewise((3, n >= 4), (n - 1, True)), True))
    assert cycles("farthest", empty)(n=3, L=0) == 0
    assert cycles("farthest", empty)(n=3, L=9) == -math.inf
    with pytest.raises(TooHardError, match="go on to connect"):
        cycles("farthest", window(2))
    with pytest.raises(TooHardError, match="multiples of positions"):
        cycles("farthest", where(lambda i, j: i >= 2 * j))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=8), st.data())
def test_formulas_by_number_of_layers(values: list[int], data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(values) - 1))
    period = len(values) - first
    expr, _ = by_number([Formula(sympy.Integer(v)) for v in values], first, period)
    start, turns, chosen = numbers_of(expr)
    for layers in range(30):
        assert chosen(layers) == values[turned(layers, first, period)]
        assert chosen(turned(layers, start, turns)) == chosen(layers)


def test_other_formulas_have_no_number_for_each_l() -> None:
    for expr in (2 * L, sympy.Piecewise((1, L > n), (2, True)), sympy.Piecewise((L, L > 2), (2, True))):
        with pytest.raises(TooHardError):
            numbers_of(expr)
