"""A plan for ranks as a figure: bytes and pairs of each rank, and who sends how much to whom."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from pidsl.distributed.planning.plan import Plan
from pidsl.distributed.planning.shown import bytes_of
from pidsl.pictures import style
from pidsl.pictures.figure import panels

MOST = 512  # ranks whose pairs are drawn


def plot(found: Plan, ax: Axes | None = None) -> Figure:
    """The picture of a plan; see `Plan.plot`."""
    ranks = found.shards.ranks
    paired = ax is None and 1 < ranks <= MOST
    figure, axes = panels(2 if paired else 1, ax)
    _profile(axes[0], found)
    if paired:
        _matrix(axes[1], found)
    return figure


def _profile(ax: Axes, found: Plan) -> None:
    ranks = np.arange(found.shards.ranks + 1)
    series = {"gets": found.forward.received, "sends": found.forward.sent}
    for k, (name, values) in enumerate(series.items()):
        ax.stairs(values, ranks - 0.5, color=style.LINES[k], label=f"{name}, bytes", linewidth=1.6, baseline=None)
    ax.set_ylim(0, 1.25 * max(1, int(found.busiest)))
    _dressed(ax, "rank", "bytes, forward")
    _in_bytes(ax.yaxis)
    beside: Any = ax.twinx()
    beside.stairs(
        found.pairs, ranks - 0.5, color=style.LINES[5], label="pairs", linewidth=1.2, linestyle=":", baseline=None
    )
    beside.set_ylim(0, 1.5 * max(1, int(found.pairs.max())))
    beside.yaxis.set_major_formatter(FuncFormatter(lambda x, _: bytes_of(int(x)).removesuffix("B").strip()))
    beside.set_ylabel("pairs", fontsize=8)
    beside.tick_params(labelsize=7)
    lines = [line for own in (ax, beside) for line in own.get_legend_handles_labels()[0]]
    names = [name for own in (ax, beside) for name in own.get_legend_handles_labels()[1]]
    ax.legend(lines, names, fontsize=7, frameon=False)
    detail = f"at most {bytes_of(found.forward.most)} a rank, imbalance {float(found.imbalance):.3f}"
    ax.set_title(f"{style.shortened(repr(found.asked.pattern), 48)}\n{detail}", fontsize=9)


def _matrix(ax: Axes, found: Plan) -> None:
    ranks = found.shards.ranks
    sender, receiver = np.divmod(np.arange(ranks**2), ranks)
    moved = found.matrix(sender, receiver).reshape(ranks, ranks)
    shown = np.ma.masked_equal(moved, 0)
    ends = sorted({int(moved[moved > 0].min()), int(moved.max())}) if moved.any() else []
    norm = LogNorm(ends[0], max(ends[-1], ends[0] + 1)) if ends else None
    image = ax.imshow(shown.T, cmap="viridis_r", norm=norm, interpolation="nearest")
    if ends:
        bar = ax.figure.colorbar(image, ax=ax, shrink=0.8, ticks=ends)
        bar.ax.tick_params(labelsize=7)
        _in_bytes(bar.ax.yaxis)
        bar.ax.minorticks_off()
    _dressed(ax, "sender", "receiver")
    ax.grid(False)
    ax.set_title(f"from rank to rank, forward\n{bytes_of(found.forward.total)} in all", fontsize=9)


def _in_bytes(axis: Any) -> None:
    axis.set_major_formatter(FuncFormatter(lambda x, _: bytes_of(int(x))))


def _dressed(ax: Axes, across: str, up: str) -> None:
    ax.set_xlabel(across, fontsize=8)
    ax.set_ylabel(up, fontsize=8)
    ax.tick_params(labelsize=7)
    ax.grid(color=style.GRID, linewidth=0.5)
