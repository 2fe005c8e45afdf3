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
from pidsl.analysis.bound import Bound, Form, restated
from pidsl.analysis.formulas.words import CeilLog, L, Periodic, Table, i, n, symbol
from pidsl.analysis.rules import RULES
from pidsl.analysis.schedules import BaseSchedule, SkipSchedule
from pidsl.studies.cost import cost

t = symbol("t")
k, p, s = pidsl.symbols("k p s")
x = symbol("another")
PI = window(4) | lags(16)
CASES: Any = sympy.Piecewise


# -- true statements ---------------------------------------------------------------------------------------------------


TRUTH = against_masks.refutation


@lru_cache
def statements() -> tuple[Bound, ...]:
    """True statements, of each method, quantity and relation."""
    return tuple(bound for bound in (*about_counts(), *about_layers()) if bound.is_known)


def about_counts() -> Iterator[Bound]:
    for term in (window(2) | stride(5) & causal, window(2).blocked(8) & causal):
        found = ask.degree(term)
        yield from (ask.pairs(term), ask.sparsity(term), found.of_query, found.maximum, found.average)
    yield from (ask.live(window(4)), ask.pairs(stride(6, 2) ** 2), ask.degree(blocks(3) | stride(4)).of_query)
    yield from (ask.live(PI, lookahead=3), ask.live(PI, lookahead=0, page=3))
    grid: Any = neighborhood((20, 13), (3, 3))
    yield from (ask.pairs(grid), ask.degree(grid).of_query, ask.degree(grid).maximum)
    for open_ in (window(k), stride(p) & causal):
        degree = ask.degree(open_)
        yield from (ask.pairs(open_), degree.of_query, degree.maximum, degree.average, ask.live(open_))
        yield ask.sparsity(open_)
    yield ask.degree(window(k, 3) | lags(p)).maximum
    yield ask.pairs(window(k) | lags(p), "n > p")
    yield ask.pairs(stride(p) & causal | lags(k))
    yield ask.live(keys(0, s) & causal | window(k))
    yield from (ask.pairs(keys(0, s) & causal | window(k)), ask.degree(keys(0, s) & causal | window(k)).of_query)
    yield ask.live(stride(p) & window(k))
    yield ask.live(stride(p) & window(k) & stride(p + 1))
    for tokens in (None, 100):
        costs = cost(window(k), tokens)
        yield from (costs.forward_flops, costs.backward_flops, costs.kv_bytes, costs.memory_bytes, costs.pairs)
    yield cost(window(3) | stride(4) & causal, 100).forward_flops
    yield from (no_leak(window(k) & documents), no_leak(window(3) & documents), ask.pairs(window(3) & documents))


def about_layers() -> Iterator[Bound]:
    yield from (
        ask.farthest(PI, 2),
        ask.contiguous([window(2), lags(0, 1, 3)], 2),
        ask.contiguous(PI),
        ask.farthest(PI),
    )
    yield from (ask.depth(window(2) | stride(5) & causal), ask.depth(window(3) | lags(11)))
    yield from (ask.farthest(blocks(4), 2), ask.contiguous([window(2), blocks(3)], 2), ask.contiguous(blocks(3)))
    yield from (ask.depth(blocks(4)), ask.depth([causal, blocks(2)]))
    yield from (ask.contiguous(window(2, 1)), ask.farthest(ring(2)))
    yield from (ask.depth(window(1, 1)), ask.depth(window(2, 3)), ask.depth(window(2, 1).blocked(2)))
    yield from (ask.depth(window(2), 9), ask.depth(stride(2) & causal, 6), ask.depth(lags(-2, 9)))
    yield from (ask.farthest(window(k) | lags(p)), ask.farthest(window(k), 5000), ask.farthest(window(k), 0))
    yield from (ask.contiguous(window(k) | keys(0, s) & causal), ask.depth(window(k)), ask.depth(stride(p) & causal))
    yield from (ask.depth(BaseSchedule(2)), ask.farthest(SkipSchedule(4, 16)))
    yield from (
        ask.farthest(neighborhood((20, 20), 3), 2),
        ask.depth(neighborhood((17, 16), 3)),
        ask.depth(ring(1), 70),
    )


def shown(bound: Bound) -> str:
    return f"{bound.name} of {bound.shown_subject} {bound.relation} {bound.expr} by {bound.method!r}"


def test_many_rules_are_tried() -> None:
    """Each way of a room has its own tests; here are statements of every quantity, and of most rules."""
    assert [*dict.fromkeys(bound.quantity for bound in statements())] == QUANTITIES
    assert len({bound.method for bound in statements()}) > len(RULES) * 2 // 3


@pytest.mark.slow  # test_saved.py proves them after a journey
def test_true_statements_are_proved() -> None:
    for bound in statements():
        verdict = bound.proof.verdict()
        assert verdict.holds, (shown(bound), verdict.failure)


