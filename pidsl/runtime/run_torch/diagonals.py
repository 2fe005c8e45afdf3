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

from pidsl.runtime.run_torch.key_sums import KeySums

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

    def visited(self, n: int, m: int, offset: int) -> int:
        """Keys that rows meet along the lags."""
        return sum(s.stop - s.start for s in _stretches(self, n, m, offset, 0, n))


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


class Chunks:
    """Cuts `[B, Hq, n, ...]` tensors into (group member, rows) chunks shaped like the keys, `[B, Hkv, rows, ...]`.

    Args:
        which: the lags.
        q, k, scale, offset: those of the pass.
        exact: keep rows that do not have a lag out of every product with it; else NaN marks that there was any.
        fit: brings keys and values into the form of q.
    """

    def __init__(
        self, which: DiagonalSet, q: Tensor, k: Tensor, scale: float, offset: int, exact: bool,
        fit: Callable[[Tensor], Tensor],
    ) -> None:  # fmt: skip
        self.which, self.q, self.k, self.scale, self.offset, self.exact = which, q, k, scale, offset, exact
        self.fit = fit
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

    def scores(self, member: int, start: int, stop: int, stretches: list[_Stretch]) -> Tensor:
        """scale * q . k along every stretch, `[stretches, B, Hkv, rows]`; -inf where there is no pair."""
        scores = self.q.new_empty((len(stretches), self.batch, self.kv_heads, stop - start))
        for x, s in zip(scores, stretches, strict=True):
            if s.stop - s.start < stop - start:
                x.fill_(-torch.inf)
            here = x[:, :, s.start - start : s.stop - start]
            self.dots(self.rows_of(self.q, member, s.start, s.stop), self.keys_of(self.k, s), here)
            here.mul_(self.scale)  # before the mask: -inf must stay -inf whatever the sign of the scale
            if s.kept is not None and self.exact:
                here.masked_fill_(~s.kept.to(x.device), -torch.inf)
            elif s.kept is not None:
                here.add_(torch.where(s.kept, 0.0, -torch.inf))
        return scores

    def keys_of(self, x: Tensor, s: _Stretch) -> Tensor:
        """The keys or values that a stretch meets."""
        return self.fit(x[:, :, s.key : s.key + s.stop - s.start])

    def only(self, x: Tensor, s: _Stretch) -> Tensor:
        """x `[B, Hkv, rows]` or `[B, Hkv, rows, D]` of a stretch, 0 in rows without the lag where that is asked for."""
        if s.kept is None or not self.exact:
            return x
        kept = s.kept.to(x.device)
        return torch.where(kept if x.ndim == 3 else kept[:, None], x, 0.0)


def forward(chunks: Chunks, v: Tensor, out: Tensor, lse: Tensor, started: bool) -> None:
    """Fold the diagonals into (out, lse), in place; `started`: they may already hold other keys."""
    for member, start, stop, stretches in chunks:
        scores = chunks.scores(member, start, stop, stretches)
        out_here, lse_here = (chunks.rows_of(x, member, start, stop) for x in (out, lse))
        weights = absorb(scores, out_here, lse_here, started).unsqueeze(-1)
        for p, s in zip(weights, stretches, strict=True):
            rows = slice(s.start - start, s.stop - start)
            out_here[:, :, rows].addcmul_(chunks.only(chunks.keys_of(v, s), s), p[:, :, rows])


def absorb(scores: Tensor, out: Tensor, lse: Tensor, started: bool) -> Tensor:
    """The weights of scores `[lags, ...]`; lse gets them, and out fades, in place."""
    total = torch.logsumexp(scores, 0)
    if started:
        total = torch.logaddexp(total, lse)
    finite = torch.where(total == -torch.inf, torch.inf, total)
    if started:
        out.mul_((lse - finite).exp_().unsqueeze(-1))
    lse.copy_(total)
    return scores.sub_(finite).exp_()


def backward(
    chunks: Chunks, v: Tensor, out: Tensor, lse: Tensor, grad_out: Tensor, grads: tuple[Tensor, KeySums, KeySums]
) -> None:
    """Add the diagonals' part to grads = (dq, dk, dv), in place; `lse` is +inf for rows that saw no key."""
    dq, dk, dv = grads
    for member, start, stop, stretches in chunks:
        weights = chunks.scores(member, start, stop, stretches)
        weights.sub_(chunks.rows_of(lse, member, start, stop)).exp_()
        delta = weights.new_empty(weights.shape[1:])
        grad = weights.new_empty(weights.shape[1:])
        chunks.dots(chunks.rows_of(grad_out, member, start, stop), chunks.rows_of(out, member, start, stop), delta)
        for p, s in zip(weights, stretches, strict=True):
            rows = slice(s.start - start, s.stop - start)
            here = grad[:, :, rows]
            chunks.dots(chunks.rows_of(grad_out, member, s.start, s.stop), chunks.keys_of(v, s), here)
            here.sub_(delta[:, :, rows]).mul_(p[:, :, rows]).mul_(chunks.scale)
            spread(chunks, member, s, here, p[:, :, rows], grad_out, dq, dk, dv)


def spread(
    chunks: Chunks, member: int, s: _Stretch, ds: Tensor, p: Tensor, grad_out: Tensor, dq: Tensor, dk: KeySums,
    dv: KeySums,
) -> None:  # fmt: skip
    """Add what a stretch with weights p and gradients ds of its logits, `[B, Hkv, rows]`, adds to dq, dk and dv."""
    ds, p = (chunks.only(x, s).unsqueeze(-1) for x in (ds, p))
    q, dq, grad_out = (chunks.rows_of(x, member, s.start, s.stop) for x in (chunks.q, dq, grad_out))
    stop = s.key + s.stop - s.start
    dq.addcmul_(chunks.only(chunks.keys_of(chunks.k, s), s), ds)
    dk.rows(s.key, stop).addcmul_(chunks.only(q, s), ds)
    dv.rows(s.key, stop).addcmul_(chunks.only(grad_out, s), p)
