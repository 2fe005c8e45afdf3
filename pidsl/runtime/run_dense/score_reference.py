"""The reference for scored kernels: the definition over dense float64 scores, differentiated by torch's autograd.

Like `run_dense.reference` it shares nothing with the planner and the emitters, and no formula for a gradient but
those of its two products, which leave out the pairs that are masked: autograd's own would spread NaN from them.
"""

from __future__ import annotations

import inspect
import sys
from typing import Any

import torch
from torch import Tensor

from pidsl.language.score import Score
from pidsl.language.terms import Term
from pidsl.runtime.call.dropout import kept
from pidsl.runtime.call.parameters import PARAMETERS, ParameterGrads, Parameters
from pidsl.runtime.run_dense.reference import ReferenceProgram, _precise, accumulator, over_kept


class ScoredReference(ReferenceProgram):
    """Dense attention for one term and one score.

    Args:
        term: the pattern, without symbols.
        score: what happens to its logits.
    """

    def __init__(self, term: Term, score: Score) -> None:
        super().__init__(term)
        self.score = score

    @property
    def source(self) -> str:
        """This module: nothing is generated."""
        head = f"# pattern: {self.term!r}, dense under its mask\n# {self.score!r}\n"
        return head + inspect.getsource(sys.modules[__name__])

    def forward(  # type: ignore[override]
        self, q: Tensor, k: Tensor, v: Tensor, scale: float, offset: int, parameters: Parameters
    ) -> tuple[Tensor, Tensor]:
        """out [B, Hq, n, Dv] in q's dtype and lse [B, Hq, n] in float32 (float64 for float64)."""
        out = q.new_zeros(*q.shape[:3], v.shape[3])
        lse = torch.full(q.shape[:3], -torch.inf, dtype=accumulator(q.dtype), device=q.device)
        for rows, mask in self._chunks(q, k, offset):
            part, part_lse = self._attention(q[:, :, rows], k, v, mask, rows.start + offset, scale, parameters)
            out[:, :, rows], lse[:, :, rows] = part.to(q.dtype), part_lse.to(lse.dtype)
        return out, lse

    def backward(  # type: ignore[override]
        self, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, grad_out: Tensor, grad_lse: Tensor | None,
        scale: float, offset: int, parameters: Parameters, learned: bool,
    ) -> tuple[Tensor, Tensor, Tensor, ParameterGrads]:  # fmt: skip
        """The gradients of q, k, v and of the parameters; `out`, `lse` and `learned` are not used."""
        named = {"q": q, "k": k, "v": v}
        named |= {name: x for name, x in zip(PARAMETERS, parameters.tensors, strict=True) if x is not None}
        total = {name: torch.zeros(x.shape, dtype=_precise(q), device=q.device) for name, x in named.items()}
        for rows, mask in self._chunks(q, k, offset):
            with torch.enable_grad():
                leaves = {name: x.detach().to(_precise(q)).requires_grad_() for name, x in named.items()}
                slopes, bias, sinks, temperature = map(leaves.get, PARAMETERS)
                given = Parameters(slopes, bias, sinks, temperature, parameters.seed)
                part, part_lse = self._attention(
                    leaves["q"][:, :, rows], leaves["k"], leaves["v"], mask, rows.start + offset, scale, given
                )
            seeds = [torch.where(mask.any(1)[:, None], grad_out[:, :, rows].to(part.dtype), 0.0)]
            lost = part_lse == -torch.inf  # a row without keys
            seeds.append(torch.where(lost, 0.0, 0.0 if grad_lse is None else grad_lse[:, :, rows].to(part.dtype)))
            grads = torch.autograd.grad([part, part_lse], list(leaves.values()), seeds, materialize_grads=True)
            for name, grad in zip(leaves, grads, strict=True):
                total[name] += grad
        found = {name: grad.to(named[name].dtype) for name, grad in total.items()}
        slopes, bias, sinks, temperature = map(found.get, PARAMETERS)
        return found["q"], found["k"], found["v"], (slopes, bias, sinks, temperature)

    def _attention(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, first: int, scale: float, parameters: Parameters
    ) -> tuple[Tensor, Tensor]:
        """(out, lse) of rows at positions first, first + 1, ..."""
        dtype, (batch, heads, rows, _), keys = _precise(q), q.shape, k.shape[2]
        group = heads // k.shape[1]
        q = q.to(dtype)
        k, v = (x.to(dtype).repeat_interleave(group, 1) for x in (k, v))
        slopes, bias, sinks, temperature = (None if x is None else x.to(dtype) for x in parameters.tensors)
        i = torch.arange(first, first + rows, device=q.device)[:, None]
        j = torch.arange(keys, device=q.device)

        scores = _Scores.apply(q, k, mask) * scale  # type: ignore[no-untyped-call]
        if temperature is not None:
            scores = scores / temperature[:, None, None]
        if self.score.softcap is not None:
            scores = self.score.softcap * torch.tanh(scores / self.score.softcap)
        if slopes is not None:
            scores = scores - slopes[:, None, None] * (i - j).abs()
        if bias is not None and self.score.bias is not None:
            low, high = self.score.bias
            scores = scores + bias[:, (i - j).clamp(low, high) - low]
        scores = torch.where(mask, scores, -torch.inf)
        if sinks is not None:  # a key more, with value 0
            scores = torch.cat([scores, sinks[:, None, None].expand(batch, heads, rows, 1)], -1)
            v = torch.cat([v, v.new_zeros(*v.shape[:2], 1, v.shape[3])], 2)
            mask = torch.cat([mask, mask.new_ones(rows, 1)], 1)
        live = (scores != -torch.inf).any(-1, keepdim=True)
        scores = torch.where(live, scores, 0.0)
        lse = torch.where(live[..., 0], torch.logsumexp(scores, -1), -torch.inf)
        p = torch.where(live & mask, torch.softmax(scores, -1), 0.0)
        if self.score.dropout:
            head = torch.arange(batch * heads, device=q.device).view(batch, heads, 1, 1)
            keep = kept(parameters.seed, self.score.dropout, head, i, torch.arange(v.shape[2], device=q.device))
            p = torch.where(keep, p / (1 - self.score.dropout), 0.0)
        out: Tensor = _Weighed.apply(p, v, mask)  # type: ignore[no-untyped-call]
        return out, lse


class _Scores(torch.autograd.Function):
    """q @ k.mT on the pairs of a mask, 0 on the others."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(q, k, mask)
        return torch.where(mask, q @ k.mT, 0.0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        q, k, mask = ctx.saved_tensors
        grad = torch.where(mask, grad, 0.0)
        return over_kept(grad, k, mask), over_kept(grad.mT, q, mask.mT), None


class _Weighed(torch.autograd.Function):
    """p @ v over the pairs of a mask."""

    @staticmethod
    def forward(ctx: Any, p: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(p, v, mask)
        return over_kept(p, v, mask)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        p, v, mask = ctx.saved_tensors
        return torch.where(mask, grad @ v.mT, 0.0), over_kept(p.mT, grad, mask.mT), None
