"""Many devices: bytes that ranks really send against those of the plan, and a model of clusters.

    python benchmarks/devices.py                    all of it, and benchmarks/results/devices.json
    python benchmarks/devices.py --ranks 2,4 --n 1024 --parts measured
    python benchmarks/devices.py --parts model      the model alone, into the file that is there
    python benchmarks/devices.py --page             the tables of docs/explanation/many_devices.md anew, from the file

Measured: processes with gloo on one machine, a sequence in float32; what each collective call of each rank gets from
and sends to others is counted where torch.distributed is called. Beside pidsl: all keys gathered, a ring, and torch's
own context parallel FlexAttention. Results and gradients are compared with those of one process. Times of processes
that share a few cores would say nothing of devices, so there are none. The model is one: benchmarks/devices_model.py
says of what, and its parameters are in the file.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import devices_model
import devices_page
import devices_ranks
import torch
from peers import ROOT, commit, write_atomically

import pidsl
from pidsl.demo.measure import machine, versions
from pidsl.distributed import Shards, plan

TERMS = [
    "window(255)", "window(31) | stride(64) & causal", "window(31, 31) | keys(0, 8) | queries(0, 8)", "causal",
]  # fmt: skip
PARTS = ("measured", "model")


def run(ranks: int, jobs: list[tuple[str, dict[str, int]]]) -> list[list[list[dict[str, Any]]]]:
    """What each rank says of each job: [rank][job][way]."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "pidsl", "devices_ranks"])
    with tempfile.TemporaryDirectory() as folder:
        pipes = [context.Pipe(duplex=False) for _ in range(ranks)]
        started = [
            context.Process(target=devices_ranks.serve, args=(rank, ranks, f"{folder}/store", jobs, pipe[1]))
            for rank, pipe in enumerate(pipes)
        ]
        for process, (_, end) in zip(started, pipes, strict=True):
            process.start()
            end.close()
        try:
            return [mine.recv() for mine, _ in pipes]  # a rank that dies ends its pipe: EOFError
        finally:
            for process in started:
                process.join()


def measured(all_ranks: Sequence[int], shape: dict[str, int]) -> list[dict[str, Any]]:
    """A row for each pattern, number of ranks and way; lists have a number for each rank."""
    rows = []
    for ranks in all_ranks:
        said = run(ranks, [(source, shape) for source in TERMS])
        for job, source in enumerate(TERMS):
            for way, first in enumerate(said[0][job]):
                mine = [said[rank][job][way] for rank in range(ranks)]
                row: dict[str, Any] = {"pattern": source, "ranks": ranks, "way": first["way"]}
                for title in ("forward", "backward"):
                    row[title] = joined([x[title] for x in mine if title in x])
                if first["way"] == "pidsl":
                    row |= planned(source, shape, ranks, first["shards"], row)
                rows.append(row)
                print(described(row), flush=True)
    return rows


def joined(ranks: list[dict[str, Any]]) -> dict[str, Any]:
    """A pass, of all ranks."""
    if not ranks or "does_not_run" in ranks[0]:
        return ranks[0] if ranks else {"does_not_run": "as the forward pass"}
    found = {name: [x[name] for x in ranks] for name in ("received", "sent", "header")}
    return {**found, "error": max(x["error"] for x in ranks)}


def planned(source: str, shape: dict[str, int], ranks: int, shards: list[Any], row: dict[str, Any]) -> dict[str, Any]:
    """What the plan says that each rank gets and sends, whether it does, and why."""
    n, kind, period = shape["n"], *shards
    sizes = {name: shape[name] for name in ("heads", "kv_heads", "head_dim")}
    found = plan(pidsl.parse(source), n, ranks, dtype="fp32", sharding=Shards(n, ranks, kind, period), **sizes)
    bytes_ = {
        title: {"received": volume.received.tolist(), "sent": volume.sent.tolist()}
        for title, volume in (("forward", found.forward), ("backward", found.backward))
    }
    equal = all(row[title][what] == x for title, both in bytes_.items() for what, x in both.items())
    return {"planned": bytes_, "as_planned": equal, "sharding": kind, "reasons": list(found.reasons)}


def described(row: dict[str, Any]) -> str:
    said = []
    for title in ("forward", "backward"):
        of = row[title]
        if "does_not_run" in of:
            said.append(f"{title} does not run: {of['does_not_run'][:60]}")
        else:
            got, sent = (f"{max(of[x]):>9,}" for x in ("received", "sent"))
            said.append(f"{title} {got} got, {sent} sent, error {of['error']:.0e}")
    equal = "" if "as_planned" not in row else f"; as planned: {'yes' if row['as_planned'] else 'NO'}"
    return f"{row['pattern']:44} {row['ranks']} ranks, {row['way']:24} {'; '.join(said)}{equal}"


def model() -> dict[str, Any]:
    parts = devices_model.clusters, devices_model.memory, devices_model.operations
    return {part.__name__: part() for part in parts}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", default="2,4,8", help="numbers of processes")
    parser.add_argument("--n", type=int, default=4096, help="tokens; torch's way wants 128 times the ranks")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "devices.json")
    parser.add_argument("--page", action="store_true", help="see above")
    args = parser.parse_args(argv)
    if args.page:
        page = ROOT / "docs" / "explanation" / "many_devices.md"
        text = devices_page.renewed(page.read_text(encoding="utf-8"), json.loads(args.out.read_text()))
        return int(page.write_text(text, encoding="utf-8") == 0)
    parts = args.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}")
    report: dict[str, Any] = json.loads(args.out.read_text()) if args.out.exists() and len(parts) < len(PARTS) else {}
    about = {
        "command": shlex.join(["python", "benchmarks/devices.py", *(sys.argv[1:] if argv is None else argv)]),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit(), "machine": machine(torch.device("cpu")), "versions": versions(),
    }  # fmt: skip
    report = about | {name: x for name, x in report.items() if name not in about}
    if "measured" in parts:
        shape = {"n": args.n, "heads": 4, "kv_heads": 2, "head_dim": 32}
        rows = measured([int(x) for x in args.ranks.split(",")], shape)
        report["measured"] = {"shape": {"batch": 1, **shape, "dtype": "float32", "backend": "gloo"}, "rows": rows}
    if "model" in parts:
        report["model"] = model()
    write_atomically(args.out, as_json(report) + "\n")
    print(f"\nwritten: {args.out}")
    return int(any(not row.get("as_planned", True) for row in report.get("measured", {}).get("rows", ())))


def as_json(report: dict[str, Any]) -> str:
    """Indented, with a row to a line."""
    rows: list[str] = []

    def short(x: Any) -> Any:
        if isinstance(x, dict):
            return {name: short(y) for name, y in x.items()}
        if isinstance(x, list) and x and isinstance(x[0], dict):
            rows.extend(json.dumps(y) for y in x)
            return [f"@{len(rows) - len(x) + k}@" for k in range(len(x))]
        return x

    text = json.dumps(short(report), indent=1)
    for number, row in enumerate(rows):
        text = text.replace(f'"@{number}@"', row, 1)
    return text


if __name__ == "__main__":
    sys.exit(main())
