"""Parts of a relation as products: positions are written in digits, and every digit has a relation of its own.

    blocks of 128, the last 8 keys of every earlier one      i = 128 a_0 + a_1, j = 128 b_0 + b_1
    j // 128 < i // 128 and j mod 128 >= 120                 b_0 < a_0    and    120 <= b_1

Digits come from the divisions in the relation: 64 and 512, each a divisor of the next, give a grid of n x 8 x 64. In
boxes of that grid the keys of one tile lie close together, however far apart they are in the sequence. A relation that
is no product may fall into a few that are: where a digit of the queries has few values, they are looked at one by one,
and those with equal relations are taken together. isl verifies that the products are what they were made from.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import reduce
from itertools import pairwise

import islpy as isl

from pidsl.codegen.choice.cost import LONGEST
from pidsl.codegen.choice.grid_axes import Ends, GridAxis, Met
from pidsl.codegen.plan.walks import Grid, Over
from pidsl.codegen.tiling.bands import Bound, band
from pidsl.errors import TooHardError
from pidsl.language.algebra import greatest, smallest
from pidsl.language.expr import Index, substitute, substitute_pred
from pidsl.relation.forms import Floor, atoms_of, predicate
from pidsl.relation.frame import Frame, frame_of
from pidsl.relation.isl import coalesced, convex_parts, interval_of, limited, read_map, read_set

MAX_AXES = 4
MAX_VALUES = 16  # of a digit that is looked at value by value
MAX_PRODUCTS = 4
OPERATIONS = 200_000

_dim = isl.dim_type


def products(relation: isl.Map, longest: int = LONGEST) -> list[tuple[isl.Map, list[GridAxis]]] | None:
    """Disjoint products that together are a part of the relation, each with its axes; None where there are none.

    Args:
        relation: `[n, m, offset] -> { [r] -> [j] }`.
        longest: no row of the grid holds more tokens: a call fills its rows up.
    """
    with suppress(TooHardError), limited("the digits of a part", OPERATIONS):
        strides = digits(relation)
        return _products(relation, strides) if strides and strides[0] <= longest else None
    return None


def digits(relation: isl.Map) -> list[int]:
    """What the digits count, the largest first: divisors of each other in the divisions of a relation."""

    def counted(x: Floor) -> int:
        """floor((floor(i / 64) + ...) / 8) counts 512 tokens"""
        inner = ((x.by * counted(y), abs(factor)) for y, factor in x.of.terms.items() if isinstance(y, Floor))
        return next((size // factor for size, factor in inner if size % factor == 0), x.by)

    convex = convex_parts(relation.wrap())
    found = {counted(x) for part in convex for x in atoms_of(part, ("r", "j")) if isinstance(x, Floor)}
    strides = sorted(found - {1}, reverse=True)
    chain = all(large % small == 0 for large, small in pairwise(strides))
    return [*strides, 1] if strides and chain and len(strides) < MAX_AXES else []


def _products(relation: isl.Map, strides: list[int]) -> list[tuple[isl.Map, list[GridAxis]]] | None:
    grid = Grid((None, *(large // small for large, small in pairwise(strides))))
    frame = frame_of(relation)
    to_digits = _to_digits(grid, frame)
    here = relation.intersect_params(frame.compared())
    pairs = coalesced(here.wrap().apply(to_digits))
    every = coalesced(pairs.project_out(_dim.param, 0, pairs.dim(_dim.param)))
    inside = frame.existing().apply(read_map("{ [r, j] -> [[r] -> [j]] }")).apply(to_digits)
    if not (every.align_params(pairs.get_space()) & inside).is_equal(pairs):
        return None  # it depends on the lengths
    out = []
    for part in _split(every, grid):
        back = (part.align_params(pairs.get_space()) & inside).apply(to_digits.reverse())
        axes = [_axis(coalesced(part.apply(x)), length) for x, length in zip(_to_axes(grid), grid.lengths, strict=True)]
        out.append((coalesced(back.unwrap()), axes))
    return out or None


def _to_digits(grid: Grid, frame: Frame) -> isl.Map:
    """`[n, m, offset] -> { [[r] -> [j]] -> [a_0, ..., b_0, ...] }`"""
    names, where = [], []
    for letter, position in (("a", "r + offset"), ("b", frame.key)):
        own = [f"{letter}{k}" for k in range(len(grid.lengths))]
        names += own
        where.append(f"{position} = " + " + ".join(f"{s} {x}" for s, x in zip(grid.strides, own, strict=True)))
        where += [f"0 <= {x}" + (f" < {length}" if length else "") for x, length in zip(own, grid.lengths, strict=True)]
    return frame.map(f"[[r] -> [j]] -> [{', '.join(names)}] : {' and '.join(where)}")


def _split(every: isl.Set, grid: Grid) -> list[isl.Set]:
    """Products whose disjoint union it is; none where none are found."""
    if _is_product(every, grid):
        return [every]
    for axis, length in enumerate(grid.lengths):
        if length is None or length > MAX_VALUES:
            continue
        groups: list[tuple[isl.Set, isl.Set]] = []  # (the relation of all other digits, the pairs)
        for value in range(length):
            own = every.fix_val(_dim.set, axis, isl.Val(value, every.get_ctx()))
            rest = own.project_out(_dim.set, axis, 1)
            for k, (other, pairs) in enumerate(groups):
                if other.is_equal(rest):
                    groups[k] = (other, pairs | own)
                    break
            else:
                groups.append((rest, own))
        parts = [coalesced(pairs) for rest, pairs in groups if not rest.is_empty()]
        if len(parts) <= MAX_PRODUCTS and all(_is_product(x, grid) for x in parts):
            return parts
    return []


def _is_product(every: isl.Set, grid: Grid) -> bool:
    lifted = (coalesced(every.apply(x)).apply(x.reverse()) for x in _to_axes(grid))
    return bool(reduce(isl.Set.intersect, lifted) <= every)


def _to_axes(grid: Grid) -> Iterator[isl.Map]:
    """`{ [a0, ..., b0, ...] -> [a, b] }` of every axis."""
    count = len(grid.lengths)
    names = ", ".join(f"{x}{k}" for x in "ab" for k in range(count))
    return (read_map(f"{{ [{names}] -> [a, b] : a = a{axis} and b = b{axis} }}") for axis in range(count))


def _axis(pairs: isl.Set, length: int | None) -> GridAxis:
    end = "" if length is None else f"and a < {length} and b < {length}"
    simple = coalesced(pairs.gist(read_set(f"{{ [a, b] : a >= 0 and b >= 0 {end} }}")))
    keep = predicate(simple, ("a", "b"))
    return GridAxis(
        length,
        lambda q, k: substitute_pred(keep, {"a": q, "b": k}),
        _met(simple, pairs, "keys", length),
        _met(simple, pairs, "queries", length),
        queries=_range(pairs, 0, length),
        keys=_range(pairs, 1, length),
    )


def _met(simple: isl.Set, pairs: isl.Set, over: Over, length: int | None) -> Met:
    """The first and the last of what neighbouring tokens meet; a superset where the set is no band."""
    found = band(simple, over)
    own, swept = ("a", 1) if over == "keys" else ("b", 0)
    if found is None:
        known: Ends = _range(pairs, swept, length) or (0, None if length is None else length - 1)
        return lambda near, far: known

    def at_corner(x: Bound, near: Index, far: Index) -> Index:
        return substitute(x.value.index(), {own: near if x.slope > 0 else far})

    def met(near: Index, far: Index) -> Ends:
        last = [at_corner(x, far, near) for x in found.upper]
        return greatest([0, *(at_corner(x, near, far) for x in found.lower)]), smallest(last) if last else None

    return met


def _range(pairs: isl.Set, position: int, length: int | None) -> tuple[int, int] | None:
    """The least and the greatest coordinate on one side, where that is not the whole axis."""
    if length is None or pairs.is_empty():
        return None
    least, most = interval_of(pairs, position)
    assert least is not None and most is not None
    return None if (least, most) == (0, length - 1) else (least, most)
