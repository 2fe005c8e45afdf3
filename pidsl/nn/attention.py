"""Attention modules: projections around a pattern, over a batch, over documents, and behind what a cache holds."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Never, Self

import torch
from torch import Tensor, nn

import pidsl
from pidsl.errors import ArgumentError, TermError
from pidsl.language.gate import Gate
from pidsl.language.heads import Heads
from pidsl.language.schedule import Schedule
from pidsl.language.summaries import Summaries
from pidsl.language.terms import Term
from pidsl.nn.choosing import check_lists, check_selector, lists
from pidsl.nn.places import Place, of_one_document, place, place_behind, place_shared
from pidsl.nn.rotary import rotate
from pidsl.runtime.call import ragged
from pidsl.runtime.call.arguments import Fault, check_kind, check_tensor, raise_faults
from pidsl.runtime.call.keywords import refuse
from pidsl.runtime.programs import autocasts

if TYPE_CHECKING:
    from pidsl.distributed.running.prepare import Sharding
    from pidsl.language.recipe import Backend, OutputGate
    from pidsl.runtime.cache.cache import Cache
    from pidsl.select.selector import Selector

Blocks = Tensor | Callable[[Tensor, Tensor], Tensor]


class Attention(nn.Module):
    """Projections around a kernel; what to do between them is `attend` of a subclass.

    Raises:
        KeywordError: an argument that the module does not take.

    Args:
        dim, heads, kv_heads, bias, rope, backend: as in `SparseAttention`.
        pattern: a term, heads, a gate or summaries, without symbols.
        select: makes the lists of a pattern with `chosen`.
        context, sharding: see `SparseAttention`.
        output: the options of `pidsl.compile` that are about the output.
    """

    def __new__(cls, *given: Any, **named: Any) -> Self:
        parameters = inspect.signature(cls).parameters
        more = given[sum(x.kind is x.POSITIONAL_OR_KEYWORD for x in parameters.values()) :]
        unknown = {name: x for name, x in named.items() if name not in parameters}
        if more or unknown:
            refuse(cls, f"{cls.__name__}(...)", more, unknown)
        return super().__new__(cls)

    def __init__(
        self,
        dim: int,
        heads: int,
        pattern: Term | Heads | Gate | Summaries,
        kv_heads: int | None,
        bias: bool,
        rope: float | None,
        backend: Backend,
        select: Selector | None = None,
        context: Any = None,
        sharding: Sharding = "contiguous",
        **output: Any,
    ) -> None:
        super().__init__()
        kv_heads = heads if kv_heads is None else kv_heads
        _check_sizes(type(self).__name__, dim, heads, kv_heads, rope)
        if not isinstance(bias, bool):
            raise ArgumentError(f"bias = {bias!r}", "True or False", type(self).__name__)
        self.dim, self.heads, self.kv_heads, self.head_dim = dim, heads, kv_heads, dim // heads
        self.rope, self.select = rope, select
        self.kernel: Any = pidsl.compile(pattern, backend=backend, **output)
        check_selector(select, self.kernel.choice, pattern, f"{type(self).__name__}(...)")
        self.parallel = None
        if context is not None:
            _check_parallel(select, f"{type(self).__name__}(...)")
            from pidsl.distributed import ContextParallel

            self.parallel = ContextParallel(self.kernel, context, sharding)
        self.qkv = nn.Linear(dim, (heads + 2 * kv_heads) * self.head_dim, bias=bias)
        self.out = nn.Linear(dim, dim, bias=bias)

    def forward(
        self, x: Tensor, *more: Never, lengths: int | Tensor | None = None, documents: Tensor | None = None,
        offset: int | Tensor = 0, cache: Cache | None = None, blocks: Blocks | None = None, **unknown: Never,
    ) -> Tensor:  # fmt: skip
        """`x [B, n, dim]` to `[B, n, dim]`.

        Positions, of the pattern and of rotary embeddings, count from 0 in every batch entry, in every document, and
        go on behind the tokens of a cache.

        Args:
            x: the tokens.
            lengths: how many tokens of each batch entry there are, an integer or int [B]; the others are padding.
            documents: an id for each token, int [B, n], equal ones in one run: nothing is attended across; negative
                ids are padding.
            offset: position of the first token, or int [B]; negative: so many tokens of padding on the left.
            cache: a `pidsl.Cache` of `layer.kernel`. The tokens follow those in it, and are appended: as many as
                `cache.lookahead + 1`, or a whole prompt where it is empty, which may have `lengths`. Its keys are
                kept without their gradients.
            blocks: of a pattern with `chosen`, the lists as the kernel takes them, instead of those of the module's
                selector; or what makes them of q and k, as `lambda q, k: choices.blocks(3, q, k)` does for a layer
                that uses the choice of another one (`pidsl.select.Reuse`).

        Raises:
            ArgumentError: x, or where its tokens stand, has another shape, dtype or device; what the kernel says of
                values; a cache of another pattern, or with too many tokens to follow. Nothing was appended.
            KeywordError: an argument that the module does not take.
        """
        if more or unknown:
            where = f"{type(self).__name__}(...)(x)"
            refuse(self.forward, where, more, unknown, positional="x alone, which q, k and v are made of")
        self._check(x)
        given = {"lengths": lengths, "documents": documents, "offset": offset}
        pattern, chosen = self.kernel.recipe.of, self.kernel.choice is not None
        if blocks is None and chosen and self.select is None:
            hint = "SparseAttention(..., select=pidsl.select.MoBA(block, budget, queries)), or layer(x, blocks=lists)"
            raise_faults([Fault("blocks", "nothing", f"lists for {pattern!r}", hint)], f"{type(self).__name__}(...)(x)")
        if blocks is not None and not chosen:
            expected, hint = f"nothing: {pattern!r} has no choice", "pattern | pidsl.chosen(block, budget, queries)"
            raise_faults([Fault("blocks", "a value", expected, hint)], f"{type(self).__name__}(...)(x)")
        if self.parallel is not None:
            found = self.mixed(x, self._shared(x, given, cache), blocks)
        elif cache is None:
            found = self.mixed(x, place(x, given, f"{type(self).__name__}(...)(x)"), blocks)
        else:
            found = self._followed(x, given, cache, blocks)
        return self.out(found.transpose(1, 2).flatten(2))

    def _shared(self, x: Tensor, given: Mapping[str, Any], cache: Cache | None) -> Place:
        """Where the tokens of this rank stand."""
        name = f"{type(self).__name__}(..., context=...)(x)"
        if cache is not None:
            hint = "pidsl.distributed.SharedCache, which ranks share"
            raise_faults([Fault("cache", "a cache with context", "nothing: the ranks train", hint)], name)
        return place_shared(x, given, self.parallel, name)

    def _followed(self, x: Tensor, given: Mapping[str, Any], cache: Cache, blocks: Blocks | None) -> Tensor:
        """What the heads find for tokens that a cache then holds."""
        name, n = f"{type(self).__name__}(...)(x, cache=...)", x.shape[1]
        fault = None
        if not callable(getattr(cache, "serves", None)) or not cache.serves(self.kernel):
            hint = "pidsl.Cache(layer.kernel, batch, layer.kv_heads, layer.head_dim, dtype, device)"
            fault = Fault("cache", f"{cache!r}", "a cache of this layer's kernel", hint)
        elif given["documents"] is not None or isinstance(given["offset"], Tensor) or given["offset"] != 0:
            got = "documents" if given["documents"] is not None else "offset"
            expected = "nothing: tokens stand behind those of the cache, and those of one entry are one sequence"
            fault = Fault(got, "a value with a cache", expected, "lengths=... for prompts of different lengths")
        raise_faults([fault] if fault else [], name)
        if n <= cache.lookahead + 1 and given["lengths"] is None:
            return self.mixed(x, place_behind(x, cache), blocks)
        if ragged.checked(x.device) and bool((cache.tokens > 0).any()):
            got = f"{n} tokens behind {int(cache.tokens.max())}" + ", with lengths" * (given["lengths"] is not None)
            expected = f"at most lookahead + 1 = {cache.lookahead + 1} of each batch entry, or an empty cache"
            hint = "pidsl.Cache(..., lookahead=...) for as many as come at once"
            raise_faults([Fault("x", got, expected, hint)], name)
        where = place(x, given, name)
        if self.kernel.confined:  # the prompt of each batch entry is one document
            where = where._replace(call=of_one_document(x, given["lengths"]))
        return self.mixed(x, where._replace(cache=cache, lengths=given["lengths"]), blocks)

    def _check(self, x: Tensor) -> None:
        name, expected = type(self).__name__, f"[batch, n, {self.dim}]"
        if fault := check_tensor("x", x, f"a torch.Tensor {expected}"):
            raise_faults([fault], name)
        if x.dim() != 3 or x.shape[2] != self.dim:
            hint = "x.unsqueeze(0) adds the batch" if x.dim() == 2 else ""
            raise ArgumentError(f"x: shape {list(x.shape)}", expected, name, hint)
        if type(self.qkv) is nn.Linear:  # another one, quantised for instance, has rules of its own
            weight, kind = self.qkv.weight, x.device.type
            if x.device != weight.device or (x.dtype != weight.dtype and not autocasts(kind)):
                raise_faults(check_kind({"layer.qkv.weight": weight, "x": x}, (weight.dtype,), ""), name)

    def mixed(self, x: Tensor, where: Place | None = None, blocks: Blocks | None = None) -> Tensor:
        """What the heads find, [B, heads, n, D]; `blocks` as in a call."""
        where = where or Place({}, length=x.shape[1])
        q, k, v = self.project(x)
        inputs = self.inputs(x, q, where)
        turned = self.rotated(q, where), self.rotated(k, where)
        if self.kernel.choice is None and blocks is None:
            return self.attend(*turned, v, where, inputs)
        inputs["blocks"], beside = self._lists((q, k), turned, where, blocks)
        found = self.attend(*turned, v, where, inputs)
        if beside is not None:
            where.cache.beside = beside
        return found

    def _lists(
        self, plain: tuple[Tensor, Tensor], turned: tuple[Tensor, Tensor], where: Place, blocks: Blocks | None
    ) -> tuple[Tensor, Any]:
        """Which blocks are attended, of queries and keys before and after rotation; and what to keep beside a cache."""
        if blocks is not None:
            made = blocks(*turned) if callable(blocks) else blocks
            if where.follows and self.kernel.choice is not None:
                check_lists(made, self.kernel.choice, *turned, where.cache)
            return made, None
        assert self.select is not None
        return lists(self.select, *(turned if self.select.rotated else plain), where)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q [B, heads, n, D], k and v [B, kv_heads, n, D]: views of one projection, before rotation."""
        parts = self.qkv(x).unflatten(2, (self.heads + 2 * self.kv_heads, self.head_dim)).transpose(1, 2)
        q, k, v = parts.split([self.heads, self.kv_heads, self.kv_heads], dim=1)
        return q, k, v

    def rotated(self, x: Tensor, where: Place | None = None) -> Tensor:
        """Queries or keys turned by their positions, if the module has rotary position embedding."""
        if self.rope is None:
            return x
        return rotate(x, self.rope) if where is None else rotate(x, self.rope, where.first, where.positions)

    def inputs(self, x: Tensor, q: Tensor, where: Place) -> dict[str, Tensor]:
        """What the kernel is given beside q, k and v; q before rotation."""
        return {}

    def attend(self, q: Tensor, k: Tensor, v: Tensor, where: Place, inputs: Mapping[str, Tensor]) -> Tensor:
        """[B, heads, n, D] from the projections, turned by their positions."""
        cache = where.cache
        if cache is None:
            attention: Any = self.parallel or self.kernel
            return attention(q, k, v, **where.call, **inputs)
        if where.follows:
            cache.append(k, v)
            return self.kernel.decode(q, cache, **inputs)
        out = self.kernel(q, k, v, **where.call, **inputs)  # of a prompt, of which the cache does not keep all keys
        cache.append(k, v, where.lengths)
        return out

    def extra_repr(self) -> str:
        rope = "" if self.rope is None else f", rope={self.rope:g}"
        return f"{self.dim}, heads={self.heads}, kv_heads={self.kv_heads}{rope}, {self.kernel!r}"


