"""What commands say: headings, tables, text pictures, and a progress bar that stays out of log files.

Colours and the width of a terminal are left to rich, which keeps to NO_COLOR, FORCE_COLOR and TERM=dumb; what goes to a
file or a pipe is plain text as wide as it needs to be.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

WIDE = 10_000  # columns of a file, where nothing needs to be broken


def console(to: TextIO | None = None) -> Console:
    """A console that prints text as it is, to standard output by default."""
    to = to or sys.stdout
    width = None if to.isatty() else WIDE
    return Console(file=to, width=width, markup=False, emoji=False, highlight=False)


def heading(text: str) -> None:
    """A numbered or named part of a report."""
    to = console()
    print(flush=True)
    to.print(text, style="bold", soft_wrap=True)
    print("-" * len(text), flush=True)


def table(header: Sequence[str], rows: Iterable[Sequence[object]], *, left: int = 1) -> str:
    """Columns as wide as they need; the first `left` of them flush left, numbers flush right.

    >>> print(table(["pattern", "pairs"], [["causal", 10], ["window(1)", 7]]))
    pattern    pairs
    causal        10
    window(1)      7
    """
    found = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column, name in enumerate(header):
        found.add_column(name, justify="left" if column < left else "right", overflow="fold")
    for row in rows:
        found.add_row(*map(str, row))
    to = console()
    with to.capture() as text:
        to.print(found)
    return "\n".join(line.rstrip() for line in text.get().rstrip("\n").split("\n"))


class Progress:
    """A bar with the time that is left, on one line of a terminal; one plain line at the end anywhere else.

    Args:
        label: what is under way.
        total: how many steps it takes.
        to: where to write (standard error by default, so that a piped report stays clean).
    """

    def __init__(self, label: str, total: int, to: TextIO | None = None) -> None:
        self.label, self.to = label, to or sys.stderr
        columns = (
            TextColumn("  {task.description}"),
            BarColumn(24),
            TaskProgressColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[note]}", markup=False),
        )
        shown = console(self.to)
        self.bars = Bars(
            *columns, console=shown, transient=True, redirect_stdout=False, redirect_stderr=False,
            disable=not shown.is_terminal or shown.is_dumb_terminal,
        )  # fmt: skip
        self.task = self.bars.add_task(label, total=max(total, 1), note="")
        self.started = time.monotonic()

    def __enter__(self) -> Progress:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()
        print(f"  {self.label}: {time.monotonic() - self.started:.1f} s", file=self.to, flush=True)

    def step(self, note: str = "") -> None:
        """One more step done; `note` is shown at the end of the line."""
        self.bars.update(self.task, advance=1, note=note)


def picture(mask: Sequence[Sequence[bool]]) -> str:
    """A mask as text, two characters per pair: `##` where the query (row) attends the key (column).

    >>> print(picture([[True, False], [True, True]]))
    ## .
    ####
    """
    return "\n".join("".join("##" if pair else " ." for pair in row) for row in mask)
