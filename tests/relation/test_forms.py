"""Constraints solved for a variable: the same thing when they say so, never more."""

from __future__ import annotations

import itertools

import pytest

from pidsl.language.expr import evaluate, show
from pidsl.relation.forms import Constraint, constraints
from pidsl.relation.isl import read_set

CASES = [  # constraint, what it says when solved for b, whether that is the same
    ("b <= a + 3", "a - b + 3", True),
    ("42*floor((b + 3)/42) <= a", "42 * (a // 42) - b + 38", True),
    ("6*floor((3 - b)/6) + 6b <= a", "6 * (a // 6) - 5 * b + 2", True),
    ("(a + b) mod 7 >= 1", None, False),
    ("(b - a) mod 3 = 0", None, False),
    ("3*floor(floor(b/2)/5) >= a", "b - 10 * ((a + 2) // 3)", True),
    ("7*floor(a/7) <= b", "b - 7 * (a // 7)", True),
]


@pytest.mark.parametrize(("text", "expected", "exact"), CASES)
def test_solved(text: str, expected: str | None, exact: bool) -> None:
    points = read_set(f"[n] -> {{ [a, b] : {text} }}")
    (convex,) = points.get_basic_sets()
    found = [x.solved("b") for x in constraints(convex, ("a", "b"))]
    assert all(x.exact for x in found) == exact
    kept = [x for x in found if not x.trivial]
    assert (expected in {show(x.form.index()) for x in kept}) == (expected is not None)
    for a, b in itertools.product(range(-9, 10), range(-50, 51)):
        inside = not (points & read_set(f"[n] -> {{ [{a}, {b}] }}")).is_empty()
        said = all(holds_at(x, a, b) for x in found)
        assert said == inside if exact else said or not inside


def holds_at(x: Constraint, a: int, b: int) -> bool:
    return bool(evaluate(x.form.index(), {"a": a, "b": b, "n": 5}) >= 0)
