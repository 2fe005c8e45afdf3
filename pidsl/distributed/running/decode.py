"""Decoding across ranks: each keeps a share of the derived cache, and partial results are merged by their lse.

    cache = pidsl.distributed.SharedCache(kernel, batch, kv_heads, head_dim, dtype, device, group)
    cache.append(k, v)               on every rank the same keys, of which it keeps its share
    out = kernel.decode(q, cache)    on every rank the same queries, and the same result

Each rank attends the keys that it keeps, under the pattern of these keys alone. One all-gather brings all results to
all ranks, which merge them in rank order: bit for bit the same everywhere, and from run to run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from pidsl.distributed.running.agree import agreed, group_of, watched
from pidsl.distributed.running.context import eagerly
from pidsl.distributed.running.dealt import dealt
from pidsl.errors import ArgumentError
from pidsl.language.confined import confined
from pidsl.language.gate import Gate
from pidsl.language.heads import Heads
from pidsl.language.recipe import Recipe
from pidsl.language.terms import Term
from pidsl.runtime.cache import cache as derived
from pidsl.runtime.cache.checks import check_size
from pidsl.runtime.cache.layers import LayerCaches
from pidsl.runtime.cache.patterns import patterns_of
from pidsl.runtime.call.arguments import check_weights, raise_faults
from pidsl.runtime.call.ragged import checked
from pidsl.runtime.compile import compile as compiled
from pidsl.runtime.kernels.kernel import Kernel
from pidsl.runtime.kernels.layers import LayerKernels
from pidsl.runtime.kernels.merge import merged

if TYPE_CHECKING:
    from pidsl.analysis.bound import Bound

Result = tuple[Tensor, Tensor]  # out and lse
_CALL = "kernel.decode(q, cache) of a cache that ranks share"


class SharedCache:
    """A derived cache of which every rank of a group keeps a share, about 1 / ranks of its keys.

    It is used as a `pidsl.Cache` is, by `kernel.decode` and by the modules of `pidsl.nn`: the same calls with the same
    tensors on every rank. Which rank keeps which positions is `dealt`; the share of a rank is `own`, a `pidsl.Cache` of
    the pattern of these positions, with a proof of its own. What a call says of slots, pages and bytes is of the share.

    `decode` agrees first that all ranks are at the same step, and so waits for the host: it is not for CUDA graphs, and
    torch.compile breaks its graph there.

    Args:
        kernel: what will ask, as for `pidsl.Cache`; for the kernels of layers the result is a sequence of caches.
        batch, kv_heads, head_dim, dtype, device: as for `pidsl.Cache`.
        group: of the ranks, a process group or a `DeviceMesh` of one dimension; None: all.
        options: the others of `pidsl.Cache`: max_tokens, lookahead, page_size, value_dim, layout.

    Attributes:
        dealt: which rank keeps which positions.
        own: what this rank keeps.
        terms: the patterns that ask for keys, of all ranks together.

    Raises:
        ArgumentError: as `pidsl.Cache`; a kernel whose partial results cannot be merged; ranks that were given
            something else.
        BackendError: a rank is gone.
    """

    def __new__(cls, kernel: Kernel | LayerKernels, *sizes: Any, **options: Any) -> Any:
        """`LayerCaches` for the kernels of layers."""
        if isinstance(kernel, LayerKernels):
            return LayerCaches([cast(derived.Cache, cls(own, *sizes, **options)) for own in kernel])
        return object.__new__(cls)

    def __init__(
        self, kernel: Kernel, batch: int, kv_heads: int, head_dim: int, dtype: torch.dtype,
        device: torch.device | str, group: Any = None, **options: Any,
    ) -> None:  # fmt: skip
        self.group: dist.ProcessGroup = group_of(group, "pidsl.distributed.SharedCache(kernel, ...)")
        self.ranks, self.rank = dist.get_world_size(self.group), dist.get_rank(self.group)
        self.terms = patterns_of(kernel)
        _refuse_gated_gates(kernel)
        few: dict[str, Any] = {**options}
        if not check_size("max_tokens", options.get("max_tokens"), 1):
            few["max_tokens"] = 1
        derived.Cache(kernel, batch, kv_heads, head_dim, dtype, device, **few)  # refuses what is no cache
        page, lookahead = options.get("page_size") or 1, options.get("lookahead", 0)
        self.dealt = dealt(self.terms, self.ranks, page, lookahead, options.get("max_tokens"))
        self._shares: dict[Kernel, tuple[Any, str]] = {}  # of kernels: that of this rank's keys, and their text
        self.own = derived.Cache(self._share(kernel)[0], batch, kv_heads, head_dim, dtype, device, **options)
        self._steps = {"tokens appended": 0, "crops": 0, "reorders": 0}
        sizes = f"batch={batch}, kv_heads={kv_heads}, head_dim={head_dim}, dtype={dtype}"
        more = [f"{name}={value!r}" for name, value in sorted(options.items())]
        self._facts = {"cache": ", ".join([*map(repr, self.terms), sizes, *more])}
        agreed(self.group, self._facts)

    def _share(self, kernel: Kernel) -> tuple[Any, str]:
        """The kernel of the keys that this rank keeps; and what it is made from, as text."""
        if kernel not in self._shares:
            share = compiled(_of_keys(kernel.recipe, self.dealt.kept_by(self.rank), sinks=self.rank == 0))
            self._shares[kernel] = share, repr(kernel.recipe)
        return self._shares[kernel]

    # -- what a kernel asks

    def serves(self, kernel: Kernel) -> bool:
        """Whether all ranks together keep all keys that `kernel` can ask for."""
        try:
            return set(patterns_of(kernel)) <= set(self.terms)
        except ArgumentError:
            return False

    @eagerly
    @torch.no_grad()
    def attended(self, kernel: Kernel, q: Tensor, scale: Any, inputs: Mapping[str, Any]) -> Result:
        """(out, lse) of `kernel.decode(q, cache)`, from the shares of all ranks; every rank calls it.

        Raises:
            ArgumentError: what `kernel.decode` raises; ranks that are not at the same step, or were given another q.
            BackendError: a rank is gone.
        """
        facts = {**self._facts, "kernel": self._share(kernel)[1], "q": f"{list(q.shape)} {q.dtype}"}
        facts |= {"scale": repr(scale), "inputs": ", ".join(sorted(inputs))}
        if checked(q.device):
            facts["step"] = ", ".join(f"{count} {what}" for what, count in self._steps.items())
        agreed(self.group, facts)
        if not isinstance(kernel.recipe.of, Gate):
            _refuse_sums(kernel, inputs)
            return self._together([self._part(kernel, q, scale, inputs)], q.device)[0]
        weights = inputs.get("weights")
        raise_faults(check_weights({"q": q}, weights, kernel.recipe.of.names), _CALL)
        assert isinstance(weights, Tensor)
        others = {name: x for name, x in inputs.items() if name != "weights"}
        branches = [self._part(branch, q, scale, others) for branch in kernel.kernels.values()]
        results = self._together(branches, q.device)
        shares = weights.to(results[0][0].dtype).unbind(-1)
        out = sum(share[..., None] * part for share, (part, _) in zip(shares, results, strict=True))
        return cast(Tensor, out), torch.stack([lse for _, lse in results], -1)

    def _part(self, kernel: Kernel, q: Tensor, scale: Any, inputs: Mapping[str, Any]) -> Result:
        """(out, lse) of the keys that this rank keeps."""
        if self.rank:  # the sinks join once
            inputs = {name: x for name, x in inputs.items() if name != "sinks"}
        share, _ = self._share(kernel)
        found: Result = share.decode(q, self.own, scale=scale, return_lse=True, **inputs)
        return found

    def _together(self, parts: Sequence[Result], device: torch.device) -> list[Result]:
        """What the parts of all ranks are together, of each of several softmaxes: one all-gather of bytes."""
        mine = torch.cat([x.contiguous().view(-1).view(torch.uint8) for part in parts for x in part])
        gathered = mine.new_empty(self.ranks, len(mine))
        with watched(self.group, "the merge of a decoding step", device) as wait:
            wait(dist.all_gather(list(gathered.unbind()), mine, group=self.group, async_op=True))
        results = []
        first = 0
        for out, lse in parts:
            of_rank: list[list[Tensor]] = [[] for _ in range(self.ranks)]
            for like in (out, lse):
                last = first + like.numel() * like.element_size()
                for rank, own in enumerate(of_rank):
                    own.append(gathered[rank, first:last].clone().view(like.dtype).view(like.shape))
                first = last
            results.append(merged([(own[0], own[1]) for own in of_rank]))
        return results

    # -- what changes it: on every rank, with the same tensors

    def append(self, k: Tensor, v: Tensor, lengths: Tensor | None = None) -> None:
        """Add the keys and values of new tokens, of which this rank keeps its share; see `pidsl.Cache.append`.

        Args:
            k: [B, Hkv, t, D], of all t tokens, a step or a whole prompt.
            v: [B, Hkv, t, Dv].
            lengths: int [B], how many of the t are real; default: all.
        """
        self.own.append(k, v, lengths)
        self._steps["tokens appended"] += k.shape[2]

    def crop(self, tokens: int | Tensor) -> None:
        """Go back to `tokens` tokens; see `pidsl.Cache.crop`."""
        self.own.crop(tokens)
        self._steps["crops"] += 1

    def reorder(self, indices: Tensor) -> None:
        """Make batch entry b what `indices[b]` is; see `pidsl.Cache.reorder`."""
        self.own.reorder(indices)
        self._steps["reorders"] += 1

    def clear(self) -> None:
        """Forget all tokens."""
        self.own.clear()
        self._steps = dict.fromkeys(self._steps, 0)

    def check_append(self, k: Tensor, v: Tensor, lengths: Tensor | None) -> None:
        """Raise what `append` raises."""
        self.own.check_append(k, v, lengths)

    def check_crop(self, tokens: int | Tensor) -> Tensor:
        """Raise what `crop` raises; else the tokens that are left, int [B]."""
        return self.own.check_crop(tokens)

    # -- what one may know

    @property
    def tokens(self) -> Tensor:
        """int32 [B]: how many were appended, to all ranks together."""
        return self.own.tokens

    @property
    def keys(self) -> Tensor:
        """Those of this rank; see `pidsl.Cache.keys`."""
        return self.own.keys

    @property
    def values(self) -> Tensor:
        """Those of this rank."""
        return self.own.values

    @property
    def lookahead(self) -> int:
        """By how many tokens rows may lie behind the last one."""
        return self.own.lookahead

    @property
    def positions(self) -> Tensor:
        """int32 [B, slots]: the position of the key in each row of `keys`, -1 for none."""
        return self.own.positions

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors of this rank."""
        return self.own.nbytes

    @property
    def proof(self) -> Any:
        """That this rank loses no key of its share while rows may ask for it; `proof.check()` decides it."""
        return self.own.proof

    @property
    def bound(self) -> Bound:
        """The live keys of this rank and a batch entry; see `pidsl.Cache.bound`."""
        return self.own.bound

    @property
    def bytes_bound(self) -> Bound:
        """The bytes of the live keys and values of this rank; see `pidsl.Cache.bytes_bound`."""
        return self.own.bytes_bound

    @property
    def pages_bound(self) -> Bound:
        """The pages of this rank and a batch entry; see `pidsl.Cache.pages_bound`."""
        return self.own.pages_bound

    def resume(self, tokens: int) -> Tensor:
        """The positions that this rank must hold to go on after `tokens` tokens; see `pidsl.Cache.resume`."""
        return self.own.resume(tokens)

    @property
    def beside(self) -> Any:
        """What a selector keeps of the tokens so far: of all of them, on every rank."""
        return self.own.beside

    @beside.setter
    def beside(self, kept: Any) -> None:
        self.own.beside = kept

    def explain(self) -> str:
        """Which positions this rank keeps, what it keeps of them, where, and what is proved."""
        return f"{self!r}\n{self.own.explain()}"

    def __repr__(self) -> str:
        block = self.dealt.block
        what = "single positions" if block == 1 else f"blocks of {block} positions"
        shown = ", ".join(map(repr, self.terms))
        return f"pidsl.distributed.SharedCache({shown}; rank {self.rank} of {self.ranks}, {what} in turn)"


