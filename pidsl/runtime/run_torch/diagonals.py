"""Attention along isolated lags: rows of q against shifted rows of k, elementwise, no tiles.

Rows are taken in chunks that stay in the caches. Per chunk and lag: one product and one row sum give the scores, a
softmax over the lags and what the rows have seen before gives the weights, one multiply-add per lag the output. The
tensors of a chunk are `[lags, B, Hkv, rows]`; what a score sees are tiles with one row of pairs per lag.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pidsl.runtime.call.logits import NOWHERE, Place, Rates
from pidsl.runtime.run_torch.tile_ops import seen
from pidsl.runtime.run_torch.tiles import distinct
from pidsl.runtime.run_torch.walks import Bound, Operands, Schedule, Segment, Sizes, Walk

CHUNK_ELEMENTS = 1 << 22  # elements of q in one chunk: 16 MiB in float32; each chunk is many barriers for the threads


@dataclass(frozen=True, slots=True)
class Lag:
    """Row r meets position r + offset - lag for first <= r <= last, where `keep` holds (None: everywhere)."""

    lag: int
    first: Bound
    last: Bound
    keep: Bound | None = None


@dataclass(slots=True, eq=False, kw_only=True)
class Stretch(Segment):
    """Rows [start, stop) of one lag; they meet the keys that start at `key`, where `kept` (None: everywhere)."""

    of: Lag
    start: int
    stop: int
    key: int
    kept: Tensor | None = None

    def within(self, start: int, stop: int, sizes: Sizes) -> Stretch | None:
        """The part of it in a chunk of rows."""
        low, high = max(start, self.start), min(stop, self.stop)
        if low >= high:
            return None
        part = Stretch(visited=high - low, of=self.of, start=low, stop=high, key=self.key + low - self.start)
        if self.of.keep is not None:
            found = self.of.keep(**sizes.names, r=np.arange(low, high, dtype=np.int64))
            values = np.array(np.broadcast_to(found, (high - low,)))
            if not values.any():
                return None
            part.kept = None if values.all() else torch.from_numpy(values)
        return part


@dataclass(frozen=True, slots=True)
class DiagonalSet(Walk[Stretch]):
    """The diagonals of one piece."""

    lags: tuple[Lag, ...]

    def cut(self, sizes: Sizes) -> Iterator[Stretch]:
        """The rows of every lag."""
        for d in self.lags:
            key = sizes.offset - sizes.key_offset - d.lag  # of row 0
            low = max(0, int(d.first(**sizes.names)), -key)
            high = min(sizes.n, int(d.last(**sizes.names)) + 1, sizes.m - key)
            if low < high:
                yield Stretch(visited=high - low, of=d, start=low, stop=high, key=low + key)


@dataclass(slots=True, eq=False)
class Chunk:
    """Rows [start, stop) of one query head of every group, shaped like the keys, and the lags that they have.

    Where the pass is `exact`, rows that do not have a lag are kept out of every product with it; else NaN marks that
    there was any.
    """

    given: Operands
    member: int  # of the groups
    start: int
    stop: int
    stretches: list[Stretch]
    room: Tensor  # for products, [B, Hkv, rows, columns]

    def rows(self, x: Tensor, s: Stretch | None = None) -> Tensor:
        """x `[B, Hq, n, ...]` in the rows of the chunk, or in those of a stretch."""
        start, stop = (self.start, self.stop) if s is None else (s.start, s.stop)
        return x[:, self.member :: self.given.group, start:stop]

    def here(self, x: Tensor, s: Stretch) -> Tensor:
        """x `[B, Hkv, rows]` of the chunk in the rows of a stretch."""
        return x[:, :, s.start - self.start : s.stop - self.start]

    def keys(self, x: Tensor, s: Stretch) -> Tensor:
        """The keys or values that a stretch meets."""
        return self.given.fit(x[:, :, s.key : s.key + s.stop - s.start])

    def only(self, x: Tensor, s: Stretch) -> Tensor:
        """x `[B, Hkv, rows]` or `[B, Hkv, rows, D]` of a stretch, 0 in rows without the lag where that is asked for."""
        if s.kept is None or not self.given.exact:
            return x
        kept = s.kept.to(x.device)
        return torch.where(kept if x.ndim == 3 else kept[:, None], x, 0.0)

    def dots(self, x: Tensor, y: Tensor, into: Tensor) -> None:
        """into[...] = the row sums of x * y."""
        product = self.room[:, :, : x.shape[2]]
        torch.mul(x, y, out=product)
        torch.sum(product, -1, out=into)

    def logits(self, place: Place) -> tuple[Tensor, Rates]:
        """The logits, -inf where there is no pair, and their derivatives."""
        q, k, score = self.given.rows[0], self.given.keys[0], self.given.score
        logits = q.new_empty((len(self.stretches), *k.shape[:2], self.stop - self.start))
        for x, s in zip(logits, self.stretches, strict=True):
            if s.stop - s.start < self.stop - self.start:
                x.fill_(-torch.inf)
            here = self.here(x, s)
            self.dots(self.rows(q, s), self.keys(k, s), here)
            here.mul_(self.given.scale)  # before the mask: -inf must stay -inf whatever the sign of the scale
            if s.kept is not None and self.given.exact:
                here.masked_fill_(~s.kept.to(x.device), -torch.inf)
            elif s.kept is not None:
                here.add_(torch.where(s.kept, 0.0, -torch.inf))
        return score.of(logits, place)

    def place(self) -> Place:
        """Positions and heads of the pairs, as `[lags, B, Hkv, rows]`."""
        if self.given.places is None:
            return NOWHERE
        i, head, stream = (distinct(self.rows(x), ((0,), (1,), (2,))) for x in self.given.places)
        lags = torch.tensor([s.of.lag for s in self.stretches], device=i.device)
        return Place(i, i - lags[:, None, None, None], head, stream)


def chunks(schedule: Schedule[Stretch], given: Operands) -> Iterator[Chunk]:
    """The rows that have lags, cut so that they stay in the caches."""
    q, n = given.rows[0], given.sizes.n
    size = min(n, max(1, CHUNK_ELEMENTS // max(1, given.batch * given.kv_heads * given.columns)))
    room = q.new_empty((given.batch, given.kv_heads, size, given.columns))
    for start in range(0, n, max(1, size)):
        stop = min(start + size, n)
        found = [part for s in schedule.segments if (part := s.within(start, stop, given.sizes)) is not None]
        if found:
            for member in range(given.group):
                yield Chunk(given, member, start, stop, found, room)


def forward(schedule: Schedule[Stretch], given: Operands) -> None:
    """Fold the diagonals into (out, lse), in place."""
    for chunk in chunks(schedule, given):
        place = chunk.place()
        out, lse = (chunk.rows(x) for x in given.results)
        scores = chunk.logits(place)[0]
        total = torch.logsumexp(scores, 0)
        if given.started:
            total = torch.logaddexp(total, lse)
        finite = seen(total)
        if given.started:
            out.mul_((lse - finite).exp_().unsqueeze(-1))
        lse.copy_(total)
        weights = given.score.dropped(scores.sub_(finite).exp_(), place)
        for p, s in zip(weights, chunk.stretches, strict=True):
            v = chunk.only(chunk.keys(given.keys[1], s), s)
            chunk.here(out, s).addcmul_(v, chunk.here(p, s).unsqueeze(-1))


def backward(schedule: Schedule[Stretch], given: Operands) -> None:
    """Add the diagonals' part to the gradients, in place; rows are as `pidsl.runtime.run_torch.tile_ops.Rows` says."""
    q, out, grad_out, lse = given.rows
    (k, v), (dk, dv), score = given.keys, given.sums, given.score
    for chunk in chunks(schedule, given):
        place = chunk.place()
        logits, (bend, slope) = chunk.logits(place)
        p = logits.sub_(chunk.rows(lse)).exp_()
        delta = p.new_empty(p.shape[1:])
        chunk.dots(chunk.rows(grad_out), chunk.rows(out), delta)
        ds = torch.zeros_like(p)
        for x, s in zip(ds, chunk.stretches, strict=True):
            chunk.dots(chunk.rows(grad_out, s), chunk.keys(v, s), chunk.here(x, s))
        ds = score.dropped(ds, place).sub_(delta).mul_(p)
        if bend is not None:
            ds.mul_(bend)
        if given.learned:
            there = torch.zeros_like(ds)  # else NaN may be where there is no pair
            for x, y, s in zip(there, ds, chunk.stretches, strict=True):
                chunk.here(x, s).copy_(chunk.only(chunk.here(y, s), s))
            score.learn(there, place)
        if slope is not None:
            ds.mul_(slope)
        ds.mul_(given.scale)
        for x, y, s in zip(ds, score.dropped(p, place), chunk.stretches, strict=True):
            of_q, of_v = (chunk.only(chunk.here(z, s), s).unsqueeze(-1) for z in (x, y))
            chunk.rows(given.results[0], s).addcmul_(chunk.only(chunk.keys(k, s), s), of_q)
            dk.rows(s.key, s.key + s.stop - s.start).addcmul_(chunk.only(chunk.rows(q, s), s), of_q)
            dv.rows(s.key, s.key + s.stop - s.start).addcmul_(chunk.only(chunk.rows(grad_out, s), s), of_v)
