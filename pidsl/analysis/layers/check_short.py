"""The checker of short sequences: gaps verified by isl, masks counted again, the formula compared."""

from __future__ import annotations

from itertools import islice
from math import lcm

import islpy as isl

from pidsl.analysis.bound import ANY, Bound, restated
from pidsl.analysis.dense import depth_in, reach_in
from pidsl.analysis.formulas.words import L, holds
from pidsl.analysis.layers.by_values import Claim
from pidsl.analysis.layers.gaps import Gaps, gaps_of, leaves, masks_of, turned, until_repeated
from pidsl.analysis.layers.judged import layer, terms_of, whole
from pidsl.analysis.layers.turns import numbers_of, turns_of
from pidsl.analysis.verdict import Verdict, failed
from pidsl.errors import TooHardError
from pidsl.language.terms import Term
from pidsl.relation.isl import limited, read_map, read_set

PROOF = 1.2e12  # multiplications of single numbers, a few seconds
ORDERS = ("j = before and i = before + between", "i = before and j = before + between and between >= 1")
LARGEST = 1 << 24


def check(bound: Bound) -> Verdict:
    """Count again from the term, and compare at as many n as determine a quasi-affine function."""
    terms = terms_of(bound)
    known = {x[0]: Gaps(whole(x[1], 1, LARGEST), whole(x[2], 1, LARGEST)) for x in bound.certificate.fact("gaps") or ()}
    for leaf in dict.fromkeys(leaf for term in terms for leaf in leaves(term)):
        if leaf not in known or not has_gaps(leaf, known[leaf]):
            return failed(f"gaps of {leaf!r} that are not verified")
    if bound.quantity == "depth":
        return _check_depth(bound, known)
    return (_check_any if bound.question.layers == ANY else _check_reach)(bound, known)


def has_gaps(term: Term, gaps: Gaps) -> bool:
    """Whether every gap of `free` may grow by `period`, and be as before: three gaps, for either order of i and j."""
    with limited(f"the gaps of {term!r}"):
        points = layer(term).wrap().flatten().move_dims(isl.dim_type.set, 0, isl.dim_type.param, 0, 1)
        for order in ORDERS:
            sizes = "before >= 0 and between >= 0 and after >= 1 and n = before + between + after"
            found = points.apply(read_map(f"{{ [n, i, j] -> [before, between, after] : {sizes} and {order} }}"))
            for gap in ("before", "between", "after"):
                names = "before, between, after"
                grown = names.replace(gap, f"{gap} + {gaps.period}")
                some, large = (
                    found & read_set(f"{{ [{names}] : {gap} >= {x} }}") for x in (gaps.free, gaps.free + gaps.period)
                )
                if not some.apply(read_map(f"{{ [{names}] -> [{grown}] }}")).is_equal(large):
                    return False
    return True


def _count(last: int, layers: int) -> int:
    if layers * float(last) ** 4 / 4 > PROOF:
        raise TooHardError(f"{layers} layers of up to {last} tokens", "fewer, for dense masks")
    return last


def _check_reach(bound: Bound, known: dict[Term, Gaps]) -> Verdict:
    claim, layers = Claim(bound), terms_of(bound)
    gaps = gaps_of(layers, known).through(len(layers))
    last = _count(claim.last(gaps.start, gaps.period), len(layers))
    some = islice(masks_of(layers, known), last)
    values = [reach_in(bound.quantity, x, len(x[0])) if claim.admits(len(x[0])) else None for x in some]
    return _verdict(claim.failure(values, float("-inf")), last)


def _check_depth(bound: Bound, known: dict[Term, Gaps]) -> Verdict:
    claim, most, of = Claim(bound), whole(bound.certificate.fact("layers"), 1, LARGEST), bound.question.of
    if claim.given is not None or of is None:
        return failed("a depth for every n is what is counted")
    gaps = gaps_of([bound.term], known).through(most)
    last, values = _count(claim.last(gaps.start, gaps.period), most), []
    for masks in islice(masks_of([bound.term], known), last):  # also of n not claimed: long ones are like them
        value, layers = depth_in(masks, of)
        if layers > most:
            return failed(f"{layers} layers of {len(masks[0])} tokens, more than {most}")
        values.append(value)
    return _verdict(claim.failure(values, float("inf")), last)


def _check_any(bound: Bound, known: dict[Term, Gaps]) -> Verdict:
    """A formula in n for each number of layers, up to where both the layers and the formula repeat."""
    first, period = (whole(bound.certificate.fact(x), least, LARGEST) for x, least in (("first", 0), ("period", 1)))
    about_l = [c for c in bound.assumptions if c.has(L)]
    about_n = tuple(c for c in bound.assumptions if not c.has(L))
    start, turns, chosen = numbers_of(bound.expr)
    for condition in about_l:
        begin, own = turns_of(condition)
        start, turns = max(start, begin), lcm(turns, own)
    claims = {
        k: Claim(restated(bound, expr=chosen(k), layers=k, assumptions=about_n))
        for k in range(start + turns)
        if all(holds(c, {L: k}) for c in about_l)
    }
    if not claims:
        return failed("no L satisfies the assumptions")
    gaps = gaps_of([bound.term], known).through(first + period)
    last = _count(max(claim.last(gaps.start, gaps.period) for claim in claims.values()), first + period)
    each = []
    for (mask,) in islice(masks_of([bound.term], known), last):
        values, again = until_repeated(mask, bound.quantity, PROOF)
        if again > first or period % (len(values) - again):
            return failed(f"layers of {len(mask)} tokens that do not repeat from {first} on, after {period} more")
        each.append((again, values))
    for layers in range(max(start, first) + lcm(turns, period)):
        if claim := claims.get(turned(layers, start, turns)):
            wanted = [v[turned(layers, again, len(v) - again)] for again, v in each]
            if failure := claim.failure(wanted, float("-inf")):
                return failed(f"{layers} layers: {failure}")
    return _verdict("", last)


def _verdict(failure: str, last: int) -> Verdict:
    if failure:
        return failed(failure)
    return Verdict(True, ("of long gaps only the remainder matters (isl)", f"dense masks for n <= {last}, which agree"))
