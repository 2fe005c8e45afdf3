"""Schedules that mix local and global layers: Gemma 3, gpt-oss, Llama 4.

    model                    layers at the input first          local pattern                    published
    Gemma 3 (2503.19786)     5 local, 1 global, repeated        window of 1024 keys (512: 1B)    5 : 1
    gpt-oss (2508.10925)     local and global in turn           window of 128 keys               1 : 1
    Llama 4                  3 chunked, 1 global, repeated      chunks of 8192                   3 : 1

A cycle starts with its local layers. Widths count the token's own key, as the models' code in transformers does. What
else differs between the layers (rope bases, no rope in Llama 4's global layers) is not part of the pattern.
"""

from __future__ import annotations

import pidsl
from pidsl.language.expr import Index
from pidsl.language.heads import Heads
from pidsl.language.schedule import Schedule
from pidsl.language.terms import Term
from pidsl.patterns.checks import number
from pidsl.patterns.chunked import chunked
from pidsl.patterns.local import sliding_window

__all__ = ["gemma3_layers", "gpt_oss_layers", "interleaved", "llama4_layers"]


def interleaved(layers: int, local: Term | Heads, *, per_global: int, distant: Term | Heads = pidsl.causal) -> Schedule:
    """`per_global` local layers, then a global one, over and over, from the input on.

    >>> interleaved(4, pidsl.window(1), per_global=2)
    layers([window(1), window(1), causal, window(1)])
    >>> interleaved(2, pidsl.heads([(7, pidsl.window(1)), (1, pidsl.causal)]), per_global=1)
    layers([heads([(7, window(1)), (1, causal)]), causal])

    Args:
        layers: how many layers.
        local: the pattern of the local layers, or heads with several.
        per_global: local layers before each global one.
        distant: the pattern of the global layers, or heads.

    Raises:
        TermError: layers < 1 or per_global < 0.
    """
    where = f"interleaved({layers!r}, {local!r}, per_global={per_global!r})"
    layers = number(layers, "layers", where, least=1, reason="the schedule has one term per layer")
    per_global = number(per_global, "per_global", where, least=0, reason="it is counted")
    return pidsl.layers(local if layer % (per_global + 1) < per_global else distant for layer in range(layers))


def gemma3_layers(layers: int, window: Index = 1024) -> Schedule:
    """Five local layers to one global (Gemma 3, arXiv 2503.19786).

    >>> gemma3_layers(7, 512)[4:]
    (window(511), causal, window(511))

    Args:
        layers: how many layers; 26, 34, 48 or 62 in the published models.
        window: keys of the local layers, the token's own included.

    Raises:
        TermError: layers < 1 or window < 1.
    """
    return interleaved(layers, sliding_window(window), per_global=5)


def gpt_oss_layers(layers: int, window: Index = 128) -> Schedule:
    """Local and global layers in turn, the first local (gpt-oss, arXiv 2508.10925).

    >>> gpt_oss_layers(3)
    layers([window(127), causal, window(127)])

    Args:
        layers: how many layers; 24 or 36 in the published models.
        window: keys of the local layers, the token's own included.

    Raises:
        TermError: layers < 1 or window < 1.
    """
    return interleaved(layers, sliding_window(window), per_global=1)


def llama4_layers(layers: int, chunk: Index = 8192) -> Schedule:
    """Three chunked layers to one global (Llama 4).

    >>> llama4_layers(4)
    layers([blocks(8192) & causal, blocks(8192) & causal, blocks(8192) & causal, causal])

    Args:
        layers: how many layers; 48 in the published models.
        chunk: tokens per chunk.

    Raises:
        TermError: layers < 1 or chunk < 1.
    """
    return interleaved(layers, chunked(chunk), per_global=3)