def test_true_inequalities_are_proved() -> None:
    flops = cost(window(k)).backward_flops
    assert restated(flops, relation="<=", expr=flops.expr + 1).proof.check()
    assert restated(flops, relation=">=", expr=flops.expr - 1).proof.check()
    pairs = (window(k) | lags(p)).pairs(assume="p > k")
    assert restated(pairs, relation="<=", expr=pairs.expr + n).proof.check()
    assert restated(pairs, relation=">=", expr=pairs.expr - n).proof.check()
    live = window(k).live()
    assert restated(live, relation="<=", expr=symbol("k")).proof.check()


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
    yield restated(bound, relation="<=", expr=-1 - 0 * e if e != -sympy.oo else e - 1)
    yield restated(bound, relation="<=", expr=-moved(e, 2))
    if equal:
        yield from (restated(bound, expr=moved(e, by)) for by in (1, -1, sympy.Rational(1, 2)))
        yield from (restated(bound, relation="<=", expr=moved(e, -1)), restated(bound, relation=">=", expr=moved(e, 1)))
    for odd in (sympy.oo, -sympy.oo, sympy.nan, sympy.zoo, x, e + x, sympy.sin(n), n / x, sympy.Float(2.5), n**9 + 7):
        if odd != e:
            yield restated(bound, expr=odd, relation="==")
    if isinstance(e, sympy.Piecewise):
        yield from (restated(bound, expr=CASES(*e.args[:at], *e.args[at + 1 :])) for at in range(len(e.args)))
    if v is None or not equal:
        return
    yield restated(bound, relation=">=", expr=moved(e, 100 * v**2 + 1))
    for at in (9, 40, 300, 500):
        if any(c.subs(v, at) == sympy.false for c in of_all):
            continue
        here = sympy.Eq(v, at)
        yield restated(bound, expr=CASES((moved(e, 1), here), (e, True)))
        yield restated(bound, expr=CASES((moved(e, 1), v >= at), (e, True)))
        yield restated(bound, expr=CASES((e, v < at), (e, v > at)))
        yield restated(bound, expr=CASES((e, v < at)))
        yield restated(bound, relation="<=", expr=CASES((moved(e, -1), here), (e, True)))
        if e.is_finite is not False:  # infinite depths are more than any number
            yield restated(bound, relation=">=", expr=CASES((moved(e, 1), here), (e, True)))
        yield restated(bound, relation="<=", expr=CASES((e + 1, v < at), (e + 1, v > at)))


def wrong_statements(bound: Bound) -> Iterator[Bound]:
    wrong, v = moved(bound.expr, 1), variable(bound) or n
    for relation in ("<", "!=", "unknown", "", None, 3):
        yield restated(bound, relation=relation)  # type: ignore[arg-type]
    for quantity in ("pairs", "sparsity", "degree", "max degree", "average degree", "live keys", "kv bytes", "depth",
                     "farthest", "contiguous", "banana", "", None, 3):  # fmt: skip
        if quantity != bound.quantity:
            yield restated(bound, quantity=quantity)
    for name in ("layers", "of", "n", "lookahead", "page", "form"):
        for value in (-1, 2.5, True, "x", x, 0, 2, 9, 70, "L", "all", "causal"):
            if value != getattr(bound.question, name):
                yield restated(bound, **{name: value})
    for question in (None, "pairs", (bound.subject, bound.quantity)):
        yield restated(bound, question=question)
    for none in ((v >= 5, v <= 4), (*bound.assumptions, v <= -1), (sympy.false,), (v < 3, sympy.Eq(v, 5))):
        yield restated(bound, assumptions=none)
    for assumed in ((), (n >= 5,), (n >= 10**12,), (L >= 2, n >= 1), (sympy.Ne(n, 7),), (*bound.assumptions, v > 100)):
        if bound.expr.is_finite is not False and not bound.expr.has(sympy.oo) and bound.relation == "==":
            yield restated(bound, expr=wrong, assumptions=assumed)
    for odd in (("n >= 1",), (None,), (n,), None, "n > 1", n >= 1, (n > x,), (sympy.sin(n) > 0,)):
        yield restated(bound, expr=wrong, assumptions=odd)  # type: ignore[arg-type]
    if bound.expr == sympy.oo or bound.method in ("tensor sizes", "no layer"):
        return  # it is true of other patterns too
    for subject in (5, None, "window(1)", (), (5,), [window(1)], (window(1), 5), lags(-1), queries(1)):
        yield restated(bound, subject=subject)  # type: ignore[arg-type]
    yield restated(bound, subject=window(57) | lags(-3) | lags(100))
    for other in SUBJECTS[:8]:
        for quantity in ("farthest", "contiguous", "depth"):
            yield restated(bound, subject=other, quantity=quantity, relation="==", expr=sympy.Integer(7919))


