"""The reference backend: dense attention under the oracle's mask, slow and obvious, to judge the others by.

    s_ij = scale * q_i . k_j    on attended pairs
    lse_i = log sum_j exp(s_ij),    p_ij = exp(s_ij - lse_i),    out_i = sum_j p_ij v_j

It shares no code with the planner or the emitters. Rows are computed in chunks; each chunk holds its dense scores.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from pidsl.language.terms import Term
from pidsl.relation.oracle import table

SCORES_AT_ONCE = 1 << 24  # elements of the score matrix that one chunk of rows may have


class ReferenceProgram:
    """Dense attention for one term; see `pidsl.runtime.programs.Program` for the calls.

    Args:
        term: the pattern, without symbols.
    """

    def __init__(self, term: Term) -> None:
        self.term = term

    @property
    def source(self) -> str:
        """This module: the reference reads the mask from the oracle, nothing is generated."""
        return f"# pattern: {self.term!r}, dense under its mask\n{inspect.getsource(sys.modules[__name__])}"

    def forward(self, q: Tensor, k: Tensor, v: Tensor, scale: float, offset: int) -> tuple[Tensor, Tensor]:
        """out [B, Hq, n, Dv] in q's dtype and lse [B, Hq, n] in float32 (float64 for float64)."""
        batch, heads, n, _ = q.shape
        out = q.new_zeros(batch, heads, n, v.shape[3])
        lse = torch.full((batch, heads, n), -torch.inf, dtype=accumulator(q.dtype), device=q.device)
        for rows, mask in self._chunks(q, k, offset):
            chunk = _Chunk(q[:, :, rows], k, v, mask, scale)
            out[:, :, rows] = over_kept(chunk.p, chunk.v, mask).to(q.dtype)
            lse[:, :, rows] = chunk.lse
        return out, lse

    def backward(
        self, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, grad_out: Tensor, grad_lse: Tensor | None,
        scale: float, offset: int,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """The gradients of q, k and v by the formula; the softmax is computed again, `out` and `lse` are not used.

        ds_ij = p_ij (dp_ij - sum_j p_ij dp_ij + dlse_i),   dp_ij = dout_i . v_j
        """
        dq, dk, dv = (torch.zeros(x.shape, dtype=_precise(q), device=q.device) for x in (q, k, v))
        for rows, mask in self._chunks(q, k, offset):
            chunk = _Chunk(q[:, :, rows], k, v, mask, scale)
            do = grad_out[:, :, rows].to(dq.dtype)
            dp = torch.where(mask, do @ chunk.v.mT, 0.0)
            ds = dp - (chunk.p * dp).sum(-1, keepdim=True)
            if grad_lse is not None:
                ds = ds + grad_lse[:, :, rows, None]
            ds = torch.where(mask, chunk.p * ds, 0.0) * scale
            dq[:, :, rows] = over_kept(ds, chunk.k, mask)
            dk += _sum_groups(over_kept(ds.mT, chunk.q, mask.mT), k.shape[1])
            dv += _sum_groups(over_kept(chunk.p.mT, do, mask.mT), k.shape[1])
        return dq.to(q.dtype), dk.to(q.dtype), dv.to(q.dtype)

    def _chunks(self, q: Tensor, k: Tensor, offset: int) -> Iterator[tuple[slice, Tensor]]:
        """Slices of rows, each with its mask [rows, m]."""
        batch, heads, n, _ = q.shape
        m = k.shape[2]
        height = max(1, SCORES_AT_ONCE // max(1, batch * heads * m))
        for start in range(0, n, height):
            stop = min(start + height, n)
            mask = table(self.term, np.arange(offset + start, offset + stop), np.arange(m), offset + n, m)
            yield slice(start, stop), torch.from_numpy(np.ascontiguousarray(mask)).to(q.device)


class _Chunk:
    """The softmax of some rows."""

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> None:
        dtype, group = _precise(q), q.shape[1] // k.shape[1]
        self.q = q.to(dtype)
        self.k, self.v = (x.to(dtype).repeat_interleave(group, 1) for x in (k, v))
        scores = torch.where(mask, self.q @ self.k.mT * scale, -torch.inf)
        self.lse = torch.logsumexp(scores, -1)
        self.p = torch.where(mask, torch.softmax(torch.where(mask.any(1)[:, None], scores, 0.0), -1), 0.0)


def over_kept(weights: Tensor, x: Tensor, kept: Tensor | None) -> Tensor:
    """weights @ x over the pairs in `kept` alone: what is not finite reaches no sum that it takes no part in.

    Args:
        weights: `[..., rows, keys]`, 0 outside of `kept`.
        x: `[..., keys, columns]`.
        kept: `[..., rows, keys]`; None for all.
    """
    if kept is None:
        return torch.matmul(weights, x)
    if x.device.type == "cpu" and math.isfinite(x.sum().item()):  # elsewhere, asking would wait for the device
        return torch.matmul(weights, x)
    finite = x.isfinite()
    total = torch.matmul(weights, torch.where(finite, x, 0.0))
    up, down = ~(x < torch.inf), ~(x > -torch.inf)  # NaN is both, and inf - inf is NaN
    reached = torch.matmul(kept.to(x.dtype), torch.cat([up, down], -1).to(x.dtype)) > 0
    up, down = reached.chunk(2, -1)
    return total + torch.where(up, torch.inf, 0.0) - torch.where(down, torch.inf, 0.0)


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """What sums are accumulated in, and the dtype of lse: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _precise(x: Tensor) -> torch.dtype:
    """What the reference computes in: float64 where the device has it. It judges others, so its own error is small."""
    return torch.float32 if x.device.type == "mps" else torch.float64


def _sum_groups(grad: Tensor, kv_heads: int) -> Tensor:
    """[B, Hq, m, D] -> [B, Hkv, m, D]: query heads that share a key head add up."""
    return grad.unflatten(1, (kv_heads, grad.shape[1] // kv_heads)).sum(2)
