"""Which tiles of the mask hold a pair, and which hold all of theirs, from the relation: no n x m array is made.

    some    the image of the pairs under (row, key) -> (row // rows, key // columns)
    every   all tiles without the image of the pairs that are missing

isl finds both images once, for all lengths. A convex part of an image is, for a row of tiles, an interval of tiles
where its constraints can be solved for the column; else its condition is evaluated at the tiles. Where isl finds no
images, the pairs of each tile are counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import islpy as isl
import numpy as np
from numpy.typing import NDArray

from pidsl.errors import SizeError, TooHardError
from pidsl.language.expr import Index, Pred, evaluate, holds, largest, vars_in, whole
from pidsl.language.terms import Term, require_free
from pidsl.relation.build import patience_for, relation, rows_relation
from pidsl.relation.counting import SAFE, count_loops, key_loops
from pidsl.relation.forms import constraints
from pidsl.relation.frame import HOME, MOVED
from pidsl.relation.isl import coalesced, convex_parts, limited, read_map, read_set
from pidsl.relation.oracle import check_lengths

__all__ = ["Tiles", "tile_map"]

Bools = NDArray[np.bool_]

MOST = 1 << 28  # tiles, two bytes each
OPERATIONS = 500_000  # of isl, before the pairs of each tile are counted
SHORT = 1 << 31


@dataclass(frozen=True, slots=True)
class Tiles:
    """The tiles of a mask of n queries and m keys; the last ones end where the mask does.

    Args:
        some: bool [row tiles, column tiles], whether a tile has a pair.
        every: of the same shape, whether all pairs of the tile that lie inside of n x m are attended.
        n, m: how many queries and keys.
        rows, columns: of a whole tile, in queries and keys.
    """

    some: Bools
    every: Bools
    n: int
    m: int
    rows: int
    columns: int

    @property
    def partial(self) -> Bools:
        """Tiles with some of their pairs, and not all."""
        return self.some & ~self.every


def tile_map(
    term: Term, n: int, m: int | None = None, offset: int = 0, key_offset: int = 0, *, rows: int = 128,
    columns: int = 128,
) -> Tiles:  # fmt: skip
    """The tiles of `term.mask(n, m, offset, key_offset)`; tile (t, c) has the rows from t * rows and the keys from
    c * columns on.

    >>> import pidsl
    >>> tiles = tile_map(pidsl.causal, 5, rows=2, columns=2)
    >>> (tiles.some.astype(int) + tiles.every).tolist()  # 0: no pair, 1: some, 2: every
    [[1, 0, 0], [2, 1, 0], [2, 2, 2]]

    Args:
        term: a pattern that is not confined to documents.
        n, m, offset, key_offset: as of `term.mask`.
        rows, columns: queries and keys of a tile.

    Raises:
        SizeError: a length that is none, or does not fit; more tiles than memory is meant for.
        SymbolError: the term holds unbound symbols.
        TermError: a pattern confined to documents: where they start decides which tiles hold pairs.
        TooHardError: isl's operation limit struck, on the keys of single queries too.
    """
    require_free(term, "which tiles hold pairs")
    n, m, offset, key_offset = check_lengths(term, n, m, offset, key_offset)
    for name, size in (("rows", rows), ("columns", columns)):
        if (whole(size) or 0) < 1:
            raise SizeError(f"{name} = {size!r}", "an integer >= 1", repr(term))
    down, across = -(-n // rows), -(-m // columns)
    if down * across > MOST:
        given, hint = f"{down} x {across} tiles", "larger tiles: rows=1024, columns=1024"
        raise SizeError(given, f"at most {MOST} of them", repr(term), hint)
    if not down * across:
        nothing = np.zeros((down, across), dtype=np.bool_)
        return Tiles(nothing, nothing.copy(), n, m, rows, columns)
    frame = "keys" if key_offset else "rows" if offset else "none"
    found = _images(term, frame, rows, columns)
    if isinstance(found, TooHardError):
        return _counted(term, (n, m, offset, key_offset), rows, columns)
    env = {"n": n, "m": m, "offset": offset, "key_offset": key_offset}
    some, missing = (_evaluated(parts, env, down, across) for parts in found)
    return Tiles(some, ~missing, n, m, rows, columns)


@dataclass(frozen=True, slots=True)
class _Part:
    """A convex part of the tiles `{ [t, c] }`: those within all bounds on c for which all tests hold."""

    least: tuple[Index, ...]
    most: tuple[Index, ...]
    tests: tuple[Pred, ...]


_FRAMES = {  # the positions of the relation, by what starts beyond position 0
    "none": ("n, m", "n >= 1 and m >= 1"),
    "rows": (HOME.parameters, HOME.known),
    "keys": (MOVED.parameters, MOVED.known),
}


@lru_cache(maxsize=256)
def _images(term: Term, frame: str, rows: int, columns: int) -> tuple[list[_Part], list[_Part]] | TooHardError:
    """The tiles that have a pair, and those that lack one; or why isl cannot say: failing is remembered too."""
    parameters, known = _FRAMES[frame]
    x = relation(term) if frame == "none" else rows_relation(term, MOVED if frame == "keys" else HOME)
    inside = f"{rows} t <= i < {rows} t + {rows} and {columns} c <= j < {columns} c + {columns}"
    to_tile = read_map(f"[{parameters}] -> {{ [i, j] -> [t, c] : {inside} }}")
    there = read_set(f"[{parameters}] -> {{ [i, j] : 0 <= i < n and 0 <= j < m and {known} }}")
    tiles = read_set(f"[{parameters}] -> {{ [t, c] : 0 <= {rows} t < n and 0 <= {columns} c < m and {known} }}")
    try:
        with limited(f"the tiles of {term!r}", OPERATIONS * patience_for(term)):
            pairs = x.wrap().flatten() & there
            some, missing = (coalesced(p.apply(to_tile)).gist(tiles) for p in (pairs, there - pairs))
            return _parts(some), _parts(missing)
    except TooHardError as e:
        return e.with_traceback(None)


def _parts(tiles: isl.Set) -> list[_Part]:
    return [_part(convex) for convex in convex_parts(tiles)]


def _part(convex: isl.BasicSet) -> _Part:
    least, most, tests = list[Index](), list[Index](), list[Pred]()
    for constraint in constraints(convex, ("t", "c")):
        solved = constraint.solved("c")
        factor = solved.form.terms.get("c", 0)
        if not solved.exact or not factor:
            tests.append(constraint.form.compare(">="))
        else:
            (least if factor > 0 else most).append(solved.form.bound("c").index())
    return _Part(tuple(least), tuple(most), tuple(tests))


def _evaluated(parts: list[_Part], env: Mapping[str, int], down: int, across: int) -> Bools:
    """bool [down, across]: the tiles that lie in any of the parts."""
    out = np.zeros((down, across), dtype=np.bool_)
    far = max(*env.values(), down, across)
    for part in parts:
        most = max((largest(x, far) for x in (*part.least, *part.most, *part.tests)), default=0)
        dtype: Any = np.int32 if most < SHORT else np.int64 if most < SAFE else object
        t = np.arange(down).astype(dtype)
        of_row, of_tile = ([x for x in part.tests if ("c" in vars_in(x)) == tile] for tile in (False, True))
        row = np.flatnonzero(_all_hold(of_row, {**env, "t": t}, down))
        own = {**env, "t": t[row]}
        first, last = np.zeros(len(row), dtype=dtype), np.full(len(row), across - 1, dtype=dtype)
        for bound in part.least:
            first = np.maximum(first, evaluate(bound, own))
        for bound in part.most:
            last = np.minimum(last, evaluate(bound, own))
        some = np.asarray(first <= last, dtype=np.bool_)
        row, first, last = row[some], first[some].astype(np.int64), last[some].astype(np.int64)
        wide = last - first + 1
        begin, end = int(first.min(initial=across)), int(last.max(initial=-1)) + 1
        if of_tile and 4 * int(wide.sum()) > len(row) * (end - begin) > 0:  # most of a box, by rows and columns of it
            grid = {**env, "t": row[:, None].astype(dtype), "c": np.arange(begin, end).astype(dtype)}
            holding = _all_hold(of_tile, grid, (len(row), end - begin))
            for r, a, b, here in zip(row.tolist(), first.tolist(), (last + 1).tolist(), holding, strict=True):
                out[r, a:b] |= here[a - begin : b - begin]
        elif of_tile:
            own_rows = np.repeat(row, wide)
            tile = np.arange(len(own_rows)) + np.repeat(first - np.cumsum(wide) + wide, wide)
            holding = _all_hold(of_tile, {**env, "t": own_rows.astype(dtype), "c": tile.astype(dtype)}, len(tile))
            out[own_rows[holding], tile[holding]] = True
        else:
            for r, a, b in zip(row.tolist(), first.tolist(), (last + 1).tolist(), strict=True):
                out[r, a:b] = True
    return out


def _all_hold(tests: list[Pred], env: Mapping[str, Any], shape: int | tuple[int, ...]) -> Bools:
    found = np.ones(shape, dtype=np.bool_)
    for test in tests:
        found &= np.asarray(holds(test, env), dtype=np.bool_)
    return found


def _counted(term: Term, lengths: tuple[int, int, int, int], rows: int, columns: int) -> Tiles:
    """By counting the keys of each query at every border between tiles."""
    n, m, offset, key_offset = lengths
    parts = key_loops(term)
    env = {"n": n + offset, "m": m + key_offset, "i": np.arange(offset, offset + n)}
    row_tiles = np.arange(0, n, rows)
    counts = np.zeros((len(row_tiles), -(-m // columns)), dtype=np.int64)
    behind = count_loops(parts, env, key_offset)
    for c in range(counts.shape[1]):
        rest = count_loops(parts, env, key_offset + (c + 1) * columns)
        counts[:, c] = np.add.reduceat(behind - rest, row_tiles)
        behind = rest
    high = np.minimum(row_tiles + rows, n) - row_tiles
    starts = np.arange(0, m, columns)
    wide = np.minimum(starts + columns, m) - starts
    return Tiles(counts > 0, counts == high[:, None] * wide, n, m, rows, columns)
