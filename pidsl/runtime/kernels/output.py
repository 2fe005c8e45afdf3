"""What happens to the output of a kernel: affine weights, and a sigmoid gate.

    affine          out_i = alpha sum over j of p_ij v_j + beta sum over attended j of v_j
                    attention with the weights `alpha p_ij + beta` on the keys that i attends, and 0 on all others;
                    p is what a score makes of it, with its sinks and its dropout, and beta knows nothing of a score
    output gate     out_i = sigmoid(g_i) out_i, g one number per head and query, or one per element

The affine weights come first. The log-sum-exp stays that of the softmax.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from numbers import Real
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor

from pidsl.errors import TermError
from pidsl.language.gate import Gate
from pidsl.language.score import Score
from pidsl.language.summaries import Summaries
from pidsl.runtime.call.arguments import Fault, check_flag, check_tensor, raise_faults, tensor_hint
from pidsl.runtime.call.dtypes import accumulator
from pidsl.runtime.call.keywords import named, refuse
from pidsl.runtime.kernels.kernel import Backend, autocast, compile

OutputGate = Literal["head", "element"]
NUMBERS = Real, Tensor, torch.SymFloat, torch.SymInt
FAR = 1e300  # numbers beyond are no weights
NARROW = 8  # head dimension of a call whose logits are all 0: the smallest that every backend takes


class OutputKernel:
    """A kernel with affine weights, an output gate, or both. Made by `compile`; immutable, picklable.

    Args:
        of: the pattern, gate, heads or summaries.
        backend: as asked for.
        score: what happens to the logits.
        output_gate: "head", "element" or None.
        affine: whether weights are `alpha p + beta`.

    Attributes:
        of, backend, score, output_gate, affine: as given.
        kernel: the `Kernel`, `HeadsKernel`, `GateKernel` or `SummariesKernel` whose output is changed.
    """

    def __init__(
        self, of: Any, backend: Backend, score: Score | None, output_gate: OutputGate | None, affine: bool
    ) -> None:
        check_output(of, output_gate, affine)
        self.of, self.backend, self.score, self.output_gate, self.affine = of, backend, score, output_gate, affine
        self.kernel: Any = compile(of, backend, score)
        self._plain: Any = compile(of, backend) if affine else None
        # made while torch traces: then the kernel inside refuses what it does not take
        self._takes = None if torch.compiler.is_compiling() else frozenset(named(self.kernel.__call__))
        self._where = f"a call of {self!r}"

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, *inputs: Tensor, output_gate: Tensor | None = None,
        alpha: Tensor | float = 1, beta: Tensor | float = 0, offset: int = 0, return_lse: bool = False,
        **options: Any,
    ) -> Any:  # fmt: skip
        """`sigmoid(output_gate) * (alpha * attention(q, k, v) + beta * (sum of the attended v))`, differentiable once.

        Args:
            q: queries [B, Hq, n, D], any strides.
            k: keys [B, Hkv, m, D].
            v: values [B, Hkv, m, Dv].
            inputs: the weights, where the kernel is that of a gate.
            output_gate: logits of the gate, [B, Hq, n] for "head", [B, Hq, n, Dv] for "element", of q's dtype.
            alpha: factor of the softmax weights: a number, [Hq], or [B, Hq, n], of any floating dtype.
            beta: what is added to each weight, in the same forms. Unless it is the number 0, the plain program of the
                pattern runs a second time, with all logits 0, head dimension 8, and gradients for v alone.
            offset: row r of q stands at position `i = r + offset`.
            return_lse: return (out, lse).
            options: `scale`, the parameters of the score, and whatever else the kernel takes.

        Returns:
            out [B, Hq, n, Dv] in q's dtype; with `return_lse` also what the kernel returns as lse. Rows without keys
            have out 0.

        Raises:
            ArgumentError: shapes, dtypes, devices or numbers do not fit; nothing has run.
            KeywordError: an argument that the kernel does not take.
            BackendError: backend "triton" with tensors that are not on a GPU (and Triton is not interpreting).
        """
        takes = self._takes
        if options and takes and (unknown := {name: x for name, x in options.items() if name not in takes}):
            refuse(self.__call__, self._where, (), unknown, sorted(takes))
        q, k, v = autocast(q, k, v)
        if output_gate is not None:
            (output_gate,) = autocast(output_gate)
        faults = self._faults(q, v, output_gate, alpha, beta)
        if type(return_lse) is not bool:
            faults += check_flag("return_lse", return_lse)
        raise_faults(faults, self._where)
        out, lse = self.kernel(q, k, v, *inputs, offset=offset, return_lse=True, **options)
        if self.affine:
            out = self._weighed(out, q, k, v, alpha, beta, offset)
        if output_gate is not None:
            gate = torch.sigmoid(output_gate)
            out = out * (gate[..., None] if self.output_gate == "head" else gate)
        return (out, lse) if return_lse else out

    def _weighed(
        self, out: Tensor, q: Tensor, k: Tensor, v: Tensor, alpha: Tensor | float, beta: Tensor | float, offset: int
    ) -> Tensor:  # fmt: skip
        precise = accumulator(out.dtype)
        found = out.to(precise) * _spread(alpha, precise)
        if isinstance(beta, Tensor) or beta != 0:
            # with logits 0, attention is the mean of the attended values, and exp(lse) counts them
            zeros = (q.new_zeros(()).expand(*x.shape[:3], NARROW) for x in (q, k))
            mean, lse = self._plain(*zeros, v, offset=offset, return_lse=True)
            degree = lse.detach().exp().round()[..., None]
            found = found + _spread(beta, precise) * degree * mean.to(precise)
        return found.to(out.dtype)

    def _faults(self, q: Tensor, v: Tensor, gate: Tensor | None, alpha: object, beta: object) -> list[Fault]:
        """Faults of what is done to the output; those of q, k and v are the kernel's."""
        faults: list[Fault] = []
        if not all(isinstance(x, Tensor) and x.dim() == 4 for x in (q, v)):
            return faults
        if gate is None and self.output_gate is not None:
            faults.append(Fault("output_gate", "None", f"logits, as compiled: output_gate={self.output_gate!r}"))
        elif gate is not None and self.output_gate is None:
            faults.append(Fault("output_gate", "logits", "None", 'compile(..., output_gate="head")'))
        elif gate is not None:
            shape = [*q.shape[:3], v.shape[3]] if self.output_gate == "element" else [*q.shape[:3]]
            faults += _check("output_gate", gate, q, [shape])
            if not faults and gate.dtype != q.dtype:
                faults.append(Fault("output_gate", f"{gate.dtype}", f"{q.dtype}, the dtype of q"))
        for name, value, usual in (("alpha", alpha, 1), ("beta", beta, 0)):
            if isinstance(value, Tensor) and self.affine:
                faults += _check(name, value, q, [[], [q.shape[1]], [*q.shape[:3]]])
            elif not isinstance(value, NUMBERS) or isinstance(value, bool):
                faults.append(Fault(name, type(value).__name__, "a number or a torch.Tensor", tensor_hint(name, value)))
            elif not self.affine and (isinstance(value, Tensor) or value != usual):
                faults.append(Fault(name, f"{type(value).__name__}", f"{usual:g}", "compile(..., affine=True)"))
            elif not torch.compiler.is_compiling() and not -FAR < cast("float", value) < FAR:  # a symbol stays one
                faults.append(Fault(name, f"{value}", "a finite number"))
        return faults

    def source(self, head_dim: int = 64) -> str:
        """The generated program of the kernel; what is done to its output is not generated."""
        return self.kernel.source(head_dim)

    def explain(self) -> str:
        """What is done to the output, and the explanation of the kernel."""
        done = []
        if self.affine:
            done.append("output   alpha * attention + beta * (sum of the attended values): two launches with beta")
        if self.output_gate is not None:
            done.append(f"output   times the sigmoid of a gate, one number per {self.output_gate}")
        return "\n".join([*done, self.kernel.explain()])

    def __repr__(self) -> str:
        return shown(self.of, self.backend, self.score, self.output_gate, self.affine)

    def __reduce__(self) -> tuple[Any, ...]:
        return recompiled, (self.of, self.backend, self.score, self.output_gate, self.affine)


