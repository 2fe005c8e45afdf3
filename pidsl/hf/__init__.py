"""Attention of Hugging Face transformers by pidsl.

    pidsl.hf.register()
    model = AutoModelForCausalLM.from_pretrained(name, attn_implementation="pidsl")

runs a model as it is, `patch(model, term)` under another pattern, and `DerivedCache(model)` keeps, while it generates,
the keys that can still be asked for. docs/howto/hugging_face.md shows how, and what is refused.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pidsl.hf.derived import DerivedCache
    from pidsl.hf.patching import patch, patched, unpatch
    from pidsl.hf.refused import UnsupportedError
    from pidsl.hf.registered import register

__all__ = ["DerivedCache", "UnsupportedError", "patch", "patched", "register", "unpatch"]

if not TYPE_CHECKING:  # transformers and torch are imported when one of these is first asked for
    _LATER = {
        "DerivedCache": "pidsl.hf.derived",
        "patch": "pidsl.hf.patching",
        "patched": "pidsl.hf.patching",
        "UnsupportedError": "pidsl.hf.refused",
        "register": "pidsl.hf.registered",
        "unpatch": "pidsl.hf.patching",
    }

    def __getattr__(name: str) -> Any:
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from pidsl.hf.installed import require_transformers

        require_transformers(f"pidsl.hf.{name}")
        return getattr(import_module(_LATER[name]), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
