"""Neighbourhood attention on grids of tokens (Hassani et al., arXiv 2204.07143; strides: arXiv 2504.16922).

On every axis of length L, within the residue class of a dilation d, the token numbered t attends `window` keys:

    start = min(max(leader - window // 2, 0), L - window)        keys start, ..., start + window - 1
    leader = t, or t // stride * stride + stride // 2 with a stride

The window counts keys, the token's own included, and is shifted inward at the border, so that every token has as many
keys; an even window has one key more before the token than after it. A causal axis has windows that end with the token
and are cut. This is what NATTEN computes; `pidsl.neighborhood(..., border="cut")` truncates instead.

Tokens are numbered in row-major order, and n is the number of tokens of the grid. Published: windows of 7 (NAT, DiNAT)
and 13. The inward windows of FreeSwim (arXiv 2511.14712), all frames and the same shifted window in every frame, are
neighbourhoods whose window spans the axis of frames: `inward_windows`.
"""

from __future__ import annotations

from collections.abc import Sequence

import pidsl
from pidsl.errors import TermError
from pidsl.language.terms import Term
from pidsl.patterns.checks import number

__all__ = ["inward_windows", "neighborhood_attention"]

Sizes = int | Sequence[int]


def neighborhood_attention(
    shape: Sizes, window: Sizes = 7, *, stride: Sizes = 1, dilation: Sizes = 1, causal: bool | Sequence[bool] = False
) -> Term:
    """The `window` nearest tokens on every axis of a grid of one to three.

    >>> neighborhood_attention(5, 3).mask(5).astype(int)
    array([[1, 1, 1, 0, 0],
           [1, 1, 1, 0, 0],
           [0, 1, 1, 1, 0],
           [0, 0, 1, 1, 1],
           [0, 0, 1, 1, 1]])
    >>> neighborhood_attention((64, 64))
    neighborhood((64, 64), 7)

    Args:
        shape: lengths of the axes in tokens, the last one varies fastest.
        window: keys per axis, the token's own included; this and the following for all axes, or one for each.
        stride: tokens that share a window.
        dilation: tokens from one key to the next.
        causal: whether an axis looks back only.

    Raises:
        TermError: as in `pidsl.neighborhood`.
    """
    return pidsl.neighborhood(shape, window, stride, dilation, causal)


def inward_windows(frames: int, height: int, width: int, half: tuple[int, int]) -> Term:
    """Every frame, and in it a window that is shifted inward at the border (FreeSwim).

    >>> inward_windows(2, 30, 52, (3, 6))
    neighborhood((2, 30, 52), (2, 7, 13))

    Args:
        frames, height, width: lengths of the axes in tokens.
        half: tokens on either side of the token, down and across.

    Raises:
        TermError: a length < 1, or half a window that is negative.
    """
    where = f"inward_windows({frames!r}, {height!r}, {width!r}, {half!r})"
    if len(half) != 2:
        raise TermError(f"half = {half!r}", "two numbers: tokens down and across", where)
    why = "the windows of a grid have fixed sizes"
    frames = number(frames, "frames", where, least=1, reason=why)
    down, across = (number(x, "half", where, least=0, reason=why) for x in half)
    return pidsl.neighborhood((frames, height, width), (frames, 2 * down + 1, 2 * across + 1))
