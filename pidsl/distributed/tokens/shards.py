"""How the tokens of a sequence are shared out among ranks.

    contiguous    rank p has chunk p of P chunks of ceil(n / P) tokens
    zigzag        rank p has chunks p and 2 P - 1 - p of 2 P chunks of ceil(n / (2 P)): the same work of causal patterns
    classes       rank p has ceil(period / P) residue classes of positions, from p * ceil(period / P) on

The last ranks have fewer tokens, or none, where there are not enough. A rank's tensors hold its runs one after the
other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from pidsl.distributed.tokens.runs import Ints, Run, Runs, total

Kind = Literal["contiguous", "zigzag", "classes"]


@dataclass(frozen=True, slots=True)
class Shards:
    """Which rank has which of n tokens.

    >>> Shards(10, 2, "zigzag").runs(0)
    (Run(first=0, count=3, step=1), Run(first=9, count=1, step=1))
    >>> Shards(10, 2, "classes", 4).runs(1)
    (Run(first=2, count=2, step=4), Run(first=3, count=2, step=4))

    Args:
        n: tokens.
        ranks: how many share them.
        kind: as above.
        period: of the classes; 1 otherwise.
    """

    n: int
    ranks: int
    kind: Kind = "contiguous"
    period: int = 1

    @property
    def chunk(self) -> int:
        """Tokens of a chunk, or classes of a rank."""
        if self.kind == "classes":
            return -(-self.period // self.ranks)
        return -(-self.n // (self.ranks * (2 if self.kind == "zigzag" else 1)))

    def runs(self, rank: int) -> Runs:
        """The positions of a rank's tokens, in the order in which its tensors hold them."""
        if self.kind == "classes":
            classes = range(rank * self.chunk, min(self.period, (rank + 1) * self.chunk))
            return tuple(Run(c, self._of_class(c), self.period) for c in classes if c < self.n)
        chunks = (rank, 2 * self.ranks - 1 - rank) if self.kind == "zigzag" else (rank,)
        ends = ((c * self.chunk, min(self.n, (c + 1) * self.chunk)) for c in chunks)
        return tuple(Run(first, end - first) for first, end in ends if first < end)

    def rows(self, rank: int) -> int:
        """How many tokens a rank has."""
        return total(self.runs(rank))

    def owner(self, positions: Ints) -> Ints:
        """The rank of each position."""
        if self.kind == "classes":
            return np.asarray(positions % self.period // self.chunk)
        chunks = positions // max(1, self.chunk)
        return np.asarray(np.minimum(chunks, 2 * self.ranks - 1 - chunks) if self.kind == "zigzag" else chunks)

    def row(self, positions: Ints) -> Ints:
        """Where each position stands in the tensors of its rank."""
        if self.kind == "classes":
            of, first = positions % self.period, self.owner(positions) * self.chunk
            return np.asarray(positions // self.period + self._before(of) - self._before(first))
        row = positions % max(1, self.chunk)
        second = positions // max(1, self.chunk) >= self.ranks
        return np.asarray(np.where(second, row + self.chunk, row) if self.kind == "zigzag" else row)

    def where(self, position: str, rank: str) -> str:
        """In isl's notation: that a rank has the token at a position.

        >>> Shards(10, 2).where("i", "p")
        '(5 p <= i < 5 p + 5)'
        """
        c = self.chunk
        if self.kind == "classes":
            return f"({c} {rank} <= ({position}) mod {self.period} < {c} {rank} + {c})"
        near = f"{c} {rank} <= {position} < {c} {rank} + {c}"
        if self.kind == "contiguous":
            return f"({near})"
        last = 2 * self.ranks * c
        return f"({near} or {last} - {c} {rank} - {c} <= {position} < {last} - {c} {rank})"

    def _of_class(self, c: int) -> int:
        return max(0, -(-(self.n - c) // self.period))

    def _before(self, classes: Ints) -> Ints:
        """Tokens of all smaller classes."""
        whole, more = divmod(self.n, self.period)
        return np.asarray(classes * whole + np.minimum(classes, more))
