"""Masks of a plan as device functions, and the names that a kernel's tiles have in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction

from pidsl.codegen.plan import Layout, Sweep
from pidsl.codegen.triton_expr import Limits, has_scalar, names_in, pred_source
from pidsl.codegen.triton_lines import Lines
from pidsl.language.expr import Add, Index, Mul, Pred, simplify

PLAN_VARS = ("n", "m", "offset", "c", "d", "a", "b", "r", "j")


def affine(step: int, index: Index, own_class: Index) -> Index:
    """`step * index + class`, simplified."""
    return simplify(Add(simplify(Mul(step, index)), own_class))


def constant_classes(layout: Layout) -> dict[str, Index]:
    """Classes that are numbers: `{c: 0, d: 0}` for the identity."""
    if layout.linked:
        return {}
    classes = {"c": layout.row_class(), "d": layout.key_class or 0}
    return {name: value for name, value in classes.items() if isinstance(value, int)}


def limits_of(layout: Layout, sweep: Sweep) -> Limits:
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


def call_source(function: str, pred: Pred, arguments: Mapping[str, str]) -> str:
    """A call of a `predicate`, with the expressions in `arguments` for some of its variables."""
    names = names_in([pred], PLAN_VARS)
    return f"{function}({', '.join(arguments.get(name, name) for name in names)})"


def load_mask(mask: str, preds: Iterable[Pred]) -> str:
    """A mask for loads. Where single numbers are compared too, Triton's interpreter makes integers of it."""
    return f"({mask}) != 0" if any(has_scalar(p, frozenset({"r", "j"})) for p in preds) else mask


def predicate_source(function: str, pred: Pred, doc: str) -> str:
    """A device function of the variables that occur in `pred`, in the order of `PLAN_VARS`."""
    names = ", ".join(names_in([pred], PLAN_VARS))
    out = Lines()
    out.put("@triton.jit")
    with out.block(f"def {function}({names}):"):
        out.put(f'"""{doc}"""', f"return {pred_source(pred)}")
    return str(out)
