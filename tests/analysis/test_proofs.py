"""What a question answers, its own check confirms: over random terms, layers, and terms with symbols."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import islpy._monkeypatch
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

import pidsl
from pidsl import blocks, causal, full, keys, lags, parse, queries, ring, stride, window
from pidsl.analysis import held_out, portfolio
from pidsl.analysis import questions as ask
from pidsl.analysis.bound import Bound, exact, restated
from pidsl.analysis.counting.lattice import square
from pidsl.analysis.ways import Way
from pidsl.testing import terms

k, p, s = pidsl.symbols("k p s")
FEW = 10


def answers(term: Any, assume: str = "") -> Iterator[Bound]:
    degree = term.degree(assume=assume or ())
    yield from (degree.of_query, degree.maximum, degree.average)
    for question in ("pairs", "sparsity", "live", "farthest", "contiguous", "depth"):
        yield getattr(term, question)(assume=assume or ())
    yield from (term.farthest(3), term.contiguous(2), term.depth(24), term.depth(1000))


def require_confirmed(bounds: Iterator[Bound]) -> None:
    for bound in bounds:
        if bound.is_known:
            verdict = bound.proof.verdict()
            assert verdict.holds, f"{bound}\n{verdict.failure}"


@settings(max_examples=FEW)
@given(terms(2))
def test_what_is_said_of_random_terms_is_confirmed(term: Any) -> None:
    require_confirmed(answers(term))


@settings(max_examples=FEW)
@given(st.lists(terms(1), min_size=2, max_size=3))
def test_what_is_said_of_layers_is_confirmed(layers: list[Any]) -> None:
    require_confirmed(iter([ask.farthest(layers), ask.contiguous(layers), ask.depth(layers), ask.depth(layers, 1000)]))


SYMBOLIC = [
    (stride(p, k) & causal, ""),
    (window(k), "n > k"), (lags(p), ""), (stride(p), "p > 3"), (stride(p) & causal | window(k), "p > k"),
    (stride(k + p), ""), (keys(0, s) & causal, ""), (keys(0, s) & causal | window(k), ""),
    (window(k).dilated(3), ""), (window(k) - lags(p), "p <= k"),
    (lags(0, p, 2 * p) & window(k), ""), pytest.param(blocks(p) & causal, "", marks=pytest.mark.slow),
]  # fmt: skip


@pytest.mark.parametrize(("term", "assume"), SYMBOLIC, ids=repr)
def test_what_is_said_with_symbols_is_confirmed(term: Any, assume: str) -> None:
    bounds = [term.pairs(assume=assume or ()), term.live(), term.farthest(), term.contiguous(2), term.depth()]
    require_confirmed(iter([*bounds, term.degree().of_query]))


def test_what_z3_does_not_decide_is_unknown() -> None:
    found = (stride(p, k) | stride(p, s)).pairs()
    assert not found.is_known and "own check does not confirm" in found.reason


def test_a_formula_that_its_check_refuses_is_not_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    n = window(3).pairs().expr.free_symbols.pop()
    wrong = exact(stride(5) & causal, "farthest", sympy.floor(n / 7), "layers", given={"layers": 2})
    monkeypatch.setattr(held_out, "refutation", lambda bound, purpose: "")
    monkeypatch.setattr(Way, "find", lambda way, asked: wrong)
    monkeypatch.setitem(portfolio.WAYS, "farthest", (Way("another", "none:none", confirmed="always"),))
    found = portfolio.answer(wrong.question, (n > 10**6,))
    assert not found.is_known and "own check does not confirm" in found.reason


@pytest.mark.parametrize("question", ["pairs", "degree", "sparsity", "live", "farthest", "contiguous", "depth"])
@pytest.mark.parametrize("term", [stride(p, p), stride(p, p + 2) & causal, stride(p, k) & stride(k, p)], ids=repr)
def test_nothing_is_said_of_sizes_that_never_fit(term: Any, question: str) -> None:
    with pytest.raises(pidsl.TermError, match="that some integers satisfy"):
        getattr(term, question)()


LONG = [
    (causal ^ ring(2)) @ stride(12, 9), window(10) ^ queries(12, None) ^ lags(2, -3),
    full - (ring(6) ^ keys(-10, None, 2)),
    parse("~stride(6, 1) & (stride(6, 2) ^ where(lambda i, j: ~(i - 8 != 15)))"),
    parse("~empty - (ring(6) ^ keys(-10, None, 2))"),
]  # fmt: skip


@pytest.mark.parametrize("term", LONG, ids=repr)
def test_depth_of_many_tokens_is_confirmed_by_its_formula(term: Any) -> None:
    for tokens in (1000, 10**9):
        bound = term.depth(tokens)
        assert bound.is_known and bound.proof.check()
        for other in (bound.expr + 1, sympy.Integer(1), sympy.oo):
            assert other == bound.expr or not restated(bound, expr=other).proof.check()


# -- isl ---------------------------------------------------------------------------------------------------------------

FATAL = """
import pidsl
from pidsl import blocks, keys, stride
from pidsl.analysis.layers.by_composition import closure
from pidsl.analysis.layers.stacks import square
from pidsl.relation.isl import limited
term = blocks(8).T ** 2 - (keys(6, None, 2) - stride(5, 1).T)
step = square(term)
closure([step], 1).is_subset(step)
print(term.depth(), term.depth(of="all"), term.depth(50))
for operations in (500, 5000, 20000, 50000, 60000):
    for _ in range(2):
        try:
            with limited("a closure", operations):
                step.is_subset(closure([step], 1))
        except pidsl.TooHardError:
            pass
"""


def test_no_closure_ends_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", FATAL], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_numbers_are_added_without_a_conversion_that_an_exhausted_isl_complains_about(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def converted(template: object, number: object) -> None:
        raise AssertionError(f"{number} added by islpy, which converts a space first")

    monkeypatch.setattr(islpy._monkeypatch, "_number_to_expr_like", converted)
    for term in (
        stride(5) @ full.dilated(12),
        blocks(7) @ stride(3, 1),
        parse("where(lambda i, j: (i + 5) // 3 == j)"),
    ):
        square(term, fresh=True)
        assert term.degree().of_query.is_known or term.pairs().is_known
