"""LogSparse attention (Li et al., arXiv 1907.00235, section 4.2).

Cell l, counted from 1, attends itself and the cells l - 1, l - 2, l - 4, ..., l - 2^floor(log2 l): lags 0 and the
powers of two. With "local attention" a cell first attends its last w cells densely, its own included; where the powers
start is then left open, and here they count from the far end, lags w - 1 + 2^k, as implementations in circulation do.
"Restart attention" repeats the pattern every L_sub cells: its lags taken modulo L_sub, a union of
`stride(L_sub, lag) & causal`, and not in this function. The set of powers is finite in a term, so the longest sequence
is a parameter.
"""

from __future__ import annotations

import pidsl
from pidsl.language.terms import Term
from pidsl.patterns.checks import number

__all__ = ["log_sparse", "powers_of_two"]


def log_sparse(tokens: int, *, local: int = 1) -> Term:
    """The token itself and the lags 1, 2, 4, ...; or `local` tokens, and those lags counted from their far end.

    `0 <= i - j < local`, or `i - j - (local - 1)` is a power of two.

    >>> log_sparse(7).mask(7).astype(int)
    array([[1, 0, 0, 0, 0, 0, 0],
           [1, 1, 0, 0, 0, 0, 0],
           [1, 1, 1, 0, 0, 0, 0],
           [0, 1, 1, 1, 0, 0, 0],
           [1, 0, 1, 1, 1, 0, 0],
           [0, 1, 0, 1, 1, 1, 0],
           [0, 0, 1, 0, 1, 1, 1]])
    >>> log_sparse(100, local=8)
    window(7) | lags(8, 9, 11, 15, 23, 39, 71)

    Args:
        tokens: the longest sequence; beyond it, larger powers would be missing.
        local: keys attended densely, the token's own included.

    Raises:
        TermError: tokens < 1, local < 1, or a symbol: the number of lags depends on it.
    """
    where = f"log_sparse({tokens!r}, local={local!r})"
    tokens = number(tokens, "tokens", where, least=1, reason="it decides how many lags there are")
    local = number(local, "local", where, least=1, reason="the far lags are counted from its end")
    far = [local - 1 + power for power in powers_of_two(tokens - local + 1)]
    if local == 1:
        return pidsl.lags(0, *far)
    return pidsl.window(local - 1) | pidsl.lags(*far) if far else pidsl.window(local - 1)


def powers_of_two(below: int) -> list[int]:
    """1, 2, 4, ..., those below a limit.

    >>> powers_of_two(8)
    [1, 2, 4]
    """
    return [1 << k for k in range(max(0, below - 1).bit_length())]
