"""Summaries: one softmax over exact keys and over spans, `merge` of a softmax over each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from pidsl.language.summaries import Spans, Summaries
from pidsl.language.terms import Term
from pidsl.runtime.call.arguments import Fault, check_form, check_kind
from pidsl.runtime.call.call import Call, Positions
from pidsl.runtime.kernels.form import Form
from pidsl.runtime.kernels.merge import merged
from pidsl.runtime.kernels.pooling import block_values, pooled

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
        faults = [] if given is None else _check_levels(given, levels)
        if faults or not sound:
            return faults
        return _check_given(usable, [None] * len(levels) if given is None else given, levels, call.positions)

    def attend(self, call: Call, backend: str) -> tuple[Tensor, Tensor]:
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


def _check_given(
    usable: Mapping[str, Tensor], given: Given, levels: Sequence[Spans], positions: Positions
) -> list[Fault]:
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
