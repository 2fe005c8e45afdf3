"""One launch of a kernel of a Triton program, and the stages that a generated module asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import triton

from pidsl.codegen.plan.work import Counts, per_program
from pidsl.runtime.run_triton.sequences import Tiles

ALL = 1 << 30  # positions of what has as many tiles for every length


@dataclass(frozen=True, slots=True)
class Launch:
    """One kernel launch: everything that decides what is compiled and what is computed."""

    kernel: Any
    grid: int
    arguments: Mapping[str, Any]
    options: Mapping[str, Any]


class Loaded(NamedTuple):
    """A program as it was loaded.

    Args:
        module: the generated module.
        plan: what it computes; None where that is not known.
    """

    module: Any
    plan: Any

    def stages(self, table: str) -> list[Stage]:
        """The rows of a table of the module: upper case is what the kernel is specialised for."""
        found = []
        for row in getattr(self.module, table, ()):
            kind = {name: x for name, x in row.items() if name.isupper()}
            others = {name: x for name, x in row.items() if not name.isupper()}
            swept = max(walk.get("SIZE", 0) for walk in kind["WALKS"])
            found.append(Stage(kind, **{"swept": swept, **others}))
        return found


@dataclass(frozen=True, slots=True)
class Stage:
    """A row of the tables at the end of a generated program.

    Args:
        kind: what its kernel is specialised for.
        pieces: numbers of the pieces of the plan.
        swept: positions of the longest tile of the other dimension.
        whole: whether every row (key) belongs to a program, whatever the lengths.
        classes: residue classes of a long sequence.
        listed: tiles of listed blocks.
        box: positions of a box of a grid, boxes beside it, tokens of the grid.
        table: the name of the table of its list.
    """

    kind: Mapping[str, Any] = field(repr=False)
    pieces: tuple[int, ...]
    swept: int
    whole: bool = True
    classes: int = 1
    listed: int | None = None
    box: tuple[int, int, int | None] | None = None
    table: str | None = None

    @property
    def tile(self) -> int:
        """Positions of a program."""
        return int(self.kind["TILE"])

    @property
    def step(self) -> int:
        """From one position of a tile to the next."""
        return int(self.kind.get("STEP", 1))

    @property
    def lags(self) -> bool:
        """One key (row) at a time, elementwise."""
        return bool(self.kind.get("LAGS", False))

    @property
    def chosen(self) -> bool:
        """The call lists what its programs meet: those of box x own positions of block x, as many as there are."""
        return bool(self.kind.get("LISTS", False))

    @property
    def consecutive(self) -> bool:
        """The tiles of a range, of all classes together, hold a range of positions, and leave none out."""
        return self.whole and self.box is None and self.listed is None

    def rows(self, length: int, first: int) -> int | None:
        """Positions of a tile, those of all classes together; None where a range of tiles holds no range of those."""
        return self.step * self.tile if self.consecutive or self._alone(length, first) else None

    def _alone(self, length: int, first: int) -> bool:
        """One program has all positions."""
        return self.chosen and self.programs(length, first) == (1, 1)

    def covers(self, length: int, first: int) -> bool:
        """Whether every position belongs to a program, of so many from the first one on."""
        return self.whole or (self.box is not None and self.box[2] is not None and first + length <= self.box[2])

    def programs(self, length: int, first: int) -> tuple[int, int]:
        """Classes, and tiles of each, of one head, whose positions are so many from the first one on."""
        if self.listed is not None:
            return 1, self.listed
        if self.box is None:
            tiles = triton.cdiv(triton.cdiv(length, self.step), self.tile)
            return (min(self.classes, length), int(tiles))
        size, beside, tokens = self.box
        end = first + length if tokens is None else min(first + length, tokens)
        blocks = max(0, -(-end // size) - first // size)
        if self.chosen and blocks == 1:
            beside = min(beside, triton.cdiv(length, self.tile))
        return 1, blocks * beside

    def tiles(self, longest: int) -> Tiles:
        """Those of a sequence, which has so many positions at most."""
        if self.listed is not None:
            return Tiles(ALL, beside=self.listed)
        if self.box is not None:
            size, beside, tokens = self.box
            if self.chosen and longest == 1:
                beside = 1
            return Tiles(size, 1, beside, tokens, moved=True, checked=self.chosen)
        return Tiles(self.step * self.tile, self.classes)

    def work(self, program: Loaded, task: Any, lengths: tuple[int, int, int, int], own: tuple[int, int]) -> Counts:
        """[classes, tiles]: tiles that each program visits; where the plan is not known, one each.

        Args:
            program: of which this is a stage.
            task: the pass.
            lengths: n, m, offset, key_offset.
            own: how many positions are owned, and the first.
        """
        if program.plan is None:
            return np.ones(self.programs(*own), np.int64)
        walks = (program.plan.pieces[number].walk(task) for number in self.pieces)
        found: Counts = sum((per_program(walk, *lengths) for walk in walks), np.zeros((1, 1), np.int64))
        if self.chosen:
            found = found[:, : self.programs(*own)[1]]
        assert found.shape == self.programs(*own), (found.shape, self.programs(*own))
        return found


def pad(width: int) -> int:
    """The tile width that holds `width` columns: a power of two, and at least the 16 that `tl.dot` wants."""
    return max(16, triton.next_power_of_2(width))
