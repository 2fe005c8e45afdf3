"""Blocks of keys that a call lists for blocks of its queries, gathered into batches: rows with about as many blocks.

A tile has the rows of one block of queries, of all query heads that read one key head and have the same list, and the
keys of the blocks that are listed. Full blocks come without a mask, and those of which some pairs are kept in tiles of
their own. What is read and added is in units: the longest runs of rows of which all blocks consist, wherever the
sequence begins and ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import gcd, prod
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pidsl.runtime.call.call import Positions
from pidsl.runtime.call.chosen import Choice, Lists, blocks_of, lists_of, rows_of
from pidsl.runtime.call.logits import Place
from pidsl.runtime.run_torch.tiles import Change
from pidsl.runtime.run_torch.walks import LARGEST_MASK, Bound, Mask, Operands, Schedule, Segment, Sizes, Walk, mask_of

GATHERED = 1 << 22  # elements of the keys of one batch: threads wait for each other a few times for each
WAITING = 1 << 21  # elements of results that wait until all are changed at once
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
        rows = blocks_of(sizes.offset, sizes.n, self.queries)
        yield Segment(visited=rows * self.budget * self.block)

    def batches(self, schedule: Schedule[Segment], given: Operands) -> Iterator[Gathered]:
        """As many tiles at a time as one call takes."""
        tiles = Tiles(self, given)
        for masked in False, True:
            for group in tiles.groups(masked):
                keys = group.blocks.shape[1] * self.block
                limit = min(given.at_once(tiles.height, keys), GATHERED // (keys * given.columns))
                if masked:
                    limit = min(limit, LARGEST_MASK // (tiles.height * keys))
                for part in group.split(max(1, limit)):
                    yield Gathered(tiles, part)
            tiles.write()

    def lists(self, given: Operands) -> Lists:
        """The lists of a call."""
        sizes, device = given.sizes, given.rows[0].device

        def full(x: Tensor, y: Tensor, **_: Any) -> Any:
            return self.full is not None and self.full(**sizes.names, x=x.cpu().numpy(), y=y.cpu().numpy())

        blocks, choice = given.inputs["blocks"], Choice(self.block, self.budget, self.queries, full)
        where = Positions(sizes.offset, sizes.key_offset)
        return lists_of(
            blocks, choice, rows_of(choice, where, (given.batch, sizes.n, sizes.m), blocks.shape[2], device)
        )


class Units(NamedTuple):
    """A tensor `[B, H, rows, ...]` by units of rows.

    Args:
        all: `[units, ...]`, what is in a unit side by side.
        steps: unit z of (b, h) is number `b * steps[0] + h * steps[1] + z * steps[2]`.
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
        """Which of `all`."""
        owner = b * self.steps[0] + h * self.steps[1]
        return owner + (z if self.steps[2] == 1 else z * self.steps[2])


class Room:
    """Memory that is used again: new memory of many MiB costs more than what is read into it."""

    def __init__(self) -> None:
        self._all: Tensor | None = None

    def of(self, shape: tuple[int, int], like: Tensor) -> Tensor:
        """Elements of some shape, with what was in them."""
        if self._all is None or self._all.numel() < prod(shape):
            self._all = like.new_empty(prod(shape))
        return self._all[: prod(shape)].view(shape)


class Group(NamedTuple):
    """Tiles with about as many blocks each.

    Args:
        masked: some pairs of the blocks are kept; else all.
        equal: all tiles have as many blocks as the widest.
        b, head: `[tiles]`, batch entries, and heads of the lists or of the keys, whichever are more.
        first: `[tiles]`, of the rows of each the first, which need not exist.
        where: `[tiles, units]`, which units of all rows those of a tile are, or the nearest ones that exist.
        blocks: `[tiles, widest]`, blocks of keys,
        real: `[tiles]`, of which so many are listed; then others follow.
    """

    masked: bool
    equal: bool
    b: Tensor
    head: Tensor
    first: Tensor
    where: Tensor
    blocks: Tensor
    real: Tensor

    def split(self, limit: int) -> Iterator[Group]:
        """In parts of at most so many tiles."""
        for part in zip(*(x.split(limit) for x in self[2:]), strict=True):
            yield Group(self.masked, self.equal, *part)


