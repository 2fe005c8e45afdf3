"""Kernels of a depth schedule: a sequence, one kernel per layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Never, NoReturn, overload

from pidsl.errors import KeywordError
from pidsl.language.recipe import Recipe
from pidsl.language.shown import Displayed
from pidsl.runtime.kernels.form import Sections
from pidsl.runtime.kernels.kernel import Kernel


class LayerKernels(Displayed, Sections, Sequence[Kernel]):
    """A compiled schedule: the kernel of each layer. Made by `compile`; immutable, picklable.

    Layers with equal patterns share one kernel.

    >>> import pidsl
    >>> kernels = pidsl.compile(pidsl.layers([pidsl.window(3), pidsl.causal, pidsl.window(3)]), backend="reference")
    >>> kernels[1]
    pidsl.compile(causal, backend='reference')
    >>> len(kernels), kernels[0] is kernels[2]
    (3, True)

    Attributes:
        recipe: what they were compiled from.
        schedule: the pattern, or heads, of each layer.
    """

    def __init__(self, recipe: Recipe, kernels: Sequence[Kernel]) -> None:
        self.recipe, self.schedule = recipe, recipe.of
        self._kernels = tuple(kernels)

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
    def __getitem__(self, layer: int) -> Kernel: ...
    @overload
    def __getitem__(self, layer: slice) -> tuple[Kernel, ...]: ...
    def __getitem__(self, layer: int | slice) -> Kernel | tuple[Kernel, ...]:
        return self._kernels[layer]

    @property
    def distinct(self) -> dict[Kernel, tuple[int, ...]]:
        """The layers of each distinct kernel, ascending."""
        found: dict[Kernel, tuple[int, ...]] = {}
        for layer, kernel in enumerate(self._kernels):
            found[kernel] = (*found.get(kernel, ()), layer)
        return found

    def titled(self) -> Iterable[tuple[str, Kernel]]:
        """Each distinct kernel, under its layers."""
        return ((f"layer{'s' * (len(x) > 1)} {', '.join(map(str, x))}", kernel) for kernel, x in self.distinct.items())

    def __repr__(self) -> str:
        return f"pidsl.{self.recipe!r}"
