"""Softmax attention of batches of dense tiles, and how results over different keys of the same rows combine.

All tensors are `[x, y, ...]`: two batch dimensions of tiles, with any strides. On the CPU the work is done by torch's
own flash operation; it wants as many columns in v as in q and k (callers pad with zeros, which changes nothing),
and takes masks as an additive bias. NaN is not masked by that: it spreads to all rows of a tile. The dense operations
keep every pair to itself; a pass turns to them when a result is not finite.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pidsl.runtime.run_dense.reference import over_kept
from pidsl.runtime.run_torch.bands import Mask

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default

NARROW = 16  # with fewer keys (the lanes of a vector) the flash operation takes a row of NaN for one without keys


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Mask | None, scale: float) -> tuple[Tensor, Tensor]:
    """Attention of every tile, and the log-sum-exp of each of its rows; on the CPU.

    Args:
        q: `[x, y, rows, D]`.
        k: `[x, y, keys, D]`.
        v: `[x, y, keys, D]`.
        mask: the pairs to keep, the same in every tile; None for all.
        scale: factor on the scores.

    Returns:
        out `[x, y, rows, D]` and lse `[x, y, rows]`: 0 and -inf in rows whose mask keeps no key. Where a row meets
        what is not finite, masked or not, out is not finite.
    """
    bias = None if mask is None else mask.bias
    out, lse = _flash(q, k, v, 0.0, False, attn_mask=bias, scale=scale)
    if mask is not None and mask.dead is not None:
        lse = lse + mask.dead  # the flash operation reports 0
    if k.shape[2] < NARROW and not bool(lse.all()):  # it reports 0 for a row of NaN too
        out = out.masked_fill((lse == 0).unsqueeze(-1), torch.nan)
    return out, lse


def attend_backward(
    grad_out: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, mask: Mask | None, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The part of the gradients of q, k and v that comes from the keys of these tiles; on the CPU.

    `out` and `lse` are the final ones, over all keys of the row, with `seen` applied to lse; then the contributions
    of disjoint sets of keys simply add up:

        P = exp(S - lse)    dV = P' dO    dS = P * (dO V' - rowsum(dO * O))    dQ = scale dS K    dK = scale dS' Q

    Where a row meets what is not finite, masked or not, its dQ is not finite.
    """
    bias = None if mask is None else mask.bias
    dq, dk, dv = _flash_backward(grad_out, q, k, v, out, lse, 0.0, False, attn_mask=bias, scale=scale)
    return dq, dk, dv


def attend_dense(q: Tensor, k: Tensor, v: Tensor, mask: Mask | None, scale: float) -> tuple[Tensor, Tensor]:
    """`attend` by matrix products: on every device, and nothing reaches a row from a pair that is masked."""
    scores = dense_scores(q, k, mask, scale)
    lse = torch.logsumexp(scores, -1)
    return over_kept(scores.sub_(seen(lse).unsqueeze(-1)).exp_(), v, kept(mask)), lse


def attend_dense_backward(
    grad_out: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, mask: Mask | None, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """`attend_backward` by matrix products: on every device, and nothing comes from a pair that is masked."""
    p = masked(dense_scores(q, k, mask, scale).sub_(lse.unsqueeze(-1)).exp_(), mask, 0.0)  # lse may be NaN
    delta = (grad_out * out).sum(-1, keepdim=True)
    ds = masked(torch.matmul(grad_out, v.mT).sub_(delta).mul_(p).mul_(scale), mask, 0.0)
    return dense_gradients(p, ds, q, k, grad_out, mask)


def blanked(
    mask: Mask | None, rows: tuple[Tensor, ...], keys: tuple[Tensor, ...]
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """`[x, y, rows, D]` and `[x, y, keys, D]` with zeros in rows and keys of which the mask keeps no pair."""
    if mask is None:
        return rows, keys
    for dim, given in ((-1, rows), (-2, keys)):
        alone = ~mask.keep.any(dim)[..., None]
        found = tuple(x.masked_fill(alone, 0.0) for x in given) if bool(alone.any()) else given
        rows, keys = (found, keys) if dim == -1 else (rows, found)
    return rows, keys


def in_parts(
    operation: Callable[..., tuple[Tensor, ...]], tiles: tuple[Tensor, ...], mask: Mask | None, scale: float, most: int
) -> tuple[Tensor, ...]:
    """A dense operation on so many tiles at a time that they have at most so many scores."""
    x, y, height, width = *tiles[0].shape[:3], tiles[-1 if len(tiles) == 3 else 2].shape[2]
    if x * y * height * width <= most or (mask is not None and mask.bias.ndim > 2):
        return operation(*tiles, mask, scale)
    step = max(1, most // (height * width))
    flat = [t.reshape(1, x * y, *t.shape[2:]) for t in tiles]
    parts = [operation(*(t[:, a : a + step] for t in flat), mask, scale) for a in range(0, x * y, step)]
    return tuple(torch.cat(found, 1).unflatten(1, (x, y))[0] for found in zip(*parts, strict=True))


def dense_scores(q: Tensor, k: Tensor, mask: Mask | None, scale: float) -> Tensor:
    """scale * q . k, -inf where the mask keeps nothing."""
    return masked(torch.matmul(q, k.mT).mul_(scale), mask, -torch.inf)


def dense_gradients(
    p: Tensor, ds: Tensor, q: Tensor, k: Tensor, grad_out: Tensor, mask: Mask | None
) -> tuple[Tensor, Tensor, Tensor]:
    """dQ, dK and dV of tiles from their weights and the gradients of their scores."""
    keep = kept(mask)
    turned = None if keep is None else keep.mT
    return over_kept(ds, k, keep), over_kept(ds.mT, q, turned), over_kept(p.mT, grad_out, turned)


def kept(mask: Mask | None) -> Tensor | None:
    """The pairs that a mask keeps; None for all."""
    return None if mask is None else mask.keep


def masked(x: Tensor, mask: Mask | None, value: float) -> Tensor:
    """x with `value` at the pairs that a mask does not keep, in place."""
    return x if mask is None else x.masked_fill_(~mask.keep, value)


def seen(lse: Tensor) -> Tensor:
    """lse with +inf for rows that saw no key, so that exp(score - lse) is 0 there and not NaN."""
    return torch.where(lse == -torch.inf, torch.inf, lse)


def merge(out: Tensor, lse: Tensor, more: Tensor, more_lse: Tensor) -> None:
    """Fold attention over further keys into (out, lse), in place.

        lse <- log(e^lse + e^more_lse)    out <- out + e^(more_lse - lse) (more - out)

    Rows that saw no key on either side keep out 0 and lse -inf.
    """
    weight = torch.sigmoid(more_lse - lse).masked_fill_(more_lse == -torch.inf, 0.0)  # else NaN: -inf on both sides
    lse.copy_(torch.logaddexp(lse, more_lse))
    out.lerp_(more, weight.unsqueeze(-1))
