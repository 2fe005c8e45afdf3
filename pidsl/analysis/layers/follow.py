"""What one token sees, layer by layer: why some number of layers, or any number, does not connect every pair.

The keys of one token after L layers are a one-dimensional set for each n, far less work than all pairs. Where some key
of the target is not among them, L layers are not enough for these n; where the sets come back to an earlier one with
a key missing each time, no number of layers is. The same for the tokens that see one key.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import islpy as isl
import numpy as np

from pidsl.analysis.dense import Bools, target_of
from pidsl.errors import TooHardError
from pidsl.relation.isl import coalesced, limited, read_set

STEPS = 64  # layers that a token is followed through
TRIED = 6  # tokens that are followed
OPERATIONS = 200_000  # of isl, for one token
PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47)  # moduli of lags that are tried


@dataclass(frozen=True, slots=True)
class Token:
    """Token `at`, or for at < 0 the token so far from the end; its keys, or the tokens that see it.

    Args:
        at: the position.
        seen: whether the tokens that see it are followed, not its keys.
    """

    at: int
    seen: bool

    def point(self) -> isl.Set:
        return read_set(f"[n] -> {{ [i] : 0 <= i < n and i = {self.at}{' + n' if self.at < 0 else ''} }}")


def candidates(masks: Sequence[Bools], target: str, layers: int | None) -> Iterator[Token]:
    """Tokens that say why so many layers (None: any number) are not enough, by dense masks: the quickest first.

    Args:
        masks: of several n, all of which the token is to work for; where none does, those of single n.
        target: "causal" or "all".
        layers: how many are not enough.
    """
    each = [_costs(mask, target_of("causal" if target == "causal" else "all", len(mask)), layers) for mask in masks]
    found: dict[Token, int] = {}
    for costs in each:
        for token in costs:
            common = [other[token] for other in each if token in other]
            found[token] = max(common) + STEPS * (len(each) - len(common))
    return islice(sorted(found, key=lambda token: (found[token], abs(token.at), token.at)), TRIED)


def _costs(mask: Bools, target: Bools, layers: int | None) -> dict[Token, int]:
    """For the tokens of one n that work: the number of layers through which they are followed."""
    n, found = len(mask), {}
    for seen in (False, True):
        layer, wanted = (mask.T, target.T) if seen else (mask, target)
        rows = [np.flatnonzero(row) for row in layer]
        for i in range(n):
            cost = _followed(rows, i, wanted[i], layers)
            if cost is not None:
                found[Token(i if i < n // 2 else i - n, seen)] = cost
    return found


def _followed(rows: list[np.ndarray], i: int, wanted: np.ndarray, layers: int | None) -> int | None:
    now = np.zeros(len(rows), dtype=np.bool_)
    now[i] = True
    past: set[bytes] = set()
    for count in range(1, STEPS + 1):
        after = np.zeros(len(rows), dtype=np.bool_)
        for k in np.flatnonzero(now):
            after[rows[k]] = True
        now = after
        lacking = bool((wanted & ~now).any())
        if layers is not None:
            if count == layers:
                return count if lacking else None
        elif not lacking:
            return None
        elif (key := now.tobytes()) in past:
            return count
        else:
            past.add(key)
    return None


def lacking(layer: isl.Map, target: isl.Map, token: Token, where: isl.Set, layers: int | None) -> isl.Set:
    """For which n the token lacks some key of the target after so many layers; None: after any number of layers.

    Args:
        layer: `[n] -> { [i] -> [j] }`.
        target: the pairs that are wanted.
        token: the one to follow.
        where: the n that matter.
        layers: how many.

    Raises:
        TooHardError: isl's operation limit struck, or the sets go on to change.
    """
    with limited("the keys of one token", OPERATIONS):
        step = layer.reverse() if token.seen else layer
        now = token.point().intersect_params(where)
        wanted = now.apply(target.reverse() if token.seen else target)
        past: list[isl.Set] = []
        for count in range(1, STEPS + 1):
            now = coalesced(now.apply(step))
            short = (wanted - now).params() & where
            if layers is not None:
                if count == layers:
                    return short
                continue
            where = short
            if where.is_empty():
                return where
            now, wanted = now.intersect_params(where), wanted.intersect_params(where)
            if any(now.is_equal(one.intersect_params(where)) for one in reversed(past)):
                return where
            past.append(now)
    raise TooHardError(f"keys that still change after {STEPS} layers", "fewer")


def one_class(layer: isl.Map) -> bool:
    """Whether all lags are in one class modulo some m >= 2: then L layers connect lags of one class only, never all.

    That leaves lag 0 or lag 1 out, for every n >= 2.
    """
    lags = layer.reverse().deltas().project_out(isl.dim_type.param, 0, 1)
    if lags.is_empty():
        return False
    some = int(lags.sample_point().get_coordinate_val(isl.dim_type.set, 0).to_python())
    return any(lags.is_subset(read_set(f"{{ [d] : (d - {some}) mod {m} = 0 }}")) for m in PRIMES)
