"""Which tokens of a batch are real: runs of ones in an attention mask, of which most batches have one."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pidsl.hf.refused import refuse

MOST = 8  # runs of an entry, each of which is a launch of its own


class Run(NamedTuple):
    """The positions of tokens without padding between them, in each batch entry.

    Args:
        left: int [B], where it begins; None: with the first position.
        stop: int [B], the position behind its last token; None: it goes on to the last key.
    """

    left: Tensor | None = None
    stop: Tensor | None = None


def runs_of(real: Tensor | None, keys: int, causal: bool) -> tuple[Run, ...]:
    """The runs of a mask, one for each stretch of tokens of the entry that has most of them.

    Args:
        real: bool [B, S]; None: all tokens.
        keys: the position behind the last key.
        causal: no query sees a key behind it, and so none of those behind the mask.

    Raises:
        UnsupportedError: another shape, or too many stretches.
    """
    if real is None:
        return (Run(),)
    if real.dim() != 2:
        raise refuse(f"attention_mask of shape {list(real.shape)}", "[batch, tokens], 1 for tokens, 0 for padding")
    size = real.shape[1]
    keys = min(keys, size) if causal else keys
    if bool(real.all()):
        return (Run(None, None if keys <= size else torch.full_like(real[:, 0], size, dtype=torch.int64)),)
    begins = real.clone()
    begins[:, 1:] &= ~real[:, :-1]
    number = begins.cumsum(1)
    most = int(number[:, -1].max())
    if most > MOST:
        entry = int(number[:, -1].argmax())
        hint = 'padding on one side: tokenizer.padding_side = "left" to generate'
        given = f"attention_mask with {most} stretches of ones in batch entry {entry}"
        raise refuse(given, f"at most {MOST}, and one for padding on one side", hint=hint)
    places = torch.arange(size, device=real.device)
    found = []
    for x in range(1, max(most, 1) + 1):
        mine = real & (number == x)
        left = torch.where(mine, places, size).amin(1)
        stop = torch.maximum(torch.where(mine, places + 1, 0).amax(1), left)
        begun, ended = bool((left > 0).any()), bool((stop < keys).any())
        found.append(Run(left if begun else None, stop if ended else None))
    return tuple(found)


def block_ids(ids: Tensor, real: Tensor | None) -> Tensor:
    """An id for each token, [B, n]: the same one within a block, and another one for each token that is in none.

    Args:
        ids: of the blocks, [B, n]; -1: none.
        real: bool [B, S], which tokens are none of padding; None: all.

    Raises:
        UnsupportedError: a block with others in between.
    """
    inside = ids >= 0
    if real is not None:
        size = min(ids.shape[1], real.shape[1])
        inside = inside & torch.nn.functional.pad(real[:, :size], (0, ids.shape[1] - size))
    begins = torch.ones_like(inside)
    begins[:, 1:] = ~inside[:, 1:] | ~inside[:, :-1] | (ids[:, 1:] != ids[:, :-1])
    for entry, first in zip(ids, begins & inside, strict=True):
        if len(entry[first].unique()) < int(first.sum()):
            raise refuse("block_sequence_ids: a block that others stand in", "blocks of tokens that follow one another")
    return begins.cumsum(1)
