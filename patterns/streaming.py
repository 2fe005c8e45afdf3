"""StreamingLLM: attention sinks and a sliding window (Xiao et al., arXiv 2309.17453).

`j <= i`, and `i - j < w` or `j < s`. The window counts keys, the token's own included, as a cache of w recent entries
does; the sinks come on top. Published: s = 4 and w = 1020, a cache of 1024. The paper also numbers positions inside
the cache rather than in the text; that is a matter of the position embedding, not of the pattern.
"""

from __future__ import annotations

import pidsl
from pidsl.language.expr import Index
from pidsl.language.sizes import size
from pidsl.language.terms import Term

__all__ = ["streaming_llm"]


def streaming_llm(window: Index = 1020, sinks: Index = 4) -> Term:
    """The last `window` keys and the first `sinks` ones, causal.

    >>> streaming_llm(2, 1).mask(5).astype(int)
    array([[1, 0, 0, 0, 0],
           [1, 1, 0, 0, 0],
           [1, 1, 1, 0, 0],
           [1, 0, 1, 1, 0],
           [1, 0, 0, 1, 1]])
    >>> streaming_llm()
    (window(1019) | keys(0, 4)) & causal

    Args:
        window: recent keys, the token's own included.
        sinks: keys at the start that every token attends.

    Raises:
        TermError: window < 1 or sinks < 0.
    """
    where = f"streaming_llm({window!r}, {sinks!r})"
    window = size(window, "window", where, least=1)
    sinks = size(sinks, "sinks", where, least=0)
    return (pidsl.window(window - 1) | pidsl.keys(0, sinks)) & pidsl.causal
