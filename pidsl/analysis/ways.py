"""Ways to answers: what a way is given, and what one is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

import sympy

from pidsl.analysis.bound import Bound, Certificate, Question
from pidsl.analysis.formulas.piecewise import Formula
from pidsl.language.terms import Term

Kind = Literal["numbers", "symbols", "any"]
Confirmed = Literal["", "where a symbol divides", "where it divides", "always"]

NEVER = "some pair stays out of reach of every number of layers"


class NotMine(Exception):
    """The question is of another kind than a way answers; the text says why, where a reader should know."""


@dataclass(frozen=True)
class Asked:
    """A question, and what a way may use.

    Args:
        question: what is asked.
        assume: conditions on the symbols of the pattern.
        ask: answers another, smaller question, without or with conditions.
        best: the strongest answer so far, which says less than one could; None without any.
    """

    question: Question
    assume: tuple[sympy.Basic, ...]
    ask: Callable[..., Bound]
    best: Bound | None = None

    @property
    def subject(self) -> Any:
        """What it is about."""
        return self.question.subject

    @property
    def pattern(self) -> Term:
        """What it is about, where that is one term, of every layer.

        Raises:
            NotMine: it is a schedule, or a rule for layers.
        """
        if not isinstance(self.question.subject, Term):
            raise NotMine
        return self.question.subject

    def answered(self, found: Formula, certificate: Certificate) -> Bound:
        """The exact answer that is a formula in n, with what a reader should know of it."""
        if self.question.quantity == "depth":
            note = NEVER if found.expr.has(sympy.oo) else ""
        else:
            note = "for shorter n the formula has many cases" if found.least > 1 else ""
        return Bound(self.question, "==", found.expr, found.assumptions, certificate, note)


@dataclass(frozen=True, slots=True)
class Way:
    """A way to an answer.

    Args:
        name: what it looks at, in a word or two.
        finder: "module:function" below this package, from `Asked` to a `Bound`. It raises `NotMine` where the question
            is of another kind, and `TooHardError` where the answer is not found.
        kind: patterns that it is tried on.
        confirmed: where the rule of its answers is asked before they are returned, since it may not confirm them.
    """

    name: str
    finder: str
    kind: Kind = "any"
    confirmed: Confirmed = ""

    def find(self, asked: Asked) -> Bound:
        """The answer.

        Raises:
            NotMine: the question is of another kind.
            TooHardError: it is not found.
        """
        module, function = self.finder.split(":")
        find: Callable[[Asked], Bound] = getattr(import_module(f"pidsl.analysis.{module}"), function)
        return find(asked)
