"""The number of keys of a query as a function of blocks and places in them, for isl to compare and to maximise."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from typing import Any

import islpy as isl
import sympy

from pidsl.analysis.formulas.read import function
from pidsl.analysis.smaller.between import Formulas, Levels, keys_between, lacks, place
from pidsl.relation.isl import CONTEXT, largest, least, read_set

_dim: Any = isl.dim_type
NAMES = ("n", "r", "i", "q")  # n blocks of which the last lacks r tokens, and query q of block i


def lengths(size: int) -> isl.Set:
    """Whole and broken numbers of blocks."""
    return read_set(f"[n, r] -> {{ : n >= 1 and 0 <= r < {size} }}")


def keys_function(found: Levels, known: Formulas) -> isl.PwAff:
    """The number of keys of query q of block i, among n blocks of which the last lacks r tokens."""
    s = found.size
    inside = f"n >= 1 and 0 <= r < {s} and 0 <= q < {s} and i >= 0 and {s} i + q < {s} n - r"
    rows = read_set(f"[{', '.join(NAMES)}] -> {{ : {inside} }}")
    each, per_place, lacking = (function(x, NAMES).intersect_domain(rows) for x in keys_between(found, known))
    return each + _times(place, per_place) - _times(lacks, lacking)


def _times(little: sympy.Symbol, factor: isl.PwAff) -> isl.PwAff:
    """A product with a function that has few values."""
    parts = [function(value * little, NAMES).intersect_domain(here) for here, value in _values(factor)]
    return reduce(isl.PwAff.union_add, parts)


def _values(f: isl.PwAff) -> Iterator[tuple[isl.Set, int]]:
    """Where a function that has few values has which."""
    image = isl.Set.from_pw_aff(f).project_out(_dim.param, 0, f.dim(_dim.param))
    for value in range(least(image), largest(image) + 1):
        yield f.eq_set((f - f).add_constant_val(isl.Val(value, CONTEXT))), value


def most_keys(found: Levels, known: Formulas) -> isl.PwAff:
    """The most keys of any query, of n and r: `a + b q - c r` is largest at the first or the last q of a block."""
    rows, last = read_set("[n, r, i] -> { : 0 <= i < n }"), read_set("[n, r, i] -> { : i = n - 1 }")
    each, per_place, lacking = (function(x, NAMES[:3]).intersect_domain(rows) for x in keys_between(found, known))
    best = function(-sympy.oo, NAMES[:2])
    for at_place, rise in _values(per_place):
        for at_lack, lack in _values(lacking):
            here = each.intersect_domain(at_place & at_lack)
            top = here.add_constant_val(isl.Val(max(rise, 0) * (found.size - 1), CONTEXT))
            if rise <= 0:  # the first query of any block
                choices = [(top, lack)]
            else:  # the last query of any block; the last block has fewer
                choices = [(top.intersect_domain(rows - last), lack), (top.intersect_domain(last), lack + rise)]
            for keys, slope in choices:
                graph = isl.Set.from_pw_aff(keys).project_out(_dim.param, 2, 1)
                if not graph.is_empty():
                    best = best.union_max(graph.dim_max(0) - function(slope * lacks, NAMES[:2]))
    return best.coalesce()


def in_blocks(f: isl.PwAff, size: int) -> isl.PwAff:
    """A function of n tokens as one of n blocks of which the last lacks r tokens."""
    graph = isl.Set.from_pw_aff(f).set_dim_name(_dim.param, 0, "tokens")
    graph = graph.align_params(read_set("[n, r, tokens] -> { : }").get_space())
    same = read_set(f"[n, r, tokens] -> {{ : n >= 1 and 0 <= r < {size} and tokens = {size} n - r }}")
    graph = graph.intersect_params(same)
    return graph.project_out(_dim.param, graph.find_dim_by_name(_dim.param, "tokens"), 1).dim_max(0)
