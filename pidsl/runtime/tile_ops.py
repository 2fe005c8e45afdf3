"""Softmax attention of batches of dense tiles, and how results over different keys of the same rows combine.

All tensors are `[x, y, ...]`: two batch dimensions of tiles, with any strides. On the CPU the work is done by torch's
own flash operation; it wants as many columns in v as in q and k (callers pad with zeros, which changes nothing),
and takes masks as an additive bias.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pidsl.runtime.schedule import Mask

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Mask | None, scale: float) -> tuple[Tensor, Tensor]:
    """Attention of every tile, and the log-sum-exp of each of its rows.

    Args:
        q: `[x, y, rows, D]`.
        k: `[x, y, keys, D]`.
        v: `[x, y, keys, D]`.
        mask: the pairs to keep, the same in every tile; None for all.
        scale: factor on the scores.

    Returns:
        out `[x, y, rows, D]` and lse `[x, y, rows]`: 0 and -inf in rows whose mask keeps no key.
    """
    if q.device.type != "cpu":
        return attend_dense(q, k, v, mask, scale)
    bias = None if mask is None else mask.bias
    out, lse = _flash(q, k, v, 0.0, False, attn_mask=bias, scale=scale)
    if mask is not None and mask.dead is not None:
        lse = lse + mask.dead  # the flash operation reports 0
    return out, lse


def attend_backward(
    grad_out: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, mask: Mask | None, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The part of the gradients of q, k and v that comes from the keys of these tiles.

    `out` and `lse` are the final ones, over all keys of the row, with `seen` applied to lse; then the contributions
    of disjoint sets of keys simply add up:

        P = exp(S - lse)    dV = P' dO    dS = P * (dO V' - rowsum(dO * O))    dQ = scale dS K    dK = scale dS' Q
    """
    if q.device.type != "cpu":
        return attend_dense_backward(grad_out, q, k, v, out, lse, mask, scale)
    bias = None if mask is None else mask.bias
    dq, dk, dv = _flash_backward(grad_out, q, k, v, out, lse, 0.0, False, attn_mask=bias, scale=scale)
    return dq, dk, dv


def attend_dense(q: Tensor, k: Tensor, v: Tensor, mask: Mask | None, scale: float) -> tuple[Tensor, Tensor]:
    """`attend` by matrix products, for devices without the flash operation."""
    scores = _scores(q, k, mask, scale)
    lse = torch.logsumexp(scores, -1)
    return torch.matmul(scores.sub_(seen(lse).unsqueeze(-1)).exp_(), v), lse


def attend_dense_backward(
    grad_out: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, mask: Mask | None, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """`attend_backward` by matrix products, for devices without the flash operation."""
    p = _scores(q, k, mask, scale).sub_(lse.unsqueeze(-1)).exp_()
    delta = (grad_out * out).sum(-1, keepdim=True)
    ds = torch.matmul(grad_out, v.mT).sub_(delta).mul_(p).mul_(scale)
    return torch.matmul(ds, k), torch.matmul(ds.mT, q), torch.matmul(p.mT, grad_out)


def _scores(q: Tensor, k: Tensor, mask: Mask | None, scale: float) -> Tensor:
    scores = torch.matmul(q, k.mT).mul_(scale)
    return scores if mask is None else scores.add_(mask.bias)


def seen(lse: Tensor) -> Tensor:
    """lse with +inf for rows that saw no key, so that exp(score - lse) is 0 there and not NaN."""
    return torch.where(lse == -torch.inf, torch.inf, lse)


def merge(out: Tensor, lse: Tensor, more: Tensor, more_lse: Tensor) -> None:
    """Fold attention over further keys into (out, lse), in place.

        lse <- log(e^lse + e^more_lse)    out <- out + e^(more_lse - lse) (more - out)

    Rows that saw no key on either side keep out 0 and lse -inf.
    """
    weight = torch.sigmoid(more_lse - lse).nan_to_num_(0.0)  # NaN: -inf on both sides
    lse.copy_(torch.logaddexp(lse, more_lse))
    out.lerp_(more, weight.unsqueeze(-1))
