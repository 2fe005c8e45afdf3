"""Where rows stand: row r of q at position `r + offset`, row j of k and v at position `j + key_offset`.

    HOME     [n, m, offset] -> { [r] -> [j] }                keys start at position 0, as nearly always
    MOVED    [n, m, offset, key_offset] -> { [r] -> [j] }    a part of the keys: a trimmed cache, a step around a ring

Relations of rows have one frame or the other; so do the plans made from them, and their programs: without a parameter
there is less to decide for isl and an argument less for a kernel. What is said of positions in isl's notation or in
expressions comes from here.
"""

from __future__ import annotations

from dataclasses import dataclass

import islpy as isl

from pidsl.language.expr import Add, Index, Sub, Var, simplify
from pidsl.relation.isl import read_map, read_set


@dataclass(frozen=True, slots=True)
class Frame:
    """Which parameters a relation of rows has; `moved`: keys start at `key_offset`."""

    moved: bool = False

    @property
    def parameters(self) -> str:
        """Their names, the lengths first."""
        return "n, m, offset, key_offset" if self.moved else "n, m, offset"

    @property
    def names(self) -> tuple[str, ...]:
        """Their names, one by one."""
        return tuple(self.parameters.split(", "))

    @property
    def known(self) -> str:
        """For which parameters relations are compared: there are rows and keys."""
        return "n >= 1 and m >= 1 and offset >= 0" + (" and key_offset >= 0" if self.moved else "")

    @property
    def square(self) -> str:
        """That there are as many positions of keys as of queries."""
        return "n + offset = m + key_offset" if self.moved else "n + offset = m"

    @property
    def query(self) -> str:
        """The position of row r."""
        return "r + offset"

    @property
    def key(self) -> str:
        """The position of key j."""
        return "j + key_offset" if self.moved else "j"

    @property
    def lag(self) -> str:
        """How far key j lies behind row r."""
        return "r + offset - j - key_offset" if self.moved else "r + offset - j"

    @property
    def ahead(self) -> Index:
        """How far row 0 lies ahead of key 0."""
        return Sub(Var("offset"), Var("key_offset")) if self.moved else Var("offset")

    def key_at(self, j: Index) -> Index:
        """The position of a row of k."""
        return simplify(Add(j, Var("key_offset"))) if self.moved else j

    def set(self, text: str) -> isl.Set:
        """A set with these parameters, of what stands between its braces: `[r, j] : r = j`."""
        return read_set(f"[{self.parameters}] -> {{ {text} }}")

    def map(self, text: str) -> isl.Map:
        """A map with these parameters: `[r] -> [j] : r = j`."""
        return read_map(f"[{self.parameters}] -> {{ {text} }}")

    def compared(self) -> isl.Set:
        """The parameters for which relations are compared."""
        return self.set(f": {self.known}")

    def existing(self) -> isl.Set:
        """`{ [r, j] }`: rows and keys that there are."""
        return self.set(f"[r, j] : 0 <= r < n and 0 <= j < m and {self.known}")


HOME, MOVED = Frame(), Frame(moved=True)


def frame_of(relation: isl.Map) -> Frame:
    """The frame of a relation of rows."""
    return MOVED if relation.find_dim_by_name(isl.dim_type.param, "key_offset") >= 0 else HOME
