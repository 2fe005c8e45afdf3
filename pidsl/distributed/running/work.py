"""What a rank does for a pattern: its calls, their programs, and how queries that move get there and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import chain, starmap
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pidsl.codegen.choice.targets import Kind
from pidsl.distributed.running.agree import together
from pidsl.distributed.running.exchange import Group, Routes
from pidsl.distributed.running.meetings import Meeting
from pidsl.distributed.running.needs import Sizes, numbered
from pidsl.distributed.tokens.placement import Placement
from pidsl.distributed.tokens.runs import Ints, Run, positions
from pidsl.language.score import Score
from pidsl.language.terms import Term
from pidsl.runtime.call.call import Call, Positions
from pidsl.runtime.call.call import Heads as HeadRuns
from pidsl.runtime.programs import Programs, kind_of


class Work:
    """What a rank does for one pattern, of sequences of one length.

    Args:
        parts: of the pattern.
        calls: what is called for one of them.
        index: which of the keys that arrive stand where, for some key heads.
        rank: of those who share it.
    """

    def __init__(
        self, parts: Sequence[Placement], calls: Callable[[Placement], list[Meeting]],
        index: Callable[[Ints], Tensor], rank: int,
    ) -> None:  # fmt: skip
        self.parts, self.rank, self._calls, self._index = parts, rank, calls, index
        self._indices: dict[tuple[HeadRuns, torch.device], Tensor] = {}
        self.moved = tuple(x for x in parts if x.move == "queries" or x.layout != x.home)
        self._meetings: dict[Placement, list[Meeting]] = {}
        self._ways: dict[tuple[Placement, Sizes], Ways] = {}
        self._ready: set[tuple[Score, str, Kind]] = set()

    def of(self, part: Placement) -> list[Meeting]:
        """The calls for a part."""
        if part not in self._meetings:
            self._meetings[part] = self._calls(part)
        return self._meetings[part]

    def in_place(self, *, near: bool) -> list[Meeting]:
        """The calls of parts whose queries stay: those for which the rank has everything, or the others."""
        return [x for part in self.parts if part not in self.moved for x in self.of(part) if x.near == near]

    def index(self, heads: HeadRuns, device: torch.device) -> Tensor:
        """Which of the keys that arrive stand where, [B, heads, rows], for runs of key heads."""
        if (heads, device) not in self._indices:
            self._indices[heads, device] = self._index(positions(starmap(Run, heads))).to(device)
        return self._indices[heads, device]

    def prepare(self, score: Score, backend: str, call: Call, group: Group) -> None:
        """Generate the programs of all calls: if a rank cannot, all of them raise its error, and nobody waits for it.

        Args:
            score, backend: of the programs.
            call: of which rows are taken.
            group: the ranks, which all prepare the same.
        """
        kind = kind_of(backend, call.q, call.v)
        if (score, backend, kind) in self._ready:
            return

        def make() -> None:
            for x in chain.from_iterable(map(self.of, self.parts)):
                programs_of(x.term, score).made(
                    backend, kind, x.where.moved if isinstance(x.where, Positions) else True
                )
            for part in self.moved:
                self.ways(part, Sizes(call.q.shape[0], call.q.shape[1]))

        together(group, make)
        self._ready.add((score, backend, kind))

    def ways(self, part: Placement, sizes: Sizes) -> Ways:
        """The routes of the queries of a part, and of its results back."""
        key = part, sizes
        if key not in self._ways:
            self._ways[key] = ways_of(part, self.rank, sizes)
        return self._ways[key]


class Ways(NamedTuple):
    """How the queries of a part get to where they meet its keys, and their results back.

    Args:
        there: the routes of queries,
        asked: and which of them stand where, [B, H, queries]: in the order of their positions, or run after run;
        back: the routes of results,
        found: and where these stand, [B, H, times * rows]: a row has one from each rank that its query was sent to.
        rows: the rows of the rank that get some,
        times: at most so many each;
        present: bool [times * rows], which there are.
    """

    there: Routes
    asked: Tensor
    back: Routes
    found: Tensor
    rows: slice | Ints
    times: int
    present: NDArray[np.bool_]


def ways_of(part: Placement, rank: int, sizes: Sizes) -> Ways:
    """The ways of one rank."""
    every = np.arange(sizes.entries), np.arange(sizes.heads)

    def asked(other: int) -> Ints:
        found = positions(part.queries(other))
        return found if part.move == "keys" else np.sort(found)

    home, own = part.home, part.home.rows(rank)
    sent, taken, back, times = [], [], [], np.zeros(own, np.int64)
    mine = asked(rank)
    for other in range(home.ranks):
        wanted = asked(other)
        local = home.row(wanted[home.owner(wanted) == rank])
        sent.append(numbered((*every, local), own, sizes))
        back.append((times[local].copy(), local))
        times[local] += 1
        came = np.flatnonzero(home.owner(mine) == other)
        taken.append(numbered((*every, came), len(mine), sizes))
    rows = np.flatnonzero(times)
    most, place = int(times.max(initial=0)), np.cumsum(times > 0) - 1
    present = (np.arange(most)[:, None] < times[rows]).reshape(-1)
    filled = [numbered((*every, which * len(rows) + place[local]), most * len(rows), sizes) for which, local in back]
    there = Routes.of(sent, map(len, taken), "queries")
    results = Routes.of(taken, map(len, filled), "partial results")
    at = torch.cat(taken).argsort().view(*sizes, len(mine))
    found = torch.full((*sizes, most * len(rows)), sum(results.came))
    found.view(-1)[torch.cat(filled)] = torch.arange(sum(results.came))
    return Ways(there, at, results, found, slice(0, own) if len(rows) == own else rows, most, present)


@lru_cache(maxsize=1024)
def programs_of(term: Term, score: Score) -> Programs:
    """The programs of a pattern that a call of many is made of."""
    return Programs(term, score)
