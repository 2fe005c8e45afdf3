"""Integer expressions and predicates over positions: what sizes, `where` and tile bounds are made of.

    Index ::= int | Expr
    Expr  ::= Var(name) | Symbol(name) | Add(Index, Index) | Sub(Index, Index) | Mul(Index, Index)
            | FloorDiv(Index, Index) | Mod(Index, Index) | Abs(Index) | Min(Index, Index) | Max(Index, Index)
    Pred  ::= Compare(op, Index, Index) | And(Pred, Pred) | Or(Pred, Pred) | Not(Pred) | Truth(bool)

`//` and `%` round toward minus infinity, as in Python. A `Var` is a position or a length that a program knows
when it runs (i, j, n, m, ...); a `Symbol` is a number the user has left open and `bind` fills in. Nodes are plain
values: `==` compares structure. The functions at the end evaluate, substitute and print; they are the only
place that walks these trees in general.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn, assert_never, cast

from pidsl.errors import TermError
from pidsl.language.trees import Tree, shallow

__all__ = [
    "DEEPEST",
    "Abs",
    "Add",
    "And",
    "Compare",
    "Expr",
    "FloorDiv",
    "Index",
    "Max",
    "Min",
    "Mod",
    "Mul",
    "Not",
    "Or",
    "Pred",
    "Sub",
    "Symbol",
    "Traced",
    "Truth",
    "Var",
    "evaluate",
    "fold",
    "holds",
    "joint",
    "show",
    "show_pred",
    "simplify",
    "substitute",
    "substitute_pred",
    "symbols_in",
    "vars_in",
    "whole",
]  # fmt: skip


class Traced:
    """Base of the stand-ins that `where` calls a predicate with: what happens to them is theirs to record."""

    __slots__ = ()


class Arithmetic(Tree):
    """`+ - * // %` on sizes: `2 * k + 1` builds an expression (and plain integers fold)."""

    __slots__ = ()
    __array_ufunc__ = None  # a NumPy integer on the left leaves the operation to us

    def __add__(self, other: Index) -> Index:
        return _build(Add, self, other)

    def __radd__(self, other: Index) -> Index:
        return _build(Add, other, self)

    def __sub__(self, other: Index) -> Index:
        return _build(Sub, self, other)

    def __rsub__(self, other: Index) -> Index:
        return _build(Sub, other, self)

    def __mul__(self, other: Index) -> Index:
        return _build(Mul, self, other)

    def __rmul__(self, other: Index) -> Index:
        return _build(Mul, other, self)

    def __floordiv__(self, other: Index) -> Index:
        return _build(FloorDiv, self, other)

    def __rfloordiv__(self, other: Index) -> Index:
        return _build(FloorDiv, other, self)

    def __mod__(self, other: Index) -> Index:
        return _build(Mod, self, other)

    def __rmod__(self, other: Index) -> Index:
        return _build(Mod, other, self)

    def __neg__(self) -> Index:
        return _build(Sub, 0, self)

    def __truediv__(self, other: object) -> NoReturn:
        raise TermError(f"{self!r} / {other!r}", "whole numbers", hint=f"{self!r} // {other!r}")

    def __pow__(self, other: object) -> NoReturn:
        raise TermError(f"{self!r} ** {other!r}", "+, -, *, // and %", hint=f"{self!r} * {self!r}")

    def __lt__(self, other: object) -> bool:
        return self._unordered("<", other)

    def __le__(self, other: object) -> bool:
        return self._unordered("<=", other)

    def __gt__(self, other: object) -> bool:
        return self._unordered(">", other)

    def __ge__(self, other: object) -> bool:
        return self._unordered(">=", other)

    def _unordered(self, op: str, other: object) -> bool:
        """A position on the other side records the comparison; a number has nothing to compare with."""
        if isinstance(other, Traced):
            return cast(bool, NotImplemented)
        hint = f'assume="{self!r} {op} {other!r}" in a question, or term.bind(...) first'
        raise TermError(f"{self!r} {op} {other!r}", "an open size has no value yet", hint=hint)

    def __repr__(self) -> str:
        return show(cast(Index, self))


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Var(Arithmetic):
    name: str


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Symbol(Arithmetic):
    """A size the user has left open; `term.bind(k=64)` fills it in."""

    name: str


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Add(Arithmetic):
    left: Index
    right: Index


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Sub(Arithmetic):
    left: Index
    right: Index


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Mul(Arithmetic):
    left: Index
    right: Index


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class FloorDiv(Arithmetic):
    left: Index
    right: Index


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Mod(Arithmetic):
    left: Index
    right: Index


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Abs(Arithmetic):
    of: Index


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Min(Arithmetic):
    left: Index
    right: Index


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Max(Arithmetic):
    left: Index
    right: Index


Expr = Var | Symbol | Add | Sub | Mul | FloorDiv | Mod | Abs | Min | Max
Index = int | Expr


@dataclass(frozen=True, slots=True, eq=False)
class Compare(Tree):
    op: str  # one of < <= == != > >=
    left: Index
    right: Index


@dataclass(frozen=True, slots=True, eq=False)
class And(Tree):
    left: Pred
    right: Pred


@dataclass(frozen=True, slots=True, eq=False)
class Or(Tree):
    left: Pred
    right: Pred


@dataclass(frozen=True, slots=True, eq=False)
class Not(Tree):
    of: Pred


@dataclass(frozen=True, slots=True, eq=False)
class Truth(Tree):
    value: bool


Pred = Compare | And | Or | Not | Truth

DEEPEST = 200  # operations inside one another; the functions that compute with expressions recurse

COMPARISONS: Mapping[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt, "<=": operator.le, "==": operator.eq, "!=": operator.ne, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


def _build(node: type[Add | Sub | Mul | FloorDiv | Mod], left: object, right: object) -> Index:
    """The operation, folded where it can be; NotImplemented (as Python wants it) beside a traced position."""
    if isinstance(left, Traced) or isinstance(right, Traced):
        return cast(Index, NotImplemented)
    return simplify(node(_index(left), _index(right)))


def _index(value: object) -> Index:
    if isinstance(value, Expr):
        return value
    if (number := whole(value)) is None:
        raise TermError(f"{value!r} in a size expression", "integers and symbols", hint="write whole numbers")
    return number


def whole(value: object) -> int | None:
    """An integer of Python, NumPy or torch as an int; None for anything else, truth values too."""
    if type(value) is int:
        return value
    if isinstance(value, bool) or str(getattr(value, "dtype", "")) in ("bool", "torch.bool"):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):  # an array, a fraction, a symbol of another library
        return None


def simplify(e: Index) -> Index:
    """Fold constants at the root of `e`; operands are assumed folded already.

    `Add(2, 3) -> 5`, `Add(x, 0) -> x`, `Mul(1, x) -> x`, `FloorDiv(x, 1) -> x`.

    Raises:
        TermError: a division by zero.
    """
    rules = _SIMPLIFY.get(type(e))
    return e if rules is None else rules(e)


def _simplify_sum(e: Add) -> Index:
    match e.left, e.right:
        case int(a), int(b):
            return a + b
        case (x, 0) | (0, x):
            return x
        case Add(x, int(a)), int(b):
            return simplify(Add(x, a + b))
        case Sub(0, x), int(b):
            return Sub(b, x)
        case x, int(b) if b < 0:
            return Sub(x, -b)
    return e


def _simplify_difference(e: Sub) -> Index:
    match e.left, e.right:
        case int(a), int(b):
            return a - b
        case x, 0:
            return x
    return e


def _simplify_product(e: Mul) -> Index:
    match e.left, e.right:
        case int(a), int(b):
            return a * b
        case (_, 0) | (0, _):
            return 0
        case (x, 1) | (1, x):
            return x
    return e


def _simplify_division(e: FloorDiv | Mod) -> Index:
    quotient = isinstance(e, FloorDiv)
    match e.left, e.right:
        case x, 1:
            return x if quotient else 0
        case _, 0:
            raise TermError(f"{show(e)} divides by zero", "a divisor that is not 0")
        case int(a), int(b):
            return a // b if quotient else a % b
    return e


def _simplify_choice(e: Abs | Min | Max) -> Index:
    match e:
        case Abs(int(a)):
            return abs(a)
        case Min(int(a), int(b)):
            return min(a, b)
        case Max(int(a), int(b)):
            return max(a, b)
    return e


# By kind of node: trying every rule on every node took a tenth of the time from a term to its source.
_SIMPLIFY: Mapping[type, Callable[[Any], Index]] = {
    Add: _simplify_sum, Sub: _simplify_difference, Mul: _simplify_product, FloorDiv: _simplify_division,
    Mod: _simplify_division, Abs: _simplify_choice, Min: _simplify_choice, Max: _simplify_choice,
}  # fmt: skip


def fold(p: Pred) -> Pred:
    """Fold constants at the root of `p`; operands are assumed folded already.

    `Compare(<, 1, 2) -> Truth(True)`, `And(x, Truth(True)) -> x`, `Not(Not(x)) -> x`.
    """
    match p:
        case Compare(op, int(a), int(b)):
            return Truth(bool(COMPARISONS[op](a, b)))
        case Compare(op, a, b) if a == b and not symbols_in(a):
            return Truth(op in ("==", "<=", ">="))
        case And(Truth(value), x) | And(x, Truth(value)):
            return x if value else Truth(False)
        case Or(Truth(value), x) | Or(x, Truth(value)):
            return Truth(True) if value else x
        case Not(Truth(value)):
            return Truth(not value)
        case Not(Not(x)):
            return x
        case _:
            return p


def joint(kind: type[And | Or], a: Pred, b: Pred) -> Pred:
    """`a & b` or `a | b`, folded; of many parts, in groups that keep it shallow."""
    p = fold(kind(a, b))
    return shallow(p) if isinstance(p, And | Or) else p


def _children(e: Index | Pred) -> tuple[Any, ...]:
    match e:
        case int() | Var():
            return ()
        case Compare() | Add() | Sub() | Mul() | FloorDiv() | Mod() | Min() | Max() | And() | Or():
            return (e.left, e.right)
        case Abs() | Not():
            return (e.of,)
        case Symbol() | Truth():
            return ()
        case _:
            assert_never(e)


def walk(e: Index | Pred) -> Iterator[Index | Pred]:
    """`e` and everything below it."""
    rest: list[Index | Pred] = [e]
    while rest:
        yield (x := rest.pop())
        rest.extend(reversed(_children(x)))


def symbols_in(e: Index | Pred) -> frozenset[str]:
    """Names of the symbols in `e`."""
    return frozenset(x.name for x in walk(e) if isinstance(x, Symbol))


def vars_in(e: Index | Pred) -> frozenset[str]:
    """Names of the positions and lengths in `e`."""
    return frozenset(x.name for x in walk(e) if isinstance(x, Var))


def substitute(e: Index, values: Mapping[str, Index]) -> Index:
    """`e` with the Vars and Symbols named in `values` replaced."""
    match e:
        case int():
            return e
        case Var(name) | Symbol(name):
            return values.get(name, e)
        case Abs(of):
            return simplify(Abs(substitute(of, values)))
        case Add() | Sub() | Mul() | FloorDiv() | Mod() | Min() | Max():
            a, b = substitute(e.left, values), substitute(e.right, values)
            return e if a is e.left and b is e.right else simplify(type(e)(a, b))
        case _:
            assert_never(e)


def substitute_pred(p: Pred, values: Mapping[str, Index]) -> Pred:
    """`p` with the Vars and Symbols named in `values` replaced."""
    match p:
        case Compare(op, a, b):
            return fold(Compare(op, substitute(a, values), substitute(b, values)))
        case And(a, b) | Or(a, b):
            return joint(type(p), substitute_pred(a, values), substitute_pred(b, values))
        case Not(of):
            return fold(Not(substitute_pred(of, values)))
        case Truth():
            return p
        case _:
            assert_never(p)


def evaluate(e: Index, env: Mapping[str, Any]) -> Any:
    """The value of `e`; `env` gives ints, NumPy arrays or torch tensors for the names in it."""
    match e:
        case int():
            return e
        case Var(name) | Symbol(name):
            return env[name]
        case Add(a, b):
            return evaluate(a, env) + evaluate(b, env)
        case Sub(a, b):
            return evaluate(a, env) - evaluate(b, env)
        case Mul(a, b):
            return evaluate(a, env) * evaluate(b, env)
        case FloorDiv(a, b):
            return evaluate(a, env) // evaluate(b, env)
        case Mod(a, b):
            return evaluate(a, env) % evaluate(b, env)
        case Abs(of):
            return abs(evaluate(of, env))
        case Min(a, b):
            x, y = evaluate(a, env), evaluate(b, env)
            return min(x, y) if isinstance(x, int) and isinstance(y, int) else x + (y - x) * (y < x)
        case Max(a, b):
            x, y = evaluate(a, env), evaluate(b, env)
            return max(x, y) if isinstance(x, int) and isinstance(y, int) else x + (y - x) * (y > x)
        case _:
            assert_never(e)


def largest(e: Index | Pred, far: int) -> int:
    """No number on the way to the value of `e` is larger in magnitude, if none that a name stands for is above `far`.

    Decides where 64 bits do.
    """
    met = [0]

    def of(e: Index) -> int:
        match e:
            case int():
                found = abs(e)
            case Var() | Symbol():
                found = far
            case Abs(a) | FloorDiv(a, _):
                found = of(a)
            case Mod(a, b):
                found = of(b)
                met.append(of(a))
            case Add(a, b) | Sub(a, b):
                found = of(a) + of(b)
            case Mul(a, b):
                found = of(a) * of(b)
            case Min(a, b) | Max(a, b):  # evaluated as a + (b - a) * (b < a)
                found = max(of(a), of(b))
                met.append(3 * found)
            case _:
                assert_never(e)
        met.append(found)
        return found

    for part in walk(e):
        if isinstance(part, Compare):
            of(Sub(part.left, part.right))
    if isinstance(e, Index):
        of(e)
    return max(met)


def holds(p: Pred, env: Mapping[str, Any]) -> Any:
    """Whether `p` is true, elementwise where `env` holds arrays."""
    match p:
        case Compare(op, a, b):
            return COMPARISONS[op](evaluate(a, env), evaluate(b, env))
        case And(a, b):
            return holds(a, env) & holds(b, env)
        case Or(a, b):
            return holds(a, env) | holds(b, env)
        case Not(of):
            value = holds(of, env)
            return not value if isinstance(value, bool) else ~value
        case Truth(value):
            return value
        case _:
            assert_never(p)


# How tightly operators bind; an operand is put in parentheses when it binds less tightly than its place needs.
ATOM, UNARY, TIMES, PLUS, SHIFT, BITAND, BITOR, COMPARE = 8, 7, 6, 5, 4, 3, 2, 1


class Operator(NamedTuple):
    """What stands between two operands, how tightly it binds, and how tightly each of them must."""

    symbol: str
    level: int
    left: int
    right: int


OPERATORS: Mapping[type, Operator] = {
    Add: Operator("+", PLUS, PLUS, TIMES), Sub: Operator("-", PLUS, PLUS, TIMES),
    Mul: Operator("*", TIMES, TIMES, UNARY), FloorDiv: Operator("//", TIMES, TIMES, UNARY),
    Mod: Operator("%", TIMES, TIMES, UNARY),
    And: Operator("&", BITAND, BITAND, SHIFT), Or: Operator("|", BITOR, BITOR, BITAND),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a language writes expressions: its functions, and where asked, its own operators.

    Args:
        functions: the names of `abs`, `minimum` and `maximum`.
        division: the operator (or function) and the operands of a `//` or `%`; None: as in Python.
        symbol: an open size.
    """

    functions: Mapping[type, str]
    division: Callable[[FloorDiv | Mod], tuple[Operator | str, Index, Index] | None] = lambda e: None
    symbol: Callable[[str], str] = lambda name: name


