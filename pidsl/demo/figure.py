"""One picture: the masks, and the loss curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pidsl.demo.train import Run
from pidsl.language.terms import Term

SMOOTHING = 0.9


def draw(path: Path, patterns: Mapping[str, Term], size: int, runs: Sequence[Run]) -> None:
    """Masks over `size` tokens in a row, the training curves below, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6 * len(patterns), 7.2), layout="constrained")
    grid = figure.add_gridspec(2, len(patterns), height_ratios=[1, 0.9])
    for column, (name, term) in enumerate(patterns.items()):
        axes = figure.add_subplot(grid[0, column])
        term.plot(size, ax=axes)
        pairs = f"{term.pairs(size)} of {size * (size + 1) // 2} causal pairs"
        axes.set_title(f"{name}: {term!r}\n{pairs}", fontsize=8)
    axes = figure.add_subplot(grid[1, :])
    for column, run in enumerate(runs):
        color = f"C{column}"
        axes.plot(range(1, len(run.bits) + 1), run.bits, color=color, alpha=0.2, linewidth=0.8)
        label = f"{run.name}: {run.held_out:.3f} bits per byte held out"
        axes.plot(range(1, len(run.bits) + 1), smooth(run.bits), color=color, label=label)
    axes.set_xlabel("step")
    axes.set_ylabel("bits per byte")
    axes.grid(alpha=0.3)
    axes.legend()
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
