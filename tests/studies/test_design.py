"""The search against all parameters there are, the bounds against all patterns there are, and the proofs."""

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pidsl import causal, lags, stride, window
from pidsl.analysis import dense as matrices
from pidsl.analysis.schedules import BaseSchedule
from pidsl.errors import SizeError, TermError
from pidsl.language.terms import Term
from pidsl.relation.oracle import dense_mask
from pidsl.studies.design import design
from pidsl.studies.limits import least_degree, least_pairs
from pidsl.studies.search import FAMILIES

EXAMPLES = settings.default.max_examples
SAME = [family for family in FAMILIES if family != "base schedule"]


def connects(schedule: tuple[Term, ...], tokens: int) -> bool:
    """Whether some number of the layers, from the input on, connects every causal pair, by boolean matrices."""
    seen, wanted = np.eye(tokens, dtype=bool), np.tri(tokens, dtype=bool)
    for term in schedule:
        seen = matrices.times(dense_mask(term, tokens), seen)
        if (seen >= wanted).all():
            return True
    return False


def members(family: str, tokens: int) -> Iterator[Term | BaseSchedule]:
    """Every member of a family that differs from the others for so many tokens."""
    sizes = range(tokens + 1)
    match family:
        case "window":
            yield from (window(k) for k in sizes)
        case "window | stride":
            yield from (window(k) | stride(p) & causal for k in sizes for p in range(1, tokens + 1))
        case "window | skip":
            yield from (window(k) | lags(p) for k in sizes for p in range(1, tokens + 1))
        case _:
            yield from (BaseSchedule(b) for b in range(2, tokens + 2))


def layers_of(pattern: Term | BaseSchedule, count: int) -> tuple[Term, ...]:
    return pattern.terms(count) if isinstance(pattern, BaseSchedule) else (pattern,) * count


def cost_of(schedule: tuple[Term, ...], tokens: int) -> tuple[int, int]:
    """Pairs of all layers, largest degree."""
    masks = [dense_mask(term, tokens) for term in schedule]
    return sum(int(mask.sum()) for mask in masks), max(int(mask.sum(1).max()) for mask in masks)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("tokens", "count"), [(1, 1), (2, 1), (3, 2), (5, 1), (7, 3), (9, 2), (12, 4), (13, 3), (14, 2)]
)
def test_the_winner_is_the_best_of_all(family: str, tokens: int, count: int) -> None:
    all_: list[tuple[int, int]] = []
    for pattern in members(family, tokens):
        schedule = layers_of(pattern, count)
        if connects(schedule, tokens):
            all_.append(cost_of(schedule, tokens))
    for limit in (None, 1, 2, 3, 4, 6, tokens):
        allowed = [x for x in all_ if limit is None or x[1] <= limit]
        found = design(tokens, count, limit, [family])
        if not allowed:
            assert found.best is None and found.reason
            continue
        best = found.best
        assert best is not None and not found.reason
        assert best.pairs == min(allowed)[0]
        assert cost_of(layers_of(best.pattern, count), tokens) == (best.pairs, best.degree)
        assert connects(layers_of(best.pattern, count), tokens)
        assert best.depth(n=tokens) <= count
        assert best.least_pairs <= best.pairs and found.least_degree <= best.degree


