"""A generated Triton program with a score: the launches of `pidsl.runtime.run_triton.program`, and the parameters."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pidsl.runtime.call.dropout import seed_key
from pidsl.runtime.call.logits import row_pull, sink_gradient, temperature_gradient
from pidsl.runtime.call.parameters import ParameterGrads, Parameters
from pidsl.runtime.run_triton.program import Launch, TritonProgram, _on


class ScoredTritonProgram(TritonProgram):
    """The kernels of a plan with a score, ready to call; see `pidsl.runtime.score_operator.ScoredProgram`.

    Args:
        plan: what to compute; may be None when `source` is given.
        source: the program, when it has been generated already.
    """

    parameters = Parameters()  # of one call; the copy that `given` makes has them

    def given(self, parameters: Parameters) -> ScoredTritonProgram:
        """The program with the parameters of a call."""
        call = copy.copy(self)
        call.parameters = parameters
        return call

    def forward(  # type: ignore[override]
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, offset: int, parameters: Parameters
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(out, lse); lse is the logarithm of the whole denominator."""
        self._check_device(q)
        if self._misread(q):
            out, lse = self.forward(q.float(), k.float(), v.float(), scale, offset, parameters)
            return out.to(q.dtype), lse
        with _on(q):
            launches, out, lse = self.given(parameters).forward_launches(q, k, v, scale, offset)
            for launch in launches:
                launch.run()
            return out.to(q.dtype), lse

    def backward(  # type: ignore[override]
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, lse: torch.Tensor,
        grad_out: torch.Tensor, grad_lse: torch.Tensor | None, scale: float, offset: int, parameters: Parameters,
        learned: bool,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, ParameterGrads]:  # fmt: skip
        """Gradients of q, k, v and the parameters; the same bits on every run."""
        self._check_device(q)
        if self._misread(q):
            dq, dk, dv, rest = self.backward(
                q.float(), k.float(), v.float(), out.float(), lse, grad_out.float(), grad_lse, scale, offset,
                parameters, learned,
            )  # fmt: skip
            return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), rest
        call = self.given(parameters)
        with _on(q):
            shared = call.backward_arguments(q, k, v, out, lse, grad_out, grad_lse, scale, offset)
            launches, dq, dk, dv = call.gradient_launches(shared, q, k, v)
            sums: list[tuple[torch.Tensor, torch.Tensor]] = []
            if learned:
                more, sums = call.score_launches(shared, q)
                launches += more
            for launch in launches:
                launch.run()
        dq, dk, dv = dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype)
        slopes, bias, sinks, temperature = parameters.tensors
        return (
            dq,
            dk,
            dv,
            (
                None if slopes is None or not learned else _added(slopes, [x for x, _ in sums]),
                None if bias is None or not learned else _added(bias, [x for _, x in sums]),
                None if sinks is None else sink_gradient(sinks, lse, row_pull(out, grad_out, grad_lse)),
                None if temperature is None else temperature_gradient(temperature, q, dq),
            ),
        )

    def score_launches(
        self, shared: Mapping[str, Any], q: torch.Tensor
    ) -> tuple[list[Launch], list[tuple[torch.Tensor, torch.Tensor]]]:
        """The kernels that sum what slopes and bias get, and per kernel the sums of each head's programs."""
        launches, sums = [], []
        bias = self.parameters.bias
        for stage in self._stages("GRAD_SCORE") if hasattr(self._module, "GRAD_SCORE") else ():
            launch = self._launch(stage, q, {**shared, "slope_sums": None, "bias_sums": None}, shared["offset"])
            shape = (q.shape[0], q.shape[1], launch.grid // max(1, q.shape[0] * q.shape[1]))
            slope_sums = q.new_zeros(shape, dtype=torch.float32)  # programs without rows write nothing
            bias_sums = q.new_zeros((*shape, 0 if bias is None else bias.shape[1]), dtype=torch.float32)
            made = {"slope_sums": slope_sums, "bias_sums": bias_sums}
            arguments = dict(launch.arguments)
            arguments |= {name: x for name, x in made.items() if name in arguments}
            launches.append(Launch(launch.kernel, launch.grid, arguments, launch.options))
            sums.append((slope_sums, bias_sums))
        return launches, sums

    def _shared_arguments(self, *arguments: Any) -> dict[str, Any]:
        key = seed_key(self.parameters.seed)
        tensors = self.parameters._asdict()
        return super()._shared_arguments(*arguments) | tensors | {"seed": key - 2**32 if key >= 2**31 else key}

    def _unseen(self, q: torch.Tensor) -> torch.Tensor:
        sinks = self.parameters.sinks
        if sinks is None:
            return super()._unseen(q)
        return sinks[:, None].expand(q.shape[:3]).clone(memory_format=torch.contiguous_format)  # kernels write to it


def _added(parameter: torch.Tensor, sums: Sequence[torch.Tensor]) -> torch.Tensor:
    """The gradient of a parameter: the sums of all programs, in a fixed order."""
    total = torch.zeros_like(parameter)
    for x in sums:
        total += x.sum((0, 2))
    return total
