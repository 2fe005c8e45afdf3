"""Sums of lags: what any number of layers connect whose pairs are a matter of the lag alone.

Let A be the lags i - j of a layer. Where they have one sign, or there are at least max A - min A tokens, L layers
connect i with j exactly when i - j is a sum of L lags: they can be taken in such an order that the path stays among the
tokens. From a position >= max A every lag behind leads to a token, from an earlier one every lag ahead does; a path
goes behind or ahead as it can, and once one kind is left it goes straight to j.

Theorem (`Sums`). Let A = a + g B with 0 and m the ends of B, whose elements have no common divisor. Sums of any number
of elements of B are `low` and all numbers from `first` on; of elements of m - B, `high` and all from `last` on. Sums
of L elements are among

    F(L) = { x : x is a sum of elements of B, and m L - x one of elements of m - B }

and if for some l with m l - last - first + 1 >= m they are all of F(l), they are all of F(L) for every L >= l: with 0
and m in B, sums of L + 1 elements hold those of L and these moved by m.

Theorem (`Staircase`). If A holds 0 and 1 and M = max A, all lags up to c(L) are sums of L of them and c(L) + 1 is not.
With last - 1 no sum of numbers M - d, c(L) <= M L - last for every L; and once c(l) is that and >= M - 1, c(L) is that
for all L >= l. Where A is infinite, d in A when d + period is for d >= start, everything is a sum of l lags if l - 1
reach period - 1 and l the first lag from start on; or if sums of l lags are everything up to a period beyond
l (start + period), from where on they repeat.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from math import gcd

import islpy as isl
import sympy

from pidsl.analysis.formulas.piecewise import Branch
from pidsl.analysis.formulas.words import L, n
from pidsl.errors import TooHardError
from pidsl.relation.isl import CONTEXT, read_set

Intervals = tuple[tuple[int, int], ...]  # disjoint, ascending, both ends included, none touching the next
Line = tuple[int, int]  # (slope, offset): slope L - offset
MANY = 40_000  # intervals
CASES = 16  # of a formula in L


def merged(parts: Iterable[tuple[int, int]]) -> Intervals:
    """Any intervals, sorted and joined.

    >>> merged([(5, 6), (0, 1), (2, 2)])
    ((0, 2), (5, 6))
    """
    out: list[tuple[int, int]] = []
    for low, high in sorted(parts):
        if out and low <= out[-1][1] + 1:
            out[-1] = (out[-1][0], max(out[-1][1], high))
        else:
            out.append((low, high))
    if len(out) > MANY:
        raise TooHardError(f"{len(out)} intervals of lags", f"at most {MANY}")
    return tuple(out)


def normal(lags: Intervals) -> tuple[int, int, Intervals]:
    """The least lag a, the step g and B of lags = a + g B.

    >>> normal(((-2, -2), (4, 4), (10, 10)))
    (-2, 6, ((0, 2),))
    """
    least = lags[0][0]
    step = gcd(*(x - least for low, high in lags for x in (low, min(low + 1, high)))) or 1
    return least, step, merged(((low - least) // step, (high - least) // step) for low, high in lags)


def mirrored(parts: Intervals) -> Intervals:
    """m - B, of a B that begins at 0 and ends at m."""
    return tuple((parts[-1][1] - high, parts[-1][1] - low) for low, high in reversed(parts))


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums of L lags, for every L >= layers.

    Args:
        least, step, top: a, g and m.
        low, first: the sums of elements of B.
        high, last: the sums of elements of m - B.
        layers: the L from which on the sums are F(L).
    """

    least: int
    step: int
    top: int
    low: Intervals
    first: int
    high: Intervals
    last: int
    layers: int

    def elements(self, layers: int) -> Intervals:
        """F(L)."""
        all_ = self.top * layers
        middle = [(self.first, all_ - self.last)] if self.first <= all_ - self.last else []
        return merged([*self.low, *middle, *((all_ - b, all_ - a) for a, b in self.high)])

    def lags(self, early: Iterable[Intervals]) -> isl.Set:
        """`[n, L] -> { [d] }`, d a sum of L lags, if `early` are the sums of 0, 1, ... elements of B before."""
        here = f"L >= {self.layers}"
        texts = [f"{here} and {self.first} <= x <= {self.top} L - {self.last}"]
        texts += [f"{here} and {a} <= x <= {b}" for a, b in self.low]
        texts += [f"{here} and {self.top} L - {b} <= x <= {self.top} L - {a}" for a, b in self.high]
        texts += [f"L = {k} and {a} <= x <= {b}" for k, parts in enumerate(early) for a, b in parts]
        each = (f"[d] : exists x : d = {self.least} L + {self.step} x and {text}" for text in texts)
        return read_set(f"[n, L] -> {{ {'; '.join(each)} }}").coalesce()


