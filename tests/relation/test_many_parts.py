"""Terms of some hundred and some thousand parts: no question recurses, and unions are no deep trees."""

import contextlib
import copy
import functools
import operator
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pidsl
from pidsl import (
    blocks,
    causal,
    empty,
    full,
    keys,
    lags,
    maximum,
    minimum,
    pairs,
    parse,
    stride,
    symbols,
    where,
    window,
)
from pidsl.errors import ParseError, PredicateError, TermError, TooHardError
from pidsl.language.terms import Term, Union
from pidsl.language.trees import WIDE, extent
from pidsl.relation.runs import FEW, runs_within
from pidsl.testing import terms

MANY = 400
UNIONS: dict[str, Callable[[int], Term]] = {
    "lags": lambda k: lags(3 * k),
    "shifts": lambda k: window(1).shift(5 * k),
    "windows": lambda k: window(k),
    "pairs": lambda k: pairs([(k, 2 * k)]),
    "shifted pairs": lambda k: pairs([(k, 2 * k)]).shift(1),
    "strides": lambda k: stride(1000, k),
    "keys": lambda k: keys(2 * k, 2 * k + 1),
}


def union(part: Callable[[int], Term], count: int = MANY) -> Term:
    return functools.reduce(operator.or_, map(part, range(count)))


def nest(step: Callable[[Term], Term], start: Term, depth: int) -> Term:
    for _ in range(depth):
        start = step(start)
    return start


