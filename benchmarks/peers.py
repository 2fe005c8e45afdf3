"""pidsl against its peers: dense SDPA, masked SDPA and compiled FlexAttention.

    python benchmarks/peers.py                      the table, and benchmarks/results/<device>-<n>.json
    python benchmarks/peers.py --cases window,ring --peers pidsl,"dense SDPA" --quick
    python benchmarks/peers.py --memory             peak memory of a long forward, in a fresh process
    python benchmarks/peers.py --compile-time       term to source for the words and for random unions of three

One process; the sides take turns within each round, after warm-up; medians with (min .. max). Errors are the largest
differences from a float64 evaluation of the pattern's predicate on sampled query rows (the gradients: of a loss that
only these rows enter). A side that cannot run is a row that says why. Results are written after every pattern.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from cases import CASES
from compare import Inputs, compare, describe
from compile_time import of_unions, of_words
from extras import memory, memory_child
from sides import SIDES

from pidsl.demo.measure import default_device, machine, versions

ROOT = Path(__file__).resolve().parent.parent
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)
    if args.memory_child:
        return memory_child(args)
    device = default_device(args.device)
    report: dict[str, Any] = {
        "command": shlex.join(["python", "benchmarks/peers.py", *(sys.argv[1:] if argv is None else argv)]),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit(),
        "machine": machine(device),
        "versions": versions(),
    }
    print(", ".join(f"{k} {v}" for k, v in (report["machine"] | report["versions"]).items()))
    name, parts = stages(args, device)
    path = Path(args.out) if args.out else ROOT / "benchmarks" / "results" / f"{name}.json"
    for part in parts:
        report |= part
        write_atomically(path, json.dumps(report, indent=1) + "\n")
    print(f"\nwritten: {path}")
    return 0


def stages(args: argparse.Namespace, device: torch.device) -> tuple[str, Iterable[dict[str, Any]]]:
    """The name of what is measured, and the report as it grows."""
    if args.memory:
        return f"{device.type}-memory", ({"memory": memory(args, device)} for _ in range(1))
    if args.compile_time:
        measures = {"compile_time": of_words, "compile_time_of_unions": of_unions}
        return "compile-time", ({name: measure()} for name, measure in measures.items())
    return f"{device.type}-{args.n}", comparison(args, device)


def comparison(args: argparse.Namespace, device: torch.device) -> Iterable[dict[str, Any]]:
    """The table, pattern by pattern."""
    shape = (args.batch, args.heads, args.n, args.head_dim)
    inputs = Inputs.random(shape, DTYPES[args.dtype], device)
    about = {"batch": shape[0], "heads": shape[1], "n": shape[2], "head_dim": shape[3], "dtype": args.dtype}
    results: list[dict[str, Any]] = []
    for name in args.cases:
        print(f"\n{name}: {CASES[name].source}")
        rows = compare(
            CASES[name], args.peers, inputs, rounds=args.rounds, warmup=0 if args.quick else 1,
            backward=not args.forward_only,
        )  # fmt: skip
        for row in rows:
            print(describe(row), flush=True)
        results += rows
        yield {"shape": about, "rounds": args.rounds, "results": results}


def commit() -> str:
    """The commit of this checkout, with a mark when files differ from it."""

    def git(*command: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *command], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        return (git("rev-parse", "HEAD") or "none") + (" with changes" if git("status", "--porcelain") else "")
    except OSError:
        return "unknown: no git"


def write_atomically(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(text)
    part.replace(path)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", help="cpu or cuda (default: the GPU where there is one)")
    parser.add_argument("--n", type=int, help="tokens (default 16384; 262144 with --memory)")
    parser.add_argument("--heads", type=int, help="default 4; 1 with --memory")
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--rounds", type=int, help="timed calls of each side (default 5; 3 with --quick)")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, n = 4096")
    parser.add_argument("--forward-only", action="store_true")
    parser.add_argument("--cases", type=names(CASES), default=list(CASES), help=f"of {', '.join(CASES)}")
    parser.add_argument("--peers", type=names(SIDES), default=list(SIDES), help=f"of {', '.join(SIDES)}")
    parser.add_argument("--memory", action="store_true", help="peak memory of one long forward")
    parser.add_argument("--memory-child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--compile-time", action="store_true", help="term to source")
    parser.add_argument("--out", help="the JSON file (default: benchmarks/results/NAME.json)")
    args = parser.parse_args(argv)
    long = args.memory or args.memory_child
    args.n = args.n or (262144 if long else 4096 if args.quick else 16384)
    args.heads = args.heads or (1 if long else 4)
    args.rounds = args.rounds or (3 if args.quick else 5)
    return args


def names(known: dict[str, Any]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        chosen = [name.strip() for name in text.split(",")]
        if unknown := [name for name in chosen if name not in known]:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}")
        return chosen

    return parse


if __name__ == "__main__":
    sys.exit(main())
