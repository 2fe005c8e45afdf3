"""`weighed`: what happens to the output of a kernel: affine weights, and a sigmoid gate.

    affine          out_i = alpha sum over j of p_ij v_j + beta sum over attended j of v_j
                    attention with the weights `alpha p_ij + beta` on the keys that i attends, and 0 on all others;
                    p is what a score makes of it, with its sinks and its dropout, and beta knows nothing of a score
    output gate     out_i = sigmoid(g_i) out_i, g one number per head and query, or one per element

The affine weights come first. The log-sum-exp stays that of the softmax.
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from pidsl.language.recipe import OutputGate
from pidsl.runtime.call.arguments import Fault, check_numbers, tensor_hint
from pidsl.runtime.call.call import Call, of_rows
from pidsl.runtime.call.sums import accumulator
from pidsl.runtime.kernels.form import Form

if TYPE_CHECKING:
    from pidsl.codegen.plan.nodes import Plan
    from pidsl.runtime.kernels.form import Plans
    from pidsl.runtime.kernels.kernel import Kernel

NUMBERS = Real, Tensor, torch.SymFloat, torch.SymInt
FAR = 1e300  # numbers beyond are no weights
NARROW = 8  # head dimension of a call whose logits are all 0: the smallest that every backend takes


class Weighed(Form):
    """`sigmoid(output_gate) * (alpha * attention(q, k, v) + beta * (sum of the attended v))`.

    Args:
        kernel: whose output is changed.
        plain: the kernel of the same pattern without a score, where weights are affine; else None.
        output_gate: "head", "element" or None.
    """

    def __init__(self, kernel: Kernel, plain: Kernel | None, output_gate: OutputGate | None) -> None:
        self.parts, self._kernel = {"kernel": kernel}, kernel.form
        self._plain = None if plain is None else plain.form
        self.output_gate, self.affine = output_gate, plain is not None
        self.inputs = (*self._kernel.inputs, "output_gate", "alpha", "beta")
        self.cast = (*self._kernel.cast, "output_gate")
        self.by_row = (*self._kernel.by_row, "output_gate", "alpha", "beta")
        self.positional = self._kernel.positional
        self.call = self._kernel.call

    def attend(self, call: Call, backend: str) -> tuple[Tensor, Tensor]:
        out, lse = self._kernel.attend(call, backend)
        if self._plain is not None:
            out = self._weighed(out, call, backend, self._plain)
        if self.output_gate is not None:
            gate = torch.sigmoid(of_rows(call, call.inputs["output_gate"]))
            out = out * (gate[..., None] if self.output_gate == "head" else gate)
        return out, lse

    def _weighed(self, out: Tensor, call: Call, backend: str, plain: Form) -> Tensor:
        alpha, beta = (of_rows(call, call.inputs.get(name, usual)) for name, usual in (("alpha", 1), ("beta", 0)))
        precise = accumulator(out.dtype)
        found = out.to(precise) * _spread(alpha, precise)
        if isinstance(beta, Tensor) or beta != 0:
            # with logits 0, attention is the mean of the attended values, and exp(lse) counts them
            q, k = (call.q.new_zeros(()).expand(*x.shape[:3], NARROW) for x in (call.q, call.k))
            mean, lse = plain.attend(call._replace(q=q, k=k, scale=1.0), backend)
            degree = lse.detach().exp().round()[..., None]
            found = found + _spread(beta, precise) * degree * mean.to(precise)
        return found.to(out.dtype)

    def faults(self, call: Call, usable: Mapping[str, Tensor], sound: bool) -> list[Fault]:
        faults = self._kernel.faults(call, usable, sound)
        if "q" not in usable or "v" not in usable:
            return faults
        q, v, gate = call.q, call.v, call.inputs.get("output_gate")
        if gate is None and self.output_gate is not None:
            faults.append(Fault("output_gate", "None", f"logits, as compiled: output_gate={self.output_gate!r}"))
        elif gate is not None and self.output_gate is None:
            faults.append(Fault("output_gate", "logits", "None", 'compile(..., output_gate="head")'))
        elif gate is not None:
            shape = [*q.shape[:3], v.shape[3]] if self.output_gate == "element" else [*q.shape[:3]]
            faults += check_numbers("output_gate", gate, q, [shape], f"one per {self.output_gate}")
            if not faults and gate.dtype != q.dtype:
                faults.append(Fault("output_gate", f"{gate.dtype}", f"{q.dtype}, the dtype of q"))
        for name, usual in (("alpha", 1), ("beta", 0)):
            value = call.inputs.get(name, usual)
            if isinstance(value, Tensor) and self.affine:
                said = "one, one per head, or one per row"
                faults += check_numbers(name, value, q, [[], [q.shape[1]], [*q.shape[:3]]], said)
            elif not isinstance(value, NUMBERS) or isinstance(value, bool):
                faults.append(Fault(name, type(value).__name__, "a number or a torch.Tensor", tensor_hint(name, value)))
            elif not self.affine and (isinstance(value, Tensor) or value != usual):
                faults.append(Fault(name, f"{type(value).__name__}", f"{usual:g}", "compile(..., affine=True)"))
            elif not torch.compiler.is_compiling() and not -FAR < cast("float", value) < FAR:  # a symbol stays one
                faults.append(Fault(name, f"{value}", "a finite number"))
        return faults

    @property
    def plan(self) -> Plan | Plans:
        """The plan of the kernel: what is done to its output is not planned."""
        return self._kernel.plan

    def source(self, head_dim: int = 64) -> str:
        """The generated program of the kernel; what is done to its output is not generated."""
        return self._kernel.source(head_dim)

    def explain(self) -> str:
        """What is done to the output, and the explanation of the kernel."""
        done = []
        if self.affine:
            done.append("output   alpha * attention + beta * (sum of the attended values): two launches with beta")
        if self.output_gate is not None:
            done.append(f"output   times the sigmoid of a gate, one number per {self.output_gate}")
        return "\n".join([*done, self._kernel.explain()])


def _spread(value: Tensor | float, dtype: torch.dtype) -> Any:
    """A number; or [Hq] as [Hq, 1, 1], and [B, Hq, n] as [B, Hq, n, 1]."""
    if not isinstance(value, Tensor):
        return value * 1.0  # torch takes no integers beyond int64
    value = value.to(dtype)
    return value[:, None, None] if value.dim() == 1 else value[..., None] if value.dim() == 3 else value
