"""Tiles of a pattern from its mask, until the relation has them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pidsl.language.terms import Term


@dataclass(frozen=True)
class Tiles:
    """Which tiles have a pair, and which have all."""

    some: NDArray[np.bool_]
    every: NDArray[np.bool_]


def tile_map(term: Term, n: int, m: int, *, rows: int, columns: int) -> Tiles:
    """The tiles of n x m pairs."""
    mask = term.mask(n, m)
    shape = -(-n // rows), rows, -(-m // columns), columns
    padding = ((0, -n % rows), (0, -m % columns))
    some = np.pad(mask, padding).reshape(shape).any(axis=(1, 3))
    every = np.pad(mask, padding, constant_values=True).reshape(shape).all(axis=(1, 3))
    return Tiles(np.asarray(some), np.asarray(every & some))
