"""One launch of a kernel of a generated Triton program: its grid, its options, and the tensors it goes on from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from threading import RLock
from typing import Any

import torch
import triton
from torch import Tensor

_interpreter = RLock()  # Triton's interpreter changes its language in place while it runs a kernel


@dataclass(frozen=True, slots=True)
class Launch:
    """One kernel launch: everything that decides what is compiled and what is computed."""

    kernel: Any
    grid: int
    arguments: Mapping[str, Any]
    options: Mapping[str, int]

    def run(self) -> None:
        """Enqueue the kernel; nothing to do when no program has work."""
        if self.grid:
            interpreted = not isinstance(self.kernel, triton.JITFunction)
            with _interpreter if interpreted else nullcontext():
                self.kernel[(self.grid,)](**self.arguments, **self.options)


@dataclass(frozen=True, slots=True)
class Stage:
    """A row of the tables at the end of a generated program."""

    kernel: Any
    step: int
    classes: int
    tile: int
    swept: int
    whole: bool
    listed: int | None = None  # tiles of listed blocks
    box: tuple[int, int, int | None] | None = None  # positions of a box of a grid, boxes beside it, tokens of the grid

    def programs(self, length: int, first: int) -> int:
        """How many programs serve one head, whose positions are so many from the first one on."""
        if self.listed is not None:
            return self.listed
        if self.box is None:
            return self.classes * int(triton.cdiv(triton.cdiv(length, self.step), self.tile))
        size, beside, tokens = self.box
        end = first + length if tokens is None else min(first + length, tokens)
        return max(0, -(-end // size) - first // size) * beside


def launch_options(stage: Stage, widths: int, itemsize: int, *, tensor_cores: bool, limit: int) -> dict[str, int]:
    """Warps and pipeline stages of a kernel, chosen from the registers and spills of its machine code.

    Args:
        stage: whose tiles they are.
        widths: padded D + padded Dv.
        itemsize: bytes per element of q.
        tensor_cores: False for exact float32 products, which need many more registers.
        limit: bytes of shared memory a program can have.

    One warp group (4 warps) per 64 owned positions: fewer spill for large head dims, more would compute tiles twice.
    Two pipeline stages hide the loads; a third costs registers, and with them the second program per multiprocessor.
    """
    warps = 16 if stage.swept and not tensor_cores else max(4, stage.tile // 16)
    owned, swept = stage.tile * widths * itemsize, stage.swept * widths * itemsize
    return {"num_warps": warps, "num_stages": 2 if owned + 2 * swept + 2048 <= limit else 1}


def shared_limit(x: Tensor) -> int:
    """Shared memory per program, in bytes; that of sm_90 where there is no GPU to ask."""
    if not x.is_cuda:
        return 227 * 1024
    properties = torch.cuda.get_device_properties(x.device)
    return int(getattr(properties, "shared_memory_per_block_optin", properties.shared_memory_per_block))


def reach(x: Tensor) -> int:
    """How far the last element of one head of one batch entry lies from its first."""
    return sum((size - 1) * step for size, step in zip(x.shape[2:], x.stride()[2:], strict=True))


def chain(stages: Sequence[Stage], shape: tuple[int, ...], like: Tensor) -> list[Tensor]:
    """What stage number x goes on from (entry x) and writes (entry x + 1).

    Between stages the values are float32; the last stage writes `like`'s dtype when it owns everything.
    """
    if not stages:
        return [like.new_zeros(shape)]
    make = like.new_empty if stages[0].whole else like.new_zeros
    if len(stages) == 1:
        return [make(shape)] * 2
    between = make(shape, dtype=torch.float32)
    last = like.new_empty(shape) if stages[-1].whole and like.dtype != torch.float32 else between
    return [between] * len(stages) + [last]


def pad(width: int) -> int:
    """The tile width that holds `width` columns: a power of two, and at least the 16 that `tl.dot` wants."""
    return max(16, triton.next_power_of_2(width))


def on(x: Tensor) -> AbstractContextManager[Any]:
    """The device of x as the current one."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()
