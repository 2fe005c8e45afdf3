"""Terms for which short sequences say everything about long ones.

Sort the positions i and j among 0 and n: they leave three gaps. Most words of the language compare positions with each
other, with 0 and with n, up to some distance, and take remainders modulo some period. Whether i attends j then
depends on each gap only up to a size: one that is long enough may grow or shrink by a period, and every comparison and
every remainder stays what it was.

    one layer      a gap of `free` + `period` may lose a period, one of `free` may gain one
    L layers       L - 1 tokens between cut a gap into at most L; one of them is so long if the gap is L times as long
    all layers     what L layers connect depends on the three gaps, so on n modulo the period from `start` on

So a largest lag, a contiguous reach or a depth that is counted for all n up to `start` and two periods more is known
for all n: from `start` on, each is affine in n on each class of n modulo the period (`short`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, floor, lcm

import islpy as isl

from pidsl.analysis.formulas.plane import Affine, of_isl
from pidsl.analysis.layers.stacks import square
from pidsl.errors import TooHardError
from pidsl.language import terms as t
from pidsl.language.terms import Term
from pidsl.relation.isl import convex_parts, limited


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


def gaps_of(layers: Sequence[Term]) -> Gaps:
    """What holds of every one of several layers.

    >>> import pidsl
    >>> gaps_of([pidsl.window(4) | pidsl.stride(6)])
    Gaps(period=6, free=5)

    Raises:
        TooHardError: a layer compares sums or multiples of positions, or isl's operation limit struck.
    """
    found = [_of_term(x) for x in layers]
    return Gaps(lcm(*(x.period for x in found)), max(x.free for x in found))


@lru_cache(maxsize=512)
def _of_term(term: Term) -> Gaps:
    match term:
        case t.Union(a, b) | t.Intersection(a, b) | t.Difference(a, b) | t.SymmetricDifference(a, b):
            return gaps_of([a, b])
        case t.Complement(of) | t.Transpose(of):
            return _of_term(of)
        case t.Compose() | t.Power():
            factors = list(_factors(term))
            return gaps_of(factors).through(len(factors)) if factors else Gaps()
        case _:
            return _of_pairs(square(term))


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


def _of_pairs(pairs: isl.Map) -> Gaps:
    """From the constraints of `[n] -> { [i] -> [j] }`."""
    period, free = 1, 1
    with limited("the constraints of a relation"):
        for part in convex_parts(pairs.wrap().flatten()):
            named = isl.Set.from_basic_set(part).move_dims(isl.dim_type.param, 1, isl.dim_type.set, 0, 2)
            named = named.set_dim_name(isl.dim_type.param, 1, "i").set_dim_name(isl.dim_type.param, 2, "j")
            for basic in named.get_basic_sets():
                for constraint in basic.get_constraints():
                    f = of_isl(constraint.get_aff())
                    period = lcm(period, f.modulus)
                    free = max(free, _free(f, bool(constraint.is_equality())))
    return Gaps(period, free)


def _free(f: Affine, equality: bool) -> int:
    """The size from which on a gap decides alone about `f >= 0` (or `f == 0`), whatever the other gaps are."""
    before = f.query + f.key + f.length  # per token of the gap before both positions
    free = 1
    for middle in (f.query + f.length, f.key + f.length):  # of the gap between: the query is the later one, or the key
        steps = [x for x in (before, middle, f.length) if x]
        if not steps:
            continue
        if min(steps) < 0 < max(steps):
            raise TooHardError("a comparison of sums or multiples of positions", "positions, up to a distance")
        step = min(abs(x) for x in steps)
        if steps[0] > 0 and not equality:  # true from here on
            free = max(free, ceil(-f.low / step))
        else:  # false from here on
            free = max(free, floor((-f.low if steps[0] > 0 else f.high) / step) + 1)
    return free
