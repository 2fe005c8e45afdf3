"""Depth, and reach with symbols, against masks written from the documented meaning of each word (`documented`)."""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import documented
import numpy as np
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st
from own_ways import contiguous, depth, farthest

import pidsl
from pidsl import Term, causal, full, keys, lags, stride, window
from pidsl.analysis import questions as ask
from pidsl.analysis.bound import Bound, asking
from pidsl.analysis.dense import depth_of
from pidsl.analysis.formulas.piecewise import chain, formula
from pidsl.analysis.formulas.words import n, symbol
from pidsl.analysis.layers import check_lags
from pidsl.analysis.layers.by_lags import BRANCHES, depth_of_schedule, staircase
from pidsl.analysis.layers.sums import Staircase
from pidsl.analysis.portfolio import answer
from pidsl.analysis.ways import Asked
from pidsl.errors import PidslError, SizeError, TooHardError

EXAMPLES = settings.default.max_examples


def masks_of(term: Term, tokens: int) -> documented.Bools:
    return documented.meaning(repr(term)).mask(tokens)


def depth_in(mask: documented.Bools) -> float:
    return documented.depth([mask], causal=True)


# -- staircases --------------------------------------------------------------------------------------------------------

steps = st.sampled_from([0, 0, 1, 1, 2, 3, 3, 3, 9, 40])
staircases = st.builds(
    lambda steps, each, more: _stairs(tuple(itertools.accumulate(steps, initial=0)), each, more),
    st.lists(steps, max_size=9),
    st.sampled_from([None, 0, 1, 2, 3, 9, 14, 40]),
    st.integers(0, 30),
)


def _stairs(first: tuple[int, ...], each: int | None, more: int) -> Staircase:
    """One that never falls: the line begins `more` above its last step."""
    return Staircase(first, () if each is None else ((each, each * len(first) - first[-1] - more * bool(each)),))


@given(staircases)
def test_inverse_of_a_staircase(stairs: Staircase) -> None:
    def c(layers: int) -> float:
        if layers < len(stairs.first):
            return stairs.first[layers]
        return min((slope * layers - offset for slope, offset in stairs.lines), default=math.inf)

    branches = stairs.inverse()
    found = chain(branches, stairs.least, BRANCHES)
    by_isl = formula(stairs.depth(), sympy.oo, most=100)
    height = stairs.formula().subs(n, 10**6)
    assert [height.subs(symbol("L"), x) for x in range(30)] == [min(c(x), 10**6 - 1) for x in range(30)]
    for tokens in [*range(1, 24), *range(24, 130, 7)]:
        wanted = next((x for x in range(1, 300) if c(x) >= tokens - 1), sympy.oo)
        assert stairs.least(tokens) == wanted == by_isl.expr.subs(n, tokens)
        assert [expr for expr, first in branches if first <= tokens][-1].subs(n, tokens) == wanted
        assert tokens < found.least or found.expr.subs(n, tokens) == wanted


words = st.one_of(
    st.builds(window, st.integers(0, 8)),
    st.lists(st.integers(0, 33), min_size=1, max_size=4).map(lambda values: lags(*values)),
    st.builds(lambda k, d: window(k).dilated(d), st.integers(1, 5), st.integers(2, 6)),
)


@st.composite
def lag_sets(draw: st.DrawFn) -> Term:
    found = draw(words)
    for _ in range(draw(st.integers(1, 3))):
        found = draw(st.sampled_from([found.__or__, found.__or__, found.__or__, found.__sub__]))(draw(words))
    return found


KNOWN = [
    (lags(31, 10, 29) | window(4) | window(4).dilated(5)) - lags(32, 10),
    window(5) | lags(13, 14),
    lags(0, 1, 4, 12, 13),
    window(3).dilated(2) | lags(1, 15, 16),
    (window(5) | lags(13, 14)) & causal | lags(40),
]


def check_depth(term: Term) -> None:
    """For all n up to 100: attended lags do not depend on n, so neither do the connected ones below n."""
    tokens = 100
    bound = depth(term)
    assert bound.is_exact and bound.argument("of") == "causal"
    mask = masks_of(term, tokens)
    assert not np.triu(mask, 1).any()
    reached, seen = [], np.eye(tokens, dtype=np.bool_)
    while len(reached) < 3 or reached[-1] not in (tokens - 1, reached[-3]):
        seen = documented.product(mask, seen)
        reached.append(documented.contiguous(seen))
    for x in range(1, tokens + 1):
        wanted = next((k + 1 for k, c in enumerate(reached) if c >= x - 1), math.inf)
        if all(c.subs(n, x) == sympy.true for c in bound.assumptions):
            assert bound(n=x) == wanted, (bound, x)
    assert bound.proof.check(), bound


