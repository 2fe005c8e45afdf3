"""How long the questions about every published pattern take: process CPU time, one process, each question once.

    python benchmarks/library.py        about a minute

The patterns are the calls of docs/reference/patterns.md. An answer is exact for every n (or from the tokens of a grid
on), or unknown, with the reason. Writes benchmarks/results/library.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import islpy
import sympy
import z3

import pidsl
from pidsl.errors import PidslError
from pidsl.language.terms import Term
from pidsl.patterns.families import families

RESULTS = Path(__file__).parent / "results" / "library.json"
QUESTIONS: dict[str, Callable[[Term], Any]] = {
    "degree": lambda term: term.degree().of_query,
    "max degree": lambda term: term.degree().maximum,
    "pairs": lambda term: term.pairs(),
    "farthest(3)": lambda term: term.farthest(3),
    "contiguous(3)": lambda term: term.contiguous(3),
    "farthest, any L": lambda term: term.farthest(),
    "contiguous, any L": lambda term: term.contiguous(),
    "depth": lambda term: term.depth(),
    "depth at n = 2**40": lambda term: term.depth(n=2**40),
    "live keys": lambda term: term.live(),
}


def main() -> int:
    args = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    args.add_argument("--out", type=Path, default=RESULTS)
    options = args.parse_args()
    pidsl.window(1).degree()  # what is imported on the first question
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for family in families():
        for call in family.calls:
            rows[call.text] = {name: asked(question, call.term) for name, question in QUESTIONS.items()}
    seconds = {(text, name): cell["ms"] / 1000 for text, row in rows.items() for name, cell in row.items()}
    slowest = max(seconds, key=lambda key: seconds[key])
    for name in QUESTIONS:
        exact = sum(row[name]["exact"] for row in rows.values())
        print(f"{name:19} {exact:3} of {len(rows)} exact")
    median, tail = statistics.median(seconds.values()), sorted(seconds.values())[int(0.9 * len(seconds))]
    text, name = slowest
    print(
        f"median {median * 1000:.1f} ms, 90 % {tail * 1000:.0f} ms, slowest {seconds[slowest]:.2f} s: {name} of {text}"
    )
    versions = {"python": platform.python_version(), "islpy": islpy.version.VERSION_TEXT, "sympy": sympy.__version__}
    report = {
        "command": "python benchmarks/library.py",
        "machine": f"{platform.machine()}, {platform.system()}",
        "versions": {**versions, "z3": z3.get_version_string()},
        "median_ms": round(median * 1000, 2),
        "p90_ms": round(tail * 1000, 1),
        "slowest_ms": round(seconds[slowest] * 1000),
        "patterns": rows,
    }
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def asked(question: Callable[[Term], Any], term: Term) -> dict[str, Any]:
    """One answer: whether it is exact, how long it took, and why it is unknown."""
    start = time.process_time()
    try:
        bound = question(term)
        exact, reason = bool(bound.is_exact), "" if bound.is_exact else bound.reason.splitlines()[0][:80]
    except PidslError as e:
        exact, reason = False, str(e).splitlines()[0][:80]
    cell = {"exact": exact, "ms": round(1000 * (time.process_time() - start), 1)}
    return {**cell, "reason": reason} if reason else cell


if __name__ == "__main__":
    sys.exit(main())
