"""What must hold of the machine code for sm_90: some kernels compiled here, all others by `make machine`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from gpu_limits import OPEN, broken, broken_by_loops, broken_by_times, unexpected

from pidsl import causal
from pidsl.codegen.lower import lower
from pidsl.runtime.call.call import Call, Positions
from pidsl.runtime.run_triton.program import TritonProgram

ROOT = Path(__file__).parent.parent.parent
SOME = [
    ("window1023", 64), ("stride256", 128),
    *(pytest.param("causal", d, marks=pytest.mark.slow) for d in (64, 128)),  # fewer walks than a window has
]  # fmt: skip


@lru_cache
def entry(name: str, head_dim: int) -> Any:
    """pidsl's kernels and FlexAttention's, compiled in a process without TRITON_INTERPRET."""
    environment = {x: value for x, value in os.environ.items() if x != "TRITON_INTERPRET"}
    command = [sys.executable, "-W", "ignore", ROOT / "benchmarks" / "ahead.py"]
    command += ["--worker", name, "--head-dim", str(head_dim)]
    with tempfile.TemporaryDirectory() as folder:
        environment |= {"PIDSL_CACHE": folder, "TRITON_CACHE_DIR": folder}
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    if "no_flex" in found:
        pytest.skip(f"no kernels of FlexAttention to compare with: {found['no_flex']}")
    return found


@pytest.mark.parametrize(("name", "head_dim"), SOME)
def test_loops_are_lean_fetch_ahead_and_do_not_spill(name: str, head_dim: int) -> None:
    assert list(broken_by_loops(name, head_dim, entry(name, head_dim))) == []


@pytest.mark.parametrize(("name", "head_dim"), SOME)
def test_modelled_times_and_balance(name: str, head_dim: int) -> None:
    assert list(broken_by_times(name, head_dim, entry(name, head_dim))) == []


def test_all_of_it_holds_of_the_committed_results() -> None:
    found = json.loads((ROOT / "benchmarks" / "results" / "ahead-cuda-90.json").read_text())
    assert unexpected(broken(found)) == []
    page = (ROOT / "docs" / "explanation" / "gpu.md").read_text(encoding="utf-8")
    assert all(f"- `{what}`: {why}\n" in page for what, why in OPEN.items())


def test_one_query_of_many_heads_keeps_all_multiprocessors_busy() -> None:
    heads, key_heads, keys = 32, 8, 32768
    q = torch.empty(1, heads, 1, 128, dtype=torch.bfloat16, device="meta")
    k = torch.empty(1, key_heads, keys, 128, dtype=torch.bfloat16, device="meta")
    launches, *_ = TritonProgram(lower(causal, head_dim=128)).forward_launches(Call(q, k, k, 1.0, Positions(keys - 1)))
    assert max(launch.grid for launch in launches) >= 2 * 132
