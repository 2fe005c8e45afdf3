"""Packed documents: one call against its documents run alone, and against FlexAttention with its document mask.

    python benchmarks/packed.py                     the table, and benchmarks/results/packed-<device>-<n>.json
    python benchmarks/packed.py --quick --no-flex

Causal attention within each of 16 documents of random lengths, forward, one batch entry. The sides take turns within
each round; medians with (min .. max). FlexAttention is compiled, its mask built for every packing by its own
`create_block_mask`, compiled too, and, apart from the rounds as it takes seconds, as it is; beside it, the same mask
made by `pidsl.Packing`. Then sixteen other packings: how often Python or torch compiles something, and how many bytes
are kept after them.
"""

from __future__ import annotations

import argparse
import gc
import json
import shlex
import sys
import time
import tracemalloc
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peers import ROOT, commit, write_atomically
from torch import Tensor
from torch._dynamo.utils import counters

import pidsl
from pidsl.demo.measure import alternate, default_device, duration, machine, synchronize, versions

COMPILED = [0]  # sources that Python compiled while somebody counted


@dataclass(frozen=True)
class Inputs:
    """Tokens of documents one after the other, [T, H, D], and the same as [1, H, T, D]."""

    rows: tuple[Tensor, Tensor, Tensor]
    heads_first: tuple[Tensor, Tensor, Tensor]

    @classmethod
    def random(cls, tokens: int, heads: int, head_dim: int, device: torch.device) -> Inputs:
        generator = torch.Generator().manual_seed(0)
        q, k, v = (torch.randn(tokens, heads, head_dim, generator=generator).to(device) for _ in range(3))
        return cls((q, k, v), tuple(x.transpose(0, 1)[None].contiguous() for x in (q, k, v)))  # type: ignore[arg-type]


def lengths_of(documents: int, tokens: int, seed: int) -> list[int]:
    """Random lengths, one token at least, that sum to `tokens`."""
    generator = torch.Generator().manual_seed(seed)
    cuts = (torch.randperm(tokens - 1, generator=generator)[: documents - 1] + 1).sort().values.tolist()
    return [b - a for a, b in zip([0, *cuts], [*cuts, tokens], strict=True)]


@contextmanager
def counting() -> Any:
    """Count what Python compiles (audit events) and what torch's dynamo does."""
    before = COMPILED[0], sum(counters["stats"].values()) if counters else 0
    found: dict[str, int] = {}
    ACTIVE.append(True)
    try:
        yield found
    finally:
        ACTIVE.pop()
        found["python_sources"] = COMPILED[0] - before[0]
        found["dynamo_graphs"] = (sum(counters["stats"].values()) if counters else 0) - before[1]


ACTIVE: list[bool] = []


def hear(event: str, arguments: object) -> None:
    if ACTIVE and event == "compile":
        COMPILED[0] += 1


def tensor_bytes() -> int:
    """Bytes of all ordinary tensors that are alive."""
    gc.collect()
    storages: dict[int, int] = {}
    for x in gc.get_objects():
        if type(x) is Tensor and x.layout == torch.strided and not (x.is_nested or x.is_meta):
            storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
    return sum(storages.values())


