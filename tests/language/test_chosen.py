"""`chosen`: where the word may stand, what it means under lists, and what no list can change."""

# follows the hints of pidsl/language/terms.py: Chosen
# follows the hints of pidsl/language/operators.py: _settled

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pidsl import (
    SizeError,
    TermError,
    blocks,
    causal,
    chosen,
    documents,
    empty,
    full,
    keys,
    lags,
    parse,
    stride,
    symbols,
    window,
)
from pidsl.language.chosen import Selection, forced, possible, selection
from pidsl.language.terms import Chosen, Difference, Intersection, Term, Union, is_chosen
from pidsl.testing import terms

SIZES = Selection(2, 3, 2)


def patterns(depth: int = 3) -> st.SearchStrategy[Term]:
    """Terms in which one choice stands, under |, & and -."""
    word = terms(2).filter(lambda x: not is_chosen(x)).map(lambda within: chosen(*SIZES, within=within))
    static = terms(2)
    return st.recursive(
        word,
        lambda inner: st.one_of(
            st.builds(lambda a, b: a | b, inner, static | inner), st.builds(lambda a, b: a & b, static | inner, inner),
            st.builds(lambda a, b: a - b, inner, static),
        ),
        max_leaves=depth,
    )  # fmt: skip


@st.composite
def lists(draw: st.DrawFn, rows: int) -> np.ndarray[Any, Any]:
    """Numbers of blocks, some that there are not, some twice."""
    width = draw(st.integers(0, 3))
    values = draw(st.lists(st.integers(-1, 8), min_size=rows * width, max_size=rows * width))
    return np.array(values, dtype=np.int32).reshape(rows, width)


def by_pair(term: Term, i: int, j: int, sizes: tuple[int, int], own: set[int]) -> bool:
    """Whether a pair is attended: the definition, word by word."""
    match term:
        case Chosen(block=block, within=within):
            return j // int(block) in own and by_pair(within, i, j, sizes, own)  # type: ignore[arg-type]
        case Union(a, b):
            return by_pair(a, i, j, sizes, own) or by_pair(b, i, j, sizes, own)
        case Intersection(a, b):
            return by_pair(a, i, j, sizes, own) and by_pair(b, i, j, sizes, own)
        case Difference(a, b):
            return by_pair(a, i, j, sizes, own) and not by_pair(b, i, j, sizes, own)
        case _:
            return bool(term.mask(*sizes)[i, j])


