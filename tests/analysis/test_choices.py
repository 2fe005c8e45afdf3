"""Bounds of patterns from which calls choose: met by every list, verified, and refused where they are wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

import pidsl
from pidsl import Bound, causal, chosen, documents, keys, lags, stride, symbols, window
from pidsl.analysis import choices, held_out
from pidsl.analysis.bound import Certificate, restated
from pidsl.language.terms import Term
from pidsl.testing import terms

k, b = symbols("k b")
PLAIN = window(3) | chosen(4, 2, queries=3)
TERMS = (
    PLAIN, chosen(3, 1, queries=1), window(2) & causal | keys(0, 2) & causal | chosen(2, 3, queries=4),
    chosen(4, 2, within=window(9)) - keys(0, 2) | lags(0, 5), stride(3) & causal | chosen(5, 1, queries=2),
)  # fmt: skip


def worst(term: Term, n: int, most: bool = True) -> tuple[np.ndarray[Any, Any], int]:
    """Keys of each query, and pairs, under the lists that make most of them: every list of one block row is tried."""
    forced, possible = term.forced.mask(n), term.possible.mask(n)
    size = pidsl.language.chosen.selection(term)  # type: ignore[attr-defined]
    assert size is not None
    block, budget, queries = size.numbers
    gained = np.stack([(possible & ~forced)[:, x : x + block].sum(1) for x in range(0, n, block)], 1)
    rows = forced.sum(1) + np.sort(gained, 1)[:, ::-1][:, :budget].sum(1)
    shared = np.stack([gained[x : x + queries].sum(0) for x in range(0, n, queries)])
    return rows, int(forced.sum() + np.sort(shared, 1)[:, ::-1][:, :budget].sum())


@pytest.mark.parametrize("term", TERMS, ids=repr)
def test_counts_are_met_by_every_list(term: Term) -> None:
    pairs, degree, most = term.pairs(), term.degree().of_query, term.degree().maximum
    assert [x.relation for x in (pairs, degree, most)] == ["<="] * 3
    size = pidsl.language.chosen.selection(term)  # type: ignore[attr-defined]
    draw = np.random.default_rng(0)
    tried = 0
    for n in (1, 2, 5, 9, 16, 23):
        rows, total = worst(term, n)
        assert total <= pairs(n=n) and rows.max() <= most(n=n)
        assert all(x <= degree(i=i, n=n) for i, x in enumerate(rows))
        for _ in range(340):  # random lists: 10,000 over all terms and lengths
            shape = -(-n // size.queries), size.budget
            mask = term.mask(n, blocks=draw.integers(-1, -(-n // size.block), shape))
            tried += 1
            assert mask.sum() <= total and (mask.sum(1) <= rows).all()
    assert tried * len(TERMS) >= 10_000


@pytest.mark.parametrize("term", TERMS, ids=repr)
def test_they_are_verified(term: Term) -> None:
    degree = term.degree()
    for bound in (term.pairs(), degree.of_query, degree.maximum, term.sparsity(), term.live(), term.depth(),
                  term.farthest(), term.farthest(2), term.contiguous(2)):  # fmt: skip
        if bound.is_known:
            assert bound.proof.check(), bound.proof.verdict().failure


def test_budgets_with_symbols() -> None:
    term = window(k) | chosen(64, b)
    found = term.degree().maximum
    assert found.proof.check() and found(k=3, b=2, n=1000) == 4 + 128
    assert term.pairs().proof.check()


def test_reach_is_bounded_from_both_sides() -> None:
    term = window(3) | chosen(4, 2, within=window(20))
    draw = np.random.default_rng(1)
    n, layers = 40, 3
    most, least = term.farthest(layers)(n=n), term.forced.farthest(layers)(n=n)
    for _ in range(200):
        seen = np.eye(n, dtype=bool)
        for _ in range(layers):
            mask = term.mask(n, blocks=draw.integers(-1, 10, (1, 2)))
            seen = (mask.astype(int) @ seen.astype(int)) > 0
        i, j = np.nonzero(seen)
        assert least <= (i - j).max() <= most


def test_within_documents() -> None:
    term = PLAIN & documents
    degree = term.degree()
    for bound in (term.pairs(), degree.of_query, degree.maximum, term.sparsity(), term.live()):
        assert bound.is_known and bound.proof.check(), bound.proof.verdict().failure
    assert pidsl.no_leak(term).expr == 0 and pidsl.no_leak(term).proof.check()


def test_what_a_cost_says() -> None:
    found = PLAIN.cost(64)
    assert found.pairs.relation == found.forward_flops.relation == "<="
    assert found.forward_flops.proof.check() and found.plan is not None
    row = pidsl.compare([PLAIN, causal], n=64, layers=2)
    assert "<=" in str(row)


def test_certificates_travel() -> None:
    bound = PLAIN.degree().maximum
    assert Bound.from_json(bound.to_json()) == bound


@given(terms(2), terms(2), st.integers(1, 9))
@settings(max_examples=25)
def test_random_patterns(static: Term, within: Term, n: int) -> None:
    term = static | chosen(2, 2, queries=3, within=within)
    rows, total = worst(term, n)
    pairs, most = term.pairs(), term.degree().maximum
    if pairs.is_known:
        assert total <= pairs(n=n)
    if most.is_known:
        assert rows.max() <= most(n=n)


# -- wrong ones -----------------------------------------------------------------------------------------------------

FAULTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "a key of each block lost": lambda m: m.setattr(choices, "from_index", lambda x: sympy.Integer(x) - 1),
    "one query": lambda m: m.setitem(choices.CAPPED, "pairs", sympy.Integer(1)),  # type: ignore[arg-type]
    "no budget": lambda m: m.setattr(choices, "_capped", lambda expr, _: expr),
    "what is possible forgotten": lambda m: m.setattr(choices, "of_most", choices.of_least),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("masks", [True, False])
def test_a_faulty_budget_is_refused(fault: str, masks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from pidsl.analysis.bound import asking
    from pidsl.analysis.portfolio import answer

    term = window(3) | chosen(4, 2, queries=3, within=causal & ~window(1))
    true = term.pairs()
    with monkeypatch.context() as m:
        FAULTS[fault](m)
        wrong = choices.bounded(asking(term, "pairs"), answer)
    assert wrong != true
    if not masks:
        monkeypatch.setattr(held_out, "refutation", lambda bound, purpose: "")
    assert not wrong.proof.check()
    assert true.proof.check()


@pytest.mark.parametrize("quantity", ["pairs", "max degree", "live keys", "farthest", "depth"])
def test_tampered_statements_are_refused(quantity: str) -> None:
    bound = {
        "pairs": PLAIN.pairs(), "max degree": PLAIN.degree().maximum, "live keys": PLAIN.live(),
        "farthest": PLAIN.farthest(2), "depth": PLAIN.depth(),
    }[quantity]  # fmt: skip
    assert bound.proof.check()
    worse = -1 if bound.relation == "<=" else 1
    for wrong in (
        replace(bound, expr=bound.expr + worse),
        replace(bound, relation="=="),
        replace(bound, relation=">=" if bound.relation == "<=" else "<="),
        restated(bound, subject=PLAIN | lags(7)),
        restated(bound, subject=chosen(4, 3, queries=3) | window(4)),
        replace(bound, certificate=Certificate("choice")),
    ):
        assert not wrong.proof.check(), wrong


def test_other_rules_prove_nothing_of_choices() -> None:
    """What is proved of all that is possible is no lower bound of what is chosen."""
    possible = PLAIN.possible.pairs()
    for relation in ("==", ">=", "<="):
        moved = replace(restated(possible, subject=PLAIN), relation=relation)
        assert not moved.proof.check()


def test_a_design_with_a_budget() -> None:
    """What is forced connects the tokens whatever is chosen; pairs and degree are the most that lists make of them."""
    found = pidsl.design(64, 4, family=lambda w, b: window(w) | chosen(4, b), ranges={"w": (7, 16, 20), "b": (1, 2)})
    best = found.best
    assert best is not None and dict(best.parameters) == {"w": 16, "b": 1}
    rows, pairs = worst(window(16) | chosen(4, 1), 64)
    assert best.degree >= rows.max() and best.pairs >= 4 * pairs
    assert best.depth.subject == window(16) and found.check()
