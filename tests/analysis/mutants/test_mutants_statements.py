"""Faults planted where statements are made of others, and where formulas are simplified: nothing wrong is proved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import pytest
import sympy

import pidsl
from pidsl import blocks, causal, lags, stride, window
from pidsl.analysis import consequence, held_out, portfolio, rules, sizes
from pidsl.analysis import questions as ask
from pidsl.analysis.bound import Bound, Form, asking
from pidsl.analysis.consequence import Reading, derived
from pidsl.analysis.formulas import assume
from pidsl.analysis.formulas.words import L, n, symbol

k, p = pidsl.symbols("k p")
PI, COMB = window(k) | lags(p), stride(5) & causal | window(2)
FORM: Any = {"head_dim": 8, "heads": 4, "kv_heads": 2, "batch": 3, "dtype": "bf16"}


def made() -> Iterator[Bound]:
    """Statements that follow from others."""
    yield from (ask.sparsity(COMB), ask.sparsity(PI), ask.degree(COMB).average)
    yield from (ask.pairs(PI).under("n > p"), ask.pairs(COMB).under("n >= 9"), ask.live(window(k)).under("t > k"))
    yield derived(ask.depth(blocks(3)), asking(blocks(3), "depth", of="all", n=70))
    yield derived(ask.pairs(COMB), asking(COMB, "forward flops", **FORM))
    yield derived(ask.pairs(PI), asking(PI, "backward flops", **FORM, n=100))
    yield derived(ask.live(COMB), asking(COMB, "kv bytes", **FORM, value_dim=16))
    yield derived(ask.farthest(PI), asking(PI, "farthest", layers=3))
    yield (window(3) & pidsl.documents).pairs()


@lru_cache
def before_faults() -> tuple[Bound, ...]:
    return tuple(made())


def reading(change: Callable[[Reading, Bound, Any], Reading]) -> Callable[[Any], Any]:
    def planted(right: Any) -> Any:
        return lambda premise, question: change(right(premise, question), premise, question)

    return planted


def plus(quantity: str, by: Any) -> Callable[[Any], Any]:
    return reading(lambda r, b, q: Reading(r.relation, r.expr + by, r.needs) if q.quantity == quantity else r)


def other_relation(r: Reading, premise: Bound, question: Any) -> Reading:
    return Reading({"==": "==", "<=": ">=", ">=": "<="}[r.relation], r.expr, r.needs)  # type: ignore[arg-type]


def simpler(right: Any) -> Any:
    """The first of some arguments, or the first case, whatever is known."""

    def planted(expr: sympy.Expr, known: Any) -> Any:
        return expr.replace(
            lambda x: isinstance(x, sympy.Min | sympy.Max | sympy.Piecewise),
            lambda *args: args[0][0] if isinstance(args[0], sympy.Tuple) else args[0],
        )

    return planted


FAULTS: list[tuple[Any, str, Callable[[Any], Any]]] = [
    (consequence, "read", plus("sparsity", 1 / n)), (consequence, "read", plus("average degree", 1)),
    (consequence, "read", plus("forward flops", 8)), (consequence, "read", plus("kv bytes", 2)),
    (consequence, "read", plus("farthest", 1)),
    (consequence, "read", reading(lambda r, b, q: Reading(r.relation, r.expr.subs(n, n + 1), r.needs))),
    (consequence, "read", reading(lambda r, b, q: Reading(r.relation, b.expr.subs(L, 4), r.needs))),
    (consequence, "read", reading(lambda r, b, q: Reading(r.relation, r.expr, ()))),
    (consequence, "read", reading(lambda r, b, q: Reading("==", r.expr, r.needs))),
    (consequence, "read", reading(other_relation)),
    (consequence, "factor", lambda right: lambda quantity, given: 2 * right(quantity, given)),
    (consequence, "factor", lambda right: lambda quantity, given: right(quantity, given) // given["heads"]),
    (consequence, "factor", lambda right: lambda quantity, given: right("forward flops", given)),
    (consequence, "simplified", simpler),
    (assume, "_value", lambda r: lambda atom, given: atom.args[0] if isinstance(atom, sympy.Min) else r(atom, given)),
]  # fmt: skip


def true(bound: Bound) -> bool:
    """By masks at sizes of this test; statements of which there are none at all are not."""
    return sympy.false not in bound.assumptions and held_out.refutation(bound, "in this test") == ""


@pytest.mark.parametrize("fault", range(len(FAULTS)))
def test_a_planted_fault_is_refused(fault: int, monkeypatch: pytest.MonkeyPatch) -> None:
    module, name, planted = FAULTS[fault]
    right = before_faults()
    monkeypatch.setattr(module, name, planted(getattr(module, name)))
    portfolio.tried.cache_clear()
    changed = 0
    for bound, before in zip(made(), right, strict=True):
        if (bound.relation, bound.expr, bound.assumptions) == (before.relation, before.expr, before.assumptions):
            continue
        changed += 1
        assert not bound.is_known or not bound.proof.check() or true(bound), bound
    portfolio.tried.cache_clear()
    assert changed


def test_true_statements_are_proved() -> None:
    assert all(bound.proof.check() for bound in before_faults())


@pytest.mark.parametrize("name", ["forward flops", "backward flops", "kv bytes"])
def test_conventions_are_told_twice(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """FLOPs and bytes are compared with masks by literal products and arrays, not by the factors of formulas."""
    source = ask.pairs(COMB) if "flops" in name else ask.live(COMB)
    bound = derived(source, asking(COMB, name, **FORM))
    assert bound.proof.check()
    monkeypatch.setattr(sizes, "FLOPS", {"forward flops": 5, "backward flops": 11})
    monkeypatch.setattr(sizes, "DTYPES", {**sizes.DTYPES, "bf16": 4})
    wrong = derived(source, asking(COMB, name, **FORM))
    assert wrong.expr != bound.expr and not wrong.proof.check()


def test_a_premise_that_is_not_proved_proves_nothing() -> None:
    pairs = ask.pairs(COMB)
    for premise in (
        pidsl.analysis.bound.restated(pairs, expr=pairs.expr + 1),
        pidsl.analysis.bound.restated(pairs, rule="degree"),
        pidsl.analysis.bound.restated(pairs, subject=window(9)),
    ):
        assert not derived(premise, asking(premise.subject, "sparsity")).proof.check()
    assert rules.verdict_of(derived(pairs, asking(COMB, "sparsity"))).holds
    assert Form(**FORM) == asking(COMB, "kv bytes", **FORM).form and symbol("n") == n