class SparseAttention(Attention):
    """Self-attention under any pattern, with its projections: a drop-in for causal self-attention.

    `y = W_o concat_h softmax_pattern(q_h k_h^T / sqrt(D)) v_h`, with q, k, v linear in x and D = dim / heads.

    >>> import pidsl, pidsl.nn
    >>> layer = pidsl.nn.SparseAttention(64, 4, pidsl.window(63) | pidsl.lags(256))
    >>> layer(torch.randn(2, 100, 64)).shape
    torch.Size([2, 100, 64])

    With `output_gate`, what a head found is multiplied by `sigmoid(W_g x)` before W_o (Gated Attention,
    arXiv 2505.06708, position G1). With `affine`, weights are `alpha_h p_ij + beta_h` on the attended keys, with a
    learned alpha_h (1 at first) and beta_h (0 at first) for each head.

    Args:
        dim: width of the tokens.
        heads: query heads; divides dim.
        pattern: which token sees which; `pidsl.heads`, a pattern for each group of heads; or `pidsl.summaries`.
            Without symbols.
        kv_heads: key and value heads, each shared by heads / kv_heads query heads; default: heads.
        bias: whether the projections have one.
        rope: base of rotary position embedding (10000.0 is usual); None: none.
        output_gate: "head", "element" or None: the gate has one logit per head, or one per element.
        affine: whether softmax weights are scaled and shifted.
        select: of a pattern with `chosen`, what chooses: a `pidsl.select.Selector` of its block, queries and budget,
            called with q and k. Its summaries of earlier tokens are kept beside a cache. Behind a cache, queries of a
            block that come without the others of it are listed by themselves: with `queries=1` as in one call.
        context: a torch process group or a `DeviceMesh` of one dimension (`mesh["cp"]`) whose ranks share the tokens
            of each sequence: x are those of this rank, as `layer.parallel.shard(tokens, 1)` gives them, and documents
            are ids of all tokens. See `pidsl.distributed.ContextParallel`.
        sharding: which rank has which tokens, the same for all layers of a model: "contiguous", or "zigzag", which
            shares causal patterns out evenly; `pidsl.distributed.plan(pidsl.layers([...]), n, ranks)` says which is
            cheaper.
        backend: as in `pidsl.compile`.

    Raises:
        ArgumentError: heads does not divide dim, kv_heads does not divide heads, an odd head size with rope, a
            pattern of another number of heads.
        PidslError: whatever `pidsl.compile` says of the pattern.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        pattern: Term | Heads | Summaries,
        *,
        kv_heads: int | None = None,
        bias: bool = False,
        rope: float | None = None,
        output_gate: OutputGate | None = None,
        affine: bool = False,
        select: Selector | None = None,
        context: Any = None,
        sharding: Sharding = "contiguous",
        backend: Backend = "auto",
    ) -> None:
        if isinstance(pattern, Schedule):
            hint = "[pidsl.nn.SparseAttention(dim, heads, layer) for layer in pattern]"
            raise TermError(repr(pattern), "the pattern of one layer", "SparseAttention(dim, heads, pattern)", hint)
        if isinstance(pattern, Heads) and len(pattern) != heads:
            where = f"SparseAttention({dim!r}, {heads!r}, {pattern!r})"
            raise ArgumentError(f"heads = {heads}", f"{len(pattern)}, as the pattern has", where)
        if isinstance(pattern, Gate):
            raise TermError(
                repr(pattern),
                "a pattern: the branches of a gate need weights",
                f"SparseAttention({dim!r}, {heads!r}, pattern)",
                "pidsl.nn.PiAttention, or a module of your own around pidsl.compile(gate)",
            )
        options = {"output_gate": output_gate, "affine": affine}
        super().__init__(dim, heads, pattern, kv_heads, bias, rope, backend, select, context, sharding, **options)
        self.output_gate, self.affine = output_gate, affine
        if output_gate is not None:
            self.gate = nn.Linear(dim, heads if output_gate == "head" else dim, bias=bias)
        if affine:
            self.alpha, self.beta = nn.Parameter(torch.ones(heads)), nn.Parameter(torch.zeros(heads))

    def inputs(self, x: Tensor, q: Tensor, where: Place) -> dict[str, Tensor]:
        """The gate's logits, [B, heads, n] or [B, heads, n, D], and the parameters of affine weights."""
        found: dict[str, Tensor] = {"alpha": self.alpha, "beta": self.beta} if self.affine else {}
        if self.output_gate == "head":
            found["output_gate"] = self.gate(x).transpose(1, 2)
        elif self.output_gate == "element":
            found["output_gate"] = self.gate(x).unflatten(2, (self.heads, self.head_dim)).transpose(1, 2)
        return found


