"""S2-Attention: local blocks and strided blocks whose phase depends on the head (Lin et al., arXiv 2407.17678).

In blocks of `block` tokens, for query block b, key block c and head h:  `c <= b`, and `b - c < local` or
`(c + h step + 1) mod stride = 0`, with `step = max(1, stride // heads)`; causal inside the diagonal blocks. `local`
counts the own block. This is the formula of the authors' kernels (dkernel); heads together cover the whole context.
Published in Phi-3-small: blocks of 64 tokens, 16 local blocks, stride 8. Of 32 heads every eighth has the same pattern:
a kernel for all of them is eight launches.
"""

from __future__ import annotations

import pidsl
from pidsl.language.expr import Index
from pidsl.language.heads import Heads
from pidsl.language.sizes import size
from pidsl.language.terms import Term
from pidsl.patterns.checks import number

__all__ = ["s2_heads"]


def s2_heads(heads: int, *, block: Index = 64, local: Index = 16, stride: int = 8) -> Heads:
    """The pattern of each query head, for `pidsl.compile`; also a sequence of one term per head.

    >>> first, second = s2_heads(2, block=1, local=1, stride=2)
    >>> first.mask(5).astype(int)
    array([[1, 0, 0, 0, 0],
           [0, 1, 0, 0, 0],
           [0, 1, 1, 0, 0],
           [0, 1, 0, 1, 0],
           [0, 1, 0, 1, 1]])
    >>> second.mask(5).astype(int)
    array([[1, 0, 0, 0, 0],
           [1, 1, 0, 0, 0],
           [1, 0, 1, 0, 0],
           [1, 0, 1, 1, 0],
           [1, 0, 1, 0, 1]])
    >>> s2_heads(32)[0]
    (window(15) | keys(7, None, 8)).blocked(64) & causal
    >>> len(s2_heads(32).distinct)
    8

    Args:
        heads: how many; heads with the same phase have the same term.
        block: tokens per block.
        local: blocks of the window, the own block included.
        stride: blocks from one strided block to the next.

    Raises:
        TermError: heads < 1, block < 1, local < 1, stride < 1, or a symbol for heads or stride.
    """
    where = f"s2_heads({heads!r}, block={block!r}, local={local!r}, stride={stride!r})"
    heads = number(heads, "heads", where, least=1, reason="there is one term per head")
    stride = number(stride, "stride", where, least=1, reason="the phase of a head is counted modulo it")
    block = size(block, "block", where, least=1)
    local = size(local, "local", where, least=1)
    step = max(1, stride // heads)
    return pidsl.heads((1, _head(-(head * step + 1) % stride, block, local, stride)) for head in range(heads))


def _head(phase: int, block: Index, local: Index, stride: int) -> Term:
    term = pidsl.window(local - 1) | pidsl.keys(phase, None, stride)
    return (term if block == 1 else term.blocked(block)) & pidsl.causal
