"""Schedules with one pattern per layer that a formula describes for every number of layers."""

from __future__ import annotations

from dataclasses import dataclass

from pidsl.errors import SymbolError, TermError
from pidsl.language.expr import Index
from pidsl.language.terms import Term, size
from pidsl.language.vocabulary import window


@dataclass(frozen=True)
class BaseSchedule:
    """Layer l = 0, 1, ... attends the lags 0, b^l, 2 b^l, ..., (b - 1) b^l: one digit of the lag in base b per layer.

    After L layers exactly the lags 0 .. b^L - 1 are reached, each along one path.

    >>> BaseSchedule(2).terms(3)
    (window(1), window(1).dilated(2), window(1).dilated(4))

    Args:
        base: b >= 2, or a symbol.
    """

    base: Index

    def __post_init__(self) -> None:
        size(self.base, "base", repr(self), least=2)

    def layer(self, index: int) -> Term:
        """The pattern of one layer, counted from 0 at the input."""
        if not isinstance(self.base, int):
            raise SymbolError(f"layer {index} of {self!r}", "a number for the base")
        if index < 0:
            raise TermError(f"layer {index}", "a layer >= 0", repr(self))
        step = self.base**index
        return window(self.base - 1) if step == 1 else window(self.base - 1).dilated(step)

    def terms(self, layers: int) -> tuple[Term, ...]:
        """The patterns of the first layers."""
        return tuple(self.layer(index) for index in range(layers))
