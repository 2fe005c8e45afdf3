"""Kernels of `summaries`: exact keys and span keys by one launch each, merged into one softmax."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any, Never

import torch
from torch import Tensor

from pidsl.language.summaries import Spans, Summaries
from pidsl.runtime.call.arguments import Fault, check_flag, check_form, check_kind, raise_faults
from pidsl.runtime.call.keywords import refuse
from pidsl.runtime.kernels.kernel import Backend, Checked, Kernel, autocast, compile
from pidsl.runtime.kernels.pooling import block_values, pooled

Given = Sequence[tuple[Tensor, ...] | None]  # (kbar, vbar) of each level


class SummariesKernel:
    """Compiled `summaries`. Made by `compile`; immutable, safe to call from several threads, picklable.

    A call runs the exact pattern, and for each level the pattern of queries and spans, each with its own log-sum-exp,
    and merges them. What spans other than blocks stand for is computed by a kernel too; blocks by batched products.

    Args:
        summaries: the exact pattern and the levels of spans.
        backend: as asked for.

    Attributes:
        summaries: the exact pattern and the levels of spans.
        kernels: by name: "exact", and for level x "seen x" and, unless it has blocks, "members x".
        backend: as asked for.
    """

    def __init__(self, summaries: Summaries, backend: Backend) -> None:
        self.summaries, self.backend = summaries, backend
        self.kernels: dict[str, Kernel] = {"exact": compile(summaries.exact, backend)}
        for x, level in enumerate(summaries.levels):
            self.kernels[f"seen {x}"] = compile(level.seen, backend)
            if level.of != "block":
                self.kernels[f"members {x}"] = compile(level.members, backend)
        self._where = f"kernel(q, k, v) of {summaries!r}"

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, *more: Never, scale: float | None = None, offset: int = 0,
        summaries: Given | None = None, return_lse: bool = False, **unknown: Never,
    ) -> Any:  # fmt: skip
        """One softmax over exact keys and spans, differentiable once in q, k, v and the summaries.

        Args:
            q: queries [B, Hq, n, D], any strides.
            k: keys [B, Hkv, m, D].
            v: values [B, Hkv, m, Dv].
            scale: factor of all logits; default 1 / sqrt(D).
            offset: row r of q stands at position `i = r + offset`.
            summaries: for each level None, or the keys [B, H, spans, D] and values [B, H, spans, Dv] of its spans,
                each with H = Hq or Hkv. None: the default of every level, which pools q and k; it needs the queries
                of all tokens, so n == m and offset == 0.
            return_lse: return (out, lse).

        Returns:
            out [B, Hq, n, Dv] in q's dtype; with `return_lse` also the log-sum-exp of all logits of a row [B, Hq, n].

        Raises:
            ArgumentError: shapes, dtypes, devices or numbers do not fit; all faults are named, nothing has run.
            KeywordError: an argument that the kernel does not take.
            BackendError: backend "triton" with tensors that are not on a GPU (and Triton is not interpreting).
        """
        if more or unknown:
            refuse(self.__call__, self._where, more, unknown)
        q, k, v = autocast(q, k, v)
        exact = self.kernels["exact"]
        call, faults, usable = exact.check(q, k, v, scale, offset, exact.rings)
        faults += check_flag("return_lse", return_lse)
        levels = self.summaries.levels
        given: list[Any] = [None] * len(levels)
        if summaries is not None:
            shape_faults, given = _check_levels(summaries, levels)
            faults += shape_faults
        if not faults:
            given = [None if own is None else autocast(*own) for own in given]
            faults = _check_given(usable, given, levels, call.positions.offset)
        raise_faults(faults, self._where)
        results = [exact.attend(q, k, v, call)]
        for x, (level, own) in enumerate(zip(levels, given, strict=True)):
            kbar, vbar = self._summarised(x, level, q, k, v, call) if own is None else own
            heads = max(kbar.shape[1], vbar.shape[1])
            if kbar.shape[1] != vbar.shape[1]:
                kbar, vbar = (bar.repeat_interleave(heads // bar.shape[1], 1) for bar in (kbar, vbar))
            results.append(self.kernels[f"seen {x}"].attend(q, kbar, vbar, call))
        out, lse = merge(results)
        return (out, lse) if return_lse else out

    def _summarised(
        self, x: int, level: Spans, q: Tensor, k: Tensor, v: Tensor, call: Checked
    ) -> tuple[Tensor, Tensor]:
        """kbar [B, Hkv, spans, D] and vbar [B, Hq, spans, Dv]."""
        qbar = pooled(q, level)
        if level.of == "block":
            return pooled(k, level), block_values(qbar, k, v, level.size, call.scale)
        return pooled(k, level), self.kernels[f"members {x}"].attend(qbar, k, v, call)[0]

    def source(self, head_dim: int = 64) -> str:
        """The generated programs, one after the other, under their names."""
        return "\n\n".join(f"# {name}\n{kernel.source(head_dim)}" for name, kernel in self.kernels.items())

    def explain(self) -> str:
        """The explanation of each kernel, under its name."""
        return "\n\n".join(f"{name}\n{kernel.explain()}" for name, kernel in self.kernels.items())

    def __repr__(self) -> str:
        return f"pidsl.compile({self.summaries!r}, backend={self.backend!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return compile, (self.summaries, self.backend)


def merge(results: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Attention over the union of disjoint sets of keys, from (out, lse) over each; differentiable.

    `lse = log sum over sets s of exp(lse_s)`, `out = sum over s of exp(lse_s - lse) out_s`; 0 and -inf for rows that
    have no key in any set.
    """
    if len(results) == 1:
        return results[0]
    lses = torch.stack([lse for _, lse in results], -1)
    top = lses.detach().amax(-1, keepdim=True)
    top = torch.where(top == -torch.inf, 0.0, top)
    weights = (lses - top).exp()
    total = weights.sum(-1, keepdim=True)
    dead = total == 0
    total = torch.where(dead, 1.0, total)
    shares = weights / total
    parts = [out * shares[..., s, None] for s, (out, _) in enumerate(results)]  # float32, of half precision outputs
    lse = torch.where(dead, -torch.inf, total.log() + top).squeeze(-1)
    return reduce(torch.add, parts).to(results[0][0].dtype), lse


