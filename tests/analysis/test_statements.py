"""What a checker is asked to verify: false statements near true ones are refused, and odd ones without an exception."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import pytest
import sympy

import pidsl
from pidsl import blocks, causal, documents, keys, lags, neighborhood, no_leak, queries, ring, stride, window
from pidsl.analysis import held_out as against_masks
from pidsl.analysis import questions as ask
from pidsl.analysis.bound import Bound, exact
from pidsl.analysis.counting import counts, degrees
from pidsl.analysis.counting import live as memory
from pidsl.analysis.formulas.words import CeilLog, L, Periodic, Table, i, n, symbol
from pidsl.analysis.layers import depth_tokens
from pidsl.analysis.layers.depth import depth
from pidsl.analysis.layers.reach import contiguous, farthest
from pidsl.analysis.rules import RULES
from pidsl.analysis.schedules import BaseSchedule, SkipSchedule
from pidsl.analysis.smaller import grids
from pidsl.analysis.statements import ABOUT
from pidsl.studies.cost import cost

t = memory.t
k, p, s = pidsl.symbols("k p s")
x = symbol("another")
PI = window(4) | lags(16)
CASES: Any = sympy.Piecewise


# -- true statements ---------------------------------------------------------------------------------------------------


@lru_cache
def statements() -> tuple[Bound, ...]:
    """True statements, of each method, quantity and relation."""
    return tuple(bound for bound in (*about_counts(), *about_layers()) if bound.is_known)


def about_counts() -> Iterator[Bound]:
    for term in (window(2) | stride(5) & causal, window(2).blocked(8) & causal):
        found = degrees.degree(term)
        yield from (counts.pairs(term), counts.sparsity(term), found.of_query, found.maximum, found.average)
    yield from (memory.live(window(4)).size, counts.pairs(stride(6, 2) ** 2))
    yield from (memory.live(PI, lookahead=3).size, memory.live(PI, lookahead=0, page=3).size)
    grid: Any = neighborhood((5, 4), (3, 3))
    axes: Any = grids.grid_of(grid)
    yield from (grids.pairs(grid, axes), grids.degree(grid, axes).of_query, grids.degree(grid, axes).maximum)
    for open_ in (window(k), stride(p) & causal):
        degree = ask.degree(open_)
        yield from (ask.pairs(open_), degree.of_query, degree.maximum, degree.average, ask.live(open_))
        yield ask.sparsity(open_)
    yield ask.degree(window(k, 3) | lags(p)).maximum
    yield ask.pairs(window(k) | lags(p), "n > p")
    yield ask.pairs(stride(p) & causal | lags(k))
    yield replace(ask.pairs(window(k)), method="from the exact formula")
    yield ask.live(keys(0, s) & causal | window(k))
    yield from (ask.pairs(keys(0, s) & causal | window(k)), ask.degree(keys(0, s) & causal | window(k)).of_query)
    yield ask.live(stride(p) & window(k))
    yield ask.live(stride(p) & window(k) & stride(p + 1))
    for tokens in (None, 100):
        costs = cost(window(k), tokens)
        yield from (costs.forward_flops, costs.backward_flops, costs.kv_bytes, costs.memory_bytes, costs.pairs)
    yield cost(window(3) | stride(4) & causal, 100).forward_flops
    yield from (no_leak(window(k) & documents), no_leak(window(3) & documents))


def about_layers() -> Iterator[Bound]:
    yield from (farthest(PI, 2), contiguous([window(2), lags(0, 1, 3)], 2), contiguous(PI), farthest(PI))
    yield from (depth(window(2) | stride(5) & causal), depth(window(3) | lags(11)))
    yield from (farthest(blocks(4), 2), contiguous([window(2), blocks(3)], 2))
    yield from (depth(blocks(4)), depth([causal, blocks(2)]))
    yield from (contiguous(window(2, 1)), farthest(ring(2)))
    yield replace(contiguous(blocks(3)), method="stable layers")
    yield from (depth(window(1, 1)), depth(window(2, 3)), depth(window(2, 1).blocked(2)))
    yield from (depth(window(2), 9), depth(stride(2) & causal, 6))
    guess = depth_tokens.guessed(lags(-2, 9), "all")
    yield exact(lags(-2, 9), "depth", guess.expr, "depth by tokens", given={"of": "all"}, assumptions=guess.assumptions)
    yield from (ask.farthest(window(k) | lags(p)), ask.farthest(window(k), 5000), ask.farthest(window(k), 0))
    yield from (ask.contiguous(window(k) | keys(0, s) & causal), ask.depth(window(k)), ask.depth(stride(p) & causal))
    yield from (ask.depth(BaseSchedule(2)), ask.farthest(SkipSchedule(4, 16)))
    yield from (ask.farthest(neighborhood((20, 20), 3), 2), ask.depth(neighborhood((4, 5), 3)))
    yield replace(depth(ring(1), 7), method="short sequences")
    yield replace(farthest(ring(1), 2), method="short sequences")
    yield replace(contiguous(blocks(2)), method="repeating layers")


def shown(bound: Bound) -> str:
    return f"{bound.name} of {bound.shown_subject} {bound.relation} {bound.expr} by {bound.method!r}"


def test_every_method_is_tried_and_says_what_it_is_about() -> None:
    assert {bound.method for bound in statements()} == METHODS.keys() == ABOUT.keys()


def test_true_statements_are_proved() -> None:
    for bound in statements():
        verdict = bound.proof.verdict()
        assert verdict.holds, (shown(bound), verdict.failure)


def test_true_inequalities_are_proved() -> None:
    flops = cost(window(k)).backward_flops
    assert replace(flops, relation="<=", expr=flops.expr + 1).proof.check()
    assert replace(flops, relation=">=", expr=flops.expr - 1).proof.check()
    pairs = (window(k) | lags(p)).pairs(assume="p > k")
    assert replace(pairs, relation="<=", expr=pairs.expr + n, method="second differences").proof.check()
    assert replace(pairs, relation=">=", expr=pairs.expr - n, method="second differences").proof.check()
    live = window(k).live()
    assert replace(live, relation="<=", expr=symbol("k")).proof.check()


# -- false ones --------------------------------------------------------------------------------------------------------

VALUES = {"k": 2, "p": 7, "s": 1, "L": 1, "i": 3}


def variable(bound: Bound) -> sympy.Symbol | None:
    """What a formula is about: the last token seen, how many tokens, or the symbol of a pattern."""
    if bound.argument("n") is None:
        return t if bound.quantity in ("live keys", "kv bytes") else n
    return symbol("k") if symbol("k") in bound.expr.free_symbols else None


def moved(expr: sympy.Expr, by: Any) -> sympy.Expr:
    if isinstance(expr, sympy.Piecewise):
        return CASES(*((moved(value, by), condition) for value, condition in expr.args))
    return expr + by if expr.is_finite is not False else sympy.Integer(3)


def wrong_formulas(bound: Bound) -> Iterator[Bound]:
    e, v, equal = bound.expr, variable(bound), bound.relation == "=="
    of_all = [c.subs({symbol(name): value for name, value in VALUES.items()}) for c in bound.assumptions]
    yield replace(bound, relation="<=", expr=-1 - 0 * e if e != -sympy.oo else e - 1)
    yield replace(bound, relation="<=", expr=-moved(e, 2))
    if equal:
        yield from (replace(bound, expr=moved(e, by)) for by in (1, -1, sympy.Rational(1, 2)))
        yield from (replace(bound, relation="<=", expr=moved(e, -1)), replace(bound, relation=">=", expr=moved(e, 1)))
    for odd in (sympy.oo, -sympy.oo, sympy.nan, sympy.zoo, x, e + x, sympy.sin(n), n / x, sympy.Float(2.5), n**9 + 7):
        if odd != e:
            yield replace(bound, expr=odd, relation="==")
    if isinstance(e, sympy.Piecewise):
        yield from (replace(bound, expr=CASES(*e.args[:at], *e.args[at + 1 :])) for at in range(len(e.args)))
    if v is None or not equal:
        return
    yield replace(bound, relation=">=", expr=moved(e, 100 * v**2 + 1))
    for at in (9, 40, 300, 500):
        if any(c.subs(v, at) == sympy.false for c in of_all):
            continue
        here = sympy.Eq(v, at)
        yield replace(bound, expr=CASES((moved(e, 1), here), (e, True)))
        yield replace(bound, expr=CASES((moved(e, 1), v >= at), (e, True)))
        yield replace(bound, expr=CASES((e, v < at), (e, v > at)))
        yield replace(bound, expr=CASES((e, v < at)))
        yield replace(bound, relation="<=", expr=CASES((moved(e, -1), here), (e, True)))
        yield replace(bound, relation=">=", expr=CASES((moved(e, 1), here), (e, True)))
        yield replace(bound, relation="<=", expr=CASES((e + 1, v < at), (e + 1, v > at)))


def wrong_statements(bound: Bound) -> Iterator[Bound]:
    wrong, v = moved(bound.expr, 1), variable(bound) or n
    for relation in ("<", "!=", "unknown", "", None, 3):
        yield replace(bound, relation=relation)  # type: ignore[arg-type]
    for quantity in ("pairs", "sparsity", "degree", "max degree", "average degree", "live keys", "kv bytes", "depth",
                     "", None, 3):  # fmt: skip
        if quantity != bound.quantity and (bound.quantity, quantity) != ("max degree", "average degree"):
            yield replace(bound, quantity=quantity)  # type: ignore[arg-type]
    for value in (-1, 2.5, True, None, "x", x):
        yield replace(bound, given=(*bound.given, ("layers", value)))
        yield replace(bound, given=(*bound.given, ("of", value)))
        yield replace(bound, given=(*bound.given, ("n", value)))
    for given in ((*bound.given, ("odd", 1)), (*bound.given, ("layers", 1), ("layers", 1)), (1, 2), None, "layers"):
        yield replace(bound, given=given)  # type: ignore[arg-type]
    for none in ((v >= 5, v <= 4), (*bound.assumptions, v <= -1), (sympy.false,), (v < 3, sympy.Eq(v, 5))):
        yield replace(bound, assumptions=none)
    for assumed in ((), (n >= 5,), (n >= 10**12,), (L >= 2, n >= 1), (sympy.Ne(n, 7),), (*bound.assumptions, v > 100)):
        if bound.expr.is_finite is not False and not bound.expr.has(sympy.oo) and bound.relation == "==":
            yield replace(bound, expr=wrong, assumptions=assumed)
    for odd in (("n >= 1",), (None,), (n,), None, "n > 1", n >= 1, (n > x,), (sympy.sin(n) > 0,)):
        yield replace(bound, expr=wrong, assumptions=odd)  # type: ignore[arg-type]
    if bound.expr == sympy.oo or bound.method in ("tensor sizes", "no layer"):
        return  # it is true of other patterns too
    for subject in (5, None, "window(1)", (), (5,), [window(1)], (window(1), 5), lags(-1), queries(1)):
        yield replace(bound, subject=subject)  # type: ignore[arg-type]
    yield replace(bound, subject=window(57) | lags(-3) | lags(100))
    for other in SUBJECTS[:8]:
        for quantity in ("farthest", "contiguous", "depth"):
            yield replace(bound, subject=other, quantity=quantity, relation="==", expr=sympy.Integer(7919))


def refused(part: int, parts: int, faults: Callable[[Bound], Iterator[Bound]]) -> int:
    """How many of the faults there are; a share of them is planted, another one in each statement."""
    planted = 0
    for number, bound in enumerate(statements()):
        for place, wrong in enumerate(faults(bound)):
            if (number + place) % parts == part:
                assert not wrong.proof.check(), (shown(bound), wrong)
                planted += 1
    return planted


@pytest.mark.parametrize("masks", [True, False])
def test_false_statements_are_refused(masks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks contradict most of them before a checker reads it: checkers do without masks too."""
    if not masks:
        monkeypatch.setattr(against_masks, "refutation", lambda bound, purpose: "")
    assert refused(int(masks), 37, wrong_formulas) > 50
    assert refused(int(masks), 37, wrong_statements) > 100


