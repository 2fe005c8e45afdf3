"""Which move each part of a pattern takes, and which rank holds which token: the one that moves the fewest bytes.

What counts is the busiest rank: the bytes that it gets, or sends if these are more; of exchanges that wait for each
other, as results wait for queries, all together. Backward is the same exchange the other way round, so what is cheapest
forward is cheapest backward.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from pidsl.distributed.planning.sets import Side
from pidsl.distributed.planning.tables import held_by, table_of
from pidsl.distributed.planning.volumes import COUNTED, rows
from pidsl.distributed.tokens.parts import Part, parts
from pidsl.distributed.tokens.placement import Move, Placement
from pidsl.distributed.tokens.runs import Ints, total
from pidsl.distributed.tokens.shards import Shards
from pidsl.errors import TooHardError
from pidsl.language.chosen import possible
from pidsl.language.terms import Term, is_chosen

PERIODS = 4  # of residue classes that are tried, the largest first
NEARLY = 0.9  # of the tokens elsewhere: from there on keys are gathered


@dataclass(frozen=True, slots=True)
class Widths:
    """Bytes of a row of all heads that a part is for.

    Args:
        keys: a row of k and one of v.
        queries: a row of q.
        results: a row of out, and its lse.
    """

    keys: int
    queries: int
    results: int


@dataclass(frozen=True, slots=True)
class Option:
    """A way to place a part.

    Args:
        placement: the way.
        bytes: that the busiest rank gets or sends, forward; None where that is not known.
        cost: the same, counted for each exchange that waits for another.
    """

    placement: Placement
    bytes: int | None
    cost: int = 0

    @property
    def name(self) -> str:
        """halo, gather, re-shard, queries (they move); nothing, where nothing does."""
        if self.bytes == 0:
            return "nothing"
        if self.placement.move == "queries":
            return "queries"
        if self.placement.layout != self.placement.home:
            return "re-shard"
        return "halo" if self.bytes is not None and self.share < NEARLY else "gather"

    @property
    def share(self) -> float:
        """How many of the keys elsewhere the rank gets that gets most."""
        home = self.placement.home
        most = int(rows(home, ((self.placement, "keys"),)).received.max())
        return most / max(1, home.n - home.rows(0))


@dataclass(frozen=True, slots=True)
class Choice:
    """The way that a part is placed, and the ways that it could have been.

    Args:
        part: the pairs.
        chosen: the cheapest way.
        others: the other ways, the cheapest first.
    """

    part: Term
    chosen: Option
    others: tuple[Option, ...]


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes that a placement moves, forward: int64 [ranks] each; `cost` as in `Option`."""

    received: Ints
    sent: Ints
    cost: int

    @property
    def busiest(self) -> int:
        """What the busiest rank gets, or sends if that is more."""
        return int(max(self.received.max(), self.sent.max()))


def traffic(placement: Placement, widths: Widths) -> Traffic:
    """What a placement moves by itself.

    Raises:
        TooHardError: it cannot be counted.
    """
    home = placement.home
    keys, queries = rows(home, ((placement, "keys"),)), rows(home, ((placement, "queries"),))
    first = [getattr(keys, x) * widths.keys + getattr(queries, x) * widths.queries for x in ("received", "sent")]
    back = [queries.sent * widths.results, queries.received * widths.results]
    cost = sum(max(int(x.max()) for x in exchange) for exchange in (first, back))
    return Traffic(first[0] + back[0], first[1] + back[1], cost)


def choose(term: Term, home: Shards, widths: Widths) -> tuple[Choice, ...]:
    """How each part of a pattern is placed; as one, where cutting it saves nothing.

    Raises:
        TooHardError: what a part moves cannot be counted in any way.
    """
    if is_chosen(term):  # what calls list is known where the queries are
        return (_choose(possible(term), home, widths, [("keys", home, home)]),)
    found = tuple(_choose(part.term, home, widths, _ways(part, home)) for part in parts(term))
    if len(found) == 1:
        return found
    whole = Placement(term, "keys", home, home)
    apart = sum(x.chosen.cost for x in found)
    with suppress(TooHardError):
        if is_closed(whole) or _least(whole, widths) <= apart:
            together = _choose(term, home, widths, [("keys", home, home)])
            if together.chosen.cost <= apart:
                return (together,)
    return found


def _choose(part: Term, home: Shards, widths: Widths, ways: Iterable[tuple[Move, Shards, Shards]]) -> Choice:
    """The cheapest way; those that are hard to count are counted where what one rank needs does not rule them out."""
    placements = [Placement(part, *way) for way in ways]
    known: list[Option] = []
    unknown: list[Option] = []
    for closed in (True, False):
        for placement in placements:
            if is_closed(placement) != closed:
                continue
            best = min((x.cost for x in known), default=None)
            try:
                if best is None or _least(placement, widths) < best:
                    found = traffic(placement, widths)
                    known.append(Option(placement, found.busiest, found.cost))
                elif not closed:
                    unknown.append(Option(placement, None))
            except TooHardError:
                unknown.append(Option(placement, None))
    if not known:
        raise TooHardError(f"what {part!r} moves between {home.ranks} ranks", "fewer tokens, or a simpler pattern")
    known.sort(key=lambda x: x.cost)
    return Choice(part, known[0], (*known[1:], *unknown))


def at_least(term: Term, home: Shards, widths: Widths) -> int:
    """Bytes that a pattern moves at least, from what one rank needs.

    Raises:
        TooHardError: that cannot be said.
    """
    if is_chosen(term):
        return 0
    ways = ([Placement(part.term, *way) for way in _ways(part, home)] for part in parts(term))
    return sum(min(_least(placement, widths) for placement in own) for own in ways)


def _least(placement: Placement, widths: Widths) -> int:
    """Bytes that a placement moves at least: of queries where all of a layout move, else of a rank in the middle."""
    home, moved = placement.home, rows(placement.home, ((placement, "queries"),))
    if placement.layout != home:
        return int(max(moved.received.max(), moved.sent.max())) * max(widths.queries, widths.results)
    if home.n > COUNTED:
        return 0
    rank = home.ranks // 2
    needed = placement.keys(rank) if placement.move == "keys" else placement.queries(rank)
    own = table_of([*((),) * rank, needed])
    away = total(needed) - int(held_by(home, own.rank, own).sum())
    return away * (widths.keys if placement.move == "keys" else widths.queries)


def is_closed(placement: Placement) -> bool:
    """Whether what a placement moves has a closed form."""
    sides: tuple[Side, ...] = ("keys", "queries")
    return all(rows(placement.home, ((placement, side),)).is_closed for side in sides)


def _ways(part: Part, home: Shards) -> Iterator[tuple[Move, Shards, Shards]]:
    """Moves and layouts, those first that need least to be prepared."""
    yield "keys", home, home
    yield "queries", home, home
    layouts = candidates([part], home.n, home.ranks)
    yield from (("keys", home, x) for x in layouts if x != home and (x.kind == "classes" or home.kind == "classes"))


def candidates(found: Iterable[Part], n: int, ranks: int) -> list[Shards]:
    """Shardings worth a try: in order, zigzag, and the residue classes that make parts local."""
    periods = {part.period for part in found if 1 < part.period <= n}
    enough = sorted({p if p >= ranks else p * -(-ranks // p) for p in periods}, reverse=True)
    return [Shards(n, ranks), Shards(n, ranks, "zigzag"), *(Shards(n, ranks, "classes", p) for p in enough[:PERIODS])]
