"""One softmax over the keys of a pattern: the form that is a program."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from pidsl.language.recipe import Backend
from pidsl.language.score import Score
from pidsl.language.terms import Term
from pidsl.runtime.call.call import Call
from pidsl.runtime.call.chosen import Listed
from pidsl.runtime.kernels.form import Form
from pidsl.runtime.operator import attended
from pidsl.runtime.programs import Program, Programs, chooses, preferred, rings, usual

if TYPE_CHECKING:
    from pidsl.codegen.plan.nodes import Plan


class Softmax(Form):
    """The programs of a pattern.

    Args:
        term: the pattern, without symbols.
        backend: as asked for.
        score: what happens to the logits.
        tune: whether Triton's tiles are chosen by trying some.
    """

    def __init__(self, term: Term, backend: Backend, score: Score | None, tune: bool = False) -> None:
        self.term, self.backend = term, backend
        self.programs = Programs(term, score, tune)
        self.chosen, self.reason = preferred(backend)
        self.programs.exist(self.chosen, usual(self.chosen))
        if "blocks" in self.programs.inputs:
            self.inputs = ("blocks",)

    @property
    def rings(self) -> tuple[Term, ...]:
        return (self.term,) if "ring" in (text := repr(self.term)) and rings(text) else ()

    @property
    def choices(self) -> tuple[Listed, ...]:
        return chooses(repr(self.term)) if self.inputs else ()

    @property
    def patterns(self) -> tuple[Term, ...]:
        return (self.term,)

    def attend(self, call: Call, backend: str) -> tuple[Tensor, Tensor]:
        return attended(self.programs, backend, call)

    def made(self, backend: str, head_dim: int) -> Program:
        """The program for a backend and head dimension, for calls in 16 bits."""
        return self.programs.made(backend, usual(backend, head_dim))

    @property
    def plan(self) -> Plan:
        """The plan of the program; on Triton, for head dimensions up to 64 in 16 bits."""
        plan: Plan = self.made(self.chosen, 64).plan
        if self.backend != "auto":
            return plan
        return replace(plan, notes=(f"auto: {self.chosen}, {self.reason}", *plan.notes))

    def source(self, head_dim: int = 64) -> str:
        """The text of the generated program."""
        return self.made(self.chosen, head_dim).source

    def explain(self) -> str:
        """The pattern, the backend and why, the plan, and what the cost model rejected."""
        plan = self.plan
        return f"pattern  {self.term!r}\nbackend  {plan.backend} ({self.reason})\n\n{plan}"
