"""Ways for layers whose pairs are a matter of the lag alone: sums of lags (`sums`)."""

from __future__ import annotations

import math
from heapq import heappop, heappush
from operator import eq
from typing import Any

import islpy as isl
import sympy

from pidsl.analysis import dense
from pidsl.analysis.bound import ANY, Bound, Certificate
from pidsl.analysis.formulas.piecewise import Formula, chain, runs
from pidsl.analysis.formulas.words import L, n, value_of
from pidsl.analysis.layers.gaps import turned, until_repeated
from pidsl.analysis.layers.lag_formulas import in_n_and_l, lags_formula
from pidsl.analysis.layers.lags import added, causal_lags, finite_lags, intervals, lag_sums, plus
from pidsl.analysis.layers.stacks import WHOLE, stack
from pidsl.analysis.layers.sums import Intervals, Staircase, Sums, both_ways, merged, mirrored, normal
from pidsl.analysis.ways import Asked, NotMine
from pidsl.errors import TooHardError
from pidsl.language.terms import Term
from pidsl.relation.isl import convex_parts, least, limited, read_map, read_set
from pidsl.relation.oracle import dense_mask

RULE = "sums of lags"
WIDEST = 256  # lags from end to end that look both ways
REGULAR = (1, 40)  # n from which on a pattern may be one of lags
RUNS = 8  # of sums, and layers that have sums of their own, for a formula in n and L
LAYERS = 64  # after which sums of lags on both sides are regular
TURNS = 4  # of a schedule at a number of tokens
DENSE = 1 << 22  # the largest sum of infinitely many lags that is looked at
BRANCHES = 24
SHORT, WORK = 20, 1e8  # so many fewer tokens are tried by masks, and multiplications for each
OPERATIONS = 80_000  # for a formula in n and L
READABLE = 60  # operations of one, where a shorter one holds for long sequences
Facts = tuple[tuple[str, Any], ...]


def reach(asked: Asked) -> Bound:
    """Farthest or contiguous of any layers that only look back, or of L equal ones with finitely many lags."""
    q = asked.question
    if q.layers != ANY:
        lags = lag_sums(stack(asked.subject, q.layers))
        if lags is None:
            raise NotMine
        return asked.answered(lags_formula(q.quantity, lags), Certificate(RULE))
    term = asked.pattern
    if q.quantity == "contiguous" and causal_lags(term) is not None:
        stairs, facts = staircase(term)
        return _bound(asked, stairs.formula(), (sympy.Ge(L, 0), sympy.Ge(n, 1)), facts)
    regular, lags = _lags(term)
    try:
        start = _enough(regular, lags)
        if q.quantity == "contiguous" and lags and lags[0][0] < 0 < lags[-1][1] and normal(lags)[1] == 1:
            sums, early = all_sums(lags)
            expr, facts = both_ways(sums, early, ahead=False).formula(), _facts(sums)
        else:
            expr, facts = _for_all(q.quantity, start, lags)
        if expr.count_ops() <= READABLE:
            from_ = _from(expr, q.quantity, term, start)
            return _bound(asked, expr, (sympy.Ge(L, 0), sympy.Ge(n, from_)), (("regular", start), *facts))
    except TooHardError:
        if q.quantity == "contiguous":
            raise
    largest = lags[-1][1]
    long = (sympy.Ge(n, abs(largest) * L + 1), *([sympy.Ge(n, regular)] if regular > 1 else []))
    return _bound(asked, largest * L, (sympy.Ge(L, 0), *long), (("regular", regular),))


