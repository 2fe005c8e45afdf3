"""What the machine code of pidsl's GPU kernels says beside FlexAttention's for the same masks, without a GPU.

    python benchmarks/ahead.py                              the ten patterns, D 64 and 128, sm_90, bfloat16
    python benchmarks/ahead.py --only causal,pi --print     these, as tables on the screen; no file is written
    python benchmarks/ahead.py --term "window(63) & stride(4)"      the tables of another pattern
    python benchmarks/ahead.py --target cuda:80             another GPU; hip:gfx942 tells little and has no peer
    python benchmarks/ahead.py --tutorial 06-fused-attention.py     Triton's tutorial beside causal (fetch it yourself)
    python benchmarks/ahead.py --library                    local memory in loops, of all patterns of docs/patterns.md

Every pattern is compiled in a process of its own (ten to thirty seconds per D), and its rows are in the file as soon as
they are known: a run that was stopped goes on where it was, `--again` starts anew. How to read the tables is said in
docs/gpu.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import flex_templates
import gpu_work
import torch
import triton
from gpu_cases import CASES, TOKENS, blocks
from gpu_model import bound, times

import pidsl
from pidsl.codegen.lower import lower
from pidsl.runtime.run_triton.ahead import KernelReport, Problem, compile_ahead
from pidsl.runtime.run_triton.machine_code import GROUPS, LoopReport

HEADS = 16
MODELLED = "cuda:90"
RESULTS = Path(__file__).parent / "results"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="cuda:90", help='"cuda:<compute capability>" or "hip:<architecture>"')
    parser.add_argument("--head-dim", type=int, action="append", help="D; may be given again (default: 64 and 128)")
    parser.add_argument("--only", help="names of patterns, with commas between them; or words of calls with --library")
    parser.add_argument("--print", action="store_true", help="print tables and write no file")
    parser.add_argument("--no-peer", action="store_true", help="pidsl only")
    parser.add_argument("--again", action="store_true", help="what the file has already, too")
    parser.add_argument("--out", type=Path, help="the JSON file (default: benchmarks/results/ahead-TARGET.json)")
    parser.add_argument("--term", help="print the tables of this pattern, which has no peer")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    head_dims = args.head_dim or [64, 128]
    if args.term:
        for head_dim in head_dims:
            reports = compile_ahead(lower(pidsl.parse(args.term), head_dim=head_dim), args.target, head_dim=head_dim)
            print(
                f"\n{args.term}, D {head_dim}, {args.target}\n{table({'pidsl': [row(x) for x in reports]})}", flush=True
            )
        return 0
    names = args.only.split(",") if args.only else list(CASES)
    if unknown := set(names) - set(CASES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(CASES)}")
    if args.worker:
        print(json.dumps(compared(names[0], head_dims[0], args.target, peer=not args.no_peer)))
        return 0
    out = args.out or RESULTS / f"ahead-{args.target.replace(':', '-')}.json"
    found = _begun(out, args)
    for name in names:
        for head_dim in head_dims:
            if str(head_dim) in found["patterns"].get(name, {}) and not (args.again or args.print):
                continue
            entry = _in_a_process(name, head_dim, args)
            if args.print:
                print(f"\n{name} ({CASES[name].source}), D {head_dim}, {args.target}\n{table(entry)}", flush=True)
            else:
                found["patterns"].setdefault(name, {})[str(head_dim)] = entry
                out.write_text(json.dumps(found, indent=1) + "\n")
                print(f"{name} D {head_dim}", flush=True)
    return 0


def _begun(out: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The file so far, when it was made with the same versions."""
    versions = {"python": platform.python_version(), "torch": torch.__version__, "triton": triton.__version__}
    new = {"target": args.target, "dtype": "bfloat16", "heads": HEADS, "versions": versions, "patterns": {}}
    if out.exists() and not args.print:
        old: dict[str, Any] = json.loads(out.read_text())
        if all(old.get(name) == x for name, x in new.items() if name != "patterns"):
            return old
    return new


