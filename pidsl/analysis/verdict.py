"""What a checker says of a statement."""

from __future__ import annotations

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
