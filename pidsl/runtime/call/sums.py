"""Sums: their precision, how they come out the same every time, and what is not finite in them."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """What sums are accumulated in, and the dtype of lse: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def add_rows(sums: Tensor, axis: int, numbers: Tensor, grads: Tensor) -> None:
    """Add to some rows along an axis, in a fixed order: on a GPU `index_put_` sorts, `index_add_` races."""
    if sums.device.type == "cpu":
        sums.index_add_(axis, numbers, grads)
    else:
        sums.transpose(0, axis).index_put_((numbers,), grads.transpose(0, axis), accumulate=True)


def over_kept(weights: Tensor, x: Tensor, kept: Tensor | None) -> Tensor:
    """weights @ x over the pairs in `kept` alone: what is not finite reaches no sum that it takes no part in.

    Args:
        weights: `[..., rows, keys]`, 0 outside of `kept`.
        x: `[..., keys, columns]`.
        kept: `[..., rows, keys]`; None for all.
    """
    if kept is None:
        return torch.matmul(weights, x)
    if x.device.type == "cpu" and math.isfinite(x.sum().item()):  # elsewhere, asking would wait for the device
        return torch.matmul(weights, x)
    finite = x.isfinite()
    total = torch.matmul(weights, torch.where(finite, x, 0.0))
    up, down = ~(x < torch.inf), ~(x > -torch.inf)  # NaN is both, and inf - inf is NaN
    reached = torch.matmul(kept.to(x.dtype), torch.cat([up, down], -1).to(x.dtype)) > 0
    up, down = reached.chunk(2, -1)
    return total + torch.where(up, torch.inf, 0.0) - torch.where(down, torch.inf, 0.0)
