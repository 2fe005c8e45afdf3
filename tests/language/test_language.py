"""The language: what every word means, by eye; terms as values; source and back; and every way to say it wrong."""

import copy
import functools
import operator
import pickle
import re
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings

import pidsl
from pidsl import (
    ParseError,
    PidslError,
    PredicateError,
    SizeError,
    SymbolError,
    TermError,
    TruthError,
    blocks,
    causal,
    chosen,
    documents,
    empty,
    full,
    halo,
    keys,
    lags,
    maximum,
    minimum,
    neighborhood,
    pairs,
    parse,
    queries,
    ring,
    stride,
    symbols,
    where,
    window,
)
from pidsl.language.expr import show
from pidsl.language.terms import Node, Term, Union, Window
from pidsl.testing import predicates, sizes, terms

k, period = symbols("k period")

# --- what every word means: literal masks, one group of characters for each query

MEANING = [
    (full, (2, 3), "111 111"),
    (empty, (2, 3), "... ..."),
    (causal, (3,), "1.. 11. 111"),
    (causal, (2, 4), "1... 11.."),
    (causal, (2, 4, 2), "111. 1111"),
    (window(0), (3,), "1.. .1. ..1"),
    (window(1), (4,), "1... 11.. .11. ..11"),
    (window(1, 1), (4,), "11.. 111. .111 ..11"),
    (window(0, 2), (4,), "111. .111 ..11 ...1"),
    (window(1), (2, 4, 1), "11.. .11."),
    (stride(2), (4,), "1.1. .1.1 1.1. .1.1"),
    (stride(3, 1), (4,), "..1. 1..1 .1.. ..1."),
    (stride(1), (2,), "11 11"),
    (lags(0, 2), (4,), "1... .1.. 1.1. .1.1"),
    (lags(-1), (3,), ".1. ..1 ..."),
    (lags(2, 0, 2), (3,), "1.. .1. 1.1"),
    (lags(), (2,), ".. .."),
    (ring(0), (3,), "1.. .1. ..1"),
    (ring(1), (5,), "11..1 111.. .111. ..111 1..11"),
    (ring(1), (2,), "11 11"),
    (ring(9), (3,), "111 111 111"),
    (ring(1), (2, 4, 2), ".111 1.11"),
    (keys(0, 2), (2, 4), "11.. 11.."),
    (keys(1, None, 2), (2, 5), ".1.1. .1.1."),
    (keys(-2), (2, 4), "..11 ..11"),
    (keys(-3, -1), (1, 5), "..11."),
    (keys(-9, 1), (1, 3), "1.."),
    (keys(2, 1), (1, 3), "..."),
    (queries(1, 3), (4, 2), ".. 11 11 .."),
    (queries(-1), (3, 2), ".. .. 11"),
    (queries(0, None, 2), (3, 2), "11 .. 11"),
    (queries(-2), (2, 2, 1), "11 11"),
    (blocks(2), (5,), "11... 11... ..11. ..11. ....1"),
    (pairs([(0, 1), (2, 0), (9, 9)]), (3,), ".1. ... 1.."),
    (documents, (2, 3), "111 111"),
    (chosen(2, 1), (3,), "1.. 11. 111"),  # what can be chosen
    (documents & causal, (3,), "1.. 11. 111"),
    (pairs([]), (1,), "."),
    (neighborhood(5, 3), (5,), "111.. 111.. .111. ..111 ..111"),
    (neighborhood(5, 3, border="cut"), (5,), "11... 111.. .111. ..111 ...11"),
    (neighborhood(6, 4), (6,), "1111.. 1111.. 1111.. .1111. ..1111 ..1111"),  # one more before than after
    (neighborhood(6, 3, causal=True), (6,), "1..... 11.... 111... .111.. ..111. ...111"),
    (neighborhood(7, 3, stride=2), (7,), "111.... 111.... ..111.. ..111.. ....111 ....111 ....111"),
    (neighborhood(7, 3, stride=3, border="cut"), (7,), " ".join(["111...."] * 3 + ["...111."] * 3 + [".....11"])),
    (neighborhood(5, 3, stride=2, causal=True), (5,), "1.... 11... .11.. .111. ..111"),
    (neighborhood(7, 2, dilation=3), (7,), "1..1... .1..1.. ..1..1. 1..1... .1..1.. ..1..1. ...1..1"),
    (neighborhood(3, 9), (3,), "111 111 111"),
    (neighborhood((2, 3), (1, 2)), (6,), "11.... 11.... .11... ...11. ...11. ....11"),
    (neighborhood((2, 3), (2, 1), causal=(True, False)), (6,), "1..... .1.... ..1... 1..1.. .1..1. ..1..1"),
    (
        neighborhood((2, 2, 2), (1, 1, 3)),
        (8,),
        "11...... 11...... ..11.... ..11.... ....11.. ....11.. ......11 ......11",
    ),
    (neighborhood(2, 1), (3, 4), "1... .1.. ...."),  # positions beyond the grid
    (neighborhood(9, 3), (2, 4, 3), "..11 ...1"),  # a sequence that ends before the grid
    (halo(7, 3, 1), (7,), " ".join(["1111..."] * 3 + ["..11111"] * 3 + [".....11"])),
    (halo((2, 3), (1, 2), (0, 1)), (6,), "111... 111... .11... ...111 ...111 ....11"),
    (where(lambda i, j: (i + j) % 3 == 0), (3,), "1.. ..1 .1."),
    (where(lambda i, j, n, m: (j == m - 1) | (i == n - 1)), (2, 3), "..1 111"),
    (where(lambda i, j: abs(i - j) == 1), (3,), ".1. 1.1 .1."),
    (where(lambda i, j: j // 2 < i), (3,), "... 11. 111"),
    (where(lambda i, j: j <= minimum(2 * i, 2)), (3, 4), "1... 111. 111."),
    (where(lambda i, j: maximum(i, j) == 1), (3,), ".1. 11. ..."),
    (where(lambda i, j: (i - j) // 2 == -1), (3,), ".11 ..1 ..."),
    (causal | lags(-1), (3,), "11. 111 111"),
    (causal & stride(2), (4,), "1... .1.. 1.1. .1.1"),
    (causal - window(0), (3,), "... 1.. 11."),
    (causal ^ window(0, 1), (3,), ".1. 1.1 11."),
    (~causal, (3,), ".11 ..1 ..."),
    (causal.T, (3,), "111 .11 ..1"),
    (keys(0, 1).T, (3,), "111 ... ..."),
    (lags(1) @ lags(2), (5,), "..... ..... ..... 1.... .1..."),
    (keys(0, 1) @ queries(0, 1), (2, 3), "111 111"),
    (queries(1, 2) @ keys(0, 1), (2, 3), "... 1.."),
    (lags(0, 1) ** 2, (4,), "1... 11.. 111. .111"),
    (causal**0, (3,), "1.. .1. ..1"),
    (lags(1) ** 3, (4,), ".... .... .... 1..."),
    (window(0).shift(1), (3,), "... 1.. .1."),
    (window(0).shift(-1), (3,), ".1. ..1 ..."),
    (causal.blocked(2), (4,), "11.. 11.. 1111 1111"),
    (keys(-1).blocked(2), (1, 5), "....1"),
    (window(1).dilated(2), (5,), "1.... .1... 1.1.. .1.1. ..1.1"),
    (keys(-1).dilated(2), (2, 5), "....1 ...1."),
]


def picture(mask: np.ndarray[Any, Any]) -> str:
    return " ".join("".join("1" if x else "." for x in row) for row in mask)


@pytest.mark.parametrize(("term", "lengths", "expected"), MEANING, ids=[f"{t!r} {size}" for t, size, _ in MEANING])
def test_mask_by_eye(term: Term, lengths: tuple[int, ...], expected: str) -> None:
    assert picture(term.mask(*lengths)) == expected


def test_every_kind_of_term_has_a_picture() -> None:
    from pidsl.language.terms import walk

    assert {type(t) for term, _, _ in MEANING for t in walk(term)} == set(get_args(Node))


def test_a_mask_is_a_bool_array_of_the_lengths() -> None:
    for n, m in ((0, 0), (0, 3), (3, 0), (1, 1)):
        mask = (causal | keys(-1) | pairs([(0, 0)])).mask(n, m)
        assert mask.dtype == np.bool_
        assert mask.shape == (n, m)


# --- terms are values


@given(terms(), terms())
def test_equality_is_structural(a: Term, b: Term) -> None:
    again = parse(repr(a))
    assert again == a
    assert hash(again) == hash(a)
    assert (a == b) == (repr(a) == repr(b))
    assert a | b != b | a or a == b


def test_equal_spellings_are_equal_terms() -> None:
    assert window(np.int64(3)) == window(3)
    assert window(3) == window(3, 0) != window(3, 1)
    assert causal | full != full | causal
    assert pairs([(2, 0), (0, 1), (2, 0)]) == pairs(np.array([[0, 1], [2, 0]]))
    assert where(lambda q, c: q - c < 4) == where(lambda i, j, n, m: i - j < 4)
    assert where(lambda i, j: i - j < k).bind(k=4) == where(lambda i, j: i - j < 4)
    assert where(lambda i, j: i - j < k).bind(k=4).symbols == frozenset()
    assert {causal: 1}[parse("causal")] == 1
    assert len({window(3), parse("window(3)"), window(3, 1)}) == 2


@given(terms(3, symbols=("k",)))
def test_terms_survive_pickle_and_copy(term: Term) -> None:
    for other in (pickle.loads(pickle.dumps(term)), copy.copy(term), copy.deepcopy(term)):
        assert other == term
        assert hash(other) == hash(term)


def test_terms_cannot_be_changed() -> None:
    for term in (window(3), causal | full, blocks(2).T):
        for name in (fields(term)[0].name, "another"):
            with pytest.raises((FrozenInstanceError, AttributeError, TypeError)):
                setattr(term, name, 1)


def test_term_is_a_class_for_isinstance() -> None:
    assert isinstance(window(3), pidsl.Term)
    assert isinstance(causal | full, pidsl.Term)
    assert not isinstance("causal", pidsl.Term)
    assert not isinstance(k, pidsl.Term)


# --- source and back


@given(terms(symbols=("k", "period"), ring=True))
def test_repr_parses_back(term: Term) -> None:
    assert parse(repr(term)) == term


@given(predicates(("k",)))
@settings(max_examples=3 * settings.default.max_examples)
def test_predicates_parse_back(term: Term) -> None:
    assert parse(repr(term)) == term


@given(sizes(-9, 9, ("k", "period")))
@settings(max_examples=3 * settings.default.max_examples)
def test_sizes_parse_back(size: Any) -> None:
    assert parse(f"lags({show(size)})") == lags(size)
    assert repr(lags(size)) == f"lags({show(size)})"


# Python source, and whether repr prints it as it stands (or what it prints instead).
SOURCES = [
    ("causal & stride(4) | window(2)", None),
    ("causal & (stride(4) | window(2))", None),
    ("causal ^ full | empty & ~causal - full @ empty", None),
    ("((causal ^ full) | (empty & ((~causal) - (full @ empty))))", "causal ^ full | empty & ~causal - full @ empty"),
    ("causal - (full - empty)", None),
    ("causal - full - empty", None),
    ("(causal @ full) @ empty", "causal @ full @ empty"),
    ("causal @ (full @ empty)", None),
    ("~~causal", None),
    ("~causal ** 2", None),
    ("(~causal) ** 2", None),
    ("(causal ** 2) ** 3", None),
    ("causal ** 2 .T", "causal ** 2"),
    ("(causal ** 2).T", None),
    ("(~causal).T.T", None),
    ("(causal | full).blocked(2).shift(-3).dilated(k).T ** (k + 1)", None),
    ("window(left=3, right=1)", "window(3, 1)"),
    ("blocks(size=k)", "blocks(k)"),
    ("keys(4, step=2)", "keys(4, None, 2)"),
    ("keys(-4)", "keys(-4, None)"),
    ("queries(start=-4, stop=-1)", "queries(-4, -1)"),
    ("causal.shift(by=3).blocked(size=2).dilated(step=2)", "causal.shift(3).blocked(2).dilated(2)"),
    ("lags()", None),
    ("lags(-1, 2 * k + 1, -k, k - -3)", "lags(-1, 2 * k + 1, 0 - k, k - -3)"),
    ("window(2 * (k + 1) // 3 % 5)", None),
    ("window(12 // k % (k * 2))", None),
    ("window(1 + 2 * 3)", "window(7)"),
    ("pairs([])", None),
    ("pairs(((1, 0), (0, 1)))", "pairs([(0, 1), (1, 0)])"),
    ("where(lambda q, c: q - c < 3)", "where(lambda i, j: i - j < 3)"),
    ("where(lambda i, j: (i < 3) & ~(j == 2) | (i % k != 0))", None),
    ("where(lambda i, j, n, m: minimum(i, n - 1) >= abs(j - m) // 2)", None),
    ("where(lambda i, j: (i < 3) ^ (j < 3))", "where(lambda i, j: (i < 3) & ~(j < 3) | ~(i < 3) & (j < 3))"),
    ("where(lambda i, j: True & (3 < 4))", "full"),
    ("where(lambda i, j: ~(i >= i))", "empty"),
    ("\n  window(3)  # a comment: (\n\t| causal\r\n", "window(3) | causal"),
    ("window(fenêtre)", None),
    ("window(ﬁ)", "window(fi)"),  # Python reads names in their compatibility form
]


@pytest.mark.parametrize(("source", "printed"), SOURCES)
def test_source_and_what_it_prints(source: str, printed: str | None) -> None:
    if source == "causal ** 2 .T":  # an attribute binds tighter: no term
        with pytest.raises(ParseError):
            parse(source)
        return
    assert repr(parse(source)) == (printed or source)
    assert parse(repr(parse(source))) == parse(source)


def test_repr_is_python_that_builds_the_term() -> None:
    scope = {name: getattr(pidsl, name) for name in dir(pidsl)} | {"k": k, "period": period}
    for term, _, _ in MEANING:
        assert eval(repr(term), scope) == term


# --- symbols


def test_symbols() -> None:
    assert symbols("k") == k
    assert symbols("k, period") == (k, period)
    assert repr(2 * k + period // 3) == "2 * k + period // 3"
    assert repr(causal ** (k * k)) == "causal ** (k * k)" and parse(repr(causal ** (2 * k))) == causal ** (2 * k)
    assert repr(12 // k % period - np.int64(1)) == "12 // k % period - 1"
    assert window(k + 0) == window(1 * k) == window(k // 1) == window(k)
    assert (window(k) | stride(period)).symbols == {"k", "period"}
    assert where(lambda i, j: (i - j) % period < k).symbols == {"k", "period"}


def test_bind() -> None:
    term = (window(k) | stride(2 * period, k) & keys(-k, None)).shift(k).blocked(period) ** k
    assert term.bind(k=3).symbols == {"period"}
    bound = term.bind(k=3, period=8)
    assert bound == term.bind(period=8).bind(k=3)
    assert bound == (window(3) | stride(16, 3) & keys(-3, None)).shift(3).blocked(8) ** 3
    assert window(k).bind(k=period) == window(period)
    assert window(3).bind() == window(3)
    assert where(lambda i, j: i - j + 0 * k < k).bind(k=3) == where(lambda i, j: i - j < 3)
    assert where(lambda i, j: (i < j) | (minimum(k, 4) == 4)).bind(k=5) == full
    assert window(symbols("self")).bind(self=2) == window(2)


@given(terms(3, symbols=("k", "period")))
def test_binding_is_substitution(term: Term) -> None:
    text = re.sub(r"\bk\b", "(3)", re.sub(r"\bperiod\b", "(5)", repr(term)))
    values = {name: value for name, value in (("k", 3), ("period", 5)) if name in term.symbols}
    try:
        expected = parse(text)
    except PidslError:
        return  # 3 and 5 do not fit this term
    assert term.bind(**values) == expected


# --- where


def test_where_takes_any_callable() -> None:
    class Band:
        width = 4

        def __call__(self, i: Any, j: Any) -> Any:
            return self.near(i, j)

        def near(self, i: Any, j: Any) -> Any:
            return abs(i - j) < self.width

    expected = where(lambda i, j: abs(i - j) < 4)
    assert where(Band()) == where(Band().near) == expected
    assert where(lambda i, j, width=4: abs(i - j) < width) == expected
    assert where(functools.partial(lambda width, i, j: abs(i - j) < width, 4)) == expected
    assert where(lambda i, j: abs(i - j) < np.int64(4)) == expected
    assert where(operator.le) == where(lambda i, j: i <= j)
    assert where(lambda i, j: True) == where(lambda i, j: np.bool_(True)) == full
    assert where(lambda i, j: (i < 3) & np.True_) == where(lambda i, j: i < 3)


def test_where_records_what_python_computes() -> None:
    assert where(lambda i, j: k < i) == where(lambda i, j: i > k)
    assert where(lambda i, j: np.int64(4) > i - j) == where(lambda i, j: i - j < 4)
    assert (
        repr(where(lambda i, j: k + i * 2 - period * j < 2 * k)) == "where(lambda i, j: k + i * 2 - period * j < 2 * k)"
    )
    assert repr(where(lambda i, j: sum(divmod(i, 3)) == -j)) == "where(lambda i, j: i // 3 + i % 3 == 0 - j)"
    assert repr(where(lambda i, j: +i == minimum(3, 4))) == "where(lambda i, j: i == 3)"
    assert repr(where(lambda i, j: (i < 3) == (j < 3))).count("&") == 2


@given(predicates())
def test_a_printed_predicate_is_python(term: Term) -> None:
    if not repr(term).startswith("where("):
        return
    lambda_text = repr(term).removeprefix("where(").removesuffix(")")
    function = eval(lambda_text, {"minimum": min, "maximum": max})
    more = () if lambda_text.startswith("lambda i, j:") else (5, 7)
    plain = lambda_text.count("~") == 0  # ~ of a Python bool is no bool
    if plain:
        expected = [[bool(function(i, j, *more)) for j in range(7)] for i in range(5)]
        assert (term.mask(5, 7) == expected).all()


# --- everything that is wrong: what raises which error, naming what, saying what to write instead

Wrong = tuple[Callable[[], object], type[PidslError], str, str, str]

WRONG: list[Wrong] = [
    # Python truth values of terms
    (lambda: bool(window(3)), TruthError, "window(3)", "`and`", "a & b"),
    (lambda: window(3) and causal, TruthError, "window(3)", "`and`", "a & b"),
    (lambda: not causal, TruthError, "causal", "`not`", "~a"),
    (lambda: 1 if causal | full else 0, TruthError, "causal | full", "`if`", "a.is_empty()"),
    # sizes
    (lambda: window(1.5), TermError, "left = 1.5 (float)", "window(1.5)", ""),
    (lambda: window(2.0), TermError, "left = 2.0 (float)", "window(2.0)", "left=2"),
    (lambda: window(0, -1), TermError, "right = -1", "window(0, -1)", ""),
    (lambda: window(True), TermError, "True (bool)", "window(True)", ""),
    (lambda: window("3"), TermError, "'3' (str)", "window('3')", ""),  # type: ignore[arg-type]
    (lambda: window(1 << 31), TermError, "2147483648", "window", "causal"),
    (lambda: stride(0), TermError, "period = 0", "stride(0)", "count from 1"),
    (lambda: stride(4, 4), TermError, "phase = 4", "stride(4, 4)", "phase=0"),
    (lambda: stride(4, -1), TermError, "phase = -1", "stride(4, -1)", "phase=3"),
    (lambda: stride(k, -1), TermError, "phase = -1", "stride(k, -1)", ""),
    (lambda: lags(1, 2.5), TermError, "2.5 (float)", "lags(1, 2.5)", ""),
    (lambda: ring(-1), TermError, "radius = -1", "ring(-1)", ""),
    (lambda: keys(0.5), TermError, "start = 0.5", "keys(0.5, None)", ""),
    (lambda: keys(0, 4, 0), TermError, "step = 0", "keys(0, 4, 0)", "count from 1"),
    (lambda: queries(0, 4, -1), TermError, "step = -1", "queries(0, 4, -1)", "count from 1"),
    (lambda: blocks(size=0), TermError, "size = 0", "blocks(0)", "count from 1"),
    (lambda: pairs([(0, 1), (1, -2)]), TermError, "j = -2", "(1, -2)", ""),
    (lambda: pairs([(0, 1.5)]), TermError, "j = 1.5 (float)", "(0, 1.5)", ""),  # type: ignore[list-item]
    (lambda: pairs([(0, 1, 2)]), TermError, "(0, 1, 2)", "(0, 1, 2)", "pairs([(0, 1)"),  # type: ignore[list-item]
    (lambda: pairs([(k, 1)]), TermError, "(k, 1)", "(k, 1)", "symbols stand for sizes"),
    (lambda: pairs(3), TermError, "pairs(3)", "", "pairs([(0, 1)"),  # type: ignore[arg-type]
    (lambda: causal**-1, TermError, "layers = -1", "causal ** -1", ""),
    (lambda: causal**1.5, TermError, "layers = 1.5", "causal ** 1.5", ""),  # type: ignore[operator]
    (lambda: causal.shift("a"), TermError, "by = 'a'", "causal.shift('a')", ""),  # type: ignore[arg-type]
    (lambda: causal.blocked(size=0), TermError, "size = 0", "causal.blocked(0)", "count from 1"),
    (lambda: causal.dilated(-2), TermError, "step = -2", "causal.dilated(-2)", "count from 1"),
    # operands that are no terms, on either side
    (lambda: window(3) | 5, TermError, "5 (int) beside `|`", "", "lags(5)"),  # type: ignore[operator]
    (lambda: 5 - window(3), TermError, "5 (int) beside `-`", "", "lags(5)"),  # type: ignore[operator]
    (lambda: k & window(3), TermError, "k (Symbol) beside `&`", "", "lags(k)"),
    (lambda: None @ window(3), TermError, "None (NoneType) beside `@`", "", "pidsl.where"),  # type: ignore[operator]
    (lambda: np.eye(2) ^ window(3), TermError, "(ndarray) beside `^`", "", "pidsl.pairs"),  # type: ignore[operator]
    (lambda: causal.equals("causal"), TermError, "'causal' (str)", "", "pidsl.where"),  # type: ignore[arg-type]
    (lambda: causal <= 1, TermError, "1 (int) beside `<=`", "", "lags(1)"),  # type: ignore[operator]
    # symbols
    (lambda: symbols("k i"), TermError, "'i'", "symbols('k i')", "i_"),
    (lambda: symbols("lambda"), TermError, "'lambda'", "symbols('lambda')", "lambda_"),
    (lambda: symbols("window"), TermError, "'window'", "", "window_"),
    (lambda: symbols("3k"), TermError, "'3k'", "symbols('3k')", ""),
    (lambda: symbols(" "), TermError, "symbols(' ')", "", 'symbols("k period")'),
    (lambda: symbols(3), TermError, "symbols(3)", "", 'symbols("k period")'),  # type: ignore[arg-type]
    (lambda: window(k / 2), TermError, "k / 2", "", "k // 2"),
    (lambda: window(k**2), TermError, "k ** 2", "", "k * k"),
    (lambda: window(k * 1.5), TermError, "1.5 in a size expression", "", "whole numbers"),
    (lambda: window(k // 0), TermError, "k // 0", "", ""),
    (lambda: window(k).mask(4), SymbolError, "unbound symbol k", "window(k)", "term.bind(k=...)"),
    (lambda: stride(period, k).relation(), SymbolError, "symbols k, period", "", "bind(k=..., period=...)"),
    (lambda: causal.equals(window(k)), SymbolError, "unbound symbol k", "window(k)", "term.bind(k=...)"),
    (lambda: window(k).bind(w=3), SymbolError, "bind(w=...)", "window(k)", ""),
    (lambda: window(3).bind(k=3), SymbolError, "bind(k=...)", "window(3)", ""),
    (lambda: window(k).bind(k=1.5), TermError, "k = 1.5 (float)", "bind(k=1.5)", ""),  # type: ignore[arg-type]
    (lambda: (causal | stride(2 * k)).bind(k=0), TermError, "period = 0", "stride(2 * k) with k = 0", "count from 1"),
    (lambda: (causal | window(k - 4)).T.bind(k=3), TermError, "left = -1", "window(k - 4) with k = 3", ""),
    (lambda: (~causal.blocked(k)).bind(k=0), TermError, "size = 0", "causal.blocked(k) with k = 0", "count from 1"),
    (lambda: window(8 // k).bind(k=0), TermError, "divides by zero", "window(8 // k) with k = 0", ""),
    (lambda: where(lambda i, j: i % k == j).bind(k=-2), TermError, "i % -2", "i % k == j) with k = -2", ""),
    # lengths
    (lambda: causal.mask(-1), SizeError, "n = -1", "causal", ""),
    (lambda: causal.mask(4, 2.0), SizeError, "m = 2.0", "causal", ""),  # type: ignore[arg-type]
    (lambda: causal.pairs(4, 4, -1), SizeError, "offset = -1", "causal", ""),
    (lambda: (causal | ring(2)).mask(3, 4), SizeError, "3 query positions and 4 keys", "ring(2)", ""),
    # predicates
    (lambda: where(lambda i, j: i * j > 3), PredicateError, "i * j", "", "by constants only"),
    (lambda: where(lambda i, j: i // j > 3), PredicateError, "i // j", "", "by constants only"),
    (lambda: where(lambda i, j: 8 % i == j), PredicateError, "8 % i", "", "by constants only"),
    (lambda: where(lambda i, j: i % 0 == j), PredicateError, "i % 0", "", "count from 1"),
    (lambda: where(lambda i, j: (i & 1) == 0), PredicateError, "i and 1", "", "i % 2 == 0"),
    (lambda: where(lambda i, j: i < 3 & j < 4), PredicateError, "j and 3", "", "(i < 4) & (j < 4)"),
    (lambda: where(lambda i, j: i >> 1 == j), PredicateError, "i and 1", "", ""),
    (lambda: where(lambda i, j: i / 2 < j), PredicateError, "i / 2", "", "i // 2"),
    (lambda: where(lambda i, j: i**2 < j), PredicateError, "i ** 2", "", ""),
    (lambda: where(lambda i, j: 2**j < i), PredicateError, "2 ** j", "", "lags("),
    (lambda: where(lambda i, j: i < 2.5), PredicateError, "2.5 (float)", "", ""),
    (lambda: where(lambda i, j: i < 1 << 31), PredicateError, "2147483648", "", ""),
    (lambda: where(lambda i, j: i - j), PredicateError, "the number i - j", "", "i - j == 0"),
    (lambda: where(lambda i, j: None), PredicateError, "None", "", "where(lambda"),
    (lambda: where(lambda i, j: ~i), PredicateError, "~i", "", "~(i < 4)"),
    (lambda: where(lambda i, j: (i < j) + 1), PredicateError, "i < j", "", "& | ~"),
    (lambda: where(lambda i, j: (i < 3) & j), PredicateError, "i < 3 combined with j", "", "parentheses"),
    (lambda: where(lambda i, j: (i < 3) * 2 == j), PredicateError, "i < 3", "", "& | ~"),
    (lambda: where(lambda i, j: np.abs(i - j) < 3), PredicateError, "ufunc", "where(...)", "cannot be traced"),
    (lambda: where(lambda i, j: np.arange(9)[i] < j), PredicateError, "indices", "where(...)", "cannot be traced"),
    (lambda: where(lambda i, j: [3, 4][i] < j), PredicateError, "i as an index", "", "cannot be traced"),
    (lambda: where(lambda i, j: j in {0, 4}), PredicateError, "unhashable", "where(...)", "(j == 0) | (j == 4)"),
    (lambda: where(lambda i, j: i.item() < j), PredicateError, "i.item", "", ""),
    (lambda: where(lambda i, j: float(i) < j), PredicateError, "float(i)", "", "//"),
    (lambda: where(lambda i: i < 3), PredicateError, "a function of (i)", "where(...)", "lambda i, j"),
    (lambda: where(lambda *args: True), PredicateError, "a function of (*args)", "where(...)", "lambda i, j"),
    (lambda: where("i < j"), PredicateError, "where('i < j')", "", ""),  # type: ignore[arg-type]
    (lambda: where(lambda i, j: i < 3 and j < 3), TruthError, "i < 3", "`and`", "(a) & (b)"),
    (lambda: where(lambda i, j: i < 3 or j < 3), TruthError, "i < 3", "`or`", "(a) | (b)"),
    (lambda: where(lambda i, j: not i < 3), TruthError, "i < 3", "`not`", "~(a)"),
    (
        lambda: where(lambda i, j: 0 <= i - j < 4),
        TruthError,
        "i - j >= 0",
        "chained comparison",
        "(lo <= x) & (x <= hi)",
    ),
    (lambda: where(lambda i, j: i if i < j else j), TruthError, "i < j", "`if`", ""),
    (lambda: where(lambda i, j: min(i, j) < 4), TruthError, "j < i", "`min`", "minimum(a, b)"),
    (lambda: where(lambda i, j: j in (0, 4)), TruthError, "j == 0", "`in`", "(a) | (b)"),
    (lambda: where(lambda i, j: all([i < 4, j < 4])), TruthError, "i < 4", "", "(a) & (b)"),
]


@pytest.mark.parametrize(
    ("wrong", "error", "given", "at", "hint"), WRONG, ids=[f"{w[1].__name__} {w[2]}" for w in WRONG]
)
def test_wrong(wrong: Callable[[], object], error: type[PidslError], given: str, at: str, hint: str) -> None:
    with pytest.raises(error) as caught:
        wrong()
    e = caught.value
    assert type(e) is error
    assert given in e.given
    assert at in e.where
    assert hint in e.hint
    assert e.expected


def test_a_bug_in_the_predicate_is_the_users_own() -> None:
    with pytest.raises(NameError):
        where(lambda i, j: i < undefined_name)  # type: ignore[name-defined]  # noqa: F821


# What `parse` refuses: the text, the column of the caret, words of the message.
REFUSED = [
    ("", 0, "no text"),
    ("window(3) |", 10, "syntax error"),
    ("window(3", 6, "never closed"),
    ("window(3) stride(4)", 10, "syntax error"),
    ("windw(3)", 0, "unknown word 'windw' one of window"),
    ("full | strid", 7, "unknown word 'strid'"),
    ("full | window", 7, "`window` without its arguments window(left, right)"),
    ("where", 0, "`where` without its arguments"),
    ("causal()", 0, "without parentheses"),
    ("k", 0, "unknown word 'k'"),
    ("3", 0, "`3`"),
    ("full and causal", 0, "`and` a & b"),
    ("not full", 0, "`not` ~a"),
    ("full + causal", 0, "`full + causal`"),
    ("full if full else full", 0, "a term"),
    ("full | -causal", 7, "a term"),
    ("causal.mask(4)", 0, ".mask .T"),
    ("causal.S", 0, ".S .T"),
    ("window()", 0, "no left"),
    ("window(1, 2, 3)", 0, "3 arguments"),
    ("window(1, left=2)", 0, "argument left"),
    ("window(1, width=2)", 0, "argument width"),
    ("window(*full)", 7, "`*full` as a size"),
    ("window(**k)", 0, "argument **"),
    ("causal.dilated()", 0, "no step"),
    ("full | window(3.5)", 14, "`3.5` as a size"),
    ("window(True)", 7, "`True` as a size"),
    ("window(None)", 7, "`None` as a size"),
    ("window('3')", 7, "as a size"),
    ("window(i)", 7, "`i` as a size"),
    ("window(full)", 7, "`full` as a size"),
    ("window(k ** 2)", 7, "as a size"),
    ("window(k // 0)", 7, "divides by zero"),
    ("window(f(3))", 7, "`f(3)` as a size"),
    ("lags(values=3)", 0, "lags(0, 1, 2)"),
    ("pairs([(0, 1), (k, 2)])", 16, "`k` a number"),
    ("pairs([(0, 1), 3])", 15, "`3`"),
    ("pairs(3)", 6, "a list"),
    ("where(causal)", 0, "one lambda"),
    ("where(lambda i: i < 3)", 6, "lambda i, j"),
    ("where(lambda i, j=3: i < 3)", 6, "lambda i, j"),
    ("where(lambda i, j, *n: i < 3)", 6, "lambda i, j"),
    ("where(lambda i, j: i)", 19, "the number i"),
    ("where(lambda i, j: i < n)", 23, "`n` as a size lambda i, j, n, m"),
    ("where(lambda i, j: i * j < 3)", 19, "i * j"),
    ("where(lambda i, j: (i & 1) == 0)", 20, "bit arithmetic i % 2"),
    ("where(lambda i, j: i < 3 and j < 3)", 19, "`and` (a) & (b)"),
    ("where(lambda i, j: 0 <= i < 3)", 19, "chained (lo <= x) & (x <= hi)"),
    ("where(lambda i, j: max(i, j) < 3)", 19, "`max(i, j)`"),
    ("where(lambda i, j: i @ j)", 19, "`i @ j`"),
    ("where(lambda i, j: (i < 3) // 2 == j)", 19, "truth value i < 3"),
    ("where(lambda i, j: 1 % 0 == i)", 19, "1 % 0"),
    ("where(lambda i, j: i < 2.5)", 23, "`2.5`"),
    ("where(lambda i, j: __import__('os'))", 19, "in a predicate"),
    ("lags(" + "9" * 5000 + ")", 5005, "integer"),
    ("window(3)\n| strid(4)", 2, "unknown word"),
    ("window(3)  # fenêtre\n| ê | strid(4)", 2, "unknown word 'ê'"),
    ("ê | strid(4)", 0, "unknown word 'ê'"),
    ("window(ê) | strid(4)", 12, "unknown word 'strid'"),
    ("\x00", 0, "syntax error"),
]


@pytest.mark.parametrize(("text", "column", "words"), REFUSED, ids=[text[:40] for text, _, _ in REFUSED])
def test_parse_refuses(text: str, column: int, words: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse(text)
    e = caught.value
    assert e.expected
    for word in words.split():
        assert word in f"{e.given} {e.expected} {e.hint}", str(e)
    line, caret = e.where.split("\n")
    assert caret == " " * column + "^", str(e)
    assert line in text.splitlines() or not line.strip()


def test_parse_refuses_what_is_no_text() -> None:
    for value in (3, None, causal, b"causal"):
        with pytest.raises(ParseError, match=r"a string of pidsl source"):
            parse(value)  # type: ignore[arg-type]


def test_parse_refuses_deep_nesting_as_its_own_error() -> None:
    many = 5000
    for text in (
        "~" * many + "full",
        "(" * many + "full" + ")" * many,
        " | ".join(["full"] * many),
        "full" + ".T" * many,
    ):
        with pytest.raises(ParseError):
            parse(text)
    with pytest.raises(ParseError):
        parse("where(lambda i, j: " + "+".join(["i"] * many) + " < 3)")


def test_parse_keeps_the_error_of_a_bad_size() -> None:
    with pytest.raises(TermError, match=r"stride\(0\)"):
        parse("causal | stride(0)")


def chained(i: Any, j: Any) -> Any:
    return 0 <= i - j < 4


# Whole messages, few: the shape that all errors share.
MESSAGES = [
    (
        lambda: causal | stride(0),
        "period = 0\n"
        "  expected: an integer >= 1\n"
        "  where: stride(0)\n"
        "  try: periods, steps and block sizes count from 1",
    ),
    (
        lambda: where(chained),
        "i - j >= 0 used as a Python truth value\n"
        "  expected: a predicate that does not branch: it is traced once for all positions\n"
        "  where: `and`, `or`, `not`, `if`, `min`, `max`, `in`, or a chained comparison, "
        f"at {__file__}:{chained.__code__.co_firstlineno + 1}\n"
        "  try: (a) & (b), (a) | (b), ~(a), minimum(a, b), maximum(a, b), (lo <= x) & (x <= hi)",
    ),
    (
        lambda: parse("window(3) | strides(4)"),
        "unknown word 'strides'\n"
        "  expected: one of causal, documents, empty, full, blocks, chosen, halo, keys, lags, neighborhood, "
        "pairs, queries, ring, stride, window, where, gate, heads, layers, score, spans, summaries, compile, "
        "or a name of pidsl.patterns\n"
        "  where: \n"
        "    window(3) | strides(4)\n"
        "                ^\n"
        "  try: stride",
    ),
    (
        lambda: (window(k) | stride(period)).mask(4),
        "unbound symbols k, period\n"
        "  expected: numbers, to evaluate the pattern\n"
        "  where: window(k) | stride(period)\n"
        "  try: term.bind(k=..., period=...)",
    ),
]


@pytest.mark.parametrize(("wrong", "message"), MESSAGES)
def test_messages(wrong: Callable[[], object], message: str) -> None:
    with pytest.raises(PidslError) as caught:
        wrong()
    assert str(caught.value) == message


def test_errors_are_also_the_builtin_ones_python_programmers_expect() -> None:
    assert issubclass(TermError, ValueError)
    assert issubclass(TruthError, TypeError)
    assert issubclass(ParseError, ValueError)


def test_nodes_are_what_the_operators_say() -> None:
    assert window(3) | causal == Union(Window(3, 0), causal)
