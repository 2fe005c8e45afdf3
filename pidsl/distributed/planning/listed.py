"""Keys and pairs at most, where calls list blocks of keys: what is forced, and the budget of each list.

keys     a rank needs keys of the lists of its blocks of queries: budget * block of each list, and what is forced
pairs    a query attends budget * block keys of its list, and what is forced
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pidsl.distributed.planning.tables import table_of_shards
from pidsl.distributed.planning.volumes import Need, Rows, pairs, rows
from pidsl.distributed.tokens.placement import Placement
from pidsl.distributed.tokens.runs import Ints
from pidsl.distributed.tokens.shards import Shards
from pidsl.errors import TermError
from pidsl.language.chosen import forced, selection
from pidsl.language.terms import Term, is_chosen


@dataclass(frozen=True)
class Listed:
    """Rows that ranks need at most, of which calls list some.

    Args:
        home: which rank holds which token.
        whole: all that may be listed.
        least: what is needed whatever is listed.
        sizes: of each list that a block of queries has: keys of all its blocks, and queries of a block.
    """

    home: Shards
    whole: Rows
    least: Rows
    sizes: tuple[tuple[int, int], ...]

    @property
    def received(self) -> Ints:
        """int64 [ranks]: rows that each rank gets at most."""
        return np.minimum(self.whole.received, self.least.received + self._more)

    @property
    def sent(self) -> Ints:
        """int64 [ranks]: rows that each rank sends at most: all lists may be of its keys."""
        return self.whole.sent

    def between(self, sender: Ints, receiver: Ints) -> Ints:
        """int64 [pairs]: rows that each receiver gets from the sender beside it, at most."""
        least = self.least.between(sender, receiver)
        return np.minimum(self.whole.between(sender, receiver), least + self._more[receiver])

    @cached_property
    def _more(self) -> Ints:
        found = np.zeros(self.home.ranks, np.int64)
        runs = table_of_shards(self.home)
        for keys, queries in self.sizes:
            last = runs.first + (runs.count - 1) * runs.step
            blocks = np.minimum(last // queries - runs.first // queries + 1, runs.count)
            np.add.at(found, runs.rank, np.maximum(blocks, 0) * keys)
        return found


def keys_at_most(home: Shards, terms: Iterable[tuple[Term, tuple[Placement, ...]]], lists: int) -> Rows | Listed:
    """The rows of keys that some patterns need on one key head.

    Args:
        home: which rank holds which token.
        terms: the patterns, and where their parts are computed.
        lists: how many lists a block of queries has for the heads that share the key head, at most.
    """
    every: dict[Need, None] = {}
    least: dict[Need, None] = {}
    sizes: list[tuple[int, int]] = []
    for term, placements in terms:
        every |= dict.fromkeys((x, "keys") for x in placements)
        of = _sizes(term)
        if of is None:
            least |= dict.fromkeys((x, "keys") for x in placements)
        else:
            least[Placement(forced(term), "keys", home, home), "keys"] = None
            sizes += [(of[0] * of[1], of[2])] * lists
    whole = rows(home, tuple(every))
    return Listed(home, whole, rows(home, tuple(least)), tuple(sizes)) if sizes else whole


def pairs_at_most(term: Term, placements: Iterable[Placement]) -> Ints:
    """int64 [ranks]: the pairs that each rank computes of a pattern."""
    placements = tuple(placements)
    found = np.sum([pairs(x) for x in placements], axis=0)
    of = _sizes(term)
    if of is None:
        return np.asarray(found)
    (placement,) = placements
    layout = placement.layout
    own = table_of_shards(layout).of_each(layout.ranks)
    least = pairs(Placement(forced(term), "keys", placement.home, layout))
    return np.minimum(found, least + own * of[0] * of[1])


def _sizes(term: Term) -> tuple[int, int, int] | None:
    """Keys of a block, blocks of a list and queries of a block; None where no list caps the keys."""
    try:
        found = selection(term) if is_chosen(term) else None
    except TermError:  # a choice inside of what moves or joins pairs
        return None
    return None if found is None else found.numbers
