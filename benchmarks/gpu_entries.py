"""A pattern's entry in a results file of benchmarks/ahead.py: kernels, their loops, and modelled times."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import flex_templates
import gpu_work
import torch
from gpu_cases import CASES, TOKENS, blocks
from gpu_model import bound, times

import pidsl
from pidsl.codegen.lower import lower
from pidsl.patterns.families import families
from pidsl.runtime.run_triton.ahead import KernelReport, Problem, compile_ahead
from pidsl.runtime.run_triton.machine_code import GROUPS, TENSOR, LoopReport

HEADS = 16
MODELLED = "cuda:90"


def compared(name: str, head_dim: int, target: str, *, peer: bool) -> dict[str, Any]:
    """pidsl's kernels for a pattern, and the peer's; only in a process without TRITON_INTERPRET."""
    case = CASES[name]
    plan = lower(pidsl.parse(case.source), head_dim=head_dim, target=target)
    problem = Problem(case.batch, HEADS, HEADS, case.length, case.length)
    ours = compile_ahead(plan, target, torch.bfloat16, head_dim, problem=problem)
    found: dict[str, Any] = {"pidsl": compiled(ours, head_dim)}
    if target == MODELLED:
        found["time"] = {"pidsl": modelled(gpu_work.of_plan(plan, ours, case, HEADS, head_dim))}
        found["compulsory_megabytes"], found["bound_ms"] = bounds(name, head_dim)
    if peer and target.startswith("cuda"):
        try:
            with tempfile.TemporaryDirectory() as folder:
                theirs = [
                    flex_templates.report(case, task, head_dim, HEADS, target, Path(folder))
                    for task in ("forward", "backward")
                ]
            found["flex"] = compiled(theirs, head_dim)
            if target == MODELLED:
                tiles = flex_templates.tiles(int(target.partition(":")[2]), head_dim)
                load = gpu_work.of_flex(theirs, name, HEADS, head_dim, tiles)
                found["time"]["flex"] = modelled(load)
        except flex_templates.NoTemplates as error:
            found["no_flex"] = str(error)
    return found


def of_library(what: str, head_dim: int, target: str, *, call: bool) -> dict[str, Any]:
    """pidsl's kernels for a call of docs/reference/patterns.md, or for the text of a term."""
    term = next(x.term for family in families() for x in family.calls if x.text == what) if call else pidsl.parse(what)
    return {
        "pidsl": compiled(
            compile_ahead(lower(term, head_dim=head_dim, target=target), target, head_dim=head_dim), head_dim
        )
    }


def slim(entry: dict[str, Any]) -> dict[str, Any]:
    """What is kept of an entry of the library, of which there are many."""
    kernel = ("kernel", "pieces", "splits", "warps", "stages", "registers", "stack_bytes", "spills", "spills_in_loops")
    loop = ("masked", "instructions", "n", "HGMMA", "wait", "spills", "line")
    return {
        "pidsl": [
            {x: row[x] for x in kernel} | {"loops": [{x: own[x] for x in loop if x in own} for own in row["loops"]]}
            for row in entry["pidsl"]
        ]
    }


def compiled(reports: list[KernelReport], head_dim: int) -> list[dict[str, Any]]:
    """The kernels in the file: those with loops or local memory, and all of a target whose machine code is not read."""
    return [row(x, head_dim) for x in reports if x.loops or x.spills or not x.instructions]


def modelled(loads: dict[str, gpu_work.Load]) -> dict[str, Any]:
    """Times in the file, forward and backward; launches of one kernel are added up."""
    found: dict[str, Any] = {}
    for direction, load in loads.items():
        launches = times(load.works)
        kernels = {name: [x for x in launches if x.name == name] for name in dict.fromkeys(x.name for x in launches)}
        found[direction] = {
            "ms": _ms(sum(x.seconds for x in launches)),
            "limit_ms": _ms(sum(x.limit_seconds for x in launches)),
            "megabytes": _megabytes(sum(x.moved_bytes for x in launches)),
            "launches": [
                {
                    "kernel": name, "launches": len(own), "ms": _ms(sum(x.seconds for x in own)),
                    "megabytes": _megabytes(sum(x.moved_bytes for x in own)),
                }
                for name, own in kernels.items()
            ],
            "walks": [_walks(name, load) for name in dict.fromkeys(x for x, _, _ in load.tiles)],
        }  # fmt: skip
    return found


