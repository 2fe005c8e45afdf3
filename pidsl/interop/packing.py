"""`Packing`: documents that lie one after the other, as `kernel.packed` takes them, and what others take for them.

    cu_seqlens        int32 [documents + 1], first 0, last T         varlen kernels, flash-attention
    position_ids      int64 [T], 0 where a document begins           rotary embeddings, transformers
    documents         int32 [T], 0, 1, 2, ...                        document masks
    intervals(term)   int32 [T, 2], the keys of each query           kernels over one range of keys
    flash_mask(term)  int32 [1, 1, Tk, 1 | 2 | 4]                    FlashMask
    block_mask(term)  BlockMask                                      FlexAttention

The pattern holds within each document, on its own positions, whether or not the term says `documents`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from pidsl.errors import ArgumentError, TermError
from pidsl.interop.attended import Attended
from pidsl.interop.flash import FlashMask, flash_columns
from pidsl.interop.flex import block_mask, packed_mask_mod, tiles
from pidsl.language.confined import confined
from pidsl.language.terms import Term, require_concrete
from pidsl.runtime.call import ragged
from pidsl.runtime.call.arguments import Fault, check_tensor, raise_faults

Ints = NDArray[np.int64]
Align = Literal["start", "end"]

_CALL = "pidsl.Packing(cu_seqlens_q, ...)"


class Packing:
    """Documents one after the other: which queries and keys each has, and at which positions these stand.

    >>> packing = Packing.of_lengths([3, 2])
    >>> packing
    Packing of 2 documents, 5 tokens
    >>> packing.position_ids.tolist(), packing.documents.tolist(), packing.cu_seqlens_q.tolist()
    ([0, 1, 2, 0, 1], [0, 0, 0, 1, 1], [0, 3, 5])
    >>> import pidsl
    >>> packing.mask(pidsl.causal).int()
    tensor([[1, 0, 0, 0, 0],
            [1, 1, 0, 0, 0],
            [1, 1, 1, 0, 0],
            [0, 0, 0, 1, 0],
            [0, 0, 0, 1, 1]], dtype=torch.int32)
    >>> packing.intervals(pidsl.causal).tolist()
    [[0, 1], [0, 2], [0, 3], [3, 4], [3, 5]]

    What is asked of it comes on the device of `cu_seqlens_q`. Making one waits for that device.

    Args:
        cu_seqlens_q: int32 [documents + 1]: 0, and where the queries of each document end.
        cu_seqlens_k: the same of the keys; None: they are the same tokens.
        align: with `cu_seqlens_k`, which ends of the queries and keys of a document meet: "start" or "end". Queries
            before the first key attend nothing.

    Raises:
        ArgumentError: what is no such tensor, does not start at 0, or falls; `cu_seqlens_k` without `align`.
    """

    def __init__(self, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor | None = None, align: Align | None = None) -> None:
        if fault := check_tensor("cu_seqlens_q", cu_seqlens_q, "an int32 tensor [documents + 1]"):
            raise_faults([fault], _CALL)
        device = cu_seqlens_q.device
        faults, batch = ragged.of_packed(device, cu_seqlens_q, cu_seqlens_k, align)
        raise_faults(faults, _CALL)
        assert batch is not None
        ends_k = cu_seqlens_q if cu_seqlens_k is None else cu_seqlens_k
        faults = ragged.check_ends("cu_seqlens_q", cu_seqlens_q, None)
        if ends_k is not cu_seqlens_q:
            faults += ragged.check_ends("cu_seqlens_k", ends_k, None)
        raise_faults(faults, _CALL)
        self.cu_seqlens_q, self.cu_seqlens_k = cu_seqlens_q, ends_k
        self._batch = batch
        self._ends_q, self._ends_k = (x.cpu().numpy().astype(np.int64) for x in (cu_seqlens_q, ends_k))
        table = ragged.table_of(batch.kind, batch.tensors, batch.numbers, (1, self.tokens, self.keys, 0), device)
        self._table = table.cpu().numpy().astype(np.int64)

    @classmethod
    def of_lengths(cls, lengths: Sequence[int] | Tensor, device: torch.device | str | None = None) -> Packing:
        """Documents of these lengths, one after the other.

        Raises:
            ArgumentError: a length that is no integer >= 0.
        """
        given = torch.as_tensor(lengths, device=device) if len(lengths) else torch.zeros(0, dtype=torch.int32)
        if given.dim() != 1 or given.dtype not in ragged.INTEGERS or bool((given < 0).any()):
            raise ArgumentError(f"lengths = {lengths!r}", "integers >= 0, one for each document", "Packing.of_lengths")
        ends = torch.nn.functional.pad(given.cumsum(0), (1, 0))
        return cls(ends.to(torch.int32))

    @classmethod
    def of_documents(cls, ids: Sequence[int] | Tensor) -> Packing:
        """Documents by an id for each token, equal ones in one run.

        >>> Packing.of_documents([7, 7, 3]).cu_seqlens_q.tolist()
        [0, 2, 3]

        Raises:
            ArgumentError: what is no row of integers; an id in two runs, or a negative one, which is padding.
        """
        given = _row("ids", ids, "Packing.of_documents")
        if bool((given < 0).any()):
            at = int((given < 0).nonzero()[0])
            hint = "Packing.of_documents(ids[ids >= 0]), without the tokens that are padding"
            raise ArgumentError(f"ids[{at}] = {int(given[at])}", "ids >= 0", "Packing.of_documents", hint)
        starts = _starts(given, given[1:] != given[:-1])
        names = given[starts.long()].tolist()
        for x, name in enumerate(names):
            if (first := names.index(name)) != x:
                got = f"id {name} from token {int(starts[first])} and again from token {int(starts[x])}"
                raise ArgumentError(got, "one run of tokens for each id", "Packing.of_documents")
        return cls(_ends(starts, given))

    @classmethod
    def of_position_ids(cls, position_ids: Sequence[int] | Tensor) -> Packing:
        """Documents by positions: a step other than +1 starts a document, as transformers reads them.

        >>> Packing.of_position_ids([0, 1, 2, 0, 1, 0]).cu_seqlens_q.tolist()
        [0, 3, 5, 6]

        Args:
            position_ids: [T] or [1, T].

        Raises:
            ArgumentError: something else, such as positions of several axes; a document that does not start at 0.
        """
        given = _row("position_ids", position_ids, "Packing.of_position_ids")
        starts = _starts(given, given[1:] != given[:-1] + 1)
        late = (given[starts.long()] != 0).nonzero()
        if len(late):
            at = int(starts[int(late[0])])
            expected = "0 where a document starts, which a step other than +1 does"
            raise ArgumentError(f"position_ids[{at}] = {int(given[at])}", expected, "Packing.of_position_ids")
        return cls(_ends(starts, given))

    # -- sizes, and what stands where -------------------------------------------------------------------------------

    @property
    def tokens(self) -> int:
        """T, the queries of all documents."""
        return int(self._ends_q[-1])

    @property
    def keys(self) -> int:
        """Tk, the keys of all documents."""
        return int(self._ends_k[-1])

    @property
    def max_seqlen_q(self) -> int:
        """The queries of the longest document."""
        return int(np.diff(self._ends_q).max(initial=0))

    @property
    def max_seqlen_k(self) -> int:
        """The keys of the longest document."""
        return int(np.diff(self._ends_k).max(initial=0))

    @property
    def max_seqlen(self) -> int:
        """No document has more queries, nor more keys."""
        return max(self.max_seqlen_q, self.max_seqlen_k)

    @property
    def position_ids(self) -> Tensor:
        """int64 [T]: the position of each query in its document; negative ones stand before its first key."""
        lengths = np.diff(self._ends_q)
        at_end = bool(self._batch.numbers[0])
        moved = np.diff(self._ends_k) - lengths if at_end else np.zeros_like(lengths)
        return self._tensor(np.arange(self.tokens) - np.repeat(self._ends_q[:-1] - moved, lengths))

    @property
    def documents(self) -> Tensor:
        """int32 [T]: the document of each query, counted from 0."""
        return self._tensor(_each(np.diff(self._ends_q))[0]).int()

    def _tensor(self, x: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(x)).to(self.cu_seqlens_q.device)

    # -- a pattern in these documents -------------------------------------------------------------------------------

    def mask(self, term: Term) -> Tensor:
        """The dense mask, bool [T, Tk], by its definition: for tests.

        Raises:
            TermError: not a term.
        """
        pattern = _pattern(term)
        out = torch.zeros(self.tokens, self.keys, dtype=torch.bool)
        for _, row, rows, offset, key, keys, *_ in self._table.tolist():
            block = pattern.mask(rows, keys, offset)
            out[row : row + rows, key : key + keys] = torch.from_numpy(block)
        return out.to(self.cu_seqlens_q.device)

    def intervals(self, term: Term) -> Tensor:
        """int32 [T, 2]: the keys of each query are start .. stop - 1.

        Raises:
            ArgumentError: the keys of a query are not one interval.
            TermError: not a term.
            TooHardError: isl found no loops over the keys of a query.
        """
        of = self._sequence_of_rows()
        attended = Attended(_pattern(term), *self._rows(of))
        ((start, stop),), more = attended.runs(0, 1)
        if more.any():
            at = int(of[1][int(np.argmax(more))])
            got = f"{term!r}, in which query {at} attends keys with gaps between them"
            hint = "packing.block_mask(term), which takes any pattern"
            raise ArgumentError(got, "one interval of keys for each query", "packing.intervals(term)", hint)
        out = np.repeat(self._ends_k[:-1], np.diff(self._ends_q))[:, None].repeat(2, 1)
        out[of[1]] = np.stack([start, stop], 1) + self._table[of[0], 4, None]
        return self._tensor(out).int()

    def flash_mask(self, term: Term) -> FlashMask:
        """`startend_row_indices` of FlashMask, and whether it is to be called with `causal=True`.

        Raises:
            ArgumentError: the rows that do not attend some key are more than FlashMask can say.
            TermError: not a term.
            TooHardError: isl found no loops over the queries of a key.
        """
        table = self._table
        of, key = _each(table[:, 5])
        offset, rows = table[of, 3], table[of, 2]
        attended = Attended(_pattern(term).T, key, table[of, 5], offset + rows)
        runs, more = attended.runs(offset, 3)
        moved = table[of, 1] - offset
        rows_of = [(start + moved, stop + moved) for start, stop in runs]
        columns = flash_columns(rows_of, more, self.tokens, term)
        return FlashMask(self._tensor(columns.columns)[None, None].int(), columns.causal)

    def block_mask(self, term: Term, block_size: int = 128) -> BlockMask:
        """A BlockMask of FlexAttention, made from the tiles themselves: no mask of all pairs is evaluated.

        >>> import pidsl
        >>> Packing.of_lengths([300, 212]).block_mask(pidsl.causal).sparsity()  # 8 of 16 tiles
        50.0

        Args:
            term: the pattern.
            block_size: queries and keys of a tile.

        Raises:
            TermError: not a term.
            TooHardError: isl found no loops over the keys of a query.
        """
        pattern = _pattern(term)
        of = self._sequence_of_rows()
        attended = Attended(pattern, *self._rows(of))
        counts = tiles(attended, of[1], self._table[of[0], 4], (self.tokens, self.keys), block_size)
        sequences = self._table[of[0]]
        here = np.zeros((4, self.tokens), dtype=np.int64)  # document, position, positions and keys of each query
        here[0] = -1
        here[:, of[1]] = of[0], attended.env["i"], attended.env["n"], sequences[:, 5]
        there, key = _each(self._table[:, 5])
        mask_mod = packed_mask_mod(pattern, self._tensor(here), self._tensor(np.stack([there, key])))
        block, lengths, device = (block_size, block_size), (self.tokens, self.keys), self.cu_seqlens_q.device
        return block_mask(counts[None] > 0, counts[None] == block_size**2, mask_mod, lengths, block, device)

    def _sequence_of_rows(self) -> tuple[Ints, Ints]:
        """The document of every query that stands at a position, and which query that is."""
        table = self._table
        of, within = _each(table[:, 2])
        return of, table[of, 1] + within

    def _rows(self, of: tuple[Ints, Ints]) -> tuple[Ints, Ints, Ints]:
        """Position of those queries, positions and keys of their documents."""
        sequences = self._table[of[0]]
        return of[1] - sequences[:, 1] + sequences[:, 3], sequences[:, 2] + sequences[:, 3], sequences[:, 5]

    def __repr__(self) -> str:
        same = "" if self.cu_seqlens_k is self.cu_seqlens_q else f", {self.keys} keys"
        return f"Packing of {len(self._ends_q) - 1} documents, {self.tokens} tokens{same}"


def _pattern(term: Term) -> Term:
    if not isinstance(term, Term):
        expected = "a pattern; of a gate, heads or layers, each of their patterns by itself"
        raise TermError(f"{term!r} ({type(term).__name__})", expected, "packing")
    require_concrete(term, "say which keys are attended")
    return confined(term)[0]


def _each(counts: Ints) -> tuple[Ints, Ints]:
    """Of things one after the other, so many of each kind: the kind of each, and its number among those."""
    of = np.repeat(np.arange(len(counts)), counts)
    return of, np.arange(len(of)) - np.repeat(np.cumsum(counts) - counts, counts)


def _row(name: str, given: Any, where: str) -> Tensor:
    """A row of integers, [T] or [1, T]."""
    x = given if isinstance(given, Tensor) else torch.as_tensor(np.asarray(given, dtype=None if len(given) else int))
    x = x[0] if x.dim() == 2 and x.shape[0] == 1 else x
    if x.dim() != 1 or x.dtype not in ragged.INTEGERS:
        fault = Fault(name, f"shape {list(x.shape)} and dtype {x.dtype}", "integers, one for each token: [T] or [1, T]")
        raise_faults([fault], where)
    return x


def _starts(given: Tensor, begins: Tensor) -> Tensor:
    first = torch.zeros(min(len(given), 1), dtype=torch.int64, device=given.device)
    return torch.cat([first, begins.nonzero()[:, 0] + 1])


def _ends(starts: Tensor, given: Tensor) -> Tensor:
    end = torch.tensor([len(given)], device=given.device)
    return torch.cat([starts, end]).to(torch.int32) if len(given) else end.to(torch.int32)
