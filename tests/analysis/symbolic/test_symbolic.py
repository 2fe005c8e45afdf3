"""Formulas with symbols against dense masks; their proofs, z3's and cvc5's answers; refused assumptions."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import cvc5
import numpy as np
import pytest
import sympy
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import pidsl
from pidsl import blocks, causal, full, keys, lags, stride, symbols, window
from pidsl.analysis import held_out as against_masks
from pidsl.analysis import questions as ask
from pidsl.analysis.bound import Bound
from pidsl.analysis.domains import domain
from pidsl.analysis.formulas import smt
from pidsl.analysis.formulas.assume import conditions
from pidsl.analysis.formulas.words import CeilLog, Periodic, Table, floor_div, holds, symbol, value_of
from pidsl.analysis.schedules import BaseSchedule, SkipSchedule
from pidsl.analysis.symbolic import lag_reach
from pidsl.analysis.symbolic.definition import first_layer, holds_at, layer_at

k, p, q, s = symbols("k p q s")
K, P, N, L = (symbol(name) for name in "kpnL")
COMB = stride(p) & causal
SOME = settings.default.max_examples * 3 // 5
TERMS = [
    window(k), COMB, stride(p), window(k) | COMB, window(k) | lags(p), window(k, k), window(k).dilated(p), window(k).T,
    lags(p), window(k) | lags(p, q), stride(p, 1), causal, full, window(2 * k + 1), (window(k) | lags(p)).T,
    window(k).shift(p), window(k).dilated(p) & causal, COMB | full & causal,
]  # fmt: skip


def formula(text: str) -> Any:
    """A formula written by hand, over this library's symbols."""
    return sympy.sympify(text, locals={name: symbol(name) for name in ("k", "p", "n", "L", "b", "t", "s")})


def layers_of(subject: Any, layers: int, n: int) -> Any:
    """The dense relation of some layers, and of none: what each token holds of the input."""
    terms = subject.terms(layers) if hasattr(subject, "terms") else [subject] * layers
    seen = np.eye(n, dtype=bool)
    for term in terms:
        seen = (term.mask(n).astype(int) @ seen.astype(int)) > 0
    return seen


def contiguous(seen: Any) -> int:
    n = len(seen)
    return next((lag - 1 for lag in range(n) if not np.diagonal(seen, -lag).all()), n - 1)


def farthest(seen: Any) -> float:
    i, j = np.nonzero(seen)
    return int((i - j).max()) if len(i) else -math.inf


def values(term: Any, draw: Any) -> dict[str, int]:
    return {name: draw(st.integers(0, 9)) for name in sorted(term.symbols)}


# -- counts ------------------------------------------------------------------------------------------------------


@settings(max_examples=SOME)
@given(st.sampled_from(TERMS), st.integers(0, 24), st.data())
def test_pairs_and_degree_are_counted_right(term: Any, n: int, data: st.DataObject) -> None:
    numbers = values(term, data.draw)
    bound, degree = term.pairs(), term.degree()
    try:
        mask = term.bind(**numbers).mask(n)
        found = bound(n=n, **numbers)
    except (pidsl.TermError, pidsl.SizeError):
        assume(False)  # the numbers are outside the domain of the term or of the formula
    assert bound.relation == "==" or (bound.relation == "<=" and mask.sum() <= found)
    assert found == mask.sum() or bound.relation == "<="
    for i in range(n):
        assert degree.of_query(i=i, n=n, **numbers) == mask[i].sum()
    if n:
        largest = degree.maximum(n=n, **numbers)
        assert largest == mask.sum(1).max() or (degree.maximum.relation == "<=" and largest >= mask.sum(1).max())
        assert degree.average(n=n, **numbers) * n == mask.sum()


@pytest.mark.parametrize("term", TERMS, ids=repr)
def test_the_definition_by_lag_is_the_mask(term: Any) -> None:
    numbers = {"k": 2, "p": 4, "q": 7, "s": 1}
    d = symbol("d")
    mask = term.bind(**{name: numbers[name] for name in term.symbols}).mask(12)
    condition = holds_at(term, d).subs({symbol(name): value for name, value in numbers.items()})
    for i in range(12):
        for j in range(12):
            assert bool(condition.subs(d, i - j)) == mask[i, j]


