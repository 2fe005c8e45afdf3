"""Where the tokens of a call stand: in a batch with lengths, in documents, behind those that a cache holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pidsl.runtime.call import ragged
from pidsl.runtime.call.arguments import Fault, check_length, check_position, raise_faults


class Place(NamedTuple):
    """Where the tokens of x [B, n, dim] stand.

    Args:
        call: what the kernel is told of it.
        first: position of the first token, where they are the same of each batch entry.
        positions: else int [B, n], the position of each.
        length: tokens of the sequence of each: a number, or int [B, 1] or [B, n].
        cache: what is to hold their keys,
        lengths: and of how many tokens of each batch entry; None: of all.
        follows: they follow those that the cache holds.
    """

    call: Mapping[str, Any]
    first: int = 0
    positions: Tensor | None = None
    length: Any = None
    cache: Any = None
    lengths: Any = None
    follows: bool = False

    @property
    def plain(self) -> bool:
        """Whether they are the tokens of one sequence, all of them, in every batch entry."""
        return self.positions is None and not self.call

    def at(self, n: int, device: torch.device) -> Tensor:
        """The position of each of n tokens, int [n] or [B, n]."""
        return torch.arange(n, device=device) + self.first if self.positions is None else self.positions


def place(x: Tensor, given: Mapping[str, Any], where: str) -> Place:
    """Where tokens stand that are all there is.

    Args:
        x: the tokens.
        given: `lengths`, `documents` and `offset`, as a module is called with them.
        where: the call, for the message.

    Raises:
        ArgumentError: what is no such number or tensor.
    """
    (batch, n, _), device = x.shape, x.device
    lengths, documents, offset = given["lengths"], given["documents"], given["offset"]
    faults: list[Fault] = []
    for name, value, shape in (("lengths", lengths, [batch]), ("documents", documents, [batch, n])):
        if isinstance(value, Tensor) or (name == "documents" and value is not None):
            faults += _faults(name, value, shape, device)
        elif value is not None:
            wrong, lengths = check_length(name, value)
            faults += wrong
    if isinstance(offset, Tensor):
        faults += _faults("offset", offset, [batch], device)
    else:
        wrong, offset = check_position("offset", offset)
        faults += wrong
    raise_faults(faults, where)
    call = {name: x for name, x in (("lengths", lengths), ("documents", documents)) if x is not None}
    if documents is not None:
        if isinstance(offset, Tensor) or offset != 0:
            call["offset"] = offset  # which the kernel refuses
        first, end = _ends(documents)
        return Place(call, positions=torch.arange(n, device=device) - first, length=end - first)
    if lengths is not None:
        call["key_lengths"] = lengths
    moved = isinstance(offset, Tensor) or offset != 0
    if moved:
        call |= {"offset": offset, "key_offset": offset}
    length = _column(n if lengths is None else lengths) + _column(offset)
    if isinstance(offset, Tensor):
        return Place(call, positions=torch.arange(n, device=device) + _column(offset), length=length)
    return Place(call, first=offset, length=length)


def place_shared(x: Tensor, given: Mapping[str, Any], parallel: Any, where: str) -> Place:
    """Where the tokens of a rank stand, of which other ranks hold the rest.

    Args:
        x: the tokens of this rank.
        given: `lengths`, `documents` and `offset`, as a module is called with them.
        parallel: the `pidsl.distributed.ContextParallel` of the module.
        where: the call, for the message.

    Raises:
        ArgumentError: ids that are not of all tokens; lengths or an offset; ranks that disagree.
    """
    batch, documents = x.shape[0], given["documents"]
    n = parallel.length(x.shape[1])
    expected, hint = "nothing: all ranks together have one sequence", "documents=ids, -1 for padding"
    faults = [
        Fault(name, "a value with context", expected, hint)
        for name in ("lengths", "offset")
        if given[name] is not None and (isinstance(given[name], Tensor) or given[name] != 0)
    ]
    if documents is not None:
        said = f"[{batch}, {n}], one for each token of all ranks"
        faults += ragged.check_integers("documents", documents, x.device, [[batch, n]], said)
    raise_faults(faults, where)
    mine = parallel.positions(n).to(x.device)
    if documents is None:
        return Place({}, positions=mine, length=n)
    first, end = (ends[:, mine] for ends in _ends(documents))
    return Place({"documents": documents}, positions=mine - first, length=end - first)


def place_behind(x: Tensor, cache: Any) -> Place:
    """Where tokens stand that follow those of a cache."""
    n, before = x.shape[1], cache.tokens[:, None]
    return Place({}, positions=before + torch.arange(n, device=x.device), length=before + n, cache=cache, follows=True)


def of_one_document(x: Tensor, lengths: int | Tensor | None) -> Mapping[str, Any]:
    """What a kernel of documents is told of batch entries that are one each, with padding behind it."""
    batch, n, _ = x.shape
    index = torch.arange(n, device=x.device).expand(batch, n)
    stop = n if lengths is None else _column(lengths)
    return {"documents": torch.where(index < stop, 0, -1)}


def _faults(name: str, value: Any, shape: list[int], device: torch.device) -> list[Fault]:
    said = f"{shape}, one for each {'token' if name == 'documents' else 'batch entry'}"
    return ragged.check_integers(name, value, device, [shape, []] if name != "documents" else [shape], said)


def _column(x: Any) -> Any:
    """[B, 1] of one for each batch entry."""
    return x.reshape(-1, 1) if isinstance(x, Tensor) else x


def _ends(documents: Tensor) -> tuple[Tensor, Tensor]:
    """The first token of the run of equal ids that each token is in, and the one after its last: int64 [B, n]."""
    n = documents.shape[1]
    index = torch.arange(n, device=documents.device).expand_as(documents)
    begins = ragged.run_begins(documents)
    first = torch.where(begins, index, 0).cummax(1).values
    ends = torch.where(begins.roll(-1, 1), index + 1, n)
    return first, ends.flip(1).cummin(1).values.flip(1)
