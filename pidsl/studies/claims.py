"""What became of published bounds; `check_claims` says which hold, and how to repair the rest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sympy

from pidsl.errors import TermError
from pidsl.relation.isl import in_turn
from pidsl.studies.judge import Judgement, judge
from pidsl.studies.published import Claim as Claim
from pidsl.studies.published import claims as claims


@dataclass(frozen=True)
class Finding:
    """What became of a claim, and of its repair."""

    claim: Claim
    judgement: Judgement
    repaired: Judgement | None = None

    @property
    def verdict(self) -> str:
        """One of "proved", "refuted", "unknown"."""
        return self.judgement.outcome

    def check(self) -> bool:
        """Verify everything that is said: the proof or the counterexample, and the repaired statement."""
        return self.judgement.check() and (self.repaired is None or self.repaired.check())

    def __str__(self) -> str:
        claim, bound = self.claim, self.judgement.claim
        lines = [f"{claim.name}: {self.verdict.upper()}", f"  {claim.statement} ({claim.source})"]
        lines += [f"  words: {claim.wording}", f"  reading: {claim.reading}"]
        shown = f"{bound.name} of {bound.shown_subject} {bound.relation} {bound.expr}"
        lines += [f"  stated: {shown}" + (f"  for {_list(bound.assumptions)}" if bound.assumptions else "")]
        if self.judgement.counterexample is not None:
            lines.append(f"  smallest counterexample: {self.judgement.counterexample}")
        if self.judgement.exact is not None and self.judgement.exact.is_known:
            lines.append(f"  exactly: {self.judgement.exact.expr}")
        if claim.repair:
            lines.append(f"  repair: {claim.repair}")
        if self.repaired is not None:
            fixed = self.repaired.claim
            lines.append(
                f"  {self.repaired.outcome}: {fixed.name} of {fixed.shown_subject} {fixed.relation} {fixed.expr}"
            )
        return "\n".join(lines)

    __repr__ = __str__


class Findings(tuple[Finding, ...]):
    """Findings, printed one after another."""

    __slots__ = ()

    def check(self) -> bool:
        """Whether every verdict can be verified again."""
        return all(f.check() for f in self)

    def __repr__(self) -> str:
        return "\n\n".join(map(str, self))

    __str__ = __repr__


@in_turn
def check_claims(names: Iterable[str] | str | None = None) -> Findings:
    """Judge the published claims: each is proved, or refuted by a smallest counterexample.

    >>> print(check_claims("Mistral, reach")[0].verdict)
    proved

    Args:
        names: of some claims; None for all.

    Raises:
        TermError: an unknown name.
    """
    known = {c.name: c for c in claims()}
    wanted = list(known) if names is None else [names] if isinstance(names, str) else list(names)
    for name in wanted:
        if name not in known:
            raise TermError(f"claim {name!r}", "one of " + ", ".join(map(repr, known)), where="check_claims")
    return Findings(find(known[name]) for name in wanted)


def find(claim: Claim) -> Finding:
    """Judge one claim and its repair."""
    return Finding(claim, judge(claim.bound), None if claim.repaired is None else judge(claim.repaired))


def _list(assumptions: Sequence[Any]) -> str:
    return ", ".join(f"{c.lhs} == {c.rhs}" if isinstance(c, sympy.Eq) else str(c) for c in assumptions)
