"""The lines of a Triton kernel about listed blocks: a program owns a tile of one block and visits the blocks listed
for it.

A list reaches the kernel as a table of int32 (`list_table`), once by blocks of queries and once by blocks of keys:
the blocks that have any, where the entries of each begin, and the entries.
"""

from __future__ import annotations

from collections.abc import Iterator

from pidsl.codegen.emit_triton.lines import Lines
from pidsl.codegen.plan.nodes import Piece
from pidsl.codegen.plan.walks import BlockList


def list_table(blocks: BlockList, *, by_keys: bool) -> tuple[int, list[int]]:
    """How many blocks own something, and the table: owners, begins (one more), entries."""
    pairs = sorted((j, i) if by_keys else (i, j) for i, j in blocks.blocks)
    owners = sorted({own for own, _ in pairs})
    count = dict.fromkeys(owners, 0)
    for own, _ in pairs:
        count[own] += 1
    begins = [0]
    for own in owners:
        begins.append(begins[-1] + count[own])
    return len(owners), [*owners, *begins, *(other for _, other in pairs)]


def table_name(number: int, *, by_keys: bool) -> str:
    """The name of a table, as an argument of kernels and in the program's `LISTS`."""
    return f"list_{number}_by_{'keys' if by_keys else 'queries'}"


def own_block(out: Lines, number: int, piece: Piece, tile: int, heads: str, *, rows: bool) -> None:
    """Which block, tile in it, head and batch entry the program has, and the positions of the tile."""
    name, size = table_name(number, by_keys=not rows), piece.layout.size
    count, _ = list_table(piece.layout, by_keys=not rows)
    tiles = -(-size // tile)
    position, less = ("r", " - offset") if rows else ("j", "")
    out.put(
        "n, m, offset = n.to(INDEX), m.to(INDEX), offset.to(INDEX)",
        "program = tl.program_id(0)",
        f"owner = program // {tiles} % {count}",
        f"head = program // {tiles * count} % {heads}",
        f"batch = program // {tiles * count} // {heads}",
        f"block = tl.load({name} + owner).to(INDEX)",
        f"begin = tl.load({name} + {count} + owner)",
        f"end = tl.load({name} + {count} + owner + 1)",
        f"own = program % {tiles} * {tile} + tl.arange(0, {tile})",
        f"{position} = block * {size} + own{less}",
    )
    test = "(r >= 0) & (r < n)" if rows else "(j < m)"
    out.put(f"exists = (own < {size}) & {test}" if size % tile else f"exists = {test}")


def list_loop(out: Lines, number: int, piece: Piece, *, over_keys: bool) -> Iterator[None]:
    """Open a loop over the tiles of the listed blocks; inside it, positions and which of them exist."""
    name, size = table_name(number, by_keys=not over_keys), piece.layout.size
    count, _ = list_table(piece.layout, by_keys=not over_keys)
    tile = piece.walk("forward" if over_keys else "grad_key").visited
    tiles = -(-size // tile)
    position, less = ("j", "") if over_keys else ("r", " - offset")
    out.put(f"# Piece {number}, {piece.layout}: those listed for the own one.")
    with out.block(f"for x in range(begin * {tiles}, end * {tiles}):"):
        out.put(
            f"other = tl.load({name} + {2 * count + 1} + x // {tiles}).to(INDEX)",
            f"y = x % {tiles} * {tile} + tl.arange(0, {tile})",
            f"{position} = other * {size} + y{less}",
        )
        test = "(j < m)" if over_keys else "(r >= 0) & (r < n)"
        out.put(f"inside = (y < {size}) & {test}" if size % tile else f"inside = {test}")
        yield
