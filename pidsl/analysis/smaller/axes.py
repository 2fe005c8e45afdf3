"""Patterns of one grid of several axes, as a pattern per axis: what is said of a grid is said of its axes.

The relation of a grid is a product of relations between the positions on its axes: a token attends another where every
axis says so. Products of products are products of compositions, and so are intersections and transposes; a union is
one where its parts differ on one axis only. Tokens behind the grid attend nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from pidsl.analysis.dense import Masks, times
from pidsl.language.terms import Compose, Halo, Intersection, Neighborhood, Power, Term, Transpose, Union, walk
from pidsl.relation.counting import axes
from pidsl.relation.oracle import dense_mask

LONGEST = 2048  # positions on an axis


@dataclass(frozen=True)
class Grid:
    """Layers of patterns of one grid.

    Args:
        shape: positions on each axis.
        layers: for each layer, the one at the input first, the mask of each axis.
    """

    shape: tuple[int, ...]
    layers: tuple[Masks, ...]

    @property
    def tokens(self) -> int:
        return prod(self.shape)

    @property
    def strides(self) -> tuple[int, ...]:
        """How many tokens one position on each axis is."""
        return strides_of(self.shape)

    def looks_back(self) -> bool:
        """Whether no token attends a later one."""
        return not any(np.triu(mask, 1).any() for layer in self.layers for mask in layer)


def strides_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    """How many tokens one position on each axis is."""
    return tuple(prod(shape[k + 1 :]) for k in range(len(shape)))


def shape_of_grid(subject: Any) -> tuple[int, ...] | None:
    """The shape of the grid that patterns are made of, of several axes; None where they have none, or other words."""
    terms = subject if isinstance(subject, tuple) else (subject,)
    parts = [part for term in terms for part in walk(term)]
    made = Neighborhood | Halo | Intersection | Union | Transpose | Compose | Power
    if not parts or not all(isinstance(x, made) for x in parts):
        return None
    shapes = {x.shape for x in parts if isinstance(x, Neighborhood | Halo)}
    powers = all(isinstance(x.layers, int) and x.layers >= 1 for x in parts if isinstance(x, Power))
    shape = shapes.pop()
    return shape if powers and not shapes and len(shape) > 1 and max(shape) <= LONGEST else None


def grid_of(subject: Any) -> Grid | None:
    """Patterns of one grid of several axes, by their axes; None for anything else, or for long axes."""
    shape = shape_of_grid(subject)
    if shape is None:
        return None
    layers = [_axes(term) for term in (subject if isinstance(subject, tuple) else (subject,))]
    return Grid(shape, tuple(x for x in layers if x is not None)) if None not in layers else None


@lru_cache(maxsize=64)
def _axes(term: Term) -> Masks | None:
    """The mask of each axis; None where the pattern is no product of them."""
    match term:
        case Neighborhood() | Halo():
            return tuple(dense_mask(axis, axis.shape[0]) for axis in axes(term))
        case Transpose(a):
            return None if (x := _axes(a)) is None else tuple(mask.T for mask in x)
        case Power(a, layers):
            return None if (x := _axes(a)) is None else _power(x, int(layers))  # type: ignore[arg-type]
        case Intersection(a, b) | Union(a, b) | Compose(a, b):
            x, y = _axes(a), _axes(b)
            if x is None or y is None:
                return None
            if isinstance(term, Compose):
                return tuple(map(times, x, y))
            if isinstance(term, Intersection):
                return tuple(p & q for p, q in zip(x, y, strict=True))
            differ = [not (p == q).all() for p, q in zip(x, y, strict=True)]
            return tuple(p | q for p, q in zip(x, y, strict=True)) if sum(differ) <= 1 else None
        case _:
            return None


def _power(masks: Masks, layers: int) -> Masks:
    seen = masks
    for _ in range(layers - 1):
        seen = tuple(map(times, masks, seen))
    return seen
