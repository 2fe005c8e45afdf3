"""Keys that rows attend and rows that attend keys, against masks; unions of runs, against sets."""

import time

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

import pidsl
from pidsl import Term, blocks, causal, keys, lags, patterns, queries, stride, window
from pidsl.distributed.tokens import images, unions
from pidsl.distributed.tokens.images import image, preimage
from pidsl.distributed.tokens.runs import Run, Runs, positions, total
from pidsl.distributed.tokens.shards import Kind, Shards
from pidsl.distributed.tokens.unions import joined
from pidsl.errors import SizeError, SymbolError, TermError, TooHardError
from pidsl.relation.loops import NoLoop
from pidsl.relation.oracle import table
from pidsl.testing import terms

assert settings.default is not None
EXAMPLES = settings.default.max_examples
LONG = 2**20


def same(found: Runs, mask: np.ndarray, of: Runs, back: bool) -> None:
    """Exactly what the mask says, each position once, runs in order."""
    at = positions(of)
    expected = np.flatnonzero(mask[:, at].any(1) if back else mask[at].any(0))
    np.testing.assert_array_equal(np.sort(positions(found)), expected)
    assert [run.first for run in found] == sorted(run.first for run in found)
    assert all(run.count > 0 and run.step > 0 and (run.step == 1 or run.count > 1) for run in found)


