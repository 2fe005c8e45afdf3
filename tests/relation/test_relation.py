"""The meaning of a term, twice: the isl relation against the NumPy mask, and everything that is asked of either."""

import contextlib
import gc
import re
import threading
import time
from collections.abc import Iterator

import islpy as isl
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import pidsl
from pidsl import (
    TooHardError,
    blocks,
    causal,
    empty,
    full,
    keys,
    lags,
    parse,
    queries,
    ring,
    stride,
    where,
    window,
)
from pidsl.language.expr import evaluate, holds
from pidsl.language.terms import Term
from pidsl.relation.build import needs_square, relation, rows_relation
from pidsl.relation.counting import key_loops
from pidsl.relation.frame import MOVED
from pidsl.relation.isl import CONTEXT, limited, read_map, read_set
from pidsl.relation.loops import VARIABLE
from pidsl.relation.oracle import dense_mask, table
from pidsl.testing import lengths, predicates, terms

SOME = [
    *(full, empty, causal, window(3), window(2, 1), stride(4), stride(5, 2), lags(0, 1, 4), keys(-3), keys(1, None, 3)),
    *(queries(0, 4), blocks(4), where(lambda i, j, n, m: (i + j) % 3 < n - m), pidsl.pairs([(0, 1), (2, 0), (7, 7)])),
    *(window(3) & causal | stride(4), (window(1) ** 3).T, ~blocks(3).dilated(2), causal.blocked(3) - keys(0, 2)),
]


def pairs_of(relation: isl.Map, n: int, m: int, offset: int = 0, key_offset: int = 0) -> set[tuple[int, int]]:
    """The pairs of a relation for given lengths, one by one, as isl counts them."""
    names = [relation.get_dim_name(isl.dim_type.param, k) for k in range(relation.dim(isl.dim_type.param))]
    values = {"n": n, "m": m, "offset": offset, "key_offset": key_offset}
    given_ = " and ".join(f"{name} = {values[str(name)]}" for name in names)
    at = relation.intersect_params(read_set(f"[{', '.join(map(str, names))}] -> {{ : {given_} }}"))
    found: set[tuple[int, int]] = set()

    def visit(point: isl.Point) -> None:
        i, j = (point.get_coordinate_val(isl.dim_type.set, k).to_python() for k in range(2))
        found.add((i, j))

    at.project_out(isl.dim_type.param, 0, len(names)).wrap().flatten().foreach_point(visit)
    return found


def pairs_in(mask: np.ndarray) -> set[tuple[int, int]]:
    return {(int(i), int(j)) for i, j in zip(*np.nonzero(mask), strict=True)}


def square_if_needed(term: Term, n: int, m: int, offset: int = 0) -> int:
    return n + offset if needs_square(term) else m


# --- two implementations of one meaning


@given(terms(ring=True), lengths(14), lengths(14))
@settings(max_examples=4 * settings.default.max_examples)
def test_relation_is_the_mask(term: Term, n: int, m: int) -> None:
    m = square_if_needed(term, n, m)
    try:
        found = term.relation()
    except TooHardError:
        assume(False)
    assert pairs_of(found, n, m) == pairs_in(term.mask(n, m))


@given(predicates(), lengths(14), lengths(14))
@settings(max_examples=4 * settings.default.max_examples)
def test_relation_of_a_predicate_is_its_mask(term: Term, n: int, m: int) -> None:
    assert pairs_of(term.relation(), n, m) == pairs_in(term.mask(n, m))


@given(terms(3, ring=True), lengths(9), lengths(14), st.integers(0, 9))
def test_an_offset_slices_the_pattern(term: Term, n: int, m: int, offset: int) -> None:
    m = square_if_needed(term, n, m, offset)
    mask = term.mask(n, m, offset)
    assert (mask == term.mask(n + offset, m)[offset:]).all()
    try:
        found = rows_relation(term)
    except TooHardError:
        assume(False)
    assert pairs_of(found, n, m, offset) == pairs_in(mask)


