"""The kernel: what `compile` makes of a recipe, and how it is called."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, cast, overload

import torch
from torch import Tensor

from pidsl.errors import TermError
from pidsl.language.recipe import Backend, Recipe
from pidsl.language.shown import Displayed
from pidsl.language.vocabulary import documents
from pidsl.relation.documents import crossing
from pidsl.runtime import sequences
from pidsl.runtime.call import arguments, ragged
from pidsl.runtime.call.arguments import DTYPES, PARTS, Fault, head_dim_fits
from pidsl.runtime.call.call import START, Call, Positions, Spread
from pidsl.runtime.call.chosen import Listed, check_blocks
from pidsl.runtime.call.keywords import refuse
from pidsl.runtime.call.ragged import Batch, Kept
from pidsl.runtime.call.segments import Pages
from pidsl.runtime.kernels.form import Form
from pidsl.runtime.operator import is_traced, recorded
from pidsl.runtime.programs import autocasts, preferred

PACKED = {"q": "[tokens, heads, head_dim]", "k": "[tokens, kv_heads, head_dim]", "v": "[tokens, kv_heads, value_dim]"}


class _Asked(NamedTuple):
    """Where a call says its rows stand, as it says it.

    Args:
        entries: offset and key_offset; of a ragged batch also lengths and key_lengths.
        documents: ids of tokens.
        packed: cu_seqlens_q, cu_seqlens_k and their alignment.
        cache: where k and v come from.
        spread: whose other rows and keys are elsewhere.
    """

    entries: tuple[Any, ...] = ()
    documents: Any = None
    packed: tuple[Any, ...] = ()
    cache: Any = None
    spread: Spread | None = None

    @property
    def uniform(self) -> bool:
        """Every batch entry has all rows, at the same positions."""
        return len(self.entries) == 2

    def batch(self, q: Tensor, k: Tensor, entries: Sequence[Any]) -> tuple[list[Fault], Any]:
        """Its sequences, and what is wrong with them; `entries` with offsets that were checked."""
        if self.spread is not None:
            return [], self.spread
        if self.cache is not None:
            return [], ragged.of_cache(self.cache, q.shape[0], q.shape[2])
        if self.packed:
            return ragged.of_packed(q.device, *self.packed)
        if self.documents is not None:
            return ragged.of_documents(q, k, self.documents, entries)
        return ragged.of_entries(q.shape[0], q.device, entries)


class Kernel(Displayed):
    """A compiled pattern. Made by `compile`; immutable, safe to call from several threads, picklable.

    `torch.utils.flop_counter.FlopCounterMode` counts its calls as torch's own attention, over the attended pairs alone:
    2 pairs (D + Dv) flops forward and 2 pairs (3 D + 2 Dv) backward, for each head, on any backend.

    Attributes:
        recipe: what it was compiled from.
        term: the pattern, gate, heads or summaries.
        backend: as asked for; `plan` says what "auto" stands for on this machine.
        score: what happens to the logits, None for nothing.
        chosen: what "auto" stands for on this machine.
        reason: why it stands for that.
        form: how the results of programs become its own.
        takes: the names of what a call may give beside q, k, v and the positions.
        confined: the pattern has the word `documents`: calls without documents are refused.
        choice: block, budget and queries of what `blocks` of a call lists, where the pattern has `chosen`; else None.
    """

    def __init__(self, recipe: Recipe, form: Form, confined: bool = False) -> None:
        self.recipe, self.form, self.confined = recipe, form, confined
        self.term, self.score = recipe.of, recipe.score
        self.backend: Backend = recipe.backend
        self.chosen, self.reason = preferred(recipe.backend)
        self.parameters = () if recipe.score is None else recipe.score.parameters
        self.rings = form.rings
        self.takes = frozenset((*PARTS, *form.named) if form.scored else form.named)
        self.choice = self._one_choice()
        self._where = f"{form.call} of {recipe.of!r}"

    @overload
    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, *more: Any, scale: float | None = None, offset: int | Tensor = 0,
        key_offset: int | Tensor = 0, lengths: int | Tensor | None = None, key_lengths: int | Tensor | None = None,
        documents: Tensor | None = None, return_lse: Literal[False] = False, **inputs: Any,
    ) -> Tensor: ...  # fmt: skip

    @overload
    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, *more: Any, scale: float | None = None, offset: int | Tensor = 0,
        key_offset: int | Tensor = 0, lengths: int | Tensor | None = None, key_lengths: int | Tensor | None = None,
        documents: Tensor | None = None, return_lse: Literal[True], **inputs: Any,
    ) -> tuple[Tensor, Tensor]: ...  # fmt: skip

    @overload
    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, *more: Any, scale: float | None = None, offset: int | Tensor = 0,
        key_offset: int | Tensor = 0, lengths: int | Tensor | None = None, key_lengths: int | Tensor | None = None,
        documents: Tensor | None = None, return_lse: bool, **inputs: Any,
    ) -> Any: ...  # fmt: skip

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, *more: Any, scale: float | None = None, offset: int | Tensor = 0,
        key_offset: int | Tensor = 0, lengths: int | Tensor | None = None, key_lengths: int | Tensor | None = None,
        documents: Tensor | None = None, return_lse: bool = False, **inputs: Any,
    ) -> Any:  # fmt: skip
        """Attention under the pattern, differentiable once in all tensors.

        Args:
            q: queries [B, Hq, n, D], any strides.
            k: keys [B, Hkv, m, D], of q's dtype and device. Query head h uses key head `h // (Hq // Hkv)`.
            v: values [B, Hkv, m, Dv].
            more: the weights, where the kernel is that of a gate.
            scale: factor of the logits; default that of the score, or 1 / sqrt(D).
            offset: row r of q stands at position `i = r + offset`; an integer tensor [B] for each batch entry, which
                may be negative: rows before position 0 are padding on the left.
            key_offset: row c of k and v stands at position `j = c + key_offset`; or a tensor [B], likewise.
            lengths, key_lengths: of each batch entry, the rows of q, and of k and v, that there are: an integer or an
                integer tensor [B]. What lies behind is padding: rows without a result (0, lse -inf, no gradient), and
                keys that are never read. For the pattern, n and m are what is left: the length and the offset.
            documents: an id for each token, integers [B, n] or [n]: the pattern holds within each run of equal ids, on
                positions that start with it; negative ids are padding. Goes without offsets and lengths.
            return_lse: return (out, lse).
            inputs: what the recipe asks for, by name; `takes` has the names.

                - slopes, sinks, temperature [Hq], bias [Hq, table], seed: what `score.parameters` names, in any
                  floating dtype, on q's device; see `pidsl.score`. The branches of a gate share them; `heads` have
                  them in the order of the heads, and drop pairs by a seed for each launch.
                - blocks [B, 1 | Hkv | Hq, query blocks, up to budget], int32: of a pattern with `chosen`, the blocks of
                  keys that each block of query positions attends, from the one of the first query on (of documents,
                  those of each one after the other); -1 for none, in any order, repeats counted once. Numbers of
                  blocks that there are not raise; `PIDSL_CHECK_VALUES=0` leaves them out instead, unseen.
                - weights [B, Hq, n, branches]: of a gate, of q's dtype, in the order of `gate.names`; nothing is
                  broadcast (use `expand`).
                - output_gate [B, Hq, n] for "head", [B, Hq, n, Dv] for "element": logits, of q's dtype.
                - alpha, beta: of affine weights, a number, [Hq], or [B, Hq, n], of any floating dtype. Unless beta
                  is the number 0, the plain program of the pattern runs a second time, with all logits 0, head
                  dimension 8, and gradients for v alone.
                - summaries: for each level None, or the keys [B, H, spans, D] and values [B, H, spans, Dv] of its
                  spans, each with H = Hq or Hkv. None: the default of every level, which pools q and k; it needs
                  the queries of all tokens, so n == m and no offsets.

        Returns:
            out [B, Hq, n, Dv] in q's dtype; with `return_lse` also the log-sum-exp of the logits [B, Hq, n] (of a
            gate [B, Hq, n, branches]), natural log, float32 (float64 for float64), differentiable too. A row without
            keys has out 0 and lse -inf. Inside `torch.autocast`, q, k, v, weights, output_gate and summaries are cast
            as for torch's scaled_dot_product_attention: to the autocast dtype, float64 excepted.

        Raises:
            ArgumentError: shapes, dtypes, devices or numbers do not fit; all faults are named, nothing has run.
            KeywordError: an argument that the kernel does not take.
            BackendError: backend "triton" with tensors that are not on a GPU (and Triton is not interpreting).
        """
        if more or (inputs and not self.takes.issuperset(inputs)):
            inputs = self._named(more, inputs)
        batched = lengths is not None or key_lengths is not None or documents is not None
        if batched or isinstance(offset, Tensor) or isinstance(key_offset, Tensor):
            asked = _Asked((offset, key_offset, lengths, key_lengths), documents=documents)
        else:
            asked = _Asked((offset, key_offset))
        if self.confined and documents is None:
            hint = "kernel(q, k, v, documents=ids), or kernel.packed(q, k, v, cu_seqlens_q)"
            fault = Fault("documents", "nothing", "an id for each token, [B, n]: the pattern is one of documents", hint)
            arguments.raise_faults([fault], self._where)
        out, lse = self._run(self._cast(Call(q, k, v, scale, inputs=inputs)), asked, return_lse, self._where)
        return (out, lse) if return_lse else out

    @overload
    def packed(
        self, q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor | None = None, *more: Any,
        align: Literal["start", "end"] | None = None, scale: float | None = None, return_lse: Literal[False] = False,
        **inputs: Any,
    ) -> Tensor: ...  # fmt: skip

    @overload
    def packed(
        self, q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor | None = None, *more: Any,
        align: Literal["start", "end"] | None = None, scale: float | None = None, return_lse: Literal[True],
        **inputs: Any,
    ) -> tuple[Tensor, Tensor]: ...  # fmt: skip

    @overload
    def packed(
        self, q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor | None = None, *more: Any,
        align: Literal["start", "end"] | None = None, scale: float | None = None, return_lse: bool, **inputs: Any,
    ) -> Any: ...  # fmt: skip

    def packed(
        self, q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor | None = None, *more: Any,
        align: Literal["start", "end"] | None = None, scale: float | None = None, return_lse: bool = False,
        **inputs: Any,
    ) -> Any:  # fmt: skip
        """Attention within each of several documents that lie one after the other, differentiable as calls are.

        The pattern holds on the positions within each document, with its lengths as n and m; nothing is attended
        across documents. Document d has the queries `cu_seqlens_q[d] .. cu_seqlens_q[d + 1] - 1`, and may be empty.

        Args:
            q: queries [T, Hq, D], any strides.
            k: keys [Tk, Hkv, D], of q's dtype and device.
            v: values [Tk, Hkv, Dv].
            cu_seqlens_q: int32 [documents + 1], on q's device: 0, and where each document ends; the last is T.
            cu_seqlens_k: the same of the keys; None: their documents are those of the queries.
            more: the weights, where the kernel is that of a gate.
            align: with `cu_seqlens_k`, which ends of a document's queries and keys meet. "start": query 0 stands at
                the position of key 0. "end": the last query at that of the last key, as in flash-attention; queries
                before the first key attend nothing.
            scale, return_lse: as in a call.
            inputs: as in a call; those with a row per query are [T, Hq, ...].

        Returns:
            out [T, Hq, Dv]; with `return_lse` also lse [Hq, T] (of a gate [Hq, T, branches]).

        Raises:
            ArgumentError, KeywordError, BackendError: as a call does, and for cu_seqlens that are not what they
                should be.
        """
        where = f"kernel.packed(q, k, v, cu_seqlens_q) of {self.recipe.of!r}"
        if more or (inputs and not self.takes.issuperset(inputs)):
            inputs = self._named(more, inputs)
        forms = [arguments.check_form(name, x, PACKED[name]) for name, x in (("q", q), ("k", k), ("v", v))]
        faults = [x for x in forms if x is not None]
        arguments.raise_faults(faults, where)
        q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))
        for name in self.form.by_row:
            x = inputs.get(name)
            if isinstance(x, Tensor) and x.dim() > 1:
                inputs[name] = x.transpose(0, 1).unsqueeze(0)
        asked = _Asked(packed=(cu_seqlens_q, cu_seqlens_k, align))
        out, lse = self._run(self._cast(Call(q, k, v, scale, inputs=inputs)), asked, return_lse, where)
        out = out[0].transpose(0, 1).contiguous()
        return (out, lse[0]) if return_lse else out

    @overload
    def decode(
        self, q: Tensor, cache: Kept, *more: Any, scale: float | None = None, return_lse: Literal[False] = False,
        **inputs: Any,
    ) -> Tensor: ...  # fmt: skip

    @overload
    def decode(
        self, q: Tensor, cache: Kept, *more: Any, scale: float | None = None, return_lse: Literal[True], **inputs: Any
    ) -> tuple[Tensor, Tensor]: ...  # fmt: skip

    @overload
    def decode(
        self, q: Tensor, cache: Kept, *more: Any, scale: float | None = None, return_lse: bool, **inputs: Any
    ) -> Any: ...  # fmt: skip

    def decode(
        self, q: Tensor, cache: Kept, *more: Any, scale: float | None = None, return_lse: bool = False, **inputs: Any
    ) -> Any:
        """Attention of the last tokens over the keys that a cache keeps, theirs among them; without gradients.

        What `kernel(q, k, v, offset=tokens - n)` over all tokens gives, of each batch entry.

        Args:
            q: queries [B, Hq, n, D] of the last n tokens that were appended, n at most `cache.lookahead + 1`. Of a
                batch entry with fewer tokens, the first rows are padding: 0, lse -inf.
            cache: a `pidsl.Cache` of this kernel's pattern, or a `pidsl.distributed.SharedCache`, which ranks share.
            more, scale, return_lse, inputs: as in a call; no summaries.

        Returns:
            as a call.

        Raises:
            ArgumentError, KeywordError, BackendError: as a call does, and for a cache of another pattern.
        """
        where = f"kernel.decode(q, cache) of {self.recipe.of!r}"
        if more or (inputs and not self.takes.issuperset(inputs)):
            inputs = self._named(more, inputs)
        fault = arguments.check_form("q", q, arguments.SHAPES["q"])
        if fault is None and not callable(getattr(cache, "serves", None)):
            hint = "pidsl.Cache(kernel, batch, kv_heads, head_dim, dtype, device)"
            fault = Fault("cache", type(cache).__name__, "a pidsl.Cache", hint)
        if fault is None and not cache.serves(self):
            expected = f"a cache of {self.recipe.of!r}"
            fault = Fault("cache", f"{cache!r}", expected, "pidsl.Cache(kernel, ...), of the kernel that decodes")
        arguments.raise_faults([] if fault is None else [fault], where)
        if (attended := getattr(cache, "attended", None)) is not None:  # of a cache that ranks share
            out, lse = attended(self, q, scale, inputs)
            return (out, lse) if return_lse else out
        given = self._cast(Call(q, cache.keys, cache.values, scale, inputs=inputs))
        arguments.raise_faults(ragged.check_cache(given.q, cache), where)
        out, lse = self._run(given, _Asked(cache=cache), return_lse, where)
        return (out, lse) if return_lse else out

    def spread(
        self, q: Tensor, k: Tensor, v: Tensor, over: Spread, *, scale: float | None = None, where: str = "",
        **inputs: Any,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """(out, lse) of rows that are a share of a sequence; see `pidsl.distributed.ContextParallel`.

        Args:
            q, k, v: the rows, keys and values that are here, [B, H, rows, D].
            over: what knows the others.
            scale, inputs: as in a call.
            where: the call, for messages.
        """
        where = where or self._where
        if inputs and not self.takes.issuperset(inputs):
            inputs = self._named((), inputs)
        return self._run(self._cast(Call(q, k, v, scale, inputs=inputs)), _Asked(spread=over), False, where)

    def _run(self, call: Call, asked: _Asked, return_lse: bool, where: str) -> tuple[Tensor, Tensor]:
        """(out, lse) of a call that was cast, if nothing is wrong with it."""
        backend, call, faults = self._checked(call, asked)
        if type(return_lse) is not bool:
            faults.append(Fault("return_lse", type(return_lse).__name__, "True or False"))
        arguments.raise_faults(faults, where)
        batch: Any = call.positions
        if isinstance(batch, Batch):
            traced = is_traced(call.q, call.k, call.v)
            call = call._replace(positions=sequences.segments(call.q, call.k, batch, bool(self.rings), traced))
        if isinstance(batch, Spread):
            call = call._replace(positions=cast(Any, batch.begun(call)))
        return self.form.attend(call, backend)

    def _named(self, more: tuple[Any, ...], inputs: dict[str, Any]) -> dict[str, Any]:
        """The inputs with one given by position among them, if the form has such; else an error."""
        name = self.form.positional
        if name and len(more) == 1 and name not in inputs:
            inputs, more = {**inputs, name: more[0]}, ()
        if more or not self.takes.issuperset(inputs):
            unknown = {name: x for name, x in inputs.items() if name not in self.takes}
            takes = [name for name in (*PARTS, *self.form.named) if name in self.takes]
            refuse(self.__call__, self._where, more, unknown, takes)
        return inputs

    def _cast(self, call: Call) -> Call:
        """The tensors as `torch.autocast` would hand them to scaled_dot_product_attention; unchanged outside it."""
        if not isinstance(call.q, Tensor):
            return call
        kind = call.q.device.type
        if not autocasts(kind):
            return call
        dtype = torch.get_autocast_dtype(kind)

        def cast(x: Any) -> Any:
            if isinstance(x, tuple | list):
                return type(x)(map(cast, x))
            floating = isinstance(x, Tensor) and x.is_floating_point() and x.dtype != torch.float64
            return x.to(dtype) if floating and x.device.type == kind else x

        inputs = {name: cast(x) if name in self.form.cast else x for name, x in call.inputs.items()}
        return Call(cast(call.q), cast(call.k), cast(call.v), call.scale, call.positions, inputs)

    def _checked(self, given: Call, asked: _Asked) -> tuple[str, Call, list[Fault]]:
        """The backend and what to run, if there are no faults; and the faults. Positions may be a `Batch` still."""
        q, k, v, scale, _, inputs = given
        backend = self._backend_for(q, v)
        scale_faults, factor = arguments.check_scale(scale)
        faults, first = list(scale_faults), list(asked.entries)
        positions: Any = None
        for x, name in enumerate(ragged.ENTRIES[:2] if first else ()):
            if not isinstance(first[x], Tensor):
                more, first[x] = arguments.check_position(name, first[x])
                faults += more
        if asked.uniform:
            positions = Positions(*first)
        pool = isinstance(getattr(asked.cache, "keys_at", None), Pages)  # of pages, which belong to no batch entry
        shown = [x.new_empty(()).expand(q.shape[0], *x.shape[1:]) if pool else x for x in (k, v)]
        wrong, usable = arguments.check_attention(self.rings, backend, q, shown[0], shown[1], positions)
        faults = [*wrong, *faults]
        if positions is None and "q" in usable and "k" in usable:
            wrong, positions = asked.batch(q, k, first)
            faults += wrong
        if self.score is not None and self.score.scale is not None:
            if factor is not None:
                faults.append(Fault("scale", f"{scale!r}", f"None: the kernel has {self.score!r}"))
            factor = self.score.scale
        if factor is not None and torch.compiler.is_compiling():
            factor = recorded(factor)
        if factor is None:
            factor = 1.0 if faults else 1.0 / math.sqrt(q.shape[3])
        if self.choice is not None and "q" in usable and "k" in usable:
            faults += check_blocks(inputs.get("blocks"), self.choice, (q, k), positions)
        if inputs or self.parameters:
            faults += arguments.check_parameters(self.score, self.parameters, usable, inputs)
        call = Call(q, k, v, factor, positions or START, inputs)
        return backend, call, [*faults, *self.form.faults(call, usable, not faults)]

    def _one_choice(self) -> Listed | None:
        """What the lists of a call are; of a gate or heads, one for all."""
        choices = self.form.choices
        if len(choices) > 1:
            sizes = " and ".join(map(str, choices))
            given = f"choices of {sizes} (block, budget, queries) in {self.recipe.of!r}"
            hint = "chosen(...) of the same block, budget and queries; or a kernel for each: pidsl.compile(term)"
            raise TermError(given, "one: a call has one `blocks`", hint=hint)
        return choices[0] if choices else None

    def _backend_for(self, q: Tensor, v: Tensor) -> str:
        """`auto` leaves to torch what the Triton programs do not take."""
        if self.backend != "auto" or self.chosen != "triton":
            return self.chosen
        fits = all(isinstance(x, Tensor) and x.dim() == 4 and head_dim_fits(x.shape[3], "triton") for x in (q, v))
        return "triton" if fits and q.device.type == "cuda" and q.dtype in DTYPES["triton"] else "torch"

    @property
    def kernels(self) -> Mapping[str, Kernel]:
        """The kernels of its parts: of the branches of a gate, of the distinct patterns of heads, ..."""
        return self.form.parts

    @property
    def plan(self) -> Any:
        """What was decided and why: print it. On Triton, for head dimensions up to 64 in 16 bits."""
        return self.form.plan.noted(self._no_leak()) if self.confined else self.form.plan

    def _no_leak(self) -> str:
        """What isl says, asked now, of pairs across documents."""
        if not all(crossing(term & documents).is_empty() for term in self.form.patterns):
            raise AssertionError(f"pairs of {self!r} cross documents")
        return "no pair crosses a document, for all documents and lengths: decided by isl"

    def source(self, head_dim: int = 64) -> str:
        """The text of the generated program; of several, one after the other under their titles.

        Args:
            head_dim: Triton programs have other tiles for head dimensions above 64 and above 128; shown in 16 bits.
        """
        return self.form.source(head_dim)

    def explain(self) -> str:
        """The pattern, the backend and why, the plan, and what the cost model rejected, as text of several lines."""
        return f"{self._no_leak()}\n{self.form.explain()}" if self.confined else self.form.explain()

    def __repr__(self) -> str:
        return f"pidsl.{self.recipe!r}"
