"""Long sequences from short ones, and sums of lags on both sides: against masks longer than what was counted."""

import math

import numpy as np
import pytest
import sympy
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from own_ways import by, depth

import pidsl
from pidsl import blocks, lags, queries, ring, stride, where, window
from pidsl.analysis import dense as matrices
from pidsl.analysis import questions as ask
from pidsl.analysis.bound import Bound, exact, restated
from pidsl.analysis.dense import Of
from pidsl.analysis.formulas.words import n
from pidsl.analysis.layers import by_lags, by_short
from pidsl.analysis.layers.by_short import gaps_in
from pidsl.analysis.layers.gaps import Gaps, Masks, gaps_of
from pidsl.analysis.layers.lags import finite_lags
from pidsl.analysis.ways import NotMine
from pidsl.errors import TooHardError
from pidsl.language.terms import Term
from pidsl.relation.oracle import dense_mask
from pidsl.testing import terms

EXAMPLES = settings.default.max_examples
LONGEST = 170  # tokens


def gaps(layers: list[Term]) -> Gaps:
    return gaps_of(layers, gaps_in(layers))


def test_gaps_by_eye() -> None:
    assert gaps([window(4)]) == Gaps(period=1, free=5)  # a lag of 5 or more is too long, however long it is
    assert gaps([stride(6)]) == Gaps(period=6, free=1)
    assert gaps([ring(3)]) == Gaps(period=1, free=4)
    assert gaps([window(4) | stride(6)]) == Gaps(period=6, free=5)
    assert Gaps(period=6, free=5).size == 11
    # of 16 tokens, two between leave 6 somewhere: 5 and one more
    assert Gaps(period=1, free=5).through(3) == Gaps(period=1, free=15)
    assert gaps([window(4) ** 3]) == gaps([window(4) @ window(4) @ window(4)]) == Gaps(period=1, free=15)


@pytest.mark.parametrize(
    "term", [where(lambda i, j: i + j <= 3 * j), where(lambda i, j, n, m: i + j < n), where(lambda i, j: 2 * j <= i)]
)
def test_sums_of_positions_have_no_gaps(term: Term) -> None:
    with pytest.raises(TooHardError, match="sums or multiples of positions"):
        gaps([term])


@settings(max_examples=EXAMPLES)
@given(terms(3, ring=True))
def test_long_masks_from_short_ones(term: Term) -> None:
    masks = Masks(term, gaps_in([term])) if _has_gaps(term) else None
    assume(masks is not None and masks.gaps.start + 2 * masks.gaps.period < LONGEST)
    assert masks is not None
    for count in range(1, masks.gaps.start + 2 * masks.gaps.period + 2):
        assert (masks.among(count) == dense_mask(term, count)).all(), count


def _has_gaps(term: Term) -> bool:
    try:
        gaps([term])
    except TooHardError:
        return False
    return True


