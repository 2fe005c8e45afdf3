"""HaloNet: a block of queries attends its block grown by a halo (Vaswani et al., arXiv 2103.12731), in one dimension.

`b (i // b) - h <= j < b (i // b) + b + h`: the same keys for all tokens of a block, 2 h + b of them, cut at both ends
of the sequence. timm pads with zeros instead and lets the padding enter the softmax; it has no term here, because
padding is not a key. Published: b = 8, h = 3 (on either axis of an image).
"""

from __future__ import annotations

import pidsl
from pidsl.language.expr import Index
from pidsl.language.terms import Term, size

__all__ = ["halo_1d"]


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
