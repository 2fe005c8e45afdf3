"""What a traced mask computes with: truth values and numbers of one query and one key, and tables of them.

Truth value   a `Pred` of pidsl.language.expr
Number        cases (Pred, Ratio), of which one holds; Ratio = expression / whole number
Column        a name in these expressions: a table over the queries, the keys or both, known for n and m only
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pidsl.language.expr import (
    COMPARISONS,
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
    fold,
    holds,
    joint,
    simplify,
    vars_in,
)  # fmt: skip

MOST_CASES = 64
INFINITE = 1 << 200  # beyond whatever it is compared with
ENDLESS = 1 << 90
DYADIC = 20  # binary digits behind the point of numbers in a table


class Unreadable(Exception):
    """What a mask computes, and no term says; with what to do instead."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.what, self.hint = what, hint


@dataclass(frozen=True)
class Ratio:
    """`top / below`."""

    top: Index
    below: int = 1


Cases = tuple[tuple[Pred, Ratio], ...]
Node = Pred | Cases


@dataclass(frozen=True)
class Column:
    """A table over "i", "j" or both: values [n], [m] or [n, m], whole numbers where `whole`."""

    axes: str
    values: NDArray[Any]

    @property
    def whole(self) -> bool:
        """Whether it has whole numbers."""
        return self.values.dtype.kind == "i"


@dataclass
class Columns:
    """The tables of a mask, by the names that stand for them in expressions; and the lengths they are for."""

    n: int | None
    m: int | None
    by_name: dict[str, Column] = field(default_factory=dict)
    bounded: bool = False  # whether anything was taken from the lengths
    written: bool = False  # whether tables of coordinates are written as arithmetic

    @property
    def width(self) -> int:
        """Bits of a position."""
        if self.n is None or self.m is None:
            return 31
        self.bounded = True
        return (max(self.n, self.m) - 1).bit_length()

    def axes(self, e: Index | Pred) -> frozenset[str]:
        """Which of "i" and "j" an expression depends on."""
        found: set[str] = set()
        for name in vars_in(e):
            found |= set(self.by_name[name].axes) if name in self.by_name else {name}
        return frozenset(found)

    def real(self, node: Node) -> bool:
        """Whether numbers of a table are in it that are not whole: rules for whole numbers do not hold of them."""
        parts = [e for case in node for e in (case[0], case[1].top)] if isinstance(node, tuple) else [node]
        return any(not self.by_name[name].whole for e in parts for name in self.tables(e))

    def tables(self, e: Index | Pred) -> list[str]:
        """The names of the tables in an expression."""
        return sorted(vars_in(e) & self.by_name.keys())

    def environment(self, axes: str) -> dict[str, Any]:
        """What the names stand for: over axes "ij" arrays of the shapes [n, 1], [1, m] and [n, m]."""
        n, m = self.n, self.m
        if ("i" in axes and n is None) or ("j" in axes and m is None):
            raise Unreadable("what it reads from a table is known for some lengths only", "from_flex(mask_mod, n=...)")
        both, self.bounded = axes == "ij", True

        def placed(own: str, values: Any) -> Any:
            return values if not both or own == "ij" else values[:, None] if own == "i" else values[None, :]

        lengths = {"i": n or 0, "j": m or 0}
        env = {axis: placed(axis, np.arange(lengths[axis])) for axis in axes}
        for name, column in self.by_name.items():
            if set(column.axes) <= set(axes):
                env[name] = placed(column.axes, column.values)
        return env

    def values(self, node: Node, axes: str) -> NDArray[Any]:
        """A truth value or number over axes, as an array."""
        env = self.environment(axes)
        shape = np.broadcast_shapes(*(np.shape(x) for x in env.values()))
        if isinstance(node, tuple):
            out: NDArray[Any] = np.zeros(shape, dtype=np.float64 if any(x.below != 1 for _, x in node) else np.int64)
            for guard, ratio in node:
                value = evaluate(ratio.top, env)
                value = value if ratio.below == 1 else value / ratio.below
                out = np.where(np.asarray(holds(guard, env), dtype=bool), value, out)
            return np.broadcast_to(out, shape)
        return np.broadcast_to(np.asarray(holds(node, env), dtype=bool), shape)

    def add(self, axes: str, values: NDArray[Any]) -> Node:
        """A table of truth values or numbers as a node."""
        if values.size and (values == values.flat[0]).all():
            return Truth(bool(values.flat[0])) if values.dtype == bool else number(values.flat[0].item())
        if values.dtype == bool:
            name = self._named(axes, values.astype(np.int64))
            return Compare("!=", Var(name), 0)
        below = 1
        if values.dtype.kind == "f":
            if np.isnan(values).any():
                raise Unreadable("a table with numbers that are none")
            finite = bool(np.isfinite(values).all())
            below = next((1 << k for k in range(DYADIC + 1) if finite and (values * (1 << k) % 1 == 0).all()), 0)
            if not below:
                return ((Truth(True), Ratio(Var(self._named(axes, values.astype(np.float64))))),)
            values = values * below
        values = values.astype(np.int64)
        if self.written and len(axes) == 1 and (e := _arithmetic(axes, values)) is not None:
            self.bounded = True
            return ((Truth(True), Ratio(e, below)),)
        return ((Truth(True), Ratio(Var(self._named(axes, values)), below)),)

    def _named(self, axes: str, values: NDArray[Any]) -> str:
        for name, column in self.by_name.items():
            if column.axes == axes and np.array_equal(column.values, values):
                return name
        name = f"{axes}{len(self.by_name)}"
        self.by_name[name] = Column(axes, values)
        return name


