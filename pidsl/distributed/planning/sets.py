"""Sets of positions for every rank at once, as isl sets with the rank as a parameter.

`c` is a rank that computes, `x` a rank that holds. What is here are the sets of `Placement.queries` and
`Placement.keys`, so that what is counted is what is sent.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

import islpy as isl

from pidsl.analysis.counting.lattice import square, without
from pidsl.distributed.tokens.placement import Placement
from pidsl.distributed.tokens.shards import Shards
from pidsl.errors import TooHardError
from pidsl.language.terms import Pairs, Term, walk
from pidsl.relation.isl import coalesced, limited, read_map, read_set

_dim: Any = isl.dim_type
LISTED = 256  # pairs
SOON = 200_000  # operations of isl for telling whether pairs are local
Side = Literal["queries", "keys"]


@lru_cache(maxsize=64)
def pairs_of(term: Term, n: int) -> isl.Set:
    """`{ [i, j] : 0 <= i, j < n and i attends j }`.

    Raises:
        TooHardError: isl's operation limit struck, or would: with the rank as a parameter, listed pairs are many parts.
    """
    if sum(len(part.values) for part in walk(term) if isinstance(part, Pairs)) > LISTED:
        raise TooHardError(f"{term!r} for all ranks at once", f"at most {LISTED} listed pairs")
    pairs = square(term)
    with limited(f"the pairs of {term!r} for n = {n}"):
        return coalesced(without(pairs.intersect_params(read_set(f"[n] -> {{ : n = {n} }}")), "n"))


def held(shards: Shards, rank: str) -> isl.Set:
    """`[rank] -> { [j] }`: the tokens of a rank."""
    bounds = f"0 <= {rank} < {shards.ranks} and 0 <= j < {shards.n}"
    return read_set(f"[{rank}] -> {{ [j] : {bounds} and {shards.where('j', rank)} }}")


def computed(placement: Placement) -> isl.Set:
    """`[c] -> { [i, j] }`: the pairs that rank c computes."""
    side = "i" if placement.move == "keys" else "j"
    layout = placement.layout
    here = f"[c] -> {{ [i, j] : 0 <= c < {layout.ranks} and {layout.where(side, 'c')} }}"
    return pairs_of(placement.term, layout.n) & read_set(here)


@lru_cache(maxsize=256)
def needed(placement: Placement, side: Side) -> isl.Set:
    """`[c] -> { [j] }`: the queries, or the keys, that rank c needs.

    Raises:
        TooHardError: isl's operation limit struck.
    """
    if of_layout(placement, side):
        return held(placement.layout, "c")
    with limited(f"the {side} that ranks need"):
        return coalesced(side_of(computed(placement), side))


def side_of(pairs: isl.Set, side: Side) -> isl.Set:
    """`{ [i, j] }` as the set of its queries, or of its keys."""
    found = pairs.apply(read_map(f"{{ [i, j] -> [{'i' if side == 'queries' else 'j'}] }}"))
    return found.set_dim_name(_dim.set, 0, "j")


def of_layout(placement: Placement, side: Side) -> bool:
    """Whether a rank needs the rows of the placement's layout, whatever the pairs are."""
    return (side == "queries") == (placement.move == "keys")


@lru_cache(maxsize=256)
def is_local(placement: Placement) -> bool:
    """Whether the classes of a layout keep query and key of each pair on one rank; False: isl cannot tell soon."""
    layout = placement.layout
    try:
        with limited("whether pairs are local", SOON):
            pairs = pairs_of(placement.term, layout.n)
            lags = pairs.apply(read_map("{ [i, j] -> [i - j] }"))
            if lags.is_subset(read_set(f"{{ [x] : x mod {layout.period} = 0 }}")):
                return True
            i, j = (f"floor(({x} mod {layout.period})/{layout.chunk})" for x in "ij")
            return bool(pairs.is_subset(read_set(f"{{ [i, j] : {i} = {j} }}")))
    except TooHardError:
        return False
