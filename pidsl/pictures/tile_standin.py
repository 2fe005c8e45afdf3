"""Tiles of a pattern by counting the keys of each query at every border between tiles."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pidsl.language.terms import Term
from pidsl.relation.counting import count_loops, key_loops


@dataclass(frozen=True)
class Tiles:
    """Which tiles have a pair, and which have all."""

    some: NDArray[np.bool_]
    every: NDArray[np.bool_]


def tile_map(term: Term, n: int, m: int, *, rows: int, columns: int) -> Tiles:
    """The tiles of n x m pairs."""
    starts, edges = np.arange(0, n, rows), np.arange(0, m, columns)
    if not len(starts) or not len(edges):
        nothing = np.zeros((len(starts), len(edges)), dtype=np.bool_)
        return Tiles(nothing, nothing)
    parts, env = key_loops(term), {"n": n, "m": m, "i": np.arange(n)}
    behind = [np.add.reduceat(count_loops(parts, env, int(edge)), starts) for edge in (*edges, m)]
    counts = np.stack([a - b for a, b in pairwise(behind)], axis=1)
    sizes = (np.minimum(starts + rows, n) - starts)[:, None] * (np.minimum(edges + columns, m) - edges)
    return Tiles(counts > 0, counts == sizes)
