"""The figure that `plot` returns: matplotlib's, made without pyplot, and shown by a notebook as it is."""

from __future__ import annotations

from io import BytesIO, StringIO
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from pidsl.errors import TermError

DPI = 150
PANEL = 4.0  # inches


class Picture(Figure):
    """A `matplotlib.figure.Figure` that a notebook shows without a backend; its SVG is the same text each time."""

    def _repr_png_(self) -> bytes:
        written = BytesIO()
        self.savefig(written, format="png")
        return written.getvalue()

    def svg(self) -> str:
        """The picture as SVG: the same text for the same picture."""
        written = StringIO()
        with mpl.rc_context({"svg.hashsalt": "pidsl", "svg.fonttype": "none"}):
            self.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
        return written.getvalue()


def panels(count: int, ax: Axes | None, columns: int = 3, height: float = PANEL) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels; or the one that belongs to the axes given.

    Raises:
        TermError: axes for more than one panel, or what is no axes.
    """
    if ax is None:
        across = min(count, columns)
        down = -(-count // across)
        size = (PANEL * across + 0.6, height * down + 0.5)
        figure = Picture(figsize=size, dpi=DPI, layout="constrained")
        return figure, [figure.add_subplot(down, across, k + 1) for k in range(count)]
    if not isinstance(ax, Axes):
        raise TermError(f"ax = {ax!r}", "matplotlib axes", where="plot(...)")
    if count != 1:
        raise TermError(f"one ax for {count} panels", "no ax: the picture makes its own", where="plot(...)")
    figure_of: Any = ax.figure
    while isinstance(figure_of, SubFigure):
        figure_of = figure_of.figure
    return figure_of, [ax]
