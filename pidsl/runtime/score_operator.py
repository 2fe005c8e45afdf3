"""A scored program as a differentiable operation: as in `pidsl.runtime.operator`, with the parameters of the score.

Eagerly an autograd.Function; for torch.compile the custom op `pidsl::scored_attention`, which names the score by its
text as it names the pattern.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor

from pidsl.language.parse import parse
from pidsl.runtime.call.logits import sink_gradient
from pidsl.runtime.call.parameters import ParameterGrads, Parameters
from pidsl.runtime.operator import (
    Changes,
    _empty_results,
    _Gradients,
    _no_autocast,
    _Once,
    check_mode,
    checked,
    once,
    owned,
    refuse_transform,
    save,
)
from pidsl.runtime.programs import is_wide, named


class ScoredProgram(Protocol):
    """What a backend makes of a plan with a score. Sizes are positive here."""

    @property
    def source(self) -> str:
        """The text of the generated program."""

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float, offset: int, parameters: Parameters
    ) -> tuple[Tensor, Tensor]:
        """(out, lse); with sinks, lse is the logarithm of the whole denominator."""

    def backward(
        self, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, grad_out: Tensor, grad_lse: Tensor | None,
        scale: float, offset: int, parameters: Parameters, learned: bool,
    ) -> tuple[Tensor, Tensor, Tensor, ParameterGrads]:  # fmt: skip
        """The gradients of q, k, v and of the parameters; those of slopes and bias only if `learned`."""


def attend(
    program: ScoredProgram, q: Tensor, k: Tensor, v: Tensor, scale: float, offset: int, parameters: Parameters
) -> tuple[Tensor, Tensor]:
    """(out, lse) of checked arguments, differentiable once in q, k, v and the parameters; for eager calls."""
    given = (q, k, v, *parameters.tensors, program, scale, offset, parameters.seed)
    try:
        return _Attention.apply(*given)  # type: ignore[no-untyped-call]
    except RuntimeError as e:
        refuse_transform(e, program)
        raise


def run_forward(
    program: ScoredProgram, q: Tensor, k: Tensor, v: Tensor, scale: float, offset: int, parameters: Parameters
) -> tuple[Tensor, Tensor]:
    """`program.forward`, or its result where there is nothing to attend to."""
    given = parameters.prepared(q)
    if q.numel() == 0 or k.numel() == 0:
        out, lse = _empty_results(q, v)
        lse.fill_(-torch.inf)
        return out.zero_(), lse if given.sinks is None else lse.copy_(given.sinks[:, None].expand(lse.shape))
    with _no_autocast(q):
        out, lse = program.forward(q, k, v, scale, offset, given)
    return owned(out), owned(lse)


def run_backward(
    program: ScoredProgram, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, grad_out: Tensor | None,
    grad_lse: Tensor | None, scale: float, offset: int, parameters: Parameters, learned: bool,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """Gradients of q, k, v, slopes, bias, sinks and temperature; zeros where none can flow, None for absent ones."""
    given = parameters.prepared(q)
    if q.numel() == 0 or k.numel() == 0 or (grad_out is None and grad_lse is None):
        zeros = [torch.zeros_like(x) for x in (q, k, v)] + [
            None if x is None else torch.zeros_like(x) for x in given.tensors
        ]
        if given.sinks is not None and grad_lse is not None:
            zeros[5] = sink_gradient(given.sinks, lse, -grad_lse)
        return _typed(zeros, parameters)
    if grad_out is None:
        grad_out = torch.zeros_like(out)
    with _no_autocast(q):
        *grads, of_parameters = program.backward(q, k, v, out, lse, grad_out, grad_lse, scale, offset, given, learned)
    return _typed([*grads, *of_parameters], parameters)


def _typed(grads: list[Tensor | None], parameters: Parameters) -> tuple[Tensor | None, ...]:
    own = [
        None if x is None or grad is None else grad.to(x.dtype)
        for grad, x in zip(grads[3:], parameters.tensors, strict=True)
    ]
    return *grads[:3], *own


class _Attention(_Once):
    """`run_forward`, differentiable once."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, slopes: Tensor | None, bias: Tensor | None, sinks: Tensor | None,
        temperature: Tensor | None, program: ScoredProgram, scale: float, offset: int, seed: int,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        parameters = Parameters(slopes, bias, sinks, temperature, seed)
        out, lse = run_forward(program, q, k, v, scale, offset, parameters)
        ctx.program, ctx.rest = program, (scale, offset, seed)
        if True in ctx.needs_input_grad and not out.is_inference():
            ctx.changes = Changes(out, lse)
            ctx.save_for_backward(q, k, v, slopes, bias, sinks, temperature, out.data, lse.data)
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor | None, grad_lse: Tensor | None) -> tuple[Tensor | None, ...]:
        q, k, v, slopes, bias, sinks, temperature, out, lse = ctx.saved_tensors
        program, (scale, offset, seed) = ctx.program, ctx.rest
        parameters = Parameters(slopes, bias, sinks, temperature, seed)
        learned = any(ctx.needs_input_grad[3:5])
        try:
            if ctx.changes.happened:
                out, lse = run_forward(program, q.detach(), k.detach(), v.detach(), scale, offset, parameters)
            grads = _ScoredGradients.apply(  # type: ignore[no-untyped-call]
                q, k, v, *parameters.tensors, out, lse, grad_out, grad_lse, program, *ctx.rest, learned
            )  # fmt: skip
        except RuntimeError as e:
            refuse_transform(e, program, grad_out, grad_lse)
            raise
        return (*_wanted(ctx, grads), None, None, None, None)


