"""Masks of a plan as device functions, and the names that a kernel's tiles have in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pidsl.codegen.emit_triton.expr import pred_source
from pidsl.codegen.emit_triton.lines import function
from pidsl.codegen.plan.nodes import Piece
from pidsl.codegen.plan.walks import Grid, Layout
from pidsl.language.algebra import has_scalar, separated, settled
from pidsl.language.expr import Add, Index, Mul, Pred, Truth, Var, simplify, vars_in
from pidsl.relation.frame import Frame

PLAN_VARS = ("n", "m", "offset", "key_offset", "c", "d", "a", "b", "r", "j", "q_head", "first_head", "last_head")


def to_index(frame: Frame) -> str:
    """A line that brings the numbers of a call into the dtype of indices."""
    return f"{frame.parameters} = {', '.join(f'{name}.to(INDEX)' for name in frame.names)}"


@dataclass(frozen=True, slots=True)
class Side:
    """Rows of q, or of k and v: what their index is called, how many there are, and where the first one stands."""

    index: str
    length: str
    first: str  # "" at position 0

    @property
    def less(self) -> str:
        """From positions to indices."""
        return f" - {self.first}" if self.first else ""

    @property
    def stop(self) -> Index:
        """The position behind the last one."""
        return Var(self.length) + Var(self.first) if self.first else Var(self.length)

    @property
    def exists(self) -> tuple[str, ...]:
        """Tests of an index that a position gave."""
        return (f"({self.index} >= 0)",) * bool(self.first) + (f"({self.index} < {self.length})",)


def side(frame: Frame, *, rows: bool) -> Side:
    """One of the two."""
    return Side("r", "n", "offset") if rows else Side("j", "m", "key_offset" if frame.moved else "")


def affine(step: int, index: Index, own_class: Index) -> Index:
    """`step * index + class`, simplified."""
    return simplify(Add(simplify(Mul(step, index)), own_class))


def constant_classes(layout: Layout) -> dict[str, Index]:
    """Classes that are numbers: `{c: 0, d: 0}` for the identity."""
    if layout.linked:
        return {}
    classes = {"c": layout.row_class(), "d": layout.own_key_class()}
    return {name: value for name, value in classes.items() if isinstance(value, int)}


@dataclass(frozen=True, slots=True)
class Mask:
    """A predicate as a device function of the variables that occur in it, in the order of `PLAN_VARS`."""

    function: str
    doc: str
    pred: Pred
    names: tuple[str, ...]

    @staticmethod
    def of(function: str, doc: str, pred: Pred) -> Mask:
        """The mask of a predicate: it is looked through here, once, and called from many loops."""
        used = vars_in(pred)
        return Mask(function, doc, pred, tuple(name for name in PLAN_VARS if name in used))

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
        found.append(Mask.of(name, doc, separated(settled(given, classes), frozenset({"b", "j"}))))
    return tuple(found)


def load_mask(mask: str, preds: Iterable[Pred]) -> str:
    """A mask for loads. Where single numbers are compared too, Triton's interpreter makes integers of it."""
    return f"({mask}) != 0" if any(has_scalar(p, frozenset({"r", "j"})) for p in preds) else mask
