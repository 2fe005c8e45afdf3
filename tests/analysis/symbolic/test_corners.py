"""Symbolic pairs and degrees of positions, lags and blocks: formulas against dense masks, and planted faults."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import sympy
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pidsl import blocks, causal, empty, full, keys, lags, queries, stride, symbols, window
from pidsl.analysis.bound import Bound
from pidsl.analysis.formulas import cases
from pidsl.analysis.formulas.cases import by_cases
from pidsl.analysis.formulas.words import holds, symbol, value_of
from pidsl.analysis.formulas.words import n as N
from pidsl.analysis.symbolic.corner import InBlocks
from pidsl.analysis.symbolic.corners import METHOD, Corners, area, degree_by_corners, pairs_by_corners
from pidsl.analysis.symbolic.definition import NotByLag, attends
from pidsl.analysis.symbolic.differences import check_corners
from pidsl.analysis.symbolic.progressions import Reader
from pidsl.errors import PidslError, TooHardError
from pidsl.language.terms import Term

k, s, p, w = symbols("k s p w")
K, S = symbol("k"), symbol("s")
FIRST = keys(0, s) & causal
QUICK = [  # their proofs take z3 less than a second
    window(k) | FIRST, FIRST | window(k), window(k, k) | keys(0, p) | queries(0, p), causal - keys(0, s),
    window(3) | FIRST, ~keys(0, s) & window(k), (window(k) | FIRST).T, causal ^ keys(0, s), keys(s, p) & causal,
    keys(-3, None) & causal | window(k),
]  # fmt: skip
BLOCKS = [blocks(k) & causal, window(w).blocked(k) & causal, FIRST | blocks(4) & causal, window(1, 1).blocked(k)]
SIZES = (0, 1, 2, 5, 13)


def counted(bound: Bound, sizes: tuple[int, ...] = SIZES) -> int:
    """Compares a formula with masks at many values, degenerate ones too; how many of them its assumptions admit."""
    assert bound.relation == "==", bound
    names, found = sorted(bound.term.symbols), 0
    for values in itertools.product(sizes, repeat=len(names)):
        numbers = dict(zip(names, values, strict=True))
        try:
            mask = bound.term.bind(**numbers).mask
        except PidslError:  # blocks of 0 tokens
            continue
        for tokens in (0, 1, 2, 6, 7, 17, 26):
            at = {symbol(name): value for name, value in numbers.items()} | {N: tokens}
            assert all(holds(c, at) for c in bound.assumptions)
            assert bound(n=tokens, **numbers) == mask(tokens).sum(), (numbers, tokens)
            found += 1
    return found


@pytest.mark.parametrize("term", [*QUICK, *BLOCKS], ids=repr)
def test_pairs_for_all_values(term: Term) -> None:
    assert counted(term.pairs()) > 20


@pytest.mark.parametrize("term", QUICK, ids=repr)
def test_proofs_and_planted_faults(term: Term) -> None:
    bound = term.pairs()
    verdict = bound.proof.verdict()
    assert verdict.holds, verdict.failure
    assert "(check-sat)" in bound.proof.to_smtlib()
    for wrong in faults(bound):
        assert not check_corners(wrong).holds, wrong  # by the proof alone, before any mask is looked at


def faults(bound: Bound) -> list[Bound]:
    """Statements near the bound that are false somewhere: a coefficient, a condition, a dropped case."""
    wrong = [bound.expr + 1, bound.expr + N, bound.expr + sympy.Piecewise((1, sympy.Eq(N, 40)), (0, True))]
    if isinstance(bound.expr, sympy.Piecewise):
        (value, condition), *rest = bound.expr.args
        wrong.append(sympy.Piecewise((value + N, condition), *rest))
        moved = condition.subs(N, N + 3) if condition.has(N) else sympy.Not(condition)
        wrong.append(sympy.Piecewise((value, moved), *rest))
        wrong += [value, rest[-1][0]]  # without the other cases
    return [replace(bound, expr=x) for x in wrong]


def test_a_proof_by_blocks_and_its_faults() -> None:
    bound = (blocks(k) & causal).pairs()
    assert check_corners(bound).holds
    assert not check_corners(replace(bound, expr=bound.expr + 1)).holds


def test_simple_forms() -> None:
    bound = (window(k) | FIRST).pairs(assume="n > k + s")
    assert sympy.expand(bound.expr - (K + S + 1) * (2 * N - K - S) / 2) == 0
    assert sympy.expand((causal - keys(0, s)).pairs(assume="n > s").expr - (N - S) * (N - S + 1) / 2) == 0
    assert (window(k) | FIRST).sparsity()(n=10, k=1, s=2) == 1 - sympy.Rational(34, 100)


def test_degrees() -> None:
    for term in (window(k) | FIRST, window(k, k) | keys(0, p) | queries(0, p)):
        bound = term.degree().of_query
        assert bound.method == METHOD and check_corners(bound).holds
        for tokens, size, other in itertools.product((1, 6, 13), (1, 4), (0, 3)):
            numbers = {name: size if name == "k" else other for name in term.symbols}
            wanted = term.bind(**numbers).degree(tokens)
            assert [bound(i=row, n=tokens, **numbers) for row in range(tokens)] == wanted.tolist()
        assert not check_corners(replace(bound, expr=bound.expr + 1)).holds


def words() -> st.SearchStrategy[Term]:
    size = st.sampled_from([k, s, k + 1, 0, 1, 3])
    positive = st.sampled_from([k + 1, 2, 4])
    return st.one_of(
        st.sampled_from([causal, full, empty, keys(-2, None), lags(2), stride(3), queries(s, None)]),
        st.builds(window, size), st.builds(window, size, size),
        st.builds(lambda a, b: keys(a, b), size, size), st.builds(lambda a: queries(0, a), size),
        st.builds(lambda a: blocks(a) & causal, positive), st.builds(lambda a, b: window(a).blocked(b), size, positive),
        st.builds(lambda a: keys(0, a).blocked(3), size), st.builds(lambda a, b: window(a).dilated(b), size, positive),
    )  # fmt: skip


def joined(parts: st.SearchStrategy[Term]) -> st.SearchStrategy[Term]:
    return st.one_of(
        st.builds(lambda a, b: a | b, parts, parts), st.builds(lambda a, b: a & b, parts, parts),
        st.builds(lambda a, b: a - b, parts, parts), st.builds(lambda a, b: a ^ b, parts, parts),
        st.builds(lambda a: ~a, parts), st.builds(lambda a: a.T, parts),
    )  # fmt: skip


TERMS = st.recursive(words(), joined, max_leaves=4)


@settings(deadline=None, max_examples=settings.default.max_examples // 2)
@given(TERMS, st.integers(0, 6), st.integers(0, 6), st.integers(0, 14))
def test_sums_of_corners_are_the_masks(term: Term, size: int, first: int, tokens: int) -> None:
    numbers = {name: value for name, value in (("k", size), ("s", first)) if name in term.symbols}
    at = {symbol(name): sympy.Integer(value) for name, value in numbers.items()} | {N: sympy.Integer(tokens)}
    try:
        found = Corners(Reader.of(term))
        parts = found.parts(term)
        total = sympy.Add(*map(area, parts))
    except (NotByLag, TooHardError):
        assume(False)
    mask = (term.bind(**numbers) if numbers else term).mask(tokens)
    assert value_of(total, at) == mask.sum()
    i, j = symbol("i"), symbol("j")
    definition = attends(term, i, j)
    for row, key in itertools.product(range(0, tokens, 3), range(tokens)):
        here = {**at, i: sympy.Integer(row), j: sympy.Integer(key)}
        inside = holds(definition, here)
        assert inside == mask[row, key]
        within = [w for w, f, d, shape in parts if holds((i < f) & (j < d) & shape.inside(i, j), here)]
        assert sum(within) == inside


@settings(deadline=None, max_examples=settings.default.max_examples // 20)
@given(TERMS, st.integers(0, 6), st.integers(0, 6), st.integers(0, 14))
def test_cases_are_what_they_are_cases_of(term: Term, size: int, first: int, tokens: int) -> None:
    try:
        bound = pairs_by_corners(term)
        degree = degree_by_corners(term)
    except (NotByLag, TooHardError):
        assume(False)
    numbers = {name: value for name, value in (("k", size), ("s", first)) if name in term.symbols}
    mask = (term.bind(**numbers) if numbers else term).mask(tokens)
    assert bound(n=tokens, **numbers) == mask.sum()
    assert all(degree(i=row, n=tokens, **numbers) == mask[row].sum() for row in range(0, tokens, 4))


def test_a_condition_of_one_case_may_hold_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "_agree", lambda leaf, value, asked: leaf.value == value)  # as where z3 does not know
    assert by_cases(sympy.Piecewise((N, N < K), (K, True)), [N <= K]) == N


def test_cases_join() -> None:
    a = sympy.Max(0, N - K)
    assert by_cases(a + sympy.Min(N, K), []) == N
    split = by_cases(a * (a + 1) / 2, [K >= 0])
    assert isinstance(split, sympy.Piecewise) and len(split.args) == 2
    assert by_cases(sympy.floor((N + 3 * K) / K), [K >= 1]) == sympy.floor(N / K) + 3


def test_what_blocks_and_lags_cannot_say() -> None:
    bound = (window(w) | blocks(k) & causal).pairs()
    assert not bound.is_known and "blocks of k" in bound.reason
    assert InBlocks(K, S).area(N, N).has(sympy.floor)
