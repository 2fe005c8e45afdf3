"""What the loops of ragged calls cost beside those of a call without a table: packed documents, and decoding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pidsl
from pidsl.codegen.lower import lower
from pidsl.runtime.run_triton.ahead import PRODUCTS, KernelReport, Problem, compile_ahead

LONGER = 1.03  # loops over packed documents, at most, than those of a plain call
TERMS = (
    "causal", "window(1023)", "window(63) | stride(256) & causal", "window(63) & causal | chosen(64, 16)",
)  # fmt: skip
PLAIN = Problem(8, 16, 16, 2048, 2048)  # of so many programs that no walk is cut
CALLS = {
    "plain": PLAIN, "packed": Problem(1, 16, 16, 16384, 16384, sequences=16),
    "lengths": Problem(8, 16, 16, 2048, 2048, sequences=8),
    "slots": Problem(4, 32, 8, 1, 131072, sequences=4, keys_at="slots"),
    "pages": Problem(4, 32, 8, 1, 131072, sequences=4, keys_at="pages"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """A kernel of a call: instructions per 64 x 64 pairs of its longest loops, without a mask and with one."""

    call: str
    kernel: str
    parts: int
    registers: int | None
    spills_in_loops: int | None
    full: int
    masked: int


def rows(term: str, head_dim: int, target: str) -> Iterator[Row]:
    """The kernels with loops over pairs, call after call."""
    plan = lower(pidsl.parse(term), head_dim=head_dim, target=target)
    for call, problem in CALLS.items():
        for report in compile_ahead(plan, target, head_dim=head_dim, problem=problem):
            if report.name in PRODUCTS:
                yield _row(call, report)


def _row(call: str, report: KernelReport) -> Row:
    full, masked = (
        max((round(x.per_tile()) for x in report.loops if bool(x.masked) == kind), default=0) for kind in (False, True)
    )
    parts = report.launches[0].numbers["SPLITS"]
    return Row(call, report.name, parts, report.registers, report.spills_in_loops, full, masked)


def broken(term: str, found: list[Row]) -> Iterator[str]:
    """What does not hold: loops over packed documents are hardly longer than the plain ones, and none spills."""
    for row in found:
        if row.spills_in_loops:
            yield f"{term} {row.call} {row.kernel}: {row.spills_in_loops} loads and stores of local memory in loops"
    for call in ("packed", "lengths"):
        for kernel in dict.fromkeys(x.kernel for x in found if x.call == call):
            for kind in ("full", "masked"):
                ours, usual = (
                    max(getattr(x, kind) for x in found if (x.call, x.kernel) == (which, kernel))
                    for which in (call, "plain")
                )
                if ours > LONGER * usual:
                    yield f"{term} {call} {kernel} {kind}: {ours} instructions, {usual} without a table"


def report(target: str, head_dims: list[int]) -> int:
    """Print all of it; how much does not hold."""
    said: list[str] = []
    for term in TERMS:
        for head_dim in head_dims:
            found = list(rows(term, head_dim, target))
            print(f"\n{term}, D {head_dim}, {target}: instructions per 64 x 64 pairs")
            for x in found:
                print(f"  {x.call:8} {x.kernel:11} parts {x.parts:3}  registers {x.registers}  {x.full:5} {x.masked:5}")
            said += broken(f"{term} D {head_dim}", found)
    print("\n".join(["", *said, f"{len(said)} of what must hold does not"] if said else ["", "all of it holds"]))
    return len(said)
