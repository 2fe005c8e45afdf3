"""Masks that libraries make by functions of positions: Splash and transformers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import torch

LENGTHS = (1, 2, 3, 5, 8, 13, 31, 64, 97)
SQUARE = [(n, n) for n in LENGTHS]
SHAPES = [*SQUARE, (1, 5), (5, 1), (7, 13), (13, 7), (33, 70), (40, 23)]
Mask = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class Made:
    """A mask that a library made, and what its spelling needs to say the same.

    Args:
        written: the call, as in `pidsl.patterns.spellings`.
        mask: bool [n, m]; of heads or layers [count, n, m].
        sizes: what the names in the spelling's term stand for.
        offset: position of the first query.
    """

    written: str
    mask: Mask
    sizes: Mapping[str, Any] = field(default_factory=dict)
    offset: int = 0


def splash() -> Iterator[Made]:
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as lib

    for shape in SHAPES:
        n, m = shape
        yield Made("FullMask(shape)", lib.FullMask(shape)[:, :])
        for offset in {0, 1, 6, max(0, m - n)}:
            yield Made("CausalMask(shape, offset)", lib.CausalMask(shape, offset)[:, :], {}, offset)
            for left, right in ((0, 0), (4, 0), (3, 2), (0, 7), (40, 50)):
                sides = dict(left=left, right=right)
                for (a, x), (b, y) in product((("left", left), ("None", None)), (("right", right), ("None", None))):
                    made = lib.LocalMask(shape, (x, y), offset)[:, :]
                    if x is y is None:
                        yield Made("FullMask(shape)", made)
                    else:
                        yield Made(f"LocalMask(shape, ({a}, {b}), offset)", made, sides, offset)
        for p in (1, 4):
            yield Made("CausalMask(shape, -p)", lib.CausalMask(shape, -p)[:, :], dict(p=p))
            sides = dict(left=3, right=2, p=p)
            yield Made("LocalMask(shape, (left, right), -p)", lib.LocalMask(shape, (3, 2), -p)[:, :], sides)
        for c, (left, right) in product((1, 2, 6, 40), ((0, 0), (4, 1), (9, 30))):
            chunks, local = lib.ChunkedCausalMask(shape, c), lib.LocalMask(shape, (left, right), 0)
            sizes = dict(c=c, left=left, right=right)
            yield Made("ChunkedCausalMask(shape, c)", chunks[:, :], sizes)
            mixed = lib.CausalMask(shape) & local | chunks
            written = "CausalMask(shape) & LocalMask(shape, (left, right), 0) | ChunkedCausalMask(shape, c)"
            yield Made(written, mixed[:, :], sizes)
            heads = lib.MultiHeadMask([local, chunks])
            written = "MultiHeadMask([LocalMask(shape, (left, right), 0), ChunkedCausalMask(shape, c)])"
            yield Made(written, heads[:, :, :], sizes)
        drawn = lib.NumpyMask(lib.make_random_mask(shape, 0.8, seed=n))[:, :]
        yield Made("NumpyMask(array)", drawn, dict(drawn=np.argwhere(drawn)))


def transformers() -> Iterator[Made]:
    from transformers import masking_utils as lib

    def made(written: str, function: Any, shape: tuple[int, int], offset: int = 0, **sizes: Any) -> Made:
        n, m = shape
        mask = lib.sdpa_mask(1, n, m, q_offset=offset, mask_function=function, allow_is_causal_skip=False)
        return Made(written, mask[0, 0].numpy(), sizes, offset)

    for shape, offset in [*((x, 0) for x in SHAPES), ((1, 9), 8), ((5, 31), 26), ((7, 64), 20)]:
        yield made("causal_mask_function", lib.causal_mask_function, shape, offset)
        yield made("bidirectional_mask_function", lib.bidirectional_mask_function, shape, offset)
        for w in (1, 2, 5, 40):
            for name in ("sliding_window_causal_mask_function", "sliding_window_bidirectional_mask_function"):
                yield made(f"{name}(w)", getattr(lib, name)(w), shape, offset, w=w)
            yield made("sliding_window_overlay(w)", lib.sliding_window_overlay(w), shape, offset, w=w)
            for p in (0, 1, 7):
                padding, sizes = torch.tensor([p]), dict(c=w, p=p)
                name = "0" if p == 0 else "p"
                chunked = lib.chunked_causal_mask_function(w, padding)
                yield made(f"chunked_causal_mask_function(c, left_padding={name})", chunked, shape, offset, **sizes)
            chunked = lib.chunked_overlay(w, torch.tensor([0]))
            yield made("chunked_overlay(c, left_padding=0)", chunked, shape, offset, c=w)
        for p in (0, 1, 4):
            padded = lib.padding_mask_function((torch.arange(shape[1]) >= p)[None])
            function = lib.and_masks(lib.causal_mask_function, padded)
            written = "and_masks(causal_mask_function, padding_mask_function(mask)), p tokens of padding on the left"
            yield made(written, function, shape, offset, p=p)
    for n, a, b in ((3, 1, 1), (17, 5, 7), (61, 30, 2), (97, 1, 64)):
        ids = (torch.arange(n) >= a).int() + (torch.arange(n) >= a + b).int()
        written = "packed_sequence_mask_function(ids), documents of a, of b and of the remaining tokens"
        yield made(written, lib.packed_sequence_mask_function(ids[None]), (n, n), a=a, b=b)
        group = torch.where(ids == 1, 0, -1)
        function = lib.or_masks(lib.causal_mask_function, lib.blockwise_overlay(group[None]))
        written = "or_masks(causal_mask_function, blockwise_overlay(ids)), one group of the tokens a ... b - 1"
        yield made(written, function, (n, n), a=a, b=a + b)
