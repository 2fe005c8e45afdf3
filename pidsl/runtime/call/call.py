"""A call of a program as a value: tensors, where their rows stand, and what a pattern or a score reads beside them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from pidsl.runtime.call.segments import Segments
from pidsl.runtime.call.sums import accumulator

if TYPE_CHECKING:
    from pidsl.runtime.programs import Programs

Inputs = Mapping[str, Any]  # by name, those the program asks for: tensors (slopes, bias, ...) and numbers (seed)
NO_INPUTS: Inputs = MappingProxyType({})
Gradients = tuple[Tensor, Tensor, Tensor, Mapping[str, Tensor]]  # of q, k, v, and of inputs by name


class Positions(NamedTuple):
    """Where rows stand: row r of q at position `r + offset`, row j of k and v at position `j + key_offset`."""

    offset: int = 0
    key_offset: int = 0

    @property
    def moved(self) -> bool:
        """Whether keys may start elsewhere than at position 0; of a symbol of torch's nothing is asked."""
        return type(self.key_offset) is not int or self.key_offset != 0


class Spread(ABC):
    """Rows that are a share of a longer sequence, of which other processes hold the rest.

    A form evaluates such a call as any other; where a program would be run, `attended` says what is.
    """

    moved = False

    @abstractmethod
    def begun(self, call: Call) -> Spread:
        """For a call that was checked, before anything is computed: what it needs of the others is on its way."""

    @abstractmethod
    def attended(self, programs: Programs, backend: str, call: Call) -> tuple[Tensor, Tensor]:
        """(out, lse) of the rows of q, as one process that held everything would compute them."""

    @abstractmethod
    def of_heads(self, queries: Heads, keys: Heads) -> Spread:
        """For some of the query heads and of the key heads of the call, runs (first, count, step) of them."""


START = Positions()
Heads = tuple[tuple[int, int, int], ...]
Where = Positions | Segments  # or a `Spread`, which no program sees
Rest = tuple[tuple[str, ...], Any, Where, Inputs]  # names of tensors, scale, positions, the inputs that are none


class Call(NamedTuple):
    """What a program computes with, checked.

    Args:
        q: queries [B, Hq, n, D], any strides.
        k: keys [B, Hkv, m, D].
        v: values [B, Hkv, m, Dv].
        scale: factor of the logits, a float; while torch traces, a tensor where it may differ between calls.
        positions: where the rows stand; in a ragged batch, which sequences it has.
        inputs: what the score reads, by name; empty for none.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    scale: Any
    positions: Where = START
    inputs: Inputs = NO_INPUTS

    @property
    def names(self) -> tuple[str, ...]:
        """The inputs that are tensors, in the order of `tensors`."""
        return tuple(sorted(x for x, y in self.inputs.items() if isinstance(y, Tensor))) if self.inputs else ()

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """q, k, v and the inputs that are tensors, by their names: what gradients are for."""
        return (*self[:3], *(self.inputs[name] for name in self.names)) if self.inputs else self[:3]

    @property
    def rest(self) -> Rest:
        """The call without its tensors: what a backward pass keeps beside them."""
        names = self.names
        return names, self.scale, self.positions, {x: y for x, y in self.inputs.items() if x not in names}

    @classmethod
    def resumed(cls, rest: Rest, tensors: Sequence[Tensor]) -> Call:
        """The call with `tensors` and such a rest."""
        names, scale, positions, inputs = rest
        if names:
            inputs = {**inputs, **dict(zip(names, tensors[3:], strict=True))}
        return cls(tensors[0], tensors[1], tensors[2], scale, positions, inputs)

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


def of_rows(call: Call, x: Any) -> Any:
    """An input [B, Hq, n, ...] of a call with 0 in rows that are in no sequence, whatever is there; others as they
    are."""
    if not isinstance(x, Tensor) or x.dim() < 3 or not isinstance(call.positions, Segments):
        return x
    present = call.positions.present(call.q.shape[0], call.q.shape[2])[:, None]
    return torch.where(present if x.dim() == 3 else present[..., None], x, 0.0)
