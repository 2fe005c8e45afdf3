"""Draw the pictures of README and the documentation: `python docs/images.py`, into docs/images/."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

import pidsl
from pidsl import causal, stride, window

FOLDER = Path(__file__).parent / "images"
PATTERN = window(2) | stride(5) & causal
PICTURES = {
    "mask": lambda: PATTERN.plot(32),
    "plan": lambda: (stride(32) & causal).plot(8192, tiles="plan"),
    "field": lambda: PATTERN.plot(64, of=63, layers=4),
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
