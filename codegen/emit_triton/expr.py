"""Index expressions and predicates as Triton source.

Triton's `//` and `%` round toward zero. Every variable of a plan is a non-negative integer, so a sign analysis shows
most operands non-negative, and there the plain operator is right. Elsewhere a power of two becomes a shift or a bit
mask (in two's complement both round down) and the rest calls `_floor_div` or `_floor_mod`.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from math import ceil
from typing import assert_never

from pidsl.errors import SymbolError
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
)

Rational = int | Fraction  # an int where it is one: sums of those take a tenth of the time
Limits = Mapping[str, tuple[int, Rational]]

ATOM, _UNARY, _TIMES, _PLUS, _SHIFT, _BITAND, _BITOR, _COMPARE = 8, 7, 6, 5, 4, 3, 2, 1
_MIRRORED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "==": "==", "!=": "!="}
_OPPOSITE = {"<": ">=", ">=": "<", ">": "<=", "<=": ">", "==": "!=", "!=": "=="}


def non_negative(e: Index) -> bool:
    """Whether `e >= 0` follows from its variables being non-negative; False also means "cannot tell".

    `a + 3 -> True`, `a - b -> False`, `(a - b) % 8 -> True`, `maximum(a - b, 0) -> True`.
    """
    match e:
        case int():
            return e >= 0
        case Var() | Abs():
            return True
        case Add(x, y) | Mul(x, y) | Min(x, y):
            return non_negative(x) and non_negative(y)
        case FloorDiv(x, y):
            return non_negative(x) and non_negative(y)
        case Mod(_, y):
            return non_negative(y)
        case Max(x, y):
            return non_negative(x) or non_negative(y)
        case Sub() | Symbol():
            return False
        case _:
            assert_never(e)


def index_source(e: Index, level: int = 0) -> str:
    """`e` as Triton source, put in parentheses when its place binds more tightly than `level`."""
    match e:
        case int():
            text, own = str(e), ATOM if e >= 0 else _UNARY
        case Var(name):
            return name
        case Abs(x):
            return f"tl.abs({index_source(x)})"
        case Min(x, y):
            return f"tl.minimum({index_source(x)}, {index_source(y)})"
        case Max(x, y):
            return f"tl.maximum({index_source(x)}, {index_source(y)})"
        case Add(x, y):
            text, own = f"{index_source(x, _PLUS)} + {index_source(y, _TIMES)}", _PLUS
        case Sub(x, y):
            text, own = f"{index_source(x, _PLUS)} - {index_source(y, _TIMES)}", _PLUS
        case Mul(x, y):
            text, own = f"{index_source(x, _TIMES)} * {index_source(y, _UNARY)}", _TIMES
        case FloorDiv(x, y) if non_negative(x) and non_negative(y):
            text, own = f"{index_source(x, _TIMES)} // {index_source(y, _UNARY)}", _TIMES
        case Mod(x, y) if non_negative(x) and non_negative(y):
            text, own = f"{index_source(x, _TIMES)} % {index_source(y, _UNARY)}", _TIMES
        case FloorDiv(x, int(y)) if _power_of_two(y):
            text, own = f"{index_source(x, ATOM)} >> {y.bit_length() - 1}", _SHIFT
        case Mod(x, int(y)) if _power_of_two(y):
            text, own = f"{index_source(x, ATOM)} & {y - 1}", _BITAND
        case FloorDiv(x, y):
            return f"_floor_div({index_source(x)}, {index_source(y)})"
        case Mod(x, y):
            return f"_floor_mod({index_source(x)}, {index_source(y)})"
        case Symbol(name):
            raise SymbolError(f"the symbol {name} in a plan", "numbers", hint=f"term.bind({name}=...) before compiling")
        case _:
            assert_never(e)
    return f"({text})" if own < level else text


def pred_source(p: Pred, level: int = 0) -> str:
    """`p` as Triton source. Negations are pushed into the comparisons, so none is left to print."""
    match p:
        case Compare(op, x, y):
            text, own = f"{index_source(x, _BITOR)} {op} {index_source(y, _BITOR)}", _COMPARE
        case And(x, y):
            text, own = f"{pred_source(x, _BITAND)} & {pred_source(y, _BITAND + 1)}", _BITAND
        case Or(x, y):
            text, own = f"{pred_source(x, _BITOR)} | {pred_source(y, _BITOR + 1)}", _BITOR
        case Not(x):
            return pred_source(negated(x), level)
        case Truth(value):
            return str(value)
        case _:
            assert_never(p)
    return f"({text})" if own < level else text


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


def settled(p: Pred, values: Mapping[str, Index] | None = None) -> Pred:
    """`p` with `values` put in, constants folded and truths absorbed: `x & True -> x`, `x | True -> True`."""
    match substitute_pred(p, values) if values else p:
        case Compare() as q:
            return fold(q)
        case And(x, y):
            return fold(And(settled(x), settled(y)))
        case Or(x, y):
            return fold(Or(settled(x), settled(y)))
        case Not(x):
            return settled(negated(x))
        case q:
            return q


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
    total: Index | None = None
    for atom, factor in sorted(terms.items(), key=lambda item: item[1] < 0):
        term = simplify(Mul(abs(factor), atom))
        if total is None:
            total = term if factor > 0 else Sub(0, term)
        else:
            total = Add(total, term) if factor > 0 else Sub(total, term)
    return constant if total is None else simplify(Add(total, constant))


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


def _power_of_two(x: int) -> bool:
    return x > 0 and x & (x - 1) == 0


class Reach:
    """How large the integers of a program can get: `constant + slope * longest` bounds every intermediate value.

    `longest` bounds n, m and the offsets. The launch uses this to prove that 32-bit arithmetic is exact.
    """

    def __init__(self) -> None:
        self._constant: Rational = 0
        self._slope: Rational = 1

    @property
    def bound(self) -> tuple[int, int]:
        """`(constant, slope)`, rounded up."""
        return ceil(self._constant), ceil(self._slope)

    def add(self, *roots: Index | Pred | None, limits: Limits) -> None:
        """Take every number that computing `roots` meets into account.

        Args:
            roots: what a program computes.
            limits: for variables that stay below `constant + slope * longest`, that pair; other variables stay
                below `longest`.
        """
        for root in roots:
            match root:
                case Compare(_, x, y):
                    self._visit(x, limits)
                    self._visit(y, limits)
                case And(x, y) | Or(x, y):
                    self.add(x, y, limits=limits)
                case Not(x):
                    self.add(x, limits=limits)
                case Truth() | None:
                    pass
                case _:
                    self._visit(root, limits)

    def _visit(self, e: Index, limits: Limits) -> tuple[Rational, Rational]:
        constant, slope = self._size(e, limits)
        if constant > self._constant:
            self._constant = constant
        if slope > self._slope:
            self._slope = slope
        return constant, slope

    def _size(self, e: Index, limits: Limits) -> tuple[Rational, Rational]:
        match e:
            case int():
                return abs(e), 0
            case Var(name) | Symbol(name):
                return limits.get(name, (0, 1))
            case Abs(x):
                return self._visit(x, limits)
            case Add(x, y) | Sub(x, y):
                (c0, s0), (c1, s1) = self._visit(x, limits), self._visit(y, limits)
                return c0 + c1, s0 + s1
            case Mul(x, int(y)) | Mul(int(y), x):
                c0, s0 = self._visit(x, limits)
                return _ratio(c0 * abs(y), 1), _ratio(s0 * abs(y), 1)
            case Mul(x, y):  # not linear: no length is proved to fit
                self.add(x, y, limits=limits)
                return 2**31, 0
            case FloorDiv(x, int(y)):
                c0, s0 = self._visit(x, limits)
                return _ratio(c0, abs(y)) + 1, _ratio(s0, abs(y))
            case Mod(x, int(y)):
                self._visit(x, limits)
                return abs(y), 0
            case FloorDiv(x, y) | Mod(x, y) | Min(x, y) | Max(x, y):
                (c0, s0), (c1, s1) = self._visit(x, limits), self._visit(y, limits)
                return max(c0, c1), max(s0, s1)
            case _:
                assert_never(e)


def _ratio(x: Rational, y: int) -> Rational:
    if isinstance(x, int) and x % y == 0:
        return x // y
    exact = Fraction(x, y)
    return exact.numerator if exact.denominator == 1 else exact
