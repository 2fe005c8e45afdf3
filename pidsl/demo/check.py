"""Kernels against dense attention in float64, forward and backward, beside torch's own error in the same dtype."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import pidsl
from pidsl.demo.measure import largest_error
from pidsl.language.gate import Gate
from pidsl.language.terms import Term

Attend = Callable[..., Tensor]


@dataclass(frozen=True, slots=True)
class Errors:
    """Largest absolute errors against float64, by tensor (out, dq, dk, dv, dweights)."""

    pidsl: Mapping[str, float]
    sdpa: Mapping[str, float]

    @property
    def worst_ratio(self) -> float:
        """The largest of pidsl's errors in units of SDPA's."""
        return max(self.pidsl[name] / max(self.sdpa[name], 1e-30) for name in self.pidsl)


def compare(pattern: Term | Gate, q: Tensor, k: Tensor, v: Tensor, weights: Tensor | None = None) -> Errors:
    """Errors of the compiled kernel and of SDPA under the same dense mask.

    Args:
        pattern: a term, or a gate with `weights`.
        q, k, v: [B, H, n, D], all of one dtype.
        weights: [B, H, n, branches] for a gate.
    """
    inputs = [q, k, v] if weights is None else [q, k, v, weights]
    masks = [mask_of(term, q) for term in _branches(pattern)]
    seed = torch.randn(v.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(v)
    exact = _run(
        lambda *x: _blend([_dense(mask, *x[:3]) for mask in masks], *x[3:]), [x.double() for x in inputs], seed
    )
    kernel = pidsl.compile(pattern)
    ours = _run(kernel, inputs, seed)
    theirs = _run(lambda *x: _blend([_sdpa(mask, *x[:3]) for mask in masks], *x[3:]), inputs, seed)
    names = ("out", "dq", "dk", "dv", "dweights")
    return Errors(
        {name: largest_error(x, e) for name, x, e in zip(names, ours, exact, strict=False)},
        {name: largest_error(x, e) for name, x, e in zip(names, theirs, exact, strict=False)},
    )


def mask_of(term: Term, q: Tensor) -> Tensor:
    """bool [n, n] on q's device, from the oracle."""
    return torch.from_numpy(term.mask(q.shape[2]).copy()).to(q.device)


def _branches(pattern: Term | Gate) -> list[Term]:
    return [term for _, term in pattern.branches] if isinstance(pattern, Gate) else [pattern]


def _blend(outs: list[Tensor], weights: Tensor | None = None) -> Tensor:
    if weights is None:
        return outs[0]
    return torch.stack(outs, dim=-1).mul(weights.unsqueeze(-2)).sum(-1)


def _dense(mask: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax by the formula; a row without keys gives 0."""
    dead = ~mask.any(-1, keepdim=True)
    scores = (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(~mask & ~dead, float("-inf"))
    return scores.softmax(-1).masked_fill(dead, 0.0) @ v


def _sdpa(mask: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """torch's attention; rows without keys are kept from it and give 0."""
    dead = ~mask.any(-1, keepdim=True)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask | dead).masked_fill(dead, 0.0)


def _run(attend: Attend, inputs: list[Tensor], seed: Tensor) -> list[Tensor]:
    """The output and the gradients of all inputs."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    out = attend(*leaves)
    out.backward(seed.to(out.dtype))
    return [out, *(x.grad for x in leaves if x.grad is not None)]
