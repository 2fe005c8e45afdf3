"""Tiles chosen by trying: the few neighbours of those that the table chose, timed on the GPU at hand.

The first call of a class tries them and keeps the fastest: a class is a pattern and its score on a GPU, head dimension
and dtype as in the table, the lengths n and m rounded up to powers of two, and the pass. Choices are kept in the
process and as files in the cache folder, one for each class and for each version of pidsl and Triton.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from threading import RLock
from typing import Any

import torch
import triton
from torch import Tensor
from triton.runtime.errors import OutOfResources

from pidsl.codegen.choice.targets import Kind, neighbours
from pidsl.codegen.plan.walks import Pass, Runs
from pidsl.errors import PidslError
from pidsl.runtime.call.call import Call, Gradients
from pidsl.runtime.call.segments import Segments
from pidsl.runtime.run_triton import cache
from pidsl.runtime.run_triton.program import TritonProgram

Size = tuple[int, int]  # rows, keys
Sizes = tuple[Size, ...]  # of the passes
PASSES: tuple[Pass, ...] = ("forward", "grad_query", "grad_key")
_one_at_a_time = RLock()  # timing two programs at once would tell about neither


def seconds(work: Callable[[], Any]) -> float:
    """The median time of some work on the GPU."""
    return float(triton.testing.do_bench(work, return_mode="median")) / 1e3


class TunedProgram:
    """A program of which each pass has the tiles that were the fastest; see `pidsl.runtime.programs.Program`.

    Args:
        default: the program with the tiles of the table.
        variant: the program with tiles of these sizes.
        kind: what kind of program it is.
    """

    def __init__(self, default: TritonProgram, variant: Callable[[Sizes], TritonProgram], kind: Kind) -> None:
        self.plan, self.source, self.ragged = default.plan, default.source, default.ragged
        self._default, self._variant, self._kind = default, variant, kind
        self._usual = _sizes(default.plan)
        self._chosen: dict[tuple[int, int, Pass], Size | None] = {}

    def forward(self, call: Call) -> tuple[Tensor, Tensor]:
        """That of the program with the fastest forward pass."""
        self._choose(call, ("forward",), lambda program: program.forward(call))
        return self._program(call, ("forward",)).forward(call)

    def backward(
        self, call: Call, out: Tensor, lse: Tensor, grad_out: Tensor, grad_lse: Tensor | None, learned: bool
    ) -> Gradients:
        """That of the program with the fastest backward pass."""

        def run(program: TritonProgram) -> Gradients:
            return program.backward(call, out, lse, grad_out, grad_lse, learned)

        self._choose(call, PASSES[1:], run)
        return run(self._program(call, PASSES[1:]))

    def _program(self, call: Call, passes: tuple[Pass, ...], **tried: Size | None) -> TritonProgram:
        """The program whose passes have the tiles that were chosen, or are `tried`."""
        own = {task: tried.get(task, self._chosen.get((*_lengths(call), task))) for task in passes}
        if self._usual is None or not any(own.values()):
            return self._default
        return self._variant(tuple(own.get(x) or usual for x, usual in zip(PASSES, self._usual, strict=True)))

    def _choose(self, call: Call, passes: tuple[Pass, ...], run: Callable[[TritonProgram], Any]) -> None:
        """Make sure that there is a choice for each pass: one that is known, or the fastest now."""
        lengths = _lengths(call)
        if self._usual is None or all((*lengths, task) in self._chosen for task in passes):
            return
        with _one_at_a_time:
            for task in passes:
                if (*lengths, task) in self._chosen:
                    continue
                key = self._key(call, task)
                candidates = self._candidates(task)
                known = _recalled(key, candidates)
                if not known:
                    if _capturing():  # a graph holds what is launched now, so nothing can be timed
                        return
                    times = {size: self._time(call, passes, task, size, run) for size in candidates}
                    known = [min(times, key=lambda size: times[size])]
                    cache.put(_name(key), json.dumps({"class": key, "tiles": known[0]}))
                self._chosen[(*lengths, task)] = known[0]

    def _time(
        self, call: Call, passes: tuple[Pass, ...], task: Pass, size: Size | None, run: Callable[[TritonProgram], Any]
    ) -> float:
        """How long tiles of a size take; for ever, where the GPU has no room for them."""
        with suppress(OutOfResources, PidslError):
            program = self._program(call, passes, **{task: size})
            return seconds(lambda: run(program))
        return float("inf")

    def _candidates(self, task: Pass) -> list[Size | None]:
        """Sizes to try, the plan's own (None) first: where two are as fast, it stays."""
        assert self._usual is not None
        usual = self._usual[PASSES.index(task)]
        return [None, *((x.rows, x.cols) for x in neighbours(self._kind, task, *usual) if (x.rows, x.cols) != usual)]

    def _key(self, call: Call, task: Pass) -> dict[str, Any]:
        """What a choice is for."""
        from pidsl import __version__

        name = torch.cuda.get_device_name(call.q.device) if call.q.is_cuda else str(call.q.device)
        return {
            "pidsl": __version__, "triton": triton.__version__, "device": name, "pattern": repr(self.plan.term),
            "score": repr(self.plan.score), "moved": self.plan.frame.moved, "kind": list(self._kind),
            "lengths": list(_lengths(call)), "pass": task,
        }  # fmt: skip


def _sizes(plan: Any) -> Sizes | None:
    """Of the first piece in tiles, by pass; None where there is none."""
    for piece in plan.pieces:
        walks = [piece.walk(task) for task in PASSES]
        if isinstance(walks[0], Runs):
            return tuple((x.rows, x.cols) for x in walks)
    return None


def _lengths(call: Call) -> tuple[int, int]:
    """n and m, rounded up to powers of two; of the longest sequence that there may be."""
    n, m = call.q.shape[2], call.k.shape[2]
    if isinstance(call.positions, Segments):
        n, m = max(call.positions.rows, 1), max(call.positions.keys, 1)
    return 1 << (n - 1).bit_length(), 1 << (m - 1).bit_length()


def _capturing() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def _name(key: dict[str, Any]) -> str:
    return f"tuned_{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]}.json"


def _recalled(key: dict[str, Any], candidates: list[Size | None]) -> list[Size | None]:
    """The choice that a file holds; none where it holds anything but a choice for this class among the candidates."""
    with suppress(ValueError, TypeError, KeyError):
        found = json.loads(cache.get(_name(key)))
        size = None if found["tiles"] is None else tuple(found["tiles"])
        if found["class"] == key and size in candidates:
            return [size]
    return []
