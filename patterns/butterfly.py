"""Schedules that connect everything through the digits of a position or of a lag.

    butterfly   stage s = 0, 1, ...: i and j differ in digit s of base b only (Dao et al., arXiv 1903.05895; in blocks:
                Pixelated Butterfly, arXiv 2112.00029)
    base b      layer l = 0, 1, ...: the lags 0, b^l, 2 b^l, ..., (b - 1) b^l: digit l of the *lag*, causal

After S stages the butterfly has connected every pair within aligned blocks of b^S tokens, along one path each; after L
layers of the base schedule exactly the lags 0 .. b^L - 1 are reached. The token itself is always attended.
"""

from __future__ import annotations

import pidsl
from pidsl.analysis.schedules import BaseSchedule
from pidsl.language.schedule import Schedule
from pidsl.language.terms import Term
from pidsl.patterns.checks import number

__all__ = ["base_layers", "butterfly", "butterfly_layers"]


def butterfly(stage: int, *, base: int = 2, block: int = 1) -> Term:
    """One stage: `i // b^(s+1) = j // b^(s+1)` and `(i - j) mod b^s = 0`, in blocks.

    >>> butterfly(1).mask(5).astype(int)
    array([[1, 0, 1, 0, 0],
           [0, 1, 0, 1, 0],
           [1, 0, 1, 0, 0],
           [0, 1, 0, 1, 0],
           [0, 0, 0, 0, 1]])
    >>> butterfly(3, block=64)
    (blocks(16) & stride(8)).blocked(64)

    Args:
        stage: which digit, 0 the lowest.
        base: of the digits, 2 in the papers.
        block: tokens that move together; 1: single tokens.

    Raises:
        TermError: stage < 0, base < 2, block < 1, or a symbol: powers are not linear.
    """
    where = f"butterfly({stage!r}, base={base!r}, block={block!r})"
    why = "powers of it are taken"
    stage = number(stage, "stage", where, least=0, reason=why)
    base = number(base, "base", where, least=2, reason=why)
    block = number(block, "block", where, least=1, reason=why)
    term: Term = pidsl.blocks(base ** (stage + 1))
    if stage:
        term = term & pidsl.stride(base**stage)
    return term if block == 1 else term.blocked(block)


def butterfly_layers(stages: int, *, base: int = 2, block: int = 1) -> Schedule:
    """One layer per stage, the lowest digit first.

    >>> butterfly_layers(3)
    layers([blocks(2), blocks(4) & stride(2), blocks(8) & stride(4)])

    Args:
        stages: how many; `base ** stages` blocks are connected.
        base, block: as in `butterfly`.

    Raises:
        TermError: stages < 1, or as in `butterfly`.
    """
    where = f"butterfly_layers({stages!r}, base={base!r}, block={block!r})"
    stages = number(stages, "stages", where, least=1, reason="the schedule has one term per stage")
    return pidsl.layers(butterfly(stage, base=base, block=block) for stage in range(stages))


def base_layers(layers: int, base: int = 2) -> Schedule:
    """One digit of the lag per layer, causal; `layers` of them reach the lags 0 .. base ** layers - 1.

    >>> base_layers(3)
    layers([window(1), window(1).dilated(2), window(1).dilated(4)])
    >>> base_layers(2, 16).contiguous()(n=4096)
    255

    Args:
        layers: how many.
        base: keys per token.

    Raises:
        TermError: layers < 1, base < 2, or a symbol.
    """
    where = f"base_layers({layers!r}, {base!r})"
    layers = number(layers, "layers", where, least=1, reason="the schedule has one term per layer")
    base = number(base, "base", where, least=2, reason="powers of it are taken")
    return pidsl.layers(BaseSchedule(base).terms(layers))
