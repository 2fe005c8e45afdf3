"""One picture: the masks, and the loss curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pidsl.demo.train import Run
from pidsl.language.terms import Term

SMOOTHING = 0.9
PIXELS = 320  # of one mask


def available() -> bool:
    """Whether matplotlib is there (the `plot` extra)."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    return True


def draw(path: Path, patterns: Mapping[str, Term], size: int, runs: Sequence[Run]) -> None:
    """Masks over `size` tokens in a row, the training curves below, as a PNG."""
    import matplotlib as mpl

    mpl.use("Agg")  # no window
    from matplotlib import pyplot as plt

    figure: Any = plt.figure(figsize=(3.6 * len(patterns), 7.2), layout="constrained")
    grid = figure.add_gridspec(2, len(patterns), height_ratios=[1, 0.9])
    colors = [f"C{column}" for column in range(len(patterns))]
    for column, (name, term) in enumerate(patterns.items()):
        axes = figure.add_subplot(grid[0, column])
        own = mpl.colors.ListedColormap(["white", colors[column]])
        axes.imshow(
            coarse(term.mask(size)), cmap=own, interpolation="nearest", vmin=0, vmax=1, extent=(0, size, size, 0)
        )
        pairs = term.pairs(size)
        axes.set_title(f"{name}: {term!r}\n{pairs} of {size * (size + 1) // 2} causal pairs", fontsize=8)
        axes.set_xlabel("key j", fontsize=8)
        axes.set_ylabel("query i", fontsize=8)
        axes.tick_params(labelsize=7)
    axes = figure.add_subplot(grid[1, :])
    for column, run in enumerate(runs):
        axes.plot(range(1, len(run.bits) + 1), run.bits, color=colors[column], alpha=0.2, linewidth=0.8)
        label = f"{run.name}: {run.held_out:.3f} bits per byte held out"
        axes.plot(range(1, len(run.bits) + 1), smooth(run.bits), color=colors[column], label=label)
    axes.set_xlabel("step")
    axes.set_ylabel("bits per byte")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110, format="png")
    plt.close(figure)


def coarse(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask on a grid that fits the picture: a cell is filled if any of its pairs is attended."""
    cell = -(-len(mask) // PIXELS)
    padded = np.pad(mask, (0, -len(mask) % cell))
    cells = padded.reshape(len(padded) // cell, cell, len(padded) // cell, cell)
    return np.asarray(cells.any(axis=(1, 3)))


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
