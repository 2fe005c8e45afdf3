"""How the results of programs become that of a kernel: an expression of five forms, which one class evaluates.

    Form ::= softmax(term, score)         one softmax, one program                              (softmax.py)
           | by_head(heads, forms)        every query head under its own pattern                (heads.py)
           | blend(names, forms)          a softmax for each branch, weighed and added up       (gate.py)
           | merge(forms)                 one softmax over disjoint sets of keys                (summaries.py)
           | weighed(form)                affine weights and a gate on the output               (output.py)

A form that is given to a kernel holds the kernels of its parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import Tensor

from pidsl.language.shown import Displayed
from pidsl.language.terms import Term
from pidsl.runtime.call.arguments import Fault
from pidsl.runtime.call.call import Call
from pidsl.runtime.call.chosen import Listed

if TYPE_CHECKING:
    from pidsl.codegen.plan.nodes import Plan
    from pidsl.runtime.kernels.kernel import Kernel


@runtime_checkable
class Explained(Protocol):
    """What everything that `pidsl.compile` returns says of itself."""

    @property
    def plan(self) -> Any:
        """What was decided and why: print it."""

    def source(self, head_dim: int = 64) -> str:
        """The text of the generated programs."""

    def explain(self) -> str:
        """The pattern, the backend, the plan and what was rejected, as text of several lines."""


@dataclass(frozen=True, slots=True)
class Plans(Displayed):
    """The plans of several programs; print them.

    Args:
        what: a line about all of them; may be empty.
        parts: for each what it is for, and its plan.
    """

    what: str
    parts: tuple[tuple[str, Plan | Plans], ...]

    def noted(self, note: str) -> Plans:
        """With a line more about all of them."""
        return replace(self, what="\n".join(x for x in (self.what, note) if x))

    def __str__(self) -> str:
        lines = [self.what] if self.what else []
        for title, plan in self.parts:
            lines += ["", title, *("  " + line if line else "" for line in str(plan).split("\n"))]
        return "\n".join(lines).lstrip("\n")


class Sections:
    """What is said of several programs, each under a title.

    Attributes:
        what: a line about all of them.
    """

    what = ""

    def titled(self) -> Iterable[tuple[str, Kernel]]:
        """Their kernels under titles."""
        raise NotImplementedError

    @property
    def plan(self) -> Plan | Plans:
        """The plan of each, under its title."""
        return Plans(self.what, tuple((title, part.plan) for title, part in self.titled()))

    def source(self, head_dim: int = 64) -> str:
        """The generated programs, one section each, under their titles."""
        return "\n\n".join(f"# {title}\n{part.source(head_dim)}" for title, part in self.titled())

    def explain(self) -> str:
        """The explanation of each, under its title."""
        sections = [f"{title}\n{part.explain()}" for title, part in self.titled()]
        return "\n\n".join([self.what, *sections] if self.what else sections)


class Form(Sections):
    """A node of the expression; the base of all five.

    Attributes:
        inputs: names of what a call gives it beside q, k, v and what the score reads.
        cast: those of them that follow `torch.autocast`, as q, k and v do.
        by_row: those of them whose tensors, of more than one axis, have a row per query: [B, Hq, n, ...].
        positional: the one of them that may be given by position.
        call: how it is called, for messages.
        parts: the kernels of its parts.
    """

    inputs: tuple[str, ...] = ()
    cast: tuple[str, ...] = ()
    by_row: tuple[str, ...] = ()
    positional = ""
    call = "kernel(q, k, v)"
    parts: Mapping[Any, Kernel] = {}

    @property
    def named(self) -> tuple[str, ...]:
        """Names of what a call gives it and its parts."""
        return tuple(dict.fromkeys([*self.inputs, *(x for part in self.parts.values() for x in part.form.named)]))

    @property
    def choices(self) -> tuple[Listed, ...]:
        """What the lists of a call are, for the patterns of all its programs; more than one do not fit one call."""
        return tuple(dict.fromkeys(x for part in self.parts.values() for x in part.form.choices))

    @property
    def scored(self) -> bool:
        """Whether its logits are those of a score."""
        return all(part.form.scored for part in self.parts.values())

    @property
    def rings(self) -> tuple[Term, ...]:
        """The patterns that hold a ring and so restrict the lengths."""
        return tuple(dict.fromkeys(term for part in self.parts.values() for term in part.form.rings))

    @property
    def patterns(self) -> tuple[Term, ...]:
        """Those of all its programs."""
        return tuple(dict.fromkeys(term for part in self.parts.values() for term in part.form.patterns))

    def faults(self, call: Call, usable: Mapping[str, Tensor], sound: bool) -> list[Fault]:
        """What is wrong with its inputs, given which of q, k and v are well formed, and whether they fit each other."""
        return []

    def attend(self, call: Call, backend: str) -> tuple[Tensor, Tensor]:
        """(out, lse) of a checked call."""
        raise NotImplementedError

    def titled(self) -> Iterable[tuple[str, Kernel]]:
        return ((str(name), part) for name, part in self.parts.items())
