"""The patterns of the benchmark: each as a pidsl term and as the predicate that FlexAttention takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

import pidsl
from pidsl.language.terms import Term

Predicate = Callable[[Tensor, Tensor, int], Tensor]  # i, j, n -> attends


@dataclass(frozen=True)
class Case:
    name: str
    source: str  # of the term
    attends: Predicate  # says the same independently of pidsl; also judges the results on sampled rows
    causal: bool = True

    @property
    def term(self) -> Term:
        return pidsl.parse(self.source)

    def mask_mod(self, n: int) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
        attends = self.attends

        def mod(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return attends(i, j, n)

        return mod


def _window(left: int) -> Predicate:
    return lambda i, j, n: (i >= j) & (i - j <= left)


def _powers(i: Tensor, j: Tensor, n: int) -> Tensor:
    lag = i - j
    return (lag >= 0) & (lag <= 8192) & ((lag & (lag - 1)) == 0)


def _ring(radius: int) -> Predicate:
    def attends(i: Tensor, j: Tensor, n: int) -> Tensor:
        distance = (i - j).abs()
        return (distance <= radius) | (distance >= n - radius)

    return attends


def _power_attention(i: Tensor, j: Tensor, n: int) -> Tensor:
    blocks = i // 256 - j // 256
    return (i >= j) & ((blocks < 5) | (blocks & (blocks - 1) == 0) | (j < 256))


def _neighborhood(side: int, window: int) -> Predicate:
    def near(x: Tensor, y: Tensor) -> Tensor:
        first = (x - window // 2).clamp(0, side - window)
        return (y >= first) & (y < first + window)

    def attends(i: Tensor, j: Tensor, n: int) -> Tensor:
        inside = (i < side * side) & (j < side * side)
        return near(i // side, j // side) & near(i % side, j % side) & inside

    return attends


POWERS = ", ".join(str(1 << e) for e in range(14))  # 1, 2, 4, ..., 8192

CASES = {
    case.name: case
    for case in (
        Case("window", "window(255)", _window(255)),
        Case("stride", "stride(256) & causal", lambda i, j, n: (i >= j) & ((i - j) % 256 == 0)),
        Case(
            "window-stride",
            "window(63) | stride(256) & causal",
            lambda i, j, n: (i >= j) & ((i - j <= 63) | ((i - j) % 256 == 0)),
        ),
        Case("powers", f"lags(0, {POWERS})", _powers),
        Case(
            "dilated",
            "window(31).dilated(8)",
            lambda i, j, n: (i >= j) & (i - j <= 248) & ((i - j) % 8 == 0),
        ),
        Case("blocks", "blocks(256) & causal", lambda i, j, n: (i >= j) & (i // 256 == j // 256)),
        Case(
            "window-sinks",
            "window(255) | keys(0, 4) & causal",
            lambda i, j, n: (i >= j) & ((i - j <= 255) | (j < 4)),
        ),
        Case("ring", "ring(64)", _ring(64), causal=False),
        Case(
            "dilated-window",
            "window(127).dilated(64)",
            lambda i, j, n: (i >= j) & (i - j < 128 * 64) & ((i - j) % 64 == 0),
        ),
        Case(
            "longformer",
            "window(256, 256) | keys(0, 16) | queries(0, 16)",
            lambda i, j, n: ((i - j).abs() <= 256) | (i < 16) | (j < 16),
            causal=False,
        ),
        Case(
            "power-attention",
            "(window(4) | lags(8, 16, 32) | keys(0, 1)).blocked(256) & causal",
            _power_attention,
        ),
        Case(
            "sparse-fixed",
            "(blocks(128) | where(lambda i, j: j % 128 >= 120)) & causal",
            lambda i, j, n: (i >= j) & ((i // 128 == j // 128) | (j % 128 >= 120)),
        ),
        # grids of 64 x 64 tokens: meant for --n 4096
        Case("neighborhood-7", "neighborhood((64, 64), 7)", _neighborhood(64, 7), causal=False),
        Case("neighborhood-13", "neighborhood((64, 64), 13)", _neighborhood(64, 13), causal=False),
        Case("pi-single", "window(63) | lags(256)", lambda i, j, n: (i >= j) & ((i - j <= 63) | (i - j == 256))),
    )
}
