"""A step of decoding: `kernel.decode` over the derived cache against attention over the attended keys alone.

    python benchmarks/decode.py                    the table, and benchmarks/results/<device>-decode.json
    python benchmarks/decode.py --tokens 8192 --rounds 20

At `--tokens` tokens, of each shape: attention over the keys that the last token attends, gathered beforehand, by
torch's scaled_dot_product_attention and by a pidsl kernel; a step over the derived cache, without and with its append;
and a step over all keys where memory has room for them, by `kernel(q, k, v, offset=t)` with another t each time. One
process; the sides take turns within each round, medians with (min .. max). The memory of each cache stands beside the
bound that is proved for it.
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
import torch.nn.functional as F

import pidsl
from pidsl.demo.measure import default_device, machine, versions

ROOT = Path(__file__).resolve().parent.parent
SHAPES = ((1, 8, 8, 64), (1, 32, 8, 128), (8, 32, 8, 128))  # batch, query heads, key heads, head dim
ROOM = 1 << 31  # bytes of all keys and values, beyond which there is no side with all of them
PATTERNS = {
    "window(255)": "window(255)",
    "sinks": "window(255) | keys(0, 4) & causal",
    "comb": "(window(63) | keys(0, None, 256)) & causal",
    "skip": "window(63) | lags(1024)",
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--tokens", type=int, default=131072)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--out")
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    device = default_device(None)
    report: dict[str, Any] = {
        "command": shlex.join(["python", "benchmarks/decode.py", *(sys.argv[1:] if argv is None else argv)]),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine(device),
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "steps": [],
    }
    for name, text in PATTERNS.items():
        for shape in SHAPES:
            row = step(text, shape, args.tokens, args.rounds, device)
            report["steps"].append({"pattern": text, **row})
            print(f"{name}, batch {shape[0]}, heads {shape[1]} on {shape[2]}, head dim {shape[3]}: {row['keys']} keys")
            for side, times in row["microseconds"].items():
                low, high = min(times), max(times)
                print(f"    {side:34} {statistics.median(times):8.0f} us  ({low:.0f} .. {high:.0f})")
            print(f"    cache: {row['cache_keys']} keys kept, {row['live_keys']} live, as proved: {row['bound']}")
    path = Path(args.out) if args.out else ROOT / "benchmarks" / "results" / f"{device.type}-decode.json"
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"\nwritten: {path}")
    return 0


def step(text: str, shape: tuple[int, ...], tokens: int, rounds: int, device: torch.device) -> dict[str, Any]:
    """What one step takes on each side, in microseconds, side by side."""
    batch, heads, kv_heads, dim = shape
    term = pidsl.parse(text)
    kernel: Any = pidsl.compile(term)
    made = torch.Generator(device).manual_seed(0)

    def normal(heads: int, count: int) -> torch.Tensor:
        return torch.randn(batch, heads, count, dim, generator=made, device=device)

    cache = pidsl.Cache(kernel, batch, kv_heads, dim, torch.float32, device, max_tokens=2 * tokens)
    for first in range(0, tokens, 4096):
        count = min(4096, tokens - first)
        cache.append(normal(kv_heads, count), normal(kv_heads, count))
    q, new = normal(heads, 1), (normal(kv_heads, 1), normal(kv_heads, 1))
    attended = int(term.mask(1, tokens, offset=tokens - 1).sum())  # type: ignore[union-attr]
    k, v = normal(kv_heads, attended), normal(kv_heads, attended)
    dense = pidsl.compile(pidsl.causal)

    def appended() -> None:
        cache.append(*new)
        kernel.decode(q, cache)

    sides: dict[str, Callable[[], Any]] = {
        "attended keys alone, torch": lambda: F.scaled_dot_product_attention(q, k, v, enable_gqa=heads != kv_heads),
        "attended keys alone, pidsl": lambda: dense(q, k, v, offset=attended - 1),
        "kernel.decode": lambda: kernel.decode(q, cache),
        "append and kernel.decode": appended,
    }
    if 2 * batch * kv_heads * tokens * dim * 4 <= ROOM:
        all_k, all_v = normal(kv_heads, tokens), normal(kv_heads, tokens)
        at = [tokens - 3 * rounds]

        def over_all() -> None:
            at[0] += 1
            kernel(q, all_k, all_v, offset=at[0])

        sides["all keys, kernel(..., offset=t)"] = over_all
    times: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(rounds + 5):
        for side, run in sides.items():
            start = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number >= 5:
                times[side].append(1e6 * (time.perf_counter() - start))
    live = cache.bound
    at_now = int(live.expr.subs({x: int(cache.tokens[0]) for x in live.expr.free_symbols}))
    return {
        "shape": list(shape), "tokens": tokens, "keys": attended, "microseconds": times,
        "cache_keys": cache.keys.shape[2], "live_keys": at_now, "cache_bytes": cache.nbytes, "bound": str(live.expr),
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
