"""isl's piecewise quasi-affine functions as formulas that people read, and formulas as isl functions.

`formula(f)` writes a function of n; `function(expr)` reads one back, so that isl can decide whether a formula is right.
Where a function is infinite (no number of layers is enough, the maximum of nothing), isl's has no value.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import islpy as isl
import sympy
from sympy.logic.boolalg import BooleanFalse, BooleanTrue

from pidsl.analysis.formulas.pieces import written
from pidsl.analysis.formulas.quasi import affine
from pidsl.analysis.formulas.words import Periodic, Table, n, symbol
from pidsl.errors import TooHardError
from pidsl.relation.isl import CONTEXT, disjoint, largest, least, read_set

BRANCHES = 8  # of a formula; with more of them for short n, the formula is for long n only, and says so
IRREGULAR = 400  # the last n that is written down one by one
PERIOD = 1000  # the longest period of a formula that is found from the values in a period

Branch = tuple[sympy.Expr, int]  # a formula and the n from which on it holds (up to the next branch)


@dataclass(frozen=True, slots=True)
class Formula:
    """A function of n.

    Args:
        expr: the formula.
        least: it holds for n >= least.
    """

    expr: sympy.Expr
    least: int = 1

    @property
    def assumptions(self) -> tuple[sympy.Basic, ...]:
        return (sympy.Ge(n, self.least),)


def formula(f: isl.PwAff, missing: sympy.Expr, least: int = 1, most: int = BRANCHES) -> Formula:
    """A function `[n] -> { [value] }` for n >= least as a formula, exact.

    >>> from pidsl.relation.isl import read_set
    >>> f = read_set("[n] -> { [d] : 0 <= d < n and d <= 5 or d = 0 }").dim_max(0)
    >>> formula(f, sympy.oo).expr
    Piecewise((5, n >= 6), (n - 1, True))

    Args:
        f: the function.
        missing: what the formula is where `f` has no value.
        least: the first n that matters.
        most: how many branches it may have; with more of them, it is for long n only.

    Raises:
        TooHardError: it has too many cases, or is irregular for long.
    """
    f = f.coalesce()
    breaks, period = _shape(f, least)
    if period > PERIOD:
        where = read_set(f"[n] -> {{ : n >= {least} }}")
        return Formula(written(f, where, missing, most), least)
    at = _evaluator(f)
    early: list[Branch] = []
    for _ in range(2):
        branches = [*early]
        for first, stop in zip(breaks, [*breaks[1:], None], strict=True):
            branches += fit(at, first, stop, period, missing)
        found = chain(branches, lambda x: at(x) if at(x) is not None else missing, most)
        late = _last_difference(found, f)
        if late is None:
            return found
        # a condition such as n mod 9 >= n//9 is irregular until it holds for good: one by one up to there
        if late > IRREGULAR:
            break
        early = runs(at, least, late + 1, missing)
        breaks = [late + 1, *(b for b in breaks if b > late + 1)]
    raise TooHardError(f"a function that is irregular up to n = {late}", f"at most {IRREGULAR}")


def _last_difference(found: Formula, f: isl.PwAff) -> int | None:
    """The last n at which a formula is not the function; None where they are the same.

    Raises:
        TooHardError: they differ for ever.
    """
    where = read_set(f"[n] -> {{ : n >= {found.least} }}")
    mine = function(found.expr)
    a, b = mine.domain(), f.domain()
    wrong = ((a - b) | (b - a) | mine.ne_set(f)) & where
    if wrong.is_empty():
        return None
    line = wrong.move_dims(isl.dim_type.set, 0, isl.dim_type.param, 0, 1)
    if not line.is_bounded():
        raise TooHardError(f"the formula {found.expr}", "one that is right for all n")
    return largest(line)


def chain(branches: list[Branch], at: Callable[[int], Any], most: int = BRANCHES) -> Formula:
    """Branches in the order of n as one formula, the one for long n first.

    Args:
        branches: each holds from its n up to the next one's.
        at: the value at any n, for moving a branch down to where it begins to hold.
        most: how many branches the formula may have.
    """
    merged: list[Branch] = []
    for expr, first in branches:
        while merged:  # does the new branch hold where the one before it was?
            before = merged[-1][1]
            if first - before > 64 or any(expr.subs(n, x) != at(x) for x in range(before, first)):
                break
            merged.pop()
            first = before
        if merged and merged[-1][0] == expr:
            continue
        stop = first - 64
        while merged and first - 1 > max(merged[-1][1], stop) and expr.subs(n, first - 1) == at(first - 1):
            first -= 1
        merged.append((expr, first))
    if len(merged) > most:
        return Formula(*merged[-1])
    least = merged[0][1]
    rest = [(expr, sympy.Ge(n, first)) for expr, first in reversed(merged[1:])]
    return Formula(sympy.Piecewise(*rest, (merged[0][0], True)) if rest else merged[0][0], least)


def _shape(f: isl.PwAff, least: int) -> tuple[list[int], int]:
    """The n where something begins, and a period of the function between two of them."""
    breaks, period = {least}, 1

    def denominators(space: Any) -> None:
        nonlocal period
        for k in range(space.dim(isl.dim_type.div)):
            period = math.lcm(period, int(space.get_div(k).get_denominator_val().to_python()))

    for where, value in [*f.get_pieces(), (f.domain().complement(), None)]:
        if value is not None:
            denominators(value)
            period = math.lcm(period, int(value.get_denominator_val().to_python()))
        for part in disjoint(where):
            denominators(part.get_local_space())
            line = isl.Set.from_basic_set(part).move_dims(isl.dim_type.set, 0, isl.dim_type.param, 0, 1)
            line = line & read_set(f"{{ [x] : x >= {least} }}")
            if line.is_empty():
                continue
            breaks.add(int(line.dim_min_val(0).to_python()))
            if line.is_bounded():
                breaks.add(int(line.dim_max_val(0).to_python()) + 1)
    return sorted(breaks), period


def _evaluator(f: isl.PwAff) -> Callable[[int], int | None]:
    origin = isl.Point.zero(f.domain().get_space())
    known: dict[int, int | None] = {}

    def at(x: int) -> int | None:
        if x not in known:
            value = f.eval(origin.set_coordinate_val(isl.dim_type.param, 0, isl.Val(x, CONTEXT)))
            known[x] = None if value.is_nan() else int(value.to_python())
        return known[x]

    return at


def fit(
    at: Callable[[int], int | None], first: int, stop: int | None, period: int, missing: sympy.Expr
) -> list[Branch]:
    """Branches for first <= n < stop (None: no end), where the function is affine in each class mod period."""
    if stop is not None and stop - first < 2 * period + 2:
        return runs(at, first, stop, missing)
    values = [at(x) for x in range(first, first + 2 * period)]
    return [(affine(values, first, period, n, missing), first)]


def runs(at: Callable[[int], int | None], first: int, stop: int, missing: sympy.Expr) -> list[Branch]:
    """Short stretches of n as straight lines."""
    found: list[Branch] = []
    x = first
    while x < stop:
        a = at(x)
        b = at(x + 1) if x + 1 < stop else a
        if a is None or b is None:
            expr, step = (missing if a is None else sympy.Integer(a)), None
        else:
            step = b - a if b - a in (0, 1, -1) else 0
            expr = sympy.Integer(a) + step * (n - x)
        found.append((expr, x))
        y = x + 1
        while y < stop and (at(y) is None if a is None else step is not None and at(y) == a + step * (y - x)):
            y += 1
        x = y
    return found


def cases(f: isl.PwAff, names: tuple[str, ...], where: isl.Set) -> sympy.Expr:
    """A function of several parameters as isl has it: one expression, the lesser or larger of two, or a case per piece.

    Args:
        f: the function, with a value everywhere in `where`.
        names: the parameters, the one to solve conditions for first.
        where: the values that matter.

    Raises:
        TooHardError: it has too many cases, or divisions.
    """
    f = f.intersect_params(where).coalesce()
    if not where.is_subset(f.domain()):
        raise TooHardError("a formula in n and L without a value somewhere", "one with a value")
    found: list[tuple[sympy.Expr, isl.Set]] = []
    for here, value in f.get_pieces():
        if value.dim(isl.dim_type.div):
            raise TooHardError("a formula with divisions in n and L", "sums")
        expr = _linear(value, value.get_space(), names)
        found.append((expr + sympy.Rational(str(value.get_constant_val().to_str())), here))
    different = list(dict.fromkeys(expr for expr, _ in found))
    for guess in different if len(different) == 1 else (sympy.Min(*different), sympy.Max(*different)):
        if len(different) <= 2 and where.is_subset(function(guess, names).eq_set(f)):
            return guess
    branches: list[tuple[sympy.Expr, Any]] = []
    for expr, here in found:
        for part in here.gist(where).coalesce().get_basic_sets():
            if part.get_local_space().dim(isl.dim_type.div):
                raise TooHardError("a formula with divisions in n and L", "sums")
            conditions = []
            for c in part.remove_redundancies().get_constraints():
                total = _linear(c, part.get_space(), names)
                total += int(c.get_constant_val().to_python())
                conditions.append(_solved(total, names, equal=c.is_equality()))
            branches.append((expr, sympy.And(*conditions)))
    if not branches or len(branches) > BRANCHES:
        raise TooHardError(f"a formula of {len(branches)} cases", f"at most {BRANCHES}")
    return sympy.Piecewise(*branches[:-1], (branches[-1][0], True))


def _linear(of: Any, space: Any, names: tuple[str, ...]) -> sympy.Expr:
    total: sympy.Expr = sympy.Integer(0)
    for name in names:
        k = space.find_dim_by_name(isl.dim_type.param, name)
        if k >= 0:
            total += sympy.Rational(str(of.get_coefficient_val(isl.dim_type.param, k).to_str())) * symbol(name)
    return total


def _solved(e: sympy.Expr, names: tuple[str, ...], *, equal: bool) -> sympy.Basic:
    """`e >= 0` (or `= 0`) with the first name that it has on the left."""
    for name in names:
        factor = e.coeff(symbol(name))
        if factor != 0:
            rest = -(e - factor * symbol(name)) / factor
            if equal:
                return sympy.Eq(symbol(name), rest)
            return sympy.Ge(symbol(name), rest) if factor > 0 else sympy.Le(symbol(name), rest)
    return sympy.true if e >= 0 else sympy.false


# -- formulas as functions ---------------------------------------------------------------------------------------------


def function(expr: sympy.Expr, names: tuple[str, ...] = ("n",)) -> isl.PwAff:
    """A formula as a function `[names] -> { [value] }`; no value where it is infinite.

    Raises:
        TooHardError: the formula is not piecewise quasi-affine.
    """
    return _Reader(names).function(sympy.sympify(expr))


def tokens_of(assumptions: tuple[sympy.Basic, ...]) -> tuple[int, int | None]:
    """The least and the largest n >= 1 that assumptions about n allow, with all between; None for no largest.

    Raises:
        TooHardError: they are about something else, allow none, or leave gaps.
    """
    where = region(assumptions, least=1)
    line = where.move_dims(isl.dim_type.set, 0, isl.dim_type.param, 0, 1)
    if line.is_empty():
        raise TooHardError(f"the assumptions {assumptions}", "some n that satisfies them")
    first, last = least(line), largest(line) if line.is_bounded() else None
    if not line.is_equal(read_set(f"{{ [n] : {first} <= n {'' if last is None else f'<= {last}'} }}")):
        raise TooHardError(f"the assumptions {assumptions}", "all n from one number on")
    return first, last


def stated(expr: sympy.Expr, where: isl.Set, names: tuple[str, ...] = ("n",)) -> isl.PwAff:
    """A formula as a function of the names in `where`, as `function` reads it.

    Raises:
        TooHardError: it is not piecewise quasi-affine; or somewhere it has no value, not even an infinite one, or one
            that is not whole.
    """
    f = function(expr, names).intersect_params(where)
    if not f.domain().is_subset(isl.Set.from_pw_aff(f).params()):
        raise TooHardError(f"the formula {expr}", "whole numbers")
    finite = expr.xreplace({sympy.oo: sympy.Integer(0), -sympy.oo: sympy.Integer(0)})
    valued = f.domain() if finite == expr else function(finite, names).domain()
    if not where.is_subset(valued):
        raise TooHardError(f"the formula {expr}", "a value for everything that is assumed")
    return f


def region(conditions: tuple[sympy.Basic, ...], names: tuple[str, ...] = ("n",), least: int = 0) -> isl.Set:
    """The numbers, all >= least, for which the conditions hold, as a parameter set."""
    reader = _Reader(names)
    found = read_set(f"[{', '.join(names)}] -> {{ : {' and '.join(f'{x} >= {least}' for x in names)} }}")
    for condition in conditions:
        found = found & reader.region(condition)
    return found


class _Reader:
    """Formulas over some names as isl functions."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = {symbol(name): name for name in names}
        self.head = f"[{', '.join(names)}] -> "
        self.everywhere = read_set(self.head + "{ : }")

    def constant(self, x: int) -> isl.PwAff:
        return self.read(str(x))

    def read(self, text: str) -> isl.PwAff:
        return isl.PwAff.read_from_str(CONTEXT, f"{self.head}{{ [({text})] }}")

    def function(self, e: sympy.Expr) -> isl.PwAff:
        if e.is_infinite:
            return self.constant(0).intersect_domain(self.everywhere.complement())
        if e.is_Rational:
            return self.constant(1).scale_val(self.value(e))
        if e in self.names:
            return self.read(self.names[e])
        if isinstance(e, sympy.Add):
            return self.fold(e.args, lambda a, b: a.add(b))
        if isinstance(e, sympy.Mul):
            return self.product(e)
        if isinstance(e, sympy.floor):
            return self.function(e.args[0]).floor()
        if isinstance(e, sympy.ceiling):
            return self.function(e.args[0]).ceil()
        if isinstance(e, sympy.Mod) and e.args[1].is_Integer:
            return self.function(e.args[0]).mod_val(self.value(e.args[1]))
        if isinstance(e, sympy.Max):
            return self.fold(e.args, lambda a, b: a.max(b))
        if isinstance(e, sympy.Min):
            return self.fold(e.args, lambda a, b: a.min(b))
        if isinstance(e, sympy.Abs):
            x = self.function(e.args[0])
            return x.max(x.neg())
        if isinstance(e, Periodic | Table):
            return self.by_class(e, self.function, steps=True)
        if isinstance(e, sympy.Piecewise):
            found, rest = self.function(sympy.oo), self.everywhere
            for value, condition in e.args:
                here = self.region(condition) & rest
                found = found.union_add(self.function(value).intersect_params(here))
                rest = rest - here
            return found
        raise TooHardError(f"the formula {e}", "sums, floors, remainders, cases of affine expressions")

    def product(self, e: sympy.Expr) -> isl.PwAff:
        """A product with one factor that varies, or with a periodic number."""
        factor, rest = e.as_coeff_Mul()
        if factor != 1:
            return self.function(rest).scale_val(self.value(factor))
        classes = [x for x in e.args if isinstance(x, Periodic | Table)]
        if not classes:
            raise TooHardError(f"the formula {e}", "products with numbers only")
        others = sympy.Mul(*[x for x in e.args if x is not classes[0]])
        return self.by_class(classes[0], lambda value: self.function(value * others), steps=False)

    def by_class(self, e: Any, read: Callable[[Any], isl.PwAff], *, steps: bool) -> isl.PwAff:
        """A case per class, or per run of classes whose values are equal (with `steps`: grow evenly)."""
        x = self.function(e.args[0])
        found = self.function(sympy.oo)
        if isinstance(e, Periodic):
            x = x.mod_val(isl.Val(len(e.args) - 1, CONTEXT))
        values = e.args[1:]
        k = 0
        while k < len(values):
            last = k
            step = values[k + 1] - values[k] if k + 1 < len(values) and values[k].is_Integer else sympy.nan
            while (
                (step.is_Integer if steps else step == 0)
                and last + 1 < len(values)
                and values[last + 1] - values[last] == step
            ):
                last += 1
            here = x.ge_set(self.constant(k)) & x.le_set(self.constant(last))
            value = read(values[k])
            if last > k and step != 0:
                value = value.add(x.sub(self.constant(k)).scale_val(self.value(step)))
            found = found.union_add(value.intersect_params(here))
            k = last + 1
        return found

    def region(self, c: sympy.Basic) -> isl.Set:
        if isinstance(c, BooleanTrue | BooleanFalse):
            return self.everywhere if c == sympy.true else self.everywhere.complement()
        if isinstance(c, sympy.And):
            return self.fold(c.args, lambda a, b: a & b, self.region)
        if isinstance(c, sympy.Or):
            return self.fold(c.args, lambda a, b: a | b, self.region)
        if isinstance(c, sympy.Not):
            return self.region(c.args[0]).complement()
        compare = _COMPARE.get(type(c))
        if compare is None:
            raise TooHardError(f"the condition {c}", "comparisons of affine expressions")
        return compare(self.function(c.args[0]), self.function(c.args[1]))

    def fold(self, args: Any, join: Callable[[Any, Any], Any], read: Callable[[Any], Any] | None = None) -> Any:
        items = [(read or self.function)(x) for x in args]
        found = items[0]
        for item in items[1:]:
            found = join(found, item)
        return found

    def value(self, x: Any) -> isl.Val:
        return isl.Val.read_from_str(CONTEXT, f"{int(x.p)}/{int(x.q)}")


_COMPARE: dict[Any, Callable[[isl.PwAff, isl.PwAff], isl.Set]] = {
    sympy.StrictLessThan: isl.PwAff.lt_set, sympy.LessThan: isl.PwAff.le_set, sympy.Equality: isl.PwAff.eq_set,
    sympy.Unequality: isl.PwAff.ne_set, sympy.StrictGreaterThan: isl.PwAff.gt_set,
    sympy.GreaterThan: isl.PwAff.ge_set,
}  # fmt: skip
