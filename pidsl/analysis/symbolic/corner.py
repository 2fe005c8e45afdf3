"""A corner of the (query, key) plane, see `corners`: how many keys a query has in it, and how many pairs there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import sympy

from pidsl.analysis.formulas import smt
from pidsl.analysis.formulas.smtlib import Condition, IsZero
from pidsl.analysis.formulas.words import extreme, floor_div, internal, n
from pidsl.analysis.symbolic.definition import NotByLag

ZERO, ONE = sympy.Integer(0), sympy.Integer(1)
Bounds: TypeAlias = frozenset[sympy.Expr]
Progression: TypeAlias = tuple[sympy.Expr, sympy.Expr]


@dataclass(frozen=True)
class Corner:
    """The pairs with i < each of `rows`, j < each of `keys`, and so on: `rows` and `keys` are at most n anyway.

    Args:
        rows, keys: bounds of i and of j.
        lags: bounds of i - j, inclusive.
        blocks: (b, s): bounds of i//s - j//s, inclusive, and the sizes of blocks.
        every: (p, c): i - j is c modulo p, 0 <= c < p.
    """

    rows: Bounds = frozenset()
    keys: Bounds = frozenset()
    lags: Bounds = frozenset()
    blocks: frozenset[tuple[sympy.Expr, sympy.Expr]] = frozenset()
    every: Progression | None = None

    def condition(self, row: sympy.Expr, key: sympy.Expr) -> Condition:
        """Whether a pair of positions is inside."""
        found = [row < f for f in self.rows] + [key < d for d in self.keys] + [row - key <= a for a in self.lags]
        found += [sympy.floor(row / s) - sympy.floor(key / s) <= b for b, s in self.blocks]
        if self.every is not None:
            found.append(sympy.Eq(sympy.Mod(row - key - self.every[1], self.every[0]), 0))
        return sympy.And(*found)


@dataclass(frozen=True)
class Shape:
    """A corner but for its ends f and d: which pairs of queries and keys it has. Args as in `Corner`."""

    def row(self, query: sympy.Expr, d: sympy.Expr) -> sympy.Expr:
        """Keys j < d of a query."""
        return d

    def area(self, f: sympy.Expr, d: sympy.Expr) -> sympy.Expr:
        """Pairs of the queries i < f and the keys j < d."""
        return f * d

    def lemmas(self, given: tuple[Condition, ...]) -> list[smt.Obligation]:
        """That `row` and `area` are what they say, for all numbers in place of the symbols."""
        return []


@dataclass(frozen=True)
class Lagged(Shape):
    """The lags c, c + p, ... up to `last`."""

    last: sympy.Expr
    p: sympy.Expr = ONE
    c: sympy.Expr = ZERO

    def _many(self, y: sympy.Expr) -> sympy.Expr:
        """How many lags from 1 - y on there are."""
        return extreme(sympy.Max, ZERO, floor_div(self.last - self.c, self.p) + self._before(y) + 1)

    def _before(self, y: sympy.Expr) -> sympy.Expr:
        return floor_div(y + self.c - 1, self.p)

    def _sum(self, y: sympy.Expr) -> sympy.Expr:
        """The sum of lag + y over them: of `_many` over all numbers up to y."""
        steps = floor_div(self.last - self.c, self.p) - self._before(y)
        return self._many(y) * (2 * (y + self.c) + self.p * steps) / 2

    def row(self, query: sympy.Expr, d: sympy.Expr) -> sympy.Expr:
        return self._many(d - query) - self._many(-query)

    def area(self, f: sympy.Expr, d: sympy.Expr) -> sympy.Expr:
        return self._sum(d) - self._sum(d - f) - self._sum(ZERO) + self._sum(-f)

    def lemmas(self, given: tuple[Condition, ...]) -> list[smt.Obligation]:
        a, y = internal("a"), internal("y")
        own = Lagged(a, self.p, self.c)
        inside = sympy.And(-y <= a, sympy.Eq(sympy.Mod(-y - self.c, self.p), 0))
        more, added = own._many(y + 1) - own._many(y), own._sum(y) - own._sum(y - 1)
        split = None if self.p == 1 else (y, self.p)
        name = f"lags {self.c} modulo {self.p}" if self.p != 1 else "lags"
        return [
            smt.Obligation(f"{name}: a key more", (*given, inside), IsZero(more - 1), split),
            smt.Obligation(f"{name}: no key more", (*given, sympy.Not(inside)), IsZero(more), split),
            smt.Obligation(f"{name}: a query more", given, IsZero(added - own._many(y)), split),
        ]  # fmt: skip


@dataclass(frozen=True)
class InBlocks(Shape):
    """Up to `last` blocks of s tokens back."""

    last: sympy.Expr
    s: sympy.Expr

    def row(self, query: sympy.Expr, d: sympy.Expr) -> sympy.Expr:
        first = self.s * (sympy.floor(query / self.s) - self.last)  # the first key
        return extreme(sympy.Max, ZERO, d - first) - extreme(sympy.Max, ZERO, -first)

    def _sum(self, f: sympy.Expr, x: sympy.Expr) -> sympy.Expr:
        """The sum over queries i < f of x - s (i//s - last), where that is positive: a block at a time."""
        s, y = self.s, x + self.s * self.last
        own = floor_div(f, s)
        whole = extreme(sympy.Min, own, extreme(sympy.Max, ZERO, floor_div(x, s) + self.last + 1))
        rest = (f - s * own) * extreme(sympy.Max, ZERO, y - s * own)
        return s * whole * (2 * y - s * (whole - 1)) / 2 + rest

    def area(self, f: sympy.Expr, d: sympy.Expr) -> sympy.Expr:
        return self._sum(f, d) - self._sum(f, ZERO)

    def lemmas(self, given: tuple[Condition, ...]) -> list[smt.Obligation]:
        s, b, f, x = self.s, internal("b"), internal("f"), internal("x")
        own = InBlocks(b, s)
        first = s * (sympy.floor(f / s) - b)
        inside = sympy.floor(f / s) - sympy.floor(x / s) <= b
        near, added = extreme(sympy.Max, ZERO, x - first), own._sum(f + 1, x) - own._sum(f, x)
        start = (*given, f >= 0, x >= 0)
        return [
            smt.Obligation(f"blocks of {s}: a key more", (*start, inside), first <= x, (x, s)),
            smt.Obligation(f"blocks of {s}: no key more", (*start, sympy.Not(inside)), first > x, (x, s)),
            smt.Obligation(f"blocks of {s}: no query", start, IsZero(own._sum(ZERO, x))),
            smt.Obligation(f"blocks of {s}: a query more", start, IsZero(added - near), (f, s)),
        ]  # fmt: skip


def shape_of(corner: Corner) -> Shape:
    """The shape of a corner.

    Raises:
        NotByLag: lags and blocks meet within a block, or blocks of different sizes.
    """
    lags, blocks = sorted(corner.lags, key=str), sorted(corner.blocks, key=str)
    if blocks:
        sizes = {s for _, s in blocks}
        if lags or corner.every or len(sizes) > 1:
            met = (
                f"lags up to {lags[0]}"
                if lags
                else "blocks of another size"
                if len(sizes) > 1
                else "every so many lags"
            )
            raise NotByLag(f"how blocks of {blocks[0][1]} and {met} meet")
        return InBlocks(extreme(sympy.Min, *(b for b, _ in blocks)), blocks[0][1])
    last = extreme(sympy.Min, *lags) if lags else n - 1
    if corner.every:
        return Lagged(last, *corner.every)
    return Lagged(last) if lags else Shape()
