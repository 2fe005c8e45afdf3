"""A plan: disjoint pieces of the relation, and for each its layout, its mask and the walks that visit it.

What the expressions in it are over is said in `pidsl.codegen.plan.walks`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from pidsl.codegen.plan import describe, work
from pidsl.codegen.plan.walks import BlockList, ChosenBlocks, Grid, Layout, Pass, Walk
from pidsl.language.expr import Pred
from pidsl.language.heads import Heads
from pidsl.language.score import PLAIN, Score
from pidsl.language.shown import Displayed
from pidsl.language.terms import Term
from pidsl.relation.frame import HOME, Frame


@dataclass(frozen=True, slots=True)
class Piece:
    """Some pairs of the pattern, in no other piece, and how each pass visits them.

    `keep` is true on exactly its pairs among those that a walk visits: it has one predicate for the row and key of
    `Runs` (over c, d, a, b) and of `Listed` and `Selected` blocks (over r, j), one per axis of a grid for `Boxes`
    (over a, b), and none for `Lags`, which have their own. The walks of all passes are of one kind and have one layout.
    """

    keep: tuple[Pred, ...]
    forward: Walk  # over keys
    grad_query: Walk  # over keys
    grad_key: Walk | None  # over queries; None where no program runs it
    relation: Any = field(repr=False, compare=False)  # islpy.Map [n, m, offset] -> { [r] -> [j] }; None for a list
    shifts: tuple[tuple[int, int], ...] = ()  # (da, db): a grows by da, b by db, and `keep` is unchanged
    reference: int = 0  # the length at which its pairs are counted

    @property
    def layout(self) -> Layout | Grid | BlockList | ChosenBlocks:
        """How rows and keys are numbered."""
        return self.forward.layout

    @property
    def walks(self) -> tuple[Walk, ...]:
        """Those of the passes that are run."""
        return tuple(x for x in (self.forward, self.grad_query, self.grad_key) if x is not None)

    def walk(self, task: Pass) -> Walk:
        """That of a pass which is run."""
        found = {"forward": self.forward, "grad_query": self.grad_query, "grad_key": self.grad_key}[task]
        assert found is not None, task
        return found

    @property
    def attended(self) -> int | None:
        """Its pairs at the reference length; None where counting them takes too long."""
        return work.attended(self, self.reference)

    @property
    def computed(self) -> int:
        """Pairs that the forward pass computes at the reference length."""
        return self.computed_at(self.reference)

    def computed_at(self, length: int, task: Pass = "forward") -> int:
        """Pairs that a pass computes, for so many queries and keys."""
        return work.computed(self.walk(task), length)


@dataclass(frozen=True, slots=True)
class Alternative:
    """A way to compute a piece that the cost model priced and did not take."""

    what: str
    cost: float


@dataclass(frozen=True, slots=True)
class Plan(Displayed):
    """Disjoint pieces whose union is the term's relation, and how each is computed.

    Keys and rows that are attended are those of all pieces but that of a choice, which only a call knows.
    """

    term: Term | Heads
    backend: str
    pieces: tuple[Piece, ...]
    attended_keys: Pred | None  # over n, m, offset, j: keys some row attends; None when that is every key
    attended_rows: Pred | None  # over n, m, offset, r: rows that attend some key; None when that is every row
    relation: Any = field(repr=False, compare=False)  # the whole, islpy.Map [n, m, offset] -> { [r] -> [j] }
    notes: tuple[str, ...] = ()
    rejected: tuple[Alternative, ...] = ()
    attended_exact: bool = True  # else `attended_keys` and `attended_rows` may hold for more than what is attended
    reference: int = 0  # the length at which costs were compared
    score: Score = PLAIN  # what happens to the logits; that of plain attention is empty
    frame: Frame = HOME

    @property
    def of_heads(self) -> bool:
        """The pieces belong to some of the query heads each."""
        return isinstance(self.term, Heads)

    def walked(self, kind: type[Walk]) -> Iterator[Piece]:
        """The pieces that are visited in one way."""
        return (piece for piece in self.pieces if isinstance(piece.forward, kind))

    def noted(self, note: str) -> Plan:
        """With one note more."""
        return replace(self, notes=(*self.notes, note))

    def __str__(self) -> str:
        return describe.describe(self)
