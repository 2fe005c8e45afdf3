"""Whether transformers is there."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from pidsl.errors import BackendError

LEAST = 5  # the first version whose mask functions are registered beside the attention functions


def require_transformers(where: str) -> None:
    """Raise where transformers is missing, or too old.

    Raises:
        BackendError: it is; `where` asked for it.
    """
    found = find_spec("transformers") is not None
    try:
        known = version("transformers") if found else ""
    except PackageNotFoundError:  # from a checkout
        return
    if found and int(known.split(".")[0]) >= LEAST:
        return
    given = f"transformers {known}" if found else "transformers is not installed"
    raise BackendError(given, f"transformers {LEAST}.0 or later", where, "pip install 'pidsl[hf]'")
