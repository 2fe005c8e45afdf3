"""A front as a figure: keys against depth, and keys against what decoding keeps."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pidsl.errors import TermError
from pidsl.pictures import style
from pidsl.pictures.figure import panels
from pidsl.studies.front import Front
from pidsl.studies.limits import least_keys
from pidsl.studies.points import MEASURES


def plot(found: Front, ax: Axes | None = None) -> Figure:
    """The picture of a front; see `Front.plot`."""
    if not found.points:
        raise TermError("a front without points", "a budget that some member fits", where="plot(...)")
    figure, axes = panels(1 if ax is not None else 2, ax)
    for own, measure in zip(axes, ("depth", "cache"), strict=False):
        names = list(dict.fromkeys(x.family for x in found))
        for k, name in enumerate(names):
            each = [x for x in found if x.family == name]
            color, mark = style.LINES[k % len(style.LINES)], "osD^vP"[k % 6]
            own.plot([x.keys for x in each], [getattr(x, measure) for x in each], linestyle="none", marker=mark,
                     color=color, label=name, markersize=5)  # fmt: skip
        if measure == "depth":
            depths = range(1, found.layers + 1)
            least = [least_keys(found.n, found.layers, depth) for depth in depths]
            own.plot(least, list(depths), color=style.LINES[5], linestyle=":", label="fewer is impossible", zorder=0)
        own.set_xscale("log")
        own.set_xlabel(MEASURES["keys"], fontsize=8)
        own.set_ylabel(MEASURES[measure], fontsize=8)
        own.tick_params(labelsize=7)
        own.grid(color=style.GRID, linewidth=0.5)
        own.legend(fontsize=7, frameon=False)
    title = f"n = {found.n:,}, {found.layers} layers: {len(found.points)} points that no other is better than"
    axes[0].set_title(title, fontsize=9)
    return figure
