"""HaloNet: a block of queries attends its block grown by a halo (Vaswani et al., arXiv 2103.12731).

On every axis `b (y // b) - h <= key < b (y // b) + b + h`: the same keys for all tokens of a block, 2 h + b of them per
axis, cut at the border. timm pads with zeros instead and lets the padding enter the softmax; that has no term here,
because padding is not a key. Published: b = 8, h = 3 on both axes of an image. `halo_1d` is the same on a sequence of
any length.
"""

from __future__ import annotations

from collections.abc import Sequence

import pidsl
from pidsl.language.expr import Index
from pidsl.language.sizes import size
from pidsl.language.terms import Term

__all__ = ["halo_1d", "halo_attention"]


def halo_1d(block: Index = 8, halo: Index = 3) -> Term:
    """The own block, and `halo` tokens before and after it.

    >>> halo_1d(2, 1).mask(6).astype(int)
    array([[1, 1, 1, 0, 0, 0],
           [1, 1, 1, 0, 0, 0],
           [0, 1, 1, 1, 1, 0],
           [0, 1, 1, 1, 1, 0],
           [0, 0, 0, 1, 1, 1],
           [0, 0, 0, 1, 1, 1]])

    Args:
        block: tokens per block.
        halo: tokens on either side of it.

    Raises:
        TermError: block < 1 or halo < 0.
    """
    where = f"halo_1d({block!r}, {halo!r})"
    block = size(block, "block", where, least=1)
    halo = size(halo, "halo", where, least=0)
    return pidsl.where(lambda i, j: (j >= i // block * block - halo) & (j < i // block * block + block + halo))


def halo_attention(shape: int | Sequence[int], block: int | Sequence[int] = 8, halo: int | Sequence[int] = 3) -> Term:
    """The own block of a grid of one to three axes, grown by the halo on every side.

    >>> halo_attention((2, 4), (1, 2), (0, 1)).mask(8).astype(int)
    array([[1, 1, 1, 0, 0, 0, 0, 0],
           [1, 1, 1, 0, 0, 0, 0, 0],
           [0, 1, 1, 1, 0, 0, 0, 0],
           [0, 1, 1, 1, 0, 0, 0, 0],
           [0, 0, 0, 0, 1, 1, 1, 0],
           [0, 0, 0, 0, 1, 1, 1, 0],
           [0, 0, 0, 0, 0, 1, 1, 1],
           [0, 0, 0, 0, 0, 1, 1, 1]])
    >>> halo_attention((64, 64))
    halo((64, 64), 8, 3)

    Args:
        shape: lengths of the axes in tokens, the last one varies fastest.
        block: tokens per block, for all axes or one for each.
        halo: tokens on either side, likewise.

    Raises:
        TermError: as in `pidsl.halo`.
    """
    return pidsl.halo(shape, block, halo)
