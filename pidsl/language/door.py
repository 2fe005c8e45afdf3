"""What the language leaves to others: the answers to questions, and the names of the library.

Here these are names. Who stands behind each is handed in from above, by `pidsl` itself, as the place where it is found;
it is imported when it is first asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

_BEHIND: dict[str, str] = {}


def stand_behind(places: Mapping[str, str]) -> None:
    """Say where each name is found: "module:attribute"."""
    _BEHIND.update(places)


def behind(name: str) -> Any:
    """What stands behind a name."""
    module, _, attribute = _BEHIND[name].partition(":")
    return getattr(import_module(module), attribute)
