"""From what a call says of its batch to the table of its sequences: lengths and offsets, packed documents, ids.

    entries     offset, key_offset, lengths, key_lengths of each batch entry: row r of entry b stands at position
                `r + offset[b]` and is there if that is not negative and `r < lengths[b]`
    packed      documents one after the other, by where each begins (cu_seqlens)
    documents   the same by an id for each token, equal ones in one run; negative ids are padding

Nothing waits for the device but the checks of values, which `PIDSL_CHECK_VALUES=0` turns off, and ids, whose runs must
be counted.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from pidsl.runtime.call.arguments import POSITIONS, Fault, check_length, check_tensor, raise_faults
from pidsl.runtime.call.segments import COLUMNS, Pages, Segments, Slots

INTEGERS = torch.int32, torch.int64
ENTRIES = "offset", "key_offset", "lengths", "key_lengths"
ALIGNED = {"start": 0, "end": 1}  # documents with more keys than queries, or fewer: which ends of them meet
_LENGTHS, _DOCUMENTS = "kernel(q, k, v, lengths=...)", "kernel(q, k, v, documents=...)"
_PACKED = "kernel.packed(q, k, v, cu_seqlens_q, ...)"


class Batch(NamedTuple):
    """What a call says of its sequences, its tensors well formed.

    Args:
        kind: "entries", "packed" or "documents".
        tensors: for entries those of `ENTRIES` that are tensors, else None; cu_seqlens_q and cu_seqlens_k; ids.
        numbers: for entries those that are numbers, -1 for no length; for packed the alignment, see `ALIGNED`.
        moved: keys may start at a position other than 0.
        square: whether rows and keys are the same tokens.
        whole: every row of q and every key is in a sequence.
    """

    kind: str
    tensors: tuple[Tensor | None, ...]
    numbers: tuple[Any, ...]
    moved: bool = False
    square: bool = False
    whole: bool = False

    def segments(self, q: Tensor, k: Tensor, table: Tensor) -> Segments:
        """The sequences of a call, with their table."""
        (batch, _, n, _), m = q.shape, k.shape[2]
        stop = None
        if self.kind != "entries":
            stop = max(n, m)
        elif self.tensors[0] is None and self.tensors[1] is None:
            stop = max(n + self.numbers[0], m + self.numbers[1])
        return Segments(
            table, n, m, batch * n, batch * m, self.moved, self.square, whole=self.whole, stop=stop,
            apart=self.kind == "entries",
        )  # fmt: skip


# -- what is given, before anyone looks at values ----------------------------------------------------------------


def of_entries(batch: int, device: torch.device, given: Sequence[Any]) -> tuple[list[Fault], Batch]:
    """The batch of `ENTRIES`: ints that were checked, tensors, or None for a length that is not given."""
    faults: list[Fault] = []
    given = list(given)
    for place, name in enumerate(ENTRIES):
        x = given[place]
        if isinstance(x, Tensor):
            faults += check_integers(name, x, device, [[batch], []], f"[{batch}], one for each batch entry")
        elif x is not None:
            wrong, given[place] = check_length(name, x)
            faults += wrong
    tensors = tuple(x if isinstance(x, Tensor) else None for x in given)
    numbers = tuple(-1 if x is None else 0 if isinstance(x, Tensor) else x for x in given)
    return faults, Batch("entries", tensors, numbers, moved=isinstance(given[1], Tensor) or given[1] != 0)


def of_packed(
    device: torch.device, cu_seqlens_q: Any, cu_seqlens_k: Any, align: str | None
) -> tuple[list[Fault], Batch | None]:
    """The batch of packed documents; None where there are faults."""
    same = cu_seqlens_k is None or cu_seqlens_k is cu_seqlens_q
    faults = []
    for name, x in (("cu_seqlens_q", cu_seqlens_q), *([] if same else [("cu_seqlens_k", cu_seqlens_k)])):
        if fault := check_tensor(name, x, "an int32 tensor [documents + 1]"):
            faults.append(fault)
            continue
        if x.dtype != torch.int32:
            faults.append(Fault(name, f"dtype {_named(x)}", "int32, as varlen kernels have it", f"{name}.int()"))
        if x.device != device:
            faults.append(Fault(name, f"device {x.device}", f"{device}, the device of q", f"{name}.to(q.device)"))
        if x.dim() != 1 or x.shape[0] == 0:
            faults.append(Fault(name, f"shape {list(x.shape)}", "[documents + 1]: 0, and where each document ends"))
    if not faults and not same and cu_seqlens_k.shape != cu_seqlens_q.shape:
        got, expected = (f"{x.shape[0] - 1} documents" for x in (cu_seqlens_k, cu_seqlens_q))
        faults.append(Fault("cu_seqlens_k", got, f"{expected}, as in cu_seqlens_q"))
    if align is None and not same:
        expected = '"start" or "end": which query stands at the position of which key'
        faults.append(Fault("align", "nothing", expected, 'align="end" for queries that are the last of their tokens'))
    elif align is not None and align not in ALIGNED:
        faults.append(Fault("align", f"{align!r}", '"start" or "end"'))
    if faults:
        return faults, None
    tensors = cu_seqlens_q, None if same else cu_seqlens_k
    at_end = ALIGNED[align or "start"]
    return [], Batch("packed", tensors, (at_end,), square=same, whole=same or not at_end)


def of_documents(q: Tensor, k: Tensor, ids: Any, others: Sequence[Any]) -> tuple[list[Fault], Batch]:
    """The batch of document ids; `others`: the values of `ENTRIES`, which go without."""
    shape = [q.shape[0], q.shape[2]]
    faults = check_integers("documents", ids, q.device, [shape, shape[1:]], f"{shape}, an id for each token")
    if not isinstance(ids, Tensor):
        return faults, Batch("documents", (), ())
    if ids.dim() == 1 and not faults:  # the same in every batch entry
        ids = ids.repeat(shape[0], 1)
    if q.shape[2] != k.shape[2]:
        got, hint = f"{k.shape[2]} keys for {q.shape[2]} queries", "kernel.packed(q, k, v, cu_seqlens_q, cu_seqlens_k)"
        faults.append(Fault("documents", got, "the keys of the same tokens", hint))
    for name, x, usual in zip(ENTRIES, others, (0, 0, None, None), strict=True):
        if isinstance(x, Tensor) or x != usual:
            expected = "nothing: positions start with each document"
            faults.append(Fault(name, "a value with documents", expected, "a negative id for tokens that are padding"))
    return faults, Batch("documents", (ids,), (), square=True)


def check_integers(name: str, x: Any, device: torch.device, shapes: Sequence[list[int]], said: str) -> list[Fault]:
    """Faults of what should be a tensor of integers of one of these shapes, on a device."""
    if fault := check_tensor(name, x, f"an int tensor {said}"):
        return [fault]
    faults = []
    if x.dtype not in INTEGERS:
        faults.append(Fault(name, f"dtype {_named(x)}", "int32 or int64", f"{name}.int()"))
    if x.device != device:
        faults.append(Fault(name, f"device {x.device}", f"{device}, the device of q", f"{name}.to(q.device)"))
    if all(list(x.shape) != shape for shape in shapes):
        faults.append(Fault(name, f"shape {list(x.shape)}", said))
    return faults


def _named(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


class Kept(Protocol):
    """What a call needs of a cache; see `pidsl.Cache`."""

    keys: Tensor  # k and v as programs take them, see `Segments`
    values: Tensor
    tokens: Tensor  # int32 [B], appended so far
    keys_at: Slots | Pages
    lookahead: int
    most: int  # tokens that it can hold now

    def serves(self, kernel: Any) -> bool:
        """Whether it keeps what the kernel asks for."""

    def check_rows(self, rows: int) -> list[Fault]:
        """Faults of a step with so many rows that only the values on the device show."""


def of_cache(cache: Kept, batch: int, n: int) -> Segments:
    """The sequences of a step: n rows of q, which are the last tokens of each batch entry."""
    offset = cache.tokens.long() - n
    row, zero = (-offset).clamp(min=0), torch.zeros_like(offset)
    entries = torch.arange(batch, device=offset.device)
    table = _table(entries, row, n - row, offset.clamp(min=0), zero, cache.tokens.long(), zero)
    most = cache.most
    return Segments(table, n, most, batch * n, batch * most, keys_at=cache.keys_at, stop=most, apart=True)


def check_cache(q: Tensor, cache: Kept) -> list[Fault]:
    """Faults of a step: rows that a cache does not keep the keys of, and tensors that do not fit it."""
    faults, (batch, heads, n, dim) = [], q.shape
    if n > cache.lookahead + 1:
        expected = f"at most {cache.lookahead + 1}: lookahead={cache.lookahead} keeps the keys of no more rows"
        hint = f"kernel(q, k, v) of all tokens, or pidsl.Cache(..., lookahead={n - 1})"
        faults.append(Fault("q", f"{n} queries", expected, hint))
    entries, (_, kv_heads, _, width) = cache.tokens.shape[0], cache.keys.shape
    for what, size, fits in (("batch", batch, entries), ("head_dim", dim, width)):
        if size != fits:
            faults.append(Fault("q", f"{what} {size} in shape {list(q.shape)}", f"{fits}, as in the cache"))
    if heads % kv_heads:
        faults.append(Fault("q", f"{heads} heads", f"a multiple of the {kv_heads} kv_heads of the cache"))
    if q.dtype != cache.keys.dtype:
        faults.append(Fault("q", f"dtype {_named(q)}", f"{_named(cache.keys)}, the dtype of the cache"))
    if q.device != cache.keys.device:
        faults.append(Fault("q", f"device {q.device}", f"{cache.keys.device}, the device of the cache"))
    return faults or cache.check_rows(n)


# -- values, and the table ---------------------------------------------------------------------------------------


def table_of(
    kind: str, tensors: Sequence[Tensor | None], numbers: Sequence[int], sizes: Sequence[int], device: torch.device
) -> Tensor:
    """The table of `Segments`.

    Args:
        kind, tensors, numbers: see `Batch`.
        sizes: batch entries, rows of q, rows of k, and 1 where a pattern asks for as many queries as keys.
        device: of q.

    Raises:
        ArgumentError: values that do not fit the tensors.
    """
    batch, n, m, rings = sizes
    known = checked(device)
    if kind == "entries":
        table = _entries(tensors, numbers, (batch, n, m), device, known)
    elif kind == "packed":
        table = _packed(tensors, numbers, (n, m), known)
    else:
        (ids,) = tensors
        assert ids is not None
        table = _documents(ids)
    if rings and known:
        _check_square(table)
    return table


def capturing(device: torch.device) -> bool:
    """Whether what is launched on a device goes into a CUDA graph."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def checked(device: torch.device) -> bool:
    """Whether values are looked at, which waits for the device: not those of a graph that is recorded and not where
    there are none (meta), those on the CPU always, others unless that is turned off."""
    if torch.compiler.is_compiling() or device.type == "meta":
        return False
    if device.type == "cpu":
        return True
    return not capturing(device) and os.environ.get("PIDSL_CHECK_VALUES", "1") != "0"