def _of_keys(recipe: Recipe, kept: Term, *, sinks: bool) -> Recipe:
    """A recipe of the pairs whose keys are kept; its sinks, if it has them, only where `sinks`."""
    of, _ = confined(recipe.of)
    own: Any
    match of:
        case Gate(branches):
            own = Gate(tuple((name, term & kept) for name, term in branches))
        case Heads(groups):
            own = Heads(tuple((count, term & kept) for count, term in groups))
        case _:
            own = cast(Term, of) & kept
    score = recipe.score
    if score is not None and score.sinks and not sinks:
        score = replace(score, sinks=False)
    return replace(recipe, of=own, score=score)


def _refuse_sums(kernel: Kernel, inputs: Mapping[str, Any]) -> None:
    """Affine weights add what no softmax weighs: such parts are not merged by lse."""
    beta = inputs.get("beta", 0)
    if isinstance(beta, Tensor) or beta != 0:
        given, hint = f"beta = {beta!r} ({kernel.recipe!r})", "beta=0, or a pidsl.Cache on each rank"
        raise ArgumentError(given, "no affine weights: parts of several ranks are merged as softmaxes", _CALL, hint)


def _refuse_gated_gates(kernel: Kernel) -> None:
    """The parts of a gate are merged branch by branch, before they are weighed and gated."""
    recipe = kernel.recipe
    if isinstance(recipe.of, Gate) and (recipe.output_gate is not None or recipe.affine):
        given, hint = f"{recipe!r}", "pidsl.compile(gate), and what it decodes times torch.sigmoid(output_gate)"
        where = "pidsl.distributed.SharedCache(kernel, ...)"
        raise ArgumentError(given, "a gate without an output gate and affine weights", where, hint)