@pytest.mark.parametrize(
    ("term", "under", "wanted"),
    [
        (window(k), "n > k", "(k + 1)*(2*n - k)/2"),
        (COMB, "", "(2*n - p*floor((n - 1)/p))*(floor((n - 1)/p) + 1)/2"),
        (
            window(k) | COMB,
            "p > k, n > p",
            "(k + 1)*(2*n - k)/2 - n + (2*n - p*floor((n - 1)/p))*(floor((n - 1)/p) + 1)/2",
        ),
        (window(k) | lags(p), "n > p", "(k + 1)*(2*n - k)/2 + n - p"),
    ],
)  # fmt: skip
def test_pairs_in_simple_form(term: Any, under: str, wanted: str) -> None:
    bound = term.pairs(assume=under)
    assert bound.is_exact
    assert sympy.expand(bound.expr - formula(wanted)) == 0
    assert bound.proof.check()
    assert not replace(bound, expr=bound.expr + 1).proof.check()
    assert not replace(bound, expr=bound.expr + N).proof.check()


@pytest.mark.parametrize("term", [window(k, k), window(k).dilated(p), (window(k) | lags(p)).T, stride(p)], ids=repr)
def test_proofs_of_counts(term: Any) -> None:
    for bound in (term.pairs(), term.degree().of_query, term.degree().average):
        assert bound.proof.check(), bound.proof.verdict().failure
        assert not replace(bound, expr=bound.expr + 1).proof.check()


