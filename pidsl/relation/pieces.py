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
    inside = np.zeros(next(iter(env.values())).shape, dtype=np.bool_)
    for basic in domain.get_basic_sets():
        inside |= _inside(basic, env)
    return inside * _affine(size, env)


def _inside(part: isl.BasicSet, env: Mapping[str, Ints]) -> NDArray[np.bool_]:
    found = np.ones(next(iter(env.values())).shape, dtype=np.bool_)
    for constraint in part.get_constraints():
        value = _affine(constraint.get_aff(), env)
        found &= (value == 0) if constraint.is_equality() else (value >= 0)
    return found


def _affine(f: isl.Aff, env: Mapping[str, Ints]) -> Ints:
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
            total += slope * _affine(f.get_div(k), env)
    return total // bottom
