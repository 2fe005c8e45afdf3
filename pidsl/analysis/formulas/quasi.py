"""Quasi-polynomials of one variable: from enough values to a formula that people read.

A quasi-polynomial of degree d and period p is one polynomial of degree d for each residue of n mod p, so d + 1 values
per residue determine it. Where a periodic coefficient is made of a few ramps it is written with floor:

    n**2/256 + r*(256 - r)/256  with r = n mod 256   ->   n + 2*n*q - 256*q**2 - 256*q  with q = floor(n/256)

Those of degree 1 are written with floors of n alone, so that isl reads them: `affine`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from math import lcm
from typing import TypeVar

import sympy

from pidsl.analysis.formulas.words import Periodic, Table

T = TypeVar("T")
RAMPS = 4  # most kinks of a periodic coefficient that is written with floors
SHORT = 6  # a period up to which a list of numbers reads as well as floors with several kinks


@dataclass(frozen=True, slots=True)
class Quasi:
    """(square[r] n^2 + linear[r] n + constant[r]) / bottom, with r = n mod the period of each list.

    Args:
        square: numerators of n^2 by residue; a list as short as its own period.
        linear: of n.
        constant: of 1.
        bottom: the denominator.
    """

    square: tuple[int, ...]
    linear: tuple[int, ...]
    constant: tuple[int, ...]
    bottom: int

    def __call__(self, n: int) -> int:
        a, b, c = (x[n % len(x)] for x in (self.square, self.linear, self.constant))
        return ((a * n + b) * n + c) // self.bottom

    @property
    def period(self) -> int:
        return max(map(len, (self.square, self.linear, self.constant)))


def interpolate(values: Sequence[int], start: int, period: int, degree: int = 2) -> Quasi:
    """The quasi-polynomial of a degree <= 2 with these values at start, ..., start + (degree + 1) period - 1."""
    bottom = 2 * period * period
    square, linear, constant = [0] * period, [0] * period, [0] * period
    for k in range(period):
        n, v = start + k, int(values[k])
        first = int(values[k + period]) - v
        second = int(values[k + 2 * period]) - int(values[k + period]) - first if degree == 2 else 0
        r = n % period
        # Newton: v + (x - n)/p first + (x - n)(x - n - p)/(2 p^2) second
        square[r] = second
        linear[r] = 2 * period * first - (2 * n + period) * second
        constant[r] = bottom * v - 2 * period * n * first + n * (n + period) * second
    return Quasi(_shortest(square), _shortest(linear), _shortest(constant), bottom)


def _shortest(values: list[T]) -> tuple[T, ...]:
    period = len(values)
    for p in _divisors(period):
        if all(values[k] == values[k - p] for k in range(p, period)):
            return tuple(values[:p])
    return tuple(values)


def _divisors(x: int) -> list[int]:
    return [d for d in range(1, x + 1) if x % d == 0]


def formula(q: Quasi, x: sympy.Symbol) -> tuple[sympy.Expr, int]:
    """The quasi-polynomial as an expression in x, and how many numbers it lists one by one."""
    total, listed = sympy.Integer(0), 0
    for values, power in ((q.square, 2), (q.linear, 1), (q.constant, 0)):
        coefficient, count = _coefficient(values, q.bottom, x)
        total += coefficient * x**power
        listed += count
    return sympy.expand(total), listed


def _coefficient(values: tuple[int, ...], bottom: int, x: sympy.Symbol) -> tuple[sympy.Expr, int]:
    """A periodic number as a sum of ramps (x + s) mod p and of their squares, or as a list."""
    if len(values) == 1:
        return sympy.Rational(values[0], bottom), 0
    ramps = _ramps(values, 2 if len(values) <= SHORT else RAMPS)
    if ramps is None:
        return _listed(values, bottom, x), len(values)
    return _added(ramps, len(values), bottom, x), 0


def _listed(values: Sequence[int], bottom: int, x: sympy.Symbol) -> sympy.Expr:
    return Periodic(x, *(sympy.Rational(v, bottom) for v in values))


def _added(ramps: Ramps, p: int, bottom: int, x: sympy.Symbol) -> sympy.Expr:
    total = _rational(ramps[0] / bottom)
    for shift, slope, square in ramps[1]:
        r = x + shift - p * sympy.floor((x + shift) / sympy.Integer(p))
        total += _rational(slope / bottom) * r + _rational(square / bottom) * r**2
    return sympy.expand(total)


def affine(
    values: Sequence[int | None], start: int, period: int, x: sympy.Symbol, missing: sympy.Expr
) -> sympy.Expr:  # fmt: skip
    """What has these values at start, ..., start + 2 period - 1 and grows evenly in each class; None is `missing`.

    >>> x = sympy.Symbol("x", integer=True)
    >>> affine([0, 0, 1, 1], 0, 2, x, sympy.oo), affine([0, None, 3, None], 0, 2, x, sympy.oo)
    (floor(x/2), x*Periodic(x, 3/2, 0) + Periodic(x, 0, oo))
    """
    rule = interpolate([v or 0 for v in values], start, period, 1)
    linear = _listed(rule.linear, rule.bottom, x)
    if None not in values[:period]:
        constant = None
        if linear.is_Rational and len(rule.constant) > 1:
            constant = _ramp(rule.constant, rule.linear[0], rule.bottom, x)
            if linear == 1 and constant is None and (capped := _capped(rule.constant, rule.bottom, x)) is not None:
                return capped
        return sympy.expand(linear * x + (_listed(rule.constant, rule.bottom, x) if constant is None else constant))
    known = [rule.constant[(start + k) % len(rule.constant)] for k in range(period)]
    each = [missing if v is None else sympy.Rational(c, rule.bottom) for v, c in zip(values, known, strict=False)]
    return linear * x + Periodic(x, *_shortest([each[(r - start) % period] for r in range(period)]))


def _ramp(values: tuple[int, ...], slope: int, bottom: int, x: sympy.Symbol) -> sympy.Expr | None:
    """A periodic number as one ramp, without its square; of two that do, the one whose jump is the larger in all."""
    steps = _steps(values)
    for base in sorted(set(steps), key=lambda step: abs(slope + step)):
        if steps.count(base) == len(steps) - 1:
            kink = next(k for k, step in enumerate(steps) if step != base) + 1
            one = (_shift(kink, len(values)), Fraction(base), Fraction(0))
            return _added((Fraction(values[kink % len(values)]), [one]), len(values), bottom, x)
    return None


def _capped(values: tuple[int, ...], bottom: int, x: sympy.Symbol) -> sympy.Expr | None:
    """`x + values[x mod p]` as `Min(x + a, p floor((x + b)/p) + c)`: in a period a jump, steps of 1, then none."""
    p, steps = len(values), _steps(values)
    jumps = [k for k, step in enumerate(steps) if step > 0]
    if len(jumps) != 1:
        return None
    after = steps[jumps[0] + 1 :] + steps[: jumps[0]]
    ones = after.count(0)
    if after != [0] * ones + [-bottom] * (p - 1 - ones):
        return None
    start = (jumps[0] + 1) % p
    more = sympy.Rational(values[start], bottom)
    return sympy.Min(x + more, p * sympy.floor((x - start) / sympy.Integer(p)) + start + more + ones)


def _steps(values: tuple[int, ...]) -> list[int]:
    return [b - a for a, b in zip(values, (*values[1:], values[0]), strict=True)]


Ramps = tuple[Fraction, list[tuple[int, Fraction, Fraction]]]


def _ramps(values: tuple[int, ...], most: int) -> Ramps | None:
    """`values[x mod p] = c + sum of slope * ((x + s) mod p) + square * ((x + s) mod p)^2`: c and (s, slope, square)."""
    p = len(values)
    if p < 3:
        return Fraction(values[0]), [(0, Fraction(values[1] - values[0]), Fraction(0))]
    bent = [bool(values[(k + 3) % p] - 3 * values[(k + 2) % p] + 3 * values[(k + 1) % p] - values[k]) for k in range(p)]
    if sum(bent) > 3 * most:
        return None
    places = _kinks(bent)
    for count in range(1, most + 1):
        for kinks in combinations(places, count):
            if (found := _solve(values, kinks)) is not None:
                return found
    return None


def _kinks(bent: list[bool]) -> list[int]:
    """Where a periodic sequence may turn from one parabola to the next, given where its third difference is not 0.

    A parabola may also fit the first value of the next one, so both places are given; those that make for small
    shifts come first.
    """
    p = len(bent)
    if not any(bent):
        return [0]
    lengths, run = [0] * p, 0
    for k in range(2 * p):
        run = 0 if bent[k % p] else run + 1
        lengths[k % p] = run
    at = max(range(p), key=lengths.__getitem__) + 4  # the first value that misses the longest parabola
    found = set()
    for overlap in (1, 0):
        kinks, begin = [at], -overlap
        for k in range(1, p):
            if k - begin >= 3 and bent[(at + k - 3) % p]:
                kinks.append(at + k)
                begin = k - overlap
        if len(kinks) <= RAMPS:
            found |= {(kink - earlier) % p for kink in kinks for earlier in (0, 1)}
    return sorted(found, key=lambda kink: (min(kink, p - kink), kink))


def _solve(values: tuple[int, ...], kinks: tuple[int, ...]) -> Ramps | None:
    """Ramps that begin at the kinks and sum to the values."""
    p = len(values)
    near = sorted({(kink + d) % p for kink in kinks for d in range(-1, 4)})
    pivots: list[tuple[int, list[Fraction]]] = []
    width = 2 * len(kinks) + 1
    for x in near:  # Gauss-Jordan, row by row
        row = [Fraction(1)]
        for kink in kinks:
            r = (x - kink) % p
            row += [Fraction(r), Fraction(r * r)]
        row.append(Fraction(values[x]))
        for column, pivot in pivots:
            if row[column]:
                row = [a - row[column] * b for a, b in zip(row, pivot, strict=True)]
        lead = next((c for c in range(width) if row[c]), None)
        if lead is None:
            if row[width]:
                return None
            continue
        row = [a / row[lead] for a in row]
        pivots = [
            (c, [a - other[lead] * b for a, b in zip(other, row, strict=True)] if other[lead] else other)
            for c, other in pivots
        ]
        pivots.append((lead, row))
    solution = [Fraction(0)] * width
    for column, row in pivots:
        solution[column] = row[width]
    whole = lcm(*(s.denominator for s in solution))
    weights = [int(s * whole) for s in solution]
    for x in range(p):
        total = weights[0]
        for k, kink in enumerate(kinks):
            r = (x - kink) % p
            total += (weights[1 + 2 * k] + weights[2 + 2 * k] * r) * r
        if total != whole * values[x]:
            return None
    ramps = []
    for k, kink in enumerate(kinks):
        slope, square = solution[1 + 2 * k], solution[2 + 2 * k]
        if slope or square:
            ramps.append((_shift(kink, p), slope, square))
    return solution[0], ramps


def _shift(kink: int, p: int) -> int:
    """What is added to x for a ramp that begins at x = kink, the least there is."""
    shift = -kink % p
    return shift - p if shift > p // 2 else shift


def _rational(x: Fraction) -> sympy.Rational:
    return sympy.Rational(x.numerator, x.denominator)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Values on start <= n < stop: a quasi-polynomial, or one by one.

    Args:
        start: first n.
        stop: one after the last; None for all that follow.
        rule: the quasi-polynomial, or None.
        values: the values, where there is no rule.
    """

    start: int
    stop: int | None
    rule: Quasi | None
    values: tuple[int, ...] = ()