def _in_a_process(name: str, head_dim: int, args: argparse.Namespace) -> dict[str, Any]:
    environment = {x: value for x, value in os.environ.items() if x != "TRITON_INTERPRET"}
    with tempfile.TemporaryDirectory() as folder:
        environment |= {"PIDSL_CACHE": folder, "TRITON_CACHE_DIR": folder}
        command = [sys.executable, "-W", "ignore", __file__, "--worker", "--only", name, "--head-dim", str(head_dim)]
        command += ["--target", args.target, *(["--no-peer"] if args.no_peer else [])]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def compared(name: str, head_dim: int, target: str, *, peer: bool) -> dict[str, Any]:
    """pidsl's kernels for a pattern, and the peer's; only in a process without TRITON_INTERPRET."""
    case = CASES[name]
    plan = lower(pidsl.parse(case.source), head_dim=head_dim)
    problem = Problem(case.batch, HEADS, HEADS, case.length, case.length)
    ours = compile_ahead(plan, target, torch.bfloat16, head_dim, problem=problem)
    found: dict[str, Any] = {"pidsl": [row(x) for x in ours]}
    if target == MODELLED:
        found["time"] = {"pidsl": modelled(gpu_work.of_plan(plan, ours, case, HEADS, head_dim), head_dim)}
        found["bound_ms"] = bounds(name, head_dim)
    if peer and target.startswith("cuda"):
        try:
            with tempfile.TemporaryDirectory() as folder:
                theirs = [
                    flex_templates.report(case, task, head_dim, HEADS, target, Path(folder))
                    for task in ("forward", "backward")
                ]
            found["flex"] = [row(x) for x in theirs]
            if target == MODELLED:
                tiles = flex_templates.tiles(int(target.partition(":")[2]), head_dim)
                load = gpu_work.of_flex(theirs, name, HEADS, head_dim, tiles)
                found["time"]["flex"] = modelled(load, head_dim)
        except flex_templates.NoTemplates as error:
            found["no_flex"] = str(error)
    return found


def modelled(loads: dict[str, gpu_work.Load], head_dim: int) -> dict[str, Any]:
    """Times in the file, forward and backward."""
    found = {}
    for direction, load in loads.items():
        launches = times(load.works)
        found[direction] = {
            "ms": _ms(sum(x.seconds for x in launches)),
            "limit_ms": _ms(sum(x.limit_seconds for x in launches)),
            "megabytes": round(sum(x.moved_bytes for x in launches) / 1e6, 1),
            "launches": [
                {"kernel": x.name, "ms": _ms(x.seconds), "megabytes": round(x.moved_bytes / 1e6, 1)} for x in launches
            ],
            "walks": [
                {
                    "kernel": name,
                    "programs": len(x),
                    "mean_tiles": round(float(x.mean()), 2),
                    "most_tiles": int(x.max()),
                }
                for name, x in load.tiles
            ],
        }
    return found


def bounds(name: str, head_dim: int) -> dict[str, float]:
    """What exactly the attended pairs and the inputs and results would take, forward (2 products) and backward (5)."""
    pairs = blocks(name).pairs * CASES[name].batch * HEADS
    matrix, per_row = TOKENS * HEADS * head_dim * gpu_work.ITEM, TOKENS * HEADS * 4
    return {
        "forward": _ms(bound(pairs, head_dim, 2, 4 * matrix + per_row)),
        "backward": _ms(bound(pairs, head_dim, 5, 8 * matrix + per_row)),
    }


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 4)


def row(report: KernelReport) -> dict[str, Any]:
    """A kernel in the file."""
    return {
        "kernel": report.name, "warps": report.warps, "stages": report.stages, "registers": report.registers,
        "stack_bytes": report.stack_bytes, "shared_bytes": report.shared_bytes, "programs": report.programs,
        "grids": [x.grid for x in report.launches], "spills": report.spills, "spills_in_loops": report.spills_in_loops,
        "loops": [loop_row(x) for x in report.loops],
    }  # fmt: skip


