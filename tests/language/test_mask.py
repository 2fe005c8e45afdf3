"""The dense mask of large sizes: its memory, numbers beyond 64 bits, and periods that no sequence reaches."""

import tracemalloc
from typing import Any

import islpy as isl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pidsl import blocks, causal, full, keys, lags, neighborhood, pairs, parse, queries, ring, stride, where, window
from pidsl.errors import SizeError, TooHardError
from pidsl.language import questions
from pidsl.language.terms import Term
from pidsl.relation import oracle
from pidsl.testing import terms

N = 1536
LAYERED = window(8) @ stride(7)


@pytest.mark.parametrize(
    ("term", "times"),
    [
        (window(63) | stride(256), 1.8),
        (causal & blocks(64) - lags(3, 5) ^ keys(0, 9), 1.8),
        (where(lambda i, j: ((i - j) % 7 < 3) | (i // 8 == j // 8)), 2.4),
        (causal.dilated(5).shift(3).T, 1.8),
        (window(3).blocked(16) | ring(9), 1.8),
        (pairs([(x, 3 * x) for x in range(500)]) | queries(0, None, 64), 1.8),
        (neighborhood((32, 48), 5), 1.8),
        (~(stride(10**9) | causal.dilated(10**9)), 1.8),
        (LAYERED, 6.5),  # a table for each of the two layers, and blocks of floats
        (LAYERED**3 | causal, 8.5),
    ],
)
def test_memory(term: Term, times: float) -> None:
    term.mask(8)
    tracemalloc.start()
    mask = term.mask(N)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert mask.nbytes == N * N
    assert most < times * mask.nbytes


def test_few_rows_of_many_keys() -> None:
    tracemalloc.start()
    (causal & stride(1000)).mask(2, 1 << 22, offset=1 << 21)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1.5 * (2 << 22)


@given(terms(4), st.integers(0, 20), st.integers(0, 20), st.integers(0, 9))
def test_blocks_and_python_integers_change_nothing(term: Term, n: int, m: int, offset: int) -> None:
    whole = term.mask(n, m, offset)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(oracle, "BLOCK", 7)
        patch.setattr(oracle, "SIDE", 3)
        assert (term.mask(n, m, offset) == whole).all()
        patch.setattr(oracle, "_largest", lambda *given: 1 << 63)
        assert (term.mask(n, m, offset) == whole).all()


# --- numbers

HUGE = st.one_of(st.integers(0, 9), st.integers(2**31 - 9, 2**31 - 2), st.integers(10**9 - 3, 10**9 + 3))


@st.composite
def huge(draw: Any) -> Term:
    size = draw(HUGE)
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return window(size, draw(HUGE))
    if kind == 1:
        return stride(size + 1, draw(st.integers(0, size)))
    if kind == 2:
        return lags(size, -draw(HUGE), draw(HUGE))
    if kind == 3:
        return keys(draw(HUGE) * draw(st.sampled_from([1, -1])), None, size + 1)
    if kind == 4:
        return queries(-size, draw(HUGE), draw(HUGE) + 1)
    if kind == 5:
        return blocks(size + 1)
    if kind == 6:
        a, c, d = draw(HUGE), draw(HUGE), draw(HUGE)
        return where(lambda i, j: (i * a * c - j * c - d) % (d + 1) < (j * a + i * c * c * c) // (a + 1) - j * d * c)
    inner = draw(huge())
    if kind == 7:
        return inner.shift(size if draw(st.booleans()) else -size)
    if kind == 8:
        return inner.blocked(size + 1)
    return inner.dilated(size + 1)


def related(term: Term, n: int, m: int, offset: int) -> np.ndarray[Any, Any]:
    """The mask, pair by pair, from the relation."""
    whole = term.relation()
    for place, length in ((0, n + offset), (1, m)):
        whole = whole.fix_val(isl.dim_type.param, place, isl.Val(str(length), whole.get_ctx()))

    def holds(i: int, j: int) -> bool:
        row = whole.fix_val(isl.dim_type.in_, 0, isl.Val(str(i), whole.get_ctx()))
        return not row.fix_val(isl.dim_type.out, 0, isl.Val(str(j), whole.get_ctx())).is_empty()

    return np.array([[holds(i, j) for j in range(m)] for i in range(offset, offset + n)]).reshape(n, m)


@given(huge(), st.integers(0, 3), st.integers(0, 3), st.sampled_from([0, 0, 2, 2**31, 2**62, 2**63 - 2, 10**25]))
@settings(max_examples=2 * settings.default.max_examples)
def test_a_mask_is_the_relation_at_any_size(term: Term, n: int, m: int, offset: int) -> None:
    mask = term.mask(n, m, offset)
    assert mask.dtype == np.bool_
    try:
        expected = related(term, n, m, offset)
    except TooHardError:
        return
    assert (mask == expected).all()


def test_products_beyond_64_bits() -> None:
    c = 2**31 - 1
    for text in (
        f"where(lambda i, j: i * {c} * {c} * {c} * 4 - j > 0)",
        f"where(lambda i, j: (i * {c} * {c} * 3 + j) % 5 == 0)",
        f"where(lambda i, j: maximum(i * {c} * {c} * 2, j * {c} * {c} * 2) < abs(i * {c} * {c} * {c} - 1))",
        f"where(lambda i, j, n, m: n * {c} * {c} * {c} // {c} > m * {c} * {c} - i)",
        f"window({c})" + f".shift({c})" * 9,
        f"causal.dilated({c}).dilated({c}).dilated({c})",
        f"stride({c}, {c - 1}).blocked({c}).shift(-{c})",
        f"keys(-{c}, {c}, {c}) | queries({c}, None, {c}) | queries(-{c})".replace("queries(-", "queries(0 - "),
    ):
        term = parse(text)
        for offset in (0, 3):
            assert (term.mask(4, 3, offset) == related(term, 4, 3, offset)).all(), text


def test_periods_that_no_sequence_reaches() -> None:
    p = 10**9
    diagonal = np.eye(5, dtype=bool)
    assert (causal.dilated(p).mask(5) == diagonal).all()
    assert (causal.dilated(p).dilated(p).T.mask(5) == diagonal).all()
    assert ((window(2) @ causal).dilated(p).mask(5) == diagonal).all()
    assert (stride(p).mask(5) == diagonal).all()
    assert (window(0).blocked(p).mask(5)).all()
    assert (causal.dilated(p).blocked(p)).mask(3).all()
    assert ((causal**p).mask(5) == np.tri(5, dtype=bool)).all()
    assert (window(1) ** p).mask(5)[4].all()
    assert (causal.shift(p).shift(-p).mask(5) == np.tri(5, dtype=bool)).all()
    assert queries(0, None, 2).mask(3, 1, offset=10**30)[:, 0].tolist() == [True, False, True]
    assert causal.dilated(4096).pairs(3, 3) == 3
    assert causal.dilated(1500).mask(3001)[3000].nonzero()[0].tolist() == [0, 1500, 3000]


def test_layers_over_more_tokens_than_a_table_holds() -> None:
    with pytest.raises(SizeError, match="tokens between the layers") as caught:
        LAYERED.T.mask(3, 3, offset=10**12)
    assert "relation" in caught.value.hint
    assert LAYERED.relation() is not None


# --- counts


@settings(max_examples=settings.default.max_examples * 3 // 5)
@given(huge(), st.integers(0, 4), st.integers(0, 4), st.sampled_from([0, 2, 2**31, 2**62, 10**25]))
def test_degrees_are_those_of_the_mask_at_any_size(term: Term, n: int, m: int, offset: int) -> None:
    try:
        found = term.degree(n, m, offset)
    except TooHardError:
        return
    assert found.dtype == np.int64
    assert (found == term.mask(n, m, offset).sum(1)).all()
    assert term.pairs(n, m, offset) == found.sum()


def test_counts_beyond_64_bits() -> None:
    assert full.pairs(2**20, 10**14) == 2**20 * 10**14
    assert full.pairs(3, 10**30) == 3 * 10**30
    assert full.sparsity(5, 10**25) == 0.0
    assert stride(7).degree(2, 2**62).tolist() == [(2**62 + 6) // 7] * 2
    assert causal.pairs(2, 10**30, offset=10**29) == 2 * 10**29 + 3
    with pytest.raises(SizeError) as caught:
        full.degree(2, 10**30)
    assert "pairs(n, m)" in caught.value.hint


@given(terms(1), st.integers(0, 40), st.sampled_from([int, np.int64]))
def test_pairs_by_formula_are_pairs_by_count(term: Term, n: int, kind: type[Any]) -> None:
    expected = term.mask(n).sum()
    assert term.pairs(kind(n)) == expected
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(questions, "LONG", -1)
        assert term.pairs(kind(n)) == expected
