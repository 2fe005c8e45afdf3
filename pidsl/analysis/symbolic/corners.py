"""Patterns between positions, lags and blocks, with symbols, as signed sums of corners: pairs and keys per query.

A corner is a condition that an earlier query, an earlier key and a smaller lag keep satisfying:

    i < f,  j < d,  i - j <= a,  i//s - j//s <= b,  and maybe i - j = c modulo p

Each word is a sum of corners, written [..] for 1 where it holds and 0 elsewhere, and so is what words make together:

    keys(0, s)          [j < s]                          not A        1 - A
    window(k)           [i - j <= k] - [i - j <= -1]     A and B      A B: the corner of all conditions of both
    blocks(s)           [i//s - j//s <= 0] - [.. <= -1]  A or B       A + B - A B

Query i has `row` keys in a corner, and the queries before f together have `area`; so pairs and degrees are such sums.

Proof: [the term attends (i, j)] is the sum of corners, from the definition of its words; a key more adds to `row` what
the corner says of it, a query more adds its row to `area`, and both begin at 0; the formula is the sum.
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
from pidsl.analysis.formulas.smtlib import Condition, Count
from pidsl.analysis.formulas.words import extreme, from_index, i, j, n
from pidsl.analysis.symbolic.corner import ONE, ZERO, Bounds, Corner, Progression, shape_of
from pidsl.analysis.symbolic.definition import NotByLag, attends
from pidsl.analysis.symbolic.lag_pairs import SIDES
from pidsl.analysis.symbolic.progressions import Reader
from pidsl.analysis.verdict import Verdict
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
Sum: TypeAlias = dict[Corner, int]
EVERYTHING = Corner()


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
                every = self._chinese(int(p), int(c), int(q), int(d))
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

    @staticmethod
    def _chinese(p: int, c: int, q: int, d: int) -> Progression | None:
        step = int(sympy.ilcm(p, q))
        start = next((v for v in range(c, step, p) if v % q == d), None)
        return None if start is None else (sympy.Integer(step), sympy.Integer(start))

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

    # -- what is in a corner -------------------------------------------------------------------------------------

    def row(self, corner: Corner) -> sympy.Expr:
        """How many keys query i < n has."""
        f, d = self._ends(corner)
        found = shape_of(corner).row(i, d)
        return found if f == n else sympy.Piecewise((found, i < f), (0, True))

    def area(self, corner: Corner) -> sympy.Expr:
        """How many pairs there are, of n queries and n keys."""
        f, d = self._ends(corner)
        return shape_of(corner).area(f, d)

    def _ends(self, corner: Corner) -> tuple[sympy.Expr, sympy.Expr]:
        found = []
        for bounds in (corner.rows, corner.keys):
            end = extreme(sympy.Min, *sorted(self._least(bounds | {n}), key=str))
            found.append(end if self.certain(end >= 0) else extreme(sympy.Max, ZERO, end))
        return found[0], found[1]


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
    found, total = _total(term, tuple(assume), Corners.area)
    return _counted(
        Bound(asking(term, "pairs"), "==", total, tuple(found.reader.known), Certificate(METHOD)), (n >= 0,), short
    )


def degree_by_corners(term: Term, assume: Iterable[Condition] = ()) -> Bound:
    """How many keys query i of n has. Args and errors as in `pairs_by_corners`."""
    found, total = _total(term, tuple(assume), Corners.row)
    rows = (i >= 0, i < n)
    return _counted(Bound(asking(term, "degree"), "==", total, (*found.reader.known, *rows), Certificate(METHOD)), rows)


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
    term: Term, given: tuple[Condition, ...], count: Callable[[Corners, Corner], sympy.Expr]
) -> tuple[Corners, sympy.Expr]:
    smt.require_consistent([*domain(term), *given])
    found = Corners(Reader.of(term, given))
    corners = found.of(term)
    parts = [weight * count(found, corner) for corner, weight in corners.items()]
    return found, sympy.Add(*parts)


def check_corners(bound: Bound) -> Verdict:
    """Verify that the term is a sum of corners, what is in a corner, and that the formula is the sum."""
    term, of_query = bound.term, bound.quantity == "degree"
    assumptions = tuple(dict.fromkeys((*domain(term), *bound.assumptions)))
    plain = tuple(c for c in assumptions if not c.free_symbols & {i, n})
    prover = smt.Prover()
    try:
        found = Corners(Reader.of(term, plain))
        corners = found.of(term)
        known = tuple(found.reader.known)
        for condition in found.reader.chosen:
            prover.prove(smt.Obligation(f"assumed: {condition}", assumptions, condition))
        pair = (*known, i >= 0, i < n, j >= 0, j < n)
        counted = [x for corner, weight in corners.items() for x in (sympy.Integer(weight), corner.condition(i, j))]
        is_sum = Count(sympy.Integer(-1), attends(term, i, j), *counted)
        prover.prove(smt.Obligation("the term is the sum of its corners", pair, is_sum))
        for lemma in dict.fromkeys(o for corner in corners for o in shape_of(corner).lemmas(known)):
            prover.prove(lemma)
        total = sympy.Add(*(w * (found.row if of_query else found.area)(corner) for corner, w in corners.items()))
    except NotByLag as e:
        return Verdict(False, failure=str(e))
    rows = (i >= 0, i < n) if of_query else (n >= 0,)
    for condition in rows if of_query else ():
        prover.prove(smt.Obligation(f"assumed: {condition}", assumptions, condition))
    prover.prove(smt.Obligation("the formula", (*assumptions, *rows), SIDES[bound.relation](bound.expr - total)))
    return prover.verdict()
