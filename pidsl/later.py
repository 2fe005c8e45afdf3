"""Modules that are imported when they are first asked for, as attributes of their package."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType


def submodule(package: str, name: str) -> ModuleType:
    """`package.name`, imported now; for the `__getattr__` of a package.

    Raises:
        AttributeError: there is none, or something that it needs is not installed.
    """
    full = f"{package}.{name}"
    if name.startswith("_") or find_spec(full) is None:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    try:
        return import_module(full)
    except ImportError as e:  # so that `help(pidsl)` and hasattr go on without it
        raise AttributeError(str(e)) from e
