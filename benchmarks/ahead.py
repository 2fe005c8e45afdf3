"""What the machine code of pidsl's GPU kernels says beside FlexAttention's for the same masks, without a GPU.

    python benchmarks/ahead.py                              the ten patterns, D 64 and 128, sm_90, bfloat16
    python benchmarks/ahead.py --only causal,pi --print     these, as tables on the screen; no file is written
    python benchmarks/ahead.py --term "window(63) & stride(4)"      the tables of another pattern
    python benchmarks/ahead.py --target cuda:80             another GPU; hip:gfx942 tells little and has no peer
    python benchmarks/ahead.py --check                      what must hold, of the file as it is
    python benchmarks/ahead.py --page                       the tables of docs/explanation/gpu.md anew, from the file
    python benchmarks/ahead.py --library                    all patterns of docs/reference/patterns.md, without a peer
    python benchmarks/ahead.py --ragged                     packed documents and decoding, and what must hold of those
    python benchmarks/ahead.py --tutorial 06-fused-attention.py     Triton's tutorial (fetch it yourself)

Every pattern is compiled in a process of its own (five to twenty seconds per D), and its rows are in the file as soon
as they are known: a run that was stopped goes on where it was, `--again` starts anew. How to read the tables is said in
docs/explanation/gpu.md.
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

import gpu_ragged
import gpu_tables
import torch
import triton
from gpu_cases import CASES
from gpu_entries import HEADS, MODELLED, compared, compiled, of_library, slim
from gpu_limits import broken, unexpected

from pidsl.patterns.families import families

RESULTS = Path(__file__).parent / "results"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="cuda:90", help='"cuda:<compute capability>" or "hip:<architecture>"')
    parser.add_argument("--head-dim", type=int, action="append", help="D; may be given again (default: 64 and 128)")
    parser.add_argument("--only", help="names of patterns, with commas between them; with --library words of calls")
    parser.add_argument("--no-peer", action="store_true", help="pidsl only")
    parser.add_argument("--again", action="store_true", help="what the file has already, too")
    parser.add_argument("--out", type=Path, help="the JSON file (default: benchmarks/results/ahead-TARGET.json)")
    for name in ("print", "check", "page", "library", "ragged"):
        parser.add_argument(f"--{name}", action="store_true", help="see above")
    parser.add_argument("--term", help="see above")
    parser.add_argument("--tutorial", type=Path, help="see above")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.head_dim = args.head_dim or [64, 128]
    kind = "library-" if args.library else ""
    out = args.out or RESULTS / f"ahead-{kind}{args.target.replace(':', '-')}.json"
    if args.worker:
        print(json.dumps(_work(args)))
    elif args.check:
        if args.target != MODELLED:
            parser.error(f"what must hold is said for {MODELLED} only")
        said = unexpected(broken(json.loads(out.read_text())))
        print("\n".join([*said, f"{len(said)} of what must hold does not"] if said else ["all of it holds"]))
        return int(bool(said))
    elif args.ragged:
        return int(bool(gpu_ragged.report(args.target, args.head_dim)))
    elif args.page:
        gpu_tables.renew(json.loads(out.read_text()))
    elif args.term or args.tutorial:
        for head_dim in args.head_dim:
            print(f"\n{args.term or args.tutorial}, D {head_dim}, {args.target}")
            print(gpu_tables.table(_in_a_process(args.term or "tutorial", head_dim, args)), flush=True)
    else:
        _run(_chosen(parser, args), out, args)
    return 0


def _chosen(parser: argparse.ArgumentParser, args: argparse.Namespace) -> list[str]:
    """What is compiled: names of the ten patterns, or calls of the library."""
    if args.library:
        words = args.only.split(",") if args.only else [""]
        return [x.text for family in families() for x in family.calls if any(word in x.text for word in words)]
    names: list[str] = args.only.split(",") if args.only else list(CASES)
    if unknown := set(names) - set(CASES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(CASES)}")
    return names


def _run(names: list[str], out: Path, args: argparse.Namespace) -> None:
    found = _begun(out, args)
    for name in names:
        for head_dim in args.head_dim:
            if str(head_dim) in found["patterns"].get(name, {}) and not (args.again or args.print):
                continue
            entry = _in_a_process(name, head_dim, args)
            if args.print:
                print(f"\n{name}, D {head_dim}, {args.target}\n{gpu_tables.table(entry)}", flush=True)
            else:
                found["patterns"].setdefault(name, {})[str(head_dim)] = slim(entry) if args.library else entry
                out.write_text(gpu_tables.as_json(found) + "\n")
                print(f"{name} D {head_dim}", flush=True)


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
    """An entry, made without TRITON_INTERPRET and with caches of its own."""
    environment = {x: value for x, value in os.environ.items() if x != "TRITON_INTERPRET"}
    with tempfile.TemporaryDirectory() as folder:
        environment |= {"PIDSL_CACHE": folder, "TRITON_CACHE_DIR": folder}
        command = [sys.executable, "-W", "ignore", __file__, "--worker", name, "--head-dim", str(head_dim)]
        command += ["--target", args.target, *(f"--{x}" for x in ("library",) if getattr(args, x))]
        command += ["--no-peer"] if args.no_peer else []
        command += ["--term", args.term] if args.term else []
        command += ["--tutorial", str(args.tutorial)] if args.tutorial else []
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _work(args: argparse.Namespace) -> dict[str, Any]:
    """What the process of an entry does."""
    (head_dim,) = args.head_dim
    if args.tutorial:
        from triton_tutorial import reports

        return {"tutorial": compiled(reports(args.tutorial, head_dim, args.target), head_dim)}
    if args.term or args.library:
        return of_library(args.worker, head_dim, args.target, call=args.library)
    return compared(args.worker, head_dim, args.target, peer=not args.no_peer)


if __name__ == "__main__":
    sys.exit(main())
