"""Budgets in bytes, and points counted again: against masks, and against each other way to say the same."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

import pidsl
from pidsl import causal, keys, lags, stride, window
from pidsl.distributed.planning import plan as planning
from pidsl.distributed.planning.volumes import Rows
from pidsl.errors import ArgumentError, PidslError, SizeError, TooHardError
from pidsl.language.terms import Term, of_lags_alone
from pidsl.relation.oracle import dense_mask
from pidsl.studies import numbers, points, recount
from pidsl.studies.design import design
from pidsl.studies.model import Sizes, checked_sizes
from pidsl.studies.numbers import lags_of
from pidsl.testing import terms

assert settings.default is not None
EXAMPLES = settings.default.max_examples
PAPER: Any = {"kv_heads": 8, "head_dim": 128}


@st.composite
def models(draw: st.DrawFn) -> Sizes:
    kv_heads, dtype = draw(st.integers(1, 2)), draw(st.sampled_from(["bf16", "fp32", "fp64"]))
    dims = draw(st.integers(1, 8)), draw(st.integers(1, 8))
    return Sizes(kv_heads, kv_heads * draw(st.integers(1, 2)), *dims, dtype, draw(st.integers(1, 6)))


# -- counted again -----------------------------------------------------------------------------------------------------


@settings(max_examples=2 * EXAMPLES)
@given(terms(2), st.integers(1, 40))
def test_pairs_and_keys_are_those_of_the_mask(term: Term, n: int) -> None:
    mask = dense_mask(term, n)
    assert recount.counted(term, n) == (mask.sum(), mask.sum(1).max())
    own = recount.lags_in_mask(term, n)
    if own is not None:
        i, j = np.nonzero(mask)
        assert own.tolist() == sorted(set((i - j).tolist()))


@settings(max_examples=2 * EXAMPLES)
@given(terms(2), st.integers(1, 40))
def test_lags_of_a_search_are_those_of_the_mask(term: Term, n: int) -> None:
    mask = dense_mask(term, n)
    found = lags_of(term, n)
    i, j = np.nonzero(mask)
    assert found is None or found.tolist() == sorted(set((i - j).tolist()))
    if of_lags_alone(term) and not mask[np.triu_indices(n, 1)].any() and found is None:
        assert dense_mask(term, 200)[np.triu_indices(200, 1)].any()  # it looks ahead, of more tokens


def by_matrices(terms_: tuple[Term, ...], n: int, of: Sizes) -> int:
    """Bytes of the busiest rank: rows that each rank has and wants as matrices [ranks, n], of each part of the plan."""
    plan = of.plan(terms_, n)
    size = {"bf16": 2, "fp32": 4, "fp64": 8}[of.dtype]
    ranks = np.arange(of.ranks or 1)[:, None]
    held = plan.shards.owner(np.arange(n)) == ranks
    total = np.zeros((of.ranks or 1, of.ranks or 1), np.int64)  # from, to

    def moved(wanted: np.ndarray) -> np.ndarray:
        found = held.astype(np.int64) @ wanted.T.astype(np.int64)
        return np.asarray(found - np.diag(np.diag(found)))

    for term in terms_:
        of_keys, of_queries = np.zeros((2, of.ranks or 1, n), bool)
        for x in plan.placements[term]:
            own, mask = x.layout.owner(np.arange(n)) == ranks, dense_mask(x.term, n)
            queries, some = (own, own @ mask) if x.move == "keys" else (own @ mask.T, own)
            of_queries, of_keys = of_queries | queries, of_keys | some
            total += moved(queries).T * of.heads * (of.value_dim * size + max(4, size))
        total += moved(of_keys) * of.kv_heads * (of.head_dim + of.value_dim) * size
        total += moved(of_queries) * of.heads * of.head_dim * size
    return int(max(total.sum(0).max(), total.sum(1).max()))


@settings(max_examples=EXAMPLES)
@given(st.lists(terms(2), min_size=1, max_size=3), st.integers(1, 40), models())
def test_bytes_exchanged_are_those_of_the_masks(stack: list[Term], n: int, of: Sizes) -> None:
    try:
        told = of.plan(stack, n).busiest
    except TooHardError:
        reject()
    assert recount.moved(tuple(stack), n, of) == told == by_matrices(tuple(stack), n, of)


# -- fronts ------------------------------------------------------------------------------------------------------------


@settings(max_examples=max(1, EXAMPLES // 5))
@given(st.integers(4, 24), st.integers(1, 3), st.integers(1, 5), st.booleans(), st.data())
def test_the_front_of_a_family_of_ones_own(n: int, count: int, ranks: int, sinks: bool, data: st.DataObject) -> None:
    """Every member, planned; under a budget that some of them may not fit."""

    def family(w: int, s: int) -> Term:
        local = window(w) | stride(s) & causal
        return (local | keys(0, 2)) & causal if sinks else local

    ranges = {"w": (1, 3), "s": [2, 3, 7]}
    of = Sizes(2, 4, 3, 5, "fp32", ranks)
    given_: Any = dict(kv_heads=2, heads=4, head_dim=3, value_dim=5, dtype="fp32")
    every = []
    for w, s in itertools.product((1, 2, 3), (2, 3, 7)):
        term = family(w, s)
        depth = next((d for d in range(1, count + 1) if (np.linalg.matrix_power(
            dense_mask(term, n).astype(object), d) > 0)[np.tri(n, dtype=bool)].all()), None)  # fmt: skip
        if depth is None:
            continue
        kept = count * int(term.cost(n, head_dim=4, dtype="fp32", kv_heads=2, heads=4).kv_bytes)
        keys_ = count * int(dense_mask(term, n).sum(1).max())
        every.append((keys_, kept, by_matrices((term,) * count, n, of), depth))
    budget = {name: data.draw(st.sampled_from(sorted(x[k] for x in every) or [5])) for name, k in
              data.draw(st.sets(st.sampled_from([("cache_bytes", 1), ("exchange_bytes", 2)])))}  # fmt: skip
    fit = {x for x in every if x[1] <= budget.get("cache_bytes", x[1]) and x[2] <= budget.get("exchange_bytes", x[2])}
    best = {x for x in fit if not any(y != x and all(a <= b for a, b in zip(y, x, strict=True)) for y in fit)}
    front = design(n, count, family=family, ranges=ranges, budget=budget, ranks=ranks, **given_).front
    assert {(x.keys, x.cache_bytes, x.exchange_bytes, x.depth) for x in front} == best
    assert all(x.measures == (x.keys, x.cache, x.exchange_bytes, x.depth) for x in front)
    if best:
        assert front.check()


def test_a_cache_in_bytes_is_one_in_keys() -> None:
    row = 8 * 2 * 128 * 2
    for most in (row * 2047, row * 2046 + row - 1):
        in_bytes = design(512, 4, budget={"cache_bytes": most}, window=3, kv_heads=8, head_dim=128).front
        in_keys = design(512, 4, budget={"cache": most // row}, window=3).front
        assert [x.measures for x in in_bytes] == [x.measures for x in in_keys] and len(in_keys)
        assert all(x.cache_bytes == x.cache * row == x.bytes(8, 128)[0] and x.exchange_bytes is None for x in in_bytes)
    both = design(512, 4, budget={"cache_bytes": row * 600, "cache": 511}, window=3, **PAPER).front
    assert both.points and max(x.cache for x in both) <= 511


def test_ranks_choose_another_member() -> None:
    """Fewer layers with lags of their own exchange less for more keys: other points than for an unknown number."""
    free = design(256, 3, families=["window | digits"], window=7, **PAPER).front
    front = design(256, 3, families=["window | digits"], window=7, ranks=4, **PAPER).front
    assert len(front) > len(free) and front[0].keys == free[0].keys
    assert front[-1].check()
    least = min(x.exchange_bytes for x in front if x.exchange_bytes is not None)
    budget = {"exchange_bytes": least}
    few = design(256, 3, families=["window | digits"], window=7, budget=budget, ranks=4, **PAPER).front
    assert {x.exchange_bytes for x in few} == {least}
    none = design(256, 3, families=["window | digits"], window=7, budget={"exchange_bytes": 0}, ranks=4, **PAPER)
    assert not none.front.points and none.best is None and "exchange_bytes <= 0" in str(none.front)
    one = design(64, 2, budget={"exchange_bytes": 0}, ranks=1, **PAPER)
    assert one.front.points and one.front.check()


def test_schedules_of_a_list_are_planned() -> None:
    pieces: Any = [window(3), window(3) | lags(8), window(3) | lags(20)]
    front = design(64, 6, family=pieces, kv_heads=1, head_dim=4, ranks=4).front
    of = Sizes(1, 1, 4, 4, "bf16", 4)
    assert front.points and front.check() and "those that cost least in the other numbers" in str(front)
    assert all(x.exchange_bytes == by_matrices(x.terms, 64, of) for x in front)


def test_what_is_not_planned_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from pidsl.studies import front as fronts

    monkeypatch.setattr(fronts, "PLANNED", 3)
    found = design(256, 4, families=["window | digits"], window=3, ranks=2, **PAPER).front
    assert 1 <= len(found) <= 3 and "3 of 10 members are planned for ranks" in str(found)
    chosen = design(64, 3, family={"a": window(63) | pidsl.chosen(8, 2) & causal}, kv_heads=1, head_dim=4, ranks=2)
    assert not chosen.front.points and "what ranks exchange is not known of 1" in str(chosen.front)


def test_text() -> None:
    text = str(design(256, 3, window=3, ranks=2, value_dim=64, **PAPER).front)
    assert "cache bytes  exchange bytes" in text and "of the busiest of 2 ranks" in text
    assert "8 key heads of 128 + 64 bf16 elements" in text
    text = str(design(256, 3, window=3, **PAPER).front)
    assert "cache bytes" in text and "received" in text and "exchange" not in text


# -- faults ------------------------------------------------------------------------------------------------------------


def test_nothing_else_is_confirmed() -> None:
    x = design(256, 3, window=3, ranks=4, **PAPER).front[0]
    assert x.check() and x.sizes is not None and x.exchange_bytes is not None
    for by in (-1, 1):
        assert not replace(x, exchange_bytes=x.exchange_bytes + by).check()
    for change in ({"head_dim": 64}, {"ranks": 5}, {"kv_heads": 4}, {"heads": 16}, {"dtype": "fp32"}):
        other = replace(x.sizes, **change)
        moves = other.plan(x.terms, 256).busiest
        assert (moves == x.exchange_bytes) == replace(x, sizes=other).check()
    assert not replace(x, sizes=None).check()


def test_a_front_is_of_what_was_asked() -> None:
    front = design(128, 3, window=3, families=["window | digits"], kv_heads=1, head_dim=4).front
    assert front.check()
    for change in ({"n": 127}, {"layers": 4}, {"window": 4}, {"sizes": None}, {"budget": {"keys": 3}}, {"points": ()}):
        assert not replace(front, **change).check(), change
    assert not replace(front, points=(replace(front[0], exchange_bytes=5), *front.points[1:])).check()


def test_a_wrong_search_is_not_confirmed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What counts while it searches is not what counts when it is checked."""
    right = numbers.cost_at
    for wrong in (lambda t, n: (right(t, n)[0], right(t, n)[1] - 1), lambda t, n: (right(t, n)[0] + 1, right(t, n)[1])):
        points.cost_of.cache_clear()
        monkeypatch.setattr(points, "cost_at", wrong)
        front = design(200, 3, window=2).front
        monkeypatch.undo()
        points.cost_of.cache_clear()
        assert len(front) and not any(x.check() for x in front)
    monkeypatch.setattr("pidsl.studies.numbers._listed", lambda term, n: np.arange(0, n, 7))
    lags_of.cache_clear()
    points.cost_of.cache_clear()
    x = points.point("a", (), window(3) | lags(7), 32, 5, 5)
    monkeypatch.undo()
    lags_of.cache_clear()
    points.cost_of.cache_clear()
    assert x.degree == 5 and not x.check()


