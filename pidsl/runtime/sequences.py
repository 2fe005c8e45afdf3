"""Ragged calls: their table as an op of torch, and programs that run one sequence after the other.

Rows and keys of a sequence are views of those of the batch; what is outside of all sequences is not touched: 0, lse
-inf, no gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pidsl.language.chosen import Selection
from pidsl.runtime.call.call import Call, Positions
from pidsl.runtime.call.chosen import listed_at, lists_by_sequence
from pidsl.runtime.call.ragged import Batch, table_of
from pidsl.runtime.call.segments import COLUMNS, Pages, Segments, Slots
from pidsl.runtime.call.segments import Sequence as One
from pidsl.runtime.call.sums import accumulator

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Forward = Callable[[Call], tuple[Tensor, Tensor]]
Backward = Callable[[Call, Tensor, Tensor, Tensor | None, Tensor | None], Sequence[Tensor | None]]


def segments(q: Tensor, k: Tensor, batch: Batch, square: bool, traced: bool) -> Segments:
    """The sequences of a call.

    Args:
        q, k: of the call.
        batch: what it says of them.
        square: the pattern asks for as many queries as keys.
        traced: torch records a graph, which has an op for this.

    Raises:
        ArgumentError: values that do not fit q and k.
    """
    sizes = [q.shape[0], q.shape[2], k.shape[2], int(square)]
    if traced:
        table = sequences(q, batch.kind, list(batch.tensors), list(batch.numbers), sizes)
    else:
        table = table_of(batch.kind, batch.tensors, batch.numbers, sizes, q.device)
    return batch.segments(q, k, table)


@torch.library.custom_op("pidsl::sequences", mutates_args=())
def sequences(q: Tensor, kind: str, tensors: list[Tensor | None], numbers: list[int], sizes: list[int]) -> Tensor:
    """`table_of`, on the device of q; values are looked at when the graph runs."""
    return table_of(kind, tensors, numbers, sizes, q.device)


@sequences.register_fake
def _table_shape(q: Tensor, kind: str, tensors: Any, numbers: Any, sizes: Any) -> Tensor:
    # a size of its own, so that no graph is for one document alone, nor for more than one
    count: Any = sizes[0] if kind == "entries" else torch.library.get_ctx().new_dynamic_size()
    return q.new_empty((count, len(COLUMNS) + 1), dtype=torch.int32)


# -- one after the other -----------------------------------------------------------------------------------------


def forward(call: Call, run: Forward, choice: Selection | None = None) -> tuple[Tensor, Tensor]:
    """(out, lse) of a ragged call, by `run` of calls that are not; `choice`: what its lists are of, if it has some."""
    out, lse = _nothing(call)
    for one, own in _each(call, choice):
        part, part_lse = run(own)
        _rows(out, one).copy_(part)
        _rows(lse, one).copy_(part_lse)
    return out, lse


def _nothing(call: Call) -> tuple[Tensor, Tensor]:
    """(out, lse) of rows that are in no sequence; where there are none, they are written for all."""
    shape, dtype, width = call.q.shape[:3], accumulator(call.q.dtype), call.v.shape[3]
    lse = call.q.new_full(shape, -torch.inf, dtype=dtype)
    if isinstance(call.positions, Segments) and call.positions.whole:  # packed: token by token, as q
        return call.q.new_empty((shape[0], shape[2], shape[1], width)).transpose(1, 2).detach(), lse
    return call.q.new_zeros((*shape, width)), lse


class Picking(Protocol):
    """What a program that is not `ragged` offers where keys lie in slots or on pages.

    `attends(n, m, i, j)` says which keys at positions j (-1: none) queries at positions i attend, bool [queries, keys],
    at most where calls choose, and `attends_anyway` at least;
    `picked(call, keep, at)` is (out, lse) of a call whose keys stand at positions `at`, of which rows keep some, bool
    [rows, keys] or [B, Hq, rows, keys].
    """

    attends: Callable[[int, int, Ints, Ints], Bools]
    attends_anyway: Callable[[int, int, Ints, Ints], Bools]
    picked: Callable[[Call, Bools, Ints], tuple[Tensor, Tensor]]


def from_cache(call: Call, program: Picking, run: Forward, choice: Selection | None = None) -> tuple[Tensor, Tensor]:
    """(out, lse) of a call whose keys lie in slots or on pages: those that a row attends are gathered, no others.

    Of lists, the blocks of all heads are gathered.
    """
    assert isinstance(call.positions, Segments)
    q, at = call.q, call.positions.keys_at
    assert at is not None
    out, lse = _nothing(call)
    places = at.positions.cpu().numpy() if isinstance(at, Slots) else at.table.cpu().numpy()
    of = [one for one in call.positions.on_host if one.rows]
    lists = [] if choice is None else lists_by_sequence(call.inputs["blocks"], of, choice.numbers[2])
    first = 0
    while first < len(of):
        one, last = of[first], first + 1
        while isinstance(at, Slots) and last < len(of) and _alike(one, of[last], last - first, places):
            last += 1
        entries = slice(one.batch, one.batch + last - first)
        positions = places[one.batch].astype(np.int64) if isinstance(at, Slots) else _on_pages(places[one.batch], at)
        i = np.arange(one.offset, one.offset + one.rows)
        keep = program.attends(one.offset + one.rows, one.keys, i, positions)
        if choice is not None:
            blocks, span = torch.cat(lists[first:last]), range(i[0], i[-1] + 1)
            listed = listed_at(blocks, choice, span, (one.key_offset, one.keys), torch.from_numpy(positions))
            keep = keep & listed.repeat_interleave(q.shape[1] // blocks.shape[1], 1).cpu().numpy()
            keep |= program.attends_anyway(one.offset + one.rows, one.keys, i, positions)
        keep &= (positions >= one.key_offset) & (positions < one.keys)
        used = np.flatnonzero(keep.any(tuple(range(keep.ndim - 1))))
        rows = (entries, slice(None), slice(one.row, one.row + one.rows))
        k, v = (_gathered(x, at, entries, used, positions) for x in (call.k, call.v))
        inputs = {name: x for name, x in call.inputs.items() if name != "blocks"}
        if "seed" in inputs:
            inputs = {**inputs, "stream": first * q.shape[1]}
        own = Call(q[rows], k, v, call.scale, Positions(one.offset), inputs)
        found = program.picked(own, keep[..., used], positions[used]) if len(used) else run(own)
        if found[1].shape == lse.shape:
            return found
        out[rows], lse[rows] = found
        first = last
    return out, lse


def _alike(a: One, b: One, apart: int, places: Any) -> bool:
    """Whether a sequence is the one of a later batch entry, its keys at the same places."""
    same = b._replace(batch=a.batch) == a and b.batch == a.batch + apart
    return same and bool((places[a.batch] == places[b.batch]).all())


def _on_pages(table: Any, at: Pages) -> Ints:
    """The positions on the pages of a sequence; -1 on those that were given back."""
    positions: Ints = np.arange(len(table) * at.size).reshape(-1, at.size)
    return np.where(table[:, None] >= 0, positions, -1).reshape(-1)


def _gathered(x: Tensor, at: Slots | Pages, entries: slice, used: Ints, positions: Ints) -> Tensor:
    """Keys or values [entries, Hkv, used, D]."""
    if isinstance(at, Slots):
        mine = x[entries]
        return mine if len(used) == x.shape[2] else mine.index_select(2, torch.from_numpy(used).to(x.device))
    where = torch.from_numpy(positions[used]).to(x.device)
    page = at.table[entries.start, where // at.size].long()
    return x[page, :, where % at.size].transpose(0, 1)[None]


def backward(
    call: Call,
    results: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    run: Backward,
    choice: Selection | None = None,
) -> tuple[Tensor | None, ...]:
    """The gradients of `call.tensors`, by `run` of calls that are not ragged.

    Args:
        call: of which there are
        results: out and lse,
        grads: and their gradients; None is zero.
        run: takes a call, its results and their gradients.
        choice: what its lists are of, if it has some.
    """
    out, lse = results
    total: list[Tensor | None] = [torch.zeros_like(x) if x.is_floating_point() else None for x in call.tensors]
    for one, own in _each(call, choice):
        of_out, of_lse = (None if x is None else _rows(x, one) for x in grads)
        found = run(own, _rows(out, one), _rows(lse, one), of_out, of_lse)
        for x, grad in enumerate(found):
            sums = total[x]
            if grad is None or sums is None:
                total[x] = None
            elif x < 3:
                (_rows if x == 0 else _keys)(sums, one).copy_(grad)
            else:
                sums += grad
    return tuple(total)


def _each(call: Call, choice: Selection | None) -> Iterator[tuple[One, Call]]:
    """The sequences that have rows, each with a call of its own."""
    assert isinstance(call.positions, Segments)
    heads, all_of = call.q.shape[1], call.positions.on_host
    lists = [] if choice is None else lists_by_sequence(call.inputs["blocks"], all_of, choice.numbers[2])
    for number, one in enumerate(all_of):
        if one.rows == 0:
            continue
        inputs: Mapping[str, Any] = call.inputs
        if lists:
            inputs = {**inputs, "blocks": lists[number]}
        if "seed" in inputs:
            inputs = {**inputs, "stream": number * heads}
        yield one, Call(
            _rows(call.q, one), _keys(call.k, one), _keys(call.v, one), call.scale,
            Positions(one.offset, one.key_offset), inputs,
        )  # fmt: skip


def _rows(x: Tensor, one: One) -> Tensor:
    return x[one.batch : one.batch + 1, :, one.row : one.row + one.rows]


def _keys(x: Tensor, one: One) -> Tensor:
    return x[one.batch : one.batch + 1, :, one.key : one.key + one.keys]
