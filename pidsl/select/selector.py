"""What all selectors have in common.

    blocks = selector(q, k)                     the lists of all query blocks
    state = selector.start(batch, kv_heads, dim)
    state = selector.append(state, k_new)       the same step by step, from summaries of finished blocks
    blocks = selector.step(q_new, state)

Query block r is the tokens at positions r queries ... (r + 1) queries - 1. Of every selector it holds:

- A block is listed only if it begins at the last token of the query block or before.
- A block that goes on behind the query block has no summary yet. It is listed, if it is one of the `local` ones up to
  the own block, and else left out: what comes behind the query block changes nothing.
- Best first; of equal scores the lowest block first. So `blocks[..., :b]` are the lists of a smaller budget b.
- Nothing of queries times keys is made: query blocks come in parts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from pidsl.errors import ArgumentError, TermError
from pidsl.select.scores import Per, Rows, best, exact, shared

AT_ONCE = 1 << 20  # scores that are made at once, unless one query block has more


@dataclass(frozen=True, slots=True)
class State:
    """What a selector keeps of the keys so far: a value, so that to forget tokens is to go on from an earlier state.

    Args:
        summaries: of the finished units of keys, [B, heads, units, ...].
        tail: the keys [B, Hkv, t, D] behind them.
        length: how many keys there are.
    """

    summaries: Tensor
    tail: Tensor
    length: int

    def reordered(self, indices: Tensor) -> State:
        """The state whose batch entry b is entry `indices[b]` of this one, for the beams of a search."""
        return State(self.summaries.index_select(0, indices), self.tail.index_select(0, indices), self.length)


class Selector(nn.Module, ABC):
    """Base of the selectors: a subclass says what is kept of the keys, and scores blocks by it.

    Args:
        block: tokens per key block.
        budget: blocks that are listed per query block at most.
        queries: tokens per query block.
        first: so many blocks at the beginning are always listed.
        local: so many blocks up to the own one, those that hold tokens of the query block, are always listed. 0: the
            own ones are chosen by their score like others, or left out if they go on behind the query block.
        per: lists for each query "head", for each "group" that shares a key head, or one list per batch "entry";
            scores are averaged.

    Raises:
        TermError: a size is no positive integer, or the budget is below what is always listed.
    """

    def __init__(
        self, block: int, budget: int, queries: int, *, first: int = 0, local: int = 1, per: Per = "head"
    ) -> None:
        super().__init__()
        name = type(self).__name__
        sizes = {"block": block, "budget": budget, "queries": queries}
        for key, x, least in [*((key, x, 1) for key, x in sizes.items()), ("first", first, 0), ("local", local, 0)]:
            if isinstance(x, bool) or not isinstance(x, int) or x < least:
                raise TermError(f"{key} = {x!r}", f"an integer >= {least}", f"{name}(...)")
        if per not in get_args(Per):
            raise TermError(f"per = {per!r}", " or ".join(map(repr, get_args(Per))), f"{name}(...)")
        self.block, self.budget, self.queries = block, budget, queries
        self.first, self.local, self.per = first, local, per
        self.size = self.stride = block  # of the units of keys that are summarised
        self.partial = True  # an unfinished unit has a summary too
        always = first + (self._own + local - 1 if local else 0)
        if budget < always:
            raise TermError(f"budget = {budget}", f"at least the {always} blocks always listed", f"{name}(...)")

    @property
    def _own(self) -> int:
        """The most key blocks that tokens of one query block lie in."""
        if self.queries % self.block == 0:
            return self.queries // self.block
        return 1 if self.block % self.queries == 0 else (self.queries - 2) // self.block + 2

    def extra_repr(self) -> str:
        names = ("block", "budget", "queries", "first", "local", "per")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)

    rotated = True  # whether it is called with queries and keys after their rotation

    # -- of a subclass -------------------------------------------------------------------------------------------------

    @abstractmethod
    def summarise(self, units: Tensor, first: int) -> Tensor:
        """What is kept of units of keys: [B, Hkv, u, size, D] to [B, heads, u, ...].

        Args:
            units: the keys; the last unit may come alone and with fewer tokens, as long as it is not finished.
            first: index of the first of them.
        """

    @abstractmethod
    def scores(self, q: Tensor, kept: Tensor, rows: Rows) -> Tensor:
        """Scores [B, heads of the lists, rows.count, rows.blocks] of the queries at rows.start ... rows.end - 1.

        Args:
            q: these queries, [B, Hq, rows.end - rows.start, D].
            kept: the summaries.
            rows: which query blocks they are.
        """

    def width(self, q: Tensor, kept: Tensor) -> int:
        """How many numbers are made for a query block, which says how many blocks come at once."""
        return q.shape[0] * q.shape[1] * kept.shape[2]

    def enough(self, scores: Tensor, always: Tensor, total: Tensor) -> Tensor | None:
        """bool: which of those chosen are listed; None: all. For thresholds.

        Args:
            scores: of the chosen blocks, best first, after those that are always listed.
            always: bool, which those are.
            total: sums of the scores of all blocks that are reached, [..., 1].
        """
        return None

    def shared(self, scores: Tensor, kv_heads: int) -> Tensor:
        return shared(scores, kv_heads, self.per)

    # -- lists ---------------------------------------------------------------------------------------------------------

    def forward(self, q: Tensor, k: Tensor, *, offset: int = 0) -> Tensor:
        """The lists, int32 [B, 1 | Hkv | Hq, query blocks, at most budget], -1 for none.

        Args:
            q: queries [B, Hq, n, D].
            k: keys [B, Hkv, m, D] of positions 0 ... m - 1; those behind the last query play no part.
            offset: position of the first query.

        Raises:
            ArgumentError: the tensors do not go together, or keys are missing.
        """
        self._check(q, k, offset)
        with torch.no_grad():
            state = self.start(k.shape[0], k.shape[1], k.shape[3], dtype=k.dtype, device=k.device)
            return self.step(q, self.append(state, k[:, :, : offset + q.shape[2]]))

    def packed(self, q: Tensor, k: Tensor, lengths: Sequence[int]) -> Tensor:
        """The lists of documents that lie one behind the other, those of the first document first.

        Args:
            q, k: [B, Hq, n, D] and [B, Hkv, n, D].
            lengths: tokens of each document. Blocks are counted within a document.

        Raises:
            ArgumentError: as of a call; or the lengths are not those of the tokens.
        """
        if sum(lengths) != q.shape[2] or any(x < 1 for x in lengths):
            got = f"lengths that sum to {sum(lengths)}"
            raise ArgumentError(got, f"positive ones that sum to {q.shape[2]}", f"{type(self).__name__}(...).packed")
        parts = zip(q.split(list(lengths), 2), k.split(list(lengths), 2), strict=True)
        lists = [self(*part) for part in parts]
        most = max(x.shape[3] for x in lists)
        return torch.cat([pad(x, (0, most - x.shape[3]), value=-1) for x in lists], 2)

    def start(
        self, batch: int, kv_heads: int, dim: int, *, dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> State:  # fmt: skip
        """The state of no keys.

        Args:
            batch, kv_heads, dim: of the keys that will come, [B, Hkv, m, D].
            dtype, device: of them.
        """
        tail = torch.empty(batch, kv_heads, 0, dim, dtype=dtype, device=device)
        with torch.no_grad():
            return State(self.summarise(tail.new_empty(batch, kv_heads, 0, self.size, dim), 0), tail, 0)

    def append(self, state: State, k: Tensor) -> State:
        """The state with the keys [B, Hkv, n, D] that come next.

        Raises:
            ArgumentError: the keys are none like those before.
        """
        tail = state.tail
        expected = f"{[*tail.shape[:2], 'n', tail.shape[3]]} of {tail.dtype} on {tail.device}"
        if not isinstance(k, Tensor) or k.dim() != 4 or (k.dtype, k.device) != (tail.dtype, tail.device):
            got = f"{list(k.shape)} of {k.dtype} on {k.device}" if isinstance(k, Tensor) else type(k).__name__
            raise ArgumentError(f"k: {got}", expected, f"{type(self).__name__}(...).append")
        if k.shape[:2] != tail.shape[:2] or k.shape[3] != tail.shape[3]:
            raise ArgumentError(f"k: {list(k.shape)}", expected, f"{type(self).__name__}(...).append")
        with torch.no_grad(), exact(k.device):
            summaries = state.summaries
            tail = torch.cat([tail, k], 2) if tail.shape[2] else k
            new = max(0, (tail.shape[2] - self.size) // self.stride + 1)
            if new:
                units = tail.unfold(2, self.size, self.stride).transpose(3, 4)
                made = self.summarise(units, summaries.shape[2])
                summaries = torch.cat([summaries, made], 2) if summaries.shape[2] else made
            return State(summaries, tail[:, :, new * self.stride :].clone(), state.length + k.shape[2])

    def step(self, q: Tensor, state: State) -> Tensor:
        """The lists of the last tokens, as a call with all keys gives them.

        Args:
            q: the queries [B, Hq, n, D] of the last n tokens, whose keys the state has. Where they begin or end inside
                a query block, its list is made of those of its queries that are here.
            state: what was kept.

        Raises:
            ArgumentError: the state has fewer tokens, or is of other keys.
        """
        b, kv_heads, _, d = state.tail.shape
        n = q.shape[2]
        if q.shape[0] != b or q.shape[1] % kv_heads or q.shape[3] != d or n > state.length:
            expected = f"[{b}, a multiple of {kv_heads}, at most {state.length}, {d}], the last tokens of the state"
            raise ArgumentError(f"q: {list(q.shape)}", expected, f"{type(self).__name__}(...).step")
        with torch.no_grad(), exact(q.device):
            kept = self.kept(state)
            offset = state.length - n
            found = [
                self._chosen(
                    self.scores(q[:, :, rows.start - offset : rows.end - offset], self.cut(kept, rows), rows), rows
                )
                for rows in self.parts(offset, n, self.width(q, kept))
            ]
            if not found:
                heads = {"head": q.shape[1], "group": kv_heads, "entry": 1}[self.per]
                return torch.empty(b, heads, 0, 0, dtype=torch.int32, device=q.device)
            most = found[-1].shape[3]
            return torch.cat([pad(x, (0, most - x.shape[3]), value=-1) for x in found], 2)

    def kept(self, state: State) -> Tensor:
        """The summaries, that of an unfinished unit last."""
        if not state.tail.shape[2] or not self.partial:
            return state.summaries
        last = self.summarise(state.tail[:, :, None], state.summaries.shape[2])
        return torch.cat([state.summaries, last], 2) if state.summaries.shape[2] else last

    def parts(self, offset: int, n: int, width: int) -> Iterator[Rows]:
        """The query blocks of n tokens from position `offset`, as many at once as make AT_ONCE numbers."""
        if n == 0:
            return
        first, end, q = offset // self.queries, (offset + n - 1) // self.queries + 1, self.queries
        count = max(1, AT_ONCE // max(1, width))
        for at in range(first, end, count):
            behind = min(end, at + count)
            start, stop = max(offset, at * q), min(offset + n, behind * q)
            yield Rows(at, behind - at, start, stop, q, self.block)

    def cut(self, kept: Tensor, rows: Rows) -> Tensor:
        """The summaries of the units that begin before the end of some query blocks."""
        return kept[:, :, : -(-rows.end // self.stride)]

    def _chosen(self, scores: Tensor, rows: Rows) -> Tensor:
        device = scores.device
        always = rows.listed(device, self.first, self.local)
        open_ = rows.known(device)
        ranked = scores.masked_fill(~open_, -torch.inf).masked_fill(always, torch.inf)
        found = best(ranked, min(self.budget, rows.blocks))
        listed = ranked.gather(3, found) > -torch.inf
        total = scores.masked_fill(~open_, 0.0).sum(-1, keepdim=True)
        must = always.expand_as(scores).gather(3, found)
        more = self.enough(scores.gather(3, found), must, total)
        return torch.where(listed if more is None else listed & (more | must), found, -1).int()

    def _check(self, q: object, k: object, offset: object) -> None:
        name = f"{type(self).__name__}(...)(q, k)"
        for key, x in (("q", q), ("k", k)):
            if not isinstance(x, Tensor) or x.dim() != 4 or not x.is_floating_point():
                got = f"{list(x.shape)} of {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
                raise ArgumentError(f"{key}: {got}", "a floating tensor [batch, heads, tokens, head_dim]", name)
        assert isinstance(q, Tensor) and isinstance(k, Tensor)
        (b, heads, n, d), (kb, kv_heads, m, kd) = q.shape, k.shape
        if (b, d) != (kb, kd) or heads % max(1, kv_heads) or (q.dtype, q.device) != (k.dtype, k.device):
            got = f"q {list(q.shape)} of {q.dtype}, k {list(k.shape)} of {k.dtype}"
            raise ArgumentError(got, "one batch, head_dim, dtype and device, and whole groups of heads", name)
        if isinstance(offset, bool) or not isinstance(offset, int) or offset < 0:
            raise ArgumentError(f"offset = {offset!r}", "an integer >= 0: one position for all entries", name)
        if m < offset + n:
            raise ArgumentError(f"k has {m} keys", f"at least offset + n = {offset + n}, up to the last query", name)
