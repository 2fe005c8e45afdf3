"""What one token sees, layer by layer: why some number of layers, or any number, does not connect every pair.

The keys of one token after L layers are a one-dimensional set for each n, far less work than all pairs. Where some key
of the target is not among them, L layers are not enough for these n; where the sets come back to an earlier one with
a key missing each time, no number of layers is. The same for the tokens that see one key.
"""

from __future__ import annotations

from dataclasses import dataclass

import islpy as isl

from pidsl.errors import TooHardError
from pidsl.relation.isl import coalesced, limited, read_set

SHORT = 32  # tokens up to which matrices are asked in any case
LATEST = 72  # the n from which on one rule has to hold
DISTINCT = 12  # depths of long n
STEPS = 64  # layers that a token is followed through
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
