"""Formulas and conditions as text, and back: a grammar of its own over Python's `ast`, never `eval`.

    Piecewise((16*L - 36, L >= 3), (4*L, True))        n >= 2*p        floor(n/4 - 1/4) + Mod(n, 3)

Symbols of a proof's own, which no pattern can name, are written `own.x`.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any

import sympy
from sympy.printing.str import StrPrinter

from pidsl.analysis.formulas.words import CeilLog, Periodic, Table, internal, symbol
from pidsl.errors import ParseError

OWN = "own"

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "Min": sympy.Min, "Max": sympy.Max, "floor": sympy.floor, "ceiling": sympy.ceiling, "Mod": sympy.Mod,
    "Abs": sympy.Abs, "Periodic": Periodic, "Table": Table, "CeilLog": CeilLog, "Eq": sympy.Eq, "Ne": sympy.Ne,
    "ITE": sympy.ITE,
}  # fmt: skip
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.Pow: operator.pow, ast.FloorDiv: lambda a, b: sympy.floor(a / b), ast.Mod: sympy.Mod,
    ast.BitAnd: sympy.And, ast.BitOr: sympy.Or,
}  # fmt: skip
_COMPARE: dict[type[ast.cmpop], Any] = {
    ast.Lt: sympy.Lt,
    ast.LtE: sympy.Le,
    ast.Gt: sympy.Gt,
    ast.GtE: sympy.Ge,
    ast.Eq: sympy.Eq,
    ast.NotEq: sympy.Ne,
}
_NAMES: dict[str, Any] = {"oo": sympy.oo, "nan": sympy.nan, "true": sympy.true, "false": sympy.false}


class _Printer(StrPrinter):
    """As sympy prints, with the symbols of a proof's own apart."""

    def _print_Symbol(self, expr: Any) -> str:
        return f"{OWN}.{expr.name[:-1]}" if expr.name.endswith("!") else str(expr.name)


def text_of(x: sympy.Basic) -> str:
    """A formula or a condition as text that `formula_of` reads back.

    >>> from pidsl.analysis.formulas.words import n
    >>> text_of(sympy.Piecewise((n, n < 3), (2*n - 3, True)))
    'Piecewise((n, n < 3), (2*n - 3, True))'
    """
    return str(_Printer().doprint(x))


def formula_of(text: str) -> Any:
    """A formula or a condition from text.

    >>> formula_of("Min(3*floor(n/4), 5)")
    Min(5, 3*floor(n/4))

    Raises:
        ParseError: text that is neither.
    """
    try:
        return _read(ast.parse(text.strip(), mode="eval").body, text)
    except (SyntaxError, RecursionError, TypeError, ValueError):
        raise _bad(text) from None


def _read(tree: ast.expr, text: str) -> Any:
    match tree:
        case ast.Name(id=name):
            return _NAMES.get(name, symbol(name))
        case ast.Attribute(value=ast.Name(id=owner), attr=name) if owner == OWN:
            return internal(name)
        case ast.Constant(value=bool() as value):
            return sympy.true if value else sympy.false
        case ast.Constant(value=int() as value):
            return sympy.Integer(value)
        case ast.UnaryOp(op=ast.USub(), operand=a):
            return -_read(a, text)
        case ast.UnaryOp(op=ast.Invert(), operand=a):
            return sympy.Not(_read(a, text))
        case ast.BinOp(left=a, op=op, right=b) if type(op) in _BINARY:
            return _BINARY[type(op)](_read(a, text), _read(b, text))
        case ast.Compare(left=a, ops=ops, comparators=others) if all(type(op) in _COMPARE for op in ops):
            sides = [_read(x, text) for x in (a, *others)]
            each = [_compared(_COMPARE[type(op)], x, y) for op, x, y in zip(ops, sides, sides[1:], strict=False)]
            return each[0] if len(each) == 1 else sympy.And(*each)
        case ast.Call(func=ast.Name(id="Piecewise"), args=cases, keywords=[]):
            return sympy.Piecewise(*(_case(x, text) for x in cases), evaluate=False)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            return _FUNCTIONS[name](*(_read(x, text) for x in args))
        case _:
            raise _bad(text)


def _compared(kind: Any, x: Any, y: Any) -> Any:
    """A comparison as it is written: sympy makes `floor(n/8) < 3` one of fractions."""
    return kind(x, y, evaluate=not (x.has(sympy.floor, sympy.ceiling) or y.has(sympy.floor, sympy.ceiling)))


def _case(tree: ast.expr, text: str) -> tuple[Any, Any]:
    match tree:
        case ast.Tuple(elts=[value, condition]):
            return _read(value, text), _read(condition, text)
        case _:
            raise _bad(text)


def _bad(text: str) -> ParseError:
    return ParseError(
        f"the formula {text.strip()!r}", "+ - * / ** // %, comparisons, Min, Max, floor, Piecewise, ... over names"
    )
