"""Checkers for depth: the formula against relations and lags built again from the terms."""

from __future__ import annotations

import islpy as isl
import sympy

from pidsl.analysis.bound import Bound
from pidsl.analysis.dense import is_depth
from pidsl.analysis.formulas.piecewise import region, stated, tokens_of
from pidsl.analysis.formulas.words import n
from pidsl.analysis.layers import reach_check
from pidsl.analysis.layers.closed import closed_form, is_closed_form, least_layers
from pidsl.analysis.layers.depth import CLOSED, RECENT
from pidsl.analysis.layers.never import outside
from pidsl.analysis.layers.reach_check import CHECK_OPERATIONS, Parts, joined
from pidsl.analysis.verdict import Verdict
from pidsl.errors import TooHardError
from pidsl.relation.isl import CONTEXT, coalesced, least, limited, read_map, read_set

LAYERS = 64


def _failed(why: str) -> Verdict:
    return Verdict(False, failure=why)


def _claimed(bound: Bound) -> tuple[isl.Set, isl.PwAff]:
    """The n for which the bound is claimed, all >= 1, and the formula: without a value where it is infinite."""
    where = region(bound.assumptions, least=1)
    if bound.argument("n") is not None:
        where = where & read_set(f"[n] -> {{ : n = {int(bound.argument('n'))} }}")
    return where, stated(bound.expr, where)


def check_matrices(bound: Bound) -> Verdict:
    """For one number of tokens: rows of the dense mask as bits, one layer after another, until a state returns."""
    schedule, tokens = reach_check.schedule_of(bound), bound.argument("n")
    tokens_of((*bound.assumptions, sympy.Eq(n, tokens)))  # that satisfy the assumptions
    if not (bound.expr.is_Integer or bound.expr == sympy.oo):
        return _failed(f"{bound.expr} is no depth")
    failure = is_depth(schedule, tokens, bound.argument("of"), int(bound.expr) if bound.expr.is_Integer else None)
    return Verdict(not failure, (f"the layers of {bound.argument('n')} tokens, one after another",), failure)


def check_lag_depth(bound: Bound) -> Verdict:
    """L layers of a causal, translation invariant term connect all lags up to c(L): the least L with c(L) >= n - 1."""
    with limited("checking a depth", CHECK_OPERATIONS):
        (term,) = reach_check.schedule_of(bound)
        sets = reach_check.lag_sets([term])
        if sets is None:
            return _failed("not causal and translation invariant")
        where, f = _claimed(bound)
        if where.is_empty():
            return _failed("no n satisfies the assumptions")
        if bound.expr.has(-sympy.oo):
            return _failed("no depth is negative")
        lags = sets[term]
        wanted = (_finite(reach_check.points(lags)) if lags.is_bounded() else _infinite(lags)).intersect_params(where)
        if not wanted.domain().is_equal(f.domain()) or not f.domain().is_subset(f.eq_set(wanted)):
            return _failed(f"not {wanted}")
    return Verdict(True, ("causal and translation invariant", "sums of lags", "the formula, for all n"))


def _steps(reach: list[int], after: str) -> isl.PwAff:
    """The least L >= 1 with c(L) >= n - 1, for c(1), c(2), ...; `after` is what holds beyond the last."""
    pieces, low, k = [], 1, 0
    while k < len(reach):
        step, last = (reach[k + 1] - reach[k] if k + 1 < len(reach) else 0), k
        while step and last + 1 < len(reach) and reach[last + 1] - reach[last] == step:
            last += 1
        if last == k and reach[k] + 1 >= low:
            pieces.append(f"[({k + 1})] : {low} <= n <= {reach[k] + 1}")
            low = reach[k] + 2
        elif last > k:
            pieces.append(f"[({k + 1})] : {low} <= n <= {reach[k] + 1}")
            low = max(low, reach[k] + 2)
            pieces.append(f"[({k + 1} + floor((n - {reach[k] + 2 - step})/{step}))] : {low} <= n <= {reach[last] + 1}")
            low = reach[last] + 2
        k = last + 1
    pieces += [after] if after else []
    return isl.PwAff.read_from_str(CONTEXT, f"[n] -> {{ {'; '.join(pieces)} }}")


NOTHING = "[n] -> { [(0)] : 1 = 0 }"


def _finite(lags: Parts) -> isl.PwAff:
    if not lags or lags[0][0] > 0:
        return isl.PwAff.read_from_str(CONTEXT, NOTHING)
    if not reach_check.fills(lags):
        return _steps([0], "")
    reach, largest = reach_check.reaches(lags), lags[-1][1]
    last = len(reach) - 1
    tail = f"[({last} + floor((n - {reach[-1] + 2 - largest})/{largest}))] : n >= {reach[-1] + 2}"
    return _steps(reach[1:], tail)


