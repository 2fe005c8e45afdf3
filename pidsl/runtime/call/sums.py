"""Sums: the precision that they are computed in, and how they come out the same every time."""

from __future__ import annotations

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