@settings(max_examples=EXAMPLES // 4)
@given(st.lists(terms(1, ring=True), min_size=1, max_size=3), st.sampled_from(["farthest", "contiguous"]))
def test_lags_of_long_sequences(layers: list[Term], quantity: str) -> None:
    assume(all(map(_has_gaps, layers)))
    own = gaps(layers).through(len(layers))
    assume(own.start + 4 * own.period < LONGEST)
    try:
        bound = by(by_short.reach, tuple(layers), quantity, layers=len(layers))
    except TooHardError:  # what is counted follows no formula that could be written down
        assume(False)
    least = int(bound.assumptions[0].rhs)
    beyond = own.start + 3 * own.period
    for count in (*range(least, 12), *range(beyond, beyond + own.period + 1, max(1, own.period // 6))):
        if count < least:
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
            assert not restated(bound, expr=expr).proof.check()


@settings(max_examples=EXAMPLES // 6)
@given(terms(2, ring=True), st.sampled_from(["all", "causal"]))
def test_depth_of_long_sequences(term: Term, of: Of) -> None:
    try:
        bound = by(by_short.depth, term, "depth", of=of)
    except TooHardError:  # it grows with n, or takes long: then others are asked
        assume(False)
    least = int(bound.assumptions[0].rhs)
    for count in (*range(least, 30), 97, 128):
        wanted = matrices.depth_of((term,), count, of)
        if count >= least:
            assert bound(n=count) == (math.inf if wanted is None else wanted), count
    assert bound.proof.check()
    if bound.expr.is_finite:
        _refused(bound)


def test_depth_that_grows_is_left_to_others() -> None:
    with pytest.raises(TooHardError, match="fewer, for dense masks"):
        by(by_short.depth, window(3, 2), "depth", of="all")


def test_a_pattern_that_isl_cannot_compose() -> None:
    term = stride(8, 3) ^ ring(2) ** 2 ^ stride(6)
    bound = depth(term)
    assert bound.is_exact and bound.method == "short sequences" and bound.proof.check()
    far = depth(term, 2**40)
    assert far.expr == 2 and far.proof.check()
    assert not exact(term, "depth", 3, far.method, given=dict(far.question.given)).proof.check()


# -- finitely many lags on both sides ----------------------------------------------------------------------------------


@settings(max_examples=EXAMPLES // 3)
@given(st.sets(st.integers(-9, 12), max_size=5), st.integers(-9, -1), st.integers(1, 12), st.integers(20, 90))
def test_depth_of_lags_on_both_sides(values: set[int], ahead: int, behind: int, tokens: int) -> None:
    values |= {ahead, behind}
    term = lags(*values)
    try:
        bound = by(by_lags.depth, term, "depth", of="all")
    except TooHardError:  # the formula has too many cases
        assume(False)
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
    for term in (blocks(4), queries(0, 4), window(3)):  # lags that are no matter of i - j alone; looks back only
        with pytest.raises(NotMine):
            by(by_lags.depth, term, "depth", of="all")
    wide, _ = by_lags.all_sums(finite_lags(window(7, 2) - stride(7, 1)) or ())
    assert (wide.first, wide.last, wide.least, wide.top) == (0, 0, -2, 9)


def test_two_sided_limits() -> None:
    with pytest.raises(TooHardError, match="at most 256"):
        by(by_lags.depth, window(200, 200), "depth", of="all")
    assert depth(pidsl.window(200, 200)).is_exact  # by other means


# -- patterns between blocks -------------------------------------------------------------------------------------------


@settings(max_examples=EXAMPLES // 10)
@given(terms(1, ring=True), st.integers(1, 6), st.sampled_from(["all", "causal"]))
def test_depth_between_blocks(term: Term, size: int, of: Of) -> None:
    blocked = term.blocked(size)
    bound = ask.depth(blocked, of=of)
    assume(bound.is_exact and bound.method == "blocks")
    for count in (*range(1, 26), 61):
        wanted = matrices.depth_of((blocked,), count, of)
        assert bound(n=count) == (math.inf if wanted is None else wanted), count
    assert bound.proof.check() and ask.depth(blocked, 2**40, of=of).proof.check()
    if bound.expr != sympy.oo:
        for expr in (bound.expr + 1, sympy.Piecewise((bound.expr, n < 200), (99, True))):
            tampered = exact(blocked, "depth", expr, "blocks", given={"of": of}, assumptions=bound.assumptions)
            assert not tampered.proof.check()


def test_blocks_by_eye() -> None:
    assert ask.depth(ring(9).blocked(4))(n=4000) == 56  # 1000 blocks, 9 of them a layer, both ways round


def test_lags_of_long_sequences_only() -> None:
    term = (window(9, 6) - window(1) - ring(5)) | lags(0)  # the ring takes lags n - 5, ... away from short sequences
    bound = depth(term)
    assert bound.method == "sums of lags" and bound.certificate.fact("regular") == 40 and bound.proof.check()
    for count in range(1, 70):
        wanted = matrices.depth_of((term,), count, "all")
        assert bound(n=count) == (math.inf if wanted is None else wanted), count


def test_a_question_by_name_of_its_argument() -> None:
    assert ask.pairs(term=window(3)).expr == ask.pairs(window(3)).expr