def _arithmetic(axis: str, values: NDArray[np.int64]) -> Index | None:
    """`first + axis // step % period`, where a table is that: the coordinates of a grid."""
    steps = np.diff(values)
    up, down = np.flatnonzero(steps == 1), np.flatnonzero(steps < 0)
    if not len(up):
        return None
    step = int(up[0]) + 1
    e = simplify(FloorDiv(Var(axis), step))
    if len(down):
        e = simplify(Mod(e, max((int(down[0]) + 1) // step, 1)))
    e = simplify(Add(e, int(values[0])))
    return e if np.array_equal(evaluate(e, {axis: np.arange(len(values))}), values) else None


def number(value: float | bool) -> Cases:
    """A constant."""
    if value in (float("inf"), float("-inf")):
        value = INFINITE if value > 0 else -INFINITE
    if value != value:
        raise Unreadable(f"{value}", "a bound that is a whole number")
    exact = Fraction(str(value)) if isinstance(value, float) else Fraction(value)  # 0.3 is 3 / 10
    return ((Truth(True), Ratio(exact.numerator, exact.denominator)),)


def truth(x: Node) -> Pred:
    """As a truth value: a number is true where it is not 0."""
    if not isinstance(x, tuple):
        return x
    return _any(joint(And, guard, fold(Compare("!=", ratio.top, 0))) for guard, ratio in x)


def numeric(x: Node) -> Cases:
    """As a number: 1 where it is true, else 0."""
    if isinstance(x, tuple):
        return x
    return _cases([(x, Ratio(1)), (fold(Not(x)), Ratio(0))])


def _any(parts: Any) -> Pred:
    found: Pred = Truth(False)
    for part in parts:
        found = joint(Or, found, part)
    return found


def _cases(cases: Any) -> Cases:
    found = tuple((guard, ratio) for guard, ratio in cases if guard != Truth(False))
    if len(found) > MOST_CASES:
        raise Unreadable("a number with too many cases")
    return found


def choose(condition: Node, a: Node, b: Node) -> Node:
    """`where(condition, a, b)`."""
    test = truth(condition)
    if not isinstance(a, tuple) and not isinstance(b, tuple):
        return joint(Or, joint(And, test, a), joint(And, fold(Not(test)), b))
    first = [(joint(And, test, guard), x) for guard, x in numeric(a)]
    return _cases([*first, *((joint(And, fold(Not(test)), guard), x) for guard, x in numeric(b))])


def pairwise(f: Callable[[Ratio, Ratio], Ratio]) -> Callable[[Node, Node], Cases]:
    """A function of numbers, for numbers with cases."""

    def of(a: Node, b: Node) -> Cases:
        return _cases([(joint(And, g, h), f(x, y)) for g, x in numeric(a) for h, y in numeric(b)])

    return of


def single(f: Callable[[Ratio], Ratio]) -> Callable[[Node], Cases]:
    """The same of one number."""

    def of(a: Node) -> Cases:
        return _cases([(guard, f(x)) for guard, x in numeric(a)])

    return of


def compared(op: str) -> Callable[[Node, Node], Pred]:
    """A comparison of numbers or truth values."""

    def of(a: Node, b: Node) -> Pred:
        if not isinstance(a, tuple) and not isinstance(b, tuple) and op in ("==", "!="):
            differ = joint(Or, joint(And, a, fold(Not(b))), joint(And, fold(Not(a)), b))
            return differ if op == "!=" else fold(Not(differ))
        parts = []
        for g, x in numeric(a):
            for h, y in numeric(b):
                left, right = _times(x.top, y.below), _times(y.top, x.below)
                parts.append(joint(And, joint(And, g, h), _compare(op, left, right)))
        return _any(parts)

    return of


def _compare(op: str, left: Index, right: Index) -> Pred:
    if any(isinstance(x, int) and abs(x) >= ENDLESS for x in (left, right)):  # beside it, positions are nothing
        left, right = (x if isinstance(x, int) else 0 for x in (left, right))
    if isinstance(left, int) and isinstance(right, int):
        return Truth(bool(COMPARISONS[op](left, right)))
    return fold(Compare(op, left, right))


def _times(a: Index, b: Index) -> Index:
    return simplify(Mul(a, b))


def product(a: Ratio, b: Ratio) -> Ratio:
    """`a * b`; a product of a query and a key is no term."""
    if {"i", "j"} & vars_in(a.top) and {"i", "j"} & vars_in(b.top):
        raise Unreadable("a product of positions", "where(lambda i, j: i - j < 4): sums and whole multiples")
    return Ratio(_times(a.top, b.top), a.below * b.below)


def added(sign: int) -> Callable[[Ratio, Ratio], Ratio]:
    """`a + sign * b`."""

    def of(a: Ratio, b: Ratio) -> Ratio:
        left, right = _times(a.top, b.below), _times(b.top, a.below)
        below = a.below * b.below
        if a.below == b.below:
            left, right, below = a.top, b.top, a.below
        return Ratio(simplify(Add(left, right) if sign > 0 else Sub(left, right)), below)

    return of


def picked(kind: type[Min | Max]) -> Callable[[Ratio, Ratio], Ratio]:
    """The smaller or larger."""

    def of(a: Ratio, b: Ratio) -> Ratio:
        if a.below == b.below:
            return Ratio(simplify(kind(a.top, b.top)), a.below)
        return Ratio(simplify(kind(_times(a.top, b.below), _times(b.top, a.below))), a.below * b.below)

    return of


def _divisor(b: Ratio) -> Ratio:
    if isinstance(b.top, int) and b.top == 0:
        raise Unreadable("a division by zero")
    if {"i", "j"} & vars_in(b.top):
        raise Unreadable("a division by a position")
    return b


def floored(a: Ratio, b: Ratio) -> Ratio:
    """`a // b`."""
    top, by = _divided(a, b)
    return Ratio(simplify(FloorDiv(top, by)))


def _divided(a: Ratio, b: Ratio) -> tuple[Index, Index]:
    b = _divisor(b)
    top, by = _times(a.top, b.below), _times(b.top, a.below)
    if isinstance(by, int) and by < 0:
        top, by = simplify(Sub(0, top)), -by
    return top, by


def remainder(a: Ratio, b: Ratio) -> Ratio:
    """`a % b`, with the sign of b."""
    b = _divisor(b)
    if a.below == b.below == 1 and isinstance(b.top, int) and b.top > 0:
        return Ratio(simplify(Mod(a.top, b.top)))
    return added(-1)(a, product(floored(a, b), b))


def quotient(a: Ratio, b: Ratio) -> Ratio:
    """`a / b`."""
    b = _divisor(b)
    if not isinstance(b.top, int):
        raise Unreadable("a division by what it reads from a table")
    sign = 1 if b.top > 0 else -1
    return Ratio(_times(a.top, sign * b.below), a.below * abs(b.top))


def floor(a: Ratio) -> Ratio:
    """Rounded down."""
    return a if a.below == 1 else Ratio(simplify(FloorDiv(a.top, a.below)))


def ceiling(a: Ratio) -> Ratio:
    """Rounded up."""
    return negative(floor(negative(a)))


def negative(a: Ratio) -> Ratio:
    """`-a`."""
    return Ratio(simplify(Sub(0, a.top)), a.below)


def magnitude(a: Ratio) -> Ratio:
    """`|a|`."""
    return Ratio(simplify(Abs(a.top)), a.below)


def truncated(a: Node) -> Cases:
    """Rounded toward zero."""
    found: list[tuple[Pred, Ratio]] = []
    for guard, x in numeric(a):
        if x.below == 1:
            found.append((guard, x))
        else:
            up = _compare("<", x.top, 0)
            found += [(joint(And, guard, fold(Not(up))), floor(x)), (joint(And, guard, up), ceiling(x))]
    return _cases(found)


Bits = Mapping[int, tuple[Index, int]]  # of a number: which bit of which number stands at each place


def bits_of(e: Index, width: int) -> dict[int, tuple[Index, int]] | None:
    """The bits of a number that is not negative, by their places; None: its bits are not known one by one."""
    match e:
        case int() if e >= 0:
            return {k: (1, 0) for k in range(e.bit_length()) if e >> k & 1}
        case Var("i" | "j"):
            return {k: (e, k) for k in range(width)}
        case FloorDiv(x, int(y)) | Mod(x, int(y)) | Mul(x, int(y)) | Mul(int(y), x) if y > 0 and y & (y - 1) == 0:
            inside, shift = bits_of(x, width), y.bit_length() - 1
            if inside is None:
                return None
            if isinstance(e, Mod):
                return {k: bit for k, bit in inside.items() if k < shift}
            moved = -shift if isinstance(e, FloorDiv) else shift
            return {k + moved: bit for k, bit in inside.items() if k + moved >= 0}
        case Add(x, y):
            a, b = bits_of(x, width), bits_of(y, width)
            return {**a, **b} if a is not None and b is not None and not a.keys() & b.keys() else None
    return None


def of_bits(bits: Bits) -> Index:
    """The number with these bits, in runs that stand side by side."""
    found: Index = 0
    places = sorted(bits)
    while places:
        first = places[0]
        source, bit = bits[first]
        length = 1
        while bits.get(first + length) == (source, bit + length):
            length += 1
        run: Index = 1 << first
        if source != 1:
            run = _times(simplify(Mod(simplify(FloorDiv(source, 1 << bit)), 1 << length)), 1 << first)
        else:
            length = 1
        found = simplify(Add(found, run))
        places = places[length:]
    return found


def _masked(x: Index, bits: int) -> Index:
    """`x & bits`, of any whole number x: in runs of ones; with infinitely many ones where bits < 0."""
    if bits < 0 and not -bits & ~bits:
        return _times(simplify(FloorDiv(x, -bits)), -bits)
    if bits < 0:
        return simplify(Sub(x, _masked(x, ~bits)))
    found: Index = 0
    while bits:
        low = (bits & -bits).bit_length() - 1
        ones = (bits + (1 << low) & ~bits).bit_length() - 1 - low
        run = simplify(Mod(simplify(FloorDiv(x, 1 << low)), 1 << ones))
        found = simplify(Add(found, _times(run, 1 << low)))
        bits &= bits + (1 << low)
    return found


def bitwise(op: str, width: int) -> Callable[[Ratio, Ratio], Ratio]:
    """`&`, `|` and `^` of whole numbers: with a constant, or of positions whose bits stand apart."""

    def of(a: Ratio, b: Ratio) -> Ratio:
        if isinstance(a.top, int) and isinstance(b.top, int):
            return Ratio({"&": a.top & b.top, "|": a.top | b.top, "^": a.top ^ b.top}[op])
        for own, constant in ((a, b.top), (b, a.top)):
            if isinstance(constant, int) and a.below == b.below == 1:
                both = _masked(own.top, constant)
                if op == "&":
                    return Ratio(both)
                most = _times(both, 2) if op == "^" else both
                return Ratio(simplify(Sub(simplify(Add(own.top, constant)), most)))
        x, y = (bits_of(v.top, width) if v.below == 1 else None for v in (a, b))
        if x is None or y is None:
            raise Unreadable(f"{op} of the bits of numbers that overlap", "// and % by powers of two")
        if op == "&":
            raise Unreadable("& of the bits of two positions")
        if x.keys() & y.keys():
            raise Unreadable(f"{op} of bits that overlap", "// and % by powers of two")
        return Ratio(of_bits({**x, **y}))

    return of
