"""Summaries of spans: the maximum over their tokens, and the values inside blocks."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from pidsl.language.summaries import Spans
from pidsl.runtime.call.dtypes import accumulator


def pooled(x: Tensor, level: Spans) -> Tensor:
    """One row for each span of a level: [B, H, n, D] to [B, H, spans, D]; see `pidsl.language.summaries`.

    Spans without tokens get 0. Where several tokens hold the maximum of a block, they share its gradient. Of spans
    "above" and "beside", torch's `cummax` adds up the gradients, on a GPU in no fixed order: its last bits may differ.
    """
    if level.of == "row":
        return x
    rows = _rows(x, level.size, -torch.inf)
    if level.of == "block":
        return rows.amax(3) if rows.numel() else rows[:, :, :, 0]
    if level.of == "above":
        found = _before(rows, 2)
    else:
        right = _before(rows.flip(3), 3).flip(3)
        found = torch.maximum(_before(rows, 3), right)
    found = torch.where(found == -torch.inf, 0.0, found)
    found, count = found.flatten(2, 3), level.count(x.shape[2])
    if torch.compiler.is_compiling():  # a slice is contiguous for some lengths only
        return found.index_select(2, torch.arange(count, device=x.device))
    return found[:, :, :count]


def block_values(qbar: Tensor, k: Tensor, v: Tensor, size: int, scale: float) -> Tensor:
    """`sum over the tokens j of block s of softmax_j(scale qbar_s . k_j) v_j`: [B, Hq, blocks, Dv], in v's dtype.

    Args:
        qbar: one query for each block [B, Hq, blocks, D].
        k: keys [B, Hkv, n, D].
        v: values [B, Hkv, n, Dv].
        size: tokens per block; the last block may have fewer.
        scale: factor of the logits.
    """
    precise, n, kv_heads = accumulator(k.dtype), k.shape[2], k.shape[1]
    keys, values = (_rows(x, size, 0.0).to(precise) for x in (k, v))  # [B, Hkv, blocks, size, D]
    grouped = qbar.unflatten(1, (kv_heads, -1)).transpose(2, 3).to(precise)  # [B, Hkv, blocks, group, D]
    scores = grouped @ keys.mT * scale
    blocks = scores.shape[2]
    if torch.compiler.is_compiling() or blocks * size > n:
        beyond = torch.arange(blocks * size, device=k.device).view(blocks, 1, size) >= n
        scores = scores.masked_fill(beyond, -torch.inf)
    return (torch.softmax(scores, -1) @ values).transpose(2, 3).flatten(1, 2).to(v.dtype)


def _rows(x: Tensor, size: int, fill: float) -> Tensor:
    """[B, H, n, D] as [B, H, rows, size, D], the last row filled up."""
    rows = (x.shape[2] + size - 1) // size
    missing = rows * size - x.shape[2]
    if torch.compiler.is_compiling() or missing:  # one graph for lengths of both kinds
        x = pad(x, (0, 0, 0, missing), value=fill)
    return x.unflatten(2, (rows, size))


def _before(rows: Tensor, axis: int) -> Tensor:
    """The maximum of everything before along an axis, -inf where that is nothing."""
    if rows.shape[axis] == 0:
        return rows
    upto = rows.cummax(axis).values
    first = torch.full_like(upto.narrow(axis, 0, 1), -torch.inf)
    return torch.cat([first, upto.narrow(axis, 0, rows.shape[axis] - 1)], axis)
