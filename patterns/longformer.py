"""Longformer: a window, optionally dilated, and global tokens (Beltagy et al., arXiv 2004.05150, section 3.1).

    |i - j| <= w / 2, in steps of the dilation;  or j is global;  or i is global

A window of (even) size w has w / 2 keys on either side *and* the token itself, w + 1 keys; borders are cut. Global
attention is symmetric: a global token attends all tokens and all tokens attend it. The paper gives global attention
projections of its own; that is a matter of the model, not of the pattern. Published: w = 512, and, for character
models, dilations that grow over the layers and that some of the heads have and others have not: `longformer_heads`.
The causal form is the same set cut at j <= i.
"""

from __future__ import annotations

from collections.abc import Iterable

import pidsl
from pidsl.errors import TermError
from pidsl.language.expr import Index
from pidsl.language.heads import Heads
from pidsl.language.sizes import size
from pidsl.language.terms import Term

__all__ = ["longformer", "longformer_heads"]


def longformer(
    window: Index = 512, *, global_tokens: Index | Iterable[int] = 1, dilation: Index = 1, causal: bool = False
) -> Term:
    """Window and global tokens.

    >>> longformer(2).mask(5).astype(int)
    array([[1, 1, 1, 1, 1],
           [1, 1, 1, 0, 0],
           [1, 1, 1, 1, 0],
           [1, 0, 1, 1, 1],
           [1, 0, 0, 1, 1]])
    >>> longformer(512, global_tokens=16)
    window(256, 256) | keys(0, 16) | queries(0, 16)
    >>> longformer(64, global_tokens=[0, 7], causal=True)
    (window(32) | keys(0, 1) | keys(7, 8) | queries(0, 1) | queries(7, 8)) & causal

    Args:
        window: tokens of the window beside the token itself, half of them on either side; even.
        global_tokens: how many tokens at the start are global, or the positions of the global tokens.
        dilation: tokens from one key of the window to the next.
        causal: only keys j <= i; the window then has `window / 2` earlier keys.

    Raises:
        TermError: an odd or negative window, dilation < 1, a negative number or position.
    """
    where = f"longformer({window!r}, global_tokens={global_tokens!r}, dilation={dilation!r}, causal={causal!r})"
    window = size(window, "window", where, least=0)
    if isinstance(window, int) and window % 2:
        raise TermError(f"window = {window}", "an even number, half on either side", where, f"window={window + 1}")
    dilation = size(dilation, "dilation", where, least=1)
    side = window // 2
    term = pidsl.window(side) if causal else pidsl.window(side, side)
    if dilation != 1:
        term = term.dilated(dilation)
    spans = _spans(global_tokens, where)
    for start, stop in spans:
        term = term | pidsl.keys(start, stop)
    for start, stop in spans:
        term = term | pidsl.queries(start, stop)
    return term & pidsl.causal if causal and spans else term


def longformer_heads(
    dilations: Iterable[Index], window: Index = 512, *, global_tokens: Index | Iterable[int] = 1, causal: bool = False
) -> Heads:
    """Window and global tokens with a dilation of its own for each query head.

    >>> longformer_heads([1, 1, 4, 8], 8, global_tokens=0, causal=True)
    heads([(2, window(4)), (1, window(4).dilated(4)), (1, window(4).dilated(8))])

    Args:
        dilations: tokens from one key of the window to the next, for each query head in order.
        window, global_tokens, causal: as in `longformer`.

    Raises:
        TermError: no heads, and as in `longformer`.
    """
    tokens = tuple(global_tokens) if isinstance(global_tokens, Iterable) else global_tokens
    return pidsl.heads((1, longformer(window, global_tokens=tokens, dilation=d, causal=causal)) for d in dilations)


def _spans(tokens: Index | Iterable[int], where: str) -> list[tuple[Index, Index]]:
    """Global positions as ranges: the first few, or runs of the given ones."""
    if not isinstance(tokens, Iterable):
        count = size(tokens, "global_tokens", where, least=0)
        return [] if count == 0 else [(0, count)]
    found: list[tuple[int, int]] = []
    for position in sorted({_position(x, where) for x in tokens}):
        if found and found[-1][1] == position:
            found[-1] = (found[-1][0], position + 1)
        else:
            found.append((position, position + 1))
    return list(found)


def _position(value: object, where: str) -> int:
    found = size(value, "global position", where, least=0)
    if not isinstance(found, int):
        raise TermError(f"global position {found!r}", "a number, or a symbol for how many tokens at the start", where)
    return found
