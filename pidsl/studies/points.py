"""What a pattern costs in four numbers, each with its proof, and which patterns no other is better than in all four.

    keys        keys of the query with the most, summed over the layers
    cache       keys that decoding keeps after token n - 1, summed over the layers
    received    keys that a rank with consecutive tokens gets from others, summed over the layers: at most
    depth       layers after which every pair is connected

A key here is a row of k and v: of H key heads of D elements of 2 bytes each it is 4 H D bytes. Where the sizes of a
model are told, points have the bytes of their cache; and where ranks are, the bytes that those exchange take the place
of the keys received.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

from pidsl.analysis import questions as ask
from pidsl.analysis.bound import Bound, asking
from pidsl.analysis.layers.lags import causal_lags, extent
from pidsl.errors import PidslError, SizeError, TooHardError
from pidsl.language.schedule import Schedule
from pidsl.language.terms import Term, is_chosen, of_lags_alone
from pidsl.studies.members import Pattern
from pidsl.studies.model import IN_BYTES, Sizes, checked_sizes
from pidsl.studies.numbers import cost_at, layers_of, surely
from pidsl.studies.recount import counted, moved

MEASURES: dict[str, str] = {
    "keys": "keys per query, all layers",
    "cache": "KV keys",
    "received": "received",
    "depth": "depth",
}
LIMITS = ("degree", *MEASURES, *IN_BYTES)  # of a budget


@dataclass(frozen=True)
class Cost:
    """Of one layer at n tokens: pairs, keys of the query with the most, keys kept, keys received; "==" or "<=" each."""

    pairs: int
    degree: int
    cache: int
    received: int
    relations: tuple[tuple[str, str], ...] = ()


@lru_cache(maxsize=1 << 14)
def cost_of(term: Term, n: int) -> Cost:
    """What a layer costs at n tokens.

    Raises:
        TooHardError: a number of them is not known, or known from below only.
    """
    pairs, degree = cost_at(term, n)
    lags = causal_lags(term) if of_lags_alone(term) else None
    if lags is not None:  # key j is asked for later, and by a rank that begins after it, while some lag reaches it
        if lags.is_empty():
            return Cost(pairs, degree, 0, 0)
        most = extent(lags)[1] if lags.is_bounded() else n
        return Cost(pairs, degree, min(most, n), min(most, n - 1))
    most_of = {"cache": ask.live(term), "received": ask.received(term)}
    found = {name: _at_most(bound, n) for name, bound in most_of.items()}
    inexact = tuple((name, "<=") for name, bound in most_of.items() if name == "cache" and not bound.is_exact)
    chosen = (("keys", "<="),) if is_chosen(term) else ()
    return Cost(pairs, degree, found["cache"], found["received"], (*inexact, *chosen))


def _at_most(bound: Bound, n: int) -> int:
    """The number at n of a bound that says it, or how much it is at most.

    Raises:
        TooHardError: it says neither.
    """
    if bound.relation not in ("==", "<="):
        raise TooHardError(f"{bound.name} of {bound.shown_subject}", "a number that it is at most", hint=bound.reason)
    try:
        return int(bound(t=n - 1) if bound.quantity == "live keys" else bound(n=n))
    except SizeError as e:
        raise TooHardError(f"{bound.name} of {bound.shown_subject} at n = {n}", "a number that it is at most") from e


@dataclass(frozen=True)
class Point:
    """A pattern that connects n tokens, and what it costs.

    Args:
        family: its name.
        parameters: the sizes that make it; of a schedule of patterns of a list, none.
        pattern: a term for every layer, or a schedule.
        n: tokens.
        layers: how many there are; a schedule begins again after its last.
        pairs: attended pairs of all layers together.
        degree: keys of the query with the most, in any layer.
        keys: the same of each layer, summed over the layers.
        cache: keys that decoding keeps after token n - 1, summed over the layers.
        received: keys that a rank with consecutive tokens gets from others, summed over the layers: at most.
        depth: layers after which all tokens are connected.
        relations: of numbers that are no exact ones, "<=".
        sizes: of a model; None: what a key is in bytes is not told.
        exchange_bytes: that the busiest rank gets, or sends if that is more, of all layers and one sequence, forward;
            the same backward. By `pidsl.distributed.plan`, exact; None where ranks are not told.
    """

    family: str
    parameters: tuple[tuple[str, int], ...]
    pattern: Pattern
    n: int
    layers: int
    pairs: int
    degree: int
    keys: int
    cache: int
    received: int
    depth: int
    relations: Mapping[str, str] = field(default_factory=dict, compare=False)
    sizes: Sizes | None = None
    exchange_bytes: int | None = None

    @property
    def measures(self) -> tuple[int, ...]:
        """Keys, cache, received and depth; the bytes exchanged, where those are known, in the place of received."""
        moved = self.received if self.exchange_bytes is None else self.exchange_bytes
        return self.keys, self.cache, moved, self.depth

    @property
    def cache_bytes(self) -> int | None:
        """Bytes that decoding keeps of one sequence, of all layers; None where sizes are not told."""
        return None if self.sizes is None else self.cache * self.sizes.key

    @cached_property
    def bounds(self) -> Mapping[str, tuple[Bound, ...]]:
        """The bounds behind the numbers, with their proofs: "cache" and "received" of each layer, and "depth"."""
        terms = self.terms
        return {
            "cache": tuple(map(ask.live, terms)),
            "received": tuple(map(ask.received, terms)),
            "depth": (ask.depth(surely(self.pattern), self.n),),
        }

    @property
    def proof(self) -> Point:
        """The point as its own proof: `point.proof.check()`."""
        return self

    def check(self) -> bool:
        """Verify every number, by nothing that found it.

        Keys and pairs are counted in masks, of many tokens by formulas that are proved where a pattern looks at more
        than the lag. Cache, received and depth are proved: that the bounds are about this pattern, that each is
        proved, and that at n they say what is said here. Bytes exchanged are counted rank by rank, from the mask of
        each part of the plan; False where that takes more than 2**14 tokens of a pattern of more than the lag.
        """
        try:
            return self._is_proved()
        except PidslError:
            return False

    def _is_proved(self) -> bool:
        terms, bounds = self.terms, self.bounds
        certain = surely(self.pattern)
        subject = certain.unions if isinstance(certain, Schedule) else certain
        (deep,) = bounds["depth"]
        asked = (deep.question.subject, deep.question.quantity)
        if asked != (subject, "depth") or not deep.is_exact or deep(n=self.n) != self.depth:
            return False
        for name, quantity in (("cache", "live keys"), ("received", "received keys")):
            each = bounds[name]
            if [bound.question for bound in each] != [asking(term, quantity) for term in terms]:
                return False
            said = self.relations.get(name, "<=" if name == "received" else "==")
            if said == "==" and not all(bound.is_exact for bound in each):
                return False
            if sum(_at_most(bound, self.n) for bound in each) != getattr(self, name):
                return False
        found = {term: counted(term, self.n) for term in dict.fromkeys(terms)}
        pairs, keys = (sum(found[term][k] for term in terms) for k in (0, 1))
        degree = max(found[term][1] for term in terms)
        if (pairs, keys, degree) != (self.pairs, self.keys, self.degree):
            return False
        if self.exchange_bytes is not None and self.exchange_bytes != self._recounted_exchange():
            return False
        distinct = {id(bound): bound for each in bounds.values() for bound in each}
        return all(bound.proof.check() for bound in distinct.values())

    def _recounted_exchange(self) -> int | None:
        return None if self.sizes is None else moved(self.terms, self.n, self.sizes)

    @property
    def terms(self) -> tuple[Term, ...]:
        """The pattern of each layer."""
        return layers_of(self.pattern, self.n, self.layers)

    def bytes(
        self, kv_heads: int = 1, head_dim: int = 64, value_dim: int | None = None, dtype: str = "bf16"
    ) -> tuple[int, int]:
        """Bytes of the cache and bytes received, for one sequence.

        >>> import pidsl
        >>> pidsl.design(4096, 6).front.points[0].bytes(kv_heads=8, head_dim=128)
        (16773120, 16773120)

        Args:
            kv_heads: key heads.
            head_dim: elements of a row of q and k.
            value_dim: of v; default: `head_dim`.
            dtype: of k and v.

        Raises:
            SizeError: a number of elements or heads below 1.
            ArgumentError: an unknown dtype.
        """
        given = {"kv_heads": kv_heads, "head_dim": head_dim, "value_dim": value_dim, "dtype": dtype}
        sizes = checked_sizes(given, {}, "bytes(...)")
        assert sizes is not None
        return self.cache * sizes.key, self.received * sizes.key

    def shown(self, measure: str) -> str:
        """A number as text, with "<=" where it is a bound only."""
        of = measure.removesuffix("_bytes")  # exchange is exact
        relation = self.relations.get(of, "<=" if of == "received" else "==")
        return f"{'' if relation == '==' else '<= '}{getattr(self, measure):,}"


def point(
    family: str, parameters: tuple[tuple[str, int], ...], pattern: Pattern, n: int, layers: int, depth: int
) -> Point:
    """A pattern of which the depth is known, with what it costs.

    Raises:
        TooHardError: a number is not known.
    """
    each = [cost_of(term, n) for term in layers_of(pattern, n, layers)]
    total = {name: sum(getattr(x, name) for x in each) for name in ("pairs", "cache", "received")}
    keys, relations = sum(x.degree for x in each), dict(found for x in each for found in x.relations)
    return Point(family, parameters, pattern, n, layers, degree=max(x.degree for x in each), keys=keys, depth=depth,
                 relations=relations, **total)  # fmt: skip


def planned(x: Point) -> Point:
    """A point with the bytes that ranks exchange.

    Raises:
        TooHardError: what moves cannot be counted.
    """
    return x if x.sizes is None else replace(x, exchange_bytes=x.sizes.plan(x.terms, x.n).busiest)


def within_budget(x: Point, budget: Mapping[str, int]) -> bool:
    """Whether no number is larger than the budget's, and all of them are known."""
    known = ((getattr(x, name), most) for name, most in budget.items())
    return all(number is not None and number <= most for number, most in known)


def undominated(points: Iterable[Point]) -> tuple[Point, ...]:
    """Those that no other is better than: the fewest keys first; of points with equal numbers, the first.

    One is better than another when no number of it is larger, and one is smaller.
    """
    found: list[Point] = []
    for x in sorted(points, key=lambda x: x.measures):
        if not any(all(a <= b for a, b in zip(y.measures, x.measures, strict=True)) for y in found):
            found.append(x)
    return tuple(found)
