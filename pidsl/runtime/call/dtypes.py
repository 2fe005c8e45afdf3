"""The precision that programs compute in."""

from __future__ import annotations

import torch


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """What sums are accumulated in, and the dtype of lse: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