def refused(part: int, parts: int, faults: Callable[[Bound], Iterator[Bound]]) -> int:
    """How many of the faults there are; a share of them is planted, another one in each statement.

    What another question makes of a statement may be true as well: then masks at other sizes agree.
    """
    planted = 0
    for number, bound in enumerate(statements()):
        for place, wrong in enumerate(faults(bound)):
            if (number + place) % parts == part:
                planted += 1
                if wrong.proof.check():
                    assert wrong.question != bound.question and TRUTH(wrong, "in a test") == "", (shown(bound), wrong)
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
    some = [ask.farthest(window(2, 1), 2), ask.contiguous(window(1)), ask.depth(blocks(2)), ask.depth(window(k), n=9),
            ask.pairs(window(2)), ask.live(window(k))]  # fmt: skip
    for bound in some:
        for rule in (*RULES, "", None, "nonsense", 3, []):
            assert not restated(bound, expr=moved(bound.expr, 1), rule=rule).proof.check()


def test_an_assumption_that_a_formula_needs_cannot_be_left_out() -> None:
    pairs = ask.pairs(window(k) | lags(p))
    assert any("p > k" in str(c) for c in pairs.assumptions)
    assert not restated(pairs, assumptions=(symbol("k") >= 0,)).proof.check()
    degree = ask.degree(window(k)).of_query
    assert not restated(degree, assumptions=(symbol("k") >= 0,)).proof.check()  # for which queries?
    sparsity = ask.sparsity(window(3))
    assert not restated(sparsity, assumptions=()).proof.check()  # n = 0


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
ODD_VALUES: list[Any] = [None, 0, 3, -1, "L", L, True, 2.5, 10**9, "x", "all", "causal", (5, 6), [],
                         Form(64, 1, 1, 1, "bf16"),
                         Form(64, 1, 1, 1, "int3"), Form("a", 1, 1, 1, "bf16")]  # type: ignore[arg-type]  # fmt: skip
SUBJECTS: list[Any] = [
    (window(1), blocks(2)), BaseSchedule(2), BaseSchedule(k), SkipSchedule(2, 5), window(k), ring(1), causal,
    neighborhood((3, 3), 3), (window(2), window(3)), (window(k),), (), None, 5, "window", window(2), lags(),
    pidsl.full, pidsl.empty, stride(p), pidsl.where(lambda i, j, n, m: i + j < n), ring(3), window(2) @ window(3),
    neighborhood((4, 5), 3), BaseSchedule(p),
]  # fmt: skip
QUANTITIES = [  # of all statements; written out, since every process of a run would ask them all
    "pairs", "sparsity", "degree", "max degree", "average degree", "live keys", "live pages", "forward flops",
    "backward flops", "kv bytes", "memory bytes", "pairs across documents", "farthest", "contiguous", "depth",
]  # fmt: skip
FACTS: list[Any] = [(), (("pairs", "x"),), None, 5, (("form", "[n] -> { }"), ("first", 1)), (1, 2)]
ODD: dict[str, list[Any]] = {
    "expr": FORMULAS, "assumptions": ASSUMPTIONS, "subject": SUBJECTS, "facts": FACTS,
    **dict.fromkeys(("layers", "of", "n", "lookahead", "page", "form"), ODD_VALUES),
    "relation": ["==", "<=", ">=", "unknown", "<", "!=", "", None, 5], "rule": [*RULES, "no such", "", None, [], 5],
    "quantity": [*QUANTITIES, "entropy", "", None, 5],
    "premises": [(), (5,), None, (window(2).pairs(),), (window(2).pairs(), window(3).pairs())],
}  # fmt: skip


@pytest.mark.parametrize("part", [*ODD, "several"])
def test_odd_statements_are_answered(part: str) -> None:
    """No exception, and a reason for each no."""
    draw, known = random.Random(part), statements()
    for _ in range(60):
        names = [part] if part != "several" else draw.sample([*ODD], 2)
        bound = restated(draw.choice(known), **{name: draw.choice(ODD[name]) for name in names})
        verdict = bound.proof.verdict()
        assert verdict.holds or verdict.failure
        if names == ["expr"] and verdict.holds:  # another formula of the same
            assert against_masks.refutation(bound, "once more") == ""


@pytest.mark.parametrize("wrong", ["n", 5, None, sympy.nan, sympy.true, REAL, sympy.pi * n, sympy.sin(n)])
def test_what_is_no_formula_is_refused_everywhere(wrong: Any) -> None:
    for bound in statements():
        assert not restated(bound, expr=wrong).proof.check()


@pytest.mark.parametrize("subject", [(window(2), window(3)), (window(2), lags(0, 5), causal)], ids=repr)
@pytest.mark.parametrize("question", [ask.farthest, ask.contiguous], ids=["farthest", "contiguous"])
def test_what_holds_of_any_number_of_layers_is_no_statement_about_several(subject: Any, question: Any) -> None:
    for bound in (question(window(2)), question(window(2) | lags(9)), question(window(2) | stride(5) & causal)):
        assert not restated(bound, subject=subject).proof.check()
