"""The custom ops are registered as soon as both pidsl and torch are imported, whichever comes first.

An exported program names them: `torch.export.load` finds them after `import pidsl` alone, which does not import torch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

OPS = "pidsl.runtime.operator"


def register() -> None:
    """Register the ops now, or when torch has been imported."""
    if sys.modules.get("torch") is not None:
        import_module(OPS)
    else:
        sys.meta_path.insert(0, _AfterTorch())


class _AfterTorch:
    """Stands before the finders of modules until torch is asked for, and sees to it that the ops follow."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "torch":
            return None
        sys.meta_path.remove(self)
        spec = find_spec("torch")
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            load(module)
            if not any(loaded.startswith("pidsl.runtime.") and loaded != __name__ for loaded in sys.modules):
                import_module(OPS)  # else a module of ours is importing torch, and registers them itself

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
