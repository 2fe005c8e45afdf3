"""Pieces whose tiles are boxes of a grid: what is near on every axis is far apart in the sequence.

A neighbourhood of 7 x 7 tokens in rows of 64 reaches over 391 positions. In boxes it is dense: 8 x 8 queries attend
keys of 14 x 14 tokens. A box of queries visits, on every axis, the keys from the first one that its first query attends
to the last one of its last query, because no bound ever falls; and likewise a box of keys the queries.

The sizes of boxes are powers of two, the cheapest ones by the cost model (`cost`): small boxes compute few pairs that
are not attended, large ones use the machine well.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, cached_property
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pidsl.codegen.choice.cost import LONGEST, REFERENCE, Backend, Box, Tiling, Work, cheapest
from pidsl.codegen.choice.grid_axes import GridAxis
from pidsl.codegen.plan.nodes import Piece
from pidsl.codegen.plan.walks import Boxes, Grid, Over, Pass
from pidsl.codegen.plan.work import on_axis
from pidsl.language.algebra import greatest, plus, smallest, times
from pidsl.language.expr import Index, Var, holds

LIKELY = 3  # boxes of so many queries that are looked at with every box of keys: those that meet fewest keys
SAMPLE = 512  # queries of an axis looked at to count the pairs attended
A, B, T = Var("a"), Var("b"), Var("t")


class Product:
    """The boxes in which a product of axes can be computed.

    Args:
        axes: the axes of the grid, the slowest first.
        backend: whose prices.
        length: tokens at which costs are compared, of a grid that does not end.
    """

    def __init__(self, axes: Sequence[GridAxis], backend: Backend, length: int = REFERENCE) -> None:
        self.axes, self.backend, self.length = tuple(axes), backend, length
        self.grid = Grid(tuple(x.length for x in axes))
        self._span = cache(self._find_span)

    def piece(self, relation: Any) -> Piece:
        """The cheapest piece of the backend, and the loops of its programs."""
        backend, forward = self.backend, self.cheapest
        back = self.best("grad_query") if backend.grad_query else forward
        over_queries = None
        if backend.grad_key:
            keys = self.best("grad_key")
            over_queries = self.sweep("queries", keys.cols, keys.rows)
        tokens, whole = self.grid.tokens, self.length // self.grid.strides[0] * self.grid.strides[0]
        return Piece(
            tuple(x.keep(A, B) for x in self.axes),
            self.sweep("keys", forward.rows, forward.cols),
            self.sweep("keys", back.rows, back.cols),
            over_queries,
            relation,
            reference=tokens if tokens is not None and tokens <= LONGEST else whole or self.length,
        )

    @cached_property
    def cheapest(self) -> Tiling:
        """The sizes of boxes of queries and of keys of the forward pass."""
        return self.best("forward")

    def best(self, task: Pass) -> Tiling:
        """The sizes of boxes of queries and of keys that cost least in a pass."""
        over: Over = "queries" if task == "grad_key" else "keys"
        found = []
        for x in self.backend.prices(task):
            owned, visited = (x.rows, x.cols) if over == "keys" else (x.cols, x.rows)
            exact = (1,) * len(self.axes)
            own_boxes = sorted(self._boxes(owned), key=lambda own: (self.work(own, exact, over).pairs, own))
            for swept in self._boxes(visited):
                for own in own_boxes[:LIKELY]:
                    work = self.work(own, swept, over)
                    boxes = (own, swept) if over == "keys" else (swept, own)
                    found.append(Tiling(x.cost(work, owned), *boxes, work))
        return cheapest(found, self._attended, self.backend)

    def work(self, own: Box, swept: Box, over: Over = "keys") -> Work:
        """What boxes of these sizes compute; boxes of single keys stand for exact ranges."""
        spans = [self._span(over, k, h, w) for k, (h, w) in enumerate(zip(own, swept, strict=True))]
        pairs, boxes, keys, programs = (prod(x) for x in zip(*spans, strict=True))
        return Work(pairs, 0 if prod(swept) == 1 else boxes, programs, keys)

    def sweep(self, over: Over, own: Box, swept: Box) -> Boxes:
        """The loops of a box, from the bounds of its first and its last token."""
        ends = [_ends(axis, over, size) for axis, size in zip(self.axes, own, strict=True)]
        return Boxes(self.grid, over, own, swept, tuple(x for x, _ in ends), tuple(x for _, x in ends))

    def _boxes(self, size: int) -> list[Box]:
        """Boxes of so many tokens: none longer than its axis needs, but the first, which may hang over."""
        limits = [1 << ((x.length or self.length) - 1).bit_length() for x in self.axes]
        limits[0] = max(limits[0], -(-size // prod(limits[1:])))
        found: list[Box] = [()]
        for limit in limits:
            heights = [1 << k for k in range(min(limit, size).bit_length())]
            found = [(*box, h) for box in found for h in heights if size % (prod(box) * h) == 0]
        return [box for box in found if prod(box) == size]

    def _length(self, k: int) -> int:
        """Tokens of an axis at the reference length, of a long one as many as there are then."""
        found = self.axes[k].length
        if found is None:
            return max(1, self.length // self.grid.strides[k])
        return min(found, self.length)

    def _find_span(self, over: Over, k: int, own: int, swept: int) -> tuple[int, int, int, int]:
        """Pairs, boxes visited, tokens in them and own boxes of one axis."""
        return on_axis(*_ends(self.axes[k], over, own), self._length(k), own, swept, exact=swept == 1)

    @cached_property
    def _attended(self) -> int:
        """Pairs attended."""
        return prod(map(self._attended_on, range(len(self.axes))))

    def _attended_on(self, k: int) -> int:
        """Pairs attended on one axis."""
        length = self._length(k)
        rows: NDArray[np.int64] = np.unique(np.linspace(0, length - 1, min(length, SAMPLE)).astype(np.int64))
        kept = holds(self.axes[k].keep(A, B), {"a": rows[:, None], "b": np.arange(length)[None, :]})
        return round(int(np.broadcast_to(kept, (len(rows), length)).sum()) * length / len(rows))


def _ends(axis: GridAxis, over: Over, size: int) -> tuple[Index, Index | None]:
    """What the box t of so many tokens of an axis visits: the first and the last of it."""
    met, own = (axis.attends, axis.queries) if over == "keys" else (axis.attended_by, axis.keys)
    near, far = times(T, size), plus(times(T, size), size - 1)
    low, high = met(near, far)
    starts: list[Index] = [0] if low is None else [0, low]
    ends: list[Index] = [] if high is None else [high]
    if axis.length is not None:
        ends.append(axis.length - 1)
        if own is not None and size < axis.length:  # boxes outside begin behind the end
            starts += [times(x, axis.length) for x in (own[0] - far, plus(near, -own[1]))]
    return greatest(starts), smallest(ends) if ends else None
