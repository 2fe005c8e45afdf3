"""isl's piecewise quasi-affine functions as formulas, piece by piece, as isl has them.

`piecewise.formula` finds shorter ones for functions of n, from their values in a period; here the period may be as long
as it likes, and there may be several parameters.
"""

from __future__ import annotations

from functools import reduce
from typing import Any

import islpy as isl
import sympy

from pidsl.analysis.formulas.words import solved, symbol
from pidsl.errors import TooHardError
from pidsl.relation.isl import convex_parts

CASES = 8  # of a formula
_dim: Any = isl.dim_type


def written(f: isl.PwAff, where: isl.Set, missing: sympy.Expr = -sympy.oo, most: int = CASES) -> sympy.Expr:
    """A function of parameters as a formula: one expression, the lesser or larger of two, or a case per piece.

    >>> from pidsl.relation.isl import read_set
    >>> where = read_set("[n] -> { : n >= 1 }")
    >>> written(read_set("[n] -> { [d] : 0 <= d < n and d mod 4096 = 0 }").dim_max(0), where)
    4096*floor(n/4096 + 4095/4096) - 4096

    Args:
        f: the function.
        where: the parameters that matter.
        missing: what the formula is where `f` has no value.
        most: how many cases it may have.

    Raises:
        TooHardError: it has more cases.
    """
    f = f.intersect_domain(where).coalesce()
    none = (where - f.domain()).coalesce()
    pieces: list[tuple[sympy.Expr, isl.Set]] = [(plain(value), domain) for domain, value in f.get_pieces()]
    if not none.is_empty():
        pieces.append((missing, none))
    elif (extreme := _extreme(f, where)) is not None:
        return extreme
    if len(pieces) > most:
        raise TooHardError(f"a formula of {len(pieces)} cases", f"at most {most}")
    branches, left = [], where
    for expr, domain in pieces[:-1]:
        branches.append((expr, membership(domain.gist(left))))
        left = (left - domain).coalesce()
        if left.n_basic_set() != 1:
            left = where
    return sympy.Piecewise(*branches, (pieces[-1][0], True))


def _extreme(f: isl.PwAff, where: isl.Set) -> sympy.Expr | None:
    """A function that is the largest, or the least, of the expressions of its pieces, with as few of them as do."""
    each = [isl.PwAff.from_aff(value) for _, value in f.get_pieces()]
    for join, worse, all_of in (
        (isl.PwAff.max, isl.PwAff.gt_set, sympy.Max), (isl.PwAff.min, isl.PwAff.lt_set, sympy.Min)
    ):  # fmt: skip
        fit = [x for x in each if (worse(x, f) & where).is_empty()]
        if not fit or not (f.ne_set(reduce(join, fit)) & where).is_empty():
            continue
        for x in fit[:-1]:
            others = [y for y in fit if y is not x]
            if (f.ne_set(reduce(join, others)) & where).is_empty():
                fit = others
        return all_of(*(plain(x.get_pieces()[0][1]) for x in fit))
    return None


def membership(domain: isl.Set) -> Any:
    """The condition that the parameters are in a set."""
    parts = []
    for part in convex_parts(domain):
        tests = []
        for constraint in part.get_constraints():
            if not constraint.is_div_constraint():  # what a floor is, the formula says itself
                tests.append(solved(plain(constraint.get_aff()), sympy.Eq if constraint.is_equality() else sympy.Ge))
        parts.append(sympy.And(*tests))
    return sympy.Or(*parts)


def plain(f: isl.Aff) -> sympy.Expr:
    """A quasi-affine function of the parameters as a formula."""
    total = _number(f.get_constant_val())
    for k in range(f.dim(_dim.param)):
        total += _number(f.get_coefficient_val(_dim.param, k)) * symbol(str(f.get_dim_name(_dim.param, k)))
    for k in range(f.dim(_dim.div)):
        step = _number(f.get_coefficient_val(_dim.div, k))
        if step:
            total += step * _floor(plain(f.get_div(k)))
    return total


def _floor(x: sympy.Expr) -> sympy.Expr:
    """The floor of a combination of integers, what is whole of it taken out: `floor(7*n/8) -> n - floor(n/8 + 7/8)`."""
    whole, rest, turn = sympy.Integer(0), sympy.Integer(0), True
    for factor, atom in (term.as_coeff_Mul() for term in sympy.Add.make_args(sympy.expand(x))):
        near = sympy.floor(factor) if atom == 1 else sympy.ceiling(factor - sympy.Rational(1, 2))
        whole, rest = whole + near * atom, rest + (factor - near) * atom
        turn = turn and (atom == 1 or factor <= near)
    if turn and not rest.is_Rational:  # floor(u/b) = -floor((b - 1 - u)/b)
        below = sympy.denom(sympy.together(rest))
        return whole - sympy.floor(sympy.expand((below - 1) / below - rest))
    return whole + sympy.floor(rest)


def _number(x: isl.Val) -> sympy.Rational:
    return sympy.Rational(x.get_num_si(), x.get_den_val().get_num_si())
