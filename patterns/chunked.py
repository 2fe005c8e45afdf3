"""Chunked attention (Llama 4): causal within consecutive chunks, nothing across.

`j <= i` and `i // c = j // c`. Chunks are cut at fixed positions, so the first token of a chunk sees itself only.
Published: c = 8192, in three layers of every four (see `pidsl.patterns.llama4_layers`).
"""

from __future__ import annotations

import pidsl
from pidsl.language.expr import Index
from pidsl.language.sizes import size
from pidsl.language.terms import Term

__all__ = ["chunked"]


def chunked(chunk: Index = 8192) -> Term:
    """Earlier tokens of the own chunk.

    >>> chunked(2).mask(5).astype(int)
    array([[1, 0, 0, 0, 0],
           [1, 1, 0, 0, 0],
           [0, 0, 1, 0, 0],
           [0, 0, 1, 1, 0],
           [0, 0, 0, 0, 1]])
    >>> chunked()
    blocks(8192) & causal

    Args:
        chunk: tokens per chunk.

    Raises:
        TermError: chunk < 1.
    """
    return pidsl.blocks(size(chunk, "chunk", f"chunked({chunk!r})", least=1)) & pidsl.causal
