"""What launches ask about a device, as a target of the table of tiles."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from pidsl.codegen.choice.targets import DEFAULT, Target, target


@lru_cache(maxsize=64)
def name_of(device: torch.device) -> str:
    """What `codegen.choice.targets` calls a device; the default where there is no GPU to ask."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return DEFAULT
    if torch.version.hip is not None:
        return f"hip:{torch.cuda.get_device_properties(device).gcnArchName.partition(':')[0]}"
    major, minor = torch.cuda.get_device_capability(device)
    return f"cuda:{10 * major + minor}"


@lru_cache(maxsize=64)
def target_of(device: torch.device) -> Target:
    """The target that a device is, with the memory and the processors that it has.

    Where there is no GPU to ask it is the default one; Triton's interpreter, on the CPU, needs no tensor descriptors.
    """
    if device.type != "cuda":
        known = target(DEFAULT)
        return replace(known, descriptors=False) if device.type == "cpu" else known
    has = torch.cuda.get_device_properties(device)
    shared = int(getattr(has, "shared_memory_per_block_optin", has.shared_memory_per_block))
    return replace(
        target(name_of(device)), shared=shared, multiprocessors=has.multi_processor_count, l2=int(has.L2_cache_size)
    )


def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels; that was decided when triton was imported."""
    from triton import JITFunction

    from pidsl.codegen.emit_triton import library

    return not isinstance(library.forward, JITFunction)


def on(x: Tensor) -> AbstractContextManager[Any]:
    """The device of x as the current one."""
    return torch.cuda.device(x.device) if x.is_cuda else _HERE


_HERE: AbstractContextManager[Any] = nullcontext()
