"""How far any number of layers see: formulas in L and n.

finitely many lags              sums of lags, and induction               `lag growth`
layers that keep growing        a form in L, proved by induction          `form in L`
layers that come to repeat      S_(k + p) = S_k, so S_L goes by L mod p   `stable layers`
                                the same, by dense masks                  `cycles`
"""

from __future__ import annotations

from functools import lru_cache

import islpy as isl
import sympy

from pidsl.analysis.bound import ANY, Bound, exact
from pidsl.analysis.formulas.pieces import written
from pidsl.analysis.formulas.piecewise import Branch, Formula, cases, function
from pidsl.analysis.formulas.words import L, n
from pidsl.analysis.layers import stacks
from pidsl.analysis.layers.closed import closed_form
from pidsl.analysis.layers.cycles import GIVEN, by_number
from pidsl.analysis.layers.lag_formulas import pairs_formula
from pidsl.analysis.layers.reach import formula_of
from pidsl.analysis.layers.stacks import Intervals, connected, lag_sums, long_lags_of, missing_lags_of
from pidsl.analysis.ways import Asked, NotMine
from pidsl.errors import TooHardError
from pidsl.language.terms import Term
from pidsl.relation.isl import coalesced, limited, read_set

OPERATIONS = 80_000  # for each way to a formula in L, of pairs; sets of lags get eight times as many
LATER = 40_000  # for each way to one that holds for long sequences only
REGULAR = 40  # n from which on formulas are tried where short sequences are irregular
REPEATED = 14  # layers within which sets that come again are noticed


def by_growth(asked: Asked) -> Bound:
    """Finitely many lags, none ahead: sums of them, for n beyond all of them."""
    q, term = asked.question, _one(asked)
    lags = lag_sums((term,))
    if not isinstance(lags, tuple):
        raise NotMine
    largest = lags[-1][1] if lags else 0
    return exact(term, q.quantity, growth(lags, q.quantity), "lag growth", given=GIVEN,
                 assumptions=(sympy.Ge(L, 0), sympy.Ge(n, largest * L + 1)))  # fmt: skip


def by_form(asked: Asked) -> Bound:
    """The pairs of L layers as a form in L."""
    return _in_l(asked.question.quantity, _of(_one(asked), 1), _operations(_one(asked)))


def by_repetition(asked: Asked) -> Bound:
    """Layers that connect the same again and again, or all there is."""
    return _repeating(asked.question.quantity, _of(_one(asked), 1), _operations(_one(asked)))


def by_late_form(asked: Asked) -> Bound:
    """As `by_form`, for long sequences only."""
    return _in_l(asked.question.quantity, _of(_one(asked), REGULAR), LATER)


def by_late_repetition(asked: Asked) -> Bound:
    """As `by_repetition`, for long sequences only."""
    return _repeating(asked.question.quantity, _of(_one(asked), REGULAR), LATER)


def by_two_sides(asked: Asked) -> Bound:
    """Finitely many lags, some ahead: no path goes further than L times the largest."""
    q, term = asked.question, _one(asked)
    both = stacks.finite_lags(term)
    if q.quantity != "farthest" or both is None:
        raise NotMine
    return exact(term, q.quantity, both[-1][1] * L, "lag growth", given=GIVEN,
                 assumptions=(sympy.Ge(L, 0), sympy.Ge(n, abs(both[-1][1]) * L + 1)))  # fmt: skip


def _one(asked: Asked) -> Term:
    """The pattern of each of any number of layers."""
    if asked.question.layers != ANY or not isinstance(asked.subject, Term):
        raise NotMine
    return asked.subject


def _operations(term: Term) -> int:
    return OPERATIONS if lag_sums((term,)) is None else 8 * OPERATIONS


@lru_cache(maxsize=64)
def _of(term: Term, start: int) -> _Layers:
    return _Layers(term, start)


