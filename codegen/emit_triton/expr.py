"""Index expressions and predicates as Triton source.

Triton's `//` and `%` round toward zero. Every variable of a plan is a non-negative integer, so a sign analysis shows
most operands non-negative, and there the plain operator is right. Elsewhere a power of two becomes a shift or a bit
mask (in two's complement both round down) and the rest calls `_floor_div` or `_floor_mod`.
"""

from __future__ import annotations

from pidsl.errors import SymbolError
from pidsl.language.algebra import non_negative, positive
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
    return show_pred(positive(p), 0, TRITON)


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
