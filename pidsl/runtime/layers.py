"""Kernels of a depth schedule: a sequence, one kernel per layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

from pidsl.language.schedule import Schedule
from pidsl.runtime.heads import HeadsKernel
from pidsl.runtime.kernel import Backend, Kernel, compile


class LayerKernels(Sequence[Kernel | HeadsKernel]):
    """A compiled schedule: the kernel of each layer. Made by `compile`; immutable, picklable.

    Layers with equal patterns share one kernel.

    >>> import pidsl
    >>> kernels = pidsl.compile(pidsl.layers([pidsl.window(3), pidsl.causal, pidsl.window(3)]), backend="reference")
    >>> kernels[1]
    pidsl.compile(causal, backend='reference')
    >>> len(kernels), kernels[0] is kernels[2]
    (3, True)

    Args:
        schedule: the pattern of each layer.
        kernels: their kernels.

    Attributes:
        schedule: the pattern of each layer.
        backend: as asked for.
    """

    def __init__(self, schedule: Schedule, kernels: Sequence[Kernel | HeadsKernel]) -> None:
        self.schedule = schedule
        self._kernels = tuple(kernels)
        self.backend: Backend = self._kernels[0].backend

    def __len__(self) -> int:
        return len(self._kernels)

    @overload
    def __getitem__(self, layer: int) -> Kernel | HeadsKernel: ...
    @overload
    def __getitem__(self, layer: slice) -> tuple[Kernel | HeadsKernel, ...]: ...
    def __getitem__(self, layer: int | slice) -> Kernel | HeadsKernel | tuple[Kernel | HeadsKernel, ...]:
        return self._kernels[layer]

    def __iter__(self) -> Iterator[Kernel | HeadsKernel]:
        return iter(self._kernels)

    @property
    def distinct(self) -> dict[Kernel | HeadsKernel, tuple[int, ...]]:
        """The layers of each distinct kernel, ascending."""
        found: dict[Kernel | HeadsKernel, tuple[int, ...]] = {}
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
        return f"pidsl.compile({self.schedule!r}, backend={self.backend!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return compile, (self.schedule, self.backend)


def _named(layers: tuple[int, ...]) -> str:
    return f"layer{'s' if len(layers) > 1 else ''} {', '.join(map(str, layers))}"
