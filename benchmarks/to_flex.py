"""BlockMasks from the relation, `pidsl.to_flex`, beside FlexAttention's own `create_block_mask` of the same masks.

    python benchmarks/to_flex.py                    the table, and benchmarks/results/to-flex-<device>.json
    python benchmarks/to_flex.py --quick

`to_flex(term).block_mask(n)` in a process that has made none of this term before (first), and again (median of the
rounds). `create_block_mask` evaluates the mask for every pair of positions, so it is run at the largest length whose
pairs fit in memory (16384 take up to 15 GiB), once with the same `mask_mod`; there both are compared, tile for tile.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from peers import ROOT, commit, write_atomically
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

import pidsl
from pidsl.demo.measure import default_device, duration, machine, versions

TERMS = [
    "causal",
    "window(1023)",
    "window(63) | stride(256) & causal",
    "keys(0, 4) & causal | window(1023)",
    "causal | keys(0, 1024)",
    "blocks(8192) & causal",
    "window(63).dilated(64)",
    "window(511) | lags(1024, 4096, 16384, 65536)",
    "heads([(4, window(127)), (4, window(1023)), (8, causal)])",
    "neighborhood((256, 512), (13, 13))",
]


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    found = call()
    return time.perf_counter() - start, found


def tiles(mask: BlockMask) -> list[torch.Tensor]:
    """Which tiles are partial, and which full, as truth values."""
    out = []
    for number, which in ((mask.kv_num_blocks, mask.kv_indices), (mask.full_kv_num_blocks, mask.full_kv_indices)):
        at = torch.arange(which.shape[-1], device=which.device) < number[..., None]
        found = torch.zeros(which.shape, dtype=torch.int32, device=which.device)
        out.append(found.scatter_add_(-1, which.long(), at.int()))  # behind the number are others, or the same again
    return out


def measured(text: str, args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    term: Any = pidsl.parse(text)
    own = len(term) if isinstance(term, pidsl.Heads) else None
    first, _ = timed(lambda: pidsl.to_flex(term, device=device).block_mask(args.n))
    again = [timed(lambda: pidsl.to_flex(term, device=device).block_mask(args.n))[0] for _ in range(args.rounds)]
    length = args.evaluated if own is None else args.evaluated // 4
    flex = pidsl.to_flex(term, length, device=device)
    sizes = (None, own, length, length)
    evaluated, theirs = timed(lambda: create_block_mask(flex.mask_mod, *sizes, device=str(device)))
    small, ours = timed(lambda: flex.block_mask())
    same = all(torch.equal(x, y) for x, y in zip(tiles(ours), tiles(theirs), strict=True))
    said = [duration(x) for x in (first, statistics.median(again), small, evaluated)]
    print(f"  {text:58s} {said[0]:>9s} {said[1]:>9s}   at {length:6d}: {said[2]:>9s} {said[3]:>9s}  "
          f"{'equal' if same else 'DIFFERENT'}", flush=True)  # fmt: skip
    return {
        "term": text, "n": args.n, "first_seconds": first, "seconds": again,
        "median_seconds": statistics.median(again),
        "evaluated": {"n": length, "create_block_mask_seconds": evaluated, "to_flex_seconds": small, "equal": same},
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)
    device = default_device(args.device)
    report: dict[str, Any] = {
        "command": shlex.join(["python", "benchmarks/to_flex.py", *(sys.argv[1:] if argv is None else argv)]),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "commit": commit(), "machine": machine(device),
        "versions": versions(), "block_size": 128,
    }  # fmt: skip
    print(", ".join(f"{k} {v}" for k, v in (report["machine"] | report["versions"]).items()))
    print(f"BlockMasks of {args.n} tokens: first, again; beside create_block_mask at a length that fits")
    pidsl.to_flex(pidsl.window(3)).block_mask(300)  # imports
    create_block_mask(lambda b, h, q, k: q >= k, None, None, 256, 256, device=str(device))
    report["rows"] = [measured(text, args, device) for text in TERMS]
    path = Path(args.out) if args.out else ROOT / "benchmarks" / "results" / f"to-flex-{device.type}.json"
    write_atomically(path, json.dumps(report, indent=1) + "\n")
    print(f"\nwritten: {path}")
    return 0 if all(row["evaluated"]["equal"] for row in report["rows"]) else 1


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", help="cpu or cuda (default: the GPU where there is one)")
    parser.add_argument("--n", type=int, default=131072, help="tokens (default 131072)")
    parser.add_argument("--evaluated", type=int, help="tokens for create_block_mask (16384; quick: 1024)")
    parser.add_argument("--rounds", type=int, help="timed calls (default 7; 3 with --quick)")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", help="the JSON file (default: benchmarks/results/to-flex-<device>.json)")
    args = parser.parse_args(argv)
    args.evaluated = args.evaluated or (1024 if args.quick else 16384)
    args.rounds = args.rounds or (3 if args.quick else 7)
    return args


if __name__ == "__main__":
    sys.exit(main())
