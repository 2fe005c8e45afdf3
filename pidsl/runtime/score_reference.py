"""The reference for scored kernels: the definition over dense float64 scores, differentiated by torch's autograd.

Like `pidsl.runtime.reference` it shares nothing with the planner and the emitters, and no formula for a gradient.
"""

from __future__ import annotations

import inspect
import sys

import torch
from torch import Tensor

from pidsl.language.score import Score
from pidsl.language.terms import Term
from pidsl.runtime.dropout import kept
from pidsl.runtime.reference import ReferenceProgram, _precise, accumulator
from pidsl.runtime.score_arguments import PARAMETERS, ParameterGrads, Parameters


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
                loss = (part * torch.where(mask.any(1)[:, None], grad_out[:, :, rows].to(part.dtype), 0.0)).sum()
                if grad_lse is not None:
                    loss = loss + torch.where(part_lse.isfinite(), part_lse * grad_lse[:, :, rows], 0.0).sum()
            grads = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
            for name, grad in zip(leaves, grads, strict=True):
                total[name] += grad
        found = {name: grad.to(named[name].dtype) for name, grad in total.items()}
        slopes, bias, sinks, temperature = map(found.get, PARAMETERS)
        return found["q"], found["k"], found["v"], (slopes, bias, sinks, temperature)

    def _attention(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, first: int, scale: float, parameters: Parameters
    ) -> tuple[Tensor, Tensor]:
        """(out, lse) of rows at positions first, first + 1, ...; what no pair needs is blanked: 0 * NaN is NaN."""
        dtype, (batch, heads, rows, _), keys = _precise(q), q.shape, k.shape[2]
        group = heads // k.shape[1]
        q = torch.where(mask.any(1)[:, None], q.to(dtype), 0.0)
        k, v = (
            torch.where(mask.any(0)[:, None], x.to(dtype), 0.0).repeat_interleave(group, 1) for x in (k, v)
        )  # fmt: skip
        slopes, bias, sinks, temperature = (None if x is None else x.to(dtype) for x in parameters.tensors)
        i = torch.arange(first, first + rows, device=q.device)[:, None]
        j = torch.arange(keys, device=q.device)

        scores = q @ k.mT * scale
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
        live = (scores > -torch.inf).any(-1, keepdim=True)
        scores = torch.where(live, scores, 0.0)
        lse = torch.where(live[..., 0], torch.logsumexp(scores, -1), -torch.inf)
        p = torch.where(live, torch.softmax(scores, -1), 0.0)
        if self.score.dropout:
            head = torch.arange(batch * heads, device=q.device).view(batch, heads, 1, 1)
            keep = kept(parameters.seed, self.score.dropout, head, i, torch.arange(v.shape[2], device=q.device))
            p = torch.where(keep, p / (1 - self.score.dropout), 0.0)
        return p @ v, lse
