"""Patterns with open symbols: formulas that hold for all their values."""

from typing import TYPE_CHECKING, Any

from pidsl.later import submodule

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        return submodule(__name__, name)
