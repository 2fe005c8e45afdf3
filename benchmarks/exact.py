"""Errors against float64, on sampled rows: exact attention of these rows, and the gradients that flow from them."""

from __future__ import annotations

import torch
from cases import Case
from sides import Attend
from torch import Tensor

from pidsl.demo.measure import largest_error

ROWS = 48


def sample_errors(case: Case, attend: Attend, q: Tensor, k: Tensor, v: Tensor, *, gradients: bool) -> dict[str, float]:
    """Largest error of the output on the rows and, with gradients, of dq, dk and dv of a loss over these rows."""
    n, m = q.shape[2], k.shape[2]
    generator = torch.Generator().manual_seed(1)
    rows = torch.randint(n, (ROWS,), generator=generator)
    rows = torch.cat([rows, torch.tensor([0, n // 2, n - 1])]).unique().to(q.device)
    mask = case.attends(rows[:, None], torch.arange(m, device=q.device)[None, :], n)
    exact_leaves = [x.detach().double().requires_grad_() for x in (q, k, v)]
    exact = _attention(exact_leaves[0][:, :, rows], exact_leaves[1], exact_leaves[2], mask)
    seed = torch.randn(exact.shape, generator=generator, dtype=torch.float64).to(q)
    if not gradients:
        with torch.no_grad():
            return {"out": largest_error(attend(q, k, v)[:, :, rows], exact)}
    leaves = [x.detach().clone().requires_grad_() for x in (q, k, v)]
    out = attend(*leaves)
    out[:, :, rows].backward(seed)
    exact.backward(seed.double())
    errors = {"out": largest_error(out[:, :, rows], exact)}
    for name, got, want in zip(("dq", "dk", "dv"), leaves, exact_leaves, strict=True):
        assert got.grad is not None and want.grad is not None
        errors[name] = largest_error(got.grad, want.grad)
    return errors


def _attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the keys of each row; a row without keys gives 0."""
    scores = (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(~mask, float("-inf"))
    dead = ~mask.any(-1)[:, None]
    return scores.masked_fill(dead, 0.0).softmax(-1).masked_fill(dead, 0.0) @ v
