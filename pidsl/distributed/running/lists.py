"""Blocks that each call chooses: which keys a rank needs for its lists, and who asks whom for them.

The lists of a rank have a row for each block of its query positions, run after run, and in a run document after
document. Blocks and positions count from the start of a document; without documents all tokens are one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from pidsl.distributed.running.agree import watched
from pidsl.distributed.running.exchange import Group
from pidsl.distributed.running.meetings import Lists
from pidsl.distributed.running.needs import Need, Sizes, numbered
from pidsl.distributed.running.sequences import Documents
from pidsl.distributed.tokens.images import image
from pidsl.distributed.tokens.runs import Ints, Run
from pidsl.distributed.tokens.shards import Shards
from pidsl.language.chosen import possible, selection
from pidsl.language.terms import Term
from pidsl.runtime.call.chosen import blocks_of, check_range

Keys = Mapping[tuple[int, int], Ints]  # by batch entry and key head: positions, ascending


class Row(NamedTuple):
    """A row of the lists of a rank.

    Args:
        at: its number.
        run: the run of the rank that its queries are in.
        start, tokens: of the document.
        queries: positions in the document.
    """

    at: int
    run: int
    start: int
    tokens: int
    queries: Run


def rows_of(home: Shards, rank: int, documents: Documents | None, entry: int, size: int) -> list[Row]:
    """The rows of the lists of a batch entry.

    Args:
        home, rank: whose.
        documents: where they lie; None: all tokens are one.
        entry: of the batch.
        size: queries of a block.
    """
    mine = [(0, home.n)] if documents is None else [(start, count) for of, start, count in documents if of == entry]
    found: list[Row] = []
    for number, run in enumerate(home.runs(rank)):
        for start, count in mine:
            first, stop = max(run.first, start) - start, min(run.last + 1, start + count) - start
            for x in range(first // size, first // size + blocks_of(first, max(0, stop - first), size)):
                low, high = max(first, x * size), min(stop, (x + 1) * size)
                found.append(Row(len(found), number, start, count, Run(low, high - low)))
    return found


def check_lists(blocks: Tensor, rows: Sequence[Sequence[Row]], block: int) -> None:
    """Raise for lists that have fewer rows than a rank needs, or blocks that a document has not.

    Args:
        blocks: int32 [B, H, R, K].
        rows: those of each batch entry, or of all.
        block: keys of a block.
    """
    last = np.full((len(rows), blocks.shape[2]), -1, np.int64)
    for entry, own in enumerate(rows):
        for row in own:
            last[entry, row.at] = (row.tokens - 1) // block
    most = torch.from_numpy(last).to(blocks.device)[:, None, :, None]
    there = (blocks >= 0) & (blocks <= most)
    check_range(blocks, there | (most < 0), 0, most)


def listed(
    term: Term, blocks: NDArray[np.int32], rows: Sequence[Sequence[Row]], n: int, groups: Mapping[int, Sequence[int]]
) -> Keys:
    """The keys that the lists of a rank name, and that some query of the row may attend.

    Args:
        term: a pattern with `chosen`.
        blocks: [B, H, R, K].
        rows: those of each batch entry, or of all.
        n: tokens.
        groups: by key head, the heads of `blocks` that are about it.
    """
    choice = selection(term)
    assert choice is not None
    block, most = choice.numbers[0], possible(term)
    found: dict[tuple[int, int], Ints] = {}
    for entry in range(blocks.shape[0]):
        marks = {head: np.zeros(n, bool) for head in groups}
        for row in rows[entry if len(rows) > 1 else 0]:
            seen = np.zeros(row.tokens, bool)
            for run in image(most, row.tokens, (row.queries,)):
                seen[run.first : run.last + 1 : run.step] = True
            for head, of in groups.items():
                named = np.unique(blocks[entry, list(of), row.at])
                keys = (named[named >= 0, None].astype(np.int64) * block + np.arange(block)).reshape(-1)
                keys = keys[keys < row.tokens]
                marks[head][row.start + keys[seen[keys]]] = True
        found |= {(entry, head): np.flatnonzero(mark) for head, mark in marks.items()}
    return found


def without(keys: Keys, needs: Sequence[Need], home: Shards, rank: int) -> list[Need]:
    """Of some keys those that a rank neither holds nor is sent anyway."""
    found = []
    for (entry, head), own in keys.items():
        rest = own[home.owner(own) != rank]
        for need in needs:
            if entry in need.entries and head in need.heads:
                rest = np.setdiff1d(rest, need.positions, assume_unique=True)
        if len(rest):
            found.append(Need(np.array([entry]), np.array([head]), rest))
    return found


def asked(
    needs: Sequence[Need], home: Shards, rank: int, sizes: Sizes, group: Group, device: torch.device
) -> list[Tensor]:
    """Which rows each rank asks this one for, in its order: int64, rows [B, H, own tokens] by number.

    Two exchanges of 8 bytes for each rank, and for each row asked for.
    """
    wanted = []
    for owner in range(home.ranks):
        rows = [torch.empty(0, dtype=torch.int64)]
        for entries, heads, positions in needs:
            own = positions[home.owner(positions) == owner]
            rows.append(numbered((entries, heads, home.row(own)), home.rows(owner), sizes))
        wanted.append(torch.cat(rows))
    counts = torch.tensor([len(x) for x in wanted], device=device)
    theirs = torch.empty_like(counts)
    with watched(group, "how many keys ranks ask for", device) as wait:
        wait(dist.all_to_all_single(theirs, counts, group=group, async_op=True))
    splits = theirs.tolist()
    found = torch.empty(sum(splits), dtype=torch.int64, device=device)
    outgoing = torch.cat(wanted).to(device)
    with watched(group, "the keys that ranks ask for", device) as wait:
        wait(dist.all_to_all_single(found, outgoing, splits, counts.tolist(), group=group, async_op=True))
    return list(found.split(splits))


def lists_of_run(rows: Sequence[Sequence[Row]], run: int) -> Lists:
    """The lists of a run of a rank's queries."""
    mine = [[row for row in own if row.run == run] for own in rows]
    most = max(map(len, mine), default=0)
    at, starts = np.full((len(mine), most), -1, np.int64), np.zeros((len(mine), most), np.int64)
    for entry, own in enumerate(mine):
        at[entry, : len(own)] = [row.at for row in own]
        starts[entry, : len(own)] = [row.start for row in own]
    return Lists(at, starts)


def taken_lists(blocks: Tensor, lists: Lists, keys: Run, block: int) -> Tensor:
    """The lists of a call, with those blocks alone of which some key is among the keys of the call."""
    batch, heads, _, budget = blocks.shape
    rows, starts = (torch.from_numpy(x).to(blocks.device).expand(batch, -1) for x in lists)
    if rows.shape[1] == 0:
        return blocks[:, :, :0]
    index = rows.clamp(min=0)[:, None, :, None].expand(-1, heads, -1, budget)
    found = blocks.gather(2, index)
    first = starts[:, None, :, None] + found.long() * block
    there = (rows >= 0)[:, None, :, None] & (found >= 0) & (first <= keys.last) & (first + block > keys.first)
    return torch.where(there, found, -1)
