"""What layers of patterns with numbers connect: reach and depth for every length and number of layers."""

from typing import TYPE_CHECKING, Any

from pidsl.later import submodule

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        return submodule(__name__, name)
