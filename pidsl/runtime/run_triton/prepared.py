"""Calls of a Triton program, prepared: all that does not change between calls of one form is decided once.

A form is what decides what is launched: shapes, strides, dtypes and the alignment of every tensor, positions, the
device. What changes from call to call are addresses and a few numbers (the scale, a seed), so a prepared call is a list
of buffers to allocate and of kernels to launch, whose arguments are known but for those.

Triton specialises a kernel on the dtypes and the alignment of its pointers and on the values of its integers, and all
of those are in the form: the kernel that the first call of a form compiled is the one of every later call, which
launches it without asking Triton again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from threading import RLock
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton.compiler import CompiledKernel

from pidsl.runtime.run_triton.launch import Launch

ALIGNED = 16  # bytes: what Triton asks of an address
SMALL = 2**31  # bytes: what it asks of a tensor on AMD's GPUs
_HIP = torch.version.hip is not None
_interpreter = RLock()  # Triton's interpreter changes its language in place while it runs a kernel


class Facts(NamedTuple):
    """What is known of a tensor before a call: everything but where it lies."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    aligned: bool = True
    small: bool = True

    @property
    def reach(self) -> int:
        """How far the last element of one head of one batch entry lies from its first."""
        return sum((size - 1) * step for size, step in zip(self.shape[2:], self.strides[2:], strict=True))

    @property
    def describable(self) -> bool:
        """Whether the hardware takes a descriptor of the matrix of a head."""
        rows = (step * self.dtype.itemsize % ALIGNED == 0 for step in self.strides[:-1])
        return self.aligned and self.strides[-1] == 1 and all(rows)


def facts(x: Tensor) -> tuple[Any, ...]:
    """The facts of a tensor, as a plain tuple: asked for on every call."""
    if _HIP:
        return x.shape, x.stride(), x.dtype, x.data_ptr() % ALIGNED == 0, x.untyped_storage().nbytes() < SMALL
    return x.shape, x.stride(), x.dtype, x.data_ptr() % ALIGNED == 0


class Given(str):
    """The name of an argument that every call brings: a tensor, a number, or a buffer made for it."""

    __slots__ = ()


class Buffer(NamedTuple):
    """A contiguous tensor that every call allocates.

    `fill` is the number it holds at first; None for one that kernels write all of what they read.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    fill: float | None = None

    def made(self, given: Mapping[str, Any], device: torch.device) -> Tensor:
        """Allocated, and filled."""
        made = torch.empty(self.shape, dtype=self.dtype, device=device)
        return made if self.fill is None else made.fill_(self.fill)

    @property
    def facts(self) -> Facts:
        """What is known of it."""
        strides = [1]
        for size in self.shape[:0:-1]:
            strides.append(strides[-1] * max(size, 1))
        return Facts(self.shape, tuple(reversed(strides)), self.dtype)


class View(NamedTuple):
    """A buffer from one of its elements on, flat."""

    of: str
    start: int

    def made(self, given: Mapping[str, Any], device: torch.device) -> Tensor:
        """Taken from the buffer."""
        found: Tensor = given[self.of].view(-1)[self.start :]
        return found


class Step:
    """A kernel to launch, with arguments of which some are `Given` by the call.

    `scratch` says that it asks Triton for memory of its own, as those do that make tensor descriptors.
    """

    def __init__(
        self, kernel: Any, grid: int, arguments: Mapping[str, Any], options: Mapping[str, Any], scratch: bool = False
    ) -> None:
        self.kernel, self.grid, self.options, self.scratch = kernel, grid, options, scratch
        self._arguments = {name: arguments[name] for name in kernel.arg_names}
        self._values = list(self._arguments.values())
        self._given = [(place, str(x)) for place, x in enumerate(self._values) if isinstance(x, Given)]
        self._compiled: Any = None  # launches the kernel that the first run compiled
        self._interpreted = not isinstance(kernel, triton.JITFunction)

    def launch(self, given: Mapping[str, Any]) -> Launch:
        """What `run` launches, as a value."""
        filled = {name: given[x] if isinstance(x, Given) else x for name, x in self._arguments.items()}
        return Launch(self.kernel, self.grid, filled, self.options)

    def run(self, given: Mapping[str, Any]) -> None:
        """Enqueue the kernel."""
        values = self._values.copy()
        for place, name in self._given:
            values[place] = given[name]
        if self.scratch:
            triton.set_allocator(_scratch)  # for this thread
        if self._compiled is not None:
            self._compiled(*values)
            return
        with _interpreter if self._interpreted else nullcontext():
            made = self.kernel[(self.grid,)](*values, **self.options)
        if isinstance(made, CompiledKernel):
            self._compiled = made[(self.grid, 1, 1)]


def _scratch(size: int, alignment: int, stream: Any) -> Tensor:
    return torch.empty(size, dtype=torch.int8, device="cuda")


class Prepared:
    """What every call of one form allocates and launches, in order.

    Args:
        buffers: by name, and parts of them.
        steps: those without programs are left out.
    """

    def __init__(self, buffers: Mapping[str, Buffer | View], steps: Sequence[Step]) -> None:
        self.buffers = buffers
        self.steps = tuple(step for step in steps if step.grid)

    def allocate(self, given: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
        """What the call brings, and the buffers."""
        found = dict(given)
        for name, buffer in self.buffers.items():
            found[name] = buffer.made(found, device)
        return found

    def run(self, given: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
        """Allocate and launch; the results are among the buffers."""
        found = self.allocate(given, device)
        for step in self.steps:
            step.run(found)
        return found
