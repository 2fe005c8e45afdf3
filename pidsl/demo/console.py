"""What the demo says: headings, tables, and a progress bar that stays out of log files."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TextIO


def heading(text: str) -> None:
    """A numbered or named part of the report."""
    print(f"\n{text}\n{'-' * len(text)}", flush=True)


def table(header: Sequence[str], rows: Iterable[Sequence[object]], *, left: int = 1) -> str:
    """Columns as wide as they need; the first `left` of them flush left, numbers flush right.

    >>> print(table(["pattern", "pairs"], [["causal", 10], ["window(1)", 7]]))
    pattern    pairs
    causal        10
    window(1)      7
    """
    cells = [list(header), *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        parts = [x.ljust(w) if c < left else x.rjust(w) for c, (x, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(parts).rstrip())
    return "\n".join(lines)


class Progress:
    """`label [#####.....]  50%  12 s left` on one line of a terminal; two plain lines anywhere else.

    Args:
        label: what is under way.
        total: how many steps it takes.
        to: where to write (standard error by default, so that a piped report stays clean).
    """

    def __init__(self, label: str, total: int, to: TextIO | None = None) -> None:
        self.label, self.total, self.to = label, max(total, 1), to or sys.stderr
        self.done, self.started, self.drawn = 0, time.monotonic(), 0.0
        self.live = self.to.isatty() and os.environ.get("TERM") != "dumb"

    def __enter__(self) -> Progress:
        self._draw("")
        return self

    def __exit__(self, *_: object) -> None:
        seconds = time.monotonic() - self.started
        if self.live:
            self.to.write("\r\x1b[K")
        print(f"  {self.label}: {seconds:.1f} s", file=self.to, flush=True)

    def step(self, note: str = "") -> None:
        """One more step done; `note` is shown at the end of the line."""
        self.done += 1
        if time.monotonic() - self.drawn > 0.1 or self.done == self.total:
            self._draw(note)

    def _draw(self, note: str) -> None:
        if not self.live:
            return
        self.drawn = time.monotonic()
        share = min(self.done / self.total, 1.0)
        elapsed = self.drawn - self.started
        left = f"{elapsed * (1 / share - 1):.0f} s left" if share else "starting"
        filled = round(share * 24)
        line = f"  {self.label} [{'#' * filled}{'.' * (24 - filled)}] {share:4.0%}  {left}  {note}"
        self.to.write("\r" + line[: shutil.get_terminal_size().columns - 1] + "\x1b[K")
        self.to.flush()


def picture(mask: Sequence[Sequence[bool]]) -> str:
    """A mask as text, two characters per pair: `##` where the query (row) attends the key (column).

    >>> print(picture([[True, False], [True, True]]))
    ## .
    ####
    """
    return "\n".join("".join("##" if pair else " ." for pair in row) for row in mask)
