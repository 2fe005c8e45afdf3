"""Keys and pairs of patterns between blocks as bounds, and what verifies them.

A formula in i and n is rewritten with blocks (`digits`), where it is a polynomial in the place of the query in its
block and in what the last block lacks. Its coefficients are formulas between blocks; they must be those of
`block_counts`, whose parts are answers to the same questions, each verified by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import reduce
from math import lcm
from typing import Any

import islpy as isl
import numpy as np
import sympy

from pidsl.analysis.bound import Bound, exact
from pidsl.analysis.counting.counts_check import stated
from pidsl.analysis.formulas.agreement import shape_of
from pidsl.analysis.formulas.evaluate import values_of
from pidsl.analysis.formulas.pieces import written
from pidsl.analysis.formulas.piecewise import function
from pidsl.analysis.formulas.words import i, n
from pidsl.analysis.smaller.block_counts import (
    ROWS,
    Levels,
    Of,
    degree_of,
    keys_of_query,
    levels,
    pairs_count,
    pairs_of,
    verified_degree,
    verified_pairs,
)
from pidsl.analysis.smaller.digits import count, in_blocks, in_tokens, query, rest, short
from pidsl.analysis.verdict import Verdict
from pidsl.analysis.ways import Asked, NotMine
from pidsl.errors import TooHardError
from pidsl.relation.isl import CONTEXT, least, limited, read_set
from pidsl.relation.isl import largest as largest_of

KEYS, PAIRS, LARGEST = "keys between blocks", "pairs between blocks", "largest between blocks"
WORK = 300_000  # operations of isl for the largest degree
POINTS = 20_000  # most n at which formulas of pairs are compared
BACK = {query: i, count: n}
Powers = tuple[int, int]  # of q and r
NAMES = ("n", "r", "i", "q")  # of functions between blocks: n of them, and query q of block i


def degree(asked: Asked) -> Bound:
    """The number of keys of a query.

    Raises:
        TooHardError: the degree of a term with one token per block is not known for every n.
    """
    found = _levels_of(asked)
    each, place, lacking = keys_of_query(found, degree_of)
    expr = in_tokens(each + place * rest - lacking * short, found.size)
    return _made(exact(asked.subject, "degree", expr, KEYS, assumptions=ROWS), _degree_verdict, degree_of)


def pairs(asked: Asked) -> Bound:
    """The number of pairs.

    Raises:
        TooHardError: the pairs of a term with one token per block are not known for every n.
    """
    found = _levels_of(asked)
    each, once, twice = pairs_of(found, pairs_count)
    expr = in_tokens(each - once * short + twice * short**2, found.size)
    return _made(exact(asked.subject, "pairs", expr, PAIRS), _pairs_verdict, pairs_count)


def largest(asked: Asked) -> Bound:
    """The most keys of any query.

    Raises:
        TooHardError: the degree of a term with one token per block is not known for every n, or not the largest.
    """
    found = _levels_of(asked)
    with limited(f"the largest degree of {asked.subject!r}", WORK):
        expr = written(_largest(found), _lengths(found.size))
    assumptions = (sympy.Ge(n, 1),)
    bound = exact(asked.subject, "max degree", in_tokens(expr, found.size), LARGEST, assumptions=assumptions)
    return _made(bound, _largest_verdict, degree_of)


def _levels_of(asked: Asked) -> Levels:
    if (found := levels(asked.subject)) is None:
        raise NotMine
    return found


def _made(bound: Bound, verdict: Callable[[Bound, Of], Verdict], of: Of) -> Bound:
    """A bound that its checker will accept, once it has verified the parts that the bound is made of."""
    if not (found := verdict(bound, of)).holds:
        raise TooHardError(f"the formula {bound.expr}", "one that can be verified", where=found.failure)
    return bound


def _largest(found: Levels) -> isl.PwAff:
    """The most keys of any query as a function of n and r: `a + b q - c r` is largest at the first or the last q."""
    s, last = found.size, read_set("[n, r, i] -> { : i = n - 1 }")
    rows = read_set("[n, r, i] -> { : 0 <= i < n }")
    each, place, lacking = (
        function(x, ("n", "r", "i")).intersect_domain(rows) for x in keys_of_query(found, degree_of)
    )
    best = function(-sympy.oo, ("n", "r"))
    for at_place, rise in _values(place):
        for at_lack, lack in _values(lacking):
            here = each.intersect_domain(at_place & at_lack)
            top = here.add_constant_val(isl.Val(max(rise, 0) * (s - 1), CONTEXT))
            if rise <= 0:  # the first query of any block
                choices = [(top, lack)]
            else:  # the last query of any block; the last block has fewer
                choices = [(top.intersect_domain(rows - last), lack), (top.intersect_domain(last), lack + rise)]
            for keys, slope in choices:
                graph = isl.Set.from_pw_aff(keys).project_out(isl.dim_type.param, 2, 1)
                if not graph.is_empty():
                    best = best.union_max(graph.dim_max(0) - function(slope * short, ("n", "r")))
    return best.coalesce()


def _values(f: isl.PwAff) -> Iterator[tuple[isl.Set, int]]:
    """Where a function that has few values has which."""
    known = isl.Set.from_pw_aff(f).project_out(isl.dim_type.param, 0, f.dim(isl.dim_type.param))
    for value in range(least(known), largest_of(known) + 1):
        yield f.eq_set((f - f).add_constant_val(isl.Val(value, CONTEXT))), value


def _lengths(size: int) -> isl.Set:
    return read_set(f"[n, r] -> {{ : n >= 1 and 0 <= r < {size} }}")


def _keys(found: Levels, of: Of) -> isl.PwAff:
    """The number of keys as a function of n, r, i and q."""
    s = found.size
    inside = f"n >= 1 and 0 <= r < {s} and 0 <= q < {s} and i >= 0 and {s} i + q < {s} n - r"
    rows = read_set(f"[{', '.join(NAMES)}] -> {{ : {inside} }}")
    each, place, lacking = (function(x, NAMES).intersect_domain(rows) for x in keys_of_query(found, of))
    return each + _times(rest, place) - _times(short, lacking)


def _times(little: sympy.Symbol, factor: isl.PwAff) -> isl.PwAff:
    """A product with a function that has few values."""
    parts = [function(value * little, NAMES).intersect_domain(here) for here, value in _values(factor)]
    return reduce(isl.PwAff.union_add, parts)


# -- verdicts ----------------------------------------------------------------------------------------------------------


def check_degree(bound: Bound) -> Verdict:
    """The formula is the number of keys of query i, for all 0 <= i < n."""
    return _degree_verdict(bound, verified_degree)


def check_pairs(bound: Bound) -> Verdict:
    """Pairs, their share that is missing, and pairs per query."""
    return _pairs_verdict(bound, verified_pairs)


def check_maximum(bound: Bound) -> Verdict:
    """No query has more keys, and for every n one has as many."""
    return _largest_verdict(bound, verified_degree)


def _degree_verdict(bound: Bound, of: Of) -> Verdict:
    found = _levels(bound)
    if set(bound.assumptions) != set(ROWS):
        return Verdict(False, failure=f"assumptions {bound.assumptions}")
    each, place, lacking = keys_of_query(found, of)
    wanted = {(0, 0): each, (1, 0): place, (0, 1): -lacking}
    rows = read_set("[n, i] -> { : 0 <= i < n }")
    with limited("the comparison of formulas between blocks"):
        for powers, (right, claimed) in _paired(wanted, bound.expr, found.size).items():
            f = function(claimed, ("n", "i"))
            if not ((rows - f.domain()).is_empty() and (function(right, ("n", "i")).ne_set(f) & rows).is_empty()):
                return Verdict(False, failure=f"between blocks {claimed} is not {right} {_of(powers)}")
    return Verdict(True, (*_steps(found, "degrees"), "the formula is made of theirs, for all i and n (isl)"))


def _pairs_verdict(bound: Bound, of: Of) -> Verdict:
    found = _levels(bound)
    expr, first = stated(bound)
    each, once, twice = pairs_of(found, of)
    wanted = {(0, 0): each, (0, 1): -once, (0, 2): twice}
    for powers, (right, claimed) in _paired(wanted, expr, found.size).items():
        if failure := _differ(right, claimed, first if powers == (0, 0) else 1):
            return Verdict(False, failure=f"between blocks {failure} {_of(powers)}")
    return Verdict(True, (*_steps(found, "pairs"), "the formula is made of theirs, for all n"))


def _largest_verdict(bound: Bound, of: Of) -> Verdict:
    found = _levels(bound)
    if bound.assumptions != (sympy.Ge(n, 1),):
        return Verdict(False, failure=f"assumptions {bound.assumptions}")
    with limited("the comparison of formulas between blocks"):
        keys, lengths = _keys(found, of), _lengths(found.size)
        claimed = function(in_blocks(bound.expr, found.size, loose=True).xreplace(BACK), NAMES)
        if not (keys.domain() - claimed.domain()).is_empty():
            return Verdict(False, failure="the formula has no value somewhere")
        if not keys.gt_set(claimed).is_empty():
            return Verdict(False, failure="some query has more keys")
        if not (lengths - keys.eq_set(claimed).project_out(isl.dim_type.param, 2, 2)).is_empty():
            return Verdict(False, failure="for some n no query has as many keys")
    return Verdict(True, (*_steps(found, "degrees"), "no query has more, and for every n some query has as many (isl)"))


def _levels(bound: Bound) -> Levels:
    found = levels(bound.term)
    if found is None:
        raise TooHardError(f"{bound.term!r}", "a pattern between blocks")
    return found


def _steps(found: Levels, what: str) -> tuple[str, ...]:
    return (f"{what} of {found.off!r}, {found.low!r}, {found.high!r} between blocks of {found.size}: proved by itself",)


def _of(powers: Powers) -> str:
    return f"(times {rest ** powers[0] * short ** powers[1]})"


def _paired(wanted: dict[Powers, Any], expr: sympy.Expr, size: int) -> dict[Powers, tuple[Any, Any]]:
    """For each power of q and r the coefficient that is wanted, and that of the formula, as formulas in i and n."""
    try:
        poly = sympy.Poly(in_blocks(expr, size), rest, short)
    except sympy.PolynomialError as e:
        raise TooHardError(f"the formula {expr}", f"a polynomial in places within blocks of {size}") from e
    claimed: dict[Powers, Any] = {(powers[0], powers[1]): c.xreplace(BACK) for powers, c in poly.terms()}
    zero = sympy.Integer(0)
    return {p: (wanted.get(p, zero), claimed.get(p, zero)) for p in (wanted | claimed)}


def _differ(right: sympy.Expr, claimed: sympy.Expr, first: int) -> str:
    """Where two formulas in n differ, for n >= first; "" if nowhere."""
    if claimed.free_symbols - {n}:
        return f"{claimed} is not in the number of blocks only"
    a, b = shape_of(right, n), shape_of(claimed, n)
    last = max(*a.starts, *b.starts, first) + (max(a.degree, b.degree) + 1) * lcm(a.period, b.period)
    if last > POINTS:
        raise TooHardError(f"{last} numbers of blocks to compare", f"at most {POINTS}")
    at = np.arange(first, last).astype(object)
    (x, under, known), (y, below, also) = values_of(right, {n: at}), values_of(claimed, {n: at})
    same = known & also & (x * below == y * under)
    return "" if same.all() else f"{claimed} is not {right} for {at[int(np.argmin(same))]} of them"
