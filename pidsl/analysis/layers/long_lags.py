"""Farthest and contiguous where the pairs of all n at once are too much work: a guess from few tokens, then a proof.

short n    the largest lag, or the first that is missing, by dense masks
long n     isl composes the layers for these n only, where borders are far apart and fewer parts remain: no part has
           a larger lag, and for each n some part has it; or all lags up to the formula are there, and not the next
"""

from __future__ import annotations

from collections.abc import Sequence

import islpy as isl
import numpy as np
import sympy

from pidsl.analysis.dense import contiguous_in, farthest_in, times
from pidsl.analysis.formulas.agreement import branch_starts
from pidsl.analysis.formulas.guess import guess
from pidsl.analysis.formulas.piecewise import Formula, stated
from pidsl.analysis.formulas.words import n
from pidsl.analysis.layers.by_values import value_at
from pidsl.errors import TooHardError
from pidsl.language.terms import Term
from pidsl.relation.isl import CONTEXT, coalesced, limited, read_map, read_set
from pidsl.relation.oracle import dense_mask

TOKENS = 72  # up to which lags are counted for a guess
SEEN = 24  # of them that follow one rule
BRANCHES = 16
SHORT, LATEST = 28, 60  # tokens up to which masks are asked, at least and at most
OPERATIONS = 600_000
LAGS = 40  # the longest contiguous reach that is proved lag by lag


def guessed(quantity: str, layers: Sequence[Term]) -> Formula:
    """The formula that few tokens suggest.

    Raises:
        TooHardError: they suggest none.
    """
    values = [_counted(quantity, layers, count) for count in range(1, TOKENS + 1)]
    found = guess(values, -sympy.oo, BRANCHES, SEEN)
    if found is None:
        raise TooHardError(f"the {quantity} lags of up to {TOKENS} tokens", "a formula that they follow")
    return found


def _counted(quantity: str, layers: Sequence[Term], count: int) -> int | None:
    """By dense masks; None for the largest lag of nothing."""
    seen = np.eye(count, dtype=np.bool_)
    for term in layers:
        seen = times(dense_mask(term, count), seen)
    return farthest_in(seen) if quantity == "farthest" else contiguous_in(seen)


def failure(quantity: str, layers: Sequence[Term], relations: Sequence[isl.Map], expr: sympy.Expr, least: int) -> str:
    """Why a formula is not the quantity for all n >= least, "" if it is.

    Args:
        quantity: "farthest" or "contiguous".
        layers: the terms, the layer at the input first.
        relations: their pairs, `[n] -> { [i] -> [j] }`.
        expr: the formula.
        least: the first n for which it is claimed.

    Raises:
        TooHardError: isl's operation limit struck.
    """
    if expr.has(sympy.oo) or expr.has(sympy.nan) or (quantity != "farthest" and expr.has(-sympy.oo)):
        return f"{expr} is infinite"
    if expr.free_symbols - {n}:
        return f"other variables than n in {expr}"
    start = max(SHORT, least, *branch_starts(expr, n))
    if start > LATEST:
        return f"other formulas up to {start} tokens"
    for count in range(least, start):
        known = _counted(quantity, layers, count)
        if value_at(expr, count) != (float("-inf") if known is None else known):
            return f"{known} for {count} tokens"
    where = read_set(f"[n] -> {{ : n >= {start} }}")
    f = stated(expr, where)
    with limited(f"the {quantity} lag of long sequences", OPERATIONS):
        pairs = coalesced(relations[0].intersect_params(where))
        for relation in relations[1:]:
            pairs = coalesced(coalesced(relation.intersect_params(where)).apply_range(pairs))
        return (_not_farthest if quantity == "farthest" else _not_contiguous)(pairs, f, where)


def _not_farthest(pairs: isl.Map, f: isl.PwAff, where: isl.Set) -> str:
    value = isl.Set.from_pw_aff(f)
    larger = value.apply(read_map("{ [v] -> [d] : d > v }"))
    open_ = value.params()
    silent = where - open_
    for part in pairs.get_basic_maps():
        lags = isl.Map.from_basic_map(part).reverse().deltas()
        if not (larger & lags).is_empty():
            return "some pair has a larger lag"
        if not (lags.params() & silent).is_empty():
            return "-oo where there are pairs"
        if not open_.is_empty():
            open_ = (open_ - (value & lags).params()).coalesce()
    return "" if open_.is_empty() else "some n has no pair with that lag"


def _not_contiguous(pairs: isl.Map, f: isl.PwAff, where: isl.Set) -> str:
    if not where.is_subset(f.domain()):
        return "the formula has no value somewhere"
    whole = where & f.eq_set(isl.PwAff.read_from_str(CONTEXT, "[n] -> { [(n - 1)] }"))
    if not _lags(0, "n - 1").intersect_params(whole).is_subset(pairs):
        return "not all pairs are connected"
    rest = where - whole
    for reach in range(-1, LAGS):
        if rest.is_empty():
            return ""
        here = rest & f.eq_set(isl.PwAff.read_from_str(CONTEXT, f"[n] -> {{ [({reach})] }}"))
        if here.is_empty():
            continue
        if not _lags(0, str(reach)).intersect_params(here).is_subset(pairs):
            return f"a pair of lag <= {reach} is missing"
        after = _lags(reach + 1, str(reach + 1)).intersect_params(here)
        if not here.is_subset((after - pairs).params()):
            return f"lag {reach + 1} is connected"
        rest = rest - here
    return "" if rest.is_empty() else f"a reach of more than {LAGS} lags"


def _lags(first: int, last: str) -> isl.Map:
    return read_map(f"[n] -> {{ [i] -> [j] : {first} <= i - j <= {last} and 0 <= j and i < n }}")
