"""The runs of every rank in one table, and how many of their positions are held where: sums, nothing listed.

A run is counted between two positions, or in residue classes, by a division. How many positions of all runs a rank
holds is the difference of two prefix sums, whose corners are the ends of the runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pidsl.distributed.tokens.runs import Ints, Runs
from pidsl.distributed.tokens.shards import Shards
from pidsl.errors import TooHardError

LISTED = 1 << 24  # positions, or pieces of runs, that are looked at one by one at most


@dataclass(frozen=True, eq=False)
class Table:
    """Runs of ranks: int64 [runs] each. No position is twice in the runs of a rank.

    Args:
        rank: whose run it is.
        first, count, step: as in `Run`; a count may be 0.
    """

    rank: Ints
    first: Ints
    count: Ints
    step: Ints

    def __getitem__(self, which: NDArray[Any]) -> Table:
        return Table(self.rank[which], self.first[which], self.count[which], self.step[which])

    @property
    def end(self) -> Ints:
        """The position behind the last one, of runs without gaps."""
        return self.first + self.count

    def clipped(self, low: Ints | int, high: Ints | int) -> Table:
        """The positions from low to before high."""
        skipped = np.clip(-((self.first - low) // self.step), 0, self.count)
        kept = np.clip(-((self.first - high) // self.step), 0, self.count)
        return Table(self.rank, self.first + skipped * self.step, np.maximum(kept - skipped, 0), self.step)

    def of_each(self, ranks: int) -> Ints:
        """int64 [ranks]: positions of each rank."""
        return _sums(self.rank, self.count, ranks)

    def listed(self) -> Table:
        """Each position as a run of its own.

        Raises:
            TooHardError: there are too many.
        """
        which, at = _spread(self.count)
        return Table(self.rank[which], self.first[which] + at * self.step[which], np.ones_like(at), np.ones_like(at))


def table_of(runs: Sequence[Runs]) -> Table:
    """The table of the runs of each rank."""
    rows = [(rank, *run) for rank, own in enumerate(runs) for run in own]
    columns = np.array(rows, np.int64).reshape(-1, 4).T
    return Table(columns[0], columns[1], columns[2], columns[3])


def table_of_shards(shards: Shards) -> Table:
    """The table of all tokens, with a run for each chunk or class."""
    if shards.kind == "classes":
        first = np.arange(min(shards.period, shards.n))
        step = np.full_like(first, shards.period)
        return Table(first // shards.chunk, first, -((first - shards.n) // step), step)
    first = np.arange(shards.ranks * (2 if shards.kind == "zigzag" else 1)) * shards.chunk
    count = np.clip(shards.n - first, 0, shards.chunk)
    return Table(shards.owner(first), first, count, np.ones_like(first))


def held_by(home: Shards, rank: Ints, runs: Table) -> Ints:
    """int64 [runs]: how many positions of each run a rank holds, a rank for each run.

    Raises:
        TooHardError: there is no formula, and there are too many positions to look at.
    """
    if home.kind != "classes":
        found = np.zeros_like(runs.first)
        for chunk in (rank, 2 * home.ranks - 1 - rank) if home.kind == "zigzag" else (rank,):
            found += runs.clipped(chunk * home.chunk, (chunk + 1) * home.chunk).count
        return found
    low, width = _classes(home, rank)
    whole = runs.step % home.period == 0
    found = np.where(whole & (_within(runs.first, home, low, width) > 0), runs.count, 0)
    plain = (runs.step == 1) & ~whole
    between = _below(runs.end, home, low, width) - _below(runs.first, home, low, width)
    found = np.where(plain, between, found)
    if (rest := np.flatnonzero(~whole & ~plain)).size:
        which, at = _spread(runs.count[rest])
        some = rest[which]
        inside = _within(runs.first[some] + at * runs.step[some], home, low[some], width[some])
        np.add.at(found, some, inside)
    return found


def holders(home: Shards, runs: Table) -> Ints:
    """int64 [ranks]: how many positions of all runs each rank holds, once for each run.

    Raises:
        TooHardError: there is no formula, and there are too many pieces of runs to look at.
    """
    plain = runs.step == 1
    found = _holders_of_plain(home, runs[plain])
    rest = runs[~plain]
    if home.kind == "classes":
        whole = rest.step % home.period == 0
        found += _sums(home.owner(rest.first[whole]), rest.count[whole], home.ranks)
        rest = rest[~whole].listed()
        return found + _sums(home.owner(rest.first), rest.count, home.ranks)
    last = rest.first + (rest.count - 1) * rest.step
    which, at = _spread(np.where(rest.count > 0, last // home.chunk - rest.first // home.chunk + 1, 0))
    pieces = rest[which]
    chunk = pieces.first // home.chunk + at
    pieces = pieces.clipped(chunk * home.chunk, (chunk + 1) * home.chunk)
    return found + _sums(home.owner(chunk * home.chunk), pieces.count, home.ranks)


def _holders_of_plain(home: Shards, runs: Table) -> Ints:
    """As `holders`, of runs without gaps."""
    runs = runs[runs.count > 0]
    if home.kind != "classes":
        edges = np.arange(home.ranks * (2 if home.kind == "zigzag" else 1) + 1) * home.chunk
        prefix = _ramps(runs.first, edges) - _ramps(runs.end, edges)
        return _sums(home.owner(edges[:-1]), np.diff(prefix), home.ranks)
    low, width = _classes(home, np.arange(home.ranks))
    found = np.zeros(home.ranks, np.int64)
    for sign, ends in ((1, runs.end), (-1, runs.first)):
        whole, rest = np.divmod(ends, home.period)
        found += sign * (int(whole.sum()) * width + _ramps(-rest, -low) - _ramps(-rest, -low - width))
    return found


def _ramps(corners: Ints, at: Ints) -> Ints:
    """The sum of max(0, x - corner) over all corners, for every x."""
    corners = np.sort(corners)
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(corners)])
    count = np.searchsorted(corners, at, side="right")
    return np.asarray(count * at - before[count])


def _classes(home: Shards, rank: Ints) -> tuple[Ints, Ints]:
    """The first residue class of ranks, and how many they have."""
    low = np.minimum(rank * home.chunk, home.period)
    return low, np.minimum(low + home.chunk, home.period) - low


def _within(at: Ints, home: Shards, low: Ints, width: Ints) -> Ints:
    rest = at % home.period - low
    return np.asarray((rest >= 0) & (rest < width), np.int64)


def _below(at: Ints, home: Shards, low: Ints, width: Ints) -> Ints:
    """Positions below others that are in some residue classes."""
    whole, rest = np.divmod(at, home.period)
    return np.asarray(whole * width + np.clip(rest - low, 0, width))


def _spread(counts: Ints) -> tuple[Ints, Ints]:
    """0 .. count - 1 for each of some counts: which of them, and the number."""
    if int(counts.sum()) > LISTED:
        raise TooHardError(f"{int(counts.sum())} pieces one by one", f"at most {LISTED}")
    which = np.repeat(np.arange(counts.size), counts)
    return which, np.arange(which.size) - np.repeat(np.cumsum(counts) - counts, counts)


def _sums(index: Ints, values: Ints, size: int) -> Ints:
    found = np.zeros(size, np.int64)
    np.add.at(found, index, values)
    return found


def rows_of_ranks(runs: Table, ranks: Ints) -> tuple[Ints, Ints]:
    """Which runs are of some ranks: pairs of an index into the ranks and of a run."""
    order = np.argsort(runs.rank, kind="stable")
    low, high = (np.searchsorted(runs.rank[order], ranks, side=side) for side in ("left", "right"))
    which, at = _spread(high - low)
    return which, order[low[which] + at]
