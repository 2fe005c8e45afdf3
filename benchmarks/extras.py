"""Memory of one long forward."""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

import pidsl
from pidsl.demo.measure import MIB, high_water_mark

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
