"""Counting the points of a one-dimensional isl set for many parameters at once.

isl says what the first and the last point of each part are, and verifies that the part is the arithmetic progression
between them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from math import lcm
from typing import Any, TypeVar

import islpy as isl
import numpy as np

from pidsl.analysis.counting.inclusion import inclusion
from pidsl.analysis.counting.lattice import rows_of, square
from pidsl.errors import TooHardError
from pidsl.language.terms import Term
from pidsl.relation.isl import disjoint, limited, patience, read_map
from pidsl.relation.pieces import Ints, value_at

T = TypeVar("T")
_dim: Any = isl.dim_type
ONE_WAY = 200_000  # operations for one way to take a part of a set for progressions
SOON = 0.3  # of all operations, for a first attempt
MANY = 5  # progressions, from which on a union is taken apart if that gives fewer
CLASSES = 360  # residue classes that a part is split into before it is given up
CELLS = 5_000_000  # most rows in one count
CHUNK = 1 << 20  # rows counted at a time


def counter(points: isl.Set) -> Callable[[Mapping[str, Ints]], Ints]:
    """Counts the points of a one-dimensional set, for arrays of its parameters.

    Raises:
        TooHardError: isl finds no progressions within its limits.
    """
    return partial(count_progressions, progressions(points))


def sum_rows(lengths: Ints, count: Callable[[Mapping[str, Ints]], Ints]) -> Ints:
    """Sums of `count({"n": ..., "i": ...})` over the queries i of each n.

    Raises:
        TooHardError: there are too many rows in all.
    """
    total = int(lengths.sum())
    if total > CELLS:
        raise TooHardError(f"{total} rows to count", f"at most {CELLS}")
    found = np.zeros(len(lengths), dtype=np.int64)
    start = 0
    while start < len(lengths):
        stop = start + 1
        while stop < len(lengths) and int(lengths[start:stop].sum()) < CHUNK:
            stop += max(1, (stop - start) // 2)
        some = lengths[start:stop]
        which = np.repeat(np.arange(len(some)), some)
        offsets = np.concatenate([[0], np.cumsum(some)[:-1]])
        i = np.arange(int(some.sum())) - offsets[which]
        if len(i):
            counted = count({"n": some[which], "i": i})
            np.add.at(found, start + which, counted)
        start = stop
    return found


@dataclass(frozen=True)
class Progression:
    """first, first + step, ..., last: functions of the parameters, where both are defined."""

    first: isl.PwAff
    last: isl.PwAff
    step: int

    def size(self) -> isl.PwAff:
        """How many points, over the parameters for which there is one."""
        one = self.first.get_ctx()
        gap = (self.last - self.first).scale_down_val(isl.Val(self.step, one))
        return gap.add_constant_val(isl.Val(1, one))


def progressions(points: isl.Set) -> list[Progression]:
    """Disjoint progressions that isl proved to be the points, together.

    Args:
        points: one-dimensional, with any parameters.

    Raises:
        TooHardError: some part is no union of a few progressions, or isl's operation limit struck.
    """
    found: list[Progression] = []
    with limited("arithmetic progressions of keys", 500_000):
        for basic in disjoint(points):
            part = isl.Set.from_basic_set(basic)
            if (one := _attempt(partial(_progression, part))) is not None:
                found.append(one)
                continue
            for modulus in _moduli(basic):
                classes = _attempt(partial(_split, part, modulus))
                if classes is not None:
                    found += classes
                    break
            else:
                raise TooHardError(f"the points {basic}", f"progressions, in at most {CLASSES} residue classes")
    return found


def _attempt(find: Callable[[], T | None]) -> T | None:
    """What there is to find, if that takes isl little work: another way may take less."""
    try:
        with limited("one way to find progressions", ONE_WAY):
            return find()
    except TooHardError:
        return None


def _progression(part: isl.Set) -> Progression | None:
    """The part as a single progression, if isl agrees that it is one."""
    first, last = part.dim_min(0), part.dim_max(0)
    step = int(part.get_stride(0).to_python())
    space = part.get_space()
    key = isl.PwAff.from_aff(isl.Aff.var_on_domain(isl.LocalSpace.from_space(space), _dim.set, 0))
    low, high = first.insert_domain(space), last.insert_domain(space)
    whole = key.ge_set(low) & key.le_set(high)
    if step > 1:
        value = isl.Val(step, part.get_ctx())
        whole &= (key - low).mod_val(value).eq_set(key - key)
        if not (last - first).mod_val(value).ne_set(first - first).is_empty():
            return None
    return Progression(first, last, step) if whole.is_equal(part) else None


def _moduli(part: isl.BasicSet) -> list[int]:
    """Moduli whose classes may be progressions: of the floors in the part, then of all of them together."""
    local = part.get_local_space()
    each = {int(local.get_div(k).get_denominator_val().to_python()) for k in range(local.dim(_dim.div))}
    together = lcm(*each)
    return [x for x in dict.fromkeys([*sorted(each), together, together**2]) if 1 < x <= CLASSES]


def _split(part: isl.Set, modulus: int) -> list[Progression] | None:
    """A part as progressions of its classes `modulus * y + rest`, each found in y: the floors of x become fewer."""
    found = []
    scale = isl.Val(modulus, part.get_ctx())
    for rest in range(modulus):
        inside = part.apply(read_map(f"{{ [x] -> [y] : x = {modulus} y + {rest} }}")).coalesce()
        for basic in disjoint(inside):
            one = _progression(isl.Set.from_basic_set(basic))
            if one is None:
                return None
            first, last = (
                x.scale_val(scale).add_constant_val(isl.Val(rest, part.get_ctx())) for x in (one.first, one.last)
            )
            found.append(Progression(first, last, one.step * modulus))
    return found


@lru_cache(maxsize=32)
def keys_of_query(term: Term) -> list[tuple[int, Progression]]:
    """The keys of query i among n as progressions, each with how many times it counts.

    Those of other terms are added and subtracted where isl is done with them sooner, or where they are fewer.

    Raises:
        TooHardError: isl finds none within its limits.
    """
    try:
        with patience(SOON):
            return _keys(term)
    except TooHardError:
        return _keys(term)


def _keys(term: Term) -> list[tuple[int, Progression]]:
    try:
        parts = [(1, x) for x in progressions(rows_of(square(term, fresh=True)))]
        if len(parts) <= MANY:
            return parts
    except TooHardError:
        if not inclusion(term):
            raise
        return _apart(term)
    try:
        apart = _apart(term)
    except TooHardError:
        return parts
    return apart if 0 < len(apart) < len(parts) else parts


def _apart(term: Term) -> list[tuple[int, Progression]]:
    return [(sign * factor, x) for sign, part in inclusion(term) for factor, x in _keys(part)]


def count_progressions(parts: list[Progression], env: Mapping[str, Ints]) -> Ints:
    """Points of all parts, for arrays of parameters of one shape."""
    some = next(iter(env.values()))
    count = np.zeros(some.shape, dtype=np.int64)
    for part in parts:
        count += value_at(part.size(), env)
    return count
