"""CPU time of a call from the kernel down to the driver, without a GPU: the driver is mocked, tensors are on the CPU.

A bare launch is `JITFunction.run` of the same kernels with the same arguments: what anyone pays who calls a Triton
kernel. The figure that counts is the difference. Allocating results is part of a call; a GPU's allocator takes about
as long as the CPU's. Times are of the thread, best and median of several rounds.

Run it as `python benchmarks/launch_overhead.py [--out benchmarks/results/launch-overhead.json]`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)  # it is read when triton is imported
os.environ.setdefault("TRITON_CACHE_DIR", tempfile.mkdtemp(prefix="pidsl-binaries-"))
os.environ.setdefault("PIDSL_CACHE", tempfile.mkdtemp(prefix="pidsl-programs-"))

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

import pidsl
from pidsl.runtime.call.call import Call
from pidsl.runtime.run_triton.program import TritonProgram

PATTERNS = {
    "causal": "causal",
    "stride": "stride(256) & causal",
    "window | stride": "window(63) | stride(256) & causal",
    "powers of two": "lags(0, 1, 2, 4, 8, 16, 32, 64, 128, 256)",
    "global tokens": "window(256, 256) | keys(0, 1) | queries(0, 1)",
    "neighborhood": "neighborhood((64, 64), 13)",
}
LENGTH, HEADS, HEAD_DIM = 4096, 2, 64
CALLS, ROUNDS = 100, 15


class _Utils:
    def load_binary(self, *_: Any) -> tuple[int, ...]:
        return 1, 1, 128, 0, 1024

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": 232448, "multiprocessor_count": 132, "warpSize": 32}

    def unload_module(self, module: Any) -> None:
        pass


class MockedDriver:
    """An H100 that counts launches and does nothing."""

    utils = _Utils()
    launches = 0

    def launcher_cls(self, source: Any, metadata: Any) -> Callable[..., None]:
        def launch(*_: Any) -> None:
            self.launches += 1

        return launch

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


def mocked() -> MockedDriver:
    """The driver of this process from now on; tensors on the CPU count as on the GPU."""
    mock = MockedDriver()
    driver.set_active(mock)
    TritonProgram._check_device = lambda self, q: None  # type: ignore[method-assign]
    return mock


def microseconds(work: Callable[[], Any]) -> dict[str, float]:
    """Best and median time of one call of `work`."""
    work(), work()
    found = []
    for _ in range(ROUNDS):
        start = time.thread_time()
        for _ in range(CALLS):
            work()
        found.append((time.thread_time() - start) / CALLS * 1e6)
    return {"best_us": round(min(found), 1), "median_us": round(statistics.median(found), 1)}


def measured(pattern: str, mock: MockedDriver) -> dict[str, Any]:
    """The rows of the results for one pattern."""
    kernel = pidsl.compile(pidsl.parse(pattern), backend="triton")
    q, k, v = (torch.zeros(1, HEADS, LENGTH, HEAD_DIM, dtype=torch.bfloat16) for _ in range(3))
    call = Call(q, k, v, HEAD_DIM**-0.5)
    program: Any = kernel.form.made("triton", HEAD_DIM)
    launches, *_ = program.forward_launches(call)

    def bare() -> None:
        for launch in launches:
            launch.kernel[(launch.grid,)](**launch.arguments, **launch.options)

    kernel(q, k, v)
    mock.launches = 0
    kernel(q, k, v)
    row: dict[str, Any] = {"pattern": pattern, "kernels": mock.launches, "bare": microseconds(bare)}
    row["forward"] = microseconds(lambda: kernel(q, k, v))
    row["program"] = microseconds(lambda: program.forward(call))
    leaf = q.clone().requires_grad_()
    row["forward, for gradients"] = microseconds(lambda: kernel(leaf, k, v))
    out, lse = program.forward(call)
    row["backward program"] = microseconds(lambda: program.backward(call, out, lse, out, None, False))
    for what in ("best_us", "median_us"):
        row[f"above_{what}"] = round(row["forward"][what] - row["bare"][what], 1)
    return row


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="a file for the results (JSON)")
    parser.add_argument("--patterns", default=",".join(PATTERNS), help="some of them, with commas")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    mock, results = mocked(), []
    for name in given.patterns.split(","):
        row = {"name": name, **measured(PATTERNS[name], mock)}
        results.append(row)
        print(
            f"{name:16s} {row['kernels']} kernels: bare {row['bare']['best_us']:6.1f} us, "
            f"forward {row['forward']['best_us']:6.1f} ({row['above_best_us']:+.1f}), of it the program "
            f"{row['program']['best_us']:6.1f}, for gradients {row['forward, for gradients']['best_us']:6.1f}; "
            f"backward program {row['backward program']['best_us']:6.1f}",
            flush=True,
        )
    if given.out:
        report = {
            "machine": platform.processor() or platform.machine(), "cores": os.cpu_count(),
            "versions": {"python": platform.python_version(), "torch": torch.__version__, "triton": triton.__version__},
            "shape": {"batch": 1, "heads": HEADS, "n": LENGTH, "head_dim": HEAD_DIM, "dtype": "bfloat16"},
            "results": results,
        }  # fmt: skip
        given.out.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
