"""Lists of a module's selector, for the tokens of a call: of one sequence, of several, behind those of a cache."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from pidsl.errors import ArgumentError
from pidsl.language.chosen import Selection
from pidsl.nn.places import Place
from pidsl.runtime.call.arguments import Fault, raise_faults
from pidsl.runtime.call.chosen import blocks_of
from pidsl.runtime.call.ragged import checked

if TYPE_CHECKING:
    from pidsl.select.selector import Selector


def check_selector(select: Any, choice: Selection | None, pattern: object, where: str) -> None:
    """Raise for a selector that does not list what a pattern chooses.

    Args:
        select: the selector, or None.
        choice: what the pattern's calls list, or None.
        pattern: the pattern, for the message.
        where: the call.

    Raises:
        ArgumentError: one without the other is no fault of a pattern: its calls are given lists. A selector without a
            choice is, or one of other blocks, or of a larger budget.
    """
    if select is None:
        return
    if choice is None:
        hint = f"{pattern!r} | pidsl.chosen(select.block, select.budget, select.queries)"
        raise ArgumentError(f"select with {pattern!r}", "a pattern with a choice", where, hint)
    block, budget, queries = choice.numbers
    if (select.block, select.queries) != (block, queries) or select.budget > budget:
        got = f"a selector of {select.budget} blocks of {select.block} for {select.queries} queries"
        expected = f"at most {budget} blocks of {block} for {queries} queries, as {pattern!r} has"
        raise ArgumentError(got, expected, where, "pidsl.chosen(select.block, select.budget, select.queries)")


def lists(select: Selector, q: Tensor, k: Tensor, where: Place) -> Tensor:
    """The lists of all query blocks of a call of a module, int32 [B, heads, query blocks, at most budget].

    Args:
        select: the selector.
        q, k: as it takes them.
        where: where the tokens stand. What is kept of those of a cache is kept beside it.

    Raises:
        ArgumentError: tokens that do not begin at position 0; a cache whose tokens came another way, or of several
            lengths.
    """
    call, name = where.call, "the selector of SparseAttention(...)"
    if where.cache is not None and where.lengths is not None:
        hint = "a prompt of one length for all batch entries, or a batch for each length"
        raise ArgumentError("lengths", "one length, of whose tokens a selector keeps summaries", name, hint)
    if where.cache is not None:
        return lists_behind(select, q, k, where.cache, where.cache.tokens)
    if "offset" in call:
        expected = "0: blocks of keys are counted from the first one on"
        raise_faults([Fault("offset", "a value", expected, "lengths=..., with padding on the right")], name)
    return lists_of_call(select, q, k, call)


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
    numbers = all(isinstance(x, int) for x in given.values())
    if numbers and given["key_offset"] == 0 and given["lengths"] == n:
        return select(q, k[:, :, : given["key_lengths"]], offset=given["offset"])
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


def lists_behind(select: Selector, q: Tensor, k: Tensor, cache: Any, before: Any, *, new: bool = True) -> Tensor:
    """The lists of tokens that a cache then holds; `cache.beside` is what the selector keeps of its tokens.

    Args:
        select: the selector.
        q, k: of the tokens, as it takes them.
        cache: what their keys are put into, or None for the first ones.
        before: how many tokens there are, a number or of each batch entry.
        new: whether the selector does not know them yet.

    Raises:
        ArgumentError: tokens of the cache that the selector has not seen.
    """
    state = cache.beside
    if state is None:
        state = select.start(k.shape[0], k.shape[1], k.shape[3], dtype=k.dtype, device=k.device)
    if new and checked(q.device) and bool((torch.as_tensor(before) != state.length).any()):
        got = f"a cache of {int(torch.as_tensor(before).max())} tokens, of which the selector knows {state.length}"
        hint = "cache.clear(), and the prompt again: after cache.crop(...), or tokens that other calls appended"
        raise ArgumentError(got, "tokens that came with their queries", "the selector of a module", hint)
    if new:
        state = cache.beside = select.append(state, k)
    return select.step(q, state)


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
