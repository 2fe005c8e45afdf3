"""The parameters of a score at a call: their checks."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from pidsl.language.score import Score
from pidsl.runtime.call.arguments import Fault, check_tensor

PARTS = {"slopes": "alibi=True", "bias": "bias=(low, high)", "sinks": "sinks=True", "temperature": "temperature=True",
         "seed": "dropout=0.1"}  # fmt: skip


def check_parameters(
    score: Score | None, wanted: Collection[str], tensors: Mapping[str, Tensor], given: Mapping[str, Any]
) -> list[Fault]:
    """Faults of the parameters of a call: missing, superfluous, or of another shape, dtype or device than asked for.

    Args:
        score: what the kernel was compiled with.
        wanted: its parameters; torch would fix the numbers of a score in a graph that it traces if they were asked.
        tensors: the usable ones of q, k, v.
        given: by name, others too; None is nothing.
    """
    faults = []
    for name in PARTS:
        value = given.get(name)
        if value is None:
            if name in wanted:
                expected = f"{_shape(name, score)}, for {score!r}"
                faults.append(Fault(name, "nothing", expected, f"kernel(..., {name}=...)"))
        elif name not in wanted:
            kernel = "a kernel without a score" if score is None else f"nothing: the kernel has {score!r}"
            hint = f"pidsl.compile(term, score=pidsl.score({PARTS[name]}))"
            faults.append(Fault(name, "a value", kernel, hint))
        elif name == "seed":
            if isinstance(value, bool) or not isinstance(value, int | torch.SymInt) or not 0 <= value < 2**63:
                faults.append(Fault(name, f"{value!r} ({type(value).__name__})", "an integer, 0 <= seed < 2 ** 63"))
        else:
            faults += _check_tensor(name, value, score, tensors.get("q"))
    return faults


def _check_tensor(name: str, value: object, score: Score | None, q: Tensor | None) -> list[Fault]:
    expected = _shape(name, score)
    if fault := check_tensor(name, value, f"a torch.Tensor {expected}"):
        return [fault]
    assert isinstance(value, Tensor)
    faults = []
    if not value.is_floating_point():
        faults.append(Fault(name, f"dtype {value.dtype}", "a floating dtype", f"{name}.float()"))
    if q is None:
        return faults
    if value.device != q.device:
        faults.append(Fault(name, f"device {value.device}", f"{q.device}, the device of q", f"{name}.to(q.device)"))
    want = [q.shape[1]] if name != "bias" or score is None else [q.shape[1], score.table]
    if list(value.shape) != want:
        faults.append(Fault(name, f"shape {list(value.shape)}", f"{want}: {expected}"))
    return faults


def _shape(name: str, score: Score | None) -> str:
    if name == "seed":
        return "an integer"
    return f"[heads, {score.table}]" if name == "bias" and score is not None else "[heads]"
