"""`pidsl` and `python -m pidsl`: the commands, and how they end.

Exit codes: 0 fine; 1 the answer is no (a check failed, a claim came out otherwise than the page says); 2 bad input;
130 interrupted. What is asked for goes to standard output, everything else to standard error.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Sequence

import click
from click.exceptions import NoArgsIsHelpError
from rich.text import Text

import pidsl
from pidsl.cli import analysis, devices, kernels, pages
from pidsl.cli.carets import told, under
from pidsl.console import console
from pidsl.errors import PidslError

RENAMED = {"analyse": "bounds", "analyze": "bounds", "explain": "plan"}
COMPLETE = "_PIDSL_COMPLETE"  # set by a shell that asks for completions
EPILOG = """\b
PATTERN: "window(63) | stride(256) & causal", call or name of pidsl.patterns,
or - for standard input. Exit: 0 fine, 1 no, 2 bad input, 130 interrupted."""


class Commands(click.Group):
    """The commands in the order in which one needs them; a wrong name is told the nearest one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in self.commands and not name.startswith("-"):
            close = RENAMED.get(name) or next(iter(difflib.get_close_matches(name, self.commands, n=1)), "")
            meant = f"it is `pidsl {close}` now" if name in RENAMED else f"did you mean {close!r}?" if close else ""
            raise click.UsageError(f"no command {name!r}" + (f": {meant}" if meant else ""), ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=Commands, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(pidsl.__version__, prog_name="pidsl", message="%(prog)s %(version)s")
def cli() -> None:
    """Sparse attention as a compiler problem."""


for command in (*analysis.COMMANDS, *kernels.COMMANDS, *devices.COMMANDS, *pages.COMMANDS):
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by who called: `pidsl ... >&-`
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 -- as long as the process
    if COMPLETE in os.environ:
        cli.main(given, prog_name="pidsl", complete_var=COMPLETE)
    try:
        with cli.make_context("pidsl", list(given)) as context:
            cli.invoke(context)
        sys.stdout.flush()
        return 0
    except click.exceptions.Exit as e:
        return e.exit_code
    except NoArgsIsHelpError as e:
        print(e.format_message(), file=sys.stderr)
        return 2
    except click.ClickException as e:
        _say(f"{e.format_message()}{under(given, e)}")
        path = e.ctx.command_path if isinstance(e, click.UsageError) and e.ctx else "pidsl"
        print(f"  see: {path} --help", file=sys.stderr)
        return 2
    except PidslError as e:
        _say(told(given, e))
        return 2
    except MemoryError:
        _say("out of memory: a smaller n or another question")
        return 2
    except BrokenPipeError:  # `| head` has seen enough; what is still buffered goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as e:  # a full disk behind standard output, say
        _say(str(e))
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 2
    except (KeyboardInterrupt, click.Abort):
        _say("interrupted", "\npidsl: ")
        return 130


def _say(text: str, before: str = "pidsl: ") -> None:
    """One message on standard error."""
    to = console(sys.stderr)
    to.print(Text.assemble((before, "bold red"), text), soft_wrap=True)
