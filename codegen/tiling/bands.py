"""For each row of a convex piece the interval of keys it attends (and for each key the rows), as forms.

`0 <= a + offset - b <= 63` gives, per row a, keys `a + offset - 63 .. a + offset`; a block of 16 gives
`16 * (a // 16) .. 16 * (a // 16) + 15`. Every constraint of the mask is solved for the swept index (see `forms`). The
bounds are monotone, so the tiles follow from them in closed form (see `tiles`). What cannot be solved is left to the
mask, and the band is a superset.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import islpy as isl

from pidsl.codegen.plan.walks import Over
from pidsl.codegen.tiling.coordinates import Coordinates, mask
from pidsl.language.algebra import both
from pidsl.language.expr import Pred
from pidsl.relation.forms import Form, constraints
from pidsl.relation.isl import convex_parts


@dataclass(frozen=True, slots=True)
class Bound:
    """A bound on the swept index as a form in the own one, nondecreasing (+1) or nonincreasing (-1) in it."""

    value: Form
    slope: int


@dataclass(frozen=True, slots=True)
class Band:
    """The swept indices of each own index: between the largest lower and the smallest upper bound.

    `first` and `last` bound the own index itself; `guard` is about parameters alone; `exact` says that every index
    between the bounds belongs to the piece.
    """

    lower: tuple[Bound, ...]
    upper: tuple[Bound, ...]
    first: tuple[Form, ...]
    last: tuple[Form, ...]
    guard: Pred | None
    exact: bool


@dataclass(frozen=True, slots=True)
class Placed:
    """A part of the relation in a layout: its pairs and its mask as sets of (a, b), and the keys of each row."""

    at: Coordinates
    relation: isl.Map
    points: isl.Set
    mask: isl.Set
    keys: Band | None


def place(relation: isl.Map, at: Coordinates) -> Placed:
    """`relation` in the coordinates of a layout."""
    points = at.points(relation)
    simple = mask(at, points)
    return Placed(at, relation, points, simple, band(simple, "keys"))


def band(simple: isl.Set, over: Over) -> Band | None:
    """The band of a mask, over keys per row or over rows per key; None when it has no such form."""
    own, swept = ("a", "b") if over == "keys" else ("b", "a")
    return _band(simple, ("a", "b"), own, swept)


def interval(points: isl.Set, name: str) -> Band | None:
    """The bounds of a one-dimensional set; None when it is no interval, or is one for some parameters only."""
    found = _band(points, (name,), "", name)
    return found if found is not None and found.exact and found.guard is None else None


def _band(points: isl.Set, names: Sequence[str], own: str, swept: str) -> Band | None:
    parts = convex_parts(points)
    if len(parts) != 1:
        return None
    lower, upper = list[Bound](), list[Bound]()
    first, last = list[Form](), list[Form]()
    guard: Pred | None = None
    exact = True
    for given in constraints(parts[0], names):
        x = given.solved(swept).monotone(own)
        x = x if swept in x.form.terms else x.solved(own)
        exact = exact and x.exact
        if x.trivial:
            continue
        form = x.form
        v, u = form.terms.get(swept, 0), form.terms.get(own, 0)
        if v:
            (lower if v > 0 else upper).append(Bound(form.bound(swept), _slope(form, swept, own)))
        elif u:
            (first if u > 0 else last).append(form.bound(own))
        else:
            guard = both(guard, form.compare(">="))
    return Band(tuple(lower), tuple(upper), tuple(first), tuple(last), guard, exact)


def _slope(form: Form, swept: str, own: str) -> int:
    """+1 when the bound on `swept` never falls from one own index to the next, -1 when it never rises."""
    low, high = form.steps(own)
    if low == high == 0:
        return 1
    return 1 if (low >= 0) != (form.terms[swept] > 0) else -1
