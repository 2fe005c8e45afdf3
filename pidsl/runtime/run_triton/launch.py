"""One launch of a kernel of a generated Triton program: its stage, its options, and what decides them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
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
    """A row of the tables at the end of a generated program.

    Args:
        kernel: of the library.
        kind: what it is specialised for, fields of the program's `Kind`.
        pieces: numbers of those in the plan whose walks it runs.
        swept: the longest tile of what it meets.
        whole: it owns every row (key), whatever the lengths.
        classes: that own programs.
        listed: tiles of listed blocks.
        table: the name of the table of listed blocks.
        box: positions of a box of a grid, boxes beside it, tokens of the grid.
    """

    kernel: Any
    kind: Mapping[str, Any]
    pieces: tuple[int, ...]
    swept: int
    whole: bool
    classes: int = 1
    listed: int | None = None
    table: str | None = None
    box: tuple[int, int, int | None] | None = None

    @property
    def tile(self) -> int:
        """Positions of a program."""
        return int(self.kind["TILE"])

    @property
    def step(self) -> int:
        """Between the positions of a class."""
        return int(self.kind.get("STEP", 1))

    def tiles(self, length: int, first: int) -> int:
        """How many programs serve one class of one head, whose positions are so many from the first one on."""
        if self.listed is not None:
            return self.listed
        if self.box is None:
            return int(triton.cdiv(triton.cdiv(length, self.step), self.tile))
        size, beside, tokens = self.box
        end = first + length if tokens is None else min(first + length, tokens)
        return max(0, -(-end // size) - first // size) * beside


def stages_of(module: Any, table: str) -> list[Stage]:
    """The rows of a table of a generated module."""
    kernel = getattr(module, {"GRAD_SCORE": "grad_query"}.get(table, table.lower()), None)
    rows = getattr(module, table, ())
    return [
        Stage(
            kernel,
            {name: x for name, x in row.items() if name.isupper()},
            **{name: x for name, x in row.items() if not name.isupper()},
        )
        for row in rows
    ]


def constant(x: Any) -> Any:
    """What a kernel is specialised for, as Triton reads it inside a tuple."""
    if isinstance(x, tuple):
        parts = [constant(part) for part in x]
        return type(x)(*parts) if hasattr(x, "_fields") else tuple(parts)
    return tl.constexpr(x) if isinstance(x, int | float | str) else x


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
