"""A program as a differentiable operation of torch: eagerly an autograd.Function, for torch.compile a custom op.

The custom op `pidsl::attention` names the pattern by its source text, so that a compiled or exported graph holds
nothing but tensors, numbers and strings. Eager calls skip it: its dispatch costs more (about 50 us on one core).
A scale that changes between the calls of a graph comes as a tensor: torch fixes the numbers that ops are given.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any, NoReturn

import torch
from torch import Tensor

from pidsl.errors import BackendError
from pidsl.runtime.call.arguments import check_positions, check_scale, raise_faults
from pidsl.runtime.programs import Program, is_wide, named
from pidsl.runtime.run_dense.reference import accumulator

PLAIN = (Tensor, torch.nn.Parameter)


def is_traced(*tensors: Tensor) -> bool:
    """Whether torch is recording a graph, or a tensor has a dispatch of its own (fake, distributed, meta)."""
    if torch.compiler.is_compiling():
        return True
    return any(type(x) not in PLAIN or x.device.type == "meta" for x in tensors)


def attend(program: Program, q: Tensor, k: Tensor, v: Tensor, scale: float, offset: int) -> tuple[Tensor, Tensor]:
    """out [B, Hq, n, Dv] and lse [B, Hq, n] of checked arguments, differentiable once; for eager calls."""
    try:
        return _Attention.apply(q, k, v, program, scale, offset)  # type: ignore[no-untyped-call]
    except RuntimeError as e:
        refuse_transform(e, program)
        raise


def run_forward(program: Program, q: Tensor, k: Tensor, v: Tensor, scale: float, offset: int) -> tuple[Tensor, Tensor]:
    """`program.forward`, or its result where there is nothing to attend to."""
    if q.numel() == 0 or k.numel() == 0:
        out, lse = _empty_results(q, v)
        return out.zero_(), lse.fill_(-torch.inf)
    with _no_autocast(q):
        out, lse = program.forward(q, k, v, scale, offset)
    return owned(out), owned(lse)


def run_backward(
    program: Program, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, grad_out: Tensor | None,
    grad_lse: Tensor | None, scale: float, offset: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """`program.backward`, or zeros where no gradient can flow."""
    if q.numel() == 0 or k.numel() == 0 or (grad_out is None and grad_lse is None):
        return torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    if grad_out is None:
        grad_out = torch.zeros_like(out)
    with _no_autocast(q):
        return program.backward(q, k, v, out, lse, grad_out, grad_lse, scale, offset)


def owned(x: Tensor) -> Tensor:
    """A result, contiguous, and no view of anything: autograd lets nobody change a view of a Function's in place."""
    x = x.contiguous()
    return x.detach() if x._is_view() else x


