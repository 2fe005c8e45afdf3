"""Ways to formulas for any number of layers L: a form of their pairs in L, or layers that repeat.

From one number of layers to the next, borders move by a constant: `-3 <= i - j <= 3`, then 6, then 9. So a guess takes
the constraints of S_l with constants that grow linearly; it is right if `forms.is_form` says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import islpy as isl
import sympy

from pidsl.analysis.bound import ANY, Bound, Certificate
from pidsl.analysis.formulas.pieces import written
from pidsl.analysis.formulas.piecewise import Formula
from pidsl.analysis.formulas.read import function
from pidsl.analysis.formulas.words import L, n
from pidsl.analysis.layers import stacks
from pidsl.analysis.layers.forms import is_form
from pidsl.analysis.layers.lag_formulas import (
    before_missing,
    lags_formula,
    long_lags_of,
    missing_lags_of,
    pairs_formula,
)
from pidsl.analysis.layers.lags import lag_sums
from pidsl.analysis.layers.stacks import connected
from pidsl.analysis.layers.turns import by_number
from pidsl.analysis.ways import Asked, NotMine
from pidsl.errors import TooHardError
from pidsl.language.terms import Term
from pidsl.relation.isl import coalesced, convex_parts, limited, read_map, read_set

RULE = "form in L"
GUESS_OPERATIONS = 300_000
OPERATIONS = 80_000  # for each way to a formula in L, of pairs; sets of lags get eight times as many
LATER = 40_000  # for each way to one that holds for long sequences only
LATEST = 4  # layers from which on a form may hold
REGULAR = 40  # n from which on formulas are tried where short sequences are irregular
REPEATED = 14  # layers within which sets that come again are noticed
READABLE = 60  # operations of a formula, where a shorter one holds for long sequences

Terms = tuple[tuple[int, str], ...]  # factors of n, i, j and of floors of them
Row = tuple[str, Terms]  # what holds of their sum: ">= 0", "= 0", "mod 4 = 0"
Part = dict[Row, int]  # the constant of each constraint
_dim: Any = isl.dim_type
Layers = Callable[[int], isl.Map]  # S_L for a number L


def by_form(asked: Asked) -> Bound:
    """The pairs of L layers as a form in L."""
    return _in_l(asked, _of(_one(asked), 1), _operations(_one(asked)))


def by_repetition(asked: Asked) -> Bound:
    """Layers that connect the same again and again, or all there is."""
    return _repeating(asked, _of(_one(asked), 1), _operations(_one(asked)))


def by_late_form(asked: Asked) -> Bound:
    """As `by_form`, for long sequences only."""
    return _in_l(asked, _of(_one(asked), REGULAR), LATER)


def by_late_repetition(asked: Asked) -> Bound:
    """As `by_repetition`, for long sequences only."""
    return _repeating(asked, _of(_one(asked), REGULAR), LATER)


def _one(asked: Asked) -> Term:
    """The pattern of each of any number of layers."""
    if asked.question.layers != ANY:
        raise NotMine
    return asked.pattern


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
        """Farthest or contiguous of so many layers, worked out once."""
        if (quantity, count) not in self.formulas:
            lags = lag_sums((self.term,) * count) if self.start == 1 else None
            self.formulas[quantity, count] = (
                pairs_formula(quantity, self.pairs(count), self.start) if lags is None else lags_formula(quantity, lags)
            )
        return self.formulas[quantity, count]

    def same(self, k: int, count: int) -> bool:
        """Whether two numbers of layers connect the same."""
        if self.start == 1:
            a, b = lag_sums((self.term,) * k), lag_sums((self.term,) * count)
            if isinstance(a, isl.Set) and isinstance(b, isl.Set):
                return bool(a.is_equal(b))
        return bool(self.pairs(k).is_equal(self.pairs(count)))

    def bound(self, asked: Asked, expr: sympy.Expr, fewest: int, least: int, **facts: Any) -> Bound:
        """A formula for L >= fewest and n >= least."""
        known = (("tokens", self.start), *facts.items())
        conditions = (sympy.Ge(L, fewest), sympy.Ge(n, least))
        return Bound(asked.question, "==", expr, conditions, Certificate(RULE, known))


def _in_l(asked: Asked, layers: _Layers, operations: int) -> Bound:
    """A formula from the pairs of L layers as a form in L."""
    quantity = asked.question.quantity
    with limited("any number of layers", operations):
        form = closed_form(stacks.square(layers.term), layers.pairs, layers.where)
        if form is None:
            raise TooHardError("sets that grow from layer to layer", "a form in L that holds")
        pairs, first = form
        where = read_set(f"[n, L] -> {{ : n >= {layers.start} and L >= {first} }}")
        if quantity == "farthest":
            f = long_lags_of(pairs).dim_max(0)
        else:
            f = before_missing(missing_lags_of(pairs).intersect_params(where), where)
        expr, from_ = written(f, where), first
        while from_ and _is_formula(layers.formula(quantity, from_ - 1), expr.subs(L, from_ - 1), layers.where):
            from_ -= 1
        early = [layers.formula(quantity, k) for k in range(from_)]
        if early and all(f.least <= layers.start for f in early):
            late = expr.args if isinstance(expr, sympy.Piecewise) else ((expr, True),)
            expr = sympy.Piecewise(*((f.expr, sympy.Eq(L, k)) for k, f in enumerate(early)), *late)
            from_ = 0
    if asked.best is not None and asked.best.is_exact and expr.count_ops() > READABLE:
        raise TooHardError(f"a formula for every n of {expr.count_ops()} operations", f"at most {READABLE}")
    return layers.bound(asked, expr, from_, layers.start, first=first, form=pairs.to_str())


def _is_formula(known: Formula, claimed: sympy.Expr, where: isl.Set) -> bool:
    a, b = function(known.expr).intersect_domain(where), function(claimed).intersect_domain(where)
    return bool(a.is_equal(b))


def _repeating(asked: Asked, layers: _Layers, operations: int) -> Bound:
    """A formula by the number of layers, for a term whose layers connect the same again and again, or all there is."""
    with limited("any number of layers", operations):
        formulas, first, period = _cycle(asked.question.quantity, layers)
        expr, least = by_number(formulas, first, max(1, period))
    return layers.bound(asked, expr, 0, least, first=first, period=period)


def _cycle(quantity: str, layers: _Layers) -> tuple[list[Formula], int, int]:
    """The formula for each number of layers before they repeat; from which number on they do, and after how many.

    After 0, where they connect all that there is and more layers connect no less.

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
        grows = grows or bool(layers.pairs(count).is_subset(layers.pairs(count + 1)))
        if grows and formulas[-1].expr == n - 1:
            return formulas, count, 0
    raise TooHardError(f"sets that still grow after {REPEATED} layers", "a term whose layers stop to add pairs")


