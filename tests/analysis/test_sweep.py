"""No formula is wrong: a small sweep with masks of its own, what is compared before an answer, assumptions.

The sweep is benchmarks/bounds.py, its masks benchmarks/documented.py, in which nothing comes from pidsl.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import bounds
import documented
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

import pidsl
from pidsl import blocks, causal, keys, lags, neighborhood, ring, stride, symbols, window
from pidsl.analysis import held_out as against_masks
from pidsl.analysis import portfolio
from pidsl.analysis import questions as ask
from pidsl.analysis.bound import Bound, exact
from pidsl.analysis.counting import counts
from pidsl.analysis.formulas import smt
from pidsl.analysis.formulas.words import CeilLog, Periodic, Table, holds, symbol, value_of
from pidsl.analysis.schedules import BaseSchedule, SkipSchedule
from pidsl.analysis.ways import Way
from pidsl.cli.main import main
from pidsl.testing import terms

k, p, s = symbols("k p s")
N, L, I, T, K, P, X = (symbol(name) for name in "nLitkpx")


# -- the sweep ---------------------------------------------------------------------------------------------------------


@given(terms(4, ring=True, grid=True), st.integers(0, 16), st.integers(0, 16))
def test_the_documented_meaning_is_the_mask(term: Any, n: int, m: int) -> None:
    try:
        mask = term.mask(n, m)
    except pidsl.SizeError:  # a ring has as many keys as queries
        m, mask = n, term.mask(n)
    assert (documented.meaning(repr(term)).mask(n, m) == mask).all()


@pytest.mark.parametrize(("kind", "count"), [("random", 14), ("layers", 4), ("grids", 2), ("symbols", 3)])
def test_no_formula_is_wrong(kind: str, count: int) -> None:
    sweep = bounds.Sweep(kind, count)
    sweep.run(5)
    assert sweep.seen == count and sweep.compared > 1000
    assert sweep.wrong == []
    assert [reason for reason in sweep.reasons if "thrown away" in reason] == []  # nor was one found


# -- before a formula is returned --------------------------------------------------------------------------------------

RIGHT: list[Callable[[], Bound]] = [
    (window(3) | lags(9)).pairs, stride(5).sparsity, lambda: blocks(4).degree().of_query,
    lambda: ring(2).degree().maximum, lambda: (window(3) | lags(9)).degree().average,
    (window(5) | keys(0, 2) & causal).live, window(2).farthest, lambda: (window(2, 1) | lags(7)).contiguous(2),
    (window(5) | lags(13)).depth, lambda: window(3).depth(20), neighborhood((4, 5), 3).pairs,
    (stride(4) @ blocks(3)).pairs, (window(k) | lags(p)).pairs,
    lambda: (window(k) | stride(p) & causal).degree().of_query, (window(k) | lags(p)).farthest,
    (window(k) | lags(p)).contiguous, (window(k) | lags(p)).depth, window(k).live, blocks(p).live,
    lambda: ask.farthest([window(2), lags(0, 5)]), lambda: ask.depth([window(2), causal]),
    lambda: ask.farthest(BaseSchedule(2)), lambda: ask.farthest(SkipSchedule(k, p)),
]  # fmt: skip


@pytest.mark.parametrize("question", RIGHT)
def test_masks_contradict_what_is_wrong_and_nothing_else(question: Callable[[], Bound]) -> None:
    bound = question()
    assert bound.is_exact
    for purpose in (against_masks.FIRST, against_masks.AGAIN):
        assert against_masks.refutation(bound, purpose) == ""
        assert against_masks.refutation(replace(bound, relation="<="), purpose) == ""
        for other in (bound.expr + 1, bound.expr - 1, 2 * bound.expr + 1):
            wrong = replace(bound, expr=other)
            assert against_masks.refutation(wrong, purpose), other
            assert not wrong.proof.check()
    assert against_masks.refutation(replace(bound, relation="<=", expr=bound.expr - 1), against_masks.FIRST)
    assert against_masks.refutation(replace(bound, relation=">=", expr=bound.expr + 1), against_masks.FIRST)


def test_a_formula_that_is_wrong_from_its_second_period_on_is_thrown_away() -> None:
    bound = (stride(6, 2) ** 2).pairs()
    late = sympy.Piecewise((bound.expr, N < 40), (bound.expr + 1, True)) if bound.is_known else N
    assert against_masks.refutation(exact(stride(6, 2) ** 2, "pairs", late, "quasi-polynomial"), against_masks.FIRST)


def test_the_answer_is_unknown_then_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = replace(window(6).pairs(), expr=N**2)
    monkeypatch.setattr(counts, "pairs", lambda asked: wrong)
    monkeypatch.setitem(portfolio.WAYS, "pairs", (Way("chambers of n", "counting.counts:pairs"),))
    found = portfolio.answer(wrong.question, (N > -7,))
    assert not found.is_known
    assert "thrown away" in found.reason and "it says" in found.reason
    assert not found.proof.check()


WRONG = [
    (stride(6, 2) ** 2, "pairs", {"n": 21}, 73),
    (pidsl.full @ stride(3, 1), "pairs", {"n": 11}, 121),
    (stride(5) @ pidsl.full.dilated(12), "pairs", {"n": 200}, 40_000),
    (stride(6, 2) ** 2, "sparsity", {"n": 21}, 1 - Fraction(73, 441)),
    (keys(0, s) & causal, "live", {"s": 3, "t": 9}, 3),
    (stride(p + 1) & causal & window(4), "live", {"p": 6, "t": 0}, 0),
    (window(k) & window(k).dilated(4), "live", {"k": 3, "t": 0}, 0),
    (blocks(5) @ window(32, 18), "live", {"t": 34}, 32),
    ((lags(31, 10, 29) | window(4) | window(4).dilated(5)) - lags(32, 10), "depth", {"n": 58}, 4),
    (window(5) | lags(13, 14), "depth", {"n": 26}, 4),
    (keys(0, 2) & causal | causal | window(3), "depth", {"n": 100}, 1),
    (stride(12, 1).blocked(1) @ stride(12, 1).blocked(1), "pairs", {"n": 47}, 184),
    ((stride(6).blocked(3) ^ stride(1).T) ** 2, "pairs", {"n": 60}, 3600),
    (pidsl.halo((4, 5), (4, 1), 0), "live", {"t": 16}, 9),
]  # fmt: skip


@pytest.mark.parametrize(("term", "question", "at", "right"), WRONG)
def test_what_was_wrong_is_right_or_unknown(term: Any, question: str, at: dict[str, int], right: Any) -> None:
    found = getattr(term, question)()
    assert not found.is_known or (found(**at) == right if found.is_exact else found(**at) >= right)


# -- assumptions -------------------------------------------------------------------------------------------------------

QUESTIONS = ["pairs", "sparsity", "live", "farthest", "contiguous", "depth"]


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("term", [window(k) | lags(p), window(k) | stride(p) & causal])
def test_assumptions_that_a_family_excludes_are_not_contradictory(term: Any, question: str) -> None:
    bound = getattr(term, question)(assume="p <= k")
    numbers = {"k": 4, "p": 3, "n": 17, "L": 2, "t": 9}
    if bound.is_known:
        concrete = getattr(term.bind(k=4, p=3), question)()
        assert bound(**numbers) == concrete(**numbers)
    else:
        assert "needs" in bound.reason and "which the assumptions exclude" in bound.reason


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_formula_is_not_stated_under_what_it_excludes(question: str) -> None:
    for term, under in ((lags(p), "p <= 0"), (window(k) | lags(p), "p <= k"), (window(k), "k < 1")):
        bound = getattr(term, question)(assume=under)
        assert not bound.is_known or smt.consistent(bound.assumptions)
    with pytest.raises(pidsl.TermError, match="that some integers satisfy"):
        getattr(window(k), question)(assume="k < 0")


def test_assumptions_about_short_sequences() -> None:
    bound = (window(k) | lags(p)).farthest(assume="n <= p")
    assert not bound.is_known
    assert "n > L*p" in bound.reason


@pytest.mark.parametrize(
    ("question", "assume", "names"),
    [
        ("pairs", "zz > 3", "of the pattern: k, p; of the question: n"),
        ("pairs", "L > 3", "of the question: n"), ("sparsity", "t > 3", "of the question: n"),
        ("degree", "n > q", "of the question: i, n"), ("live", "n > 3", "of the question: t"),
        ("farthest", "n > q", "of the question: n, L"), ("contiguous", "i > 2", "of the question: n, L"),
        ("depth", "L > 3", "of the question: n"), ("depth", sympy.Symbol("q") > 2, "of the question: n"),
    ],
)  # fmt: skip
def test_assumptions_over_unknown_names_are_refused(question: str, assume: Any, names: str) -> None:
    term = window(k) | lags(p)
    with pytest.raises(pidsl.SymbolError) as refused:
        getattr(term, question)(assume=assume)
    assert names in str(refused.value) and repr(term) in str(refused.value)


def test_names_of_the_question_and_of_schedules() -> None:
    assert window(3).degree(assume="i > 3, n > 9").of_query.is_exact
    assert window(k).farthest(assume="L > 3").is_exact
    with pytest.raises(pidsl.SymbolError, match="the pattern has none"):
        window(3).pairs(assume="k > 3")
    with pytest.raises(pidsl.SymbolError):
        window(k).farthest(3, assume="L > 3")
    with pytest.raises(pidsl.SymbolError):
        window(k).pairs().under("q > 3")
    with pytest.raises(pidsl.SymbolError):
        ask.farthest(BaseSchedule(k), assume="q > 3")
    with pytest.raises(pidsl.ParseError):
        window(k).pairs(assume=[5])  # type: ignore[list-item]
    with pytest.raises(pidsl.ParseError):
        window(k).pairs(assume=K)


def test_one_list_of_assumptions_serves_all_questions_of_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bounds", "window(k) | lags(p)", "--assume", "p > k, n > p, L > 2, t > 3"]) == 0
    shown = capsys.readouterr().out
    assert "for k >= 0, p > k, n > p\n" in shown and "L > 2" in shown and "t > 3" in shown
    assert main(["bounds", "window(k)", "--assume", "n > q"]) == 2
    assert "of the question: n, i, t, L" in capsys.readouterr().err


# -- values of formulas ------------------------------------------------------------------------------------------------


@settings(max_examples=settings.default.max_examples // 2)
@given(st.integers(-9, 30))
def test_values_are_those_of_sympy(x: int) -> None:
    formulas = [
        N / 3 - sympy.floor(N / 4) ** 2, sympy.Piecewise((1, N < 3), (N, sympy.And(N > 5, N < 9)), (N**2, True)),
        sympy.Max(N, 3) * sympy.Min(N, 7) / 5, sympy.Abs(N - 4), sympy.Mod(N, 6), sympy.ceiling(N / 7), 2**N,
        Periodic(N, 1, sympy.Rational(1, 2), N), sympy.oo * sympy.Max(1, N),
    ]  # fmt: skip
    for expr in formulas:
        assert value_of(expr, {N: sympy.Integer(x)}) == expr.subs(N, x)
    for expr in (Table(N - 40, 1, 2), 1 / (N - x), sympy.Piecewise((1, N > x)), N + K, CeilLog(N - 40, 5)):
        with pytest.raises(ValueError, match=r"no (number|case|entry)"):
            value_of(expr, {N: sympy.Integer(x)})
    assert holds(sympy.ITE(N > 3, N > 5, N < 2), {N: x}) == (x > 5 if x > 3 else x < 2)
