"""What the machine code of the library's patterns says, without a GPU: registers and spills of every kernel.

    python benchmarks/ahead.py                      all patterns of docs/patterns.md, sm_90, bfloat16, head dim 64
    python benchmarks/ahead.py --only window,halo   those whose call holds one of these words

Each pattern is compiled in a process of its own (about ten seconds); the result is a JSON file with the versions.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton

from pidsl.codegen.lower import lower
from pidsl.patterns.families import families
from pidsl.runtime.run_triton.ahead import KernelReport, compile_ahead


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="cuda:90", help='"cuda:<compute capability>" or "hip:<architecture>"')
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"))
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--only", help="words, one of which the call must hold")
    parser.add_argument("--out", help="the JSON file (default: benchmarks/results/ahead-TARGET.json)")
    args = parser.parse_args()
    words = args.only.split(",") if args.only else [""]
    calls = [call for family in families() for call in family.calls if any(word in call.text for word in words)]
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PIDSL_CACHE"] = os.environ["TRITON_CACHE_DIR"] = folder
        for call in calls:
            plan = lower(call.term, head_dim=args.head_dim)
            reports = compile_ahead(plan, args.target, getattr(torch, args.dtype), args.head_dim)
            rows[call.text] = [_row(report) for report in reports if report.name != "row_statistics"]
            spills = ", ".join(f"{x['kernel']} {x['spills']}" for x in rows[call.text] if x["spills"])
            print(f"{call.text}: {spills or 'no spills'}", flush=True)
    forward = [name for name, found in rows.items() if any(x["spills"] for x in found if "forward" in x["kernel"])]
    print(f"{len(rows)} patterns; forward kernels that spill: {', '.join(forward) or 'none'}")
    out = Path(args.out or Path(__file__).parent / "results" / f"ahead-{args.target.replace(':', '-')}.json")
    versions = {"python": platform.python_version(), "torch": torch.__version__, "triton": triton.__version__}
    found = {
        "command": f"python benchmarks/ahead.py {' '.join(sys.argv[1:])}".strip(), "target": args.target,
        "dtype": args.dtype, "head_dim": args.head_dim, "versions": versions, "forward_spills": forward,
        "patterns": rows,
    }  # fmt: skip
    out.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def _row(report: KernelReport) -> dict[str, Any]:
    tensor_cores = all(loop.hgmma or loop.hmma for loop in report.loops)
    return {
        "kernel": report.name, "warps": report.warps, "registers": report.registers, "spills": report.spills,
        "shared_bytes": report.shared_bytes, "tensor_cores_in_every_loop": tensor_cores,
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
