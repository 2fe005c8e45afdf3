"""Listed blocks as device functions: a program owns a tile of one block and visits the blocks listed
for it.

A list reaches the kernel as a table of int32 (`list_table`), once by blocks of queries and once by blocks of keys:
the blocks that have any, where the entries of each begin, and the entries.
"""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from itertools import accumulate
from typing import Any

from pidsl.codegen.emit_triton.lines import Lines
from pidsl.codegen.emit_triton.walker import Walker
from pidsl.codegen.plan.walks import BlockList, Listed


def list_table(blocks: BlockList, *, by_keys: bool) -> tuple[int, list[int]]:
    """How many blocks own something, and the table: owners, begins (one more), entries."""
    pairs = sorted((j, i) if by_keys else (i, j) for i, j in blocks.blocks)
    counts = Counter(own for own, _ in pairs)
    return len(counts), [*counts, *accumulate(counts.values(), initial=0), *(other for _, other in pairs)]


def table_name(number: int, *, by_keys: bool) -> str:
    """The name of a table, as an argument of kernels and in the program's `LISTS`."""
    return f"list_{number}_by_{'keys' if by_keys else 'queries'}"


def doc_of(walker: Walker[Any]) -> str:
    """What a walker over blocks that are listed for the own one does."""
    own, met = ("rows", "keys") if walker.over_keys else ("keys", "rows")
    sizes = walker.walk.owned, walker.walk.visited
    meet = f"what {sizes[0]} {own} meet in the listed ones, in tiles of {sizes[1]} {met}"
    return f"Piece {walker.number}, {walker.walk.layout}: {meet}."


class ListedWalker(Walker[Listed]):
    """Tiles of the blocks that are listed for the own one."""

    @cached_property
    def table(self) -> str:
        """The name of the table."""
        return table_name(self.number, by_keys=not self.over_keys)

    @cached_property
    def _count(self) -> int:
        """How many blocks own something."""
        return list_table(self.walk.layout, by_keys=not self.over_keys)[0]

    @property
    def doc(self) -> str:
        return doc_of(self)

    def put_own(self, out: Lines) -> list[str]:
        count, size, tile, own = self._count, self.walk.layout.size, self.walk.owned, self.owned
        tiles = -(-size // tile)
        out.put(
            f"block = tl.load(table + t // {tiles}).to(KIND.INDEX)",
            f"begin = tl.load(table + {count} + t // {tiles})",
            f"end = tl.load(table + {count} + t // {tiles} + 1)",
            f"own = t % {tiles} * {tile} + tl.arange(0, {tile})",
            f"{own.name} = block * {size} + own" + (" - first" if own.first else ""),
            f"exists = {own.exist(*[f'(own < {size})'] * (size % tile > 0), length='length')}",
        )
        return [own.name, "begin", "end", f"table + {2 * count + 1}"]

    def loops(self, out: Lines) -> None:
        size, tile, own, swept = self.walk.layout.size, self.walk.visited, self.owned, self.swept
        tiles = -(-size // tile)
        out.put(f"{own.name}, begin, end, entries = {own.letter}")
        out.put(f"first, stop = _part(begin * {tiles}, end * {tiles}, split, KIND)")
        with out.block("for x in range(first, stop):"):
            out.put(
                f"other = tl.load(entries + x // {tiles}).to(KIND.INDEX)",
                f"y = x % {tiles} * {tile} + tl.arange(0, {tile})",
                f"{swept.name} = other * {size} + y{swept.less}",
                f"inside = {swept.exist(*[f'(y < {size})'] * (size % tile > 0))}",
            )
            out.put(f"keep = {self.kept((own.name, swept.name))}")
            out.put(f"state = DO[1](task, state, 0, 0, {swept.name}, inside, keep, KIND)")

    @property
    def pad(self) -> int:
        return 2 * self.walk.layout.size
