"""Counts of patterns between blocks: formulas against dense masks, proofs against tampering, digits against numbers."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import islpy as isl
import numpy as np
import pytest
import sympy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pidsl
from pidsl.analysis import dense
from pidsl.analysis.bound import ANY, Bound, asking
from pidsl.analysis.counting import counts
from pidsl.analysis.formulas.pieces import plain, written
from pidsl.analysis.formulas.words import L, i, n, symbol, value_of
from pidsl.analysis.portfolio import answer
from pidsl.analysis.smaller import blocks
from pidsl.analysis.smaller.between import in_tokens, lacks, levels, place
from pidsl.analysis.ways import Asked, NotMine
from pidsl.errors import SizeError, TooHardError
from pidsl.language.terms import Term
from pidsl.relation.isl import CONTEXT, read_set
from pidsl.testing import terms

few = settings(suppress_health_check=list(HealthCheck), max_examples=max(1, settings.default.max_examples // 4))
QUESTIONS = ("degree", "max degree", "pairs", "live keys")


def by_blocks(term: Term) -> Iterator[Bound]:
    """What is known from patterns between blocks."""
    for quantity in QUESTIONS:
        with contextlib.suppress(TooHardError, NotMine):
            yield blocks.answer(Asked(asking(term, quantity), (), answer))


@st.composite
def between_blocks(draw: st.DrawFn, depth: int = 2) -> Term:
    """Terms of patterns between blocks of one size or its multiples, `causal`, and operators."""
    if depth == 0 or draw(st.booleans()):
        if draw(st.integers(0, 3)) == 0:
            return draw(st.sampled_from([pidsl.causal, pidsl.full, pidsl.blocks(6)]))
        return draw(terms(1)).blocked(draw(st.sampled_from([2, 3, 4, 6])))
    a = draw(between_blocks(depth - 1))
    match draw(st.sampled_from(["|", "&", "-", "^", "~", "T", "@"])):
        case "~":
            return ~a
        case "T":
            return a.T
        case operator:
            b = draw(between_blocks(depth - 1))
            together: dict[str, Any] = {"|": a | b, "&": a & b, "-": a - b, "^": a ^ b, "@": a @ b}
            return together[operator]  # type: ignore[no-any-return]


@given(between_blocks(), st.integers(0, 40))
@few
def test_levels_are_the_mask(term: Term, length: int) -> None:
    found = levels(term)
    if found is None:
        return
    s = found.size
    blocks = -(-length // s)
    at = np.arange(length)
    own = at[:, None] // s, at[None] // s
    off, low, high = (
        x.mask(blocks)[own] if length else np.zeros((0, 0), bool) for x in (found.off, found.low, found.high)
    )
    before = at[None] <= at[:, None]
    assert not (low | high)[own[0] != own[1]].any()
    assert (off | (low & before) | (high & ~before) == term.mask(length)).all()


@given(between_blocks())
@few
def test_counts_are_those_of_masks(term: Term) -> None:
    for bound in by_blocks(term):
        assert levels(term) is not None
        for length in range(1, 30) if bound.quantity != "live keys" else ():
            keys = term.mask(length).sum(axis=1)
            if bound.quantity == "degree":
                assert [bound(n=length, i=k) for k in range(length)] == keys.tolist(), length
            else:
                assert bound(n=length) == (keys.max() if bound.quantity == "max degree" else keys.sum()), length


@given(between_blocks(1))
@settings(few, max_examples=max(1, settings.default.max_examples // 10))
def test_what_is_claimed_is_verified_and_tampering_is_found(term: Term) -> None:
    for bound in by_blocks(term):
        verdict = bound.proof.verdict()
        assert verdict.holds, verdict.failure
        for wrong in _tampered(bound):
            assert not wrong.proof.check(), wrong


def _tampered(bound: Bound) -> list[Bound]:
    """Statements near the bound, all of them false."""
    found = levels(bound.term)
    assert found is not None
    last = found.size * sympy.floor((n + found.size - 1) / sympy.Integer(found.size)) - n
    x = symbol("t") if bound.quantity == "live keys" else n
    changes = (1, last.subs(n, x), x, sympy.Piecewise((1, x > 7 * found.size), (0, True)))
    wrong = [bound.expr + change for change in changes]
    return [dataclasses.replace(bound, expr=e) for e in wrong]


@pytest.mark.parametrize(
    "term",
    [
        pidsl.window(3).blocked(64),
        (pidsl.window(15) | pidsl.keys(7, None, 8)).blocked(64) & pidsl.causal,
        (pidsl.blocks(16) & pidsl.stride(8)).blocked(64),
        (pidsl.window(1, 1) | pidsl.keys(0, 1) | pidsl.queries(-1, None)).blocked(32),
        ~pidsl.window(2).blocked(100) & pidsl.causal,
    ],
)
def test_blocks_of_any_size_have_exact_counts(term: Term) -> None:
    found = term.degree()
    bounds = (found.of_query, found.maximum, found.average, term.pairs(), term.sparsity())
    for bound in bounds:
        assert bound.is_exact, bound
        assert bound.proof.check(), bound.proof.verdict()
    for length in (1, 63, 64, 500, 1025, 1100):
        keys = term.mask(length).sum(axis=1)
        assert found.maximum(n=length) == keys.max()
        assert term.pairs()(n=length) == keys.sum()
        assert [found.of_query(n=length, i=k) for k in range(0, length, 37)] == keys[::37].tolist()


def test_formulas_by_eye() -> None:
    term = pidsl.blocks(3).blocked(4) & pidsl.causal
    assert term.degree().of_query.expr == i - 4 * sympy.floor(i / 4) + 4 * sympy.floor(i / 4) - 12 * sympy.floor(
        sympy.floor(i / 4) / 3
    ) + 1  # fmt: skip
    assert pidsl.window(3).blocked(64).degree().maximum.expr == sympy.Min(256, n)


def test_others_are_not_between_blocks() -> None:
    for term in (
        pidsl.window(3), pidsl.blocks(8), pidsl.window(2).blocked(4) | pidsl.window(3),
        pidsl.window(2).blocked(4) | pidsl.window(2).blocked(3), (pidsl.window(2).blocked(4) & pidsl.causal).T,
    ):  # fmt: skip
        assert levels(term) is None
        assert not [*by_blocks(term)]


# -- formulas of blocks, and of tokens ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "expr", [n * place + i, sympy.Min(i, 3) * lacks, sympy.Piecewise((i, n > 2), (n, sympy.Eq(i, 1)), (3, True))]
)
def test_formulas_of_blocks_as_those_of_tokens(expr: sympy.Expr) -> None:
    tokens = in_tokens(expr, 64)
    assert tokens.free_symbols <= {i, n}
    for length in (1, 2, 63, 64, 65, 127, 128, 129, 500):
        for k in {0, min(63, length - 1), length // 2, length - 1}:
            at = {i: k // 64, place: k % 64, n: -(-length // 64), lacks: -length % 64}
            wanted = value_of(expr, {x: sympy.Integer(v) for x, v in at.items()})
            assert value_of(tokens, {n: sympy.Integer(length), i: sympy.Integer(k)}) == wanted


@given(between_blocks(1), st.integers(1, 3))
@settings(few, max_examples=max(1, settings.default.max_examples // 20))
def test_layers_between_blocks_are_those_of_masks(term: Term, layers: int) -> None:
    found = levels(term)
    for quantity, measure in (("farthest", dense.farthest_in), ("contiguous", dense.contiguous_in)):
        for given_layers in (layers, ANY):
            try:
                bound = blocks.answer(Asked(asking(term, quantity, layers=given_layers), (), answer))
            except (TooHardError, NotMine):
                continue
            assert found is not None
            assert bound.proof.check(), bound.proof.verdict()
            for length in range(1, 30):
                seen = np.eye(length, dtype=np.bool_)
                for _ in range(layers):
                    seen = dense.times(term.mask(length), seen)
                wanted = measure(seen)
                with contextlib.suppress(SizeError):
                    assert bound(n=length, L=layers) == (-math.inf if wanted is None else wanted), (bound, length)


SEEN_BY_ALL_BUT_ONE = [
    pidsl.stride(11, 8).blocked(5),
    ~(pidsl.ring(4).blocked(5) | pidsl.pairs([])),
    (pidsl.stride(8) & pidsl.full | pidsl.lags(1, -2, 6)).blocked(3),
    pidsl.lags(-2).blocked(3),
    (pidsl.blocks(3) & pidsl.causal).blocked(4),
    (pidsl.stride(3) | pidsl.blocks(2)).blocked(4) & pidsl.causal,
    (pidsl.window(2) - pidsl.window(0)).blocked(4) & pidsl.causal,
]


@pytest.mark.parametrize("term", SEEN_BY_ALL_BUT_ONE)
def test_whether_the_last_block_alone_sees_as_far(term: Term) -> None:
    bound = blocks.answer(Asked(asking(term, "farthest", layers=ANY), (), answer))
    assert bound.proof.check(), bound.proof.verdict()
    assert not dataclasses.replace(bound, expr=sympy.Min(bound.expr, n - 2)).proof.check()
    compared = 0
    for length in (*range(1, 60), *range(200, 207)):
        mask = term.mask(length)
        for layers in (1, 2, 3, 5):
            wanted = dense.reach_in("farthest", [mask] * layers, length)
            with contextlib.suppress(SizeError):
                assert bound(n=length, L=layers) == (-math.inf if wanted is None else wanted), (length, layers)
                compared += 1
    assert compared > 12


@given(between_blocks())
@few
def test_live_keys_between_blocks_are_those_of_masks(term: Term) -> None:
    try:
        bound = blocks.answer(Asked(asking(term, "live keys"), (), answer))
    except (TooHardError, NotMine):
        return
    assert bound.proof.check(), bound.proof.verdict()
    with contextlib.suppress(TooHardError):
        wanted = counts.live(Asked(asking(term, "live keys"), (), answer))
        assert [bound(t=x) for x in range(40)] == [wanted(t=x) for x in range(40)]


# -- functions, piece by piece -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ("0 <= d < n and d mod 4096 = 0", 4096 * sympy.floor(n / 4096 - sympy.Rational(1, 4096))),
        ("d <= n and d <= 100 and d <= 2n - 3000", sympy.Min(100, n, 2 * n - 3000)),
        ("n <= 9 and d <= 3 or n > 9 and d <= 5", sympy.Piecewise((3, n <= 9), (5, True))),
    ],
)
def test_functions_as_formulas(points: str, expected: sympy.Expr) -> None:
    where = read_set("[n] -> { : n >= 1 }")
    f = read_set(f"[n] -> {{ [d] : n >= 1 and {points} }}").dim_max(0)
    found = written(f, where)
    assert [found.subs(n, x) for x in range(1, 5000, 7)] == [expected.subs(n, x) for x in range(1, 5000, 7)]
    assert found.count_ops() <= expected.count_ops() + 2


@given(st.lists(st.integers(-20, 20), min_size=3, max_size=3), st.integers(1, 12), st.integers(-9, 9))
def test_floors_keep_their_values(factors: list[int], by: int, slope: int) -> None:
    a, b, c = factors
    text = f"[n, i] -> {{ [({slope}i + floor(({a}n + {b}i + {c})/{by}))] }}"
    ((_, f),) = isl.PwAff.read_from_str(CONTEXT, text).get_pieces()
    found = plain(f)
    for x, y in ((0, 0), (1, 0), (5, 3), (12, 11), (100, 7), (1001, 500)):
        assert found.subs({n: x, i: y}) == slope * y + (a * x + b * y + c) // by
    inside = [
        coefficient for e in found.atoms(sympy.floor) for coefficient in e.args[0].as_coefficients_dict().values()
    ]
    assert all(abs(x) <= sympy.Rational(1, 2) or 0 < x < 1 for x in inside)


def test_without_a_layer_tokens_of_a_block_are_not_connected() -> None:
    term = pidsl.window(3).blocked(16)
    bound = blocks.answer(Asked(asking(term, "contiguous", layers=ANY), (), answer))
    assert sympy.Ge(L, 1) in bound.assumptions
    assert bound.proof.check()
    more = tuple(c if c != sympy.Ge(L, 1) else sympy.Ge(L, 0) for c in bound.assumptions)
    assert not dataclasses.replace(bound, assumptions=more).proof.check()
    with pytest.raises(TooHardError):
        blocks.answer(Asked(asking(term, "contiguous", layers=0), (), answer))
