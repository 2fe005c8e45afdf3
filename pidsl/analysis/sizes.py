"""The conventions of `cost`: what is counted of tensors, and by what a pair or a live key is multiplied.

Bytes of tensors have no mask to be compared with. Their formula (`studies.cost`) is a sum over names of tensors; its
checker makes the arrays at two numbers of tokens, without memory, and adds up what they would hold.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import sympy

from pidsl.analysis.bound import Bound, Form
from pidsl.analysis.formulas.words import n
from pidsl.analysis.verdict import Verdict, failed

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


def factor(quantity: str, given: dict[str, Any]) -> int:
    """What a pair, or a live key, counts."""
    if quantity in ("kv bytes", "decode bytes", "received bytes"):
        width = given["head_dim"] + given.get("value_dim", given["head_dim"])
        return width * given["kv_heads"] * given["batch"] * DTYPES[given["dtype"]]
    return FLOPS[quantity] * given["head_dim"] * given["heads"] * given["batch"]


def check_sizes(bound: Bound) -> Verdict:
    """Verify bytes of tensors from arrays of their shapes: what is linear in n is decided by two n."""
    tokens, form = bound.argument("n"), cast(Form, bound.question.form)
    if not bound.expr.is_polynomial(n) or sympy.Poly(bound.expr, n).degree() > 1:
        return failed(f"not linear in n: {bound.expr}")
    for count in (3, 8) if tokens is None else (tokens,):
        arrays = _arrays(form, count)[bound.quantity]
        held = sum(array.nbytes for array in arrays)
        if bound.expr.subs(n, count) != held:
            return failed(f"n = {count}: {bound.expr.subs(n, count)}, the arrays hold {held}")
    shown = " + ".join(str(array.shape) for array in arrays)
    return Verdict(True, (f"{bound.quantity}: {shown} for n = {count}",))


def _arrays(form: Form, tokens: int) -> dict[str, tuple[Any, ...]]:
    """What goes in and out of the two passes, as arrays that take no memory."""
    element = {"64": np.float64, "32": np.float32, "16": np.float16}[form.dtype[-2:]]  # bf16 is as long as fp16

    def array(kind: Any, *shape: int) -> Any:
        return np.broadcast_to(np.zeros((), kind), (form.batch, *shape))

    q = out = grad_out = grad_q = array(element, form.heads, tokens, form.head_dim)
    k = v = grad_k = grad_v = array(element, form.kv_heads, tokens, form.head_dim)
    lse = array(np.float64 if element is np.float64 else np.float32, form.heads, tokens)
    return {
        "forward read bytes": (q, k, v),
        "forward write bytes": (out, lse),
        "backward read bytes": (q, k, v, out, grad_out, lse),
        "backward write bytes": (grad_q, grad_k, grad_v),
        "memory bytes": (out, lse),
    }


def check_no_layer(bound: Bound) -> Verdict:
    """Verify that no layer sees lag 0 only."""
    holds = {"==": bound.expr == 0, "<=": bound.expr.is_nonnegative, ">=": bound.expr.is_nonpositive}
    if not holds[bound.relation] or bound.expr.has(sympy.Piecewise):  # which need not say anything somewhere
        return Verdict(False, failure="without a layer, every token is itself: 0")
    return Verdict(True, ("without a layer, every token is itself",))
