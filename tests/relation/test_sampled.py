"""Patterns of some tokens of a longer sequence, against slices of its mask."""

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

import pidsl
from pidsl import Term, blocks, causal, empty, full, keys, lags, parse, queries, stride, where, window
from pidsl.errors import SizeError, SymbolError, TermError, TooHardError
from pidsl.language.terms import Pairs
from pidsl.patterns.families import families
from pidsl.relation import sampled as sampled_module
from pidsl.relation.oracle import table
from pidsl.relation.sampled import sampled
from pidsl.testing import terms

assert settings.default is not None
EXAMPLES = settings.default.max_examples
FAMILIES = families()
COMB = window(63) | stride(256) & causal


def check(
    term: Term, rows: tuple[int, int], columns: tuple[int, int], lengths: tuple[int, int], stretch: list[int]
) -> None:
    """Some stretch of local tokens has the pairs that the mask has there."""
    found = sampled(term, rows, columns, lengths)
    assert parse(repr(found)) == found
    expected = term.mask(*lengths)[rows[0] :: rows[1], columns[0] :: columns[1]]
    offset, key_offset = (min(x, length) for x, length in zip(stretch[:2], expected.shape, strict=True))
    expected = expected[offset:, key_offset:][: stretch[2], : stretch[3]]
    np.testing.assert_array_equal(
        found.mask(*expected.shape, offset=offset, key_offset=key_offset), expected, err_msg=repr(found)
    )


@settings(max_examples=6 * EXAMPLES)
@given(terms(3, grid=True), st.data())
def test_a_stretch_of_local_tokens_has_the_pairs_of_the_mask(term: Term, data: st.DataObject) -> None:
    lengths = data.draw(st.tuples(st.integers(0, 60), st.integers(0, 60)))
    step = data.draw(st.integers(1, 9))
    other = data.draw(st.just(step) | st.integers(1, 9))
    first = st.integers(0, 30) | st.sampled_from([0, 0, 4, 8, 12, 24])
    rows, columns = ((data.draw(first), x) for x in (step, other))
    stretch = data.draw(st.lists(st.integers(0, 30), min_size=4, max_size=4))
    try:
        check(term, rows, columns, lengths, stretch)
    except TooHardError:
        reject()


@settings(max_examples=2 * EXAMPLES)
@given(terms(2, ring=True, grid=True), st.integers(0, 60), st.data())
def test_of_as_many_queries_as_keys(term: Term, n: int, data: st.DataObject) -> None:
    """Chunks and residue classes, as ranks have them."""
    step = data.draw(st.sampled_from([1, 1, 2, 4, 6]))
    rows, columns = ((data.draw(st.integers(0, 4)) * data.draw(st.sampled_from([1, 5, 8])), step) for _ in "qk")
    stretch = data.draw(st.lists(st.integers(0, 30), min_size=2, max_size=2))
    whole = term.mask(n)[rows[0] :: step, columns[0] :: step]
    try:
        found = sampled(term, rows, columns, (n, n))
    except TooHardError:
        reject()
    offset, key_offset = (min(x, length) for x, length in zip(stretch, whole.shape, strict=True))
    whole = whole[offset:, key_offset:]
    np.testing.assert_array_equal(
        found.mask(*whole.shape, offset=offset, key_offset=key_offset), whole, err_msg=repr(found)
    )