def test_a_token_and_one_before_it() -> None:
    """Lags 0 and p are no window with a skip, whose gap the window closes, but multiples of p."""
    for quantity in ("farthest", "contiguous", "depth"):
        found = getattr(window(0) | lags(p), quantity)()
        assert found.expr == getattr(window(1).dilated(p), quantity)().expr and found.proof.check()
    for lag, count, tokens in itertools.product((1, 2, 5), (1, 2, 3), (2, 9, 24)):
        far = min(count * lag, (tokens - 1) // lag * lag)
        for term in (window(0) | lags(lag), lags(0, lag)):
            assert term.farthest(count)(n=tokens) == far
            assert term.contiguous(count)(n=tokens) == (far if lag == 1 else 0)


def test_a_bound_for_symbolic_moduli_is_not_returned_while_z3_does_not_decide_it() -> None:
    bound = (COMB | stride(q) & causal).pairs()
    assert not bound.is_known
    assert "own check does not confirm" in bound.reason
    assert not (COMB | stride(q) & causal).sparsity().is_known
    # with numbers, both are exact again
    assert (stride(4) & causal | stride(6) & causal).pairs().is_exact


def test_what_has_no_formula_says_why() -> None:
    bound = (window(k) | blocks(s)).pairs()
    assert bound.relation == "unknown"
    assert "bind the symbols to numbers" in bound.reason
    assert "unknown" in str(bound)
    assert not bound.proof.check()
    with pytest.raises(pidsl.TooHardError, match="pairs is unknown"):
        bound(n=3, k=1, s=1)


# -- reach -------------------------------------------------------------------------------------------------------

FAMILIES = [
    window(k), window(k) | lags(p), window(k) | COMB, COMB, blocks(p), blocks(p) & causal, window(k).dilated(p),
    window(k) | keys(0, s) & causal, (window(k) | keys(0, s)) & causal,
]  # fmt: skip


@settings(max_examples=SOME)
@given(st.sampled_from(FAMILIES), st.integers(1, 4), st.integers(1, 26), st.data())
def test_reach_of_families(term: Any, layers: int, n: int, data: st.DataObject) -> None:
    numbers = values(term, data.draw)
    for quantity, measure in (("farthest", farthest), ("contiguous", contiguous)):
        for bound in (getattr(term, quantity)(), getattr(term, quantity)(layers)):
            assert bound.is_exact
            try:
                found = bound(n=n, L=layers, **numbers)
                seen = layers_of(term.bind(**numbers), layers, n)
            except (pidsl.TermError, pidsl.SizeError):
                continue  # outside the domain: too short a sequence, or p <= k
            assert found == measure(seen)


@given(st.sampled_from(FAMILIES), st.integers(1, 24), st.data())
def test_depth_of_families(term: Any, n: int, data: st.DataObject) -> None:
    numbers = values(term, data.draw)
    bound = term.depth()
    try:
        found = bound(n=n, **numbers)
        concrete = term.bind(**numbers)
    except (pidsl.TermError, pidsl.SizeError):
        assume(False)
    wanted = np.tri(n, dtype=bool)
    enough = (layers for layers in range(1, n + 2) if (layers_of(concrete, layers, n) | ~wanted).all())
    assert found == next(enough, math.inf)


LIVE = [
    window(k), window(k) | lags(p), COMB, window(k) | COMB, blocks(p) & causal, window(k) | keys(0, s) & causal,
    stride(p, 2) & causal,
]  # fmt: skip


@given(st.sampled_from(LIVE), st.integers(0, 12), st.data())
def test_live_keys(term: Any, t: int, data: st.DataObject) -> None:
    numbers = values(term, data.draw)
    bound = term.live()
    assert bound.is_exact
    try:
        found = bound(t=t, **numbers)
        mask = term.bind(**numbers).mask(60)
    except (pidsl.TermError, pidsl.SizeError):
        assume(False)
    assert found == mask[t + 1 :, : t + 1].any(0).sum()


def test_the_flagship() -> None:
    term = window(k) | lags(p)
    far, near = term.farthest(), term.contiguous()
    assert far.expr == P * L
    c = sympy.ceiling((P - 1) / K)
    assert near.under("L < (p - 1)//k").expr == K * L
    late = near.under("L >= p").expr  # L >= p is L >= c as well
    assert sympy.expand(late - (P * (L + 1 - c) + K * (c - 1))) == 0
    assert near(k=4, p=16, L=12) == 156
    assert far(k=4, p=16, L=12) == 192
    assert (window(k) | COMB).depth().expr == 1 + c
    for bound in (far, near, near.under("L >= p"), term.depth(), (window(k) | COMB).depth()):
        assert bound.proof.check(), bound.proof.verdict().failure
    assert not replace(near, expr=near.expr + 1).proof.check()
    assert not replace(far, expr=far.expr - L).proof.check()


@pytest.mark.parametrize("term", FAMILIES, ids=repr)
def test_proofs_of_reach(term: Any) -> None:
    for bound in (term.farthest(), term.contiguous(3), term.contiguous(), term.depth(), term.live()):
        assert bound.proof.check(), bound.proof.verdict().failure
        if bound.expr != sympy.oo:
            assert not replace(bound, expr=bound.expr + 1).proof.check()
    assert not replace(term.farthest(), expr=sympy.oo).proof.check()


@pytest.mark.parametrize("quantity", ["farthest", "contiguous", "depth"])
@pytest.mark.parametrize("subject", [*FAMILIES[:-1], BaseSchedule(p), SkipSchedule(k, p)], ids=repr)
def test_a_wrong_answer_of_a_family_is_not_proved(subject: Any, quantity: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checker that took the family's word for the formula would pass."""
    if isinstance(subject, SkipSchedule) and quantity != "farthest":
        assert not reach_of(subject, quantity).is_known
        return
    right = reach_of(subject, quantity)
    assert right.is_known and (subject in FAMILIES or right.proof.check())  # of families: test_proofs_of_reach
    monkeypatch.setattr(against_masks, "refutation", lambda bound, purpose: "")
    wrong = sympy.Integer(3) if right.expr.has(sympy.oo) else right.expr + 1
    assert not replace(right, expr=wrong).proof.check()


def reach_of(subject: Any, quantity: str) -> Bound:
    return ask.depth(subject) if quantity == "depth" else getattr(ask, quantity)(subject)


def test_assumptions_are_part_of_the_statement() -> None:
    bound = (window(k) | lags(p)).farthest()
    assert bound.proof.check()
    weaker = replace(bound, assumptions=tuple(c for c in bound.assumptions if c != (P > K)))
    assert not weaker.proof.check()


@pytest.mark.parametrize("base", [2, 3, 5])
def test_schedules_by_digits(base: int) -> None:
    bound = ask.contiguous(BaseSchedule(symbols("b")))
    far, deep = ask.farthest(BaseSchedule(symbols("b"))), ask.depth(BaseSchedule(symbols("b")))
    for layers in (1, 2, 3):
        n = base**layers + 4
        seen = layers_of(BaseSchedule(base), layers, n)
        assert contiguous(seen) == bound(b=base, L=layers) == base**layers - 1
        assert farthest(seen) == far(b=base, L=layers)
    for n in (1, 2, 3, 8, 9, 10, 27, 28):
        enough = (x for x in range(1, 9) if (layers_of(BaseSchedule(base), x, n) | ~np.tri(n, dtype=bool)).all())
        assert deep(b=base, n=n) == next(enough)
    assert all(b.proof.check() for b in (bound, far, deep))


@pytest.mark.parametrize("first", [1, 2])
def test_schedules_with_some_skips(first: int) -> None:
    bound = ask.farthest(SkipSchedule(k, p, first=first))
    assert bound.proof.check()
    for layers in (1, 2, 3, 4, 5, 8):
        assert farthest(layers_of(SkipSchedule(2, 5, first=first), layers, 60)) == bound(k=2, p=5, L=layers)


def test_values_are_worked_out_in_integers() -> None:
    x = symbol("x")
    # sympy takes Max(2, 2*x)/6 for an integer: no floor is left to work out
    assert not sympy.floor(sympy.Max(2, 2 * x) / 6).has(sympy.floor)
    assert floor_div(sympy.Max(2, 2 * x), sympy.Integer(6)) == sympy.Max(0, sympy.floor(x / 3))
    assert floor_div(x + sympy.Min(4, 2 * x), sympy.Integer(6)).has(sympy.floor)
    for at in range(-9, 9):
        for e in (x + sympy.Min(4, 2 * x), 5 - sympy.Max(x, 2 * x, 4), sympy.Min(x, 4) - sympy.Min(2, 2 * x)):
            want = value_of(e, {x: sympy.Integer(at)}) // 6
            assert value_of(floor_div(e, sympy.Integer(6)), {x: sympy.Integer(at)}) == want
    assert value_of(Periodic(x, sympy.oo, 1), {x: sympy.Integer(4)}) == math.inf
    assert value_of(Table(x, 5, 7) + CeilLog(2, x + 4), {x: sympy.Integer(1)}) == 10
    with pytest.raises(ValueError, match="no entry 2"):
        value_of(Table(x, 5, 7), {x: sympy.Integer(2)})
    with pytest.raises(ValueError, match="no number"):
        value_of(x + N, {x: sympy.Integer(1)})


def test_logarithms() -> None:
    for base in (2, 3, 10):
        for x in range(1, 200):
            c = int(CeilLog(base, x))
            assert base**c >= x and (c == 0 or base ** (c - 1) < x)


# -- proofs ------------------------------------------------------------------------------------------------------


def cvc5_answers(text: str) -> list[str]:
    found = []
    for script in text.split("(reset)"):
        terms = cvc5.TermManager()
        solver = cvc5.Solver(terms)
        solver.setOption("rlimit", "2000000")
        parser = cvc5.InputParser(solver)
        parser.setStringInput(cvc5.InputLanguage.SMT_LIB_2_6, script, "obligation")
        manager, said = parser.getSymbolManager(), ""
        while not (command := parser.nextCommand()).isNull():
            said += str(command.invoke(solver, manager))
        found.append(said.strip())
    return found


@pytest.mark.parametrize(
    ("question", "subject"),
    [
        (ask.pairs, window(k)), (ask.pairs, window(k) | lags(p)), (ask.farthest, window(k) | lags(p)),
        (ask.contiguous, window(k) | lags(p)), (ask.depth, window(k) | COMB), (ask.degree, window(k)), (ask.live, COMB),
        (ask.farthest, BaseSchedule(p)), (ask.farthest, SkipSchedule(k, p)), (ask.degree, blocks(p) & causal),
    ],
    ids=lambda x: getattr(x, "__name__", repr(x)),
)  # fmt: skip
def test_another_solver_agrees(question: Any, subject: Any) -> None:
    found = question(subject)
    bound = found.of_query if question is ask.degree else found
    answers = cvc5_answers(bound.proof.to_smtlib())
    assert answers
    assert set(answers) == {"unsat"}


def test_another_solver_refutes_a_tampered_statement(monkeypatch: pytest.MonkeyPatch) -> None:
    bound = window(k).farthest()
    wrong = replace(bound, expr=bound.expr + 1)
    assert wrong.proof.to_smtlib().startswith("; not proved: at k = ")  # the masks say so first
    monkeypatch.setattr(against_masks, "refutation", lambda bound, purpose: "")
    with smt.writing():
        assert "sat" in cvc5_answers(wrong.proof.verdict().smtlib)


@pytest.mark.parametrize("wrong", [lambda e: e + 1, lambda e: e - 1, lambda e: 2 * e])
def test_a_script_of_a_wrong_depth_does_not_pass(wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(against_masks, "refutation", lambda bound, purpose: "")
    bound = window(k).depth()
    scripts = bound.proof.to_smtlib()
    assert scripts.startswith(f"; {bound.name} of {bound.subject}") and "(define-fun attends " in scripts
    with smt.writing():
        verdict = replace(bound, expr=wrong(bound.expr)).proof.verdict()
    assert not verdict.holds and "sat" in cvc5_answers(verdict.smtlib)


def test_scripts_name_what_they_are_about() -> None:
    odd = symbols("attends")
    bound = (window(odd) | lags(k)).farthest()
    scripts = bound.proof.to_smtlib()
    assert "(define-fun attends! " in scripts and "(define-fun formula ((n Int) (L Int)) Int (* L k))" in scripts
    assert set(cvc5_answers(scripts)) == {"unsat"}
    comb = (COMB | window(3)).degree().of_query
    with smt.writing():
        assert "cases that follow" in comb.proof.verdict().smtlib or comb.proof.check()


@pytest.mark.parametrize("rule", [BaseSchedule(p), SkipSchedule(k, p), SkipSchedule(k, p, 2)], ids=repr)
def test_the_layers_of_rules_are_as_defined(rule: Any) -> None:
    d, (small, large) = symbol("d"), ((2, 3), (3, 7))
    for numbers in ({"k": small[0], "p": small[1]}, {"k": large[0], "p": large[1]}):
        own = {name: numbers[name] for name in rule.symbols}
        at = {symbol(name): value for name, value in own.items()}
        for layer in range(6):
            mask = rule.bind(**own).layer(layer).mask(40)
            where = first_layer(rule, d) if layer == 0 else layer_at(rule, d)
            assert all(holds(where, {**at, L: layer, d: lag}) == mask[39, 39 - lag] for lag in range(40))


BETWEEN = [
    window(s).blocked(k) & causal, blocks(k) & causal | keys(0, s) & causal, blocks(k) | window(s),
    window(1, 1).blocked(k), window(k) | window(1).blocked(s) & causal | keys(0, p),
]  # fmt: skip


@pytest.mark.parametrize("term", BETWEEN, ids=repr)
def test_live_keys_between_blocks(term: Any) -> None:
    bound = term.live()
    assert bound.is_exact and bound.proof.check(), bound.proof.verdict().failure
    assert not replace(bound, expr=bound.expr + 1).proof.check()
    for numbers in ({"k": 3, "s": 2, "p": 4}, {"k": 1, "s": 5, "p": 2}):
        own = {name: numbers[name] for name in term.symbols}
        mask = term.bind(**own).mask(60)
        for t in range(14):
            assert bound(t=t, **own) == mask[t + 1 :, : t + 1].any(0).sum()


def test_the_largest_degree_of_what_looks_at_more_than_the_lag() -> None:
    for term in (window(k, k), window(k, k) | keys(0, p), window(k) | keys(0, s) & causal, blocks(k) & causal):
        bound = term.degree().maximum
        assert bound.is_exact and bound.proof.check(), bound.proof.verdict().failure
        assert not replace(bound, expr=bound.expr + 1).proof.check()
        assert not replace(bound, expr=bound.expr - 1).proof.check()
        for numbers, n in itertools.product(({"k": 3, "s": 2, "p": 4}, {"k": 1, "s": 0, "p": 1}), (1, 2, 9, 20)):
            own = {name: numbers[name] for name in term.symbols}
            assert bound(n=n, **own) == term.bind(**own).mask(n).sum(1).max()


@pytest.mark.parametrize("text", ["p < k", "k > 3, k < 2", "n < 0"])
def test_contradictory_assumptions_prove_nothing(text: str) -> None:
    term = window(k) | lags(p)
    with pytest.raises(pidsl.TermError, match="from contradictory ones anything follows"):
        term.pairs(assume=("p > k", text)).under(text)
    bound = replace(term.pairs(), assumptions=(*term.pairs().assumptions, *conditions(text), P > K, N >= 0))
    assert not bound.proof.check()


@pytest.mark.parametrize(
    "text",
    ["k", "k >", "k and p", "k < p.x", "f(k) > 1", "k in p", "k > 1.5", "k > True"],
)
def test_assumptions_are_comparisons(text: str) -> None:
    with pytest.raises(pidsl.ParseError, match="the assumption"):
        window(k).pairs(assume=text)


def test_assumptions_as_text() -> None:
    assert conditions("0 <= k < p, n == 2*p") == (K >= 0, K < P, sympy.Eq(N, 2 * P))
    assert conditions([K > 1, "p % 2 == 1"]) == (K > 1, sympy.Eq(sympy.Mod(P, 2), 1))
    assert conditions("k // 2 >= -1") == (sympy.Ge(sympy.floor(K / 2), -1, evaluate=False),)


def test_wrong_use() -> None:
    term = window(k) | lags(p)
    with pytest.raises(pidsl.SymbolError, match="without k"):
        term.pairs()(n=4, p=3)
    with pytest.raises(pidsl.SizeError, match="layers = -1"):
        term.farthest(-1)
    with pytest.raises(pidsl.SizeError, match="n = -1"):
        term.pairs()(n=-1, k=1, p=3)
    with pytest.raises(pidsl.SizeError, match="p > k"):
        term.pairs()(n=4, k=5, p=3)
    with pytest.raises(pidsl.TermError, match='"causal" or "all"'):
        term.depth(of="some")
    with pytest.raises(pidsl.TermError, match="a pattern"):
        ask.pairs(pidsl.gate(a=causal, b=window(3)))  # type: ignore[arg-type]
    with pytest.raises(pidsl.SymbolError):
        BaseSchedule(symbols("b")).layer(0)


@pytest.mark.parametrize("names", ["x a", "g q", "d y", "q0 far"])
def test_symbols_may_have_any_name(names: str) -> None:
    """Proofs have variables of their own, and none of them is a symbol of the pattern."""
    one, two = symbols(names)
    term, plain = window(one) | lags(two), window(k) | lags(p)
    renamed = {K: symbol(one.name), P: symbol(two.name)}
    pairs_ = [
        (term.farthest(), plain.farthest()), (term.pairs(), plain.pairs()), (term.live(), plain.live()),
        (term.degree().of_query, plain.degree().of_query), (term.contiguous(), plain.contiguous()),
    ]  # fmt: skip
    for found, wanted in pairs_:
        assert found.expr == wanted.expr.subs(renamed, simultaneous=True)
        assert found.proof.check()
        assert not replace(found, expr=found.expr + 1).proof.check()


@pytest.mark.parametrize("name", ["L", "t"])
def test_symbols_with_the_names_of_variables(name: str) -> None:
    term = window(symbols(name))
    for question in (ask.pairs, ask.degree, ask.live, ask.farthest, ask.contiguous, ask.depth):
        with pytest.raises(pidsl.SymbolError, match=f"a symbol called {name}"):
            question(term)
    with pytest.raises(pidsl.SymbolError, match=f"a symbol called {name}"):
        ask.farthest(BaseSchedule(symbols(name)))


def test_families_by_any_spelling() -> None:
    for term in (
        window(k) | lags(p),
        lags(p) | window(k),
        lags(p) | causal & window(k),
        window(k, 0) | lags(p) & causal,
    ):
        family, _ = lag_reach.match_family(term)
        assert family.shown.startswith("L layers reach p*s")


def test_domain() -> None:
    assert domain(window(k)) == (K >= 0,)
    assert domain(stride(p, 2)) == (P >= 1, sympy.Integer(2) < P)
    assert domain(stride(7)) == ()


def test_the_prover_finds_counterexamples() -> None:
    prover = smt.Prover()
    assert not prover.prove(smt.Obligation("too much", (K >= 0,), K >= 1))
    assert prover.failure == "too much: does not hold at k = 0"
    assert not prover.prove(smt.Obligation("after a failure nothing counts", (), sympy.true))


def test_a_division_needs_a_positive_divisor() -> None:
    with pytest.raises(pidsl.TermError, match="a division by p"):
        smt.Prover().prove(smt.Obligation("", (), sympy.floor(N / P) >= 0))


@given(st.integers(1, 9), st.integers(-20, 40), st.sampled_from(["floor", "mod", "min", "abs", "piecewise"]))
def test_cases_say_what_the_formula_says(d: int, x: int, kind: str) -> None:
    y = symbol("y")
    expr = {
        "floor": sympy.floor((2 * y - 3) / d), "mod": sympy.Mod(y, d), "min": sympy.Min(y, d - y, 3),
        "abs": sympy.Abs(y - d), "piecewise": sympy.Piecewise((y, y > d), (sympy.Max(y, -d), True)),
    }[kind]  # fmt: skip
    value = expr.subs(y, x)
    assert smt.follows([sympy.Eq(y, x)], sympy.Eq(expr, value))
    assert not smt.follows([sympy.Eq(y, x)], sympy.Eq(expr, value + 1))
