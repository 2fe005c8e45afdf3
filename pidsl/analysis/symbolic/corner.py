"""Corners of the (query, key) plane: how many keys a query has in one, and how many pairs there are.

A corner is the pairs with i < f, j < d, and what its shape says: all of them, the lags c, c + p, ... up to a last one,
or up to so many blocks back. `row` and `area` are formulas, `keys_counted` and `pairs_counted` that they count these:

    row(i, 0) = 0     row(i, d + 1) = row(i, d) + [(i, d) is inside]
    area(0, d) = 0    area(f + 1, d) = area(f, d) + row(f, d)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import sympy

from pidsl.analysis.formulas.smt import Obligation
from pidsl.analysis.formulas.smtlib import Condition, IsZero
from pidsl.analysis.formulas.words import extreme, floor_div, internal

ZERO, ONE = sympy.Integer(0), sympy.Integer(1)
Q, D, Y = internal("q"), internal("d"), internal("y")


@dataclass(frozen=True)
class Shape:
    """Every pair of i < f and j < d."""

    def inside(self, query: sympy.Expr, key: sympy.Expr) -> Condition:
        """Whether a pair is of this shape."""
        return sympy.true

    def row(self, query: sympy.Expr, d: sympy.Expr) -> sympy.Expr:
        """Keys j < d of a query."""
        return d

    def area(self, f: sympy.Expr, d: sympy.Expr) -> sympy.Expr:
        """Pairs of the queries i < f and the keys j < d."""
        return f * d

    @property
    def name(self) -> str:
        return "all"

    @property
    def least(self) -> Shape:
        """The same of any last lag or block."""
        return self

    def keys_counted(self, given: tuple[Condition, ...]) -> Iterator[Obligation]:
        """That `row` is what it says, for all numbers in place of the symbols."""
        own = self.least
        start = (*given, Q >= 0, D >= 0)
        inside, more = own.inside(Q, D), own.row(Q, D + 1) - own.row(Q, D)
        yield Obligation(f"{self.name}: no key", start, IsZero(own.row(Q, ZERO)))
        yield self.easier(Obligation(f"{self.name}: a key more", (*start, inside), IsZero(more - 1)))
        yield self.easier(Obligation(f"{self.name}: no key more", (*start, sympy.Not(inside)), IsZero(more)))

    def pairs_counted(self, given: tuple[Condition, ...]) -> Iterator[Obligation]:
        """That `area` is what it says, where `row` is."""
        own, start = self.least, (*given, Q >= 0, D >= 0)
        yield Obligation(f"{self.name}: no query", start, IsZero(own.area(ZERO, D)))
        added = own.area(Q + 1, D) - own.area(Q, D) - own.row(Q, D)
        rest = sympy.expand(added - own.gap(Q, D) + own.gap(Q, ZERO))
        yield Obligation(f"{self.name}: a query more", start, IsZero(rest))
        yield from own.gaps(given)

    def easier(self, o: Obligation) -> Obligation:
        """An obligation in a form that is easier to prove."""
        return o

    def gap(self, q: sympy.Expr, d: sympy.Expr) -> sympy.Expr:
        """What a query more adds but for its keys from d on: `gaps` say that it is 0."""
        return ZERO

    def gaps(self, given: tuple[Condition, ...]) -> Iterator[Obligation]:
        return iter(())


@dataclass(frozen=True)
class Lagged(Shape):
    """The lags c, c + p, ... up to `last`."""

    last: sympy.Expr
    p: sympy.Expr = ONE
    c: sympy.Expr = ZERO

    def inside(self, query: sympy.Expr, key: sympy.Expr) -> Condition:
        lag = query - key
        every = sympy.true if self.p == 1 else sympy.Eq(sympy.Mod(lag - self.c, self.p), 0)
        return sympy.And(lag <= self.last, every)

    def many(self, y: sympy.Expr) -> sympy.Expr:
        """How many lags from 1 - y on there are."""
        return extreme(sympy.Max, ZERO, floor_div(self.last - self.c, self.p) + self.before(y) + 1)

    def before(self, y: sympy.Expr) -> sympy.Expr:
        return floor_div(y + self.c - 1, self.p)

    def sum(self, y: sympy.Expr) -> sympy.Expr:
        """The sum of lag + y over them: of `many` over all numbers up to y."""
        steps = floor_div(self.last - self.c, self.p) - self.before(y)
        return self.many(y) * (2 * (y + self.c) + self.p * steps) / 2

    def row(self, query: sympy.Expr, d: sympy.Expr) -> sympy.Expr:
        return self.many(d - query) - self.many(-query)

    def area(self, f: sympy.Expr, d: sympy.Expr) -> sympy.Expr:
        return self.sum(d) - self.sum(d - f) - self.sum(ZERO) + self.sum(-f)

    @property
    def name(self) -> str:
        return f"lags {self.c} modulo {self.p}" if self.p != 1 else "lags"

    @property
    def least(self) -> Shape:
        return replace(self, last=internal("a"))

    def easier(self, o: Obligation) -> Obligation:
        """By y = d - q alone, whatever the query is."""
        moved = {D: Y + Q}
        conditions = tuple(c for c in (x.subs(moved) for x in o.conditions) if not c.has(Q))
        return Obligation(o.name, conditions, o.conclusion.subs(moved), None if self.p == 1 else (Y, self.p))

    def gap(self, q: sympy.Expr, d: sympy.Expr) -> sympy.Expr:
        return self.sum(d - q) - self.sum(d - q - 1) - self.many(d - q)

    def gaps(self, given: tuple[Condition, ...]) -> Iterator[Obligation]:
        name, split = f"{self.name}: the sum up to one more", None if self.p == 1 else (Y, self.p)
        yield Obligation(name, given, IsZero(self.sum(Y) - self.sum(Y - 1) - self.many(Y)), split)


@dataclass(frozen=True)
class InBlocks(Shape):
    """Up to `last` blocks of s tokens back."""

    last: sympy.Expr
    s: sympy.Expr

    def inside(self, query: sympy.Expr, key: sympy.Expr) -> Condition:
        return sympy.floor(query / self.s) - sympy.floor(key / self.s) <= self.last

    def keys_to(self, query: sympy.Expr, x: sympy.Expr) -> sympy.Expr:
        """From its first key to x."""
        return extreme(sympy.Max, ZERO, x - self.s * (sympy.floor(query / self.s) - self.last))

    def row(self, query: sympy.Expr, d: sympy.Expr) -> sympy.Expr:
        return self.keys_to(query, d) - self.keys_to(query, ZERO)

    def sum(self, f: sympy.Expr, x: sympy.Expr) -> sympy.Expr:
        """The sum over queries i < f of `keys_to`, a block at a time."""
        s, y = self.s, x + self.s * self.last
        own = floor_div(f, s)
        whole = extreme(sympy.Min, own, extreme(sympy.Max, ZERO, floor_div(x, s) + self.last + 1))
        rest = (f - s * own) * extreme(sympy.Max, ZERO, y - s * own)
        return s * whole * (2 * y - s * (whole - 1)) / 2 + rest

    def area(self, f: sympy.Expr, d: sympy.Expr) -> sympy.Expr:
        return self.sum(f, d) - self.sum(f, ZERO)

    @property
    def name(self) -> str:
        return f"blocks of {self.s}"

    @property
    def least(self) -> Shape:
        return replace(self, last=internal("b"))

    def easier(self, o: Obligation) -> Obligation:
        return replace(o, split=(D, self.s))

    def gap(self, q: sympy.Expr, d: sympy.Expr) -> sympy.Expr:
        return self.sum(q + 1, d) - self.sum(q, d) - self.keys_to(q, d)

    def gaps(self, given: tuple[Condition, ...]) -> Iterator[Obligation]:
        start = (*given, Q >= 0, D >= 0)
        yield Obligation(f"{self.name}: a query more", start, IsZero(self.gap(Q, D)), (Q, self.s))


KINDS: dict[str, Any] = {"all": Shape, "lags": Lagged, "blocks": InBlocks}


def fact_of(shape: Shape) -> tuple[Any, ...]:
    """A shape as a certificate has it."""
    name = next(name for name, kind in KINDS.items() if type(shape) is kind)
    return (name, *(getattr(shape, x) for x in shape.__dataclass_fields__))


def shape_from(fact: tuple[Any, ...]) -> Shape:
    """A shape from a certificate."""
    name, *sizes = fact
    made: Shape = KINDS[name](*sizes)
    return made
