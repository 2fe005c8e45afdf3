"""Programs to callables: argument checks, caches, autograd and torch.compile around the generated code."""

from typing import TYPE_CHECKING, Any

from pidsl.later import submodule

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        return submodule(__name__, name)
