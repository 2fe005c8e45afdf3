"""Local attention, also called sliding window attention (Longformer, arXiv 2004.05150; Mistral 7B, arXiv 2310.06825).

Two conventions are in use, and they differ by one key:

    width w counts the token itself      0 <= i - j < w     `window(w - 1)`   transformers, Mistral, NATTEN (causal)
    w keys beside the token itself       0 <= i - j <= w    `window(w)`       flash-attention, Splash, attention-gym

`sliding_window` follows the first; for the second write the word `pidsl.window` itself. Borders are cut: the first
tokens have fewer keys. (NATTEN shifts the window inward instead: `neighborhood_attention`.)
"""

from __future__ import annotations

import pidsl
from pidsl.errors import TermError
from pidsl.language.expr import Index
from pidsl.language.sizes import size
from pidsl.language.terms import Term

__all__ = ["sliding_window"]


def sliding_window(width: Index, *, causal: bool = True) -> Term:
    """The last `width` keys, the token's own included; or `width` keys around it.

    Causal: `0 <= i - j < width`. Otherwise `|i - j| <= (width - 1) / 2`, for an odd width.

    >>> sliding_window(2).mask(4).astype(int)
    array([[1, 0, 0, 0],
           [1, 1, 0, 0],
           [0, 1, 1, 0],
           [0, 0, 1, 1]])
    >>> sliding_window(3, causal=False).mask(4).astype(int)
    array([[1, 1, 0, 0],
           [1, 1, 1, 0],
           [0, 1, 1, 1],
           [0, 0, 1, 1]])
    >>> sliding_window(4096)  # Mistral 7B
    window(4095)
    >>> sliding_window(pidsl.symbols("w"))
    window(w - 1)

    Args:
        width: keys per token, its own included.
        causal: only keys j <= i.

    Raises:
        TermError: width < 1, or an even width that has no middle.
    """
    where = f"sliding_window({width!r}, causal={causal!r})"
    width = size(width, "width", where, least=1)
    if causal:
        return pidsl.window(width - 1)
    if isinstance(width, int) and width % 2 == 0:
        raise TermError(
            f"width = {width} with causal = False",
            "an odd width: as many keys on either side, and the token's own",
            where,
            f"width={width + 1}, or pidsl.window({width // 2}, {width // 2 - 1})",
        )
    side = (width - 1) // 2
    return pidsl.window(side, side)
