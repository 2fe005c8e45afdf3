"""Which rank keeps which key of a cache: blocks of positions go to the ranks in turn, as cards are dealt.

What a rank keeps is itself a pattern: the pairs whose key it has. So the cache of a rank is the derived cache of a
pattern, with its slots, its pages, its bounds and their proofs, and nothing in it knows of other ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pidsl.language.terms import Term
from pidsl.language.trace import where
from pidsl.language.vocabulary import keys
from pidsl.relation.lives import CLASSES, FOREVER, proved_lives
from pidsl.relation.pieces import Ints

TOKENS = 1 << 17  # at which shares are compared, where nobody says how many tokens there will be
EVEN = 1.1  # of shares, the largest beside the mean: no longer blocks are tried for less


@dataclass(frozen=True, slots=True)
class Dealt:
    """Blocks of positions, dealt to ranks in turn.

    >>> dealt = Dealt(3, 2)
    >>> dealt.owner(np.arange(10))
    array([0, 0, 1, 1, 2, 2, 0, 0, 1, 1])
    >>> dealt.kept_by(1), Dealt(3).kept_by(1)
    (where(lambda i, j: j // 2 % 3 == 1), keys(1, None, 3))

    Args:
        ranks: how many there are.
        block: consecutive positions of one rank.
    """

    ranks: int
    block: int = 1

    def owner(self, positions: Ints) -> Ints:
        """The rank that keeps the key of each position."""
        return np.asarray(positions // self.block % self.ranks)

    def kept_by(self, rank: int) -> Term:
        """The pairs whose key a rank keeps."""
        if self.block == 1:
            return keys(rank, None, self.ranks)
        return where(lambda i, j: j // self.block % self.ranks == rank)


@lru_cache(maxsize=256)
def dealt(terms: tuple[Term, ...], ranks: int, page: int = 1, lookahead: int = 0, tokens: int | None = None) -> Dealt:
    """Shares of the keys that patterns can still ask for, as even as blocks make them.

    Single positions in turn are even for windows, and kernels take them best. Of a comb whose period the ranks divide
    they would give all teeth to one rank; then blocks are longer.

    >>> import pidsl
    >>> comb = (pidsl.window(63) | pidsl.keys(0, None, 64)) & pidsl.causal
    >>> dealt((pidsl.window(63),), 4).block, dealt((comb,), 4).block
    (1, 64)

    Args:
        terms: the patterns that ask for keys.
        ranks: how many share them.
        page: a block is a multiple of that.
        lookahead: by how many tokens rows may lie behind the last one.
        tokens: how many there will be at most; None: many.
    """
    most = TOKENS if tokens is None else tokens
    at, lives = np.arange(most), proved_lives(terms)
    life = lives.at(at)
    live = at[(life == FOREVER) | (at + life >= most - 1 - lookahead)]
    doubled = [page << k for k in range(CLASSES.bit_length()) if (page << k) * ranks <= min(CLASSES, most)]
    period = -(-len(lives.classes) // page) * page
    found, least = Dealt(ranks, page), len(live) + 1
    for block in (page, *sorted({*doubled, period} - {page})):
        largest = int(np.bincount(live // block % ranks, minlength=ranks).max())
        if largest * EVEN < least:
            found, least = Dealt(ranks, block), largest
    return found
