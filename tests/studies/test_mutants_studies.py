"""Faults planted in what studies are made of: none of what comes out may be confirmed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import sympy

import pidsl
from pidsl import blocks, causal, lags, stride, symbols, window
from pidsl.analysis import consequence, held_out, sizes
from pidsl.analysis.bound import restated
from pidsl.analysis.formulas.words import L, n, symbol
from pidsl.analysis.schedules import BaseSchedule
from pidsl.language.terms import Term
from pidsl.studies import cost as costs
from pidsl.studies import design as designs
from pidsl.studies import limits, numbers, search
from pidsl.studies.claims import claims
from pidsl.studies.design import design
from pidsl.studies.judge import judge

k, p = symbols("k period")
FORM = dict(head_dim=24, heads=6, kv_heads=2, batch=5, dtype="fp32")


@pytest.fixture
def no_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkers alone: nothing is compared with dense masks."""
    monkeypatch.setattr(held_out, "refutation", lambda bound, purpose: "")


# -- bytes of tensors, FLOPs -------------------------------------------------------------------------------------------


def _of(tensor: str, wrong: Callable[[dict[str, Any]], Any]) -> Callable[[str, dict[str, Any]], sympy.Expr]:
    """`tensor_bytes` with one tensor wrong."""
    right = costs.tensor_bytes

    def faulty(quantity: str, given: dict[str, Any]) -> sympy.Expr:
        return right(quantity, given) + (wrong(given) if tensor in sizes.TENSORS[quantity] else 0)

    return faulty


TENSOR_FAULTS = {
    "kv heads for q": _of("q", lambda g: (g["kv_heads"] - g["heads"]) * 4 * g["head_dim"] * g["batch"] * n),
    "one k more": _of("k", lambda g: g["kv_heads"] * 4 * g["head_dim"] * g["batch"] * n),
    "no batch": _of("out", lambda g: (1 - g["batch"]) * g["heads"] * 4 * g["head_dim"] * n),
    "lse in 16 bits": _of("lse", lambda g: -2 * g["heads"] * g["batch"] * n),
    "one row more": _of("dq", lambda g: 4 * g["head_dim"]),
    "n squared": _of("q", lambda g: n * (n - 3) * (n - 8)),
    "right at the two n that are looked at": _of("v", lambda g: (n - 3) * (n - 8) * sympy.floor(n / 7)),
}