@pytest.mark.parametrize("masks", [True, False])
def test_other_methods_prove_nothing_that_is_wrong(masks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not masks:
        monkeypatch.setattr(against_masks, "refutation", lambda bound, purpose: "")
    some = [farthest(window(2, 1), 2), contiguous(window(1)), depth(blocks(2)), ask.depth(window(k), n=9),
            counts.pairs(window(2)), ask.live(window(k))]  # fmt: skip
    for bound in some:
        for method in (*METHODS, "", None, "nonsense", 3, []):
            assert not replace(bound, expr=moved(bound.expr, 1), method=method).proof.check()


def test_an_assumption_that_a_formula_needs_cannot_be_left_out() -> None:
    pairs = ask.pairs(window(k) | lags(p))
    assert any("p > k" in str(c) for c in pairs.assumptions)
    assert not replace(pairs, assumptions=(symbol("k") >= 0,)).proof.check()
    degree = ask.degree(window(k)).of_query
    assert not replace(degree, assumptions=(symbol("k") >= 0,)).proof.check()  # for which queries?
    sparsity = counts.sparsity(window(3))
    assert not replace(sparsity, assumptions=()).proof.check()  # n = 0


# -- odd ones ----------------------------------------------------------------------------------------------------------

REAL, OPEN = sympy.Symbol("q"), symbol("z")
FORMULAS: list[Any] = [
    sympy.Integer(0), sympy.Integer(-1), sympy.oo, -sympy.oo, sympy.nan, sympy.zoo, REAL, OPEN, n + OPEN, "n", 5, None,
    sympy.true, 1 / (n - 3), sympy.sqrt(n), n**REAL, n**n, n**-2, 2**n, Periodic(n, 1, 2, 3), Table(n, 1, 2),
    n + Table(n, 1, 2), Table(x, 1, 2), CeilLog(2, n), CeilLog(n, 2), sympy.Mod(n, REAL), sympy.floor(n / OPEN),
    sympy.sin(n), sympy.log(n), sympy.I, sympy.pi * n, CASES((n, n < 3)), CASES((n, n < 3), (n + 1, n > 5)),
    CASES((n, x > 3), (2, True)), CASES((sympy.oo, n > 3), (n, True)), CASES((n, sympy.Symbol("w")), (1, True)),
    sympy.Float(2.5) * n, sympy.ceiling(n / 3), n > 3, sympy.Mod(n, 0, evaluate=False), sympy.Mod(n, symbol("k")),
    i, t, L, symbol("k"), symbol("p") * n, L * n, sympy.Symbol("n"), sympy.Symbol("k") * n, sympy.Tuple(n, 1),
    sympy.FiniteSet(1), sympy.Eq(n, 3), sympy.Function("f")(n), sympy.factorial(n), sympy.Rational(1, 3), n**9,
    sympy.Min(n, sympy.oo), sympy.Abs(n - 3) / 2,
]  # fmt: skip
ASSUMPTIONS: list[Any] = [
    (), (True,), (False,), (sympy.true,), (sympy.false,), ("n > 1",), (REAL,), (sympy.Symbol("w"),), (REAL >= 0,), None,
    [], [n >= 1], 5, (5,), (n >= sympy.oo,), ((n >= 1) & (n >= 2),), (sympy.Or(n > 1, n < 0),), (sympy.Ne(n, 3),),
    (sympy.sqrt(n) >= 1,), (sympy.Mod(n, 0, evaluate=False) >= 0,), (sympy.Mod(n, 2),), (n,),
    (sympy.ITE(n > 1, n > 2, n > 3),), (sympy.Xor(n > 1, n > 2),), (sympy.Not(n > 3),), (n >= OPEN,), (n >= 2.5,),
    (n > 1, None), (sympy.Eq(n, 5),), (n >= 10**30,), (i >= -1,), (2**n >= 4,), (n >= 1, n <= 0), (n >= 1, L >= 0),
    (symbol("k") >= 1, symbol("p") > symbol("k")), (symbol("p") <= symbol("k"),), (t >= 0,), (i < n, i >= 0),
    (sympy.Symbol("n") >= 1,), (sympy.log(n) > 2,), (n >= 40,),
]  # fmt: skip
COST = (("head_dim", 64), ("heads", 1), ("kv_heads", 1), ("batch", 1), ("dtype", "bf16"))
GIVEN: list[Any] = [
    (), (("layers", L),), (("layers", 0),), (("layers", 3),), (("layers", -1),), (("layers", "L"),),
    (("layers", None),), (("layers", True),), (("layers", 2.5),), (("layers", 10**9),), (("n", "x"),), (("n", 5),),
    (("n", 0),), ("n",), None, (("n", -1),), (("n", None),), (("n", 2.5),), (("n", True),), ((5, 6),), 5,
    (("n", 5), ("n", 6)), (("of", "all"),), (("of", "causal"),), (("of", "x"),), (("of", 3),),
    (("n", 5), ("of", "all")), (("x", 1),), (("layers",),), ("layers",), (("head_dim", 64),), (("dtype", "int3"),),
    COST, (*COST, ("n", -2)), (("head_dim", "a"), *COST[1:]), (*COST[:4], ("dtype", "int3")),
]  # fmt: skip
SUBJECTS: list[Any] = [
    (window(1), blocks(2)), BaseSchedule(2), BaseSchedule(k), SkipSchedule(2, 5), window(k), ring(1), causal,
    neighborhood((3, 3), 3), (window(2), window(3)), (window(k),), (), None, 5, "window", window(2), lags(),
    pidsl.full, pidsl.empty, stride(p), pidsl.where(lambda i, j, n, m: i + j < n), ring(3), window(2) @ window(3),
    neighborhood((4, 5), 3), BaseSchedule(p),
]  # fmt: skip
ODD: dict[str, list[Any]] = {
    "expr": FORMULAS, "assumptions": ASSUMPTIONS, "given": GIVEN, "subject": SUBJECTS,
    "relation": ["==", "<=", ">=", "unknown", "<", "!=", "", None, 5], "method": [*METHODS, "no such", "", None, [], 5],
    "quantity": [*dict.fromkeys(bound.quantity for bound in statements()), "entropy", "", None, 5],
}  # fmt: skip


@pytest.mark.parametrize("part", [*ODD, "several"])
def test_odd_statements_are_answered(part: str) -> None:
    """No exception, and a reason for each no."""
    draw, known = random.Random(part), statements()
    for _ in range(60):
        names = [part] if part != "several" else draw.sample([*ODD], 2)
        bound = replace(draw.choice(known), **{name: draw.choice(ODD[name]) for name in names})
        verdict = bound.proof.verdict()
        assert verdict.holds or verdict.failure
        if names == ["expr"] and verdict.holds:  # another formula of the same
            assert against_masks.refutation(bound, "once more") == ""


@pytest.mark.parametrize("wrong", ["n", 5, None, sympy.nan, sympy.true, REAL, sympy.pi * n, sympy.sin(n)])
def test_what_is_no_formula_is_refused_everywhere(wrong: Any) -> None:
    for bound in statements():
        assert not replace(bound, expr=wrong).proof.check()
