"""What some layers connect, as a set that can be asked for single pairs and lags."""

from __future__ import annotations

from dataclasses import dataclass

import islpy as isl

from pidsl.analysis.layers import stacks
from pidsl.analysis.layers.lags import intervals, lag_sums, pairs_at
from pidsl.analysis.layers.stacks import attempt, checked, connected, stack
from pidsl.analysis.layers.sums import Intervals
from pidsl.errors import SizeError
from pidsl.language.terms import require_free
from pidsl.relation.isl import in_turn, read_map, read_set


@dataclass(frozen=True, slots=True, eq=False)
class Reachable:
    """What some layers connect.

    `(i, j) in it` and, if it is a set of lags, `lag in it`; two are equal when they hold the same.

    Args:
        lags: `{ [d] }`, the lags of n tokens being those below n; None if the pairs are no matter of lags.
        pairs: `[n] -> { [i] -> [j] }`.
    """

    lags: isl.Set | None
    pairs: isl.Map

    def __contains__(self, item: object) -> bool:
        if isinstance(item, tuple) and len(item) == 2:
            i, j = (stacks.number(x, "position") for x in item)
            # n tokens for some n; where the pattern depends on n, for that n
            return not (self.pairs & _one_pair(i, j)).is_empty()
        if self.lags is None:
            raise SizeError(f"lag {item!r}", "a pair (i, j): the pattern is not translation invariant")
        lag = stacks.number(item, "lag")
        return not (self.lags & read_set(f"{{ [d] : d = {lag} }}")).is_empty()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reachable) and self.pairs.is_equal(other.pairs)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        if self.lags is None:
            return str(self.pairs)
        lags = self.lags
        found = attempt(lambda: intervals(lags))
        if isinstance(found, tuple) and len(found) <= 64:
            return "{ " + ", ".join(str(a) if a == b else f"{a}..{b}" for a, b in found) + " }"
        return str(self.lags)


def _one_pair(i: int, j: int) -> isl.Map:
    return read_map(f"{{ [i] -> [j] : i = {i} and j = {j} }}")


@in_turn
def reachable(subject: object, layers: object = None) -> Reachable:
    """The lags, or else the pairs, that the layers connect.

    >>> import pidsl
    >>> reachable(pidsl.window(4) | pidsl.lags(16), 3)
    { 0..12, 16..24, 32..36, 48 }
    >>> (100, 90) in reachable(pidsl.window(4) | pidsl.lags(16), 3)
    True

    Args:
        subject: a term, or a term per layer, the layer at the input first.
        layers: how many layers; None: one, or each of a schedule once.

    Raises:
        TooHardError: isl's operation limit struck.
    """
    layers_ = stack(checked(subject), None if layers is None else stacks.number(layers, "layers"))
    for term in layers_:
        require_free(term, "what it reaches")
    lags = lag_sums(layers_)
    if lags is None:
        return Reachable(None, connected(layers_))
    found = _set_of(lags) if isinstance(lags, tuple) else lags
    return Reachable(found, pairs_at(found))


def _set_of(parts: Intervals) -> isl.Set:
    return read_set("{ " + "; ".join(f"[d] : {a} <= d <= {b}" for a, b in parts) + (" }" if parts else "[d] : 1 = 0 }"))
