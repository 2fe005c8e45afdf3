"""Checkers that compose layers: what they connect compared with a formula in n, a form in L, or a depth."""

from __future__ import annotations

from collections.abc import Sequence

import islpy as isl
import sympy

from pidsl.analysis.bound import Bound
from pidsl.analysis.dense import is_depth, reach_of
from pidsl.analysis.formulas.agreement import branch_starts
from pidsl.analysis.formulas.read import region, stated, tokens_of
from pidsl.analysis.formulas.words import n
from pidsl.analysis.layers.forms import is_form, least_layers, outside, unseen
from pidsl.analysis.layers.judged import (
    OPERATIONS,
    composed,
    differs,
    fresh,
    layer,
    not_reach_of,
    terms_of,
    verdict,
    whole,
)
from pidsl.analysis.layers.stacks import by_width, target_map
from pidsl.analysis.measured import formula_at
from pidsl.analysis.verdict import Verdict, failed, is_soon
from pidsl.errors import TooHardError
from pidsl.language.terms import Term
from pidsl.relation.isl import CONTEXT, coalesced, limited, read_map, read_set

TOGETHER = 2_000_000  # operations for taking the lags of all parts together
LAYERS = 64  # that are composed
LONG = 600_000  # operations for long sequences alone
SHORT, LATEST = 28, 60  # tokens up to which masks are asked, at least and at most
LAGS = 40  # the longest contiguous reach that is proved lag by lag


def _read(text: object) -> isl.Map:
    """A relation that a certificate states.

    Raises:
        TooHardError: it is none.
    """
    try:
        return isl.Map.read_from_str(CONTEXT, text if isinstance(text, str) else "")
    except isl.Error:
        raise TooHardError(f"{text!r} in a certificate", "a relation in isl's notation") from None


def check_matrices(bound: Bound) -> Verdict:
    """For one number of tokens: rows of the dense mask as bits, one layer after another, until a state returns."""
    tokens = bound.question.n
    assert tokens is not None and bound.question.of is not None
    tokens_of((*bound.assumptions, sympy.Eq(n, tokens)))  # that satisfy the assumptions
    if not (bound.expr.is_Integer or bound.expr == sympy.oo):
        return failed(f"{bound.expr} is no depth")
    value = int(bound.expr) if bound.expr.is_Integer else None
    why = is_depth(terms_of(bound), tokens, bound.question.of, value)
    return verdict(why, f"the layers of {tokens} tokens, one after another")


# -- a number of layers ------------------------------------------------------------------------------------------------


def check_layers(bound: Bound) -> Verdict:
    """Compose the relations of the layers; the formula is their largest lag (or their contiguous reach) for every n."""
    with limited("checking a formula over layers", OPERATIONS):
        terms = terms_of(bound)
        layers = fresh(terms)
        pairs = composed(layers)
        try:
            with limited("the lags of all pairs", _share(TOGETHER, pairs)):
                failure = not_reach_of(pairs, bound, region(bound.assumptions, ("n", "L")))
        except TooHardError:
            failure = _not_long(bound, terms, layers, _share(LONG, pairs))
    return verdict(failure, f"the pairs of {len(terms)} layers, composed", "the formula compared with them, for all n")


def _share(operations: int, pairs: isl.Map) -> int:
    """So many operations, fewer of those that take long where an answer was found just now."""
    return by_width(operations, pairs) if is_soon() else operations


def _not_long(bound: Bound, terms: Sequence[Term], layers: Sequence[isl.Map], operations: int) -> str:
    """Why a formula is not the quantity: masks of short sequences, and isl for long ones only.

    Where borders are far apart fewer parts remain: no part has a larger lag, and for each n some part has it; or all
    lags up to the formula are there, and not the next.
    """
    expr, (least, _) = bound.expr, tokens_of(bound.assumptions)
    if expr.has(sympy.oo, sympy.nan) or (bound.quantity != "farthest" and expr.has(-sympy.oo)):
        return f"{expr} is infinite"
    start = max(SHORT, least, *branch_starts(expr, n))
    if start > LATEST:
        return f"other formulas up to {start} tokens"
    for count in range(least, start):
        known = reach_of(bound.quantity, terms, count)
        if formula_at(expr, {"n": count}) != (float("-inf") if known is None else known):
            return f"{known} for {count} tokens"
    where = read_set(f"[n] -> {{ : n >= {start} }}")
    f = stated(expr, where)
    with limited(f"the {bound.quantity} lag of long sequences", operations):
        pairs = coalesced(layers[0].intersect_params(where))
        for relation in layers[1:]:
            pairs = coalesced(coalesced(relation.intersect_params(where)).apply_range(pairs))
        return (_not_farthest if bound.quantity == "farthest" else _not_contiguous)(pairs, f, where)


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


# -- any number of layers ----------------------------------------------------------------------------------------------


