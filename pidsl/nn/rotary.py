"""Rotary position embedding, at any positions."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from pidsl.errors import ArgumentError


def rotate(x: Tensor, base: float, offset: int = 0, positions: Tensor | None = None) -> Tensor:
    """Rotary position embedding (arXiv 2104.09864): the pair (x_p, x_{p + D/2}) turns by `i * base ** (-2p / D)`.

    Args:
        x: [..., n, D], D even.
        base: of the wavelengths.
        offset: position of the first row.
        positions: int [n], or [B, n] for x [B, heads, n, D]: of each row, instead.

    Raises:
        ArgumentError: x is no tensor of floating numbers with an even last axis, base no number above 0, or positions
            are no integers for the rows of x.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() < 2 or x.shape[-1] % 2:
        got = f"{list(x.shape)} of {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
        raise ArgumentError(f"x: {got}", "a floating tensor [..., n, D], D even: pairs are turned", "rotate(x, base)")
    if not isinstance(base, int | float) or not 0 < base < math.inf:
        raise ArgumentError(f"base = {base!r}", "a number above 0", "rotate(x, base)", "base=10000.0")
    if positions is not None:
        _check_positions(positions, x)
        rows = positions[..., None, :] if positions.dim() == 2 else positions
        cos, sin = _turned(rows.to(x.device, torch.float64), x.shape[-1] // 2, base)
    else:
        turns = _turns if torch.compiler.is_compiling() else _kept_turns  # no cache knows a length that is a symbol
        cos, sin = turns(x.shape[-2], x.shape[-1] // 2, base, offset, x.device)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(x.dtype)


def _turns(n: int, half: int, base: float, offset: int, device: torch.device) -> tuple[Tensor, Tensor]:
    cos, sin = _turned(torch.arange(offset, offset + n, dtype=torch.float64), half, base)
    return cos.to(device), sin.to(device)


def _turned(positions: Tensor, half: int, base: float) -> tuple[Tensor, Tensor]:
    pairs = torch.arange(half, dtype=torch.float64, device=positions.device)
    # a tensor to the power of a tensor: `base ** ...` would fix the base in a graph that torch traces, and n with it
    frequencies = (torch.ones_like(pairs) * base) ** (-pairs / half)
    angles = positions[..., None] * frequencies
    return angles.cos().float(), angles.sin().float()


@lru_cache(maxsize=16)
def _kept_turns(n: int, half: int, base: float, offset: int, device: torch.device) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):  # what is kept must serve training too
        return _turns(n, half, base, offset, device)


def _check_positions(positions: object, x: Tensor) -> None:
    n = x.shape[-2]
    shapes = [[n], [x.shape[0], n]] if x.dim() == 4 else [[n]]
    if not isinstance(positions, Tensor) or positions.is_floating_point() or list(positions.shape) not in shapes:
        kind = type(positions).__name__
        got = f"{list(positions.shape)} of {positions.dtype}" if isinstance(positions, Tensor) else kind
        expected = f"integers {' or '.join(map(str, shapes))}, the position of each row"
        raise ArgumentError(f"positions: {got}", expected, "rotate(x, base, positions=...)")
