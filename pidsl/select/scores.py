"""What selectors are made of: means per block, products of grouped heads, softmax and the best of a row of scores."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

Per = Literal["head", "group", "entry"]


@dataclass(frozen=True, slots=True)
class Rows:
    """Some query blocks of a call, and the key blocks that begin before their end.

    Args:
        first, count: the query blocks.
        start, end: positions of their first token, and behind their last one.
        queries, block: tokens per query block and per key block.
    """

    first: int
    count: int
    start: int
    end: int
    queries: int
    block: int

    @property
    def blocks(self) -> int:
        """How many key blocks there are."""
        return -(-self.end // self.block)

    def last(self, device: torch.device) -> Tensor:
        """int64 [count]: the position of the last token of each query block."""
        ends = torch.arange(self.first + 1, self.first + self.count + 1, device=device) * self.queries
        return ends.clamp(max=self.end) - 1

    def reached(self, device: torch.device) -> Tensor:
        """bool [count, blocks]: the block begins at the last query or before."""
        blocks = torch.arange(self.blocks, device=device)
        return blocks * self.block <= self.last(device)[:, None]

    def known(self, device: torch.device) -> Tensor:
        """bool [count, blocks]: nothing that comes behind the queries will change the block's summary.

        That is a block that ends where the queries do, or before. Where query blocks end as key blocks do, it is
        every block that is reached: the last one may be cut by the end of the sequence.
        """
        if self.queries % self.block == 0:
            return self.reached(device)
        blocks = torch.arange(self.blocks, device=device)
        return (blocks + 1) * self.block <= self.last(device)[:, None] + 1

    def listed(self, device: torch.device, first: int, local: int) -> Tensor:
        """bool [count, blocks]: one of the first blocks, or of the `local` ones up to the own, as far as reached."""
        blocks = torch.arange(self.blocks, device=device)
        own = torch.arange(self.first, self.first + self.count, device=device) * self.queries // self.block
        near = blocks > own[:, None] - local if local else torch.zeros_like(blocks, dtype=torch.bool)
        return self.reached(device) & (near | (blocks < first))


def exact(device: torch.device) -> AbstractContextManager[object]:
    """Without the halves of an autocast."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def wide(x: Tensor) -> Tensor:
    """In float32 at least."""
    return x if x.dtype == torch.float64 else x.float()


def means(x: Tensor, size: int, before: int = 0) -> Tensor:
    """Means of x [B, H, n, D] over blocks of `size` tokens, the first of which lacks its first `before` ones."""
    n = x.shape[2]
    after = -(before + n) % size
    if before or after:
        x = pad(x, (0, 0, before, after))
    sums = wide(x).unflatten(2, (-1, size)).sum(3)
    counts = sums.new_full((sums.shape[2], 1), size)
    counts[0] -= before
    counts[-1] -= after
    return sums / counts


def pooled(q: Tensor, rows: Rows) -> Tensor:
    """Mean queries of the query blocks, [B, Hq, count, D]."""
    if rows.queries == 1:
        return wide(q)
    return means(q, rows.queries, rows.start - rows.first * rows.queries)


def products(q: Tensor, k: Tensor) -> Tensor:
    """q [B, Hq, r, D] times k [B, Hkv, c, D]: [B, Hq, r, c], query head h with key head h // (Hq / Hkv)."""
    b, heads, r, d = q.shape
    return (q.reshape(b, k.shape[1], -1, d) @ k.mT).view(b, heads, r, k.shape[2])


def shared(scores: Tensor, kv_heads: int, per: Per) -> Tensor:
    """The mean of [B, Hq, ...] over what shares its lists: nothing, the group of a key head, all heads of an entry."""
    match per:
        case "head":
            return scores
        case "group":
            return scores.unflatten(1, (kv_heads, -1)).mean(2)
        case "entry":
            return scores.mean(1, keepdim=True)


def log_softmax(scores: Tensor, where: Tensor) -> Tensor:
    """Logarithms of the softmax over the last axis of those that `where` has; -inf for others."""
    found = scores.masked_fill(~where, -torch.inf).log_softmax(-1)
    return found.masked_fill(~where, -torch.inf)  # a row of none is NaN before


def softmax(scores: Tensor, where: Tensor) -> Tensor:
    """The softmax over the last axis of those that `where` has; 0 for others."""
    return scores.masked_fill(~where, -torch.inf).softmax(-1).masked_fill(~where, 0.0)


def attention(q: Tensor, k: Tensor, start: int, scale: float | None) -> Tensor:
    """Causal attention of some queries, the first at position `start`: probabilities [B, Hq, t, keys]."""
    i = torch.arange(start, start + q.shape[2], device=q.device)
    seen = torch.arange(k.shape[2], device=q.device) <= i[:, None]
    return softmax(products(wide(q), wide(k)) * (q.shape[3] ** -0.5 if scale is None else scale), seen)


def best(scores: Tensor, count: int) -> Tensor:
    """Indices of the `count` largest along the last axis, int64, largest first; of equal ones the lowest index first.

    Scores are compared as float32. NaN counts as the smallest.
    """
    scores = scores.float()
    scores = scores.masked_fill(scores.isnan(), -torch.inf) + 0.0  # -0.0 equals 0.0
    bits = scores.view(torch.int32)
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # integers in the order of the floats
    behind = torch.arange(scores.shape[-1] - 1, -1, -1, device=scores.device)
    keys = (ordered.long() << 32) | behind  # no two are equal, so what topk does with ties plays no part
    return scores.shape[-1] - 1 - (keys.topk(count, dim=-1).values & 0xFFFFFFFF)
