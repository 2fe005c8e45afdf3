"""The conventions of `cost`, and what verifies a quantity that is pairs or live keys times a factor.

The checker asks for the pairs (or the live keys) of the term anew, verifies that answer, and then shows that the
formula of the statement is the factor times it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sympy

from pidsl.analysis.bound import Bound
from pidsl.analysis.formulas import smt
from pidsl.analysis.formulas.words import n, symbol
from pidsl.analysis.proofs import Verdict

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


FLIPPED = {"==": "==", "<=": ">=", ">=": "<="}
CLAIMED: dict[str, Any] = {"==": sympy.Eq, "<=": sympy.Ge, ">=": sympy.Le}  # formula against quantity, which it bounds


@dataclass(frozen=True, slots=True)
class _Expected:
    expr: sympy.Expr
    relation: str
    needs: tuple[sympy.Basic, ...]


def check_scaled(bound: Bound) -> Verdict:
    """Verify pairs, sparsity, FLOPs or bytes of live keys from the pairs or live keys of the term."""
    from pidsl.analysis import questions as ask

    term, given = bound.term, dict(bound.given)
    about = {"n", "t", "i", "L"}
    assumptions = bound.assumptions
    known = [c for c in assumptions if not {s.name for s in c.free_symbols} & about] if term.symbols else []
    of_live = bound.quantity in ("live keys", "kv bytes")
    whole = ask.live(term, known, bound.argument("lookahead")) if of_live else ask.pairs(term, known)
    found = whole.proof.verdict()
    if not found.holds:
        return Verdict(False, found.steps, found.failure or whole.reason, found.smtlib)
    expected = _expected(bound, given, whole)
    prover = smt.Prover([*found.steps], [found.smtlib] if found.smtlib else [])
    if expected.relation not in ("==", bound.relation):
        return Verdict(False, failure=f"{whole.name} {whole.relation} does not give {bound.relation}")
    for condition in expected.needs:
        if condition not in (sympy.true, *assumptions):
            prover.prove(smt.Obligation(f"assumed: {condition}", assumptions, condition))
    gap = sympy.expand(bound.expr - expected.expr)
    if gap == 0:
        prover.steps.append(f"{bound.quantity}: the factor times the {whole.quantity}, identically")
    else:
        if bound.quantity == "sparsity":  # n >= 1
            gap = sympy.expand(gap * n**2)
        positive = tuple(x >= 0 for x in (n, t) if x in gap.free_symbols)
        prover.prove(smt.Obligation("the formula", (*assumptions, *positive), CLAIMED[bound.relation](gap, 0)))
    return prover.verdict()


def _expected(bound: Bound, given: dict[str, Any], whole: Bound) -> _Expected:
    of_live = bound.quantity in ("live keys", "kv bytes")
    expr, needs, relation = whole.expr, whole.assumptions, whole.relation
    if bound.quantity == "sparsity":
        expr, needs, relation = 1 - expr / n**2, (*needs, n >= 1), FLIPPED[relation]  # type: ignore[assignment]
    elif bound.quantity not in ("pairs", "live keys"):
        expr = factor(bound.quantity, given) * expr
    if "n" in given:
        at = {t: given["n"] - 1} if of_live else {n: given["n"]}
        if of_live and given["n"] == 0:  # no token, no key
            return _Expected(sympy.Integer(0), "==", ())
        expr, needs = expr.subs(at), tuple(c.subs(at) for c in needs)
    return _Expected(expr, relation, needs)


def check_sizes(bound: Bound) -> Verdict:
    """Verify bytes of tensors from their shapes."""
    given = dict(bound.given)
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
