"""Checkers for what several layers connect: each starts from the terms, and decides with isl.

Nothing here reads what the derivation computed or remembered: relations are built again, layers are added one by one
from the output down (the derivation halves the stack), sets of lags are intervals added pair by pair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import islpy as isl
import sympy

from pidsl.analysis.bound import Bound
from pidsl.analysis.formulas.piecewise import function, region, stated, tokens_of
from pidsl.analysis.formulas.words import L, n
from pidsl.analysis.layers import long_lags
from pidsl.analysis.layers.closed import closed_form, is_closed_form
from pidsl.analysis.layers.stacks import WHOLE, Stack, checked, connected, stack
from pidsl.analysis.verdict import Verdict
from pidsl.errors import TooHardError
from pidsl.language.terms import Term
from pidsl.relation.build import unclipped
from pidsl.relation.isl import coalesced, disjoint, limited, read_map, read_set

MOST = 4_000_000  # additions of intervals
TOGETHER = 2_000_000  # operations for taking the lags of all parts together
SOON = 20_000  # operations for one key of each query
MANY_LAYERS = 20  # within which sets come again
CHECK_OPERATIONS = 8_000_000  # a proof may take longer than its statement

Parts = list[tuple[int, int]]


def schedule_of(bound: Bound) -> Stack:
    """The terms of the statement.

    Raises:
        TermError: they are given by a rule.
    """
    return stack(checked(bound.subject), None)


def stack_of(bound: Bound, layers: int) -> list[Term]:
    """The terms of so many layers, the layer at the input first."""
    schedule = schedule_of(bound)
    return [schedule[k % len(schedule)] for k in range(layers)]


def layer(term: Term) -> isl.Map:
    """The relation between n tokens, from the term."""
    pairs = unclipped(term) & read_map("[n, m] -> { [i] -> [j] : n = m and 0 <= i < n and 0 <= j < n }")
    return coalesced(pairs.project_out(isl.dim_type.param, 1, 1))


def fresh(terms: Iterable[Term]) -> list[isl.Map]:
    """A relation per layer; equal layers share one."""
    known: dict[Term, isl.Map] = {}
    return [known.setdefault(t, known.get(t) or layer(t)) for t in terms]


def composed(layers: list[isl.Map]) -> isl.Map:
    """What the layers connect, from the output down."""
    seen = read_map("[n] -> { [i] -> [i] : 0 <= i < n }")
    for one in reversed(layers):
        seen = coalesced(seen.apply_range(one))
    return seen


# -- the question that every checker ends in ---------------------------------------------------------------------------


def judge(quantity: str, lags: isl.Set, missing: isl.Set, bound: Bound, where: isl.Set, names: tuple[str, ...]) -> str:
    """Why the formula is not the quantity, "" if it is.

    Args:
        quantity: "farthest" or "contiguous".
        lags: `[n] -> { [d] }`, the lags that are connected.
        missing: `[n] -> { [d] }`, the lags >= 0 of pairs that are not.
        bound: has the formula.
        where: the n (and L) for which it is claimed.
        names: parameters of the formula.
    """
    if where.is_empty():
        return "no n satisfies the assumptions"
    if bound.expr.has(sympy.oo):
        return f"{bound.expr} is infinite"
    f = stated(bound.expr, where, names)
    value = isl.Set.from_pw_aff(f)
    if quantity == "farthest":
        lags = lags.intersect_params(where)
        if not value.is_subset(lags):
            return "some n has no pair with that lag"
        if not (value.apply(read_map("{ [v] -> [d] : d > v }")) & lags).is_empty():
            return "some pair has a larger lag"
        return "" if lags.params().is_subset(f.domain()) else "-oo where there are pairs"
    if bound.expr.has(-sympy.oo) or not where.is_subset(f.domain()):
        return "the formula has no value somewhere"
    missing = missing.intersect_params(where)
    if not (value.apply(read_map("{ [v] -> [d] : 0 <= d <= v }")) & missing).is_empty():
        return "a pair of at most that lag is missing"
    ends = read_set(f"[{', '.join(names)}] -> {{ [v] : v = n - 1 }}")
    stops = missing.apply(read_map("{ [d] -> [d - 1] }"))
    return "" if value.is_subset(ends | stops) else "a longer run of predecessors is connected"


def _verdict(failure: str, *steps: str) -> Verdict:
    return Verdict(not failure, () if failure else steps, failure)


# -- methods -----------------------------------------------------------------------------------------------------------


def check_layers(bound: Bound) -> Verdict:
    """Compose the relations of the layers; the formula is their largest lag (or their contiguous reach) for every n."""
    with limited("checking a formula over layers", CHECK_OPERATIONS):
        terms = stack_of(bound, bound.argument("layers"))
        layers = fresh(terms)
        try:
            with limited("the lags of all pairs", TOGETHER):
                failure = _judge_pairs(bound, composed(layers), region(bound.assumptions, least=0), ("n",))
        except TooHardError:
            least, _ = tokens_of(bound.assumptions)
            failure = long_lags.failure(bound.quantity, terms, layers, bound.expr, least)
    return _verdict(failure, f"the pairs of {len(terms)} layers, composed", "the formula compared with them, for all n")


def _judge_pairs(bound: Bound, pairs: isl.Map, where: isl.Set, names: tuple[str, ...]) -> str:
    """Judged by the first key of each query, which is the farthest, or by the nearest predecessor that it lacks."""
    if bound.quantity == "farthest":
        lags = _some(pairs, isl.Map.lexmin)
    else:
        lags = _some(read_map("[n] -> { [i] -> [j] : 0 <= j <= i < n }") - pairs, isl.Map.lexmax)
    return judge(bound.quantity, lags, lags, bound, where, names)


def _some(pairs: isl.Map, choose: Callable[[isl.Map], isl.Map]) -> isl.Set:
    """The lags of one pair of each query, where isl tells it soon, else of all pairs."""
    try:
        with limited("one key of each query", SOON):
            return choose(pairs).reverse().deltas()
    except TooHardError:
        return pairs.reverse().deltas()


def check_lag_sums(bound: Bound) -> Verdict:
    """All layers are causal and translation invariant, so L of them connect the sums of L lags, one per layer."""
    with limited("checking sums of lags", CHECK_OPERATIONS):
        terms = stack_of(bound, bound.argument("layers"))
        sets = lag_sets(terms)
        if sets is None:
            return Verdict(False, failure="a layer is not causal and translation invariant")
        where = region(bound.assumptions)
        if where.is_empty():
            return Verdict(False, failure="no n satisfies the assumptions")
        total = summed_sets(terms, sets)
        failure = _judge_lags(bound, total, where, ("n",))
    return _verdict(failure, f"{len(terms)} layers: causal, translation invariant", "lags summed", "formula compared")


def _judge_lags(bound: Bound, total: Parts | isl.Set, where: isl.Set, names: tuple[str, ...]) -> str:
    inside = read_set("[n] -> { [d] : 0 <= d < n }")
    if isinstance(total, list):
        if bound.quantity == "contiguous":  # what lies beyond the first gap does not matter
            first = total[0] if total and total[0][0] == 0 else (0, -1)
            missing = inside & read_set(f"{{ [d] : d > {first[1]} }}")
            return judge(bound.quantity, inside, missing, bound, where, names)
        least = int(_line(where).dim_min_val(0).to_python())
        reached = max((a for a, _ in total if a < least), default=0)  # the lags below are no maximum for these n
        text = "; ".join(f"[d] : {a} <= d <= {b}" for a, b in total if b >= reached)
        return judge(bound.quantity, inside & read_set(f"{{ {text or '[d] : 1 = 0'} }}"), inside, bound, where, names)
    return judge(bound.quantity, inside & total, inside - total, bound, where, names)


def _line(where: isl.Set) -> isl.Set:
    """The n of a parameter set, as numbers."""
    position = where.find_dim_by_name(isl.dim_type.param, "n")
    found = where.move_dims(isl.dim_type.set, 0, isl.dim_type.param, position, 1)
    return found.project_out(isl.dim_type.param, 0, found.dim(isl.dim_type.param))


def lag_sets(terms: Iterable[Term], *, ahead: bool = False) -> dict[Term, isl.Set] | None:
    """The lags of each term, once it is verified that they say everything; None where they do not.

    Args:
        terms: any.
        ahead: whether lags < 0 are welcome.
    """
    found: dict[Term, isl.Set] = {}
    for term in terms:
        if term in found:
            continue
        pairs = layer(term)
        lags = coalesced(pairs.reverse().deltas().project_out(isl.dim_type.param, 0, 1))
        every = read_map("[n] -> { [d] -> [[i] -> [j]] : d = i - j and 0 <= i < n and 0 <= j < n }")
        if not every.intersect_domain(lags).range().unwrap().is_equal(pairs):
            return None
        if not (ahead or lags.is_subset(read_set("{ [d] : d >= 0 }"))):
            return None
        found[term] = lags
    return found


def summed_sets(terms: list[Term], sets: dict[Term, isl.Set]) -> Parts | isl.Set:
    """The sums of one lag per layer: intervals if all sets are finite."""
    if all(sets[t].is_bounded() for t in terms):
        parts = {t: points(sets[t]) for t in sets}
        total: Parts = [(0, 0)]
        for term in terms:
            if len(total) * len(parts[term]) > MOST:
                raise ValueError("too many lags")
            total = joined((a + u, b + v) for a, b in total for u, v in parts[term])
        return total
    sums = read_set("{ [d] : d = 0 }")
    for term in terms:
        sums = coalesced(sums.sum(sets[term]))
    return sums


def points(lags: isl.Set) -> Parts:
    """A bounded set of numbers as intervals."""
    found: Parts = []
    for part in disjoint(lags):
        one = isl.Set.from_basic_set(part)
        if one.is_empty():
            continue
        low, high = int(one.dim_min_val(0).to_python()), int(one.dim_max_val(0).to_python())
        if one.is_equal(read_set(f"{{ [d] : {low} <= d <= {high} }}")):
            found.append((low, high))
        else:
            one.foreach_point(lambda p: found.append(_twice(p)))
    return joined(found)


def _twice(p: isl.Point) -> tuple[int, int]:
    x = int(p.get_coordinate_val(isl.dim_type.set, 0).to_python())
    return x, x


def joined(parts: Iterable[tuple[int, int]]) -> Parts:
    """Intervals in order, overlapping and touching ones made one."""
    found: Parts = []
    for a, b in sorted(parts):
        if found and a - 1 <= found[-1][1]:
            if b > found[-1][1]:
                found[-1] = (found[-1][0], b)
        else:
            found.append((a, b))
    return found


def check_lag_growth(bound: Bound) -> Verdict:
    """L layers of one finite set of lags, its largest M: M L is the farthest; contiguous by induction on L.

    Let c(L) be the contiguous reach and l a number of layers with c(l) >= M - 1. Then c(L + 1) >= c(L) + M for all
    L >= l, for the sums of L + 1 lags hold those of L and the same moved by M. And c(l) + 1 + (L - l) M is no sum of L
    lags d for any L >= l if delta = l M - c(l) - 1 is no sum of numbers M - d: so c grows by M exactly.
    """
    with limited("checking lags for any number of layers"):
        (term,) = schedule_of(bound)
        sets = lag_sets([term], ahead=bound.quantity == "farthest")
        where = region(bound.assumptions, ("n", "L"))
        if sets is None or not sets[term].is_bounded():
            return Verdict(False, failure="not a translation invariant term with finitely many lags")
        if where.is_empty():
            return Verdict(False, failure="no n and L satisfy the assumptions")
        lags = points(sets[term])
        largest = lags[-1][1] if lags else 0
        beyond = read_set(f"[n, L] -> {{ : L >= 0 and n > {abs(largest)} L }}")
        if not where.is_subset(beyond):
            return Verdict(False, failure="the assumptions allow n that the lags leave")
        reach, last = [0], 0
        if bound.quantity == "contiguous" and fills(lags):
            reach, last = reaches(lags), len(reaches(lags)) - 1
            tail: sympy.Expr = largest * (L - last) + reach[-1]
        elif bound.quantity == "contiguous":
            tail = sympy.Integer(0 if lags and lags[0][0] == 0 else -1)
        else:
            tail = largest * L if lags else -sympy.oo
        early = [(reach[k], sympy.Eq(L, k)) for k in range(1, last)]
        cases = sympy.Piecewise((tail, L >= max(last, 1)), *early, (0, True))
        wanted = function(cases, ("n", "L")).intersect_params(where)
        given = stated(bound.expr, where, ("n", "L"))
        same = wanted.domain().is_equal(given.domain()) and wanted.domain().is_subset(wanted.eq_set(given))
    failure = "" if same and not bound.expr.has(sympy.oo) else f"not {cases}"
    return _verdict(failure, "translation invariant", f"the first {last} layers summed", "induction on L")


def fills(lags: Parts) -> bool:
    """Whether the lags hold 0 and 1, so that enough layers reach any lag."""
    return bool(lags) and lags[0][0] == 0 and lags[0][1] > 0


def reaches(lags: Parts) -> list[int]:
    """c(0), c(1), ..., c(l) for an l from which on c grows by M per layer, by the argument of `check_lag_growth`.

    Sums up to a bound need no larger ones, so c is known while it stays below the bound; beyond, with twice the bound.

    Raises:
        TooHardError: it takes too many layers.
    """
    largest = lags[-1][1]
    bound = 4 * largest
    while True:
        reach, total = [0], [(0, 0)]
        while reach[-1] < bound:
            total = joined((a + u, min(b + v, bound)) for a, b in total for u, v in lags if a + u <= bound)
            reach.append(total[0][1])
            layers = len(reach) - 1
            rest = largest * layers - reach[-1] - 1
            if largest - 1 <= reach[-1] < bound and not sum_of(lags, rest):
                return reach
            if layers > WHOLE:
                raise TooHardError(f"lags that fill up after more than {WHOLE} layers", "fewer")
        bound *= 2


def sum_of(lags: Parts, delta: int) -> bool:
    """Whether delta is a sum of numbers M - d, any number of them."""
    if delta < 0:
        return False
    largest = lags[-1][1]
    steps = [(largest - b, largest - a) for a, b in lags]
    can = bytearray(delta + 1)
    can[0] = 1
    for x in range(1, delta + 1):
        can[x] = any(u <= x and any(can[max(0, x - v) : x - max(u, 1) + 1]) for u, v in steps)
    return bool(can[delta])


def check_stable_layers(bound: Bound) -> Verdict:
    """Each number of layers up to some l on its own; those beyond connect the same again and again, or all there is."""
    with limited("checking a formula for any number of layers", CHECK_OPERATIONS):
        where = region(bound.assumptions, ("n", "L"))
        if where.is_empty():
            return Verdict(False, failure="no n and L satisfy the assumptions")
        tokens = read_set(f"[n] -> {{ : n >= {_least(bound)} }}")
        one = layer(schedule_of(bound)[0]).intersect_params(tokens)
        seen, grows = [composed([]).intersect_params(tokens)], False
        for count in range(MANY_LAYERS):
            after = coalesced(one.apply_range(seen[-1]))
            grows = grows or seen[-1].is_subset(after)
            if grows and not _judge_pairs(_with(bound, n - 1), seen[-1], where, ("n", "L")):
                step = "that connect all that any number does"
                return _by_number(bound, seen, where, count, 1, step)
            if (again := next((k for k in range(count + 1) if after.is_equal(seen[k])), None)) is not None:
                period = count + 1 - again
                return _by_number(bound, seen, where, again, period, f"that come again after {period} more")
            seen.append(after)
    return Verdict(False, failure="the layers go on to connect more")


def _by_number(bound: Bound, seen: list[isl.Map], where: isl.Set, first: int, period: int, step: str) -> Verdict:
    """The formula for each number of layers before `first`, and from there on for each class modulo the period."""
    for count, pairs in enumerate(seen):
        later = f"exists e : L = {count} + {period} e and L >= {first}"
        here = where & read_set(f"[n, L] -> {{ : {later if count >= first else f'L = {count}'} }}")
        if not here.is_empty() and (failure := _judge_pairs(bound, pairs, here, ("n", "L"))):
            return Verdict(False, failure=f"L = {count}: {failure}")
    return Verdict(True, (f"from {first} layers on, sets {step}", "the formula for each number up to there"))


def _least(bound: Bound) -> int:
    """The first n that a statement for L layers is about, as it says itself."""
    found = [c.rhs for c in bound.assumptions if isinstance(c, sympy.Ge) and c.lhs == n and c.rhs.is_Integer]
    return max([1, *map(int, found)])


def _with(bound: Bound, expr: sympy.Expr) -> Bound:
    return replace(bound, expr=expr)


def check_form_in_l(bound: Bound) -> Verdict:
    """The pairs of L layers as a form in L, by induction: S_l at L = l, and one layer more is the form at L + 1."""
    with limited("checking a formula for any number of layers", CHECK_OPERATIONS):
        where = region(bound.assumptions, ("n", "L"))
        if where.is_empty():
            return Verdict(False, failure="no n and L satisfy the assumptions")
        (term,), some = schedule_of(bound), read_set(f"[n] -> {{ : n >= {_least(bound)} }}")
        one = coalesced(layer(term).intersect_params(some))

        def layers(count: int) -> isl.Map:
            return composed([one] * count)

        # a form may come from anywhere, the derivation too: what makes it one is the induction
        form = closed_form(one, layers, some) or closed_form(one, lambda count: connected((term,) * count), some)
        if form is None or not is_closed_form(form, one, layers(form.first), some):
            return Verdict(False, failure="no form in L")
        if not where.is_subset(read_set(f"[n, L] -> {{ : n >= {_least(bound)} and L >= 0 }}")):
            return Verdict(False, failure="claimed for more n and L")
        parts = [(form.pairs, f"L >= {form.first}"), *((layers(k), f"L = {k}") for k in range(form.first))]
        for pairs, condition in parts:
            here = where & read_set(f"[n, L] -> {{ : {condition} }}")
            if not here.is_empty() and (failure := _judge_pairs(bound, pairs, here, ("n", "L"))):
                return Verdict(False, failure=f"{condition}: {failure}")
    return _verdict("", f"S_{form.first} composed", "a form in L, by induction", "the formula for all n and L")
