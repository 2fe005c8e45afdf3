"""One pattern: every side forward and backward, its times, its memory, its errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from cases import Case
from exact import sample_errors
from sides import SIDES, Ready, Skip
from torch import Tensor

from pidsl.demo.measure import MIB, Times, alternate, duration, peak_memory

Row = dict[str, Any]
DENSE = "dense SDPA"  # computes another function: its time counts, its error does not
PASSES = {"forward": "fwd", "forward+backward": "fwd+bwd"}


@dataclass(frozen=True)
class Inputs:
    q: Tensor
    k: Tensor
    v: Tensor

    @classmethod
    def random(cls, shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device) -> Inputs:
        generator = torch.Generator().manual_seed(0)
        return cls(*(torch.randn(shape, generator=generator).to(device, dtype) for _ in range(3)))

    def call(self, ready: Ready, pass_: str) -> Callable[[], object]:
        """One timed call."""

        def forward() -> None:
            with torch.no_grad():
                ready.attend(self.q, self.k, self.v)

        def both() -> None:
            out = ready.attend(*(x.detach().requires_grad_() for x in (self.q, self.k, self.v)))
            out.backward(self.v)

        return forward if pass_ == "forward" else both


def compare(
    case: Case, peers: Sequence[str], inputs: Inputs, *, rounds: int, warmup: int = 1, backward: bool = True
) -> list[Row]:
    """A row per side; whatever fails is said in its row."""
    ready: dict[str, Ready] = {}
    rows: dict[str, Row] = {side: {"case": case.name, "pattern": case.source, "side": side} for side in peers}
    for side, row in rows.items():
        try:
            ready[side] = SIDES[side](case, inputs.q, inputs.k)
            row |= {"setup_seconds": ready[side].setup, "note": ready[side].note}
        except Exception as e:
            row["failed"] = reason(e)
    for pass_ in PASSES if backward else ["forward"]:
        for side, found in measure(pass_, ready, inputs, rounds, warmup).items():
            rows[side][pass_] = found
    for side in ready:
        if side != DENSE and "seconds" in rows[side]["forward"]:
            rows[side]["errors"] = errors(case, ready[side], inputs, backward)
    return list(rows.values())


def measure(pass_: str, ready: dict[str, Ready], inputs: Inputs, rounds: int, warmup: int) -> dict[str, Row]:
    """Times and memory of one pass, the sides in turns."""
    device = inputs.q.device
    rows: dict[str, Row] = {}
    calls: dict[str, Callable[[], object]] = {}
    for side, r in ready.items():
        if pass_ != "forward" and r.no_backward:
            rows[side] = {"failed": r.no_backward}
            continue
        call = inputs.call(r, pass_)
        try:
            call()  # compiles, and shows who fails
            with peak_memory(device) as peak:
                call()
        except Exception as e:
            rows[side] = {"failed": reason(e)}
            continue
        calls[side] = call
        rows[side] = {"peak_bytes": peak.bytes, "peak_is": peak.what}
    for side, times in alternate(calls, rounds, device, warmup).items():
        rows[side] |= {"seconds": list(times.seconds), "median_seconds": times.median}
    return rows


def errors(case: Case, ready: Ready, inputs: Inputs, backward: bool) -> dict[str, Any]:
    try:
        gradients = backward and not ready.no_backward
        return dict(sample_errors(case, ready.attend, inputs.q, inputs.k, inputs.v, gradients=gradients))
    except Exception as e:
        return {"failed": reason(e)}


def describe(row: Row) -> str:
    """One line."""
    if "failed" in row:
        return f"  {row['side']:14} failed: {row['failed']}"
    parts = []
    for pass_, short in PASSES.items():
        found = row.get(pass_, {})
        if "seconds" in found:
            parts.append(f"{short} {Times(tuple(found['seconds']))}, {found['peak_bytes'] / MIB:.0f} MiB")
        elif found:
            parts.append(f"{short} n/a: {found['failed']}")
    if found := row.get("errors", {}):
        parts.append(
            "error " + " ".join(f"{k} {x}" if isinstance(x, str) else f"{k} {x:.1e}" for k, x in found.items())
        )
    if row["setup_seconds"]:
        parts.append("setup " + ", ".join(f"{what} {duration(s)}" for what, s in row["setup_seconds"].items()))
    parts += [row["note"]] * bool(row["note"])
    return f"  {row['side']:14} {' | '.join(parts)}"


def reason(e: Exception) -> str:
    """The first line of an error, short."""
    if isinstance(e, Skip):
        return str(e)
    text = (str(e).strip().splitlines() or [""])[0]
    return f"{type(e).__name__}: {text}"[:160]
