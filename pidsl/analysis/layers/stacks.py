"""Stacks of layers: which pairs, or which lags, L layers connect.

A stack is a tuple of terms, one per layer, the layer at the input first. Its tokens are 0 .. n - 1 at every level, so
every relation here is square: `[n] -> { [i] -> [j] : 0 <= i, j < n and ... }`.

Where all layers are causal and translation invariant, a path from j to i stays between j and i, so no border is ever
in its way: i sees j exactly when the lag i - j is a sum of lags, one per layer. Then pairs are one-dimensional.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import TypeVar, cast

import islpy as isl

from pidsl.analysis.statements import WHOLE as WHOLE
from pidsl.errors import SizeError, TermError, TooHardError
from pidsl.language.terms import Term, require_concrete
from pidsl.relation.build import relation
from pidsl.relation.isl import coalesced, convex_parts, limited, read_map, read_set

Stack = tuple[Term, ...]
Subject = Term | Stack  # one term for all layers, or a term per layer
T = TypeVar("T")

SOON = 20_000  # operations for one key of each query
PARTS = 400
OPERATIONS = 1_000_000  # for composing the layers


def number(value: object, name: str, least: int = 0) -> int:
    """`value` as an integer >= least.

    Raises:
        SizeError: it is none.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__") or int(value.__index__()) < least:
        raise SizeError(f"{name} = {value!r}", f"an integer >= {least}")
    return int(value.__index__())


def checked(subject: object) -> Subject:
    """A term or a tuple of terms, all concrete.

    Raises:
        TermError: it is neither, or there is no term in it.
        SymbolError: a term holds unbound symbols.
    """
    single = isinstance(subject, Term)
    items = (subject,) if single else tuple(subject) if isinstance(subject, Iterable) else ()
    if not items or not all(isinstance(x, Term) for x in items):
        raise TermError(f"{subject!r}", "a term, or a term per layer, the layer at the input first")
    terms = cast(Stack, items)
    for term in terms:
        require_concrete(term, "follow it through layers")
    return terms[0] if single else terms


def stack(subject: Subject, layers: int | None) -> Stack:
    """The terms of so many layers; a schedule begins again after its last layer. None: each layer of it once.

    Raises:
        SizeError: `layers` is negative, no integer, or enormous.
    """
    schedule = subject if isinstance(subject, tuple) else (subject,)
    if layers is None:
        return schedule
    count = number(layers, "layers")
    if count > WHOLE:
        raise SizeError(f"layers = {count}", f"at most {WHOLE}", hint="layers=None for a formula in L")
    return tuple(schedule[k % len(schedule)] for k in range(count))


@lru_cache(maxsize=512)
def square(term: Term) -> isl.Map:
    """The relation between n tokens.

    Raises:
        TooHardError: isl's operation limit struck.
    """
    whole = relation(term)
    with limited(f"the relation of {term!r}"):
        same = whole.intersect_params(read_set("[n, m] -> { : n = m }"))
        return coalesced(same.project_out(isl.dim_type.param, 1, 1))


DIAGONAL = "[n] -> { [i] -> [i] : 0 <= i < n }"


def connected(layers: Stack) -> isl.Map:
    """The pairs that the layers connect: `(i, j)` when j at the input reaches i after the last layer.

    Raises:
        TooHardError: isl's operation limit struck.
    """
    if not layers:
        return read_map(DIAGONAL)
    with limited(f"the pairs of {len(layers)} layers", OPERATIONS):
        return _connected(layers)


@lru_cache(maxsize=512)
def _connected(layers: Stack) -> isl.Map:
    if len(layers) == 1:
        return square(layers[0])
    half = len(layers) // 2  # equal halves are found in the cache: L layers of one term take log2 L products
    last, first = _connected(layers[half:]), _connected(layers[:half])
    seen = last.apply_range(first)
    if len(set(layers)) == 1 and _same(seen, first):  # more layers change nothing: keep what isl can handle
        return first
    if seen.n_basic_map() > PARTS:  # joining parts takes time that isl does not count
        raise TooHardError(f"pairs of {len(layers)} layers in {seen.n_basic_map()} parts", f"at most {PARTS}")
    return coalesced(seen)


def _same(a: isl.Map, b: isl.Map) -> bool:
    """Whether two maps are seen to be equal with little work."""
    try:
        with limited("whether one more layer adds anything", 20_000):
            return bool(a.is_equal(b))
    except TooHardError:
        return False


def lags_of(pairs: isl.Map) -> isl.Set:
    """The lags i - j of pairs."""
    return pairs.reverse().deltas()


def long_lags_of(pairs: isl.Map) -> isl.Set:
    """Lags with the largest of all: of each query to its first key, where isl tells these soon."""
    try:
        with limited("the first key of each query", SOON):
            return lags_of(pairs.lexmin())
    except TooHardError:
        return lags_of(pairs)


def missing_lags_of(pairs: isl.Map) -> isl.Set:
    """Lags >= 0 of missing pairs, with the smallest: of each query to the nearest key that it lacks, as above."""
    missing = past() - pairs
    try:
        with limited("the nearest key that each query lacks", SOON):
            return lags_of(missing.lexmax())
    except TooHardError:
        return lags_of(missing)


def past() -> isl.Map:
    """Every token and its predecessors."""
    return read_map("[n] -> { [i] -> [j] : 0 <= j <= i < n }")


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


# -- finite sets of lags -----------------------------------------------------------------------------------------------

Intervals = tuple[tuple[int, int], ...]  # disjoint, ascending, both ends included, none touching the next
DENSE = 1 << 22  # sets with a largest element below this are added as bits of one integer
MANY = 40_000  # intervals


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


def merged(parts: Iterable[tuple[int, int]]) -> Intervals:
    """Any intervals, sorted and joined.

    >>> merged([(5, 6), (0, 1), (2, 2)])
    ((0, 2), (5, 6))
    """
    out: list[tuple[int, int]] = []
    for low, high in sorted(parts):
        if out and low <= out[-1][1] + 1:
            out[-1] = (out[-1][0], max(out[-1][1], high))
        else:
            out.append((low, high))
    if len(out) > MANY:
        raise TooHardError(f"{len(out)} intervals of lags", f"at most {MANY}")
    return tuple(out)


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
    bits, total = to_bits(a), 0
    for u, v in b:
        total |= spread(bits, v - u) << u
    return from_bits(total)


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
        if lags.is_empty() or not lags.is_bounded():
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


def attempt(action: Callable[[], T]) -> T | TooHardError:
    """What an action gives, or why isl could not."""
    try:
        return action()
    except TooHardError as e:
        return e
    except isl.Error as e:  # an assertion of isl's own
        return TooHardError(f"isl failed: {e}".splitlines()[0], "an answer")
