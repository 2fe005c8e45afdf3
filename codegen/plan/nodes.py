"""A plan: the pieces of the relation, and for each its layout, its tiles and the loops that visit them.

What the expressions in it are over is said in `pidsl.codegen.plan.walks`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pidsl.codegen.plan import describe, work
from pidsl.codegen.plan.walks import IDENTITY, BlockList, BoxSweep, Diagonal, Grid, Layout, Pass, Sweep
from pidsl.language.expr import Pred
from pidsl.language.heads import Heads
from pidsl.language.score import PLAIN, Score
from pidsl.language.terms import Term
from pidsl.relation.frame import HOME, Frame


class Counted:
    """A piece whose pairs are counted, when somebody asks, at its reference length."""

    __slots__ = ()
    reference: Any

    @property
    def attended(self) -> int | None:
        """Its pairs; None where counting them takes too long."""
        raise NotImplementedError

    @property
    def computed(self) -> int:
        """Pairs in its tiles, in the forward pass."""
        return self.computed_at(self.reference)

    def computed_at(self, length: int, task: Pass = "forward") -> int:
        """As `computed`, for so many queries and keys, in a pass."""
        raise NotImplementedError

    def described(self, number: int) -> Iterator[str]:
        """As a person reads it."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class TilePiece(Counted):
    """Pairs computed in dense tiles. `keep` (over n, m, offset, c, d, a, b) is true on exactly its pairs, given that
    the row and the key exist and have the layout's classes."""

    layout: Layout
    keep: Pred
    forward: Sweep  # over keys
    grad_query: Sweep  # over keys
    grad_key: Sweep | None  # over queries; None where no program runs it
    relation: Any = field(repr=False, compare=False)  # islpy.Map [n, m, offset] -> { [r] -> [j] }
    shifts: tuple[tuple[int, int], ...] = ()  # (da, db): a grows by da, b by db, and `keep` is unchanged
    reference: int = 0  # the length at which its pairs are counted

    @property
    def sweeps(self) -> tuple[Sweep, ...]:
        """The loops of every pass that is run."""
        every = self.forward, self.grad_query, self.grad_key
        return tuple(x for x in every if x is not None)

    def walk(self, task: Pass) -> Sweep:
        """The loops of a pass that is run."""
        found = {"forward": self.forward, "grad_query": self.grad_query, "grad_key": self.grad_key}[task]
        assert found is not None, task
        return found

    @property
    def attended(self) -> int | None:
        return work.attended(self.relation, self.reference)

    def computed_at(self, length: int, task: Pass = "forward") -> int:
        return work.visited(self.layout, self.walk(task), length)

    def described(self, number: int) -> Iterator[str]:
        return describe.tiles(number, self)


@dataclass(frozen=True, slots=True)
class DiagonalPiece(Counted):
    """Isolated lags, computed elementwise: rows of q against shifted rows of k. Layout: identity."""

    diagonals: tuple[Diagonal, ...]
    relation: Any = field(repr=False, compare=False)
    layout: Layout = IDENTITY
    reference: int = 0  # as in TilePiece

    @property
    def attended(self) -> int | None:
        return work.on_lags(self.diagonals, self.reference)

    def computed_at(self, length: int, task: Pass = "forward") -> int:
        return work.rows(self.diagonals, length)

    def described(self, number: int) -> Iterator[str]:
        return describe.diagonals(number, self)


@dataclass(frozen=True, slots=True)
class GridPiece(Counted):
    """Pairs on a grid that are attended when every axis says so, computed in boxes.

    `keep` has one predicate over (a, b) per axis. No box needs to be full: all of them are masked.
    """

    layout: Grid
    keep: tuple[Pred, ...]
    forward: BoxSweep  # over keys
    grad_query: BoxSweep  # over keys
    grad_key: BoxSweep | None  # over queries; as in TilePiece
    relation: Any = field(repr=False, compare=False)
    reference: int = 0  # as in TilePiece: whole rows of the grid

    @property
    def sweeps(self) -> tuple[BoxSweep, ...]:
        """The loops of every pass that is run."""
        every = self.forward, self.grad_query, self.grad_key
        return tuple(x for x in every if x is not None)

    def walk(self, task: Pass) -> BoxSweep:
        """The loops of a pass that is run."""
        found = {"forward": self.forward, "grad_query": self.grad_query, "grad_key": self.grad_key}[task]
        assert found is not None, task
        return found

    @property
    def attended(self) -> int | None:
        return work.on_axes(self.layout, self.keep, self.reference)

    def computed_at(self, length: int, task: Pass = "forward") -> int:
        return work.in_boxes(self.layout, self.walk(task), length)

    def described(self, number: int) -> Iterator[str]:
        return describe.boxes(number, self)


@dataclass(frozen=True, slots=True)
class ListPiece(Counted):
    """The pairs of listed blocks that `keep` (over n, m, offset, r, j) lets through: those in `within`, and in no
    other piece, which hold the pairs of `other`. Blocks are visited in tiles of rows x cols."""

    layout: BlockList
    keep: Pred
    within: Term
    other: Term
    rows: int
    cols: int
    back_rows: int | None  # rows of a tile in a sweep over queries; as `grad_key` in TilePiece

    @property
    def reference(self) -> int:
        """The least length at which every block is there."""
        return (1 + max(map(max, self.layout.blocks), default=0)) * self.layout.size

    @property
    def attended(self) -> int | None:
        return work.in_blocks(self.layout, self.keep, self.reference)

    def computed_at(self, length: int, task: Pass = "forward") -> int:
        return work.listed(self.layout, length)

    def described(self, number: int) -> Iterator[str]:
        return describe.listed(number, self)


Piece = TilePiece | DiagonalPiece | GridPiece | ListPiece


@dataclass(frozen=True, slots=True)
class Alternative:
    """A way to compute a piece that the cost model priced and did not take."""

    what: str
    cost: float


@dataclass(frozen=True, slots=True)
class Plan:
    """Disjoint pieces whose union is the term's relation, and how each is computed."""

    term: Term | Heads
    backend: str
    pieces: tuple[Piece, ...]
    attended_keys: Pred | None  # over n, m, offset, j: keys some row attends; None when that is every key
    attended_rows: Pred | None  # over n, m, offset, r: rows that attend some key; None when that is every row
    relation: Any = field(repr=False, compare=False)  # the whole, islpy.Map [n, m, offset] -> { [r] -> [j] }
    notes: tuple[str, ...] = ()
    rejected: tuple[Alternative, ...] = ()
    attended_exact: bool = (
        True  # else `attended_keys` and `attended_rows` hold for what is attended, and maybe for more
    )
    reference: int = 0  # the length at which costs were compared
    score: Score = PLAIN  # what happens to the logits; that of plain attention is empty
    frame: Frame = HOME

    @property
    def of_heads(self) -> bool:
        """The pieces belong to some of the query heads each."""
        return isinstance(self.term, Heads)

    @property
    def tiles(self) -> Iterator[TilePiece]:
        return (p for p in self.pieces if isinstance(p, TilePiece))

    @property
    def grids(self) -> Iterator[GridPiece]:
        return (p for p in self.pieces if isinstance(p, GridPiece))

    @property
    def lists(self) -> Iterator[ListPiece]:
        return (p for p in self.pieces if isinstance(p, ListPiece))

    @property
    def diagonals(self) -> Iterator[DiagonalPiece]:
        return (p for p in self.pieces if isinstance(p, DiagonalPiece))

    def __str__(self) -> str:
        return describe.describe(self)