class Flex:
    """FlexAttention, compiled; a packing is a tensor that its mask reads."""

    def __init__(self, tokens: int, device: torch.device) -> None:
        from torch.nn.attention import flex_attention as flex

        self.tokens, self.device = tokens, device
        self.eager = flex.create_block_mask  # holds all pairs
        self.build = torch.compile(flex.create_block_mask)
        self.attend = torch.compile(flex.flex_attention)

    def mask(self, packing: pidsl.Packing, *, eager: bool = False) -> Any:
        """The block mask of causal documents."""
        document = packing.documents.to(self.device)

        def mask_mod(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            return (document[q] == document[k]) & (q >= k)

        build = self.eager if eager else self.build
        return build(mask_mod, None, None, self.tokens, self.tokens, device=self.device)


def compare(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Times of one packing, the sides in turns, and errors against float64."""
    kernel: Any = pidsl.compile(pidsl.causal & pidsl.documents)
    plain: Any = pidsl.compile(pidsl.causal)
    inputs = Inputs.random(args.n, args.heads, args.head_dim, device)
    lengths = lengths_of(args.documents, args.n, seed=0)
    packing = pidsl.Packing.of_lengths(lengths, device)
    ends = packing.cu_seqlens_q
    parts = [
        tuple(x.contiguous() for x in of) for of in zip(*(x.split(lengths, 2) for x in inputs.heads_first), strict=True)
    ]

    def alone() -> list[Tensor]:
        return [plain(*part) for part in parts]

    calls: dict[str, Callable[[], Any]] = {
        "packed": lambda: kernel.packed(*inputs.rows, ends), "documents alone": alone,
        "dense SDPA, documents alone": lambda: [F.scaled_dot_product_attention(*x, is_causal=True) for x in parts],
    }  # fmt: skip
    setup: dict[str, Any] = {}
    if not args.no_flex:
        flex = Flex(args.n, device)
        start = time.perf_counter()
        flex.mask(packing)
        setup["FlexAttention mask, first"] = time.perf_counter() - start
        mask, own = flex.mask(packing), packing.block_mask(pidsl.causal)
        eager = []
        for _ in range(3):
            start = time.perf_counter()
            flex.mask(packing, eager=True)
            eager.append(time.perf_counter() - start)
        setup["FlexAttention's mask, not compiled"] = sorted(eager)[1]
        start = time.perf_counter()
        with torch.no_grad():
            flex.attend(*inputs.heads_first, block_mask=mask)
        setup["FlexAttention compile"] = time.perf_counter() - start
        calls["FlexAttention, mask apart"] = lambda: flex.attend(*inputs.heads_first, block_mask=mask)
        calls["FlexAttention's mask"] = lambda: flex.mask(packing)
        calls["FlexAttention, mask included"] = lambda: flex.attend(*inputs.heads_first, block_mask=flex.mask(packing))
        calls["its mask by pidsl.Packing"] = lambda: packing.block_mask(pidsl.causal)
        calls["FlexAttention, that mask"] = lambda: flex.attend(*inputs.heads_first, block_mask=own)
    with torch.no_grad():
        exact = torch.cat([plain(*(x.double().cpu() for x in part))[0].transpose(0, 1) for part in parts])
        errors = {"packed": float((calls["packed"]().cpu() - exact).abs().max())}
        for name in ("FlexAttention, mask apart", "FlexAttention, that mask"):
            if name in calls:
                errors[name] = float((calls[name]()[0].transpose(0, 1).cpu() - exact).abs().max())
        times = alternate(calls, args.rounds, device, 1)
    rows = {
        name: {"median_seconds": x.median, "seconds": x.seconds, **({"error": errors[name]} if name in errors else {})}
        for name, x in times.items()
    }
    ours = rows["packed"]["median_seconds"]
    ratios = {f"{name} / packed": row["median_seconds"] / ours for name, row in rows.items() if name != "packed"}
    for name, x in times.items():
        print(f"  {name:30s} {x}" + (f", error {errors[name]:.1e}" if name in errors else ""))
    for name, seconds in setup.items():
        print(f"  {name:34s} {duration(seconds)}")
    print("  packed / documents alone " + f"{1 / ratios['documents alone / packed']:.3f}")
    return {"lengths": lengths, "setup_seconds": setup, "sides": rows, "ratios": ratios}


def packings(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Sixteen packings after a first one: compilations and bytes kept, forward and backward."""
    kernel: Any = pidsl.compile(pidsl.causal & pidsl.documents)
    inputs = Inputs.random(args.n, args.heads, args.head_dim, device)

    def call(seed: int) -> None:
        packing = pidsl.Packing.of_lengths(lengths_of(args.documents, args.n, seed), device)
        leaves = [x.detach().requires_grad_() for x in inputs.rows]
        out = kernel.packed(*leaves, packing.cu_seqlens_q)
        out.backward(inputs.rows[2])

    for seed in (1, 2, 3):  # what is kept of any call
        call(seed)
    synchronize(device)
    before = tensor_bytes()
    tracemalloc.start()
    first, _ = tracemalloc.get_traced_memory()
    with counting() as found:
        for seed in range(100, 116):
            call(seed)
    gc.collect()
    python = tracemalloc.get_traced_memory()[0] - first
    tracemalloc.stop()
    kept = tensor_bytes() - before
    print(f"  sixteen packings: {found['python_sources']} sources and {found['dynamo_graphs']} graphs compiled, "
          f"{kept} bytes of tensors and {python} of Python kept")  # fmt: skip
    return {"packings": 16, "compiled": found, "tensor_bytes_kept": kept, "python_bytes_kept": python}


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)
    device = default_device(args.device)
    sys.addaudithook(hear)
    report: dict[str, Any] = {
        "command": shlex.join(["python", "benchmarks/packed.py", *(sys.argv[1:] if argv is None else argv)]),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "commit": commit(), "machine": machine(device),
        "versions": versions(),
        "shape": {"tokens": args.n, "documents": args.documents, "heads": args.heads, "head_dim": args.head_dim},
    }  # fmt: skip
    print(", ".join(f"{k} {v}" for k, v in (report["machine"] | report["versions"]).items()))
    start = time.perf_counter()
    report["sixteen"] = packings(args, device)
    report["forward"] = compare(args, device)
    path = Path(args.out) if args.out else ROOT / "benchmarks" / "results" / f"packed-{device.type}-{args.n}.json"
    write_atomically(path, json.dumps(report, indent=1) + "\n")
    print(f"\nwritten: {path}, after {duration(time.perf_counter() - start)}")
    return 0


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", help="cpu or cuda (default: the GPU where there is one)")
    parser.add_argument("--n", type=int, help="tokens of all documents (default 16384; 1024 with --quick)")
    parser.add_argument("--documents", type=int, default=16)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--rounds", type=int, help="timed calls of each side (default 7; 3 with --quick)")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--no-flex", action="store_true", help="without FlexAttention, which compiles for a minute")
    parser.add_argument("--out", help="the JSON file (default: benchmarks/results/packed-<device>-<n>.json)")
    args = parser.parse_args(argv)
    args.n = args.n or (1024 if args.quick else 16384)
    args.rounds = args.rounds or (3 if args.quick else 7)
    return args


if __name__ == "__main__":
    sys.exit(main())
