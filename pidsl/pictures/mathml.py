"""Formulas as MathML Core, which browsers set without a script or a font of their own.

(k + 1)*(2*n - k)/2  ->  a fraction;  floor(n/2)  ->  brackets;  Piecewise and Periodic  ->  cases
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape
from itertools import pairwise
from typing import Any

import sympy

from pidsl.analysis.formulas.words import CeilLog, Periodic, Table

SUM, PRODUCT, ATOM = 0, 1, 2  # how tightly a part binds
MANY = 8  # values of a periodic number that are listed
LONG = 400  # operations; longer formulas stand as text


def math(body: str, *, block: bool = False) -> str:
    """A formula of a page."""
    return f'<math display="{"block" if block else "inline"}">{body}</math>'


def formula(expr: Any, *, block: bool = False) -> str:
    """An expression, or a condition, as an element of a page; very long ones as text."""
    if isinstance(expr, sympy.Basic) and expr.count_ops() > LONG:
        return f"<code>{escape(str(expr))}</code>"
    return math(mathml(sympy.sympify(expr)), block=block)


def statement(left: str, relation: str, expr: Any) -> str:
    """`pairs == n**2` as a formula: the name upright, the rest set."""
    name = f"<mtext>{escape(left)}</mtext>"
    if isinstance(expr, sympy.Basic) and expr.count_ops() > LONG:
        return f"<code>{escape(f'{left} {relation} {expr}')}</code>"
    return math(f"<mrow>{name}{_mo(RELATIONS.get(relation, relation))}{mathml(sympy.sympify(expr))}</mrow>")


RELATIONS = {"==": "=", "!=": "≠", "<=": "≤", ">=": "≥", "<": "<", ">": ">"}


def mathml(x: Any, level: int = SUM) -> str:
    """The MathML of an expression, in parentheses where it binds less tightly than its place needs."""
    writer = next((w for kind, w in WRITERS.items() if isinstance(x, kind)), None)
    if writer is None:
        return f"<mtext>{escape(str(x))}</mtext>"
    own, text = writer(x)
    return _within("(", text, ")") if own < level else text


def _mo(symbol: str) -> str:
    return f"<mo>{escape(symbol)}</mo>"


def _within(opening: str, text: str, closing: str) -> str:
    return f"<mrow>{_mo(opening)}{text}{_mo(closing)}</mrow>"


def _number(x: Any) -> tuple[int, str]:
    if x < 0:
        return SUM, f"<mrow>{_mo('−')}{mathml(-x, PRODUCT)}</mrow>"
    if x.is_Integer:
        return ATOM, f"<mn>{int(x)}</mn>"
    if x.is_Rational:
        return PRODUCT, f"<mfrac><mn>{x.p}</mn><mn>{x.q}</mn></mfrac>"
    return ATOM, f"<mn>{escape(str(x))}</mn>"


def _symbol(x: Any) -> tuple[int, str]:
    return ATOM, f"<mi>{escape(x.name)}</mi>"


def _sum(x: Any) -> tuple[int, str]:
    parts = x.as_ordered_terms()
    parts.sort(key=lambda term: term.could_extract_minus_sign())  # a sum begins with what is added
    found = [mathml(parts[0])]
    for term in parts[1:]:
        minus = term.could_extract_minus_sign()
        found += [_mo("−" if minus else "+"), mathml(-term if minus else term, PRODUCT)]
    return SUM, f"<mrow>{''.join(found)}</mrow>"


def _product(x: Any) -> tuple[int, str]:
    if x.could_extract_minus_sign():
        return SUM, f"<mrow>{_mo('−')}{mathml(-x, PRODUCT)}</mrow>"
    above, below = sympy.fraction(x)
    if below != 1:
        return PRODUCT, f"<mfrac>{mathml(above)}{mathml(below)}</mfrac>"
    factors = x.as_ordered_factors()
    found = [mathml(factors[0], PRODUCT)]
    for before, factor in pairwise(factors):
        digits = factor.is_Number or (isinstance(factor, sympy.Pow) and factor.base.is_Number)
        words = any(isinstance(y, sympy.Symbol) and len(y.name) > 1 for y in (before, factor))
        found += [_mo("·") if digits or words else "<mo>&#8290;</mo>", mathml(factor, PRODUCT)]
    return PRODUCT, f"<mrow>{''.join(found)}</mrow>"


def _power(x: Any) -> tuple[int, str]:
    base, exponent = x.as_base_exp()
    if exponent == sympy.Rational(1, 2):
        return ATOM, f"<msqrt>{mathml(base)}</msqrt>"
    if exponent.could_extract_minus_sign():
        return PRODUCT, f"<mfrac><mn>1</mn>{mathml(base**-exponent)}</mfrac>"
    return ATOM, f"<msup>{mathml(base, ATOM)}<mrow>{mathml(exponent)}</mrow></msup>"


def _brackets(opening: str, closing: str) -> Callable[[Any], tuple[int, str]]:
    return lambda x: (ATOM, _within(opening, mathml(x.args[0]), closing))


def _called(name: str) -> Callable[[Any], tuple[int, str]]:
    def write(x: Any) -> tuple[int, str]:
        inside = _mo(",").join(mathml(arg) for arg in sorted(x.args, key=sympy.default_sort_key))
        return ATOM, f"<mrow><mi>{name}</mi>{_within('(', inside, ')')}</mrow>"

    return write


def _mod(x: Any) -> tuple[int, str]:
    return PRODUCT, f"<mrow>{mathml(x.args[0], PRODUCT)}<mspace width='0.3em'/><mi>mod</mi>" + (
        f"<mspace width='0.3em'/>{mathml(x.args[1], ATOM)}</mrow>"
    )


def _log(x: Any) -> tuple[int, str]:
    base, of = x.args
    inside = f"<mrow><msub><mi>log</mi>{mathml(base)}</msub><mo>&#8289;</mo>{mathml(of, PRODUCT)}</mrow>"
    return ATOM, _within("⌈", inside, "⌉")


def cases(rows: list[tuple[str, str]]) -> str:
    """A line for each value with the condition it stands for; a rule for the brace, which few fonts can stretch."""
    left = 'style="text-align:left;padding:.15em .5em"'
    lines = "".join(f"<mtr><mtd {left}>{value}</mtd><mtd {left}>{condition}</mtd></mtr>" for value, condition in rows)
    return f'<mtable style="border-left:1px solid;margin:.2em .3em">{lines}</mtable>'


def _piecewise(x: Any) -> tuple[int, str]:
    rows = []
    for value, condition in x.args:
        otherwise = condition == sympy.true
        rows.append(
            (mathml(value), "<mtext>otherwise</mtext>" if otherwise else f"<mtext>if\u00a0</mtext>{mathml(condition)}")
        )
    return SUM, cases(rows)


def _listed(x: Any) -> tuple[int, str]:
    """A periodic number, or a table: a line for each value."""
    at, *values = x.args
    periodic = isinstance(x, Periodic)
    name = mathml(at, PRODUCT)
    if periodic:
        name = f"<mrow>{name}<mspace width='0.3em'/><mi>mod</mi><mspace width='0.3em'/><mn>{len(values)}</mn></mrow>"
    rows = [(mathml(v), f"<mtext>if\u00a0</mtext>{name}{_mo('=')}<mn>{k}</mn>") for k, v in enumerate(values[:MANY])]
    if len(values) > MANY:
        rows.append((_mo("⋮"), f"<mtext>{len(values) - MANY} more values</mtext>"))
    return SUM, cases(rows)


def _relation(x: Any) -> tuple[int, str]:
    return SUM, f"<mrow>{mathml(x.lhs)}{_mo(RELATIONS[x.rel_op])}{mathml(x.rhs)}</mrow>"


def _joined(word: str) -> Callable[[Any], tuple[int, str]]:
    def write(x: Any) -> tuple[int, str]:
        parts = [mathml(arg, PRODUCT) if isinstance(arg, sympy.And | sympy.Or) else mathml(arg) for arg in x.args]
        between = f"<mtext>\u00a0{word}\u00a0</mtext>"
        return SUM, f"<mrow>{between.join(parts)}</mrow>"

    return write


WRITERS: Mapping[Any, Callable[[Any], tuple[int, str]]] = {
    type(sympy.oo): lambda x: (ATOM, "<mi>∞</mi>"),
    type(-sympy.oo): lambda x: (SUM, "<mrow><mo>−</mo><mi>∞</mi></mrow>"),
    type(sympy.nan): lambda x: (ATOM, "<mtext>undefined</mtext>"),
    sympy.Number: _number,
    sympy.Symbol: _symbol,
    sympy.Add: _sum,
    sympy.Mul: _product,
    sympy.Pow: _power,
    sympy.floor: _brackets("⌊", "⌋"),
    sympy.ceiling: _brackets("⌈", "⌉"),
    sympy.Abs: _brackets("|", "|"),
    sympy.Min: _called("min"),
    sympy.Max: _called("max"),
    sympy.Mod: _mod,
    CeilLog: _log,
    Periodic: _listed,
    Table: _listed,
    sympy.Piecewise: _piecewise,
    sympy.core.relational.Relational: _relation,
    sympy.And: _joined("and"),
    sympy.Or: _joined("or"),
}
