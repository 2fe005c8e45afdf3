"""One picture: the masks, and the loss curves of text and of copying."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pidsl.demo.copying import Copied
from pidsl.demo.train import Run
from pidsl.language.terms import Term

SMOOTHING = 0.9
COLORS = {"dense": "C0", "ring": "C1", "window": "C1", "pi": "C2"}


def draw(path: Path, patterns: Mapping[str, Term], size: int, runs: Sequence[Run], copied: Sequence[Copied]) -> None:
    """Masks over `size` tokens in a row, the training curves below, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6 * len(patterns), 7.2), layout="constrained")
    grid = figure.add_gridspec(2, len(patterns), height_ratios=[1, 0.9])
    for column, (name, term) in enumerate(patterns.items()):
        axes = figure.add_subplot(grid[0, column])
        term.plot(size, ax=axes)
        pairs = f"{term.pairs(size)} of {size * (size + 1) // 2} causal pairs"
        axes.set_title(f"{name}: {term!r}\n{pairs}", fontsize=8)
    axes = figure.add_subplot(grid[1, :-1])
    for run in runs:
        color = COLORS[run.name]
        axes.plot(range(1, len(run.bits) + 1), run.bits, color=color, alpha=0.2, linewidth=0.8)
        label = f"{run.name}: {run.held_out:.3f} bits per byte held out"
        axes.plot(range(1, len(run.bits) + 1), smooth(run.bits), color=color, label=label)
    axes.set_title("text", fontsize=9)
    axes.set_ylabel("bits per byte")
    copying = figure.add_subplot(grid[1, -1])
    for model in copied:
        label = f"{model.name}: {model.accuracy:.1%} right"
        copying.plot(range(1, len(model.bits) + 1), model.bits, color=COLORS[model.name], label=label)
    copying.set_title("copying from a distance", fontsize=9)
    copying.set_ylabel("bits per answer")
    for below in (axes, copying):
        below.set_xlabel("step")
        below.grid(alpha=0.3)
        below.legend(fontsize=8)
    figure.savefig(path, dpi=110, format="png")


def smooth(values: Sequence[float]) -> list[float]:
    """A running mean that forgets, without bias at the start.

    >>> smooth([2.0, 2.0, 2.0])
    [2.0, 2.0, 2.0]
    """
    mean, weight, out = 0.0, 0.0, []
    for value in values:
        mean, weight = SMOOTHING * mean + (1 - SMOOTHING) * value, SMOOTHING * weight + (1 - SMOOTHING)
        out.append(mean / weight)
    return out
