"""A program as a differentiable operation of torch: eagerly an autograd.Function, for torch.compile a custom op.

The custom op `pidsl::attention` names the program by a text, so that a compiled or exported graph holds nothing but
tensors, numbers and strings. Eager calls skip it: its dispatch costs more (about 50 us on one core).
A scale that changes between the calls of a graph comes as a tensor: torch fixes the numbers that ops are given.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache, partial
from typing import Any, NoReturn, cast

import torch
from torch import Tensor

from pidsl.errors import BackendError
from pidsl.language.chosen import Selection, selection
from pidsl.language.score import PLAIN
from pidsl.runtime import flops, sequences
from pidsl.runtime.call.arguments import check_positions, check_scale, raise_faults
from pidsl.runtime.call.call import Call, Positions, Spread
from pidsl.runtime.call.logits import sink_gradient
from pidsl.runtime.call.segments import Segments
from pidsl.runtime.call.sums import accumulator
from pidsl.runtime.programs import Program, Programs, autocasts, is_choice, kind_of, named, scored

ORDINARY = (Tensor, torch.nn.Parameter)
LEARNED = ("slopes", "bias")  # inputs whose gradients take work of their own


def attended(programs: Programs, backend: str, call: Call) -> tuple[Tensor, Tensor]:
    """(out, lse) of a checked call on a backend; where torch records a graph, as the op that names the program."""
    where: Any = call.positions
    if isinstance(where, Spread):
        return where.attended(programs, backend, call)
    if len(call.inputs) != len(programs.inputs):  # those of the forms around it are none of the program's
        call = call._replace(inputs={name: call.inputs[name] for name in programs.inputs})
    tensors = call.tensors
    if is_traced(*tensors):
        q, k, v, *inputs = tensors
        places, numbers = _flat(call)
        factor, scale = (call.scale, 0.0) if isinstance(call.scale, Tensor) else (None, call.scale)
        return attention(q, k, v, [*inputs, *places], factor, programs.text + backend, scale, numbers)
    made = programs.made(backend, kind_of(backend, call.q, call.v), call.positions.moved)
    try:
        return _Attention.apply(made, call, *tensors)  # type: ignore[no-untyped-call]
    except RuntimeError as e:
        refuse_transform(e, made.plan)
        raise


def is_traced(*tensors: Tensor) -> bool:
    """Whether torch records a graph or counts flops, or a tensor has its own dispatch (fake, distributed, meta)."""
    if torch.compiler.is_compiling():
        return True
    if torch._C._len_torch_dispatch_stack() and flops.looking(FLOPS):
        return True
    for x in tensors:  # noqa: SIM110 (a generator would cost as much again)
        if type(x) not in ORDINARY or x.is_meta:
            return True
    return False


def recorded(scale: Any) -> Any:
    """A scale as a traced call hands it to an op: as a tensor unless it is the same in every call of the graph."""
    from torch.fx.experimental.symbolic_shapes import has_static_value

    return scale if has_static_value(scale) else torch.ones((), dtype=torch.float64, device="cpu") * scale


def run_forward(program: Program, call: Call) -> tuple[Tensor, Tensor]:
    """`program.forward`, or its result where there is nothing to attend to."""
    call = call.prepared()
    nothing = call.q.numel() == 0 or call.k.numel() == 0
    if isinstance(call.positions, Segments) and (nothing or not program.ragged):
        run, choice = partial(run_forward, program), _choice(program, call)
        if call.positions.keys_at is not None and not program.ragged:
            return sequences.from_cache(call, cast("sequences.Picking", program), run, choice)
        return sequences.forward(call, run, choice)
    if nothing:
        out, lse = _empty_results(call.q, call.v)
        sinks = call.inputs.get("sinks")
        return out.zero_(), lse.fill_(-torch.inf) if sinks is None else lse.copy_(sinks[:, None].expand(lse.shape))
    with _no_autocast(call.q):
        out, lse = program.forward(call)
    return owned(out), owned(lse)


def run_backward(
    program: Program, call: Call, out: Tensor, lse: Tensor, grad_out: Tensor | None, grad_lse: Tensor | None,
    learned: bool,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """The gradients of `call.tensors`; zeros where none can flow, None where none was asked for."""
    given, call = call, call.prepared()
    q, k, *_ = call
    if isinstance(call.positions, Segments) and call.positions.keys_at is not None:
        hint = "kernel(q, k, v, offset=...), whose keys are all there; or torch.no_grad() around the step"
        raise BackendError("a gradient of kernel.decode(q, cache)", "decoding without one", hint=hint)
    nothing = q.numel() == 0 or k.numel() == 0 or (grad_out is None and grad_lse is None)
    if isinstance(call.positions, Segments) and (nothing or not program.ragged):
        run = partial(run_backward, program, learned=learned)
        return sequences.backward(given, (out, lse), (grad_out, grad_lse), run, _choice(program, call))
    if nothing:
        dq, dk, dv, *rest = (torch.zeros_like(x) for x in call.tensors)
        found: Any = {name: x for name, x in zip(call.names, rest, strict=True) if name != "blocks"}
        if "sinks" in found and grad_lse is not None:
            found["sinks"] = sink_gradient(call.inputs["sinks"], lse, -grad_lse)
    else:
        grad_out = torch.zeros_like(out) if grad_out is None else grad_out
        with _no_autocast(q):
            dq, dk, dv, found = program.backward(call, out, lse, grad_out, grad_lse, learned)
    if not call.inputs:
        return dq, dk, dv
    asked = [name in found and (learned or name not in LEARNED) for name in call.names]
    own = (found[x].to(given.inputs[x].dtype) if y else None for x, y in zip(call.names, asked, strict=True))
    return dq, dk, dv, *own


def _choice(program: Program, call: Call) -> Selection | None:
    """What the lists of a call are of."""
    return selection(program.plan.term) if "blocks" in call.inputs else None


def owned(x: Tensor) -> Tensor:
    """A result, contiguous, and no view of anything: autograd lets nobody change a view of a Function's in place."""
    x = x.contiguous()
    return x.detach() if x._is_view() else x


