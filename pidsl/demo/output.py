"""The folder of results: every file appears whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from pidsl.errors import PidslError


class Folder:
    """Where results go; made when the first one is written.

    Args:
        path: the folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def write(self, name: str, content: str | Callable[[Path], None]) -> Path:
        """Write a file: text, or whatever `content` writes at the path it is given.

        Raises:
            PidslError: the folder or the file cannot be written.
        """
        final = self.path / name
        part = final.with_name(f".{os.getpid()}-{name}")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                if isinstance(content, str):
                    part.write_text(content, encoding="utf-8")
                else:
                    content(part)
                part.replace(final)
            finally:
                part.unlink(missing_ok=True)
        except OSError as e:
            raise PidslError(f"{final}: {e.strerror or e}", "a place to write results", hint="--out DIR") from e
        return final