@st.composite
def rows(draw: st.DrawFn, n: int) -> Runs:
    """What a rank has of some sharding, or any runs."""
    if draw(st.booleans()):
        ranks = draw(st.integers(1, 8))
        kinds: list[Kind] = ["contiguous", "zigzag", "classes"]
        kind = draw(st.sampled_from(kinds))
        period = draw(st.integers(1, 12)) if kind == "classes" else 1
        return Shards(n, ranks, kind, period).runs(draw(st.integers(0, ranks - 1)))
    step = draw(st.integers(1, 9))
    found = [Run(first, draw(st.integers(1, 1 + (n - 1 - first) // step)), step) for first in range(min(step, n))]
    return tuple(run for run in found if draw(st.booleans()))


@settings(max_examples=8 * EXAMPLES)
@given(terms(3, ring=True, grid=True), st.integers(0, 60), st.booleans(), st.data())
def test_the_image_is_what_the_mask_says(term: Term, n: int, back: bool, data: st.DataObject) -> None:
    of = data.draw(rows(n))
    same((preimage if back else image)(term, n, of), term.mask(n), of, back)


@settings(max_examples=8 * EXAMPLES)
@given(terms(2, ring=True), st.integers(1, 60), st.booleans(), st.data())
def test_so_it_is_where_masks_are_not_looked_up(term: Term, n: int, back: bool, data: st.DataObject) -> None:
    of = data.draw(rows(n))
    images._image.cache_clear()
    try:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(images, "SHORT", 0)
            found = (preimage if back else image)(term, n, of)
    finally:
        images._image.cache_clear()
    same(found, term.mask(n), of, back)


@settings(max_examples=2 * EXAMPLES)
@given(terms(2, ring=True), st.integers(1, 40), st.booleans(), st.data())
@pytest.mark.parametrize("way", ["_by_isl", "_by_loops", "_by_rows"])
def test_each_way_finds_the_same(way: str, term: Term, n: int, back: bool, data: st.DataObject) -> None:
    of = data.draw(rows(n))
    if not of:
        reject()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(images, "CHUNK", 7)  # many chunks
        try:
            found = getattr(images, way)(term, n, of, back)
        except (TooHardError, NoLoop):
            reject()
    same(joined(found, n), term.mask(n), of, back)


@given(st.lists(st.tuples(st.integers(0, 90), st.integers(1, 30), st.integers(1, 20)), max_size=12))
def test_a_union_of_runs_is_that_of_their_positions(given_: list[tuple[int, int, int]]) -> None:
    runs = [Run(first, min(count, 1 + (99 - first) // step), step) for first, count, step in given_]
    found = joined(runs, 100)
    assert sorted(positions(found).tolist()) == sorted({x for run in runs for x in run.positions.tolist()})
    assert all(run.step == 1 or run.count > 1 for run in found)


@given(st.sets(st.integers(0, 400), max_size=60), st.integers(2, 9), st.integers(1, 8))
def test_few_runs_are_all_positions(some: set[int], step: int, width: int) -> None:
    spread = np.array(sorted({x * step + y for x in some for y in range(min(width, step))}), dtype=np.int64)
    found = joined(unions.Members(spread), 10_000)
    assert sorted(positions(found).tolist()) == spread.tolist()
    assert len(found) <= 1 + np.count_nonzero(np.diff(spread) != 1)
    assert joined(list(found), 10_000) == found


def test_residue_classes_are_few_runs() -> None:
    rank = Shards(LONG + 5, 4, "classes", 16).runs(0)
    assert image(stride(16), LONG + 5, rank) == rank
    assert joined(unions.Members(np.sort(positions(rank))), LONG + 5) == rank
    assert joined([Run(x, 1000, 256) for x in range(256)], 256_000) == (Run(0, 256_000),)
    assert joined([Run(0, 3, 2), Run(1, 4)], 5) == (Run(0, 5),)


def test_runs_too_long_to_list_stay_apart_or_are_refused() -> None:
    n = 2**40
    apart = [Run(0, 2**30, 8), Run(3, 2**30, 8), Run(2**35, 10)]
    assert joined(apart, n) == tuple(sorted(apart))
    with pytest.raises(TooHardError, match="do not overlap"):
        joined([Run(0, 2**30, 8), Run(4, 2**30, 6)], n)


@pytest.mark.parametrize(
    "term",
    [
        window(4095),
        window(63) | stride(256) & causal,
        keys(0, 4) & causal | window(1023),
        blocks(64) & causal,
        lags(0, *(2**k for k in range(20))),
        window(5, 5) | keys(0, 16) | queries(0, 16),
        window(15).dilated(4),
        pidsl.ring(255),
        patterns.bigbird(2**20, block=256),
    ],
    ids=lambda term: repr(term)[:40],
)
def test_long_sequences_are_quick_and_right(term: Term) -> None:
    """Against columns of the mask: some keys that are needed and some that are not."""
    shards = Shards(LONG, 64)
    start = time.process_time()
    ranks = (0, 9, 63)
    found = [
        (rank, back, way(term, LONG, shards.runs(rank))) for rank in ranks for back, way in enumerate((image, preimage))
    ]
    assert time.process_time() - start < 2
    drawn = np.random.default_rng(1)
    for rank, back, needed in found:
        everywhere = np.zeros(LONG, dtype=np.bool_)
        everywhere[positions(needed)] = True
        own = positions(shards.runs(rank))
        ends = [x for run in needed for x in (run.first - 1, run.first, run.last, run.last + 1)]
        some = np.array([x for x in [*ends[:8], *drawn.integers(0, LONG, 4)] if 0 <= x < LONG])
        attended = table(term.T if back else term, own, some, LONG, LONG).any(0)
        np.testing.assert_array_equal(attended, everywhere[some])


def test_many_short_documents_are_quick() -> None:
    term = window(63) | stride(256) & causal
    start = time.process_time()
    for k in range(2000):
        length = 20 + k % 80
        first = k % 20
        assert total(image(term, length, (Run(first, length - first),))) == length
    assert time.process_time() - start < 1


def test_what_has_no_image_is_refused() -> None:
    some = (Run(0, 4),)
    with pytest.raises(SymbolError):
        image(window(pidsl.symbols("k")), 8, some)
    with pytest.raises(TermError, match="where they start"):
        image(window(3) & pidsl.documents, 8, some)
    with pytest.raises(TermError, match="what a call lists"):
        preimage(pidsl.chosen(64, 16), 8, some)
    with pytest.raises(SizeError, match="positions from 0 to 7"):
        image(window(3), 8, (Run(5, 4),))


# follows the hints of pidsl/distributed/tokens/images.py: _by_rows
def test_too_many_pairs_to_look_at_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MOST", 1000)
    with pytest.raises(TooHardError, match="simplify the term, or share the tokens out among more ranks"):
        images._by_rows(window(3), 64, (Run(0, 32),), False)
    assert joined(images._by_rows(window(3), 64, (Run(0, 8),), False), 64) == (Run(0, 8),)
    assert image(window(3), 64, (Run(0, 32),)) == (Run(0, 32),)


def test_layers_of_too_many_tokens_are_refused() -> None:
    two = (window(3) @ window(3)) & causal
    with pytest.raises(TooHardError, match="tokens between the layers"):
        images._by_rows(two, 2**18, (Run(0, 1),), False)
    assert image(two, 2**18, (Run(9, 1),)) == (Run(3, 7),)
