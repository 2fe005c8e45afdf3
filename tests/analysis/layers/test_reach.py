"""How far several layers see: every formula against matrices, every proof checked and every tampered one refused."""

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import reduce
from unittest import mock

import islpy as isl
import networkx as nx
import numpy as np
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st
from own_ways import by, contiguous, depth, farthest

import pidsl
from pidsl import blocks, causal, empty, full, keys, lags, queries, ring, stride, window
from pidsl.analysis import dense as matrices
from pidsl.analysis import questions
from pidsl.analysis.bound import Bound, restated
from pidsl.analysis.formulas.piecewise import formula
from pidsl.analysis.formulas.read import function, region
from pidsl.analysis.formulas.words import L, Periodic, n
from pidsl.analysis.layers import by_tokens, check_composed, stacks
from pidsl.analysis.layers.lags import added, from_bits, to_bits
from pidsl.analysis.layers.reachable import reachable
from pidsl.analysis.layers.sums import Intervals, merged
from pidsl.errors import SizeError, SymbolError, TermError, TooHardError
from pidsl.language.terms import Term
from pidsl.relation.isl import read_set
from pidsl.relation.oracle import dense_mask
from pidsl.studies.graph import attention_graph, path
from pidsl.testing import terms

EXAMPLES = settings.default.max_examples
PI = window(4) | lags(16)
COMB = window(4) | stride(16) & causal
POWERS = lags(0, *(2**k for k in range(14)))
LIBRARY = [
    *(window(64), window(64, 64), PI, COMB, window(64) | lags(256), window(64) | stride(256) & causal, stride(16)),
    *(stride(16) & causal, POWERS, blocks(64), blocks(64) & causal, keys(0, 4) & causal | window(64), ring(2), full),
    *(causal, lags(0, 1, 3, 9, 27, 81), window(3).dilated(4), (blocks(64) | keys(0, None, 64)) & causal),
]
SMALL = [1, 2, 3, 4, 5, 7, 11, 16, 23, 30]


def stacked(schedule: Sequence[Term], layers: int, tokens: int) -> np.ndarray:
    """What the layers connect, by products of dense masks; the layer at the input first."""
    masks = [dense_mask(schedule[k % len(schedule)], tokens) for k in range(layers)]
    return reduce(lambda seen, mask: matrices.times(mask, seen), masks, np.eye(tokens, dtype=np.bool_))


def farthest_in(seen: np.ndarray) -> float:
    i, j = np.nonzero(seen)
    return max((i - j).tolist(), default=-math.inf)


def contiguous_in(seen: np.ndarray) -> int:
    missing = [i - j for i, j in zip(*np.nonzero(~seen), strict=True) if i >= j]
    return int(min(missing)) - 1 if missing else len(seen) - 1


def from_least(bound: Bound) -> Iterator[int]:
    """Some n that the assumptions of the bound allow."""
    return (x for x in SMALL if all(c.subs({n: x}) != sympy.false for c in bound.assumptions))


def tampered(bound: Bound) -> Bound:
    return replace(bound, expr=bound.expr + 1 if bound.expr.is_finite is not False else sympy.Integer(3))


# -- by eye ------------------------------------------------------------------------------------------------------------


def test_reference_facts() -> None:
    for layers in range(1, 14):
        assert farthest(PI, layers)(n=4096) == 16 * layers
    assert contiguous(PI, 12)(n=4096) == 156
    assert farthest(PI)(n=10**6, L=12) == 16 * 12
    assert contiguous(PI).expr == sympy.Min(n - 1, sympy.Piecewise((16 * L - 36, L >= 3), (4 * L, True)))


def test_short_sequences() -> None:
    assert farthest(window(4), 2).expr == sympy.Piecewise((8, n >= 9), (n - 1, True))
    assert farthest(lags(1, 3), 1).expr == sympy.Piecewise((3, n >= 4), (1, n >= 2), (-sympy.oo, True))
    assert farthest(lags(-2), 1).expr == sympy.Piecewise((-2, n >= 3), (-sympy.oo, True))
    assert farthest(empty, 3).expr == -sympy.oo
    assert farthest(empty, 0).expr == 0
    assert contiguous(empty, 1).expr == -1
    assert contiguous(causal, 1).expr == n - 1
    assert contiguous(blocks(4), 3).expr == sympy.Piecewise((0, n >= 5), (n - 1, True))
    assert farthest(stride(4) & causal, 2)(n=2**40) == 2**40 - 4


