"""Attention along isolated lags: rows of q against shifted rows of k, elementwise, no tiles.

Rows are taken in chunks that stay in the caches. Per chunk and lag: one product and one row sum give the scores, a
softmax over the lags and what the rows have seen before gives the weights, one multiply-add per lag the output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

CHUNK_ELEMENTS = 1 << 22  # elements of q in one chunk: 16 MiB in float32; each chunk is many barriers for the threads


@dataclass(frozen=True, slots=True)
class Lag:
    """Row r meets key r + offset - lag for first <= r <= last, where `keep` holds (None: everywhere)."""

    lag: int
    first: Callable[..., Any]
    last: Callable[..., Any]
    keep: Callable[..., Any] | None = None


@dataclass(frozen=True, slots=True)
class DiagonalSet:
    """The diagonals of one piece."""

    lags: tuple[Lag, ...]


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Rows [start, stop) of one lag inside a chunk; they meet the keys that start at `key`."""

    index: int
    start: int
    stop: int
    key: int
    kept: Tensor | None


def _stretches(which: DiagonalSet, n: int, m: int, offset: int, start: int, stop: int) -> Iterator[_Stretch]:
    sizes = dict(n=np.int64(n), m=np.int64(m), offset=np.int64(offset))
    for index, d in enumerate(which.lags):
        low = max(start, int(d.first(**sizes)), d.lag - offset)
        high = min(stop, int(d.last(**sizes)) + 1, m + d.lag - offset)
        if low >= high:
            continue
        kept = None
        if d.keep is not None:
            values = np.broadcast_to(d.keep(**sizes, r=np.arange(low, high, dtype=np.int64)), (high - low,))
            if not values.any():
                continue
            kept = None if values.all() else torch.from_numpy(np.array(values))
        yield _Stretch(index, low, high, low + offset - d.lag, kept)


class _Chunks:
    """Cuts `[B, Hq, n, ...]` tensors into (group member, rows) chunks shaped like the keys, `[B, Hkv, rows, ...]`."""

    def __init__(self, which: DiagonalSet, q: Tensor, k: Tensor, offset: int) -> None:
        self.which, self.offset = which, offset
        self.batch, self.heads, self.n, self.columns = q.shape
        self.kv_heads, self.m = k.shape[1], k.shape[2]
        self.group = self.heads // self.kv_heads if self.kv_heads else 0
        per_row = max(1, self.batch * self.kv_heads * self.columns)
        self.rows = min(self.n, max(1, CHUNK_ELEMENTS // per_row))
        self.product = q.new_empty((self.batch, self.kv_heads, self.rows, self.columns))

    def __iter__(self) -> Iterator[tuple[int, int, int, list[_Stretch]]]:
        if not self.batch * self.kv_heads:
            return
        for start in range(0, self.n, max(1, self.rows)):
            stop = min(start + self.rows, self.n)
            stretches = list(_stretches(self.which, self.n, self.m, self.offset, start, stop))
            if stretches:
                for member in range(self.group):
                    yield member, start, stop, stretches

    def rows_of(self, x: Tensor, member: int, start: int, stop: int) -> Tensor:
        return x[:, member :: self.group, start:stop]

    def dots(self, x: Tensor, y: Tensor, into: Tensor) -> None:
        """into[...] = the row sums of x * y."""
        product = self.product[:, :, : x.shape[2]]
        torch.mul(x, y, out=product)
        torch.sum(product, -1, out=into)

    def scores(
        self, q: Tensor, k: Tensor, scale: float, member: int, start: int, stop: int, stretches: list[_Stretch]
    ) -> Tensor:
        """scale * q . k along every stretch, `[stretches, B, Hkv, rows]`; -inf where there is no pair."""
        scores = q.new_empty((len(stretches), self.batch, self.kv_heads, stop - start))
        for x, s in zip(scores, stretches, strict=True):
            if s.stop - s.start < stop - start:
                x.fill_(-torch.inf)
            here = x[:, :, s.start - start : s.stop - start]
            self.dots(self.rows_of(q, member, s.start, s.stop), self.keys_of(k, s), here)
            here.mul_(scale)  # before the mask: -inf must stay -inf whatever the sign of the scale
            if s.kept is not None:
                here.masked_fill_(~s.kept.to(x.device), -torch.inf)
        return scores

    @staticmethod
    def keys_of(x: Tensor, s: _Stretch) -> Tensor:
        return x[:, :, s.key : s.key + s.stop - s.start]


def forward(
    which: DiagonalSet, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float, offset: int,
    started: bool,
) -> None:  # fmt: skip
    """Fold the diagonals into (out, lse), in place; `started`: they may already hold other keys."""
    chunks = _Chunks(which, q, k, offset)
    for member, start, stop, stretches in chunks:
        scores = chunks.scores(q, k, scale, member, start, stop, stretches)
        out_here, lse_here = (chunks.rows_of(x, member, start, stop) for x in (out, lse))
        total = torch.logsumexp(scores, 0)
        if started:
            total = torch.logaddexp(total, lse_here)
        finite = torch.where(total == -torch.inf, torch.inf, total)
        if started:
            out_here.mul_((lse_here - finite).exp_().unsqueeze(-1))
        lse_here.copy_(total)
        weights = scores.sub_(finite).exp_().unsqueeze(-1)
        for p, s in zip(weights, stretches, strict=True):
            rows = slice(s.start - start, s.stop - start)
            out_here[:, :, rows].addcmul_(chunks.keys_of(v, s), p[:, :, rows])


def backward(
    which: DiagonalSet, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, grad_out: Tensor,
    grads: tuple[Tensor, Tensor, Tensor], scale: float, offset: int,
) -> None:  # fmt: skip
    """Add the diagonals' part to grads = (dq, dk, dv), in place; `lse` is +inf for rows that saw no key."""
    dq, dk, dv = grads
    chunks = _Chunks(which, q, k, offset)
    for member, start, stop, stretches in chunks:
        weights = chunks.scores(q, k, scale, member, start, stop, stretches)
        weights.sub_(chunks.rows_of(lse, member, start, stop)).exp_()
        delta = weights.new_empty(weights.shape[1:])
        grad = weights.new_empty(weights.shape[1:])
        chunks.dots(chunks.rows_of(grad_out, member, start, stop), chunks.rows_of(out, member, start, stop), delta)
        for p, s in zip(weights, stretches, strict=True):
            rows = slice(s.start - start, s.stop - start)
            q_here, dq_here, grad_out_here = (
                chunks.rows_of(x, member, s.start, s.stop) for x in (q, dq, grad_out)
            )  # fmt: skip
            here, p_here = grad[:, :, rows], p[:, :, rows]
            chunks.dots(grad_out_here, chunks.keys_of(v, s), here)
            here.sub_(delta[:, :, rows]).mul_(p_here).mul_(scale)
            dq_here.addcmul_(chunks.keys_of(k, s), here.unsqueeze(-1))
            chunks.keys_of(dk, s).addcmul_(q_here, here.unsqueeze(-1))
            chunks.keys_of(dv, s).addcmul_(grad_out_here, p_here.unsqueeze(-1))
