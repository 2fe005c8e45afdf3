"""The two patterns of the Sparse Transformer (Child et al., arXiv 1904.10509, section 4).

    strided  A1 = {max(0, i - l), ..., i}             A2 = {j <= i : (i - j) mod l = 0}
    fixed    A1 = {j <= i : j // l = i // l}          A2 = {j <= i : j mod l >= l - c}

Both are the merged form, one softmax over A1 and A2 together; a head of its own for each part is the other use, and
takes the parts as two terms. A1 of the strided pattern counts l keys beside the token itself, as the formula is
printed. The code that came with the paper writes a local part of l keys, the token's own included: `window(l - 1)`,
which is what `local=l - 1` gives. Published: l = 128, and c = 8, 16 or 32 for the fixed pattern.
"""

from __future__ import annotations

import pidsl
from pidsl.errors import TermError
from pidsl.language.expr import Index
from pidsl.language.sizes import size
from pidsl.language.terms import Term

__all__ = ["sparse_fixed", "sparse_strided"]


def sparse_strided(stride: Index, *, local: Index | None = None) -> Term:
    """The previous `stride` tokens, the token itself, and every `stride`-th token before it.

    `0 <= i - j <= local`, or `i >= j` and `(i - j) mod stride = 0`.

    >>> sparse_strided(3, local=1).mask(7).astype(int)
    array([[1, 0, 0, 0, 0, 0, 0],
           [1, 1, 0, 0, 0, 0, 0],
           [0, 1, 1, 0, 0, 0, 0],
           [1, 0, 1, 1, 0, 0, 0],
           [0, 1, 0, 1, 1, 0, 0],
           [0, 0, 1, 0, 1, 1, 0],
           [1, 0, 0, 1, 0, 1, 1]])
    >>> sparse_strided(128)
    window(128) | stride(128) & causal

    Args:
        stride: the paper's l, in tokens.
        local: keys of the local part beside the token itself; None: as many as the stride.

    Raises:
        TermError: stride < 1 or local < 0.
    """
    where = f"sparse_strided({stride!r}, local={local!r})"
    stride = size(stride, "stride", where, least=1)
    local = stride if local is None else size(local, "local", where, least=0)
    return pidsl.window(local) | pidsl.stride(stride) & pidsl.causal


def sparse_fixed(stride: Index, summary: Index = 1) -> Term:
    """The token's block up to itself, and the last `summary` positions of every earlier block.

    `j <= i`, and `i // l = j // l` or `j mod l >= l - c`.

    >>> sparse_fixed(3).mask(7).astype(int)
    array([[1, 0, 0, 0, 0, 0, 0],
           [1, 1, 0, 0, 0, 0, 0],
           [1, 1, 1, 0, 0, 0, 0],
           [0, 0, 1, 1, 0, 0, 0],
           [0, 0, 1, 1, 1, 0, 0],
           [0, 0, 1, 1, 1, 1, 0],
           [0, 0, 1, 0, 0, 1, 1]])
    >>> sparse_fixed(128, 8)
    (blocks(128) | where(lambda i, j: j % 128 >= 120)) & causal

    Args:
        stride: tokens per block, the paper's l.
        summary: positions at the end of a block that later blocks attend, the paper's c.

    Raises:
        TermError: stride < 1, or summary outside 1 .. stride.
    """
    where = f"sparse_fixed({stride!r}, {summary!r})"
    stride = size(stride, "stride", where, least=1)
    summary = size(summary, "summary", where, least=1)
    if isinstance(stride, int) and isinstance(summary, int) and summary > stride:
        raise TermError(f"summary = {summary}", f"at most the {stride} positions of a block", where)
    columns = pidsl.where(lambda i, j: j % stride >= stride - summary)
    return (pidsl.blocks(stride) | columns) & pidsl.causal