def check_form(bound: Bound) -> Verdict:
    """The first numbers of layers each on its own, the others by induction: a form in L, or layers that repeat."""
    with limited("checking a formula for any number of layers", OPERATIONS):
        (term,), where, fact = terms_of(bound), region(bound.assumptions, ("n", "L")), bound.certificate.fact
        start, first = whole(fact("tokens"), 1), whole(fact("first"), 0, LAYERS)
        if where.is_empty() or not where.is_subset(read_set(f"[n, L] -> {{ : n >= {start} and L >= 0 }}")):
            return failed(f"not about n >= {start}")
        some = read_set(f"[n] -> {{ : n >= {start} }}")
        one = coalesced(layer(term).intersect_params(some))
        period = 0 if fact("form") is not None else whole(fact("period"), 0, LAYERS)
        seen = [composed([], some)]
        for _ in range(first + max(period, 1)):
            seen.append(coalesced(one.apply_range(seen[-1])))
        parts = [(seen[k], f"L = {k}") for k in range(first)]
        if fact("form") is not None:
            pairs = _read(fact("form")).intersect_params(some)
            if not is_form(pairs, first, one, seen[first], some):
                return failed("no form in L")
            parts.append((pairs, f"L >= {first}"))
        elif period:
            if not seen[first + period].is_equal(seen[first]):
                return failed(f"{first + period} layers do not connect what {first} do")
            for k in range(first, first + period):
                parts.append((seen[k], f"exists e : L = {k} + {period} e and L >= {first}"))
        else:
            late = where & read_set(f"[n, L] -> {{ : L >= {first} }}")
            most = isl.PwAff.read_from_str(CONTEXT, "[n, L] -> { [(n - 1)] }")
            if not seen[first].is_subset(seen[first + 1]) or differs(stated(bound.expr, late, ("n", "L")), most, late):
                return failed("more layers may connect others")
            parts.append((seen[first], f"L >= {first}"))
        for pairs, condition in parts:
            here = where & read_set(f"[n, L] -> {{ : {condition} }}")
            if not here.is_empty() and (failure := not_reach_of(pairs, bound, here)):
                return failed(f"{condition}: {failure}")
    return verdict("", f"{first} layers composed", "more of them by induction on L", "the formula for all n and L")


# -- depth -------------------------------------------------------------------------------------------------------------


def check_depth(bound: Bound) -> Verdict:
    """Compose the layers one by one: each n has all its pairs after f(n) layers and not before; none where f is oo."""
    with limited("checking a depth", OPERATIONS):
        where, f = region(bound.assumptions, least=1), stated(bound.expr, region(bound.assumptions, least=1))
        if where.is_empty() or bound.question.n is not None:
            return failed("no n satisfies the assumptions")
        if bound.expr.has(-sympy.oo):
            return failed("no depth is negative")
        fact, target, layers = bound.certificate.fact, target_map(bound.question.of), fresh(terms_of(bound))
        never = where - f.domain()
        open_ = never - unseen(layers, target.intersect_params(never)).domain().params()  # without a proof so far
        for cycle, text in fact("invariants") or ():
            missing = outside(layers, target.intersect_params(open_), _read(text), whole(cycle, 1, 3))
            if missing is None:
                return failed("an invariant that is none")
            open_ = (open_ - missing.domain().params()).coalesce()
        rest = (f.domain() | open_).coalesce()
        seen: list[isl.Map] = []
        for count in range(1, whole(fact("composed"), 0, LAYERS) + 1):
            now = layers[(count - 1) % len(layers)]
            now = coalesced(now.apply_range(seen[-1]) if seen else now).intersect_params(rest)
            lacking = (target.intersect_params(rest) - now).domain().params() & rest
            claimed = f.eq_set(isl.PwAff.read_from_str(CONTEXT, f"[n] -> {{ [({count})] }}"))
            if not (rest - lacking).is_equal(claimed & rest):
                return failed(f"not {count} layers exactly where the formula says so")
            rest = (rest & lacking).coalesce()
            seen.append(now)
        if rest.is_empty():
            return verdict("", f"{len(seen)} layers composed", "pairs compared for all n", "invariants for oo")
        if fact("form") is not None:
            return _by_induction(bound, layers, target.intersect_params(rest), rest, f)
        again = whole(fact("again"), 1, max(len(seen) - 1, 1))
        same = len(seen) > again and seen[again - 1].intersect_params(rest).is_equal(seen[-1].intersect_params(rest))
        if not same or (len(seen) - again) % len(layers) or not f.domain().is_disjoint(rest):
            return failed("more layers may connect more")
    return verdict("", f"{len(seen)} layers composed, which connect what {again} do", "pairs compared for all n")


def _by_induction(bound: Bound, layers: list[isl.Map], target: isl.Map, rest: isl.Set, f: isl.PwAff) -> Verdict:
    """The pairs of L layers as a form in L, proved by induction; then the least L is a question for isl."""
    (one,) = layers
    first = whole(bound.certificate.fact("first"), 1, whole(bound.certificate.fact("composed")) + 1)
    pairs = _read(bound.certificate.fact("form"))
    if not is_form(pairs.intersect_params(rest), first, one, composed([one] * first, rest), rest):
        return failed("the form in L is not right")
    wanted = least_layers(pairs, first, target, rest)
    if differs(f, wanted, rest):
        return failed(f"not {wanted}")
    return verdict("", "layers composed", "a form in L, by induction", "its least L, for all n")
