"""`ContextParallel`: a kernel over a sequence whose tokens are shared out among ranks."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, wraps
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from pidsl.distributed.planning.plan import Plan, plan
from pidsl.distributed.running.agree import agreed, group_of, refuse, together, told, watched
from pidsl.distributed.running.exchange import Trip, depart
from pidsl.distributed.running.prepare import Pattern, Setup, Sharding, chosen_setup, planned, shards_of
from pidsl.distributed.running.sequences import Documents, documents_of
from pidsl.distributed.running.share import Landing, Share
from pidsl.distributed.tokens.runs import positions
from pidsl.distributed.tokens.shards import Shards
from pidsl.errors import ArgumentError, PidslError, TermError
from pidsl.language.confined import confined
from pidsl.language.terms import Term
from pidsl.runtime.call.arguments import Fault, raise_faults
from pidsl.runtime.call.call import Call
from pidsl.runtime.kernels.kernel import Kernel

Called = TypeVar("Called", bound=Callable[..., Any])


def eagerly(function: Called) -> Called:
    """The function, which torch.compile leaves alone: between its graphs ranks talk to each other.

    `torch.compiler.disable` imports all of torch._dynamo, several seconds, so it is asked only where that is there.
    """
    kept: list[Callable[..., Any]] = []

    @wraps(function)
    def called(*given: Any, **named: Any) -> Any:
        if "torch._dynamo" not in sys.modules:
            return function(*given, **named)
        if not kept:
            kept.append(torch.compiler.disable(function))
        return kept[0](*given, **named)

    called._torchdynamo_disable = True  # type: ignore[attr-defined]
    return cast(Called, called)


KEPT = 128  # setups of one group: of patterns, lengths, shapes and documents; as many on every rank


class Kept:
    """What the ranks of a group have found out together, for all kernels: the same on every rank, as all of them make
    the same calls."""

    def __init__(self) -> None:
        self.shards: dict[tuple[Pattern, int, bool], Shards] = {}
        self.setups: dict[Setup, Setup] = {}

    def setup(self, new: Setup, make: Callable[[], Setup]) -> Setup:
        """The one that is equal to another, made before or now."""
        found = self.setups.pop(new, None) or make()
        self.setups[new] = found  # the last one
        while len(self.setups) > KEPT:
            del self.setups[next(iter(self.setups))]
        return found


_kept: WeakKeyDictionary[dist.ProcessGroup, Kept] = WeakKeyDictionary()


class ContextParallel:
    """A kernel over a sequence whose tokens are shared out among ranks: every rank gives its rows of q, k and v and
    gets its rows of the result, as one device would compute them.

        parallel = pidsl.distributed.ContextParallel(kernel, group)
        out = parallel(q, k, v)                # [B, H, own tokens, D] on each rank

    A rank is sent the keys and values that its queries attend and that it does not hold, and no others, each once;
    its own keys are attended meanwhile. Where another layout of the tokens makes a part of the pattern local, its
    queries travel instead. `plan(n, ...)` says what moves and why. Gradients go back the same ways, and are added in
    the order of the ranks: the same bits on every run.

    Args:
        kernel: made by `pidsl.compile`; of a term, a gate or heads.
        group: a torch process group, or a `DeviceMesh` of one dimension; None: all ranks.
        sharding: which rank holds which tokens, see `pidsl.distributed.Shards`: "contiguous", "zigzag", or the period
            of residue classes. "auto": what the plan finds cheapest of those that share the work out evenly.

    Raises:
        ArgumentError: no such kernel, group or sharding.
        TermError: a pattern with summaries.
    """

    def __init__(self, kernel: Kernel, group: Any = None, sharding: Sharding = "auto") -> None:
        where = "pidsl.distributed.ContextParallel(kernel, group)"
        if not isinstance(kernel, Kernel):
            hint = (
                "[ContextParallel(own, group) for own in kernels]" if hasattr(kernel, "schedule") else "pidsl.compile"
            )
            raise ArgumentError(f"kernel: {type(kernel).__name__}", "a kernel, of pidsl.compile", where, hint)
        pattern, self.confined = confined(kernel.recipe.of)
        if not isinstance(pattern, Pattern):
            hint = "the exact pattern alone: summaries pool tokens of all ranks"
            raise TermError(repr(kernel.recipe.of), "a term, a gate or heads", where, hint)
        whole = isinstance(sharding, int) and not isinstance(sharding, bool) and sharding >= 1
        if not whole and sharding not in ("auto", "contiguous", "zigzag"):
            expected = "'auto', 'contiguous', 'zigzag', or the period of residue classes, an integer >= 1"
            raise ArgumentError(f"sharding = {sharding!r}", expected, where)
        if whole and kernel.score is not None and kernel.score.positional:
            expected, hint = "tokens in order: its score asks where they stand", 'sharding="zigzag"'
            raise ArgumentError(f"sharding = {sharding!r} for {kernel!r}", expected, where, hint)
        self.kernel, self.pattern, self.sharding = kernel, pattern, sharding
        self.group: dist.ProcessGroup = group_of(group, where)
        self._kept = _kept.setdefault(self.group, Kept())
        self.stepped = kernel.score is None or not kernel.score.positional
        self._name = repr(kernel)
        self._where = f"ContextParallel({self._name})"

    @cached_property
    def rank(self) -> int:
        """The number of this rank in the group."""
        return dist.get_rank(self.group)

    @cached_property
    def ranks(self) -> int:
        """How many ranks there are in the group."""
        return dist.get_world_size(self.group)

    # -- which tokens are where

    def shards(self, n: int) -> Shards:
        """Which rank holds which of n tokens. With `sharding="auto"` every rank is to ask this first, for each n."""
        if isinstance(self.sharding, int):
            return Shards(n, self.ranks, "classes", self.sharding)
        if self.sharding != "auto" or n == 0:
            return Shards(n, self.ranks, "contiguous" if self.sharding == "auto" else self.sharding)
        key = self.pattern, n, self.stepped
        if key not in self._kept.shards:
            self._kept.shards[key] = told(self.group, lambda: shards_of(self.pattern, n, self.ranks, self.stepped))
        return self._kept.shards[key]

    @eagerly
    def length(self, rows: int) -> int:
        """How many tokens all ranks hold together; every rank calls it with what it holds."""
        held = agreed(self.group, {"pattern": self._name, "sharding": str(self.sharding)}, rows)
        self._check_rows(held, self.shards(sum(held)))
        return sum(held)

    @eagerly
    def positions(self, n: int) -> Tensor:
        """int64: the positions of the tokens that this rank holds of n, in their order."""
        return torch.from_numpy(positions(self.shards(n).runs(self.rank)))

    def shard(self, x: Tensor, dim: int = 2) -> Tensor:
        """What this rank holds of a tensor of all tokens.

        Args:
            x: any tensor with the n tokens along `dim`, the same on every rank.
            dim: 2 of q, k and v [B, H, n, D]; 1 of [B, n, dim].
        """
        return x.index_select(dim, self.positions(x.shape[dim]).to(x.device))

    def unshard(self, x: Tensor, dim: int = 2) -> Tensor:
        """All tokens, in their order, from what each rank holds; without gradients."""
        mine = x.detach().movedim(dim, 0).contiguous()
        rows = agreed(self.group, {"shape": str(tuple(mine.shape[1:])), "dtype": str(mine.dtype)}, len(mine))
        most = max(rows)
        padded = mine.new_zeros((most, *mine.shape[1:]))
        padded[: len(mine)] = mine
        found = [torch.empty_like(padded) for _ in rows]
        with watched(self.group, "the tokens of all ranks", mine.device) as wait:
            wait(dist.all_gather(found, padded, group=self.group, async_op=True))
        shards = self.shards(sum(rows))
        order = np.concatenate([positions(shards.runs(rank)) for rank in range(self.ranks)])
        whole = torch.cat([x[:count] for x, count in zip(found, rows, strict=True)])
        return whole[torch.from_numpy(np.argsort(order)).to(x.device)].movedim(0, dim)

    def plan(self, n: int, **sizes: Any) -> Plan:
        """What moves between the ranks, and why; `sizes` as in `pidsl.distributed.plan`: kv_heads, dtype, ..."""
        return plan(self.pattern, n, self.ranks, sharding=self.shards(n), **sizes)

    # -- a call

    @eagerly
    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None, return_lse: bool = False,
        documents: Tensor | None = None, **inputs: Any,
    ) -> Any:  # fmt: skip
        """Attention of the rows of this rank. Every rank calls it, with tensors of one dtype, B, heads and widths.

        Args:
            q: queries [B, Hq, rows, D], the tokens `shards(n)` says this rank holds, in their order.
            k: keys [B, Hkv, rows, D].
            v: values [B, Hkv, rows, Dv].
            scale, return_lse: as of a kernel.
            documents: an id for each of all n tokens, [B, n] or [n], the same on every rank: the pattern holds within
                each run of equal ids, wherever it lies; negative ids are padding.
            inputs: what the kernel takes; those with a row for each query have the rows of this rank.

        Returns:
            out [B, Hq, rows, Dv]; with `return_lse` also lse, as of a kernel.

        Raises:
            ArgumentError, KeywordError, BackendError: what a kernel raises; ranks that disagree, or one that raises, on
                every rank; a rank that died or did not come, on all others.
            TooHardError: isl's limit struck, on whichever rank.

        Going back, ranks wait for each other too: each has a part of the loss, of out, lse or both, and asks for
        gradients of the same tensors; `0 * out.sum()` is the part of one that has none.
        """
        waited = True  # for this rank, by all others

        def begin(call: Call) -> Share:
            nonlocal waited
            found = self._checked(documents, call.q)
            waited = False
            return self._begun(call, found, 0 if documents is None else documents.shape[-1])

        try:
            out, lse = self.kernel.spread(q, k, v, Share(begin), scale=scale, where=self._where, **inputs)
        except PidslError as error:
            if waited:
                refuse(self.group, error)
            raise
        return (out, lse) if return_lse else out

    def _begun(self, call: Call, documents: Documents | None, tokens: int) -> Share:
        q, k, v = call[:3]
        rows = agreed(self.group, self._facts(call, documents, tokens), q.shape[2])
        n = sum(rows)
        home = self.shards(n)
        self._check_rows(rows, home)
        if documents is not None and tokens != n:
            fault = Fault("documents", f"ids of {tokens} tokens", f"{n}, as many as all ranks hold together")
            raise_faults([fault], self._where)
        sizes = (q.shape[0], q.shape[1], k.shape[1], q.shape[3], v.shape[3])
        dtype = str(q.dtype).removeprefix("torch.")
        new = Setup(self.pattern, home, self.rank, sizes, dtype, self.stepped, documents)
        setup = self._kept.setup(new, lambda: self._made(new))
        if self.kernel.choice is not None:
            setup = chosen_setup(setup, call.inputs["blocks"], self.group)
        trip = Trip(setup.routes, self.group)
        landing = Landing(trip, depart(trip, k, v))
        return Share(self._never, self.group, lambda programs: setup.work(cast(Term, programs.term)), landing)

    def _made(self, new: Setup) -> Setup:
        """A setup with the plan of the first rank, and its routes."""
        if not new.trivial:
            new = replace(new, planned=told(self.group, lambda: planned(new)))
        together(self.group, lambda: new.routes)
        return new

    @staticmethod
    def _never(call: Call) -> Share:
        raise AssertionError("a call that has begun")

    def _checked(self, ids: Tensor | None, q: Tensor) -> Documents | None:
        """The documents of all ranks."""
        if ids is None:
            if self.confined:
                hint = "parallel(q, k, v, documents=ids)"
                fault = Fault("documents", "nothing", "an id for each token of all ranks, [B, n]", hint)
                raise_faults([fault], self._where)
            return None
        if not isinstance(ids, Tensor) or ids.dtype not in (torch.int32, torch.int64) or ids.dim() not in (1, 2):
            got = f"{ids.dtype} of {ids.dim()} axes" if isinstance(ids, Tensor) else type(ids).__name__
            raise_faults([Fault("documents", got, "int32 or int64 ids of all tokens, [B, n] or [n]")], self._where)
        if ids.dim() == 2 and ids.shape[0] != q.shape[0]:
            fault = Fault("documents", f"{ids.shape[0]} rows", f"{q.shape[0]}, the batch of q, or none")
            raise_faults([fault], self._where)
        return documents_of(ids.cpu().expand(q.shape[0], ids.shape[-1]))

    def _facts(self, call: Call, documents: Documents | None, tokens: int) -> Mapping[str, str]:
        """What all ranks must agree on."""
        q, k, v, *_ = call
        tensors = {"q": q, "k": k, "v": v, **{x: y for x, y in sorted(call.inputs.items()) if isinstance(y, Tensor)}}
        grads = [name for name, x in tensors.items() if x.requires_grad and torch.is_grad_enabled()]
        numbers = {x: f" = {y!r}" for x, y in call.inputs.items() if x not in tensors}
        return {
            "pattern": self._name,
            "sharding": str(self.sharding),
            "dtype": str(q.dtype).removeprefix("torch."),
            "batch": str(q.shape[0]),
            "heads": f"{q.shape[1]} on {k.shape[1]}",
            "head_dim": f"{q.shape[3]} and {v.shape[3]}",
            "scale": str(call.scale),
            "gradients": ", ".join(grads) or "none",
            "documents": "none" if documents is None else f"{len(documents)} of {tokens} tokens, {digest(documents)}",
            "inputs": ", ".join(f"{name}{numbers.get(name, '')}" for name in sorted(call.inputs)) or "none",
        }

    def _check_rows(self, rows: Sequence[int], home: Shards) -> None:
        wrong = [rank for rank, count in enumerate(rows) if count != home.rows(rank)]
        if wrong:
            got = "; ".join(f"rank {rank} holds {rows[rank]} tokens" for rank in wrong[:4])
            want = ", ".join(f"{home.rows(rank)} on rank {rank}" for rank in wrong[:4])
            expected = f"the {home.kind} shards of {home.n} tokens over {home.ranks} ranks: {want}"
            raise ArgumentError(got, expected, self._where, "parallel.shard(x, dim), of a tensor of all tokens")


def digest(documents: Documents) -> str:
    """A few letters that are others for other documents."""
    return hashlib.blake2b(np.array(documents, np.int64).tobytes(), digest_size=6).hexdigest()