def _infinite(lags: isl.Set) -> isl.PwAff:
    """Lags that repeat with some period from some start on: sums below a bound, exactly.

    With 0 among the lags, sums of L + 1 hold those of L. When L connect a whole period 0, ..., period - 1, then L + 1
    connect everything from the first repeating lag on. And sums of L lags repeat from L (start + period) on.
    """
    if lags.intersect(read_set("{ [d] : d = 0 }")).is_empty():
        return isl.PwAff.read_from_str(CONTEXT, NOTHING)
    start, period, first = _repeating(lags)
    for factor in (1, 8, 64, 512):
        bound = factor * (start + 2 * period)
        parts = reach_check.points(lags & read_set(f"{{ [d] : d < {bound} }}"))
        total: Parts = [(0, 0)]
        reach = [0]
        while True:
            more = joined((a + u, min(b + v, bound - 1)) for a, b in total for u, v in parts if a + u < bound)
            layers, last, now = len(reach), reach[-1], more[0][1]
            if (now >= first - 1 and last >= period - 1) or (
                now == bound - 1 and bound >= layers * (start + period) + period
            ):
                low = (last if layers > 1 else -1) + 2
                return _steps(reach[1:], f"[({layers})] : n >= {low}")
            if now == bound - 1:
                break
            if more == total:
                return _steps(reach[1:], "")
            reach.append(now)
            total = more
    raise TooHardError("lags that repeat late", "earlier")


def _repeating(lags: isl.Set) -> tuple[int, int, int]:
    """A start and a period such that d is a lag when d + period is, for d >= start; the first lag from there."""
    from pidsl.analysis.layers.depth import periodic_lags

    guess = periodic_lags(lags)  # verified here again
    start, period = guess.start, guess.period
    beyond = lags & read_set(f"{{ [d] : d >= {start} }}")
    again = (lags & read_set(f"{{ [d] : d >= {start + period} }}")).apply(read_map(f"{{ [d] -> [d - {period}] }}"))
    if not again.is_equal(beyond):
        raise ValueError("lags that do not repeat")
    return start, period, least(beyond)


def check_depth(bound: Bound) -> Verdict:
    """Compose the layers one by one: each n has all its pairs after f(n) layers and not before; none where f is oo."""
    with limited("checking a depth", CHECK_OPERATIONS):
        return _check_depth(bound)


def _check_depth(bound: Bound) -> Verdict:
    causal = "and j <= i" if bound.argument("of") == "causal" else ""
    target = read_map(f"[n] -> {{ [i] -> [j] : 0 <= i < n and 0 <= j < n {causal} }}")
    where, f = _claimed(bound)
    if where.is_empty():
        return _failed("no n satisfies the assumptions")
    if bound.expr.has(-sympy.oo):
        return _failed("no depth is negative")
    terms = reach_check.stack_of(bound, len(bound.subject) if isinstance(bound.subject, tuple) else 1)
    layers = reach_check.fresh(terms)
    never = where - f.domain()
    open_ = never  # without a proof so far
    if not never.is_empty():
        for _, pairs in outside(layers, target.intersect_params(never)):
            open_ = (open_ - pairs.domain().params()).coalesce()
            if open_.is_empty():
                break
    rest = (f.domain() | open_).coalesce()
    seen: list[isl.Map] = []
    for count in range(1, LAYERS):
        if rest.is_empty():
            return Verdict(True, (f"{count - 1} layers composed", "pairs compared for all n", "invariants for oo"))
        now = layers[(count - 1) % len(layers)]
        now = coalesced(now.apply_range(seen[-1]) if seen else now).intersect_params(rest)
        lacking = (target.intersect_params(rest) - now).domain().params() & rest
        claimed = f.eq_set(isl.PwAff.read_from_str(CONTEXT, f"[n] -> {{ [({count})] }}"))
        if not (rest - lacking).is_equal(claimed & rest):
            return _failed(f"not {count} layers exactly where the formula says so")
        rest = (rest & lacking).coalesce()
        if f.domain().intersect(rest).is_empty() and any(
            seen[k].intersect_params(rest).is_equal(now.intersect_params(rest))
            for k in range(count - 1 - len(layers), -1, -len(layers))[:RECENT]
        ):
            rest = rest - rest
        seen.append(now)
        if count == CLOSED and len(layers) == 1 and not rest.is_empty():
            found = _by_induction(layers[0], seen, target, rest, f)
            if found is not None:
                return found
    return _failed(f"more than {LAYERS} layers")


def _by_induction(layer: isl.Map, seen: list[isl.Map], target: isl.Map, rest: isl.Set, f: isl.PwAff) -> Verdict | None:
    """The pairs of L layers as a form in L, proved by induction; then the least L is a question for isl."""

    def layers(count: int) -> isl.Map:  # composed from the input up, for the guess
        found = layer
        for _ in range(count - 1):
            found = coalesced(found.apply_range(layer))
        return found

    form = closed_form(layer, layers, rest)
    if form is None:
        return None
    if not is_closed_form(form, layer, layers(form.first), rest):
        return _failed("the form in L is not right")
    wanted = least_layers(form, target, rest)
    given = f.intersect_params(rest)
    later = rest & given.domain()
    if not wanted.domain().is_equal(later) or not later.is_subset(given.eq_set(wanted)):
        return _failed(f"not {wanted}")
    return Verdict(True, (f"{len(seen)} layers composed", "a form in L, by induction", "its least L, for all n"))
