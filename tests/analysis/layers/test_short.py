"""Long sequences from short ones, and sums of lags on both sides: against masks longer than what was counted."""

import math

import numpy as np
import pytest
import sympy
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from own_ways import depth

import pidsl
from pidsl import blocks, lags, queries, ring, stride, where, window
from pidsl.analysis import dense as matrices
from pidsl.analysis import questions as ask
from pidsl.analysis.bound import Bound, exact
from pidsl.analysis.dense import Of
from pidsl.analysis.formulas.words import n
from pidsl.analysis.layers import short, two_sided
from pidsl.analysis.layers.gaps import Gaps, gaps_of
from pidsl.errors import TooHardError
from pidsl.language.terms import Term
from pidsl.relation.oracle import dense_mask
from pidsl.testing import terms

EXAMPLES = settings.default.max_examples
LONGEST = 170  # tokens


def test_gaps_by_eye() -> None:
    assert gaps_of([window(4)]) == Gaps(period=1, free=5)  # a lag of 5 or more is too long, however long it is
    assert gaps_of([stride(6)]) == Gaps(period=6, free=1)
    assert gaps_of([ring(3)]) == Gaps(period=1, free=4)
    assert gaps_of([window(4) | stride(6)]) == Gaps(period=6, free=5)
    assert Gaps(period=6, free=5).size == 11
    # of 16 tokens, two between leave 6 somewhere: 5 and one more
    assert Gaps(period=1, free=5).through(3) == Gaps(period=1, free=15)
    assert gaps_of([window(4) ** 3]) == gaps_of([window(4) @ window(4) @ window(4)]) == Gaps(period=1, free=15)


@pytest.mark.parametrize(
    "term", [where(lambda i, j: i + j <= 3 * j), where(lambda i, j, n, m: i + j < n), where(lambda i, j: 2 * j <= i)]
)
def test_sums_of_positions_have_no_gaps(term: Term) -> None:
    with pytest.raises(TooHardError, match="sums or multiples of positions"):
        gaps_of([term])


@settings(max_examples=EXAMPLES)
@given(terms(3, ring=True))
def test_long_masks_from_short_ones(term: Term) -> None:
    masks = short.Masks(term) if _has_gaps(term) else None
    assume(masks is not None and masks.gaps.start + 2 * masks.gaps.period < LONGEST)
    assert masks is not None
    for count in range(1, masks.gaps.start + 2 * masks.gaps.period + 2):
        assert (masks.among(count) == dense_mask(term, count)).all(), count


def _has_gaps(term: Term) -> bool:
    try:
        gaps_of([term])
    except TooHardError:
        return False
    return True


