"""Faults planted one at a time where answers are found: what comes out is true, or refused by its own check.

The masks that every check begins with are switched off, and ways are asked without the loop that confirms them: the
checkers alone must refuse what a fault makes of a formula. An answer may stay what it was, or be unknown.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import pytest

from pidsl.analysis import portfolio
from pidsl.analysis.bound import Bound
from pidsl.analysis.rules import RULES
from pidsl.errors import PidslError

Faulty = Callable[[Any], Any]  # the real thing to the faulty one
Ask = Callable[[Any], Iterable[Bound]]  # what is answered to a question

for way in (way for ways in portfolio.WAYS.values() for way in ways):  # what is imported later would keep a fault
    import_module(f"pidsl.analysis.{way.finder.partition(':')[0]}")
for rule in RULES.values():
    import_module(rule.checker.partition(":")[0])


def shared_out(faults: Iterable[Any]) -> list[Any]:
    """Every other one in `make test`, the rest in `make slow`: all of them are a sweep, of a minute and a half."""
    return [pytest.param(x, marks=pytest.mark.slow, id=str(x)) if k % 2 else x for k, x in enumerate(faults)]


@dataclass(frozen=True)
class Fault:
    """What is planted, and the questions that show it.

    Args:
        where, name: what is replaced.
        faulty: from the right one to the wrong one.
        questions: some of them come out wrong.
        what: the fault, where its place does not say it.
    """

    where: Any
    name: str
    faulty: Faulty
    questions: tuple[Any, ...]
    what: str = ""

    def __str__(self) -> str:
        return f"{self.where.__name__.rpartition('.')[2]}.{self.name} {self.what}".strip()

    def plant(self, monkeypatch: pytest.MonkeyPatch, *, everywhere: bool = False) -> None:
        """Replace it where it is called by its name: in its module, or in all."""
        right = getattr(self.where, self.name)
        real = vars(self.where).get(self.name, right)
        places = [x for x in sys.modules.values() if getattr(x, "__name__", "").startswith("pidsl")]
        for place in places if everywhere and not isinstance(self.where, type) else ():
            if vars(place).get(self.name) is real:
                monkeypatch.setattr(place, self.name, self.faulty(real))
        if getattr(self.where, self.name) is right:
            monkeypatch.setattr(self.where, self.name, self.faulty(real))


def changed(result: Callable[[Any], Any]) -> Faulty:
    """A function whose results are changed."""
    return lambda right: lambda *args, **given: result(right(*args, **given))


def given(change: Callable[..., tuple[Any, ...]]) -> Faulty:
    """A function that is given something else."""
    return lambda right: lambda *args: right(*change(*args))


def forget(*rooms: str) -> None:
    """Nothing is remembered of what is on the way to an answer."""
    for name, module in list(sys.modules.items()):
        if name.startswith(tuple(f"pidsl.analysis.{room}" for room in rooms)):
            for value in vars(module).values():
                if callable(getattr(value, "cache_clear", None)):
                    value.cache_clear()


def answered(ask: Ask, question: Any) -> Iterator[Bound]:
    """What is answered; a fault may break what works on it."""
    try:
        yield from ask(question)
    except Exception:
        return


def accepted(fault: Fault, ask: Ask) -> Iterator[tuple[Any, Bound]]:
    """Questions, and the answers to them that their own check accepts."""
    for question in fault.questions:
        for bound in answered(ask, question):
            try:
                holds = bound.proof.check()
            except Exception:
                holds = False
            if holds:
                yield question, bound


def value(bound: Bound, at: dict[str, int]) -> Any:
    try:
        return bound(**at)
    except PidslError:
        return None


def fits(found: Bound, right: Bound, points: Iterable[dict[str, int]]) -> bool:
    """Whether an answer is compatible with another that is exact, where both say something."""
    both = ((value(found, at), value(right, at)) for at in points)
    compare = {"==": operator.eq, "<=": operator.ge, ">=": operator.le}[found.relation]
    return all(compare(claimed, truth) for claimed, truth in both if claimed is not None and truth is not None)