@pytest.mark.parametrize("term", KNOWN, ids=repr)
def test_depth_of_known_sets_of_lags(term: Term) -> None:
    check_depth(term)


@settings(max_examples=EXAMPLES)
@given(lag_sets())
def test_depth_of_sets_of_lags(term: Term) -> None:
    check_depth(term)


@given(st.sets(st.integers(2, 24), max_size=4))
def test_staircases_of_lags(more: set[int]) -> None:
    """c(0), c(1), ... of sums of lags, and by how much they grow in the end."""
    values = sorted({0, 1, *more})
    stairs, _ = staircase(lags(*values))
    ((slope, offset),) = stairs.lines
    sums = {0}
    for layers in range(len(stairs.first) + 4):
        gap = next(x for x in itertools.count() if x not in sums) - 1
        assert gap == (stairs.first[layers] if layers < len(stairs.first) else slope * layers - offset)
        sums = {x + y for x in sums for y in values}


# -- sinks -------------------------------------------------------------------------------------------------------------

SINKS = [
    keys(0, 2) & causal | causal | window(3),
    window(3) | (causal & keys(0, 2) | causal),
    (keys(0, 2) | full) & causal | window(3),
    (keys(0, 2) | window(3)) & causal | causal,
    causal & (keys(0, 3) | causal) | window(1),
    keys(0, 2) & causal | causal,
    keys(0, 2) & causal,
    keys(0, 2) & causal | keys(0, 4) & causal | window(2),
    keys(0, 2) & causal | keys(0, 2) & causal | window(2),
    keys(0, -2) & causal | window(2),
    keys(0, 2) & causal | window(3) | lags(2),
    (keys(0, 2) | window(2)) & causal,
]


@pytest.mark.parametrize("term", SINKS, ids=repr)
def test_sinks_and_what_is_beside_them(term: Term) -> None:
    bounds = [ask.depth(term)]
    bounds += [question(term, x) for question in (ask.farthest, ask.contiguous) for x in (1, 2)]
    for tokens in (1, 2, 3, 4, 7, 12, 50, 100):
        mask = masks_of(term, tokens)
        truth = [
            depth_in(mask),
            *(
                f(documented.layers([mask] * x, tokens))
                for f in (documented.farthest, documented.contiguous)
                for x in (1, 2)
            ),
        ]
        for bound, wanted in zip(bounds, truth, strict=True):
            if all(c.subs(n, tokens) == sympy.true for c in bound.assumptions):
                assert bound(n=tokens) == wanted, (bound, tokens)
    assert all(bound.is_exact and bound.proof.check() for bound in bounds)


# -- formulas whose own check failed -----------------------------------------------------------------------------------


@pytest.mark.parametrize("term", [window(3, 2) | lags(9, -7), window(2, 3) | lags(8, -6)])
def test_forms_in_l_of_long_sequences(term: Term) -> None:
    bound = farthest(term)
    assert bound.is_exact and bound.proof.check()
    for tokens, layers in itertools.product((40, 41, 53), range(8)):
        if all(c.subs({n: tokens, symbol("L"): layers}) == sympy.true for c in bound.assumptions):
            assert bound(n=tokens, L=layers) == documented.farthest(
                documented.layers([masks_of(term, tokens)] * layers, tokens)
            )


@pytest.mark.parametrize("assume", ["n >= 9", "n > 30", "L >= 2", "L >= 1, n >= 6"])
@pytest.mark.parametrize(
    "question", [lambda t: contiguous(t), lambda t: depth(t, of="all"), lambda t: contiguous(t, 2)]
)
@pytest.mark.parametrize("term", [pidsl.blocks(3) | pidsl.queries(1, 2), window(2, 3), pidsl.ring(2)], ids=repr)
def test_more_assumptions_are_no_less_proved(term: Term, question: Callable[[Term], Bound], assume: str) -> None:
    bound = question(term)
    if bound.is_exact and ("L" in bound.symbols or "L" not in assume):
        assert bound.proof.check()
        assert bound.under(assume).proof.check()


# -- with symbols ------------------------------------------------------------------------------------------------------