def depth(asked: Asked) -> Bound:
    """Depth of a pattern that only looks back; or both ways, up to some lag each."""
    q, term = asked.question, asked.pattern
    if q.n is not None:
        raise NotMine
    if q.of == "causal":
        if causal_lags(term) is None:
            raise NotMine
        stairs, facts = staircase(term)
        found = chain(stairs.inverse(), stairs.least, BRANCHES)
    else:
        regular, lags = _lags(term)
        if not lags or not lags[0][0] < 0 < lags[-1][1]:
            raise NotMine
        start = _enough(regular, lags)
        facts = (("regular", start),)
        stairs = Staircase((0,), ((0, 0),))
        if normal(lags)[1] == 1:
            sums, early = all_sums(lags)
            stairs, facts = both_ways(sums, early), (*facts, *_facts(sums))
        found = _with_short(term, start, stairs)
    return asked.answered(found, Certificate(RULE, facts))


def depth_of_schedule(asked: Asked) -> Bound:
    """Depth of layers that only look back, at a number of tokens: the lags that are connected, layer after layer."""
    q = asked.question
    if not isinstance(asked.subject, tuple) or q.n is None or q.of != "causal":
        raise NotMine
    terms = stack(asked.subject, None)
    if q.n > DENSE or any(causal_lags(term) is None for term in terms):
        raise NotMine
    each = {term: _below(term, q.n) for term in dict.fromkeys(terms)}
    whole, seen = (1 << q.n) - 1, 1
    for count in range(TURNS * len(terms)):
        seen = plus(seen, each[terms[count % len(terms)]]) & whole
        if seen == whole:
            return Bound(q, "==", sympy.Integer(count + 1), (), Certificate(RULE))
    raise TooHardError(f"{TURNS * len(terms)} layers that leave lags out", "fewer that connect all")


def _below(term: Term, tokens: int) -> Intervals:
    """The lags of so many tokens."""
    lags = causal_lags(term)
    found = None if lags is None else intervals(lags & read_set(f"{{ [d] : d < {tokens} }}"))
    if found is None:
        raise NotMine
    return found


def _bound(asked: Asked, expr: sympy.Expr, assumptions: tuple[sympy.Basic, ...], facts: Facts) -> Bound:
    return Bound(asked.question, "==", expr, assumptions, Certificate(RULE, facts))


def _lags(term: Term) -> tuple[int, Intervals]:
    """Finitely many lags of n tokens, and the n from which on they are all that matters."""
    for regular in REGULAR:
        lags = finite_lags(term, regular)
        if lags or (lags is not None and regular == 1):
            return regular, lags
    raise NotMine


def _enough(regular: int, lags: Intervals) -> int:
    """The n from which on sums of lags are the pairs of several layers."""
    both = bool(lags) and lags[0][0] < 0 < lags[-1][1]
    width = lags[-1][1] - lags[0][0] if both else 1
    if both and width > WIDEST:
        raise TooHardError(f"lags from {lags[0][0]} to {lags[-1][1]}", f"at most {WIDEST} of them")
    return max(regular, width)


# -- finitely many lags ------------------------------------------------------------------------------------------------


def conductor(parts: Intervals) -> tuple[Intervals, int]:
    """Sums of any number of elements, which have no common divisor: those below a number, and that one; all after it.

    >>> conductor(((0, 0), (3, 3), (5, 5)))
    (((0, 0), (3, 3), (5, 6)), 8)
    """
    positive = [(max(low, 1), high) for low, high in parts if high]
    if not positive:
        return (), 0
    runs: list[tuple[int, int]] = [(0, 0)]
    todo: list[tuple[int, int]] = []
    new = (0, 0)
    while runs[-1][1] - runs[-1][0] + 1 < positive[0][0]:
        for low, high in positive:
            heappush(todo, (new[0] + low, new[1] + high))
        while (new := heappop(todo))[1] <= runs[-1][1]:
            pass
        new = (max(new[0], runs[-1][1] + 1), new[1])
        if new[0] == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], new[1])
        else:
            runs.append(new)
        if len(runs) > DENSE:
            raise TooHardError("sums of lags that leave many gaps", "fewer")
    return tuple(runs[:-1]), runs[-1][0]


