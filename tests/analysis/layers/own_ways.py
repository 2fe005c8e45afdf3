"""Questions put to the ways of layers alone, also where another way is asked first."""

from collections.abc import Callable
from typing import Any
from unittest import mock

import sympy

from pidsl.analysis import questions
from pidsl.analysis.bound import Bound, Question, asking
from pidsl.analysis.formulas.words import n
from pidsl.analysis.portfolio import WAYS
from pidsl.analysis.ways import Asked, NotMine
from pidsl.errors import TooHardError

OWN = ("layers.", "sizes:", "consequence:")


def answer(question: Question, assume: tuple[sympy.Basic, ...] = ()) -> Bound:
    """The first answer of these ways for every n, else the first of all."""
    best, why = None, ""
    for way in WAYS[question.quantity]:
        if not way.finder.startswith(OWN):
            continue
        try:
            found = way.find(Asked(question, assume, answer, best))
        except (NotMine, TooHardError) as e:
            why += f"{e}; "
            continue
        if not found.is_known or (way.confirmed == "always" and not found.proof.check()):
            continue
        if all(c.free_symbols == {n} for c in found.assumptions if n in c.free_symbols):
            return found
        best = best or found
    return best or Bound(question, "unknown", sympy.nan, reason=why or "no way")


def by(way: Callable[[Asked], Bound], subject: Any, quantity: str, **given: Any) -> Bound:
    """What one way answers."""
    return way(Asked(asking(subject, quantity, **given), (), answer))


def _own(question: Callable[..., Bound]) -> Callable[..., Bound]:
    def asked(*args: Any, **given: Any) -> Bound:
        with mock.patch.object(questions, "answer", answer):
            return question(*args, **given)

    return asked


farthest, contiguous, depth = map(_own, (questions.farthest, questions.contiguous, questions.depth))
