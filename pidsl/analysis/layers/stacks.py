"""Stacks of layers: which pairs, or which lags, L layers connect.

A stack is a tuple of terms, one per layer, the layer at the input first. Its tokens are 0 .. n - 1 at every level, so
every relation here is square: `[n] -> { [i] -> [j] : 0 <= i, j < n and ... }`.

Relations are composed by halves, and remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, TypeVar, cast

import islpy as isl

from pidsl.analysis.statements import WHOLE as WHOLE
from pidsl.errors import SizeError, TermError, TooHardError
from pidsl.language.terms import Term, require_concrete
from pidsl.relation.build import relation
from pidsl.relation.isl import coalesced, limited, read_map, read_set

Stack = tuple[Term, ...]
Subject = Term | Stack  # one term for all layers, or a term per layer
T = TypeVar("T")

PARTS = 400
WIDE = 16  # constraints of a part of pairs
OPERATIONS = 1_000_000  # for composing the layers


def number(value: Any, name: str, least: int = 0, where: str = "") -> int:
    """`value` as an integer >= least.

    Raises:
        SizeError: it is none.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__") or int(value.__index__()) < least:
        raise SizeError(f"{name} = {value!r}", f"an integer >= {least}", where)
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


def diagonal() -> isl.Map:
    """Every token and itself: what no layer connects."""
    return read_map("[n] -> { [i] -> [i] : 0 <= i < n }")


def target_map(of: str | None) -> isl.Map:
    """The pairs that depth is about: "causal", every token and its predecessors, or all."""
    return read_map(f"[n] -> {{ [i] -> [j] : 0 <= i < n and 0 <= j < n {'and j <= i' if of == 'causal' else ''} }}")


def connected(layers: Stack) -> isl.Map:
    """The pairs that the layers connect: `(i, j)` when j at the input reaches i after the last layer.

    Raises:
        TooHardError: isl's operation limit struck.
    """
    if not layers:
        return diagonal()
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


def by_width(operations: int, pairs: isl.Map) -> int:
    """So many of isl's operations; fewer where pairs have many constraints each: those take longer, and seldom end."""
    parts = pairs.get_basic_maps()
    return int(operations * min(1.0, WIDE * len(parts) / max(1, sum(part.n_constraint() for part in parts))) ** 3)


def lags_of(pairs: isl.Map) -> isl.Set:
    """The lags i - j of pairs."""
    return pairs.reverse().deltas()


def attempt(action: Callable[[], T]) -> T | TooHardError:
    """What an action gives, or why isl could not."""
    try:
        return action()
    except TooHardError as e:
        return e
    except isl.Error as e:  # an assertion of isl's own
        return TooHardError(f"isl failed: {e}".splitlines()[0], "an answer")
