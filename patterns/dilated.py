"""Dilated sliding window (Longformer, arXiv 2004.05150, section 3.1; dilated neighbourhoods, arXiv 2209.15001).

The width counts keys, the token's own included, and not the tokens that the window spans: with dilation d it reaches
back `(width - 1) d` tokens. Borders are cut. attention-gym counts the span: `window(w // d, w // d).dilated(d)`.
"""

from __future__ import annotations

from pidsl.language.expr import Index
from pidsl.language.sizes import size
from pidsl.language.terms import Term
from pidsl.patterns.local import sliding_window

__all__ = ["dilated_window"]


def dilated_window(width: Index, dilation: Index, *, causal: bool = True) -> Term:
    """Every `dilation`-th key, `width` of them: `i - j = d t` with `0 <= t < width`, or `|t| <= (width - 1) / 2`.

    >>> dilated_window(2, 2).mask(5).astype(int)
    array([[1, 0, 0, 0, 0],
           [0, 1, 0, 0, 0],
           [1, 0, 1, 0, 0],
           [0, 1, 0, 1, 0],
           [0, 0, 1, 0, 1]])
    >>> dilated_window(128, 64)
    window(127).dilated(64)
    >>> dilated_window(3, 4, causal=False)
    window(1, 1).dilated(4)

    Args:
        width: keys per token, its own included.
        dilation: tokens from one key to the next.
        causal: only keys j <= i.

    Raises:
        TermError: width < 1, dilation < 1, or an even width with causal=False.
    """
    where = f"dilated_window({width!r}, {dilation!r}, causal={causal!r})"
    size(width, "width", where, least=1)
    dilation = size(dilation, "dilation", where, least=1)
    local = sliding_window(width, causal=causal)
    return local if dilation == 1 else local.dilated(dilation)
