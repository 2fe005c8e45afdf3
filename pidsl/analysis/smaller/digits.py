"""Formulas of i and n, rewritten with blocks of s tokens: `i = s I + q`, `n = s N - r`, with 0 <= q, r < s.

A floor is of an integer combination of blocks and a little of q and r. Where the little is too small to reach the next
integer, the floor is of the blocks alone: `floor(i/64) -> I`, `floor(n/64 - 1/64) -> N - 1`. So are comparisons.
"""

from __future__ import annotations

from fractions import Fraction
from math import ceil, floor, lcm
from typing import Any

import sympy

from pidsl.analysis.formulas.words import extreme, i, n, symbol
from pidsl.errors import TooHardError

query, rest, count, short = (symbol(name) for name in "IqNr")  # I, q, N, r
LITTLE = (rest, short)


def in_tokens(expr: sympy.Expr, size: int) -> sympy.Expr:
    """A formula of blocks, in q, r, and i and n for I and N, as one of tokens.

    >>> in_tokens(n * rest, 64)
    (i - 64*floor(i/64))*floor(n/64 + 63/64)
    """
    blocks, own = sympy.floor((n + size - 1) / sympy.Integer(size)), sympy.floor(i / sympy.Integer(size))
    values = {i: own, n: blocks, rest: i - size * own, short: size * blocks - n}

    def put(e: Any) -> Any:
        if e in values:
            return values[e]
        if not (e.args and e.has(*values)):
            return e
        inside = map(put, e.args)
        return extreme(e.func, *inside) if isinstance(e, sympy.Min | sympy.Max) else e.func(*inside)

    return put(expr)


def in_blocks(expr: sympy.Expr, size: int, *, loose: bool = False) -> sympy.Expr:
    """A formula in i and n as one in I, q, N and r, without q and r in floors and conditions.

    >>> in_blocks(sympy.floor(i / 128) + sympy.floor(n / 64 - sympy.Rational(1, 64)), 64)
    N + floor(I/2) - 1

    Args:
        expr: the formula.
        size: tokens of a block.
        loose: let q and r stay in floors and conditions that depend on them.

    Raises:
        TooHardError: it cannot be written so, or only by cases.
    """
    return sympy.expand(_Reader(size, loose).read(expr))


class _Reader:
    def __init__(self, size: int, loose: bool) -> None:
        self.size, self.loose = size, loose

    def read(self, e: Any) -> Any:
        if e.is_Rational or e.is_infinite:
            return e
        if e == i:
            return self.size * query + rest
        if e == n:
            return self.size * count - short
        if e.is_Symbol:
            raise TooHardError(f"the formula {e}", "one in i and n")
        if isinstance(e, sympy.Add | sympy.Mul | sympy.Pow):
            return e.func(*map(self.read, e.args))
        if isinstance(e, sympy.floor):
            inside = self.read(e.args[0])
            try:
                whole, part, low, high = self.split(inside, e)
                return sympy.floor((whole + self.only(floor(low), floor(high), e)) / part)
            except TooHardError:
                if self.loose:
                    return sympy.floor(inside)
                raise
        if isinstance(e, sympy.Mod) and e.args[1].is_Integer:
            return self.read(e.args[0] - e.args[1] * sympy.floor(e.args[0] / e.args[1]))
        if isinstance(e, sympy.Piecewise):
            return sympy.Piecewise(*((self.read(value), self.condition(c)) for value, c in e.args))
        inside = map(self.read, e.args)
        found = extreme(e.func, *inside) if isinstance(e, sympy.Min | sympy.Max) else e.func(*inside)
        if not e.args or (found.has(*LITTLE) and not self.loose):
            raise TooHardError(f"the formula {e}", f"the same for all tokens of a block of {self.size}")
        return found

    def condition(self, c: Any) -> Any:
        if c in (sympy.true, sympy.false):
            return c
        if isinstance(c, sympy.And | sympy.Or | sympy.Not):
            return c.func(*map(self.condition, c.args))
        gap = self.read(c.lhs - c.rhs)
        try:
            return self.decided(gap, c)
        except TooHardError:
            if self.loose:
                return c.func(gap, 0)
            raise

    def decided(self, gap: Any, c: Any) -> Any:
        """The comparison `c`, of `gap` with 0, where all tokens of a block answer it alike."""
        whole, _, low, high = self.split(gap, c)
        content, _ = sympy.expand(whole).as_content_primitive()
        if content > 1:
            whole, low, high = sympy.expand(whole / content), low / int(content), high / int(content)

        def at_least() -> Any:  # whole + x >= 0 where whole + floor(x) >= 0
            return sympy.Ge(whole + self.only(floor(low), floor(high), c), 0)

        def at_most() -> Any:
            return sympy.Le(whole + self.only(ceil(low), ceil(high), c), 0)

        match c.rel_op:
            case ">=":
                return at_least()
            case "<":
                return sympy.Not(at_least())
            case "<=":
                return at_most()
            case ">":
                return sympy.Not(at_most())
            case "==":
                return sympy.And(at_least(), at_most())
            case _:
                return sympy.Not(sympy.And(at_least(), at_most()))

    def only(self, least: int, most: int, where: Any) -> int:
        if least != most:
            raise TooHardError(f"the formula {where}", f"the same for all tokens of a block of {self.size}")
        return least

    def split(self, e: Any, where: Any) -> tuple[Any, int, Fraction, Fraction]:
        """`e = (whole + x) / part` with an integer `whole`; then the least and the largest x.

        Raises:
            TooHardError: `e` is no such sum.
        """
        e = sympy.expand(e)
        terms = [term.as_coeff_Mul() for term in sympy.Add.make_args(e)]
        steps = [c for c, atom in terms if atom != 1 and atom not in LITTLE]
        part = lcm(*(int(c.q) for c in steps))
        whole, low, high = sympy.Integer(0), Fraction(0), Fraction(0)
        for c, atom in terms:
            by = Fraction(int(c.p), int(c.q)) * part
            if atom == 1:
                low, high = low + by, high + by
            elif atom in LITTLE:
                low, high = low + min(Fraction(0), by * (self.size - 1)), high + max(Fraction(0), by * (self.size - 1))
            elif atom.is_integer and not atom.has(*LITTLE):
                whole += c * part * atom
            else:
                raise TooHardError(f"the formula {where}", f"sums of blocks of {self.size} tokens and places in them")
        return whole, part, low, high
