"""Where the pairs of a pattern are computed: on which rank which queries meet which keys.

    keys        queries stay, or move into a layout of their own; the keys that they attend are sent to them
    queries     keys stay; the queries that attend them are sent to them

Partial results of queries that moved come back to the rank that holds them, and are merged by their lse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pidsl.distributed.tokens.images import image, preimage
from pidsl.distributed.tokens.runs import Runs
from pidsl.distributed.tokens.shards import Shards
from pidsl.language.terms import Term

Move = Literal["keys", "queries"]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where one part of a pattern is computed. No pair is in two parts.

    Args:
        term: the pairs of the part.
        move: what is sent where it is missing.
        home: which rank holds which token.
        layout: which rank computes which query (keys move), or holds which key (queries move).
    """

    term: Term
    move: Move
    home: Shards
    layout: Shards

    def queries(self, rank: int) -> Runs:
        """The queries that a rank computes something of, in the order in which it has them."""
        if self.move == "keys":
            return self.layout.runs(rank)
        return preimage(self.term, self.home.n, self.layout.runs(rank))

    def keys(self, rank: int) -> Runs:
        """The keys that a rank needs, ascending."""
        if self.move == "keys":
            return image(self.term, self.home.n, self.layout.runs(rank))
        return self.layout.runs(rank)
