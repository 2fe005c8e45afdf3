"""A generated Triton program, loaded and launched.

The source is written to a cache folder first, see `pidsl.runtime.run_triton.cache`.
"""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pidsl.codegen.choice.targets import Target
from pidsl.errors import BackendError
from pidsl.runtime.call.call import Call, Gradients, Positions
from pidsl.runtime.call.dropout import seed_key
from pidsl.runtime.call.logits import row_pull, sink_gradient, temperature_gradient
from pidsl.runtime.call.segments import Segments
from pidsl.runtime.run_triton import cache, chosen, sequences
from pidsl.runtime.run_triton.assembly import Form
from pidsl.runtime.run_triton.devices import interpreted, on
from pidsl.runtime.run_triton.launch import Launch, Loaded
from pidsl.runtime.run_triton.passes import prepare_backward, prepare_forward
from pidsl.runtime.run_triton.prepared import Prepared, facts
from pidsl.runtime.run_triton.sequences import Bounds

if TYPE_CHECKING:
    from pidsl.codegen.plan.nodes import Plan

FORMS = 128  # prepared calls kept of a program, for each direction; the least recently used go first
_QKV: tuple[str, ...] = ("q", "k", "v")


class TritonProgram:
    """The kernels of a plan, ready to call; see `pidsl.runtime.programs.Program`.

    Args:
        plan: what to compute; may be None when `source` is given.
        source: the program, when it has been generated already.

    Raises:
        BackendError: the program cannot be written to the cache folder.
    """

    ragged = True  # the positions of a call may be `Segments`
    _interpreted = interpreted()

    def __init__(self, plan: Plan | None, source: str | None = None) -> None:
        if source is None:
            from pidsl.codegen.emit_triton.source import triton_source

            assert plan is not None
            source = triton_source(plan)
        self.plan: Any = plan
        self.source = source
        self.path = cache.write(source)
        self._loaded = Loaded(cache.load(self.path, source), plan)
        self._choice = chosen.choice_of(self._loaded)
        self._lists = lru_cache(None)(self._uploaded)
        self._forward = lru_cache(FORMS)(self._prepared_forward)
        self._backward = lru_cache(FORMS)(self._prepared_backward)
        if hasattr(self._loaded.module, "LISTS") and torch.cuda.is_available():
            # now, so that already the first call can be captured in a graph
            with suppress(RuntimeError):  # a forked process has no GPU; whatever else is wrong, the first call tells
                self._lists(torch.device("cuda", torch.cuda.current_device()))

    def forward(self, call: Call) -> tuple[Tensor, Tensor]:
        """Attention output, contiguous, and natural-log lse."""
        dtype, call = call.q.dtype, self._readable(call)
        prepared, given = self._of_forward(call)
        with on(call.q):
            found = prepared.run(given, call.q.device)
        out: Tensor = found["out"]
        return out if out.dtype == dtype else out.to(dtype), found["lse"]

    def backward(
        self, call: Call, out: Tensor, lse: Tensor, grad_out: Tensor, grad_lse: Tensor | None, learned: bool
    ) -> Gradients:
        """Gradients of q, k, v and the inputs; the same bits on every run."""
        given, call = call, self._readable(call)
        q, inputs = call.q, call.inputs
        out, grad_out = out.to(q.dtype), grad_out.to(q.dtype)
        with on(q):
            prepared, arguments = self._of_backward(call, out, lse, grad_out, grad_lse, learned)
            found = prepared.run(arguments, q.device)
            results = (found[name] for name in ("grad_q", "grad_k", "grad_v"))
            dq, dk, dv = (x.to(own.dtype) for x, own in zip(results, given, strict=False))
            of_inputs = {}
            for name, sums in (("slopes", "slope_sums"), ("bias", "bias_sums")):
                if learned and name in inputs:
                    parts = (found[x].sum((0, 2)) for x in prepared.buffers if x.startswith(sums))
                    of_inputs[name] = sum(parts, torch.zeros_like(inputs[name]))  # in a fixed order
            if "sinks" in inputs:
                if isinstance(call.positions, Segments) and not call.positions.whole:
                    lse = lse.where(call.positions.present(lse.shape[0], lse.shape[2])[:, None], -torch.inf)
                of_inputs["sinks"] = sink_gradient(inputs["sinks"], lse, row_pull(out, grad_out, grad_lse))
            if "temperature" in inputs:
                of_inputs["temperature"] = temperature_gradient(inputs["temperature"], q, dq)
            return dq if given.scale == call.scale else -dq, dk, dv, of_inputs

    def forward_launches(self, call: Call, target: Target | None = None) -> tuple[list[Launch], Tensor, Tensor]:
        """What `forward` launches, on another target than the tensors are on too; and the (out, lse) it writes."""
        prepared, given = self._of_forward(call, target)
        found = prepared.allocate(given, call.q.device)
        return [step.launch(found) for step in prepared.steps], found["out"], found["lse"]

    def backward_launches(
        self, call: Call, out: Tensor, lse: Tensor, grad_out: Tensor, grad_lse: Tensor | None, learned: bool,
        target: Target | None = None,
    ) -> tuple[list[Launch], dict[str, Any]]:  # fmt: skip
        """What `backward` launches, and the tensors that it writes, see `prepare_backward`."""
        prepared, given = self._of_backward(call, out, lse, grad_out, grad_lse, learned, target)
        found = prepared.allocate(given, call.q.device)
        return [step.launch(found) for step in prepared.steps], found

    def _of_forward(self, call: Call, target: Target | None = None) -> tuple[Prepared, dict[str, Any]]:
        """The prepared forward pass of a call, and what the call brings to it."""
        q, k, v, scale, where, inputs = call
        given = {"q": q, "k": k, "v": v, "scale": float(scale)}
        names, tensors = _QKV, _facts(q, k, v)
        if inputs:
            given |= {**inputs, **_numbers(call)}
            names, tensors = (*_QKV, *call.names), _facts(*call.tensors)
        positions: Positions | Bounds = where if isinstance(where, Positions) else Bounds.of(where)
        more: dict[str, Tensor] = {}
        if self._choice is not None:
            more = chosen.tables(call, self._choice)
        if isinstance(where, Segments):
            more |= sequences.tensors(where)
        if more:
            given, names, tensors = given | more, (*names, *more), (*tensors, *_facts(*more.values()))
        precision = torch.get_float32_matmul_precision()
        return self._forward(Form(names, tensors, positions, q.device, precision, False, target)), given

    def _of_backward(
        self, call: Call, out: Tensor, lse: Tensor, grad_out: Tensor, grad_lse: Tensor | None, learned: bool,
        target: Target | None = None,
    ) -> tuple[Prepared, dict[str, Any]]:  # fmt: skip
        """The prepared backward pass of a call, and what the call brings to it."""
        q = call.q
        given = dict(zip((*_QKV, *call.names), call.tensors, strict=True))
        given |= {"out": out, "lse": lse.contiguous(), "grad_out": grad_out}
        if grad_lse is not None:
            given["grad_lse"] = grad_lse.to(torch.float32).contiguous()
        where = call.positions
        positions: Positions | Bounds = where if isinstance(where, Positions) else Bounds.of(where)
        if self._choice is not None:
            given |= chosen.tables(call, self._choice, backward=True)
        if isinstance(where, Segments):
            given |= sequences.tensors(where)
        names, tensors = tuple(given), _facts(*given.values())
        precision = torch.get_float32_matmul_precision()
        prepared = self._backward(Form(names, tensors, positions, q.device, precision, learned, target))
        return prepared, {**given, "scale": float(call.scale), **_numbers(call)}

    def _prepared_forward(self, form: Form) -> Prepared:
        return prepare_forward(self._loaded, form, self._lists(form.device))

    def _prepared_backward(self, form: Form) -> Prepared:
        return prepare_backward(self._loaded, form, self._lists(form.device))

    def _uploaded(self, device: torch.device) -> dict[str, Tensor]:
        """The tables of listed blocks on a device."""
        tables = getattr(self._loaded.module, "LISTS", {})
        return {name: torch.tensor(x, dtype=torch.int32, device=device) for name, x in tables.items()}

    def _misread(self, q: Tensor) -> bool:
        """Triton's interpreter keeps bfloat16 as integers, and `tl.dot` multiplies those."""
        return self._interpreted and q.dtype == torch.bfloat16

    def _readable(self, call: Call) -> Call:
        """The call with a scale and a dtype that the kernels read.

        Raises:
            BackendError: the tensors are not on a GPU (and Triton is not in interpreter mode).
        """
        self._check_device(call.q)
        if call.scale < 0:  # the kernels take the maximum of a row before they scale it
            call = call._replace(q=-call.q, scale=-call.scale)
        if self._misread(call.q):
            call = call._replace(q=call.q.float(), k=call.k.float(), v=call.v.float())
        return call

    def _check_device(self, q: Tensor) -> None:
        if not self._interpreted and q.device.type == "cpu":
            hint = 'backend="torch" runs on any device; TRITON_INTERPRET=1 before the first import of triton '
            hint += "interprets the kernels, slowly"
            raise BackendError("a Triton kernel called with tensors on the CPU", "tensors on a GPU", hint=hint)


def _facts(*tensors: Tensor) -> tuple[tuple[Any, ...], ...]:
    return tuple([facts(x) for x in tensors])


def _numbers(call: Call) -> dict[str, Any]:
    """The numbers of a call that kernels get as they are, beside the scale: a seed as int32."""
    if "seed" not in call.inputs:
        return {}
    key = seed_key(call.inputs["seed"])
    return {"seed": key - 2**32 if key >= 2**31 else key}
