"""A generated Triton program, loaded and launched.

The source is written to a cache folder first, see `pidsl.runtime.run_triton.cache`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from pidsl.errors import BackendError
from pidsl.runtime.call.call import Call, Gradients
from pidsl.runtime.call.dropout import seed_key
from pidsl.runtime.call.logits import row_pull, sink_gradient, temperature_gradient
from pidsl.runtime.run_triton import cache
from pidsl.runtime.run_triton.launch import Launch, Stage, chain, launch_options, on, pad, reach, shared_limit

if TYPE_CHECKING:
    from pidsl.codegen.plan.nodes import Plan

_INT32 = 2**31
_STATISTICS_ROWS = 32  # rows per program of the generated `row_statistics`


class TritonProgram:
    """The kernels of a plan, ready to call; see `pidsl.runtime.programs.Program`.

    Args:
        plan: what to compute; may be None when `source` is given.
        source: the program, when it has been generated already.

    Raises:
        BackendError: the program cannot be written to the cache folder.
    """

    def __init__(self, plan: Plan | None, source: str | None = None) -> None:
        if source is None:
            from pidsl.codegen.emit_triton.source import triton_source

            assert plan is not None
            source = triton_source(plan)
        self.plan: Any = plan
        self.source = source
        self.path = cache.write(source)
        self._module = cache.load(self.path, source)
        self._tables: dict[tuple[str, torch.device], Tensor] = {}  # of lists, on devices

    def forward(self, call: Call) -> tuple[Tensor, Tensor]:
        """Attention output, contiguous, and natural-log lse."""
        dtype, call = call.q.dtype, self._readable(call)
        with on(call.q):
            launches, out, lse = self.forward_launches(call)
            for launch in launches:
                launch.run()
            return out.to(dtype), lse

    def backward(
        self, call: Call, out: Tensor, lse: Tensor, grad_out: Tensor, grad_lse: Tensor | None, learned: bool
    ) -> Gradients:
        """Gradients of q, k, v and the inputs; the same bits on every run."""
        given, call = call, self._readable(call)
        q, inputs = call.q, call.inputs
        out, grad_out = out.to(q.dtype), grad_out.to(q.dtype)
        with on(q):
            launches, found, sums = self.backward_launches(call, out, lse, grad_out, grad_lse, learned)
            for launch in launches:
                launch.run()
            dq, dk, dv = (x.to(own.dtype) for x, own in zip(found, given, strict=False))
            of_inputs = {
                name: sum((x.sum((0, 2)) for x in parts), torch.zeros_like(inputs[name]))  # in a fixed order
                for name, parts in sums.items()
                if learned and name in inputs
            }
            if "sinks" in inputs:
                of_inputs["sinks"] = sink_gradient(inputs["sinks"], lse, row_pull(out, grad_out, grad_lse))
            if "temperature" in inputs:
                of_inputs["temperature"] = temperature_gradient(inputs["temperature"], q, dq)
            return dq if given.scale == call.scale else -dq, dk, dv, of_inputs

    def forward_launches(self, call: Call) -> tuple[list[Launch], Tensor, Tensor]:
        """What `forward` launches, and the (out, lse) that hold the result afterwards; `out` may be float32."""
        q, offset = call.q, call.positions.offset
        stages = self._stages("FORWARD")
        outs = chain(stages, (*q.shape[:3], call.v.shape[3]), q)
        if stages and stages[0].whole:
            lse = q.new_empty(q.shape[:3], dtype=torch.float32)
        else:
            lse = q.new_full(q.shape[:3], -torch.inf, dtype=torch.float32)  # of rows that have seen no key
            if "sinks" in call.inputs:
                lse.copy_(call.inputs["sinks"][:, None].expand(lse.shape))
        shared = self._shared_arguments(call, {})
        launches = [
            self._launch(stage, q, shared | {"out": target, "running": running, "lse": lse}, offset)
            for stage, running, target in zip(stages, outs, outs[1:], strict=False)
        ]
        return launches, outs[-1], lse

    def backward_launches(
        self, call: Call, out: Tensor, lse: Tensor, grad_out: Tensor, grad_lse: Tensor | None, learned: bool
    ) -> tuple[list[Launch], tuple[Tensor, Tensor, Tensor], dict[str, list[Tensor]]]:
        """What `backward` launches, and what holds the results afterwards.

        Those are the gradients of q, k and v, some of them in float32; and for each kernel that sums what slopes and
        bias get, [B, Hq, programs] and [B, Hq, programs, table].
        """
        q, k, v, _, (offset, key_offset), _ = call
        shared = self._shared_arguments(call, {"go": grad_out, "out": out})
        shared |= {
            "grad_out": grad_out,
            "lse": lse.contiguous(),
            "lse2": q.new_empty(lse.shape, dtype=torch.float32),
            "pull": q.new_empty(lse.shape, dtype=torch.float32),
            "out": out,
            "grad_lse": None if grad_lse is None else grad_lse.to(torch.float32).contiguous(),
        }
        rows = q.shape[0] * q.shape[1] * triton.cdiv(q.shape[2], _STATISTICS_ROWS)
        row_statistics = self._module.row_statistics
        launches = [Launch(row_statistics, rows, self._arguments(row_statistics, shared), {"num_warps": 4})]

        stages = self._stages("GRAD_QUERY")
        grad_q = chain(stages, tuple(q.shape), q)
        for stage, running, target in zip(stages, grad_q, grad_q[1:], strict=False):
            launches.append(self._launch(stage, q, {**shared, "running_q": running, "grad_q": target}, offset))
        stages = self._stages("GRAD_KEY")
        grad_k, grad_v = chain(stages, tuple(k.shape), k), chain(stages, tuple(v.shape), v)
        for i, stage in enumerate(stages):
            before = {"running_k": grad_k[i], "running_v": grad_v[i]}
            arguments = {**shared, **before, "grad_k": grad_k[i + 1], "grad_v": grad_v[i + 1]}
            launches.append(self._launch(stage, k, arguments, key_offset))
        sums: dict[str, list[Tensor]] = {"slopes": [], "bias": []}
        for stage in self._stages("GRAD_SCORE") if learned else ():
            shape = (*q.shape[:2], stage.programs(q.shape[2], offset))
            table = call.inputs["bias"].shape[1] if "bias" in call.inputs else 0
            sums["slopes"].append(q.new_zeros(shape, dtype=torch.float32))  # those without rows write none
            sums["bias"].append(q.new_zeros((*shape, table), dtype=torch.float32))
            arguments = {**shared, "slope_sums": sums["slopes"][-1], "bias_sums": sums["bias"][-1]}
            launches.append(self._launch(stage, q, arguments, offset))
        return launches, (grad_q[-1], grad_k[-1], grad_v[-1]), sums

    def _stages(self, table: str) -> list[Stage]:
        return [Stage(**row) for row in getattr(self._module, table, ())]

    @property
    def _interpreted(self) -> bool:
        return not isinstance(self._module.row_statistics, triton.JITFunction)

    def _misread(self, q: Tensor) -> bool:
        """Triton's interpreter keeps bfloat16 as integers, and `tl.dot` multiplies those."""
        return self._interpreted and q.dtype == torch.bfloat16

    def _readable(self, call: Call) -> Call:
        """The call with a scale and a dtype that the kernels read.

        Raises:
            BackendError: the tensors are not on a GPU (and Triton is not in interpreter mode).
        """
        self._check_device(call.q)
        if call.scale < 0:  # the kernels take the maximum of a row before they scale it
            call = call._replace(q=-call.q, scale=-call.scale)
        if self._misread(call.q):
            call = call._replace(q=call.q.float(), k=call.k.float(), v=call.v.float())
        return call

    def _check_device(self, q: Tensor) -> None:
        if q.device.type == "cpu" and not self._interpreted:
            hint = 'backend="torch" runs on any device; TRITON_INTERPRET=1 before the first import of triton '
            hint += "interprets the kernels, slowly"
            raise BackendError("a Triton kernel called with tensors on the CPU", "tensors on a GPU", hint=hint)

    def _shared_arguments(self, call: Call, others: Mapping[str, Tensor]) -> dict[str, Any]:
        """The arguments that do not differ from stage to stage, by the names the kernels have for them."""
        q, k, v, scale, (offset, key_offset), inputs = call
        n, m, head_dim, value_dim = q.shape[2], k.shape[2], q.shape[3], v.shape[3]
        rounded = torch.get_float32_matmul_precision() != "highest" and torch.version.hip is None
        arguments: dict[str, Any] = {
            "q": q, "k": k, "v": v, "scale": float(scale), "n": n, "m": m, "offset": offset,
            "key_offset": key_offset, "heads": q.shape[1], "group": q.shape[1] // max(k.shape[1], 1),
            "D": head_dim, "D_PAD": pad(head_dim), "V": value_dim, "V_PAD": pad(value_dim),
            "PRECISION": "tf32" if rounded and q.dtype == torch.float32 else "ieee",
            "INDEX": tl.int32 if self._fits_int32(max(n, m, offset, key_offset)) else tl.int64,
            **inputs,
        }  # fmt: skip
        if "seed" in inputs:
            key = seed_key(inputs["seed"])
            arguments["seed"] = key - 2**32 if key >= 2**31 else key
        for name, table in getattr(self._module, "LISTS", {}).items():
            if (name, q.device) not in self._tables:
                self._tables[name, q.device] = torch.tensor(table, dtype=torch.int32, device=q.device)
            arguments[name] = self._tables[name, q.device]
        for name, x in {"q": q, "k": k, "v": v, **others}.items():
            arguments |= {f"{name}_{axis}": x.stride(i) for i, axis in enumerate("bhrd")}
        return arguments

    def _fits_int32(self, longest: int) -> bool:
        """Whether every position and bound is below 2^31."""
        constant, slope = self._module.REACH
        return bool(constant + slope * longest < _INT32)

    @staticmethod
    def _arguments(kernel: Any, values: Mapping[str, Any]) -> dict[str, Any]:
        """What a kernel gets: 64-bit indices too where an address within one head of any tensor needs them."""
        given = {name: values[name] for name in kernel.arg_names}
        if any(reach(x) >= _INT32 for x in given.values() if isinstance(x, Tensor)):
            given["INDEX"] = tl.int64
        return given

    def _launch(self, stage: Stage, owner: Tensor, values: Mapping[str, Any], first: int = 0) -> Launch:
        """One program per tile of `owner`'s positions (q for rows, k for keys), class, head and batch entry.

        The first of the positions is `first`.
        """
        options = launch_options(
            stage, values["D_PAD"] + values["V_PAD"], owner.element_size(), limit=shared_limit(owner),
            tensor_cores=owner.dtype != torch.float32 or values["PRECISION"] == "tf32",
        )  # fmt: skip
        grid = owner.shape[0] * owner.shape[1] * stage.programs(owner.shape[2], first)
        return Launch(stage.kernel, grid, self._arguments(stage.kernel, values), options)
