"""Which programs a pass launches: every position is somebody's, no walk is long, the machine is full."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pidsl import causal, keys, queries, stride, window
from pidsl.codegen.lower import lower
from pidsl.codegen.plan.stages import stages
from pidsl.codegen.plan.walks import Pass
from pidsl.language.terms import Term
from pidsl.runtime.run_triton.ranges import (
    BEYOND,
    LEAST,
    PROGRAMS,
    RANGES,
    SHORT,
    TIMES,
    Handing,
    Part,
    Range,
    Work,
    even,
    longest,
    ranges,
    together,
)

H100 = 132


@st.composite
def passes(draw: st.DrawFn) -> tuple[list[Work], int]:
    """Stages whose tiles hold ranges of positions, and the number of positions."""
    length = draw(st.integers(1, 3000))
    found = []
    for _ in range(draw(st.integers(1, 3))):
        step, tile = draw(st.sampled_from([1, 2, 6])), draw(st.sampled_from([16, 64, 128]))
        shape = min(step, length), -(-length // (step * tile))
        top = draw(st.sampled_from([0, 1, 20, 1000]))
        tiles = draw(st.integers(0, 2**32 - 1).map(np.random.default_rng)).integers(0, top + 1, shape)
        if draw(st.booleans()):  # a few that are much longer
            tiles[:, : draw(st.integers(1, 3))] += draw(st.integers(0, 5000))
        found.append(Work(tiles, step * tile, draw(st.booleans())))
    return found, length


@given(passes(), st.integers(1, 64))
def test_every_position_is_in_one_range_and_all_work_is_launched(given: tuple[list[Work], int], pairs: int) -> None:
    works, length = given
    found = ranges(works, length, pairs, H100)
    assert 1 <= len(found) <= RANGES
    assert [x.first for x in found] == [0, *(x.stop for x in found[:-1])] and found[-1].stop == length
    launched = [np.zeros(work.tiles.shape[1], int) for work in works]
    for x in found:
        assert x.first < x.stop and x.parts
        assert len({part.stage for part in x.parts}) == len(x.parts)
        for part in x.parts:
            rows = works[part.stage].rows
            assert rows is not None and part.first * rows == x.first and part.tiles > 0
            assert (part.first + part.tiles) * rows >= x.stop > (part.first + part.tiles - 1) * rows
            launched[part.stage][part.first : part.first + part.tiles] += 1
    for work, count in zip(works, launched, strict=True):
        assert (count <= 1).all() and (count >= (work.tiles.max(0) > 0)).all()


@given(passes(), st.integers(1, 64))
def test_no_program_is_long(given: tuple[list[Work], int], pairs: int) -> None:
    works, length = given
    divisible = [work.tiles[work.tiles > 0] for work in works if work.divisible]
    every = np.concatenate([*divisible, np.zeros(0)])
    bound = max(longest(every.mean() if len(every) else 0.0), SHORT)
    for x in ranges(works, length, pairs, H100):
        for part in x.parts:
            work = works[part.stage]
            assert part.splits & (part.splits - 1) == 0 and (work.divisible or part.splits == 1)
            if work.divisible:
                walks = work.tiles[:, part.first : part.first + part.tiles]
                assert walks.max() / part.splits <= bound


@given(st.integers(1, 4000), st.integers(1, 40), st.integers(1, 12))
def test_the_machine_is_full_where_the_work_allows(walk: int, tiles: int, pairs: int) -> None:
    found = ranges([Work(np.full((1, tiles), walk), 64)], 64 * tiles, pairs, H100)
    programs = sum(pairs * part.tiles * part.splits for x in found for part in x.parts)
    shortest = min(walk / part.splits for x in found for part in x.parts)
    assert programs >= PROGRAMS * H100 or walk <= SHORT or shortest < 2 * LEAST
    assert shortest >= LEAST or all(part.splits == 1 for x in found for part in x.parts)


def test_the_longest_start_first() -> None:
    rising = np.arange(1, 9)[None, :]
    for tiles, descending in ((rising, True), (rising[:, ::-1], False), (np.ones((3, 5), int), False)):
        (found,) = ranges([Work(tiles, 64)], 64 * tiles.shape[1], 64, H100)
        assert found.parts == (Part(0, 0, tiles.shape[1], 1, descending),)


def test_tiles_without_ranges_are_launched_everywhere() -> None:
    works = [Work(np.array([[3, 0, 9]]), 64), Work(np.array([[900]]), None)]
    assert ranges(works, 192, 1, H100) == (Range(0, 192, (Part(0, 0, 3, 1, True), Part(1, 0, 1))),)


def test_rows_without_keys_are_somebody_s() -> None:
    (found,) = ranges([Work(np.zeros((1, 3), int), 64)], 150, 2, H100)
    assert found == Range(0, 150, (Part(0, 0, 3),)) and not found.merged and not found.chained


def launched(term: Term, task: Pass, n: int, m: int, pairs: int, group: int = 1) -> tuple[Range, ...]:
    """Those of a pattern."""
    works = [Work(x.work(n, m, m - n) * group, x.step * x.tile) for x in stages(lower(term), task)]
    return ranges(works, m if task == "grad_key" else n, pairs, H100)


def test_one_query_against_many_keys_fills_the_machine() -> None:
    (found,) = launched(causal, "forward", 1, 32768, 8)
    assert 8 * found.parts[0].splits >= 264 and found.merged == found.parts[0].splits


@pytest.mark.parametrize("task", ["forward", "grad_query", "grad_key"])
def test_global_tokens_are_apart(task: Pass) -> None:
    term = window(256, 256) | keys(0, 1) | queries(0, 1)
    found = launched(term, task, 32768, 32768, 16)
    (globally, plain), average = found, 12
    assert globally.first == 0 and globally.stop <= 128 and globally.merged >= 8
    assert len(plain.parts) == 1 and not plain.merged
    assert all(512 / part.splits <= TIMES * average for part in globally.parts if part.splits > 1)


def test_what_is_handed_on_is_handed_on_everywhere() -> None:
    (found,) = launched(window(63) | stride(256) & causal, "forward", 32768, 32768, 16)
    assert found.chained and [part.tiles for part in found.parts] == [512, 2]


@pytest.mark.parametrize(("average", "tiles"), [(0, 8), (1.5, 8), (5, 20), (20, 80), (22, 86), (500, 564)])
def test_the_longest_walk(average: float, tiles: float) -> None:
    assert longest(average) == tiles == max(2 * LEAST, min(TIMES * average, average + BEYOND))


@given(st.integers(1, 40), st.integers(1, 8), st.integers(1, 50))
def test_pairs_at_a_time(sets: int, group: int, most: int) -> None:
    pairs = sets * group
    found = even(pairs, group, most)
    assert [first for first, _ in found] == [0, *(first + many for first, many in found[:-1])]
    sizes = [many for _, many in found]
    assert sum(sizes) == pairs and 1 <= min(sizes) and max(sizes) <= most and max(sizes) - min(sizes) <= group
    if most >= group:
        assert all(many % group == 0 for many in sizes)


MIB = 1 << 20


@pytest.mark.parametrize(
    ("pairs", "of", "sizes"),
    [
        (16, Handing(2 * MIB, 4 * MIB, 512, 2), [8, 8]),  # 15 fit
        (16, Handing(20 * MIB, 28 * MIB, 512, 2), [1] * 16),
        (16, Handing(20 * MIB, 20 * MIB, 512, 2), [16]),  # the launches cost more than they save
        (16, Handing(32 * MIB, 64 * MIB, 512, 2), [16]),  # no pair fits
        (16, Handing(20 * MIB, 28 * MIB, 100, 2), [16]),  # the machine would be empty
        (16, Handing(1 * MIB, 2 * MIB, 20, 2), [16]),
    ],
)
def test_what_is_handed_on_stays_in_the_cache_where_that_pays(pairs: int, of: Handing, sizes: list[int]) -> None:
    assert [many for _, many in together(pairs, 1, of, H100, 50 * MIB)] == sizes
