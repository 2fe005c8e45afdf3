"""What a checker is asked to verify: false statements near true ones are refused, and odd ones without an exception."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest
import sympy

import pidsl
from pidsl.analysis import ask, counts, degrees, grids, memory
from pidsl.analysis.bound import Bound
from pidsl.analysis.cost import cost
from pidsl.analysis.formulas import L, Periodic, Table, i, n, symbol

t = memory.t
k, p, s = pidsl.symbols("k p s")
CASES: Any = sympy.Piecewise


@lru_cache
def statements() -> tuple[Bound, ...]:
    """True statements about counts, one for each kind, method and relation."""
    return tuple(bound for bound in _statements() if bound.is_known)


def _statements() -> Iterator[Bound]:
    for term in (pidsl.window(2) | pidsl.stride(5) & pidsl.causal, pidsl.window(2).blocked(8) & pidsl.causal):
        found = degrees.degree(term)
        yield from (counts.pairs(term), counts.sparsity(term), found.of_query, found.maximum, found.average)
    yield from (memory.live(pidsl.window(4)).size, counts.pairs(pidsl.stride(6, 2) ** 2))
    grid: Any = pidsl.neighborhood((5, 4), (3, 3))
    axes: Any = grids.grid_of(grid)
    yield from (grids.pairs(grid, axes), grids.degree(grid, axes).of_query, grids.degree(grid, axes).maximum)
    for term in (pidsl.window(k), pidsl.stride(p) & pidsl.causal):
        found = ask.degree(term)
        yield from (ask.pairs(term), ask.sparsity(term), found.of_query, found.maximum, found.average, ask.live(term))
    yield ask.degree(pidsl.window(k, 3) | pidsl.lags(p)).maximum
    yield ask.pairs(pidsl.window(k) | pidsl.lags(p), "n > p")
    yield ask.live(pidsl.keys(0, s) & pidsl.causal | pidsl.window(k))
    yield ask.live(pidsl.stride(p) & pidsl.window(k))
    yield ask.live(pidsl.stride(p) & pidsl.window(k) & pidsl.stride(p + 1))
    for tokens in (None, 100):
        costs = cost(pidsl.window(k), tokens)
        yield from (costs.forward_flops, costs.backward_flops, costs.kv_bytes, costs.memory_bytes, costs.pairs)
    yield cost(pidsl.window(3) | pidsl.stride(4) & pidsl.causal, 100).forward_flops
    yield ask.farthest(pidsl.window(k), 0)


def shown(bound: Bound) -> str:
    return f"{bound.quantity} {bound.relation} {bound.method} of {bound.subject!r}"


def variable(bound: Bound) -> sympy.Symbol:
    """What a formula is about: the tokens, the last token seen, or a symbol."""
    return next((x for x in (t, n) if x in bound.expr.free_symbols), symbol("k"))


def false(bound: Bound) -> Iterator[tuple[str, Bound]]:
    """Statements near a true one that are false."""
    x, e = variable(bound), bound.expr
    own = {c for c in bound.assumptions if x in c.free_symbols and n in c.free_symbols}
    at = 9 if not any("p" in map(str, c.free_symbols) for c in own) else 40  # within what is assumed
    bump = CASES((1, sympy.Eq(x, at)), (0, True))
    gap = CASES((e, x < at), (e, x > at))
    exact = bound.relation == "=="
    for name, relation, expr in (
        ("one more", "==", e + 1), ("one less", "==", e - 1), ("one more somewhere", "==", e + bump),
        ("no value somewhere", "==", gap), ("at most less", "<=", e - 1), ("at least more", ">=", e + 1),
        ("at most less somewhere", "<=", e - bump), ("at least more somewhere", ">=", e + bump),
        ("at most, with a gap", "<=", CASES((e + 1, x < at), (e + 1, x > at))),
        ("far more at least", ">=", e + 100 * x**2 + 1), ("nothing at most", "<=", -1 - 0 * x),
        ("negative at most", "<=", -e - 1), ("infinite", "==", sympy.oo), ("minus infinity at most", "<=", -sympy.oo),
    ):  # fmt: skip
        if exact or relation != "<=" or "nothing" in name or "negative" in name:
            yield name, replace(bound, relation=relation, expr=expr)
    yield "contradictory", replace(bound, assumptions=(*bound.assumptions, x > 3, x < 2))
    yield "false", replace(bound, assumptions=(sympy.false,))
    other = replace(bound, subject=pidsl.window(57) | pidsl.lags(-3) | pidsl.lags(100))
    if bound.method not in ("tensor sizes", "no layer"):
        yield "another pattern", other
    yield "another argument", replace(bound, given=(*bound.given, ("layers", 3)))
    for quantity in ("pairs", "sparsity", "degree", "max degree", "average degree", "live keys", "kv bytes", "depth"):
        if quantity != bound.quantity and (bound.quantity, quantity) != ("max degree", "average degree"):
            yield f"of {quantity}", replace(bound, quantity=quantity)


ALWAYS = ("one more", "no value somewhere", "far more at least")


@pytest.mark.parametrize("part", range(4))
def test_false_statements_are_refused(part: int) -> None:
    """Of the faults that are not always tried, each statement gets every seventh, another one in each."""
    for number, bound in enumerate(statements()):
        if number % 4 == part:
            verdict = bound.proof.verdict()
            assert verdict.holds, (shown(bound), verdict.failure)
            for place, (name, statement) in enumerate(false(bound)):
                if name in ALWAYS or (number + place) % 7 == 0:
                    assert not statement.proof.check(), (shown(bound), name)


METHODS = {
    "quasi-polynomial", "pairs between blocks", "keys between blocks", "largest between blocks", "degree",
    "largest degree", "live keys", "whole grids", "second differences", "first differences", "live keys by witness",
    "from the pairs", "from the live keys", "tensor sizes", "no layer",
}  # fmt: skip


def test_all_methods_are_tried() -> None:
    assert {bound.method for bound in statements()} >= METHODS


def test_true_inequalities_are_proved() -> None:
    flops = cost(pidsl.window(k)).backward_flops
    assert replace(flops, relation="<=", expr=flops.expr + 1).proof.check()
    assert replace(flops, relation=">=", expr=flops.expr - 1).proof.check()
    pairs = (pidsl.window(k) | pidsl.lags(p)).pairs(assume="p > k")
    assert replace(pairs, relation="<=", expr=pairs.expr + n, method="second differences").proof.check()
    assert replace(pairs, relation=">=", expr=pairs.expr - n, method="second differences").proof.check()
    live = pidsl.window(k).live()
    assert replace(live, relation="<=", expr=symbol("k")).proof.check()


def test_an_assumption_that_a_formula_needs_cannot_be_left_out() -> None:
    pairs = ask.pairs(pidsl.window(k) | pidsl.lags(p))
    assert any("p > k" in str(c) for c in pairs.assumptions)
    assert not replace(pairs, assumptions=(symbol("k") >= 0,)).proof.check()
    degree = ask.degree(pidsl.window(k)).of_query
    assert not replace(degree, assumptions=(symbol("k") >= 0,)).proof.check()  # for which queries?
    sparsity = counts.sparsity(pidsl.window(3))
    assert not replace(sparsity, assumptions=()).proof.check()  # n = 0


REAL, OPEN = sympy.Symbol("q"), symbol("z")
FORMULAS: list[Any] = [
    sympy.oo, -sympy.oo, sympy.nan, sympy.zoo, REAL, OPEN, n + OPEN, "n", 5, None, sympy.true, 1 / (n - 3),
    sympy.sqrt(n), n**REAL, 2**n, Periodic(n, 1, 2, 3), Table(n, 1, 2), n + Table(n, 1, 2), sympy.Mod(n, REAL),
    sympy.floor(n / OPEN), sympy.sin(n), sympy.I, sympy.pi * n, CASES((n, n < 3)), CASES((n, n < 3), (n + 1, n > 5)),
    sympy.Float(2.5) * n, sympy.ceiling(n / 3), n > 3, CASES((n, sympy.Symbol("w")), (1, True)),
    CASES((sympy.oo, n > 3), (n, True)), sympy.Mod(n, 0, evaluate=False), i, t, L, sympy.Tuple(n, 1),
    sympy.FiniteSet(1), sympy.Eq(n, 3), sympy.Function("f")(n), sympy.factorial(n), sympy.Rational(1, 3), n**9,
]  # fmt: skip
ASSUMPTIONS: list[Any] = [
    (True,), (False,), ("n > 1",), (REAL,), (sympy.Symbol("w"),), (REAL >= 0,), None, [], [n >= 1], 5, (5,),
    (n >= sympy.oo,), ((n >= 1) & (n >= 2),), (sympy.Or(n > 1, n < 0),), (sympy.Ne(n, 3),), (sympy.sqrt(n) >= 1,),
    (sympy.Mod(n, 0, evaluate=False) >= 0,), (n,), (sympy.ITE(n > 1, n > 2, n > 3),), (sympy.Xor(n > 1, n > 2),),
    (n >= OPEN,), (n >= 2.5,), (n > 1, None), (sympy.Eq(n, 5),), (n >= 10**30,), (i >= -1,), (2**n >= 4,),
    (n >= 1, n <= 0),
]  # fmt: skip
GIVEN: list[Any] = [
    (("layers", 3),), (("n", "x"),), (("n", 5),), ("n",), None, (("n", -1),), (("n", None),), ((5, 6),), 5,
    (("n", 5), ("n", 6)), (("head_dim", 64),), (("dtype", "int3"),), (("n", 2.5),), (("n", True),), (("layers", L),),
]  # fmt: skip
SUBJECTS: list[Any] = [
    (pidsl.window(2), pidsl.window(3)), None, 5, "window", pidsl.window(k), pidsl.window(2), pidsl.empty, (),
    pidsl.stride(p), pidsl.where(lambda i, j, n, m: i + j < n), pidsl.ring(3), pidsl.window(2) @ pidsl.window(3),
]  # fmt: skip
RELATIONS: list[Any] = ["==", "<=", ">=", "unknown", "<", "", None, 5, "!="]
ODD = {
    "expr": FORMULAS, "assumptions": ASSUMPTIONS, "given": GIVEN, "subject": SUBJECTS, "relation": RELATIONS,
    "method": [*sorted(METHODS), "second differences, at most", "", None, [], 5],
    "quantity": ["", None, "pairs", "depth", "live keys", 5],
}  # fmt: skip


@pytest.mark.parametrize("field", ODD)
def test_odd_statements_are_answered(field: str) -> None:
    """No exception, and no number that is not one: a share of the combinations, another in each field."""
    for number, bound in enumerate(statements()):
        for place, value in enumerate(ODD[field]):
            if (number + place) % 17 == 0:
                assert replace(bound, **{field: value}).proof.check() in (True, False)


@pytest.mark.parametrize("wrong", ["n", 5, None, sympy.nan, sympy.true, REAL, sympy.pi * n, sympy.sin(n)])
def test_what_is_no_formula_is_refused_everywhere(wrong: Any) -> None:
    for bound in statements():
        assert not replace(bound, expr=wrong).proof.check()
