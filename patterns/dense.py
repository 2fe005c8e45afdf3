"""Dense attention, the baseline that every sparse pattern is measured against (Vaswani et al., arXiv 1706.03762)."""

from __future__ import annotations

import pidsl
from pidsl.language.terms import Term

__all__ = ["dense_attention"]


def dense_attention(*, causal: bool = True) -> Term:
    """Every earlier token and the token itself, `i - j >= 0`; or every token.

    >>> dense_attention().mask(3).astype(int)
    array([[1, 0, 0],
           [1, 1, 0],
           [1, 1, 1]])
    >>> dense_attention(causal=False)
    full

    Args:
        causal: only keys j <= i.
    """
    return pidsl.causal if causal else pidsl.full
