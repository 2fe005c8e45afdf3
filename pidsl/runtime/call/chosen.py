"""The blocks that a call lists, in the order in which programs visit them: by query blocks, and by key blocks.

    blocks   int32 [B, H, R, K]: for row r of the lists, numbers of blocks of keys; any order, repeats, -1 for none

Row r of a batch entry is that of query block x: of a uniform call `x = r + offset // queries`; of a ragged one, rows of
a sequence begin where those of the one before it in its batch entry end. All of it happens on the device of q, and
nothing waits for it, but for the check of the numbers: `PIDSL_CHECK_VALUES=0` turns that off, and a graph that is
captured has none; what is out of range attends nothing then.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pidsl.language.chosen import Selection
from pidsl.runtime.call.arguments import Fault, check_form, raise_faults
from pidsl.runtime.call.call import Positions, Where
from pidsl.runtime.call.ragged import checked
from pidsl.runtime.call.segments import COLUMNS
from pidsl.runtime.call.segments import Sequence as One

Listed = tuple[int, int, int]  # block, budget and queries of what calls list

NEVER = 2**31 - 1  # sorts behind every block


class Choice(NamedTuple):
    """What a program says of its lists.

    Args:
        block, budget, queries: as of `pidsl.chosen`.
        full: over (n, m, offset, key_offset, x, y), arrays of any kind: blocks of which every pair is wanted.
    """

    block: int
    budget: int
    queries: int
    full: Callable[..., Any]


def check_blocks(blocks: Any, choice: Listed, given: tuple[Tensor, Tensor], positions: Any) -> list[Fault]:
    """Faults of the lists of a call, but for their numbers.

    Args:
        blocks: what was given.
        choice: what it should list.
        given: q and k.
        positions: of a uniform call, or anything else.
    """
    (q, k), (_, most, size) = given, choice
    said = f"int32 [batch, 1 or kv_heads or heads, query blocks, up to {most}]"
    if blocks is None:
        hint = "kernel(q, k, v, blocks=lists), lists that a selector of pidsl.select makes"
        return [Fault("blocks", "nothing", f"{said}: the pattern has {choice} chosen by each call", hint)]
    if fault := check_form("blocks", blocks, said.removeprefix("int32 ")):
        return [fault]
    faults = []
    if blocks.dtype != torch.int32:
        faults.append(Fault("blocks", f"dtype {blocks.dtype}", "int32", "blocks.int()"))
    if blocks.device != q.device:
        faults.append(Fault("blocks", f"device {blocks.device}", f"{q.device}, that of q", "blocks.to(q.device)"))
    batch, heads, rows, budget = blocks.shape
    uniform = isinstance(positions, Positions)
    want = blocks_of(positions.offset, q.shape[2], size) if uniform else rows
    wrong = batch != q.shape[0] or heads not in (1, k.shape[1], q.shape[1]) or rows != want
    if wrong or budget > most:
        sizes = " or ".join(map(str, dict.fromkeys((1, k.shape[1], q.shape[1]))))
        expected = f"[{q.shape[0]}, {sizes}, {want}, up to {most}]"
        what = f"a row for each block of {size} query positions, at most {most} blocks in it"
        faults.append(Fault("blocks", f"shape {list(blocks.shape)}", f"{expected}: {what}"))
    return faults


def blocks_of(offset: Any, rows: Any, size: int) -> Any:
    """How many blocks of positions some rows have."""
    return (offset + rows - 1) // size - offset // size + 1 if rows else 0


class Lists(NamedTuple):
    """The lists of a call, every block once.

    Args:
        entries: int32 [B, H, R, K]: first the full blocks, ascending, then the others, ascending; then NEVER. All keys
            of a full block exist.
        full: int32 [B, H, R], how many are full;
        listed: and how many there are.
        rows: what the rows of the lists are.
    """

    entries: Tensor
    full: Tensor
    listed: Tensor
    rows: Rows


class Rows(NamedTuple):
    """What every row of the lists is: int64 tensors [B, 1, R, 1], or numbers where all rows have the same.

    Args:
        x: the query block,
        size: and its queries.
        n, m, offset, key_offset: the lengths and offsets of its sequence.
        first, last: the first and the last block of keys that there are of it; last < first: none.
        owner: the number of block `first` among the key blocks of the batch entry.
        owners: key blocks of a batch entry at most.
    """

    x: Any
    size: int
    n: Any
    m: Any
    offset: Any
    key_offset: Any
    first: Any
    last: Any
    owner: Any
    owners: int


def rows_of(choice: Choice, where: Where, shape: tuple[int, int, int], rows: int, device: torch.device) -> Rows:
    """What the rows of the lists of a call are.

    Args:
        choice: the sizes of blocks.
        where: the positions of the call.
        shape: B, n and m of q and k.
        rows: R.
        device: of q.
    """
    batch, n, m = shape
    index = torch.arange(rows, device=device)
    if isinstance(where, Positions):
        first, last = where.key_offset // choice.block, (where.key_offset + m - 1) // choice.block
        x = (index + where.offset // choice.queries)[None, None, :, None]
        return Rows(x, choice.queries, n, m, where.offset, where.key_offset, first, last, 0, last - first + 1)
    table = where.table.long()
    of, _, length, offset, _, keys, key_offset = table.unbind(1)[: len(COLUMNS)]
    counts = spans(offset, length, choice.queries)
    key_counts = spans(key_offset, keys, choice.block)
    begin, owner = (first_rows(of, x) for x in (counts, key_counts))
    if checked(device) and len(table):
        _check_rows(int((begin + counts).max()), rows, choice.queries)
    # the sequence of each row: the last one of its batch entry that begins at it or before
    own = torch.zeros(batch, rows + 1, dtype=torch.int64, device=device)
    number = torch.arange(len(table), device=device)
    own.view(-1).scatter_reduce_(
        0, of * (rows + 1) + torch.where(counts > 0, begin, rows).clamp(max=rows), number, "amax"
    )
    own = own[:, :rows].cummax(1).values
    there = (
        (own < len(table))
        & (index - begin[own] < counts[own])
        & (of[own] == torch.arange(batch, device=device)[:, None])
    )

    def each(column: Tensor) -> Tensor:
        return column[own][:, None, :, None]

    start = each(key_offset) // choice.block
    end = torch.where(there[:, None, :, None], start + each(key_counts) - 1, start - 1)
    x = (index - begin[own])[:, None, :, None] + each(offset) // choice.queries
    most = where.all_keys // choice.block + 2 * len(table)
    places = each(length), each(keys), each(offset), each(key_offset)
    return Rows(x, choice.queries, *places, start, end, each(owner), most)


def _check_rows(most: int, rows: int, queries: int) -> None:
    if most > rows:
        expected = f"{most} rows or more: the blocks of {queries} queries of all sequences of a batch entry"
        raise_faults([Fault("blocks", f"{rows} rows", expected)], "kernel(q, k, v, blocks=...)")


def lists_by_sequence(blocks: Tensor, sequences: Sequence[One], queries: int) -> list[Tensor]:
    """The lists of each sequence `[1, H, its blocks of queries, K]`.

    Args:
        blocks: of the call.
        sequences: in order, entry by entry.
        queries: of a block.

    Raises:
        ArgumentError: fewer rows than the sequences of a batch entry have blocks.
    """
    found, entry, stop = [], -1, 0
    for one in sequences:
        first = stop if one.batch == entry else 0
        entry, stop = one.batch, first + blocks_of(one.offset, one.rows, queries)
        _check_rows(stop, blocks.shape[2], queries)
        found.append(blocks[entry : entry + 1, :, first:stop])
    return found


def spans(offset: Tensor, length: Tensor, size: int) -> Tensor:
    """How many blocks of positions sequences have rows (keys) in."""
    whole = (offset + length - 1).div(size, rounding_mode="floor") - offset.div(size, rounding_mode="floor") + 1
    return torch.where(length > 0, whole, 0)


def first_rows(of: Tensor, spans: Tensor) -> Tensor:
    """Where the rows of each sequence begin among those of its batch entry: sequences are in order, entry by entry."""
    ends = spans.cumsum(0)
    before = ends - spans
    start = torch.searchsorted(of.contiguous(), of.contiguous())  # the first sequence of the same batch entry
    return before - before[start]


def lists_of(blocks: Tensor, choice: Choice, rows: Rows, check: bool = True) -> Lists:
    """The lists, sorted, and checked where that is asked for.

    Raises:
        ArgumentError: a number that is neither -1 nor a block of keys that there is.
    """
    there = (blocks >= rows.first) & (blocks <= rows.last)
    if check:
        check_range(blocks, there | (rows.last < rows.first), rows.first, rows.last)  # rows of no sequence are not read
    found = torch.where(there, blocks, NEVER).sort(dim=-1).values
    repeated = torch.zeros_like(there)
    repeated[..., 1:] = found[..., 1:] == found[..., :-1]
    listed = (found < NEVER) & ~repeated
    y = torch.where(listed, found, 0).long()
    lengths = {"n": rows.n, "m": rows.m, "offset": rows.offset, "key_offset": rows.key_offset}
    full = torch.as_tensor(choice.full(**lengths, x=rows.x, y=y), device=blocks.device) & listed
    full &= (y * choice.block >= rows.key_offset) & ((y + 1) * choice.block <= rows.key_offset + rows.m)
    # where each goes: full ones, others, what is not listed
    before, others = full.cumsum(-1), (listed & ~full).cumsum(-1)
    rest = torch.arange(found.shape[-1], device=blocks.device) - before - others
    first, second = before[..., -1:], others[..., -1:]
    place = torch.where(full, before - 1, torch.where(listed, first + others - 1, first + second + rest))
    entries = torch.empty_like(found).scatter_(-1, place, torch.where(listed, found, NEVER))
    return Lists(entries, full.sum(-1, dtype=torch.int32), listed.sum(-1, dtype=torch.int32), rows)


class Transposed(NamedTuple):
    """The lists by key blocks: which query blocks list each.

    Args:
        entries: int32 [B * H * R * K], the rows (of q, counted from the first row of the sequence) that query blocks
            begin with, some before row 0; for each owner those to which it is full, ascending, then the others,
            ascending. No full one begins before row 0.
        begin: int32 [B * H * owners + 1], where those of owner `(b * H + h) * owners + key block` begin,
        full: int32 [B * H * owners], and how many of them are full.
        owners: key blocks of a batch entry at most.
    """

    entries: Tensor
    begin: Tensor
    full: Tensor
    owners: int


def transposed(lists: Lists) -> Transposed:
    """By a stable sort: the same order in every run."""
    (batch, heads, _, budget), rows = lists.entries.shape, lists.rows
    device, owners = lists.entries.device, rows.owners
    at = torch.arange(budget, device=device)
    listed, full = at < lists.listed[..., None], at < lists.full[..., None]
    group = torch.arange(batch * heads, device=device).view(batch, heads, 1, 1) * owners
    owner = group + rows.owner + lists.entries - rows.first
    none = batch * heads * owners
    full = full & (rows.x * rows.size >= rows.offset)
    # every owner twice: the rows to which it is full, then the others
    key = torch.where(listed, 2 * owner + (~full).long(), 2 * none).view(-1)
    order = key.sort(stable=True)
    start = (rows.x * rows.size - rows.offset).expand(listed.shape).reshape(-1)
    ends = torch.searchsorted(order.values, torch.arange(2 * none + 1, device=device), out_int32=True)
    return Transposed(start[order.indices].int(), ends[::2].contiguous(), ends[1::2] - ends[:-1:2], owners)


def check_range(given: Tensor, there: Tensor, first: Any, last: Any) -> None:
    """Raise for a number in lists that is neither -1 nor a block of keys that there is; not if that is turned off.

    Args:
        given: the lists.
        there: of the same shape, the numbers that are first .. last.
        first, last: blocks of keys, numbers or tensors.
    """
    if not checked(given.device) or os.environ.get("PIDSL_CHECK_VALUES", "1") == "0":
        return
    wrong = ~there & (given != -1)
    if not bool(wrong.any()):
        return
    at = wrong.nonzero()[0].tolist()
    first, last = (int(torch.as_tensor(x).expand(given.shape)[tuple(at)]) for x in (first, last))
    got = f"blocks[{', '.join(map(str, at))}] = {int(given[tuple(at)])}"
    expected = f"-1, or a block of keys that there is: {first} .. {last}"
    hint = "blocks.masked_fill(blocks > last, -1), or PIDSL_CHECK_VALUES=0, which leaves out what is out of range"
    raise_faults([Fault("blocks", got, expected, hint)], "kernel(q, k, v, blocks=...)")


def listed_at(blocks: Tensor, choice: Selection, rows: range, keys: tuple[int, int], at: Tensor) -> Tensor:
    """bool [B, H, rows, keys]: whether the lists of rows have the block of a key.

    Args:
        blocks: of the rows.
        choice: what they list.
        rows: their positions.
        keys: from the first position on that has a key, and to which: those between may be listed.
        at: int64 [keys], their positions, or any negative number.

    Raises:
        ArgumentError: a number that is neither -1 nor a block of keys that there is.
    """
    block, _, queries = choice.numbers
    first, last = keys[0] // block, (keys[1] - 1) // block
    there = (blocks >= first) & (blocks <= last)
    check_range(blocks, there, first, last)
    table = torch.zeros(*blocks.shape[:3], last + 2, dtype=torch.bool, device=blocks.device)
    table.scatter_(-1, torch.where(there, blocks, last + 1).long(), True)
    table[..., last + 1] = False
    at = at.to(blocks.device)
    row = torch.arange(rows.start, rows.stop, device=at.device) // queries - rows.start // queries
    return table[:, :, row][..., torch.where(at < 0, last + 1, at // block).clamp(max=last + 1)]
