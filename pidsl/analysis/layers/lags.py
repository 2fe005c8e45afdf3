"""Lags of layers, and sums of them, one per layer.

Where all layers are causal and translation invariant, a path from j to i stays between j and i, so no border is ever
in its way: i sees j exactly when the lag i - j is a sum of lags, one per layer. Then pairs are one-dimensional.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import TypeVar

import islpy as isl

from pidsl.analysis.layers.stacks import Stack, lags_of, square
from pidsl.analysis.layers.sums import MANY, Intervals, merged
from pidsl.errors import TooHardError
from pidsl.language.terms import Term
from pidsl.relation.isl import coalesced, convex_parts, limited, read_map, read_set

T = TypeVar("T")
DENSE = 1 << 22  # sets with a largest element below this are added as bits of one integer


@lru_cache(maxsize=512)
def causal_lags(term: Term) -> isl.Set | None:
    """The lags `{ [d] }` of a causal, translation invariant term; None for any other.

    Raises:
        TooHardError: isl's operation limit struck.
    """
    pairs = square(term)
    with limited(f"the lags of {term!r}"):
        lags = coalesced(lags_of(pairs).project_out(isl.dim_type.param, 0, 1))
        if not lags.is_subset(read_set("{ [d] : d >= 0 }")):
            return None
        return lags if pairs_at(lags).is_subset(pairs) else None


def pairs_at(lags: isl.Set) -> isl.Map:
    """All pairs of n tokens whose lag is in a set."""
    back = read_map("{ [i, j] -> [i - j] }").intersect_range(lags).domain()
    square = back.apply(read_map("{ [i, j] -> [[i] -> [j]] }")).unwrap()
    return square & read_map("[n] -> { [i] -> [j] : 0 <= i < n and 0 <= j < n }")


def intervals(lags: isl.Set) -> Intervals | None:
    """A one-dimensional set as intervals; None when it is infinite.

    Raises:
        TooHardError: there are too many.
    """
    if lags.is_empty():
        return ()
    if not lags.is_bounded():
        return None
    found: list[tuple[int, int]] = []
    for part in convex_parts(lags):
        if part.is_empty():
            continue
        low, high = extent(isl.Set.from_basic_set(part))
        if part.get_local_space().dim(isl.dim_type.div) == 0:
            found.append((low, high))
        elif high - low > 100 * MANY:
            raise TooHardError(f"lags {low} to {high} with gaps", "fewer")
        else:
            isl.Set.from_basic_set(part).foreach_point(lambda p: found.append((_at(p), _at(p))))
    return merged(found)


def extent(lags: isl.Set) -> tuple[int, int]:
    """The least and the largest of a bounded, non-empty set of numbers."""
    return int(lags.dim_min_val(0).to_python()), int(lags.dim_max_val(0).to_python())


def _at(point: isl.Point) -> int:
    return int(point.get_coordinate_val(isl.dim_type.set, 0).to_python())


def added(a: Intervals, b: Intervals) -> Intervals:
    """All sums of an element of `a` and one of `b`, both >= 0.

    >>> added(((0, 4), (16, 16)), ((0, 4), (16, 16)))
    ((0, 8), (16, 20), (32, 32))
    """
    if not a or not b:
        return ()
    if len(a) < len(b):
        a, b = b, a
    if len(a) * len(b) <= 64 or a[-1][1] + b[-1][1] >= DENSE:
        if len(a) * len(b) > 100 * MANY:
            raise TooHardError(f"{len(a)} * {len(b)} intervals of lags", "fewer")
        return merged((x + u, y + v) for x, y in a for u, v in b)
    return from_bits(plus(to_bits(a), b))


def plus(bits: int, parts: Iterable[tuple[int, int]]) -> int:
    """Sums of a one of an integer and an element of intervals, as ones."""
    total = 0
    for low, high in parts:
        total |= spread(bits << low, high - low)
    return total


def to_bits(a: Intervals) -> int:
    """The set as the ones of an integer."""
    bits = 0
    for low, high in a:
        bits |= ((1 << (high - low + 1)) - 1) << low
    return bits


def from_bits(bits: int) -> Intervals:
    """The ones of an integer as intervals.

    >>> from_bits(0b1011)
    ((0, 1), (3, 3))
    """
    if bits.bit_length() > 2 * DENSE:
        raise TooHardError("lags of many bits", "fewer")
    return tuple((run.start(), run.end() - 1) for run in re.finditer("1+", bin(bits)[:1:-1]))


def spread(bits: int, by: int) -> int:
    """The set and all its shifts by 1 .. by."""
    done = 0
    while done < by:
        step = min(done + 1, by - done)
        bits |= bits << step
        done += step
    return bits


@lru_cache(maxsize=512)
def finite_lags(term: Term, regular: int = 1) -> Intervals | None:
    """The lags of n >= regular tokens, behind (> 0) and ahead, where they are all that matters and finitely many.

    Raises:
        TooHardError: isl's operation limit struck.
    """
    with limited(f"the lags of {term!r}", 100_000):
        where = read_set(f"[n] -> {{ : n >= {regular} }}")
        pairs = square(term).intersect_params(where)
        lags = coalesced(lags_of(pairs).project_out(isl.dim_type.param, 0, 1))
        if not lags.is_bounded():
            return None
        if not pairs_at(lags).intersect_params(where).is_subset(pairs):
            return None
        return intervals(lags)


def _finite(term: Term) -> Intervals | None:
    lags = causal_lags(term)
    if lags is None:
        return None
    with limited(f"the lags of {term!r}"):
        return intervals(lags)


def lag_sums(layers: Stack) -> Intervals | isl.Set | None:
    """The lags that the layers connect, for n large enough; None unless all are causal and translation invariant.

    Raises:
        TooHardError: isl's operation limit struck.
    """
    found = [causal_lags(term) for term in layers]
    lags = [x for x in found if x is not None]
    if len(lags) < len(layers):
        return None
    finite = [x for x in map(_finite, layers) if x is not None]
    if len(finite) == len(layers):
        return _summed(dict(zip(layers, finite, strict=True)), layers, added, ((0, 0),))
    with limited(f"the lags of {len(layers)} layers"):
        zero = read_set("{ [d] : d = 0 }")
        return _summed(dict(zip(layers, lags, strict=True)), layers, lambda a, b: coalesced(a.sum(b)), zero)


def _summed(lags: dict[Term, T], layers: Stack, add: Callable[[T, T], T], zero: T) -> T:
    total = zero
    for term, count in Counter(layers).items():
        power = lags[term]
        while count:
            if count & 1:
                total = add(total, power)
            count >>= 1
            if count:
                power = add(power, power)
    return total
