"""A plan as a loaded torch program."""

from __future__ import annotations

import linecache
from types import ModuleType
from typing import TYPE_CHECKING
from zlib import crc32

from torch import Tensor

from pidsl.runtime.call.call import Call, Positions

if TYPE_CHECKING:
    from pidsl.codegen.plan.nodes import Plan
    from pidsl.runtime.call.parameters import ParameterGrads, Parameters


class TorchProgram:
    """The generated torch program of a plan, ready to run on any device.

    Args:
        plan: what to compute; its sweeps have key tiles of one column.
        source: the program's text, generated from the plan when None.

    Attributes:
        plan: the plan.
        source: the program's text.
        module: the loaded program.
    """

    def __init__(self, plan: Plan, source: str | None = None) -> None:
        from pidsl.codegen.emit_torch.source import torch_source

        self.plan = plan
        self.source = torch_source(plan) if source is None else source
        self.module = _load(self.source)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, scale: float, offset: int) -> tuple[Tensor, Tensor]:
        """Attention; see `pidsl.runtime.programs.Program`."""
        return self.module.forward(Call(q, k, v, scale, Positions(offset), {}))

    def backward(
        self, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, grad_out: Tensor, grad_lse: Tensor | None,
        scale: float, offset: int,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """Gradients of q, k and v, given what `forward` took and returned."""
        call = Call(q, k, v, scale, Positions(offset), {})
        return self.module.backward(call, out, lse, grad_out, grad_lse, False)[:3]


class ScoredTorchProgram(TorchProgram):
    """The generated torch program of a plan with a score: `TorchProgram`, whose calls take parameters too."""

    def forward(  # type: ignore[override]
        self, q: Tensor, k: Tensor, v: Tensor, scale: float, offset: int, parameters: Parameters
    ) -> tuple[Tensor, Tensor]:
        """Attention; see `pidsl.runtime.score_operator.ScoredProgram`."""
        return self.module.forward(Call(q, k, v, scale, Positions(offset), parameters._asdict()))

    def backward(  # type: ignore[override]
        self, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, grad_out: Tensor, grad_lse: Tensor | None,
        scale: float, offset: int, parameters: Parameters, learned: bool,
    ) -> tuple[Tensor, Tensor, Tensor, ParameterGrads]:  # fmt: skip
        """Gradients of q, k, v and the parameters; see `pidsl.runtime.score_operator.ScoredProgram`."""
        call = Call(q, k, v, scale, Positions(offset), parameters._asdict())
        dq, dk, dv, others = self.module.backward(call, out, lse, grad_out, grad_lse, learned)
        return dq, dk, dv, tuple(map(others.get, ("slopes", "bias", "sinks", "temperature")))


def _load(source: str) -> ModuleType:
    name = f"pidsl_torch_program_{crc32(source.encode()):08x}"
    filename = f"<{name}>"
    module = ModuleType(name)
    exec(compile(source, filename, "exec"), module.__dict__)
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)  # for tracebacks
    return module
