"""Families that callers have, in `design` and `compare`: against every member, by dense masks."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pidsl import blocks, causal, compare, design, keys, lags, layers, queries, stride, symbols, window
from pidsl.analysis import dense as matrices
from pidsl.analysis.schedules import BaseSchedule
from pidsl.errors import PidslError, SizeError, SymbolError, TermError
from pidsl.language.terms import Term
from pidsl.relation.oracle import dense_mask

k, s = symbols("k s")
FIRST = keys(0, s) & causal
FAMILIES: list[tuple[Any, dict[Any, Any], Callable[[int, int], Term | None]]] = [
    (lambda w, s: window(w) & causal | lags(s), {"w": (0, 4), "s": (1, 6)}, lambda w, s: window(w) | lags(s)),
    (window(k) | FIRST, {k: (0, 5), s: (0, 3)}, lambda k, s: window(k) | keys(0, s) & causal),
    (window(k, k) | keys(0, s) | queries(0, s), {"k": (0, 4), s: [0, 1, 3]},
     lambda k, s: window(k, k) | keys(0, s) | queries(0, s)),
    (lambda w, s: window(w).blocked(s) & causal, {"w": (0, 3), "s": range(1, 5)},
     lambda w, s: window(w).blocked(s) & causal),
    (lambda w, p: window(w) | stride(p) & causal if p > w else None, {"w": (1, 4), "p": (2, 9)},
     lambda w, p: window(w) | stride(p) & causal if p > w else None),
    (blocks(k) & causal, {k: (1, 20)}, lambda k: blocks(k) & causal),
]  # fmt: skip


def numbers(given: Any) -> list[int]:
    return list(range(given[0], given[1] + 1)) if isinstance(given, tuple) else list(given)


def connects(mask: Any, count: int) -> bool:
    """Whether at most so many layers connect every causal pair; every pair, where the pattern looks ahead."""
    tokens = len(mask)
    seen = np.eye(tokens, dtype=bool)
    wanted = np.tri(tokens, dtype=bool) if not np.triu(mask, 1).any() else np.ones((tokens, tokens), dtype=bool)
    for _ in range(count):
        seen = matrices.times(mask, seen)
        if (seen >= wanted).all():
            return True
    return False


@pytest.mark.parametrize(("family", "ranges", "member"), FAMILIES)
@pytest.mark.parametrize(("tokens", "count"), [(1, 1), (7, 2), (16, 3), (20, 1)])
def test_the_winner_is_the_best_of_all_members(
    family: Any, ranges: dict[Any, Any], member: Callable[..., Term | None], tokens: int, count: int
) -> None:
    fits = []
    for values in itertools.product(*map(numbers, ranges.values())):
        if (term := member(*values)) is not None:
            mask = dense_mask(term, tokens)
            if connects(mask, count):
                fits.append((count * int(mask.sum()), int(mask.sum(1).max())))
    for limit in (None, 1, 3, 5, tokens):
        wanted = min((x for x in fits if limit is None or x[1] <= limit), default=None)
        best = design(tokens, count, limit, family=family, ranges=ranges).best
        assert (None if best is None else (best.pairs, best.degree)) == wanted, limit
        if best is not None:
            assert isinstance(best.pattern, Term) and connects(dense_mask(best.pattern, tokens), count)
            assert (
                dense_mask(best.pattern, tokens) == dense_mask(member(*dict(best.parameters).values()), tokens)
            ).all()
            assert best.least_pairs is None or best.least_pairs <= best.pairs


def test_what_is_found_can_be_checked_and_read() -> None:
    found = design(64, 3, family={"sinks": window(k) | FIRST, "skip": lambda w, p: window(w) | lags(p)},
                   ranges={"k": (1, 32), "s": (1, 2), "w": (1, 32), "p": [4, 8, 16]})  # fmt: skip
    assert found.check()
    assert found["sinks"].least_pairs is None and found["skip"].least_pairs is not None
    assert "sinks" in str(found) and dict(found["skip"].parameters).keys() == {"w", "p"}
    both = design(64, 3, families=["window"], family=window(k) | FIRST, ranges={k: (1, 32), s: (1, 1)})
    assert {x.family for x in both.found} == {"window", repr(window(k) | FIRST)}
    none = design(64, 2, family=window(k), ranges={k: (1, 8)})
    assert none.best is None and "k = 8 takes 8" in none.reason
    wide = design(64, 2, 20, family=window(k), ranges={k: (1, 63)})
    assert wide.best is None and "33 keys" in wide.reason
    other = design(27, 3, family=lambda b: BaseSchedule(b), ranges={"b": (2, 5)}).best
    assert other is not None and dict(other.parameters) == {"b": 3}
    of_layers = design(16, 4, family=layers([window(k), window(1) | lags(s)]), ranges={k: (1, 4), s: (2, 8)}).best
    assert of_layers is not None and of_layers.depth(n=16) <= 4


def test_compare_has_a_row_for_every_member() -> None:
    found = compare({"sinks": window(k) | FIRST, "causal": causal}, n=30, layers=2, ranges={k: (0, 3), s: [0, 2]})
    assert len(found) == 9
    for a, b in itertools.product(range(4), (0, 2)):
        mask = dense_mask(window(a) | keys(0, b) & causal, 30)
        row = found[f"sinks, k = {a}, s = {b}"]
        assert row["pairs"] == mask.sum() and row["degree"] == mask.sum(1).max()
    assert found["causal"]["pairs"] == 465
    assert [row.name for row in compare(lambda w: window(w) & causal, n=9, ranges={"w": (1, 3)})] == [
        repr(window(w) & causal) for w in (1, 2, 3)
    ]
    assert [row["pairs"] for row in compare([window(k)], n=9, ranges={k: [1, 8]})] == [17, 45]


def test_many_rows_are_printed_in_part() -> None:
    found = compare(window(k), n=64, ranges={k: (0, 63)})
    text = str(found)
    assert len(found) == 64 and "40 of 64 rows" in text and "window(0) " in text and "window(63) " in text
    assert "40 of 64 rows" in found.to_markdown()


def test_tables_are_shown_in_notebooks() -> None:
    html = compare(window(k), n=64, ranges={k: (1, 3)})._repr_html_()
    assert html.count("<tr>") == 4 and "window(3)" in html and "<td style='text-align:right'>" in html
    html = design(64, 3, family={"a < b": window(k)}, ranges={k: (1, 30)})._repr_html_()
    assert html.count("<tr>") == 2 and "a &lt; b" in html and "at least 4 keys" in html
    assert "nothing fits" in design(64, 3, 2)._repr_html_()


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: design(9, 2, family=window(k)), SymbolError, ["no range for k", "try"]),
        (lambda: design(9, 2, family=lambda w: window(w), ranges={"x": (1, 2)}), SymbolError, ["a range for x", "w"]),
        (lambda: design(9, 2, family=window(k), ranges={k: (3, 1)}), SizeError, ["(3, 1)", "low <= high"]),
        (lambda: design(9, 2, family=window(k), ranges={k: []}), SizeError, ["[]"]),
        (lambda: design(9, 2, family=window(k), ranges={k: 5}), SizeError, ["5"]),
        (lambda: design(9, 2, family=window(k), ranges={k: (1.5, 2)}), SizeError, ["1.5"]),
        (lambda: design(9, 2, family=window(k), ranges=[(1, 2)]), SizeError, ["ranges", "try"]),
        (lambda: design(9, 2, family=lambda w: 3, ranges={"w": (1, 2)}), TermError, ["3 (int)", "w = 1"]),
        (lambda: design(9, 2, family=lambda w: window(k), ranges={"w": (1, 2)}), SymbolError, ["with k", "w = 1"]),
        (lambda: design(9, 2, family=lambda *w: window(1), ranges={}), TermError, ["names"]),
        (lambda: design(9, 2, family=blocks(k), ranges={k: (0, 2)}), PidslError, ["k = 0"]),
        (lambda: design(9, 2, family="window"), TermError, ['families=["window"]'.replace('"', "'")]),
        (lambda: design(9, 2, family={}), TermError, ["at least one"]),
        (lambda: design(9, 2, family=3), TermError, ["3 (int)"]),
        (lambda: design(9, 2, ranges={"k": (1, 2)}), SymbolError, ["a range for k"]),
        (lambda: design(9, 2, family=window(k), ranges={k: (1, 9999)}), SizeError, ["9,999 members", "try"]),
        (lambda: compare(window(k), n=9), SymbolError, ["k"]),
        (lambda: compare(window(k), n=9, ranges={k: (1, 2), "z": (1, 2)}), SymbolError, ["a range for z"]),
        (lambda: compare([lambda w: window(w)], n=9), SymbolError, ["no range for w"]),
        (lambda: compare(window(3), n=9, ranges={"k": (1, 2)}), SymbolError, ["a range for k", "no ranges"]),
        (lambda: compare([3], n=9), TermError, ["3 (int)"]),
        (lambda: compare(3, n=9), TermError, ["3 (int)"]),
    ],
)
def test_what_is_no_family_is_said(call: Callable[[], object], error: type[PidslError], words: list[str]) -> None:
    with pytest.raises(error) as e:
        call()
    assert all(word in str(e.value) for word in words), str(e.value)