def value(stretches: Sequence[Stretch], x: int) -> int:
    """The value at x."""
    s = stretches[bisect_right(stretches, x, key=lambda s: s.start) - 1]
    return s.rule(x) if s.rule is not None else s.values[x - s.start]


def merged(stretches: Sequence[Stretch]) -> list[Stretch]:
    """Fewer stretches with the same values: a rule reaches as far down and up as it holds.

    `[0..3: 0, 1, 3], [3..: n(n-1)/2] -> [0..: n(n-1)/2]`
    """
    found: list[Stretch] = []
    for s in reversed(stretches):
        if not found:
            found.append(s)
            continue
        after = found[-1]
        if s.rule is not None:
            if after.rule is not None and s.rule == after.rule:
                found[-1] = Stretch(s.start, after.stop, s.rule)
            elif after.rule is None and after.stop is not None:  # values that the rule below them gives too
                count = 0
                while count < len(after.values) and s.rule(after.start + count) == after.values[count]:
                    count += 1
                stop = after.start + count
                if count:
                    found.pop()
                    if count < len(after.values):
                        found.append(Stretch(stop, after.stop, None, after.values[count:]))
                    elif found and found[-1].rule == s.rule:
                        found[-1] = Stretch(s.start, found[-1].stop, s.rule)
                        continue
                found.append(Stretch(s.start, stop, s.rule))
            else:
                found.append(s)
            continue
        values = list(s.values)
        start = after.start
        if after.rule is not None:
            while values and after.rule(s.start + len(values) - 1) == values[-1]:
                values.pop()
                start -= 1
            found[-1] = Stretch(start, after.stop, after.rule)
            if values:
                found.append(Stretch(s.start, start, None, tuple(values)))
        else:
            found[-1] = Stretch(s.start, after.stop, None, (*values, *after.values))
    return found[::-1]


def expression(stretches: Sequence[Stretch], x: sympy.Symbol) -> tuple[sympy.Expr, int]:
    """All stretches, from 0 on, as one expression in x, and how many numbers it lists one by one."""
    cases, listed = [], 0
    for s in stretches:
        if s.rule is not None:
            expr, count = formula(s.rule, x)
        else:
            expr, count = _short(s, x)
        listed += count
        cases.append((expr, True if s.stop is None else x < s.stop))
    return (sympy.Piecewise(*cases) if len(cases) > 1 else cases[0][0]), listed


def _short(s: Stretch, x: sympy.Symbol) -> tuple[sympy.Expr, int]:
    """A few values: a polynomial if one fits without odd fractions, else a list."""
    first, *rest = s.values
    step = rest[0] - first if rest else 0
    bend = rest[1] - rest[0] - step if len(rest) > 1 else 0
    # first + t step + t (t - 1)/2 bend, with t = x - start
    if all(first + t * step + t * (t - 1) // 2 * bend == v for t, v in enumerate(s.values)):
        t = x - s.start
        return sympy.expand(first + t * step + t * (t - 1) * sympy.Rational(bend, 2)), 0
    return Table(x - s.start if s.start else x, *s.values), len(s.values)
