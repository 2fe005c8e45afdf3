"""Masks of a plan as device functions, and the names that a kernel's tiles have in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction

from pidsl.codegen.emit_triton.expr import pred_source
from pidsl.codegen.emit_triton.lines import Lines
from pidsl.codegen.emit_triton.reach import Limits
from pidsl.codegen.plan.walks import Layout, Runs
from pidsl.language.algebra import has_scalar
from pidsl.language.expr import Add, Index, Mul, Pred, Truth, simplify, vars_in

PLAN_VARS = ("n", "m", "offset", "c", "d", "a", "b", "r", "j", "q_head", "first_head", "last_head")


def affine(step: int, index: Index, own_class: Index) -> Index:
    """`step * index + class`, simplified."""
    return simplify(Add(simplify(Mul(step, index)), own_class))


def constant_classes(layout: Layout) -> dict[str, Index]:
    """Classes that are numbers: `{c: 0, d: 0}` for the identity."""
    if layout.linked:
        return {}
    classes = {"c": layout.row_class(), "d": layout.key_class or 0}
    return {name: value for name, value in classes.items() if isinstance(value, int)}


def limits_of(layout: Layout, sweep: Runs) -> Limits:
    """How large the variables of a sweep get, as (constant, slope in the longest of n, m and offset)."""
    owned = layout.query_step * sweep.rows if sweep.over == "keys" else layout.key_step * sweep.cols
    return {
        "c": (layout.query_step, 0),
        "d": (layout.key_step, 0),
        "a": (1024, Fraction(1, layout.query_step)),  # a tile that begins inside ends at most 1024 further on
        "b": (1024, Fraction(1, layout.key_step)),
        "t": (1, Fraction(1, owned)),
    }


def axes(layout: Layout, rows: str, keys: str) -> dict[str, str]:
    """How a mask is handed the positions of a tile: as a column and a row, or the other way round."""
    a = "r" if layout.query_step == 1 else "a"
    b = "j" if layout.key_step == 1 else "b"
    return {"a": a + rows, "b": b + keys, "r": "r" + rows, "j": "j" + keys}


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

    def source(self) -> str:
        """The function."""
        out = Lines()
        out.put("@triton.jit")
        with out.block(f"def {self.function}({', '.join(self.names)}):"):
            out.put(f'"""{self.doc}"""', f"return {pred_source(self.pred)}")
        return str(out)


def load_mask(mask: str, preds: Iterable[Pred]) -> str:
    """A mask for loads. Where single numbers are compared too, Triton's interpreter makes integers of it."""
    return f"({mask}) != 0" if any(has_scalar(p, frozenset({"r", "j"})) for p in preds) else mask
