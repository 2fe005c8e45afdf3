"""Farthest, contiguous and depth from short sequences alone, where `gaps` says that they decide about all others.

Everything is counted by dense masks for all n up to a few periods beyond `Gaps.start`. What is counted is quasi-affine
in n from there on, so a formula that agrees with it for two periods is right for all n.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import sympy

from pidsl.analysis.bound import Bound
from pidsl.analysis.dense import Bools, Of, contiguous_in, farthest_in, target_of, times
from pidsl.analysis.formulas.piecewise import Formula
from pidsl.analysis.layers.by_values import PERIODS, Claim, fitted
from pidsl.analysis.layers.gaps import Gaps, gaps_of
from pidsl.analysis.layers.stacks import checked, stack
from pidsl.analysis.verdict import Verdict
from pidsl.errors import TooHardError
from pidsl.language.terms import Term
from pidsl.relation.oracle import dense_mask

WORK = 3e11  # multiplications of single numbers, a few seconds
PROOF = 4 * WORK  # a proof may take longer than its statement

Last = Callable[[Gaps], int]  # up to which n to count


@dataclass(frozen=True, slots=True)
class Counts:
    """What is counted at n = 1, 2, ..., None where it is infinite; from `gaps.start` on each period says the rest."""

    gaps: Gaps
    values: list[int | None]

    def at(self, count: int) -> int | None:
        """What is counted at n; beyond the counts a depth, which does not grow and so repeats."""
        if count > len(self.values):
            count -= -(-(count - len(self.values)) // self.gaps.period) * self.gaps.period
        return self.values[count - 1]


def lag_formula(quantity: str, layers: Sequence[Term]) -> Formula:
    """Farthest or contiguous of several layers.

    Raises:
        TooHardError: long sequences are not like short ones, or short ones take too long.
    """
    counts = _lags(quantity, layers, _some_periods, WORK)
    return fitted(counts.values, -sympy.oo, counts.gaps.period)


def depth_formula(term: Term, of: Of) -> Formula:
    """Depth of a term whose layers connect everything, or repeat, after a number of layers that does not grow with n.

    Raises:
        TooHardError: that number grows, long sequences are not like short ones, or short ones take too long.
    """
    counts = _depths(term, of, _some_periods, WORK)
    return fitted(counts.values, sympy.oo, counts.gaps.period)


def check_short(bound: Bound) -> Verdict:
    """Count again from the term, and compare at as many n as determine a quasi-affine function."""
    return _check_depth(bound) if bound.quantity == "depth" else _check_lags(bound)


def _check_depth(bound: Bound) -> Verdict:
    claim = Claim(bound)

    def last(gaps: Gaps) -> int:  # for one n, two periods are enough: the rest repeats
        wanted = claim.last(gaps.start, gaps.period)
        return wanted if claim.given is None else min(wanted, gaps.start + 2 * gaps.period)

    counts = _depths(bound.term, bound.argument("of"), last, PROOF)
    return _verdict(claim, counts, float("inf"))


def _check_lags(bound: Bound) -> Verdict:
    claim = Claim(bound)
    layers = stack(checked(bound.subject), bound.argument("layers"))
    counts = _lags(bound.quantity, layers, lambda gaps: claim.last(gaps.start, gaps.period), PROOF)
    return _verdict(claim, counts, float("-inf"))


def _verdict(claim: Claim, counts: Counts, infinite: float) -> Verdict:
    if failure := claim.failure(counts.at, claim.given or len(counts.values), infinite):
        return Verdict(False, failure=failure)
    return Verdict(
        True,
        (f"of gaps of {counts.gaps.size} tokens only the remainder by {counts.gaps.period} matters",
         f"dense masks for n <= {len(counts.values)}, which the formula agrees with"),
    )  # fmt: skip


def _some_periods(gaps: Gaps) -> int:
    return gaps.start + PERIODS * gaps.period


def _require(last: int, layers: int, work: float) -> None:
    if layers * float(last) ** 4 / 4 > work:
        raise TooHardError(f"{layers} layers of up to {last} tokens", "fewer, for dense masks")


def _lags(quantity: str, layers: Sequence[Term], last: Last, work: float) -> Counts:
    gaps = gaps_of(layers).through(len(layers))
    _require(last(gaps), len(layers), work)
    masks = {term: Masks(term) for term in set(layers)}
    measure = farthest_in if quantity == "farthest" else contiguous_in
    values = []
    for count in range(1, last(gaps) + 1):
        known = {term: mask.among(count) for term, mask in masks.items()}
        seen = known[layers[0]] if layers else np.eye(count, dtype=np.bool_)
        for term in layers[1:]:
            seen = times(known[term], seen)
        values.append(measure(seen))
    return Counts(gaps, values)


def _depths(term: Term, of: Of, last: Last, work: float) -> Counts:
    one, masks = gaps_of([term]), Masks(term)
    values: list[int | None] = []
    most = 1  # layers that are compared with each other or with the target
    while len(values) < last(one.through(most)):
        depth, layers = _depth(masks.among(len(values) + 1), of)
        values.append(depth)
        most = max(most, layers)
        _require(last(one.through(most)), most, work)
    return Counts(one.through(most), values)


def _depth(layer: Bools, of: Of) -> tuple[int | None, int]:
    """The depth, None if it is infinite, and the layers after which that is known."""
    missing = target_of(of, len(layer))
    seen, layers, past = layer, 1, {np.packbits(layer).tobytes()}
    while (missing & ~seen).any():
        seen, layers = times(layer, seen), layers + 1
        if (state := np.packbits(seen).tobytes()) in past:
            return None, layers
        past.add(state)
    return layers, layers


class Masks:
    """The dense masks of a term for n = 1, 2, ..., long ones from shorter ones by what `gaps` says."""

    def __init__(self, term: Term) -> None:
        self.term, self.gaps = term, gaps_of([term])
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