def loop_row(loop: LoopReport) -> dict[str, Any]:
    """A loop in the file: warp instructions per 64 x 64 pairs (of warp-group products, products)."""

    def tile(*names: str) -> int:
        return round(loop.per_tile(*names))

    counted = {name: tile(*opcodes) for name, opcodes in GROUPS.items()}
    products = {
        name: round(loop.per_tile(name) / (4 if name == "HGMMA" else 1)) for name in ("HGMMA", "HMMA", "UTCHMMA")
    }
    copies = {name: tile(name) for name in ("LDGSTS", "UTMALDG", "LDG", "LDS", "LDSM", "STS")}
    return {
        "masked": loop.masked, "pairs": loop.pairs, "instructions": tile(), "n": list(loop.product_widths),
        **{x: n for x, n in products.items() if n}, "EX2": tile("EX2"), **counted,
        **{x: n for x, n in copies.items() if n}, "wait": loop.wait, "spills": loop.spills, "line": loop.line,
    }  # fmt: skip


COLUMNS = ("instructions", "EX2", *GROUPS)


def table(entry: dict[str, Any]) -> str:
    """The loops of an entry as a table."""
    head = [
        "kernel",
        "warps",
        "pairs",
        "loop",
        "products",
        *COLUMNS,
        "LDGSTS/TMA/LDG",
        "LDS+LDSM/STS",
        "wait",
        "spills",
    ]
    head += ["registers", "stack", "shared KiB", "programs", "line"]
    lines = [head, ["---"] * len(head)]
    for side in ("pidsl", "flex"):
        for kernel in entry.get(side, ()):
            for loop in kernel["loops"] or [None]:
                lines.append([f"{side} {kernel['kernel']}", str(kernel["warps"]), *_cells(loop), *_facts(kernel, loop)])
    for side, directions in entry.get("time", {}).items():
        for direction, found in directions.items():
            text = f"{side} {direction}: {found['ms']} ms [{found['limit_ms']}], bound {entry['bound_ms'][direction]}, "
            text += f"{found['megabytes']} MB; {found['launches']} {found['walks']}"
            lines.append([text])
    if "no_flex" in entry:
        lines.append([f"no FlexAttention: {entry['no_flex']}"])
    widths = [max(len(line[k]) for line in lines if k < len(line) and len(line) > 1) for k in range(len(head))]
    return "\n".join("| " + " | ".join(x.ljust(w) for x, w in zip(line, widths, strict=False)) + " |" for line in lines)


def _cells(loop: dict[str, Any] | None) -> list[str]:
    if loop is None:
        return ["-"] * (3 + len(COLUMNS) + 4)
    products = [f"{loop[x]} {x}" for x in ("HGMMA", "HMMA", "UTCHMMA") if x in loop]
    widths = f" n{'/'.join(map(str, loop['n']))}" if loop["n"] else ""
    copies = "/".join(str(loop.get(x, 0)) for x in ("LDGSTS", "UTMALDG", "LDG"))
    shared = f"{loop.get('LDS', 0) + loop.get('LDSM', 0)}/{loop.get('STS', 0)}"
    kind = "masked" if loop["masked"] else "full"
    counts = [str(loop[x]) for x in COLUMNS]
    return [
        str(loop["pairs"]),
        kind,
        f"{', '.join(products)}{widths}",
        *counts,
        copies,
        shared,
        loop["wait"],
        str(loop["spills"]),
    ]


def _facts(kernel: dict[str, Any], loop: dict[str, Any] | None) -> list[str]:
    used = [str(kernel[x]) for x in ("registers", "stack_bytes")]
    return [*used, str(kernel["shared_bytes"] // 1024), str(kernel["programs"]), str(loop["line"] if loop else "-")]


if __name__ == "__main__":
    sys.exit(main())