def _walks(name: str, load: gpu_work.Load) -> dict[str, Any]:
    """What the programs of a kernel walk, of those that walk at all; the mean is of whole walks."""
    mine = [(tiles[tiles > 0], parts) for own, tiles, parts in load.tiles if own == name]
    walks = sum(len(tiles) / parts for tiles, parts in mine)
    return {
        "kernel": name, "programs": sum(len(tiles) for tiles, _ in mine),
        "most_tiles": max(int(tiles.max(initial=0)) for tiles, _ in mine),
        "mean_tiles": round(sum(int(tiles.sum()) for tiles, _ in mine) / max(walks, 1), 2),
    }  # fmt: skip


def bounds(name: str, head_dim: int) -> tuple[dict[str, float], dict[str, float]]:
    """Megabytes of inputs and results; and milliseconds that exactly the attended pairs and these bytes would take.

    Forward has 2 products per pair, backward 5.
    """
    pairs = blocks(name).pairs * CASES[name].batch * HEADS
    matrix, per_row = TOKENS * HEADS * head_dim * gpu_work.ITEM, TOKENS * HEADS * 4
    moved = {"forward": 4 * matrix + per_row, "backward": 8 * matrix + per_row}
    products = {"forward": 2, "backward": 5}
    found = {x: _ms(bound(pairs, head_dim, products[x], size)) for x, size in moved.items()}
    return {x: _megabytes(size) for x, size in moved.items()}, found


def _megabytes(size: float) -> float:
    return round(size / 1e6, 1)


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 4)


def row(report: KernelReport, head_dim: int) -> dict[str, Any]:
    """A kernel in the file."""
    pieces, numbers = (report.launches[0].pieces, report.launches[0].numbers) if report.launches else ((), {})
    return {
        "kernel": report.name, "pieces": list(pieces), "splits": numbers.get("SPLITS", 1),
        "warps": report.warps, "stages": report.stages, "registers": report.registers,
        "stack_bytes": report.stack_bytes, "shared_bytes": report.shared_bytes, "programs": report.programs,
        "launches": len(report.launches), "grid": sum(x.grid for x in report.launches), "spills": report.spills,
        "spills_in_loops": report.spills_in_loops, "loops": [loop_row(x, head_dim) for x in report.loops],
    }  # fmt: skip


def loop_row(loop: LoopReport, head_dim: int) -> dict[str, Any]:
    """A loop in the file: warp instructions per 64 x 64 pairs, and products."""

    def tile(*names: str) -> int:
        return round(loop.per_tile(*names))

    counted = {name: tile(*opcodes) for name, opcodes in GROUPS.items()}
    issued = {"HGMMA": 4, "HMMA": 1, "UTCHMMA": loop.warps}  # by so many warps together
    products = {x: round(loop.per_tile(x) / issued[x]) for x in TENSOR}
    copies = {x: tile(x) for x in ("LDGSTS", "UTMALDG", "LDG", "LDS", "LDSM", "STS")}
    return {
        "masked": loop.masked, "pairs": loop.pairs, "matrix_products": round(gpu_work.macs_per_pair(loop) / head_dim),
        "instructions": tile(), "n": list(loop.product_widths), **{x: n for x, n in products.items() if n},
        "EX2": tile("EX2"), **counted, **{x: n for x, n in copies.items() if n}, "wait": loop.wait,
        "spills": loop.spills, "line": loop.line,
    }  # fmt: skip