@pytest.mark.parametrize("fault", TENSOR_FAULTS)
def test_wrong_sizes_of_tensors(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = costs.cost(window(k), **FORM)  # type: ignore[arg-type]
    monkeypatch.setattr(costs, "tensor_bytes", TENSOR_FAULTS[fault])
    wrong = costs.cost(window(k), **FORM)  # type: ignore[arg-type]
    changed = [name for name, bound in wrong.bounds.items() if bound.expr != right.bounds[name].expr]
    assert changed and not any(wrong.bounds[name].proof.check() for name in changed)
    assert all(right.bounds[name].proof.check() for name in changed)


def test_wrong_tables_of_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checker has its own list of what is read and written, and its own sizes of elements."""
    monkeypatch.setitem(sizes.TENSORS, "backward write bytes", ("dq", "dk"))
    monkeypatch.setitem(sizes.DTYPES, "fp32", 2)
    found = costs.cost(window(3), **FORM)  # type: ignore[arg-type]
    for name in ("forward_read_bytes", "forward_write_bytes", "backward_write_bytes"):
        assert not found.bounds[name].proof.check()


@pytest.mark.parametrize("quantity", ["forward flops", "backward flops", "kv bytes"])
@pytest.mark.parametrize("wrong", [lambda x: x + 1, lambda x: 2 * x, lambda x: x // 2])
def test_wrong_factors(quantity: str, wrong: Callable[[int], int], monkeypatch: pytest.MonkeyPatch) -> None:
    right = sizes.factor
    monkeypatch.setattr(consequence, "factor", lambda quantity, given: wrong(right(quantity, given)))
    found = costs.cost(window(3) | lags(9), **FORM)  # type: ignore[arg-type]
    assert not found.bounds[quantity.replace(" ", "_")].proof.check()


# -- designs -----------------------------------------------------------------------------------------------------------


def test_what_is_said_of_a_candidate() -> None:
    found = design(200, 3, families=["window | skip", "base schedule"])
    assert found.check()
    assert not replace(found, least_degree=found.least_degree + 1).check()
    assert not replace(found, least_degree=found.least_degree - 1).check()
    for right in found.found:
        other = design(150, 3, families=["window | stride"]).best
        assert other is not None and right.least_pairs is not None and right.least_at is not None
        first = right.counts[0]
        for wrong in (
            replace(right, pairs=right.pairs - 1),
            replace(right, degree=right.degree - 1),
            replace(right, layers=2),
            replace(right, n=201),
            replace(right, least_pairs=right.least_pairs + 1),
            replace(right, least_at=right.least_at + 1),
            replace(right, least_at=None),
            replace(right, pattern=other.pattern),
            replace(right, depth=other.depth),
            replace(right, depth=restated(right.depth, expr=right.depth.expr - 1)),
            replace(right, depth=restated(right.depth, relation=">=")),
            replace(right, counts=right.counts[:-1]),
            replace(right, pairs=right.pairs - 1, counts=(restated(first, expr=first.expr - 1), *right.counts[1:])),
            replace(right, counts=other.counts),
            replace(right, counts=tuple(restated(x, expr=x.expr - 1) for x in right.counts)),
        ):
            assert not wrong.check(), wrong


def test_depth_of_what_looks_ahead_is_about_all_pairs() -> None:
    right = design(20, 3, family=lambda w: window(w, w), ranges={"w": (1, 19)}).best
    assert right is not None and right.check() and right.depth.argument("of") == "all"
    causal_pairs = pidsl.analysis.questions.depth(right.pattern, 20, "causal")
    assert not replace(right, depth=causal_pairs).check()


SEARCH_FAULTS: dict[str, tuple[Any, str, Callable[..., Any], str]] = {
    "a period too long": (
        search, "_choice", lambda k, n, layers, pairs, degree, *more: search.Choice(
            layers * pairs, degree, (k, *(x + 1 for x in more)), (layers * search.window_pairs(k + 1, n), k + 2)
        ), "window | stride",
    ),
    "a skip too long": (search, "_longest_skip", lambda k, n, layers: k * min(layers, n) + 2, "window | skip"),
    "a base too small": (
        search, "least_degree", lambda n, layers: limits.least_degree(n, layers) - 1, "base schedule",
    ),
    "a degree too small": (designs, "cost_at", lambda term, n: (0, 2), "window"),
    "pairs too few": (designs, "_exactly", lambda bound, n: 7, "window"),
    "a lower bound too high": (
        designs, "least_pairs", lambda n, layers, same: (limits.least_pairs(n, layers, same)[0] + 1, 9), "window",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", SEARCH_FAULTS)
def test_faults_in_a_search(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worse member may be found, or none: whatever is said of one is true or refused."""
    module, name, wrong, family = SEARCH_FAULTS[fault]
    right = design(300, 3, families=[family]).best
    assert right is not None
    monkeypatch.setattr(module, name, wrong)
    found = design(300, 3, families=[family])
    monkeypatch.undo()
    assert found.best is None or not found.best.check() or found.best == right


def test_a_filter_that_lets_everything_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting is a filter only: the depth of what is found is a formula with a proof."""
    ranges = {"w": (1, 24)}
    right = design(60, 3, family=lambda w: window(w), ranges=ranges).best
    monkeypatch.setattr(search, "depth_within", lambda terms, n, layers: 1)
    assert design(60, 3, family=lambda w: window(w), ranges=ranges).best == right


@pytest.mark.parametrize("tokens", [1, 2, 9, 40])
@pytest.mark.parametrize("term", [window(3), window(2) | lags(7), stride(3) & causal, lags(1, 4), window(0)])
def test_counted_is_what_the_masks_say(term: Term, tokens: int) -> None:
    mask = pidsl.relation.oracle.dense_mask(term, tokens)
    assert numbers.cost_at(term, tokens) == (int(mask.sum()), int(mask.sum(1).max()))
    depth = pidsl.analysis.dense.depth_of([term], tokens, "causal")
    for layers in (1, 3, 60):
        within = depth if depth is not None and depth <= layers else float("inf")
        assert numbers.depth_within([term] * layers, tokens, layers) == within


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize(("tokens", "layers"), [(1, 1), (7, 1), (7, 3), (50, 2), (50, 4), (300, 3)])
def test_the_bound_is_the_best_of_all_m(tokens: int, layers: int, same: bool) -> None:
    best, m = limits.least_pairs(tokens, layers, same)
    assert best == limits.pairs_needed(tokens, layers, same, m)
    assert best == max(limits.pairs_needed(tokens, layers, same, m) for m in range(1, tokens + 1))


# -- claims ------------------------------------------------------------------------------------------------------------


WRONG = [
    (window(k) | lags(p), "farthest", "<=", symbol("period") * L - 1, {"layers": "L"}),
    (window(k), "pairs", "<=", n * (symbol("k") + 1) - 1, {}),
    (window(k), "live keys", "<=", symbol("k") - 1, {}),
    (blocks(8) & causal, "degree", "==", symbol("i") - 8 * sympy.floor(symbol("i") / 8), {}),
    (BaseSchedule(2), "depth", "<=", sympy.Integer(3), {"of": "causal"}),
    (window(3) | stride(5) & causal, "max degree", "<=", n / 5 + 3, {}),
    (causal - blocks(8), "pairs", "==", n * n / 2, {}),
]


@pytest.mark.parametrize(("subject", "quantity", "relation", "expr", "given"), WRONG, ids=lambda x: str(x)[:24])
def test_wrong_claims_are_refuted(subject: Any, quantity: str, relation: Any, expr: Any, given: Any) -> None:
    question = pidsl.analysis.bound.asking(subject, quantity, **given)
    claim = pidsl.analysis.bound.Bound(question, relation, expr, (symbol("period") > symbol("k"),) if given else ())
    claim = replace(claim, assumptions=claim.assumptions if "period" in str(claim.expr) else ())
    found = judge(claim)
    assert found.outcome == "refuted" and found.check() and found.counterexample is not None
    assert not replace(found.counterexample, actual=found.counterexample.claimed).check()


SLOW = ("LogSparse, keys", "PowerAttention, degree")  # a sum of eleven cases
CHEAP = [
    c
    for c in claims()
    if not getattr(c.bound.subject, "symbols", None) and "documents" not in c.bound.quantity and c.name not in SLOW
]


@pytest.mark.parametrize("claim", CHEAP, ids=lambda claim: claim.name)
def test_other_formulas_than_a_claim_s_are_not_proved(claim: Any, no_masks: None) -> None:
    """By their rule alone: one less where it is attained, and no proof carries over to another pattern."""
    found = judge(claim.bound)
    exact = found.exact
    assert exact is not None and exact.is_exact
    stated = replace(found.claim, certificate=replace(exact.certificate, rule=consequence.RULE, premises=(exact,)))
    too_little = replace(stated, relation="<=", expr=exact.expr - 1) if exact.expr.is_finite is not False else None
    assert too_little is None or not too_little.proof.check()
    assert not restated(stated, subject=window(17) & causal).proof.check()
