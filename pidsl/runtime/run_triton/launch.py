"""One launch of a kernel of a generated Triton program: its stage, its options, and what decides them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Launch:
    """One kernel launch: everything that decides what is compiled and what is computed."""

    kernel: Any
    grid: int
    arguments: Mapping[str, Any]
    options: Mapping[str, Any]


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


def launch_options(stage: Stage, widths: int, itemsize: int, *, tensor_cores: bool, limit: int) -> dict[str, Any]:
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
    return {"num_warps": warps, "num_stages": 2 if owned + 2 * swept + 2048 <= limit else 1, **FUSED}


FUSED = {"enable_fp_fusion": True}  # a * b + c in one instruction; later versions of Triton want to be asked


def shared_limit(device: torch.device) -> int:
    """Shared memory per program, in bytes; that of sm_90 where there is no GPU to ask."""
    if device.type != "cuda":
        return 227 * 1024
    properties = torch.cuda.get_device_properties(device)
    return int(getattr(properties, "shared_memory_per_block_optin", properties.shared_memory_per_block))


def pad(width: int) -> int:
    """The tile width that holds `width` columns: a power of two, and at least the 16 that `tl.dot` wants."""
    return max(16, triton.next_power_of_2(width))


def on(x: Tensor) -> AbstractContextManager[Any]:
    """The device of x as the current one."""
    return torch.cuda.device(x.device) if x.is_cuda else _HERE


_HERE: AbstractContextManager[Any] = nullcontext()
