"""Masks of a plan as device functions, and the names that a kernel's tiles have in them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from pidsl.codegen.emit_triton.expr import pred_source
from pidsl.codegen.emit_triton.lines import function
from pidsl.codegen.plan.nodes import Piece
from pidsl.codegen.plan.walks import Grid, Layout
from pidsl.language.algebra import both, has_scalar, plus, plus_one, positive, separated, settled
from pidsl.language.expr import And, Compare, Index, Pred, Truth, Var, vars_in
from pidsl.relation.frame import Frame

PLAN_VARS = ("n", "m", "offset", "key_offset", "c", "d", "a", "b", "r", "j", "q_head", "first_head", "last_head")


class Side(NamedTuple):
    """Rows of q, or of k and v: how many there are, where the first one stands, and the names in tiles."""

    length: str
    first: str  # "" at position 0
    name: str  # of the index
    letter: str  # of the index inside its class, or of coordinates
    of_class: str
    many: str

    @property
    def less(self) -> str:
        """From positions to indices."""
        return f" - {self.first}" if self.first else ""

    @property
    def stop(self) -> Index:
        """The position behind the last one."""
        return Var(self.length) + Var(self.first) if self.first else Var(self.length)

    def exist(self, *tests: str, length: str = "") -> str:
        """The tests, and those of an index that a position gave."""
        first = [f"({self.name} >= 0)"] if self.first else []
        return " & ".join([*tests, *first, f"({self.name} < {length or self.length})"])


def side(frame: Frame, *, rows: bool) -> Side:
    """One of the two."""
    if rows:
        return Side("n", "offset", "r", "a", "c", "rows")
    return Side("m", "key_offset" if frame.moved else "", "j", "b", "d", "keys")


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

    def source(self, name: str = "") -> str:
        """The function, under another name if one is given."""
        head = f"{name or self.function}({', '.join(self.names)})"
        return function(head, self.doc, f"return {pred_source(self.pred)}")


@dataclass(frozen=True, slots=True)
class Interval:
    """A mask as the indices between which each row meets keys (or each key rows), and what is left of it."""

    low: tuple[Index, ...]
    high: tuple[Index, ...]
    own: Pred | None  # about the row (key) alone, and parameters
    rest: Pred


def interval(pred: Pred, swept: str) -> Interval:
    """The conjuncts of a mask that bound the `swept` index.

    `(a + offset >= b) & (a + offset - 63 <= b) & (b % 2 == a % 2)`, swept b -> low `a + offset - 63`, high
    `a + offset`, and the rest.
    """
    low: list[Index] = []
    high: list[Index] = []
    own: Pred | None = None
    rest: Pred = Truth(True)
    for x in _conjuncts(separated(positive(pred), frozenset({swept}))):
        match x:
            case Compare(op, bound, Var(name)) if name == swept and op != "!=" and swept not in vars_in(bound):
                if op not in ("<=", "<"):
                    high.append(plus(bound, -1) if op == ">" else bound)
                if op not in (">=", ">"):
                    low.append(plus_one(bound) if op == "<" else bound)
            case _ if swept not in vars_in(x):
                own = both(own, x)
            case _:
                rest = both(None if rest == Truth(True) else rest, x)
    return Interval(tuple(low), tuple(high), None if own == Truth(True) else own, rest)


def _conjuncts(p: Pred) -> Iterator[Pred]:
    if isinstance(p, And):
        yield from _conjuncts(p.left)
        yield from _conjuncts(p.right)
    else:
        yield p


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