def recompiled(
    of: Any, backend: Backend, score: Score | None, output_gate: OutputGate | None, affine: bool
) -> Any:  # fmt: skip
    """The kernel that `compile` returns for these arguments; what a pickle holds."""
    return compile(of, backend, score, output_gate=output_gate, affine=affine)


def shown(of: Any, backend: Backend, score: Score | None, output_gate: OutputGate | None, affine: bool) -> str:
    """The call of `compile` with these arguments."""
    scored = "" if score is None else f", score={score!r}"
    gate = "" if output_gate is None else f", output_gate={output_gate!r}"
    return f"pidsl.compile({of!r}, backend={backend!r}{scored}{gate}{', affine=True' if affine else ''})"


def check_output(of: Any, output_gate: object, affine: bool) -> None:
    """Raise where a kernel cannot have such an output.

    Raises:
        TermError: an unknown gate, or affine weights of a gate or of summaries.
    """
    if output_gate is not None and output_gate not in get_args(OutputGate):
        close = difflib.get_close_matches(str(output_gate), get_args(OutputGate), n=1, cutoff=0.5)
        hint = f"output_gate={close[0]!r}" if close else ""
        raise TermError(f"output_gate = {output_gate!r}", "None, 'head' or 'element'", f"compile({of!r}, ...)", hint)
    if affine and isinstance(of, Gate):
        expected = "one of the two: each branch of a gate has weights of its own"
        raise TermError(f"affine=True with {of!r}", expected, hint="a kernel with affine=True for each branch")
    if affine and isinstance(of, Summaries):
        expected = "one of the two: the value of a span is a softmax, and its tokens have no weights of their own"
        raise TermError(f"affine=True with {of!r}", expected)


def _check(name: str, value: Tensor, q: Tensor, shapes: Sequence[list[int]]) -> list[Fault]:
    if fault := check_tensor(name, value, "" if isinstance(value, Tensor) else f"a torch.Tensor {_either(shapes)}"):
        return [fault]
    faults = []
    if not any(value.dim() == len(x) and all(a == b for a, b in zip(value.shape, x, strict=True)) for x in shapes):
        faults.append(Fault(name, f"shape {list(value.shape)}", _either(shapes)))
    if not value.is_floating_point():
        faults.append(Fault(name, f"{value.dtype}", "a floating dtype", f"{name}.float()"))
    if value.device != q.device:
        faults.append(Fault(name, f"device {value.device}", f"{q.device}, the device of q", f"{name}.to(q.device)"))
    return faults


def _either(shapes: Sequence[list[int]]) -> str:
    return " or ".join(map(str, shapes))


def _spread(value: Tensor | float, dtype: torch.dtype) -> Any:
    """A number; or [Hq] as [Hq, 1, 1], and [B, Hq, n] as [B, Hq, n, 1]."""
    if not isinstance(value, Tensor):
        return value * 1.0  # torch takes no integers beyond int64
    value = value.to(dtype)
    return value[:, None, None] if value.dim() == 1 else value[..., None] if value.dim() == 3 else value
