"""What a plan says: the pieces of the relation, and for each its layout, its tiles and the loops that visit them.

Coordinates. Row `r` of q (0 <= r < n) stands at position `i = r + offset`; key `j` is row j of k and v (0 <= j < m).
A layout splits rows and keys into residue classes; inside a class they are numbered consecutively:

    r = query_step * a + c          c: class of the row     a: its index inside the class
    j = key_step   * b + d          d: class of the key     b: its index inside the class

Expressions in a plan are `pidsl.language.expr` trees over these variables, all of them non-negative integers:

    n, m, offset    rows of q, rows of k, position of row 0
    c, d            class of the program's rows and keys
    t               index of the program's own tile (of rows when sweeping keys, of keys when sweeping queries)
    a, b            row and key index inside their classes (only in masks)
    r, j            row of q, row of k (only in `attended_keys`, `attended_rows` and the masks of diagonals)
    q_head          query head (only in plans of several patterns, see `together`)

In the pieces of a grid, whose tiles are boxes of tokens, each axis has expressions of its own: t is the index of the
box on that axis, a and b are the coordinates of query and key there.

`//` and `%` in them round toward minus infinity.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal

from pidsl.language.expr import FloorDiv, Index, Mod, Pred, Var, show, show_pred, simplify
from pidsl.language.heads import Heads
from pidsl.language.score import PLAIN, Score
from pidsl.language.terms import Term

Over = Literal["keys", "queries"]


class Counted:
    """A piece whose pairs are counted, when somebody asks, at its reference length."""

    __slots__ = ()
    reference: Any

    @property
    def attended(self) -> int | None:
        """Its pairs; None where counting them takes too long."""
        from pidsl.codegen.plan.work import attended

        return attended(self, self.reference)

    @property
    def computed(self) -> int:
        """Pairs in its tiles, in the forward pass."""
        return self.computed_at(self.reference)

    def computed_at(self, length: int) -> int:
        """As `computed`, for so many queries and keys."""
        from pidsl.codegen.plan.work import computed

        return computed(self, length)


@dataclass(frozen=True, slots=True)
class Layout:
    """How one piece numbers rows and keys so that its pairs become a band of dense tiles.

    identity        steps 1: a = r, b = j
    residue(s, p)   steps s, linked: the piece holds only pairs with (i - j) mod s == p, so the rows of class c meet
                    the keys of exactly one class, d = (c + offset - p) mod s, and each class is a sequence of its own
    fixed classes   only positions i with i mod query_step == query_class (rows c = (query_class - offset) mod
                    query_step), or only keys with j mod key_step == key_class (d = key_class), or both
    """

    query_step: int = 1
    key_step: int = 1
    phase: int | None = None  # linked classes: (i - j) mod step
    query_class: int | None = None  # fixed class of positions i
    key_class: int | None = None  # fixed class of keys j

    @property
    def linked(self) -> bool:
        """Every row class is visited, each with the one key class that its phase picks."""
        return self.phase is not None

    @property
    def query_side(self) -> tuple[int, int | None]:
        """Pieces with equal query sides can share a kernel that owns tiles of rows."""
        return self.query_step, self.query_class

    @property
    def key_side(self) -> tuple[int, int | None]:
        """Pieces with equal key sides can share a kernel that owns tiles of keys."""
        return self.key_step, self.key_class

    @property
    def query_classes(self) -> int:
        """How many row classes a sweep over keys has programs for."""
        return self.query_step if self.linked else 1

    def row_class(self) -> Index:
        """c for a layout that is not linked."""
        if self.query_class is None:
            return 0
        return (self.query_class - Var("offset")) % self.query_step

    def key_class_of(self, row_class: Index) -> Index:
        """d, the class of the keys met by rows of class `row_class`."""
        if self.phase is None:
            return self.key_class or 0
        return (row_class + Var("offset") - self.phase) % self.key_step

    def row_class_of(self, key_class: Index) -> Index:
        """c, the class of the rows that meet keys of class `key_class`."""
        if self.phase is None:
            return self.row_class()
        return (key_class - Var("offset") + self.phase) % self.query_step

    def __str__(self) -> str:
        if self.linked:
            return f"residue classes mod {self.query_step}, lag mod {self.query_step} == {self.phase}"
        parts = []
        if self.query_class is not None:
            parts.append(f"queries {self.query_class} mod {self.query_step}")
        if self.key_class is not None:
            parts.append(f"keys {self.key_class} mod {self.key_step}")
        return ", ".join(parts) or "identity"


@dataclass(frozen=True, slots=True)
class Run:
    """Tiles `first, first + step, ..., <= last` of the swept dimension, visited when `guard` holds (None: always).

    `full` promises that every pair of such a tile whose row exists is in the piece (and its key exists), so the
    loop needs no mask. The bounds are over n, m, offset, c, d, t. An empty run has first > last. `edge` says that the
    mask of a tile may be like no other's, whatever `shifts` the piece has.
    """

    full: bool
    first: Index
    last: Index
    step: int = 1
    guard: Pred | None = None
    edge: bool = False

    def __str__(self) -> str:
        kind = "full" if self.full else "masked"
        stride = f", {self.step}" if self.step != 1 else ""
        guard = f" if {show_pred(self.guard)}" if self.guard is not None else ""
        if self.first == self.last:
            return f"{kind} tile {show(self.first)}{guard}"
        return f"{kind} tiles {show(self.first)} .. {show(self.last)}{stride}{guard}"


@dataclass(frozen=True, slots=True)
class Sweep:
    """The loops of one program: it owns tile `t` of one dimension and visits tiles of the other.

    `over="keys"`: t is a tile of `rows` rows, the runs are tiles of `cols` keys; `over="queries"`: t is a tile of
    `cols` keys, the runs are tiles of `rows` rows. No tile is visited by two runs of a sweep.
    """

    over: Over
    rows: int
    cols: int
    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class TilePiece(Counted):
    """Pairs computed in dense tiles. `keep` (over n, m, offset, c, d, a, b) is true on exactly its pairs, given that
    the row and the key exist and have the layout's classes."""

    layout: Layout
    keep: Pred
    forward: Sweep  # over keys
    grad_query: Sweep  # over keys
    grad_key: Sweep  # over queries
    relation: Any = field(repr=False, compare=False)  # islpy.Map [n, m, offset] -> { [r] -> [j] }
    shifts: tuple[tuple[int, int], ...] = ()  # (da, db): a grows by da, b by db, and `keep` is unchanged
    reference: int = 0  # the length at which its pairs are counted


