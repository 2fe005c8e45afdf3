"""The pairs of L layers with L as a parameter: what makes a form right, and the least L that is enough.

Theorem. A form F(L) is S_L, the pairs that L layers connect, for every L >= first if it is S_first at L = first and,
for every L >= first and every n, one layer after F(L) is F(L + 1): two questions that isl decides.

Theorem. If S_(first + period) = S_first, then S_(L + period) = S_L for every L >= first.
If S_(first + 1) holds S_first, then S_(L + 1) holds S_L for every L >= first.

Theorem. If a relation T holds the pairs R of a layer, and T after R is in T, then S_L is in T for every L >= 1.
"""

from __future__ import annotations

import islpy as isl

from pidsl.analysis.layers.stacks import diagonal
from pidsl.relation.isl import coalesced, read_map, read_set


def is_form(pairs: isl.Map, first: int, layer: isl.Map, start: isl.Map, where: isl.Set) -> bool:
    """The proof by induction on L.

    Args:
        pairs: `[n, L] -> { [i] -> [j] }`, what is to be proved.
        first: the first L for which it is right.
        layer: one layer.
        start: the pairs of `first` layers.
        where: the n that matter.
    """
    here = where & read_set(f"[n, L] -> {{ : L >= {first} }}")
    at_first = read_set(f"[n, L] -> {{ : L = {first} }}")
    if not pairs.intersect_params(here & at_first).is_equal(start.intersect_params(here & at_first)):
        return False
    after = layer.apply_range(pairs.intersect_params(here))
    return bool(after.is_equal(_next(pairs).intersect_params(here)))


def _next(pairs: isl.Map) -> isl.Map:
    """The form at L + 1."""
    position = pairs.find_dim_by_name(isl.dim_type.param, "L")
    points = pairs.wrap().flatten().move_dims(isl.dim_type.set, 0, isl.dim_type.param, position, 1)
    return points.apply(read_map("[n, L] -> { [l, i, j] -> [[i] -> [j]] : l = L + 1 }")).unwrap()


def least_layers(pairs: isl.Map, first: int, target: isl.Map, where: isl.Set) -> isl.PwAff:
    """The least L >= first for which a form holds the target, as a function of n; no value where none does."""
    here = where & read_set(f"[n, L] -> {{ : L >= {first} }}")
    lacking = (target.intersect_params(here) - pairs).domain().params()
    enough = (here - lacking).align_params(read_set("[n, L] -> { : }").get_space())
    return enough.move_dims(isl.dim_type.set, 0, isl.dim_type.param, 1, 1).dim_min(0)


def unseen(layers: list[isl.Map], target: isl.Map) -> isl.Map:
    """Pairs of the target of tokens without keys, or that nothing sees, whatever the number of layers.

    For each n with such pairs, no number of layers connects the target: it has some after each layer of a schedule.
    """
    ends = [target - isl.Map.from_domain_and_range(one.domain(), layers[0].range()) for one in layers]
    found = ends[0]
    for other in ends[1:]:
        found = found.intersect_params(other.domain().params())
    return found


def outside(layers: list[isl.Map], target: isl.Map, closed: isl.Map, cycle: int) -> isl.Map | None:
    """Pairs of the target that no number of layers connects, by an invariant; None where it is none.

    Args:
        layers: the relations of a schedule.
        target: the pairs that are wanted.
        closed: what numbers of layers that `cycle` divides stay inside of: the invariant.
        cycle: residues of L that are told apart.

    Returns:
        For each n with such pairs, some pair of the target is out of reach of L layers, for each residue of L.
    """
    step = several = coalesced(_union(layers))
    for _ in range(cycle - 1):
        several = coalesced(several.apply_range(step))
    if not several.is_subset(closed) or not closed.apply_range(several).is_subset(closed):
        return None
    seen = closed | diagonal()
    found = target - closed  # L = cycle, 2 cycle, ...
    for _ in range(cycle - 1):
        seen = coalesced(step.apply_range(seen))
        found = found.intersect_params((target - seen).domain().params())
    return found


def _union(layers: list[isl.Map]) -> isl.Map:
    found = layers[0]
    for one in layers[1:]:
        found = found | one
    return found
