"""A piece of the relation in the coordinates of a layout.

Before: `{ [r] -> [j] : r + offset - j >= 64 and (r + offset - j) mod 256 = 0 and ... }`
After (residue classes mod 256): `{ [a, b] : a - b + e >= 1 and ... }`, per class c of rows and d of keys.

`e` counts how many steps the key class lies behind: c + offset - phase = step * e + d. For isl it takes the place of
the offset, so that distances inside a class are plain differences and no modulus is left. Expressions that leave this
module have `e` written out in the variables of the plan.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import islpy as isl

from pidsl.codegen.plan.walks import Layout
from pidsl.codegen.tiling.forms import predicate
from pidsl.language.expr import Add, FloorDiv, Index, Pred, Sub, Var, simplify, substitute, substitute_pred
from pidsl.relation.isl import coalesced, read_map, read_set

LENGTHS = "n >= 1 and m >= 1 and offset >= 0"  # for which relations of rows and keys are compared


@dataclass(frozen=True, slots=True)
class Coordinates:
    """The isl side of a layout: parameters, what is known of them, and the map from (a, b) to (r, j)."""

    layout: Layout
    parameters: str  # "n, m, offset", or "n, m, c, d, e" with the offset written as `offset`
    offset: str
    known: str  # conditions on the parameters
    row: str  # r in terms of a
    key: str  # j in terms of b

    def parameter_set(self, extra: str = "", more: str = "") -> isl.Set:
        """What is known of the parameters (and of further ones, with `more` conditions)."""
        names = self.parameters + (f", {extra}" if extra else "")
        return read_set(f"[{names}] -> {{ : {self.known}{' and ' + more if more else ''} }}")

    def points(self, relation: isl.Map) -> isl.Set:
        """`[parameters] -> { [a, b] }`: the pairs of `relation` that lie in the layout's classes."""
        to_pair = read_map(
            f"[{self.parameters}] -> {{ [[r] -> [j]] -> [a, b] : r = {self.row} and j = {self.key} and {self.known} }}"
        )
        found = relation.wrap()
        if self.offset != "offset":
            here = read_set(f"[offset, {self.parameters}] -> {{ : offset = {self.offset} }}")
            found = found.intersect_params(here)
            position = found.find_dim_by_name(isl.dim_type.param, "offset")
            found = found.project_out(isl.dim_type.param, position, 1)
        names = read_set(f"[{self.parameters}] -> {{ : }}").get_space()
        return coalesced(found.apply(to_pair).align_params(names))

    @property
    def exists(self) -> isl.Set:
        """The (a, b) whose row and key exist."""
        inside = f"a >= 0 and b >= 0 and {self.row} < n and {self.key} < m"
        return read_set(f"[{self.parameters}] -> {{ [a, b] : {inside} and {self.known} }}")

    def plain(self, e: Index) -> Index:
        """`e` in the variables of the plan."""
        return substitute(e, self._steps_behind)

    def plain_pred(self, p: Pred) -> Pred:
        """`p` in the variables of the plan."""
        return substitute_pred(p, self._steps_behind)

    @property
    def _steps_behind(self) -> dict[str, Index]:
        step = self.layout.query_step
        if self.layout == Layout():
            return {}
        if step == 1:
            return {"e": Var("offset")}
        residue = self.layout.phase or self.layout.query_class or 0
        return {"e": FloorDiv(simplify(Sub(Add(Var("c"), Var("offset")), residue)), step)}


@lru_cache(maxsize=512)
def coordinates(layout: Layout, square: bool = False) -> Coordinates:
    """The isl side of `layout`; `square` adds that there are as many keys as query positions."""
    s, t = layout.query_step, layout.key_step
    if layout == Layout():
        parameters, offset, link = "n, m, offset", "offset", "offset >= 0"
    elif layout.linked:
        parameters, offset = "n, m, c, d, e", f"{s} e + d + {layout.phase} - c"
        link = f"0 <= c < {s} and 0 <= d < {s} and {offset} >= 0"
    else:  # fixed classes: position r + offset = query_class mod s
        parameters, offset = "n, m, c, d, e", f"{s} e + {layout.query_class or 0} - c"
        link = f"0 <= c < {s} and d = {layout.key_class or 0} and {offset} >= 0"
    known = f"n >= 1 and m >= 1 and {link}" + (f" and n + {offset} = m" if square else "")
    row, key = (f"{s} a + c", f"{t} b + d") if layout != Layout() else ("a", "b")
    return Coordinates(layout, parameters, offset, known, row, key)


def mask(at: Coordinates, points: isl.Set) -> isl.Set:
    """The condition on (a, b) under which an existing row and key are a pair of the piece."""
    return coalesced(points.gist(at.exists))


def mask_pred(at: Coordinates, simple: isl.Set) -> Pred:
    """`mask` as a predicate over the variables of the plan."""
    return at.plain_pred(predicate(simple, ("a", "b")))
