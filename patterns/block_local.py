"""Block-diagonal attention, and Swin's shifted blocks in one dimension (Liu et al., arXiv 2103.14030).

    block-diagonal   i // s = j // s
    shifted          (i - h) // s = (j - h) // s, with floor division: the first block has h tokens

Swin moves the tokens cyclically by h = s // 2, attends within blocks, and masks pairs that the turn brought together;
what is left is the second formula. The blocks at both ends are cut, nothing wraps around. In Swin n is a multiple of s.
"""

from __future__ import annotations

import pidsl
from pidsl.errors import TermError
from pidsl.language.expr import Index
from pidsl.language.schedule import Schedule
from pidsl.language.sizes import checked_size
from pidsl.language.terms import Term
from pidsl.patterns.checks import number

__all__ = ["block_diagonal", "shifted_blocks", "swin_layers"]


def block_diagonal(size: Index) -> Term:
    """Every token of the own block.

    >>> block_diagonal(2).mask(5).astype(int)
    array([[1, 1, 0, 0, 0],
           [1, 1, 0, 0, 0],
           [0, 0, 1, 1, 0],
           [0, 0, 1, 1, 0],
           [0, 0, 0, 0, 1]])

    Args:
        size: tokens per block.

    Raises:
        TermError: size < 1.
    """
    return pidsl.blocks(checked_size(size, "size", f"block_diagonal({size!r})", least=1))


def shifted_blocks(size: Index, shift: Index | None = None) -> Term:
    """Blocks whose borders are `shift` tokens further on.

    >>> shifted_blocks(2).mask(5).astype(int)
    array([[1, 0, 0, 0, 0],
           [0, 1, 1, 0, 0],
           [0, 1, 1, 0, 0],
           [0, 0, 0, 1, 1],
           [0, 0, 0, 1, 1]])
    >>> shifted_blocks(64)
    where(lambda i, j: (i - 32) // 64 == (j - 32) // 64)

    Args:
        size: tokens per block.
        shift: in 0 .. size - 1; None: half a block, as in Swin.

    Raises:
        TermError: size < 1, or a shift outside 0 .. size - 1.
    """
    where = f"shifted_blocks({size!r}, {shift!r})"
    size = checked_size(size, "size", where, least=1)
    shift = size // 2 if shift is None else checked_size(shift, "shift", where, least=0)
    if isinstance(size, int) and isinstance(shift, int) and shift >= size:
        raise TermError(f"shift = {shift}", f"less than a block of {size}", where, f"shift={shift % size}")
    if shift == 0:
        return pidsl.blocks(size)
    return pidsl.where(lambda i, j: (i - shift) // size == (j - shift) // size)


def swin_layers(layers: int, size: Index) -> Schedule:
    """Plain and shifted blocks in turn, the first layer plain.

    >>> swin_layers(2, 64)
    layers([blocks(64), where(lambda i, j: (i - 32) // 64 == (j - 32) // 64)])

    Args:
        layers: how many layers.
        size: tokens per block.

    Raises:
        TermError: layers < 1 or size < 1.
    """
    where = f"swin_layers({layers!r}, {size!r})"
    layers = number(layers, "layers", where, least=1, reason="the schedule has one term per layer")
    pair = block_diagonal(size), shifted_blocks(size)
    return pidsl.layers(pair[layer % 2] for layer in range(layers))
