"""The kernel: what `compile` makes of a recipe, and how it is called."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pidsl.language.recipe import Backend, Recipe
from pidsl.runtime.call import arguments
from pidsl.runtime.call.arguments import DTYPES, PARTS, Fault, head_dim_fits
from pidsl.runtime.call.call import Call, Positions
from pidsl.runtime.call.keywords import refuse
from pidsl.runtime.kernels.form import Form
from pidsl.runtime.operator import recorded
from pidsl.runtime.programs import autocasts, preferred


class Kernel:
    """A compiled pattern. Made by `compile`; immutable, safe to call from several threads, picklable.

    Attributes:
        recipe: what it was compiled from.
        term: the pattern, gate, heads or summaries.
        backend: as asked for; `plan` says what "auto" stands for on this machine.
        score: what happens to the logits, None for nothing.
        chosen, reason: what "auto" stands for on this machine, and why.
        form: how the results of programs become its own.
        takes: the names of what a call may give beside q, k, v and the positions.
    """

    def __init__(self, recipe: Recipe, form: Form) -> None:
        self.recipe, self.form = recipe, form
        self.term, self.score = recipe.of, recipe.score
        self.backend: Backend = recipe.backend
        self.chosen, self.reason = preferred(recipe.backend)
        self.parameters = () if recipe.score is None else recipe.score.parameters
        self.rings = form.rings
        self.takes = frozenset((*PARTS, *form.inputs) if form.scored else form.inputs)
        self._where = f"{form.call} of {recipe.of!r}"

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, *more: Any, scale: float | None = None, offset: int = 0,
        key_offset: int = 0, return_lse: bool = False, **inputs: Any,
    ) -> Any:  # fmt: skip
        """Attention under the pattern, differentiable once in all tensors.

        Args:
            q: queries [B, Hq, n, D], any strides.
            k: keys [B, Hkv, m, D], of q's dtype and device. Query head h uses key head `h // (Hq // Hkv)`.
            v: values [B, Hkv, m, Dv].
            more: the weights, where the kernel is that of a gate.
            scale: factor of the logits; default that of the score, or 1 / sqrt(D).
            offset: row r of q stands at position `i = r + offset`.
            key_offset: row c of k and v stands at position `j = c + key_offset`.
            return_lse: return (out, lse).
            inputs: what the recipe asks for, by name; `takes` has the names.
                slopes, sinks, temperature [Hq], bias [Hq, table], seed: what `score.parameters` names, in any
                    floating dtype, on q's device; see `pidsl.score`. The branches of a gate share them; `heads` have
                    them in the order of the heads, and drop pairs by a seed for each launch.
                weights [B, Hq, n, branches]: of a gate, of q's dtype, in the order of `gate.names`; nothing is
                    broadcast (use `expand`).
                output_gate [B, Hq, n] for "head", [B, Hq, n, Dv] for "element": logits, of q's dtype.
                alpha, beta: of affine weights, a number, [Hq], or [B, Hq, n], of any floating dtype. Unless beta is
                    the number 0, the plain program of the pattern runs a second time, with all logits 0, head
                    dimension 8, and gradients for v alone.
                summaries: for each level None, or the keys [B, H, spans, D] and values [B, H, spans, Dv] of its
                    spans, each with H = Hq or Hkv. None: the default of every level, which pools q and k; it needs the
                    queries of all tokens, so n == m and no offsets.

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
        given = self._cast(Call(q, k, v, scale, Positions(offset, key_offset), inputs))
        backend, call, faults = self._checked(given)
        if type(return_lse) is not bool:
            faults.append(Fault("return_lse", type(return_lse).__name__, "True or False"))
        arguments.raise_faults(faults, self._where)
        out, lse = self.form.attend(call, backend)
        return (out, lse) if return_lse else out

    def _named(self, more: tuple[Any, ...], inputs: dict[str, Any]) -> dict[str, Any]:
        """The inputs with one given by position among them, if the form has such; else an error."""
        name = self.form.positional
        if name and len(more) == 1 and name not in inputs:
            inputs, more = {**inputs, name: more[0]}, ()
        if more or not self.takes.issuperset(inputs):
            unknown = {name: x for name, x in inputs.items() if name not in self.takes}
            takes = [name for name in (*PARTS, *self.form.inputs) if name in self.takes]
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

    def _checked(self, given: Call) -> tuple[str, Call, list[Fault]]:
        """The backend and what to run, if there are no faults; and the faults."""
        q, k, v, scale, (offset, key_offset), inputs = given
        backend = self._backend_for(q, v)
        scale_faults, factor = arguments.check_scale(scale)
        offset_faults, first = arguments.check_position("offset", offset)
        key_faults, first_key = arguments.check_position("key_offset", key_offset)
        positions = Positions(first, first_key)
        faults, usable = arguments.check_attention(self.rings, backend, q, k, v, positions)
        faults = [*faults, *scale_faults, *offset_faults, *key_faults]
        if self.score is not None and self.score.scale is not None:
            if factor is not None:
                faults.append(Fault("scale", f"{scale!r}", f"None: the kernel has {self.score!r}"))
            factor = self.score.scale
        if factor is not None and torch.compiler.is_compiling():
            factor = recorded(factor)
        if factor is None:
            factor = 1.0 if faults else 1.0 / math.sqrt(q.shape[3])
        if inputs or self.parameters:
            faults += arguments.check_parameters(self.score, self.parameters, usable, inputs)
        call = Call(q, k, v, factor, positions, inputs)
        return backend, call, [*faults, *self.form.faults(call, usable, not faults)]

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
        return self.form.plan

    def source(self, head_dim: int = 64) -> str:
        """The text of the generated program; of several, one after the other under their titles.

        Args:
            head_dim: Triton programs have other tiles for head dimensions above 64 and above 128; shown in 16 bits.
        """
        return self.form.source(head_dim)

    def explain(self) -> str:
        """The pattern, the backend and why, the plan, and what the cost model rejected, as text of several lines."""
        return self.form.explain()

    def __repr__(self) -> str:
        return f"pidsl.{self.recipe!r}"
