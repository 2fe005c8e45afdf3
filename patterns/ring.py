"""The fixed local window that the pi-attention paper calls "RingAttention".

In arXiv 2511.10696 (abstract and introduction) the name stands for a *fixed local window*. It is not the Ring
Attention of Liu, Zaharia and Abbeel (arXiv 2310.01889), which is exact dense attention distributed over devices. The
window size of the paper's baseline is not known to us.
"""

from __future__ import annotations

import pidsl
from pidsl.errors import TermError
from pidsl.language.expr import Index
from pidsl.language.sizes import size
from pidsl.language.terms import Term

__all__ = ["ring_attention"]


def ring_attention(k: Index, *, causal: bool = True, wrap: bool = False) -> Term:
    """A fixed local window: `0 <= i - j <= k`, or `|i - j| <= k`, or that distance around a ring of n tokens.

    >>> ring_attention(1).mask(4).astype(int)
    array([[1, 0, 0, 0],
           [1, 1, 0, 0],
           [0, 1, 1, 0],
           [0, 0, 1, 1]])
    >>> ring_attention(1, causal=False, wrap=True).mask(4).astype(int)
    array([[1, 1, 0, 1],
           [1, 1, 1, 0],
           [0, 1, 1, 1],
           [1, 0, 1, 1]])
    >>> ring_attention(255)
    window(255)

    Args:
        k: radius in tokens, both ends included: a causal token sees itself and k earlier ones.
        causal: only keys j <= i.
        wrap: close the sequence into a ring; the first token is the last one's neighbour. Needs causal=False.

    Raises:
        TermError: k < 0, or a causal ring (going around, every token is both earlier and later than the others).
    """
    where = f"ring_attention({k!r}, causal={causal!r}, wrap={wrap!r})"
    size(k, "k", where, least=0)
    if not wrap:
        return pidsl.window(k) if causal else pidsl.window(k, k)
    if causal:
        raise TermError(
            "wrap = True with causal = True", "one of them: a ring has no earlier and later", where, "causal=False"
        )
    return pidsl.ring(k)
