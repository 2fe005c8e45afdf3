"""Counting the points of a two-dimensional isl set for many parameters at once, in closed form.

A line of the plane holds an arithmetic progression of points, whose size is affine along the lines, or along those of
a residue class. So the sum over a progression of lines is its length times the mean of its ends: nothing is listed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import gcd, lcm
from typing import Any

import islpy as isl
import numpy as np

from pidsl.analysis.counting.progressions import Progression, progressions
from pidsl.errors import TooHardError
from pidsl.relation.isl import limited
from pidsl.relation.pieces import Ints, affine_at, value_at

_dim: Any = isl.dim_type
LINE = "line"  # the parameter that says which line
MOST = 1 << 23  # values of a size that are looked at at once


@dataclass(frozen=True)
class Slab:
    """Lines with points whose number is affine along every so many of them.

    Args:
        lines: which lines, as functions of the parameters.
        size: how many points are in a line, as a function of the parameters and of the line.
        every: lines after which what is rounded in `size` comes again.
    """

    lines: Progression
    size: isl.Aff
    every: int

    def total(self, env: Mapping[str, Ints]) -> Ints:
        """Points of all lines, for arrays of parameters of one dimension.

        Raises:
            TooHardError: too many residue classes of lines for so many parameters.
        """
        step = max(self.lines.step, 1)
        classes = self.every // gcd(self.every, step)
        at = next(iter(env.values()))
        if classes * at.size > MOST:
            raise TooHardError(f"{classes} classes of lines for {at.size} values", f"at most {MOST} in all")
        lines = value_at(self.lines.size(), env)
        first = value_at(self.lines.first, env) + step * np.arange(classes)[:, np.newaxis]
        count = np.maximum(0, (lines - np.arange(classes)[:, np.newaxis] - 1) // classes + 1)
        last = first + (count - 1) * step * classes
        spread = {name: np.broadcast_to(values, first.shape) for name, values in env.items()}
        ends = affine_at(self.size, {**spread, LINE: first}) + affine_at(self.size, {**spread, LINE: last})
        return np.asarray(np.where(count > 0, count * ends // 2, 0).sum(axis=0))


def plane_counter(points: isl.Set) -> Callable[[Mapping[str, Ints]], Ints]:
    """Counts the points of a two-dimensional set, for arrays of its parameters.

    Raises:
        TooHardError: isl finds no progressions of progressions within its limits.
    """
    return partial(_total, slabs(points))


def slabs(points: isl.Set) -> list[Slab]:
    """Disjoint slabs that are the points, together.

    Args:
        points: two-dimensional, with any parameters.

    Raises:
        TooHardError: there are none within isl's limits.
    """
    at = points.dim(_dim.param)
    lines = points.move_dims(_dim.param, at, _dim.set, 0, 1).set_dim_name(_dim.param, at, LINE)
    found: list[Slab] = []
    with limited("points of a plane"):
        for line in progressions(lines):
            for domain, size in line.size().get_pieces():
                where = domain.find_dim_by_name(_dim.param, LINE)
                which = isl.Set.from_params(domain)
                which = which.move_dims(_dim.set, 0, _dim.param, where, 1)
                every = _modulus(size, LINE)
                found += [Slab(lines_of, size, every) for lines_of in progressions(which)]
    return found


def _total(found: list[Slab], env: Mapping[str, Ints]) -> Ints:
    some = next(iter(env.values()))
    return sum((slab.total(env) for slab in found), np.zeros(some.shape, dtype=np.int64))


def _modulus(f: isl.Aff, name: str) -> int:
    """A number of lines after which what is rounded in a function comes again."""
    found = 1
    where = f.find_dim_by_name(_dim.param, name)
    for k in range(f.dim(_dim.div)):
        if int(f.get_coefficient_val(_dim.div, k).get_num_si()) and _involves(f.get_div(k), where):
            found = lcm(found, _denominators(f.get_div(k)))
    return found


def _involves(f: isl.Aff, where: int) -> bool:
    own = not f.get_coefficient_val(_dim.param, where).is_zero()
    parts = (f.get_div(k) for k in range(f.dim(_dim.div)) if not f.get_coefficient_val(_dim.div, k).is_zero())
    return own or any(_involves(part, where) for part in parts)


def _denominators(f: isl.Aff) -> int:
    """The denominator of a function, times those of what is rounded in it."""
    found = int(f.get_denominator_val().to_python())
    for k in range(f.dim(_dim.div)):
        if not f.get_coefficient_val(_dim.div, k).is_zero():
            found *= _denominators(f.get_div(k))
    return found
