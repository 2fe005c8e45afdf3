"""Published bounds: what became of each, and that the page says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import pidsl
from pidsl import keys, lags, symbols, window
from pidsl.analysis.bound import Bound, asking
from pidsl.analysis.formulas.words import CeilLog, L, n, symbol
from pidsl.analysis.schedules import SkipSchedule
from pidsl.studies.claims import Finding, Findings, claims
from pidsl.studies.judge import judge, refute
from pidsl.studies.report import markdown

PAGE = Path(__file__).parent.parent.parent / "docs" / "reference" / "claims.md"
K, P = symbol("k"), symbol("period")
k, period = symbols("k period")
REFUTED = {
    "pi-Attention, reach, skip in every layer": "a summary's",
    "pi-Attention, contiguous reach, skip in every layer": "a summary's",
    "pi-Attention, reach, skip in layers 1, 2, 4, ...": "a summary's",
    "pi-Attention, reach, comb": "a summary's",
    "pi-Attention, compute, comb": "a summary's",
    "Mistral, reach, attained": "ours",
    "Longformer, dilated coverage": "ours",
    "BigBird, global tokens in a decoder": "ours",
    "DeepSeek, a budget for the cache": "ours",
    "Ring Attention, volume": "ours",
    "Locality, neighbours reached": "ours",
    "Packing, positions alone": "ours",
}  # all others hold; and whose words these are


@pytest.fixture(scope="module")
def findings() -> Findings:
    return pidsl.check_claims()


def test_verdicts(findings: Findings) -> None:
    assert {f.verdict for f in findings} == {"proved", "refuted"}
    assert {f.claim.name: f.claim.wording for f in findings if f.verdict == "refuted"} == REFUTED
    assert all(f.repaired is None or f.repaired.outcome == "proved" for f in findings)
    assert all(f.claim.repair for f in findings if f.verdict == "refuted")


def test_each_verdict_is_verified_again(findings: Findings) -> None:
    assert [f.claim.name for f in findings if not f.check()] == []


def test_the_page_is_what_the_findings_say(findings: Findings) -> None:
    assert PAGE.read_text(encoding="utf-8") == markdown(findings)


def test_a_counterexample_of_another_claim_is_none(findings: Findings) -> None:
    found = finding(findings, "pi-Attention, reach, skip in every layer").judgement
    assert found.counterexample is not None
    assert dict(found.counterexample.values) == {"L": 1, "k": 1, "period": 2, "n": 3}
    assert found.counterexample.pair == (2, 0)
    assert found.counterexample.path == (0, 2)
    assert found.counterexample.check()
    true = replace(found.claim, expr=P * L)
    assert not replace(found.counterexample, claim=true).check()
    assert not replace(found.counterexample, actual=3).check()
    assert not replace(found.counterexample, path=(0, 1)).check()
    assert not replace(found.counterexample, values=(("L", 1), ("k", 2), ("period", 2), ("n", 3))).check()


def test_counterexamples_are_shown_along_a_path() -> None:
    claim = Bound(asking(window(k) | lags(period), "farthest", layers=L), "<=", P * L - 1, (K >= 1, P > K, L >= 3))
    found = judge(claim)
    assert found.counterexample is not None
    assert found.counterexample.path == (0, 2, 4, 6)
    assert "along 0 -> 2 -> 4 -> 6" in str(found.counterexample)


def test_a_wrong_bound_is_not_proved() -> None:
    claim = Bound(asking(window(k), "pairs"), "<=", n * (K + 1) - 1, (K >= 0,))
    assert judge(claim).outcome == "refuted"
    true = judge(replace(claim, expr=n * (K + 1))).claim
    assert true.proof.check()
    assert not replace(true, expr=n * K).proof.check()
    assert not replace(true, relation=">=").proof.check()
    assert not replace(true, assumptions=(K >= 0, K < 0)).proof.check()


@pytest.mark.parametrize("first", [1, 2])
def test_the_published_bound_under_the_schedule(first: int) -> None:
    question = asking(SkipSchedule(k, period, first), "farthest", layers=L)
    claim = Bound(question, "<=", K * L + P * CeilLog(2, L), (K >= 1, P > K))
    assert judge(claim).outcome == ("refuted" if first == 1 else "proved")


def test_what_cannot_be_decided_is_unknown() -> None:
    term = window(k) | keys(0, period)  # looks ahead at the sinks: in no family
    found = judge(Bound(asking(term, "farthest", layers=1), "<=", 100 + K + P, (K >= 1,)))
    assert found.outcome == "unknown"
    assert not found.check()
    assert refute(found.claim) is None


def test_names() -> None:
    assert len({c.name for c in claims()}) == len(claims()) >= 60
    with pytest.raises(pidsl.TermError, match="claim 'no such'"):
        pidsl.check_claims("no such")
    (one,) = pidsl.check_claims(["Sparse Transformer, fixed, steps"])
    assert "PROVED" in str(one)


def finding(found: Findings, name: str) -> Finding:
    return next(f for f in found if f.claim.name == name)
