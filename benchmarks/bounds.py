"""Every formula of random terms against brute force: how many are exact, how long they take, and every mismatch.

    python benchmarks/bounds.py                 400 terms, a few minutes
    python benchmarks/bounds.py --terms 20000   the long run; it goes on for hours
    python benchmarks/bounds.py --seed 7        other terms

Terms are drawn with up to three operators from the whole vocabulary (`terms(3, ring=True)`). Counts are
compared with dense masks, reach and depth with boolean powers of them, for all n up to 24 (formulas in L also for
n = 40 and 47); a proof of every tenth term is verified again. The exit status is 1 if any formula is wrong. Writes
benchmarks/results/bounds.json.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import islpy
import numpy as np
import sympy
import z3
from hypothesis import HealthCheck, Phase, given, seed, settings

import pidsl
from pidsl.analysis import ask
from pidsl.errors import TooHardError
from pidsl.language.terms import Term
from pidsl.testing import terms

RESULTS = Path(__file__).parent / "results" / "bounds.json"
LONGEST = 24
LATER = (40, 47)
"""Longer sequences, for formulas that hold for those only."""
LAYERS = 3
"""Layers of farthest and contiguous; up to twice as many are compared with formulas in L."""


def main() -> int:
    args = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    args.add_argument("--terms", type=int, default=400)
    args.add_argument("--seed", type=int, default=0)
    args.add_argument("--out", type=Path, default=RESULTS)
    options = args.parse_args()
    sweep = Sweep(options.terms)
    sweep.run(options.seed)
    report = sweep.report(options.seed)
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    for name, row in report["questions"].items():
        times = f"median {row['median_ms']} ms, 90 % {row['p90_ms']} ms, max {row['max_ms']} ms"
        print(f"{name:17} {row['exact']:6} of {row['asked']} exact ({row['exact'] / row['asked']:.1%}), {times}")
    unverified, wrong = len(report["unverified"]), len(report["wrong"])
    print(f"{report['compared']} values compared, {wrong} formulas wrong")
    print(f"{report['checked']} proofs checked, {unverified} of them beyond the limits")
    return 1 if report["wrong"] else 0


class Sweep:
    """Questions put to random terms, and what came of them."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.seconds: dict[str, list[float]] = {}
        self.exact: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.unverified: list[str] = []
        self.compared = self.checked = self.seen = 0

    def run(self, number: int) -> None:
        known: set[Term] = set()

        @seed(number)
        @settings(
            max_examples=20 * self.count, database=None, deadline=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(terms(3, ring=True))
        def visit(term: Term) -> None:
            if term not in known and len(known) < self.count:
                known.add(term)
                self.visit(term)
                print(f"\r{len(known)} of {self.count} terms", end="", file=sys.stderr)

        visit()
        print(file=sys.stderr)
        self.seen = len(known)

    def visit(self, term: Term) -> None:
        truth = Truth(term)
        for name, question, measure in QUESTIONS:
            start = time.perf_counter()
            bound = question(term)
            self.seconds.setdefault(name, []).append(time.perf_counter() - start)
            self.exact[name] += bound.is_exact
            if not bound.is_exact:
                self.reasons[f"{name}: {bound.reason.splitlines()[0][:60]}"] += 1
                continue
            for values, wanted in measure(truth):
                if any(c.subs({sympy.Symbol(k, integer=True): v for k, v in values.items()}) == sympy.false
                       for c in bound.assumptions):  # fmt: skip
                    continue
                found = bound(**values)
                self.compared += 1
                if found != wanted:
                    self.wrong.append(f"{name} of {term!r} at {values}: {found}, counted {wanted}")
                    break
            if len(self.seconds[name]) % 10 == 0:
                self.checked += 1
                if not bound.proof.check():
                    self.unverified.append(f"{name} of {term!r}: {bound.proof.verdict().failure}")

    def report(self, number: int) -> dict[str, Any]:
        questions = {}
        for name, seconds in self.seconds.items():
            ms = [round(1000 * x, 1) for x in seconds]
            questions[name] = {
                "asked": len(ms), "exact": self.exact[name], "median_ms": statistics.median(ms),
                "p90_ms": sorted(ms)[int(0.9 * len(ms))], "max_ms": max(ms),
            }  # fmt: skip
        versions = {
            "python": platform.python_version(),
            "islpy": islpy.version.VERSION_TEXT,
            "sympy": sympy.__version__,
        }
        return {
            "command": f"python benchmarks/bounds.py --terms {self.count} --seed {number}",
            "machine": f"{platform.machine()}, {platform.system()}",
            "versions": {**versions, "z3": z3.get_version_string()},
            "terms": self.seen,
            "questions": questions,
            "compared": self.compared,
            "checked": self.checked,
            "unknown_because": dict(self.reasons.most_common()),
            "unverified": self.unverified,
            "wrong": self.wrong,
        }


Measured = Iterator[tuple[dict[str, int], Any]]


class Truth:
    """A term by its dense masks."""

    def __init__(self, term: Term) -> None:
        self.term = term
        self.masks = [term.mask(n) for n in range(LONGEST + 1)]
        self.after = [self._power(mask, LAYERS) for mask in self.masks]

    @staticmethod
    def _power(mask: Any, layers: int) -> Any:
        seen = np.eye(len(mask), dtype=bool)
        for _ in range(layers):
            seen = (mask.astype(np.int64) @ seen.astype(np.int64)) > 0
        return seen

    def pairs(self) -> Measured:
        for n, mask in enumerate(self.masks):
            yield {"n": n}, int(mask.sum())

    def degree(self) -> Measured:
        for n, mask in enumerate(self.masks):
            for i in range(n):
                yield {"i": i, "n": n}, int(mask[i].sum())

    def max_degree(self) -> Measured:
        for n, mask in enumerate(self.masks[1:], 1):
            yield {"n": n}, int(mask.sum(1).max())

    def farthest(self) -> Measured:
        for n, seen in enumerate(self.after[1:], 1):
            yield {"n": n}, largest_lag(seen)

    def contiguous(self) -> Measured:
        for n, seen in enumerate(self.after[1:], 1):
            yield {"n": n}, first_hole(seen)

    def farthest_in_l(self) -> Measured:
        return self._in_l(largest_lag)

    def contiguous_in_l(self) -> Measured:
        return self._in_l(first_hole)

    def _in_l(self, measure: Callable[[Any], Any]) -> Measured:
        for n in (*range(1, LONGEST + 1, 3), *LATER):
            mask = self.masks[n] if n <= LONGEST else self.term.mask(n)
            for layers in range(2 * LAYERS + 1):
                yield {"n": n, "L": layers}, measure(self._power(mask, layers))

    def depth(self) -> Measured:
        try:
            causal = self.term <= pidsl.causal
        except TooHardError:  # then depth is about all pairs
            causal = False
        for n, mask in enumerate(self.masks[1:], 1):
            wanted = np.tri(n, dtype=bool) if causal else np.ones((n, n), dtype=bool)
            seen, known, layers = mask, set(), 1
            while not (seen | ~wanted).all() and seen.tobytes() not in known:
                known.add(seen.tobytes())
                seen, layers = (mask.astype(np.int64) @ seen.astype(np.int64)) > 0, layers + 1
            yield {"n": n}, layers if (seen | ~wanted).all() else math.inf


def largest_lag(seen: Any) -> float:
    i, j = np.nonzero(seen)
    return int((i - j).max()) if len(i) else -math.inf


def first_hole(seen: Any) -> int:
    holes = (lag - 1 for lag in range(len(seen)) if not np.diagonal(seen, -lag).all())
    return next(holes, len(seen) - 1)


QUESTIONS: list[tuple[str, Callable[[Term], Any], Callable[[Truth], Measured]]] = [
    ("pairs", ask.pairs, Truth.pairs),
    ("degree", lambda term: ask.degree(term).of_query, Truth.degree),
    ("max degree", lambda term: ask.degree(term).maximum, Truth.max_degree),
    ("farthest", lambda term: ask.farthest(term, LAYERS), Truth.farthest),
    ("contiguous", lambda term: ask.contiguous(term, LAYERS), Truth.contiguous),
    ("farthest, any L", ask.farthest, Truth.farthest_in_l),
    ("contiguous, any L", ask.contiguous, Truth.contiguous_in_l),
    ("depth", ask.depth, Truth.depth),
    ("depth at n = 24", lambda term: ask.depth(term, LONGEST), lambda truth: iter([({}, [*truth.depth()][-1][1])])),
]

if __name__ == "__main__":
    sys.exit(main())
