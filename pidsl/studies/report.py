"""The claims page: every published bound that is checked here, what became of it, and how to repair it."""

from __future__ import annotations

from pidsl.studies.claims import Finding, Findings, whose

INTRODUCTION = """# Published bounds, checked

This page is generated: `python -m pidsl claims --markdown > docs/reference/claims.md`. Each statement says in our words
what a paper (or a summary of it, where the paper could not be had) claims; it is stated for one reading, and then
either proved for all values of its parameters or refuted by a smallest counterexample. `pidsl.check_claims()` does
it again, and `.check()` of a finding verifies the proof from the statement alone, or counts the counterexample in
dense masks and walks its path in the attention graph.

Each claim says whose words are judged: the paper's, those of a summary where only that could be had, or ours, where we
add what the paper leaves open or ask what follows. A constant for an O(...) is always ours, and what is refuted in our
words is no fault of the paper.

Lags are `i - j`; `L` counts layers; `n` counts tokens; `CeilLog(b, x)` is the least c >= 0 with b**c >= x. A claim
about the reach of layers is about sequences long enough to hold it.
"""


def markdown(findings: Findings) -> str:
    """The page for some findings."""
    rows = ["| claim | words | verdict |", "|---|---|---|"]
    rows += [f"| [{f.claim.name}](#{_anchor(f.claim.name)}) | {f.claim.wording} | {f.verdict} |" for f in findings]
    failing = [f.claim.name for f in findings if f.verdict == "refuted"]
    words = [f.claim.wording for f in findings if f.verdict == "refuted"]
    told = ", ".join(f"{words.count(x)} in {whose(x)}" for x in dict.fromkeys(words))
    summary = f"{len(findings)} claims, {len(failing)} of them do not hold as read" + (f" ({told})." if told else ".")
    return "\n\n".join([INTRODUCTION.strip(), summary, "\n".join(rows), *map(_section, findings)]) + "\n"


def _section(finding: Finding) -> str:
    claim = finding.claim
    told = (
        f"**{finding.verdict.capitalize()}**, in {whose(claim.wording)}. Claimed: {claim.statement} ({claim.source})."
    )
    lines = [f"- {kind.capitalize()}: {what}." for kind, what in finding.lines(lambda text: f"`{text}`")]
    return "\n".join([f"## {claim.name}", "", told, "", *lines])


def _anchor(name: str) -> str:
    kept = "".join(c for c in name.lower() if c.isalnum() or c in " -")
    return kept.replace(" ", "-")