k, p, s = pidsl.symbols("k p s")
FAMILIES: list[tuple[Term, str]] = [
    (window(k), ""),
    (window(k) | lags(p), ""),
    (window(k) | lags(p), "p <= k"),
    (window(k) | lags(p), "p == k"),
    (window(k) | lags(p), "p == k + 1"),
    (window(k) | lags(p) | lags(p), "p >= 2*k"),
    (lags(0, p) | window(k), ""),
    (window(k) | stride(p) & causal, ""),
    (window(k) | stride(p) & causal, "p <= k"),
    ((window(k) | stride(p)) & causal, "p == k + 1"),
    (stride(p) & causal, ""),
    (stride(p, s) & causal, ""),
    (window(k) & window(p), ""),
    (window(k) & causal, ""),
    (window(k) - lags(0), ""),
    (window(k, s) & causal, ""),
    (window(k) | causal, ""),
    (keys(0, s) & causal | window(k), ""),
    ((keys(0, s) | window(k)) & causal, "s <= k"),
    (keys(0, s) & causal | causal, ""),
    (keys(0, s) & causal, ""),
    (keys(0, s) & causal | keys(0, p) & causal | window(k), ""),
    (keys(0, s) & causal | window(k) | lags(p), ""),
    (keys(0, s) & causal | stride(p) & causal | window(k), ""),
    (pidsl.blocks(p), ""),
    (pidsl.blocks(p) & causal, ""),
    (window(k).blocked(p), ""),
    (window(k).dilated(p), ""),
    (window(k).dilated(p).dilated(s + 1), ""),
    (window(k).dilated(p) | lags(1), ""),
    (window(k).shift(s), ""),
    (window(k).shift(s) | lags(0), ""),
    (stride(p + 1) & causal & window(4), ""),
    (stride(p) & causal & window(k), ""),
    ((window(k) | lags(p)) & window(s), ""),
    (causal, ""),
]


def values_of(term: Term) -> Iterator[dict[str, int]]:
    names = sorted(term.symbols)
    for numbers in itertools.product((0, 1, 2, 5), repeat=len(names)):
        yield dict(zip(names, numbers, strict=True))


SLOW = [(window(k) | lags(p), "p == k + 1"), (window(k) | lags(p) | lags(p), "p >= 2*k")]  # cases of others here


@pytest.mark.parametrize(
    ("term", "assume"),
    [pytest.param(*x, marks=[pytest.mark.slow] * (x in SLOW)) for x in FAMILIES],
    ids=repr,
)
def test_families_with_symbols(term: Term, assume: str) -> None:
    """Every value of the symbols that the assumptions allow, and the proof."""
    for question, measure in (
        (ask.farthest, documented.farthest),
        (ask.contiguous, documented.contiguous),
        (ask.depth, depth_in),
    ):
        bound = question(term, assume=assume)  # type: ignore[operator]
        if not bound.is_known:
            assert bound.reason
            continue
        compared = 0
        for values in values_of(term):
            try:
                pattern = documented.meaning(repr(term.bind(**values)))
            except PidslError:
                continue
            for tokens in (1, 3, 8, 17):
                mask = None
                for layers in (1, 2, 3) if "L" in str(bound.question.given) else (0,):
                    numbers = {**values, "n": tokens, **({"L": layers} if layers else {})}
                    try:
                        found = bound(**numbers)
                    except SizeError:
                        continue
                    mask = pattern.mask(tokens) if mask is None else mask
                    assert found == measure(documented.layers([mask] * layers, tokens) if layers else mask), (
                        bound,
                        numbers,
                    )
                    compared += 1
        assert compared, bound
        assert bound.proof.check(), (bound, bound.proof.verdict().failure)


def test_a_skip_inside_the_window() -> None:
    for question in (ask.farthest, ask.contiguous, ask.depth):
        inside = question(window(k) | lags(p), assume="p <= k")  # type: ignore[operator]
        assert inside.expr == question(window(k)).expr  # type: ignore[operator]
    assert not ask.farthest(window(k) | stride(p) & causal, assume="p <= k").is_known  # not called contradictory


PIECES = st.one_of(
    st.builds(window, st.integers(0, 6)),
    st.builds(lambda x: lags(0, *x), st.lists(st.integers(0, 40), max_size=3)),
    st.builds(lambda w, s: window(w) | lags(s), st.integers(0, 4), st.integers(1, 40)),
    st.builds(lambda w, p: window(w) | stride(p) & causal, st.integers(0, 4), st.integers(1, 20)),
    st.builds(lags, st.integers(0, 3)),
)


@given(st.lists(PIECES, min_size=2, max_size=5).map(tuple), st.integers(65, 150))
def test_a_schedule_at_a_length(schedule: tuple[Term, ...], tokens: int) -> None:
    """Layer by layer, and by matrices; a depth one off is refused by the checker."""
    try:
        found = depth_of_schedule(Asked(asking(schedule, "depth", of="causal", n=tokens), (), answer))
    except TooHardError:
        return
    assert found.expr == depth_of(schedule, tokens, "causal")
    assert found.proof.check()
    for wrong in (found.expr + 1, max(found.expr - 1, 1)):
        assert wrong == found.expr or not check_lags.check(replace(found, expr=wrong)).holds