def test_a_wrong_plan_is_not_confirmed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Rows.received.func  # type: ignore[attr-defined]
    monkeypatch.setattr(Rows, "received", property(lambda self: right(self) + 1))
    planning._planned.cache_clear()
    front = design(128, 3, window=3, families=["window | digits"], ranks=3, **PAPER).front
    assert len(front) and not any(x.check() for x in front)
    monkeypatch.undo()
    planning._planned.cache_clear()


# -- errors ------------------------------------------------------------------------------------------------------------


ERRORS: list[tuple[type[PidslError], dict[str, Any]]] = [
    (ArgumentError, dict(budget={"cache_bytes": 5})),
    (ArgumentError, dict(budget={"exchange_bytes": 5}, **PAPER)),
    (ArgumentError, dict(budget={"cache_bytes": 5}, kv_heads=8)),
    (ArgumentError, dict(head_dim=64)),
    (ArgumentError, dict(ranks=4)),
    (ArgumentError, dict(batch=4, **PAPER)),
    (ArgumentError, dict(dtype="int8", **PAPER)),
    (SizeError, dict(kv_heads=0, head_dim=8)),
    (SizeError, dict(ranks=0, **PAPER)),
    (SizeError, dict(heads=12, **PAPER)),
    (SizeError, dict(ranks=2.5, **PAPER)),
    (SizeError, dict(budget={"cache_bytes": 1e9}, **PAPER)),
]


