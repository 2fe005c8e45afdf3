"""Terms for which short sequences say everything about long ones.

Sort the positions i and j among 0 and n: they leave three gaps. Most words of the language compare positions with each
other, with 0 and with n, up to some distance, and take remainders modulo some period. Whether i attends j then
depends on each gap only up to a size: one that is long enough may grow or shrink by a period, and every comparison and
every remainder stays what it was.

    one layer      a gap of `free` + `period` may lose a period, one of `free` may gain one
    L layers       L - 1 tokens between cut a gap into at most L; one of them is so long if the gap is L times as long
    all layers     what L layers connect depends on the three gaps, so on n modulo the period from `start` on

So a largest lag, a contiguous reach or a depth that is counted for all n up to `start` and two periods more is known
for all n: from `start` on, each is affine in n on each class of n modulo the period. And where S_(k + p) = S_k for all
these n, that is so for all n, and any number of layers gives what one below k + p does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from math import lcm

import numpy as np

from pidsl.analysis.dense import MEASURES, Bools, layered
from pidsl.errors import TooHardError
from pidsl.language import terms as t
from pidsl.language.terms import Term
from pidsl.relation.oracle import dense_mask


@dataclass(frozen=True, slots=True)
class Gaps:
    """Gaps of at least `free + period` may shrink by `period`, gaps of at least `free` may grow by it."""

    period: int = 1
    free: int = 1

    @property
    def size(self) -> int:
        """A gap of at least this may shrink."""
        return self.free + self.period

    @property
    def start(self) -> int:
        """The n from which on one of three gaps may shrink."""
        return 3 * (self.size - 1) + 1

    def through(self, layers: int) -> Gaps:
        """What holds of so many layers."""
        return Gaps(self.period, layers * (self.size - 1) + 1 - self.period)


def leaves(term: Term) -> Iterator[Term]:
    """The parts whose gaps make those of the term: all but what joins, turns round, or composes others."""
    match term:
        case t.Union(a, b) | t.Intersection(a, b) | t.Difference(a, b) | t.SymmetricDifference(a, b) | t.Compose(a, b):
            yield from leaves(a)
            yield from leaves(b)
        case t.Complement(of) | t.Transpose(of) | t.Power(of, _):
            yield from leaves(of)
        case _:
            yield term


def gaps_of(layers: Sequence[Term], known: Mapping[Term, Gaps]) -> Gaps:
    """What holds of every one of several layers, from what holds of the leaves.

    Raises:
        TooHardError: nothing is known of a leaf.
    """
    found = [_of_term(x, known) for x in layers]
    return Gaps(lcm(*(x.period for x in found)), max((x.free for x in found), default=1))


def _of_term(term: Term, known: Mapping[Term, Gaps]) -> Gaps:
    match term:
        case t.Union(a, b) | t.Intersection(a, b) | t.Difference(a, b) | t.SymmetricDifference(a, b):
            return gaps_of([a, b], known)
        case t.Complement(of) | t.Transpose(of):
            return _of_term(of, known)
        case t.Compose() | t.Power():
            factors = list(_factors(term))
            return gaps_of(factors, known).through(len(factors)) if factors else Gaps()
        case _:
            if term not in known:
                raise TooHardError(repr(term), "a word whose gaps are known")
            return known[term]


def _factors(term: Term) -> Iterator[Term]:
    match term:
        case t.Compose(a, b):
            yield from _factors(a)
            yield from _factors(b)
        case t.Power(of, int(layers)):
            for _ in range(layers):
                yield from _factors(of)
        case _:
            yield term


def turned(layers: int, first: int, period: int) -> int:
    """The number of layers below `first + period` that connects the same."""
    return layers if layers < first else first + (layers - first) % period


def until_repeated(layer: Bools, quantity: str, work: float) -> tuple[list[int | None], int]:
    """Farthest or contiguous after 0, 1, 2, ... layers until it repeats for good, and after how many it does so.

    Raises:
        TooHardError: it takes more multiplications of single numbers.
    """
    measure, grows = MEASURES[quantity], bool(layer.diagonal().all())
    values = [measure(np.eye(len(layer), dtype=np.bool_))]
    for (seen,), again in layered([(layer,)], work):
        if grows and values[-1] == len(layer) - 1:  # more layers connect no less
            return values, len(values) - 1
        if again:
            return values, len(values) - again
        values.append(measure(seen))
    raise AssertionError


def masks_of(layers: Sequence[Term], known: Mapping[Term, Gaps]) -> Iterator[list[Bools]]:
    """The dense masks of several layers for n = 1, 2, ..."""
    each = {term: Masks(term, known) for term in set(layers)}
    for n in count(1):
        masks = {term: mask.among(n) for term, mask in each.items()}
        yield [masks[term] for term in layers]


class Masks:
    """The dense masks of a term for n = 1, 2, ..., long ones from shorter ones by what `gaps` says."""

    def __init__(self, term: Term, known: Mapping[Term, Gaps]) -> None:
        self.term, self.gaps = term, gaps_of([term], known)
        self.recent: dict[int, Bools] = {}

    def among(self, n: int) -> Bools:
        """The mask of n tokens; n may not fall from call to call."""
        size, period = self.gaps.size, self.gaps.period
        before = self.recent.get(n - period)
        if n < self.gaps.start or before is None:
            mask = dense_mask(self.term, n)
        else:
            mask = np.empty((n, n), dtype=np.bool_)
            cut = n - size + 1  # from here on the gap behind a position is too short to shrink
            mask[:size, cut:] = before[:size, cut - period :]  # the gap between shrinks
            mask[cut:, :size] = before[cut - period :, :size]
            mask[:cut, :cut] = before[:cut, :cut]  # the one behind
            mask[size:, size:] = before[size - period :, size - period :]  # the one before
        self.recent[n] = mask
        self.recent.pop(n - period - 1, None)
        return mask
