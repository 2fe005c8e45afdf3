"""Blocks that each call lists: pidsl against dense SDPA and FlexAttention with a BlockMask of the same pairs.

    python benchmarks/chosen_blocks.py              the table, and benchmarks/results/chosen-<device>.json
    python benchmarks/chosen_blocks.py --quick --no-flex

`window(63) & causal | chosen(64, 16)`: for each block of 64 queries of each head 16 distinct blocks of its past, as far
as there are so many, at random. The sides take turns within each round, after warm-up; medians with (min .. max).
FlexAttention is compiled; its mask reads a table of the blocks that are listed, and is built apart, by its own
compiled `create_block_mask`, in blocks of 64, as the lists, and of 128, as it does by itself (it has no backward pass
on the CPU). Lists are given as they are, in int32: the times of
pidsl hold all that is done with them. Errors are against float64 attention under the mask, on some rows.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from peers import ROOT, commit, write_atomically
from torch import Tensor

import pidsl
from pidsl.demo.measure import alternate, default_device, duration, machine, versions

BLOCK, WINDOW = 64, 63
FLEX = BLOCK, 128  # sizes of FlexAttention's blocks: the one of the lists, and its own
Call = Callable[[Tensor, Tensor, Tensor], Any]


def random_lists(heads: int, rows: int, budget: int, seed: int = 0) -> Tensor:
    """int32 [1, heads, rows, budget]: distinct blocks before that of each row, as many as there are; then -1."""
    made = torch.Generator().manual_seed(seed)
    past = torch.arange(rows) < torch.arange(rows)[:, None]
    order = torch.rand(1, heads, rows, rows, generator=made).masked_fill(~past, -1.0).topk(min(budget, rows), -1)
    return torch.where(order.values < 0, -1, order.indices).int()


def block_mask(lists: Tensor, n: int, size: int, setup: dict[str, float]) -> Any:
    """FlexAttention's mask of the pattern under lists, in blocks of some size; how long it took goes to `setup`."""
    from torch.nn.attention import flex_attention as flex

    rows = lists.shape[2]
    table = torch.zeros(*lists.shape[1:3], rows + 1, dtype=torch.bool, device=lists.device)
    table.scatter_(2, torch.where(lists[0] < 0, rows, lists[0]).long(), True)

    def mask_mod(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (i >= j) & ((i - j <= WINDOW) | table[h, i // BLOCK, j // BLOCK])

    build = torch.compile(flex.create_block_mask)
    for name in (f"mask in blocks of {size}, first", f"mask in blocks of {size}"):
        start = time.perf_counter()
        mask = build(mask_mod, None, lists.shape[1], n, n, device=lists.device, BLOCK_SIZE=size)
        setup[name] = time.perf_counter() - start
    return mask


def error(term: pidsl.Term, lists: Tensor, given: Sequence[Tensor], out: Tensor) -> float:
    """The largest difference from float64 on the last row of some blocks of queries."""
    q, k, v = (x[0].double().cpu() for x in given)
    n, worst = q.shape[1], 0.0
    for row in sorted({0, *range(BLOCK - 1, n, max(BLOCK, n // 7 // BLOCK * BLOCK)), n - 1}):
        for head in range(len(q)):
            own = lists[0, head, row // BLOCK : row // BLOCK + 1].cpu().numpy()
            kept = torch.from_numpy(np.array(term.mask(1, n, row, blocks=own)))
            weights = ((q[head, row] @ k[head].T) * q.shape[2] ** -0.5).masked_fill(~kept, -torch.inf).softmax(-1)
            worst = max(worst, float((weights @ v[head] - out[0, head, row].double().cpu()).abs().max()))
    return worst


def compare(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Times of both passes, the sides in turns."""
    made = torch.Generator().manual_seed(0)
    shape = 1, args.heads, args.n, args.head_dim
    given = [torch.randn(shape, generator=made).to(device, getattr(torch, args.dtype)) for _ in range(3)]
    lists = random_lists(args.heads, -(-args.n // BLOCK), args.budget).to(device)
    term = pidsl.window(WINDOW) & pidsl.causal | pidsl.chosen(BLOCK, args.budget)
    kernel: Any = pidsl.compile(term)
    setup: dict[str, float] = {}
    sides: dict[str, Call] = {
        "pidsl": lambda q, k, v: kernel(q, k, v, blocks=lists),
        "dense SDPA": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    }
    if not args.no_flex:
        from torch.nn.attention import flex_attention as flex

        for size in FLEX:
            torch._dynamo.reset()
            mask, attend = block_mask(lists, args.n, size, setup), torch.compile(flex.flex_attention)
            sides[f"FlexAttention, {size}"] = partial(attend, block_mask=mask)
            with torch.no_grad():
                sides[f"FlexAttention, {size}"](*given)
    found: dict[str, Any] = {"setup_seconds": setup, "error": {}}

    def forward(side: Call) -> Callable[[], Any]:
        def call() -> Any:
            with torch.no_grad():
                return side(*given)

        return call

    def both(side: Call) -> Callable[[], Any]:
        def call() -> None:
            side(*(x.detach().requires_grad_() for x in given)).backward(given[2])

        return call

    for name, side in sides.items():
        if name != "dense SDPA":
            found["error"][name] = error(term, lists, given, forward(side)())
    for what, make in (("forward", forward), ("forward+backward", both)):
        able = [x for x in sides if what == "forward" or "Flex" not in x or device.type == "cuda"]
        times = alternate({x: make(sides[x]) for x in able}, args.rounds, device, 1)
        ours = times["pidsl"].median
        found[what] = {
            x: {"median_seconds": t.median, "seconds": list(t.seconds), "times_pidsl": t.median / ours}
            for x, t in times.items()
        }
        for x, t in times.items():
            print(f"  {what:17s} {x:20s} {t}, {t.median / ours:.2f} of pidsl")
    for x, seconds in setup.items():
        print(f"  {x}: {duration(seconds)}")
    print("  errors: " + ", ".join(f"{x} {y:.1e}" for x, y in found["error"].items()))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)
    device = default_device(args.device)
    if args.threads:
        torch.set_num_threads(args.threads)
    report: dict[str, Any] = {
        "command": shlex.join(["python", "benchmarks/chosen_blocks.py", *(sys.argv[1:] if argv is None else argv)]),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "commit": commit(), "machine": machine(device),
        "versions": versions(),
        "shape": {"n": args.n, "heads": args.heads, "head_dim": args.head_dim, "budget": args.budget,
                  "dtype": args.dtype},
    }  # fmt: skip
    print(", ".join(f"{k} {v}" for k, v in (report["machine"] | report["versions"]).items()))
    report |= compare(args, device)
    path = Path(args.out) if args.out else ROOT / "benchmarks" / "results" / f"chosen-{device.type}.json"
    write_atomically(path, json.dumps(report, indent=1) + "\n")
    print(f"\nwritten: {path}")
    return 0


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", help="cpu or cuda (default: the GPU where there is one)")
    parser.add_argument("--dtype", default="float32", help="of q, k and v")
    parser.add_argument("--n", type=int, help="tokens (default 16384; 2048 with --quick)")
    parser.add_argument("--budget", type=int, default=16, help="blocks of 64 keys that are chosen")
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--threads", type=int, help="of torch (default: one for each core)")
    parser.add_argument("--rounds", type=int, help="timed calls of each side (default 7; 3 with --quick)")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--no-flex", action="store_true", help="without FlexAttention, which compiles for a minute")
    parser.add_argument("--out", help="the JSON file (default: benchmarks/results/chosen-<device>.json)")
    args = parser.parse_args(argv)
    args.n = args.n or (2048 if args.quick else 16384)
    args.rounds = args.rounds or (3 if args.quick else 7)
    return args


if __name__ == "__main__":
    sys.exit(main())
