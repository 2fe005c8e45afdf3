"""Where a command line is wrong: the line again, with carets under the word at fault."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

import click
from click.exceptions import NoSuchOption

from pidsl.errors import PidslError, SymbolError


def under(arguments: Sequence[str], error: click.ClickException | PidslError) -> str:
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


def told(arguments: Sequence[str], error: PidslError) -> str:
    """What an error says, with carets where it is known what is at fault."""
    error = _of_symbols(error)
    if line := under(arguments, error):
        error = type(error)(error.given, error.expected, "", error.hint)
    return f"{error}{line}"


def _of_symbols(error: PidslError) -> PidslError:
    """The same where symbols have no numbers: with carets under the first of them, and how the command line binds them.

    >>> print(_of_symbols(SymbolError("unbound symbol k", "numbers", "causal & window(k)", "term.bind(k=...)")))
    unbound symbol k
      expected: numbers
      where:
        causal & window(k)
                        ^
      try: --bind k=NUMBER
    """
    names = re.findall(r"(\w+)=\.\.\.", error.hint) if error.hint.startswith("term.bind(") else []
    at = re.search(rf"\b{names[0]}\b", error.where) if names and "\n" not in error.where else None
    where = f"{error.where}\n{' ' * at.start()}{'^' * len(at[0])}" if at else error.where
    hint = " ".join(f"--bind {name}=NUMBER" for name in names) or error.hint
    return SymbolError(error.given, error.expected, where, hint) if names else error


def _word(arguments: Sequence[str], error: click.ClickException | PidslError) -> int | None:
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
        case PidslError() if "^" not in error.where:
            names = "|".join(re.findall(r"(\w+)=\.\.\.", error.given))
            for x, word in enumerate(arguments):
                bound = names and re.match(rf"(-b|--bind=)?({names})\s*=", word)
                found += [x] * bool(bound or repr(word) in error.given or error.given.startswith(f"{word}: "))
        case click.UsageError():
            found = [
                x for x, word in enumerate(arguments) if f"{word!r}" in error.message or f"({word}" in error.message
            ]
    return found[-1] if found else None