@pytest.mark.parametrize(("k", "p"), [(1, 2), (1, 5), (2, 7), (3, 4), (4, 16), (5, 6), (7, 29)])
def test_window_and_one_lag(k: int, p: int) -> None:
    c = -(-(p - 1) // k)
    bound = contiguous(window(k) | lags(p))
    assert bound.proof.check()
    for layers in range(1, 20):
        expected = k * layers if layers < c else p * (layers + 1 - c) + k * (c - 1)
        assert bound(n=10**6, L=layers) == contiguous(window(k) | lags(p), layers)(n=10**6) == expected


@pytest.mark.parametrize(("k", "p"), [(1, 2), (1, 9), (2, 7), (4, 16), (64, 256), (3, 4096)])
def test_depth_of_window_and_stride(k: int, p: int) -> None:
    bound = depth(window(k) | stride(p) & causal)
    assert bound(n=2**40) == 1 + -(-(p - 1) // k)
    assert bound.proof.check()


def test_depth_by_eye() -> None:
    assert depth(window(4)).expr == sympy.Piecewise((sympy.ceiling((n - 1) / sympy.Integer(4)), n >= 2), (1, True))
    assert depth(full).expr == 1
    assert depth(full).argument("of") == "all"
    assert depth(keys(0, 1) | queries(0, 1))(n=2**40) == 2  # through token 0
    assert depth(causal, of="all").expr == sympy.Piecewise((sympy.oo, n >= 2), (1, True))
    assert depth(lags(1)).expr == sympy.oo
    assert depth(ring(2))(n=101) == 25
    assert depth(window(3, 3))(n=2**40) == -(-(2**40 - 1) // 3)
    powers = depth(POWERS)
    assert [powers(n=2**k) for k in range(13)] == [1, 1, *range(2, 13)]  # n - 1 has k ones
    assert depth([window(1), stride(4) & causal])(n=100) == 5  # three windows of one for lags of residue 3
    for never in (blocks(4), stride(4) & causal, lags(-1, 1), causal.T):
        assert depth(never, 4096)() == math.inf
    assert depth(blocks(4)).reason.startswith("token 0 never sees token 4 (n = 5)")


def test_reachable() -> None:
    three = reachable(PI, 3)
    assert repr(three) == "{ 0..12, 16..24, 32..36, 48 }"
    assert 24 in three
    assert 25 not in three
    assert (1000, 976) in three
    assert (1000, 975) not in three
    assert three == reachable([PI, PI, PI])
    assert three != reachable(PI, 2)
    assert (3, 0) in reachable(blocks(4), 2)
    assert (4, 3) not in reachable(blocks(4), 2)
    with pytest.raises(SizeError, match="not translation invariant"):
        assert 3 in reachable(blocks(4), 2)


def test_graph_and_paths_by_eye() -> None:
    assert set(attention_graph(window(1), 3).edges) == {(0, 0), (0, 1), (1, 1), (1, 2), (2, 2)}
    assert path(window(4), 9, 0, 3) == [0, 4, 8, 9]
    assert path(window(4), 9, 0, 2) is None
    assert path(PI, 5, 5, 0) == [5]
    assert path(PI, 5, 4, 0) is None
    assert path([lags(1), lags(10)], 11, 0) == [0, 1, 11]  # the layer at the input first


# -- against matrices --------------------------------------------------------------------------------------------------


@settings(max_examples=EXAMPLES * 3 // 5)
@given(terms(3, ring=True), st.integers(0, 4))
def test_farthest_and_contiguous(term: Term, layers: int) -> None:
    for question, answer in ((farthest, farthest_in), (contiguous, contiguous_in)):
        bound = question(term, layers)
        if not bound.is_known:
            assert bound.reason
            continue
        for tokens in from_least(bound):
            assert bound(n=tokens) == answer(stacked([term], layers, tokens)), (str(bound), tokens)
        if layers <= 3:
            assert bound.proof.check() or "operations" in bound.proof.verdict().failure, bound
            assert not tampered(bound).proof.check()


@settings(max_examples=EXAMPLES // 3)
@given(st.lists(terms(2), min_size=2, max_size=3), st.integers(1, 4))
def test_schedules(schedule: list[Term], layers: int) -> None:
    for question, answer in ((farthest, farthest_in), (contiguous, contiguous_in)):
        bound = question(schedule, layers)
        for tokens in from_least(bound) if bound.is_known else ():
            assert bound(n=tokens) == answer(stacked(schedule, layers, tokens)), (str(bound), tokens)
        assert bound.proof.check() or not bound.is_known or "operations" in bound.proof.verdict().failure
    for tokens in (None, 9):
        bound = depth(schedule, tokens)
        for x in (tokens,) if tokens else from_least(bound) if bound.is_known else ():
            found = matrices.depth_of(schedule, x, bound.argument("of"))
            assert bound(n=x) == (math.inf if found is None else found), (str(bound), x)


@settings(max_examples=EXAMPLES)
@given(terms(3, ring=True), st.integers(1, 30))
def test_depth(term: Term, tokens: int) -> None:
    bound = depth(term)
    if bound.is_known:
        for x in from_least(bound):
            found = matrices.depth_of([term], x, bound.argument("of"))
            assert bound(n=x) == (math.inf if found is None else found), (str(bound), x)
        assert bound.proof.check() or "operations" in bound.proof.verdict().failure
        assert not tampered(bound).proof.check()
    number = depth(term, tokens)
    assert number.is_exact
    assert number.proof.check()
    assert not tampered(number).proof.check()
    assert number() == depth_in_graph(term, tokens, number.argument("of"))


@pytest.mark.parametrize("term", [stride(8) @ causal.dilated(3), stride(9) @ stride(8)])
def test_lags_that_are_irregular_for_short_sequences(term: Term) -> None:
    bound = farthest([term], 1)
    assert bound.is_known
    for tokens in range(bound.assumptions[0].rhs, 90):
        assert bound(n=tokens) == farthest_in(dense_mask(term, tokens))
    assert bound.proof.check()


@given(terms(2, ring=True), st.integers(1, 12), st.integers(0, 4))
@settings(max_examples=EXAMPLES)
def test_reach_without_products_is_that_of_what_layers_see(term: Term, tokens: int, layers: int) -> None:
    seen = stacked([term], layers, tokens)
    far = matrices.reach_of("farthest", [term] * layers, tokens)
    assert (-math.inf if far is None else far) == farthest_in(seen)
    assert matrices.reach_of("contiguous", [term] * layers, tokens) == contiguous_in(seen)


def test_lags_too_wide_for_their_sums_have_a_largest_one() -> None:
    bound = farthest(window(63, 63) | lags(-256, 256))
    assert bound(n=1025, L=4) == 1024
    assert bound.proof.check()
    assert not restated(bound, assumptions=bound.assumptions[:1]).proof.check()


BY_TOKENS = [
    stride(11, 7),
    lags(-2, 9),
    ((stride(3) | stride(6)) ^ ring(5)).shift(1),
    (stride(5, 3) | window(3)).blocked(3).T,
    (blocks(3) ** 2).T | lags(8, 6),
    ~stride(10) ^ ring(12),
    stride(4) | stride(5, 2).T,
]


@pytest.mark.parametrize("term", BY_TOKENS)
def test_depth_by_tokens(term: Term) -> None:
    bound = by(by_tokens.depth, term, "depth", of="all")
    assert bound.proof.check(), bound.proof.verdict()
    for tokens in (1, 2, 3, 5, 8, 13, 21, 33, 34, 55, 89, 107):
        found = matrices.depth_of([term], tokens, "all")
        assert bound(n=tokens) == (math.inf if found is None else found)
    late = sympy.Piecewise((bound.expr, n < 95), (3 * n, True))
    for wrong in (sympy.Integer(2), sympy.Piecewise((7, sympy.Eq(n, 20)), (bound.expr, True)), late, sympy.oo, n):
        assert not replace(bound, expr=wrong).proof.check() or wrong == bound.expr
    assert not restated(bound, subject=full).proof.check()


@settings(max_examples=EXAMPLES // 3)
@given(terms(3, ring=True), st.integers(1, 3), st.sampled_from(["farthest", "contiguous"]))
def test_long_sequences(term: Term, layers: int, quantity: str) -> None:
    try:
        guess = by(by_tokens.reach, term, quantity, layers=layers)
        with mock.patch.object(check_composed, "TOGETHER", 1):
            failure = not guess.proof.check()
    except TooHardError:
        return
    if failure:
        return
    answer = farthest_in if quantity == "farthest" else contiguous_in
    for tokens in (29, 61, 83, 97):
        if all(c.subs(n, tokens) for c in guess.assumptions):
            assert guess.expr.subs(n, tokens) == answer(stacked([term], layers, tokens))
    wrong = [
        guess.expr + 1 if guess.expr.is_finite else sympy.Integer(0),
        sympy.Piecewise((guess.expr, n < 50), (5, True)),
    ]
    for expr in wrong:
        if any(expr.subs(n, x) != guess.expr.subs(n, x) for x in range(50, 90)):
            with mock.patch.object(check_composed, "TOGETHER", 1):
                assert not replace(guess, expr=expr).proof.check()


def depth_in_graph(term: Term, tokens: int, of: str) -> float:
    """Depth from the attention graph: tokens at the ends of walks of L edges, until a state comes again."""
    graph = attention_graph(term, tokens)
    wanted = [set(range(j if of == "causal" else 0, tokens)) for j in range(tokens)]
    ends = [{j} for j in range(tokens)]
    known = set()
    for layers in itertools.count(1):
        ends = [{i for t in reached for i in graph.successors(t)} for reached in ends]
        if all(need <= got for need, got in zip(wanted, ends, strict=True)):
            assert of == "causal" or nx.is_strongly_connected(graph)
            return layers
        state = tuple(map(frozenset, ends))
        if state in known:
            return math.inf
        known.add(state)
    raise AssertionError


@settings(max_examples=2 * EXAMPLES)
@given(st.lists(terms(2, ring=True), min_size=1, max_size=3), st.integers(1, 16), st.data())
def test_paths(schedule: list[Term], tokens: int, data: st.DataObject) -> None:
    i, j = data.draw(st.integers(0, tokens - 1)), data.draw(st.integers(0, tokens - 1))
    layers = data.draw(st.integers(0, 5))
    masks = [dense_mask(schedule[k % len(schedule)], tokens) for k in range(layers)]
    counts = reduce(lambda seen, mask: mask.astype(object) @ seen, masks, np.eye(tokens, dtype=object))
    chain = path(schedule, i, j, layers, tokens)
    assert (chain is not None) == bool(counts[i, j])
    if chain is not None:
        assert (chain[0], chain[-1], len(chain)) == (j, i, layers + 1)
        assert all(mask[query, key] for mask, (key, query) in zip(masks, itertools.pairwise(chain), strict=True))


@given(terms(2, ring=True), st.integers(0, 12))
def test_graph(term: Term, tokens: int) -> None:
    graph = attention_graph(term, tokens)
    assert np.array_equal(nx.to_numpy_array(graph, nodelist=range(tokens)).T > 0, dense_mask(term, tokens))


# -- every length, every time ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("term", LIBRARY, ids=repr)
def test_library_patterns(term: Term) -> None:
    """All of it is known and proved, however long the sequence."""
    stacks.square.cache_clear()
    bounds = [question(term, layers) for question in (farthest, contiguous) for layers in (1, 2, 4)]
    bounds += [depth(term), depth(term, 2**40)]
    assert all(bound.is_exact for bound in bounds)
    assert all(isinstance(bound(n=2**40), int) or math.isinf(bound(n=2**40)) for bound in bounds)
    assert all(bound.proof.check() for bound in bounds)


def test_most_random_terms_are_known() -> None:
    found: list[bool] = []

    @settings(max_examples=EXAMPLES, database=None)
    @given(terms(3), st.integers(1, 4))
    def ask(term: Term, layers: int) -> None:
        found.extend(bound.is_exact for bound in (questions.farthest(term, layers), questions.contiguous(term, layers)))

    ask()
    assert len(found) > 40
    assert sum(found) >= 0.9 * len(found)  # one hard term and its mutations are a tenth; more in benchmarks/bounds.py


@pytest.mark.parametrize("bound", [farthest(PI, 2), contiguous(COMB, 2), depth(PI), depth(blocks(4)), farthest(PI)])
def test_contradictions_prove_nothing(bound: Bound) -> None:
    assert bound.proof.check()
    never = (sympy.Ge(n, 5), sympy.Le(n, 4))
    assert not replace(bound, assumptions=never).proof.check()
    assert not replace(bound, expr=bound.expr + 1, assumptions=never).proof.check()
    assert not replace(bound, assumptions=()).proof.check() or bound.assumptions == (n >= 1,)
    assert not restated(bound, subject=window(1)).proof.check()


def test_wrong_use() -> None:
    k = pidsl.symbols("k")
    for question in (farthest, contiguous, depth, reachable):
        with pytest.raises(SymbolError):
            question(window(k), 1)
    for question in (farthest, contiguous, reachable):
        for layers in (-1, 1.5, "two", True):
            with pytest.raises(SizeError):
                question(window(1), layers)
        with pytest.raises(TermError):
            question([], 1)
        with pytest.raises(TermError):
            question("window(1)", 1)
    for tokens in (-1, 0, 2.5):
        with pytest.raises(SizeError):
            depth(window(1), tokens)
    with pytest.raises(TermError, match="causal"):
        depth(window(1), of="past")
    with pytest.raises(SizeError):
        path(window(1), 5, 6, 1, n=6)
    with pytest.raises(SizeError):
        path(window(1), -1, 0, 1)
    with pytest.raises(SizeError, match="without a graph"):
        attention_graph(window(1), 2**40)
    with pytest.raises(SymbolError):
        attention_graph(window(k), 3)


# -- parts -------------------------------------------------------------------------------------------------------------

intervals = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 5)), max_size=12).map(
    lambda items: merged((a, a + b) for a, b in items)
)


@given(intervals, intervals)
def test_sums_of_intervals(a: Intervals, b: Intervals) -> None:
    def elements(parts: Intervals) -> set[int]:
        return {x for low, high in parts for x in range(low, high + 1)}

    found = added(a, b)
    assert elements(found) == {x + y for x in elements(a) for y in elements(b)}
    assert found == merged(found)
    assert from_bits(to_bits(a)) == a


@given(st.lists(st.tuples(*[st.integers(-9, 9)] * 3, st.integers(1, 6), st.integers(0, 20)), min_size=1, max_size=4))
def test_formulas_are_read_back(parts: list[tuple[int, int, int, int, int]]) -> None:
    """isl function -> formula -> isl function is the same for all n, and the formula has isl's values."""
    text = "; ".join(
        f"[d] : n >= {start} and d <= {abs(a)}*n + {b} and d <= {start} + {abs(c)}*(floor((n + {b})/{p}))"
        for a, b, c, p, start in parts
    )
    f = read_set(f"[n] -> {{ {text} }}").dim_max(0)
    found = formula(f, -sympy.oo)
    where = region(found.assumptions)
    again, given_ = function(found.expr).intersect_params(where), f.intersect_params(where)
    assert again.domain().is_equal(given_.domain())
    assert given_.domain().is_subset(again.eq_set(given_))


def test_formula_shapes() -> None:
    def shown(text: str) -> str:
        return str(formula(read_set(text).dim_max(0), -sympy.oo).expr)

    assert shown("[n] -> { [d] : 0 <= d < n and d <= 5 }") == "Piecewise((5, n >= 6), (n - 1, True))"
    assert shown("[n] -> { [d] : 0 <= 2 d < n }") == "floor(n/2 + 1/2) - 1"
    assert shown("[n] -> { [d] : d = 3 and n mod 2 = 0 }") == "Periodic(n, 3, -oo)"
    assert Periodic(n, 1, 2).subs(n, 7) == 2


def test_context_is_left_clean() -> None:
    """No limit of an analysis stays behind."""
    farthest(PI, 3)
    assert not isl.Set("{ [x] : x = 1 }").is_empty()


def test_the_first_pair_out_of_reach_is_one_of_integers() -> None:
    """isl's minimum of one dimension may be of a part that holds no integers."""
    where = "where(lambda i, j, n, m: ~((0 < -1 - minimum(j, 2)) & ~(-6 < minimum(m, m) + abs(n)) | ~(0 < -1 - "
    where += "minimum(j, 2)) & (-6 < minimum(m, m) + abs(n))))"
    bound = depth(pidsl.parse(f"queries(-11, 3, 4) | ({where} ** 0) ** 3"))
    assert bound.is_exact and bound.proof.check()
    found = re.match(r"token (\d+) never sees token (\d+) \(n = (\d+)\)", bound.reason)
    assert found is not None
    i, j, tokens = map(int, found.groups())
    assert not stacked([bound.term], 5, tokens)[i, j]
