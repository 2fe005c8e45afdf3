"""Ways by short sequences alone, where long ones are like them (`gaps`): dense masks, and the formula they follow."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from itertools import islice
from math import ceil, floor, lcm

import islpy as isl
import sympy

from pidsl.analysis.bound import ANY, Bound, Certificate
from pidsl.analysis.dense import depth_in, reach_in
from pidsl.analysis.formulas.piecewise import Formula
from pidsl.analysis.formulas.plane import Affine, of_isl
from pidsl.analysis.formulas.words import L, n
from pidsl.analysis.layers.by_values import PERIODS, fitted
from pidsl.analysis.layers.gaps import Gaps, gaps_of, leaves, masks_of, turned, until_repeated
from pidsl.analysis.layers.stacks import square, stack
from pidsl.analysis.layers.turns import by_number
from pidsl.analysis.ways import Asked, NotMine
from pidsl.errors import TooHardError
from pidsl.language.terms import Term
from pidsl.relation.isl import convex_parts, limited

RULE = "short sequences"
WORK = 1.6e11  # multiplications of single numbers, about three seconds
CYCLE_WORK = 1e11  # of any number of layers, about two seconds
Known = dict[Term, Gaps]


def reach(asked: Asked) -> Bound:
    """Farthest or contiguous of a number of layers."""
    q = asked.question
    if q.layers == ANY:
        raise NotMine
    layers = stack(asked.subject, q.layers)
    known = gaps_in(layers)
    gaps = gaps_of(layers, known).through(len(layers))
    _require(_last(gaps), len(layers) - 1, WORK)
    values = [reach_in(q.quantity, masks, len(masks[0])) for masks in islice(masks_of(layers, known), _last(gaps))]
    return _made(asked, fitted(values, -sympy.oo, gaps.period), known)


def depth(asked: Asked) -> Bound:
    """Depth of a term whose layers connect everything, or repeat, after so many layers for every n."""
    q, term = asked.question, asked.pattern
    if q.n is not None or q.of is None:
        raise NotMine
    known = gaps_in([term])
    one, masks = gaps_of([term], known), masks_of([term], known)
    values: list[int | None] = []
    most = 1  # layers that are compared with each other or with the target
    while len(values) < _last(one.through(most)):
        value, layers = depth_in(next(masks), q.of)
        values.append(value)
        most = max(most, layers)
        _require(_last(one.through(most)), most, WORK)
    return _made(asked, fitted(values, sympy.oo, one.period), known, layers=most)


def any_number(asked: Asked) -> Bound:
    """Farthest or contiguous of L layers that come to repeat, after numbers of layers that do not grow with n."""
    q, term = asked.question, asked.pattern
    if q.layers != ANY:
        raise NotMine
    known = gaps_in([term])
    one, masks = gaps_of([term], known), masks_of([term], known)
    first, period = 0, 1
    each: list[tuple[int, list[int | None]]] = []
    while len(each) < _last(one.through(first + period)):
        values, again = until_repeated(next(masks)[0], q.quantity, CYCLE_WORK / (len(each) + 1))
        each.append((again, values))
        first, period = max(first, again), lcm(period, len(values) - again)
        if (first + period) * float(_last(one.through(first + period))) ** 4 / 4 > CYCLE_WORK:
            raise TooHardError(f"layers that go on to connect more, or others, after {len(values)}", "a cycle")
    turns = ([v[turned(k, again, len(v) - again)] for again, v in each] for k in range(first + period))
    expr, least = by_number([fitted(values, -sympy.oo, one.period) for values in turns], first, period)
    made = _made(asked, Formula(expr, least), known, first=first, period=period)
    return Bound(q, "==", expr, (sympy.Ge(L, 0), sympy.Ge(n, least)), made.certificate)


def _made(asked: Asked, found: Formula, known: Known, **facts: int) -> Bound:
    gaps = tuple((term, x.period, x.free) for term, x in known.items())
    return asked.answered(found, Certificate(RULE, (("gaps", gaps), *facts.items())))


def _last(gaps: Gaps) -> int:
    """The n up to which values are counted."""
    return gaps.start + PERIODS * gaps.period


def _require(last: int, layers: int, work: float) -> None:
    if layers * float(last) ** 4 / 4 > work:
        raise TooHardError(f"{layers} layers of up to {last} tokens", "fewer, for dense masks")


def gaps_in(layers: Iterable[Term]) -> Known:
    """The gaps of every leaf.

    >>> import pidsl
    >>> gaps_of([pidsl.window(4) | pidsl.stride(6)], gaps_in([pidsl.window(4) | pidsl.stride(6)]))
    Gaps(period=6, free=5)

    Raises:
        TooHardError: a layer compares sums or multiples of positions, or isl's operation limit struck.
    """
    return {leaf: _of_pairs(leaf) for layer in dict.fromkeys(layers) for leaf in leaves(layer)}


@lru_cache(maxsize=512)
def _of_pairs(term: Term) -> Gaps:
    """From the constraints of its relation."""
    pairs, period, free = square(term), 1, 1
    with limited("the constraints of a relation"):
        for part in convex_parts(pairs.wrap().flatten()):
            named = isl.Set.from_basic_set(part).move_dims(isl.dim_type.param, 1, isl.dim_type.set, 0, 2)
            named = named.set_dim_name(isl.dim_type.param, 1, "i").set_dim_name(isl.dim_type.param, 2, "j")
            for basic in named.get_basic_sets():
                for constraint in basic.get_constraints():
                    f = of_isl(constraint.get_aff())
                    period = lcm(period, f.modulus)
                    free = max(free, _free(f, bool(constraint.is_equality())))
    return Gaps(period, free)


def _free(f: Affine, equality: bool) -> int:
    """The size from which on a gap decides alone about `f >= 0` (or `f == 0`), whatever the other gaps are."""
    before = f.query + f.key + f.length  # per token of the gap before both positions
    free = 1
    for middle in (f.query + f.length, f.key + f.length):  # of the gap between: the query is the later one, or the key
        steps = [x for x in (before, middle, f.length) if x]
        if not steps:
            continue
        if min(steps) < 0 < max(steps):
            raise TooHardError("a comparison of sums or multiples of positions", "positions, up to a distance")
        step = min(abs(x) for x in steps)
        if steps[0] > 0 and not equality:  # true from here on
            free = max(free, ceil(-f.low / step))
        else:  # false from here on
            free = max(free, floor((-f.low if steps[0] > 0 else f.high) / step) + 1)
    return free
