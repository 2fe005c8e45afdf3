"""Where a command line is wrong: the line again, with carets under the word at fault."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import click
from click.exceptions import NoSuchOption


def under(arguments: Sequence[str], error: click.ClickException) -> str:
    """Two more lines for a message, "" where no single word is at fault.

    >>> print(under(["show", "causal", "-n", "x"], click.BadParameter("no", param=click.Option(["-n"])))[1:])
      where:
        pidsl show causal -n x
                             ^
    """
    at = _word(arguments, error)
    if at is None or "\n" in (line := shlex.join(["pidsl", *arguments])):
        return ""
    begin = len(shlex.join(["pidsl", *arguments[:at]])) + 1
    return f"\n  where:\n    {line}\n    {' ' * begin}{'^' * len(shlex.quote(arguments[at]))}"


def _word(arguments: Sequence[str], error: click.ClickException) -> int | None:
    """Which word it is: the last that fits, as options before a later one may be right."""
    found: list[int] = []
    match error:
        case NoSuchOption():
            found = [x for x, word in enumerate(arguments) if word.split("=")[0] == error.option_name]
        case click.MissingParameter():
            return None
        case click.BadParameter(param=click.Option() as option):
            for x, word in enumerate(arguments):
                if word in option.opts and x + 1 < len(arguments):
                    found.append(x + 1)
                elif any(word.startswith(f"{name}=" if name.startswith("--") else name) for name in option.opts):
                    found.append(x)
            said = error.message
            found = [x for x in found if repr(arguments[x].partition("=")[2] or arguments[x]) in said] or found
        case click.UsageError():
            found = [
                x for x, word in enumerate(arguments) if f"{word!r}" in error.message or f"({word}" in error.message
            ]
    return found[-1] if found else None
