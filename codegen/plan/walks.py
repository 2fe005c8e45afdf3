"""How the pairs of a piece are numbered and visited: layouts, and walks over tiles, boxes, listed blocks and lags.

Coordinates. Row `r` of q (0 <= r < n) stands at position `i = r + offset`; key `j` is row j of k and v (0 <= j < m),
which stands at position j, or in a plan for moved keys (see `relation.frame`) at position j + key_offset. A layout
splits rows and keys into residue classes; inside a class they are numbered consecutively:

    r = query_step * a + c          c: class of the row     a: its index inside the class
    j = key_step   * b + d          d: class of the key     b: its index inside the class

Expressions in a plan are `pidsl.language.expr` trees over these variables, all of them non-negative integers:

    n, m, offset    rows of q, rows of k, position of row 0
    key_offset      position of key 0 (only in plans for moved keys)
    c, d            class of the program's rows and keys
    t               index of the program's own tile (of rows when sweeping keys, of keys when sweeping queries)
    a, b            row and key index inside their classes (only in masks)
    r, j            row of q, row of k (only in `attended_keys`, `attended_rows` and the masks of diagonals)
    q_head          query head (only in plans of several patterns, see `pidsl.codegen.choice.together`)

In the pieces of a grid, whose tiles are boxes of tokens, each axis has expressions of its own: t is the index of the
box on that axis, a and b are the coordinates of query and key there.

`//` and `%` in them round toward minus infinity.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

from pidsl.language.expr import FloorDiv, Index, Mod, Pred, Var, show, show_pred, simplify
from pidsl.language.terms import Term
from pidsl.relation.frame import HOME, Frame

Over = Literal["keys", "queries"]
Pass = Literal["forward", "grad_query", "grad_key"]

SMALLEST_TILE, LARGEST_TILE = 16, 1024  # rows or keys of a tile of matrix products
LAG_TILE = 16  # rows (keys) per program of lags: with more, their many loads in flight spill


@dataclass(frozen=True, slots=True)
class Layout:
    """How one piece numbers rows and keys so that its pairs become a band of dense tiles.

    identity        steps 1: a = r, b = j
    residue(s, p)   steps s, linked: the piece holds only pairs with (i - j) mod s == p, so the rows of class c meet
                    the keys of exactly one class, d = (c + offset - p) mod s, and each class is a sequence of its own
    fixed classes   only positions i with i mod query_step == query_class (rows c = (query_class - offset) mod
                    query_step), or only keys with j mod key_step == key_class (d = key_class), or both

    Where keys are moved, d = (c + offset - key_offset - p) mod s, and d = (key_class - key_offset) mod key_step.
    """

    query_step: int = 1
    key_step: int = 1
    phase: int | None = None  # linked classes: (i - j) mod step
    query_class: int | None = None  # fixed class of positions i
    key_class: int | None = None  # fixed class of positions of keys
    frame: Frame = HOME

    @property
    def identity(self) -> bool:
        """Rows and keys are numbered as they stand."""
        classes = self.phase, self.query_class, self.key_class
        return self.query_step == self.key_step == 1 and classes == (None, None, None)

    @property
    def linked(self) -> bool:
        """Every row class is visited, each with the one key class that its phase picks."""
        return self.phase is not None

    def key_class_of(self, row_class: Index = 0) -> Index:
        """d, the class of the keys met by rows of class `row_class`, which only a linked layout asks."""
        if self.phase is not None:
            return (row_class + self.frame.ahead - self.phase) % self.key_step
        if self.key_class is None or not self.frame.moved:
            return self.key_class or 0
        return (self.key_class - Var("key_offset")) % self.key_step

    def row_class_of(self, key_class: Index = 0) -> Index:
        """c, the class of the rows that meet keys of class `key_class`, which only a linked layout asks."""
        if self.phase is not None:
            return (key_class - self.frame.ahead + self.phase) % self.query_step
        return 0 if self.query_class is None else (self.query_class - Var("offset")) % self.query_step

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
class BlockList:
    """Pairs of blocks of `size` tokens, one by one: sorted (query block, key block).

    A piece holds those of their pairs that are in `within` and not in `other`, which other pieces hold.
    """

    size: int
    blocks: tuple[tuple[int, int], ...]
    within: Term
    other: Term

    def __str__(self) -> str:
        return f"list of {len(self.blocks)} blocks of {self.size}"


@dataclass(frozen=True, slots=True)
class ChosenBlocks:
    """Blocks of `block` keys that each call lists for blocks of `queries` queries, at most `budget` for each.

    A piece holds those of their pairs that are in `within` and not in `other`, which other pieces hold. `full` is over
    (n, m, offsets, x, y): it promises of block x of queries and block y of keys, counted by positions, that all of
    their pairs whose row and key exist are in the piece.
    """

    block: int
    budget: int
    queries: int
    within: Term
    other: Term
    full: Pred

    def __str__(self) -> str:
        queries = f"{self.queries} queries" if self.queries > 1 else "each query"
        return f"chosen by the call: up to {self.budget} blocks of {self.block} for {queries}"


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


class Tiled:
    """A walk over tiles of `rows` rows and `cols` keys."""

    __slots__ = ()
    over: Over
    rows: int
    cols: int

    @property
    def owned(self) -> int:
        """Positions of a program."""
        return self.rows if self.over == "keys" else self.cols

    @property
    def visited(self) -> int:
        """Positions of a tile of the other dimension."""
        return self.cols if self.over == "keys" else self.rows


@dataclass(frozen=True, slots=True)
class Runs(Tiled):
    """The loops of one program: it owns tile `t` of one dimension and visits tiles of the other.

    `over="keys"`: t is a tile of `rows` rows, the runs are tiles of `cols` keys; `over="queries"`: t is a tile of
    `cols` keys, the runs are tiles of `rows` rows. No tile is visited by two runs.
    """

    layout: Layout
    over: Over
    rows: int
    cols: int
    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class Boxes:
    """The loops of one program: it owns a box of a grid in one dimension and visits boxes of the other, all masked.

    `over="keys"`: box t (one index per axis) holds the queries t * own .. t * own + own - 1 of every axis, and the
    keys from `first` to `last` of every axis are visited in boxes of `swept`, as many as exist of them.
    `over="queries"`: the same the other way round. A `last` of None: to the end of the sequence.
    """

    layout: Grid
    over: Over
    own: tuple[int, ...]
    swept: tuple[int, ...]
    first: tuple[Index, ...]
    last: tuple[Index | None, ...]

    @property
    def owned(self) -> int:
        """Positions of a program."""
        return prod(self.own)

    @property
    def visited(self) -> int:
        """Positions of a box of the other dimension."""
        return prod(self.swept)


@dataclass(frozen=True, slots=True)
class Listed(Tiled):
    """The loops of one program: it owns a tile of one block and visits tiles of the blocks listed for it, all masked.

    `over` and the sizes of tiles are as in `Runs`.
    """

    layout: BlockList
    over: Over
    rows: int
    cols: int


@dataclass(frozen=True, slots=True)
class Selected(Tiled):
    """The loops of one program: it owns a tile of one block and visits tiles of the blocks that the call lists for it.

    `over` and the sizes of tiles are as in `Runs`. Blocks that the layout calls full come first, without a mask.
    """

    layout: ChosenBlocks
    over: Over
    rows: int
    cols: int


@dataclass(frozen=True, slots=True)
class Lag:
    """The pairs with one lag: row r meets the key at position r + offset - lag when `keep` (of row r) holds.

    `first <= r <= last` are the rows between which it can hold; `keep` is None when it holds for all of them.
    """

    lag: int
    first: Index
    last: Index
    keep: Pred | None = None


@dataclass(frozen=True, slots=True)
class Lags:
    """Isolated lags, computed elementwise: rows of q against shifted rows of k. The layout is an identity."""

    layout: Layout
    over: Over
    lags: tuple[Lag, ...]

    @property
    def owned(self) -> int:
        """Positions of a program."""
        return LAG_TILE

    @property
    def visited(self) -> int:
        """No tiles of the other dimension: one key (row) per lag."""
        return 0


Walk = Runs | Boxes | Listed | Selected | Lags
