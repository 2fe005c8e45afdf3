"""Index expressions and predicates as Triton source.

Triton's `//` and `%` round toward zero. Every variable of a plan is a non-negative integer, so a sign analysis shows
most operands non-negative, and there the plain operator is right. Elsewhere a power of two becomes a shift or a bit
mask (in two's complement both round down) and the rest calls `_floor_div` or `_floor_mod`.
"""

from __future__ import annotations

from pidsl.codegen.plan.numbers import numbers
from pidsl.errors import SymbolError
from pidsl.language.algebra import between, non_negative, opposite, plus, positive
from pidsl.language.expr import (
    ATOM,
    BITAND,
    SHIFT,
    Abs,
    Dialect,
    FloorDiv,
    Index,
    Max,
    Min,
    Mod,
    Operator,
    Pred,
    show,
    show_pred,
)  # fmt: skip


def index_source(e: Index, level: int = 0) -> str:
    """`e` as Triton source, put in parentheses when its place binds more tightly than `level`."""
    return show(e, level, TRITON)


def pred_source(p: Pred) -> str:
    """`p` as Triton source. Negations are pushed into the comparisons, so none is left to print."""
    p = positive(p)
    return _one_of(p) or show_pred(p, 0, TRITON)


def _one_of(p: Pred) -> str:
    """A predicate that a sum is one of several numbers, as a test of its bits; "" where comparisons are as short."""
    found = between(p)
    if found is None:
        return ""
    about, ranges = found
    short, other = numbers(ranges), numbers([(-last, -first) for first, last in ranges])
    if other.instructions < short.instructions:
        about, short = opposite(about), other
    if short.powers is None and not short.bits:
        return ""

    def within(base: int, first: int, last: int) -> str:
        """The test that `about - base` lies between two numbers."""
        x = index_source(plus(about, -base))
        return f"({x} >= {first}) & ({x} <= {last})" if first < last else f"({x} == {first})"

    tests = [within(0, *x) for x in short.ranges]
    if (powers := short.powers) is not None:
        x, base = index_source(plus(about, -powers.base), ATOM), powers.base
        tests.append(f"(({x} & ({x} - 1)) == 0) & {within(base, powers.least - base, powers.most - base)}")
    for bits in short.bits:
        x = index_source(plus(about, -bits.start), ATOM)
        tests.append(f"((({bits.word:#x} >> ({x} & 31)) & 1) == 1) & {within(bits.start, 0, bits.most - bits.start)}")
    return " | ".join(tests)


def _division(e: FloorDiv | Mod) -> tuple[Operator | str, Index, Index] | None:
    x, y, down = e.left, e.right, isinstance(e, FloorDiv)
    if non_negative(x) and non_negative(y):
        return None
    if not isinstance(y, int) or y <= 0 or y & (y - 1):  # no power of two
        return "_floor_div" if down else "_floor_mod", x, y
    if down:
        return Operator(">>", SHIFT, ATOM, ATOM), x, y.bit_length() - 1
    return Operator("&", BITAND, ATOM, ATOM), x, y - 1


def _symbol(name: str) -> str:
    raise SymbolError(f"the symbol {name} in a plan", "numbers", hint=f"term.bind({name}=...) before compiling")


TRITON = Dialect({Abs: "tl.abs", Min: "tl.minimum", Max: "tl.maximum"}, _division, _symbol)
