"""Pairs, keys per query and live keys of patterns with numbers: counts for every length."""

from typing import TYPE_CHECKING, Any

from pidsl.later import submodule

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        return submodule(__name__, name)
