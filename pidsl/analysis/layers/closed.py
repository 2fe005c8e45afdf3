"""The pairs of L layers with L as a parameter: guessed from a few numbers of layers, proved by induction.

From one number of layers to the next, borders move by a constant: `-3 <= i - j <= 3`, then 6, then 9. So a guess takes
the constraints of S_l with constants that grow linearly. It is right from l layers on when it is S_l at L = l and, for
every L >= l and every n, one layer more turns it into itself at L + 1: two questions that isl decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import islpy as isl

from pidsl.errors import TooHardError
from pidsl.relation.isl import coalesced, convex_parts, limited, read_map, read_set

OPERATIONS = 300_000
LATEST = 4  # layers from which on a form may hold

Terms = tuple[tuple[int, str], ...]  # factors of n, i, j and of floors of them
Row = tuple[str, Terms]  # what holds of their sum: ">= 0", "= 0", "mod 4 = 0"
Part = dict[Row, int]  # the constant of each constraint
_dim: Any = isl.dim_type
Layers = Callable[[int], isl.Map]  # S_L for a number L


@dataclass(frozen=True, slots=True)
class Closed:
    """The pairs of any number of layers from `first` on.

    Args:
        pairs: `[n, L] -> { [i] -> [j] }`.
        first: the first L for which it is right.
    """

    pairs: isl.Map
    first: int


def closed_form(layer: isl.Map, layers: Layers, where: isl.Set) -> Closed | None:
    """A proved form, for the n in `where`; None when no guess is right.

    Args:
        layer: `[n] -> { [i] -> [j] }`, one layer.
        layers: the relation of a number of layers.
        where: the n that matter.
    """
    for first in range(1, LATEST):
        try:
            with limited("pairs of L layers", OPERATIONS):
                for guess in _guesses(layers(first), layers(first + 1), first):
                    form = Closed(coalesced(guess.intersect_params(where)), first)
                    if is_closed_form(form, layer, layers(first), where):
                        return form
        except (TooHardError, isl.Error):
            return None
    return None


def is_closed_form(form: Closed, layer: isl.Map, start: isl.Map, where: isl.Set) -> bool:
    """The proof by induction on L.

    Args:
        form: what is to be proved.
        layer: one layer.
        start: the pairs of `form.first` layers.
        where: the n that matter.
    """
    here = where & read_set(f"[n, L] -> {{ : L >= {form.first} }}")
    pairs = form.pairs.intersect_params(here)
    at_first = read_set(f"[n, L] -> {{ : L = {form.first} }}")
    if not pairs.intersect_params(at_first).is_equal(start.intersect_params(here & at_first)):
        return False
    after = layer.apply_range(pairs)
    return after.is_equal(_next(form.pairs).intersect_params(here))


def _next(pairs: isl.Map) -> isl.Map:
    """The form at L + 1."""
    position = pairs.find_dim_by_name(isl.dim_type.param, "L")
    points = pairs.wrap().flatten().move_dims(isl.dim_type.set, 0, isl.dim_type.param, position, 1)
    return points.apply(read_map("[n, L] -> { [l, i, j] -> [[i] -> [j]] : l = L + 1 }")).unwrap()


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


def least_layers(form: Closed, target: isl.Map, where: isl.Set) -> isl.PwAff:
    """The least L >= form.first that connects the target, as a function of n; without a value where none does."""
    here = where & read_set(f"[n, L] -> {{ : L >= {form.first} }}")
    lacking = (target.intersect_params(here) - form.pairs).domain().params()
    enough = (here - lacking).align_params(read_set("[n, L] -> { : }").get_space())
    line = enough.move_dims(isl.dim_type.set, 0, isl.dim_type.param, 1, 1)
    return line.dim_min(0)
