"""The ten patterns that GPU kernels are compared on: as pidsl terms, and as the masks that FlexAttention is told.

A mask is written once, over `i` and `j`, which are NumPy arrays (to count pairs and blocks) or the texts of a Triton
program (see benchmarks/flex_templates.py): it uses the operators that both have, and `clamp`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

TOKENS = 32768  # of all batch entries together
BLOCK = 128  # rows and keys of a block of FlexAttention's block mask


@dataclass(frozen=True)
class GpuCase:
    """A pattern.

    Args:
        source: of the pidsl term.
        attends: what it says, of i and j.
        length: of a sequence; there are as many as make 32,768 tokens.
        by_lag: only i - j matters, so that blocks on a diagonal are all alike.
    """

    source: str
    attends: Callable[[Any, Any], Any]
    length: int = TOKENS
    by_lag: bool = True

    @property
    def batch(self) -> int:
        return TOKENS // self.length


def clamp(x: Any, low: int, high: int) -> Any:
    """x, or the nearer of the ends between which it does not lie."""
    return np.clip(x, low, high) if isinstance(x, np.ndarray) else x.clamp(low, high)


def _window(left: int) -> Callable[[Any, Any], Any]:
    return lambda i, j: (i >= j) & (i - j <= left)


def _powers(i: Any, j: Any) -> Any:
    lag = i - j
    return ((lag & (lag - 1)) == 0) & (lag >= 0) & (lag <= 8192)


def _dilated(steps: int, step: int) -> Callable[[Any, Any], Any]:
    return lambda i, j: (i >= j) & (i - j <= steps * step) & ((i - j) % step == 0)


def _neighborhood(side: int, window: int) -> Callable[[Any, Any], Any]:
    half = window // 2

    def near(x: Any, y: Any) -> Any:
        return abs(clamp(x, half, side - 1 - half) - y) <= half

    return lambda i, j: near(i // side, j // side) & near(i % side, j % side)


CASES = {
    "causal": GpuCase("causal", lambda i, j: i >= j),
    "window1023": GpuCase("window(1023)", _window(1023)),
    "window127": GpuCase("window(127)", _window(127)),
    "stride256": GpuCase("stride(256) & causal", lambda i, j: (i >= j) & ((i - j) % 256 == 0)),
    "pi": GpuCase("window(63) | stride(256) & causal", lambda i, j: (i >= j) & ((i - j <= 63) | ((i - j) % 256 == 0))),
    "lags": GpuCase("lags(0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)", _powers),
    "dil4": GpuCase("window(511).dilated(4)", _dilated(511, 4)),
    "dil64": GpuCase("window(127).dilated(64)", _dilated(127, 64)),
    "natten": GpuCase("neighborhood((64, 64), 13)", _neighborhood(64, 13), length=4096, by_lag=False),
    "longformer": GpuCase(
        "window(256, 256) | keys(0, 1) | queries(0, 1)",
        lambda i, j: (abs(i - j) <= 256) | (j < 1) | (i < 1),
        by_lag=False,
    ),
}


@dataclass(frozen=True)
class Blocks:
    """A block mask: pairs attended, and the kind of every block, 0 (none), 1 (some of its pairs) or 2 (all)."""

    pairs: int
    kinds: Any  # NumPy array [query blocks, key blocks]


@lru_cache
def blocks(name: str) -> Blocks:
    """The block mask of one sequence of a pattern."""
    case = CASES[name]
    count, inside = case.length // BLOCK, np.arange(BLOCK, dtype=np.int32)
    attended = np.zeros((count, count), dtype=np.int64)
    if case.by_lag:
        lags = np.arange(1 - count, count, dtype=np.int32)[:, None, None]
        rows, keys = lags * BLOCK + inside[:, None] + TOKENS, inside + TOKENS  # positions >= 0, and only lags matter
        per_lag = np.asarray(case.attends(rows, keys)).sum((1, 2))
        i, j = np.indices((count, count))
        attended = per_lag[i - j + count - 1]
    else:
        keys = np.arange(case.length, dtype=np.int32)
        for block in range(count):
            found = np.asarray(case.attends((block * BLOCK + inside)[:, None], keys))
            attended[block] = found.reshape(BLOCK, count, BLOCK).sum((0, 2))
    return Blocks(int(attended.sum()), (attended > 0).astype(np.int8) + (attended == BLOCK**2))
