"""Families of patterns that callers have: a function of parameters or a term with symbols, and ranges for them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any, TypeAlias

from pidsl.analysis.schedules import BaseSchedule
from pidsl.errors import PidslError, SizeError, SymbolError, TermError
from pidsl.language.schedule import Schedule
from pidsl.language.terms import Term

Pattern: TypeAlias = Term | Schedule | BaseSchedule
Family: TypeAlias = Callable[..., Pattern | None] | Pattern
Range: TypeAlias = tuple[int, int] | range | Iterable[int]
Ranges: TypeAlias = Mapping[Any, Range]

MOST = 4096  # members of a family
RANGE = "(low, high), both included, or a list of integers"


@dataclass(frozen=True)
class Member:
    """A pattern of a family, and the numbers that make it."""

    values: tuple[tuple[str, int], ...]
    pattern: Pattern

    def __str__(self) -> str:
        return ", ".join(f"{name} = {value}" for name, value in self.values)


def is_family(x: object) -> bool:
    """Whether ranges are needed to make patterns of it."""
    return bool(getattr(x, "symbols", ())) or (callable(x) and not isinstance(x, Pattern))


def require_pattern(x: object, where: str) -> None:
    """It is something of which pairs and layers can be counted, of one head.

    Raises:
        TermError: it is not.
    """
    if not isinstance(x, Pattern):
        raise TermError(f"{x!r} ({type(x).__name__})", "a pattern or a schedule", where)
    if isinstance(x, Schedule) and x.unions != x.terms:
        expected = "a schedule of patterns: what is counted here is of one head"
        raise TermError(f"{x!r}", expected, where, "layers(pattern.unions), what any head attends")


def numbers(ranges: Ranges | None, where: str) -> dict[str, tuple[int, ...]]:
    """The numbers of each parameter, by its name: a pair is all from low to high, else they are told one by one.

    Raises:
        SizeError: no numbers, or what is none.
    """
    if ranges is not None and not isinstance(ranges, Mapping):
        raise SizeError(f"ranges = {ranges!r}", "a range for each parameter", where, 'ranges={"k": (16, 256)}')
    found: dict[str, tuple[int, ...]] = {}
    for name, given in (ranges or {}).items():
        told = given if isinstance(given, Iterable) and not isinstance(given, str | bytes) else ()
        values = tuple(told)
        if not values or any(isinstance(v, bool) or not hasattr(v, "__index__") for v in values):
            raise SizeError(f"{name}: {given!r}", RANGE, where)
        if isinstance(given, tuple) and len(values) == 2:
            low, high = values
            if low > high:
                raise SizeError(f"{name}: {given!r}", f"{RANGE}, with low <= high", where)
            values = tuple(range(low, high + 1))
        found[str(name)] = tuple(dict.fromkeys(int(v) for v in values))
    return found


def parameters(family: Family, where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of what a family must be given, and of what it may be given.

    Raises:
        TermError: a function whose parameters have no names of their own, or no family.
    """
    if isinstance(family, Pattern):
        return tuple(sorted(family.symbols)), ()
    if not callable(family):
        expected = "a function that gives a pattern, or a term with symbols"
        raise TermError(f"{family!r} ({type(family).__name__})", expected, where)
    try:
        found = inspect.signature(family).parameters.values()
    except (TypeError, ValueError):
        found = ()  # type: ignore[assignment]
    if not found or any(p.kind not in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) for p in found):
        raise TermError(f"{family!r}", "a function of parameters with names, such as lambda w, s: ...", where)
    return tuple(p.name for p in found if p.default is p.empty), tuple(
        p.name for p in found if p.default is not p.empty
    )


def members(family: Family, ranges: Ranges | None, where: str, most: int = MOST) -> Iterator[Member]:
    """Every pattern of a family.

    >>> from pidsl import lags, window
    >>> [str(x.pattern) for x in members(lambda w, s: window(w) | lags(s), {"w": (1, 2), "s": [8, 16]}, "design(...)")]
    ['window(1) | lags(8)', 'window(1) | lags(16)', 'window(2) | lags(8)', 'window(2) | lags(16)']

    Args:
        family: a function that gives a pattern, or None where there is none for these numbers; or a term with symbols.
        ranges: for each parameter (low, high), both included, or its integers one by one.
        where: who asks.
        most: members there may be.

    Raises:
        TermError: what is no family, or a function that gives something else.
        SymbolError: a parameter without a range.
        SizeError: a range without integers, or too many members; a size that is refused, with the numbers that make it.
    """
    required, optional = parameters(family, where)
    told = numbers(ranges, where)
    for name in required:
        if name not in told:
            hint = f'ranges={{"{name}": (1, 64)}}'
            raise SymbolError(f"no range for {name}", "a range for every parameter of a family", where, hint)
    names = [name for name in (*required, *optional) if name in told]
    if (many := prod(len(told[name]) for name in names)) > most:
        widest = max(names, key=lambda name: len(told[name]))
        low, high = min(told[widest]), max(told[widest])
        hint = f'fewer numbers, such as ranges={{"{widest}": range({low}, {high}, 16)}}'
        raise SizeError(f"a family of {many:,} members", f"at most {most:,}", where, hint)
    for values in product(*(told[name] for name in names)):
        at = dict(zip(names, values, strict=True))
        here = f"{where}, {', '.join(f'{name} = {value}' for name, value in at.items())}"
        try:
            pattern: Any = family.bind(**at) if isinstance(family, Pattern) else family(**at)
        except PidslError as e:
            raise type(e)(e.given, e.expected, here, e.hint) from e
        if pattern is None:
            continue
        require_pattern(pattern, here)
        if pattern.symbols:
            raise SymbolError(f"{pattern!r} with {', '.join(sorted(pattern.symbols))}", "numbers for its symbols", here)
        yield Member(tuple(at.items()), pattern)


def require_used(families: Iterable[Family], ranges: Ranges | None, where: str) -> None:
    """Every range is one of some family.

    Raises:
        SymbolError: a range for what no family has.
    """
    numbers(ranges, where)
    known = {name for family in families for names in parameters(family, where) for name in names}
    for name in ranges or {}:
        if str(name) not in known:
            expected = f"ranges for {', '.join(sorted(known))}" if known else "no ranges: nothing here has parameters"
            raise SymbolError(f"a range for {name}", expected, where)
