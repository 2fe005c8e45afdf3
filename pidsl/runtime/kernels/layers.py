"""Kernels of a depth schedule: a sequence, one kernel per layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Never, NoReturn, overload

from pidsl.errors import KeywordError
from pidsl.language.schedule import Schedule
from pidsl.language.score import Score
from pidsl.runtime.kernels.heads import HeadsKernel
from pidsl.runtime.kernels.kernel import Backend, Kernel
from pidsl.runtime.kernels.output import OutputGate, OutputKernel, recompiled, shown

LayerKernel = Kernel | HeadsKernel | OutputKernel


class LayerKernels(Sequence[LayerKernel]):
    """A compiled schedule: the kernel of each layer. Made by `compile`; immutable, picklable.

    Layers with equal patterns share one kernel.

    >>> import pidsl
    >>> kernels = pidsl.compile(pidsl.layers([pidsl.window(3), pidsl.causal, pidsl.window(3)]), backend="reference")
    >>> kernels[1]
    pidsl.compile(causal, backend='reference')
    >>> len(kernels), kernels[0] is kernels[2]
    (3, True)

    Args:
        schedule: the pattern, or heads, of each layer.
        backend, score, output_gate, affine: as given to `compile`, for all layers.

    Attributes:
        schedule, backend, score, output_gate, affine: as given.
    """

    def __init__(
        self, schedule: Schedule, backend: Backend, score: Score | None, output_gate: OutputGate | None, affine: bool
    ) -> None:
        self.schedule, self.backend, self.score = schedule, backend, score
        self.output_gate, self.affine = output_gate, affine
        self._kernels: tuple[LayerKernel, ...] = tuple(
            recompiled(layer, backend, score, output_gate, affine) for layer in schedule
        )

    def __call__(self, *given: Never, **unknown: Never) -> NoReturn:
        """A stack has other work between its layers: each kernel is called by itself.

        Raises:
            KeywordError: always.
        """
        where = f"a call of {self!r}"
        raise KeywordError("kernels(...)", "a call of the kernel of a layer", where, "kernels[layer](q, k, v)")

    def __len__(self) -> int:
        return len(self._kernels)

    @overload
    def __getitem__(self, layer: int) -> LayerKernel: ...
    @overload
    def __getitem__(self, layer: slice) -> tuple[LayerKernel, ...]: ...
    def __getitem__(self, layer: int | slice) -> LayerKernel | tuple[LayerKernel, ...]:
        return self._kernels[layer]

    def __iter__(self) -> Iterator[LayerKernel]:
        return iter(self._kernels)

    @property
    def distinct(self) -> dict[LayerKernel, tuple[int, ...]]:
        """The layers of each distinct kernel, ascending."""
        found: dict[LayerKernel, tuple[int, ...]] = {}
        for layer, kernel in enumerate(self._kernels):
            found[kernel] = (*found.get(kernel, ()), layer)
        return found

    def source(self, head_dim: int = 64) -> str:
        """The generated program of each distinct kernel, one section each, under its layers."""
        return "\n\n".join(f"# {_named(x)}\n{kernel.source(head_dim)}" for kernel, x in self.distinct.items())

    def explain(self) -> str:
        """The explanation of each distinct kernel, under its layers."""
        return "\n\n".join(f"{_named(x)}\n{kernel.explain()}" for kernel, x in self.distinct.items())

    def __repr__(self) -> str:
        return shown(self.schedule, self.backend, self.score, self.output_gate, self.affine)

    def __reduce__(self) -> tuple[Any, ...]:
        return recompiled, (self.schedule, self.backend, self.score, self.output_gate, self.affine)


def _named(layers: tuple[int, ...]) -> str:
    return f"layer{'s' if len(layers) > 1 else ''} {', '.join(map(str, layers))}"
