"""What became of published bounds; `check_claims` says which hold, and how to repair the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from pidsl.analysis.bound import Bound
from pidsl.errors import TermError
from pidsl.relation.isl import in_turn
from pidsl.studies.judge import Judgement, judge
from pidsl.studies.published import OURS, Wording
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

    def lines(self, code: Callable[[str], str] = str) -> Iterator[tuple[str, str]]:
        """What there is to say, line by line: of which kind, and what; `code` marks formulas and patterns."""

        def stated(x: Bound) -> str:
            return f"{code(x.name)} of {code(x.shown_subject)} {x.relation} {code(str(x.expr))}"

        claim, bound, exact = self.claim, self.judgement.claim, self.judgement.exact
        yield "reading", claim.reading
        yield "stated", stated(bound)
        if bound.assumptions:
            yield "assumed", ", ".join(code(bound.shown_condition(c)) for c in bound.assumptions)
        if self.judgement.counterexample is not None:
            yield "smallest counterexample", str(self.judgement.counterexample)
        if exact is not None and exact.is_exact:
            yield "exactly", code(str(exact.expr))
        if self.verdict == "proved":
            yield "proof", bound.proof.summary
        if claim.repair:
            yield "repair", claim.repair
        if self.repaired is not None:
            yield self.repaired.outcome, stated(self.repaired.claim)

    def __str__(self) -> str:
        claim = self.claim
        head = [
            f"{claim.name}: {self.verdict.upper()}",
            f"  {claim.statement} ({claim.source}; {whose(claim.wording)})",
        ]
        return "\n".join([*head, *(f"  {kind}: {what}" for kind, what in self.lines())])

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


def whose(wording: Wording) -> str:
    """Whose words a claim is in."""
    return "our words" if wording == OURS else f"{wording} words"
