"""Every formula of random patterns against brute force: how many are exact, how long they take, and every mismatch.

    python benchmarks/bounds.py                 400 terms of each kind, half an hour
    python benchmarks/bounds.py --terms 20000   the long run; it goes on for hours
    python benchmarks/bounds.py --seed 7        other terms
    python benchmarks/bounds.py --kinds layers  one kind only

Kinds of terms: `random`, with up to three operators from the whole vocabulary (`terms(3, ring=True)`); `layers`,
compositions and powers of strides, blocks, windows and `where`; `grids`, neighbourhoods and halos; `symbols`, terms
whose sizes are open, compared at many values of them. The masks come from `documented`, which shares nothing with
pidsl. Each formula is evaluated at many n (just past each of its branches too), layers, rows, and values of its
symbols, as far as its assumptions admit them. A proof of every tenth answer is verified again. The exit status is 1 if
any formula is wrong, or a process ended or was stopped. Terms are asked in another process, which is stopped when one
takes more than `--limit` seconds. Times are process CPU times. Writes benchmarks/results/bounds.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import documented
import islpy
import numpy as np
import sympy
import z3
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

import pidsl
from pidsl.analysis import questions as ask
from pidsl.analysis.bound import Bound
from pidsl.errors import PidslError, SizeError, TermError
from pidsl.language.terms import Term
from pidsl.testing import terms

RESULTS = Path(__file__).parent / "results" / "bounds.json"
LONGEST = 24
"""All n up to here."""
LATER = (31, 40, 47, 60, 75)
"""And some longer sequences; also those just past a branch of the formula, up to `BRANCH`."""
BRANCH = 130
SLOW = 5
"""Seconds above which a question is named."""
LAYERS = 3
"""Layers of farthest and contiguous; up to twice as many are compared with formulas in L."""
HORIZONS = (110, 220)
"""Lengths after which a key counts as never attended again; the second, where the first gives another number."""


def main() -> int:
    args = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    args.add_argument("--terms", type=int, default=400)
    args.add_argument("--seed", type=int, default=0)
    args.add_argument("--kinds", default=",".join(KINDS))
    args.add_argument("--limit", type=float, default=300.0, help="seconds for all questions of one term")
    args.add_argument("--out", type=Path, default=RESULTS)
    options = args.parse_args()
    sweeps = {kind: Sweep(kind, options.terms, options.limit) for kind in options.kinds.split(",")}
    for sweep in sweeps.values():
        sweep.run(options.seed)
    options.out.write_text(json.dumps(report(sweeps, options), indent=1) + "\n")
    for kind, sweep in sweeps.items():
        print(f"{kind}: {sweep.seen} terms")
        for name, row in sweep.questions().items():
            times = f"median {row['median_ms']} ms, 90 % {row['p90_ms']} ms, max {row['max_ms']} ms"
            print(f"  {name:17} {row['exact']:6} of {row['asked']} exact ({row['exact'] / row['asked']:.1%}), {times}")
        print(f"  {sweep.compared} values compared, {len(sweep.wrong)} formulas wrong")
        print(f"  {sweep.checked} proofs checked, {len(sweep.unverified)} of them beyond the limits")
        print(
            f"  {len(sweep.lost)} terms whose process ended or was stopped, {len(sweep.slow)} questions above {SLOW} s"
        )
    return 1 if any(sweep.wrong or sweep.lost for sweep in sweeps.values()) else 0


# -- terms -------------------------------------------------------------------------------------------------------------


def layered() -> st.SearchStrategy[str]:
    """Source of compositions and powers of words that repeat."""
    small, count = st.integers(0, 9), st.integers(1, 12)
    predicates = [
        "i % {p} == j % {q}", "i - j < {p}", "(i + {a} * j) % {p} < {q}", "i // {p} <= j // {q}",
        "abs(i - 2 * j) < {p}",
    ]  # fmt: skip
    words = st.one_of(
        st.tuples(count, small).map(lambda x: f"stride({x[0]}, {x[1] % x[0]})"),
        st.tuples(count, small).map(lambda x: f"stride({x[0]}, {x[1] % x[0]}) & causal"),
        count.map(lambda p: f"blocks({p})"),
        st.tuples(small, st.sampled_from([0, 0, 1, 3])).map(lambda x: f"window({x[0]}, {x[1]})"),
        st.lists(st.integers(-4, 14), min_size=1, max_size=5).map(lambda x: f"lags({', '.join(map(str, x))})"),
        small.map(lambda r: f"ring({r})"),
        st.tuples(small, st.none() | small, st.integers(1, 3)).map(lambda x: f"keys({x[0]}, {x[1]}, {x[2]})"),
        st.sampled_from(["full", "causal"]),
        st.tuples(st.sampled_from(predicates), count, count, st.integers(-3, 3)).map(
            lambda x: f"where(lambda i, j: {x[0].format(p=x[1], q=x[2], a=x[3])})"
        ),
    )
    moved = st.tuples(words, st.sampled_from(["blocked", "dilated", "shift", "T", "~", "plain", "plain"]), count).map(
        lambda x: {"T": f"({x[0]}).T", "~": f"~({x[0]})", "plain": f"({x[0]})"}.get(x[1], f"({x[0]}).{x[1]}({x[2]})")
    )
    one = moved | st.tuples(moved, st.sampled_from(["|", "|", "^", "&", "-"]), moved).map(
        lambda x: f"({x[0]} {x[1]} {x[2]})"
    )
    several = st.tuples(one, st.integers(2, 3)).map(lambda x: f"{x[0]} ** {x[1]}") | st.tuples(one, one).map(
        lambda x: f"{x[0]} @ {x[1]}"
    )
    return several | st.tuples(several, st.sampled_from(["|", "&", "-"]), one).map(lambda x: f"({x[0]}) {x[1]} {x[2]}")


def open_sizes() -> st.SearchStrategy[str]:
    """Source with symbols in it: what the rules answer, alone, joined, cut and moved."""
    size = st.sampled_from(["k", "p", "s", "k", "p", "2*k", "p + 1", "p - k", "k*p", "k//2", "3", "5"])
    positive = st.sampled_from(["p", "p", "k + 1", "p + 1", "2*p", "3", "6"])
    words = st.one_of(
        size.map("window({})".format),
        st.tuples(size, size).map(lambda x: f"window({x[0]}, {x[1]})"),
        positive.map("stride({})".format),
        st.tuples(positive, size).map(lambda x: f"stride({x[0]}, {x[1]})"),
        st.lists(size, min_size=1, max_size=3).map(lambda x: f"lags({', '.join(x)})"),
        positive.map("blocks({})".format),
        size.map("keys(0, {})".format),
        st.sampled_from(["full", "causal", "empty"]),
    )
    causal = words.map(lambda x: f"({x} & causal)")
    moved = st.tuples(words | causal, st.sampled_from(["dilated", "blocked"]), positive).map(
        lambda x: f"({x[0]}).{x[1]}({x[2]})"
    )
    shifted = st.tuples(words, size).map(lambda x: f"({x[0]}).shift({x[1]})")
    one = st.one_of(words, causal, causal, moved, shifted, words.map(lambda x: f"({x}).T"))
    joined = st.tuples(one, st.sampled_from(["|", "|", "|", "&", "&", "-", "^"]), one).map(" ".join)
    cut = joined.map(lambda x: f"({x}) & causal")
    return st.one_of(one, joined, joined, cut, st.tuples(joined, one).map(lambda x: f"({x[0]}) | {x[1]}")).filter(
        lambda text: any(name in text.replace("blocks", "").replace("keys", "") for name in ("k", "p", "s"))
    )


def _parsed(text: str) -> Term | None:
    try:
        return pidsl.parse(text)
    except TermError:  # a size that a word does not accept: stride(3, 5)
        return None


KINDS: dict[str, st.SearchStrategy[Any]] = {
    "random": terms(3, ring=True),
    "layers": layered().map(_parsed).filter(lambda term: term is not None),
    "grids": terms(1, grid=True).filter(lambda term: "halo" in repr(term) or "neighborhood" in repr(term)),
    "symbols": open_sizes().map(_parsed).filter(lambda term: term is not None and bool(term.symbols)),
}


# -- what is so --------------------------------------------------------------------------------------------------------


class Truth:
    """A pattern with numbers only, by the masks of its meaning."""

    def __init__(self, text: str, values: dict[str, int]) -> None:
        self.pattern = documented.meaning(text, **values)
        self.mask = lru_cache(maxsize=None)(self.pattern.mask)
        self.after = lru_cache(maxsize=None)(lambda n, layers: documented.layers([self.mask(n)] * layers, n))
        self.live = lru_cache(maxsize=None)(lambda horizon: documented.live(self.pattern, LONGEST, horizon))

    def measure(self, bound: Bound, at: dict[str, int]) -> Any:
        """The quantity of a bound, counted; None where nothing is to be compared: no query, no token."""
        n, layers = bound.argument("n") or at.get("n", 0), bound.argument("layers")
        layers = layers if isinstance(layers, int) else at.get("L", 0)
        match bound.quantity:
            case "pairs":
                return int(self.mask(n).sum())
            case "live keys":
                return self.live(HORIZONS[0])[at["t"]]
            case _ if n == 0:
                return None
            case "degree":
                return int(self.mask(n)[at["i"]].sum()) if at["i"] < n else None
            case "max degree":
                return int(self.mask(n).sum(1).max())
            case "average degree":
                return Fraction(int(self.mask(n).sum()), n)
            case "sparsity":
                return 1 - Fraction(int(self.mask(n).sum()), n * n)
            case "farthest":
                return documented.farthest(self.after(n, layers))
            case "contiguous":
                return documented.contiguous(self.after(n, layers))
            case "depth":
                causal = not np.triu(self.mask(max(LATER)), 1).any()
                return documented.depth([self.mask(n)], bound.argument("of") == "causal" or causal)
        raise ValueError(bound.quantity)


RELATIONS: dict[str, Callable[[Any, Any], bool]] = {
    "==": lambda a, b: a == b, "<=": lambda a, b: a <= b, ">=": lambda a, b: a >= b,
}  # fmt: skip


def points(bound: Bound, draw: random.Random) -> Iterator[dict[str, int]]:
    """Numbers for the variables of a formula: n, i, L and t."""
    if bound.quantity == "live keys":
        yield from ({"t": t} for t in range(LONGEST + 1))
        return
    branches = {int(x) for x in bound.expr.atoms(sympy.Integer) if LONGEST < x < BRANCH}
    past = sorted({b + d for b in branches for d in (0, 1, 2)} | set(LATER))
    lengths = [*range(LONGEST + 1), *(draw.sample(past, 8) if len(past) > 8 else past)]
    if bound.argument("n") is not None:
        lengths = [bound.argument("n")]
    for n in lengths:
        if bound.quantity == "degree":
            rows = range(n) if n <= 12 else {0, n - 1, *(draw.randrange(n) for _ in range(10))}
            yield from ({"n": n, "i": i} for i in rows)
        elif bound.argument("layers") is not None and not isinstance(bound.argument("layers"), int):
            yield from ({"n": n, "L": layers} for layers in range(2 * LAYERS + 1))
        else:
            yield {"n": n}


QUESTIONS: list[tuple[str, Callable[[Term], Bound]]] = [
    ("pairs", ask.pairs),
    ("sparsity", ask.sparsity),
    ("degree", lambda term: ask.degree(term).of_query),
    ("max degree", lambda term: ask.degree(term).maximum),
    ("average degree", lambda term: ask.degree(term).average),
    ("live", ask.live),
    ("farthest", lambda term: ask.farthest(term, LAYERS)),
    ("contiguous", lambda term: ask.contiguous(term, LAYERS)),
    ("farthest, any L", ask.farthest),
    ("contiguous, any L", ask.contiguous),
    ("depth", ask.depth),
    (f"depth at n = {LONGEST}", lambda term: ask.depth(term, LONGEST)),
]


class Worker:
    """A process that visits terms one after another."""

    def __init__(self, kind: str) -> None:
        context = multiprocessing.get_context("fork")
        self.near, far = context.Pipe()
        self.process = context.Process(target=self._work, args=(kind, far), daemon=True)
        self.process.start()
        far.close()

    def _work(self, kind: str, to: Any) -> None:
        self.near.close()
        while True:
            term, asked = to.recv()
            sweep = Sweep(kind, 1)
            sweep.visit(term, asked)
            to.send(sweep)

    def visit(self, term: Term, asked: int, limit: float) -> Sweep | str:
        """What came of a term, or why nothing did."""
        self.near.send((term, asked))
        try:
            if self.near.poll(limit):
                return self.near.recv()  # type: ignore[no-any-return]
            why = f"stopped after {limit} s"
        except EOFError:
            self.process.join()
            why = f"ended with {self.process.exitcode}"
        self.process.kill()
        return why


class Sweep:
    """Questions put to terms of one kind, and what came of them."""

    def __init__(self, kind: str, count: int, limit: float | None = None) -> None:
        self.kind, self.count, self.limit = kind, count, limit
        self.worker: Worker | None = None
        self.begin()

    def begin(self) -> None:
        """Nothing came of anything yet."""
        self.seconds: dict[str, list[float]] = {}
        self.exact: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.unverified: list[str] = []
        self.lost: list[str] = []
        self.slow: list[str] = []
        self.compared = self.checked = self.seen = 0

    def run(self, number: int) -> None:
        known: set[Term] = set()
        for term in (pidsl.window(1), pidsl.window(pidsl.symbols("k"))) if self.limit is not None else ():
            for _, question in QUESTIONS:
                question(term)  # what is imported when it is first needed

        @seed(number)
        @settings(
            max_examples=20 * self.count, database=None, deadline=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(KINDS[self.kind])
        def visit(term: Term) -> None:
            if term not in known and len(known) < self.count:
                known.add(term)
                self.visit(term) if self.limit is None else self.visit_apart(term, self.limit)
                print(f"\r{self.kind}: {len(known)} of {self.count} terms", end="", file=sys.stderr)

        visit()
        print(file=sys.stderr)
        self.seen = len(known)

    def visit_apart(self, term: Term, limit: float) -> None:
        """In another process, which may end or be stopped without harm: the next term gets a new one."""
        if self.worker is None:
            self.worker = Worker(self.kind)
        found = self.worker.visit(term, sum(map(len, self.seconds.values())), limit)
        if isinstance(found, Sweep):
            self._add(found)
        else:
            self.lost.append(f"{term!r}: {found}")
            self.worker = None

    def _add(self, other: Sweep) -> None:
        for name, seconds in other.seconds.items():
            self.seconds.setdefault(name, []).extend(seconds)
        self.exact += other.exact
        self.reasons += other.reasons
        for mine, more in ((self.wrong, other.wrong), (self.unverified, other.unverified), (self.slow, other.slow)):
            mine += more
        self.compared += other.compared
        self.checked += other.checked

    def visit(self, term: Term, asked: int = 0) -> None:
        draw = random.Random(repr(term))
        truths = self._truths(term, draw)
        if not truths:  # no sizes drawn fit the words; where none exist, as in stride(p, p), questions are refused
            return
        for name, question in QUESTIONS:
            start = time.process_time()
            try:
                bound = question(term)
            except PidslError as e:
                raise AssertionError(f"{name} of {term!r}: {e}") from e
            self.seconds.setdefault(name, []).append(time.process_time() - start)
            if self.seconds[name][-1] > SLOW:
                self.slow.append(f"{name} of {term!r}: {self.seconds[name][-1]:.1f} s")
            asked += 1
            self.exact[name] += bound.is_exact
            if not bound.is_exact:
                self.reasons[f"{name}: {bound.reason.splitlines()[0][:60]}"] += 1
            if not bound.is_known:
                continue
            self._compare(name, bound, truths, draw)
            if asked % 10 == 0:
                self.checked += 1
                if not bound.proof.check():
                    self.unverified.append(f"{name} of {term!r}: {bound.proof.verdict().failure}")

    def _truths(self, term: Term, draw: random.Random) -> list[tuple[dict[str, int], Truth]]:
        """The pattern for some values of its symbols, or as it is."""
        if not term.symbols:
            return [({}, Truth(repr(term), {}))]
        found = []
        for _ in range(12):
            values = {name: draw.choice([0, 1, 1, 2, 3, 4, 5, 6, 9, 13]) for name in sorted(term.symbols)}
            try:
                term.bind(**values)  # some values are outside what the words accept
            except PidslError:
                continue
            found.append((values, Truth(repr(term), values)))
        return found

    def _compare(
        self, name: str, bound: Bound, truths: list[tuple[dict[str, int], Truth]], draw: random.Random
    ) -> None:  # fmt: skip
        for values, truth in truths:
            for at in points(bound, draw):
                try:
                    found = bound(**at, **values)
                except SizeError:  # outside the assumptions
                    continue
                wanted = truth.measure(bound, at)
                if wanted is None:
                    continue
                self.compared += 1
                holds = RELATIONS[bound.relation]
                if not holds(wanted, found) and bound.quantity == "live keys":
                    wanted = truth.live(HORIZONS[1])[at["t"]]
                if not holds(wanted, found):
                    at = {**at, **values}
                    self.wrong.append(
                        f"{name} of {bound.shown_subject} at {at}: {bound.relation} {found}, counted {wanted}"
                    )
                    return

    def questions(self) -> dict[str, dict[str, Any]]:
        found = {}
        for name, seconds in self.seconds.items():
            ms = [round(1000 * x, 1) for x in seconds]
            found[name] = {
                "asked": len(ms), "exact": self.exact[name], "median_ms": statistics.median(ms),
                "p90_ms": sorted(ms)[int(0.9 * len(ms))], "max_ms": max(ms),
            }  # fmt: skip
        return found


def report(sweeps: dict[str, Sweep], options: argparse.Namespace) -> dict[str, Any]:
    versions = {"python": platform.python_version(), "islpy": islpy.version.VERSION_TEXT, "sympy": sympy.__version__}
    found: dict[str, Any] = {
        "command": f"python benchmarks/bounds.py --terms {options.terms} --seed {options.seed}",
        "machine": f"{platform.machine()}, {platform.system()}",
        "versions": {**versions, "z3": z3.get_version_string()},
    }
    for kind, sweep in sweeps.items():
        found[kind] = {
            "terms": sweep.seen,
            "questions": sweep.questions(),
            "compared": sweep.compared,
            "checked": sweep.checked,
            "unknown_because": dict(sweep.reasons.most_common()),
            "unverified": sweep.unverified,
            "wrong": sweep.wrong,
            "lost": sweep.lost,
            "slow": sweep.slow,
        }
    return found


if __name__ == "__main__":
    sys.exit(main())
