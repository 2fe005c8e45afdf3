"""`blend`: one softmax per branch of a gate, weighed by numbers given at call time, and added up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pidsl.language.gate import Gate
from pidsl.runtime.call.arguments import Fault, check_weights
from pidsl.runtime.call.call import Call, of_rows
from pidsl.runtime.kernels.form import Form

if TYPE_CHECKING:
    from pidsl.runtime.kernels.kernel import Kernel


class Blend(Form):
    """`sum over branches b of weights[..., b] * attention_b(q, k, v)`.

    A branch without a key for a row adds 0 to it. lse is that of each branch, [B, Hq, n, branches].

    Args:
        gate: the named patterns.
        kernels: that of each branch, by name.
    """

    inputs = cast = by_row = ("weights",)
    positional = "weights"
    call = "kernel(q, k, v, weights)"

    def __init__(self, gate: Gate, kernels: Mapping[str, Kernel]) -> None:
        self.gate, self.parts = gate, kernels

    def titled(self) -> Iterable[tuple[str, Kernel]]:
        return ((f"branch {name}", kernel) for name, kernel in self.parts.items())

    def faults(self, call: Call, usable: Mapping[str, Tensor], sound: bool) -> list[Fault]:
        return check_weights(usable, call.inputs.get("weights"), self.gate.names)

    def attend(self, call: Call, backend: str) -> tuple[Tensor, Tensor]:
        weights, out, lses = of_rows(call, call.inputs["weights"]), None, []
        call = call._replace(inputs={name: x for name, x in call.inputs.items() if name != "weights"})
        for b, kernel in enumerate(self.parts.values()):
            result, lse = kernel.form.attend(call, backend)
            weight = weights[..., b, None]
            # autograd keeps `result` for the backward of the kernel anyway: weighing it here stores nothing more
            out = result * weight if out is None else out.addcmul_(result, weight)
            lses.append(lse)
        assert out is not None
        return out, torch.stack(lses, -1)
