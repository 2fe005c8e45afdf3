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


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Mask | None, scale: float
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Attention of every tile, and the log-sum-exp of each of its rows.

    Args:
        q: `[x, y, rows, D]`.
        k, v: `[x, y, keys, D]`.
        mask: the pairs to keep, the same in every tile; None for all.
        scale: factor on the scores.

    Returns:
        out `[x, y, rows, D]` and lse `[x, y, rows]`: 0 and -inf in rows whose mask keeps no key.
    """
    bias = None if mask is None else mask.bias
    if q.device.type == "cpu":
        out, lse = _flash(q, k, v, 0.0, False, attn_mask=bias, scale=scale)
        if mask is not None and mask.dead is not None:
            lse = lse + mask.dead  # the flash operation reports 0
        return out, lse
    scores = torch.matmul(q, k.transpose(-1, -2)).mul_(scale)
    if bias is not None:
        scores.add_(bias)
    lse = torch.logsumexp(scores, -1)
    return torch.matmul(probabilities(scores, seen(lse)), v), lse


def attend_backward(
    grad_out: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, mask: Mask | None, scale: float
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The part of the gradients of q, k and v that comes from the keys of these tiles.

    `out` and `lse` are the final ones, over all keys of the row, with `seen` applied to lse; then the contributions
    of disjoint sets of keys simply add up:

        P = exp(S - lse)    dV = P' dO    dS = P * (dO V' - rowsum(dO * O))    dQ = scale dS K    dK = scale dS' Q
    """
    bias = None if mask is None else mask.bias
    if q.device.type == "cpu":
        dq, dk, dv = _flash_backward(grad_out, q, k, v, out, lse, 0.0, False, attn_mask=bias, scale=scale)
        return dq, dk, dv
    scores = torch.matmul(q, k.transpose(-1, -2)).mul_(scale)
    if bias is not None:
        scores.add_(bias)
    p = probabilities(scores, lse)
    dv = torch.matmul(p.transpose(-1, -2), grad_out)
    delta = (grad_out * out).sum(-1, keepdim=True)
    ds = torch.matmul(grad_out, v.transpose(-1, -2)).sub_(delta).mul_(p).mul_(scale)
    return torch.matmul(ds, k), torch.matmul(ds.transpose(-1, -2), q), dv


def probabilities(scores: Tensor, lse: Tensor) -> Tensor:
    """exp(scores - lse), in place of the scores."""
    return scores.sub_(lse.unsqueeze(-1)).exp_()


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
