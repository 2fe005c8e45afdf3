"""Attention along isolated lags with a score: `pidsl.runtime.diagonal_ops`, with the lag known and constant.

The tensors of a chunk are `[lags, B, Hkv, rows]`; seen as tiles they have one row of pairs per lag.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pidsl.runtime.diagonal_ops import DiagonalSet, _Chunks, _Stretch
from pidsl.runtime.score_ops import Place, TileScore


class _Where:
    """Positions and heads of the pairs of a chunk, as `[lags, B, Hkv, rows]`."""

    def __init__(self, which: DiagonalSet, chunks: _Chunks, device: torch.device) -> None:
        self.which, self.chunks, self.device = which, chunks, device

    def place(self, member: int, start: int, stop: int, stretches: list[_Stretch]) -> Place:
        c = self.chunks
        i = torch.arange(c.offset + start, c.offset + stop, device=self.device)
        lags = torch.tensor([self.which.lags[s.index].lag for s in stretches], device=self.device)
        head = torch.arange(member, c.heads, c.group, device=self.device)[:, None]
        stream = torch.arange(c.batch, device=self.device)[:, None, None] * c.heads + head
        return Place(i, i - lags[:, None, None, None], head, stream)


def forward(
    which: DiagonalSet, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float, offset: int,
    started: bool, score: TileScore,
) -> None:  # fmt: skip
    """Fold the diagonals into (out, lse), in place; `started`: they may already hold other keys."""
    chunks = _Chunks(which, q, k, offset)
    where = _Where(which, chunks, q.device)
    for member, start, stop, stretches in chunks:
        place = where.place(member, start, stop, stretches)
        scores, _ = _scored(score, chunks.scores(q, k, scale, member, start, stop, stretches), place)
        out_here, lse_here = (chunks.rows_of(x, member, start, stop) for x in (out, lse))
        total = torch.logsumexp(scores, 0)
        if started:
            total = torch.logaddexp(total, lse_here)
        finite = torch.where(total == -torch.inf, torch.inf, total)
        if started:
            out_here.mul_((lse_here - finite).exp_().unsqueeze(-1))
        lse_here.copy_(total)
        weights = score.dropped(scores.sub_(finite).exp_(), place).unsqueeze(-1)
        for p, s in zip(weights, stretches, strict=True):
            rows = slice(s.start - start, s.stop - start)
            out_here[:, :, rows].addcmul_(chunks.keys_of(v, s), p[:, :, rows])


def backward(
    which: DiagonalSet, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, grad_out: Tensor,
    grads: tuple[Tensor, Tensor, Tensor], scale: float, offset: int, score: TileScore, learned: bool,
) -> None:  # fmt: skip
    """Add the diagonals' part to grads = (dq, dk, dv), in place; `lse` is +inf for rows that saw no key."""
    dq, dk, dv = grads
    chunks = _Chunks(which, q, k, offset)
    where = _Where(which, chunks, q.device)
    for member, start, stop, stretches in chunks:
        place = where.place(member, start, stop, stretches)
        scores, slope = _scored(score, chunks.scores(q, k, scale, member, start, stop, stretches), place)
        p = scores.sub_(chunks.rows_of(lse, member, start, stop)).exp_()
        delta = p.new_empty(p.shape[1:])
        chunks.dots(chunks.rows_of(grad_out, member, start, stop), chunks.rows_of(out, member, start, stop), delta)
        ds = torch.zeros_like(p)
        for x, s in zip(ds, stretches, strict=True):
            here = x[:, :, s.start - start : s.stop - start]
            chunks.dots(chunks.rows_of(grad_out, member, s.start, s.stop), chunks.keys_of(v, s), here)
        ds = score.dropped(ds, place).sub_(delta).mul_(p)
        if learned:
            score.learn(ds, place)
        if slope is not None:
            ds.mul_(slope)
        ds.mul_(scale)
        weights = score.dropped(p, place)
        for x, y, s in zip(ds, weights, stretches, strict=True):
            rows = slice(s.start - start, s.stop - start)
            q_here, dq_here, grad_out_here = (
                chunks.rows_of(z, member, s.start, s.stop) for z in (q, dq, grad_out)
            )  # fmt: skip
            here, p_here = x[:, :, rows].unsqueeze(-1), y[:, :, rows].unsqueeze(-1)
            dq_here.addcmul_(chunks.keys_of(k, s), here)
            chunks.keys_of(dk, s).addcmul_(q_here, here)
            chunks.keys_of(dv, s).addcmul_(grad_out_here, p_here)


def _scored(score: TileScore, raw: Tensor, place: Place) -> tuple[Tensor, Tensor | None]:
    """The final logits and their derivative by the raw ones; -inf stays -inf."""
    s, slope = score.capped(raw)
    added = score.added(place)
    return s if added is None else s.add_(added), slope
