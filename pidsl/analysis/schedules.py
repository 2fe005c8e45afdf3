"""Schedules with one pattern per layer that a formula describes for every number of layers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from pidsl.errors import SymbolError, TermError
from pidsl.language.expr import Index, evaluate, substitute, symbols_in
from pidsl.language.sizes import size
from pidsl.language.terms import Term
from pidsl.language.vocabulary import lags, window


class LayerRule(ABC):
    """A pattern for every layer, counted from 0 at the input, for any number of layers."""

    @abstractmethod
    def layer(self, index: int) -> Term:
        """The pattern of one layer."""

    @property
    @abstractmethod
    def sizes(self) -> tuple[Index, ...]:
        """The sizes of the rule."""

    @abstractmethod
    def bind(self, /, **values: int) -> LayerRule:
        """The rule with symbols replaced by numbers."""

    @property
    def symbols(self) -> frozenset[str]:
        """Names of the symbols that are still open."""
        return frozenset(name for x in self.sizes for name in symbols_in(x))

    def terms(self, layers: int) -> tuple[Term, ...]:
        """The patterns of the first layers."""
        return tuple(self.layer(index) for index in range(layers))


def _bound(x: Index, values: Mapping[str, int]) -> Index:
    found = substitute(x, values)
    return found if symbols_in(found) else int(evaluate(found, {}))


@dataclass(frozen=True)
class BaseSchedule(LayerRule):
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

    @property
    def sizes(self) -> tuple[Index, ...]:
        return (self.base,)

    def bind(self, /, **values: int) -> BaseSchedule:
        return BaseSchedule(_bound(self.base, values))


@dataclass(frozen=True)
class SkipSchedule(LayerRule):
    """A causal window in every layer, and the skip `period` in the layers first, 2 first, 4 first, ..., from 1 on.

    >>> SkipSchedule(4, 16, first=2).terms(4)
    (window(4), window(4) | lags(16), window(4), window(4) | lags(16))

    Args:
        k: radius of the window.
        period: the skip, longer than the window.
        first: 1 or 2: the first layer that carries the skip, counted from 1.
    """

    k: Index
    period: Index
    first: int = 1

    def __post_init__(self) -> None:
        size(self.k, "k", repr(self), least=1)
        size(self.period, "period", repr(self), least=1)
        if self.first not in (1, 2):
            raise TermError(f"first = {self.first!r}", "1 or 2", repr(self))

    def layer(self, index: int) -> Term:
        counted = index + 1
        local = window(self.k)
        return local | lags(self.period) if counted >= self.first and counted & index == 0 else local

    @property
    def sizes(self) -> tuple[Index, ...]:
        return (self.k, self.period)

    def bind(self, /, **values: int) -> SkipSchedule:
        return SkipSchedule(_bound(self.k, values), _bound(self.period, values), self.first)
