"""Axial attention over a grid of tokens in row-major order (Ho et al., arXiv 1912.12180).

    row       i // w = j // w          tokens of the same row of w
    column    i mod w = j mod w        tokens of the same column

The paper alternates layers along one axis each; "both" is their union in one softmax, as in CCNet (arXiv 1811.11721)
and in the sparse form of Combiner's axial pattern. The causal forms keep j <= i in row-major order.
"""

from __future__ import annotations

from typing import Literal, get_args

import pidsl
from pidsl.errors import TermError
from pidsl.language.expr import Index
from pidsl.language.sizes import size
from pidsl.language.terms import Term

__all__ = ["Axis", "axial"]

Axis = Literal["row", "column", "both"]


def axial(width: Index, axis: Axis = "both", *, causal: bool = False) -> Term:
    """The tokens of the same row, of the same column, or of either.

    >>> axial(3).mask(6).astype(int)
    array([[1, 1, 1, 1, 0, 0],
           [1, 1, 1, 0, 1, 0],
           [1, 1, 1, 0, 0, 1],
           [1, 0, 0, 1, 1, 1],
           [0, 1, 0, 1, 1, 1],
           [0, 0, 1, 1, 1, 1]])
    >>> axial(64, "column", causal=True)
    stride(64) & causal

    Args:
        width: tokens per row; the last row may be shorter.
        axis: "row", "column" or "both".
        causal: only keys j <= i.

    Raises:
        TermError: width < 1, or another axis.
    """
    where = f"axial({width!r}, {axis!r}, causal={causal!r})"
    width = size(width, "width", where, least=1)
    if axis not in get_args(Axis):
        raise TermError(f"axis = {axis!r}", f"one of {', '.join(map(repr, get_args(Axis)))}", where)
    row, column = pidsl.blocks(width), pidsl.stride(width)
    term = row if axis == "row" else column if axis == "column" else row | column
    return term & pidsl.causal if causal else term