@settings(max_examples=EXAMPLES // 2)
@given(st.integers(1, 120), st.integers(1, 9), st.sampled_from(list(FAMILIES)), st.integers(1, 60) | st.none())
def test_what_is_found_does_it(tokens: int, count: int, family: str, limit: int | None) -> None:
    found = design(tokens, count, limit, [family])
    if found.best is None:
        assert limit is not None
        return
    schedule = layers_of(found.best.pattern, count)
    assert connects(schedule, tokens)
    assert cost_of(schedule, tokens) == (found.best.pairs, found.best.degree)
    assert limit is None or found.best.degree <= limit


@pytest.mark.parametrize("family", SAME)
@pytest.mark.parametrize(("tokens", "count"), [(40, 3), (61, 2), (97, 5), (150, 4)])
def test_no_neighbour_is_better(family: str, tokens: int, count: int) -> None:
    """By lag sets: all parameters for lengths at which masks would take too long."""
    best = None
    for k in range(1, tokens):
        for p in range(k + 1, tokens + 1) if family != "window" else [tokens]:
            own = set(range(k + 1)) | (set(range(0, tokens, p)) if family == "window | stride" else {p})
            own = {d for d in own if d < tokens}
            pairs = count * sum(tokens - d for d in own)
            if best is not None and pairs >= best:
                continue
            mask = sum(1 << d for d in own)
            reach = 1
            for _ in range(count):
                reach = _sums(reach, own, (1 << tokens) - 1)
            if reach == (1 << tokens) - 1:
                best = pairs
            assert mask
    found = design(tokens, count, families=[family]).best
    assert found is not None and found.pairs == best


def _sums(reach: int, own: set[int], all_: int) -> int:
    total = 0
    for d in own:
        total |= reach << d
    return total & all_


# -- what no pattern can beat ------------------------------------------------------------------------------------------


def lag_sets(tokens: int) -> list[tuple[int, ...]]:
    """All sets of lags with lag 0."""
    others = range(1, tokens)
    return [(0, *x) for size in range(tokens) for x in itertools.combinations(others, size)]


@pytest.mark.parametrize(("tokens", "count"), [(1, 2), (2, 2), (3, 2), (5, 2), (6, 3), (7, 2), (8, 2), (9, 2)])
def test_no_lags_beat_the_bound(tokens: int, count: int) -> None:
    everything = (1 << tokens) - 1
    sets = lag_sets(tokens)
    same, mixed, degree = [], [], []
    for chosen in itertools.combinations_with_replacement(sets, count):
        reach = 1
        for own in chosen:
            reach = _sums(reach, set(own), everything)
        if reach == everything:
            pairs = sum(tokens - d for own in chosen for d in own)
            mixed.append(pairs)
            degree.append(max(map(len, chosen)))
            if len(set(chosen)) == 1:
                same.append(pairs)
    assert least_pairs(tokens, count, same=False)[0] <= min(mixed)
    assert least_pairs(tokens, count, same=True)[0] <= min(same)
    assert least_degree(tokens, count) <= min(degree)


def test_bounds_by_eye() -> None:
    for tokens in (1, 2, 5, 40):
        assert least_pairs(tokens, 1, True)[0] == least_pairs(tokens, 1, False)[0] == tokens * (tokens + 1) // 2
    assert least_pairs(2, 3, same=False)[0] == 7  # lag 0 three times, lag 1 once
    assert least_pairs(2, 3, same=True)[0] == 9
    for tokens, count in ((1, 1), (1, 5), (7, 1), (8, 3), (9, 3), (2**20, 20), (2**20, 2), (2**20 + 1, 2)):
        d = least_degree(tokens, count)
        assert d**count >= tokens and (d == 1 or (d - 1) ** count < tokens)


@given(st.integers(1, 3000), st.integers(1, 12))
def test_more_of_either_needs_no_less(tokens: int, count: int) -> None:
    assert least_pairs(tokens, count, same=False)[0] <= least_pairs(tokens, count, same=True)[0]
    assert least_pairs(tokens, count, same=True)[0] >= count * tokens
    assert least_pairs(tokens + 1, count, same=False)[0] >= least_pairs(tokens, count, same=False)[0]


# -- proofs and answers ------------------------------------------------------------------------------------------------


def test_proofs() -> None:
    found = design(512, 3)
    assert found.check() and len(found.found) == len(FAMILIES)
    for candidate in found.found:
        assert not replace(candidate, depth=replace(candidate.depth, expr=candidate.depth.expr + 1)).check()
        assert not replace(candidate, depth=replace(candidate.depth, relation=">=")).check()
        assert not replace(candidate, layers=2).check()
    comb = found["window | stride"]
    bound = comb.counts[0]
    assert not replace(comb, counts=(replace(bound, expr=bound.expr - 1),) * 3).check()
    assert not replace(comb, pairs=comb.pairs - 1).check()


def test_which_limit_fails() -> None:
    none = design(4096, 4, max_degree=7)
    assert none.best is None and not none.found and not none.check()
    assert "7^4" in none.reason and "nothing fits" in str(none)
    some = design(4096, 4, max_degree=8)
    assert [x.family for x in some.found] == ["base schedule"] and len(some.missing) == 3
    for family, why in some.missing:
        least = int(why.split("at least ")[1].split(" keys")[0].replace(",", ""))
        assert design(4096, 4, least, [family]).best is not None
        assert design(4096, 4, least - 1, [family]).best is None
    only = design(4096, 4, 20, ["window"])
    assert only.best is None and "1,025" in only.reason
    with pytest.raises(KeyError):
        only["window"]


def test_long_sequences() -> None:
    for count in (2, 6, 24):
        found = design(2**20, count)
        for x in found.found:
            assert x.depth(n=2**20) <= count and x.pairs >= x.least_pairs and x.ratio >= 1
        assert all(x.degree <= 2000 for x in design(2**20, count, 2000).found)


def test_errors() -> None:
    for arguments in (
        dict(n=0, layers=1), dict(n=5, layers=0), dict(n=5, layers=1, max_degree=0), dict(n=2.0, layers=1),
        dict(n=5, layers=True), dict(n=2**31, layers=2),
    ):  # fmt: skip
        with pytest.raises(SizeError):
            design(**arguments)
    with pytest.raises(TermError):
        design(5, 2, families=["windows"])
