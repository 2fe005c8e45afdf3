"""Assumptions: how users write them, and what formulas become under them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import sympy
from sympy.logic.boolalg import Boolean

from pidsl.analysis.formulas import smt
from pidsl.analysis.formulas.text import formula_of
from pidsl.analysis.formulas.words import symbol
from pidsl.errors import ParseError, SymbolError

Condition: TypeAlias = sympy.Basic


def conditions(assume: str | Condition | Iterable[str | Condition]) -> tuple[Condition, ...]:
    """Assumptions as sympy relations.

    >>> conditions("period > k, n >= 2*period")
    (period > k, n >= 2*period)

    Args:
        assume: text such as "period > k", several of them, or sympy relations over `formulas.symbol`s.

    Raises:
        ParseError: text that is no comparison of integer expressions, or something else than text and relations.
    """
    if isinstance(assume, str):
        return tuple(c for part in assume.split(",") if part.strip() for c in _read(part))
    if is_condition(assume):
        return (assume,)
    if isinstance(assume, sympy.Basic) or not isinstance(assume, Iterable):
        raise _bad(str(assume))
    return tuple(c for part in assume for c in conditions(part))


def is_condition(x: object) -> bool:
    """Whether this is true or false for numbers; sympy lets any symbol pass for a truth value."""
    return isinstance(x, Boolean) and not isinstance(x, sympy.Symbol)


def require_known(found: Iterable[Condition], names: Iterable[str], variables: str, where: str) -> None:
    """Refuse assumptions over names that a formula cannot mention.

    Args:
        found: the assumptions.
        names: symbols of the pattern.
        variables: of the formulas in question: "nL".
        where: the pattern, as text.

    Raises:
        SymbolError: a name is neither.
    """
    own = {symbol(name) for name in (*names, *variables)}
    for condition in found:
        if unknown := sorted(s.name for s in condition.free_symbols - own):
            pattern = f"of the pattern: {', '.join(sorted(names))}" if names else "the pattern has none"
            raise SymbolError(
                f"the assumption {condition} about {', '.join(unknown)}",
                f"names that the formula may mention ({pattern}; of the question: {', '.join(variables)})",
                where,
            )


def _read(text: str) -> list[Condition]:
    try:
        found = formula_of(text)
    except ParseError:
        raise _bad(text) from None
    each = [found] if is_condition(found) else []
    if isinstance(found, sympy.And) and text.count("&") == 0:  # a chain: 0 <= k < p
        each = list(found.args)
    if not each:
        raise _bad(text)
    return [c.reversed if isinstance(c, sympy.Rel) and c.lhs.is_number else c for c in each]  # 0 <= k is k >= 0


def _bad(text: str) -> ParseError:
    return ParseError(
        f"the assumption {text.strip()!r}", "comparisons of + - * // % over names and integers", hint='"period > k"'
    )


def simplified(expr: sympy.Expr, known: Iterable[Condition]) -> sympy.Expr:
    """A formula under conditions: minima, cases and quotients that they decide are replaced.

    >>> n, k = symbol("n"), symbol("k")
    >>> simplified(sympy.Min(n, k + 1), conditions("n > k"))
    k + 1
    """
    given = list(known)
    decided: dict[sympy.Basic, sympy.Basic] = {}
    changed = True
    while changed:
        changed = False
        for atom in sorted(expr.atoms(sympy.Min, sympy.Max, sympy.Piecewise, sympy.floor, sympy.ceiling), key=_order):
            value = decided.setdefault(atom, _value(atom, given))
            if value != atom:
                expr, changed = expr.xreplace({atom: value}), True
                break
    forms = [expr, sympy.expand(expr), sympy.factor(sympy.expand(expr)) if not expr.has(sympy.Piecewise) else expr]
    return min(forms, key=lambda e: (e.count_ops(), str(e)))


def _order(atom: sympy.Basic) -> tuple[int, str]:
    return atom.count_ops(), str(atom)


def _value(atom: sympy.Basic, given: list[Condition]) -> sympy.Basic:
    if isinstance(atom, sympy.Min | sympy.Max):
        args = list(atom.args)
        for a in list(args):
            others = [b for b in args if b != a]
            if any(smt.follows(given, a >= b if isinstance(atom, sympy.Min) else a <= b) for b in others):
                args.remove(a)
        return atom.func(*args)
    if isinstance(atom, sympy.Piecewise):
        branches = []
        for value, condition in atom.args:
            if condition != sympy.true and smt.follows(given, sympy.Not(condition)):
                continue
            if smt.follows(given, condition):
                branches.append((value, True))
                break
            branches.append((value, condition))
        return sympy.Piecewise(*branches)
    above, below = sympy.fraction(sympy.together(atom.args[0]))
    for whole in (0, 1) if isinstance(atom, sympy.ceiling) else (0, -1):
        inside = (below * (whole - 1) < above, above <= below * whole)
        if isinstance(atom, sympy.floor):
            inside = (below * whole <= above, above < below * (whole + 1))
        if all(smt.follows(given, c) for c in inside):
            return sympy.Integer(whole)
    return atom