@dataclass(frozen=True, slots=True)
class Diagonal:
    """The pairs with one lag: row r meets key j = r + offset - lag when `keep` (over n, m, offset, r) holds.

    `first <= r <= last` are the rows between which it can hold; `keep` is None when it holds for all of them.
    """

    lag: int
    first: Index
    last: Index
    keep: Pred | None = None


@dataclass(frozen=True, slots=True)
class DiagonalPiece(Counted):
    """Isolated lags, computed elementwise: rows of q against shifted rows of k. Layout: identity."""

    diagonals: tuple[Diagonal, ...]
    relation: Any = field(repr=False, compare=False)
    layout: Layout = Layout()
    reference: int = 0  # as in TilePiece


@dataclass(frozen=True, slots=True)
class Grid:
    """Positions as tokens of a grid, numbered row by row: i = a_0 * strides[0] + a_1 * strides[1] + ... + a_last.

    The first length is None when the grid goes on as far as the sequence does; positions beyond a grid that ends take
    no part in the piece.
    """

    lengths: tuple[int | None, ...]

    @property
    def strides(self) -> tuple[int, ...]:
        """Positions from one token to the next along each axis."""
        return tuple(prod(x or 1 for x in self.lengths[k + 1 :]) for k in range(len(self.lengths)))

    @property
    def tokens(self) -> int | None:
        """Tokens of a grid that ends."""
        return None if self.lengths[0] is None else prod(x or 1 for x in self.lengths)

    def coordinates(self, position: Index) -> tuple[Index, ...]:
        """The coordinates of a position inside the grid."""
        found: list[Index] = []
        for k, (length, stride) in enumerate(zip(self.lengths, self.strides, strict=True)):
            row = simplify(FloorDiv(position, stride))
            found.append(row if k == 0 or length is None else simplify(Mod(row, length)))
        return tuple(found)

    def __str__(self) -> str:
        return "grid " + " x ".join("n" if x is None else str(x) for x in self.lengths)


@dataclass(frozen=True, slots=True)
class BoxSweep:
    """The loops of one program: it owns a box of one dimension and visits boxes of the other.

    `over="keys"`: box t (one index per axis) holds the queries t * own .. t * own + own - 1 of every axis, and the
    keys from `first` to `last` of every axis are visited in boxes of `swept`, as many as exist of them.
    `over="queries"`: the same the other way round. A `last` of None: to the end of the sequence.
    """

    over: Over
    own: tuple[int, ...]
    swept: tuple[int, ...]
    first: tuple[Index, ...]
    last: tuple[Index | None, ...]


@dataclass(frozen=True, slots=True)
class GridPiece(Counted):
    """Pairs on a grid that are attended when every axis says so, computed in boxes.

    `keep` has one predicate over (a, b) per axis. No box needs to be full: all of them are masked.
    """

    layout: Grid
    keep: tuple[Pred, ...]
    forward: BoxSweep  # over keys
    grad_query: BoxSweep  # over keys
    grad_key: BoxSweep  # over queries
    relation: Any = field(repr=False, compare=False)
    reference: int = 0  # as in TilePiece: whole rows of the grid


@dataclass(frozen=True, slots=True)
class BlockList:
    """Pairs of blocks of `size` tokens, one by one: sorted (query block, key block)."""

    size: int
    blocks: tuple[tuple[int, int], ...]

    def __str__(self) -> str:
        return f"list of {len(self.blocks)} blocks of {self.size}"


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
    back_rows: int  # rows of a tile of the gradient programs

    @property
    def reference(self) -> int:
        """The least length at which every block is there."""
        return (1 + max(map(max, self.layout.blocks), default=0)) * self.layout.size


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
        from pidsl.codegen.plan.describe import describe

        return describe(self)
