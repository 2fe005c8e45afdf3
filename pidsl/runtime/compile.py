"""`compile`: from a pattern to a callable kernel. It stands on top of the runtime: nothing there imports it."""

from __future__ import annotations

import copyreg
from dataclasses import replace
from functools import lru_cache
from typing import Any, overload

import torch

from pidsl.errors import BackendError
from pidsl.language.confined import confined
from pidsl.language.gate import Gate
from pidsl.language.heads import Heads
from pidsl.language.recipe import Backend, Composed, OutputGate, Recipe
from pidsl.language.schedule import Schedule
from pidsl.language.score import Score
from pidsl.language.summaries import Summaries
from pidsl.language.terms import Term, require_concrete
from pidsl.runtime.call.keywords import refuse
from pidsl.runtime.kernels.form import Form
from pidsl.runtime.kernels.gate import Blend
from pidsl.runtime.kernels.heads import ByHead
from pidsl.runtime.kernels.kernel import Kernel
from pidsl.runtime.kernels.layers import LayerKernels
from pidsl.runtime.kernels.output import Weighed
from pidsl.runtime.kernels.softmax import Softmax
from pidsl.runtime.kernels.summaries import Merge
from pidsl.runtime.programs import preferred, triton_installed


@overload
def compile(
    term: Schedule, backend: Backend = "auto", score: Score | None = None, *, output_gate: OutputGate | None = None,
    affine: bool = False, tune: bool = False,
) -> LayerKernels: ...  # fmt: skip


@overload
def compile(
    term: Term | Gate | Heads | Summaries, backend: Backend = "auto", score: Score | None = None, *,
    output_gate: OutputGate | None = None, affine: bool = False, tune: bool = False,
) -> Kernel: ...  # fmt: skip


@overload
def compile(term: Recipe) -> Any: ...


def compile(
    term: Term | Composed | Recipe, backend: Backend = "auto", score: Score | None = None, *more: Any,
    output_gate: OutputGate | None = None, affine: bool = False, tune: bool = False, **unknown: Any,
) -> Any:  # fmt: skip
    """A kernel for a pattern: one program for every number of queries and keys.

    `out[i] = sum over attended j of softmax_j(scale * q_i . k_j) v_j`

    >>> import pidsl, torch
    >>> kernel = pidsl.compile(pidsl.window(63) | pidsl.stride(256), backend="reference")
    >>> kernel
    pidsl.compile(window(63) | stride(256), backend='reference')
    >>> q, k, v = torch.randn(3, 1, 4, 100, 64)
    >>> kernel(q, k, v).shape
    torch.Size([1, 4, 100, 64])

    Kernels are kept: compiling an equal term again is free. docs/reference/goes_with.md says which of the options go
    together.

    Args:
        term: a pattern without unbound symbols, or what is made of such: a `gate`, `heads`, `layers`, or
            `summaries`. Or a `Recipe`, which holds the other arguments too.
        backend: "triton": generated Triton kernels, for GPUs. "torch": generated torch code, for any device and
            float64. "reference": dense attention under the mask, slow, the judge of the others. "auto": triton for
            what it can run on a GPU, torch for everything else; `kernel.plan` says which.
        score: what happens to the logits, in every branch of a gate, head and layer, see `pidsl.score`; None: they
            are scale * q . k.
        output_gate: "head" or "element": the output is multiplied by the sigmoid of logits given at call time, one
            per head and query, or one per element (Gated Attention, arXiv 2505.06708, position G1).
        affine: attend with the weights `alpha * softmax + beta` on the attended keys, alpha and beta given at call
            time (Affine-Scaled Attention, arXiv 2602.23057); see `pidsl.runtime.kernels.output`.
        tune: on a GPU, the first calls try a few sizes of tiles and keep the fastest;
            docs/reference/settings.md says for which calls and where.

    Returns:
        A `Kernel`; for layers `LayerKernels`, a sequence of kernels.

    Raises:
        TermError: not a pattern, or not a score; an unknown output gate; options that do not go together.
        KeywordError: an argument that there is not.
        SymbolError: the pattern holds unbound symbols.
        BackendError: an unknown backend, or one that is not installed; `tune` without a GPU that Triton compiles for.
        TooHardError: isl's operation limit struck.
    """
    if more or unknown:
        refuse(compile, "pidsl.compile(term, ...)", more, unknown)
    recipe = term if isinstance(term, Recipe) else Recipe(term, backend, score, output_gate, affine, tune)
    if recipe.backend == "triton" and not triton_installed():
        hint = "pip install triton (Linux only); backend='torch' runs anywhere"
        raise BackendError("backend = 'triton', and triton is not installed", "the triton package", hint=hint)
    if recipe.tune:
        check_tunable(recipe)
    if torch.compiler.is_compiling():  # prepared() asks it of what torch traces, where terms are no objects yet
        return _built(recipe)
    if isinstance(recipe.of, Term):
        require_concrete(recipe.of, "compile the pattern")
    return _kept(recipe)


def check_tunable(recipe: Recipe) -> None:
    """Raise where there is no GPU to time a kernel on, or Triton does not compile for it."""
    chosen, reason = preferred(recipe.backend)
    if chosen == "triton" and torch.cuda.is_available():
        from pidsl.runtime.run_triton.devices import interpreted

        if not interpreted():
            return
        reason = "Triton interprets"
    elif chosen == "triton":
        reason = "no GPU found"
    given = f"tune=True with backend {chosen!r} ({reason})"
    hint = "pidsl.compile(term), whose tiles the table of codegen/choice/targets.py chooses"
    raise BackendError(given, "Triton on a GPU, on which tiles are timed", f"{recipe!r}", hint)


def _built(recipe: Recipe) -> Any:
    if isinstance(recipe.of, Schedule):
        options = recipe.backend, recipe.score, recipe.output_gate, recipe.affine, recipe.tune
        return LayerKernels(recipe, [compile(Recipe(layer, *options)) for layer in recipe.of])
    pattern, inside = confined(recipe.of)
    return Kernel(recipe, _form(replace(recipe, of=pattern) if inside else recipe), inside)


_kept = lru_cache(maxsize=512)(_built)


def _form(recipe: Recipe) -> Form:
    """How the results of programs become what the recipe says, with the kernels of its parts."""
    of: Any = recipe.of
    backend, score, tune = recipe.backend, recipe.score, recipe.tune
    if recipe.output_gate is not None or recipe.affine:
        plain = compile(of, backend, tune=tune) if recipe.affine else None
        return Weighed(compile(of, backend, score, tune=tune), plain, recipe.output_gate)
    if isinstance(of, Gate):
        return Blend(of, {name: compile(branch, backend, score, tune=tune) for name, branch in of.branches})
    if isinstance(of, Heads):
        return ByHead(of, {own: compile(own, backend, score, tune=tune) for own in of.distinct})
    if isinstance(of, Summaries):
        parts = {"exact": compile(of.exact, backend, tune=tune)}
        for x, level in enumerate(of.levels):
            parts[f"seen {x}"] = compile(level.seen, backend, tune=tune)
            if level.of != "block":
                parts[f"members {x}"] = compile(level.members, backend, tune=tune)
        return Merge(of, parts)
    return Softmax(of, backend, score, tune)


for kind in (Kernel, LayerKernels):  # a pickled kernel is its recipe
    copyreg.pickle(kind, lambda kernel: (compile, (kernel.recipe,)))  # type: ignore[attr-defined]
