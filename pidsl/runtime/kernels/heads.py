"""`by_head`: one launch of each distinct pattern over all of its query heads, or one of all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from torch import Tensor

from pidsl.language.heads import Heads
from pidsl.language.terms import Term
from pidsl.runtime.call.arguments import PARTS, Fault
from pidsl.runtime.call.call import Call, Spread
from pidsl.runtime.call.dropout import mix
from pidsl.runtime.kernels.form import Form, Plans
from pidsl.runtime.kernels.shares import Shares, join, shares, split
from pidsl.runtime.operator import attended, refuse_transform
from pidsl.runtime.programs import Programs, kind_of, usual

if TYPE_CHECKING:
    from pidsl.codegen.choice.targets import Kind
    from pidsl.codegen.plan.nodes import Plan
    from pidsl.runtime.kernels.kernel import Kernel


class ByHead(Form):
    """Each query head under its own pattern.

    On Triton, patterns whose layouts and tiles agree are one program: it is launched once, and reads and writes all
    heads in place. Elsewhere a call launches the program of each distinct pattern once, over all query heads that have
    it, wherever they are.
    Query heads of one pattern that are evenly spaced are read in place, others are copied together first; key heads
    are copied only where a pattern has different numbers of query heads on them. With one pattern for all heads,
    nothing is copied; with more, each result is copied to its heads of `out`.

    Args:
        heads: the pattern of each group of query heads.
        kernels: one for each distinct pattern, in the order in which they appear.
    """

    def __init__(self, heads: Heads, kernels: Mapping[Term, Kernel]) -> None:
        self.heads, self.parts = heads, kernels
        self._mine = tuple(heads.distinct.values())
        launches, count = len(kernels), len(heads)
        self.what = f"{launches} launch{'es' * (launches > 1)} for {count} query head{'s' * (count > 1)}"
        groups = (group for group in range(1, len(heads) + 1) if len(heads) % group == 0)
        self._shares = {group: shares(self._mine, group) for group in groups}  # by query heads on each key head
        first = next(iter(kernels.values()))
        self._together, self._triton = Programs(heads, first.score), first.chosen == "triton"
        self._whole(usual("triton"))

    def _whole(self, which: Kind, moved: bool = False) -> bool:
        """Whether one program of a kind serves all heads."""
        return self._triton and self._together.exist("triton", which, moved)

    def titled(self) -> Iterable[tuple[str, Kernel]]:
        return zip(map(_named, self._mine), self.parts.values(), strict=True)

    def faults(self, call: Call, usable: Mapping[str, Tensor], sound: bool) -> list[Fault]:
        if "q" not in usable or call.q.shape[1] == len(self.heads):
            return []
        counts = " + ".join(str(count) for count, _ in self.heads.groups)
        return [Fault("q", f"{call.q.shape[1]} heads", f"{len(self.heads)} = {counts}, as declared")]

    def attend(self, call: Call, backend: str) -> tuple[Tensor, Tensor]:
        kernels = list(self.parts.values())
        if len(kernels) == 1:
            return kernels[0].form.attend(call, backend)
        q, k, v = call[:3]
        where: Any = call.positions
        spread = isinstance(where, Spread)
        if backend == "triton" and not spread and self._whole(kind_of("triton", q, v), where.moved):
            return attended(self._together, backend, call)
        parts = self._shares[q.shape[1] // k.shape[1]]
        places = [where] * len(kernels)
        if spread:
            places = [where.of_heads(mine, keys) for mine, keys in zip(parts.queries, parts.keys, strict=True)]
        try:
            heads = split(q, parts.queries), split(k, parts.keys), split(v, parts.keys)
        except RuntimeError as e:
            refuse_transform(e, self._together)
            raise
        launches = zip(kernels, *heads, places, self._split_inputs(call.inputs, parts), strict=True)
        results = [
            kernel.form.attend(call._replace(q=mine, k=keys, v=values, positions=at, inputs=own), backend)
            for kernel, mine, keys, values, at, own in launches
        ]
        return join(parts.queries, *(out for out, _ in results)), join(parts.queries, *(lse for _, lse in results))

    def _split_inputs(self, inputs: Mapping[str, Any], parts: Shares) -> list[dict[str, Any]]:
        """The inputs of each launch: rows of those that are by head, and a seed for each."""
        found: list[dict[str, Any]] = [dict(inputs) for _ in self._mine]
        for name, x in inputs.items():
            if name == "seed" and x is not None:
                each: Iterable[Any] = [launch_seed(x, mine[0]) for mine in self._mine]
            elif name == "blocks" and x is not None:
                each = self._split_lists(x, parts)
            elif name in PARTS and x is not None:
                each = [own[0] for own in split(x[None], parts.queries)]
            else:
                continue
            for own, mine in zip(found, each, strict=True):
                own[name] = mine
        return found

    def _split_lists(self, blocks: Tensor, parts: Shares) -> Sequence[Tensor]:
        """The lists of each launch: those of all heads, or of its query heads, or of their key heads."""
        if blocks.shape[1] == 1:
            return [blocks] * len(self._mine)
        return split(blocks, parts.queries if blocks.shape[1] == len(self.heads) else parts.keys)

    @property
    def plan(self) -> Plan | Plans:
        """What is launched for which query heads, and the plan of each launch."""
        if self._whole(which := usual("triton")):
            title, made = _named(tuple(range(len(self.heads)))), self._together.made("triton", which)
            return Plans(f"1 launch for {len(self.heads)} query heads", ((title, made.plan),))
        return super().plan

    def source(self, head_dim: int = 64) -> str:
        """The generated program of all heads; or of each distinct pattern, one section each, under its query heads."""
        if not self._whole(which := usual("triton", head_dim)):
            return super().source(head_dim)
        return str(self._together.made("triton", which).source)

    def explain(self) -> str:
        """How many launches there are, and the explanation of each under its query heads."""
        return str(self.plan) if self._whole(usual("triton")) else super().explain()


def launch_seed(seed: int, first: int) -> int:
    """The seed of the launch whose first query head is `first`; that of head 0 has the seed of the call.

    A program hashes the number of a head among the heads of its launch, so equal seeds would drop equal pairs in
    several launches. Small differences of seeds are left to callers, who count steps with them.
    """
    return seed ^ mix(first) << 31


def _named(heads: tuple[int, ...]) -> str:
    """`heads 0-2, 5`."""
    runs = [[head for _, head in run] for _, run in groupby(enumerate(heads), lambda x: x[1] - x[0])]
    shown = ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
    return f"head {shown}" if len(heads) == 1 else f"heads {shown}"
