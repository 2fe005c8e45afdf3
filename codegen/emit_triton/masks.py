"""Masks of a plan as device functions, and the names that a kernel's tiles have in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from pidsl.codegen.emit_triton.expr import pred_source
from pidsl.codegen.emit_triton.lines import function
from pidsl.codegen.plan.nodes import Piece
from pidsl.codegen.plan.walks import Grid, Layout
from pidsl.language.algebra import has_scalar, separated, settled
from pidsl.language.expr import Index, Pred, Truth, Var, vars_in
from pidsl.relation.frame import Frame

PLAN_VARS = ("n", "m", "offset", "key_offset", "c", "d", "a", "b", "r", "j", "q_head", "first_head", "last_head")


class Side(NamedTuple):
    """Rows of q, or of k and v: how many there are, where the first one stands, and the names in tiles."""

    length: str
    first: str  # "" at position 0
    name: str  # of the index
    letter: str  # of the index inside its class, or of coordinates
    of_class: str

    @property
    def less(self) -> str:
        """From positions to indices."""
        return f" - {self.first}" if self.first else ""

    @property
    def stop(self) -> Index:
        """The position behind the last one."""
        return Var(self.length) + Var(self.first) if self.first else Var(self.length)

    def exist(self, *tests: str) -> str:
        """The tests, and those of an index that a position gave."""
        first = [f"({self.name} >= 0)"] if self.first else []
        return " & ".join([*tests, *first, f"({self.name} < {self.length})"])


def side(frame: Frame, *, rows: bool) -> Side:
    """One of the two."""
    return Side("n", "offset", "r", "a", "c") if rows else Side("m", "key_offset" if frame.moved else "", "j", "b", "d")


def constant_classes(layout: Layout) -> dict[str, Index]:
    """Classes that are numbers: `{c: 0, d: 0}` for the identity."""
    if layout.linked:
        return {}
    classes = {"c": layout.row_class_of(), "d": layout.key_class_of()}
    return {name: value for name, value in classes.items() if isinstance(value, int)}


class Mask:
    """A predicate as a device function of the variables that occur in it, in the order of `PLAN_VARS`."""

    def __init__(self, function: str, doc: str, pred: Pred) -> None:
        used = vars_in(pred)
        self.function, self.doc, self.pred = function, doc, pred
        self.names = tuple(name for name in PLAN_VARS if name in used)

    @property
    def everything(self) -> bool:
        """There is nothing to test."""
        return self.pred == Truth(True)

    def call(self, arguments: Mapping[str, str]) -> str:
        """A call, with the expressions in `arguments` for some of the variables."""
        return f"{self.function}({', '.join(arguments.get(name, name) for name in self.names)})"

    def line(self, name: str, exists: str) -> str:
        """`name`, of rows r or keys j: they exist, and the mask holds."""
        if self.everything:
            return f"{name} = {exists}"
        both = f"({exists}) & {self.call({})}" if " " in exists else f"{exists} & {self.call({})}"
        return f"{name} = {load_mask(both, [self.pred])}"

    def source(self) -> str:
        """The function."""
        return function(f"{self.function}({', '.join(self.names)})", self.doc, f"return {pred_source(self.pred)}")


def keep_masks(number: int, piece: Piece) -> tuple[Mask, ...]:
    """Which of the pairs visited are in a piece: one function, or one for each axis of its grid."""
    layout = piece.layout
    classes = constant_classes(layout) if isinstance(layout, Layout) else {}
    found = []
    for axis, given in enumerate(piece.keep):
        name, doc = f"_keep_{number}", f"The pairs of piece {number}, {layout}."
        if isinstance(layout, Grid):
            name, doc = f"{name}_{axis}", f"The pairs of piece {number} on axis {axis} of its {layout}."
        found.append(Mask(name, doc, separated(settled(given, classes), frozenset({"b", "j"}))))
    return tuple(found)


def load_mask(mask: str, preds: Iterable[Pred]) -> str:
    """A mask for loads. Where single numbers are compared too, Triton's interpreter makes integers of it."""
    return f"({mask}) != 0" if any(has_scalar(p, frozenset({"r", "j"})) for p in preds) else mask
