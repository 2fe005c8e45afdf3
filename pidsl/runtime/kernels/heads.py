"""Kernels of `heads`: one launch of each distinct pattern, over all of its query heads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Never

import torch
from torch import Tensor

from pidsl.language.heads import Heads
from pidsl.language.terms import Term
from pidsl.runtime.call.arguments import Fault, check_flag, raise_faults
from pidsl.runtime.call.call import Call, Inputs
from pidsl.runtime.call.dropout import mix
from pidsl.runtime.call.keywords import refuse
from pidsl.runtime.call.parameters import check_parameters
from pidsl.runtime.kernels.kernel import Backend, Kernel, autocast, compile, present
from pidsl.runtime.kernels.shares import Shares, join, shares, split
from pidsl.runtime.operator import attended, refuse_transform
from pidsl.runtime.programs import Compiled, is_wide, prepared, together

if TYPE_CHECKING:
    from pidsl.codegen.plan.nodes import Plan


@dataclass(frozen=True, slots=True)
class HeadsPlan:
    """What is launched for which query heads; print it.

    Args:
        launches: for each, the query heads and the plan of their pattern.
    """

    launches: tuple[tuple[tuple[int, ...], Plan], ...]

    def __str__(self) -> str:
        count = sum(len(mine) for mine, _ in self.launches)
        lines = [f"{_counted(len(self.launches), 'launch', 'launches')} for {_counted(count, 'query head')}"]
        for mine, plan in self.launches:
            lines += ["", f"{_named(mine)}", *("  " + line if line else "" for line in str(plan).split("\n"))]
        return "\n".join(lines)


class HeadsKernel:
    """Compiled `heads`. Made by `compile`; immutable, safe to call from several threads, picklable.

    On Triton, patterns whose layouts and tiles agree are one program: it is launched once, and reads and writes all
    heads in place. Elsewhere a call launches the program of each distinct pattern once, over all query heads that have
    it, wherever they are.
    Query heads of one pattern that are evenly spaced are read in place, others are copied together first; key heads
    are copied only where a pattern has different numbers of query heads on them. With one pattern for all heads,
    nothing is copied; with more, each result is copied to its heads of `out`.

    Args:
        heads: the pattern of each group of query heads.
        kernels: one compiled kernel for each distinct pattern, in the order in which they appear.

    Attributes:
        heads: the pattern of each group of query heads.
        kernels: the kernel of each distinct pattern; each has its own plan and source.
        backend: as asked for.
        score: what happens to the logits of every head, None for nothing.
        rings: the distinct patterns that hold a ring and so restrict the lengths.
    """

    def __init__(self, heads: Heads, kernels: Mapping[Term, Kernel]) -> None:
        self.heads, self.kernels = heads, dict(kernels)
        first = next(iter(self.kernels.values()))
        self.backend: Backend = first.backend
        self.score = first.score
        self.rings = tuple(term for kernel in self.kernels.values() for term in kernel.rings)
        self._mine = tuple(heads.distinct.values())
        groups = (group for group in range(1, len(heads) + 1) if len(heads) % group == 0)
        self._shares = {group: shares(self._mine, group) for group in groups}  # by query heads on each key head
        self._pattern, self._structure = repr(heads), first.structure
        self._where = f"kernel(q, k, v) of {self._pattern}"
        self._programs: dict[bool, Compiled | None] = {}
        self._whole = {wide: first.chosen == "triton" and self._exists(wide) for wide in (False, True)}

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, *more: Never, scale: float | None = None, offset: int = 0,
        return_lse: bool = False, slopes: Tensor | None = None, bias: Tensor | None = None,
        sinks: Tensor | None = None, temperature: Tensor | None = None, seed: int | None = None, **unknown: Never,
    ) -> Any:  # fmt: skip
        """Attention with each query head under its own pattern, differentiable once in q, k, v and the parameters.

        Args:
            q: queries [B, Hq, n, D], any strides; Hq is the number of heads that were declared.
            k: keys [B, Hkv, m, D]. Query head h uses key head `h // (Hq // Hkv)`, whatever its pattern.
            v: values [B, Hkv, m, Dv].
            scale: factor of the logits; default that of the score, or 1 / sqrt(D).
            offset: row r of q stands at position `i = r + offset`.
            return_lse: return (out, lse).
            slopes, sinks, temperature: [Hq], bias: [Hq, table], seed: what `score.parameters` names, for all heads
                in their order; each launch takes those of its own, and drops pairs by a seed of its own.

        Returns:
            out [B, Hq, n, Dv], with `return_lse` also lse [B, Hq, n]; see `Kernel`.

        Raises:
            ArgumentError: shapes, dtypes, devices or numbers do not fit; all faults are named, nothing has run.
            KeywordError: an argument that the kernel does not take.
            BackendError: backend "triton" with tensors that are not on a GPU (and Triton is not interpreting).
        """
        if more or unknown:
            refuse(self.__call__, self._where, more, unknown)
        q, k, v = autocast(q, k, v)
        kernels = list(self.kernels.values())
        call, faults, usable = kernels[0].check(q, k, v, scale, offset, self.rings)
        if "q" in usable and q.shape[1] != len(self.heads):
            counts = " + ".join(str(count) for count, _ in self.heads.groups)
            faults.append(Fault("q", f"{q.shape[1]} heads", f"{len(self.heads)} = {counts}, as declared"))
        if type(return_lse) is not bool:
            faults += check_flag("return_lse", return_lse)
        given = {"slopes": slopes, "bias": bias, "sinks": sinks, "temperature": temperature, "seed": seed}
        raise_faults([*faults, *check_parameters(self.score, kernels[0].parameters, usable, given)], self._where)
        inputs = present(given)
        if len(kernels) == 1:
            out, lse = kernels[0].attend(q, k, v, call, inputs)
            return (out, lse) if return_lse else out
        if call.backend == "triton" and self._whole[wide := is_wide("triton", q.shape[3])]:
            whole = Call(q, k, v, call.scale, call.positions, inputs)
            out, lse = attended(lambda: self._made(wide), self._pattern, kernels[0].structure_text, call.backend, whole)
            return (out, lse) if return_lse else out
        parts = self._shares[q.shape[1] // k.shape[1]]
        try:
            heads = split(q, parts.queries), split(k, parts.keys), split(v, parts.keys)
        except RuntimeError as e:
            refuse_transform(e, SimpleNamespace(term=self.heads, score=self._structure))
            raise
        launches = zip(kernels, *heads, self._split_inputs(inputs, parts), strict=True)
        results = [kernel.attend(mine, keys, values, call, own) for kernel, mine, keys, values, own in launches]
        out = join(parts.queries, *(out for out, _ in results))
        return (out, join(parts.queries, *(lse for _, lse in results))) if return_lse else out

    def _exists(self, wide: bool) -> bool:
        if torch.compiler.is_compiling():
            return prepared(self._pattern, next(iter(self.kernels.values())).structure_text, "triton", wide)
        return self._made(wide) is not None

    def _made(self, wide: bool) -> Any:
        """The Triton program of all heads; None where their layouts do not agree."""
        if wide not in self._programs:
            self._programs[wide] = together(self.heads, wide, self._structure)
        return self._programs[wide]

    def _split_inputs(self, inputs: Inputs, parts: Shares) -> list[Inputs]:
        """The inputs of each launch; those of a head are rows of the tensors."""
        found: list[dict[str, Any]] = [{} for _ in self._mine]
        for name, x in inputs.items():
            rows = [own[0] for own in split(x[None], parts.queries)] if isinstance(x, Tensor) else []
            for launch, (mine, given) in enumerate(zip(self._mine, found, strict=True)):
                given[name] = rows[launch] if rows else launch_seed(x, mine[0])
        return [*found]

    @property
    def plan(self) -> HeadsPlan:
        """What is launched for which query heads, and the plan of each launch: print it."""
        if self._whole[False]:
            return HeadsPlan(((tuple(range(len(self.heads))), self._made(False).plan),))
        return HeadsPlan(tuple(zip(self._mine, (kernel.plan for kernel in self.kernels.values()), strict=True)))

    def source(self, head_dim: int = 64) -> str:
        """The generated program of all heads; or of each distinct pattern, one section each, under its query heads."""
        if self._whole[wide := is_wide("triton", head_dim)]:
            source: str = self._made(wide).program.source
            return source
        sections = zip(self._mine, self.kernels.values(), strict=True)
        return "\n\n".join(f"# {_named(mine)}\n{kernel.source(head_dim)}" for mine, kernel in sections)

    def explain(self) -> str:
        """How many launches there are, and the explanation of each under its query heads."""
        if self._whole[False]:
            return str(self.plan)
        sections = zip(self._mine, self.kernels.values(), strict=True)
        first = str(self.plan).split("\n", 1)[0]
        return "\n\n".join([first, *(f"{_named(mine)}\n{kernel.explain()}" for mine, kernel in sections)])

    def __repr__(self) -> str:
        score = "" if self.score is None else f", score={self.score!r}"
        return f"pidsl.compile({self.heads!r}, backend={self.backend!r}{score})"

    def __reduce__(self) -> tuple[Any, ...]:
        return compile, (self.heads, self.backend, self.score)


def launch_seed(seed: int, first: int) -> int:
    """The seed of the launch whose first query head is `first`; that of head 0 has the seed of the call.

    A program hashes the number of a head among the heads of its launch, so equal seeds would drop equal pairs in
    several launches. Small differences of seeds are left to callers, who count steps with them.
    """
    return seed ^ mix(first) << 31


def _named(heads: tuple[int, ...]) -> str:
    """`heads 0-2, 5`."""
    spans: list[list[int]] = []
    for head in heads:
        if spans and head == spans[-1][1] + 1:
            spans[-1][1] = head
        else:
            spans.append([head, head])
    shown = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
    return f"head {shown}" if len(heads) == 1 else f"heads {shown}"


def _counted(count: int, one: str, several: str = "") -> str:
    return f"{count} {one}" if count == 1 else f"{count} {several or one + 's'}"
