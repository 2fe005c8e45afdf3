"""Formulas as isl's piecewise quasi-affine functions, conditions as its sets, so that isl decides what is right.

Where a formula is infinite (no number of layers is enough, the maximum of nothing), isl's function has no value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import islpy as isl
import sympy
from sympy.logic.boolalg import BooleanFalse, BooleanTrue

from pidsl.analysis.formulas.words import Periodic, Table, symbol
from pidsl.errors import TooHardError
from pidsl.relation.isl import CONTEXT, largest, least, read_set


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
