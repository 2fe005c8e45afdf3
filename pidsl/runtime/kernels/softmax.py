"""One softmax over the keys of a pattern: the form that is a program."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pidsl.language.recipe import Backend
from pidsl.language.score import PLAIN, Score
from pidsl.language.terms import Term
from pidsl.runtime.call.call import Call
from pidsl.runtime.kernels.form import Form
from pidsl.runtime.operator import attended
from pidsl.runtime.programs import Compiled, compiled, is_wide, preferred, prepared, rings, structure

if TYPE_CHECKING:
    from pidsl.codegen.plan.nodes import Plan


def chosen(backend: Backend) -> tuple[str, str]:
    """What a backend stands for on this machine, and why."""
    return preferred() if backend == "auto" else (backend, "asked for")


class Softmax(Form):
    """The programs of a pattern.

    Args:
        term: the pattern, without symbols.
        backend: as asked for.
        score: what happens to the logits.
    """

    def __init__(self, term: Term, backend: Backend, score: Score | None) -> None:
        self.term, self.backend = term, backend
        self.score = structure(score)
        self.inputs = () if score is None else score.parameters
        self.pattern, self.score_text = repr(term), "" if self.score is PLAIN else repr(self.score)
        self.chosen, self.reason = chosen(backend)
        self._rings = (term,) if "ring" in self.pattern and rings(self.pattern) else ()
        self.programs: dict[tuple[str, bool, bool], Compiled] = {}
        if torch.compiler.is_compiling():  # whatever cannot be compiled fails here
            prepared(self.pattern, self.score_text, self.chosen)
        else:
            self.made(self.chosen, 64)

    @property
    def rings(self) -> tuple[Term, ...]:
        return self._rings

    def attend(self, call: Call, backend: str) -> tuple[Tensor, Tensor]:
        """(out, lse) of a checked call."""
        made = lambda: self.made(backend, call.q.shape[3], call.positions.key_offset != 0)  # noqa: E731
        return attended(made, self.pattern, self.score_text, backend, self.own(call))

    def own(self, call: Call) -> Call:
        """The call with the inputs of the score: those of the forms around it are none of the program's."""
        if len(call.inputs) == len(self.inputs):
            return call
        return call._replace(inputs={name: call.inputs[name] for name in self.inputs})

    def made(self, backend: str, head_dim: int, moved: bool = False) -> Compiled:
        """The program for a backend and head dimension; `moved`: for keys that do not start at position 0."""
        key = backend, is_wide(backend, head_dim), moved
        if key not in self.programs:  # another thread may write the same entry: it is the same object
            self.programs[key] = compiled(self.term, *key[:2], self.score, moved)
        return self.programs[key]

    @property
    def plan(self) -> Plan:
        """The plan of the program; on Triton, for head dimensions up to 128."""
        plan = self.made(self.chosen, 64).plan
        if self.backend != "auto":
            return plan
        return replace(plan, notes=(f"auto: {self.chosen}, {self.reason}", *plan.notes))

    def source(self, head_dim: int) -> str:
        """The text of the generated program."""
        return self.made(self.chosen, head_dim).program.source

    def explain(self) -> str:
        """The pattern, the backend and why, the plan, and what the cost model rejected."""
        plan = self.plan
        return "\n".join([f"pattern  {self.pattern}", f"backend  {plan.backend} ({self.reason})", "", str(plan)])
