"""Depth of a pattern between blocks of tokens: that of the pattern itself, among as many tokens as there are blocks.

A token attends all tokens of the blocks that its block attends, so L layers connect two tokens exactly when they
connect their blocks. Every block has a token, so all pairs of n tokens are connected when all pairs of ceil(n / size)
blocks are; and all causal pairs when all causal pairs of blocks are.
"""

from __future__ import annotations

from math import lcm
from typing import cast

import sympy

from pidsl.analysis.agreement import Shape, shape_of
from pidsl.analysis.bound import Bound
from pidsl.analysis.formulas import n, value_of
from pidsl.analysis.guess import guess
from pidsl.analysis.matrices import Of
from pidsl.analysis.piecewise import Formula
from pidsl.analysis.proofs import Verdict
from pidsl.analysis.stacks import checked
from pidsl.errors import TooHardError
from pidsl.language.terms import Blocked, Term

BRANCHES = 24
PERIODS = 3  # of the last formula that are worked out


def depth_of_blocks(term: Term, of: Of) -> Formula | None:
    """Depth of a term that is read on blocks; None for any other.

    Raises:
        TooHardError: the depth of what is read on blocks is not known.
    """
    if not isinstance(term, Blocked):
        return None
    size, inner, shape = _inside(term, of)
    tokens = size * (max(shape.starts) + PERIODS * shape.period)
    values = [_finite(inner(n=-(-count // size))) for count in range(1, tokens + 1)]
    found = guess(values, sympy.oo, BRANCHES, 2 * size * shape.period)
    if found is None:
        raise TooHardError(f"depths of up to {tokens} tokens", "a formula that they follow")
    return found


def check_blocks(bound: Bound) -> Verdict:
    """The depth between blocks is proved by itself, and the formula compared with it until both are quasi-affine."""
    term, of, given = checked(bound.subject), bound.argument("of"), bound.argument("n")
    least = given if given is not None else bound.assumptions[0].rhs if bound.assumptions else sympy.nan
    if not isinstance(term, Blocked) or of not in ("causal", "all") or bound.quantity != "depth":
        return Verdict(False, failure="not the depth of a pattern between blocks")
    if bound.relation != "==" or bound.expr.free_symbols - {n} or bound.expr.has(sympy.nan):
        return Verdict(False, failure=f"{bound.expr} is no formula in n")
    if not sympy.sympify(least).is_Integer or (given is None and bound.assumptions != (sympy.Ge(n, least),)):
        return Verdict(False, failure=f"assumptions {bound.assumptions}")
    size, inner, shape = _inside(term, of)
    if not inner.proof.check():
        return Verdict(False, failure=f"the depth of {term.of!r} is not proved")
    own = _shape(bound.expr)
    if own.degree > 1:
        return Verdict(False, failure=f"{bound.expr} is not affine in classes of n")
    last = max(size * max(shape.starts), *own.starts) + 2 * lcm(size * shape.period, own.period)
    for count in range(int(least), last + 1) if given is None else (given,):
        if value_of(bound.expr, {n: sympy.Integer(count)}) != inner(n=-(-count // size)):
            return Verdict(False, failure=f"{inner(n=-(-count // size))} layers for {count} tokens")
    return Verdict(True, (f"the depth of {term.of!r}, proved by itself", f"compared with it for n up to {last}"))


def _inside(term: Blocked, of: Of) -> tuple[int, Bound, Shape]:
    """The size of blocks, the depth of what is read on them, and its shape."""
    from pidsl.analysis.depth import depth

    inner = depth(term.of, of=of)
    if not inner.is_exact or inner.assumptions != (sympy.Ge(n, 1),):
        raise TooHardError(f"the depth of {term.of!r} for every n", "known", hint=inner.reason)
    shape = _shape(inner.expr)
    if shape.degree > 1:
        raise TooHardError(f"a depth of {inner.expr}", "affine in classes of n")
    return cast(int, term.size), inner, shape


def _shape(expr: sympy.Expr) -> Shape:
    return shape_of(expr.xreplace({sympy.oo: sympy.Integer(0)}), n)


def _finite(value: object) -> int | None:
    return value if isinstance(value, int) else None
