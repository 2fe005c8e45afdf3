"""Schedules whose layers are patterns of a list: which of them connect n tokens, and cost least.

Patterns are of lags alone and look back, so layers may change places: what L layers connect are the sums of one lag of
each, and a schedule is how often it has each pattern. Layer by layer, all ways to go on are kept, but those that have
connected the same lags for no less; where they are too many, those that have connected most for their keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log

from pidsl.analysis.layers.lags import plus
from pidsl.errors import TermError
from pidsl.language.schedule import layers as layers_with
from pidsl.language.terms import Term
from pidsl.studies.numbers import lags_of, runs_of
from pidsl.studies.points import Cost, Point, cost_of, point

KEPT = (256, 8192)  # ways to go on after each layer, at least and at most
LAGS = 1 << 26  # of all of them
PATTERNS = 256  # of a list

Costs = tuple[int, int, int]  # keys, cache and received of some layers


@dataclass(frozen=True, slots=True)
class _Way:
    """Some layers: the lags they connect as bits, what they cost, and which patterns they are, in their order."""

    seen: int
    costs: Costs
    chosen: tuple[int, ...]


def schedules(
    family: str, patterns: Sequence[Term], n: int, layers: int, limits: Mapping[str, int]
) -> tuple[list[Point], str]:
    """Schedules of patterns of a list that connect n tokens, all those that no other is better than among them.

    Args:
        family: its name.
        patterns: what each layer may be.
        n, layers: tokens, and layers.
        limits: of "degree", "keys", "cache", "received" and "depth", the most of each; some or none.

    Returns:
        Points, those that others are better than among them, and a note where not all schedules were looked at.

    Raises:
        TermError: a pattern that looks ahead, or at more than the lag; or too many of them.
    """
    terms = list(dict.fromkeys(patterns))
    for term in terms:
        if lags_of(term, n) is None:
            expected = "patterns of the lag alone, that look back: their layers may change places"
            hint = "a function that gives pidsl.layers([...]), whose schedules are tried one by one"
            raise TermError(f"family {family!r} with {term!r} for a layer", expected, "design(...)", hint)
    each = {term: cost_of(term, n) for term in terms}
    terms = [term for term in terms if each[term].degree <= limits.get("degree", n)]
    if len(terms) > PATTERNS:
        given = f"family {family!r}, a list of {len(terms)} patterns"
        raise TermError(given, f"at most {PATTERNS}", "design(...)", "fewer numbers in the ranges")
    if not terms:
        return [], ""
    costs = [each[term] for term in terms]
    rest = _cheapest(costs, layers)
    whole = (1 << n) - 1
    runs = [runs_of(lags_of(term, n)) for term in terms]  # type: ignore[arg-type]
    most = max(x.degree for x in costs)
    kept = min(KEPT[1], max(KEPT[0], LAGS // n))
    best: list[tuple[int, _Way]] = []  # depth, and layers that connect everything
    ways, cut = [_Way(1, (0, 0, 0), ())], False
    last = min(layers, limits.get("depth", layers))
    for depth in range(1, last + 1):
        found: dict[tuple[int, int], list[_Way]] = {}
        left = last - depth
        for way in ways:
            for k in range(way.chosen[-1] if way.chosen else 0, len(terms)):
                seen = plus(way.seen, runs[k]) & whole
                if seen == 0 or seen.bit_count() * most**left < n:
                    continue
                new = _Way(seen, _with(way.costs, costs[k]), (*way.chosen, k))
                if seen == whole:
                    best.append((depth, new))
                elif left:
                    _keep(found.setdefault((seen, k), []), new)
        ways = [way for each_ in found.values() for way in each_]
        if len(ways) > kept:
            cut = True
            ways = sorted(ways, key=lambda x: (-log(x.seen.bit_count()) / max(1, x.costs[0] - depth), x.costs))[:kept]
    points = []
    for depth, way in _cheap(best):
        for more in rest[layers - depth]:
            schedule = layers_with([terms[k] for k in (*way.chosen, *more.chosen)])
            points.append(point(family, (), schedule, n, layers, depth))
    note = f"not all of its schedules were looked at, but {kept:,} ways to go on after each layer" if cut else ""
    return points, note


def _with(a: Costs, b: Cost) -> Costs:
    return a[0] + b.degree, a[1] + b.cache, a[2] + b.received


def _no_more(a: Costs, b: Costs) -> bool:
    return a[0] <= b[0] and a[1] <= b[1] and a[2] <= b[2]


def _keep(ways: list[_Way], new: _Way) -> None:
    """Add a way to others that have connected the same, unless one of them costs no more."""
    if any(_no_more(way.costs, new.costs) for way in ways):
        return
    ways[:] = [way for way in ways if not _no_more(new.costs, way.costs)]
    ways.append(new)


def _cheap(best: list[tuple[int, _Way]]) -> list[tuple[int, _Way]]:
    """Of layers that connect everything, those that no fewer or cheaper ones replace."""
    kept: list[tuple[int, _Way]] = []
    for depth, way in sorted(best, key=lambda x: (x[0], x[1].costs)):
        if not any(_no_more(other.costs, way.costs) for same, other in kept if same == depth):
            kept.append((depth, way))
    return kept


def _cheapest(costs: Sequence[Cost], layers: int) -> list[list[_Way]]:
    """For each number of layers, those that cost least, whatever they connect."""
    found = [[_Way(0, (0, 0, 0), ())]]
    for _ in range(layers):
        ways: list[_Way] = []
        for way in found[-1]:
            for k in range(way.chosen[-1] if way.chosen else 0, len(costs)):
                _keep(ways, _Way(0, _with(way.costs, costs[k]), (*way.chosen, k)))
        found.append(ways)
    return found
