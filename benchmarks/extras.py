"""Two more measurements: memory of a long forward, and the time and memory from a term to its source."""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import torch

import pidsl
from pidsl.demo.measure import MIB, duration, high_water_mark
from pidsl.language.terms import Term

LONG = "window(63) | stride(256) & causal"


def memory(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Peak memory of one forward of `LONG`, in a process that does nothing else."""
    command = [
        sys.executable, str(Path(__file__).with_name("peers.py")), "--memory-child", "--device", device.type,
        "--n", str(args.n), "--heads", str(args.heads), "--head-dim", str(args.head_dim), "--batch", str(args.batch),
        "--dtype", args.dtype,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        failed = (done.stderr.strip().splitlines() or ["no output"])[-1]
        print(f"failed: {failed}")
        return {"failed": failed, "command": shlex.join(command[1:])}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{LONG}, n = {args.n}, H = {args.heads}, D = {args.head_dim}, {args.dtype}: one forward")
    for name, value in found.items():
        print(f"  {name:42} {value / MIB:9.0f} MiB" if name.endswith("bytes") else f"  {name:42} {value:9.3f}")
    return {"pattern": LONG, "n": args.n, "heads": args.heads, "head_dim": args.head_dim, **found}


def memory_child(args: argparse.Namespace) -> int:
    torch.manual_seed(0)
    shape = (args.batch, args.heads, args.n, args.head_dim)
    q, k, v = (torch.randn(shape, device=args.device).to(getattr(torch, args.dtype)) for _ in range(3))
    found: dict[str, float] = {"before_bytes": high_water_mark()}
    start = time.perf_counter()
    with torch.no_grad():
        pidsl.compile(pidsl.parse(LONG))(q, k, v)
    if args.device == "cuda":
        torch.cuda.synchronize()
        found["cuda_peak_bytes"] = torch.cuda.max_memory_allocated()
    found["seconds"] = time.perf_counter() - start
    found["peak_resident_bytes"] = high_water_mark()
    print(json.dumps(found))
    return 0


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


def compile_time(rounds: int = 5) -> list[dict[str, Any]]:
    """Warm time from term to source, both backends; and the Python memory that this holds at its peak."""
    rows: list[dict[str, Any]] = []
    for backend in ("torch", "triton"):
        for name in vocabulary(0):
            row: dict[str, Any] = {"term": name, "backend": backend}
            rows.append(row)
            try:
                wall, cpu = zip(*(_to_source(vocabulary(x)[name], backend) for x in range(rounds + 1)), strict=True)
                tracemalloc.start()
                _to_source(vocabulary(rounds + 1)[name], backend)
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


def _to_source(term: Term, backend: str) -> tuple[float, float]:
    """Seconds on the wall, and of this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    pidsl.compile(term, backend=backend).source()
    return time.perf_counter() - wall, time.process_time() - cpu
