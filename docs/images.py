"""Draw the pictures of README and the documentation: `python docs/images.py`, into docs/images/."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

import pidsl
from pidsl import causal, stride, window

FOLDER = Path(__file__).parent / "images"
PATTERN = window(2) | stride(5) & causal
RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
TASKS = {"recall": "multi-query recall", "passkey": "passkey"}


def budget() -> Figure:
    """What benchmarks/budget.py found: accuracy by keys per query, the median over seeds and all of them behind it."""
    runs = [run["rows"] for run in json.loads((RESULTS / "budget.json").read_text(encoding="utf-8"))["runs"]]
    figure = Figure(figsize=(8.5, 3.4), layout="constrained")
    panels: Any = figure.subplots(1, 2, sharey=True)
    names = dict.fromkeys(row["selector"] for row in runs[0] if row["budget"])
    for panel, (task, title) in zip(panels, TASKS.items(), strict=True):
        for color, name in enumerate(names):
            mine = [[row for row in rows if row["selector"] == name] for rows in runs]
            keys = [row["keys"] for row in mine[0]]
            found = [[100 * row[task] for row in rows] for rows in mine]
            middle, low, high = ([f(x) for x in zip(*found, strict=True)] for f in (statistics.median, min, max))
            panel.plot(keys, middle, "o-", color=f"C{color}", label=name, markersize=3, linewidth=1.2)
            panel.fill_between(keys, low, high, color=f"C{color}", alpha=0.15, linewidth=0)
        alone = statistics.median(100 * row[task] for rows in runs for row in rows if row["selector"] == "window")
        panel.axhline(alone, color="gray", linewidth=0.8, linestyle=":", label="the window alone")
        panel.set(title=title, xlabel="keys per query, at most", xscale="log", ylim=(-3, 103))
        panel.set_xticks(ticks := [16, 32, 64, 128, 256], labels=[str(x) for x in ticks])
        panel.minorticks_off()
    panels[0].set_ylabel("answered correctly, %")
    panels[1].legend(frameon=False, fontsize="small", loc="lower right")
    return figure


def devices() -> Figure:
    """What benchmarks/devices.py models: the exchange of one layer, by each way, and what there is to compute."""
    model = json.loads((RESULTS / "devices.json").read_text(encoding="utf-8"))["model"]["clusters"]
    patterns = list(dict.fromkeys(row["pattern"] for row in model["rows"]))
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    panels: Any = figure.subplots(1, len(patterns), sharey=True)
    for panel, pattern in zip(panels, patterns, strict=True):
        rows = [row for row in model["rows"] if row["pattern"] == pattern]
        gpus = [row["gpus"] for row in rows]
        computed = [1e3 * row["compute_seconds"] for row in rows]
        panel.plot(gpus, computed, "--", color="gray", linewidth=1.2, label="pairs to compute")
        for color, (way, label) in enumerate(EXCHANGES.items()):
            took = [(x, 1e3 * row["exchange_seconds"][way]) for x, row in zip(gpus, rows, strict=True)
                    if row["exchange_seconds"][way] is not None]  # fmt: skip
            panel.plot(*zip(*took, strict=True), "o-", color=f"C{color}", label=label, markersize=3, linewidth=1.2)
        panel.set(xlabel="GPUs", xscale="log", yscale="log")
        panel.set_title(pattern, fontsize="medium")
        panel.set_xticks(gpus, labels=[str(x) for x in gpus])
        panel.minorticks_off()
    panels[0].set_ylabel("modelled, ms per layer, forward")
    figure.legend(*panels[-1].get_legend_handles_labels(), frameon=False, fontsize="small", loc="outside right center")
    return figure


EXCHANGES = {"pidsl": "exchange of pidsl's plan", "all-gather": "all-gather", "ring": "ring", "Ulysses": "Ulysses"}
PICTURES = {
    "mask": lambda: PATTERN.plot(32),
    "plan": lambda: (stride(32) & causal).plot(8192, tiles="plan"),
    "field": lambda: PATTERN.plot(64, of=63, layers=4),
    "budget": budget,
    "devices": devices,
}


def main(folder: Path = FOLDER) -> None:
    """Each picture as an SVG, the same on every run."""
    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = pidsl.__name__
    folder.mkdir(exist_ok=True)
    for name, draw in PICTURES.items():
        draw().savefig(folder / f"{name}.svg", metadata={"Date": None}, bbox_inches="tight")
        print(folder / f"{name}.svg")


if __name__ == "__main__":
    main()