def _entries(
    tensors: Sequence[Tensor | None], numbers: Sequence[int], sizes: tuple[int, int, int], device: torch.device,
    known: bool,
) -> Tensor:  # fmt: skip
    batch, n, m = sizes
    given = [_by_entry(x, number, batch, device) for x, number in zip(tensors, numbers, strict=True)]
    if known:
        faults = []
        for name, x, count in zip(ENTRIES, given, (n, m, n, m), strict=True):
            if x is None:
                continue
            if name.endswith("lengths"):
                bad = (x < 0) | (x > count)
                fits = f"0 <= {name} <= {count}, the rows of {'k' if name.startswith('key') else 'q'}"
            else:
                bad, fits = (x <= -POSITIONS) | (x >= POSITIONS - count), f"|{name}| + rows < {POSITIONS}"
            faults += _first(name, x, bad, fits)
        raise_faults(faults, _LENGTHS)
    columns = []
    for first, length, count in ((given[0], given[2], n), (given[1], given[3], m)):
        assert first is not None
        skipped = (-first).clamp(min=0)
        stop = torch.full_like(first, count) if length is None else length
        columns += [skipped, (stop - skipped).clamp(min=0), first.clamp(min=0)]
    return _table(torch.arange(batch, device=device), *columns)


def _by_entry(x: Tensor | None, number: int, batch: int, device: torch.device) -> Tensor | None:
    """int64 [B]; None for a length that is not given."""
    if x is not None:
        return x.long().expand(batch)
    return None if number < 0 else torch.full((batch,), number, device=device)


