"""Pairs and keys per query of patterns that depend on the lag, with symbols: sums over progressions of lags.

A lag d >= 0 is attended by n - d of n queries, and query i attends one key per lag up to i. So a progression of lags
a, a + s, ..., of which c are below n, contributes

    c (n - a) - s c (c - 1) / 2     to the pairs
    how many are up to i            to the keys of query i; of the future, up to n - 1 - i

and progressions that meet are counted by inclusion and exclusion. `differences` verifies the formulas.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from itertools import product

import sympy

from pidsl.analysis.bound import Bound, Certificate, asking, exact
from pidsl.analysis.domains import domain
from pidsl.analysis.formulas import smt
from pidsl.analysis.formulas.cases import by_cases
from pidsl.analysis.formulas.smtlib import Condition, quotient
from pidsl.analysis.formulas.words import extreme, floor_div, holds, i, internal, n, value_of
from pidsl.analysis.symbolic.definition import NotByLag
from pidsl.analysis.symbolic.progressions import Progression, Reader, subsets
from pidsl.analysis.ways import Asked
from pidsl.errors import TooHardError
from pidsl.language.terms import Term

x = internal("x")
SMALL, SHORT = (0, 1, 2, 5), (1, 2, 3, 5, 8, 13, 21)  # sizes and lengths at which queries are compared


def pairs_by_lag(term: Term, assume: Iterable[Condition] = ()) -> Bound:
    """The number of attended pairs of n queries and n keys.

    Exact where it can be told how the progressions of the pattern meet; else the sum over all of them, an upper bound.

    Raises:
        NotByLag: the pattern does not depend on the lag alone, or its lags are no progressions.
        TermError: contradictory assumptions.
    """
    reader = _reader(term, assume)
    sides = reader.sides(term)
    try:
        parts = [(s, p) for side in (sides.past, sides.future) for s, p in subsets(side, reader)]
        method, reason = "second differences", ""
    except NotByLag as e:
        parts = [(1, p) for side in (sides.past, sides.future) for p in side]
        method, reason = "second differences, at most", f"an upper bound: it depends on the symbols {e}"
    total = sympy.Add(*(sign * pairs_of(p, reader) for sign, p in parts))
    known = (*reader.known,)
    return Bound(asking(term, "pairs"), "<=" if reason else "==", total, known, Certificate(method), reason)


def _reader(term: Term, assume: Iterable[Condition]) -> Reader:
    given = tuple(assume)
    smt.require_consistent([*domain(term), *given])
    return Reader.of(term, given)


def pairs(asked: Asked) -> Bound:
    """`pairs_by_lag` as a way."""
    return pairs_by_lag(asked.subject, asked.assume)


def pairs_of(p: Progression, reader: Reader) -> sympy.Expr:
    """The sum of n - d over the lags d < n of one progression."""
    if p.is_single:
        return sympy.Max(0, n - p.start)
    if p.step == 1 and p.start == 0:
        c = n if p.last is None else sympy.Min(p.last + 1, n)
    else:
        below_n = sympy.floor((n - 1 - p.start) / p.step)
        c = 1 + (below_n if p.last is None else sympy.Min(steps_to(p), below_n))
        # where the progression begins beyond n, c must be 0; with c = -1 (a = s and n = 0) the sum is 0 as well
        if sympy.expand(p.start - p.step) != 0 and not reader.certain(p.start < p.step):
            c = sympy.Max(0, c)
    return c * (2 * (n - p.start) - p.step * (c - 1)) / 2


def steps_to(p: Progression) -> sympy.Expr:
    """How many steps lead to the last lag: floor((last - start) / step), taken into a minimum."""
    assert p.last is not None
    ends = p.last.args if isinstance(p.last, sympy.Min) else (p.last,)
    return sympy.Min(*(sympy.floor(sympy.expand((end - p.start) / p.step)) for end in ends))


def degree_by_lag(term: Term, assume: Iterable[Condition] = ()) -> Bound:
    """Keys of query i.

    Raises:
        NotByLag: the pattern is no union of progressions of lags, or symbols hide how they meet.
        TermError: contradictory assumptions.
    """
    past, future, known = _upto(term, tuple(assume))
    of_query = past.subs(x, i) + future.subs(x, n - 1 - i)
    return exact(term, "degree", of_query, "first differences", assumptions=(*known, i >= 0, i < n))


def degree(asked: Asked) -> Bound:
    """`degree_by_lag` as a way."""
    return degree_by_lag(asked.subject, asked.assume)


@lru_cache(maxsize=64)
def _upto(term: Term, assume: tuple[Condition, ...]) -> tuple[sympy.Expr, sympy.Expr, tuple[Condition, ...]]:
    """How many lags of the past are at most x, how many of the future, and under which conditions."""
    reader = _reader(term, assume)
    sides = reader.sides(term)
    past, future = (
        sympy.Add(*(sign * _many(p, reader) for sign, p in subsets(side, reader)))
        for side in (sides.past, sides.future)
    )
    return past, future, tuple(reader.known)


def _many(p: Progression, reader: Reader) -> sympy.Expr:
    """How many lags of a progression are at most x, for x >= 0."""
    if p.is_single:
        return sympy.Piecewise((1, x >= p.start), (0, True)) if p.start != 0 else sympy.Integer(1)
    below = sympy.floor((x - p.start) / p.step)
    count = 1 + (below if p.last is None else sympy.Min(steps_to(p), below))
    return count if reader.certain(p.start <= p.step) else sympy.Max(0, count)


# -- the most of any query ---------------------------------------------------------------------------------------------


def largest(asked: Asked) -> Bound:
    """The most keys of any query, by the lags.

    Raises:
        NotByLag: as for the degree.
        TooHardError: as in `largest_by_degree`.
    """
    past, future, known = _upto(asked.subject, asked.assume)
    premise = degree_by_lag(asked.subject, asked.assume)
    if future == 0 or past == 0:
        at = n - 1 if future == 0 else sympy.Integer(0)
        return _largest(premise, at, (past + future).subs(x, n - 1), known, True)
    try:
        return largest_by_degree(premise)
    except TooHardError:
        most = past.subs(x, n - 1) + future.subs(x, n - 1)
        certificate = Certificate("largest of degrees", (), (premise,))
        why = "an upper bound: the most of the past and the most of the future"
        return Bound(asking(asked.subject, "max degree"), "<=", most, (*known, n >= 1), certificate, why)


def largest_of_degrees(asked: Asked) -> Bound:
    """The most keys of any query, from the degree of each, whichever way finds that."""
    premise = asked.ask(replace(asked.question, quantity="degree"), asked.assume)
    if not premise.is_exact:
        raise TooHardError(premise.reason or "the degree of each query is not known", "one that is")
    return largest_by_degree(premise)


def largest_by_degree(premise: Bound) -> Bound:
    """The most keys of any query, at a query that has as many as any where small sequences are looked at.

    Raises:
        TooHardError: no formula of a query is found that has.
    """
    known = tuple(c for c in premise.assumptions if i not in c.free_symbols)
    points = _points(premise, known)
    for at in _queries(premise.expr):
        found = set()
        for values in points:
            found.add(_is_most(premise.expr, at, values))
            if "" in found:
                break
        if found and "" not in found:
            most = by_cases(premise.expr.subs(i, at), (*known, n >= 1))
            return _largest(premise, at, most, known, found == {"turns"})
    raise TooHardError("the query with the most keys", "one that a formula tells")


def _largest(
    premise: Bound, at: sympy.Expr, most: sympy.Expr, known: tuple[Condition, ...], turns: bool
) -> Bound:  # fmt: skip
    certificate = Certificate("largest of degrees", (("query", at), ("turns", turns)), (premise,))
    return Bound(asking(premise.subject, "max degree"), "==", most, (*known, n >= 1), certificate)


def _points(premise: Bound, known: tuple[Condition, ...]) -> list[dict[sympy.Symbol, int]]:
    """Small sizes and lengths that the assumptions admit."""
    names = sorted(premise.expr.free_symbols.union(*(c.free_symbols for c in known)) - {i, n}, key=str)
    sizes = [dict(zip(names, values, strict=True)) for values in product(SMALL, repeat=len(names))]
    found = [{**values, n: tokens} for values in sizes for tokens in SHORT]
    return [at for at in found if all(holds(c, at) for c in known)][:400]


def _is_most(of_query: sympy.Expr, at: sympy.Expr, values: dict[sympy.Symbol, int]) -> str:
    """Whether a query has the most keys, "" if not; "turns" where degrees rise up to it and fall from it on."""
    numbers = {s: sympy.Integer(v) for s, v in values.items()}
    query, tokens = value_of(at, numbers), values[n]
    if query not in range(tokens):
        return ""
    counts = [value_of(of_query, {**numbers, i: sympy.Integer(row)}) for row in range(tokens)]
    if counts[int(query)] != max(counts):
        return ""
    rise, fall = counts[: int(query) + 1], counts[int(query) :]
    return "turns" if rise == sorted(rise) and fall == sorted(fall, reverse=True) else "most"


def _queries(of_query: sympy.Expr) -> list[sympy.Expr]:
    """Queries that may have the most keys: the ends, and where the degree changes its form."""
    zero, last = sympy.Integer(0), n - 1
    gaps = [c.lhs - c.rhs for c in of_query.atoms(sympy.core.relational.Relational)]
    for e in of_query.atoms(sympy.Min, sympy.Max):
        gaps += [a - b for a, b in product(e.args, repeat=2) if a != b]
    divisors = {quotient(f.args[0])[1] for f in of_query.atoms(sympy.floor)} - {1}
    others = of_query.free_symbols - {i, n}
    ends = [size * many - 1 for size in divisors for many in (1, *(other + 1 for other in others - {size}))]
    turns: dict[sympy.Expr, None] = dict.fromkeys(sorted(ends, key=str))
    for gap in map(sympy.expand, gaps):
        if gap.coeff(i, 1) in (1, -1) and not gap.coeff(i, 0).has(i):
            turn = -gap.coeff(i, 0) * gap.coeff(i, 1)
            turns |= dict.fromkeys((turn, turn - 1, turn + 1))
    found = sorted(turns, key=lambda e: (e.count_ops(), str(e)))[:24]
    inside = [extreme(sympy.Max, zero, extreme(sympy.Min, turn, last)) for turn in found]
    two = [
        extreme(sympy.Max, zero, extreme(sympy.Min, a, b)) for a, b in product(found[:12], repeat=2) if str(a) < str(b)
    ]
    return [last, zero, *inside, *two, floor_div(last, sympy.Integer(2))]