@given(terms(3, ring=True, grid=True), lengths(9), lengths(14), st.integers(0, 9), st.integers(0, 12))
def test_a_key_offset_slices_the_pattern(term: Term, n: int, m: int, offset: int, key_offset: int) -> None:
    if needs_square(term):
        offset = max(0, m + key_offset - n)
        m = n + offset - min(key_offset, n + offset)
        key_offset = n + offset - m
    mask = term.mask(n, m, offset, key_offset)
    assert (mask == term.mask(n + offset, m + key_offset)[offset:, key_offset:]).all()
    try:
        found = rows_relation(term, MOVED)
    except TooHardError:
        assume(False)
    assert pairs_of(found, n, m, offset, key_offset) == pairs_in(mask)


@given(terms(4), lengths(), lengths(), st.integers(0, 9), st.integers(0, 12))
@settings(max_examples=3 * settings.default.max_examples)
def test_counts_are_those_of_the_mask(term: Term, n: int, m: int, offset: int, key_offset: int) -> None:
    mask = term.mask(n, m, offset, key_offset)
    try:
        degree = term.degree(n, m, offset, key_offset)
    except TooHardError:
        assume(False)
    assert degree.dtype == np.int64
    assert (degree == mask.sum(axis=1)).all()
    assert term.pairs(n, m, offset, key_offset) == mask.sum()
    assert term.sparsity(n, m, offset, key_offset) == pytest.approx(1 - mask.mean() if mask.size else 1.0)


@given(terms(3), lengths(12), lengths(12))
def test_loops_visit_every_key_once(term: Term, n: int, m: int) -> None:
    try:
        loops = key_loops(term)
    except TooHardError:
        assume(False)
    mask = term.mask(n, m)
    for i in range(n if m else 0):
        env = {"n": n, "m": m, "i": i}
        visited = [
            x
            for loop in loops
            if loop.guard is None or holds(loop.guard, env)
            for x in range(evaluate(loop.first, env), evaluate(loop.last, env) + 1, loop.step)
            if loop.inside is None or holds(loop.inside, {**env, VARIABLE: x})
        ]
        assert sorted(visited) == np.flatnonzero(mask[i]).tolist()


def test_the_oracle_knows_positions_outside_too() -> None:
    """`table` is the meaning over all integers, which shift, blocked and dilated look at."""
    i, j = np.arange(-3, 3), np.arange(-2, 2)
    assert (table(causal, i, j, 2, 2) == (i[:, None] >= j[None, :])).all()
    assert (table(stride(3), i, j, 2, 2) == ((i[:, None] - j[None, :]) % 3 == 0)).all()
    assert (table(~causal, i, j, 2, 2) == ~table(causal, i, j, 2, 2)).all()
    assert table(ring(1), i, j, 2, 2)[3:5, 2:4].all()
    assert table(ring(1), i, j, 2, 2).sum() == 4
    assert (dense_mask(causal, 3, 3, 0) == np.tri(3, dtype=bool)).all()


# --- what isl decides for all lengths


@given(terms(3), terms(3))
def test_decisions_have_a_reason(a: Term, b: Term) -> None:
    try:
        decisions = a.equals(b), a <= b, a >= b, a.is_empty()
    except TooHardError:
        assume(False)
    same, below, above, nothing = decisions
    assert same == (below and above)
    for n, m in ((0, 0), (1, 1), (7, 7), (13, 5), (4, 17), (24, 24)):
        x, y = a.mask(n, m), b.mask(n, m)
        assert not same or (x == y).all()
        assert not below or (x <= y).all()
        assert not above or (x >= y).all()
        assert not nothing or not x.any()
    for claim, left, right in ((below, a, b), (above, b, a), (nothing, a, empty)):
        if not claim:
            n, m, i, j = witness(left, right)
            assert left.mask(n, m)[i, j]
            assert not right.mask(n, m)[i, j]


def witness(a: Term, b: Term) -> tuple[int, int, int, int]:
    """Lengths and a pair that `a` has and `b` has not: the least in n, then m, i, j."""
    more = (relation(a) - relation(b)).wrap().flatten()
    more = more.move_dims(isl.dim_type.set, 0, isl.dim_type.param, 0, 2)
    point = more.lexmin().sample_point()
    n, m, i, j = (point.get_coordinate_val(isl.dim_type.set, k).to_python() for k in range(4))
    return n, m, i, j


@given(terms(4, ring=True))
def test_a_term_equals_itself_however_it_is_put(term: Term) -> None:
    try:
        assert term.equals(term | term)
        assert term.equals(~~term)
        assert (term - term).is_empty()
        assert term & causal <= term <= term | causal
    except TooHardError:
        assume(False)


