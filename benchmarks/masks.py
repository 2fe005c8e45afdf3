"""The terms of docs/reference/patterns.md against the masks that other libraries make, entry for entry.

    python benchmarks/masks.py --path CHECKOUT ...      what is installed, and packages in these folders
    python benchmarks/masks.py --libraries Splash,NATTEN

Each library makes masks by its own code at many sizes; the term that its row of docs/reference/patterns.md spells is
evaluated at the same sizes. One line per row: distinct masks, entries, unequal entries. The exit status is 1 where an
entry differs.
Results are written to benchmarks/results/masks.json when all libraries are asked for; one that is missing is named.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import mask_functions
import mask_gym
import mask_layouts
import mask_models
import numpy as np
from mask_functions import Made

import pidsl
from pidsl import patterns
from pidsl.patterns.spellings import OTHERS, SPELLINGS, Spelling

ROOT = Path(__file__).resolve().parent.parent
SPELLED = {(x.library, x.written): x for row in [*SPELLINGS.values(), OTHERS] for x in row}
WORDS = {name: getattr(words, name) for words in (patterns, pidsl) for name in words.__all__}
LIBRARIES: dict[str, tuple[str, str, Callable[[], Iterator[Made]]]] = {  # its module, its distribution, its masks
    "torch": ("torch", "torch", mask_models.torch_sdpa),
    "Splash": ("jax", "jax", mask_functions.splash),
    "attention-gym": ("attn_gym", "attn_gym", mask_gym.attention_gym),
    "DeepSpeed": ("deepspeed", "deepspeed", mask_layouts.deepspeed),
    "NATTEN": ("natten", "natten", mask_models.natten),
    "transformers": ("transformers", "transformers", mask_models.transformers),
    "timm": ("timm", "timm", mask_models.timm),
}


@dataclass
class Compared:
    """One row of docs/reference/patterns.md, over all its masks."""

    library: str
    written: str
    term: str
    masks: int = 0
    entries: int = 0
    unequal: int = 0
    shapes: list[str] = field(default_factory=list)
    sizes: list[str] = field(default_factory=list)
    first: str = ""  # mask that differs
    seen: set[Any] = field(default_factory=set)

    def add(self, made: Made) -> None:
        """Compare one mask, or those of several heads or layers."""
        wanted = eval(self.term, WORDS | dict(made.sizes))
        pairs = [(wanted, made.mask)] if made.mask.ndim == 2 else list(zip(wanted, made.mask, strict=True))
        for index, (term, mask) in enumerate(pairs):
            n, m = mask.shape
            named = [(k, str(v)) for k, v in made.sizes.items() if re.search(rf"\b{k}\b", self.term)]
            if (key := (index, n, m, made.offset, *named, mask.tobytes())) in self.seen:
                continue  # the library gave the same mask for the same sizes once more
            self.seen.add(key)
            unequal = int(np.count_nonzero(term.mask(n, m, made.offset) != mask))
            shape = f"{n} x {m}" + (f", offset {made.offset}" if made.offset else "")
            sizes = ", ".join(f"{k}={v}" for k, v in named if k != "drawn")
            if unequal and not self.first:
                self.first = f"{shape}{sizes and ', '}{sizes}: {unequal} unequal"
            self.masks, self.entries, self.unequal = self.masks + 1, self.entries + n * m, self.unequal + unequal
            self.shapes += [shape] * (shape not in self.shapes)
            self.sizes += [sizes] * (sizes not in self.sizes)

    def result(self) -> dict[str, Any]:
        """For the JSON file."""
        lists = {"shapes": "; ".join(self.shapes), "sizes": "; ".join(x for x in self.sizes if x)}
        return {k: v for k, v in (asdict(self) | lists).items() if v != "" and k != "seen"}


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)
    sys.path[:0] = [str(path) for path in args.path]
    warnings.simplefilter("ignore")
    report: dict[str, Any] = {
        "command": "python benchmarks/masks.py" + " --path CHECKOUT" * len(args.path),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": {"pidsl": pidsl.__version__},
        "cases": [],
    }
    for name in args.libraries:
        module, distribution, masks = LIBRARIES[name]
        if find_spec(module) is None:
            print(f"{name}: not installed", flush=True)
            report["versions"][name] = "not installed"
            continue
        report["versions"][name] = of_library(module, distribution)
        print(f"{name} {report['versions'][name]}", flush=True)
        for row in compared(name, masks()):
            print(f"  {row.written}: {row.masks} masks, {row.entries} entries, {row.unequal} unequal", flush=True)
            if row.first:
                print(f"    {row.term}\n    first at {row.first}")
            report["cases"].append(row.result())
    totals = {k: sum(x[k] for x in report["cases"]) for k in ("masks", "entries", "unequal")}
    print(", ".join(f"{count} {what}" for what, count in totals.items()))
    if list(args.libraries) == list(LIBRARIES) or args.out:
        path = Path(args.out) if args.out else ROOT / "benchmarks" / "results" / "masks.json"
        path.write_text(json.dumps(report | {"totals": totals}, indent=1) + "\n")
        print(f"written: {path}")
    return 1 if totals["unequal"] else 0


def compared(library: str, masks: Iterator[Made]) -> list[Compared]:
    """The rows of a library, each over all its masks."""
    rows: dict[str, Compared] = {}
    for made in masks:
        if made.written not in rows:
            spelling = spelled(library, made.written)
            rows[made.written] = Compared(library, made.written, spelling.term)
        rows[made.written].add(made)
    return list(rows.values())


def spelled(library: str, written: str) -> Spelling:
    """The row of docs/reference/patterns.md."""
    return SPELLED[library, written]


def of_library(module: str, distribution: str) -> str:
    """The version of an installed library; of a checkout its commit."""
    spec = find_spec(module)
    folder = Path(spec.origin).parent if spec is not None and spec.origin else ROOT
    command = ["git", "-C", str(folder), "rev-parse", "--short=12", "HEAD"]
    try:
        return version(distribution)
    except PackageNotFoundError:
        done = subprocess.run(command, capture_output=True, text=True)
        return f"commit {done.stdout.strip()}" if done.returncode == 0 else "unknown"


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--path", type=Path, action="append", help="a folder with packages to import, such as a checkout's; repeatable",
        default=[Path(x) for x in os.environ.get("PIDSL_PEERS", "").split(os.pathsep) if x],
    )  # fmt: skip
    parser.add_argument("--libraries", type=names, default=list(LIBRARIES), help=f"of {', '.join(LIBRARIES)}")
    parser.add_argument("--out", help="the JSON file (default: benchmarks/results/masks.json)")
    return parser.parse_args(argv)


def names(text: str) -> list[str]:
    chosen = [name.strip() for name in text.split(",")]
    if unknown := [name for name in chosen if name not in LIBRARIES]:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; known: {', '.join(LIBRARIES)}")
    return chosen


if __name__ == "__main__":
    raise SystemExit(main())
