"""Time and memory from a term to its source, warm: other patterns have been compiled, but this one is new.

Two views: the words and some unions by name, and random unions of three words with random sizes. Times are of lowering
and emission; what a backend does with the text (Triton's compilation above all) comes after.
"""

from __future__ import annotations

import math
import random
import statistics
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

import pidsl
from pidsl.codegen.emit_torch.source import torch_source
from pidsl.codegen.emit_triton.source import triton_source
from pidsl.codegen.lower import lower
from pidsl.demo.measure import duration
from pidsl.language.terms import Term

EMIT = {"torch": torch_source, "triton": triton_source}
SEED = 0
UNIONS = 200  # of three words, per backend
WORDS = ("full", "causal", "window", "dilated", "stride", "lags", "ring", "keys", "queries", "blocks")


def vocabulary(x: int) -> dict[str, Term]:
    """The one-dimensional words and unions of three, with sizes that grow with x, so that no cache knows them."""
    window, stride, lags = pidsl.window(200 + x), pidsl.stride(250 + x), pidsl.lags(0, 1, 2, 4, 1024 + x)
    keys, queries, blocks = pidsl.keys(0, 4 + x), pidsl.queries(3 + x, None, 5), pidsl.blocks(100 + x)
    where = pidsl.where(lambda i, j: (i - j) // 8 % 2 == 0) & pidsl.window(300 + x)
    causal = pidsl.causal
    return {
        "causal, shifted": causal.shift(x), "window": window, "window, two-sided": pidsl.window(60 + x, 70),
        "stride": stride, "stride & causal": stride & causal, "stride with phase": pidsl.stride(250 + x, 7) & causal,
        "lags": lags, "ring": pidsl.ring(60 + x), "keys": keys, "queries": queries, "blocks": blocks,
        "dilated window": pidsl.window(31 + x).dilated(8), "blocked window": pidsl.window(3).blocked(60 + x),
        "where": where, "pairs": pidsl.pairs([(0, 1), (5, 2 + x)]),
        "window | stride & causal": window | stride & causal,
        "window | keys & causal": window | keys & causal,
        "window | stride | keys, causal": (window | stride | keys) & causal,
        "window | lags | blocks & causal": window | lags | blocks & causal,
        "blocks | keys | queries": blocks | keys | queries,
        "ring | keys | queries": pidsl.ring(60 + x) | keys | queries,
        "window | window.dilated | stride": window | pidsl.window(31 + x).dilated(8) | stride & causal,
    }  # fmt: skip


def of_words(rounds: int = 5) -> list[dict[str, Any]]:
    """Each word on both backends; and the Python memory that this holds at its peak."""
    rows: list[dict[str, Any]] = []
    sizes = count()  # no backend meets a term whose relation the other one has left in a cache
    for backend in EMIT:
        for name in vocabulary(0):
            row: dict[str, Any] = {"term": name, "backend": backend}
            rows.append(row)
            fresh = (vocabulary(x)[name] for x in sizes)
            try:
                wall, cpu = zip(*(to_source(next(fresh), backend) for _ in range(rounds + 1)), strict=True)
                tracemalloc.start()
                to_source(next(fresh), backend)
                row |= {"seconds": wall[1:], "cpu_seconds": cpu[1:]}  # the first one warmed the code up
                row["peak_python_bytes"] = tracemalloc.get_traced_memory()[1]
            except pidsl.PidslError as e:
                row["failed"] = str(e).splitlines()[0]
                print(f"  {backend:7} {name:34} failed: {row['failed']}", flush=True)
                continue
            finally:
                tracemalloc.stop()
            times = f"{duration(statistics.median(wall[1:])):>8}, cpu {duration(statistics.median(cpu[1:])):>8}"
            print(f"  {backend:7} {name:34} {times} {row['peak_python_bytes'] / 1024:6.0f} KiB", flush=True)
    return rows


def of_unions(rounds: int = 3) -> list[dict[str, Any]]:
    """Median, 90th percentile and maximum over random unions of three words; of each union the median round."""
    rows: list[dict[str, Any]] = []
    sizes = count()
    for backend in EMIT:
        to_source(pidsl.window(7) | pidsl.stride(9) | pidsl.keys(0, 3), backend)
        found = [[to_source(term, backend)[1] for term in unions(next(sizes))] for _ in range(rounds)]
        taken = sorted(zip(map(statistics.median, zip(*found, strict=True)), map(repr, unions(0)), strict=True))
        seconds = [x for x, _ in taken]
        times = {
            "median": statistics.median(seconds), "percentile_90": seconds[len(seconds) * 9 // 10],
            "maximum": seconds[-1],
        }  # fmt: skip
        slowest = [{"term": term, "cpu_seconds": x} for x, term in taken[:-6:-1]]
        about = {"backend": backend, "seed": SEED, "unions": len(seconds), "rounds": rounds}
        rows.append({**about, "cpu_seconds": times, "slowest": slowest})
        said = ", ".join(f"{name.replace('_', ' ')} {duration(x)}" for name, x in times.items())
        print(f"  {backend:7} {len(seconds)} random unions of three words, cpu: {said}", flush=True)
    return rows


def unions(x: int) -> list[Term]:
    """The same unions for every x, with sizes that grow with x."""
    rng = random.Random(SEED)
    words: Sequence[str] = (
        "full",
        "causal",
        "window",
        "dilated",
        "stride",
        "lags",
        "ring",
        "keys",
        "queries",
        "blocks",
    )
    choices = [(word, causal) for word in words for causal in (False, True)]
    return [_union(rng, rng.sample(choices, 3), x) for _ in range(UNIONS)]


def _union(rng: random.Random, words: Sequence[tuple[str, bool]], x: int) -> Term:
    a, b, c = (_word(rng, word, x) & pidsl.causal if causal else _word(rng, word, x) for word, causal in words)
    return a | b | c


def _word(rng: random.Random, word: str, x: int) -> Term:
    """A word with random sizes, small ones as likely as large ones."""

    def size(least: int, most: int) -> int:
        return round(math.exp(rng.uniform(math.log(least), math.log(most)))) + x

    match word:
        case "window":
            return pidsl.window(size(1, 4096), rng.choice([0, 0, size(1, 512)]))
        case "dilated":
            return pidsl.window(size(1, 512), rng.choice([0, 0, size(1, 64)])).dilated(size(2, 64))
        case "stride":
            period = size(2, 1024)
            return pidsl.stride(period, rng.choice([0, 0, rng.randrange(period - x)]))
        case "lags":
            return pidsl.lags(*{rng.choice([0, 1, 2, size(1, 8192)]) for _ in range(rng.randint(1, 6))})
        case "ring":
            return pidsl.ring(size(1, 1024))
        case "keys" | "queries":
            return getattr(pidsl, word)(*rng.choice(list(_ranges(size))))
        case "blocks":
            return pidsl.blocks(size(2, 1024))
        case _:
            return getattr(pidsl, word)


def _ranges(size: Any) -> Iterator[tuple[int | None, ...]]:
    start = size(1, 512)
    yield 0, size(1, 256)
    yield -size(1, 256), None
    yield start, None, size(2, 128)
    yield start, start + size(1, 2048), size(1, 16)
    yield start, -size(1, 64)


def to_source(term: Term, backend: str) -> tuple[float, float]:
    """Seconds on the wall, and of this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    EMIT[backend](lower(term, backend))
    return time.perf_counter() - wall, time.process_time() - cpu