def all_sums(lags: Intervals, most: int = LAYERS) -> tuple[Sums, list[Intervals]]:
    """What is so of sums of L lags for L from some number on, and the sums of fewer elements of B.

    Raises:
        TooHardError: that number is large.
    """
    least_, step, parts = normal(lags)
    (low, first), (high, last) = conductor(parts), conductor(mirrored(parts))
    seen: list[Intervals] = [((0, 0),)]
    while True:
        sums = Sums(least_, step, parts[-1][1], low, first, high, last, len(seen) - 1)
        if sums.top * sums.layers - last - first + 1 >= sums.top and seen[-1] == sums.elements(sums.layers):
            return sums, seen[:-1]
        if len(seen) > most:
            raise TooHardError(f"lags whose sums are irregular for more than {most} layers", "fewer")
        seen.append(added(seen[-1], parts))


def _facts(sums: Sums) -> Facts:
    names = ("low", "first", "high", "last", "layers")
    return tuple((name, getattr(sums, name)) for name in names)


def _for_all(quantity: str, start: int, lags: Intervals) -> tuple[sympy.Expr, Facts]:
    """Farthest or contiguous of L layers with these lags, for n >= start."""
    if not lags:
        return sympy.Piecewise((-sympy.oo if quantity == "farthest" else -1, L >= 1), (0, True)), ()
    sums, early = all_sums(lags, RUNS)
    if len(sums.low) + len(sums.high) > RUNS:
        raise TooHardError(f"sums of lags in {len(sums.low) + len(sums.high)} runs", f"at most {RUNS}")
    if quantity == "farthest" and sums.least == sums.first == 0 and sums.step == 1:
        all_ = (merged((max(0, a), b) for a, b in sums.elements(k) if b >= 0) for k in range(sums.layers))
        if all(map(eq, all_, early)):
            return _farthest(sums), _facts(sums)
    with limited("sums of L lags", OPERATIONS):
        where = read_set(f"[n, L] -> {{ : n >= {start} and L >= 0 }}")
        return in_n_and_l(quantity, sums.lags(early), where), _facts(sums)


def _from(expr: sympy.Expr, quantity: str, term: Term, start: int) -> int:
    """The n from which on a formula for n >= start is right, by masks of the n before."""
    for tokens in range(start - 1, max(0, start - SHORT), -1):
        values, again = until_repeated(dense_mask(term, tokens), quantity, WORK)
        for layers in range(2 * len(values) + tokens):
            known = values[turned(layers, again, len(values) - again)]
            if value_of(expr, {n: tokens, L: layers}) != (-math.inf if known is None else known):
                return tokens + 1
    return max(1, start - SHORT + 1)


def _farthest(sums: Sums) -> sympy.Expr:
    """The last sum below n, where sums of L lags are all numbers up to M L, but for some of the last ones."""
    top = sums.top * L
    cases: list[tuple[sympy.Expr, Any]] = []
    for low, high in (*sums.high, (sums.last, None)):
        cases.append((top - low, sympy.Ge(n, top - low + 1)))
        cases += [(n - 1, sympy.Ge(n, top - high + 1))] if high not in (None, low) else []
    if len(cases) == 1:
        return sympy.Min(cases[0][0], n - 1) if sums.top else sympy.Integer(0)
    return sympy.Piecewise(*cases, (n - 1, True))


def _with_short(term: Term, start: int, stairs: Staircase) -> Formula:
    """A depth of n >= start tokens, and those of fewer by matrices, as one formula."""
    short = [dense.depth_of((term,), tokens, "all") for tokens in range(1, start)]
    later = stairs.inverse()
    first = max((at for _, at in later if at <= start), default=1)
    branches = runs(lambda x: short[x - 1], 1, start, sympy.oo)
    branches += [(expr, max(at, start)) for expr, at in later if at >= first]

    def at(tokens: int) -> sympy.Expr:
        if tokens >= start:
            return stairs.least(tokens)
        return sympy.oo if (known := short[tokens - 1]) is None else sympy.Integer(known)

    return chain(branches, at, BRANCHES)


