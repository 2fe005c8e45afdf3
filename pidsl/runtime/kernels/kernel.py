"""`compile`: a pattern to a callable kernel."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Never, overload

import torch
from torch import Tensor

from pidsl.errors import BackendError, TermError
from pidsl.language.gate import Gate
from pidsl.language.heads import Heads
from pidsl.language.schedule import Schedule
from pidsl.language.score import PLAIN, Score
from pidsl.language.summaries import Summaries
from pidsl.language.terms import Algebra, Term, require_concrete
from pidsl.runtime.call.arguments import (
    DTYPES,
    Fault,
    check_attention,
    check_flag,
    check_offset,
    check_scale,
    head_dim_fits,
    raise_faults,
)
from pidsl.runtime.call.call import NO_INPUTS, Call, Inputs, Positions
from pidsl.runtime.call.keywords import refuse
from pidsl.runtime.call.parameters import check_parameters
from pidsl.runtime.operator import attended, recorded
from pidsl.runtime.programs import (
    Compiled,
    compiled,
    is_wide,
    preferred,
    prepared,
    rings,
    structure,
    triton_installed,
)

if TYPE_CHECKING:
    from pidsl.codegen.plan.nodes import Plan
    from pidsl.runtime.kernels.gate import GateKernel
    from pidsl.runtime.kernels.heads import HeadsKernel
    from pidsl.runtime.kernels.layers import LayerKernels
    from pidsl.runtime.kernels.output import OutputGate
    from pidsl.runtime.kernels.summaries import SummariesKernel

Composed = Gate | Heads | Schedule | Summaries
Backend = Literal["auto", "triton", "torch", "reference"]
BACKENDS = ("auto", "triton", "torch", "reference")


@overload
def compile(term: Gate, backend: Backend = "auto", score: Score | None = None) -> GateKernel: ...


@overload
def compile(term: Heads, backend: Backend = "auto", score: Score | None = None) -> HeadsKernel: ...


@overload
def compile(term: Schedule, backend: Backend = "auto", score: Score | None = None) -> LayerKernels: ...


@overload
def compile(term: Summaries, backend: Backend = "auto") -> SummariesKernel: ...


@overload
def compile(term: Term, backend: Backend = "auto", score: Score | None = None) -> Kernel: ...


@overload
def compile(
    term: Term | Composed, backend: Backend = "auto", score: Score | None = None, *, output_gate: OutputGate | None,
    affine: bool = False,
) -> Any: ...  # fmt: skip


@overload
def compile(
    term: Term | Composed, backend: Backend = "auto", score: Score | None = None, *, affine: bool
) -> Any: ...  # fmt: skip


def compile(
    term: Term | Composed, backend: Backend = "auto", score: Score | None = None, *more: Any,
    output_gate: OutputGate | None = None, affine: bool = False, **unknown: Any,
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

    Kernels are kept: compiling an equal term again is free.

    Args:
        term: a pattern without unbound symbols, or what is made of such: a `gate`, `heads`, `layers`, or
            `summaries`.
        backend: "triton": generated Triton kernels, for GPUs. "torch": generated torch code, for any device and
            float64. "reference": dense attention under the mask, slow, the judge of the others. "auto": triton for
            what it can run on a GPU, torch for everything else; `kernel.plan` says which.
        score: what happens to the logits, in every branch of a gate, head and layer, see `pidsl.score`; None: they
            are scale * q . k.
        output_gate: "head" or "element": the output is multiplied by the sigmoid of logits given at call time, one
            per head and query, or one per element (Gated Attention, arXiv 2505.06708, position G1).
        affine: attend with the weights `alpha * softmax + beta` on the attended keys, alpha and beta given at call
            time (Affine-Scaled Attention, arXiv 2602.23057); see `pidsl.runtime.kernels.output`.

    Returns:
        A `Kernel`; a `GateKernel` for a gate, a `HeadsKernel` for heads, a `SummariesKernel` for summaries; an
        `OutputKernel` around it where there is an output gate or affine weights; `LayerKernels`, a sequence of
        kernels, for layers.

    Raises:
        TermError: not a pattern, or not a score; an unknown output gate; affine weights of a gate or of summaries; a
            score with summaries.
        KeywordError: an argument that there is not.
        SymbolError: the pattern holds unbound symbols.
        BackendError: an unknown backend, or one that is not installed.
        TooHardError: isl's operation limit struck.
    """
    if more or unknown:
        refuse(compile, "pidsl.compile(term, ...)", more, unknown)
    if not isinstance(term, Algebra | Composed):
        if isinstance(term, str):
            hint = f"pidsl.compile(pidsl.parse({term!r}))"
        elif callable(term):
            hint = "pidsl.compile(pidsl.where(predicate)), a predicate of positions: lambda i, j: i - j < 4"
        else:
            hint = "build one: pidsl.window(63)"
        raise TermError(
            f"compile({term!r}) ({type(term).__name__})", "a pidsl term, gate, heads, layers or summaries", hint=hint
        )
    if not isinstance(backend, str) or backend not in BACKENDS:
        close = difflib.get_close_matches(str(backend), BACKENDS, n=1)
        expected = f"one of {', '.join(map(repr, BACKENDS))}"
        raise BackendError(f"backend = {backend!r}", expected, hint=f"backend={close[0]!r}" if close else "")
    if backend == "triton" and not triton_installed():
        hint = "pip install triton (Linux only); backend='torch' runs anywhere"
        raise BackendError("backend = 'triton', and triton is not installed", "the triton package", hint=hint)
    if score is not None:
        _check_score(term, score)
    if not isinstance(affine, bool):
        raise TermError(f"affine = {affine!r}", "True or False", f"compile({term!r}, ...)")
    if output_gate is not None and not isinstance(output_gate, str):
        hint = "output_gate='head' here, and the logits when the kernel is called"
        raise TermError(f"output_gate: {type(output_gate).__name__}", "None, 'head' or 'element'", hint=hint)
    if not torch.compiler.is_compiling():  # prepared() asks it of what torch traces, where terms are no objects yet
        if isinstance(term, Algebra):
            require_concrete(term, "compile the pattern")
        return _compile(term, backend, score, output_gate, affine)
    return _built(term, backend, score, output_gate, affine)


