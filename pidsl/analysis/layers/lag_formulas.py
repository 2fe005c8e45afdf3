"""Farthest and contiguous as formulas in n, of pairs and of sets of lags."""

from __future__ import annotations

import islpy as isl
import sympy

from pidsl.analysis.formulas.piecewise import Branch, Formula, chain, formula
from pidsl.analysis.formulas.words import n
from pidsl.analysis.layers.stacks import Intervals, long_lags_of, missing_lags_of
from pidsl.relation.isl import limited, read_set

LAG_OPERATIONS = 200_000  # differences of many parts are slow ones: up to 20 microseconds each


def lags_formula(quantity: str, lags: Intervals | isl.Set) -> Formula:
    """Farthest or contiguous of given lags, for n >= 1."""
    if isinstance(lags, isl.Set):
        return _set_formula(quantity, lags)
    return (_farthest_in if quantity == "farthest" else _contiguous_in)(lags)


def pairs_formula(quantity: str, pairs: isl.Map, least: int = 1) -> Formula:
    """Farthest or contiguous of given pairs, for n >= least."""
    with limited(f"the {quantity} lag", LAG_OPERATIONS):
        if quantity == "farthest":
            lags = long_lags_of(pairs)
            return Formula(-sympy.oo, least) if lags.is_empty() else formula(lags.dim_max(0), -sympy.oo, least)
        return _first_missing(missing_lags_of(pairs), least)


def _set_formula(quantity: str, lags: isl.Set) -> Formula:
    with limited(f"the {quantity} lag"):
        inside = read_set("[n] -> { [d] : 0 <= d < n }")
        if quantity == "farthest":
            return formula((lags & inside).dim_max(0), -sympy.oo)
        return _first_missing(inside - lags)


def _first_missing(missing: isl.Set, least: int = 1) -> Formula:
    """Contiguous, from the lags of the pairs that are missing."""
    if missing.is_empty():
        return Formula(n - 1, least)
    first = missing.dim_min(0).coalesce()
    one, all_ = (isl.PwAff.read_from_str(first.get_ctx(), f"[n] -> {{ [({x})] }}") for x in ("1", "n - 1"))
    found = first.sub(one).union_add(all_.intersect_params(first.domain().complement()))
    return formula(found, sympy.nan, least)


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