# -- layers that only look back ----------------------------------------------------------------------------------------


def staircase(term: Term) -> tuple[Staircase, Facts]:
    """How far layers of a term see without a gap, and what a checker would have to search for."""
    lags = causal_lags(term)
    assert lags is not None
    zero, one = (not (lags & read_set(f"{{ [d] : d = {k} }}")).is_empty() for k in (0, 1))
    if not (zero and one):
        return Staircase((0,), ((0, 0 if zero else 1),)), ()
    parts = intervals(lags) if lags.is_bounded() else None
    if parts is not None:
        largest, (_, last) = parts[-1][1], conductor(mirrored(parts))
        reach = _heights(parts, largest, last)
        return Staircase(reach, ((largest, last),)), (("reach", reach), ("last", last))
    start, period = periodic(lags)
    reach = _until_everything(lags, start, period)
    return Staircase(reach, ()), (("reach", reach), ("start", start), ("period", period))


def _heights(parts: Intervals, largest: int, last: int) -> tuple[int, ...]:
    """c(0), c(1), ... while it is not yet M L - last and >= M - 1."""
    bound = 4 * largest + 4
    while True:
        mask, bits, reach = (1 << bound) - 1, 1, [0]
        while reach[-1] < bound - 1:
            if len(reach) > 1 and largest - 1 <= reach[-1] == largest * (len(reach) - 1) - last:
                return tuple(reach[:-1])
            if len(reach) > WHOLE:
                raise TooHardError(f"lags that fill up after more than {WHOLE} layers", "fewer")
            bits = plus(bits, parts) & mask
            reach.append(_ones(bits) - 1)
        bound *= 4


def _until_everything(lags: isl.Set, start: int, period: int) -> tuple[int, ...]:
    """c(0), c(1), ... while sums of so many of infinitely many lags are not everything."""
    first = least(lags & read_set(f"{{ [d] : d >= {start} }}"))
    bound = start + 2 * period
    while bound < DENSE:
        parts = intervals(lags & read_set(f"{{ [d] : d < {bound} }}")) or ()
        mask, bits, reach = (1 << bound) - 1, 1, [0]
        while bits != mask:
            bits = plus(bits, parts) & mask
            now, layers = _ones(bits) - 1, len(reach)
            if (reach[-1] >= period - 1 and now >= first - 1) or (
                bits == mask and bound >= layers * (start + period) + period
            ):
                return tuple(reach)
            reach.append(now)
            if layers > WHOLE:
                raise TooHardError(f"lags that fill up after more than {WHOLE} layers", "fewer")
        bound *= 4  # all lags below the bound, and still no reason why those above should be
    raise TooHardError(f"lags of period {period}", "a shorter period")


def _ones(bits: int) -> int:
    """How many ones there are before the first zero."""
    return (~bits & (bits + 1)).bit_length() - 1


def periodic(lags: isl.Set) -> tuple[int, int]:
    """From where on an infinite set of lags repeats, and after how many, as isl's divisions have it.

    Raises:
        TooHardError: it has another period.
    """
    start, period = 0, 1
    for part in convex_parts(lags):
        space = part.get_local_space()
        for k in range(space.dim(isl.dim_type.div)):
            period = math.lcm(period, int(space.get_div(k).get_denominator_val().to_python()))
        one = isl.Set.from_basic_set(part)
        if one.is_empty():
            continue
        start = max(start, int(one.dim_min_val(0).to_python()))
        if one.is_bounded():
            start = max(start, int(one.dim_max_val(0).to_python()) + 1)
    tail = lags & read_set(f"{{ [d] : d >= {start} }}")
    moved = tail.apply(read_map(f"{{ [d] -> [d + {period}] }}"))
    if not moved.is_equal(lags & read_set(f"{{ [d] : d >= {start + period} }}")):
        raise TooHardError("lags without a period", "a period")
    return start, period
