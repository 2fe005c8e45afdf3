"""Whole grids of several axes: formulas for n >= the tokens of the grid against dense masks, proofs, tampering."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import reduce
from typing import Any

import pytest
import sympy
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import pidsl
from pidsl.analysis import dense as matrices
from pidsl.analysis.bound import ANY, Bound, asking, restated
from pidsl.analysis.formulas.words import L, i, n, symbol
from pidsl.analysis.portfolio import answer
from pidsl.analysis.smaller import grids
from pidsl.analysis.smaller.axes import grid_of
from pidsl.analysis.ways import Asked
from pidsl.errors import SizeError
from pidsl.language.terms import Halo, Neighborhood, Term
from pidsl.testing import grids as grid_terms

few = settings(suppress_health_check=list(HealthCheck), max_examples=max(1, settings.default.max_examples // 2))


@pytest.fixture(autouse=True)
def small_grids(monkeypatch: pytest.MonkeyPatch) -> None:
    """Grids of few tokens are asked about by their axes, too."""
    monkeypatch.setattr(grids, "MANY", 0)


t = symbol("t")


def stacked(subject: tuple[Term, ...], layers: int, length: int) -> Any:
    masks = [subject[k % len(subject)].mask(length) for k in range(layers)]
    return reduce(lambda seen, mask: matrices.times(mask, seen), masks)


def asked(way: Callable[[Asked], Bound], subject: Any, quantity: str, **given: Any) -> Bound:
    return way(Asked(asking(subject, quantity, **given), (), answer))


def verified(bound: Bound) -> None:
    assert bound.proof.check(), bound.proof.verdict()
    for expr in (sympy.Piecewise((bound.expr, n > 10**6), (-7, True)), n + 7):
        wrong = dataclasses.replace(bound, expr=expr)
        assert not wrong.proof.check(), wrong
    assert not dataclasses.replace(bound, assumptions=(sympy.Ge(n, 0),)).proof.check()
    assert not restated(bound, subject=pidsl.window(3)).proof.check()


@given(grid_terms(), st.integers(0, 5))
@settings(few)
def test_counts_are_those_of_masks(term: Term, more: int) -> None:
    grid = grid_of(term)
    assume(grid is not None)
    assert grid is not None
    length = grid.tokens + more
    mask = term.mask(length)
    keys = mask.sum(axis=1)
    each = asked(grids.answer, term, "degree")
    most, all_ = asked(grids.answer, term, "max degree"), asked(grids.answer, term, "pairs")
    assert [each(n=length, i=k) for k in range(length)] == keys.tolist()
    assert most(n=length) == keys.max()
    assert all_(n=length) == keys.sum()
    for bound in (each, most, all_):
        verified(bound)


@given(grid_terms(), st.integers(0, 3), st.integers(1, 4))
@settings(few)
def test_reach_is_that_of_masks(term: Term, more: int, layers: int) -> None:
    subject = (term, term)
    grid = grid_of(subject)
    assume(grid is not None)
    assert grid is not None
    length = grid.tokens + more
    seen = stacked(subject, layers, length)
    for quantity, measure in (("farthest", matrices.farthest_in), ("contiguous", matrices.contiguous_in)):
        bound = asked(grids.answer, subject, quantity, layers=layers)
        wanted = measure(seen)
        assert bound(n=length) == (-math.inf if wanted is None else wanted), bound
        verified(bound)


@given(grid_terms())
@settings(few)
def test_reach_of_any_layers_is_that_of_masks(term: Term) -> None:
    grid = grid_of(term)
    assume(grid is not None)
    assert grid is not None
    for quantity, measure in (("farthest", matrices.farthest_in), ("contiguous", matrices.contiguous_in)):
        bound = asked(grids.answer, term, quantity, layers=ANY)
        for layers in range(1, 9):
            wanted = measure(stacked((term,), layers, grid.tokens))
            assert bound(n=grid.tokens, L=layers) == (-math.inf if wanted is None else wanted), bound
        assert bound.proof.check(), bound.proof.verdict()
        wrong = dataclasses.replace(bound, expr=sympy.Piecewise((bound.expr, L < 10), (7, True)))
        assert not wrong.proof.check() or wrong.expr == bound.expr


@given(grid_terms())
@settings(few)
def test_live_keys_are_those_of_masks(term: Term) -> None:
    grid = grid_of(term)
    assume(grid is not None)
    assert grid is not None
    bound, mask = asked(grids.answer, term, "live keys"), term.mask(grid.tokens + 2)
    for last in range(grid.tokens + 1):
        assert bound(t=last) == mask[last + 1 :, : last + 1].any(axis=0).sum(), last
    verified_of_t = dataclasses.replace(bound, expr=bound.expr + sympy.Piecewise((1, t > 2), (0, True)))
    assert bound.proof.check(), bound.proof.verdict()
    assert not verified_of_t.proof.check()


@given(grid_terms(), st.sampled_from(["&", "@", "T", "**", "|"]))
@settings(few)
def test_grids_of_operators(term: Term, operator: str) -> None:
    other = term.T
    made = {"&": term & other, "@": term @ other, "T": other, "**": term**2, "|": term | term}[operator]
    grid = grid_of(made)
    if not isinstance(term, Neighborhood | Halo) or grid is None:
        return
    assert asked(grids.answer, made, "pairs")(n=grid.tokens) == made.mask(grid.tokens).sum()
    assert asked(grids.answer, made, "pairs").proof.check()


def test_unions_of_grids_that_differ_on_one_axis_are_grids() -> None:
    rows, columns = pidsl.neighborhood((6, 8), (3, 1)), pidsl.neighborhood((6, 8), (1, 3))
    assert grid_of(rows | columns) is None
    term = rows | pidsl.neighborhood((6, 8), (5, 1))
    grid = grid_of(term)
    assert grid is not None
    assert [mask.sum() for mask in grid.layers[0]] == [30, 8]


@given(grid_terms(), st.sampled_from(["causal", "all"]))
@settings(few)
def test_depth_is_that_of_masks(term: Term, of: Any) -> None:
    grid = grid_of(term)
    assume(grid is not None)
    assert grid is not None
    bound = asked(grids.answer, term, "depth", of=of)
    for length in (grid.tokens, grid.tokens + 2):
        known = matrices.depth_of((term,), length, of)
        assert bound(n=length) == (math.inf if known is None else known)
    verified(bound)


def test_library_grids_are_answered() -> None:
    term = pidsl.neighborhood((64, 64), 7)
    assert term.pairs().expr == 64 * 64 * 49
    assert term.degree().of_query.expr == sympy.Piecewise((49, i < 4096), (0, True))
    assert term.farthest(3).expr == 3 * 4 * 65  # at a border, a window reaches six positions behind; three layers: 12
    assert term.contiguous(3)(n=4096) == 0
    assert term.depth()(n=4096) == term.depth(n=4096)() == 20
    assert term.depth(n=4096).proof.check()
    assert term.depth(n=2**40)() == math.inf
    schedule = pidsl.layers([term, pidsl.neighborhood((64, 64), 7, dilation=4)])
    assert schedule.farthest().is_exact
    assert schedule.depth()(n=4096) < 20
    with pytest.raises(SizeError, match="n >= 4096"):
        term.pairs()(n=100)
    assert term.pairs(assume="n > 5000").expr == 64 * 64 * 49


def test_parts_of_a_grid_are_counted() -> None:
    term = pidsl.neighborhood((64, 64), 7)
    row = pidsl.compare([term], n=1000)[repr(term)]
    keys = term.mask(1000).sum(axis=1)
    assert (row["pairs"], row["degree"]) == (keys.sum(), keys.max())


def test_grids_whose_mask_does_not_fit_into_memory() -> None:
    term = pidsl.neighborhood((32, 64, 64), (5, 7, 7))
    assert term.depth()(n=2**17) > 2
    assert term.pairs()(n=2**17) == 2**17 * 5 * 49


def test_others_are_no_whole_grids() -> None:
    grid = pidsl.neighborhood((8, 8), 3)
    for subject in (
        pidsl.window(3),
        pidsl.neighborhood((64,), 3),
        grid & pidsl.causal,
        (grid, pidsl.halo((4, 16), 2, 1)),
    ):
        assert grid_of(subject) is None
