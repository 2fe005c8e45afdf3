"""FlexAttention's masks: a function of indices, and a BlockMask made from tiles; no mask of all pairs is made.

to_flex(term)          mask_mod, and block_mask(n, m) from the tiles of the relation
Packing.block_mask     the same of packed documents, from the pairs that each tile has in its documents
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from pidsl.errors import ArgumentError, SizeError, TermError
from pidsl.interop.attended import Attended
from pidsl.language.expr import Compare, Truth, Var, vars_in, whole
from pidsl.language.heads import Heads
from pidsl.language.terms import Term, is_confined, require_concrete
from pidsl.relation.oracle import check_lengths
from pidsl.relation.tiles import tile_map

__all__ = ["Flex", "attends_of", "block_mask", "packed_mask_mod", "tiles", "to_flex"]

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
Size = int | tuple[int, int]
Listed = tuple[Tensor, Tensor]


def to_flex(
    term: Term | Heads, n: int | None = None, m: int | None = None, *, block_size: Size = 128,
    device: torch.device | str = "cpu",
) -> Flex:  # fmt: skip
    """A pattern as FlexAttention takes it: `mask_mod`, and a BlockMask from the tiles that isl knows.

    >>> import pidsl, torch
    >>> from torch.nn.attention.flex_attention import flex_attention
    >>> flex = to_flex(pidsl.window(63) | pidsl.keys(0, 4) & pidsl.causal)
    >>> block_mask = flex.block_mask(100_000)      # milliseconds at any length
    >>> block_mask.shape
    (1, 1, 100000, 100000)
    >>> q, k, v = torch.randn(3, 1, 2, 300, 16)
    >>> out = flex_attention(q, k, v, block_mask=flex.block_mask(300))
    >>> torch.allclose(out, pidsl.compile(flex.term, "reference")(q, k, v), atol=1e-5)
    True

    Args:
        term: a pattern, or `heads`: its BlockMask has an axis of query heads.
        n, m: how many queries and keys `mask_mod` and `block_mask()` are for; m defaults to n. A pattern whose pairs
            do not depend on the lengths needs none for `mask_mod`.
        block_size: queries and keys of a tile, one number or both.
        device: where the tensors of the BlockMask are.

    Raises:
        TermError: a gate, layers, summaries, a recipe; a pattern confined to documents.
        SymbolError: the pattern holds unbound symbols.
        SizeError: lengths that are none, or do not fit the pattern; a block size that is none.
        ArgumentError: a device that there is not.
        TooHardError: isl's operation limit struck.
    """
    if not isinstance(term, Term | Heads):
        given, expected = f"{term!r} ({type(term).__name__})", "a pattern, or heads: one mask over one softmax"
        raise TermError(given, expected, "pidsl.to_flex", "to_flex of each pattern in it")
    groups = term.groups if isinstance(term, Heads) else ((1, term),)
    for _, pattern in groups:
        require_concrete(pattern, "make a mask of FlexAttention")
        if is_confined(pattern):
            expected = "a pattern without `documents`: its mask is known with the documents of a batch"
            hint = "pidsl.Packing.of_documents(ids).block_mask(term), which knows them"
            raise TermError(f"{term!r}", expected, "pidsl.to_flex", hint)
    sizes = block_size if isinstance(block_size, tuple) else (block_size, block_size)
    if len(sizes) != 2 or any((whole(size) or 0) < 1 for size in sizes):
        raise SizeError(f"block_size = {block_size!r}", "an integer >= 1, or a pair of them", "pidsl.to_flex")
    if n is not None:
        for _, pattern in groups:
            check_lengths(pattern, n, m, 0)
    try:
        place = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError) as e:  # of torch, by what it was built with
        expected = f"a device that torch has here: {str(e).splitlines()[0]}"
        raise ArgumentError(f"device = {device!r}", expected, "pidsl.to_flex") from None
    return Flex(term, n, n if m is None else m, (int(sizes[0]), int(sizes[1])), place)


@dataclass(frozen=True)
class Flex:
    """A pattern as FlexAttention takes it; made by `to_flex`.

    Args:
        term: a pattern, or heads.
        n, m: how many queries and keys, where that was said.
        block_size: queries and keys of a tile.
        device: where the tensors of a BlockMask are.
    """

    term: Term | Heads
    n: int | None
    m: int | None
    block_size: tuple[int, int]
    device: torch.device

    @cached_property
    def mask_mod(self) -> MaskMod:
        """`mask_mod(b, h, q_idx, kv_idx)`: arithmetic on indices, without tables.

        Raises:
            SizeError: what the pattern attends depends on the lengths, and `to_flex` was not told them.
        """
        groups, first = list[tuple[int, int, Callable[..., Any]]](), 0
        for count, term in self.term.groups if isinstance(self.term, Heads) else ((1, self.term),):
            attends, of_lengths = attends_of(term)
            if of_lengths and self.n is None:
                expected = "the number of queries and keys, on which its pairs depend"
                raise SizeError(f"{term!r}", expected, "pidsl.to_flex(term).mask_mod", "pidsl.to_flex(term, n)")
            groups.append((first, first + count, attends))
            first += count
        each = isinstance(self.term, Heads)
        mask = _of_heads(groups, self.n, self.m) if each else _of_all(groups[0][2], self.n, self.m)
        mask.made_from = self  # type: ignore[attr-defined]  # in it n and m are numbers; `from_flex` finds them here
        return mask

    def block_mask(self, n: int | None = None, m: int | None = None) -> BlockMask:
        """The BlockMask of n queries and m keys, [1, query heads or 1, n, m].

        Tiles are sorted into full and partial ones as `create_block_mask` sorts them: one that reaches beyond the
        last query or key is partial.

        Args:
            n, m: default: those of `to_flex`; of one number, m is n.

        Raises:
            SizeError: no lengths, or such that do not fit the pattern.
            TooHardError: isl's operation limit struck.
        """
        if n is None:
            n, m = self.n, self.m if m is None else m
        if n is None:
            raise SizeError("block_mask()", "the number of queries", f"{self!r}", "block_mask(n)")
        m = n if m is None else m
        rows, columns = self.block_size
        terms = list(self.term.terms) if isinstance(self.term, Heads) else [self.term]
        distinct = list(dict.fromkeys(terms))
        maps = [tile_map(term, n, m, rows=rows, columns=columns) for term in distinct]
        some, every = np.stack([x.some for x in maps]), np.stack([x.every for x in maps])
        mask_mod = replace(self, n=n, m=m).mask_mod
        heads = [distinct.index(term) for term in terms]
        return block_mask(some, every, mask_mod, (n, m), self.block_size, self.device, heads)


def _of_all(attends: Callable[..., Any], n: int | None, m: int | None) -> MaskMod:
    def mask_mod(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        found: Tensor = attends(n, m, q_idx, kv_idx)
        return found

    return mask_mod


def _of_heads(groups: list[tuple[int, int, Callable[..., Any]]], n: int | None, m: int | None) -> MaskMod:
    def mask_mod(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        found = h < 0
        for first, stop, attends in groups:
            found = found | ((h >= first) & (h < stop) & attends(n, m, q_idx, kv_idx))
        return found

    return mask_mod


@lru_cache(maxsize=256)
def attends_of(term: Term) -> tuple[Callable[..., Any], bool]:
    """`attends(n, m, i, j)` of a pattern, a tensor of truth values; and whether it asks for the lengths."""
    from pidsl.codegen.emit_torch.pairs import attends_source, pairs_predicate

    pred = pairs_predicate(term)
    if isinstance(pred, Truth):
        pred = Compare(">=" if pred.value else "<", Var("i"), 0)
    program: dict[str, Any] = {"__name__": "pidsl.generated"}
    exec(attends_source(pred), program)
    return program["attends"], bool(vars_in(pred) & {"n", "m"})


def block_mask(
    some: Bools, every: Bools, mask_mod: MaskMod, lengths: tuple[int, int], block_size: tuple[int, int],
    device: torch.device, heads: Sequence[int] = (0,),
) -> BlockMask:  # fmt: skip
    """The BlockMask of some tiles.

    Args:
        some: bool [patterns, row tiles, column tiles], which tiles have a pair.
        every: which have all of their pairs; what reaches beyond the lengths is none of them.
        mask_mod: says which pairs.
        lengths: how many queries and keys.
        block_size: of a tile.
        device: of the tensors.
        heads: the pattern of each query head.
    """
    inside = [np.arange(1, count + 1) * size <= length
              for count, size, length in zip(every.shape[1:], block_size, lengths, strict=True)]  # fmt: skip
    full = every & (inside[0][:, None] & inside[1])
    partial = some & ~full
    (partial_rows, partial_columns), (full_rows, full_columns) = (_listed(x, heads, device) for x in (partial, full))
    return BlockMask(
        lengths, *partial_rows, *full_rows, *partial_columns, *full_columns, BLOCK_SIZE=block_size, mask_mod=mask_mod
    )


def _listed(chosen: Bools, of: Sequence[int], device: torch.device) -> tuple[Listed, Listed]:
    """How many tiles are chosen in each row of tiles, and which: those first, ascending; and the same by columns."""
    if np.count_nonzero(chosen) * 8 > chosen.size:
        lists = [_of_many(x) for x in (chosen, np.ascontiguousarray(chosen.swapaxes(1, 2)))]
    else:
        heads, down, across = chosen.shape
        row, column = np.divmod(np.flatnonzero(chosen), across)
        head = row // down
        by_column = np.argsort(head * across + column, kind="stable")
        lists = [
            _of_few(row, column, chosen.shape),
            _of_few((head * across + column)[by_column], (row - head * down)[by_column], (heads, across, down)),
        ]
    rows, columns = (_for_heads(number, which, of, device) for number, which in lists)
    return rows, columns


def _for_heads(number: NDArray[np.int32], which: NDArray[np.int32], of: Sequence[int], device: torch.device) -> Listed:
    if list(of) != list(range(len(number))):
        most = number.max(axis=1, initial=0)
        every = np.zeros((len(of), *which.shape[1:]), dtype=np.int32)
        for head, pattern in enumerate(of):
            every[head, :, : most[pattern]] = which[pattern, :, : most[pattern]]
        number, which = number[list(of)], every
    return torch.from_numpy(number)[None].to(device), torch.from_numpy(which)[None].to(device)


def _of_few(row: Ints, tile: Ints, shape: tuple[int, ...]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """From the coordinates of the chosen ones, ascending: what no tile is written to is never touched."""
    number = np.bincount(row, minlength=shape[0] * shape[1])
    place = np.arange(len(row)) - np.repeat(np.cumsum(number) - number, number)
    which = np.zeros(shape, dtype=np.int32)
    which.reshape(-1)[row * shape[2] + place] = tile
    return number.reshape(shape[:2]).astype(np.int32), which


def _of_many(chosen: Bools) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Row by row: no temporaries as large as all tiles."""
    number = np.add.reduce(chosen.view(np.uint8), axis=-1, dtype=np.int32)
    which = np.zeros(chosen.shape, dtype=np.int32)
    rows = (x.reshape(-1, chosen.shape[-1]) for x in (chosen, which))
    for here, listed, count in zip(*rows, number.flat, strict=True):
        if count:
            listed[:count] = here.nonzero()[0]
    return number, which