PYTHON = Dialect({Abs: "abs", Min: "minimum", Max: "maximum"})


def show(e: Index, level: int = 0, dialect: Dialect = PYTHON) -> str:
    """`e` as source, with the fewest parentheses."""
    match e:
        case int():
            return str(e) if e >= 0 or level <= UNARY else f"({e})"
        case Var(name):
            return name
        case Symbol(name):
            return dialect.symbol(name)
        case Abs(of):
            return f"{dialect.functions[Abs]}({show(of, 0, dialect)})"
        case Min(a, b) | Max(a, b):
            operator: Operator | str = dialect.functions[type(e)]
        case FloorDiv(a, b) | Mod(a, b):
            operator, a, b = dialect.division(e) or (OPERATORS[type(e)], a, b)
        case Add(a, b) | Sub(a, b) | Mul(a, b):
            operator = OPERATORS[type(e)]
        case _:
            assert_never(e)
    if isinstance(operator, str):
        return f"{operator}({show(a, 0, dialect)}, {show(b, 0, dialect)})"
    text = f"{show(a, operator.left, dialect)} {operator.symbol} {show(b, operator.right, dialect)}"
    return f"({text})" if operator.level < level else text


def show_pred(p: Pred, level: int = 0, dialect: Dialect = PYTHON) -> str:
    """`p` as source (`&`, `|`, `~` with the parentheses that Python's precedence asks for)."""
    match p:
        case Compare(op, a, b):
            text, own = f"{show(a, BITOR, dialect)} {op} {show(b, BITOR, dialect)}", COMPARE
        case And(a, b) | Or(a, b):
            symbol, own, left, right = OPERATORS[type(p)]
            text = f"{show_pred(a, left, dialect)} {symbol} {show_pred(b, right, dialect)}"
        case Not(of):
            text, own = f"~{show_pred(of, UNARY, dialect)}", UNARY
        case Truth(value):
            return str(value)
        case _:
            assert_never(p)
    return f"({text})" if own < level else text
