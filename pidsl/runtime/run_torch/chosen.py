"""Blocks of keys that a call lists for blocks of its queries, gathered into batches: rows with about as many blocks.

A tile has the rows of one block of queries, of all query heads that read one key head and have the same list, and the
keys of the blocks that are listed. Full blocks come without a mask, and those of which some pairs are kept in tiles of
their own. What is read and added is in units: the longest runs of rows of which all blocks consist, wherever the
sequence begins and ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import gcd
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pidsl.runtime.call.call import Positions
from pidsl.runtime.call.chosen import Choice, Lists, lists_of, rows_of
from pidsl.runtime.call.logits import Place
from pidsl.runtime.run_torch.tiles import Change
from pidsl.runtime.run_torch.walks import LARGEST_MASK, Bound, Mask, Operands, Schedule, Segment, Sizes, Walk, mask_of

GATHERED = 1 << 21  # elements of the keys of one batch: more would leave the caches, and be new memory for each batch
STEPS = 8  # widths of tiles between a power of two and the next


@dataclass(frozen=True, slots=True)
class Chosen(Walk[Segment]):
    """A piece of blocks that each call lists, as a generated program states it.

    Args:
        block: keys of a block.
        budget: blocks of a list, at most.
        queries: queries of a block, that have one list.
        keep: over (n, m, offsets, r, j), true on the pairs of the piece; None when it is on all.
        full: over (n, m, offsets, x, y), true of blocks of which all pairs that exist are in the piece; None of none.
    """

    block: int
    budget: int
    queries: int
    keep: Bound | None = None
    full: Bound | None = None

    def cut(self, sizes: Sizes) -> Iterator[Segment]:
        """One segment for all: the tiles are known when the lists are."""
        rows = (sizes.offset + sizes.n - 1) // self.queries - sizes.offset // self.queries + 1
        yield Segment(visited=rows * self.budget * self.block)

    def batches(self, schedule: Schedule[Segment], given: Operands) -> Iterator[Gathered]:
        """As many tiles at a time as one call takes."""
        tiles = Tiles(self, given)
        for masked in False, True:
            for these, width in tiles.groups(masked):
                limit = given.at_once(tiles.height, width * self.block)
                limit = min(limit, GATHERED // (width * self.block * given.columns))
                if masked:
                    limit = min(limit, LARGEST_MASK // (tiles.height * width * self.block))
                for some in these.split(max(1, limit)):
                    yield Gathered(tiles, some, width, masked)

    def lists(self, given: Operands) -> Lists:
        """The lists of a call; blocks that the sequence begins or ends in are not full."""
        sizes, device = given.sizes, given.rows[0].device

        def full(x: Tensor, y: Tensor, **_: Any) -> Any:
            first, last = y * self.block >= sizes.key_offset, (y + 1) * self.block <= sizes.key_offset + sizes.m
            if self.full is None:
                return torch.zeros_like(first)
            found = self.full(**sizes.names, x=x.cpu().numpy(), y=y.cpu().numpy())
            return first & last & torch.as_tensor(found, device=device)

        blocks, choice = given.inputs["blocks"], Choice(self.block, self.budget, self.queries, full)
        where = Positions(sizes.offset, sizes.key_offset)
        return lists_of(
            blocks, choice, rows_of(choice, where, (given.batch, sizes.n, sizes.m), blocks.shape[2], device)
        )


class Units(NamedTuple):
    """A tensor `[B, H, rows, ...]` by units of rows: unit z of (b, h) is `all[b * steps[0] + h * steps[1] + z * steps[2]]`.

    Args:
        all: `[units, ...]`, all of a unit side by side.
        steps: as said.
    """

    all: Tensor
    steps: tuple[int, int, int]

    @staticmethod
    def of(x: Tensor, size: int) -> Units:
        """In units of `size` rows; a view where x is contiguous."""
        many = x.shape[2] // size
        return Units(x.reshape(x.shape[0] * x.shape[1] * many, -1), (x.shape[1] * many, many, 1))

    @staticmethod
    def in_place(x: Tensor) -> Units:
        """In single rows of `[B, H, rows, D]`: a view where the elements of a row are side by side."""
        if x.is_contiguous() or x.stride(3) != 1:
            return Units.of(x, 1)
        step = gcd(*x.stride()[:3]) or 1
        b, h, j = (s // step for s in x.stride()[:3])
        count = 1 + sum((length - 1) * s for length, s in zip(x.shape[:3], (b, h, j), strict=True))
        return Units(x.as_strided((count, x.shape[3]), (step, 1)), (b, h, j))

    def numbers(self, b: Tensor, h: Tensor, z: Tensor) -> Tensor:
        """Which of `all`, one after the other."""
        return (b * self.steps[0] + h * self.steps[1] + z * self.steps[2]).reshape(-1)


class Tiles:
    """All tiles of a call, numbered by batch entry, head and row of the lists.

    Attributes:
        walk, given, lists: what they are of.
        heads: of the lists or the keys, whichever are more; each with `members` query heads.
        rows: of the lists.
        height: rows of a tile.
        unit, key_unit: rows of a unit of rows, and of one of the keys of full blocks.
    """

    def __init__(self, walk: Chosen, given: Operands) -> None:
        self.walk, self.given, self.lists = walk, given, walk.lists(given)
        _, self.list_heads, self.rows, _ = self.lists.entries.shape
        self.heads = max(self.list_heads, given.kv_heads)
        self.members = given.heads // self.heads
        self.height = self.members * walk.queries
        n, m, offset, key_offset = given.sizes
        self.unit = gcd(walk.queries, n, offset % walk.queries)
        self.key_unit = gcd(walk.block, m, key_offset % walk.block) if given.many else 1
        self.of_rows, self.of_results = ([Units.of(x, self.unit) for x in some] for some in (given.rows, given.results))
        self.of_keys = {1: [Units.in_place(x) for x in given.keys]}
        if self.key_unit > 1:
            self.of_keys[self.key_unit] = [Units.of(x, self.key_unit) for x in given.keys]

    def groups(self, masked: bool) -> Iterator[tuple[Tensor, int]]:
        """The tiles with about as many blocks each, and how many they have at most."""
        _, full, listed, _ = self.lists
        counts = (listed - full if masked else full).expand(-1, self.heads, -1).reshape(-1)
        found = counts.cpu().numpy().astype(np.int64)
        step = np.maximum(1, 2 ** np.frexp(found)[1].astype(np.int64) // (2 * STEPS))
        widths = -(-found // step) * step
        for width in np.unique(widths[found > 0]):
            these = np.flatnonzero(widths == width)
            yield torch.from_numpy(these).to(counts.device), int(found[these].max())

    def listed(self, at: tuple[Tensor, ...], width: int, masked: bool) -> tuple[Tensor, Tensor | None]:
        """Blocks of keys `[tiles, width]` of tiles at (b, head, row), and which of them are listed; None for all."""
        entries, full, listed, _ = self.lists
        b, head, row = at
        at = b, head if self.list_heads > 1 else torch.zeros_like(head), row
        first = full[at].long()[:, None] if masked else 0
        count = listed[at][:, None] - first if masked else full[at][:, None]
        inside = torch.arange(width, device=b.device)
        there = inside < count
        y = entries[at].long().gather(1, first + torch.where(there, inside, 0))
        return y, None if bool(there.all()) else there


class Gathered:
    """Some tiles, as a pass takes them: `[tiles, 1, ...]`.

    Args:
        tiles: all,
        these: numbers of those that have
        width: blocks, about,
        masked: and not full ones.

    Attributes:
        given, rows, keys, mask, triangle, fresh: see `pidsl.runtime.run_torch.tiles.Batch`.
    """

    fresh = triangle = False

    def __init__(self, tiles: Tiles, these: Tensor, width: int, masked: bool) -> None:
        walk, self.given, self._tiles = tiles.walk, tiles.given, tiles
        owner, row = these // tiles.rows, these % tiles.rows
        self._b, self._head = (owner // tiles.heads)[:, None, None], (owner % tiles.heads)[:, None, None]
        y, there = tiles.listed((self._b[:, 0, 0], self._head[:, 0, 0], row), width, masked)
        device, (n, m, offset, key_offset) = these.device, self.given.sizes
        start = (row + offset // walk.queries) * walk.queries - offset
        self._r = start[:, None, None] + torch.arange(walk.queries, device=device)  # [tiles, 1, rows]
        absent = (self._r < 0) | (self._r >= n)
        self._present = None if not bool(absent.any()) else ~absent
        self._j = (y * walk.block - key_offset)[..., None] + torch.arange(walk.block, device=device)
        self.mask = self._kept(y, there) if masked else self._padded(there)
        self._r, self._j = self._r.clamp(0, n - 1), self._j.clamp(0, m - 1)
        self._key_unit = 1 if masked else tiles.key_unit
        member = torch.arange(tiles.members, device=device)[:, None]
        self._heads = self._head * tiles.members + member  # [tiles, members, 1]
        self._where = tiles.of_rows[0].numbers(self._b, self._heads, self._r[..., :: tiles.unit] // tiles.unit)
        self.rows = [self._row(x, y) for x, y in zip(tiles.of_rows, self.given.rows, strict=True)]
        self.keys = [self._key(x) for x in tiles.of_keys[self._key_unit]]

    def _row(self, units: Units, x: Tensor) -> Tensor:
        """Rows of x; 0 in those that do not exist, and of lse infinity, so that there is no weight."""
        found = units.all.index_select(0, self._where).view(*self._shape(), *x.shape[3:])
        if self._present is None:
            return found
        absent = ~self._present.expand(-1, self._tiles.members, -1).reshape(self._shape())
        return found.masked_fill_(absent, torch.inf) if x.ndim == 3 else found.masked_fill_(absent[..., None], 0.0)

    def _shape(self) -> tuple[int, int, int]:
        return len(self._b), 1, self._tiles.height

    def _key(self, units: Units) -> Tensor:
        found = units.all.index_select(0, units.numbers(*self._key_units(self._key_unit)))
        return found.view(len(self._b), 1, self._j[0].numel(), -1)

    def _key_units(self, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Batch entries, key heads and units of all keys."""
        head = self._head // (self._tiles.heads // self.given.kv_heads)
        return self._b, head, self._j[..., ::size] // size

    def _kept(self, y: Tensor, there: Tensor | None) -> Mask | None:
        """The pairs to keep of blocks that are not full."""
        sizes, (count, _, height) = self.given.sizes, self._shape()
        r, j = self._r.cpu().numpy()[..., None], self._j.view(count, 1, 1, -1).cpu().numpy()
        kept: Any = (j >= 0) & (j < sizes.m) & (r >= 0) & (r < sizes.n)
        if self._tiles.walk.keep is not None:
            kept = kept & self._tiles.walk.keep(**sizes.names, r=r, j=j)
        if there is not None:
            kept = kept & there.repeat_interleave(self._tiles.walk.block, 1)[:, None, None].cpu().numpy()
        every = np.array(np.broadcast_to(kept, (count, self._tiles.members, r.shape[2], j.shape[3])))
        return mask_of(every.reshape(count, 1, height, -1), self.given.rows[0].dtype, y.device)

    def _padded(self, there: Tensor | None) -> Mask | None:
        """All pairs of the blocks that are listed."""
        if there is None:
            return None
        blocks = torch.where(there, 0.0, -torch.inf).to(self.given.rows[0].dtype)
        bias = blocks.repeat_interleave(self._tiles.walk.block, 1)[:, None, None]
        return Mask(bias.expand(*self._shape(), -1), None)

    def place(self) -> Place:
        """Where the pairs are, for a pass with `places`."""
        assert self.given.places is not None
        sizes, count = self.given.sizes, len(self._b)
        i = (self._r + sizes.offset).expand(-1, self._tiles.members, -1)
        stream = self.given.places[2][self._b, self._heads, 0]
        heads, streams = (x.expand(i.shape) for x in (self._heads, stream))
        i, head, stream = (x.reshape(count, 1, -1, 1) for x in (i, heads, streams))
        return Place(i, self._j.view(count, 1, 1, -1) + sizes.key_offset, head, stream)

    def put(self, values: Sequence[Tensor], change: Change) -> None:
        """Change the results of the rows, in place."""
        units, where = self._tiles.of_results, self._where
        found = [x.all.index_select(0, where) for x in units]
        change([x.view(y.shape) for x, y in zip(found, values, strict=True)], values)
        if self._present is not None:
            present = self._present[..., :: self._tiles.unit].expand(-1, self._tiles.members, -1).reshape(-1)
            where, found = where[present], [x[present] for x in found]
        for x, y in zip(units, found, strict=True):
            x.all.index_copy_(0, where, y)

    def add(self, grads: Sequence[Tensor]) -> None:
        """Add `[tiles, 1, keys, D]` to the sums of the keys, in a fixed order."""
        size, (_, _, m, _) = self._key_unit, self.given.keys[0].shape
        b, head, z = self._key_units(size)
        where = (((b * self.given.kv_heads + head) * (m // size)) + z).reshape(-1)
        for x, grad in zip(self.given.sums, grads, strict=True):
            x.add_units(where, grad, size)
