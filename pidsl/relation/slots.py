"""Slots of a derived cache: a closed function of the position at which every key lies that may still be asked for.

    slot(p) = p                                        for p < prefix
    slot(p) = base + (x * many + rank) % size          after that, with x, c = divmod(p - prefix, period)
                                                       and base, many, rank, size = rooms[c]

Residue classes with equal lives (`lives`) share a ring of as many slots as keys of theirs may be live at once; classes
that live for ever share a region at the end, so that it can grow and nothing else moves. Of several such functions
(prefixes, and periods that divide that of the lives) the one with the fewest slots is taken that isl proves.

The proof reads the numbers, not where they come from. After `furthest` tokens the rows from position
`furthest - 1 - lookahead` on may still ask. Key p is live as long as `furthest <= p + life + 1 + lookahead`, and the
key at q is written when `furthest` becomes q + 1. So no two live keys share a slot, and no live key is lost, for all
times, if (1) no query asks for a key after its life, and (2) of no two keys with one slot is the later one, q, written
while the earlier one, p, is live: `p < q <= p + life(p) + lookahead`.
Positions are below 2**31, and so a size of `GROWS` means a room without an end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import islpy as isl
import numpy as np

from pidsl.errors import TooHardError
from pidsl.language.terms import Term
from pidsl.relation.isl import limited, read_set
from pidsl.relation.lives import FOREVER, Lives, Run, lives, outlived, runs
from pidsl.relation.pieces import Ints

GROWS = FOREVER
TRIES = 24  # functions that are given to isl, a few milliseconds each
OPERATIONS = 4_000_000  # of isl, for the proof of one


class Room(NamedTuple):
    """Where the keys of a residue class lie, and how long each is live."""

    base: int
    many: int
    rank: int
    size: int
    life: int


@dataclass(frozen=True, slots=True)
class SlotFunction:
    """A slot for each position.

    Args:
        terms: the patterns that ask for keys.
        lookahead: by how many tokens rows may lie behind the last one.
        prefix: positions that have their own slots.
        rooms: of position `prefix + c + len(rooms) * x`.
    """

    terms: tuple[Term, ...]
    lookahead: int
    prefix: int
    rooms: tuple[Room, ...]

    def __call__(self, positions: Ints) -> Ints:
        """The slot of each position."""
        x, c = np.divmod(positions - self.prefix, len(self.rooms))
        base, many, rank, size, _ = np.array(self.rooms, dtype=np.int64)[c].T
        return np.where(positions < self.prefix, positions, base + (x * many + rank) % size)

    @property
    def lives(self) -> Lives:
        """How long the cache takes each key to be asked for; those before the prefix for ever."""
        return Lives((FOREVER,) * self.prefix, tuple(room.life for room in self.rooms))

    @property
    def bounded(self) -> bool:
        """Whether there is a number of slots that is enough for any number of tokens."""
        return all(room.size != GROWS for room in self.rooms)

    @property
    def fixed(self) -> int:
        """The slots before those that grow."""
        written = [room for room in self.rooms if self.writes(room)]
        return max([self.prefix, *(x.base if x.size == GROWS else x.base + x.size for x in written)])

    def width(self, tokens: int) -> int:
        """The slots that so many tokens need."""
        if tokens <= self.prefix:
            return tokens
        width = self.prefix
        for c, room in enumerate(self.rooms):
            if self.writes(room):
                keys = len(range(self.prefix + c, tokens, len(self.rooms)))
                top = (keys - 1) * room.many + room.rank + 1 if keys else 0
                width = max(width, room.base + min(room.size, top))
        return width

    def writes(self, room: Room) -> bool:
        """Whether anything ever asks for a key of this class."""
        return room.life >= -self.lookahead

    @property
    def proof(self) -> SlotProof:
        """That no two live keys share a slot and none is lost; `proof.check()` decides it."""
        return SlotProof(self)


@dataclass(frozen=True, slots=True)
class SlotProof:
    """The proof of a slot function.

    Attributes:
        statement: the function, with the patterns.
    """

    statement: SlotFunction
    summary = "isl: no query asks for a key after its life, and no key is written over another one that still lives"

    def check(self) -> bool:
        """Decide it from nothing but the terms and the numbers; what isl cannot decide soon does not hold."""
        return not self.failure()

    def failure(self) -> str:
        """The first thing that does not hold, "" if all does."""
        f = self.statement
        try:
            return malformed(f) or outlived(f.terms, f.lives) or collision(f)
        except TooHardError as e:
            return str(e)


def malformed(f: SlotFunction) -> str:
    """Why the numbers are no slot function."""
    if f.prefix < 0 or f.lookahead < 0 or not f.rooms or not f.terms:
        return f"prefix {f.prefix}, lookahead {f.lookahead}, {len(f.rooms)} classes, {len(f.terms)} patterns"
    for c, room in enumerate(f.rooms):
        if room.base < 0 or room.size < 1 or room.many < 0 or room.rank < 0:
            return f"class {c} has {room}"
    return ""


class _Piece(NamedTuple):
    """Positions and their slots, as isl reads them."""

    where: str  # of position {v}, with {v}x, {v}k that exist
    slot: str
    life: str
    least: int
    most: int  # slot


def collision(f: SlotFunction) -> str:
    """Two positions of which the later is written over the earlier while that is live, "" if there are none.

    Raises:
        TooHardError: isl's operation limit struck.
    """
    pieces = list(_pieces(f))
    with limited(f"whether live keys of {f.terms} share a slot", OPERATIONS):
        for a in pieces:
            for b in pieces:
                if a.most < b.least or b.most < a.least:
                    continue
                later = "p < q" if not a.life else f"p < q <= p + {a.life.format(v='p')} + {f.lookahead}"
                found = read_set(
                    f"{{ [p, q] : exists px, pk, qx, qk: {a.where.format(v='p')} and {b.where.format(v='q')} "
                    f"and {later} and {a.slot.format(v='p')} = {b.slot.format(v='q')} }}"
                )
                if not found.is_empty():
                    p, q = (found.sample_point().get_coordinate_val(isl.dim_type.set, x).to_python() for x in (0, 1))
                    return f"keys {p} and {q} share slot {int(f(np.array([q]))[0])} while key {p} is live"
    return ""


def _pieces(f: SlotFunction) -> Iterator[_Piece]:
    if f.prefix:
        yield _Piece(f"0 <= {{v}} < {f.prefix} and {{v}}x = 0 and {{v}}k = 0", "{v}", "", 0, f.prefix - 1)
    written = [(c, room) for c, room in enumerate(f.rooms) if f.writes(room)]
    kinds = [(room.many, room.size, room.life == FOREVER, c - place) for place, (c, room) in enumerate(written)]
    for run in runs([(room.base, room.rank, room.life) for _, room in written], kinds):
        start, room = written[run.start]
        yield _piece(f, start, room, run)


def _piece(f: SlotFunction, start: int, room: Room, run: Run) -> _Piece:
    (base, rank, life), (up, turn, longer) = run.first, run.step
    where = f"{{v}} = {f.prefix + start} + {len(f.rooms)} {{v}}x + {{v}}k and {{v}}x >= 0 and 0 <= {{v}}k < {run.count}"
    ordinal = f"{room.many} {{v}}x + {rank} + {turn} {{v}}k"
    if room.size != GROWS:
        ordinal = f"(({ordinal}) mod {room.size})"
    shown = "" if life == FOREVER else f"{life} + {longer} {{v}}k"
    last = base + up * (run.count - 1)
    return _Piece(where, f"{base} + {up} {{v}}k + {ordinal}", shown, min(base, last), max(base, last) + room.size - 1)


# -- to find one


@lru_cache(maxsize=256)
def slots(terms: tuple[Term, ...], lookahead: int = 0, tokens: int | None = None) -> SlotFunction:
    """The slot function with the fewest slots that is proved.

    >>> import pidsl
    >>> slots((pidsl.window(4),)).rooms
    (Room(base=0, many=1, rank=0, size=5, life=4),)
    >>> found = slots((pidsl.window(4) | pidsl.keys(0, 2) & pidsl.causal,))
    >>> found.prefix, found(np.arange(12))
    (2, array([0, 1, 2, 3, 4, 5, 6, 2, 3, 4, 5, 6]))

    Args:
        terms: concrete patterns, all of which ask for keys.
        lookahead: by how many tokens rows may lie behind the last one, at least 0.
        tokens: how many there will be at most; None: the fewest slots in the long run.

    Returns:
        A proved function; `slot(p) = p` for all p where nothing better is.
    """
    everything = SlotFunction(terms, lookahead, 0, (Room(0, 1, 0, GROWS, FOREVER),))
    try:
        found = lives(terms)
    except TooHardError:
        found = None

    def cost(f: SlotFunction) -> tuple[Fraction, int, int]:
        grown = [room for room in f.rooms if room.size == GROWS]
        if tokens is not None:
            return Fraction(f.width(tokens)), len(f.rooms), f.prefix
        return Fraction(len(grown), len(f.rooms)), f.fixed, len(f.rooms)

    some = {everything} if found is None else {everything, *_candidates(terms, lookahead, found)}
    for f in sorted(some, key=cost)[:TRIES]:
        if f == everything or f.proof.check():
            return f
    return everything


def _candidates(terms: tuple[Term, ...], lookahead: int, found: Lives) -> Iterator[SlotFunction]:
    """Functions for fewer classes and shorter prefixes, each class as long-lived as the longest of its keys."""
    first, period = np.array(found.first, dtype=np.int64), len(found.classes)
    starts = {0, len(first)}
    if len(forever := np.flatnonzero(first == FOREVER)):
        starts.add(int(forever[-1]) + 1)
    for start in sorted(starts):
        span = (
            -(-(len(first) - start) // period) * period + period
        )  # the lives of that many positions are all there are
        each = found.at(np.arange(start, start + span))
        for shorter in (d for d in range(1, period + 1) if period % d == 0):
            longest = each.reshape(-1, shorter).max(0)
            yield SlotFunction(terms, lookahead, start, _rooms(longest.tolist(), lookahead, start))
            bounded = (longest != FOREVER) & (longest >= -lookahead)
            if len(set(longest[bounded].tolist())) > 1:  # one ring for all that have an end
                together = np.where(bounded, longest[bounded].max(), longest)
                yield SlotFunction(terms, lookahead, start, _rooms(together.tolist(), lookahead, start))


def _rooms(each: Sequence[int], lookahead: int, prefix: int) -> tuple[Room, ...]:
    """Rooms for residue classes with these lives, one after the other, those that grow last."""
    period, base = len(each), prefix
    rooms: dict[int, Room] = {}
    classes: dict[int, list[int]] = {}
    for c, life in enumerate(each):
        classes.setdefault(life, []).append(c)
    for life, own in sorted(classes.items()):
        if life < -lookahead:
            rooms |= {c: Room(0, 0, 0, 1, -lookahead - 1) for c in own}
            continue
        size = GROWS if life == FOREVER else 1 + _most_within(np.array(own), period, life + lookahead)
        rooms |= {c: Room(base, len(own), rank, size, life) for rank, c in enumerate(own)}
        base += size
    return tuple(rooms[c] for c in range(period))


def _most_within(classes: Ints, period: int, span: int) -> int:
    """The most positions of some residue classes among the `span` that follow one of them."""
    whole, rest = divmod(span, period)
    twice = np.concatenate([classes, classes + period])
    return int(
        whole * len(classes) + (np.searchsorted(twice, classes + rest, "right") - np.arange(len(classes))).max() - 1
    )
