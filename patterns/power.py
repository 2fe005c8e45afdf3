"""PowerAttention (Chen et al., arXiv 2503.03588): a window, the power-of-two distances, and sinks, in blocks.

With `b = i // B - j // B`:  attend iff `j <= i` and (`b < W`, or b is a power of two, or `j // B < sinks`).

Distances are counted in blocks of B tokens, the own block included in W; the diagonal blocks are causal inside.
Published: B = 256, W = 5, one sink block. With blocks of one token it is the token-level pattern of the paper's
theory, where any two tokens are at most log2 n steps apart.
"""

from __future__ import annotations

import pidsl
from pidsl.language.expr import Index
from pidsl.language.sizes import size
from pidsl.language.terms import Term
from pidsl.patterns.checks import number
from pidsl.patterns.logsparse import powers_of_two

__all__ = ["power_attention"]


def power_attention(tokens: int, *, block: int = 256, window: int = 5, sinks: Index = 1) -> Term:
    """Window, powers of two and sinks, in blocks; causal.

    >>> power_attention(7, block=1, window=1, sinks=1).mask(7).astype(int)
    array([[1, 0, 0, 0, 0, 0, 0],
           [1, 1, 0, 0, 0, 0, 0],
           [1, 1, 1, 0, 0, 0, 0],
           [1, 1, 1, 1, 0, 0, 0],
           [1, 0, 1, 1, 1, 0, 0],
           [1, 1, 0, 1, 1, 1, 0],
           [1, 0, 1, 0, 1, 1, 1]])
    >>> power_attention(32768)
    (window(4) | lags(8, 16, 32, 64) | keys(0, 1)).blocked(256) & causal

    Args:
        tokens: the longest sequence; beyond it, larger powers would be missing.
        block: tokens per block; 1 gives the token-level pattern.
        window: blocks of the window, the own block included.
        sinks: blocks at the start that every token attends.

    Raises:
        TermError: tokens < 1, block < 1, window < 1, sinks < 0, or a symbol where the number of lags depends on it.
    """
    where = f"power_attention({tokens!r}, block={block!r}, window={window!r}, sinks={sinks!r})"
    why = "it decides how many lags there are"
    tokens = number(tokens, "tokens", where, least=1, reason=why)
    block = number(block, "block", where, least=1, reason=why)
    window = number(window, "window", where, least=1, reason=why)
    sinks = size(sinks, "sinks", where, least=0)
    term: Term = pidsl.window(window - 1)
    if far := [power for power in powers_of_two(-(-tokens // block)) if power >= window]:
        term = term | pidsl.lags(*far)
    if sinks != 0:
        term = term | pidsl.keys(0, sinks)
    return (term if block == 1 else term.blocked(block)) & pidsl.causal
