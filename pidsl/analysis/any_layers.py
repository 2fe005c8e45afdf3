"""How far any number of layers see: formulas in L and n.

finitely many lags, behind only      sums of lags, and induction               `lag growth`
layers that come to repeat           S_(k + p) = S_k, so S_L goes by L mod p   `stable layers`
layers that keep growing             a form in L, proved by induction          `form in L`
"""

from __future__ import annotations

from functools import partial

import islpy as isl
import sympy

from pidsl.analysis import stacks
from pidsl.analysis.bound import Bound, exact
from pidsl.analysis.closed import closed_form
from pidsl.analysis.formulas import L, n
from pidsl.analysis.pieces import written
from pidsl.analysis.piecewise import Branch, Formula, cases, function
from pidsl.analysis.stacks import Intervals, Subject, attempt, connected, lag_sums, lags_of
from pidsl.errors import TooHardError
from pidsl.language.terms import Term
from pidsl.relation.isl import limited, read_set

OPERATIONS = 150_000  # for each way to a formula in L, of pairs; sets of lags get four times as many
REPEATED = 14  # layers within which sets that come again are noticed
GIVEN = {"layers": "L"}


def for_all_layers(quantity: str, subject: Subject) -> Bound:
    """Farthest or contiguous of L layers.

    Raises:
        TooHardError: it is not known for every L and n.
    """
    if isinstance(subject, tuple):
        raise TooHardError("a schedule of L layers", "a number of layers")
    lags = lag_sums((subject,))
    if isinstance(lags, tuple):
        expr = growth(lags, quantity)
        largest = lags[-1][1] if lags else 0
        return exact(subject, quantity, expr, "lag growth", given=GIVEN,
                     assumptions=(sympy.Ge(L, 0), sympy.Ge(n, largest * L + 1)))  # fmt: skip
    operations = OPERATIONS if lags is None else 4 * OPERATIONS
    if isinstance(found := attempt(partial(_closed, quantity, subject, operations)), Bound):
        return found
    return _repeating(quantity, subject, operations)


def growth(lags: Intervals, quantity: str) -> sympy.Expr:
    """Farthest or contiguous of L layers whose lags are a finite set, for n beyond all of them.

    Let M be the largest lag. Farthest is M L. Contiguous, once it is at least M - 1, grows by M per layer if the lag
    after it stays out of reach for ever: that lag is M L - delta with the same delta for all these L, and it is in
    reach for some L exactly when delta is a sum of numbers M - d, d in the set.
    """
    if not lags:
        return sympy.Piecewise((-sympy.oo if quantity == "farthest" else -1, L >= 1), (0, True))
    largest = lags[-1][1]
    if quantity == "farthest":
        return sympy.expand(largest * L)
    if lags[0][0] > 0:
        return sympy.Piecewise((-1, L >= 1), (0, True))
    if lags[0][1] == 0:
        return sympy.Integer(0)
    reach = growing(lags)
    first = len(reach) - 1
    branches: list[Branch] = []
    x = 0
    while x < first:
        step = reach[x + 1] - reach[x]
        if not branches or reach[x - 1] + step != reach[x] or reach[x] != branches[-1][0].subs(L, x):
            branches.append((reach[x] + step * (L - x), x))
        x += 1
    tail = largest * (L - first) + reach[first]
    while branches and tail.subs(L, branches[-1][1]) == reach[branches[-1][1]]:
        first = branches.pop()[1]
    while first > 0 and tail.subs(L, first - 1) == reach[first - 1]:
        first -= 1
    if not branches or first == 0:
        return sympy.expand(tail)
    if len(branches) > 64:
        raise TooHardError(f"a formula in L of {len(branches)} cases", "at most 64")
    cases = [(sympy.expand(tail), sympy.Ge(L, first))]
    cases += [(sympy.expand(e), sympy.Ge(L, at)) for e, at in reversed(branches[1:])]
    return sympy.Piecewise(*cases, (sympy.expand(branches[0][0]), True))


def growing(lags: Intervals) -> list[int]:
    """c(0), c(1), ..., c(l) for lags that hold 0 and 1: from l layers on, the contiguous reach grows by M per layer."""
    largest, seen, reach = lags[-1][1], lags, [0]
    while True:
        reach.append(seen[0][1])
        if seen[0][1] >= largest - 1 and not is_sum(lags, largest * (len(reach) - 1) - seen[0][1] - 1):
            return reach
        if len(reach) > stacks.WHOLE:
            raise TooHardError(f"lags that fill up after more than {stacks.WHOLE} layers", "fewer")
        seen = stacks.added(seen, lags)


def is_sum(lags: Intervals, delta: int) -> bool:
    """Whether delta is a sum of any number of M - d, d in the set, M its largest element."""
    if delta < 0:
        return False
    largest = lags[-1][1]
    mask = (1 << (delta + 1)) - 1
    steps = [(largest - high, largest - low) for low, high in reversed(lags)]
    bits = 1
    while True:
        more = bits
        for low, high in steps:
            if low <= delta:
                more |= stacks.spread(bits << low, min(high, delta) - low) & mask
        if more == bits:
            return bool(bits >> delta & 1)
        bits = more


