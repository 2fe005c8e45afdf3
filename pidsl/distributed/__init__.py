"""Many devices: which rank holds which token, what moves between ranks and how much of it, and a kernel that moves it.

Plans need no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pidsl.distributed.planning.plan import Plan, plan
from pidsl.distributed.tokens.shards import Shards

if TYPE_CHECKING:
    from pidsl.distributed.running.context import ContextParallel as ContextParallel
    from pidsl.distributed.running.decode import SharedCache as SharedCache

__all__ = ["ContextParallel", "Plan", "Shards", "SharedCache", "plan"]

if not TYPE_CHECKING:  # what needs torch is imported when it is first asked for
    _LATER = {"SharedCache": "pidsl.distributed.running.decode", "ContextParallel": "pidsl.distributed.running.context"}

    def __getattr__(name: str) -> Any:
        if name in _LATER:
            return getattr(import_module(_LATER[name]), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
