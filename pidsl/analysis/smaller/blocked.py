"""Depth of a pattern between blocks of tokens: that of the pattern itself, among as many tokens as there are blocks.

A token attends all tokens of the blocks that its block attends, so L layers connect two tokens exactly when they
connect their blocks. Every block has a token, so all pairs of n tokens are connected when all pairs of ceil(n / size)
blocks are; and all causal pairs when all causal pairs of blocks are.
"""

from __future__ import annotations

from typing import cast

import sympy

from pidsl.analysis.bound import Bound
from pidsl.analysis.dense import Of
from pidsl.analysis.formulas.piecewise import Formula
from pidsl.analysis.formulas.words import n
from pidsl.analysis.layers.by_values import PERIODS, Claim, fitted, shape
from pidsl.analysis.proofs import Verdict
from pidsl.errors import TooHardError
from pidsl.language.terms import Blocked, Term


def depth_of_blocks(term: Term, of: Of) -> Formula | None:
    """Depth of a term that is read on blocks; None for any other.

    Raises:
        TooHardError: the depth of what is read on blocks is not known.
    """
    if not isinstance(term, Blocked):
        return None
    size, inner = cast(int, term.size), _inside(term, of)
    own = shape(inner.expr)
    tokens = size * (max(own.starts) + PERIODS * own.period)
    values = [_finite(inner(n=-(-count // size))) for count in range(1, tokens + 1)]
    return fitted(values, sympy.oo, size * own.period)


def check_blocks(bound: Bound) -> Verdict:
    """The depth between blocks is proved by itself, and the formula compared with it until both are quasi-affine."""
    claim, term, of = Claim(bound), bound.term, bound.argument("of")
    if not isinstance(term, Blocked):
        return Verdict(False, failure="not the depth of a pattern between blocks")
    size, inner = cast(int, term.size), _inside(term, of)
    if not inner.proof.check():
        return Verdict(False, failure=f"the depth of {term.of!r} is not proved")
    own = shape(inner.expr)
    last = claim.last(size * max(own.starts), size * own.period)
    if failure := claim.failure(lambda count: _finite(inner(n=-(-count // size))), last, float("inf")):
        return Verdict(False, failure=failure)
    return Verdict(True, (f"the depth of {term.of!r}, proved by itself", f"compared with it for n up to {last}"))


def _inside(term: Blocked, of: Of) -> Bound:
    """The depth of what is read on blocks."""
    from pidsl.analysis.layers.depth import depth

    inner = depth(term.of, of=of)
    if not inner.is_exact or inner.assumptions != (sympy.Ge(n, 1),):
        raise TooHardError(f"the depth of {term.of!r} for every n", "known", hint=inner.reason)
    return inner


def _finite(value: object) -> int | None:
    return value if isinstance(value, int) else None