@settings(max_examples=EXAMPLES // 4)
@given(st.lists(terms(1, ring=True), min_size=1, max_size=3), st.sampled_from(["farthest", "contiguous"]))
def test_lags_of_long_sequences(layers: list[Term], quantity: str) -> None:
    assume(all(map(_has_gaps, layers)))
    gaps = gaps_of(layers).through(len(layers))
    assume(gaps.start + 4 * gaps.period < LONGEST)
    try:
        found = short.lag_formula(quantity, layers)
    except TooHardError:  # what is counted follows no formula that could be written down
        assume(False)
    bound = exact(tuple(layers), quantity, found.expr, "short sequences",
                  given={"layers": len(layers)}, assumptions=found.assumptions)  # fmt: skip
    beyond = gaps.start + 3 * gaps.period
    for count in (*range(found.least, 12), *range(beyond, beyond + gaps.period + 1, max(1, gaps.period // 6))):
        if count < found.least:
            continue
        seen = np.eye(count, dtype=np.bool_)
        for term in layers:
            seen = matrices.times(dense_mask(term, count), seen)
        i, j = np.nonzero(seen if quantity == "farthest" else ~seen & np.tri(count, dtype=np.bool_))
        if quantity == "farthest":
            assert bound(n=count) == max((i - j).tolist(), default=-math.inf)
        else:
            assert bound(n=count) == min((i - j).tolist(), default=count) - 1
    assert bound.proof.check()
    _refused(bound)


def _refused(bound: Bound) -> None:
    """No other formula is accepted: moved, steeper, or changed for one n far out."""
    for expr in (bound.expr + 1, bound.expr + n, sympy.Piecewise((7, sympy.Eq(n, 60)), (bound.expr + 1, True))):
        if expr != bound.expr:  # oo + 1 is oo
            tampered = exact(bound.subject, bound.quantity, expr, "short sequences",
                             given=dict(bound.question.given), assumptions=bound.assumptions)  # fmt: skip
            assert not tampered.proof.check()


@settings(max_examples=EXAMPLES // 6)
@given(terms(2, ring=True), st.sampled_from(["all", "causal"]))
def test_depth_of_long_sequences(term: Term, of: Of) -> None:
    try:
        found = short.depth_formula(term, of)
    except TooHardError:  # it grows with n, or takes long: then others are asked
        assume(False)
    bound = exact(term, "depth", found.expr, "short sequences", given={"of": of}, assumptions=found.assumptions)
    for count in (*range(found.least, 30), 97, 128):
        wanted = matrices.depth_of((term,), count, of)
        if count >= found.least:
            assert bound(n=count) == (math.inf if wanted is None else wanted), count
    assert bound.proof.check()
    if bound.expr.is_finite:
        _refused(bound)


def test_depth_that_grows_is_left_to_others() -> None:
    with pytest.raises(TooHardError, match="fewer, for dense masks"):
        short.depth_formula(window(3, 2), "all")


def test_a_pattern_that_isl_cannot_compose() -> None:
    term = stride(8, 3) ^ ring(2) ** 2 ^ stride(6)
    bound = depth(term)
    assert bound.is_exact and bound.method == "short sequences" and bound.proof.check()
    far = depth(term, 2**40)
    assert far.expr == 2 and far.proof.check()
    assert not exact(term, "depth", 3, far.method, given=dict(far.question.given)).proof.check()


# -- finitely many lags on both sides ----------------------------------------------------------------------------------


@settings(max_examples=2 * EXAMPLES)
@given(st.sets(st.integers(-9, 12), min_size=2, max_size=7), st.integers(20, 90))
def test_depth_of_lags_on_both_sides(values: set[int], tokens: int) -> None:
    term = lags(*values)
    found = two_sided.sides(term)
    assert (found is not None) == (min(values) < 0 < max(values))
    if found is None:
        return
    bound = depth(term)
    assume(bound.method == "two-sided lags")  # else the formula has too many cases
    for count in (*range(int(bound.assumptions[0].rhs), 24), tokens):
        wanted = matrices.depth_of((term,), count, "all")
        assert bound(n=count) == (math.inf if wanted is None else wanted), count
    assert bound.proof.check() and depth(term, 2**40).proof.check()
    for expr in (bound.expr + 1, sympy.floor(bound.expr / 2) + 1, sympy.Piecewise((bound.expr, n < 200), (5, True))):
        if bound.expr != sympy.oo:
            tampered = exact(
                term, "depth", expr, bound.method, given=dict(bound.question.given), assumptions=bound.assumptions
            )
            assert not tampered.proof.check()


def test_two_sided_by_eye() -> None:
    assert depth(window(3, 2)).expr.subs(n, 1000) == 500  # two tokens ahead per layer
    assert depth(lags(-1, 1)).expr == sympy.oo  # sums of two lags are even
    assert two_sided.sides(blocks(4)) is None and two_sided.sides(queries(0, 4)) is None
    assert two_sided.sides(window(3)) is None  # looks back only
    wide = two_sided.sides(window(7, 2) - stride(7, 1))
    assert wide is not None and (wide.first, wide.last, wide.ahead, wide.behind) == (0, 0, 2, 7)


def test_two_sided_limits() -> None:
    with pytest.raises(TooHardError, match="at most 256"):
        two_sided.sides(window(200, 200))
    assert depth(pidsl.window(200, 200)).is_exact  # by other means


# -- patterns between blocks -------------------------------------------------------------------------------------------


@settings(max_examples=EXAMPLES // 4)
@given(terms(1, ring=True), st.integers(1, 6), st.sampled_from(["all", "causal"]))
def test_depth_between_blocks(term: Term, size: int, of: Of) -> None:
    blocked = term.blocked(size)
    bound = depth(blocked, of=of)
    assume(bound.is_exact and bound.method == "blocks")
    for count in (*range(1, 26), 61):
        wanted = matrices.depth_of((blocked,), count, of)
        assert bound(n=count) == (math.inf if wanted is None else wanted), count
    assert bound.proof.check() and depth(blocked, 2**40, of=of).proof.check()
    if bound.expr != sympy.oo:
        for expr in (bound.expr + 1, sympy.Piecewise((bound.expr, n < 200), (99, True))):
            tampered = exact(blocked, "depth", expr, "blocks", given={"of": of}, assumptions=bound.assumptions)
            assert not tampered.proof.check()


def test_blocks_by_eye() -> None:
    assert depth(ring(9).blocked(4))(n=4000) == 56  # 1000 blocks, 9 of them a layer, both ways round


def test_lags_of_long_sequences_only() -> None:
    term = (window(9, 6) - window(1) - ring(5)) | lags(0)  # the ring takes lags n - 5, ... away from short sequences
    found = two_sided.sides(term)
    assert found is not None and found.regular == 40
    bound = depth(term)
    assert bound.method == "two-sided lags" and bound.proof.check()
    for count in range(1, 70):
        wanted = matrices.depth_of((term,), count, "all")
        assert bound(n=count) == (math.inf if wanted is None else wanted), count


def test_a_question_by_name_of_its_argument() -> None:
    assert ask.pairs(term=window(3)).expr == ask.pairs(window(3)).expr
