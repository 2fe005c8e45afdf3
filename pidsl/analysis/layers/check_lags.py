"""The checker of `sums of lags`: lags read from the term again, and what is said of their sums verified."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

import islpy as isl
import sympy

from pidsl.analysis.bound import ANY, Bound
from pidsl.analysis.dense import is_depth
from pidsl.analysis.formulas.read import region, stated
from pidsl.analysis.formulas.words import L, n, value_of
from pidsl.analysis.layers import judged
from pidsl.analysis.layers.gaps import until_repeated
from pidsl.analysis.layers.judged import whole
from pidsl.analysis.layers.stacks import WHOLE
from pidsl.analysis.layers.sums import Intervals, Staircase, Sums, both_ways, merged, mirrored, normal
from pidsl.analysis.verdict import Verdict, failed
from pidsl.errors import TooHardError
from pidsl.language.terms import Term
from pidsl.relation.isl import CONTEXT, coalesced, disjoint, least, limited, read_map, read_set
from pidsl.relation.oracle import dense_mask

MOST = 4_000_000  # additions of intervals
SHORT, WORK = 20, 4e8  # so many tokens fewer may be looked at by masks, and multiplications for each
LARGEST = 1 << 24  # sums that are looked at


def check(bound: Bound) -> Verdict:
    """Sums of the lags of so many layers, or of L layers, or the least L for which they leave no gap."""
    with limited("checking sums of lags", judged.OPERATIONS):
        if bound.quantity == "depth":
            return _check_depth(bound)
        if bound.question.layers == ANY:
            return _check_any(bound)
        terms = judged.terms_of(bound)
        sets = {term: causal_lags(term) for term in terms}
        where = region(bound.assumptions, ("n", "L"))
        lags, missing = _summed([sets[t] for t in terms], bound, where)
        failure = judged.not_reach(bound.quantity, lags, missing, bound.expr, where)
    return judged.verdict(failure, f"{len(terms)} layers: causal, translation invariant", "lags summed", "compared")


# -- what is so of the terms -------------------------------------------------------------------------------------------


def lags_of(term: Term, start: int) -> isl.Set:
    """The lags of a term among n >= start tokens, once it is verified that they say everything.

    Raises:
        TooHardError: they do not.
    """
    where = read_set(f"[n] -> {{ : n >= {start} }}")
    pairs = judged.layer(term).intersect_params(where)
    lags = coalesced(pairs.reverse().deltas().project_out(isl.dim_type.param, 0, 1))
    every = read_map("[n] -> { [d] -> [[i] -> [j]] : d = i - j and 0 <= i < n and 0 <= j < n }")
    if not every.intersect_domain(lags).range().unwrap().intersect_params(where).is_equal(pairs):
        raise TooHardError(repr(term), "a translation invariant layer")
    return lags


def causal_lags(term: Term) -> isl.Set:
    """The lags of a term that only looks back.

    Raises:
        TooHardError: it does not, or is not translation invariant.
    """
    lags = lags_of(term, 1)
    if not lags.is_subset(read_set("{ [d] : d >= 0 }")):
        raise TooHardError(repr(term), "a causal layer")
    return lags


def points(lags: isl.Set) -> Intervals:
    """A bounded set of numbers as intervals."""
    if not lags.is_bounded():
        raise TooHardError("infinitely many lags", "finitely many")
    found: list[tuple[int, int]] = []
    for part in disjoint(lags):
        one = isl.Set.from_basic_set(part)
        if one.is_empty():
            continue
        low, high = int(one.dim_min_val(0).to_python()), int(one.dim_max_val(0).to_python())
        if one.is_equal(read_set(f"{{ [d] : {low} <= d <= {high} }}")):
            found.append((low, high))
        else:
            one.foreach_point(lambda p: found.append(_twice(p)))
    return merged(found)


def _twice(p: isl.Point) -> tuple[int, int]:
    x = int(p.get_coordinate_val(isl.dim_type.set, 0).to_python())
    return x, x


# -- sums --------------------------------------------------------------------------------------------------------------


def summed(a: Intervals, b: Intervals, bound: float = float("inf")) -> Intervals:
    """Sums of an element of each, those up to a bound."""
    if len(a) * len(b) > MOST:
        raise TooHardError("sums of lags in many intervals", "fewer")
    top = int(min(bound, LARGEST * 64))
    return merged((x + u, min(y + v, top)) for x, y in a for u, v in b if x + u <= top)


def below(parts: Intervals, bound: int) -> Intervals:
    """Sums of any number of elements >= 0 that are less than a bound.

    >>> below(((3, 3), (5, 5)), 10)
    ((0, 0), (3, 3), (5, 6), (8, 9))
    """
    found: list[list[int]] = []
    todo, steps = [(0, 0)], 0
    while todo and todo[0][0] < bound:
        low, high = heappop(todo)
        high = min(high, bound - 1)
        if found and low <= found[-1][1] + 1:
            if high <= found[-1][1]:
                continue
            low, found[-1][1] = found[-1][1] + 1, high
        else:
            found.append([low, high])
        steps += len(parts)
        if steps > MOST:
            raise TooHardError(f"sums below {bound}", "fewer")
        for u, v in parts:
            if v and low + u < bound:
                heappush(todo, (low + u, high + v))
    return tuple((low, high) for low, high in found)


def _summed(sets: list[isl.Set], bound: Bound, where: isl.Set) -> tuple[isl.Set, isl.Set]:
    """The lags that layers connect, one of each set, and those that they do not."""
    inside = read_set("[n] -> { [d] : 0 <= d < n }")
    if not all(x.is_bounded() for x in sets):
        total = read_set("{ [d] : d = 0 }")
        for one in sets:
            total = coalesced(total.sum(one))
        return inside & total, inside - total
    parts: Intervals = ((0, 0),)
    for one in sets:
        parts = summed(parts, points(one))
    if bound.quantity == "contiguous":  # what lies beyond the first gap does not matter
        first = parts[0][1] if parts and parts[0][0] == 0 else -1
        return inside, inside & read_set(f"{{ [d] : d > {first} }}")
    line = where.move_dims(isl.dim_type.set, 0, isl.dim_type.param, where.find_dim_by_name(isl.dim_type.param, "n"), 1)
    fewest = least(line.project_out(isl.dim_type.param, 0, line.dim(isl.dim_type.param))) if not line.is_empty() else 0
    reached = max((a for a, _ in parts if a < fewest), default=0)  # the lags below are no maximum for these n
    text = "; ".join(f"[d] : {a} <= d <= {b}" for a, b in parts if b >= reached)
    return inside & read_set(f"{{ {text or '[d] : 1 = 0'} }}"), inside


def verified_sums(parts: Intervals, fact: Callable[[str], Any]) -> tuple[Sums, list[Intervals]]:
    """What is said of sums of L lags, and the sums of fewer elements.

    Raises:
        TooHardError: it is not so.
    """
    least_, step, inner = normal(parts)
    names = ("low", "first", "high", "last", "layers")
    sums = Sums(least_, step, inner[-1][1], *map(fact, names))
    for x in (sums.first, sums.last, sums.layers):
        whole(x, 0, LARGEST)
    if below(inner, sums.first) != sums.low or below(mirrored(inner), sums.last) != sums.high:
        raise TooHardError("sums of any number of lags", "those that the certificate says")
    if sums.top * sums.layers - sums.last - sums.first + 1 < sums.top or sums.layers > WHOLE:
        raise TooHardError(f"{sums.layers} layers", "as many as an induction can begin with")
    each: list[Intervals] = [((0, 0),)]
    for _ in range(sums.layers):
        each.append(summed(each[-1], inner))
    if each.pop() != sums.elements(sums.layers):
        raise TooHardError(f"sums of {sums.layers} lags", "those that the certificate says")
    return sums, each


def verified_staircase(lags: isl.Set, fact: Callable[[str], Any]) -> Staircase:
    """c(L) of causal lags, from what is said of it.

    Raises:
        TooHardError: it is not so.
    """
    zero, one = (not (lags & read_set(f"{{ [d] : d = {k} }}")).is_empty() for k in (0, 1))
    if not (zero and one):  # 1 is no sum of lags, or no token sees itself
        return Staircase((0,), ((0, 0 if zero else 1),))
    reach = fact("reach")
    for x in reach if isinstance(reach, tuple) and 1 <= len(reach) <= WHOLE else (None,):
        whole(x, 0, LARGEST)
    wrong = TooHardError(f"c(L) for L < {len(reach)}", "what the certificate says")
    if lags.is_bounded():
        parts, last = points(lags), whole(fact("last"))
        largest = parts[-1][1]
        top = largest * len(reach) - last
        found = _heights(parts, len(reach), max(*reach, top) + 2)
        if found != [*reach, top] or top < largest - 1 or _is_sum(mirrored(parts), last - 1):
            raise wrong
        return Staircase(reach, ((largest, last),))
    start, period = whole(fact("start")), whole(fact("period"), 1)
    tail = lags & read_set(f"{{ [d] : d >= {start} }}")
    after = lags & read_set(f"{{ [d] : d >= {start + period} }}")
    if not after.apply(read_map(f"{{ [d] -> [d - {period}] }}")).is_equal(tail):
        raise TooHardError("infinitely many lags", f"a period of {period} from {start} on")
    first = least(tail)
    for bound in (max(max(reach) + 2, first), len(reach) * (start + period) + period):
        parts = points(lags & read_set(f"{{ [d] : d <= {bound} }}"))
        *before, now = _heights(parts, len(reach), bound)
        if before != list(reach) or max(reach) >= bound:
            raise wrong
        soon = reach[-1] >= period - 1 and now >= first - 1
        if soon or (now >= bound and bound >= len(reach) * (start + period) + period):
            return Staircase(reach, ())
    raise wrong


def _heights(parts: Intervals, layers: int, bound: int) -> list[int]:
    """c(0), ..., c(layers), by sums up to a bound."""
    total: Intervals = ((0, 0),)
    found = [0]
    for _ in range(layers):
        total = summed(total, parts, bound)
        found.append(total[0][1])
    return found


def _is_sum(parts: Intervals, x: int) -> bool:
    """Whether x is a sum of any number of elements."""
    found = below(parts, x + 1)
    return x >= 0 and found[-1][1] == x


# -- statements --------------------------------------------------------------------------------------------------------


def _check_any(bound: Bound) -> Verdict:
    terms, where = judged.terms_of(bound), region(bound.assumptions, ("n", "L"))
    fact = bound.certificate.fact
    if len(terms) != 1:
        return failed("a term for each layer, and no number of layers")
    (term,) = terms
    if where.is_empty():
        return failed("no n and L satisfy the assumptions")
    if fact("reach") is not None or (bound.quantity == "contiguous" and fact("regular") is None):
        if bound.quantity != "contiguous":
            return failed("a staircase says how far lags go without a gap")
        wanted = verified_staircase(causal_lags(term), fact).value()
        return _compared(bound, wanted, where, "induction on L", "for all n and L")
    start = 1 if fact("regular") is None else whole(fact("regular"), 1)
    parts = points(lags_of(term, start))
    if fact("layers") is None and parts:
        largest = parts[-1][1]
        beyond = read_set(f"[n, L] -> {{ : L >= 0 and n > {abs(largest)} L and n >= {start} }}")
        right = bound.quantity == "farthest" and bound.expr == largest * L and where.is_subset(beyond)
        return judged.verdict("" if right else f"not {largest} L for n beyond all lags", "no lag is longer")
    start = _from(parts, start)
    if not where.is_subset(read_set(f"[n, L] -> {{ : L >= 0 and n >= {max(1, start - SHORT)} }}")):
        return failed(f"claimed for n < {start}")
    for tokens in range(max(1, start - SHORT), start):
        here = where & read_set(f"[n, L] -> {{ : n = {tokens} }}")
        if not here.is_empty() and judged.differs(stated(bound.expr, here, ("n", "L")), _by_masks(bound, tokens), here):
            return failed(f"{tokens} tokens: other values")
    where = where & read_set(f"[n, L] -> {{ : n >= {start} }}")
    if bound.quantity == "contiguous" and parts and parts[0][0] < 0 < parts[-1][1] and normal(parts)[1] == 1:
        wanted = both_ways(*verified_sums(parts, fact), ahead=False).value()
        return _compared(bound, wanted, where, "induction on L", "for all n and L")
    lags = read_set("[n, L] -> { [d] : d = 0 and L = 0 }")
    if parts:
        sums, early = verified_sums(parts, fact)
        lags = sums.lags(early)
    lags, missing = lags & read_set("[n] -> { [d] : -n < d < n }"), read_set("[n] -> { [d] : 0 <= d < n }") - lags
    failure = judged.not_reach(bound.quantity, lags, missing, bound.expr, where)
    return judged.verdict(failure, "sums of lags", "induction on L", "compared for all n and L")


def _compared(bound: Bound, wanted: isl.PwAff, where: isl.Set, *steps: str) -> Verdict:
    """Whether the formula is this function of n and L where it is claimed; of reach, which is never infinite."""
    if bound.quantity != "depth" and bound.expr.has(sympy.oo, -sympy.oo):
        return failed(f"{bound.expr} is infinite")
    names = ("n",) if bound.quantity == "depth" else ("n", "L")
    wrong = judged.differs(stated(bound.expr, where, names), wanted, where)
    return judged.verdict(f"not {wanted}" if wrong else "", "sums of lags", *steps)


def _by_masks(bound: Bound, tokens: int) -> isl.PwAff:
    """The quantity of so many tokens for every L, as `[n, L] -> { [value] }`, by masks until they repeat."""
    values, again = until_repeated(dense_mask(bound.term, tokens), bound.quantity, WORK)
    turn = f"mod {len(values) - again} = 0 and L >= {again}"
    when = [f"L = {k}" if k < again else f"(L - {k}) {turn}" for k in range(len(values))]
    pieces = [f"[({value})] : {here}" for value, here in zip(values, when, strict=True) if value is not None]
    return isl.PwAff.read_from_str(CONTEXT, f"[n, L] -> {{ {'; '.join(pieces) or '[(0)] : 1 = 0'} }}")


def _from(parts: Intervals, regular: int) -> int:
    """The n from which on sums of these lags are the pairs of several layers."""
    both = bool(parts) and parts[0][0] < 0 < parts[-1][1]
    return max(regular, parts[-1][1] - parts[0][0]) if both else regular


def _check_schedule(bound: Bound) -> Verdict:
    """Depth at a number of tokens: the layers of the statement, one after another, until no lag is left out."""
    terms, tokens = judged.terms_of(bound), whole(bound.question.n, 1, LARGEST)
    if bound.question.of != "causal" or bound.assumptions or not bound.expr.is_Integer:
        return failed("a number of layers, for every causal pair, without conditions")
    inside = read_set(f"{{ [d] : d < {tokens} }}")
    each = {term: points(causal_lags(term) & inside) for term in dict.fromkeys(terms)}
    seen: Intervals = ((0, 0),)
    for count in range(1, whole(int(bound.expr), 1, WHOLE) + 1):
        seen = summed(seen, each[terms[(count - 1) % len(terms)]], tokens - 1)
        if (seen == ((0, tokens - 1),)) != (count == bound.expr):
            return failed(f"{count} layers connect {'all' if count != bound.expr else 'fewer'}")
    return judged.verdict("", f"{len(terms)} layers: causal, translation invariant", "lags summed layer by layer")


def _check_depth(bound: Bound) -> Verdict:
    if bound.question.n is not None:
        return _check_schedule(bound)
    if isinstance(bound.subject, tuple) and len(bound.subject) != 1:
        return failed("a term for each layer, and no number of tokens")
    (term,), where = judged.terms_of(bound), region(bound.assumptions, least=1)
    if where.is_empty():
        return failed("no n satisfies the assumptions")
    if bound.expr.has(-sympy.oo):
        return failed("no depth is negative")
    f, fact = stated(bound.expr, where), bound.certificate.fact
    if bound.question.of == "causal":
        wanted = verified_staircase(causal_lags(term), fact).depth()
        return _compared(bound, wanted, where, "the least L, for all n")
    regular = whole(fact("regular"), 1, LARGEST)
    parts = points(lags_of(term, regular))
    start = _from(parts, regular)
    if not parts or not parts[0][0] < 0 < parts[-1][1]:
        return failed("no lags on both sides")
    for tokens in range(1, start):
        if where.intersect(read_set(f"[n] -> {{ : n = {tokens} }}")).is_empty():
            continue
        value = value_of(bound.expr, {n: tokens})
        if why := is_depth((term,), tokens, "all", value if isinstance(value, int) else None):
            return failed(f"{tokens} tokens: {why}")
    late = where & read_set(f"[n] -> {{ : n >= {max(2, start)} }}")
    if normal(parts)[1] > 1:  # sums of L lags are in one class: 0 or 1 is none
        return judged.verdict("" if f.domain().is_disjoint(late) else "no number of layers is enough", "one class")
    wanted = both_ways(*verified_sums(parts, fact)).depth()
    return _compared(bound, wanted, late, f"matrices for n < {start}", "for all n")
