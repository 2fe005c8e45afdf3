"""Prefix LM: a prefix that is attended in full, and causal attention after it (Raffel et al., T5, arXiv 1910.10683).

`j <= i` or `j < p`: the tokens of the prefix see each other, the rest sees the prefix and what came before.
"""

from __future__ import annotations

import pidsl
from pidsl.language.expr import Index
from pidsl.language.sizes import size
from pidsl.language.terms import Term

__all__ = ["prefix_lm"]


def prefix_lm(prefix: Index) -> Term:
    """Causal, and every key of the prefix.

    >>> prefix_lm(2).mask(4).astype(int)
    array([[1, 1, 0, 0],
           [1, 1, 0, 0],
           [1, 1, 1, 0],
           [1, 1, 1, 1]])
    >>> prefix_lm(pidsl.symbols("p"))
    causal | keys(0, p)

    Args:
        prefix: tokens of the prefix.

    Raises:
        TermError: prefix < 0.
    """
    return pidsl.causal | pidsl.keys(0, size(prefix, "prefix", f"prefix_lm({prefix!r})", least=0))