def _check_levels(summaries: object, levels: Sequence[Spans]) -> tuple[list[Fault], list[Any]]:
    """Faults of what should be None or (kbar, vbar) for each level; and what was given, as tuples of tensors."""
    hint = "summaries=[(kbar, vbar), ...]"
    if not isinstance(summaries, Sequence) or isinstance(summaries, str | bytes):
        return [Fault("summaries", type(summaries).__name__, "a list: None or (kbar, vbar) for each level", hint)], []
    if len(summaries) != len(levels):
        return [Fault("summaries", f"{len(summaries)} levels", f"{len(levels)}, one for each level of spans", hint)], []
    faults = [
        Fault("summaries", f"{_kinds(own)} for level {x}", "None or (kbar, vbar)", hint)
        for x, own in enumerate(summaries)
        if own is not None and not (isinstance(own, tuple | list) and len(own) == 2)
    ]
    return faults, list(summaries)


def _kinds(own: object) -> str:
    return f"{len(own)} tensors" if isinstance(own, tuple | list) else type(own).__name__


def _check_given(usable: dict[str, Tensor], given: Given, levels: Sequence[Spans], offset: int) -> list[Fault]:
    """Faults of the summaries, given tensors that fit each other."""
    q, k, v = (usable[name] for name in "qkv")
    n, m = q.shape[2], k.shape[2]
    faults: list[Fault] = []
    if q.shape[1] == 0 or k.shape[1] == 0:
        got = f"{q.shape[1]} heads with {k.shape[1]} kv_heads"
        return [Fault("q", got, "at least 1 head: spans are summed up by head")]
    if (n != m or offset) and any(own is None for own in given):
        got = f"{n} queries from position {offset} on with {m} keys"
        expected = "the queries of all tokens, which the default summaries pool"
        faults.append(Fault("q", got, expected, "summaries=[(kbar, vbar), ...], kept from earlier"))
    for x, (level, own) in enumerate(zip(levels, given, strict=True)):
        if own is None:
            continue
        count = level.count(m)
        for name, bar, width in (("kbar", own[0], q.shape[3]), ("vbar", own[1], v.shape[3])):
            where = f"{name} of level {x}"
            if fault := check_form(where, bar, "[batch, heads, spans, dim]"):
                faults.append(fault)
                continue
            faults += check_kind({"q": q, where: bar}, (q.dtype,), "")
            heads = k.shape[1] if bar.shape[1] == k.shape[1] else q.shape[1]
            want = [q.shape[0], heads, count, width]
            if list(bar.shape) != want:
                faults.append(Fault(where, f"shape {list(bar.shape)}", f"{want}: {count} spans over {m} tokens"))
    return faults