@pytest.mark.parametrize(("error", "arguments"), ERRORS)
def test_errors(error: type[PidslError], arguments: dict[str, Any]) -> None:
    with pytest.raises(error, match="design"):
        design(64, 3, **arguments)


def test_no_sizes_are_needed_without_bytes() -> None:
    assert checked_sizes({}, {"cache": 5}, "design(...)") is None


# follows the hints of pidsl/studies/model.py: checked_sizes, plan
def test_hints_followed_work() -> None:
    """What the messages above tell to try."""
    budget = {"cache_bytes": 1 << 30}
    with pytest.raises(ArgumentError, match="kv_heads=8, head_dim=128"):
        design(64, 3, budget=budget)
    assert design(64, 3, budget=budget, kv_heads=8, head_dim=128).front[0].check()
    with pytest.raises(ArgumentError, match='ranks=8, or a budget of "received"'):
        design(64, 3, budget={"exchange_bytes": 1 << 30}, kv_heads=8, head_dim=128)
    assert design(64, 3, window=3, budget={"exchange_bytes": 1 << 30}, kv_heads=8, head_dim=128, ranks=8).front.points
    assert design(64, 3, budget={"received": 400}).front.points
    with pytest.raises(TooHardError, match="ranks=8"):
        Sizes(1, 1, 4, 4, "bf16").plan([window(3)], 64)
    assert Sizes(1, 1, 4, 4, "bf16", ranks=8).plan([window(3)], 64).busiest > 0
