"""The plan of a pattern as a figure: each piece as tokens stand, and as its layout numbers them, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pidsl.errors import TermError
from pidsl.language.terms import Term, within
from pidsl.pictures import style
from pidsl.pictures.figure import panels
from pidsl.pictures.plot import image, key

MOST = 12  # pieces of a figure


def plot_plans(terms: Sequence[Term], n: Any, ax: Axes | None) -> Figure:
    """Two panels for each piece of the plans of some patterns."""
    from pidsl.pictures.reordered import IN_FULL, IN_VAIN, PAIR, plan_of, reordered, waste

    if ax is not None:
        raise TermError("ax for the two sides of a plan", "no ax: the picture makes its own", where="plot(...)")
    shown = [piece for term in terms for piece in reordered(plan_of(within(term)[0]), n)]
    if not shown:
        raise TermError(f"the plan of {terms[0]!r}", "a pattern that attends something", where='plot(n, tiles="plan")')
    shown = shown[:MOST]
    figure, axes = panels(2 * len(shown), None, columns=2)
    colors = [style.PAPER, style.VISITED, style.PARTIAL_PAIR, style.FULL]
    names = {"skipped": 0, "computed in vain": IN_VAIN, "pair, masked tile": PAIR, "pair, full tile": IN_FULL}
    for number, piece in enumerate(shown):
        sides = (("as tokens stand", piece.before, piece.cut_before), (piece.title, piece.after, piece.cut))
        for k, (what, kinds, cut) in enumerate(sides):
            own = axes[2 * number + k]
            image(own, kinds, colors, *kinds.shape)
            own.set_title(f"piece {number}, {what}\n{cut}: {waste(kinds)}", fontsize=8)
            if k:
                own.set_xlabel("key, as numbered", fontsize=8)
                own.set_ylabel("query, as numbered", fontsize=8)
            if max(kinds.shape) // min(piece.tile) <= 40:
                for edge in range(piece.tile[0], kinds.shape[0], piece.tile[0]):
                    own.axhline(edge - 0.5, color=style.GRID, linewidth=0.4)
                for edge in range(piece.tile[1], kinds.shape[1], piece.tile[1]):
                    own.axvline(edge - 0.5, color=style.GRID, linewidth=0.4)
    key(axes[-2], {name: colors[kind] for name, kind in names.items()})
    return figure
