"""Honest measurements: alternating medians, errors against float64, peak memory, and what machine it was."""

from __future__ import annotations

import ctypes
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

MIB = 1 << 20
LONG_ENOUGH = 0.02  # seconds of one measurement on a GPU


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of repeated calls."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def __str__(self) -> str:
        return f"{duration(self.median)} ({duration(min(self.seconds))} .. {duration(max(self.seconds))})"


def duration(seconds: float) -> str:
    """3 significant digits with a unit: `52.1 ms`."""
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * scale >= 1 or unit == "us":
            value = seconds * scale
            return f"{value:.{max(0, 2 - len(str(int(value))) + 1)}f} {unit}"
    raise AssertionError


def alternate(
    sides: Mapping[str, Callable[[], object]],
    rounds: int,
    device: torch.device,
    warmup: int = 1,
    after: Callable[[], None] = lambda: None,
) -> dict[str, Times]:
    """Time all sides in one process, one call each in turn, so that drift of the machine hits all of them alike.

    Args:
        sides: what to call, by name.
        rounds: timed calls of each side (on a GPU, calls in a row that last long enough).
        device: the device to wait for around each call.
        warmup: calls of each side before the first timed one.
        after: called once per round, for a progress bar.
    """
    repeats = {}
    for name, call in sides.items():
        for _ in range(warmup):
            call()
        repeats[name] = _repeats(call, device)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, call in sides.items():
            seconds[name].append(_seconds(call, repeats[name], device))
        after()
    return {name: Times(tuple(s)) for name, s in seconds.items()}


def _seconds(call: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Seconds per call, of several calls in a row."""
    synchronize(device)
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    synchronize(device)
    return (time.perf_counter() - start) / repeats


def _repeats(call: Callable[[], object], device: torch.device) -> int:
    """On a GPU, enough calls in a row that the time to launch one hides behind the others."""
    if device.type != "cuda":
        return 1
    return max(1, min(200, round(LONG_ENOUGH / _seconds(call, 3, device))))


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def largest_error(got: Tensor, exact: Tensor) -> float:
    """`max |got - exact|`, computed in float64."""
    return float((got.detach().to("cpu", torch.float64) - exact.detach().to("cpu", torch.float64)).abs().max())


@dataclass(slots=True)
class Peak:
    """Filled when the block ends."""

    bytes: int = 0
    what: str = field(default="")


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """The most memory held inside the block above what was held when it began.

    On a GPU, bytes of torch's allocator. Elsewhere, resident memory of the process: Linux can restart its high-water
    mark; where that fails, the growth of the mark of the whole process, which misses peaks below an earlier one.
    """
    peak = Peak()
    if device.type == "cuda":
        peak.what = "CUDA memory allocated by torch"
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield peak
        torch.cuda.synchronize(device)
        peak.bytes = torch.cuda.max_memory_allocated(device) - before
        return
    if _restart_high_water_mark():
        peak.what = "resident memory of the process"
        before = _status("VmRSS")
        yield peak
        peak.bytes = max(_status("VmHWM") - before, 0)
    else:
        peak.what = "growth of the process's resident high-water mark"
        before = high_water_mark()
        yield peak
        peak.bytes = high_water_mark() - before


def high_water_mark() -> int:
    """The most resident memory this process ever held, in bytes; 0 where the system does not say."""
    try:
        import resource
    except ImportError:  # not a Unix
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _restart_high_water_mark() -> bool:
    with suppress(AttributeError, OSError):  # no malloc_trim in this C library
        ctypes.CDLL(None).malloc_trim(0)  # freed blocks that malloc keeps are not this block's
    try:
        Path("/proc/self/clear_refs").write_text("5")  # man 5 proc
        return _status("VmHWM") > 0
    except (OSError, ValueError, StopIteration):
        return False


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    line = next(line for line in lines if line.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024


def default_device(name: str | None = None) -> torch.device:
    """The device asked for, or the GPU where there is one."""
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures were measured on."""
    found: dict[str, Any] = {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def versions() -> dict[str, str]:
    """Versions of what the figures depend on."""
    from importlib import metadata

    found = {"python": platform.python_version()}
    for name in ("pidsl", "torch", "triton", "numpy", "islpy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # a checkout on PYTHONPATH, or no triton on this system
            module = sys.modules.get(name)
            found[name] = str(getattr(module, "__version__", "")) or "not installed"
    return found


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