@lru_cache(maxsize=512)
def _compile(
    term: Term | Composed, backend: Backend, score: Score | None, output_gate: OutputGate | None, affine: bool
) -> Any:
    return _built(term, backend, score, output_gate, affine)


def _built(
    term: Term | Composed, backend: Backend, score: Score | None, output_gate: OutputGate | None, affine: bool
) -> Any:
    from pidsl.runtime.kernels.gate import GateKernel
    from pidsl.runtime.kernels.heads import HeadsKernel
    from pidsl.runtime.kernels.layers import LayerKernels
    from pidsl.runtime.kernels.output import OutputKernel
    from pidsl.runtime.kernels.summaries import SummariesKernel

    if isinstance(term, Schedule):
        return LayerKernels(term, backend, score, output_gate, affine)
    if output_gate is not None or affine:
        return OutputKernel(term, backend, score, output_gate, affine)
    match term:
        case Gate():
            return GateKernel(term, {name: compile(branch, backend, score) for name, branch in term.branches})
        case Heads():
            return HeadsKernel(term, {own: compile(own, backend, score) for own in term.distinct})
        case Summaries():
            return SummariesKernel(term, backend)
    return Kernel(term, backend, score)


def _check_score(term: Term | Composed, score: object) -> None:
    """Raise for what is no score, and for summaries, which do not go together with one."""
    if not isinstance(score, Score):
        hint = "build one: pidsl.score(softcap=50.0)"
        raise TermError(f"score = {score!r} ({type(score).__name__})", "a pidsl.score(...) or None", hint=hint)
    if isinstance(term, Summaries):
        expected = "one of the two: a span has no lag, and its key stands for several logits"
        raise TermError(f"{term!r} with {score!r}", expected, f"compile({term!r})")


