"""The conventions of `cost`, and what verifies a quantity that is pairs or live keys times a factor.

The checker asks for the pairs (or the live keys) of the term anew, verifies that answer, and then shows that the
formula of the statement is the factor times it.
"""

from __future__ import annotations

from typing import Any

import sympy

from pidsl.analysis.bound import Bound
from pidsl.analysis.formulas.words import n, symbol
from pidsl.analysis.verdict import Verdict

t = symbol("t")

DTYPES = {
    "bf16": 2, "fp16": 2, "fp32": 4, "fp64": 8, "bfloat16": 2, "float16": 2, "float32": 4, "float64": 8
}  # fmt: skip

FLOPS = {"forward flops": 4, "backward flops": 10}  # per attended pair and element of a row

TENSORS = {
    "forward read bytes": ("q", "k", "v"),
    "forward write bytes": ("out", "lse"),
    "backward read bytes": ("q", "k", "v", "out", "dout", "lse"),
    "backward write bytes": ("dq", "dk", "dv"),
    "memory bytes": ("out", "lse"),
}


def tensor_bytes(quantity: str, given: dict[str, Any]) -> sympy.Expr:
    """The size of the tensors that a quantity counts, as a formula in n."""
    total = sympy.Integer(0)
    for tensor in TENSORS[quantity]:
        heads = given["kv_heads"] if tensor in ("k", "v", "dk", "dv") else given["heads"]
        size = DTYPES[given["dtype"]]
        row = max(4, size) if tensor == "lse" else size * given["head_dim"]  # lse: float32, float64 for float64
        total += given["batch"] * heads * row * n
    return total


def factor(quantity: str, given: dict[str, Any]) -> int:
    """What a pair, or a live key, counts."""
    if quantity == "kv bytes":
        width = given["head_dim"] + given.get("value_dim", given["head_dim"])
        return width * given["kv_heads"] * given["batch"] * DTYPES[given["dtype"]]
    return FLOPS[quantity] * given["head_dim"] * given["heads"] * given["batch"]


def check_sizes(bound: Bound) -> Verdict:
    """Verify bytes of tensors from their shapes."""
    given = bound.question.given
    expr = tensor_bytes(bound.quantity, given)
    expr = expr.subs(n, given["n"]) if "n" in given else expr
    if sympy.expand(expr - bound.expr) != 0:
        return Verdict(False, failure=f"not the formula {expr}")
    return Verdict(True, (f"{bound.quantity}: " + " + ".join(TENSORS[bound.quantity]),))


def check_no_layer(bound: Bound) -> Verdict:
    """Verify that no layer sees lag 0 only."""
    holds = {"==": bound.expr == 0, "<=": bound.expr.is_nonnegative, ">=": bound.expr.is_nonpositive}
    if not holds[bound.relation] or bound.expr.has(sympy.Piecewise):  # which need not say anything somewhere
        return Verdict(False, failure="without a layer, every token is itself: 0")
    return Verdict(True, ("without a layer, every token is itself",))
