"""All rows of a call, and keys that stand at listed positions, as one tile."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pidsl.runtime.call.call import Call, Positions
from pidsl.runtime.call.logits import Place
from pidsl.runtime.run_torch.walks import Mask, mask_of


class Picked:
    """The tile, as a pass takes it: the rows of the query heads of a group lie above each other.

    Args:
        call: its rows, and its keys.
        keep: bool [rows, keys], or of every head [B, Hq, rows, keys].
        at: int64 [keys], the positions of the keys.

    Attributes:
        rows: q [B, Hkv, group * n, D].
        keys: k and v.
        mask: the pairs to keep; None for all.
    """

    triangle = False

    def __init__(self, call: Call, q: Tensor, keep: NDArray[np.bool_], at: NDArray[np.int64]) -> None:
        self.call, self.at = call, at
        batch, heads, n, _ = q.shape
        self._shape = batch, heads, n
        kv_heads = call.k.shape[1]
        self.rows, self.keys = (q.reshape(batch, kv_heads, heads // kv_heads * n, -1),), (call.k, call.v)
        kept = keep if keep.ndim > 2 or heads == kv_heads else np.tile(keep, (heads // kv_heads, 1))
        if keep.ndim > 2:
            kept = keep.reshape(batch, kv_heads, heads // kv_heads * n, -1)
        self.mask: Mask | None = mask_of(kept, q.dtype, q.device)

    def place(self) -> Place:
        """Where the pairs are."""
        batch, heads, n = self._shape
        kv_heads, device = self.call.k.shape[1], self.rows[0].device
        assert isinstance(self.call.positions, Positions)
        i = torch.arange(n, device=device) + self.call.positions.offset
        head = torch.arange(heads, device=device)[:, None]
        stream = torch.arange(batch * heads, device=device).view(batch, heads, 1) + self.call.inputs.get("stream", 0)
        i, head, stream = (x.expand(batch, heads, n).reshape(batch, kv_heads, -1, 1) for x in (i, head, stream))
        return Place(i, torch.from_numpy(self.at).to(device), head, stream)
