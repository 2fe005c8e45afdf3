"""A BlockMask of FlexAttention from counts of the pairs in each tile; no mask of all pairs is made."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from pidsl.errors import SizeError
from pidsl.interop.attended import Attended
from pidsl.language.terms import Term

Ints = NDArray[np.int64]


def tiles(attended: Attended, rows: Ints, first_key: Ints, sizes: tuple[int, int], block: int) -> Ints:
    """How many pairs each tile has, int64 [tiles of queries, tiles of keys].

    Args:
        attended: the keys of some queries.
        rows: which queries these are.
        first_key: where the keys of their documents begin.
        sizes: how many queries and keys there are.
        block: of them in a tile.
    """
    if isinstance(block, bool) or not isinstance(block, int) or block < 1:
        raise SizeError(f"block_size = {block!r}", "an integer >= 1", "packing.block_mask(term, block_size)")
    down, across = (-(-size // block) for size in sizes)
    found = np.zeros(down * across, dtype=np.int64)
    begin, end = first_key // block, -(-(first_key + attended.keys) // block)
    behind = attended.count(0)
    for x in range(int((end - begin).max(initial=0))):  # the tiles that a document lies in, of all at once
        rest = attended.count(np.maximum((begin + x + 1) * block - first_key, 0))
        some = behind > rest
        np.add.at(found, (rows[some] // block) * across + begin[some] + x, (behind - rest)[some])
        behind = rest
    return found.reshape(down, across)


def block_mask(pattern: Term, counts: Ints, here: Tensor, there: Tensor, block: int) -> BlockMask:
    """The BlockMask of tiles with these counts.

    Args:
        pattern: what holds within a document.
        counts: the pairs of each tile.
        here: of each query its document (-1: none), position, positions and keys of that document, int64 [4, T].
        there: of each key its document and position, int64 [2, Tk].
        block: queries and keys of a tile.
    """
    full = counts == block * block
    lists = [_listed(x, here.device) for x in ((counts > 0) & ~full, full)]
    return BlockMask.from_kv_blocks(
        *lists[0],
        *lists[1],
        BLOCK_SIZE=block,
        mask_mod=mask_mod(pattern, here, there),
        seq_lengths=(here.shape[1], there.shape[1]),
    )


def _listed(chosen: NDArray[np.bool_], device: torch.device) -> tuple[Tensor, Tensor]:
    """How many tiles of keys are chosen for each tile of queries, and which: those first, ascending."""
    order = np.argsort(~chosen, axis=1, kind="stable").astype(np.int32)
    numbers = chosen.sum(1).astype(np.int32)
    count, which = (torch.from_numpy(x)[None, None].to(device) for x in (numbers, order))
    return count.contiguous(), which.contiguous()


def mask_mod(pattern: Term, here: Tensor, there: Tensor) -> Any:
    """The mask of packed documents as a function of indices, as FlexAttention calls it."""
    from pidsl.codegen.emit_torch.pairs import pairs_source

    program: dict[str, Any] = {}
    exec(pairs_source(pattern), program)
    attends = program["attends"]
    document, position, positions, keys = here.unbind(0)
    own, place = there.unbind(0)

    def mask(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        same = document[q] == own[k]
        return same & attends(positions[q], keys[q], position[q], place[k])

    return mask
