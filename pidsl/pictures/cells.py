"""A pattern as cells of a picture: token by token where they fit, else a cell is a tile, drawn from the relation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pidsl.errors import SizeError
from pidsl.language.terms import Term
from pidsl.relation.oracle import check_lengths, dense_mask, document_mask
from pidsl.relation.tiles import tile_map

MOST = 512  # cells of a side, unless tiles are asked for
TILES = 2048  # tiles of a side that are drawn when they are asked for

NONE, SOME, EVERY = 0, 1, 2

Kinds = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """Cells of `rows` queries x `columns` keys.

    Args:
        kinds: uint8 [R, C]: NONE, SOME or EVERY pair of the cell that exists is attended.
        n, m: queries and keys.
    """

    kinds: Kinds
    rows: int
    columns: int
    n: int
    m: int

    @property
    def of_pairs(self) -> bool:
        """A cell is a pair."""
        return self.rows == self.columns == 1

    def spread(self) -> Kinds:
        """uint8 [n, m]: the kind of the cell that each pair lies in."""
        rows = np.repeat(np.arange(len(self.kinds)), self.rows)[: self.n]
        columns = np.repeat(np.arange(self.kinds.shape[1]), self.columns)[: self.m]
        return np.asarray(self.kinds[rows[:, None], columns[None, :]])


def side(length: int, most: int = MOST) -> int:
    """The smallest power of two, positions per cell, with which at most `most` cells are needed.

    >>> side(512), side(513), side(1_000_000)
    (1, 2, 2048)
    """
    cell = 1
    while -(-length // cell) > most:
        cell *= 2
    return cell


def cells_of(term: Term, n: int, m: int | None = None, *, most: int = MOST) -> Cells:
    """The cells of a pattern, as small as a picture of `most` cells a side allows."""
    rows, columns, _, _ = check_lengths(term, n, m, 0)
    cell = side(max(rows, columns), most)
    if cell == 1:
        return from_mask(dense_mask(term, rows, columns))
    return tiles_of(term, rows, columns, (cell, cell))


def tiles_of(term: Term, n: int, m: int | None, tiles: int | tuple[int, int]) -> Cells:
    """The tiles of a pattern: skipped, partial (SOME) or full (EVERY).

    Raises:
        SizeError: a tile that is none, or more tiles than are drawn.
    """
    rows, columns, _, _ = check_lengths(term, n, m, 0)
    height, width = tile_sides(tiles)
    if max(-(-rows // height), -(-columns // width)) > TILES:
        least = side(max(rows, columns), TILES)
        raise SizeError(f"tiles of {height} x {width} over {rows} x {columns} pairs", f"tiles of {least} and more")
    found = tile_map(term, rows, columns, rows=height, columns=width)
    return Cells(found.some.astype(np.uint8) + (found.some & found.every), height, width, rows, columns)


def from_mask(mask: NDArray[np.bool_]) -> Cells:
    """A mask, every pair a cell."""
    return Cells(mask.astype(np.uint8) * EVERY, 1, 1, *mask.shape)


def of_documents(term: Term, n: int, documents: Any) -> Cells:
    """A pattern within documents, over n tokens; of many tokens a cell is a tile.

    Raises:
        SizeError: too many tokens for a mask, or documents that are none.
    """
    tokens = check_lengths(term, n, None, 0)[0]
    if tokens > TILES * 4:
        raise SizeError(f"documents of n = {tokens} tokens", f"at most {TILES * 4}: they are drawn from their mask")
    mask = document_mask(term, tokens, None, 0, 0, documents)
    cell = side(tokens)
    if cell == 1:
        return from_mask(mask)
    return tiled(mask, cell, cell)


def tiled(mask: NDArray[np.bool_], rows: int, columns: int) -> Cells:
    """The tiles of a mask, bool [n, m]."""
    n, m = mask.shape
    shape = -(-n // rows), rows, -(-m // columns), columns
    padding = ((0, -n % rows), (0, -m % columns))
    some = np.pad(mask, padding).reshape(shape).any(axis=(1, 3))
    every = np.pad(mask, padding, constant_values=True).reshape(shape).all(axis=(1, 3))
    return Cells(np.asarray(some.astype(np.uint8) + (some & every)), rows, columns, n, m)


def tile_sides(tiles: object) -> tuple[int, int]:
    """Rows and columns of a tile.

    Raises:
        SizeError: no whole numbers >= 1.
    """
    pair = tiles if isinstance(tiles, tuple) else (tiles, tiles)
    whole = [x for x in pair if isinstance(x, int | np.integer) and not isinstance(x, bool) and x >= 1]
    if len(whole) != 2 or len(pair) != 2:
        raise SizeError(f"tiles = {tiles!r}", 'rows and keys of a tile, (64, 128), one number for both, or "plan"')
    return int(whole[0]), int(whole[1])
