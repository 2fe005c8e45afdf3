"""Rewrites of index expressions and predicates: the same value, in a form that somebody can use.

`pidsl.language.expr` folds each node as it is made; these look at whole trees. What decides by signs takes every
variable of a plan for what it is, an integer that is not negative.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import gcd
from typing import assert_never

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
    Symbol,
    Truth,
    Var,
    fold,
    simplify,
    substitute_pred,
    vars_in,
)  # fmt: skip

_MIRRORED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "==": "==", "!=": "!="}
_OPPOSITE = {"<": ">=", ">=": "<", ">": "<=", "<=": ">", "==": "!=", "!=": "=="}


def plus(x: Index, constant: Index) -> Index:
    """`x + constant`, simplified."""
    return simplify(Add(x, constant))


def times(x: Index, factor: int) -> Index:
    """`factor * x`, simplified."""
    return simplify(Mul(factor, x))


def div(x: Index, by: int) -> Index:
    """`x // by`, simplified."""
    return simplify(FloorDiv(x, by)) if by > 1 else x


def mod(x: Index, by: int) -> Index:
    """`x % by`, simplified."""
    return simplify(Mod(x, by)) if by > 1 else 0


def plus_one(e: Index) -> Index:
    """`e + 1`, with the constant merged: `x - 1 -> x`, `x + 2 -> x + 3`."""
    match e:
        case Sub(x, int(y)):
            return simplify(Add(x, 1 - y))
        case Min(x, y):
            return Min(plus_one(x), plus_one(y))
        case Max(x, y):
            return Max(plus_one(x), plus_one(y))
        case _:
            return simplify(Add(e, 1))


def total(values: Sequence[Index]) -> Index:
    """The sum; of hundreds it nests a few deep only."""
    if len(values) == 1:
        return values[0]
    half = (len(values) + 1) // 2
    return simplify(Add(total(values[:half]), total(values[half:])))


def greatest(values: Sequence[Index]) -> Index:
    """The maximum of expressions, flat and without repeats."""
    return _picked(Max, values)


def smallest(values: Sequence[Index]) -> Index:
    """The minimum of expressions, flat and without repeats."""
    return _picked(Min, values)


def _picked(pick: type[Max] | type[Min], values: Sequence[Index]) -> Index:
    flat: list[Index] = []

    def add(x: Index) -> None:
        if isinstance(x, pick):
            add(x.left)
            add(x.right)
        elif x not in flat:
            flat.append(x)

    for value in values:
        add(value)
    numbers = [x for x in flat if isinstance(x, int)]
    kept: list[Index] = [x for x in flat if not isinstance(x, int)]
    if numbers:
        kept.insert(0, max(numbers) if pick is Max else min(numbers))
    out = kept[0]
    for x in kept[1:]:
        out = simplify(pick(out, x))
    return out


def non_negative(e: Index) -> bool:
    """Whether `e >= 0` follows from its variables being non-negative; False also means "cannot tell".

    `a + 3 -> True`, `a - b -> False`, `(a - b) % 8 -> True`, `maximum(a - b, 0) -> True`.
    """
    match e:
        case int():
            return e >= 0
        case Var() | Abs():
            return True
        case Add(x, y) | Mul(x, y) | Min(x, y) | FloorDiv(x, y):
            return non_negative(x) and non_negative(y)
        case Mod(_, y):
            return non_negative(y)
        case Max(x, y):
            return non_negative(x) or non_negative(y)
        case Sub() | Symbol():
            return False
        case _:
            assert_never(e)


def settled(p: Pred, values: Mapping[str, Index] | None = None) -> Pred:
    """`p` with `values` put in, constants folded and truths absorbed: none stands under an operator.

    `x & True -> x`, `x | True -> True`, `~True -> False`.
    """
    return substitute_pred(p, values or {})


def any_of(tests: Sequence[Pred]) -> Pred:
    """Whether one of them holds; hundreds of them nest a few deep only."""
    if len(tests) <= 1:
        return tests[0] if tests else Truth(False)
    half = (len(tests) + 1) // 2
    return fold(Or(any_of(tests[:half]), any_of(tests[half:])))


def both(a: Pred | None, b: Pred) -> Pred:
    """`a & b`; None says nothing."""
    return b if a is None else And(a, b)


def negated(p: Pred) -> Pred:
    """The negation of `p` without a `Not`: `not (x < y and z) -> x >= y or not z`."""
    match p:
        case Compare(op, x, y):
            return Compare(_OPPOSITE[op], x, y)
        case And(x, y):
            return Or(negated(x), negated(y))
        case Or(x, y):
            return And(negated(x), negated(y))
        case Not(x):
            return x
        case Truth(value):
            return Truth(not value)
        case _:
            assert_never(p)


def positive(p: Pred) -> Pred:
    """`p` with its negations pushed into the comparisons: `not (x < y) and z -> x >= y and z`."""
    match p:
        case And(x, y) | Or(x, y):
            return type(p)(positive(x), positive(y))
        case Not(x):
            return positive(negated(x))
        case _:
            return p


def tidied(p: Pred) -> Pred:
    """`p` with every sum gathered, i ahead and constants on the right: `(j + 5) - (i + 5) >= -3 -> i - j <= 3`."""
    match p:
        case Compare(op, x, y):
            terms, constant = _linear(Sub(_tidy(x), _tidy(y)))
            if not terms:
                return fold(Compare(op, constant, 0))
            sign = 1 if terms.get(Var("i"), next(iter(terms.values()))) > 0 else -1
            op, right, common = op if sign > 0 else _MIRRORED[op], -sign * constant, gcd(*terms.values())
            if right % common and op in ("==", "!="):  # 2 * i == 7
                return Truth(op == "!=")
            if right % common:  # 2 * i < 7 is i <= 3
                op, right = ("<=", right - (op == "<")) if op in ("<", "<=") else (">=", right + (op == ">"))
                right = right // common if op == "<=" else -(-right // common)
            else:
                right //= common
            return Compare(op, _sum({atom: sign * factor // common for atom, factor in terms.items()}, 0), right)
        case And(x, y) | Or(x, y):
            return fold(type(p)(tidied(x), tidied(y)))
        case Not(x):
            return fold(Not(tidied(x)))
        case _:
            return p


def _tidy(e: Index) -> Index:
    match e:
        case FloorDiv(x, y) | Mod(x, y):
            inside: Index = simplify(type(e)(_tidy(x), _tidy(y)))
        case Min(x, y) | Max(x, y):
            inside = simplify(type(e)(_tidy(x), _tidy(y)))
        case Abs(x):
            inside = simplify(Abs(_tidy(x)))
        case Add(x, y) | Sub(x, y) | Mul(x, y):
            inside = simplify(type(e)(_tidy(x), _tidy(y)))
        case _:
            return e
    return _sum(*_linear(inside))


def reduced(p: Pred) -> Pred:
    """`p` with multiples of divisors taken out: `(256 * j + 3) % 128 -> 3`, `(i + 70) // 64 -> (i + 6) // 64 + 1`."""
    match p:
        case Compare(op, x, y):
            return fold(Compare(op, _reduced(x), _reduced(y)))
        case And(x, y) | Or(x, y):
            return fold(type(p)(reduced(x), reduced(y)))
        case Not(x):
            return fold(Not(reduced(x)))
        case _:
            return p


def _reduced(e: Index) -> Index:
    match e:
        case FloorDiv(x, int(y)) | Mod(x, int(y)) if y > 0:
            terms, constant = _linear(_tidy(_reduced(x)))
            inside = _sum({atom: factor % y for atom, factor in terms.items() if factor % y}, constant % y)
            rest = simplify(type(e)(inside, y))
            if isinstance(e, Mod):
                return rest
            whole = _sum({atom: factor // y for atom, factor in terms.items() if factor // y}, constant // y)
            return simplify(Add(rest, whole))
        case Add(x, y) | Sub(x, y) | Mul(x, y) | FloorDiv(x, y) | Mod(x, y) | Min(x, y) | Max(x, y):
            return simplify(type(e)(_reduced(x), _reduced(y)))
        case Abs(x):
            return simplify(Abs(_reduced(x)))
        case _:
            return e


def separated(p: Pred, keys: frozenset[str]) -> Pred:
    """`p` with every comparison written rows against keys: then a tile costs one comparison per pair.

    `16 * (a - b) + offset > 63 -> 16 * a + offset - 63 > 16 * b`, where `keys = {b, j}`.
    """
    match p:
        case Compare(op, x, y):
            terms, constant = _linear(Sub(x, y))
            right = {atom: -factor for atom, factor in terms.items() if vars_in(atom) and vars_in(atom) <= keys}
            left = {atom: factor for atom, factor in terms.items() if atom not in right}
            if not left or not right:
                return p
            if all(factor < 0 for factor in right.values()):  # -a + 3 >= -b  ->  a - 3 <= b
                op, constant = _MIRRORED[op], -constant
                left, right = ({atom: -factor for atom, factor in side.items()} for side in (left, right))
            return Compare(op, _sum(left, constant), _sum(right, 0))
        case And(x, y) | Or(x, y):
            return type(p)(separated(x, keys), separated(y, keys))
        case Not(x):
            return Not(separated(x, keys))
        case Truth():
            return p
        case _:
            assert_never(p)


def between(p: Pred) -> tuple[Index, tuple[tuple[int, int], ...]] | None:
    """The sum that a predicate is about, and the ranges of numbers in which it may lie; None for other predicates.

    `(a == b + 7) | (a >= b) & (b + 2 >= a) -> a - b, ((7, 7), (0, 2))`
    """
    about: dict[Index, int] | None = None
    ranges: list[tuple[int, int]] = []
    for part in _parts(p, Or):
        least: list[int] = []
        most: list[int] = []
        for test in _parts(part, And):
            if not isinstance(test, Compare) or test.op not in ("==", ">=", "<="):
                return None
            terms, constant = _linear(Sub(test.left, test.right))
            if about is None:
                about = terms if next(iter(terms.values()), 0) > 0 else {x: -factor for x, factor in terms.items()}
            same, mirrored = terms == about, terms == {x: -factor for x, factor in about.items()}
            if not about or not (same or mirrored):
                return None
            if test.op == "==" or (test.op == ">=") == same:
                least.append(-constant if same else constant)
            if test.op == "==" or (test.op == "<=") == same:
                most.append(-constant if same else constant)
        if not least or not most:
            return None
        ranges.append((max(least), min(most)))
    return (_sum(about, 0), tuple(ranges)) if about else None


def opposite(e: Index) -> Index:
    """`-e` as a sum: `b - offset - a -> offset + a - b`."""
    terms, constant = _linear(e)
    return _sum({atom: -factor for atom, factor in terms.items()}, -constant)


def _parts(p: Pred, of: type[And] | type[Or]) -> list[Pred]:
    """The parts of a conjunction or a disjunction, in order."""
    found, left = list[Pred](), [p]
    while left:
        if isinstance(x := left.pop(), of):
            left += [x.right, x.left]
        else:
            found.append(x)
    return found


def _linear(e: Index) -> tuple[dict[Index, int], int]:
    """`e` as a sum of atoms with factors, and a constant."""
    match e:
        case int():
            return {}, e
        case Add(x, y) | Sub(x, y):
            terms, constant = _linear(x)
            others, other = _linear(y)
            sign = 1 if isinstance(e, Add) else -1
            for atom, factor in others.items():
                terms[atom] = terms.get(atom, 0) + sign * factor
            return {atom: factor for atom, factor in terms.items() if factor}, constant + sign * other
        case Mul(x, int(y)) | Mul(int(y), x):
            terms, constant = _linear(x)
            return {atom: y * factor for atom, factor in terms.items() if y}, y * constant
        case _:
            return {e: 1}, 0


def _sum(terms: Mapping[Index, int], constant: int) -> Index:
    """The sum of `factor * atom` and the constant, positive terms first."""
    found: Index | None = None
    for atom, factor in sorted(terms.items(), key=lambda item: item[1] < 0):
        term = simplify(Mul(abs(factor), atom))
        if found is None:
            found = term if factor > 0 else Sub(0, term)
        else:
            found = Add(found, term) if factor > 0 else Sub(found, term)
    return constant if found is None else simplify(Add(found, constant))


def has_scalar(p: Pred, vectors: frozenset[str]) -> bool:
    """Whether `p` compares numbers that do not depend on `vectors`: `(m > 4) & (j < m) -> True` for `vectors = {j}`."""
    match p:
        case Compare():
            return not vars_in(p) & vectors
        case And(x, y) | Or(x, y):
            return has_scalar(x, vectors) or has_scalar(y, vectors)
        case Not(x):
            return has_scalar(x, vectors)
        case Truth():
            return True
        case _:
            assert_never(p)