def test_decisions() -> None:
    assert stride(6) <= stride(3)
    assert not stride(3) <= stride(6)
    assert stride(3) >= stride(6)
    assert window(3).equals(causal - causal.shift(4))
    assert (window(2) & stride(4, 3)).is_empty()
    assert keys(3, 3).is_empty()
    assert not keys(-1).is_empty()
    assert ring(0).equals(window(0))
    assert ring(2) >= window(2, 2)
    assert not ring(2).equals(window(2, 2))
    assert lags(0, 3) ** 2 <= lags(0, 3, 6)
    assert not lags(0, 3, 6) <= lags(0, 3) ** 2  # with n > m the token between may not exist


# Left and right attend the same, for all n and m ("square": for all n = m only).
LAWS = [
    ("a | b", "b | a"),
    ("a & b", "b & a"),
    ("a ^ b", "a - b | b - a"),
    ("a - b", "a & ~b"),
    ("~~a", "a"),
    ("~(a | b)", "~a & ~b"),
    ("~(a & b)", "~a | ~b"),
    ("a & (b | c)", "a & b | a & c"),
    ("a | b & c", "(a | b) & (a | c)"),
    ("a & full", "a"),
    ("a | empty", "a"),
    ("a ^ a", "empty"),
    ("a ^ full", "~a"),
    ("a.T.T", "a"),
    ("(a | b).T", "a.T | b.T"),
    ("(a & b).T", "a.T & b.T"),
    ("(~a).T", "~a.T"),
    ("a @ (b | c)", "a @ b | a @ c"),
    ("(a | b) @ c", "a @ c | b @ c"),
    ("a @ (b @ c)", "a @ b @ c"),
    ("a @ empty", "empty"),
    ("a @ window(0)", "a"),
    ("window(0) @ a", "a", "square"),
    ("(a @ b).T", "b.T @ a.T", "square"),
    ("a ** 0", "window(0)"),
    ("a ** 1", "a"),
    ("a ** 3", "a @ a @ a"),
    ("(a ** 2) ** 2", "a ** 4"),
    ("a.shift(2).shift(-5)", "a.shift(-3)"),
    ("a.shift(0)", "a"),
    ("(a - b).shift(3)", "a.shift(3) - b.shift(3)"),
    ("a.blocked(1)", "a"),
    ("a.blocked(2).blocked(3)", "a.blocked(6)"),
    ("(a ^ b).blocked(3)", "a.blocked(3) ^ b.blocked(3)"),
    ("a.T.blocked(3)", "a.blocked(3).T"),
    ("a.dilated(1)", "a"),
    ("a.dilated(2).dilated(3)", "a.dilated(6)"),
    ("(a | b).dilated(3)", "a.dilated(3) | b.dilated(3)"),
    ("a.T.dilated(3)", "a.dilated(3).T"),
    ("(a ** 2).dilated(2)", "a.dilated(2) ** 2"),
    ("full.dilated(4)", "stride(4)"),
    ("window(0).blocked(4)", "blocks(4)"),
    ("window(2).dilated(4)", "lags(0, 4, 8)"),
    ("stride(3) & stride(4)", "stride(12)"),
    ("stride(3).shift(2)", "stride(3, 2)"),
    ("keys(2, 5).T", "queries(2, 5)"),
]
ABC = [
    ("causal", "stride(3)", "window(2, 1)"),
    ("lags(-1, 2)", "blocks(3)", "keys(-4, None, 2)"),
    ("queries(1, -1)", "pairs([(0, 3), (3, 3), (3, 5)])", "where(lambda i, j, n, m: (i + j) % 4 < n - j)"),
]


@pytest.mark.parametrize("law", LAWS, ids=[" == ".join(law[:2]) for law in LAWS])
@pytest.mark.parametrize("abc", ABC, ids=["dense", "short", "odd"])
def test_laws(law: tuple[str, ...], abc: tuple[str, str, str]) -> None:
    def filled(text: str) -> str:
        words = dict(zip("abc", abc, strict=True))
        return re.sub(r"\b[abc]\b", lambda found: f"({words[found[0]]})", text)

    left, right = (parse(filled(text)) for text in law[:2])
    for text in law[:2]:  # the text itself says it as repr would
        assert repr(parse(re.sub(r"\b[abc]\b", lambda found: f"causal.shift({ord(found[0])})", text))) == re.sub(
            r"\b[abc]\b", lambda found: f"causal.shift({ord(found[0])})", text
        )
    square = "square" in law
    for n, m in ((0, 0), (1, 1), (6, 6), (13, 13), (9, 14), (14, 5)):
        if n == m or not square:
            assert (left.mask(n, m) == right.mask(n, m)).all()
    if square:
        same = read_set("[n, m] -> { : n = m }")
        assert relation(left).intersect_params(same).is_equal(relation(right).intersect_params(same))
    else:
        assert left.equals(right)