def _empty_results(q: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    out = torch.empty((*q.shape[:3], v.shape[3]), dtype=q.dtype, device=q.device)
    return out, torch.empty(q.shape[:3], dtype=accumulator(q.dtype), device=q.device)


def _no_autocast(q: Tensor) -> AbstractContextManager[object]:
    """Programs choose their own precision; autocast would lower it a second time."""
    kind = q.device.type
    on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.autocast(kind, enabled=False) if on else nullcontext()


_DENSE = (
    "torch's scaled_dot_product_attention(q, k, v, attn_mask=torch.tensor(term.mask(n, m, offset))) inside "
    "torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)"
)


def refuse_transform(error: RuntimeError, program: Any, *grads: Tensor | None) -> None:
    """Raise for an error that a transform of torch.func, a vmap or forward mode is to blame for."""
    if isinstance(error, NotImplementedError) and "jvp" in str(error):
        _refuse_forward_mode(_subject(program), _dense(program))
    # torch.autograd.grad has a vmap of its own, which is no transform of torch.func
    batched = any(x is not None and torch._C._functorch.is_legacy_batchedtensor(x) for x in grads)
    if isinstance(error, BackendError) or not (batched or torch._C._are_functorch_transforms_active()):
        return
    raise BackendError(
        f"{_subject(program)} inside a transform of torch.func, or batched gradients",
        "a plain call, differentiated by torch.autograd",
        hint="for grad, vjp and jacrev: torch.autograd.grad, or torch.autograd.functional.jacobian without vectorize; "
        f"for vmap: one more factor of the batch, x.flatten(0, 1); for any of them: {_dense(program)}",
    ) from error


def _refuse_forward_mode(subject: str, instead: str) -> NoReturn:
    raise BackendError(f"{subject} in forward-mode differentiation", "gradients, in reverse mode", hint=instead)


def _refuse_second(subject: str, instead: str) -> NoReturn:
    raise BackendError(
        f"a derivative of the gradient of {subject}", "first derivatives only", hint=f"for second ones: {instead}"
    )


def check_mode(pattern: str) -> None:
    """Raise where tangents would be dropped: torch hands a custom op on without them."""
    if torch.autograd.forward_ad._current_level >= 0:
        _refuse_forward_mode(f"the kernel of {pattern}", _DENSE)


def _subject(program: Any) -> str:
    return f"the kernel of {getattr(program, 'plan', program).term!r}"


def _dense(program: Any) -> str:
    if getattr(getattr(program, "plan", program), "score", None) is None:
        return _DENSE
    return "the formula of docs/score.md over all pairs, under the mask torch.tensor(term.mask(n, m, offset))"


class Changes:
    """Whether results were changed in place since (`out += 1`): then the backward pass computes them again.

    A tensor that autograd saves may not be changed, so the results are saved by another name (`x.data`), and what
    counts their changes is kept beside them, without their memory: a tensor that `x` refers to would be a circle.
    """

    __slots__ = ("lse", "out", "seen")

    def __init__(self, out: Tensor, lse: Tensor) -> None:
        self.seen = out._version + lse._version
        self.out, self.lse = out.detach(), lse.detach()
        self.out.data = self.lse.data = lse.new_empty(0)

    @property
    def happened(self) -> bool:
        return self.out._version + self.lse._version != self.seen


class _Once(torch.autograd.Function):
    """Without `setup_context`, for which torch would inspect signatures on each call: that costs more than a small
    kernel. So torch.func transforms are refused, and forward mode, with errors that say so."""

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> NoReturn:
        _refuse_forward_mode(_subject(ctx.program), _dense(ctx.program))


class _Attention(_Once):
    """`run_forward`, differentiable once."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, program: Program, scale: float, offset: int
    ) -> tuple[Tensor, Tensor]:
        out, lse = run_forward(program, q, k, v, scale, offset)
        ctx.program, ctx.scale, ctx.offset = program, scale, offset
        if True in ctx.needs_input_grad and not out.is_inference():
            ctx.changes = Changes(out, lse)
            ctx.save_for_backward(q, k, v, out.data, lse.data)
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor | None, grad_lse: Tensor | None) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        rest = ctx.program, ctx.scale, ctx.offset
        try:
            if ctx.changes.happened:
                out, lse = run_forward(rest[0], q.detach(), k.detach(), v.detach(), *rest[1:])
            grads = _Gradients.apply(q, k, v, out, lse, grad_out, grad_lse, *rest)  # type: ignore[no-untyped-call]
        except RuntimeError as e:
            refuse_transform(e, ctx.program, grad_out, grad_lse)
            raise
        return (*_wanted(ctx, grads), None, None, None)


class _Gradients(_Once):
    """`run_backward`, tied to q, k and v so that asking for a second derivative is an error and never a zero."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, grad_out: Tensor | None,
        grad_lse: Tensor | None, program: Program, scale: float, offset: int,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        ctx.program = program
        return run_backward(program, q, k, v, out, lse, grad_out, grad_lse, scale, offset)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        _refuse_second(_subject(ctx.program), _dense(ctx.program))


def _wanted(ctx: Any, grads: tuple[Tensor, Tensor, Tensor]) -> list[Tensor | None]:
    return [g if needed else None for g, needed in zip(grads, ctx.needs_input_grad, strict=False)]


# -- the same for torch.compile and torch.export -----------------------------------------------------------------


@lru_cache(maxsize=1024)
def _named(pattern: str, backend: str, wide: bool) -> Program:
    program: Program = named(pattern, backend, wide)
    return program


def checked(q: Tensor, factor: Tensor | None, scale: float, offset: int) -> tuple[float, int]:
    """The numbers of a call of an op: those that were data when a graph was traced have not been looked at yet."""
    raise_faults(check_positions("offset", offset, q.shape[2]), "pidsl.attention(q, k, v, ...)")
    if factor is None:
        return scale, offset
    faults, value = check_scale(float(factor))
    raise_faults(faults, "pidsl.attention(q, k, v, ...)")
    return value or 0.0, offset


@torch.library.custom_op("pidsl::attention", mutates_args=())
def attention(
    q: Tensor, k: Tensor, v: Tensor, factor: Tensor | None, pattern: str, backend: str, scale: float, offset: int
) -> tuple[Tensor, Tensor]:
    """`run_forward` of the program for `pattern`."""
    check_mode(pattern)
    program = _named(pattern, backend, is_wide(backend, q.shape[3]))
    return run_forward(program, q, k, v, *checked(q, factor, scale, offset))


@attention.register_fake
def _attention_shapes(
    q: Tensor, k: Tensor, v: Tensor, factor: Tensor | None, pattern: str, backend: str, scale: float, offset: int
) -> tuple[Tensor, Tensor]:
    check_mode(pattern)
    return _empty_results(q, v)


@torch.library.custom_op("pidsl::attention_backward", mutates_args=())
def attention_backward(
    q: Tensor, k: Tensor, v: Tensor, factor: Tensor | None, out: Tensor, lse: Tensor, grad_out: Tensor | None,
    grad_lse: Tensor | None, pattern: str, backend: str, scale: float, offset: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """`run_backward` of the program for `pattern`."""
    program = _named(pattern, backend, is_wide(backend, q.shape[3]))
    grads = run_backward(program, q, k, v, out, lse, grad_out, grad_lse, *checked(q, factor, scale, offset))
    dq, dk, dv = (x.contiguous() for x in grads)
    return dq, dk, dv


@attention_backward.register_fake
def _gradient_shapes(
    q: Tensor, k: Tensor, v: Tensor, factor: Tensor | None, out: Tensor, lse: Tensor, grad_out: Tensor | None,
    grad_lse: Tensor | None, pattern: str, backend: str, scale: float, offset: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    return dq, dk, dv


def save(ctx: Any, tensors: tuple[Tensor | None, ...], rest: tuple[Any, ...], results: tuple[Tensor, Tensor]) -> None:
    """Keep what the backward op takes. Of the results copies, as they may be changed in place: inductor drops them."""
    ctx.rest = rest
    ctx.save_for_backward(*tensors, *(x.clone() for x in results))
    ctx.set_materialize_grads(False)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    save(ctx, inputs[:4], inputs[4:], output)


def _gradients(ctx: Any, grad_out: Tensor | None, grad_lse: Tensor | None) -> tuple[Tensor | None, ...]:
    grads = attention_backward(*ctx.saved_tensors, grad_out, grad_lse, *ctx.rest)
    return (*_wanted(ctx, grads), None, None, None, None, None)


attention.register_autograd(_gradients, setup_context=_save)


def _name(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.pattern = next(x for x in inputs if isinstance(x, str))


def _no_second(ctx: Any, *grads: Any) -> NoReturn:
    _refuse_second(f"the kernel of {ctx.pattern}", _DENSE)


def once(op: Any) -> None:
    """Asking for the derivative of an op of gradients is an error, and never a zero."""
    op.register_autograd(_no_second, setup_context=_name)


once(attention_backward)


def attended(made, pattern, score, backend, call):
    from pidsl.runtime import score_operator
    from pidsl.runtime.call.parameters import Parameters

    q, k, v = call[:3]
    offset = call.positions.offset

    def numbers(*names):
        if isinstance(call.scale, Tensor):
            return call.scale, *names, backend, 0.0, offset
        return None, *names, backend, call.scale, offset

    if not score:
        if is_traced(q, k, v):
            return attention(q, k, v, *numbers(pattern))
        return attend(made().program, q, k, v, call.scale, offset)
    i = call.inputs
    P = Parameters(i.get("slopes"), i.get("bias"), i.get("sinks"), i.get("temperature"), i.get("seed") or 0)
    if is_traced(q, k, v, *(x for x in P.tensors if x is not None)):
        return score_operator.attention(q, k, v, *P.tensors, *numbers(pattern, score), P.seed)
    return score_operator.attend(made().program, q, k, v, call.scale, offset, P)


def recorded(scale: Any) -> Any:
    """A scale as a traced call hands it to an op: as a tensor unless it is the same in every call of the graph."""
    from torch.fx.experimental.symbolic_shapes import has_static_value

    return scale if has_static_value(scale) else torch.ones((), dtype=torch.float64, device="cpu") * scale