def _closed(quantity: str, term: Term, operations: int) -> Bound:
    """A formula from the pairs of L layers as a form in L."""
    with limited("any number of layers", operations):
        return _in_l(quantity, term)


def _in_l(quantity: str, term: Term) -> Bound:
    where = read_set("[n] -> { : n >= 1 }")
    form = closed_form(stacks.square(term), lambda layers: connected((term,) * layers), where)
    if form is None:
        raise TooHardError("sets that grow from layer to layer", "a form in L that holds")
    where = read_set(f"[n, L] -> {{ : n >= 1 and L >= {form.first} }}")
    if quantity == "farthest":
        f = lags_of(form.pairs).dim_max(0)
    else:
        missing = lags_of(stacks.past() - form.pairs).intersect_params(where)
        least = missing.dim_min(0)
        one, rest = (isl.PwAff.read_from_str(least.get_ctx(), f"[n, L] -> {{ [({x})] }}") for x in ("1", "n - 1"))
        f = least.sub(one).union_add(rest.intersect_params(where - least.domain()))
    expr, first = _shortest(f, where), form.first
    while first and _is_formula(quantity, term, first - 1, expr):
        first -= 1
    return exact(
        term, quantity, expr, "form in L", given=GIVEN, assumptions=(sympy.Ge(L, first), sympy.Ge(n, 1))
    )  # fmt: skip


def _is_formula(quantity: str, term: Term, count: int, expr: sympy.Expr) -> bool:
    """Whether a formula in L is right for one L, for all n."""
    from pidsl.analysis.reach import for_layers

    known, claimed = (function(e) for e in (for_layers(quantity, term, (term,) * count).expr, expr.subs(L, count)))
    where = read_set("[n] -> { : n >= 1 }")
    same = known.domain().is_equal(claimed.domain())
    return bool(same and (known.ne_set(claimed) & where).is_empty())


def _shortest(f: isl.PwAff, where: isl.Set) -> sympy.Expr:
    """A function of n and L as a formula."""
    whole = written(f, where)
    try:
        return min(whole, cases(f, ("n", "L"), where), key=lambda e: int(e.count_ops()))
    except TooHardError:
        return whole


def _repeating(quantity: str, term: Term, operations: int) -> Bound:
    """A formula by the number of layers, for a term whose layers connect the same again and again, or all there is."""
    with limited("any number of layers", operations):
        first, period, formulas = _cycle(quantity, term)
    tail = formulas[first:]
    while first and len(set(tail)) == 1 and formulas[first - 1] == tail[0]:
        first, tail = first - 1, tail[:1]
    branches: list[tuple[sympy.Expr, object]] = []
    if len(set(tail)) == 1:
        branches.append((tail[0].expr, sympy.Ge(L, first)))
    else:
        for k, one in enumerate(tail):
            turn = sympy.Eq(sympy.Mod(L - first - k, period), 0)
            branches.append((one.expr, sympy.And(turn, sympy.Ge(L, first)) if first else turn))
    branches += [(formulas[k].expr, sympy.Eq(L, k)) for k in range(first)]
    expr = sympy.Piecewise(*branches[:-1], (branches[-1][0], True)) if len(branches) > 1 else branches[0][0]
    least = max(f.least for f in formulas)
    return exact(term, quantity, expr, "stable layers", given=GIVEN,
                 assumptions=(sympy.Ge(L, 0), sympy.Ge(n, least)))  # fmt: skip


def _cycle(quantity: str, term: Term) -> tuple[int, int, list[Formula]]:
    """From which number of layers on they repeat, after how many, and the formula for each number before that.

    Raises:
        TooHardError: they do not repeat soon.
    """
    from pidsl.analysis.reach import for_layers

    formulas: list[Formula] = []
    grows = False
    for count in range(REPEATED + 1):
        again = next((k for k in reversed(range(count)) if _same(term, k, count)), None)
        if again is not None:
            return again, count - again, formulas
        bound = for_layers(quantity, term, (term,) * count)
        formulas.append(Formula(bound.expr, max(int(c.rhs) for c in bound.assumptions)))
        grows = grows or _within(term, count)
        if grows and bound.expr == n - 1:  # there is no more to connect, and more layers connect no less
            return count, 1, formulas
    raise TooHardError(f"sets that still grow after {REPEATED} layers", "a term whose layers stop to add pairs")


def _same(term: Term, k: int, count: int) -> bool:
    """Whether two numbers of layers connect the same."""
    a, b = lag_sums((term,) * k), lag_sums((term,) * count)
    if isinstance(a, isl.Set) and isinstance(b, isl.Set):
        return bool(a.is_equal(b))
    return bool(connected((term,) * k).is_equal(connected((term,) * count)))


def _within(term: Term, count: int) -> bool:
    """Whether one layer more connects no less."""
    return bool(connected((term,) * count).is_subset(connected((term,) * (count + 1))))
