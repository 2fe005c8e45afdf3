"""Which weights dropout keeps: a hash of seed, batch entry, head, query and key position, and no state.

    key    = mix(mix(low + G) ^ high)                  low, high: the halves of the 64-bit seed; on the host
    stream = mix(key + (batch * heads + head + 1) * G)
    bits   = mix(mix(stream + i) + mix(j + G))          kept where bits >= dropout * 2 ** 32

All of it is arithmetic modulo 2 ** 32, so that Triton's uint32 (codegen/emit_triton/logits.py) and torch's int64
with a mask give the same bits. `mix` is lowbias32 (Chris Wellons, "Prospecting for hash functions"): each bit of the
input flips each bit of the output with probability near one half.
"""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor

from pidsl.language.score import threshold

GOLDEN = 0x9E3779B9
MASK = 0xFFFFFFFF

Bits = TypeVar("Bits", int, Tensor)


def mix(x: Bits) -> Bits:
    """lowbias32 of numbers in 0 .. 2 ** 32 - 1; products that leave int64 keep their low half."""
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & MASK
    x = x ^ (x >> 15)
    x = (x * 0x846CA68B) & MASK
    return x ^ (x >> 16)


def seed_key(seed: int) -> int:
    """32 bits from a 64-bit seed."""
    return mix(mix((seed + GOLDEN) & MASK) ^ (seed >> 32 & MASK))


def kept(seed: int, dropout: float, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """Whether pair (i, j) keeps its weight.

    Args:
        seed: of the call.
        dropout: probability of dropping.
        head: `batch * heads + head`, int64.
        i: query positions, int64, broadcast against `head`.
        j: key positions, int64, broadcast against `head` and `i`.
    """
    stream = mix((seed_key(seed) + (head + 1) * GOLDEN) & MASK)
    bits = mix((mix((stream + i) & MASK) + mix((j + GOLDEN) & MASK)) & MASK)
    return bits >= threshold(dropout)
