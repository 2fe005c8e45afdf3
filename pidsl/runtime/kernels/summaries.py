"""Summaries: one softmax over exact keys and over spans, `merge` of a softmax over each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from pidsl.language.summaries import Spans, Summaries
from pidsl.language.terms import Term
from pidsl.runtime import sequences
from pidsl.runtime.call.arguments import Fault, check_form, check_kind, raise_faults
from pidsl.runtime.call.call import Call, Positions
from pidsl.runtime.call.ragged import Batch
from pidsl.runtime.call.segments import Segments
from pidsl.runtime.call.sums import accumulator
from pidsl.runtime.kernels.form import Form
from pidsl.runtime.kernels.merge import merged
from pidsl.runtime.operator import is_traced

if TYPE_CHECKING:
    from pidsl.runtime.kernels.kernel import Kernel

Given = Sequence[tuple[Tensor, ...] | None]  # (kbar, vbar) of each level


class Merge(Form):
    """One softmax over exact keys and spans.

    A call runs the exact pattern, and for each level the pattern of queries and spans, each with its own log-sum-exp,
    and merges them. What spans other than blocks stand for is computed by a kernel too; blocks by batched products.

    Args:
        summaries: the exact pattern and the levels of spans.
        kernels: by name: "exact", and for level x "seen x" and, unless it has blocks, "members x".
    """

    inputs = cast = ("summaries",)
    scored = False

    def __init__(self, summaries: Summaries, kernels: Mapping[str, Kernel]) -> None:
        self.summaries, self.parts = summaries, kernels

    @property
    def rings(self) -> tuple[Term, ...]:
        return self.parts["exact"].form.rings

    def faults(self, call: Call, usable: Mapping[str, Tensor], sound: bool) -> list[Fault]:
        levels, given = self.summaries.levels, call.inputs.get("summaries")
        at: Any = call.positions
        if isinstance(at, Batch):
            return _check_ragged(call, given, at)
        faults = [] if given is None else _check_levels(given, levels)
        if faults or not sound:
            return faults
        return _check_given(usable, [None] * len(levels) if given is None else given, levels, call.positions)

    def attend(self, call: Call, backend: str) -> tuple[Tensor, Tensor]:
        if isinstance(call.positions, Segments):  # spans begin anew with each sequence
            _check_sequences(call.positions)
            return sequences.forward(call, lambda one: self.attend(one, backend))
        exact, levels = self.parts["exact"].form, self.summaries.levels
        given = call.inputs.get("summaries") or [None] * len(levels)
        results = [exact.attend(call, backend)]
        for x, (level, own) in enumerate(zip(levels, given, strict=True)):
            kbar, vbar = self._summarised(x, level, call, backend) if own is None else own
            heads = max(kbar.shape[1], vbar.shape[1])
            if kbar.shape[1] != vbar.shape[1]:
                kbar, vbar = (bar.repeat_interleave(heads // bar.shape[1], 1) for bar in (kbar, vbar))
            spans = call._replace(k=kbar, v=vbar, positions=Positions(call.positions.offset))
            results.append(self.parts[f"seen {x}"].form.attend(spans, backend))
        return merged(results)

    def _summarised(self, x: int, level: Spans, call: Call, backend: str) -> tuple[Tensor, Tensor]:
        """kbar [B, Hkv, spans, D] and vbar [B, Hq, spans, Dv]."""
        qbar = pooled(call.q, level)
        if level.of == "block":
            return pooled(call.k, level), block_values(qbar, call.k, call.v, level.size, call.scale)
        return pooled(call.k, level), self.parts[f"members {x}"].form.attend(call._replace(q=qbar), backend)[0]


def _check_ragged(call: Call, given: Any, batch: Batch) -> list[Fault]:
    """Faults of summaries of a batch with lengths or documents: each sequence pools its own tokens."""
    if given is not None:
        expected = "None: every sequence pools its own tokens"
        return [Fault("summaries", f"tensors with {batch.kind}", expected, "a call for each sequence")]
    if is_traced(call.q, call.k, call.v):
        expected = "an eager call, which runs one sequence after the other"
        return [Fault("summaries", f"{batch.kind} in a graph that torch traces", expected)]
    return []


def _check_sequences(of: Segments) -> None:
    """Raise where a sequence has not the queries of all of its tokens, which its summaries pool."""
    for number, one in enumerate(of.on_host):
        if one.rows and (one.rows != one.keys or one.offset or one.key_offset):
            got = f"{one.rows} queries from position {one.offset} on with {one.keys} keys, in sequence {number}"
            raise_faults(
                [Fault("q", got, "the queries of all tokens, which the default summaries pool")], "kernel(...)"
            )


def _check_levels(summaries: object, levels: Sequence[Spans]) -> list[Fault]:
    """Faults of what should be None or (kbar, vbar) for each level."""
    hint = "summaries=[(kbar, vbar), ...]"
    if not isinstance(summaries, Sequence) or isinstance(summaries, str | bytes):
        return [Fault("summaries", type(summaries).__name__, "a list: None or (kbar, vbar) for each level", hint)]
    if len(summaries) != len(levels):
        return [Fault("summaries", f"{len(summaries)} levels", f"{len(levels)}, one for each level of spans", hint)]
    return [
        Fault("summaries", f"{_kinds(own)} for level {x}", "None or (kbar, vbar)", hint)
        for x, own in enumerate(summaries)
        if own is not None and not (isinstance(own, tuple | list) and len(own) == 2)
    ]


def _kinds(own: object) -> str:
    return f"{len(own)} tensors" if isinstance(own, tuple | list) else type(own).__name__


def _check_given(usable: Mapping[str, Tensor], given: Given, levels: Sequence[Spans], positions: Any) -> list[Fault]:
    """Faults of the summaries, given tensors that fit each other."""
    q, k, v = (usable[name] for name in "qkv")
    n, m = q.shape[2], k.shape[2]
    faults: list[Fault] = []
    if q.shape[1] == 0 or k.shape[1] == 0:
        got = f"{q.shape[1]} heads with {k.shape[1]} kv_heads"
        return [Fault("q", got, "at least 1 head: spans are summed up by head")]
    if (n != m or any(positions)) and any(own is None for own in given):
        got = f"{n} queries from position {positions.offset} on with {m} keys"
        got += f" from position {positions.key_offset} on" if positions.key_offset else ""
        expected = "the queries of all tokens, which the default summaries pool"
        faults.append(Fault("q", got, expected, "summaries=[(kbar, vbar), ...], kept from earlier"))
    for x, (level, own) in enumerate(zip(levels, given, strict=True)):
        if own is None:
            continue
        count = level.count(m + positions.key_offset)
        for name, bar, width in (("kbar", own[0], q.shape[3]), ("vbar", own[1], v.shape[3])):
            where = f"{name} of level {x}"
            if fault := check_form(where, bar, "[batch, heads, spans, dim]"):
                faults.append(fault)
                continue
            faults += check_kind({"q": q, where: bar}, (q.dtype,), "")
            heads = k.shape[1] if bar.shape[1] == k.shape[1] else q.shape[1]
            want = [q.shape[0], heads, count, width]
            if list(bar.shape) != want:
                expected = f"{want}: {count} spans over {m + positions.key_offset} tokens"
                faults.append(Fault(where, f"shape {list(bar.shape)}", expected))
    return faults


def pooled(x: Tensor, level: Spans) -> Tensor:
    """One row for each span of a level: [B, H, n, D] to [B, H, spans, D]; see `pidsl.language.summaries`.

    Spans without tokens get 0. Where several tokens hold the maximum of a block, they share its gradient. Of spans
    "above" and "beside", torch's `cummax` adds up the gradients, on a GPU in no fixed order: its last bits may differ.
    """
    if level.of == "row":
        return x
    rows = _rows(x, level.size, -torch.inf)
    if level.of == "block":
        return rows.amax(3) if rows.numel() else rows[:, :, :, 0]
    if level.of == "above":
        found = _before(rows, 2)
    else:
        right = _before(rows.flip(3), 3).flip(3)
        found = torch.maximum(_before(rows, 3), right)
    found = torch.where(found == -torch.inf, 0.0, found)
    found, count = found.flatten(2, 3), level.count(x.shape[2])
    if torch.compiler.is_compiling():  # a slice is contiguous for some lengths only
        return found.index_select(2, torch.arange(count, device=x.device))
    return found[:, :, :count]


def block_values(qbar: Tensor, k: Tensor, v: Tensor, size: int, scale: float) -> Tensor:
    """`sum over the tokens j of block s of softmax_j(scale qbar_s . k_j) v_j`: [B, Hq, blocks, Dv], in v's dtype.

    Args:
        qbar: one query for each block [B, Hq, blocks, D].
        k: keys [B, Hkv, n, D].
        v: values [B, Hkv, n, Dv].
        size: tokens per block; the last block may have fewer.
        scale: factor of the logits.
    """
    precise, n, kv_heads = accumulator(k.dtype), k.shape[2], k.shape[1]
    keys, values = (_rows(x, size, 0.0).to(precise) for x in (k, v))  # [B, Hkv, blocks, size, D]
    grouped = qbar.unflatten(1, (kv_heads, -1)).transpose(2, 3).to(precise)  # [B, Hkv, blocks, group, D]
    scores = grouped @ keys.mT * scale
    blocks = scores.shape[2]
    if torch.compiler.is_compiling() or blocks * size > n:
        beyond = torch.arange(blocks * size, device=k.device).view(blocks, 1, size) >= n
        scores = scores.masked_fill(beyond, -torch.inf)
    return (torch.softmax(scores, -1) @ values).transpose(2, 3).flatten(1, 2).to(v.dtype)


def _rows(x: Tensor, size: int, fill: float) -> Tensor:
    """[B, H, n, D] as [B, H, rows, size, D], the last row filled up."""
    rows = (x.shape[2] + size - 1) // size
    missing = rows * size - x.shape[2]
    if torch.compiler.is_compiling() or missing:  # one graph for lengths of both kinds
        x = pad(x, (0, 0, 0, missing), value=fill)
    return x.unflatten(2, (rows, size))


def _before(rows: Tensor, axis: int) -> Tensor:
    """The maximum of everything before along an axis, -inf where that is nothing."""
    if rows.shape[axis] == 0:
        return rows
    upto = rows.cummax(axis).values
    first = torch.full_like(upto.narrow(axis, 0, 1), -torch.inf)
    return torch.cat([first, upto.narrow(axis, 0, rows.shape[axis] - 1)], axis)
