"""The lines of a Triton kernel about listed blocks: a program owns a tile of one block and visits the blocks listed
for it.

A list reaches the kernel as a table of int32 (`list_table`), once by blocks of queries and once by blocks of keys:
the blocks that have any, where the entries of each begin, and the entries.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from itertools import accumulate

from pidsl.codegen.emit_triton.lines import Lines
from pidsl.codegen.emit_triton.walker import Tile, Walker
from pidsl.codegen.plan.walks import BlockList, Listed


def list_table(blocks: BlockList, *, by_keys: bool) -> tuple[int, list[int]]:
    """How many blocks own something, and the table: owners, begins (one more), entries."""
    pairs = sorted((j, i) if by_keys else (i, j) for i, j in blocks.blocks)
    counts = Counter(own for own, _ in pairs)
    return len(counts), [*counts, *accumulate(counts.values(), initial=0), *(other for _, other in pairs)]


def table_name(number: int, *, by_keys: bool) -> str:
    """The name of a table, as an argument of kernels and in the program's `LISTS`."""
    return f"list_{number}_by_{'keys' if by_keys else 'queries'}"


class ListedWalker(Walker[Listed]):
    """Tiles of the blocks that are listed for the own one."""

    @cached_property
    def _table(self) -> tuple[str, int]:
        """The name of the table, and how many blocks own something."""
        by_keys = not self.over_keys
        return table_name(self.number, by_keys=by_keys), list_table(self.walk.layout, by_keys=by_keys)[0]

    def own(self, out: Lines, heads: str) -> None:
        (name, count), size, tile, own = self._table, self.walk.layout.size, self.walk.owned, self.owned
        tiles = -(-size // tile)
        out.put(
            self.to_index,
            "program = tl.program_id(0)",
            f"owner = program // {tiles} % {count}",
            f"head = program // {tiles * count} % {heads}",
            f"batch = program // {tiles * count} // {heads}",
            f"block = tl.load({name} + owner).to(INDEX)",
            f"begin = tl.load({name} + {count} + owner)",
            f"end = tl.load({name} + {count} + owner + 1)",
            f"own = program % {tiles} * {tile} + tl.arange(0, {tile})",
            f"{own.name} = block * {size} + own{own.less}",
        )
        out.put(f"exists = {own.exist(*[f'(own < {size})'] * (size % tile > 0))}")

    def tiles(self, out: Lines) -> Iterator[Tile]:
        (name, count), size, tile, swept = self._table, self.walk.layout.size, self.walk.visited, self.swept
        tiles = -(-size // tile)
        out.put(f"# Piece {self.number}, {self.walk.layout}: those listed for the own one.")
        with out.block(f"for x in range(begin * {tiles}, end * {tiles}):"):
            out.put(
                f"other = tl.load({name} + {2 * count + 1} + x // {tiles}).to(INDEX)",
                f"y = x % {tiles} * {tile} + tl.arange(0, {tile})",
                f"{swept.name} = other * {size} + y{swept.less}",
            )
            out.put(f"inside = {swept.exist(*[f'(y < {size})'] * (size % tile > 0))}")
            yield Tile(self.kept(("r", "j")))

    @property
    def pad(self) -> int:
        return 2 * self.walk.layout.size