def tiles(attended: Attended, rows: Ints, first_key: Ints, sizes: tuple[int, int], block: int) -> Ints:
    """How many pairs each tile has, int64 [tiles of queries, tiles of keys].

    Args:
        attended: the keys of some queries.
        rows: which queries these are.
        first_key: where the keys of their documents begin.
        sizes: how many queries and keys there are.
        block: of them in a tile.
    """
    if isinstance(block, bool) or not isinstance(block, int) or block < 1:
        raise SizeError(f"block_size = {block!r}", "an integer >= 1", "packing.block_mask(term, block_size)")
    down, across = (-(-size // block) for size in sizes)
    found = np.zeros(down * across, dtype=np.int64)
    begin, end = first_key // block, -(-(first_key + attended.keys) // block)
    behind = attended.count(0)
    for x in range(int((end - begin).max(initial=0))):  # the tiles that a document lies in, of all at once
        rest = attended.count(np.maximum((begin + x + 1) * block - first_key, 0))
        some = behind > rest
        np.add.at(found, (rows[some] // block) * across + begin[some] + x, (behind - rest)[some])
        behind = rest
    return found.reshape(down, across)


def packed_mask_mod(pattern: Term, here: Tensor, there: Tensor) -> MaskMod:
    """The mask of packed documents.

    Args:
        pattern: what holds within a document.
        here: of each query its document (-1: none), position, positions and keys of that document, int64 [4, T].
        there: of each key its document and position, int64 [2, Tk].
    """
    attends, _ = attends_of(pattern)
    document, position, positions, keys = here.unbind(0)
    own, place = there.unbind(0)

    def mask_mod(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        same = document[q_idx] == own[kv_idx]
        found: Tensor = same & attends(positions[q_idx], keys[q_idx], position[q_idx], place[kv_idx])
        return found

    return mask_mod
