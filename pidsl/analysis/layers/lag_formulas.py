"""Farthest and contiguous as formulas, of pairs and of sets of lags: in n, and in n and the number of layers L."""

from __future__ import annotations

from collections.abc import Callable

import islpy as isl
import sympy

from pidsl.analysis.formulas.pieces import written
from pidsl.analysis.formulas.piecewise import Branch, Formula, chain, formula
from pidsl.analysis.formulas.words import n
from pidsl.analysis.layers.stacks import by_width, lags_of, target_map
from pidsl.analysis.layers.sums import Intervals
from pidsl.errors import TooHardError
from pidsl.relation.isl import CONTEXT, limited, of_each_part, read_set

SOON = 20_000  # operations for one key of each query
LAG_OPERATIONS = 200_000  # differences of many parts are slow ones: up to 20 microseconds each


def long_lags_of(pairs: isl.Map) -> isl.Set:
    """Lags with the largest of all: of each query to its first key in each part, where isl tells these soon."""
    return _lags_of(pairs, isl.BasicMap.lexmin)


def missing_lags_of(pairs: isl.Map) -> isl.Set:
    """Lags >= 0 of missing pairs, with the smallest: of each query to the nearest key that it lacks, as above."""
    return _lags_of(target_map("causal") - pairs, isl.BasicMap.lexmax)


def _lags_of(pairs: isl.Map, choose: Callable[[isl.BasicMap], isl.Map]) -> isl.Set:
    try:
        with limited("one key of each query", SOON):
            return lags_of(of_each_part(choose, pairs))
    except TooHardError:
        return lags_of(pairs)


def lags_formula(quantity: str, lags: Intervals | isl.Set) -> Formula:
    """Farthest or contiguous of given lags, for n >= 1."""
    if isinstance(lags, tuple):
        return (_farthest_in if quantity == "farthest" else _contiguous_in)(lags)
    with limited(f"the {quantity} lag"):
        inside = read_set("[n] -> { [d] : 0 <= d < n }")
        if quantity == "farthest":
            return formula((lags & inside).dim_max(0), -sympy.oo)
        return _first_missing(inside - lags)


def pairs_formula(quantity: str, pairs: isl.Map, least: int = 1) -> Formula:
    """Farthest or contiguous of given pairs, for n >= least."""
    with limited(f"the {quantity} lag", by_width(LAG_OPERATIONS, pairs)):
        if quantity == "farthest":
            lags = long_lags_of(pairs)
            return Formula(-sympy.oo, least) if lags.is_empty() else formula(lags.dim_max(0), -sympy.oo, least)
        return _first_missing(missing_lags_of(pairs), least)


def in_n_and_l(quantity: str, lags: isl.Set, where: isl.Set) -> sympy.Expr:
    """Farthest or contiguous of lags `[n, L] -> { [d] }` among n tokens.

    Args:
        quantity: "farthest" or "contiguous".
        lags: those that L layers connect.
        where: the n and L that matter.
    """
    if quantity == "farthest":
        f = (lags & read_set("[n] -> { [d] : -n < d < n }")).intersect_params(where).dim_max(0)
    else:
        f = before_missing((read_set("[n] -> { [d] : 0 <= d < n }") - lags).intersect_params(where), where)
    return written(f, where)


def before_missing(missing: isl.Set, where: isl.Set) -> isl.PwAff:
    """The lag before the first that is missing, n - 1 where none is."""
    first = missing.dim_min(0)
    one, rest = (isl.PwAff.read_from_str(CONTEXT, f"[n] -> {{ [({x})] }}") for x in ("1", "n - 1"))
    return first.sub(one).union_add(rest.intersect_params(where - first.domain()))


def _first_missing(missing: isl.Set, least: int = 1) -> Formula:
    """Contiguous, from the lags of the pairs that are missing."""
    if missing.is_empty():
        return Formula(n - 1, least)
    return formula(before_missing(missing, read_set("[n] -> { : }")).coalesce(), sympy.nan, least)


def _farthest_in(lags: Intervals) -> Formula:
    branches: list[Branch] = []
    for low, high in lags:
        if high > low:
            branches.append((n - 1, low + 1))
        branches.append((sympy.Integer(high), high + 1))
    if not lags or lags[0][0] > 0:
        branches.insert(0, (-sympy.oo, 1))
    if len(branches) > 64:
        branches = branches[-64:]
    return chain(branches, lambda x: max((min(b, x - 1) for a, b in lags if a < x), default=-sympy.oo))


def _contiguous_in(lags: Intervals) -> Formula:
    last = lags[0][1] if lags and lags[0][0] == 0 else -1
    if last == -1:
        return Formula(sympy.Integer(-1))
    return chain([(n - 1, 1), (sympy.Integer(last), last + 1)], lambda x: min(x - 1, last))