class Checked(NamedTuple):
    """The numbers of a call, checked."""

    backend: str
    scale: Any  # a float; while torch traces, a tensor where it may differ between calls
    positions: Positions


class Kernel:
    """A compiled pattern. Made by `compile`; immutable, safe to call from several threads, picklable.

    Args:
        term: the pattern, without symbols.
        backend: as asked for.
        score: what happens to the logits.

    Attributes:
        term: the pattern.
        backend: as asked for; `plan.backend` is what "auto" stands for on this machine.
        score: what happens to the logits, None for nothing.
        chosen, reason: what "auto" stands for on this machine, and why.
        structure, structure_text: the score without its scale, which is an argument; "" where nothing else is left.
        parameters: the names of what a call must be given for the score.
        rings: the term, if it holds a ring and so restricts the lengths.
    """

    def __init__(self, term: Term, backend: Backend, score: Score | None = None) -> None:
        self.term, self.backend, self.score = term, backend, score
        self.structure = structure(score)
        self._pattern = repr(term)
        self.structure_text = "" if self.structure is PLAIN else repr(self.structure)
        self.parameters = () if score is None else score.parameters
        self._where = f"kernel(q, k, v) of {self._pattern}"
        self.rings = (term,) if "ring" in self._pattern and rings(self._pattern) else ()
        self.chosen, self.reason = preferred() if backend == "auto" else (backend, "asked for")
        self._programs: dict[tuple[str, bool], Compiled] = {}
        if torch.compiler.is_compiling():  # whatever cannot be compiled fails here
            prepared(self._pattern, self.structure_text, self.chosen)
        else:
            self._made(self.chosen, 64)

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, *more: Never, scale: float | None = None, offset: int = 0,
        return_lse: bool = False, slopes: Tensor | None = None, bias: Tensor | None = None,
        sinks: Tensor | None = None, temperature: Tensor | None = None, seed: int | None = None, **unknown: Never,
    ) -> Any:  # fmt: skip
        """Attention under the pattern, differentiable once in q, k, v and the parameters of the score.

        Args:
            q: queries [B, Hq, n, D], any strides.
            k: keys [B, Hkv, m, D], of q's dtype and device. Query head h uses key head `h // (Hq // Hkv)`.
            v: values [B, Hkv, m, Dv].
            scale: factor of the logits; default that of the score, or 1 / sqrt(D).
            offset: row r of q stands at position `i = r + offset`.
            return_lse: return (out, lse).
            slopes, sinks, temperature: [Hq], bias: [Hq, table], seed: what `score.parameters` names, in any floating
                dtype, on q's device; see `pidsl.score`.

        Returns:
            out [B, Hq, n, Dv] in q's dtype; with `return_lse` also the log-sum-exp of the logits [B, Hq, n], natural
            log, float32 (float64 for float64), differentiable too. A row without keys has out 0 and lse -inf.
            Inside `torch.autocast`, q, k and v are cast as for torch's scaled_dot_product_attention: to the autocast
            dtype, float64 excepted.

        Raises:
            ArgumentError: shapes, dtypes, devices or numbers do not fit; all faults are named, nothing has run.
            KeywordError: an argument that the kernel does not take.
            BackendError: backend "triton" with tensors that are not on a GPU (and Triton is not interpreting).
        """
        if more or unknown:
            refuse(self.__call__, self._where, more, unknown)
        q, k, v = autocast(q, k, v)
        call, faults, usable = self.check(q, k, v, scale, offset, self.rings)
        if type(return_lse) is not bool:
            faults += check_flag("return_lse", return_lse)
        given = {"slopes": slopes, "bias": bias, "sinks": sinks, "temperature": temperature, "seed": seed}
        raise_faults([*faults, *check_parameters(self.score, self.parameters, usable, given)], self._where)
        out, lse = self.attend(q, k, v, call, present(given) if self.parameters else NO_INPUTS)
        return (out, lse) if return_lse else out

    @property
    def plan(self) -> Plan:
        """What was decided and why: print it. On Triton, for head dimensions up to 128."""
        plan = self._made(self.chosen, 64).plan
        return (
            replace(plan, notes=(f"auto: {self.chosen}, {self.reason}", *plan.notes))
            if self.backend == "auto"
            else plan
        )

    def source(self, head_dim: int = 64) -> str:
        """The text of the generated program.

        Args:
            head_dim: Triton programs for head dimensions above 128 have smaller tiles.
        """
        return self._made(self.chosen, head_dim).program.source

    def explain(self) -> str:
        """The pattern, the backend and why, the plan, and what the cost model rejected, as text of several lines."""
        plan = self.plan
        lines = [f"pattern  {self._pattern}", f"backend  {plan.backend} ({self.reason})", "", str(plan)]
        return "\n".join(lines)

    def __repr__(self) -> str:
        score = "" if self.score is None else f", score={self.score!r}"
        return f"pidsl.compile({self._pattern}, backend={self.backend!r}{score})"

    def __reduce__(self) -> tuple[Any, ...]:
        return compile, (self.term, self.backend, self.score)

    def _made(self, backend: str, head_dim: int) -> Compiled:
        key = backend, is_wide(backend, head_dim)
        if key not in self._programs:  # another thread may write the same entry: it is the same object
            self._programs[key] = compiled(self.term, *key, self.structure)
        return self._programs[key]

    def check(
        self, q: Tensor, k: Tensor, v: Tensor, scale: object, offset: object, rings: Sequence[Term]
    ) -> tuple[Checked, list[Fault], dict[str, Tensor]]:
        """What to run, if there are no faults; the faults; and which tensors are well formed."""
        backend = self._backend_for(q, v)
        scale_faults, factor = check_scale(scale)
        offset_faults, first = check_offset(offset)
        faults, usable = check_attention(rings, backend, q, k, v, first)
        faults = [*faults, *scale_faults, *offset_faults]
        if self.score is not None and self.score.scale is not None:
            if factor is not None:
                faults.append(Fault("scale", f"{scale!r}", f"None: the kernel has {self.score!r}"))
            factor = self.score.scale
        if factor is not None and torch.compiler.is_compiling():
            factor = recorded(factor)
        if factor is None:
            factor = 1.0 if faults else 1.0 / math.sqrt(q.shape[3])
        return Checked(backend, factor, Positions(first)), faults, usable

    def _backend_for(self, q: Tensor, v: Tensor) -> str:
        """`auto` leaves to torch what the Triton programs do not take."""
        if self.backend != "auto" or self.chosen != "triton":
            return self.chosen
        fits = (
            isinstance(q, Tensor) and isinstance(v, Tensor) and q.device.type == "cuda" and q.dtype in DTYPES["triton"]
        )
        if fits and all(x.dim() == 4 and head_dim_fits(x.shape[3], "triton") for x in (q, v)):
            return "triton"
        return "torch"

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, call: Checked, inputs: Inputs = NO_INPUTS
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """(out, lse) of arguments that `check` found no fault in."""
        made = lambda: self._made(call.backend, q.shape[3])  # noqa: E731
        given = Call(q, k, v, call.scale, call.positions, inputs)
        return attended(made, self._pattern, self.structure_text, call.backend, given)


def present(given: Mapping[str, Any]) -> Inputs:
    """What was given, of what may be."""
    return {name: x for name, x in given.items() if x is not None}


def autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors as `torch.autocast` would hand them to scaled_dot_product_attention; unchanged outside it."""
    first = tensors[0]
    if not isinstance(first, Tensor):
        return tensors
    kind = first.device.type
    if not (torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)):
        return tensors
    dtype = torch.get_autocast_dtype(kind)

    def cast(x: Tensor) -> Tensor:
        floating = isinstance(x, Tensor) and x.is_floating_point() and x.dtype != torch.float64
        return x.to(dtype) if floating and x.device.type == kind else x

    return tuple(map(cast, tensors))