# -- a form from a few numbers of layers -------------------------------------------------------------------------------


def closed_form(layer: isl.Map, layers: Layers, where: isl.Set) -> tuple[isl.Map, int] | None:
    """A proved form and the first L for which it is right, for the n in `where`; None when no guess is right.

    Args:
        layer: `[n] -> { [i] -> [j] }`, one layer.
        layers: the relation of a number of layers.
        where: the n that matter.
    """
    for first in range(1, LATEST):
        try:
            with limited("pairs of L layers", GUESS_OPERATIONS):
                for guess in _guesses(layers(first), layers(first + 1), first):
                    form = coalesced(guess.intersect_params(where))
                    if is_form(form, first, layer, layers(first), where):
                        return form, first
        except (TooHardError, isl.Error):
            return None
    return None


def _guesses(now: isl.Map, then: isl.Map, first: int) -> Iterator[isl.Map]:
    a, b = _parts(now), _parts(then)
    if len(a) == len(b) and all(x.keys() == y.keys() for x, y in zip(a, b, strict=True)):
        yield _map(a, [{row: y[row] - x[row] for row in x} for x, y in zip(a, b, strict=True)], first)
    # parts that isl could not join hide the form: a constraint grows as the loosest one of its direction does
    loosest: Part = {}
    for part in b:
        for row, constant in part.items():
            loosest[row] = max(constant, loosest.get(row, constant))
    yield _map(a, [{row: max(0, loosest.get(row, x[row]) - x[row]) for row in x} for x in a], first)


def _parts(pairs: isl.Map) -> list[Part]:
    """The constraints of each convex part, in an order that does not depend on the constants."""
    found: list[Part] = []
    points = coalesced(pairs).remove_redundancies().wrap().flatten()
    for part in convex_parts(points):
        rows: Part = {}
        for c in part.get_constraints():
            if not c.is_div_constraint():
                row, constant = _row(c)
                rows[row] = constant
        found.append(rows)
    return sorted(found, key=lambda part: sorted(part.items()))


def _row(c: isl.Constraint) -> tuple[Row, int]:
    """A constraint as `terms + constant`, and what holds of it; a remainder where a floor only says that it is 0."""
    f = c.get_aff()
    terms, constant = _sum(f)
    if not c.is_equality():
        return (">= 0", terms), constant
    floors = [(x, f.get_div(k)) for k in range(f.dim(_dim.div)) if (x := _whole(f, f.get_coefficient_val(_dim.div, k)))]
    if len(floors) == 1:  # e + m floor(-e/m) = 0
        (factor, div), plain = floors[0], tuple(x for x in terms if not x[1].startswith("floor"))
        inside, rest = _sum(div)
        sign = 1 if factor > 0 else -1
        opposite = tuple((-sign * x, name) for x, name in inside)
        if int(div.get_denominator_val().to_python()) == abs(factor) and (opposite, -sign * rest) == (plain, constant):
            first = -1 if plain and plain[0][0] < 0 else 1
            return (f"mod {abs(factor)} = 0", tuple((first * x, name) for x, name in plain)), first * constant
    return ("= 0", terms), constant


def _whole(f: isl.Aff, value: isl.Val) -> int:
    return int((value * f.get_denominator_val()).to_python())


def _sum(f: isl.Aff) -> tuple[Terms, int]:
    """A function of n, i and j, its constant apart; floors are written out."""
    places = [("n", _dim.param, 0), ("i", _dim.in_, 0), ("j", _dim.in_, 1)]
    terms = [(_whole(f, f.get_coefficient_val(kind, k)), name) for name, kind, k in places]
    for k in range(f.dim(_dim.div)):
        if factor := _whole(f, f.get_coefficient_val(_dim.div, k)):
            inside, constant = _sum(div := f.get_div(k))
            below = int(div.get_denominator_val().to_python())
            terms.append((factor, f"floor(({_text(inside)} + {constant})/{below})"))
    return tuple(sorted((x for x in terms if x[0]), key=lambda x: x[1])), _whole(f, f.get_constant_val())


def _text(terms: Terms) -> str:
    return " + ".join(f"{factor}*{name}" for factor, name in terms) or "0"


def _map(parts: list[Part], growth: list[Part], first: int) -> isl.Map:
    texts = []
    for part, more in zip(parts, growth, strict=True):
        conditions = [
            f"({_text(row[1])} + {constant - more[row] * first} + {more[row]} L) {row[0]}"
            for row, constant in part.items()
        ]
        texts.append("[i] -> [j] : " + (" and ".join(conditions) or "0 = 0"))
    return coalesced(read_map(f"[n, L] -> {{ {'; '.join(texts) or '[i] -> [j] : 1 = 0'} }}"))
