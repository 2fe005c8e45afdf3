"""Faults planted in proved statements about layers: each is refused, and none ends in an error."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import sympy

import pidsl
from pidsl import blocks, causal, keys, lags, neighborhood, queries, ring, stride, window
from pidsl.analysis import ask, depth_tokens
from pidsl.analysis.bound import Bound, exact
from pidsl.analysis.depth import depth
from pidsl.analysis.formulas import L, n, symbol
from pidsl.analysis.proofs import METHODS
from pidsl.analysis.reach import contiguous, farthest
from pidsl.analysis.schedules import BaseSchedule, SkipSchedule

k, p, s = pidsl.symbols("k p s")
x = symbol("another")
PI = window(4) | lags(16)


def by_tokens() -> Bound:
    term = lags(-2, 9)
    guess = depth_tokens.guessed(term, "all")
    return exact(term, "depth", guess.expr, "depth by tokens", given={"of": "all"}, assumptions=guess.assumptions)


def bounds() -> Iterator[tuple[str, Bound]]:
    yield "lag sums", farthest(PI, 2)
    yield "lag sums", contiguous([window(2), lags(0, 1, 3)], 2)
    yield "lag growth", contiguous(PI)
    yield "lag growth", farthest(PI)
    yield "lag depth", depth(window(2) | stride(5) & causal)
    yield "lag depth", depth(window(3) | lags(11))
    yield "layers", farthest(blocks(4), 2)
    yield "layers", contiguous([window(2), blocks(3)], 2)
    yield "depth", depth(blocks(4))
    yield "depth", depth([causal, blocks(2)])
    yield "form in L", contiguous(window(2, 1))
    yield "form in L", farthest(ring(2))
    yield "stable layers", replace(contiguous(blocks(3)), method="stable layers")
    yield "two-sided lags", depth(window(1, 1))
    yield "two-sided lags", depth(window(2, 3))
    yield "blocks", depth(window(2, 1).blocked(2))
    yield "matrices", depth(window(2), 9)
    yield "matrices", depth(stride(2) & causal, 6)
    yield "depth by tokens", by_tokens()
    yield "layers by induction", ask.farthest(window(k) | lags(p))
    yield "layers by induction", ask.contiguous(window(k) | keys(0, s) & causal)
    yield "layers by induction", ask.depth(window(k))
    yield "layers by induction", ask.depth(BaseSchedule(2))
    yield "layers by induction", ask.depth(stride(p) & causal)
    yield "layers by induction", ask.farthest(SkipSchedule(4, 16))
    yield "whole grids", ask.farthest(neighborhood((20, 20), 3), 2)
    yield "no layer", ask.farthest(window(k), 0)

    yield "short sequences", replace(farthest(ring(1), 2), method="short sequences")
    yield "repeating layers", replace(contiguous(blocks(2)), method="repeating layers")


STATEMENTS = list(bounds())


def named(case: Any) -> str:
    return f"{case[0]}: {case[1].name} of {case[1].shown_subject}"


def moved(expr: sympy.Expr, by: Any) -> sympy.Expr:
    if isinstance(expr, sympy.Piecewise):
        return sympy.Piecewise(*((moved(value, by), condition) for value, condition in expr.args))
    return expr + by if expr.is_finite is not False else sympy.Integer(3)


def wrong_formulas(bound: Bound) -> Iterator[Bound]:
    e = bound.expr
    for by in (1, -1, sympy.Rational(1, 2)):
        yield replace(bound, expr=moved(e, by))
    yield replace(bound, relation="<=", expr=moved(e, -1))
    yield replace(bound, relation=">=", expr=moved(e, 1))
    yield replace(bound, expr=sympy.Piecewise((moved(e, 1), n >= 300), (e, True)))
    for odd in (sympy.oo, -sympy.oo, sympy.nan, sympy.zoo, x, e + x, n**2, sympy.sin(n), n / x, sympy.Float(2.5)):
        if odd != e:
            yield replace(bound, expr=odd)
    yield from (replace(bound, expr=odd) for odd in (3, "3", None, sympy.true))  # type: ignore[arg-type]
    if isinstance(e, sympy.Piecewise):
        for at in range(len(e.args)):
            yield replace(bound, expr=sympy.Piecewise(*e.args[:at], *e.args[at + 1 :]))
    elif bound.argument("n") is None:
        yield replace(bound, expr=sympy.Piecewise((e, n < 40)))


def wrong_statements(bound: Bound) -> Iterator[Bound]:
    wrong = moved(bound.expr, 1)
    for relation in ("<", "!=", "unknown", None, 3):
        yield replace(bound, relation=relation)  # type: ignore[arg-type]
    for quantity in ("pairs", "degree", "max degree", "live keys", "sparsity", "", None, 3):
        yield replace(bound, quantity=quantity)  # type: ignore[arg-type]
    for value in (-1, 2.5, True, None, "x", x):
        yield replace(bound, given=(("layers", value),))
        yield replace(bound, given=(("of", value),))
        yield replace(bound, given=(("of", "all"), ("n", value if value is not None else 0)))
    for given in ((*bound.given, ("odd", 1)), (*bound.given, ("layers", 1), ("layers", 1)), (1, 2), None, "layers"):
        yield replace(bound, given=given)  # type: ignore[arg-type]
    for assumed in ((n >= 5, n <= 4), (*bound.assumptions, n <= -1), (sympy.false,), (n < 3, sympy.Eq(n, 5))):
        yield replace(bound, assumptions=assumed)
    for assumed in ((), (n >= 5,), (n >= 10**12,), (L >= 2, n >= 1), (sympy.Ne(n, 7),), (*bound.assumptions, n > 100)):
        if bound.expr.is_finite is not False and not bound.expr.has(sympy.oo):
            yield replace(bound, expr=wrong, assumptions=assumed)
    for odd in (("n >= 1",), (None,), (n,), None, "n > 1", n >= 1, (n > x,), (sympy.sin(n) > 0,)):
        yield replace(bound, expr=wrong, assumptions=odd)  # type: ignore[arg-type]
    for subject in (5, None, "window(1)", (), (5,), [window(1)], (window(1), 5), lags(-1), queries(1)):
        everyone = bound.expr == sympy.oo or bound.method == "no layer"  # it is true of other patterns too
        if not everyone or not isinstance(subject, pidsl.Term):
            yield replace(bound, subject=subject)  # type: ignore[arg-type]


@pytest.mark.parametrize("case", STATEMENTS, ids=named)
def test_planted_faults_are_refused(case: tuple[str, Bound]) -> None:
    method, bound = case
    assert bound.method == method
    assert bound.proof.check(), bound.proof.verdict().failure
    for wrong in (*wrong_formulas(bound), *wrong_statements(bound)):
        assert not wrong.proof.check(), [
            (name, getattr(wrong, name)) for name in ("relation", "expr", "assumptions", "given", "quantity", "subject")
        ]


SUBJECTS = [
    (window(1), blocks(2)), BaseSchedule(2), BaseSchedule(k), SkipSchedule(2, 5), window(k), ring(1), causal,
    neighborhood((3, 3), 3),
]  # fmt: skip


@pytest.mark.parametrize("case", STATEMENTS, ids=named)
def test_other_subjects_and_quantities_are_no_errors(case: tuple[str, Bound]) -> None:
    """What is said of them is false."""
    _, bound = case
    for subject in SUBJECTS:
        for quantity in ("farthest", "contiguous", "depth"):
            assert not replace(bound, subject=subject, quantity=quantity, expr=sympy.Integer(7919)).proof.check()


METHODS_OF = [farthest(window(2, 1), 2), contiguous(window(1)), depth(blocks(2)), ask.depth(window(k), n=9)]


@pytest.mark.parametrize("method", [*METHODS, "", None, "nonsense", 3])
def test_other_methods_prove_nothing_that_is_wrong(method: Any) -> None:
    for bound in METHODS_OF:
        assert not replace(bound, expr=moved(bound.expr, 1), method=method).proof.check()
