"""Gated kernels: one softmax per branch, blended by weights given at call time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Never

import torch
from torch import Tensor

from pidsl.language.gate import Gate
from pidsl.runtime.call.arguments import check_flag, check_weights, raise_faults
from pidsl.runtime.call.keywords import refuse
from pidsl.runtime.call.parameters import check_parameters
from pidsl.runtime.kernels.kernel import Backend, Kernel, autocast, compile, present


class GateKernel:
    """A compiled `gate`. Made by `compile`; immutable, safe to call from several threads, picklable.

    Args:
        gate: the named patterns.
        kernels: one compiled kernel per branch, in order.

    Attributes:
        gate: the named patterns.
        kernels: the kernel of each branch, by name; each has its own plan and source.
        backend: as asked for.
        score: what happens to the logits of every branch, None for nothing.
    """

    def __init__(self, gate: Gate, kernels: Mapping[str, Kernel]) -> None:
        self.gate, self.kernels = gate, dict(kernels)
        first = next(iter(self.kernels.values()))
        self.backend: Backend = first.backend
        self.score = first.score
        self._rings = [term for kernel in self.kernels.values() for term in kernel.rings]
        self._where = f"kernel(q, k, v, weights) of {gate!r}"

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, weights: Any = None, *more: Never, scale: float | None = None,
        offset: int = 0, return_lse: bool = False, slopes: Tensor | None = None, bias: Tensor | None = None,
        sinks: Tensor | None = None, temperature: Tensor | None = None, seed: int | None = None, **unknown: Never,
    ) -> Any:  # fmt: skip
        """`sum over branches b of weights[..., b] * attention_b(q, k, v)`, differentiable once in all four.

        Args:
            q: queries [B, Hq, n, D], any strides.
            k: keys [B, Hkv, m, D].
            v: values [B, Hkv, m, Dv].
            weights: tensor [B, Hq, n, branches], of q's dtype and device, any strides; nothing is broadcast (use
                `expand`). The order of the branches is that of `gate.names`.
            scale: factor of the logits; default 1 / sqrt(D).
            offset: row r of q stands at position `i = r + offset`.
            return_lse: return (out, lse).
            slopes, bias, sinks, temperature, seed: what `score.parameters` names, shared by the branches: each has
                the sinks, and a pair that is in two of them is dropped in both or in neither.

        Returns:
            out [B, Hq, n, Dv] in q's dtype; with `return_lse` also the log-sum-exp of each branch
            [B, Hq, n, branches]. A branch without a key for a row adds 0 to it. Inside `torch.autocast` all four
            tensors are cast as `Kernel` casts its three.

        Raises:
            ArgumentError: shapes, dtypes, devices or numbers do not fit; all faults are named, nothing has run.
            KeywordError: an argument that the kernel does not take.
            BackendError: backend "triton" with tensors that are not on a GPU (and Triton is not interpreting).
        """
        if more or unknown:
            refuse(self.__call__, self._where, more, unknown)
        q, k, v, weights = autocast(q, k, v, weights)
        branches = list(self.kernels.values())
        call, faults, usable = branches[0].check(q, k, v, scale, offset, self._rings)
        if type(return_lse) is not bool:
            faults += check_flag("return_lse", return_lse)
        given = {"slopes": slopes, "bias": bias, "sinks": sinks, "temperature": temperature, "seed": seed}
        faults += check_parameters(self.score, branches[0].parameters, usable, given)
        raise_faults([*faults, *check_weights(usable, weights, self.gate.names)], self._where)
        inputs = present(given)
        out: Tensor | None = None
        lses = []
        for b, kernel in enumerate(branches):
            result, lse = kernel.attend(q, k, v, call, inputs)
            weight = weights[..., b, None]
            # autograd keeps `result` for the backward of the kernel anyway: weighing it here stores nothing more
            out = result * weight if out is None else out.addcmul_(result, weight)
            lses.append(lse)
        return (out, torch.stack(lses, -1)) if return_lse else out

    def source(self, head_dim: int = 64) -> str:
        """The generated programs of all branches, one after the other, under their names."""
        return "\n\n".join(f"# branch {name}\n{x.source(head_dim)}" for name, x in self.kernels.items())

    def explain(self) -> str:
        """The explanation of each branch's kernel, under its name."""
        return "\n\n".join(f"branch {name}\n{x.explain()}" for name, x in self.kernels.items())

    def __repr__(self) -> str:
        score = "" if self.score is None else f", score={self.score!r}"
        return f"pidsl.compile({self.gate!r}, backend={self.backend!r}{score})"

    def __reduce__(self) -> tuple[Any, ...]:
        return compile, (self.gate, self.backend, self.score)