def _packed(tensors: Sequence[Tensor | None], numbers: Sequence[int], sizes: tuple[int, int], known: bool) -> Tensor:
    of_q, of_k = tensors
    assert of_q is not None
    if known:
        faults = []
        for name, x, count in zip(("cu_seqlens_q", "cu_seqlens_k"), tensors, sizes, strict=True):
            if x is not None:
                faults += check_ends(name, x, count)
        raise_faults(faults, _PACKED)
    q = of_q.long()
    k = q if of_k is None else of_k.long()
    rows, keys = q.diff(), k.diff()
    offset = (keys - rows) * numbers[0]
    early = (-offset).clamp(min=0)  # queries before the first key, where ends meet
    zero = torch.zeros_like(rows)
    return _table(zero, q[:-1] + early, rows - early, offset.clamp(min=0), k[:-1], keys, zero)


def check_ends(name: str, x: Tensor, count: int | None) -> list[Fault]:
    """The fault of ends of documents that do not start at 0, fall, or do not end at `count`, where it is known."""
    ends: list[int] = x.tolist()
    of = "q" if name.endswith("q") else "k"
    if ends[0] != 0:
        return [Fault(name, f"{name}[0] = {ends[0]}", "0, where the first document begins")]
    for x0, (a, b) in enumerate(pairwise(ends)):
        if b < a:
            return [Fault(name, f"{name}[{x0 + 1}] = {b} after {a}", "ends of documents that never fall")]
    if count is not None and ends[-1] != count:
        return [Fault(name, f"{name}[{len(ends) - 1}] = {ends[-1]}", f"{count}, the tokens of {of}")]
    return []


