"""Rows that move between ranks: how many to each, from each, and between any two, exactly.

What ranks need is a table of runs: from isl with the rank as a parameter, or from words about residue classes, whatever
the number of tokens; else from the sets of each rank, one by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache, reduce

import numpy as np

from pidsl.analysis.counting.planes import plane_counter
from pidsl.analysis.counting.progressions import progressions
from pidsl.distributed.planning.sets import Side, computed, is_local, needed, of_layout, pairs_of, side_of
from pidsl.distributed.planning.tables import Table, held_by, holders, rows_of_ranks, table_of, table_of_shards
from pidsl.distributed.tokens.images import image, preimage
from pidsl.distributed.tokens.placement import Placement
from pidsl.distributed.tokens.runs import Ints, Run, Runs, positions
from pidsl.distributed.tokens.shards import Shards
from pidsl.distributed.tokens.unions import joined
from pidsl.errors import TooHardError
from pidsl.language.expr import evaluate
from pidsl.language.terms import Blocked, Term
from pidsl.relation.isl import coalesced, limited, read_map
from pidsl.relation.pieces import value_at

COUNTED = 1 << 22  # tokens that are looked at where there is no closed form
SHORT = 1 << 12  # tokens whose mask is looked at
ONE_BY_ONE = 1 << 10  # ranks whose sets are made one by one where there is no closed form
Need = tuple[Placement, Side]


@dataclass(frozen=True)
class Some:
    """Runs that count, or that were counted twice.

    Args:
        runs: of every rank.
        sign: 1 or -1.
        of: where no two ranks have a position in common, runs of all of them together; else None.
    """

    runs: Table
    sign: int = 1
    of: Table | None = None


@dataclass(frozen=True)
class Rows:
    """Rows that ranks need and that others hold. Those that several placements need are sent once.

    Args:
        home: which rank holds which token.
        needs: of each placement its queries or its keys.
    """

    home: Shards
    needs: tuple[Need, ...]

    @cached_property
    def received(self) -> Ints:
        """int64 [ranks]: rows that each rank gets from others.

        Raises:
            TooHardError: there is no closed form, and there are too many ranks to look at one by one.
        """
        ranks, found = self.home.ranks, np.zeros(self.home.ranks, np.int64)
        for some in self._wanted:
            found += some.sign * some.runs.of_each(ranks)
        return found - self.own

    @cached_property
    def sent(self) -> Ints:
        """int64 [ranks]: rows that each rank sends, counted once for each rank that gets them. Errors as `received`."""
        found = np.zeros(self.home.ranks, np.int64)
        for some in self._wanted:
            found += some.sign * holders(self.home, some.runs if some.of is None else some.of)
        return found - self.own

    def between(self, sender: Ints, receiver: Ints) -> Ints:
        """int64 [pairs]: rows that each receiver gets from the sender beside it. Errors as `received`."""
        found = np.zeros(sender.shape, np.int64)
        for some in self._wanted:
            which, row = rows_of_ranks(some.runs, receiver)
            held = held_by(self.home, sender[which], some.runs[row])
            np.add.at(found, which, some.sign * held)
        return np.where(sender == receiver, 0, found)

    @cached_property
    def own(self) -> Ints:
        """int64 [ranks]: rows that each rank needs and holds itself. Errors as `received`."""
        found = np.zeros(self.home.ranks, np.int64)
        for some in self._wanted:
            np.add.at(found, some.runs.rank, some.sign * held_by(self.home, some.runs.rank, some.runs))
        return found

    @property
    def is_closed(self) -> bool:
        """Whether there is a closed form, so that counting takes no longer for more tokens or ranks."""
        return self._closed is not None

    @cached_property
    def _wanted(self) -> tuple[Some, ...]:
        """What ranks need, where something of it is elsewhere."""
        if self._closed is not None:
            return self._closed
        if self.home.ranks > ONE_BY_ONE or self.home.n > COUNTED:
            expected = f"at most {ONE_BY_ONE} of them, and {COUNTED} tokens"
            raise TooHardError(f"what {self.home.ranks} ranks need, one by one", expected)
        return (Some(table_of([_one_by_one(self._needs, rank) for rank in range(self.home.ranks)])),)

    @cached_property
    def _closed(self) -> tuple[Some, ...] | None:
        try:
            return tuple(_in_closed_form(self._needs))
        except TooHardError:
            return None

    @property
    def _needs(self) -> tuple[Need, ...]:
        return tuple(x for x in self.needs if not (of_layout(*x) and x[0].layout == self.home))


def _in_closed_form(needs: tuple[Need, ...]) -> list[Some]:
    """Runs with the rank as a parameter; of residue classes, a run for each."""
    in_classes = [x for x in needs if x[0].layout.kind == "classes" and (of_layout(*x) or is_local(x[0]))]
    others = [x for x in needs if x not in in_classes]
    found = [Some(_by_rank(others))] if others else []
    if not in_classes:
        return found
    if len({x[0].layout for x in in_classes}) > 1:
        raise TooHardError("rows of classes of several periods", "one period")
    whole = table_of_shards(in_classes[0][0].layout)
    of = _anywhere(in_classes)
    if (of.step > 1).any():
        raise TooHardError("rows of classes with gaps", "tokens side by side")
    kept = [whole.clipped(int(low), int(low + count)) for low, count in zip(of.first, of.count, strict=True)]
    classes = _together(kept)
    found.append(Some(classes, of=of))
    if others:
        found.append(Some(_common(classes, found[0].runs), sign=-1))
    return found


def _by_rank(needs: list[Need]) -> Table:
    """Progressions with the rank as a parameter."""
    ranks = np.arange(needs[0][0].layout.ranks)
    with limited("the rows that ranks need"):
        wanted = coalesced(reduce(lambda a, b: a | b, (needed(*x) for x in needs)))
    found = []
    for part in progressions(wanted):
        count = value_at(part.size(), {"c": ranks})
        step = np.full_like(ranks, max(part.step, 1))
        found.append(Table(ranks, value_at(part.first, {"c": ranks}), np.maximum(count, 0), step))
    return _together(found)


def _anywhere(needs: list[Need]) -> Table:
    """Runs of the tokens that some rank needs."""
    none, n = np.zeros(1, np.int64), needs[0][0].layout.n
    if any(of_layout(*x) for x in needs):
        return Table(none, none, none + n, none + 1)
    with limited("the rows that any rank needs"):
        wanted = coalesced(reduce(lambda a, b: a | b, (side_of(pairs_of(x.term, n), side) for x, side in needs)))
    found = []
    for part in progressions(wanted):
        first, count = value_at(part.first, {"c": none}), value_at(part.size(), {"c": none})
        found.append(Table(none, first, count, none + max(part.step, 1)))
    return _together(found)


def _together(tables: list[Table]) -> Table:
    if not tables:
        none = np.empty(0, np.int64)
        return Table(none, none, none, none)
    names = ("rank", "first", "count", "step")
    return Table(*(np.concatenate([getattr(x, name) for x in tables]) for name in names))


def _common(classes: Table, runs: Table) -> Table:
    """Positions of some classes that are in runs of the same rank."""
    if ((runs.step > 1) & (runs.count > 1)).any():
        raise TooHardError("rows of classes that are in runs with gaps", "runs without gaps")
    which, row = rows_of_ranks(runs, classes.rank)
    return classes[which].clipped(runs.first[row], runs.first[row] + runs.count[row])


def _one_by_one(needs: tuple[Need, ...], rank: int) -> Runs:
    own = [x.queries(rank) if side == "queries" else x.keys(rank) for x, side in needs]
    return own[0] if len(own) == 1 else joined([run for runs in own for run in runs], needs[0][0].home.n)


@lru_cache(maxsize=1024)
def rows(home: Shards, needs: tuple[Need, ...]) -> Rows:
    """As `Rows`, which keep what they have counted."""
    return Rows(home, needs)


@lru_cache(maxsize=1024)
def pairs(placement: Placement) -> Ints:
    """int64 [ranks]: the pairs that each rank computes.

    Raises:
        TooHardError: isl finds no closed form within its limits, and there are too many tokens to count by themselves.
    """
    try:
        return _pairs(placement)
    except TooHardError:
        layout = placement.layout
        if layout.n > COUNTED:
            raise
        each = _degrees(placement.term, layout.n, placement.move == "queries")
        found = np.zeros(layout.ranks, np.int64)
        np.add.at(found, layout.owner(np.arange(layout.n)), each)
        return found


def _degrees(term: Term, n: int, back: bool) -> Ints:
    """int64 [n]: keys of each query, or back: queries of each key."""
    if n <= SHORT:
        return np.asarray(term.mask(n).sum(axis=0 if back else 1), np.int64)
    if not isinstance(term, Blocked):
        return (term.T if back else term).degree(n)
    size = int(evaluate(term.size, {}))
    count = -(-n // size)
    each = size * _degrees(term.of, count, back)
    short = positions((image if back else preimage)(term.of, count, (Run(count - 1, 1),)))
    each[short] -= count * size - n  # of the last block
    return np.repeat(each, size)[:n]


def _pairs(placement: Placement) -> Ints:
    layout = placement.layout
    if layout.kind != "classes":
        return plane_counter(computed(placement))({"c": np.arange(layout.ranks)})
    period = layout.period
    moved = "i = {0} a + r and b = j" if placement.move == "keys" else "j = {0} a + r and b = i"
    with limited("the pairs of residue classes"):
        classes = pairs_of(placement.term, layout.n).apply(
            read_map(f"[r] -> {{ [i, j] -> [a, b] : {moved.format(period)} and 0 <= r < {period} }}")
        )
        each = plane_counter(classes)({"r": np.arange(period)})
    found = np.zeros(layout.ranks, np.int64)
    np.add.at(found, np.arange(period) // layout.chunk, each)
    return found
