"""pidsl against its peers: dense SDPA, masked SDPA and compiled FlexAttention.

    python benchmarks/peers.py                      the table, and benchmarks/results/<device>-<n>.json
    python benchmarks/peers.py --cases window,ring --peers pidsl,"dense SDPA" --n 4096 --quick
    python benchmarks/peers.py --memory             peak memory of a long forward, in a fresh process
    python benchmarks/peers.py --compile-time       term to source, and what that allocates

One process; the sides take turns within each round, after warm-up; medians with (min .. max). Errors are the largest
differences from a float64 evaluation of the pattern's predicate on sampled query rows (the gradients: of a loss that
only these rows enter). A side that cannot run is a row that says why.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from cases import CASES, Case
from exact import sample_errors
from sides import SIDES, Ready, Skip
from torch import Tensor

from pidsl.demo.measure import MIB, Times, alternate, default_device, duration, machine, peak_memory, versions

ROOT = Path(__file__).resolve().parent.parent
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def main() -> int:
    args = arguments()
    if args.memory_child:
        from extras import memory_child

        return memory_child(args)
    device = default_device(args.device)
    report: dict[str, Any] = {
        "command": shlex.join(["python", "benchmarks/peers.py", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit(),
        "machine": machine(device),
        "versions": versions(),
    }
    print(", ".join(f"{k} {v}" for k, v in (report["machine"] | report["versions"]).items() if v))
    if args.memory:
        from extras import memory

        report["memory"] = memory(args, device)
        name = f"{device.type}-memory"
    elif args.compile_time:
        from extras import compile_time

        report["compile_time"] = compile_time()
        name = "compile-time"
    else:
        report["shape"] = {
            "batch": args.batch, "heads": args.heads, "n": args.n, "head_dim": args.head_dim, "dtype": args.dtype,
        }  # fmt: skip
        report["rounds"] = args.rounds
        report["results"] = [row for case in args.cases for row in compare(CASES[case], args, device)]
        name = f"{device.type}-{args.n}"
    path = Path(args.out or ROOT / "benchmarks" / "results" / f"{name}.json")
    write_atomically(path, json.dumps(report, indent=1) + "\n")
    print(f"\nwritten: {path}")
    return 0


def compare(case: Case, args: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """The rows of one pattern: every side, forward and forward plus backward."""
    torch.manual_seed(0)
    shape = (args.batch, args.heads, args.n, args.head_dim)
    q, k, v = (torch.randn(shape, device=device).to(DTYPES[args.dtype]) for _ in range(3))
    print(f"\n{case.name}: {case.source}")
    ready: dict[str, Ready] = {}
    rows: dict[str, dict[str, Any]] = {}
    for side in args.peers:
        rows[side] = {"case": case.name, "pattern": case.source, "side": side}
        try:
            ready[side] = SIDES[side](case, q, k)
            rows[side] |= {"setup_seconds": ready[side].setup, "note": ready[side].note}
        except Exception as e:
            rows[side]["failed"] = reason(e)
    passes: dict[str, Callable[[Ready], Callable[[], object]]] = {
        "forward": lambda r: lambda: forward(r, q, k, v),
        "forward+backward": lambda r: lambda: backward(r, q, k, v),
    }
    for pass_, make in passes.items():
        if pass_ == "forward+backward" and args.forward_only:
            continue
        able = {side: make(r) for side, r in ready.items() if pass_ == "forward" or not r.backward}
        for side, r in ready.items():
            if side not in able:
                rows[side][pass_] = {"failed": r.backward}
        for side, call in list(able.items()):  # the first call: compiles, and shows who fails
            try:
                with peak_memory(device) as peak:
                    call()
                rows[side][pass_] = {"peak_bytes": peak.bytes, "peak_is": peak.what}
                with peak_memory(device) as peak:  # the second: what a call needs
                    call()
                rows[side][pass_]["peak_bytes"] = peak.bytes
            except Exception as e:
                rows[side][pass_] = {"failed": reason(e)}
                del able[side]
        for side, times in alternate(able, args.rounds, device, warmup=0 if args.quick else 1).items():
            rows[side][pass_] |= {"seconds": list(times.seconds), "median_seconds": times.median}
    for side, r in ready.items():
        if side != "dense SDPA":
            try:
                rows[side]["errors"] = sample_errors(
                    case, r.attend, q, k, v, gradients=not r.backward and not args.forward_only
                )
            except Exception as e:
                rows[side]["errors"] = {"failed": reason(e)}
    for row in rows.values():
        print_row(row)
    return list(rows.values())


def forward(ready: Ready, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with torch.no_grad():
        return ready.attend(q, k, v)


def backward(ready: Ready, q: Tensor, k: Tensor, v: Tensor) -> None:
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    out = ready.attend(*leaves)
    out.backward(torch.ones_like(out))


def print_row(row: dict[str, Any]) -> None:
    side = f"  {row['side']:14}"
    if "failed" in row:
        print(f"{side} failed: {row['failed']}")
        return
    parts = []
    for pass_, short in (("forward", "fwd"), ("forward+backward", "fwd+bwd")):
        found = row.get(pass_, {})
        if "seconds" in found:
            memory = f"{found['peak_bytes'] / MIB:.0f} MiB"
            parts.append(f"{short} {Times(tuple(found['seconds']))}, {memory}")
        elif found:
            parts.append(f"{short} n/a: {found['failed']}")
    if errors := row.get("errors", {}):
        parts.append(
            "error " + " ".join(f"{k} {x}" if isinstance(x, str) else f"{k} {x:.1e}" for k, x in errors.items())
        )
    setup = ", ".join(f"{name} {duration(s)}" for name, s in row["setup_seconds"].items())
    print(
        f"{side} {' | '.join(parts)}{' | setup ' + setup if setup else ''}{' | ' + row['note'] if row['note'] else ''}",
        flush=True,
    )


def reason(e: Exception) -> str:
    """The first line of an error, short."""
    if isinstance(e, Skip):
        return str(e)
    text = (str(e).strip().splitlines() or [""])[0]
    return f"{type(e).__name__}: {text}"[:160]


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


def arguments() -> argparse.Namespace:
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
    args = parser.parse_args()
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
