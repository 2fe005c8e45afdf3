"""Pairs that no number of layers connects: invariants that every S_L stays inside.

Each invariant is a relation T with R contained in T and T after R contained in T, so that S_L is inside T for every
L >= 1; or such relations for every residue of L, where the layers alternate.
"""

from __future__ import annotations

from collections.abc import Iterator

import islpy as isl

from pidsl.errors import TooHardError
from pidsl.relation.isl import coalesced, limited, read_map

OPERATIONS = 100_000
CYCLES = (1, 2, 3)  # residues of L that are told apart


def outside(layers: list[isl.Map], target: isl.Map) -> Iterator[tuple[str, isl.Map]]:
    """For one invariant after another, pairs of the target that no number of layers connects, for some n.

    Args:
        layers: the relations of a schedule, the layer at the input first; it begins again after the last.
        target: the pairs that are wanted.

    Yields:
        What the invariant is, and `[n] -> { [i] -> [j] }`: for each n with such pairs, no number of layers connects
        the target.
    """
    ends = [target - isl.Map.from_domain_and_range(one.domain(), layers[0].range()) for one in layers]
    found = ends[0]
    for other in ends[1:]:
        found = found.intersect_params(other.domain().params())
    yield "tokens without keys, or that nothing sees", found
    step = layers[0]
    for one in layers[1:]:
        step = step | one
    for cycle in CYCLES:
        try:
            with limited("pairs out of reach", OPERATIONS):
                missing = _alternating(coalesced(step), target, cycle)
        except (TooHardError, isl.Error):
            continue
        if missing is not None:
            yield "closed under one layer more" if cycle == 1 else f"closed under {cycle} layers more", missing


def _alternating(step: isl.Map, target: isl.Map, cycle: int) -> isl.Map | None:
    several = step
    for _ in range(cycle - 1):
        several = coalesced(several.apply_range(step))
    closed = _closure(several)
    if not several.is_subset(closed) or not closed.apply_range(several).is_subset(closed):
        return None
    seen = closed | read_map("[n] -> { [i] -> [i] : 0 <= i < n }")
    found = target - closed  # L = cycle, 2 cycle, ...
    for _ in range(cycle - 1):
        seen = coalesced(step.apply_range(seen))
        found = found.intersect_params((target - seen).domain().params())
    return found


def _closure(step: isl.Map) -> isl.Map:
    """The pairs that numbers of steps connect, or more.

    isl's closures hold integers that merely exist, bounded by one another. Of some it makes divisions that are defined
    by themselves, and then recurses until the process dies. Without those integers there are more pairs, if any.
    """
    found, _ = step.transitive_closure()
    return coalesced(found.remove_unknown_divs())
