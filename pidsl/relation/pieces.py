"""isl's piecewise quasi-affine functions at arrays of numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import islpy as isl
import numpy as np
from numpy.typing import NDArray

_dim: Any = isl.dim_type
Ints = NDArray[np.int64]


def count_piece(domain: isl.Set, size: isl.Aff, env: Mapping[str, Ints]) -> Ints:
    """A quasi-affine function on a set of parameters with known divisions, 0 elsewhere, for arrays of parameters."""
    held = np.zeros(next(iter(env.values())).shape, dtype=np.bool_)
    for basic in domain.get_basic_sets():
        held |= inside(basic, env)
    return held * affine_at(size, env)


def value_at(f: isl.PwAff, env: Mapping[str, Ints]) -> Ints:
    """A piecewise quasi-affine function of parameters, 0 where it is not defined, for arrays of parameters."""
    found = np.zeros(next(iter(env.values())).shape, dtype=np.int64)
    for domain, size in f.get_pieces():
        found += count_piece(domain.compute_divs(), size, env)
    return found


def inside(part: isl.BasicSet, env: Mapping[str, Ints]) -> NDArray[np.bool_]:
    """Where a set of parameters with known divisions has them, for arrays of parameters."""
    found = np.ones(next(iter(env.values())).shape, dtype=np.bool_)
    for constraint in part.get_constraints():
        value = affine_at(constraint.get_aff(), env)
        found &= (value == 0) if constraint.is_equality() else (value >= 0)
    return found


def affine_at(f: isl.Aff, env: Mapping[str, Ints]) -> Ints:
    """A quasi-affine function of the parameters at arrays of them."""
    bottom = int(f.get_denominator_val().to_python())

    def whole(value: isl.Val) -> int:
        return int((value * isl.Val(bottom, f.get_ctx())).to_python())

    shape = next(iter(env.values())).shape
    total = np.full(shape, whole(f.get_constant_val()), dtype=np.int64)
    for k in range(f.dim(_dim.param)):
        slope = whole(f.get_coefficient_val(_dim.param, k))
        if slope:
            total += slope * env[str(f.get_dim_name(_dim.param, k))]
    for k in range(f.dim(_dim.div)):
        slope = whole(f.get_coefficient_val(_dim.div, k))
        if slope:
            total += slope * affine_at(f.get_div(k), env)
    return total // bottom
