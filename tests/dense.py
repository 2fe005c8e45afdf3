"""Dense attention in float64 by the definition, with autograd: what every kernel is compared with."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from pidsl import Term


def mask_of(term: Term, q: Tensor, k: Tensor, offset: int = 0) -> Tensor:
    return torch.from_numpy(term.mask(q.shape[2], k.shape[2], offset).copy())


def dense(
    term: Term, q: Tensor, k: Tensor, v: Tensor, scale: float | None = None, offset: int = 0
) -> tuple[Tensor, Tensor]:
    """(out, lse) in float64."""
    mask, group = mask_of(term, q, k, offset), max(1, q.shape[1] // max(1, k.shape[1]))
    q, k, v = q.double(), k.double(), v.double()
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = (q @ k.mT * (q.shape[3] ** -0.5 if scale is None else scale)).masked_fill(~mask, -torch.inf)
    live = mask.any(1)[:, None]
    p = torch.softmax(scores.masked_fill(~live, 0.0), -1).masked_fill(~live, 0.0)
    return p @ v, torch.logsumexp(scores, -1)


def gradients(outputs: list[Tensor], inputs: list[Tensor], seeds: list[Tensor]) -> list[Tensor]:
    """Vector-Jacobian products, zeros where nothing is connected."""
    grads = torch.autograd.grad(
        outputs, inputs, [s.to(o.dtype) for s, o in zip(seeds, outputs, strict=True)], materialize_grads=True
    )
    return list(grads)


def sdpa(term: Term, q: Tensor, k: Tensor, v: Tensor, offset: int = 0) -> Tensor:
    """Torch's own attention in the dtype of q, rows without keys set to 0."""
    mask = mask_of(term, q, k, offset)
    live = mask.any(1)[:, None]
    out = scaled_dot_product_attention(q, k, v, attn_mask=mask | ~live, enable_gqa=q.shape[1] != k.shape[1])
    return torch.where(live, out, 0.0)


def tensors(
    n: int, m: int, d: int = 16, dv: int = 16, heads: int = 2, kv_heads: int = 2, batch: int = 1,
    dtype: torch.dtype = torch.float32, seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """q, k, v of standard normal numbers."""
    made = torch.Generator().manual_seed(seed)
    q = torch.randn(batch, heads, n, d, generator=made, dtype=torch.float64)
    k = torch.randn(batch, kv_heads, m, d, generator=made, dtype=torch.float64)
    v = torch.randn(batch, kv_heads, m, dv, generator=made, dtype=torch.float64)
    return q.to(dtype), k.to(dtype), v.to(dtype)
