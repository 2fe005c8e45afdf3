"""What checkers begin with and end in: relations built again from the terms, and the formula compared by isl.

Nothing here reads what a derivation computed or remembered: layers are added one by one, from the output down (the
derivation halves the stack).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import islpy as isl
import sympy

from pidsl.analysis.bound import Bound
from pidsl.analysis.formulas.read import stated
from pidsl.analysis.layers.stacks import Stack, checked, diagonal, stack, target_map
from pidsl.analysis.verdict import Verdict, failed
from pidsl.errors import TooHardError
from pidsl.language.terms import Term
from pidsl.relation.build import unclipped
from pidsl.relation.isl import coalesced, limited, of_each_part, read_map, read_set

SOON = 20_000  # operations for one key of each query
OPERATIONS = 8_000_000  # a proof may take longer than its statement
LARGEST = 1 << 40


def terms_of(bound: Bound) -> Stack:
    """The terms of a statement, one per layer where it says how many; the layer at the input first.

    Raises:
        TermError: they are given by a rule.
    """
    layers = bound.question.layers
    return stack(checked(bound.subject), layers if isinstance(layers, int) else None)


def layer(term: Term) -> isl.Map:
    """The relation between n tokens, from the term."""
    pairs = unclipped(term) & read_map("[n, m] -> { [i] -> [j] : n = m and 0 <= i < n and 0 <= j < n }")
    return coalesced(pairs.project_out(isl.dim_type.param, 1, 1))


def fresh(terms: Iterable[Term]) -> list[isl.Map]:
    """A relation per layer; equal layers share one."""
    known: dict[Term, isl.Map] = {}
    return [known.setdefault(t, known.get(t) or layer(t)) for t in terms]


def composed(layers: Iterable[isl.Map], where: isl.Set | None = None) -> isl.Map:
    """What the layers connect, from the output down, for the n that matter."""
    seen = diagonal() if where is None else diagonal().intersect_params(where)
    for one in reversed(list(layers)):
        seen = coalesced(seen.apply_range(one))
    return seen


def differs(f: isl.PwAff, wanted: isl.PwAff, where: isl.Set) -> bool:
    """Whether two functions differ somewhere, or one alone has a value."""
    f, wanted = f.intersect_params(where), wanted.intersect_params(where)
    return not (wanted.domain().is_equal(f.domain()) and f.domain().is_subset(f.eq_set(wanted)))


def not_reach(quantity: str, lags: isl.Set, missing: isl.Set, expr: sympy.Expr, where: isl.Set) -> str:
    """Why a formula is not the quantity, "" if it is.

    Args:
        quantity: "farthest" or "contiguous".
        lags: `[n, L] -> { [d] }`, the lags that are connected.
        missing: `[n, L] -> { [d] }`, the lags >= 0 of pairs that are not.
        expr: the formula.
        where: the n and L for which it is claimed.
    """
    if where.is_empty():
        return "no n satisfies the assumptions"
    if expr.has(sympy.oo):
        return f"{expr} is infinite"
    f = stated(expr, where, ("n", "L"))
    value = isl.Set.from_pw_aff(f)
    if quantity == "farthest":
        lags = lags.intersect_params(where)
        if not value.is_subset(lags):
            return "some n has no pair with that lag"
        if not (value.apply(read_map("{ [v] -> [d] : d > v }")) & lags).is_empty():
            return "some pair has a larger lag"
        return "" if lags.params().is_subset(f.domain()) else "-oo where there are pairs"
    if expr.has(-sympy.oo) or not where.is_subset(f.domain()):
        return "the formula has no value somewhere"
    missing = missing.intersect_params(where)
    if not (value.apply(read_map("{ [v] -> [d] : 0 <= d <= v }")) & missing).is_empty():
        return "a pair of at most that lag is missing"
    ends, stops = read_set("[n] -> { [v] : v = n - 1 }"), missing.apply(read_map("{ [d] -> [d - 1] }"))
    return "" if value.is_subset(ends | stops) else "a longer run of predecessors is connected"


def not_reach_of(pairs: isl.Map, bound: Bound, where: isl.Set) -> str:
    """As above, from the first key of each query, which is the farthest, or the nearest predecessor that it lacks."""
    if bound.quantity == "farthest":
        lags = _some(pairs, isl.BasicMap.lexmin)
    else:
        lags = _some(target_map("causal") - pairs, isl.BasicMap.lexmax)
    return not_reach(bound.quantity, lags, lags, bound.expr, where)


def _some(pairs: isl.Map, choose: Callable[[isl.BasicMap], isl.Map]) -> isl.Set:
    """The lags of one pair of each query and part, where isl tells it soon, else of all pairs."""
    try:
        with limited("one key of each query", SOON):
            return of_each_part(choose, pairs).reverse().deltas()
    except TooHardError:
        return pairs.reverse().deltas()


def whole(x: Any, least: int = 0, most: int = LARGEST) -> int:
    """A number that a certificate states.

    Raises:
        TooHardError: it is none, or out of range.
    """
    if not isinstance(x, int) or isinstance(x, bool) or not least <= x <= most:
        raise TooHardError(f"{x!r} in a certificate", f"a number from {least} to {most}")
    return x


def verdict(failure: str, *steps: str) -> Verdict:
    """What holds by some steps if nothing failed."""
    return failed(failure) if failure else Verdict(True, steps)
