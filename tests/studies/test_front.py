"""Fronts against every member there is: masks for what a pattern costs, boolean matrices for what it reaches."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pidsl import causal, keys, lags, layers, patterns, stride, symbols, window
from pidsl.analysis import dense as matrices
from pidsl.analysis.schedules import BaseSchedule
from pidsl.errors import PidslError, SizeError, SymbolError, TermError
from pidsl.language.terms import Term
from pidsl.relation.oracle import dense_mask
from pidsl.studies.design import KNOWN, design
from pidsl.studies.known_fronts import balanced, digits
from pidsl.studies.limits import least_keys
from pidsl.studies.points import MEASURES, undominated

EXAMPLES = settings.default.max_examples

Numbers = tuple[int, int, int, int]
Stack = tuple[Term, ...]


def depth_of(stack: Stack, tokens: int) -> int | None:
    """The number of layers after which every causal pair is connected."""
    seen, wanted = np.eye(tokens, dtype=bool), np.tri(tokens, dtype=bool)
    for count, term in enumerate(stack, 1):
        seen = matrices.times(dense_mask(term, tokens), seen)
        if (seen >= wanted).all():
            return count
    return None


def far(term: Term, tokens: int) -> np.ndarray:
    """The mask of so many more tokens that every lag of these tests has a query among them, or goes on."""
    return dense_mask(term, tokens * (tokens + 2) + 24)


@lru_cache
def kept(term: Term, tokens: int) -> int:
    """Keys among the first tokens that a token after them attends."""
    return int(far(term, tokens)[tokens:, :tokens].any(0).sum())


@lru_cache
def moved(term: Term, tokens: int) -> int:
    """The most keys before it that any rank with consecutive tokens gets: one that goes on to the end has most."""
    mask = far(term, tokens)
    return max((int(mask[at:, :at].any(0).sum()) for at in range(1, tokens)), default=0)


def numbers_of(stack: Stack, tokens: int) -> Numbers | None:
    """Keys, cache, received and depth of layers; None where they do not connect all."""
    depth = depth_of(stack, tokens)
    if depth is None:
        return None
    degree = sum(int(dense_mask(term, tokens).sum(1).max()) for term in stack)
    return degree, sum(kept(t, tokens) for t in stack), sum(moved(t, tokens) for t in stack), depth


def best_of(all_: Iterable[Numbers | None], budget: dict[str, int]) -> set[Numbers]:
    """Those that no other is better than, by comparing each with each."""
    fit = {x for x in all_ if x and all(v <= budget.get(name, v) for name, v in zip(MEASURES, x, strict=True))}
    return {x for x in fit if not any(y != x and all(a <= b for a, b in zip(y, x, strict=True)) for y in fit)}


def stacks(family: str, tokens: int, count: int, radius: int) -> Iterator[Stack]:
    """Every member of a known family with a window of at least some radius."""
    sizes = range(radius, tokens + 2)
    match family:
        case "window":
            yield from ((window(k),) * count for k in sizes)
        case "window | stride":
            yield from ((window(k) | stride(p) & causal,) * count for k in sizes for p in range(1, tokens + 1))
        case "window | skip":
            yield from ((window(k) | lags(p),) * count for k in sizes for p in range(1, tokens + 1))
        case "base schedule":
            for b in range(2, tokens + 2) if not radius else ():
                steps = [b**k for k in range(count)]
                yield tuple(window(0) if s >= tokens else BaseSchedule(b).layer(k) for k, s in enumerate(steps))
        case _:
            for deep in range(1, count + 1):
                for own in range(1, deep + 1):
                    yield tuple(digits(tokens, count, radius, own, deep))


@pytest.mark.parametrize("family", KNOWN)
@pytest.mark.parametrize(
    ("tokens", "count", "radius", "budget"),
    [(1, 1, 0, {}), (2, 2, 0, {}), (5, 1, 0, {}), (9, 3, 0, {}), (12, 2, 0, {}), (11, 4, 0, {}), (13, 3, 2, {}),
     (12, 3, 0, {"depth": 2}), (12, 3, 0, {"cache": 20}), (10, 3, 1, {"keys": 20, "received": 25})],
)  # fmt: skip
def test_the_front_of_every_member(
    family: str, tokens: int, count: int, radius: int, budget: dict[str, int]
) -> None:  # fmt: skip
    wanted = best_of((numbers_of(x, tokens) for x in set(stacks(family, tokens, count, radius))), budget)
    found = design(tokens, count, families=[family], budget=budget, window=radius)
    assert {x.measures for x in found.front} == wanted
    assert (found.best is None) == (not wanted)
    for x in found.front:
        assert numbers_of(x.terms, tokens) == x.measures and len(x.terms) == count
        assert x.keys >= least_keys(tokens, count, x.depth)
    if tokens in (11, 13) and wanted:
        assert found.front.check()


def test_of_all_families_together() -> None:
    for tokens, count in ((9, 3), (12, 2)):
        every = {numbers_of(x, tokens) for name in KNOWN for x in set(stacks(name, tokens, count, 0))}
        front = design(tokens, count).front
        assert {x.measures for x in front} == best_of(every, {})
        assert front.check() and not replace(front, points=front.points * 2).check()


PIECES = st.one_of(
    st.builds(window, st.integers(0, 3)),
    st.builds(lambda w, s: window(w) | lags(s), st.integers(0, 2), st.integers(1, 12)),
    st.builds(lambda x: lags(*x), st.lists(st.integers(0, 9), min_size=1, max_size=3)),
    st.builds(lambda w, p: window(w) | stride(p) & causal, st.integers(0, 2), st.integers(1, 8)),
)


@settings(max_examples=max(1, EXAMPLES // 4))
@given(
    st.lists(PIECES, min_size=1, max_size=4, unique=True),
    st.integers(2, 13),
    st.integers(1, 3),
    st.dictionaries(st.sampled_from(["keys", "cache", "received"]), st.integers(3, 40), max_size=1),
)
def test_schedules_of_a_list(pieces: list[Term], tokens: int, count: int, budget: dict[str, int]) -> None:
    """Every choice of a pattern for each layer, in any order."""
    every = (numbers_of(stack, tokens) for stack in itertools.product(pieces, repeat=count))
    wanted = best_of(every, budget)
    found = design(tokens, count, family=pieces, budget=budget)  # type: ignore[arg-type]
    assert {x.measures for x in found.front} == wanted and not found.front.missing
    for x in found.front:
        assert numbers_of(x.terms, tokens) == x.measures and x.check()


@settings(max_examples=max(1, EXAMPLES // 4))
@given(st.integers(2, 14), st.integers(1, 3), st.booleans(), st.integers(1, 14))
def test_a_family_of_ones_own(tokens: int, count: int, sinks: bool, limit: int) -> None:
    def family(w: int, s: int) -> Term | None:
        local = window(w) | lags(s)
        return (local | keys(0, 2)) & causal if sinks else local if s > w else None

    ranges = {"w": (0, 2), "s": [1, 3, 4, 6]}
    members = [family(w, s) for w in range(3) for s in (1, 3, 4, 6)]
    fit = [(m,) * count for m in members if m is not None and dense_mask(m, tokens).sum(1).max() <= limit]
    found = design(tokens, count, limit, family=family, ranges=ranges)
    wanted = {numbers_of(x, tokens) for x in fit} - {None}
    if not sinks:
        assert {x.measures for x in found.front} == best_of(wanted, {})
    else:  # what is received is a bound, larger than what any rank gets
        assert {(x.keys, x.depth) for x in found.front} >= {(a, d) for a, _, _, d in best_of(
            ((a, 0, 0, d) for a, _, _, d in wanted if a), {})}  # fmt: skip
    for x in found.front:
        numbers = numbers_of(x.terms, tokens)
        assert numbers is not None and numbers[:2] == x.measures[:2] and numbers[2] <= x.received
        assert numbers[3] == x.depth and x.degree <= limit and x.shown("received").startswith("<= ")


def test_no_keys_beat_the_bound() -> None:
    """Any numbers of keys whose product is large enough, by trying all."""
    for tokens, count in itertools.product((1, 2, 5, 8, 9, 17), (1, 2, 3)):
        for depth in range(1, count + 1):
            tried = itertools.product(range(1, tokens + 1), repeat=depth)
            least = min(sum(x) for x in tried if np.prod(x) >= tokens)
            assert least_keys(tokens, count, depth) == least + count - depth


@settings(max_examples=max(1, EXAMPLES // 5))
@given(st.integers(1, 3000), st.integers(0, 30), st.integers(1, 12), st.data())
def test_digits_connect(tokens: int, w: int, depth: int, data: st.DataObject) -> None:
    """As the module says; and with w = 0 nothing has fewer keys."""
    own = data.draw(st.integers(1, depth))
    bases = balanced(tokens, w, depth, own)
    assert bases == sorted(bases) and bases[-1] - bases[0] <= 1
    found = design(tokens, depth, families=["window | digits"], budget={"depth": depth}, window=w).front
    assert all(x.depth <= depth for x in found) and len(found)
    if w == 0:
        assert all(x.keys == least_keys(tokens, depth, x.depth) for x in found)
        assert all(x.cache == tokens - 1 for x in found)


# -- what is published -------------------------------------------------------------------------------------------------


def published(n: int) -> dict[str, tuple[Term, int]]:
    """Patterns of the literature, and how many tokens before its own a query sees of each."""
    return {
        "LogSparse": (patterns.log_sparse(n), 1),
        "LogSparse, 8 local": (patterns.log_sparse(n, local=8), 7),
        "PowerAttention": (patterns.power_attention(n, block=1, window=5, sinks=1), 4),
        "pi, single": (patterns.pi_attention(15, 128), 15),
        "pi, comb": (patterns.pi_attention(31, 128, skip="comb"), 31),
        "dilated": (patterns.dilated_window(16, 32) | window(31), 31),
        "window and global": (patterns.longformer(128, global_tokens=16, causal=True), 64),
    }


def test_fewer_keys_than_published_for_a_depth_no_larger() -> None:
    """A schedule with their window in every layer, at most as deep as is proved of them."""
    n = 512
    for name, (term, radius) in published(n).items():
        assert window(radius) <= term, name
        depth = term.depth(n)
        assert depth.is_exact, name
        deep = int(depth(n=n))
        theirs = deep * int(dense_mask(term, n).sum(1).max())
        (point, *_) = design(n, deep, families=["window | digits"], window=radius).front
        assert point.depth <= deep and point.keys < theirs, (name, point.keys, theirs)
        if name in ("PowerAttention", "pi, comb"):
            assert point.proof.check() and depth.proof.check()
        free = design(n, deep, families=["window | digits"]).front[0]
        assert free.keys == least_keys(n, deep, free.depth) <= point.keys


def test_one_that_is_written_out() -> None:
    """Twelve layers with 31 keys in all, and 32,768 tokens connected after ten: LogSparse has 192 and needs fifteen."""
    n = 32768
    point = design(n, 12, families=["window | digits"], budget={"depth": 10}).front[0]
    assert point.depth == 10 and point.keys == 31 == least_keys(n, 12, 10) and point.cache == n - 1 and point.check()
    log = patterns.log_sparse(n)
    assert int(log.depth(n)(n=n)) == 15 and 12 * len(log.values) == 192  # type: ignore[attr-defined]
    assert [repr(t) for t in point.pattern][:2] == ["window(1)", "window(2).dilated(2)"]  # type: ignore[union-attr]


# -- proofs, text and errors -------------------------------------------------------------------------------------------


def test_nothing_else_is_proved() -> None:
    point = design(300, 4, window=3).front[0]
    assert point.check() and point.proof is point
    for name in ("keys", "cache", "received", "depth", "pairs", "degree"):
        for by in (-1, 1):
            assert not replace(point, **{name: getattr(point, name) + by}).check(), name
    assert not replace(point, pattern=layers([window(3)] * 4)).check()
    assert not replace(point, n=299).check() and not replace(point, layers=5).check()


def test_text_and_picture() -> None:
    front = design(60, 4, family={"mixed": [window(7), window(7) | lags(22), window(7) | lags(24)], "own": window(20)},
                   ranges={}).front  # fmt: skip
    text = str(front)
    assert "<= " in text and "mixed" in text and "keys, KV keys and received are sums" in text
    assert "<table>" in front._repr_html_()
    figure = front.plot()
    assert len(figure.axes) == 2 and "points" in figure.axes[0].get_title()
    nothing = design(512, 4, budget={"keys": 3}).front
    assert "nothing fits" in str(nothing) and not nothing.check() and not len(nothing)
    with pytest.raises(TermError):
        nothing.plot()
    wide = design(2000, 3, families=["window | skip"]).front
    assert len(wide) > 40 and "points are shown" in str(wide) and len(str(wide).splitlines()) < 50


def test_undominated_keeps_one_of_equals() -> None:
    points = design(64, 3).front.points
    assert undominated(points * 2) == points


def test_errors() -> None:
    k, s = symbols("k s")
    for error, arguments in (
        (TermError, dict(budget={"bytes": 5})), (TermError, dict(budget=5)), (SizeError, dict(budget={"cache": -1})),
        (SizeError, dict(budget={"depth": 0})), (SizeError, dict(budget={"keys": 2.5})), (SizeError, dict(window=-1)),
        (SizeError, dict(window=True)), (TermError, dict(family=[])), (TermError, dict(family={"a": []})),
        (TermError, dict(family=[window(2), window(2) | keys(0, 1) & causal])),
        (TermError, dict(family=[layers([window(2)])])),
        (SymbolError, dict(family=[window(k)])), (SymbolError, dict(family=[window(2)], ranges={s: (1, 2)})),
        (TermError, dict(family=[window(1, 1)])), (TermError, dict(families=["digits"])),
        (TermError, dict(family=[window(k)], ranges={k: (1, 300)})),
    ):  # fmt: skip
        with pytest.raises(error) as caught:
            len(design(600, 3, **arguments).front)  # type: ignore[arg-type]
        assert isinstance(caught.value, PidslError) and "design" in str(caught.value)


# follows the hints of pidsl/studies/front.py: checked_budget, _of_list
# follows the hints of pidsl/studies/layered.py: schedules
def test_hints_followed_work() -> None:
    """What the messages above tell to try."""
    k = symbols("k")
    assert design(600, 3, budget={"cache": 65536}).front.check()  # a mapping
    schedule = layers([window(2), window(2) | lags(5)])
    with pytest.raises(TermError, match="the schedule as a family of its own"):
        design(20, 4, family=[schedule])
    assert design(20, 8, family=schedule).front.check()
    sinks = window(7) | keys(0, 1) & causal
    with pytest.raises(TermError, match=r"a function that gives pidsl.layers"):
        design(20, 4, family=[sinks, window(7)])
    found = design(20, 4, family=lambda m: layers([sinks] * m + [window(7)] * (4 - m)), ranges={"m": (1, 3)}).front
    assert found.check()
    with pytest.raises(TermError, match="fewer numbers in the ranges"):
        design(600, 3, family=[window(k)], ranges={k: (1, 300)})
    assert design(600, 3, family=[window(k)], ranges={k: [200, 300]}).front.check()
