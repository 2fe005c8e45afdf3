"""Patterns between positions, lags and blocks, with symbols, as signed sums of corners: pairs and keys per query.

A corner is a condition that an earlier query, an earlier key and a smaller lag keep satisfying:

    i < f,  j < d,  i - j <= a,  i//s - j//s <= b,  and maybe i - j = c modulo p

Each word is a sum of corners, written [..] for 1 where it holds and 0 elsewhere, and so is what words make together:

    keys(0, s)          [j < s]                          not A        1 - A
    window(k)           [i - j <= k] - [i - j <= -1]     A and B      A B: the corner of all conditions of both
    blocks(s)           [i//s - j//s <= 0] - [.. <= -1]  A or B       A + B - A B

Query i has `row` keys in a corner, and the queries before f together have `area`; so pairs and degrees are such sums.

`differences` verifies that the term is the sum of its corners, what is in each, and that the formula is the sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import sympy

from pidsl.analysis.bound import Bound, Certificate, asking
from pidsl.analysis.domains import domain
from pidsl.analysis.formulas import smt
from pidsl.analysis.formulas.cases import by_cases
from pidsl.analysis.formulas.smtlib import Condition
from pidsl.analysis.formulas.words import extreme, from_index, i, n
from pidsl.analysis.symbolic.corner import ONE, ZERO, InBlocks, Lagged, Shape, fact_of
from pidsl.analysis.symbolic.definition import NotByLag
from pidsl.analysis.symbolic.differences import check_corners
from pidsl.analysis.symbolic.progressions import Reader, chinese
from pidsl.analysis.ways import Asked
from pidsl.errors import TooHardError
from pidsl.language.expr import Index
from pidsl.language.terms import (
    Blocked,
    Blocks,
    Causal,
    Complement,
    Difference,
    Dilated,
    Empty,
    Full,
    Intersection,
    Keys,
    Lags,
    Queries,
    Shift,
    Stride,
    SymmetricDifference,
    Term,
    Transpose,
    Union,
    Window,
)
from pidsl.language.trees import Steps, run

METHOD = "corners"
MOST = 200  # corners of a term
QUESTIONS = 300  # to z3, of a formula of many cases
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

    @property
    def shape(self) -> Shape:
        """What it is but for its ends.

        Raises:
            NotByLag: lags and blocks meet within a block, or blocks of different sizes.
        """
        lags, blocks = sorted(self.lags, key=str), sorted(self.blocks, key=str)
        if blocks:
            several = len({s for _, s in blocks}) > 1
            if lags or self.every or several:
                other = "blocks of another size" if several else "every so many lags"
                met = f"lags up to {lags[0]}" if lags else other
                raise NotByLag(f"how blocks of {blocks[0][1]} and {met} meet")
            return InBlocks(extreme(sympy.Min, *(b for b, _ in blocks)), blocks[0][1])
        last = extreme(sympy.Min, *lags) if lags else n - 1
        if self.every:
            return Lagged(last, *self.every)
        return Lagged(last) if lags else Shape()


Sum: TypeAlias = dict[Corner, int]
EVERYTHING = Corner()
Part: TypeAlias = tuple[int, sympy.Expr, sympy.Expr, Shape]


def _added(*parts: tuple[int, Sum]) -> Sum:
    total: Sum = {}
    for sign, part in parts:
        for corner, weight in part.items():
            total[corner] = total.get(corner, 0) + sign * weight
    return {corner: weight for corner, weight in total.items() if weight}


@dataclass
class Corners:
    """Turns terms into sums of corners, under assumptions that it may have to add to."""

    reader: Reader
    _known: dict[Condition, bool] = field(default_factory=dict)

    def of(self, term: Term) -> Sum:
        """The sum of corners of a term.

        Raises:
            NotByLag: it has none, or numbers for the symbols are needed to tell.
            TooHardError: it has too many.
        """
        return run(self._of(term))

    def _of(self, term: Term) -> Steps[Sum]:
        match term:
            case Full():
                return {EVERYTHING: 1}
            case Empty():
                return {}
            case Causal():
                return self._lags_from(ZERO)
            case Window(left, right):
                return _added((1, self._lags_to(from_index(left))), (-1, self._lags_to(-from_index(right) - 1)))
            case Lags(values):
                each = [_added((1, self._lags_to(v)), (-1, self._lags_to(v - 1))) for v in map(from_index, values)]
                return self._union(each)
            case Stride(period, phase):
                return {Corner(every=(from_index(period), from_index(phase))): 1}
            case Keys(start, stop, 1):
                return self._slice(start, stop, lambda bound: Corner(keys=frozenset({bound})))
            case Queries(start, stop, 1):
                return self._slice(start, stop, lambda bound: Corner(rows=frozenset({bound})))
            case Blocks(size):
                s = from_index(size)
                return {Corner(blocks=frozenset({(ZERO, s)})): 1, Corner(blocks=frozenset({(-ONE, s)})): -1}
            case Blocked(a, size):
                return _each((yield self._of(a)), lambda corner: self._blocked(corner, from_index(size)))
            case Dilated(a, step):
                return _each((yield self._of(a)), lambda corner: self._dilated(corner, from_index(step)))
            case Shift(a, by):
                return _each((yield self._of(a)), lambda corner: self._shifted(corner, from_index(by)))
            case Transpose(a):
                return self._transposed((yield self._of(a)))
            case Union(a, b):
                return self._union([(yield self._of(a)), (yield self._of(b))])
            case Intersection(a, b):
                return self._both((yield self._of(a)), (yield self._of(b)))
            case Difference(a, b):
                x, y = (yield self._of(a)), (yield self._of(b))
                return _added((1, x), (-1, self._both(x, y)))
            case SymmetricDifference(a, b):
                x, y = (yield self._of(a)), (yield self._of(b))
                return _added((1, x), (1, y), (-2, self._both(x, y)))
            case Complement(a):
                return _added((1, {EVERYTHING: 1}), (-1, (yield self._of(a))))
            case _:
                raise NotByLag(f"{term!r} is not told by positions, lags and blocks")

    def _lags_to(self, last: sympy.Expr) -> Sum:
        return {Corner(lags=frozenset({last})): 1}

    def _lags_from(self, first: sympy.Expr) -> Sum:
        return _added((1, {EVERYTHING: 1}), (-1, self._lags_to(first - 1)))

    def _slice(self, start: Index, stop: Index | None, corner: Callable[[sympy.Expr], Corner]) -> Sum:
        """Positions from start to stop, as slices of Python have them; those of symbols do not count from the end."""
        before = self._end(start)
        found: Sum = {EVERYTHING: 1} if stop is None else {corner(self._end(stop)): 1}
        return found if before == 0 else self._both(found, _added((1, {EVERYTHING: 1}), (-1, {corner(before): 1})))

    def _end(self, position: Index) -> sympy.Expr:
        found = from_index(position)
        if self.certain(found < 0):
            return n + found
        self.reader.choose(found >= 0)
        return found

    def _blocked(self, corner: Corner, size: sympy.Expr) -> Corner:
        ends = corner.rows | corner.keys
        if corner.every or any(n in end.free_symbols for end in ends):
            raise NotByLag("blocks of what counts from the end, or of every so many lags")
        return Corner(
            frozenset(end * size for end in corner.rows), frozenset(end * size for end in corner.keys),
            blocks=frozenset((a, size) for a in corner.lags) | {(b, s * size) for b, s in corner.blocks},
        )  # fmt: skip

    def _dilated(self, corner: Corner, step: sympy.Expr) -> Corner:
        if corner.rows or corner.keys or corner.blocks:
            raise NotByLag("every so many tokens of what looks at more than the lag")
        p, c = corner.every or (ONE, ZERO)
        return Corner(lags=frozenset(a * step for a in corner.lags), every=(p * step, c * step))

    def _shifted(self, corner: Corner, by: sympy.Expr) -> Corner:
        if corner.rows or corner.keys or corner.blocks:
            raise NotByLag("a shift of what looks at more than the lag")
        if corner.every and by != 0:
            raise NotByLag("a shift of every so many lags")
        return Corner(lags=frozenset(a + by for a in corner.lags), every=corner.every)

    def _transposed(self, of: Sum) -> Sum:
        """i - j <= a becomes j - i <= a, which is all but i - j <= -a - 1."""
        total: Sum = {}
        for corner, weight in of.items():
            every = corner.every
            if every is not None and every[1] != 0:
                every = (every[0], every[0] - every[1])
            found: Sum = {Corner(corner.keys, corner.rows, every=every): weight}
            for a in corner.lags:
                found = self._both(found, self._lags_from(-a))
            for b, s in corner.blocks:
                later: Sum = {EVERYTHING: 1, Corner(blocks=frozenset({(-b - 1, s)})): -1}
                found = self._both(found, later)
            total = _added((1, total), (1, found))
        return total

    def _union(self, parts: list[Sum]) -> Sum:
        found: Sum = {}
        for part in parts:
            found = _added((1, found), (1, part), (-1, self._both(found, part)))
        return found

    def _both(self, x: Sum, y: Sum) -> Sum:
        total: Sum = {}
        for a, v in x.items():
            for b, w in y.items():
                if (both := self._meet(a, b)) is not None:
                    total[both] = total.get(both, 0) + v * w
        total = {corner: weight for corner, weight in total.items() if weight}
        if len(total) > MOST:
            raise TooHardError(f"more than {MOST} corners", "fewer parts")
        return total

    def _meet(self, a: Corner, b: Corner) -> Corner | None:
        """The corner of all conditions of both, without those that follow from others; None for no pair."""
        every = a.every or b.every
        if a.every and b.every and a.every != b.every:
            (p, c), (q, d) = a.every, b.every
            if all(v.is_Integer for v in (p, c, q, d)):
                every = chinese(int(p), int(c), int(q), int(d))
                if every is None:
                    return None
            elif p == q and self.certain(sympy.Ne(c, d)):
                return None
            else:
                raise NotByLag(f"how lags {c} modulo {p} and {d} modulo {q} meet")
        rows, keys = self._least(a.rows | b.rows), self._least(a.keys | b.keys)
        if any(self.certain(end <= 0) for end in rows | keys):
            return None
        lags, blocks = self._least(a.lags | b.lags), a.blocks | b.blocks
        blocks = frozenset(
            (x, s) for x, s in blocks
            if not any(s == t and x != y and self.certain(y <= x) for y, t in blocks)
            and not any(self.certain(lag <= s * x) for lag in lags)  # i - j <= s x: then i//s - j//s <= x
        )  # fmt: skip
        # i//s - j//s <= x: then i - j <= s x + s - 1
        lags = frozenset(lag for lag in lags if not any(self.certain(lag >= s * x + s - 1) for x, s in blocks))
        return Corner(rows, keys, lags, blocks, every)

    def _least(self, bounds: Bounds) -> Bounds:
        kept: list[sympy.Expr] = []
        for x in sorted(bounds, key=str):
            if any(self.certain(y <= x) for y in kept):
                continue
            kept = [y for y in kept if not self.certain(x <= y)] + [x]
        return frozenset(kept)

    def certain(self, condition: Condition) -> bool:
        if condition in (sympy.true, sympy.false):
            return bool(condition)
        if condition not in self._known:
            self._known[condition] = smt.follows([*self.reader.known, n >= 0], condition)
        return self._known[condition]

    def parts(self, term: Term) -> list[Part]:
        """The corners of a term: how often each counts, its ends, and its shape."""
        corners = self.of(term)
        return [(weight, *self._ends(corner), corner.shape) for corner, weight in corners.items()]

    def _ends(self, corner: Corner) -> tuple[sympy.Expr, sympy.Expr]:
        found = []
        for bounds in (corner.rows, corner.keys):
            end = extreme(sympy.Min, *sorted(self._least(bounds | {n}), key=str))
            found.append(end if self.certain(end >= 0) else extreme(sympy.Max, ZERO, end))
        return found[0], found[1]


def row(part: Part) -> sympy.Expr:
    """How many keys query i < n has in a corner."""
    weight, f, d, shape = part
    found = shape.row(i, d)
    return weight * (found if f == n else sympy.Piecewise((found, i < f), (0, True)))


def area(part: Part) -> sympy.Expr:
    """How many pairs there are, of n queries and n keys."""
    weight, f, d, shape = part
    return weight * shape.area(f, d)


def _each(of: Sum, change: Callable[[Corner], Corner]) -> Sum:
    return _added(*((weight, {change(corner): 1}) for corner, weight in of.items()))


def pairs_by_corners(term: Term, assume: Iterable[Condition] = (), *, short: bool = False) -> Bound:
    """The number of attended pairs of n queries and n keys.

    Args:
        term: of positions, lags and blocks.
        assume: under these conditions.
        short: only in few cases; else as it was added up, where it has many.

    Raises:
        NotByLag: the term is no sum of corners, or one that cannot be counted.
        TooHardError: it has too many.
        TermError: contradictory assumptions.
    """
    return _counted(_total(term, "pairs", assume, area, ()), (n >= 0,), short)


def degree_by_corners(term: Term, assume: Iterable[Condition] = ()) -> Bound:
    """How many keys query i of n has. Args and errors as in `pairs_by_corners`."""
    rows = (i >= 0, i < n)
    return _counted(_total(term, "degree", assume, row, rows), rows)


def pairs(asked: Asked) -> Bound:
    """`pairs_by_corners` as a way."""
    return pairs_by_corners(asked.subject, asked.assume, short=asked.best is not None)


def degree(asked: Asked) -> Bound:
    """`degree_by_corners` as a way."""
    return degree_by_corners(asked.subject, asked.assume)


def _counted(bound: Bound, rows: tuple[Condition, ...], short: bool = False) -> Bound:
    """In few cases; else as it was added up, if z3 confirms that."""
    try:
        return replace(bound, expr=by_cases(bound.expr, (*bound.assumptions, *rows)))
    except TooHardError:
        if short:
            raise
    try:
        with smt.patience(QUESTIONS):
            holds = check_corners(bound).holds
    except TooHardError:
        holds = False
    if not holds:
        raise TooHardError(
            f"{bound.quantity} of {len(bound.expr.args)} parts that z3 does not confirm in time", "fewer"
        )
    return bound


def _total(
    term: Term, quantity: str, assume: Iterable[Condition], count: Callable[[Part], sympy.Expr],
    rows: tuple[Condition, ...],
) -> Bound:  # fmt: skip
    """The sum over the corners of a term, and the corners as facts."""
    given = tuple(assume)
    smt.require_consistent([*domain(term), *given])
    found = Corners(Reader.of(term, given))
    parts = found.parts(term)
    corners = tuple((weight, f, d, fact_of(shape)) for weight, f, d, shape in parts)
    certificate = Certificate(METHOD, (("corners", corners),))
    total = sympy.Add(*map(count, parts))
    return Bound(asking(term, quantity), "==", total, (*found.reader.known, *rows), certificate)
