"""A prepared call as it is put together: buffers, and kernels with all that they are given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from pidsl.codegen.choice.targets import Target
from pidsl.codegen.emit_triton import library
from pidsl.runtime.call.call import Positions
from pidsl.runtime.run_triton.attended import every_key, every_row
from pidsl.runtime.run_triton.devices import interpreted, target_of
from pidsl.runtime.run_triton.launch import Loaded, pad
from pidsl.runtime.run_triton.prepared import Buffer, Facts, Given, Prepared, Step, View

ABSENT = ("running", "running_k", "running_v", "table", "slopes", "bias", "sinks", "temperature", "seed", "grad_lse",
          "grad_q", "slope_sums", "bias_sums")  # fmt: skip
STRIDES = {"q": "q", "k": "k", "v": "v", "grad_out": "go", "out": "out"}  # tensors of any strides: how those are called
_INT32 = 2**31


class Form(NamedTuple):
    """What decides what a call allocates and launches.

    Args:
        names: of the tensors of the call.
        tensors: their facts.
        positions: where the rows stand.
        device: where the tensors are.
        precision: of products of float32, as torch names it.
        learned: whether the gradients of slopes and bias are wanted.
        target: what the kernels are for, where that is not the device.
    """

    names: tuple[str, ...]
    tensors: tuple[tuple[Any, ...], ...]
    positions: Positions
    device: torch.device
    precision: str
    learned: bool = False
    target: Target | None = None


class Assembly:
    """Buffers and steps, in the order of the launches.

    Args:
        program: whose kernels they are.
        form: that of the call.
        lists: tables of listed blocks, by name.

    Attributes:
        target: what the kernels are for.
        known: the facts of the tensors of the call.
        lengths: n, m, offset, key_offset.
        pairs: of batch entry and query head.
        group: query heads of each key head.
        tensor_cores: whether they do the products.
        fields: what all kernels are specialised for.
        common: arguments of all kernels, by the names that those have for them.
    """

    def __init__(self, program: Loaded, form: Form, lists: Mapping[str, Tensor]) -> None:
        self.program, self.lists = program, lists
        self.target = target_of(form.device) if form.target is None else form.target
        self.known = known = {name: Facts(*x) for name, x in zip(form.names, form.tensors, strict=True)}
        self.buffers: dict[str, Buffer | View] = {}
        self.steps: list[Step] = []
        q, k, v, (offset, key_offset) = known["q"], known["k"], known["v"], form.positions
        n, m, heads = q.shape[2], k.shape[2], q.shape[1]
        self.lengths = n, m, offset, key_offset
        self.pairs, self.group = q.shape[0] * heads, heads // max(k.shape[1], 1)
        rounded = form.precision != "highest" and torch.version.hip is None
        self.tensor_cores = q.dtype != torch.float32 or rounded
        self.fields: dict[str, Any] = {
            "D": q.shape[3], "D_PAD": pad(q.shape[3]), "V": v.shape[3], "V_PAD": pad(v.shape[3]),
            "PRECISION": "tf32" if rounded and q.dtype == torch.float32 else "ieee",
            "INDEX": tl.int32 if fits_int32(program.module, max(self.lengths)) else tl.int64,
            "EVERY_KEY": every_key(program.plan, n, m, form.positions, heads),
            "EVERY_ROW": every_row(program.plan, n, m, form.positions, heads),
        }  # fmt: skip
        self.common: dict[str, Any] = {
            **dict.fromkeys(ABSENT), "n": n, "m": m, "offset": offset, "key_offset": key_offset,
            "heads": heads, "group": self.group, **{name: Given(name) for name in (*known, "scale")},
        }  # fmt: skip
        if "DROPOUT" in program.module.PATTERN:
            self.common["seed"] = Given("seed")
        for name, called in STRIDES.items():
            if name in known:
                self.common |= {f"{called}_{axis}": x for axis, x in zip("bhrd", known[name].strides, strict=True)}

    def view(self, name: str, start: int) -> Given:
        """A buffer from one of its elements on."""
        if start == 0:
            return Given(name)
        found = Given(f"{name} from {start}")
        self.buffers[found] = View(name, start)
        return found

    def stage(
        self, fields: Mapping[str, Any], kernel: Any, grid: int, given: Mapping[str, Any], **options: Any
    ) -> None:
        """Launch a kernel of the program, specialised for `fields` too."""
        self._step(kernel, grid, given, {**self.fields, **self.program.module.PATTERN, **fields}, options)

    def helper(self, kernel: Any, grid: int, given: Mapping[str, Any], **fields: Any) -> None:
        """Launch a kernel that is the same in all programs."""
        fields |= {name: self.fields[name] for name in ("V", "V_PAD", "INDEX")}
        self._step(kernel, grid, given, fields, {"num_warps": 4})

    def _step(
        self, kernel: Any, grid: int, given: Mapping[str, Any], fields: dict[str, Any], options: Mapping[str, Any]
    ) -> None:
        """Launch a kernel, with 64-bit indices too where an address in one head of any of its tensors needs them."""
        arguments = {**self.common, **given, "KIND": None}
        if any(x.reach >= _INT32 for name in kernel.arg_names for x in self._facts_of(arguments[name])):
            fields["INDEX"] = tl.int64
        arguments["KIND"] = library.Kind(*map(fixed, library.Kind(**fields)))
        self.steps.append(Step(kernel, grid, arguments, {**options, **FUSED}, scratch=fields.get("TMA", False)))

    def _facts_of(self, x: Any) -> tuple[Facts, ...]:
        """Those of a tensor of the call or a buffer."""
        if not isinstance(x, Given):
            return ()
        made = self.buffers.get(x)
        if isinstance(made, View):
            made = self.buffers[made.of]
        return (made.facts,) if isinstance(made, Buffer) else (self.known[x],) if x in self.known else ()

    def prepared(self) -> Prepared:
        """What was put together."""
        return Prepared(self.buffers, self.steps)


FUSED = {"enable_fp_fusion": True}  # a * b + c in one instruction; later versions of Triton want to be asked


def fits_int32(module: Any, longest: int) -> bool:
    """Whether every position and bound is below 2^31."""
    constant, slope = module.REACH
    return bool(constant + slope * longest < _INT32)


def fixed(x: Any) -> Any:
    """A value of a kernel's `Kind`, in the form in which every version of Triton takes it inside a tuple."""
    if isinstance(x, dict):
        walk = library.Walk(*map(fixed, library.Walk(**x)))
        return walk if interpreted() else tl.constexpr(walk)
    if isinstance(x, tuple):
        return tuple(fixed(y) for y in x)
    return tl.constexpr(x) if isinstance(x, int | float | str) and not interpreted() else x
