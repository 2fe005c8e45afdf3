"""`plot`: a pattern, several patterns, or what a token sees, as a figure of matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from pidsl.errors import PidslError, TermError
from pidsl.language.refused import require_term
from pidsl.language.terms import Term, is_confined, within
from pidsl.pictures import cells, style
from pidsl.pictures.cells import Cells
from pidsl.pictures.difference import Differing, difference
from pidsl.pictures.field import fields
from pidsl.pictures.figure import panels
from pidsl.pictures.parts import Panel, panels_of, schedule_of

LAYERS = 4  # of a field, unless a schedule says how many


def plot(
    subject: Any, n: Any, m: Any = None, *, of: Any = None, layers: Any = None, tiles: Any = None,
    against: Any = None, documents: Any = None, ax: Axes | None = None,
) -> Figure:  # fmt: skip
    """The picture of terms, heads, layers and gates; see `pidsl.language.shown.Shown.plot`."""
    asked = {"against": against, "of": of if of is not None else layers, "tiles": tiles, "documents": documents}
    named = [name for name, value in asked.items() if value is not None]
    if len(named) > 1:
        given = " and ".join("layers" if name == "of" and of is None else name for name in named)
        raise TermError(f"plot(..., {given})", "one of them for a picture", where=repr(subject))
    if m is not None and named and named != ["tiles"]:
        raise TermError(f"m = {m!r} with {named[0]}", "as many keys as queries", where=repr(subject))
    if named == ["of"]:
        return plot_field(subject, n, of, layers, ax)
    if tiles == "plan":
        from pidsl.pictures.plans import plot_plans

        return plot_plans([panel.term for panel in panels_of(subject)], n, ax)
    if against is not None:
        return plot_difference(subject, require_term(against, "plot(against=...)"), n, ax)
    shown = panels_of(subject)
    drawn = [_cells(panel, n, m, tiles, documents) for panel in shown]
    figure, axes = panels(len(shown), ax)
    for panel, found, own in zip(shown, drawn, axes, strict=True):
        _draw(own, panel, found, tiles is not None)
    return figure


def _cells(panel: Panel, n: Any, m: Any, tiles: Any, documents: Any) -> Cells:
    if documents is not None:
        return cells.of_documents(panel.term, n, documents)
    keys = m if panel.keys is None else panel.keys(n)
    pattern = within(panel.term)[0]  # within a document, where there are some
    return cells.cells_of(pattern, n, keys) if tiles is None else cells.tiles_of(pattern, n, keys, tiles)


def _draw(ax: Axes, panel: Panel, found: Cells, as_tiles: bool) -> None:
    """One pattern: its pairs, or its tiles with the pairs in them where those are large enough to be seen."""
    n, m, kinds = found.n, found.m, found.kinds
    colors = [style.PAPER, style.PARTIAL, style.FULL]
    if as_tiles and max(n, m) <= cells.MOST:
        mask = within(panel.term)[0].mask(n, m)
        kinds = np.where(mask, np.uint8(3), found.spread())
        colors = [style.PAPER, style.VISITED, style.PARTIAL, style.FULL]
    image(ax, kinds, colors, n, m)
    if as_tiles:
        _tile_lines(ax, found)
        full, some = int((found.kinds == cells.EVERY).sum()), int((found.kinds == cells.SOME).sum())
        detail = f"{found.rows} x {found.columns}: {full:,} full, {some:,} partial of {found.kinds.size:,} tiles"
        names = ["skipped", "partial", "full"] + ["pairs"] * (len(colors) == 4)
        key(ax, dict(zip(names, colors, strict=True)))
    else:
        detail = _count(panel.term, found)
        if not found.of_pairs:
            key(ax, {"some pairs": style.PARTIAL, "every pair": style.FULL})
    ax.set_title(f"{panel.title}\n{detail}", fontsize=9)


def image(ax: Axes, kinds: np.ndarray[Any, Any], colors: Sequence[str], n: int, m: int) -> None:
    """A picture of numbered kinds over n queries and m keys."""
    extent = (-0.5, m - 0.5, n - 0.5, -0.5) if kinds.size else (-0.5, 0.5, 0.5, -0.5)
    data = kinds if kinds.size else np.zeros((1, 1), np.uint8)
    ax.imshow(
        data, cmap=ListedColormap(list(colors)), vmin=0, vmax=len(colors) - 1, interpolation="nearest", extent=extent,
        aspect="auto" if max(n, m) > 8 * max(1, min(n, m)) else "equal",
    )  # fmt: skip
    ax.set_xlabel("key j", fontsize=8)
    ax.set_ylabel("query i", fontsize=8)
    _ticks(ax)
    for edge in ax.spines.values():
        edge.set_color(style.GRID)


def _ticks(ax: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 2.5, 5, 10]))
        axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    ax.tick_params(labelsize=7, color=style.GRID)


def key(ax: Axes, entries: dict[str, str]) -> None:
    """What the colours mean, below a picture."""
    patches = [Patch(facecolor=color, edgecolor=style.GRID, label=name) for name, color in entries.items()]
    ax.legend(
        handles=patches, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=len(patches), fontsize=7,
        frameon=False, handlelength=1.2, handleheight=1.0, columnspacing=1.2,
    )  # fmt: skip


def _tile_lines(ax: Axes, found: Cells) -> None:
    if max(found.kinds.shape) > 64:
        return
    for edges, draw in (
        (range(0, found.m + 1, found.columns), ax.axvline),
        (range(0, found.n, found.rows), ax.axhline),
    ):
        for edge in edges:
            draw(edge - 0.5, color=style.GRID, linewidth=0.4)


def _count(term: Term, found: Cells) -> str:
    """n (and m), and how many pairs there are, where that is known soon."""
    lengths = f"n = {found.n:,}" + (f", m = {found.m:,}" if found.m != found.n else "")
    if found.of_pairs:
        pairs = int((found.kinds > 0).sum())
    else:
        pattern = within(term)[0]
        pairs = -1
        with suppress(PidslError):
            pairs = pattern.pairs(found.n, found.m)
        if pairs < 0:
            return lengths
    apart = ", within a document" if is_confined(term) else ""
    return f"{lengths}: {pairs:,} pair{'s' * (pairs != 1)}, {style.percent(pairs, found.n * found.m)} of all{apart}"


# -- what a token sees -------------------------------------------------------------------------------------------------


def plot_field(subject: Any, n: Any, of: Any, layers: Any, ax: Axes | None) -> Figure:
    """The keys that a token sees through more and more layers, a row for each number of them."""
    patterns = [within(term)[0] for term in schedule_of(subject)]
    token = n - 1 if of is None and isinstance(n, int) else of
    count = layers if layers is not None else LAYERS if len(patterns) == 1 else None
    found = fields(patterns, token, n, count)
    figure, (own,) = panels(1, ax, height=max(2.2, 0.3 * len(found) + 1.2))
    if ax is None:
        figure.set_size_inches(8, figure.get_figheight())
    tokens = found.shape[1]
    kinds = _spans(found)
    image(own, kinds, [style.PAPER, style.PARTIAL, style.FULL], len(found), tokens)
    own.set_aspect("auto")
    own.axvline(token, color=style.ONLY_FIRST, linewidth=1.0, linestyle=":")
    for row in range(1, len(found)):
        own.axhline(row - 0.5, color=style.GRID, linewidth=0.6)
    own.set_yticks(range(len(found)) if len(found) <= 17 else range(0, len(found), 4))
    own.set_xlabel("token at the input", fontsize=8)
    own.set_ylabel("layers", fontsize=8)
    seen = int(found[-1].sum())
    what = f"token {token:,} of {tokens:,} sees {seen:,} tokens through {len(found) - 1} layers"
    own.set_title(f"{style.shortened(repr(subject), 90)}\n{what}", fontsize=9)
    return figure


def _spans(found: np.ndarray[Any, Any]) -> cells.Kinds:
    """Columns as cells that a picture can show, a cell some or every of its tokens."""
    tokens = found.shape[1]
    cell = cells.side(tokens, 2 * cells.MOST)
    starts = np.arange(0, tokens, cell)
    counts = np.add.reduceat(found, starts, axis=1, dtype=np.int64)
    whole = np.minimum(cell, tokens - starts)
    return (counts > 0).astype(np.uint8) + (counts == whole)


# -- two patterns ------------------------------------------------------------------------------------------------------


def plot_difference(subject: Any, other: Term, n: Any, ax: Axes | None) -> Figure:
    """The pairs that only one of two patterns has, and the first of them."""
    term = require_term(subject, "plot(against=...)")
    found = difference(term, other, n)
    figure, (own,) = panels(1, ax)
    names = ("only in the first", "only in the second", "both", "some of each")
    colors = (style.ONLY_FIRST, style.ONLY_SECOND, style.COMMON, style.BOTH_DIFFER)
    image(own, found.kinds, [style.PAPER, *colors], found.n, found.n)
    present = [k for k in range(4) if (found.kinds == k + 1).any()]
    if present:
        key(own, {names[k]: colors[k] for k in present})
    if found.first is not None:
        i, j = found.first
        own.plot([j], [i], marker="o", markersize=12, fillstyle="none", color="black", markeredgewidth=1.0)
    title = f"{style.shortened(repr(term), 40)}  against  {style.shortened(repr(other), 40)}"
    own.set_title(f"{title}\n{said(found)}", fontsize=9)
    return figure


def said(found: Differing) -> str:
    """Where two patterns differ, in words."""
    if found.first is None:
        return f"n = {found.n:,}: no difference" + (f"; {found.beyond}" if found.beyond else "")
    i, j = found.first
    side = "first" if found.only_in_first else "second"
    return f"n = {found.n:,}: first difference at query {i:,}, key {j:,}, only in the {side}"
