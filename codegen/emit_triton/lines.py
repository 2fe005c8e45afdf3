"""Lines of generated source: indented, and broken where they get too long."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

WIDTH = 116  # leaves room for the parentheses of a broken line


class Lines:
    """Lines of source at the current indent."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._indent = ""

    def put(self, *lines: str) -> None:
        """Add lines; an assignment or a return that is too long is broken inside parentheses."""
        for line in lines:
            head, separator, value = line.partition("return " if line.startswith("return ") else " = ")
            if len(self._indent + line) > WIDTH and separator:
                wrapped = textwrap.wrap(value, WIDTH - len(self._indent) - 4, break_long_words=False)
                self.put(f"{head}{separator}(", *(f"    {part}" for part in wrapped), ")")
            else:
                self._lines.append((self._indent + line).rstrip())

    @contextmanager
    def block(self, header: str) -> Iterator[None]:
        """The lines put inside are the body of `header`."""
        self.put(header)
        self._indent += "    "
        yield
        self._indent = self._indent[:-4]

    def __str__(self) -> str:
        return "\n".join(self._lines)


def function(head: str, doc: str, *lines: str) -> str:
    """A device function."""
    out = Lines()
    out.put("@triton.jit")
    with out.block(f"def {head}:"):
        out.put(f'"""{doc}"""', *lines)
    return str(out)


def shown(fields: Mapping[str, str]) -> str:
    """A dict of a program."""
    return "{" + ", ".join(f'"{name}": {value}' for name, value in fields.items()) + "}"
