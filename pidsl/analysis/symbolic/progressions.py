"""Patterns that depend on the lag alone, with symbols, as arithmetic progressions that formulas are made of.

    window(k)                     past 0, 1, ..., k
    stride(p) & causal            past 0, p, 2 p, ...
    (window(k) | lags(p)).T       future 1, ..., k and p

Nothing here is part of a proof: what terms mean is in `definition`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from math import lcm

import sympy

from pidsl.analysis.domains import domain
from pidsl.analysis.formulas import smt
from pidsl.analysis.formulas.smtlib import Condition
from pidsl.analysis.formulas.words import extreme, from_index
from pidsl.analysis.symbolic.definition import NotByLag
from pidsl.errors import TooHardError
from pidsl.language.terms import (
    Causal,
    Dilated,
    Empty,
    Full,
    Intersection,
    Keys,
    Lags,
    Shift,
    Stride,
    Term,
    Transpose,
    Union,
    Window,
)
from pidsl.language.trees import Steps, run


@dataclass(frozen=True, slots=True)
class Progression:
    """The lags start, start + step, ... up to `last` (None: without end); start >= 0."""

    start: sympy.Expr
    step: sympy.Expr
    last: sympy.Expr | None

    @property
    def is_single(self) -> bool:
        return self.last is not None and sympy.expand(self.last - self.start) == 0


@dataclass(frozen=True, slots=True)
class Sides:
    """Lags >= 0, and the negatives of lags < 0."""

    past: tuple[Progression, ...]
    future: tuple[Progression, ...]


@dataclass
class Reader:
    """Turns terms into progressions, under assumptions that it may have to add to.

    Attributes:
        known: the assumptions so far, those of the term's own domain first.
        chosen: those that were added because a formula needs them: `p > k`.
    """

    known: list[Condition]
    chosen: list[Condition]

    @staticmethod
    def of(term: Term, assume: Iterable[Condition] = ()) -> Reader:
        return Reader([*domain(term), *assume], [])

    def sides(self, term: Term) -> Sides:
        """The lags of a term.

        Raises:
            NotByLag: they are no progressions, or it takes numbers to tell.
        """
        return run(self._sides(term))

    def _sides(self, term: Term) -> Steps[Sides]:
        zero, one = sympy.Integer(0), sympy.Integer(1)
        match term:
            case Full():
                return Sides((Progression(zero, one, None),), (Progression(one, one, None),))
            case Empty():
                return Sides((), ())
            case Causal():
                return Sides((Progression(zero, one, None),), ())
            case Window(left, right):
                future = () if right == 0 else (Progression(one, one, from_index(right)),)
                return Sides((Progression(zero, one, from_index(left)),), future)
            case Stride(period, phase):
                p, start = from_index(period), from_index(phase)
                return Sides((Progression(start, p, None),), (Progression(p - start, p, None),))
            case Lags(values):
                return self._lags([from_index(v) for v in dict.fromkeys(values)])
            case Union(a, b):
                x, y = (yield self._sides(a)), (yield self._sides(b))
                return Sides(_merged(x.past, y.past), _merged(x.future, y.future))
            case Intersection(a, b):
                x, y = (yield self._sides(a)), (yield self._sides(b))
                return Sides(self._common(x.past, y.past), self._common(x.future, y.future))
            case Transpose(a):
                return self._transposed((yield self._sides(a)))
            case Dilated(a, step):
                s = from_index(step)
                x = yield self._sides(a)
                return Sides(tuple(_scaled(p, s) for p in x.past), tuple(_scaled(p, s) for p in x.future))
            case Shift(a, by):
                b, x = from_index(by), (yield self._sides(a))
                if x.future or self.certain(b < 0):
                    raise NotByLag(f"{term!r} moves keys across lag 0")
                self.choose(b >= 0)  # a symbolic shift moves into the past
                moved = (replace(p, start=p.start + b, last=None if p.last is None else p.last + b) for p in x.past)
                return Sides(tuple(moved), ())
            case _:
                raise NotByLag(f"{term!r} is not told by progressions of lags")

    def certain(self, condition: Condition) -> bool:
        """Whether a condition follows from what is known."""
        return smt.follows(self.known, condition)

    def choose(self, condition: Condition) -> None:
        """Assume a condition from now on, and say so.

        Raises:
            NotByLag: what is known excludes it.
        """
        if not self.certain(condition):
            if self.certain(sympy.Not(condition)):
                raise NotByLag(f"the formula known needs {condition}, which the assumptions exclude")
            self.known.append(condition)
            self.chosen.append(condition)

    def _lags(self, values: list[sympy.Expr]) -> Sides:
        past, future = [], []
        for v in values:
            if not self.certain(v >= 0) and not self.certain(v < 0):
                self.choose(v >= 1)  # a symbolic lag looks back
            if self.certain(v >= 0):
                past.append(Progression(v, sympy.Integer(1), v))
            else:
                future.append(Progression(-v, sympy.Integer(1), -v))
        return Sides(tuple(past), tuple(future))

    def _common(self, xs: tuple[Progression, ...], ys: tuple[Progression, ...]) -> tuple[Progression, ...]:
        found = (self.common(x, y) for x in xs for y in ys)
        return tuple(p for p in found if p is not None)

    def _transposed(self, x: Sides) -> Sides:
        """Lag 0 stays in the past."""
        zero = sympy.Integer(0)
        past: list[Progression] = list(x.future)
        future = []
        for p in x.past:
            if self.certain(p.start >= 1):
                future.append(p)
                continue
            if not self.certain(sympy.Eq(p.start, 0)):
                raise NotByLag("a progression that may or may not begin at lag 0")
            past.append(Progression(zero, sympy.Integer(1), zero))
            if not p.is_single:
                future.append(replace(p, start=p.start + p.step))
        return Sides(tuple(past), tuple(future))

    def common(self, x: Progression, y: Progression) -> Progression | None:
        """The lags of both; None for none.

        Raises:
            NotByLag: it depends on the symbols.
        """
        if y.is_single or (x.step == 1 and not x.is_single):
            x, y = y, x
        if x.is_single:
            return self._single(x, y)
        last = _least(x.last, y.last)
        if y.step == 1:
            start = x.start
            if not self.certain(y.start <= x.start):
                if not self.certain(y.start >= x.start):
                    raise NotByLag(f"the order of the lags {x.start} and {y.start}")
                start = x.start + x.step * sympy.ceiling((y.start - x.start) / x.step)
            return _short(Progression(start, x.step, last))
        if sympy.expand(x.step - y.step) == 0:
            apart = sympy.expand(x.start - y.start)
            if apart == 0:
                return Progression(x.start, x.step, last)
            inside = sympy.Eq(sympy.Mod(apart, x.step), 0)
            if self.certain(sympy.Not(inside)):
                return None
            if self.certain(inside):
                return Progression(sympy.Max(x.start, y.start), x.step, last)
        if all(v.is_Integer for v in (x.start, x.step, y.start, y.step)):
            if (met := chinese(*map(int, (x.step, x.start, y.step, y.start)))) is None:
                return None
            step, rest = met
            least = max(x.start, y.start)
            return _short(Progression(least + (rest - least) % step, step, last))
        raise NotByLag(f"how progressions with steps {x.step} and {y.step} meet")

    def _single(self, x: Progression, y: Progression) -> Progression | None:
        """One lag and others. Where both are open, a single lag is taken to lie outside: it is no skip inside."""
        inside = [x.start >= y.start]
        if y.last is not None:
            inside.append(x.start <= y.last)
        if y.step != 1:
            inside.append(sympy.Eq(sympy.Mod(x.start - y.start, y.step), 0))
        inside = [c for c in inside if c != sympy.true]
        if sympy.false in inside or any(self.certain(sympy.Not(c)) for c in inside):
            return None
        if all(self.certain(c) for c in inside):
            return x
        if y.is_single:
            self.choose(sympy.Ne(x.start, y.start))
            return None
        if y.step == 1 and y.last is not None and self.certain(y.start <= x.start):
            self.choose(x.start > y.last)
            return None
        raise NotByLag(f"whether {x.start} is one of {y.start} + {y.step}*t")


def _merged(a: tuple[Progression, ...], b: tuple[Progression, ...]) -> tuple[Progression, ...]:
    return (*a, *(p for p in b if p not in a))


def _short(p: Progression) -> Progression | None:
    """With numbers: no lag, or one, where there is no room for more."""
    if p.last is None or not all(v.is_Integer for v in (p.start, p.step, p.last)) or p.last >= p.start + p.step:
        return p
    return Progression(p.start, sympy.Integer(1), p.start) if p.last >= p.start else None


def _scaled(p: Progression, s: sympy.Expr) -> Progression:
    return Progression(p.start * s, p.step * s, None if p.last is None else p.last * s)


def _least(a: sympy.Expr | None, b: sympy.Expr | None) -> sympy.Expr | None:
    if a is None or b is None:
        return b if a is None else a
    return sympy.Min(a, b)


def chinese(p: int, c: int, q: int, d: int) -> tuple[sympy.Expr, sympy.Expr] | None:
    """(s, r): the numbers that are c modulo p and d modulo q are r modulo s, 0 <= r < s; None for none."""
    step = lcm(p, q)
    start = next((v for v in range(c % p, step, p) if (v - d) % q == 0), None)
    return None if start is None else (sympy.Integer(step), sympy.Integer(start))


def by_first_keys(term: Term) -> list[tuple[sympy.Expr | None, Term]]:
    """Terms whose union this is: how many of the first keys each is about (None: all keys), and at which lags."""
    match term:
        case Keys(0, stop, 1) if stop is not None:
            return [(from_index(stop), Full())]
        case Union(a, b):
            return [*by_first_keys(a), *by_first_keys(b)]
        case Intersection(a, b):
            parts = [*product(by_first_keys(a), by_first_keys(b))]
            if any(first is not None for pair in parts for first, _ in pair):
                return [
                    (y if x is None else x if y is None else extreme(sympy.Min, x, y), p & q)
                    for (x, p), (y, q) in parts
                ]
    return [(None, term)]


def subsets(parts: tuple[Progression, ...], reader: Reader) -> Iterator[tuple[int, Progression]]:
    """Inclusion and exclusion: (sign, intersection) of every non-empty set of parts that meet.

    Raises:
        NotByLag: how some meet depends on the symbols.
        TooHardError: too many meet.
    """
    level: list[tuple[int, Progression, int]] = [(1, p, k) for k, p in enumerate(parts)]
    total = 0
    while level:
        following = []
        for sign, p, k in level:
            yield sign, p
            total += 1
            if total > 512:
                raise TooHardError("more than 512 intersections of progressions", "fewer parts")
            for more in range(k + 1, len(parts)):
                common = reader.common(p, parts[more])
                if common is not None:
                    following.append((-sign, common, more))
        level = following
