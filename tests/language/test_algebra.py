"""Rewrites keep the value, and what is printed is what is meant, in Python and with Triton's division toward zero."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pidsl.codegen.emit_triton.expr import index_source, pred_source
from pidsl.language.algebra import (
    both,
    greatest,
    negated,
    non_negative,
    plus_one,
    positive,
    reduced,
    separated,
    settled,
    smallest,
    total,
)
from pidsl.language.expr import (
    Abs,
    Add,
    And,
    Compare,
    FloorDiv,
    Index,
    Max,
    Min,
    Mod,
    Mul,
    Not,
    Or,
    Pred,
    Sub,
    Truth,
    Var,
    evaluate,
    holds,
    show,
    show_pred,
    simplify,
    walk,
)

A, B = Var("a"), Var("b")
values = st.fixed_dictionaries({"a": st.integers(0, 60), "b": st.integers(0, 60)})


def _binary(inside: st.SearchStrategy[Index]) -> st.SearchStrategy[Index]:
    divisors = st.integers(1, 9)
    return st.one_of(
        st.builds(lambda kind, x, y: simplify(kind(x, y)), st.sampled_from([Add, Sub, Min, Max]), inside, inside),
        st.builds(lambda x, y: simplify(Mul(x, y)), inside, st.integers(-4, 4)),
        st.builds(lambda kind, x, y: simplify(kind(x, y)), st.sampled_from([FloorDiv, Mod]), inside, divisors),
        st.builds(lambda x: simplify(Abs(x)), inside),
    )


indices: st.SearchStrategy[Index] = st.recursive(
    st.one_of(st.sampled_from([A, B]), st.integers(-9, 9)), _binary, max_leaves=6
)
compared = st.builds(Compare, st.sampled_from(["<", "<=", "==", "!=", ">=", ">"]), indices, indices)
preds: st.SearchStrategy[Pred] = st.recursive(
    st.one_of(compared, st.builds(Truth, st.booleans())),
    lambda x: st.one_of(
        st.builds(lambda kind, p, q: kind(p, q), st.sampled_from([And, Or]), x, x), st.builds(Not, x)
    ),
    max_leaves=5,
)  # fmt: skip


class C(int):
    """An integer whose division rounds toward zero, as Triton's."""

    def __floordiv__(self, other: Any) -> C:
        return C(abs(int(self)) // abs(int(other)) * (1 if (self < 0) == (other < 0) else -1))

    def __mod__(self, other: Any) -> C:
        return C(int(self) - int(self // C(other)) * int(other))


for _name in ("add", "sub", "mul", "neg", "abs", "rshift", "and"):

    def _kept(self: C, *others: Any, _name: str = f"__{_name}__") -> C:
        return C(getattr(int, _name)(int(self), *map(int, others)))

    setattr(C, f"__{_name}__", _kept)
    setattr(C, f"__r{_name}__", lambda self, other, _name=f"__{_name}__": C(getattr(int, _name)(int(other), int(self))))


def on_triton(text: str, env: dict[str, int]) -> Any:
    """What a kernel makes of a text."""
    tl = SimpleNamespace(
        abs=lambda x: C(abs(x)), minimum=lambda x, y: C(min(x, y)), maximum=lambda x, y: C(max(x, y))
    )  # fmt: skip
    by_hand = {"_floor_div": lambda x, y: C(int(x) // int(y)), "_floor_mod": lambda x, y: C(int(x) % int(y))}
    return eval(text, {"tl": tl, **by_hand, **{name: C(x) for name, x in env.items()}})


@given(e=indices, env=values)
def test_expressions_are_printed_as_they_are_meant(e: Index, env: dict[str, int]) -> None:
    expected = evaluate(e, env)
    assert eval(show(e), {"minimum": min, "maximum": max, **env}) == expected
    assert on_triton(index_source(e), env) == expected
    assert not non_negative(e) or expected >= 0


@given(p=preds, env=values)
def test_predicates_are_printed_as_they_are_meant(p: Pred, env: dict[str, int]) -> None:
    expected = bool(holds(p, env))
    arrays = {name: np.int64(x) for name, x in env.items()}
    text = show_pred(settled(p))  # with constants inside it may hold `~True`, which is -2
    assert bool(eval(text, {"minimum": np.minimum, "maximum": np.maximum, **arrays})) == expected
    assert bool(on_triton(pred_source(p), env)) == expected


@given(p=preds, q=preds, env=values)
def test_rewrites_of_predicates_keep_the_value(p: Pred, q: Pred, env: dict[str, int]) -> None:
    expected = bool(holds(p, env))
    assert bool(holds(settled(p), env)) == bool(holds(positive(p), env)) == expected
    assert bool(holds(reduced(p), env)) == expected
    assert bool(holds(separated(p, frozenset("b")), env)) == expected
    assert bool(holds(settled(p, {"a": env["a"]}), env)) == expected
    assert bool(holds(negated(p), env)) != expected
    assert bool(holds(both(p, q), env)) == (expected and bool(holds(q, env)))
    assert not any(isinstance(x, Truth) for x in walk(settled(p))) or isinstance(settled(p), Truth)
    assert not any(isinstance(x, Not) for x in walk(positive(p)))


@given(found=st.lists(indices, min_size=1, max_size=6), env=values)
def test_rewrites_of_expressions_keep_the_value(found: list[Index], env: dict[str, int]) -> None:
    numbers = [evaluate(e, env) for e in found]
    assert evaluate(total(found), env) == sum(numbers)
    assert evaluate(greatest(found), env) == max(numbers)
    assert evaluate(smallest(found), env) == min(numbers)
    assert [evaluate(plus_one(e), env) for e in found] == [x + 1 for x in numbers]


def test_no_constant_stays_under_an_operator() -> None:
    p, never = Compare("<=", A, B), Compare("<", 4, 3)
    assert settled(Not(Truth(True))) == Truth(False)
    assert settled(And(Truth(True), Or(p, never))) == p
    assert settled(Or(p, Not(Truth(False)))) == Truth(True)
    assert settled(And(p, never)) == Truth(False)
