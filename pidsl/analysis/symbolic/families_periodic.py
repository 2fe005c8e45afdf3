"""Families whose layers see to the beginning of the sequence: combs, strides, blocks, sinks, base-b schedules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import sympy

from pidsl.analysis.formulas.assume import simplified
from pidsl.analysis.formulas.smt import Obligation
from pidsl.analysis.formulas.words import CeilLog, L, internal, n
from pidsl.analysis.symbolic.families import Answer, ByLag, Family, a, ceil_div, i, j, least_layers, s, t, x
from pidsl.analysis.symbolic.lag_sets import Condition
from pidsl.language.terms import Term

And, Or, Not = sympy.And, sympy.Or, sympy.Not
ZERO, ONE = sympy.Integer(0), sympy.Integer(1)


def same(expr: sympy.Expr, value: sympy.Expr, case: tuple[Condition, ...]) -> Iterator[Obligation]:
    """The formula has this value in one case; the value may be oo."""
    branch = simplified(expr, case)
    infinite = branch.has(sympy.oo) or value == sympy.oo
    conclusion = (sympy.true if branch == value else sympy.false) if infinite else sympy.Eq(expr, value)
    yield Obligation("the answer", case, conclusion)


def never(family: ByLag, quantity: str) -> Iterator[Obligation]:
    """The answers of a family that never reaches lag 1: contiguous 0, depth oo."""
    value = sympy.oo if quantity == "depth" else ZERO
    yield from same(family.answer(quantity).expr, value, (*family.needs, n >= 2))


@dataclass(frozen=True)
class WindowAndComb(ByLag):
    """Lags 0 .. k and all multiples of p > k. The witness is the multiple."""

    term: Term
    k: sympy.Expr
    p: sympy.Expr
    shown: ClassVar[str] = "L layers reach 0..k*L and p*t + (0..k*(L-1)) for t >= 0"

    @property
    def needs(self) -> tuple[Condition, ...]:
        return (self.k >= 1, self.p > self.k)

    def reached(self, lag: sympy.Expr, layers: sympy.Expr, w: sympy.Expr) -> Condition:
        near = And(0 <= lag, lag <= self.k * layers)
        rest = lag - self.p * w
        return Or(near, And(0 <= w, 0 <= rest, rest <= self.k * (layers - 1)))

    def contiguous(self, layers: sympy.Expr) -> sympy.Expr:
        k, p = self.k, self.p
        return sympy.Piecewise(
            (n - 1, k * (layers - 1) >= p - 1),
            (sympy.Min(n - 1, p + k * (layers - 1)), k * layers >= p - 1),
            (sympy.Min(n - 1, k * layers), True),
        )

    def closed_form(self) -> Iterator[Obligation]:
        k, p = self.k, self.p
        multiple = sympy.floor(x / p)
        yield self.obligation("one layer, in", (self.one_layer(x),), self.reached(x, ONE, multiple))
        alone = sympy.Eq(sympy.Mod(p * t, p), 0)
        yield self.obligation("multiples of p", (t >= 0,), And(alone, self.one_layer(p * t)))
        yield self.obligation("one layer, out", (0 <= x, x <= k), self.one_layer(x))
        now = self.reached(x, L, s)
        yield self.obligation("a layer of the window", (now, 0 <= a, a <= k), self.reached(x + a, L + 1, s))
        skipped = Or(self.reached(x + p * t, L + 1, t), self.reached(x + p * t, L + 1, s + t))
        yield self.obligation("a layer of the comb", (now, t >= 0), skipped)
        other = Or(And(0 <= a, a <= k), And(sympy.Eq(a, p * sympy.floor(a / p)), sympy.floor(a / p) >= 0))
        yield self.obligation("no other layer", (self.one_layer(a),), other)
        near = sympy.Min(x, k)
        walked = And(self.one_layer(near), self.reached(x - near, L, s))
        yield self.obligation("reached by the window", (0 <= x, x <= k * (L + 1)), walked)
        rest = x - p * s
        last = sympy.Min(rest, k)
        walked = And(self.one_layer(last), self.reached(x - last, L, s))
        yield self.obligation("reached from a multiple", (0 <= s, 0 <= rest, rest <= k * L), walked)

    def answer(self, quantity: str) -> Answer:
        k, p = self.k, self.p
        if quantity == "farthest":
            q = sympy.floor((n - 1) / p)
            far = sympy.Max(sympy.Min(k * L, n - 1), p * q + sympy.Min(n - 1 - p * q, k * (L - 1)))
            return Answer(far, (L >= 1, n >= 1))
        if quantity == "contiguous":
            return Answer(self.contiguous(L), (L >= 1, n >= 1))
        return Answer(1 + ceil_div(p - 1, k), (n >= 2 * p,), f"the same for every n >= {2 * p}")

    def theorem(self, quantity: str) -> Iterator[Obligation]:
        k, p = self.k, self.p
        if quantity == "farthest":
            q, far = internal("q"), internal("far")
            tops = (p * q <= n - 1, n - 1 < p * q + p, n >= 1)
            formula = sympy.Max(sympy.Min(k * L, n - 1), p * q + sympy.Min(n - 1 - p * q, k * (L - 1)))
            known = (*tops, sympy.Eq(far, formula))
            yield from self.formula_is(quantity, formula.subs(q, sympy.floor((n - 1) / p)), (n >= 1,))
            yield self.obligation(
                "p*q <= n - 1 < p*(q + 1)", (n >= 1, sympy.Eq(q, sympy.floor((n - 1) / p))), And(*tops)
            )
            before = Or(s >= q, p * s <= p * q - p)
            yield self.obligation("an earlier multiple is p earlier", tops, before)
            yield self.obligation("a later multiple is beyond n", (*tops, s > q), p * s >= p * q + p)
            later = Or(s <= q, p * s >= p * q + p)
            inside = (*known, before, later, self.reached(x, L, s), x <= n - 1)
            yield self.obligation("nothing beyond", inside, x <= far)
            found = And(Or(self.reached(far, L, q), self.reached(far, L, ZERO)), far <= n - 1)
            yield self.obligation("reached", (*known, q >= 0), found)
            yield self.obligation("n - 1 has a multiple", tops, q >= 0)
            return
        all_, some = k * (L - 1) >= p - 1, And(k * L >= p - 1, k * (L - 1) < p - 1)
        none = k * L < p - 1
        far = p + k * (L - 1)
        for case, value in ((all_, n - 1), (some, sympy.Min(n - 1, far)), (none, sympy.Min(n - 1, k * L))):
            yield from self.formula_is(quantity, value, (case, n >= 1))
        q = internal("q")
        split = (p * q <= x, x < p * q + p, q >= 0)
        yield self.obligation("every lag", (all_, 0 <= x, *split), self.reached(x, L, q))
        beyond = Or(s <= 0, sympy.Eq(s, 1), p * s >= 2 * p)
        yield self.obligation("multiples are 0, p, or 2 p and more", (), beyond)
        yield self.obligation("some: every lag", (some, 0 <= x, x <= far), self.reached(x, L, ONE))
        yield self.obligation("some: not the next", (some, beyond), Not(self.reached(far + 1, L, s)))
        yield self.obligation("none: every lag", (none, 0 <= x, x <= k * L), self.reached(x, L, ZERO))
        spread = Or(s <= 0, p * s >= p)
        yield self.obligation("multiples are 0, or p and more", (), spread)
        yield self.obligation("none: not the next", (none, spread), Not(self.reached(k * L + 1, L, s)))
        if quantity == "depth":
            yield from least_layers(self, self.answer("depth"))


@dataclass(frozen=True)
class DilatedWindow(ByLag):
    """Lags 0, d, ..., k d for d >= 2. The witness is the lag in steps of d."""

    term: Term
    k: sympy.Expr
    d: sympy.Expr
    shown: ClassVar[str] = "L layers reach d*w for w = 0..k*L"

    @property
    def needs(self) -> tuple[Condition, ...]:
        return (self.k >= 1, self.d >= 2)

    def reached(self, lag: sympy.Expr, layers: sympy.Expr, w: sympy.Expr) -> Condition:
        return And(0 <= w, w <= self.k * layers, sympy.Eq(lag, self.d * w))

    def closed_form(self) -> Iterator[Obligation]:
        steps = sympy.floor(x / self.d)
        yield self.obligation("one layer, in", (self.one_layer(x),), self.reached(x, ONE, steps))
        yield self.obligation("one layer, out", (0 <= s, s <= self.k), self.one_layer(self.d * s))
        now = (self.reached(x, L, s), 0 <= t, t <= self.k)
        yield self.obligation("one more layer reaches no more", now, self.reached(x + self.d * t, L + 1, s + t))
        first = sympy.Min(s, self.k)
        back = And(self.one_layer(self.d * first), self.reached(x - self.d * first, L, s - first))
        yield self.obligation("one more layer reaches it", (self.reached(x, L + 1, s),), back)

    def answer(self, quantity: str) -> Answer:
        if quantity == "farthest":
            far = self.k * self.d * L
            return Answer(far, (L >= 1, n > far))
        if quantity == "contiguous":
            return Answer(ZERO, (L >= 1, n >= 2))
        return Answer(sympy.oo, (n >= 2,), "no number of layers is enough: lag 1 is no multiple of the dilation")

    def theorem(self, quantity: str) -> Iterator[Obligation]:
        if quantity == "farthest":
            far = self.k * self.d * L
            yield from self.formula_is(quantity, far)
            slack = self.d * (self.k * L - s) >= 0
            yield self.obligation("a product of two that are >= 0", (s <= self.k * L,), slack)
            yield self.obligation("nothing beyond", (self.reached(x, L, s), slack), x <= far)
            yield self.obligation("reached", (), self.reached(far, L, self.k * L))
            return
        yield from never(self, quantity)
        yield self.obligation("lag 0", (), self.reached(ZERO, L, ZERO))
        spread = Or(s <= 0, self.d * s >= 2)
        yield self.obligation("multiples are 0, or 2 and more", (), spread)
        yield self.obligation("not lag 1", (spread,), Not(self.reached(ONE, L, s)))


@dataclass(frozen=True)
class StrideAlone(ByLag):
    """All multiples of p >= 2: one layer sees what any number of layers sees."""

    term: Term
    p: sympy.Expr
    shown: ClassVar[str] = "sums of multiples of p are multiples of p: L layers reach what one does"

    @property
    def needs(self) -> tuple[Condition, ...]:
        return (self.p >= 2,)

    def closed_form(self) -> Iterator[Obligation]:
        p = self.p
        yield self.obligation("lag 0", (), self.one_layer(ZERO))
        multiple = And(x >= 0, sympy.Eq(x, p * sympy.floor(x / p)), sympy.floor(x / p) >= 0)
        yield self.obligation("one layer, in", (self.one_layer(x),), multiple)
        yield self.obligation("one layer, out", (s >= 0, t >= 0), self.one_layer(p * s + p * t))

    def answer(self, quantity: str) -> Answer:
        if quantity == "farthest":
            return Answer(self.p * sympy.floor((n - 1) / self.p), (L >= 1, n >= 1))
        if quantity == "contiguous":
            return Answer(ZERO, (L >= 1, n >= 2))
        return Answer(sympy.oo, (n >= 2,), "no number of layers is enough: lag 1 is no multiple of the period")

    def theorem(self, quantity: str) -> Iterator[Obligation]:
        p = self.p
        if quantity == "farthest":
            far = p * sympy.floor((n - 1) / p)
            q = sympy.floor((n - 1) / p)
            yield self.obligation("the answer", (n >= 1,), sympy.Eq(self.answer(quantity).expr, far))
            yield self.obligation("within the sequence", (n >= 1,), And(far <= n - 1, q >= 0))
            beyond = Or(s <= q, p * s >= p * q + p)
            yield self.obligation("multiples beyond are p beyond", (n >= 1,), beyond)
            yield self.obligation("nothing beyond", (n >= 1, p * s <= n - 1, beyond), Or(s <= q, p * q + p <= n - 1))
            yield self.obligation("no room for another", (n >= 1,), p * q + p > n - 1)
            yield self.obligation("nothing beyond: fewer is less", (n >= 1, s <= q), p * s <= far)
            return
        yield from never(self, quantity)
        yield self.obligation("not lag 1", (), Not(self.one_layer(ONE)))


@dataclass(frozen=True)
class OwnBlock(Family):
    """The own block of b tokens, up to the own position or all of it."""

    term: Term
    b: sympy.Expr
    causal: bool
    shown: ClassVar[str] = "the own block of the own block is the own block: L layers reach what one does"

    @property
    def needs(self) -> tuple[Condition, ...]:
        return (self.b >= 1,)

    def one_layer(self, query: sympy.Expr, key: sympy.Expr) -> Condition:
        same = sympy.Eq(sympy.floor(query / self.b), sympy.floor(key / self.b))
        return And(same, key <= query) if self.causal else same

    def closed_form(self) -> Iterator[Obligation]:
        two = (*self.needs, self.one_layer(i, t), self.one_layer(t, j))
        yield Obligation("two layers reach no more", two, self.one_layer(i, j))
        back = And(self.one_layer(i, j), self.one_layer(j, j))
        yield Obligation("two layers reach it", (*self.needs, self.one_layer(i, j)), back)

    def answer(self, quantity: str) -> Answer:
        if quantity == "farthest":
            return Answer(sympy.Min(self.b, n) - 1, (L >= 1, n >= 1))
        if quantity == "contiguous":
            return Answer(sympy.Piecewise((n - 1, n <= self.b), (0, True)), (L >= 1, n >= 1))
        depth = sympy.Piecewise((ONE, n <= self.b), (sympy.oo, True))
        return Answer(
            depth, (n >= 1,), "beyond one block no number of layers is enough: token b never sees token b - 1"
        )

    def theorem(self, quantity: str) -> Iterator[Obligation]:
        b = self.b
        tokens = (*self.needs, n >= 1, 0 <= i, i <= n - 1, 0 <= j, j <= n - 1)
        far = sympy.Min(b, n) - 1
        one, more = (*self.needs, n >= 1, n <= b), (*self.needs, n > b)
        expr = self.answer(quantity).expr
        values = {"farthest": (far, far), "contiguous": (n - 1, ZERO), "depth": (ONE, sympy.oo)}[quantity]
        for case, value in zip((one, more), values, strict=True):
            yield from same(expr, value, case)
        if quantity == "farthest":
            yield Obligation("nothing beyond", (*tokens, self.one_layer(i, j)), i - j <= far)
            yield Obligation("reached", (*self.needs, n >= 1), And(self.one_layer(far, ZERO), far <= n - 1))
            return
        ordered = (*tokens, j <= i) if self.causal else tokens
        yield Obligation("one block: every pair", (*ordered, n <= b), self.one_layer(i, j))
        yield Obligation("more: not from b to b - 1", (*self.needs, n > b), Not(self.one_layer(b, b - 1)))
        yield Obligation("a token sees itself", tokens, self.one_layer(i, i))


@dataclass(frozen=True)
class WindowAndSinks(Family):
    """Lags 0 .. k and the first `sinks` keys."""

    term: Term
    k: sympy.Expr
    sinks: sympy.Expr
    shown: ClassVar[str] = "L layers reach the lags 0..k*L and the sinks"

    @property
    def needs(self) -> tuple[Condition, ...]:
        return (self.k >= 1, self.sinks >= 1)

    def reached(self, query: sympy.Expr, key: sympy.Expr, layers: sympy.Expr) -> Condition:
        near = And(0 <= query - key, query - key <= self.k * layers)
        return And(key >= 0, Or(near, And(key < self.sinks, key <= query)))

    def one_layer(self, query: sympy.Expr, key: sympy.Expr) -> Condition:
        window = And(query - key >= 0, query - key <= self.k)
        sink = And(key < self.sinks, key <= query)
        return And(key >= 0, Or(window, sink))

    def closed_form(self) -> Iterator[Obligation]:
        start = (*self.needs, L >= 1, i >= 0)
        one = self.one_layer(i, j)
        yield Obligation("one layer, in", (*start, one), self.reached(i, j, ONE))
        yield Obligation("one layer, out", (*start, self.reached(i, j, ONE)), one)
        two = (*start, self.reached(i, t, L), self.one_layer(t, j))
        yield Obligation("one more layer reaches no more", two, self.reached(i, j, L + 1))
        between = sympy.Min(i, j + self.k)
        back = And(self.one_layer(between, j), self.reached(i, between, L))
        near = (*start, j >= 0, i - j >= 0, i - j <= self.k * (L + 1))
        yield Obligation("reached by the window", near, back)
        sink = And(self.one_layer(j, j), self.reached(i, j, L))
        yield Obligation("a sink is reached", (*start, 0 <= j, j < self.sinks, j <= i), sink)

    def contiguous(self, layers: sympy.Expr) -> sympy.Expr:
        return sympy.Piecewise((self.k * layers, n >= self.k * layers + self.sinks + 2), (n - 1, True))

    def answer(self, quantity: str) -> Answer:
        if quantity == "farthest":
            return Answer(n - 1, (L >= 1, n >= 1))
        if quantity == "contiguous":
            return Answer(self.contiguous(L), (L >= 1, n >= 1))
        return Answer(sympy.Max(1, ceil_div(n - 1 - self.sinks, self.k)), (n >= 1,))

    def theorem(self, quantity: str) -> Iterator[Obligation]:
        k, sinks = self.k, self.sinks
        start = (*self.needs, L >= 1, n >= 1)
        tokens = (*start, 0 <= j, j <= i, i <= n - 1)
        if quantity == "farthest":
            yield from same(self.answer(quantity).expr, n - 1, start)
            yield Obligation("the last token reaches the first", start, self.reached(n - 1, ZERO, L))
            return
        if quantity == "contiguous":
            expr, far = self.answer(quantity).expr, k * L + sinks + 2
            yield from same(expr, k * L, (*start, n >= far))
            yield from same(expr, n - 1, (*start, n < far))
            yield Obligation("every near key", (*tokens, i - j <= k * L), self.reached(i, j, L))
            missing = Not(self.reached(sinks + k * L + 1, sinks, L))
            yield Obligation("not the next", (*start, n >= k * L + sinks + 2), missing)
            yield Obligation("every key", (*tokens, n < k * L + sinks + 2), self.reached(i, j, L))
            return
        layers = self.answer("depth").expr
        yield Obligation("enough layers: every near key", start, And(layers >= 1, k * layers >= n - 1 - sinks))
        yield Obligation("every key", (*tokens, k * L >= n - 1 - sinks), self.reached(i, j, L))
        fewer = Or(layers <= 1, k * (layers - 1) < n - 1 - sinks)
        yield Obligation("one fewer is not enough", start, fewer)
        yield Obligation("then one key is missing", (*start, k * L < n - 1 - sinks), Not(self.reached(n - 1, sinks, L)))


@dataclass(frozen=True)
class BaseLags(Family):
    """Layer l = 0, 1, ... attends the lags 0, b^l, 2 b^l, ..., (b - 1) b^l: digits of the lag in base b."""

    base: sympy.Expr
    shown: ClassVar[str] = "a lag below base^L is a sum of one multiple of each power: its digits"

    @property
    def needs(self) -> tuple[Condition, ...]:
        return (self.base >= 2,)

    def closed_form(self) -> Iterator[Obligation]:
        b, power = self.base, internal("power")  # power = base^L, and base^(L + 1) = base * power
        start = (*self.needs, power >= 1)
        grown = And(0 <= x + power * t, x + power * t <= b * power - 1)
        room = power * (b - 1 - t) >= 0
        yield Obligation("a product of two that are >= 0", (*start, t <= b - 1), room)
        layer = (*start, 0 <= t, t <= b - 1, 0 <= x, x <= power - 1, room, power * t >= 0)
        yield Obligation("a product of two that are >= 0", (*start, t >= 0), power * t >= 0)
        yield Obligation("one more layer reaches no more", layer, grown)
        digit = internal("digit")
        split = (power * digit <= x, x <= power * digit + power - 1)
        beyond = Or(digit <= b - 1, power * digit >= power * b)
        yield Obligation("a digit too many is too much", start, beyond)
        below = Or(digit >= 0, power * digit <= -power)
        yield Obligation("a digit too few is too little", start, below)
        rest = x - power * digit
        back = And(0 <= digit, digit <= b - 1, 0 <= rest, rest <= power - 1)
        yield Obligation("one more layer reaches it", (*start, *split, beyond, below, 0 <= x, x <= b * power - 1), back)

    def answer(self, quantity: str) -> Answer:
        far = self.base**L - 1
        if quantity in ("farthest", "contiguous"):
            return Answer(far, (L >= 0, n > far if quantity == "farthest" else n > far + 1))
        return Answer(sympy.Max(1, CeilLog(self.base, n)), (n >= 1,), "the least L >= 1 with base^L >= n")

    def theorem(self, quantity: str) -> Iterator[Obligation]:
        # L layers reach exactly 0 .. base^L - 1: the formulas say nothing else
        wanted = sympy.Max(1, CeilLog(self.base, n)) if quantity == "depth" else self.base**L - 1
        yield Obligation("the answer", (), sympy.true if self.answer(quantity).expr == wanted else sympy.false)