class _Layers:
    """What numbers of layers of a term connect, for n >= start."""

    def __init__(self, term: Term, start: int) -> None:
        self.term, self.start = term, start
        self.seen: list[isl.Map] = []
        self.formulas: dict[tuple[str, int], Formula] = {}

    @property
    def where(self) -> isl.Set:
        return read_set(f"[n] -> {{ : n >= {self.start} }}")

    def pairs(self, count: int) -> isl.Map:
        """The pairs that so many layers connect."""
        if self.start == 1:
            return connected((self.term,) * count)
        while len(self.seen) <= count:
            if not self.seen:
                self.seen.append(connected(()).intersect_params(self.where))
            self.seen.append(coalesced(stacks.square(self.term).apply_range(self.seen[-1])))
        return self.seen[count]

    def formula(self, quantity: str, count: int) -> Formula:
        """Farthest or contiguous of so many layers, worked out once.

        Raises:
            TooHardError: it is not known.
        """
        if (quantity, count) not in self.formulas:
            self.formulas[quantity, count] = self._formula(quantity, count)
        return self.formulas[quantity, count]

    def _formula(self, quantity: str, count: int) -> Formula:
        if self.start > 1:
            return pairs_formula(quantity, self.pairs(count), self.start)
        return formula_of(quantity, (self.term,) * count)

    def same(self, k: int, count: int) -> bool:
        """Whether two numbers of layers connect the same."""
        if self.start == 1:
            a, b = lag_sums((self.term,) * k), lag_sums((self.term,) * count)
            if isinstance(a, isl.Set) and isinstance(b, isl.Set):
                return bool(a.is_equal(b))
        return bool(self.pairs(k).is_equal(self.pairs(count)))

    def grow(self, count: int) -> bool:
        """Whether one layer more than so many connects no less."""
        return bool(self.pairs(count).is_subset(self.pairs(count + 1)))


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


def _in_l(quantity: str, layers: _Layers, operations: int) -> Bound:
    """A formula from the pairs of L layers as a form in L."""
    with limited("any number of layers", operations):
        form = closed_form(stacks.square(layers.term), layers.pairs, layers.where)
        if form is None:
            raise TooHardError("sets that grow from layer to layer", "a form in L that holds")
        where = read_set(f"[n, L] -> {{ : n >= {layers.start} and L >= {form.first} }}")
        if quantity == "farthest":
            f = long_lags_of(form.pairs).dim_max(0)
        else:
            missing = missing_lags_of(form.pairs).intersect_params(where)
            least = missing.dim_min(0)
            one, rest = (isl.PwAff.read_from_str(least.get_ctx(), f"[n, L] -> {{ [({x})] }}") for x in ("1", "n - 1"))
            f = least.sub(one).union_add(rest.intersect_params(where - least.domain()))
        expr, first = _shortest(f, where), form.first
        while first and _is_formula(layers.formula(quantity, first - 1), expr.subs(L, first - 1), layers.where):
            first -= 1
    return exact(layers.term, quantity, expr, "form in L", given=GIVEN,
                 assumptions=(sympy.Ge(L, first), sympy.Ge(n, layers.start)))  # fmt: skip


def _is_formula(known: Formula, claimed: sympy.Expr, where: isl.Set) -> bool:
    a, b = function(known.expr).intersect_domain(where), function(claimed).intersect_domain(where)
    return bool(a.is_equal(b))


def _shortest(f: isl.PwAff, where: isl.Set) -> sympy.Expr:
    """A function of n and L as a formula."""
    whole = written(f, where)
    try:
        return min(whole, cases(f, ("n", "L"), where), key=lambda e: int(e.count_ops()))
    except TooHardError:
        return whole


def _repeating(quantity: str, layers: _Layers, operations: int) -> Bound:
    """A formula by the number of layers, for a term whose layers connect the same again and again, or all there is."""
    with limited("any number of layers", operations):
        expr, least = by_number(*_cycle(quantity, layers))
    return exact(layers.term, quantity, expr, "stable layers", given=GIVEN,
                 assumptions=(sympy.Ge(L, 0), sympy.Ge(n, least)))  # fmt: skip


def _cycle(quantity: str, layers: _Layers) -> tuple[list[Formula], int, int]:
    """The formula for each number of layers before they repeat; from which number on they do, and after how many.

    Raises:
        TooHardError: they do not repeat soon.
    """
    formulas: list[Formula] = []
    grows = False
    for count in range(REPEATED + 1):
        again = next((k for k in reversed(range(count)) if layers.same(k, count)), None)
        if again is not None:
            return formulas, again, count - again
        formulas.append(layers.formula(quantity, count))
        grows = grows or layers.grow(count)
        if grows and formulas[-1].expr == n - 1:  # there is no more to connect, and more layers connect no less
            return formulas, count, 1
    raise TooHardError(f"sets that still grow after {REPEATED} layers", "a term whose layers stop to add pairs")