LONG: dict[str, Term] = {
    **{name: union(part) for name, part in UNIONS.items()},
    "mixed": union(lambda k: keys(k // 25, k // 24) if k % 25 == 0 else [lags(3 * k), window(2).shift(k)][k % 2]),
    "differences": functools.reduce(lambda a, k: a - lags(3 * k), range(MANY), causal),
    "and not": functools.reduce(lambda a, k: a & ~lags(3 * k), range(MANY), causal),
    "symmetric differences": functools.reduce(operator.xor, (window(k) for k in range(MANY))),
    "or": where(lambda i, j: functools.reduce(operator.or_, (i - j == 3 * k for k in range(1000)))),
    "and": where(lambda i, j: functools.reduce(operator.and_, (j != 3 * k for k in range(MANY)))),
    "minimum": where(lambda i, j: functools.reduce(minimum, (i - j + 3 * k for k in range(MANY))) == 0),
    "maximum": where(lambda i, j: functools.reduce(lambda a, b: maximum(b, a), (i - 3 * k for k in range(MANY))) > j),
}
NESTS: dict[str, tuple[Callable[[Term], Term], Term]] = {
    "~": (lambda a: ~a, causal),
    ".T": (lambda a: a.T, causal),
    "shift": (lambda a: a.shift(1), causal),
    "blocked": (lambda a: a.blocked(1), window(1)),
    "dilated": (lambda a: a.dilated(1), window(1)),
    "**": (lambda a: a**1, window(1)),
    "@": (lambda a: a @ window(0), window(1)),
    "@ on the right": (lambda a: window(0) @ a, window(1)),
    "- on the right": (lambda a: causal - a, window(1)),
    "-": (lambda a: a - lags(-7), causal),
    "~ and |": (lambda a: ~(~a | lags(7)), window(9)),
}


@pytest.mark.parametrize("term", LONG.values(), ids=LONG)
def test_a_long_term_is_a_term(term: Term) -> None:
    assert extent(term)[0] < 60 or "-" in repr(term)
    assert parse(repr(term)) == term
    again = pickle.loads(pickle.dumps(term))
    assert again == term
    assert hash(again) == hash(term)
    assert copy.deepcopy(term) == copy.copy(term) == term
    mask = term.mask(50, 45)
    assert (term.degree(50, 45) == mask.sum(1)).all()
    assert term.pairs(50, 45) == mask.sum()
    assert term.equals(term)
    assert term <= full
    assert not term.is_empty()


@pytest.mark.parametrize(("step", "start"), NESTS.values(), ids=NESTS)
def test_a_deep_term_is_a_term(step: Callable[[Term], Term], start: Term) -> None:
    term, same = nest(step, start, 1500), nest(step, start, 1500)
    assert term == same
    assert hash(term) == hash(same)
    assert term != nest(step, start, 1499)
    assert pickle.loads(pickle.dumps(term)) == copy.deepcopy(term) == term
    assert term.bind() == term
    assert term.symbols == frozenset()
    assert len(repr(term)) > 1500
    term = nest(step, start, 300)
    mask = term.mask(9, 8)
    assert (mask == nest(step, start, 100).mask(9, 8)).all() or "shift" in repr(term)
    assert term.pairs(9, 8) == mask.sum()
    assert term.equals(term)
    inside, deepest = 0, 0
    for letter in repr(term):
        inside += (letter == "(") - (letter == ")")
        deepest = max(deepest, inside)
    if deepest < 100:
        assert parse(repr(term)) == term
    else:  # Python's own parser takes no more than 200 parentheses inside one another, or fewer
        with pytest.raises(ParseError, match=r"parentheses|too large"):
            parse(repr(term))


@pytest.mark.parametrize(("step", "start"), NESTS.values(), ids=NESTS)
def test_formulas_and_kernels_of_deep_terms(step: Callable[[Term], Term], start: Term) -> None:
    term = nest(step, start, 600)
    assert term.pairs()(n=9) == term.mask(9).sum()
    assert term.farthest() is not None
    q, k, v = torch.randn(3, 1, 1, 20, 8)
    out = pidsl.compile(term, "torch")(q, k, v)
    torch.testing.assert_close(out, pidsl.compile(term, "reference")(q, k, v))


@given(st.integers(WIDE + 1, 150), st.data())
@settings(max_examples=settings.default.max_examples // 2)
def test_many_parts_are_grouped_in_one_way(count: int, data: Any) -> None:
    parts = [lags(k) for k in range(count)]
    split = data.draw(st.integers(1, count - 1))
    left = functools.reduce(operator.or_, parts)
    right = functools.reduce(lambda a, b: b | a, reversed(parts))
    both = functools.reduce(operator.or_, parts[:split]) | functools.reduce(operator.or_, parts[split:])
    assert left == right == both == parse(repr(both))
    assert extent(left)[0] <= WIDE + 1 + count.bit_length()


def test_thousands_of_parts() -> None:
    term = union(lambda k: lags(2 * k), 4000)
    assert parse(repr(term)) == term
    assert pickle.loads(pickle.dumps(term)) == term
    assert term.pairs(1000) == union(lambda k: lags(2 * k), 500).pairs(1000) == 250500
    assert causal | (full | empty) == Union(causal, Union(full, empty)), "a few stay as they are written"


@given(terms(2), terms(2))
@settings(max_examples=settings.default.max_examples // 4)
def test_lags_alone_are_what_isl_says(a: Term, b: Term) -> None:
    """Runs of lags, found where a term is long."""
    padding = union(lambda k: lags(1000 + 2 * k), FEW)
    near = window(40, 40)
    for term in (
        (a | padding) & near,
        (a - b) & near - padding,
        (a ^ padding) & near & ~b,
        (a | padding).shift(3) & near,
    ):
        found = runs_within(term).get(id(term))
        lag = np.arange(12)[:, None] - np.arange(11)[None, :]
        mask = term.mask(12, 11)
        if found is not None:
            assert (mask == np.any([(first <= lag) & (lag <= last) for first, last in [*found, (1, 0)]], axis=0)).all()
        with contextlib.suppress(TooHardError):
            assert (term.degree(12, 11) == mask.sum(1)).all()


@settings(max_examples=settings.default.max_examples // 2)
@given(st.integers(-9, 9), st.sampled_from(["<", "<=", "==", "!=", ">", ">="]), st.booleans())
def test_comparisons_of_lags_are_runs(constant: int, op: str, swapped: bool) -> None:
    compare = {"<": operator.lt, "<=": operator.le, "==": operator.eq, "!=": operator.ne, ">": operator.gt}.get(
        op, operator.ge
    )
    near = where(lambda i, j: compare(j - i + constant, 2) if swapped else compare(i, j + constant))
    term = near & ~union(lambda k: lags(1000 + 2 * k), FEW)
    assert id(term) in runs_within(term)
    assert (term.degree(30, 28) == term.mask(30, 28).sum(1)).all()


def test_what_is_too_deep_is_refused_by_name() -> None:
    with pytest.raises(PredicateError, match=r"nested 40\d deep"):
        where(lambda i, j: functools.reduce(lambda a, _: abs(a - 1), range(200), i) < j)
    with pytest.raises(PredicateError, match=r"(?s)operations.*where\(a\) \^ where\(b\)"):
        where(lambda i, j: functools.reduce(operator.xor, (i - j == k for k in range(30))))
    term = functools.reduce(operator.xor, (where(lambda i, j, k=k: i - j == k) for k in range(30)))  # as it says
    assert term.equals(window(29))

    with pytest.raises(TermError, match="deep"):
        window(functools.reduce(lambda a, _: 2 * (a + 1), range(200), symbols("k")))


def test_blocks_of_many_sizes_are_refused_in_time() -> None:
    term = union(lambda k: blocks(k + 2), 100)
    assert term.mask(30).all() == (blocks(101).mask(30).all())
    with pytest.raises(TooHardError):
        union(lambda k: blocks(k + 2)).pairs(40)