class _ScoredGradients(_Gradients):
    """`run_backward`, tied to its inputs so that asking for a second derivative is an error and never a zero."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, slopes: Tensor | None, bias: Tensor | None, sinks: Tensor | None,
        temperature: Tensor | None, out: Tensor, lse: Tensor, grad_out: Tensor | None, grad_lse: Tensor | None,
        program: ScoredProgram, scale: float, offset: int, seed: int, learned: bool,
    ) -> tuple[Tensor | None, ...]:  # fmt: skip
        ctx.program = program
        parameters = Parameters(slopes, bias, sinks, temperature, seed)
        return run_backward(program, q, k, v, out, lse, grad_out, grad_lse, scale, offset, parameters, learned)


def _wanted(ctx: Any, grads: tuple[Tensor | None, ...]) -> list[Tensor | None]:
    return [g if needed else None for g, needed in zip(grads, ctx.needs_input_grad, strict=False)]


# -- the same for torch.compile and torch.export -----------------------------------------------------------------


@lru_cache(maxsize=1024)
def _named(pattern: str, score: str, backend: str, wide: bool) -> Any:
    return named(pattern, backend, wide, parse(score))


@torch.library.custom_op("pidsl::scored_attention", mutates_args=())
def attention(
    q: Tensor, k: Tensor, v: Tensor, slopes: Tensor | None, bias: Tensor | None, sinks: Tensor | None,
    temperature: Tensor | None, factor: Tensor | None, pattern: str, score: str, backend: str, scale: float,
    offset: int, seed: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`run_forward` of the program for `pattern` and `score`."""
    check_mode(pattern)
    program = _named(pattern, score, backend, is_wide(backend, q.shape[3]))
    parameters = Parameters(slopes, bias, sinks, temperature, seed)
    return run_forward(program, q, k, v, *checked(q, factor, scale, offset), parameters)


@attention.register_fake
def _attention_shapes(
    q: Tensor, k: Tensor, v: Tensor, slopes: Tensor | None, bias: Tensor | None, sinks: Tensor | None,
    temperature: Tensor | None, factor: Tensor | None, pattern: str, score: str, backend: str, scale: float,
    offset: int, seed: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    check_mode(pattern)
    return _empty_results(q, v)


@torch.library.custom_op("pidsl::scored_attention_backward", mutates_args=())
def attention_backward(
    q: Tensor, k: Tensor, v: Tensor, slopes: Tensor | None, bias: Tensor | None, sinks: Tensor | None,
    temperature: Tensor | None, factor: Tensor | None, out: Tensor, lse: Tensor, grad_out: Tensor | None,
    grad_lse: Tensor | None, pattern: str, score: str, backend: str, scale: float, offset: int, seed: int,
    learned: bool,
) -> list[Tensor]:  # fmt: skip
    """`run_backward` of the program for `pattern` and `score`; an empty tensor for a gradient that there is not."""
    program = _named(pattern, score, backend, is_wide(backend, q.shape[3]))
    parameters = Parameters(slopes, bias, sinks, temperature, seed)
    numbers = checked(q, factor, scale, offset)
    grads = run_backward(program, q, k, v, out, lse, grad_out, grad_lse, *numbers, parameters, learned)
    return [q.new_empty(0) if x is None else x.contiguous() for x in grads]


@attention_backward.register_fake
def _gradient_shapes(
    q: Tensor, k: Tensor, v: Tensor, slopes: Tensor | None, bias: Tensor | None, sinks: Tensor | None,
    temperature: Tensor | None, factor: Tensor | None, out: Tensor, lse: Tensor, grad_out: Tensor | None,
    grad_lse: Tensor | None, pattern: str, score: str, backend: str, scale: float, offset: int, seed: int,
    learned: bool,
) -> list[Tensor]:  # fmt: skip
    found = [q, k, v, slopes if learned else None, bias if learned else None, sinks, temperature]
    return [q.new_empty(0) if x is None else torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in found]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    save(ctx, inputs[:8], inputs[8:], output)


def _gradients(ctx: Any, grad_out: Tensor | None, grad_lse: Tensor | None) -> tuple[Tensor | None, ...]:
    learned = any(ctx.needs_input_grad[3:5])
    grads = attention_backward(*ctx.saved_tensors, grad_out, grad_lse, *ctx.rest, learned)
    return (*_wanted(ctx, tuple(grads)), None, None, None, None, None, None, None)


attention.register_autograd(_gradients, setup_context=_save)
once(attention_backward)
