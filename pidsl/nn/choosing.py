"""Lists of a module's selector, for the tokens of a call: of one sequence, of several, behind those of a cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from pidsl.errors import ArgumentError
from pidsl.nn.places import Place
from pidsl.runtime.call.arguments import Fault, raise_faults
from pidsl.runtime.call.chosen import Listed, blocks_of, check_blocks, check_range, spans
from pidsl.runtime.call.ragged import checked

if TYPE_CHECKING:
    from pidsl.select.selector import Selector, State


def check_selector(select: Any, choice: Listed | None, pattern: object, where: str) -> None:
    """Raise for a selector that does not list what a pattern chooses.

    Args:
        select: the selector, or None.
        choice: what the pattern's calls list, or None.
        pattern: the pattern, for the message.
        where: the call.

    Raises:
        ArgumentError: no selector; one for a pattern without a choice, or of other blocks, or of a larger budget. A
            choice without a selector is no fault: its calls are given lists.
    """
    if select is None:
        return
    if missing := [x for x in ("block", "budget", "queries", "start") if not hasattr(select, x)]:
        raise ArgumentError(f"select without {missing[0]}: {select!r}", "a pidsl.select.Selector", where)
    if choice is None:
        hint = f"{pattern!r} | pidsl.chosen(select.block, select.budget, select.queries)"
        raise ArgumentError(f"select with {pattern!r}", "a pattern with a choice", where, hint)
    block, budget, queries = choice
    if (select.block, select.queries) != (block, queries) or select.budget > budget:
        got = f"a selector of {select.budget} blocks of {select.block} for {select.queries} queries"
        expected = f"at most {budget} blocks of {block} for {queries} queries, as {pattern!r} has"
        raise ArgumentError(got, expected, where, "pidsl.chosen(select.block, select.budget, select.queries)")


class Apart(NamedTuple):
    """What a selector keeps of batch entries that have different numbers of tokens.

    Args:
        states: of each entry alone.
    """

    states: tuple[State, ...]

    @property
    def length(self) -> Tensor:
        """int64 [B], tokens of each entry."""
        return torch.tensor([x.length for x in self.states])

    def reordered(self, indices: Tensor) -> Apart:
        """The states whose entry b is entry `indices[b]` of these."""
        return Apart(tuple(self.states[b] for b in indices.tolist()))


def lists(select: Selector, q: Tensor, k: Tensor, where: Place) -> tuple[Tensor, Any]:
    """The lists of all query blocks of a call of a module, int32 [B, heads, query blocks, at most budget].

    Args:
        select: the selector.
        q, k: as it takes them.
        where: where the tokens stand.

    Returns:
        the lists, and what is to be kept beside the cache once its tokens are appended; None without one.

    Raises:
        ArgumentError: tokens that begin behind position 0; a cache whose tokens came another way.
    """
    call, name = where.call, "the selector of SparseAttention(...)"
    if where.cache is not None:
        real = None
        if where.lengths is not None:
            end = torch.as_tensor(where.lengths, device=q.device).expand(q.shape[0])
            real = torch.zeros_like(end), end
        return lists_behind(select, q, k, where.cache, real)
    offset = call.get("offset", 0)
    if checked(q.device) and bool((torch.as_tensor(offset) > 0).any()):
        expected = "at most 0: blocks of keys are counted from the first one on"
        hint = "layer(x, cache=cache), a cache that the tokens before came to"
        raise_faults([Fault("offset", f"{int(torch.as_tensor(offset).max())}", expected, hint)], name)
    return lists_of_call(select, q, k, call), None


def check_lists(blocks: Any, choice: Listed, q: Tensor, k: Tensor, cache: Any) -> None:
    """Raise for lists that a step does not take, before its tokens are put into a cache.

    Args:
        blocks: what was given.
        choice: what it should list.
        q, k: of the tokens.
        cache: what their keys are put into afterwards.

    Raises:
        ArgumentError: what the kernel would say of them.
    """
    block, _, queries = choice
    raise_faults(check_blocks(blocks, choice, (q, k), None), "layer(x, cache=cache, blocks=...)")
    if not checked(q.device):
        return
    rows = spans(cache.tokens, torch.full_like(cache.tokens, q.shape[2]), queries)
    if blocks.shape[2] < int(rows.max()):
        expected = f"{int(rows.max())} rows: the blocks of {queries} queries that the tokens lie in"
        raise_faults([Fault("blocks", f"{blocks.shape[2]} rows", expected)], "layer(x, cache=cache, blocks=...)")
    last = ((cache.tokens + q.shape[2] - 1) // block)[:, None, None, None]
    unread = torch.arange(blocks.shape[2], device=q.device)[:, None] >= rows[:, None, None, None]
    check_range(blocks, unread | (blocks >= 0) & (blocks <= last), 0, last)


def lists_of_call(select: Selector, q: Tensor, k: Tensor, call: Mapping[str, Any]) -> Tensor:
    """The lists of all query blocks of a call of a kernel.

    Args:
        select: the selector.
        q, k: as it takes them.
        call: what the kernel is told of where rows and keys stand; keys from position 0 on.
    """
    if "documents" in call:
        return _of_runs(select, q, k, call["documents"])
    n, m = q.shape[2], k.shape[2]
    usual = {"offset": 0, "key_offset": 0, "lengths": n, "key_lengths": m}
    given = {name: call.get(name, value) for name, value in usual.items()}
    if all(isinstance(x, int) for x in given.values()):
        offset, first, rows, keys = given.values()
        if first == 0 and rows == n and keys >= offset + n:  # what lies behind the last query plays no part
            return select(q, k, offset=offset)
    found = []
    for b in range(q.shape[0]):
        offset, first, rows, keys = (int(x[b]) if isinstance(x, Tensor) and x.dim() else int(x) for x in given.values())
        start = max(0, offset)
        there = k[b : b + 1, :, max(0, -first) : keys]
        own = q[b : b + 1, :, max(0, -offset) : rows]
        known = own[:, :, : max(0, there.shape[2] - start)]  # rows behind the last key are padding
        lists = select(known, there, offset=start)
        count = blocks_of(start, own.shape[2], select.queries)
        found.append(pad(lists, (0, 0, 0, count - lists.shape[2]), value=-1))
    return _stacked(found)


def lists_behind(
    select: Selector, q: Tensor, k: Tensor, cache: Any, real: tuple[Tensor, Tensor] | None = None, *, new: bool = True
) -> tuple[Tensor, Any]:
    """The lists of tokens that come to a cache, whose `beside` is what the selector keeps of those in it.

    Args:
        select: the selector.
        q, k: of the tokens, as it takes them.
        cache: what their keys are put into afterwards.
        real: int [B] each, the first row of every batch entry that is no padding, and the one after the last; None:
            all rows are tokens.
        new: whether they come; or else are in the cache, and the selector knows them.

    Returns:
        the lists, and what is to be kept beside the cache.

    Raises:
        ArgumentError: tokens of the cache that the selector has not seen.
    """
    state = cache.beside
    if state is None:
        state = select.start(k.shape[0], k.shape[1], k.shape[3], dtype=k.dtype, device=k.device)
    if new and checked(q.device):
        known = torch.as_tensor(state.length, device=q.device)
        if bool((cache.tokens != known).any()):
            got = f"a cache of {int(cache.tokens.max())} tokens, of which the selector knows {int(known.max())}"
            hint = "cache.clear(), and the prompt again: after cache.crop(...), or tokens that other calls appended"
            raise ArgumentError(got, "tokens that came with their queries", "the selector of a module", hint)
    if real is None and not isinstance(state, Apart):
        state = select.append(state, k) if new else state
        return select.step(q, state), state
    n = q.shape[2]
    rows = [(0, n)] * q.shape[0] if real is None else list(zip(*(x.tolist() for x in real), strict=True))
    found, states = [], []
    for b, (first, end) in enumerate(rows):
        own = slice(first, end)
        part = state.states[b] if isinstance(state, Apart) else _entry(state, b)
        part = select.append(part, k[b : b + 1, :, own]) if new else part
        lists = select.step(q[b : b + 1, :, own], part)
        # rows of a step that are no tokens of it stand before these, where the entry has others
        shown = min(n, part.length)
        before = blocks_of(part.length - shown, shown, select.queries) - lists.shape[2]
        behind = max(0, blocks_of(0, n, select.queries) - before - lists.shape[2])
        found.append(pad(lists, (0, 0, before, behind), value=-1))
        states.append(part)
    return _stacked(found), Apart(tuple(states))


def _entry(state: State, b: int) -> State:
    """What is kept of one batch entry."""
    return replace(state, summaries=state.summaries[b : b + 1], tail=state.tail[b : b + 1])


def _of_runs(select: Selector, q: Tensor, k: Tensor, documents: Tensor) -> Tensor:
    """Of documents, by an id for each token; negative ones are padding."""
    found = []
    for b, ids in enumerate(documents.tolist()):
        runs, start = [q.new_empty((1, 1, 0, 0), dtype=torch.int32)], 0
        for name, run in groupby(ids):
            stop = start + len(list(run))
            if name >= 0:
                runs.append(select(q[b : b + 1, :, start:stop], k[b : b + 1, :, start:stop]))
            start = stop
        most, heads = (max(x.shape[axis] for x in runs) for axis in (3, 1))
        runs = [pad(x.expand(-1, heads, -1, -1), (0, most - x.shape[3]), value=-1) for x in runs]
        found.append(torch.cat(runs, 2))
    return _stacked(found)


def _stacked(found: list[Tensor]) -> Tensor:
    """Lists of batch entries as one tensor, filled up."""
    rows, most = (max(x.shape[axis] for x in found) for axis in (2, 3))
    return torch.cat([pad(x, (0, most - x.shape[3], 0, rows - x.shape[2]), value=-1) for x in found])
