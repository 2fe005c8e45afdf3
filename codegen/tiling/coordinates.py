"""A piece of the relation in the coordinates of a layout.

Before: `{ [r] -> [j] : r + offset - j >= 64 and (r + offset - j) mod 256 = 0 and ... }`
After (residue classes mod 256): `{ [a, b] : a - b + e >= 1 and ... }`, per class c of rows and d of keys.

`e` counts how many steps the key class lies behind: c + offset - phase = step * e + d. For isl it takes the place of
the offset, so that distances inside a class are plain differences and no modulus is left. Expressions that leave this
module have `e` written out in the variables of the plan. Where keys are moved, e counts from the first of them (and may
be negative), and of fixed classes `f` takes the place of the key offset likewise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

import islpy as isl

from pidsl.codegen.plan.walks import Layout, Over, Run, Runs, Tiled
from pidsl.language.expr import Index, Pred, Var, substitute, substitute_pred
from pidsl.relation.forms import predicate
from pidsl.relation.isl import coalesced, read_map, read_set


@dataclass(frozen=True, slots=True)
class Coordinates:
    """The isl side of a layout: parameters, what is known of them, and the map from (a, b) to (r, j)."""

    layout: Layout
    parameters: str  # those of the frame, or "n, m, c, d, e" with the offset as in `written`
    written: tuple[tuple[str, str], ...]  # parameters of the frame that are no longer there, in those that are
    known: str  # conditions on the parameters
    row: str  # r in terms of a
    key: str  # j in terms of b
    behind: Mapping[str, Index] = field(compare=False)  # `e` and `f` in the variables of the plan

    def set(self, text: str, extra: str = "") -> isl.Set:
        """A set with these parameters (and `extra` ones), of what stands between its braces, where they are known."""
        return read_set(f"[{self.parameters}{extra}] -> {{ {text} and {self.known} }}")

    def map(self, text: str) -> isl.Map:
        """A map with these parameters: `[a, b] -> [t, x] : ...`."""
        return read_map(f"[{self.parameters}] -> {{ {text} }}")

    def points(self, relation: isl.Map) -> isl.Set:
        """`[parameters] -> { [a, b] }`: the pairs of `relation` that lie in the layout's classes."""
        to_pair = self.map(f"[[r] -> [j]] -> [a, b] : r = {self.row} and j = {self.key} and {self.known}")
        found = relation.wrap()
        for name, value in self.written:
            here = read_set(f"[{name}, {self.parameters}] -> {{ : {name} = {value} }}")
            found = found.intersect_params(here)
            found = found.project_out(isl.dim_type.param, found.find_dim_by_name(isl.dim_type.param, name), 1)
        names = read_set(f"[{self.parameters}] -> {{ : }}").get_space()
        return coalesced(found.apply(to_pair).align_params(names))

    @property
    def exists(self) -> isl.Set:
        """The (a, b) whose row and key exist."""
        return self.set(f"[a, b] : a >= 0 and b >= 0 and {self.row} < n and {self.key} < m")

    @property
    def quadrant(self) -> isl.Set:
        """All (a, b), for rows and keys without end."""
        return self.set("[a, b] : a >= 0 and b >= 0")

    def plain(self, e: Index) -> Index:
        """`e` in the variables of the plan."""
        return substitute(e, self.behind) if self.behind else e

    def plain_pred(self, p: Pred) -> Pred:
        """`p` in the variables of the plan."""
        return substitute_pred(p, self.behind)


@dataclass(frozen=True, slots=True)
class Tiles(Tiled):
    """Tiles of a layout: a program owns tile `t` of one dimension and visits those of the other (see `Runs`)."""

    at: Coordinates
    over: Over
    rows: int
    cols: int

    @property
    def last(self) -> Index:
        """Index of the last swept tile that exists; -1 when the class is empty."""
        layout = self.at.layout
        length, own_class, step = ("m", "d", layout.key_step) if self.over == "keys" else ("n", "c", layout.query_step)
        top = Var(length) - 1
        return (top if step == 1 else top - Var(own_class)) // (step * self.visited)

    @property
    def whole(self) -> Index:
        """How many tiles of keys of a class are complete."""
        step = self.at.layout.key_step
        length = Var("m") if step == 1 else Var("m") - Var("d") + (step - 1)
        return length // (step * self.visited)

    def every(self) -> Runs:
        """A loop over all tiles of the swept dimension, masked: right for any piece."""
        return self.walk([Run(False, 0, self.last)])

    def walk(self, runs: Iterable[Run]) -> Runs:
        """A walk of these runs, in the variables of the plan."""
        plain = self.at.plain
        found = (
            replace(x, first=plain(x.first), last=plain(x.last), guard=x.guard and self.at.plain_pred(x.guard))
            for x in runs
        )
        return Runs(self.at.layout, self.over, self.rows, self.cols, tuple(found))


def _behind(layout: Layout) -> dict[str, Index]:
    """`e` (and `f`) in the variables of the plan."""
    if layout.identity:
        return {}
    if layout.linked:
        return {"e": _steps("c", layout.frame.ahead, layout.phase or 0, layout.query_step)}
    found = {"e": _steps("c", Var("offset"), layout.query_class or 0, layout.query_step)}
    if layout.frame.moved:
        found["f"] = _steps("d", Var("key_offset"), layout.key_class or 0, layout.key_step)
    return found


def _steps(own_class: str, offset: Index, residue: int, step: int) -> Index:
    """Whole steps from the residue to the first row (key) of a class."""
    return offset if step == 1 else (Var(own_class) + offset - residue) // step


@lru_cache(maxsize=512)
def coordinates(layout: Layout, square: bool = False) -> Coordinates:
    """The isl side of `layout`; `square` adds that there are as many keys as query positions."""
    s, t, moved = layout.query_step, layout.key_step, layout.frame.moved
    offset, key_offset = "offset", "key_offset" if moved else "0"
    if layout.identity:
        parameters, link = layout.frame.parameters, "offset >= 0"
    elif layout.linked:
        parameters = "n, m, key_offset, c, d, e" if moved else "n, m, c, d, e"
        offset = f"{s} e + d + {layout.phase} - c" + (" + key_offset" if moved else "")
        link = f"0 <= c < {s} and 0 <= d < {s} and {offset} >= 0"
    else:  # fixed classes: position r + offset = query_class mod s
        parameters, offset = "n, m, c, d, e", f"{s} e + {layout.query_class or 0} - c"
        link = f"0 <= c < {s} and d = {layout.key_class or 0} and {offset} >= 0"
        if moved:
            parameters, key_offset = f"{parameters}, f", f"{t} f + {layout.key_class or 0} - d"
            link = f"0 <= c < {s} and 0 <= d < {t} and {offset} >= 0"
    known = f"n >= 1 and m >= 1 and {link}" + (f" and {key_offset} >= 0" if moved else "")
    if square:
        known += f" and n + {offset} = m" + (f" + {key_offset}" if moved else "")
    written = tuple((x, y) for x, y in (("offset", offset), ("key_offset", key_offset)) if x != y and y != "0")
    row, key = ("a", "b") if layout.identity else (f"{s} a + c", f"{t} b + d")
    return Coordinates(layout, parameters, written, known, row, key, _behind(layout))


def mask(at: Coordinates, points: isl.Set) -> isl.Set:
    """The condition on (a, b) under which an existing row and key are a pair of the piece."""
    return coalesced(points.gist(at.exists))


def mask_pred(at: Coordinates, simple: isl.Set) -> Pred:
    """`mask` as a predicate over the variables of the plan."""
    return at.plain_pred(predicate(simple, ("a", "b")))
