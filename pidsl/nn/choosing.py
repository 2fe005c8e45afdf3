"""Lists of a module's selector, for the tokens of a call: of one sequence, of several, behind those of a cache."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from pidsl.errors import ArgumentError
from pidsl.language.chosen import Selection
from pidsl.nn.places import Place
from pidsl.runtime.call.arguments import Fault, raise_faults
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
    """The lists of all query blocks of a call, int32 [B, heads, query blocks, at most budget].

    Args:
        select: the selector.
        q, k: as it takes them.
        where: where the tokens stand. What a cache has of them is kept beside it.

    Raises:
        ArgumentError: tokens before position 0 or from another one on; a cache whose tokens came another way, or of
            several lengths.
    """
    call, name = where.call, "the selector of SparseAttention(...)"
    if where.cache is not None:
        return _behind(select, q, k, where, name)
    if "offset" in call:
        fault = Fault(
            "offset", "a value", "0: blocks of keys are counted from the first one on", "lengths=..., no offset"
        )
        raise_faults([fault], name)
    if "documents" in call:
        return _of_runs(select, q, k, call["documents"])
    if (lengths := call.get("lengths")) is None:
        return select(q, k)
    index = torch.arange(q.shape[2], device=q.device).expand(q.shape[0], -1)
    length = lengths[:, None] if isinstance(lengths, Tensor) and lengths.dim() else lengths
    return _of_runs(select, q, k, torch.where(index < length, 0, -1))


def _of_runs(select: Selector, q: Tensor, k: Tensor, documents: Tensor) -> Tensor:
    """Of documents, by an id for each token; negative ones are padding."""
    found = []
    for b, ids in enumerate(documents.tolist()):
        runs, start = [], 0
        for name, run in groupby(ids):
            stop = start + len(list(run))
            if name >= 0:
                runs.append(select(q[b : b + 1, :, start:stop], k[b : b + 1, :, start:stop]))
            start = stop
        found.append(_joined(runs) if runs else select(q[b : b + 1, :, :0], k[b : b + 1, :, :0]))
    rows, most = (max(x.shape[axis] for x in found) for axis in (2, 3))
    return torch.cat([pad(x, (0, most - x.shape[3], 0, rows - x.shape[2]), value=-1) for x in found])


def _joined(parts: list[Tensor]) -> Tensor:
    most = max(x.shape[3] for x in parts)
    return torch.cat([pad(x, (0, most - x.shape[3]), value=-1) for x in parts], 2)


def _behind(select: Selector, q: Tensor, k: Tensor, where: Place, name: str) -> Tensor:
    """Of tokens that a cache then holds; `cache.beside` is what the selector keeps of its tokens."""
    cache, before = where.cache, where.cache.beside
    if where.lengths is not None:
        got, hint = "lengths", "a prompt of one length for all batch entries, or a batch for each length"
        raise ArgumentError(got, "one length, of whose tokens a selector keeps summaries", name, hint)
    if before is None:
        before = select.start(k.shape[0], k.shape[1], k.shape[3], dtype=k.dtype, device=k.device)
    if checked(q.device) and bool((cache.tokens != before.length).any()):
        got = f"a cache of {int(cache.tokens.max())} tokens, of which the selector knows {before.length}"
        hint = "cache.clear(), and the prompt again: after cache.crop(...), or tokens that other calls appended"
        raise ArgumentError(got, "tokens that came through this module", name, hint)
    cache.beside = select.append(before, k)
    return select.step(q, cache.beside)
