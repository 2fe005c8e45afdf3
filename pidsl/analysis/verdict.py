"""What a checker says of a statement."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a statement was verified.

    Args:
        holds: it was.
        steps: what was established on the way, one line each.
        failure: the first thing that could not be, "" if all could.
        smtlib: what an SMT solver was asked: every script must be answered `unsat`. "" where none was.
    """

    holds: bool
    steps: tuple[str, ...] = ()
    failure: str = ""
    smtlib: str = ""


def failed(why: str, *steps: str) -> Verdict:
    """What could not be verified, after what could."""
    return Verdict(False, steps, why)


_soon: list[bool] = [False]


@contextmanager
def soon() -> Iterator[None]:
    """Inside, a statement is verified that was found just now, and compared with masks: not with more of them."""
    _soon.append(True)
    try:
        yield
    finally:
        _soon.pop()


def is_soon() -> bool:
    """Whether comparisons at further sizes are left to a later check."""
    return _soon[-1]
