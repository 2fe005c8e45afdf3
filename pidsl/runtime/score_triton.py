"""Scores on Triton."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pidsl.errors import BackendError

if TYPE_CHECKING:
    from pidsl.codegen.plan import Plan


class ScoredTritonProgram:
    """Not there yet."""

    source = ""

    def __init__(self, plan: Plan) -> None:
        raise BackendError(f"backend 'triton' with {plan.score!r}", "a kernel without a score", hint="backend='torch'")
