"""Depth of a pattern between blocks of tokens: that of the pattern itself, among as many tokens as there are blocks.

A token attends all tokens of the blocks that its block attends, so L layers connect two tokens exactly when they
connect their blocks. Every block has a token, so all pairs of n tokens are connected when all pairs of ceil(n / size)
blocks are; and all causal pairs when all causal pairs of blocks are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import sympy

from pidsl.analysis.bound import Bound, Certificate
from pidsl.analysis.formulas.words import n
from pidsl.analysis.layers.by_values import PERIODS, Claim, fitted, shape
from pidsl.analysis.verdict import Verdict
from pidsl.analysis.ways import Asked, NotMine
from pidsl.errors import TooHardError
from pidsl.language.terms import Blocked


def depth(asked: Asked) -> Bound:
    """Depth of a term that is read on blocks, from that of what is read on them."""
    q = asked.question
    if not isinstance(q.subject, Blocked) or q.n is not None:
        raise NotMine
    size, inner = cast(int, q.subject.size), asked.ask(replace(q, subject=q.subject.of))
    if not inner.is_exact or inner.assumptions != (sympy.Ge(n, 1),):
        raise TooHardError(f"the depth of {q.subject.of!r} for every n", "known", hint=inner.reason)
    own = shape(inner.expr)
    tokens = size * (max(own.starts) + PERIODS * own.period)
    values = [_finite(inner(n=-(-count // size))) for count in range(1, tokens + 1)]
    found = fitted(values, sympy.oo, size * own.period)
    reason = "some pair stays out of reach of every number of layers" if found.expr.has(sympy.oo) else ""
    return Bound(q, "==", found.expr, found.assumptions, Certificate("blocks", (), (inner,)), reason)


def check_blocks(bound: Bound) -> Verdict:
    """The depth between blocks is proved by itself, and the formula compared with it until both are quasi-affine."""
    claim, term = Claim(bound), bound.term
    if not isinstance(term, Blocked):
        return Verdict(False, failure="not the depth of a pattern between blocks")
    (inner,) = bound.certificate.premises or (None,)
    if inner is None or inner.question != replace(bound.question, subject=term.of) or not inner.is_exact:
        return Verdict(False, failure=f"no premise about the depth of {term.of!r}")
    if inner.assumptions != (sympy.Ge(n, 1),):
        return Verdict(False, failure=f"the depth of {term.of!r} is not stated for every n")
    size = cast(int, term.size)
    own = shape(inner.expr)
    last = claim.last(size * max(own.starts), size * own.period)
    if failure := claim.failure(lambda count: _finite(inner(n=-(-count // size))), last, float("inf")):
        return Verdict(False, failure=failure)
    return Verdict(True, (f"the depth of {term.of!r}, proved by itself", f"compared with it for n up to {last}"))


def _finite(value: object) -> int | None:
    return value if isinstance(value, int) else None
