"""What answers are written in: formulas, assumptions, and how they are found, written and compared."""

from typing import TYPE_CHECKING, Any

from pidsl.later import submodule

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        return submodule(__name__, name)
