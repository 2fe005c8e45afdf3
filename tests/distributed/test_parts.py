"""Parts of patterns are disjoint and together the pattern; classes make them local, and few rows are few."""

import time
from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pidsl
from pidsl import Term, blocks, causal, empty, full, keys, lags, queries, stride, where, window
from pidsl.distributed.tokens import parts as parts_module
from pidsl.distributed.tokens.parts import Part, parts, split
from pidsl.errors import SymbolError, TermError
from pidsl.patterns.families import families
from pidsl.testing import terms

assert settings.default is not None
EXAMPLES = settings.default.max_examples
PAST = stride(16) & causal
CALLS = [call for family in families() for call in family.calls]


def check(term: Term, found: tuple[Part, ...], n: int) -> None:
    masks = np.array([part.term.mask(n) for part in found], dtype=np.int64)
    np.testing.assert_array_equal(masks.sum(0), term.mask(n), err_msg=repr(found))


def forget() -> None:
    parts.cache_clear()


@settings(max_examples=2 * EXAMPLES)
@given(st.lists(terms(2, grid=True), min_size=1, max_size=4), terms(2), st.integers(0, 50), st.integers(0, 3))
def test_parts_are_disjoint_and_together_the_pattern(words: list[Term], other: Term, n: int, how: int) -> None:
    term = reduce(lambda a, b: a | b, words)
    term = [term, term & other, term - other, (term.shift(1) & causal).blocked(2)][how]
    forget()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(parts_module, "FAR", 3)  # most words want something
        patched.setattr(parts_module, "NEARLY", 2.0)  # and none wants all keys
        patched.setattr(parts_module, "TOKENS", 256)
        found = parts(term)
    forget()
    check(term, found, n)


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        (window(3) | PAST, [Part(window(3)), Part(PAST - window(3), 16)]),
        ((window(3) | stride(16)) & causal, [Part(window(3) & causal), Part(PAST - window(3), 16)]),
        (blocks(16) | stride(16), [Part(blocks(16)), Part(stride(16) - blocks(16), 16)]),
        (window(3).T | PAST.T, [Part(window(3).T), Part((PAST - window(3)).T, 16)]),
        (PAST, [Part(PAST, 16)]),
        (stride(4) | stride(64), [Part(stride(4) | stride(64), 4)]),
        (stride(6) | stride(10), [Part(stride(6), 6), Part(stride(10) - stride(6), 10)]),
        (window(3) | PAST.blocked(4), [Part(window(3)), Part(PAST.blocked(4) - window(3), 64)]),
        (
            (window(3) | queries(0, 4) | PAST) & keys(8, None),
            [
                Part(queries(0, 4) & keys(8, None), few=True),
                Part(window(3) & keys(8, None)),
                Part((PAST & keys(8, None)) - window(3), 16),
            ],
        ),
        (window(3) | PAST & keys(0, 40), [Part(window(3) | PAST & keys(0, 40))]),
        (window(2) | queries(0, 4), [Part(queries(0, 4), few=True), Part(window(2) - queries(0, 4))]),
        (
            (window(1) | keys(0, 1) | queries(0, 1) | queries(-1)).blocked(8),
            [
                Part((queries(0, 1) | queries(-1)).blocked(8), few=True),
                Part(((window(1) | keys(0, 1)) - (queries(0, 1) | queries(-1))).blocked(8)),
            ],
        ),
        ((window(3) | PAST).shift(2), [Part(window(3).shift(2)), Part((PAST - window(3)).shift(2), 16)]),
        ((window(3) | PAST).dilated(2), [Part(window(3).dilated(2)), Part((PAST - window(3)).dilated(2), 32)]),
        (window(9) | window(15).dilated(4), [Part(window(9) | window(15).dilated(4))]),
        (window(15).dilated(4096), [Part(window(15).dilated(4096), 4096)]),
        (lags(0, 1, 2, 4, 2048, 4096), [Part(lags(0, 1, 2, 4, 2048, 4096))]),
        (causal | stride(16), [Part(causal | stride(16))]),
        (causal | queries(0, 4), [Part(causal | queries(0, 4))]),
        (full, [Part(full)]),
        (empty, [Part(empty)]),
        (
            where(lambda i, j: ((i - j <= 3) | ((i - j) % 16 == 0)) & (i >= j)),
            [
                Part(causal & where(lambda i, j: i - j <= 3)),
                Part((causal & stride(16)) - where(lambda i, j: i - j <= 3), 16),
            ],
        ),
    ],
    ids=lambda x: repr(x)[:50] if isinstance(x, Term) else "",
)
def test_patterns_are_cut_where_their_words_are(term: Term, expected: list[Part]) -> None:
    found = parts(term)
    assert list(found) == expected
    assert split(term) == tuple(part.term for part in found)
    check(term, found, 70)


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.text)
def test_library_patterns_are_cut_quickly_and_classes_keep_them_local(call: object) -> None:
    term: Term = call.term  # type: ignore[attr-defined]
    start = time.process_time()
    found = parts(term)
    assert time.process_time() - start < 5
    n = 600
    check(term, found, n)
    for part in found:
        if part.few:
            assert np.count_nonzero(part.term.mask(n).any(1)) <= 128
        if part.period > 1:  # a query and its keys are in one class
            i, j = np.nonzero(part.term.mask(n))
            assert not ((i - j) % part.period).any()


def test_long_and_deep_patterns_stay_whole() -> None:
    many = reduce(lambda a, b: a | b, (lags(k * k) & keys(k, None) for k in range(200)))
    assert split(many) == (many,)
    deep = reduce(lambda a, b: a - b, (lags(k) for k in range(200)), PAST)
    assert split(deep) == (deep,)


def test_what_is_not_cut_is_refused() -> None:
    with pytest.raises(SymbolError):
        split(window(pidsl.symbols("k")))
    with pytest.raises(TermError, match="where they start"):
        split(window(3) & pidsl.documents)
    with pytest.raises(TermError, match="what a call lists"):
        split(pidsl.chosen(64, 16))