@given(st.data(), patterns(), st.integers(0, 7), st.integers(0, 7), st.integers(0, 3))
def test_a_mask_under_lists_is_the_definition_pair_by_pair(
    data: st.DataObject, term: Term, n: int, m: int, offset: int
) -> None:
    rows = -(-(n + offset) // 2) - offset // 2 if n else 0
    given_lists = data.draw(lists(rows))
    found = term.mask(n, m, offset, blocks=given_lists)
    expected = [
        [
            by_pair(term, i, j, (n + offset, m), {int(x) for x in given_lists[i // 2 - offset // 2]} - {-1})
            for j in range(m)
        ]
        for i in range(offset, offset + n)
    ]
    assert (found == np.array(expected, dtype=bool).reshape(n, m)).all()


@given(st.data(), patterns(), st.integers(1, 7))
def test_every_mask_lies_between_the_forced_and_the_possible(data: st.DataObject, term: Term, n: int) -> None:
    found = term.mask(n, blocks=data.draw(lists(-(-n // 2))))
    least, most = term.forced.mask(n), term.possible.mask(n)
    assert not (least & ~found).any() and not (found & ~most).any()
    assert (term.mask(n) == most).all()  # without lists: the superset
    none, every = np.full((-(-n // 2), 1), -1), np.tile(np.arange(3), (-(-n // 2), 1))
    assert (term.mask(n, blocks=none) == least).all()
    assert (term.mask(min(n, 6), blocks=every[: -(-min(n, 6) // 2)]) == term.possible.mask(min(n, 6))).all()


@given(patterns())
def test_it_is_written_and_read(term: Term) -> None:
    assert parse(repr(term)) == term
    assert selection(term) == SIZES
    assert not is_chosen(forced(term)) and not is_chosen(possible(term))


def test_how_it_is_written() -> None:
    k, b = symbols("k b")
    for text in (
        "chosen(64, 16)",
        "chosen(2, 1, queries=1, within=full)",
        "chosen(k, b, within=window(3) | stride(8))",
    ):
        assert repr(parse(text)) == text
    assert chosen(k, b).bind(k=3, b=2) == chosen(3, 2) and chosen(k, b).symbols == {"k", "b"}


def test_documents_have_lists_of_their_own() -> None:
    term = (window(0) | chosen(2, 1, queries=2)) & documents
    ids = [0, 0, 0, 0, 0, 5, 5, 5]
    found = term.mask(8, documents=ids, blocks=[[0], [1], [0], [-1], [0]])
    assert "".join("1" if x else "." for x in found[4]) == "11..1..."
    assert "".join("1" if x else "." for x in found[7]) == ".....111"
    assert term.mask(8, documents=ids).sum() == 15 + 6
    with pytest.raises(SizeError, match="4 rows of blocks"):
        term.mask(8, documents=ids, blocks=[[0]] * 4)


def test_where_it_may_not_stand() -> None:
    some = window(3) | chosen(4, 2)
    for wrong in (lambda: ~some, lambda: causal - some, lambda: some ^ causal, lambda: causal ^ some):
        with pytest.raises(TermError, match="a choice may add pairs"):
            wrong()
    assert chosen(64, 16, within=causal - window(3)).possible == causal - window(3)  # as the hint says
    for wrong in (lambda: chosen(4, 2, within=some), lambda: chosen(4, 2, within=causal & documents)):
        with pytest.raises(TermError, match="a pattern without"):
            wrong()
    for moved in (some.T, some.shift(1), some.blocked(2), some.dilated(2), some @ causal, some**2):
        assert moved.possible.equals(type(moved)(*[x.possible if isinstance(x, Term) else x for x in _values(moved)]))
        with pytest.raises(TermError, match="under"):
            selection(moved)
    with pytest.raises(TermError, match="one choice"):
        selection(chosen(4, 2) | chosen(8, 2))


def _values(term: Term) -> list[Any]:
    from pidsl.language.trees import own_values

    return own_values(term)


def test_what_is_decided_holds_for_every_list() -> None:
    some = window(3) | chosen(4, 2)
    assert some <= causal and not causal <= some and window(2) <= some and not stride(8) & causal <= some
    assert some.equals(chosen(4, 2) | window(3) | lags(1)) and not some.equals(window(3) | chosen(4, 3))
    assert not some.equals(causal) and (some | causal).equals(causal) and some <= some
    assert chosen(4, 2, within=empty).is_empty() and not some.is_empty()
    assert (some - keys(0, 4)).forced == window(3) - keys(0, 4)
    assert (blocks(4) & some).possible.equals(blocks(4) & causal) and (full & chosen(4, 2)).forced == empty


def test_questions_that_lists_decide_are_refused() -> None:
    some = window(3) | chosen(4, 2)
    for ask in (some.pairs, some.degree, some.sparsity):
        with pytest.raises(TermError, match="depends on what a call lists"):
            ask(8)


@pytest.mark.parametrize(
    ("given_lists", "message"),
    [([0, 1], "shape"), ([[0.5], [1.0]], "dtype"), ([[0, 1, 2], [0, 1, 2]], "up to 2"), ([[0]], "1 rows of blocks")],
)
def test_lists_that_do_not_fit(given_lists: Any, message: str) -> None:
    with pytest.raises(SizeError, match=message):
        chosen(4, 2, queries=4).mask(8, blocks=given_lists)
    with pytest.raises(TermError, match="a pattern with a choice"):
        causal.mask(8, blocks=[[0], [1]])
