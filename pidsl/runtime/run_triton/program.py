"""A generated Triton program, loaded and launched.

The source is written to a cache folder first, see `pidsl.runtime.run_triton.cache`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from threading import RLock
from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl

from pidsl.errors import BackendError
from pidsl.runtime.run_triton import cache

if TYPE_CHECKING:
    from pidsl.codegen.plan.nodes import Plan

_INT32 = 2**31
_STATISTICS_ROWS = 32  # rows per program of the generated `row_statistics`


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


class TritonProgram:
    """The kernels of a plan, ready to call.

    Args:
        plan: what to compute; may be None when `source` is given.
        source: the program, when it has been generated already.

    Raises:
        BackendError: the program cannot be written to the cache folder.
    """

    def __init__(self, plan: Plan | None, source: str | None = None) -> None:
        if source is None:
            from pidsl.codegen.emit_triton.source import triton_source

            if plan is None:
                raise TypeError("TritonProgram needs a plan or a source")
            source = triton_source(plan)
        self.plan = plan
        self.source = source
        self.path = cache.write(source)
        self._module = cache.load(self.path, source)
        self._tables: dict[tuple[str, torch.device], torch.Tensor] = {}

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, offset: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Attention output and natural-log lse.

        Args:
            q: [B, Hq, n, D], any strides.
            k: [B, Hkv, m, D], any strides; Hq % Hkv == 0.
            v: [B, Hkv, m, Dv], any strides.
            scale: factor of the logits.
            offset: position of row 0.

        Returns:
            out [B, Hq, n, Dv] in q's dtype, contiguous, and lse [B, Hq, n] in float32; 0 and -inf where a row
            attends nothing.

        Raises:
            BackendError: the tensors are not on a GPU (and Triton is not in interpreter mode).
        """
        self._check_device(q)
        if scale < 0:  # the kernels take the maximum of a row before they scale it
            return self.forward(-q, k, v, -scale, offset)
        if self._misread(q):
            out, lse = self.forward(q.float(), k.float(), v.float(), scale, offset)
            return out.to(q.dtype), lse
        with _on(q):
            launches, out, lse = self.forward_launches(q, k, v, scale, offset)
            for launch in launches:
                launch.run()
            return out.to(q.dtype), lse

    def backward(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        out: torch.Tensor,
        lse: torch.Tensor,
        grad_out: torch.Tensor,
        grad_lse: torch.Tensor | None,
        scale: float,
        offset: int,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Gradients of q, k and v from the gradients of `forward`'s results; the same bits on every run.

        Args:
            q, k, v, scale, offset: as given to `forward`.
            out, lse: as returned by `forward`.
            grad_out: [B, Hq, n, Dv], any strides.
            grad_lse: [B, Hq, n], or None for zero.

        Returns:
            dq, dk, dv, contiguous, in the dtype and shape of q, k and v.

        Raises:
            BackendError: the tensors are not on a GPU (and Triton is not in interpreter mode).
        """
        self._check_device(q)
        if scale < 0:
            dq, dk, dv = self.backward(-q, k, v, out, lse, grad_out, grad_lse, -scale, offset)
            return -dq, dk, dv
        if self._misread(q):
            dq, dk, dv = self.backward(
                q.float(), k.float(), v.float(), out.float(), lse, grad_out.float(), grad_lse, scale, offset
            )
            return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype)
        with _on(q):
            launches, dq, dk, dv = self.backward_launches(q, k, v, out, lse, grad_out, grad_lse, scale, offset)
            for launch in launches:
                launch.run()
            return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype)

    def forward_launches(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, offset: int
    ) -> tuple[list[Launch], torch.Tensor, torch.Tensor]:
        """What `forward` launches, and the (out, lse) that hold the result afterwards; `out` may be float32."""
        batch, heads, n, _ = q.shape
        stages = self._stages("FORWARD")
        chain = _chain(stages, (batch, heads, n, v.shape[3]), q)
        whole = bool(stages) and stages[0].whole
        lse = q.new_empty((batch, heads, n), dtype=torch.float32) if whole else self._unseen(q)
        shared = self._shared_arguments(q, k, v, {}, scale, offset)
        launches = [
            self._launch(stage, q, shared | {"out": target, "running": running, "lse": lse}, offset)
            for stage, running, target in zip(stages, chain, chain[1:], strict=False)
        ]
        return launches, chain[-1], lse

    def backward_launches(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        out: torch.Tensor,
        lse: torch.Tensor,
        grad_out: torch.Tensor,
        grad_lse: torch.Tensor | None,
        scale: float,
        offset: int,
    ) -> tuple[list[Launch], torch.Tensor, torch.Tensor, torch.Tensor]:
        """What `backward` launches, and the gradients of q, k and v that hold the result afterwards."""
        return self.gradient_launches(
            self.backward_arguments(q, k, v, out, lse, grad_out, grad_lse, scale, offset), q, k, v
        )

    def backward_arguments(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        out: torch.Tensor,
        lse: torch.Tensor,
        grad_out: torch.Tensor,
        grad_lse: torch.Tensor | None,
        scale: float,
        offset: int,
    ) -> dict[str, Any]:
        """The arguments that all kernels of the backward pass share."""
        shared = self._shared_arguments(q, k, v, {"go": grad_out, "out": out}, scale, offset)
        shared |= {
            "grad_out": grad_out,
            "lse": lse.contiguous(),
            "lse2": q.new_empty(lse.shape, dtype=torch.float32),
            "pull": q.new_empty(lse.shape, dtype=torch.float32),
            "out": out,
            "grad_lse": None if grad_lse is None else grad_lse.to(torch.float32).contiguous(),
        }
        return shared

    def gradient_launches(
        self, shared: Mapping[str, Any], q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
    ) -> tuple[list[Launch], torch.Tensor, torch.Tensor, torch.Tensor]:
        rows = q.shape[0] * q.shape[1] * triton.cdiv(q.shape[2], _STATISTICS_ROWS)
        row_statistics = self._module.row_statistics
        launches = [Launch(row_statistics, rows, self._arguments(row_statistics, shared), {"num_warps": 4})]

        stages = self._stages("GRAD_QUERY")
        grad_q = _chain(stages, tuple(q.shape), q)
        for stage, running, target in zip(stages, grad_q, grad_q[1:], strict=False):
            arguments = {**shared, "running_q": running, "grad_q": target}
            launches.append(self._launch(stage, q, arguments, shared["offset"]))
        stages = self._stages("GRAD_KEY")
        grad_k, grad_v = _chain(stages, tuple(k.shape), k), _chain(stages, tuple(v.shape), v)
        for i, stage in enumerate(stages):
            arguments = {**shared, "running_k": grad_k[i], "grad_k": grad_k[i + 1]}
            arguments |= {"running_v": grad_v[i], "grad_v": grad_v[i + 1]}
            launches.append(self._launch(stage, k, arguments))
        return launches, grad_q[-1], grad_k[-1], grad_v[-1]

    def _unseen(self, q: torch.Tensor) -> torch.Tensor:
        """lse of rows that have seen no key."""
        return q.new_full(q.shape[:3], -torch.inf, dtype=torch.float32)

    def _stages(self, table: str) -> list[Stage]:
        return [Stage(**row) for row in getattr(self._module, table)]

    @property
    def _interpreted(self) -> bool:
        return not isinstance(self._module.row_statistics, triton.JITFunction)

    def _misread(self, q: torch.Tensor) -> bool:
        """Triton's interpreter keeps bfloat16 as integers, and `tl.dot` multiplies those."""
        return self._interpreted and q.dtype == torch.bfloat16

    def _check_device(self, q: torch.Tensor) -> None:
        if q.device.type == "cpu" and not self._interpreted:
            raise BackendError(
                "a Triton kernel called with tensors on the CPU",
                "tensors on a GPU",
                hint='backend="torch" runs on any device; TRITON_INTERPRET=1 before the first import of triton '
                "interprets the kernels, slowly",
            )

    def _shared_arguments(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        others: Mapping[str, torch.Tensor],
        scale: float,
        offset: int,
    ) -> dict[str, Any]:
        """The arguments that do not differ from stage to stage, by the names the kernels have for them."""
        head_dim, value_dim = q.shape[3], v.shape[3]
        rounded = torch.get_float32_matmul_precision() != "highest" and torch.version.hip is None
        strided = {"q": q, "k": k, "v": v, **others}
        n, m = q.shape[2], k.shape[2]
        arguments: dict[str, Any] = {
            "q": q, "k": k, "v": v, "scale": float(scale), "n": n, "m": m, "offset": offset,
            "heads": q.shape[1], "group": q.shape[1] // max(k.shape[1], 1),
            "D": head_dim, "D_PAD": _pad(head_dim), "V": value_dim, "V_PAD": _pad(value_dim),
            "PRECISION": "tf32" if rounded and q.dtype == torch.float32 else "ieee",
            "INDEX": tl.int32 if self._fits_int32(max(n, m, offset)) else tl.int64,
        }  # fmt: skip
        for name, table in getattr(self._module, "LISTS", {}).items():
            arguments[name] = self._table(name, table, q.device)
        for name, x in strided.items():
            arguments |= {f"{name}_{axis}": x.stride(i) for i, axis in enumerate("bhrd")}
        return arguments

    def _table(self, name: str, table: Sequence[int], device: torch.device) -> torch.Tensor:
        """The table of a list on the device, made once."""
        if (name, device) not in self._tables:
            self._tables[name, device] = torch.tensor(table, dtype=torch.int32, device=device)
        return self._tables[name, device]

    def _fits_int32(self, longest: int) -> bool:
        """Whether every position and bound is below 2^31."""
        constant, slope = self._module.REACH
        return bool(constant + slope * longest < _INT32)

    @staticmethod
    def _arguments(kernel: Any, values: Mapping[str, Any]) -> dict[str, Any]:
        """What a kernel gets: 64-bit indices too where an address within one head of any tensor needs them."""
        given = {name: values[name] for name in kernel.arg_names}
        if any(_reach(x) >= _INT32 for x in given.values() if isinstance(x, torch.Tensor)):
            given["INDEX"] = tl.int64
        return given

    def _launch(self, stage: Stage, owner: torch.Tensor, values: Mapping[str, Any], first: int = 0) -> Launch:
        """One program per tile of `owner`'s positions (q for rows, k for keys), class, head and batch entry.

        The first of the positions is `first`.
        """
        tiles = stage.tiles(owner.shape[2], first)
        grid = owner.shape[0] * owner.shape[1] * stage.classes * tiles
        widths = values["D_PAD"] + values["V_PAD"]
        options = launch_options(
            stage,
            widths,
            owner.element_size(),
            tensor_cores=owner.dtype != torch.float32 or values["PRECISION"] == "tf32",
            shared_limit=_shared_limit(owner),
        )
        return Launch(stage.kernel, grid, self._arguments(stage.kernel, values), options)


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

    def tiles(self, length: int, first: int) -> int:
        """How many tiles of one class own something of so many positions from the first one on."""
        if self.listed is not None:
            return self.listed
        if self.box is None:
            return int(triton.cdiv(triton.cdiv(length, self.step), self.tile))
        size, beside, tokens = self.box
        end = first + length if tokens is None else min(first + length, tokens)
        return max(0, -(-end // size) - first // size) * beside


def launch_options(
    stage: Stage, widths: int, itemsize: int, *, tensor_cores: bool, shared_limit: int
) -> dict[str, int]:
    """Warps and pipeline stages of a kernel, chosen from the registers and spills of its machine code.

    Args:
        stage: whose tiles they are.
        widths: padded D + padded Dv.
        itemsize: bytes per element of q.
        tensor_cores: False for exact float32 products, which need many more registers.
        shared_limit: bytes of shared memory a program can have.

    One warp group (4 warps) per 64 owned positions: fewer spill for large head dims, more would compute tiles twice.
    Two pipeline stages hide the loads; a third costs registers, and with them the second program per multiprocessor.
    """
    warps = 16 if stage.swept and not tensor_cores else max(4, stage.tile // 16)
    owned, swept = stage.tile * widths * itemsize, stage.swept * widths * itemsize
    return {"num_warps": warps, "num_stages": 2 if owned + 2 * swept + 2048 <= shared_limit else 1}


def _shared_limit(x: torch.Tensor) -> int:
    """Shared memory per program, in bytes; that of sm_90 where there is no GPU to ask."""
    if not x.is_cuda:
        return 227 * 1024
    properties = torch.cuda.get_device_properties(x.device)
    return int(getattr(properties, "shared_memory_per_block_optin", properties.shared_memory_per_block))


def _reach(x: torch.Tensor) -> int:
    """How far the last element of one head of one batch entry lies from its first."""
    return sum((size - 1) * step for size, step in zip(x.shape[2:], x.stride()[2:], strict=True))


def _chain(stages: Sequence[Stage], shape: tuple[int, ...], like: torch.Tensor) -> list[torch.Tensor]:
    """What stage number x goes on from (entry x) and writes (entry x + 1).

    Between stages the values are float32; the last stage writes `like`'s dtype when it owns everything.
    """
    if not stages:
        return [like.new_zeros(shape)]
    if len(stages) == 1:
        only = like.new_empty(shape) if stages[0].whole else like.new_zeros(shape)
        return [only, only]
    make = like.new_empty if stages[0].whole else like.new_zeros
    between = make(shape, dtype=torch.float32)
    last = like.new_empty(shape) if stages[-1].whole and like.dtype != torch.float32 else between
    return [between] * len(stages) + [last]


def _pad(width: int) -> int:
    """The tile width that holds `width` columns: a power of two, and at least the 16 that `tl.dot` wants."""
    return max(16, triton.next_power_of_2(width))


def _on(x: torch.Tensor) -> AbstractContextManager[Any]:
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()