def _documents(ids: Tensor) -> Tensor:
    """The runs of equal ids, in the order of the batch."""
    if capturing(ids.device):
        hint = "kernel.packed(q, k, v, cu_seqlens), whose documents are counted by its shape"
        raise_faults(
            [Fault("documents", "ids in a graph that is captured", "a number of runs known before", hint)], _DOCUMENTS
        )
    batch, n = ids.shape
    if batch * n == 0:
        return torch.zeros(0, len(COLUMNS) + 1, dtype=torch.int32, device=ids.device)
    entry, first = run_begins(ids).nonzero().unbind(1)
    of = ids[entry, first]
    after = torch.full_like(first, n)
    after[:-1] = torch.where(entry[1:] == entry[:-1], first[1:], n)
    kept = of >= 0
    entry, first, after, of = entry[kept], first[kept], after[kept], of[kept]
    again = _again(entry, of)
    if again is not None:
        b, at, name = int(entry[again]), int(first[again]), int(of[again])
        got = f"documents[{b}, {at}] = {name}, which an earlier run has too"
        hint = "ids that are different for every document, or pidsl.Regions(ids), which sorts tokens by class"
        raise_faults([Fault("documents", got, "one run of tokens for each id", hint)], _DOCUMENTS)
    zero = torch.zeros_like(first)
    return _table(entry, first, after - first, zero, first, after - first, zero)


def run_begins(ids: Tensor) -> Tensor:
    """bool [B, n]: the tokens with which runs of equal ids begin."""
    begins = torch.ones_like(ids, dtype=torch.bool)
    begins[:, 1:] = ids[:, 1:] != ids[:, :-1]
    return begins


def _again(entry: Tensor, of: Tensor) -> int | None:
    """The first run whose id an earlier run of its batch entry has."""
    seen: set[tuple[int, int]] = set()
    for x, run in enumerate(zip(entry.tolist(), of.tolist(), strict=True)):
        if run in seen:
            return x
        seen.add(run)
    return None


def _check_square(table: Tensor) -> None:
    _, _, rows, offset, _, keys, key_offset, _ = table.unbind(1)
    apart = (rows + offset != keys + key_offset).nonzero()
    if len(apart):
        x = int(apart[0])
        got = f"{int(rows[x] + offset[x])} positions of queries and {int(keys[x] + key_offset[x])} of keys"
        expected = "as many, for a pattern with a ring"
        raise_faults([Fault("lengths", f"{got} in sequence {x}", expected)], _LENGTHS)


def _table(*columns: Tensor) -> Tensor:
    return torch.stack([*columns, torch.zeros_like(columns[0])], 1).to(torch.int32)


def _first(name: str, x: Tensor, bad: Tensor, expected: str) -> list[Fault]:
    places = bad.nonzero()
    return [Fault(name, f"{name}[{int(places[0])}] = {int(x[places[0]])}", expected)] if len(places) else []
