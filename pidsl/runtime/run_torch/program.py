"""A plan as a loaded torch program."""

from __future__ import annotations

import linecache
from collections.abc import Callable
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pidsl.language.chosen import forced, possible
from pidsl.language.heads import Heads
from pidsl.language.terms import Term
from pidsl.runtime.call.call import Call, Gradients
from pidsl.runtime.run_torch.passes import Forward

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

    def attends(self, n: int, m: int, i: NDArray[np.int64], j: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which keys at positions j queries at positions i attend, whatever is chosen: bool [queries, keys]."""
        return self._attended(self._most, n, m, i, j)

    def attends_anyway(self, n: int, m: int, i: NDArray[np.int64], j: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Those that they attend where nothing is chosen."""
        return self._attended(self._least, n, m, i, j)

    def _attended(
        self, by: ModuleType, n: int, m: int, i: NDArray[np.int64], j: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        return np.array(np.broadcast_to(by.attends(n=n, m=m, i=i[:, None], j=j[None]), (len(i), len(j))))

    def picked(self, call: Call, keep: NDArray[np.bool_], at: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """(out, lse) of a call whose keys stand at positions `at`, of which rows keep some."""
        return Forward(call, self.plan.score).picked(keep, at)

    @cached_property
    def _most(self) -> ModuleType:
        return _pairs(possible(self._term))

    @cached_property
    def _least(self) -> ModuleType:
        return _pairs(forced(self._term))

    @property
    def _term(self) -> Term:
        assert not isinstance(self.plan.term, Heads)
        return self.plan.term


def _pairs(term: Term) -> ModuleType:
    from pidsl.codegen.emit_torch.pairs import pairs_source

    return _load(f"from numpy import maximum, minimum\n\n\n{pairs_source(term)}")


def _load(source: str) -> ModuleType:
    name = f"pidsl_torch_program_{crc32(source.encode()):08x}"
    filename = f"<{name}>"
    module = ModuleType(name)
    exec(compile(source, filename, "exec"), module.__dict__)
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)  # for tracebacks
    return module
