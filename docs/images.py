"""Draw the pictures of README and the documentation: `python docs/images.py`, into docs/images/."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

import pidsl
from pidsl import causal, stride, window

FOLDER = Path(__file__).parent / "images"
PATTERN = window(2) | stride(5) & causal
RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
sys.path.insert(0, str(RESULTS.parent))
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


def quality_reach() -> Figure:
    """What benchmarks/quality.py found of copies: accuracy by lag in two layers, on the lags that they see."""
    rows = _results("copy")
    names = dict.fromkeys(row["run"]["name"] for row in rows)
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    panels: Any = figure.subplots(2, -(-len(names) // 2), sharex=True, sharey=True)
    for panel, name in zip(panels.flat, names, strict=False):
        mine = [row for row in rows if row["run"]["name"] == name]
        run = mine[0]["run"]
        spec = pidsl.parse(run["pattern"])
        pattern = getattr(spec, "union", spec) & causal
        pairs = (pattern**2).mask(run["n"])
        seen = [lag for lag in range(run["n"]) if pairs.diagonal(-lag).all()]
        panel.broken_barh([(lag - 0.5, 1) for lag in seen], (0, 1.06), color="C2", alpha=0.25, linewidth=0)
        found = [
            (int(d), sum(b for _, b in x) / sum(a for a, _ in x)) for row in mine for d, x in row["by_distance"].items()
        ]
        panel.plot(*zip(*found, strict=True), "o", color="C0", markersize=3.5, alpha=0.6, clip_on=False)
        panel.axhline(mine[0]["chance"], color="gray", linewidth=0.8, linestyle=":")
        panel.set(xlim=(-1, 128), ylim=(0, 1.06))
        panel.set_title(f"{name}: {run['pattern']}", fontsize=7.5)
        panel.set_xticks([0, 32, 64, 96, 128])
    for panel in panels[-1]:
        panel.set_xlabel("distance of the copy")
    for panel in panels[:, 0]:
        panel.set_ylabel("answered correctly")
    return figure


def quality_text() -> Figure:
    """What it found of text: bits per byte less those of the window, by position, with intervals."""
    import quality_page

    rows = _results("text")
    tasks = dict.fromkeys(row["run"]["task"] for row in rows)
    names = dict.fromkeys(row["run"]["name"] for row in rows if row["run"]["name"] != "window")
    colors = {name: f"C{k}" for k, name in enumerate(names)}
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    panels: Any = figure.subplots(1, len(tasks), sharey=True)
    for panel, task in zip(panels, tasks, strict=True):
        mine = [row for row in rows if row["run"]["task"] == task]
        window = {row["run"]["seed"]: row["by_position"] for row in mine if row["run"]["name"] == "window"}
        size = mine[0]["run"]["n"] // len(mine[0]["by_position"])
        for name in (name for name in colors if any(row["run"]["name"] == name for row in mine)):
            differences = [
                [a - b for a, b in zip(row["by_position"], window[row["run"]["seed"]], strict=True)]
                for row in mine if row["run"]["name"] == name and row["run"]["seed"] in window
            ]  # fmt: skip
            means = [quality_page.mean_of(x) for x in zip(*differences, strict=True)]
            x = [size * (k + 0.5) for k in range(len(means))]
            panel.plot(x, [m.mean for m in means], "-", color=colors[name], label=name, linewidth=1.2)
            ends = [m.mean - m.half for m in means], [m.mean + m.half for m in means]
            panel.fill_between(x, *ends, color=colors[name], alpha=0.15, linewidth=0)
        panel.axhline(0, color="gray", linewidth=0.8, linestyle=":")
        panel.set(title={"python": "Python source", "novels": "novels"}[task], xlabel="bytes before")
    panels[0].set_ylabel("bits per byte, less the window's")
    panels[0].legend(frameon=False, fontsize="small")
    return figure


def _results(study: str) -> list[dict[str, Any]]:
    lines = (RESULTS / "quality" / f"{study}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


EXCHANGES = {"pidsl": "exchange of pidsl's plan", "all-gather": "all-gather", "ring": "ring", "Ulysses": "Ulysses"}
PICTURES = {
    "mask": lambda: PATTERN.plot(32),
    "plan": lambda: (stride(32) & causal).plot(8192, tiles="plan"),
    "field": lambda: PATTERN.plot(64, of=63, layers=4),
    "budget": budget,
    "devices": devices,
    "quality_reach": quality_reach,
    "quality_text": quality_text,
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