def _empty_results(q: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    return q.new_empty((*q.shape[:3], v.shape[3])), q.new_empty(q.shape[:3], dtype=accumulator(q.dtype))


def _no_autocast(q: Tensor) -> AbstractContextManager[object]:
    """Programs choose their own precision; autocast would lower it a second time."""
    kind = q.device.type
    return torch.autocast(kind, enabled=False) if autocasts(kind) else _AS_IT_IS


_AS_IT_IS: AbstractContextManager[object] = nullcontext()
_DENSE = (
    "torch's scaled_dot_product_attention(q, k, v, attn_mask=torch.tensor(term.mask(n, m, offset))) inside "
    "torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)"
)


def refuse_transform(error: RuntimeError, plan: Any, *grads: Tensor | None) -> None:
    """Raise for an error that a transform of torch.func, a vmap or forward mode is to blame for."""
    subject, instead = _told(plan)
    if isinstance(error, NotImplementedError) and "jvp" in str(error):
        _refuse_forward_mode(subject, instead)
    # torch.autograd.grad has a vmap of its own, which is no transform of torch.func
    batched = any(x is not None and torch._C._functorch.is_legacy_batchedtensor(x) for x in grads)
    if isinstance(error, BackendError) or not (batched or torch._C._are_functorch_transforms_active()):
        return
    raise BackendError(
        f"{subject} inside a transform of torch.func, or batched gradients",
        "a plain call, differentiated by torch.autograd",
        hint="for grad, vjp and jacrev: torch.autograd.grad, or torch.autograd.functional.jacobian without vectorize; "
        f"for vmap: one more factor of the batch, x.flatten(0, 1); for any of them: {instead}",
    ) from error


def _refuse_forward_mode(subject: str, instead: str) -> NoReturn:
    raise BackendError(f"{subject} in forward-mode differentiation", "gradients, in reverse mode", hint=instead)


def _refuse_second(subject: str, instead: str) -> NoReturn:
    given = f"a derivative of the gradient of {subject}"
    raise BackendError(given, "first derivatives only", hint=f"for second ones: {instead}")


def _told(plan: Any) -> tuple[str, str]:
    """How errors call the kernel of a plan, and what does without it."""
    formula = "docs/reference/score.md's formula over all pairs, under the mask torch.tensor(term.mask(n, m, offset))"
    return f"the kernel of {plan.term!r}", _DENSE if plan.score == PLAIN else formula


def check_mode(program: str) -> None:
    """Raise where tangents would be dropped: torch hands a custom op on without them."""
    if torch.autograd.forward_ad._current_level >= 0:
        _refuse_forward_mode(f"the kernel of {program.split('; ')[0]}", _DENSE)


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
        _refuse_forward_mode(*_told(ctx.made.plan))


class _Attention(_Once):
    """`run_forward`, differentiable once in the tensors of the call, which autograd must see one by one."""

    @staticmethod
    def forward(ctx: Any, made: Program, call: Call, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        out, lse = run_forward(made, call)
        ctx.made = made
        if True in ctx.needs_input_grad and not out.is_inference():
            ctx.rest, ctx.changes = call.rest, Changes(out, lse)
            ctx.save_for_backward(*tensors, out.data, lse.data)
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor | None, grad_lse: Tensor | None) -> tuple[Tensor | None, ...]:
        *tensors, out, lse = ctx.saved_tensors
        made, rest, needed = ctx.made, ctx.rest, ctx.needs_input_grad[2:]
        call, learned = Call.resumed(rest, tensors), _learned(rest[0], needed)
        try:
            if ctx.changes.happened:
                with torch.no_grad():
                    out, lse = run_forward(made, call)
            grads = _Gradients.apply(made, call, out, lse, grad_out, grad_lse, learned, *tensors)  # type: ignore[no-untyped-call]
        except RuntimeError as e:
            refuse_transform(e, made.plan, grad_out, grad_lse)
            raise
        return (None, None, *[g if n else None for g, n in zip(grads, needed, strict=True)])


class _Gradients(_Once):
    """`run_backward`, tied to its tensors so that asking for a second derivative is an error and never a zero."""

    @staticmethod
    def forward(
        ctx: Any, made: Program, call: Call, out: Tensor, lse: Tensor, grad_out: Tensor | None,
        grad_lse: Tensor | None, learned: bool, *tensors: Tensor,
    ) -> tuple[Tensor | None, ...]:  # fmt: skip
        ctx.made = made
        return run_backward(made, call, out, lse, grad_out, grad_lse, learned)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        _refuse_second(*_told(ctx.made.plan))


def _learned(names: Sequence[str], needed: Sequence[bool]) -> bool:
    """Whether gradients of slopes or bias are needed; `needed` are those of the tensors of a call."""
    return any(n and name in LEARNED for name, n in zip(names, needed[3:], strict=False)) if names else False


# -- the same for torch.compile and torch.export -----------------------------------------------------------------


@lru_cache(maxsize=1024)
def _inputs(program: str) -> tuple[str, ...]:
    """The inputs of a program: those that are tensors, in the order of their names, then the seed."""
    asked = scored(program.split("; ")[1]).parameters
    if is_choice(program):
        asked = (*asked, "blocks")
    return tuple(sorted(asked, key=lambda name: (name == "seed", name)))


@lru_cache(maxsize=1024)
def _count(program: str) -> int:
    """How many inputs of a program are tensors."""
    return sum(name != "seed" for name in _inputs(program))


def _given(
    tensors: Sequence[Tensor], factor: Tensor | None, program: str, scale: float, numbers: Sequence[int]
) -> tuple[Program, Call]:
    """The program of an op and its call: numbers that were data when a graph was traced are looked at now."""
    where = "pidsl.attention(q, k, v, ...)"
    count = 3 + _count(program)
    q, k, v, *inputs = tensors[:count]
    places = tensors[count:]
    offset, key_offset, seed, *bounds = numbers
    raise_faults(check_positions("offset", offset, q.shape[2]), where)
    raise_faults(check_positions("key_offset", key_offset, k.shape[2]), where)
    if factor is not None:
        faults, value = check_scale(float(factor))
        raise_faults(faults, where)
        scale = value or 0.0
    positions = Segments.of(places, bounds) if places else Positions(offset, key_offset)
    made = named(program, kind_of(program.rpartition("; ")[2], q, v), positions.moved)
    assert made is not None, program
    given = dict(zip(_inputs(program), (*inputs, seed), strict=False))  # a seed is the last, where one is asked for
    return made, Call(q, k, v, scale, positions, given)


def _flat(call: Call) -> tuple[list[Tensor], list[Any]]:
    """Where rows stand and the seed of a call, as ops take them: tensors of a ragged batch, and numbers."""
    at, seed = call.positions, call.inputs.get("seed", 0)
    return ([], [*at, seed]) if isinstance(at, Positions) else (at.tensors, [0, 0, seed, *at.numbers])


@torch.library.custom_op("pidsl::attention", mutates_args=())
def attention(
    q: Tensor, k: Tensor, v: Tensor, inputs: list[Tensor], factor: Tensor | None, program: str, scale: float,
    numbers: list[int],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`run_forward` of the program named `program`: "pattern; score; backend".

    Args:
        q, k, v: as `Call` has them.
        inputs: the tensors that the score asks for, in the order of their names; then those of a ragged batch, see
            `Segments`.
        factor: the scale, where it may differ between the calls of a graph.
        program: names the program.
        scale: where `factor` is None.
        numbers: offset, key_offset, seed, and those of `Segments`.
    """
    check_mode(program)
    out, lse = run_forward(*_given([q, k, v, *inputs], factor, program, scale, numbers))
    return out.contiguous(), lse


@attention.register_fake
def _attention_shapes(q: Tensor, k: Tensor, v: Tensor, inputs: Any, factor: Any, program: str, *rest: Any) -> Any:
    check_mode(program)
    flops.register(FLOPS)
    return _empty_results(q, v)


@torch.library.custom_op("pidsl::attention_backward", mutates_args=())
def attention_backward(
    tensors: list[Tensor], results: list[Tensor], grads: list[Tensor | None], factor: Tensor | None, program: str,
    scale: float, numbers: list[int], learned: bool,
) -> list[Tensor]:  # fmt: skip
    """`run_backward` of the program named `program`; an empty tensor for a gradient that there is not.

    Args:
        tensors: q, k, v and the inputs, as in the forward op.
        results: out, lse.
        grads: their gradients.
        factor, program, scale, numbers: as in the forward op.
        learned: whether gradients of slopes or bias are needed.
    """
    (out, lse), (grad_out, grad_lse) = results, grads
    made, call = _given(tensors, factor, program, scale, numbers)
    found = run_backward(made, call, out, lse, grad_out, grad_lse, learned)
    own = tensors[: len(found)]
    return [x.new_empty(0) if grad is None else grad.contiguous() for x, grad in zip(own, found, strict=True)]


@attention_backward.register_fake
def _gradient_shapes(tensors: list[Tensor], *others: Any) -> list[Tensor]:
    _, _, _, program, *_, learned = others
    names = ("q", "k", "v", *_inputs(program)[: _count(program)])
    return [
        x.new_empty(0)
        if name == "blocks" or (name in LEARNED and not learned)
        else torch.empty(x.shape, dtype=x.dtype, device=x.device)
        for x, name in zip(tensors, names, strict=False)
    ]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    """Keep what the backward op takes. Of the results copies, as they may be changed in place: inductor drops them."""
    q, k, v, given, factor, *ctx.rest = inputs
    ctx.save_for_backward(factor, q, k, v, *given, *(x.clone() for x in output))
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, grad_out: Tensor | None, grad_lse: Tensor | None) -> tuple[Any, ...]:
    factor, *tensors, out, lse = ctx.saved_tensors
    program, needed = ctx.rest[0], (*ctx.needs_input_grad[:3], *ctx.needs_input_grad[3])
    learned = _learned(_inputs(program), needed)
    found = attention_backward(tensors, [out, lse], [grad_out, grad_lse], factor, *ctx.rest, learned)
    grads = [grad if n else None for grad, n in zip(found, needed, strict=False)]
    places = len(needed) - len(grads)
    return *grads[:3], [*grads[3:], *[None] * places], None, None, None, None


attention.register_autograd(_gradients, setup_context=_save)


def _name(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.program = next(x for x in inputs if isinstance(x, str))


def _no_second(ctx: Any, *grads: Any) -> NoReturn:
    _refuse_second(f"the kernel of {ctx.program.split('; ')[0]}", _DENSE)


attention_backward.register_autograd(_no_second, setup_context=_name)


def _forward_flops(*arguments: Any, **_: Any) -> int:
    q, k, v, inputs, _factor, program, _scale, numbers = arguments
    spans = flops.spans_of(q, k, inputs[_count(program) :], numbers)
    return flops.forward_flops(q, v, program.split("; ")[0], spans)


def _backward_flops(*arguments: Any, **_: Any) -> int:
    (q, k, v, *inputs), _results, _grads, _factor, program, _scale, numbers, _learned = arguments
    spans = flops.spans_of(q, k, inputs[_count(program) :], numbers)
    return flops.backward_flops(q, v, program.split("; ")[0], spans)


FLOPS: flops.Formulas = {
    torch.ops.pidsl.attention: _forward_flops,
    torch.ops.pidsl.attention_backward: _backward_flops,
}