@pytest.mark.parametrize(
    ("term", "rows", "columns", "expected"),
    [
        (COMB, (3, 256), (3, 256), window(0) | causal),
        (COMB, (7, 256), (3, 256), window(0)),
        (COMB, (3, 256), (100, 256), empty),
        (COMB, (512, 1), (512, 1), COMB),
        (window(64), (256, 1), (192, 1), window(0, 64)),
        (window(64), (0, 16), (4, 16), window(3).shift(1)),
        (lags(0, 3, 6, 100), (3, 3), (3, 3), window(2)),
        (stride(6, 1), (1, 4), (1, 4), empty),
        (stride(6, 1), (1, 4), (2, 4), stride(3, 2)),
        (window(3).dilated(4), (2, 2), (0, 2), window(2, 1).dilated(2).shift(1)),
        (blocks(8) & causal, (64, 1), (64, 1), blocks(8) & causal),
        (blocks(8), (64, 1), (48, 1), lags(-2).blocked(8)),
        (blocks(64), (1, 16), (1, 16), blocks(4)),
        (window(2).blocked(8), (16, 1), (0, 1), window(0, 2).blocked(8)),
        (where(lambda i, j: j % 8 >= 6), (1, 8), (7, 8), full),
        (where(lambda i, j: j % 8 >= 6), (1, 8), (5, 8), empty),
        (where(lambda i, j, n, m: i + j < n), (0, 1), (0, 1), where(lambda i, j: i + j < 1024)),
        (keys(0, 4) & causal, (100, 1), (100, 1), empty),
        (keys(0, 4), (0, 1), (0, 1), keys(0, 4)),
        (keys(-4), (1000, 1), (1000, 1), keys(20, None)),
        (keys(3, None, 4), (0, 1), (2, 2), empty),
        (keys(4, None, 4), (0, 1), (2, 2), keys(1, None, 2)),
        (queries(-4), (1000, 1), (0, 1), queries(20, None)),
        (pidsl.ring(3), (0, 1), (1020, 1), ~causal | window(6).shift(1017)),
        (pidsl.pairs([(5, 3), (9, 7), (9, 8)]), (1, 4), (3, 4), pidsl.pairs([(1, 0), (2, 1)])),
        (window(3) @ window(3), (0, 1), (0, 1), window(6)),
    ],
    ids=repr,
)
def test_words_stay_words(term: Term, rows: tuple[int, int], columns: tuple[int, int], expected: Term) -> None:
    assert sampled(term, rows, columns, (1024, 1024)) == expected


def test_equal_patterns_are_equal_terms() -> None:
    """Of ranks with halos, of residue classes, of documents of any length."""
    for term in (window(40) | stride(64), (keys(0, 4) | window(9)) & causal, blocks(64) & window(20)):
        halos = {sampled(term, (256 * rank, 1), (256 * rank - 64, 1), (4096, 4096)) for rank in range(1, 16)}
        assert len(halos) == 1
        assert sampled(term, (0, 1), (0, 1), (9, 9)) == term
    comb = {
        sampled(COMB, (first, 256), (other, 256), (4096, 4096))
        for first in range(0, 256, 5)
        for other in range(0, 256, 3)
    }
    assert comb == {window(0) | causal, window(0), lags(1), empty}


@pytest.mark.parametrize(
    "term", [call.term for family in FAMILIES for call in family.calls], ids=lambda x: repr(x)[:40]
)
def test_library_patterns_of_chunks_and_classes_are_found_quickly(term: Term) -> None:
    n = 4096
    start = time.process_time()
    for rows, columns in (((1024, 1), (1024, 1)), ((1024, 1), (0, 1)), ((3, 256), (3, 256)), ((4, 64), (7, 64))):
        found = sampled(term, rows, columns, (n, n))
        assert parse(repr(found)) == found
        own = np.arange(rows[0], n, rows[1])[:8]
        expected = table(term, own, np.arange(columns[0], n, columns[1]), n, n)
        np.testing.assert_array_equal(found.mask(*expected.shape), expected, err_msg=repr(found))
    assert time.process_time() - start < 10


# follows the hints of pidsl/relation/sampled.py: _listed
def test_what_isl_does_not_say_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampled_module, "unclipped", fail)
    term = window(2) @ (blocks(3) | keys(2, None, 5))
    sampled_module._sampled.cache_clear()
    try:
        check(term, (1, 2), (3, 3), (40, 40), [1, 2, 9, 9])
        assert isinstance(sampled(term, (1, 2), (3, 3), (40, 40)), Pairs)
        with pytest.raises(TooHardError, match="at most 4096 pairs"):
            sampled(full @ full, (0, 1), (1, 1), (100, 100))
        assert sampled(full, (0, 1), (1, 1), (100, 100)) == full
    finally:
        sampled_module._sampled.cache_clear()


def fail(term: Term) -> Any:
    raise TooHardError("isl", "nothing", repr(term))


def test_what_has_no_sample_is_refused() -> None:
    with pytest.raises(SymbolError):
        sampled(window(pidsl.symbols("k")), (0, 1), (0, 1), (8, 8))
    with pytest.raises(TermError, match="where they start"):
        sampled(window(3) & pidsl.documents, (0, 1), (0, 1), (8, 8))
    with pytest.raises(SizeError, match="steps from 1 on"):
        sampled(window(3), (0, 0), (0, 1), (8, 8))
    with pytest.raises(SizeError, match="as many keys"):
        sampled(pidsl.ring(3), (0, 1), (0, 1), (8, 9))
