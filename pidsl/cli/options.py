"""What commands take in common: patterns, numbers for their symbols, and the choice of JSON."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, TypeVar

import click

from pidsl.errors import ParseError, PidslError
from pidsl.language.door import behind
from pidsl.language.gate import Gate
from pidsl.language.heads import Heads
from pidsl.language.parse import parse
from pidsl.language.recipe import Recipe
from pidsl.language.schedule import Schedule, layers
from pidsl.language.summaries import Summaries
from pidsl.language.terms import Term

Command = TypeVar("Command", bound=Callable[..., Any])
LONGEST = 2**31 - 1  # sizes of patterns stay below 2**31
LENGTH = click.IntRange(1, LONGEST)
BACKENDS = click.Choice(["auto", "triton", "torch", "reference"])


class Binding(click.ParamType[tuple[str, int]]):
    """`NAME=NUMBER`."""

    name = "NAME=NUMBER"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        if isinstance(value, tuple):
            return value
        name, equals, number = (x.strip() for x in str(value).partition("="))
        if not equals or not name.isidentifier() or not re.fullmatch(r"[+-]?\d+", number):
            self.fail(f"{value!r} is not NAME=NUMBER, such as k=63", param, ctx)
        return name, int(number)


class Size(click.ParamType[tuple[str, int | str]]):
    """`NAME=NUMBER` or `NAME=WORD`."""

    name = "NAME=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int | str]:
        if isinstance(value, tuple):
            return value
        name, equals, text = (x.strip() for x in str(value).partition("="))
        if not equals or not name.isidentifier() or not re.fullmatch(r"[+-]?\d+|[A-Za-z][\w.]*", text):
            self.fail(f"{value!r} is not NAME=VALUE, such as head_dim=128 or dtype=bf16", param, ctx)
        return name, text if text[0].isalpha() else int(text)


class Numbers(click.ParamType[tuple[str, list[int]]]):
    """`NAME=LOW:HIGH`, both included, `NAME=LOW:HIGH:STEP` or `NAME=NUMBER,NUMBER,...`."""

    name = "NAME=LOW:HIGH"
    most = 1 << 16

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, list[int]]:
        if isinstance(value, tuple):
            return value
        name, equals, text = (x.strip() for x in str(value).partition("="))
        one = r"\s*[+-]?\d+\s*"
        if not equals or not name.isidentifier() or not re.fullmatch(f"{one}(:{one}){{1,2}}|{one}(,{one})*", text):
            self.fail(f"{value!r} is not NAME=LOW:HIGH, NAME=LOW:HIGH:STEP or NAME=NUMBER,NUMBER", param, ctx)
        if ":" not in text:
            return name, [int(x) for x in text.split(",")]
        low, high, step = (*(int(x) for x in text.split(":")), 1)[:3]
        if step < 1 or low > high or (high - low) // step >= self.most:
            self.fail(f"{value!r} is not a range of 1 to {self.most:,} numbers, low to high", param, ctx)
        return name, list(range(low, high + 1, step))


def ranges(command: Command) -> Command:
    """The option --range."""
    return click.option(
        "--range", "-r", "ranges", type=Numbers(), multiple=True, metavar="NAME=LOW:HIGH[:STEP]", callback=_once,
        help="Numbers to try for a symbol, both ends included; or NAME=1,2,4. May be given again.",
    )(command)  # fmt: skip


def pattern(command: Command) -> Command:
    """The argument PATTERN and the option --bind."""
    return click.argument("pattern")(bind(command))


def bind(command: Command) -> Command:
    """The option --bind."""
    return click.option(
        "--bind", "-b", "bound", type=Binding(), multiple=True, metavar="NAME=NUMBER", callback=_once,
        help="A number for a symbol; may be given again.",
    )(command)  # fmt: skip


def as_json(command: Command) -> Command:
    """The option --json."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for a program to read.")(command)


def _once(ctx: click.Context, param: click.Parameter, value: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    """What is told of symbols by their names, of none of them twice."""
    found: dict[str, Any] = {}
    for name, number in value:
        if found.setdefault(name, number) != number:
            raise click.BadParameter(f"{name} is {found[name]} and {number}", ctx, param)
    return found


def read(text: str, bound: Mapping[str, int]) -> Any:
    """What a pattern on the command line spells, with numbers for its symbols.

    Args:
        text: source, the name of a library pattern alone, or "-" for what stands on standard input.
        bound: numbers for symbols.

    Raises:
        ParseError, TermError: as `parse` does.
        SymbolError: a number for a symbol that there is not.
    """
    if text.strip() == "-":
        text = sys.stdin.read()
    name = re.sub(r"#[^\n]*", "", text).strip()
    found = parse(published(name) if name in behind("library") else text)
    if isinstance(found, tuple):  # a call of the library that gives a term for each layer
        found = layers(found)
    if bound:
        if not hasattr(found, "bind"):
            raise PidslError(f"--bind with {found!r}", "a pattern that can hold symbols")
        found = found.bind(**bound)
    return found


def published(name: str) -> str:
    """The call that the name of a library pattern stands for: the first of it on the page of patterns; told."""
    from pidsl.patterns.families import families

    for family in families():
        for call in family.calls:
            if found := re.match(rf"{name}\((?:[^()]|\([^()]*\))*\)", call.text):
                click.echo(f"{name} stands for {found[0]}", err=True)
                return found[0]
    return name


def term_of(text: str, bound: Mapping[str, int]) -> Term:
    """As `read`, of a term alone."""
    found = read(text, bound)
    if not isinstance(found, Term):
        here = ", ".join(title for title, _ in parts(found) if title)
        raise ParseError(f"{found!r}", "one term" + (f"; here are {here}" if here else ""))
    return found


def parts(found: Any) -> list[tuple[str, Term]]:
    """The terms that something compiled is made of, under titles; a term has none."""
    match found:
        case Term():
            return [("", found)]
        case Gate():
            return [(f"branch {name}", term) for name, term in found.branches]
        case Heads():
            return [(f"{count} head{'s' * (count != 1)}", term) for count, term in found.groups]
        case Schedule():
            of_layers = [(x, part) for x, layer in enumerate(found) for part in parts(layer)]
            return [(", ".join(filter(None, (f"layer {x}", title))), term) for x, (title, term) in of_layers]
        case Summaries():
            return [("exact keys", found.exact)]
        case Recipe():
            return parts(found.of)
    raise ParseError(f"{found!r}", "a pattern: a term, gate, heads, layers or summaries")


def write_json(found: Mapping[str, Any]) -> None:
    """One object on standard output, and nothing else; what no number of JSON says is null or text."""
    click.echo(json.dumps(_plain(found), indent=2, allow_nan=False))


def _plain(x: Any) -> Any:
    match x:
        case None | bool() | str():
            return x
        case Mapping():
            return {str(name): _plain(value) for name, value in x.items()}
        case list() | tuple():
            return [_plain(value) for value in x]
        case Fraction():
            return _plain(float(x))
        case float():
            return x if math.isfinite(x) else str(x)
        case _ if hasattr(x, "__index__"):
            return int(x)
    return str(x)