class Tiles:
    """All tiles of a call, numbered by batch entry, head and row of the lists.

    Attributes:
        walk, given, lists: what they are of.
        heads: of the lists or of the keys, whichever are more; each with `members` query heads.
        height: rows of a tile.
        unit, key_unit: rows of a unit of rows, and of one of the keys of full blocks.
        whole: all rows of all tiles exist.
    """

    def __init__(self, walk: Chosen, given: Operands) -> None:
        self.walk, self.given, self.lists = walk, given, walk.lists(given)
        self.heads = max(self.lists.entries.shape[1], given.kv_heads)
        self.members = given.heads // self.heads
        self.height = self.members * walk.queries
        n, m, offset, key_offset = given.sizes
        self.unit = gcd(walk.queries, n, offset % walk.queries)
        self.key_unit = gcd(walk.block, m, key_offset % walk.block) if given.many else 1
        self.whole = offset % walk.queries == (offset + n) % walk.queries == 0
        self.of_rows, self.of_results = ([Units.of(x, self.unit) for x in some] for some in (given.rows, given.results))
        self.of_keys = {1: [Units.in_place(x) for x in given.keys]}
        if self.key_unit > 1:
            self.of_keys[self.key_unit] = [Units.of(x, self.key_unit) for x in given.keys]
        self.room = [Room() for _ in given.keys]
        self.waiting: list[tuple[Tensor, Sequence[Tensor], Change]] = []

    def groups(self, masked: bool) -> Iterator[Group]:
        """The tiles that have full blocks, or masked ones."""
        entries, full, listed = (x.expand(-1, self.heads, *x.shape[2:]) for x in self.lists[:3])
        counts, shape = listed - full if masked else full, full.shape
        found = counts.cpu().numpy().astype(np.int64).ravel()
        step = np.maximum(1, 2 ** np.frexp(found)[1].astype(np.int64) // (2 * STEPS))
        widths = -(-found // step) * step
        for width in np.unique(widths[found > 0]):
            these = np.flatnonzero(widths == width)
            least, most = int(found[these].min()), int(found[these].max())
            at = b, head, row = tuple(torch.from_numpy(x).to(full.device) for x in np.unravel_index(these, shape))
            count, inside = counts[at], torch.arange(most, device=full.device)
            if least < most:
                inside = torch.where(inside < count[:, None], inside, 0)
            if masked:
                inside = inside + full[at][:, None]
            blocks = entries[at].gather(1, inside.long().expand(len(these), -1)).long()
            first = row * self.walk.queries - self.given.sizes.offset % self.walk.queries
            yield Group(masked, least == most, b, head, first, self._units(b, head, first), blocks, count)

    def _units(self, b: Tensor, head: Tensor, first: Tensor) -> Tensor:
        heads = (head * self.members)[:, None, None] + torch.arange(self.members, device=b.device)[:, None]
        units = self.inside(first, True)[:, None].clamp(0, self.given.sizes.n // self.unit - 1)
        return self.of_rows[0].numbers(b[:, None, None], heads, units).flatten(1)

    def inside(self, first: Tensor, units: bool = False) -> Tensor:
        """`[tiles, queries]`, or units of them: rows of tiles of one query head, which need not exist."""
        size = self.unit if units else 1
        return first[:, None] // size + torch.arange(self.walk.queries // size, device=first.device)

    def put(self, where: Tensor, values: Sequence[Tensor], change: Change) -> None:
        """Change units of the results, soon: every change of many is one of each thread less to wait for.

        No unit is in two batches of full blocks, nor in two of masked ones.
        """
        self.waiting.append((where, values, change))
        if sum(len(x) for x, *_ in self.waiting) * self.unit * self.given.columns >= WAITING:
            self.write()

    def write(self) -> None:
        """Change what waits."""
        if not self.waiting:
            return
        where, change = torch.cat([x for x, *_ in self.waiting]), self.waiting[0][2]
        values = [torch.cat(x) for x in zip(*(x for _, x, _ in self.waiting), strict=True)]
        self.waiting.clear()
        found = [x.all.index_select(0, where).view(y.shape) for x, y in zip(self.of_results, values, strict=True)]
        change(found, values)
        for x, y in zip(self.of_results, found, strict=True):
            x.all.index_copy_(0, where, y.view(len(where), -1))


class Gathered:
    """Some tiles, as a pass takes them: `[tiles, 1, ...]`.

    Args:
        tiles: all,
        group: and those that are taken.

    Attributes:
        given, rows, keys, mask, triangle, fresh: see `pidsl.runtime.run_torch.tiles.Batch`.
    """

    fresh = triangle = False

    def __init__(self, tiles: Tiles, group: Group) -> None:
        self._tiles, self._group, self.given = tiles, group, tiles.given
        self._shape = len(group.b), 1, tiles.height
        self._where = group.where.reshape(-1)
        self._present = None if tiles.whole else self._exists(True).reshape(-1)
        size = self._size = 1 if group.masked else tiles.key_unit
        starts = group.blocks * tiles.walk.block - self.given.sizes.key_offset
        if size > 1:
            starts = starts // size
        self._units = (starts[..., None] + torch.arange(tiles.walk.block // size, device=starts.device)).flatten(1)
        self.mask = self._kept() if group.masked else self._padded()
        if group.masked:
            self._units = self._units.clamp(0, self.given.sizes.m - 1)
        self._kv_head = group.head // (tiles.heads // self.given.kv_heads)
        self.rows = [self._row(x, y) for x, y in zip(tiles.of_rows, self.given.rows, strict=True)]
        self.keys = [self._key(*x) for x in zip(tiles.of_keys[size], tiles.room, strict=True)]

    def _exists(self, units: bool = False) -> Tensor:
        """`[tiles, members, rows]`, or units of rows: those that exist."""
        tiles, last = self._tiles, self.given.sizes.n // (self._tiles.unit if units else 1) - 1
        r = tiles.inside(self._group.first, units)[:, None]
        return ((r >= 0) & (r <= last)).expand(-1, tiles.members, -1)

    def _row(self, units: Units, x: Tensor) -> Tensor:
        """Rows of x; 0 in those that do not exist, and of lse infinity, so that there is no weight."""
        found = units.all.index_select(0, self._where)
        if self._present is not None:
            found.masked_fill_(~self._present[:, None], torch.inf if x.ndim == 3 else 0.0)
        return found.view(*self._shape, *x.shape[3:])

    def _key(self, units: Units, room: Room) -> Tensor:
        """Keys, where those of the batch before were."""
        at = units.numbers(self._group.b[:, None], self._kv_head[:, None], self._units)
        found = room.of((at.numel(), units.all.shape[1]), units.all)
        torch.index_select(units.all, 0, at.view(-1), out=found)
        return found.view(len(at), 1, at.shape[1] * self._size, -1)

    def _kept(self) -> Mask | None:
        """The pairs to keep of blocks that are not full."""
        sizes, tiles = self.given.sizes, self._tiles
        r = tiles.inside(self._group.first)[:, None, :, None].cpu().numpy()
        j = self._units[:, None, None].cpu().numpy()
        kept: Any = (j >= 0) & (j < sizes.m) & (r >= 0) & (r < sizes.n)
        if tiles.walk.keep is not None:
            kept = kept & tiles.walk.keep(**sizes.names, r=r, j=j)
        if (listed := self._listed()) is not None:
            kept = kept & listed.cpu().numpy()
        every = np.array(np.broadcast_to(kept, (len(j), tiles.members, r.shape[2], j.shape[3])))
        return mask_of(every.reshape(*self._shape, -1), self.given.rows[0].dtype, self._where.device)

    def _padded(self) -> Mask | None:
        """All pairs of the blocks that are listed."""
        if (listed := self._listed()) is None:
            return None
        bias = torch.where(listed, 0.0, -torch.inf).to(self.given.rows[0].dtype)
        return Mask(bias.expand(*self._shape, -1), None)

    def _listed(self) -> Tensor | None:
        """`[tiles, 1, 1, keys]`: those of blocks that are listed; None for all."""
        group = self._group
        if group.equal:
            return None
        there = torch.arange(group.blocks.shape[1], device=group.b.device) < group.real[:, None]
        return there.repeat_interleave(self._tiles.walk.block, 1)[:, None, None]

    def place(self) -> Place:
        """Where the pairs are, for a pass with `places`."""
        assert self.given.places is not None
        (n, _, offset, key_offset), group, tiles = self.given.sizes, self._group, self._tiles
        i = tiles.inside(group.first)[:, None].clamp(0, n - 1).expand(-1, tiles.members, -1) + offset
        j = self._units * self._size
        if self._size > 1:
            j = (j[..., None] + torch.arange(self._size, device=j.device)).flatten(1)
        head = group.head[:, None] * tiles.members + torch.arange(tiles.members, device=i.device)
        stream = self.given.places[2][group.b[:, None], head, 0]
        head, stream = (x[..., None].expand(i.shape) for x in (head, stream))
        i, head, stream = (x.reshape(*self._shape, 1) for x in (i, head, stream))
        return Place(i, j[:, None, None] + key_offset, head, stream)

    def put(self, values: Sequence[Tensor], change: Change) -> None:
        """Change the results of the rows."""
        by_row, unit, where = (x.flatten(0, 2) for x in values), self._tiles.unit, self._where
        found = [x.view(len(where), unit, *x.shape[1:]) for x in by_row]
        if self._present is not None:
            where, found = where[self._present], [x[self._present] for x in found]
        self._tiles.put(where, found, change)

    def add(self, grads: Sequence[Tensor]) -> None:
        """Add `[tiles, 1, keys, D]` to the sums of the keys, in a fixed order."""
        first = (self._group.b * self.given.kv_heads + self._kv_head) * (self.given.sizes.m // self._size)
        where = (first[:, None] + self._units).view(-1)
        for x, grad in zip(self.given.sums, grads, strict=True):
            x.add_units(where, grad, self._size)