@dataclass(frozen=True, slots=True)
class Staircase:
    """c(L): L layers connect every lag up to it, and not the next (on both sides, where both are asked for).

    Args:
        first: c(0), c(1), ..., c(l - 1).
        lines: c(L) for L >= l is the least of slope L - offset; with no line, everything.
    """

    first: tuple[int, ...]
    lines: tuple[Line, ...]

    def runs(self) -> Iterator[tuple[int, int, int, int]]:
        """(k, c(k), step, last): c grows by the step from k to last, both included."""
        c, k = self.first, 0
        while k < len(c):
            step, last = (c[k + 1] - c[k] if k + 1 < len(c) else 0), k
            while last + 1 < len(c) and c[last + 1] - c[last] == step:
                last += 1
            yield k, c[k], step if last > k else 0, last
            k = last + 1

    def formula(self) -> sympy.Expr:
        """The least of c(L) and n - 1, the largest lag there is.

        >>> Staircase((0, 4, 8), ((16, 36),)).formula()
        Min(n - 1, Piecewise((16*L - 36, L >= 3), (4*L, True)))
        """
        branches: list[Branch] = [(value + step * (L - at), at) for at, value, step, _ in self.runs()]
        branches += [(slope * L - offset, len(self.first)) for slope, offset in self.lines]
        kept: list[Branch] = []
        for expr, at in branches:
            while at and expr.subs(L, at - 1) == self.first[at - 1]:
                at -= 1
            while kept and kept[-1][1] >= at:
                kept.pop()
            kept.append((sympy.expand(expr), at))
        if len(kept) > CASES:
            raise TooHardError(f"a formula in L of {len(kept)} cases", f"at most {CASES}")
        cases = [(expr, sympy.Ge(L, at)) for expr, at in reversed(kept[1:])]
        found = sympy.Piecewise(*cases, (kept[0][0], True)) if cases else kept[0][0]
        if any(expr.has(L) or expr > 0 for expr, _ in kept):
            found = sympy.Min(n - 1, found)
        return found if self.lines else sympy.Piecewise((n - 1, sympy.Ge(L, len(self.first))), (found, True))

    def value(self) -> isl.PwAff:
        """The least of c(L) and n - 1, as `[n, L] -> { [value] }` for n >= 1."""
        pieces = [f"[({v - s * at} + {s} L)] : {at} <= L <= {last}" for at, v, s, last in self.runs()]
        tail = ", ".join(f"{slope} L - {offset}" for slope, offset in self.lines) or "n - 1"
        pieces.append(f"[(min({tail}, n - 1))] : L >= {len(self.first)}")
        whole = isl.PwAff.read_from_str(CONTEXT, f"[n, L] -> {{ {'; '.join(pieces)} }}")
        return whole.min(isl.PwAff.read_from_str(CONTEXT, "[n, L] -> { [(n - 1)] : n >= 1 and L >= 0 }"))

    def least(self, tokens: int) -> sympy.Expr:
        """The least L >= 1 with c(L) >= tokens - 1; oo where there is none."""
        for layers in range(1, len(self.first)):
            if self.first[layers] >= tokens - 1:
                return sympy.Integer(layers)
        if any(slope == 0 and -offset < tokens - 1 for slope, offset in self.lines):
            return sympy.oo
        needed = (-(-(tokens - 1 + offset) // slope) for slope, offset in self.lines if slope)
        return sympy.Integer(max(len(self.first), 1, *needed))

    def depth(self) -> isl.PwAff:
        """The least L >= 1 with c(L) >= n - 1, as `[n] -> { [L] }` for n >= 1; no value where there is none."""
        pieces, low = [], 1
        for at, value, step, last in self._rises():
            if at and value + 1 >= low:
                pieces.append(f"[({at})] : {low} <= n <= {value + 1}")
                low = value + 2
            if (most := value + step * (last - at) + 1) >= low:
                pieces.append(f"[({at + 1} + floor((n - {value + 2})/{step}))] : {low} <= n <= {most}")
                low = most + 1
        needed = [f"floor((n + {offset + slope - 2})/{slope})" for slope, offset in self.lines if slope]
        bounds = "".join(f" and n - 1 <= {-offset}" for slope, offset in self.lines if slope == 0)
        least = ", ".join([str(max(len(self.first), 1)), *needed])
        pieces.append(f"[({f'max({least})' if needed else least})] : n >= {low}{bounds}")
        return isl.PwAff.read_from_str(CONTEXT, f"[n] -> {{ {'; '.join(pieces)} }}")

    def inverse(self) -> list[Branch]:
        """The same as formulas in n, each with the n from which on it holds.

        While each layer adds the same `step` lags, n - 1 needs a layer more for each `step` of it, rounded up.

        >>> Staircase((0, 5), ((14, 14),)).inverse()
        [(1, 1), (2, 7), (ceiling(n/14 + 13/14), 16)]
        """
        found: list[Branch] = []
        top = -1  # lags up to here are connected by one layer more than before
        for at, value, step, last in self._rises():
            if at and value > top:
                found.append((sympy.Integer(at), top + 2))
                top = value
            if last - at > 2 and step:
                found.append((sympy.ceiling((n - 1 - value + at * step) / sympy.Integer(step)), top + 2))
            elif step:
                found += [(sympy.Integer(at + k), value + (k - 1) * step + 2) for k in range(1, last - at + 1)]
            top = max(top, value + step * (last - at))
        layers = max(len(self.first), 1)
        if not self.lines:
            return [*found, (sympy.Integer(layers), top + 2)]
        if (reached := min(slope * layers - offset for slope, offset in self.lines)) > top:
            found.append((sympy.Integer(layers), top + 2))
            top = reached
        needed = [sympy.ceiling((n - 1 + b) / sympy.Integer(a)) if a else sympy.oo for a, b in self._steepest(top + 1)]
        found.append((sympy.Max(*needed), top + 2))
        return found

    def _rises(self) -> Iterator[tuple[int, int, int, int]]:
        """The runs of what 1, 2, ... layers have reached, where c falls again too; -1 before them."""
        return Staircase((-1, *accumulate(self.first[1:], max)), ()).runs()

    def _steepest(self, lag: int) -> list[Line]:
        """The lines that are the least somewhere, where c(L) is at least the lag."""
        lines = sorted(set(self.lines))
        if len(lines) < 2 or 0 in (lines[0][0], lines[1][0]):
            return lines[:1]
        (a, b), (c, d) = lines
        if a == c:
            return lines[1:]
        return lines[:1] if (lag + b) * c >= (lag + d) * a else lines


def both_ways(sums: Sums, early: Iterable[Intervals], *, ahead: bool = True) -> Staircase:
    """The lags that sums of L lags hold without a gap, of lags without a common divisor that look both ways.

    Args:
        sums, early: what is so of the sums.
        ahead: count lags on both sides, those of keys ahead too.
    """
    b, a = -sums.least, sums.top + sums.least
    regular = sums.layers if ahead else max(sums.layers, -(-sums.first // b), -(-sums.last // a))  # 0 in the middle
    parts = [*early, *(sums.elements(k) for k in range(sums.layers, regular))]
    first = [
        max((min(high - b * k, b * k - low if ahead else high) for low, high in x if low <= b * k <= high), default=-1)
        for k, x in enumerate(parts)
    ]
    return Staircase(tuple(first), ((b, sums.first), (a, sums.last)) if ahead else ((a, sums.last),))