def _check_parallel(select: Selector | None, where: str) -> None:
    if select is not None:
        hint = "layer(x, blocks=lists), lists of this rank's query blocks"
        raise ArgumentError("select with context", "lists: a selector sees the keys of one rank alone", where, hint)


def _check_sizes(module: str, dim: int, heads: int, kv_heads: int, rope: float | None) -> None:
    where = f"{module}(dim={dim!r}, heads={heads!r}, kv_heads={kv_heads!r})"
    for name, value in (("dim", dim), ("heads", heads), ("kv_heads", kv_heads)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ArgumentError(f"{name} = {value!r}", "an integer >= 1", where)
    if dim % heads:
        raise ArgumentError(f"dim = {dim} with {heads} heads", "dim % heads == 0", where)
    if heads % kv_heads:
        raise ArgumentError(f"heads = {heads} with {kv_heads} kv_heads", "heads % kv_heads == 0", where)
    if rope is not None and (isinstance(rope, bool) or not isinstance(rope, int | float) or not 0 < rope < math.inf):
        raise ArgumentError(f"rope = {rope!r}", "a number above 0, or None", where, "rope=10000.0")
    if rope is not None and (dim // heads) % 2:
        raise ArgumentError(f"head size {dim // heads} with rope", "an even head size: it turns pairs", where)
