"""The same work by the ways that do not look at the pattern: all-gather, a ring, Ulysses."""

from __future__ import annotations

from dataclasses import dataclass

from pidsl.distributed.planning.asked import Asked


@dataclass(frozen=True, slots=True)
class Other:
    """Bytes that the rank gets which gets most; None where the way does not work, and why.

    Args:
        name: of the way.
        forward, backward: bytes, of all layers.
        reason: why there are none.
    """

    name: str
    forward: int | None
    backward: int | None
    reason: str = ""


def others(of: Asked) -> tuple[Other, ...]:
    """Of tokens in equal chunks of ceil(n / ranks), row for row and without what a library pads.

    all-gather  k and v of all other ranks; backward, the gradients of its own rows from all others
    ring        k and v of all other ranks, one after the other; backward, once more, and their gradients with them
    Ulysses     q, k and v of its heads from all other ranks, and the results of its own rows back; backward, the
                same of the gradients
    """
    chunk = -(-of.n // of.ranks)
    own = [max(0, min(chunk, of.n - rank * chunk)) for rank in range(of.ranks)]
    layers, one = len(of.layers), of.one
    keys = of.kv_heads * one.keys * layers
    there, away = of.n - min(own), max(own) * (of.ranks - 1)
    found = [
        Other("all-gather", there * keys, max(own) * (of.ranks - 1) * keys),
        Other("ring", there * keys, (there + away) * keys),
    ]
    if of.heads % of.ranks:
        why = f"{of.heads} query heads are not shared out among {of.ranks} ranks"
        return (*found, Other("Ulysses", None, None, why))
    here, shared = of.heads // of.ranks, max(1, of.kv_heads // of.ranks)
    results = one.results - (one.results - of.value_dim * (one.queries // of.head_dim))  # no lse moves
    per_token = here * one.queries + shared * one.keys
    forward = max((of.n - rows) * per_token + rows * (of.heads - here) * results for rows in own)
    return (*found, Other("Ulysses", forward * layers, forward * layers))