def test_a_query_that_sees_a_token_sees_all_its_keys() -> None:
    assert (lags(2) @ full).equals(full & queries(2, None) & where(lambda i, j, n, m: i - 2 < m))
    assert (causal @ keys(0, 1)).equals(keys(0, 1))
    assert not (keys(0, 1) @ causal).equals(keys(0, 2))


# --- counts


def test_counts_by_formula() -> None:
    n = 1 << 20
    assert causal.pairs(n) == n * (n + 1) // 2
    assert (causal & ~causal).pairs(n) == 0
    assert window(255).pairs(n) == 256 * n - 255 * 256 // 2
    assert (causal & stride(256)).pairs(n) == sum((i // 256) + 1 for i in range(n))
    assert ring(3).pairs(n) == 7 * n
    assert full.pairs(10, 10**9) == 10**10
    assert full.sparsity(5) == 0.0
    assert empty.sparsity(5) == causal.sparsity(0) == causal.sparsity(0, 4) == 1.0
    assert (lags(0, 1) ** 9).degree(20).tolist() == [*range(1, 11), *[10] * 10]
    assert keys(0, None, 2).degree(3, 7).tolist() == [4, 4, 4]
    assert causal.degree(3, 7, 2).tolist() == [3, 4, 5]


@pytest.mark.parametrize(
    "text",
    [
        "causal | window(5) | stride(16)",
        "stride(2) | stride(3, 1) | where(lambda i, j: (i - j) % 5 < 2)",
        "stride(7, 3) | queries(2, -2, 3) | where(lambda i, j: (i - j) % 5 < 2)",
        "where(lambda i, j: (i // 3 + j // 2) % 4 == 1) & causal",
        "where(lambda i, j: abs(i - 2 * j) % 7 > 3) - stride(2)",
        "(stride(4) | blocks(3)) ** 2 | keys(1, None, 6)",
    ],
)
def test_counts_over_many_periods(text: str) -> None:
    term = parse(text)
    for n, m in ((150, 170), (170, 150)):
        assert (term.degree(n, m) == term.mask(n, m).sum(axis=1)).all()


# --- the operation limit

HARD = parse("(stride(7) | stride(11, 3).blocked(2) | blocks(13) - keys(5, None, 3) ^ keys(-7, None, 4)) ** 5")


def test_hard_terms_are_refused_in_time_and_by_name() -> None:
    start = time.process_time()
    for ask in (
        HARD.relation,
        lambda: HARD.equals(causal),
        lambda: causal <= HARD,
        HARD.is_empty,
        lambda: HARD.pairs(9),
    ):
        with pytest.raises(TooHardError) as caught:
            ask()
        assert repr(HARD) in caught.value.where
        assert caught.value.hint
    assert time.process_time() - start < 20  # about 2: the failure is remembered
    assert HARD.mask(40).shape == (40, 40)
    assert causal.equals(~~causal), "isl must go on after a failure"


def test_random_terms_are_seldom_refused_and_always_in_time() -> None:
    seconds: list[float] = []
    refused: list[Term] = []

    @given(terms(5))
    def ask(term: Term) -> None:
        start = time.process_time()
        try:
            term.relation()
        except TooHardError:
            refused.append(term)
        seconds.append(time.process_time() - start)

    ask()
    assert len(refused) <= 0.1 * len(seconds), refused
    assert max(seconds) < 20
    assert np.median(seconds) < 0.1


def test_the_vocabulary_is_fast() -> None:
    seconds = []
    for width in range(3, 12):
        term = window(width) | stride(8 * width, 5) & causal | blocks(5 * width)
        start = time.process_time()
        term.relation()
        seconds.append(time.process_time() - start)
    assert np.median(seconds) < 0.02  # 0.003


def work() -> isl.Map:
    """Some thousands of operations."""
    a = read_map("[n, m] -> { [i] -> [j] : (i - j) mod 7 = 3 or floor(i/5) = floor(j/5) }")
    return a.apply_range(a).coalesce()


def test_limited_strikes_and_resets() -> None:
    for _ in range(3):
        with pytest.raises(TooHardError, match=r"(?s)after 100 operations.*where: work"), limited("work", 100):
            work()
        assert CONTEXT.get_max_operations() == 0
        with limited("work"):
            work()
        assert not work().is_empty()


def test_a_failed_assertion_of_isl_does_no_harm() -> None:
    """Coalescing this one stops with "original tableau does not correspond to original basic map"."""
    term = ~(keys(-7, None, 3) ^ ring(0)) @ queries(6, None, 2)
    for n in (0, 1, 8, 13):
        assert pairs_of(term.relation(), n, n) == pairs_in(term.mask(n, n))


def test_limited_notices_a_failure_that_was_swallowed() -> None:
    with pytest.raises(TooHardError), limited("work", 100), contextlib.suppress(Exception):
        work()


def test_limited_lets_other_errors_through() -> None:
    with pytest.raises(ZeroDivisionError), limited("work"):
        raise ZeroDivisionError
    with pytest.raises(isl.Error, match="syntax"), limited("work"):
        read_set("{ nonsense")
    with pytest.raises(pidsl.SizeError), limited("work"):
        causal.mask(-1)
    assert CONTEXT.get_max_operations() == 0


def test_limited_blocks_nest() -> None:
    with limited("outer"):
        with pytest.raises(TooHardError, match=r"(?s)after 100 operations.*inner"), limited("inner", 100):
            work()
        work()  # the outer block goes on
    with pytest.raises(TooHardError, match="outer"), limited("outer", 100), limited("inner", 1_000_000):
        work()  # an inner block cannot have more than the outer one
    with pytest.raises(TooHardError, match=r"(?s)inner.*outer"), limited("outer"), limited("inner", 100):
        work()
    assert CONTEXT.get_max_operations() == 0


def fresh_terms(seed: int) -> Iterator[Term]:
    for k in range(12):
        yield (window(seed + k) | stride(50 + seed + k, k) & causal).shift(seed) ** 2 - blocks(3 + k)


def test_two_threads_share_isl() -> None:
    failures: list[object] = []

    def ask(seed: int) -> None:
        try:
            for term in fresh_terms(seed):
                assert term.pairs(40, 37) == term.mask(40, 37).sum()
                with pytest.raises(TooHardError), limited("work", 100):
                    work()
                relation(term)
                gc.collect(0)
        except BaseException as e:
            failures.append(e)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in (100, 200, 300)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@pytest.mark.parametrize("term", SOME, ids=map(repr, SOME))
def test_some_terms_at_many_lengths(term: Term) -> None:
    found = term.relation()
    for n in range(0, 20, 3):
        for m in (0, 1, n, 19):
            assert pairs_of(found, n, m) == pairs_in(term.mask(n, m))
    assert [found.get_dim_name(isl.dim_type.param, k) for k in range(2)] == ["n", "m"]


@pytest.mark.parametrize(
    "text",
    [
        "(blocks(11) ^ window(3, 7)) @ stride(11, 7).T",
        "(window(3).blocked(2) @ stride(5, 3)) ^ blocks(7)",
        "(blocks(5) @ window(3, 18)).T - stride(4, 1)",
    ],
)
def test_questions_about_relations_with_divisions(text: str) -> None:
    """Nothing of isl's own comes out, and what comes out is right."""
    term = parse(text)
    mask = term.mask(40, 33, 5)
    assert pairs_of(term.relation(), 45, 33) == pairs_in(term.mask(45, 33))
    assert (term.degree(40, 33, 5) == mask.sum(1)).all()
    assert term.pairs(40, 33, 5) == mask.sum()
    assert term.equals(~~term)
    assert term <= full
    assert not term.is_empty()


def test_a_small_predicate_alone_has_patience_enough() -> None:
    for x in range(3):
        assert where(lambda i, j, x=x: j == i + x).pairs(5 + x) == 5
        assert where(lambda i, j, x=x: i - j < x + 2).relation()
