"""How far families of patterns see through L layers, with symbols: closed forms, and the obligations that prove them.

    window          0 .. k                              L layers reach 0 .. k L
    window + skip   0 .. k and p,  p > k                p s + (0 .. k (L - s)) for 0 <= s <= L
    window + comb   0 .. k and all multiples of p       0 .. k L and p t + (0 .. k (L - 1)) for t >= 0
    stride          all multiples of p                  the same in every layer
    blocks          the own block of b tokens           the same in every layer
    sinks           0 .. k and the keys 0 .. s - 1      0 .. k L and the keys 0 .. s - 1
    base b          0, b^l, ..., (b - 1) b^l in layer l      0 .. b^L - 1

All are causal. A family knows its closed form `reached`, proves it by induction over L from the term's own definition
(what one layer attends), and proves its formulas from the closed form. Every step is an obligation for z3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import sympy

from pidsl.analysis.domains import domain
from pidsl.analysis.formulas.smt import Obligation, follows
from pidsl.analysis.formulas.words import L, internal, n
from pidsl.analysis.symbolic.lag_sets import Condition, NotByLag, holds_at
from pidsl.language.terms import Term

And, Or, Not = sympy.And, sympy.Or, sympy.Not
x, a, s, t, i, j = (internal(name) for name in "xastij")
ONE = sympy.Integer(1)


def ceil_div(y: sympy.Expr, by: sympy.Expr) -> sympy.Expr:
    """The least integer >= y / by."""
    return sympy.ceiling(y / by)


@dataclass(frozen=True)
class Answer:
    """A formula, what it needs to be true, and what to say with it."""

    expr: sympy.Expr
    assumptions: tuple[Condition, ...] = ()
    note: str = ""


class Family:
    """A family of causal patterns, closed under adding layers.

    `needs` are the family's conditions on its symbols; `closed_form()` proves what L layers reach; `answer(quantity)`
    is a formula and `theorem(quantity)` its proof from the closed form, which mentions the formula itself.
    """

    shown: ClassVar[str]

    @property
    def needs(self) -> tuple[Condition, ...]:
        """Conditions on the symbols under which a pattern is of this family."""
        raise NotImplementedError

    def closed_form(self) -> Iterator[Obligation]:
        """What L layers reach, by induction over L >= 1."""
        raise NotImplementedError

    def answer(self, quantity: str) -> Answer:
        """The formula of "farthest", "contiguous" or "depth"."""
        raise NotImplementedError

    def theorem(self, quantity: str) -> Iterator[Obligation]:
        """The formula follows from the closed form."""
        raise NotImplementedError


class ByLag(Family):
    """A family whose layers reach a set of lags, given with a witness w for the existential part."""

    term: Term

    def one_layer(self, lag: sympy.Expr) -> Condition:
        """Whether one layer attends a lag: the definition of the term."""
        return holds_at(self.term, lag)

    def reached(self, lag: sympy.Expr, layers: sympy.Expr, w: sympy.Expr) -> Condition:
        """Whether `layers` layers reach a lag, by the witness w."""
        raise NotImplementedError

    def contiguous(self, layers: sympy.Expr) -> sympy.Expr:
        """All lags up to here are reached; the next one is not."""
        raise NotImplementedError

    def obligation(self, name: str, given: tuple[Condition, ...], conclusion: Condition) -> Obligation:
        return Obligation(name, (*self.needs, *self.sizes, L >= 1, *given), conclusion)

    @cached_property
    def sizes(self) -> tuple[Condition, ...]:
        """What the sizes in the term satisfy beside `needs`: a definition may divide by one of them."""
        return tuple(c for c in domain(self.term) if not follows(self.needs, c))

    def formula_is(self, quantity: str, value: sympy.Expr, given: tuple[Condition, ...] = ()) -> Iterator[Obligation]:
        """The answer, and for "contiguous" and "depth" the contiguous reach, is this value under some conditions."""
        if quantity != "depth":
            yield self.obligation("the answer", given, sympy.Eq(self.answer(quantity).expr, value))
        if quantity != "farthest":
            yield self.obligation("the contiguous reach", given, sympy.Eq(self.contiguous(L), value))


@dataclass(frozen=True)
class WindowOnly(ByLag):
    """Lags 0 .. k; `inside` are lags that the term names and the window holds."""

    term: Term
    k: sympy.Expr
    inside: tuple[sympy.Expr, ...] = ()
    shown: ClassVar[str] = "L layers of lags 0..k reach the lags 0..k*L"

    @property
    def needs(self) -> tuple[Condition, ...]:
        return (self.k >= 1, *(c for lag in self.inside for c in (lag >= 1, lag <= self.k)))

    def reached(self, lag: sympy.Expr, layers: sympy.Expr, w: sympy.Expr) -> Condition:
        return And(0 <= lag, lag <= self.k * layers)

    def contiguous(self, layers: sympy.Expr) -> sympy.Expr:
        return self.k * layers

    def closed_form(self) -> Iterator[Obligation]:
        now, more = self.reached(x, L, s), self.reached(x + a, L + 1, s)
        first = sympy.Min(x, self.k)
        yield self.obligation("one layer, in", (self.one_layer(x),), self.reached(x, ONE, s))
        yield self.obligation("one layer, out", (self.reached(x, ONE, s),), self.one_layer(x))
        yield self.obligation("one more layer reaches no more", (now, self.one_layer(a)), more)
        back = And(self.one_layer(first), self.reached(x - first, L, s))
        yield self.obligation("one more layer reaches it", (self.reached(x, L + 1, s),), back)

    def answer(self, quantity: str) -> Answer:
        if quantity == "depth":
            return Answer(sympy.Max(1, ceil_div(n - 1, self.k)), (n >= 1,))
        far = self.k * L
        return Answer(far, (L >= 1, n > far if quantity == "farthest" else n > far + 1))

    def theorem(self, quantity: str) -> Iterator[Obligation]:
        far = self.k * L
        yield from self.formula_is(quantity, far)
        if quantity == "farthest":
            yield self.obligation("nothing beyond", (self.reached(x, L, s),), x <= far)
            yield self.obligation("reached", (), self.reached(far, L, s))
            return
        yield self.obligation("every lag up to it", (0 <= x, x <= far), self.reached(x, L, s))
        yield self.obligation("not the next", (), Not(self.reached(far + 1, L, s)))
        if quantity == "depth":
            yield from least_layers(self, self.answer("depth"))


@dataclass(frozen=True)
class WindowAndSkip(ByLag):
    """Lags 0 .. k and p > k. The witness is how many layers take the skip."""

    term: Term
    k: sympy.Expr
    p: sympy.Expr
    shown: ClassVar[str] = "L layers reach p*s + (0..k*(L-s)) for s = 0..L"

    @property
    def needs(self) -> tuple[Condition, ...]:
        return (self.k >= 1, self.p > self.k)

    @property
    def c(self) -> sympy.Expr:
        """Layers of the window that close the gap between two skips."""
        return ceil_div(self.p - 1, self.k)

    def reached(self, lag: sympy.Expr, layers: sympy.Expr, w: sympy.Expr) -> Condition:
        rest = lag - self.p * w
        return And(0 <= w, w <= layers, 0 <= rest, rest <= self.k * (layers - w))

    def contiguous(self, layers: sympy.Expr) -> sympy.Expr:
        k, p, c = self.k, self.p, self.c
        return sympy.Piecewise((k * layers, layers < c), (p * (layers + 1 - c) + k * (c - 1), True))

    def closed_form(self) -> Iterator[Obligation]:
        k, p = self.k, self.p
        one = Or(self.reached(x, ONE, sympy.Integer(0)), self.reached(x, ONE, ONE))
        yield self.obligation("one layer, in", (self.one_layer(x),), one)
        yield self.obligation("one layer, out", (self.reached(x, ONE, s),), self.one_layer(x))
        now = self.reached(x, L, s)
        yield self.obligation("a layer of the window", (now, 0 <= a, a <= k), self.reached(x + a, L + 1, s))
        yield self.obligation("a layer that skips", (now,), self.reached(x + p, L + 1, s + 1))
        yield self.obligation("no other layer", (self.one_layer(a),), Or(And(0 <= a, a <= k), sympy.Eq(a, p)))
        more, first = self.reached(x, L + 1, s), sympy.Min(x, k)
        skipped = And(self.one_layer(p), self.reached(x - p, L, s - 1))
        yield self.obligation("reached by a skip", (more, s >= 1), skipped)
        walked = And(self.one_layer(first), self.reached(x - first, L, sympy.Integer(0)))
        yield self.obligation("reached by the window", (more, s <= 0), walked)

    def answer(self, quantity: str) -> Answer:
        k, p, c = self.k, self.p, self.c
        if quantity == "farthest":
            return Answer(p * L, (L >= 1, n > p * L))
        if quantity == "contiguous":
            return Answer(self.contiguous(L), (L >= 1, n > self.contiguous(L) + 1))
        walked = k * (c - 1)
        short = sympy.Max(1, ceil_div(n - 1, k))
        return Answer(sympy.Piecewise((short, n - 1 <= walked), (c - 1 + ceil_div(n - 1 - walked, p), True)), (n >= 1,))

    def theorem(self, quantity: str) -> Iterator[Obligation]:
        k, p, c = self.k, self.p, self.c
        zero = sympy.Integer(0)
        # (p - k) (L - s) >= 0, the one product that z3 is told about
        slack = (p - k) * (L - s) >= 0
        yield self.obligation("a product of two that are >= 0", (0 <= s, s <= L), slack)
        if quantity == "farthest":
            yield from self.formula_is(quantity, p * L)
            yield self.obligation("nothing beyond", (self.reached(x, L, s), slack), x <= p * L)
            yield self.obligation("reached", (), self.reached(p * L, L, L))
            return
        yield from self.formula_is(quantity, k * L, (L < c,))
        yield from self.formula_is(quantity, p * (L + 1 - c) + k * (c - 1), (L >= c,))
        # c = ceil((p - 1)/k) is k (c - 1) < p - 1 <= k c
        g = internal("g")
        gap = (k * (g - 1) < p - 1, p - 1 <= k * g, g >= 1)
        yield self.obligation("layers that close a gap", (), And(*(y.subs(g, c) for y in gap)))
        far = p * (L + 1 - g) + k * (g - 1)
        early, late = (*gap, L < g), (*gap, L >= g)
        yield self.obligation("k L below the gap", early, k * L <= k * (g - 1))
        yield self.obligation("early: every lag", (*early, 0 <= x, x <= k * L), self.reached(x, L, zero))
        missing = Not(self.reached(k * L + 1, L, s))
        spread = Or(s <= 0, p * s >= p)
        yield self.obligation("a skip is at least p", (p >= 1,), spread)
        yield self.obligation("early: not the next", (*early, k * L <= k * (g - 1), spread), missing)
        # q = floor(x/p) skips, at most L + 1 - g of them
        q, u = internal("q"), internal("u")
        split = (p * q <= x, x < p * q + p)
        few = (*late, *split, 0 <= x, q >= 0, q <= L - g, sympy.Eq(u, L - q - g), k * u >= 0)
        yield self.obligation("late: few skips", few, self.reached(x, L, q))
        top = L + 1 - g
        yield self.obligation("late: all skips", (*late, p * top <= x, x <= far), self.reached(x, L, top))
        between = (*late, *split, q > L - g, sympy.Eq(u, q - top), p * u >= 0)
        yield self.obligation("late: no other case", between, p * top <= x)
        yield self.obligation("a product of two that are >= 0", (p >= 1, u >= 0, k >= 1), And(p * u >= 0, k * u >= 0))
        v = internal("v")
        fewer = (*late, s <= top, sympy.Eq(v, top - s), (p - k) * v >= 0)
        yield self.obligation("late: not the next, few skips", fewer, Not(self.reached(far + 1, L, s)))
        many = (*late, s > top, sympy.Eq(v, s - top - 1), p * v >= 0)
        yield self.obligation("late: not the next, many skips", many, Not(self.reached(far + 1, L, s)))
        yield self.obligation("a product of two that are >= 0", (v >= 0,), And((p - k) * v >= 0, p * v >= 0))
        if quantity == "depth":
            yield from least_layers(self, self.answer("depth"))


@dataclass(frozen=True)
class WindowAndSomeSkips(Family):
    """Lags 0 .. k in every layer, p > k in some of them: `skips` of the first L. The order of layers does not matter.

    The witness is how many layers take the skip.
    """

    k: sympy.Expr
    p: sympy.Expr
    skips: sympy.Expr
    shown: ClassVar[str] = "L layers, g of them with the skip, reach p*s + (0..k*(L-s)) for s = 0..g"

    @property
    def needs(self) -> tuple[Condition, ...]:
        return (self.k >= 1, self.p > self.k)

    def reached(self, lag: sympy.Expr, layers: sympy.Expr, skips: sympy.Expr, w: sympy.Expr) -> Condition:
        rest = lag - self.p * w
        return And(0 <= w, w <= skips, 0 <= rest, rest <= self.k * (layers - w))

    def closed_form(self) -> Iterator[Obligation]:
        k, p, g = self.k, self.p, internal("g")
        start = (*self.needs, L >= 0, 0 <= g, g <= L)
        zero = sympy.Integer(0)
        now = self.reached(x, L, g, s)
        yield Obligation("no layer", (*self.needs, self.reached(x, zero, zero, s)), sympy.Eq(x, 0))
        yield Obligation("lag 0", start, self.reached(zero, zero, zero, zero))
        grown = self.reached(x + a, L + 1, g, s)
        yield Obligation("a layer without the skip", (*start, now, 0 <= a, a <= k), grown)
        first = sympy.Min(x - p * s, k)
        more = self.reached(x, L + 1, g, s)
        yield Obligation("reached by its window", (*start, more, p * s >= s), self.reached(x - first, L, g, s))
        yield Obligation("a product of two that are >= 0", (*start, s >= 0), p * s >= s)
        yield Obligation("a layer with the skip", (*start, now), self.reached(x + p, L + 1, g + 1, s + 1))
        more = self.reached(x, L + 1, g + 1, s)
        yield Obligation("reached by its skip", (*start, more, s >= 1), self.reached(x - p, L, g, s - 1))
        walked = self.reached(x - sympy.Min(x, k), L, g, zero)
        yield Obligation("reached by its window instead", (*start, more, s <= 0), walked)

    def answer(self, quantity: str) -> Answer:
        if quantity != "farthest":
            raise NotByLag("only the farthest lag of this schedule is known for every L")
        far = self.k * (L - self.skips) + self.p * self.skips
        return Answer(far, (L >= 1, n > far))

    def theorem(self, quantity: str) -> Iterator[Obligation]:
        k, p, g = self.k, self.p, internal("g")
        start = (*self.needs, L >= 0, 0 <= g, g <= L)
        slack = (p - k) * (g - s) >= 0
        far = k * (L - g) + p * g
        own = sympy.Eq(self.answer(quantity).expr, far.subs(g, self.skips))
        yield Obligation("the answer", (*self.needs, L >= 1), own)
        enough = And(0 <= self.skips, self.skips <= L)
        yield Obligation("no more skips than layers", (*self.needs, L >= 1), enough)
        yield Obligation("a product of two that are >= 0", (*start, s <= g), slack)
        yield Obligation("nothing beyond", (*start, self.reached(x, L, g, s), slack), x <= far)
        yield Obligation("reached", start, self.reached(far, L, g, g))


def least_layers(family: ByLag, answer: Answer) -> Iterator[Obligation]:
    """So many layers reach the lags 0 .. n - 1, one fewer do not: the formula against the contiguous reach."""
    layers = answer.expr
    enough = n - 1 <= family.contiguous(layers)
    yield family.obligation("enough layers", answer.assumptions, And(layers >= 1, enough))
    fewer = Or(layers <= 1, family.contiguous(layers - 1) + 1 <= n - 1)
    yield family.obligation("one fewer is not enough", answer.assumptions, fewer)
