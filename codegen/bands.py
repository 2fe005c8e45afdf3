"""For each row of a convex piece the interval of keys it attends (and for each key the rows), as expressions.

`0 <= a + offset - b <= 63` gives, per row a, keys `a + offset - 63 .. a + offset`. A mask without divisions gives its
bounds constraint by constraint; with divisions (blocks) isl's parametric minimum and maximum do, when they are
monotone in the row. From monotone bounds the tiles follow in closed form (see `tiles`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import islpy as isl

from pidsl.codegen.coordinates import Coordinates, mask
from pidsl.codegen.plan import Over
from pidsl.errors import TooHardError
from pidsl.language.expr import Add, And, Compare, FloorDiv, Index, Mul, Pred, Sub, Var, simplify
from pidsl.relation.isl import CONTEXT, limited, read_map, read_set

LIMIT = 20_000  # isl operations for a parametric minimum


@dataclass(frozen=True, slots=True)
class Bound:
    """A bound on the swept index as an expression in the own one, nondecreasing (+1) or nonincreasing (-1) in it."""

    value: Index
    slope: int


@dataclass(frozen=True, slots=True)
class Band:
    """The swept indices of each own index: between the largest lower and the smallest upper bound.

    `first` and `last` bound the own index itself; `guard` is about parameters alone; `exact` says that every index
    between the bounds belongs to the piece.
    """

    lower: tuple[Bound, ...]
    upper: tuple[Bound, ...]
    first: tuple[Index, ...]
    last: tuple[Index, ...]
    guard: Pred | None
    exact: bool


@dataclass(frozen=True, slots=True)
class Placed:
    """A part of the relation in a layout: its pairs and its mask as sets of (a, b), and the keys of each row."""

    at: Coordinates
    points: isl.Set
    mask: isl.Set
    keys: Band | None


def place(relation: isl.Map, at: Coordinates) -> Placed:
    """`relation` in the coordinates of a layout."""
    points = at.points(relation)
    simple = mask(at, points)
    return Placed(at, points, simple, band(at, simple, "keys"))


def band(at: Coordinates, simple: isl.Set, over: Over) -> Band | None:
    """The band of a mask, over keys per row or over rows per key; None when it has no such form."""
    parts = simple.get_basic_sets()
    if len(parts) != 1:
        return None
    own, swept = ("a", "b") if over == "keys" else ("b", "a")
    if parts[0].dim(isl.dim_type.div) == 0:
        return _from_constraints(parts[0], {"a": 0, "b": 1}, own, swept)
    try:
        with limited("the keys of one row of a piece", LIMIT):
            return _from_extremes(at, simple, own, swept)
    except (TooHardError, isl.Error):  # no band is no loss but of time
        return None


def _from_constraints(convex: isl.BasicSet, position: Mapping[str, int], own: str, swept: str) -> Band:
    lower: list[Bound] = []
    upper: list[Bound] = []
    first: list[Index] = []
    last: list[Index] = []
    guard: Pred | None = None
    for constant, found in _inequalities(convex):
        v, u = found.pop(position[swept], 0), found.pop(position[own], 0)
        rest = [(value, Var(name)) for name, value in found.items()]
        if v > 0:  # v * swept >= -(u * own + rest), rounded up
            value = _sum(v - 1 - constant, [(-u, Var(own)), *((-k, x) for k, x in rest)])
            lower.append(Bound(simplify(FloorDiv(value, v)), -1 if u > 0 else 1))
        elif v < 0:
            value = _sum(constant, [(u, Var(own)), *rest])
            upper.append(Bound(simplify(FloorDiv(value, -v)), -1 if u < 0 else 1))
        elif u > 0:
            value = _sum(u - 1 - constant, [(-k, x) for k, x in rest])
            first.append(simplify(FloorDiv(value, u)))
        elif u < 0:
            last.append(simplify(FloorDiv(_sum(constant, rest), -u)))
        else:
            test = Compare(">=", _sum(constant, rest), 0)
            guard = test if guard is None else And(guard, test)
    return Band(tuple(lower), tuple(upper), tuple(first), tuple(last), guard, True)


def _inequalities(convex: isl.BasicSet) -> Iterator[tuple[int, dict[Any, int]]]:
    """`constant + sum of coefficient * variable >= 0`: dimensions by position, parameters by name."""
    for c in convex.get_constraints():
        for sign in (1, -1) if c.is_equality() else (1,):
            found: dict[Any, int] = {}
            for kind in (isl.dim_type.param, isl.dim_type.set):
                for k in range(convex.dim(kind)):
                    value = int(c.get_coefficient_val(kind, k).to_python())
                    if value:
                        found[convex.get_dim_name(kind, k) if kind == isl.dim_type.param else k] = sign * value
            yield sign * int(c.get_constant_val().to_python()), found


def _from_extremes(at: Coordinates, simple: isl.Set, own: str, swept: str) -> Band | None:
    """Bounds from the least and the greatest swept index of each own one, where those are maxima and minima."""
    graph = simple.apply(read_map(f"[{at.parameters}] -> {{ [a, b] -> [[{own}] -> [{swept}]] }}")).unwrap()
    everywhere = read_set(f"[{at.parameters}] -> {{ [{own}] : {own} >= 0 and {at.known} }}")
    between = isl.Map.universe(graph.get_space()).intersect_domain(everywhere)
    bounds: list[tuple[Bound, ...]] = []
    for extreme, combine, relation in (
        (isl.Map.lexmin_pw_multi_aff, isl.PwAff.max, ">="),
        (isl.Map.lexmax_pw_multi_aff, isl.PwAff.min, "<="),
    ):
        try:
            found = extreme(graph).get_pw_aff(0)
        except isl.Error as e:
            if "unbounded" not in str(e):
                raise
            bounds.append(())
            continue
        formulas = [piece[1] for piece in found.get_pieces()]
        whole = reduce(combine, [isl.PwAff.from_aff(f) for f in formulas])
        slopes = [_slope(at, isl.PwAff.from_aff(f), own) for f in formulas]
        if None in slopes or not found.ne_set(whole).is_empty():
            return None
        bounds.append(tuple(Bound(_formula(f, own), s or 1) for f, s in zip(formulas, slopes, strict=True)))
        beyond = read_map(f"[{at.parameters}] -> {{ [x] -> [y] : y {relation} x }}")
        between = between & isl.Map.from_pw_aff(whole).apply_range(beyond)
    # the formulas hold where a row has any key at all; the hull of those rows is known without divisions
    rows = graph.domain().gist(everywhere).remove_divs().simple_hull()
    own_only = _from_constraints(rows, {own: 0, swept: 1}, own, swept)
    return replace(own_only, lower=bounds[0], upper=bounds[1], exact=bool(between.is_subset(graph)))


def _slope(at: Coordinates, formula: isl.PwAff, own: str) -> int | None:
    """+1 when the formula never falls from one own index to the next, -1 when it never rises."""
    after = formula.pullback_multi_aff(isl.MultiAff(f"[{at.parameters}] -> {{ [{own}] -> [{own} + 1] }}", CONTEXT))
    if formula.gt_set(after).is_empty():
        return 1
    return -1 if formula.lt_set(after).is_empty() else None


def _formula(aff: isl.Aff, own: str) -> Index:
    """A quasi-affine function of the own index as an expression."""
    terms: list[tuple[int, Index]] = []
    for kind, length in ((isl.dim_type.param, aff.dim(isl.dim_type.param)), (isl.dim_type.in_, 1)):
        for k in range(length):
            name = str(aff.get_dim_name(kind, k)) if kind == isl.dim_type.param else own
            terms.append((_numerator(aff, aff.get_coefficient_val(kind, k)), Var(name)))
    for k in range(aff.dim(isl.dim_type.div)):
        if coefficient := _numerator(aff, aff.get_coefficient_val(isl.dim_type.div, k)):
            terms.append((coefficient, _formula(aff.get_div(k), own)))
    total = _sum(_numerator(aff, aff.get_constant_val()), terms)
    return simplify(FloorDiv(total, int(aff.get_denominator_val().to_python())))


def _numerator(aff: isl.Aff, value: isl.Val) -> int:
    return int((value * aff.get_denominator_val()).to_python())


def _sum(constant: int, terms: Iterable[tuple[int, Index]]) -> Index:
    """`constant + sum of coefficient * term`, positive terms first, so that little is subtracted from nothing."""
    ordered = sorted((x for x in terms if x[0]), key=lambda x: x[0] < 0)
    out: Index = 0
    for coefficient, term in ordered:
        size = simplify(Mul(abs(coefficient), term))
        out = simplify(Add(out, size)) if coefficient > 0 else simplify(Sub(out, size))
    return simplify(Add(out, constant))
