"""A plan as a loaded torch program."""

from __future__ import annotations

import linecache
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING
from zlib import crc32

from torch import Tensor

from pidsl.runtime.call.call import Gradients

if TYPE_CHECKING:
    from pidsl.codegen.plan.nodes import Plan


class TorchProgram:
    """The generated torch program of a plan, ready to run on any device; see `pidsl.runtime.programs.Program`.

    Args:
        plan: what to compute; its sweeps have key tiles of one column.
        source: the program's text, generated from the plan when None.

    Attributes:
        plan: the plan.
        source: the program's text.
        module: the loaded program.
        forward, backward: its passes.
    """

    ragged = False

    def __init__(self, plan: Plan, source: str | None = None) -> None:
        from pidsl.codegen.emit_torch.source import torch_source

        self.plan = plan
        self.source = torch_source(plan) if source is None else source
        self.module = _load(self.source)
        self.forward: Callable[..., tuple[Tensor, Tensor]] = self.module.forward
        self.backward: Callable[..., Gradients] = self.module.backward


def _load(source: str) -> ModuleType:
    name = f"pidsl_torch_program_{crc32(source.encode()):08x}"
    filename = f"<{name}>"
    module = ModuleType(name)
    exec(compile(source, filename, "exec"), module.__dict__)
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)  # for tracebacks
    return module
