"""Lags that are few and far between, in tiles: those near each other lie in the same tiles.

    lags(0, 1, 2, 4, 8, ..., 8192), in tiles of 64 x 64

    0 .. 128     the own tile of keys and the two before it hold all of these lags
    256          the tile four before it, on its diagonal (and one more where the offset is no multiple of 64)
    512          the tile eight before it, ...

Lags whose tiles may meet are a group, and the tiles of a group are those of the band from its first lag to its last.
Together they are one piece, with one mask that tells the lags (`plan.numbers` says how) and one loop: a lag in a tile
that is loaded anyway costs nothing, and one alone loads what it would load as a diagonal.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import islpy as isl
import numpy as np

from pidsl.codegen.choice.cost import NEVER, Backend, Shape, best_tiles
from pidsl.codegen.choice.parts import Part
from pidsl.codegen.plan.nodes import Piece
from pidsl.codegen.plan.numbers import Range, numbers
from pidsl.codegen.plan.walks import Layout, Over, Runs
from pidsl.codegen.tiling.bands import Placed, place
from pidsl.codegen.tiling.coordinates import coordinates, mask_pred
from pidsl.codegen.tiling.tiles import sweep
from pidsl.relation.frame import Frame, frame_of
from pidsl.relation.isl import coalesced

WIDEST = 128  # lags of a band that is a group like others; wider ones have full tiles, and a piece of their own
INSTRUCTION = 45 / 4096  # cycles for a pair, of each instruction of a mask
USUAL = 2  # instructions of the masks that prices are for
ALIGNED = 64  # tiles by which groups are judged


def lags_of(part: Part, square: bool) -> Range | None:
    """The lags of a part that has every pair with them; None of other parts."""
    facts, frame = part.lags, frame_of(part.relation)
    if facts.least is None or facts.most is None or facts.most - facts.least >= WIDEST:
        return None
    if facts.step > 1 and facts.least != facts.most:
        return None
    every = _between(frame, (facts.least, facts.most))
    known = frame.set(f": {frame.known} and {frame.square}") if square else frame.compared()
    same = part.relation.intersect_params(known).is_equal(every.intersect_params(known))
    return (facts.least, facts.most) if same else None


def _between(frame: Frame, lags: Range) -> isl.Map:
    """All pairs of existing rows and keys with lags between two."""
    return frame.map(f"[r] -> [j] : {lags[0]} <= {frame.lag} <= {lags[1]} and 0 <= r < n and 0 <= j < m")


@lru_cache(maxsize=512)
def _placed(frame: Frame, lags: Range, square: bool) -> Placed:
    return place(_between(frame, lags), coordinates(Layout(frame=frame), square))


@dataclass(frozen=True, slots=True)
class LagTiles:
    """Lags in tiles of the identity layout.

    Args:
        lags: ranges of them, sorted and apart.
        frame: of the positions.
        square: there are as many keys as positions of queries.
        length: of the sequences at which costs are compared.
    """

    lags: tuple[Range, ...]
    frame: Frame
    square: bool
    length: int

    def groups(self, rows: int, cols: int) -> list[Range]:
        """The first and the last lag of each group, for tiles of a size: no tile holds lags of two groups."""
        found: list[Range] = []
        for first, last in self.lags:
            if found and first - found[-1][1] < rows - 1 + cols:
                found[-1] = found[-1][0], last
            else:
                found.append((first, last))
        return found

    def walk(self, over: Over, rows: int, cols: int) -> Runs:
        """The tiles of all groups, one group after the other."""
        walks = [sweep(self._of(x), over, rows, cols, split=False) for x in self.groups(rows, cols)]
        return replace(walks[0], runs=tuple(run for x in walks for run in x.runs))

    def _of(self, lags: Range) -> Placed:
        return _placed(self.frame, lags, self.square)

    @property
    def shape(self) -> Shape:
        """The keys of each row, as intervals of neighbouring lags."""
        r, attended, found = np.arange(self.length)[None, :], 0, []
        for low, high in self.groups(1, 1):
            first, last = np.maximum(r - high, 0), np.minimum(r - low, self.length - 1)
            found.append((np.where(first <= last, first, NEVER), np.where(first <= last, last, -1)))
        for low, high in self.lags:
            attended += sum(max(0, self.length - abs(x)) for x in range(low, high + 1))
        return Shape(tuple(found), attended, attended, 1.0)

    def cost(self, backend: Backend, *, alone: bool = True) -> float:
        """Of the forward pass, with a mask as long as it is; programs cost nothing where others' do the work."""
        best = best_tiles(self.shape, backend)
        more = max(0, numbers(self.lags).instructions - USUAL)
        programs = 0.0 if alone else best.work.programs * backend.price("forward", *best.size).program
        return best.cost - programs + best.work.pairs * more * INSTRUCTION

    def piece(self, backend: Backend) -> Piece:
        """The piece, in the tiles of a backend."""
        outline = self.shape
        rows, cols = best_tiles(outline, backend).size
        relation = _between(self.frame, self.lags[0])
        for x in self.lags[1:]:
            relation = relation | _between(self.frame, x)
        relation = coalesced(relation)
        placed = place(relation, coordinates(Layout(frame=self.frame), self.square))
        keep = mask_pred(placed.at, placed.mask)
        return Piece((keep,), *backend.walks(rows, cols, outline, self.walk), relation, reference=self.length)
