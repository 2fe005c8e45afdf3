"""A call of a program as a value: tensors, where their rows stand, and what a pattern or a score reads beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import Tensor

from pidsl.runtime.call.dtypes import accumulator

Inputs = Mapping[str, Any]  # by name, those the program asks for: tensors (slopes, bias, ...) and numbers (seed)
NO_INPUTS: Inputs = MappingProxyType({})
Gradients = tuple[Tensor, Tensor, Tensor, Mapping[str, Tensor]]  # of q, k, v, and of inputs by name


class Positions(NamedTuple):
    """Where rows stand: row r of q at position `r + offset`, row j of k and v at position `j + key_offset`."""

    offset: int = 0
    key_offset: int = 0


START = Positions()


class Call(NamedTuple):
    """What a program computes with, checked.

    Args:
        q: queries [B, Hq, n, D], any strides.
        k: keys [B, Hkv, m, D].
        v: values [B, Hkv, m, Dv].
        scale: factor of the logits, a float; while torch traces, a tensor where it may differ between calls.
        positions: where the rows stand.
        inputs: what the score reads, by name; empty for none.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    scale: Any
    positions: Positions = START
    inputs: Inputs = NO_INPUTS

    @property
    def names(self) -> tuple[str, ...]:
        """The inputs that are tensors, in the order of `tensors`."""
        return tuple(sorted(name for name, x in self.inputs.items() if isinstance(x, Tensor)))

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """q, k, v and the inputs that are tensors, by their names: what gradients are for."""
        return (*self[:3], *(self.inputs[name] for name in self.names)) if self.inputs else self[:3]

    def prepared(self) -> Call:
        """With inputs in the form that programs take: contiguous, numbers in the dtype of sums, no history."""
        if not self.inputs:
            return self
        dtype = accumulator(self.q.dtype)

        def fit(x: Any) -> Any:
            if not isinstance(x, Tensor):
                return x
            return (x.detach().to(dtype) if x.is_floating_point() else x).contiguous()

        return self._replace(inputs={name: fit(x) for name, x in self.inputs.items()})


class Saved(NamedTuple):
    """A call without its tensors: what a backward pass keeps beside them.

    Args:
        scale, positions: those of the call.
        names: of the inputs that are tensors, in order.
        numbers: the other inputs.
    """

    scale: Any
    positions: Positions
    names: tuple[str, ...]
    numbers: Inputs

    @classmethod
    def of(cls, call: Call) -> Saved:
        """What is left of a call."""
        if not call.inputs:
            return cls(call.scale, call.positions, (), NO_INPUTS)
        names = call.names
        return cls(call.scale, call.positions, names, {x: y for x, y in call.inputs.items() if x not in names})

    def call(self, tensors: Sequence[Tensor]) -> Call:
        """The call with these tensors, in the order of `Call.tensors`."""
        q, k, v, *given = tensors
        inputs = {**self.numbers, **dict(zip(self.names, given, strict=True))} if given or self.numbers else NO_INPUTS
        return Call(q, k, v, self.scale, self.positions, inputs)
