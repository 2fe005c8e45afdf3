"""Attention along isolated lags with a score: `pidsl.runtime.run_torch.diagonals`, with the lag known and constant.

The tensors of a chunk are `[lags, B, Hkv, rows]`; seen as tiles they have one row of pairs per lag.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pidsl.runtime.call.logits import Place, TileScore
from pidsl.runtime.run_torch.diagonals import Chunks, _Stretch, absorb, spread
from pidsl.runtime.run_torch.key_sums import KeySums


def _place(c: Chunks, member: int, start: int, stop: int, stretches: list[_Stretch]) -> Place:
    """Positions and heads of the pairs of a chunk, as `[lags, B, Hkv, rows]`."""
    device = c.q.device
    i = torch.arange(c.offset + start, c.offset + stop, device=device)
    lags = torch.tensor([c.which.lags[s.index].lag for s in stretches], device=device)
    head = torch.arange(member, c.heads, c.group, device=device)[:, None]
    stream = torch.arange(c.batch, device=device)[:, None, None] * c.heads + head
    return Place(i, i - lags[:, None, None, None], head, stream)


def forward(chunks: Chunks, v: Tensor, out: Tensor, lse: Tensor, started: bool, score: TileScore) -> None:
    """Fold the diagonals into (out, lse), in place; `started`: they may already hold other keys."""
    for member, start, stop, stretches in chunks:
        place = _place(chunks, member, start, stop, stretches)
        scores, _ = _scored(score, chunks.scores(member, start, stop, stretches), place)
        out_here, lse_here = (chunks.rows_of(x, member, start, stop) for x in (out, lse))
        weights = score.dropped(absorb(scores, out_here, lse_here, started), place).unsqueeze(-1)
        for p, s in zip(weights, stretches, strict=True):
            rows = slice(s.start - start, s.stop - start)
            out_here[:, :, rows].addcmul_(chunks.only(chunks.keys_of(v, s), s), p[:, :, rows])


def backward(
    chunks: Chunks, v: Tensor, out: Tensor, lse: Tensor, grad_out: Tensor, grads: tuple[Tensor, KeySums, KeySums],
    score: TileScore, learned: bool,
) -> None:  # fmt: skip
    """Add the diagonals' part to grads = (dq, dk, dv), in place; `lse` is +inf for rows that saw no key."""
    for member, start, stop, stretches in chunks:
        place = _place(chunks, member, start, stop, stretches)
        scores, slope = _scored(score, chunks.scores(member, start, stop, stretches), place)
        p = scores.sub_(chunks.rows_of(lse, member, start, stop)).exp_()
        delta = p.new_empty(p.shape[1:])
        chunks.dots(chunks.rows_of(grad_out, member, start, stop), chunks.rows_of(out, member, start, stop), delta)
        ds = torch.zeros_like(p)
        for x, s in zip(ds, stretches, strict=True):
            here = x[:, :, s.start - start : s.stop - start]
            chunks.dots(chunks.rows_of(grad_out, member, s.start, s.stop), chunks.keys_of(v, s), here)
        ds = score.dropped(ds, place).sub_(delta).mul_(p)
        if learned:
            score.learn(_pairs(chunks, ds, start, stretches), place)
        if slope is not None:
            ds.mul_(slope)
        ds.mul_(chunks.scale)
        weights = score.dropped(p, place)
        for x, y, s in zip(ds, weights, stretches, strict=True):
            rows = slice(s.start - start, s.stop - start)
            spread(chunks, member, s, x[:, :, rows], y[:, :, rows], grad_out, *grads)


def _pairs(chunks: Chunks, ds: Tensor, start: int, stretches: list[_Stretch]) -> Tensor:
    """ds of a chunk, 0 where there is no pair: NaN may be there."""
    found = torch.zeros_like(ds)
    for x, y, s in zip(found, ds, stretches, strict=True):
        rows = slice(s.start - start, s.stop - start)
        x[:, :, rows] = chunks.only(y[:, :, rows], s)
    return found


def _scored(score: TileScore, raw: Tensor, place: Place) -> tuple[Tensor, Tensor | None]:
    """The final logits and their derivative by the raw ones; -inf stays -inf."""
    s, slope = score.capped(raw)
    added = score.added(place)
    return s if added is None else s.add_(added), slope
