"""Integer points of isl sets that depend on one length: parts, chambers, periods.

A count of the integer points of a polytope whose corners are affine in n is a quasi-polynomial in n on every chamber:
between two lengths at which corners meet. Its period divides the common denominator of the coefficients of n in the
corners (Ehrhart; Clauss and Loechner 1998), where the integers that isl's floors introduce count as coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor, lcm
from typing import Any

import islpy as isl

from pidsl.errors import TooHardError
from pidsl.language.terms import Term
from pidsl.relation import build
from pidsl.relation.isl import coalesced, disjoint, limited, read_map, read_set

_dim: Any = isl.dim_type
SOON = 200_000  # operations of isl for telling whether pairs depend on n


@dataclass(frozen=True, slots=True)
class Chambers:
    """Where the count of a set is one quasi-polynomial.

    Args:
        starts: ascending, first 0: the count is one quasi-polynomial from each start to just before the next.
        period: of all of them.
    """

    starts: tuple[int, ...]
    period: int

    def __or__(self, other: Chambers) -> Chambers:
        """Those of the sum of two counts."""
        return Chambers(tuple(sorted({*self.starts, *other.starts})), lcm(self.period, other.period))


def square(term: Term, *, fresh: bool = False) -> isl.Set:
    """`[n] -> { [i, j] : 0 <= i, j < n and i attends j }`.

    Args:
        term: a concrete term.
        fresh: build the relation again instead of taking the one that is remembered.

    Raises:
        SymbolError: the term holds unbound symbols.
        TooHardError: isl's operation limit struck.
    """
    if fresh:
        with limited(f"the relation of {term!r}"):
            whole = build.unclipped(term) & read_map("[n, m] -> { [i] -> [j] : 0 <= i < n and 0 <= j < m }")
    else:
        whole = build.relation(term)
    with limited(f"the pairs of {term!r} for n = m"):
        points = whole.wrap().flatten().intersect_params(read_set("[n, m] -> { : n = m }"))
        return coalesced(without(points, "m"))


def without(points: isl.Set, parameter: str) -> isl.Set:
    """The points for any value of `parameter`."""
    return points.project_out(_dim.param, points.find_dim_by_name(_dim.param, parameter), 1)


def apply(points: isl.Set, text: str) -> isl.Set:
    """The image of a set under a map in isl's notation."""
    return points.apply(read_map(text))


def by_length(pairs: isl.Set) -> tuple[isl.Set, isl.Set] | None:
    """What a longer sequence adds, where it only adds: the new query's keys and the new key's other queries.

    Args:
        pairs: `[n] -> { [i, j] }`.

    Returns:
        `[t] -> { [j] : j <= t }` and `[t] -> { [i] : i < t }`, the pairs of token t with itself and those before it;
        None when whether i attends j depends on n, or isl does not tell soon.
    """
    try:
        with limited("whether pairs depend on n", SOON):
            ever = without(pairs, "n")
            box = read_set("[n] -> { [i, j] : 0 <= i < n and 0 <= j < n }")
            if not (ever & box).is_equal(pairs):
                return None
            rows = apply(ever & read_set("[t] -> { [t, j] : 0 <= j <= t }"), "{ [i, j] -> [j] }")
            columns = apply(ever & read_set("[t] -> { [i, t] : 0 <= i < t }"), "{ [i, j] -> [i] }")
            return coalesced(rows), coalesced(columns)
    except TooHardError:
        return None


def rows_of(pairs: isl.Set) -> isl.Set:
    """`[n] -> { [i, j] }` as the keys of query i, `[n, i] -> { [j] }`."""
    rows = pairs.move_dims(_dim.param, 1, _dim.set, 0, 1)
    return rows.set_dim_name(_dim.param, 1, "i")


def chambers(points: isl.Set) -> Chambers:
    """Chambers and period of the number of points, for a set with one parameter >= 0."""
    found = Chambers((0,), 1)
    for part in disjoint(points):
        for lifted in isl.Set.from_basic_set(part.lift()).flatten().get_basic_sets():
            found |= _chambers(lifted)
    return found


def _chambers(part: isl.BasicSet) -> Chambers:
    """Of one polytope: every integer that is not a bound of itself is a coordinate."""
    vertices = part.compute_vertices()
    domains: list[isl.BasicSet] = []
    vertices.foreach_cell(lambda cell: domains.append(cell.get_domain()))
    starts = {0}
    for domain in domains:
        for constraint in domain.get_constraints():
            slope = int(constraint.get_coefficient_val(_dim.param, 0).to_python())
            if slope:
                constant = int(constraint.get_constant_val().to_python())
                # the corner belongs to both sides; alone it is right whether or not it does
                starts |= {s for s in (ceil(-constant / slope), floor(-constant / slope) + 1) if s > 0}
    corners: list[isl.MultiAff] = []
    vertices.foreach_vertex(lambda vertex: corners.append(vertex.get_expr()))
    period = 1
    for corner in corners:
        for k in range(corner.dim(_dim.out)):
            step = corner.get_aff(k).get_coefficient_val(_dim.param, 0)
            period = lcm(period, int(step.get_den_val().to_python()))
    return Chambers(tuple(sorted(starts)), period)
