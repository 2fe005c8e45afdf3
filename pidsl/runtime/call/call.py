"""A call of a program as a value: tensors, where their rows stand, and what a pattern or a score reads beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

Inputs = Mapping[str, Any]  # by name, those the program asks for: tensors (slopes, bias, ...) and numbers (seed)


class Positions(NamedTuple):
    """Where rows stand: row r of q at position `r + offset`, row j of k and v at position `j + key_offset`."""

    offset: int = 0
    key_offset: int = 0


class Call(NamedTuple):
    """What a program computes with, checked.

    Args:
        q: queries [B, Hq, n, D], any strides.
        k: keys [B, Hkv, m, D].
        v: values [B, Hkv, m, Dv].
        scale: factor of the logits, a float; while torch traces, a tensor where it may differ between calls.
        positions: where the rows stand.
        inputs: what the score reads, by name; empty for none.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    scale: Any
    positions: Positions
    inputs: Inputs
