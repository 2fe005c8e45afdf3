"""Bounds that were published about patterns, as data; `check_claims` says which hold, and how to repair the rest.

A published sentence leaves things open (which keys a stride adds, whether a width counts the token itself), so a claim
is stated under a named reading. Sources say what was found in print; the readings are ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sympy

from pidsl.analysis.bound import Bound, Subject, asking
from pidsl.analysis.documents import ACROSS
from pidsl.analysis.formulas.assume import conditions
from pidsl.analysis.formulas.words import CeilLog, L, n, symbol
from pidsl.analysis.schedules import BaseSchedule, SkipSchedule
from pidsl.errors import TermError
from pidsl.language.trace import where
from pidsl.language.vocabulary import blocks, causal, documents, keys, lags, queries, stride, symbols, window
from pidsl.relation.isl import in_turn
from pidsl.studies.judge import Judgement, judge

PI = "Liu and Yu, pi-Attention, arXiv 2511.10696"
SPARSE = "Child et al., Sparse Transformers, arXiv 1904.10509"
LONGFORMER = "Beltagy et al., Longformer, arXiv 2004.05150"
MISTRAL = "Jiang et al., Mistral 7B, arXiv 2310.06825"
LOGSPARSE = "Li et al., LogSparse Transformer, arXiv 1907.00235"
POWER = "Chen et al., PowerAttention, arXiv 2503.03588"
BIGBIRD = "Zaheer et al., BigBird, arXiv 2007.14062"
KRELL = "Krell et al., Efficient Sequence Packing without Cross-contamination, arXiv 2107.02027"
PRACTICE = "a practice: position ids that restart with each document, and no mask"
SINKS = "Xiao et al., StreamingLLM, arXiv 2309.17453"


@dataclass(frozen=True)
class Claim:
    """A published bound under one reading.

    Args:
        name: a short name, unique.
        source: the paper.
        statement: what it says.
        reading: what the words are taken to mean here.
        bound: the statement about a pattern.
        repair: how to state it so that it holds; "" where nothing is to be repaired.
        repaired: the repaired statement, to be proved as well.
    """

    name: str
    source: str
    statement: str
    reading: str
    bound: Bound
    repair: str = ""
    repaired: Bound | None = None


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
        lines += [f"  reading: {claim.reading}"]
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


def claims() -> Sequence[Claim]:
    """The claims, in the order of the papers."""
    k, p, d, s = symbols("k period dilation sinks")
    K, P, D, S = (symbol(str(x)) for x in (k, p, d, s))
    single, comb = window(k) | lags(p), window(k) | (stride(p) & causal)
    first, second = SkipSchedule(k, p, first=1), SkipSchedule(k, p, first=2)
    reach = K * L + P * CeilLog(2, L)
    reach_text = "R(L) <= k*L + pi*ceil(log2 L): the tokens to the left that L layers reach"
    proper = "k >= 1, period > k"
    found = [
        Claim(
            "pi-Attention, reach, skip in every layer", PI, reach_text,
            "lags 0..k and one skip, in every layer; R(L) is the largest lag",
            _claim(single, "farthest", "<=", reach, proper),
            "the largest lag is period*L: every layer may skip",
            _claim(single, "farthest", "<=", P * L, proper),
        ),
        Claim(
            "pi-Attention, contiguous reach, skip in every layer", PI, reach_text,
            "lags 0..k and one skip, in every layer; R(L) counts the lags 0..R without a gap",
            _claim(single, "contiguous", "<=", reach, proper),
            "it is at most period*L; k*L until the windows close the gap between skips, then slope period",
            _claim(single, "contiguous", "<=", P * L, proper),
        ),
        Claim(
            "pi-Attention, reach, skip in layers 1, 2, 4, ...", PI, reach_text,
            "lags 0..k in every layer, the skip in the layers 1, 2, 4, 8, ... counted from the input",
            _claim(first, "farthest", "<=", reach, proper),
            "layer 1 skips as well: one skip more, ceil(log2 (L + 1)) of them",
            _claim(first, "farthest", "<=", K * L + P * CeilLog(2, L + 1), proper),
        ),
        Claim(
            "pi-Attention, reach, skip in layers 2, 4, 8, ...", PI, reach_text,
            "lags 0..k in every layer, the skip in the layers 2, 4, 8, ...: a path skips at most log2 L times",
            _claim(second, "farthest", "<=", reach, proper),
        ),
        Claim(
            "pi-Attention, reach, comb", PI, reach_text,
            "lags 0..k and every multiple of the period, in every layer",
            _claim(comb, "farthest", "<=", reach, proper),
            "one layer reaches the beginning of the sequence; all of it is reached in 1 + ceil((period - 1)/k) layers",
            _claim(comb, "depth", "<=", 1 + sympy.ceiling((P - 1) / K), f"{proper}, n >= 2*period"),
        ),
        Claim(
            "pi-Attention, compute, single skip", PI, "O(n k) compute per layer",
            "lags 0..k and one skip: at most k + 2 pairs per token",
            _claim(single, "pairs", "<=", n * (K + 2), "k >= 1, period > k"),
        ),
        Claim(
            "pi-Attention, memory, single skip", PI, "O(n k + n) memory",
            "the scores of all pairs and one number per token",
            _claim(single, "pairs", "<=", n * (K + 3) - n, "k >= 1, period > k"),
        ),
        Claim(
            "pi-Attention, compute, comb", PI, "O(n k) compute per layer",
            "lags 0..k and every multiple of the period, against 2 (k + 1) pairs per token",
            _claim(comb, "pairs", "<=", 2 * n * (K + 1), "k >= 1, period > k"),
            "no constant will do: the last query alone has at least n/period keys; O(n k) needs a period of order n/k",
            _claim(stride(p) & causal, "max degree", ">=", sympy.floor(n / P), "period >= 1, n >= 1"),
        ),
        Claim(
            "Mistral, reach", MISTRAL, "after L layers information moves by up to W*L tokens",
            "W keys, the token itself among them: lags 0..W - 1",
            _claim(window(k), "farthest", "<=", (K + 1) * L, "k >= 1"),
        ),
        Claim(
            "Mistral, reach, attained", MISTRAL, "after L layers information moves by W*L tokens",
            "W keys, the token itself among them: lags 0..W - 1",
            _claim(window(k), "farthest", "==", (K + 1) * L, "k >= 1"),
            "exactly (W - 1)*L: the token itself is one of the W",
            _claim(window(k), "farthest", "==", K * L, "k >= 1"),
        ),
        Claim(
            "Longformer, dilated reach", LONGFORMER, "the receptive field of dilated windows is l*d*w",
            "causal half: lags 0, d, ..., k*d in every layer; the largest lag",
            _claim(window(k).dilated(d), "farthest", "<=", K * D * L, "k >= 1, dilation >= 2"),
        ),
        Claim(
            "Longformer, dilated coverage", LONGFORMER, "a receptive field of l*d*w tokens",
            "causal half: lags 0, d, ..., k*d in every layer; every token in the field is seen",
            _claim(window(k).dilated(d), "contiguous", ">=", K * D * L, "k >= 1, dilation >= 2"),
            "only every d-th token is seen, at any depth: mix dilations, as the paper does across heads",
            _claim(window(k).dilated(d), "contiguous", "==", sympy.Integer(0), "k >= 1, dilation >= 2"),
        ),
        Claim(
            "Longformer, global tokens", LONGFORMER, "global tokens connect all pairs in two layers",
            "window of 3 on both sides; token 0 sees all and is seen by all",
            _claim(window(3, 3) | keys(0, 1) | queries(0, 1), "depth", "<=", sympy.Integer(2), "n >= 1", of="all"),
        ),
        Claim(
            "BigBird, global tokens", BIGBIRD, "with a global token every pair is two hops apart",
            "window of 3 and two global tokens, causal: a decoder",
            _claim((window(3) | keys(0, 2) | queries(0, 2)) & causal, "depth", "<=", sympy.Integer(2), "n >= 1"),
            "two hops need global tokens that also look ahead; causal ones only hold what came before them",
            _claim(window(3, 3) | keys(0, 2) | queries(0, 2), "depth", "<=", sympy.Integer(2), "n >= 1", of="all"),
        ),
        Claim(
            "Sparse Transformer, strided, steps", SPARSE, "every pair is connected in two steps",
            "lags below the stride and its multiples, in one mask",
            _claim(window(p - 1) | (stride(p) & causal), "depth", "<=", sympy.Integer(2), "period >= 2, n >= 2*period"),
        ),
        Claim(
            "Sparse Transformer, strided, cost", SPARSE, "O(n sqrt n) pairs",
            "the stride is the root of n: at most 2*stride keys for each of stride**2 tokens",
            _claim(
                window(p - 1) | (stride(p) & causal), "max degree", "<=", 2 * P, "period >= 2, n == period*period"
            ),
        ),
        Claim(
            "Sparse Transformer, fixed, steps", SPARSE, "every pair is connected in two steps",
            "own block of 8 and the last position of each block (c = 1)",
            _claim((blocks(8) | where(lambda i, j: j % 8 == 7)) & causal, "depth", "<=", sympy.Integer(2), "n >= 1"),
        ),
        Claim(
            "LogSparse, depth", LOGSPARSE, "O(log n) layers connect every cell to every earlier one",
            "the lags 0 and 2^l in layer l: the binary digits of the lag; more lags per layer only add",
            _claim(BaseSchedule(2), "depth", "<=", CeilLog(2, n), "n >= 2"),
        ),
        Claim(
            "PowerAttention, degree", POWER, "out-degree at most log n",
            "lags 1, 2, 4, ..., 1024, enough for 2^11 tokens: at most 11 keys, the token itself not counted",
            _claim(lags(*(2**e for e in range(11))), "max degree", "<=", sympy.Integer(11), "n >= 1"),
        ),
        Claim(
            "PowerAttention, reach", POWER, "after L layers 2^L tokens are reached",
            "lags 0, 1, 2, 4, ..., 1024 in every layer, L = 8: the last 2^8 tokens without a gap",
            _claim(lags(0, *(2**e for e in range(11))), "contiguous", ">=", sympy.Integer(255), "n > 600", layers=8),
        ),
        Claim(
            "PowerAttention, distance", POWER, "distance at most log n between any two tokens",
            "lags 0, 1, 2, 4, ..., 1024 in every layer",
            _claim(lags(0, *(2**e for e in range(11))), "depth", "<=", sympy.Integer(11), "n >= 1, n <= 2048"),
        ),
        Claim(
            "StreamingLLM, cache", SINKS, "a constant number of keys is kept",
            "sinks and a window: at most k + sinks keys are live, however long the stream",
            _claim(window(k) | (keys(0, s) & causal), "live keys", "<=", K + S, "k >= 0, sinks >= 1"),
        ),
        Claim(
            "Packing, no cross-contamination", KRELL, "sequences packed into one do not attend to each other",
            "lags 0..k and every multiple of the period, within each document, however tokens are cut into documents",
            _claim(comb & documents, ACROSS, "<=", sympy.Integer(0), proper),
        ),
        Claim(
            "Packing, positions alone", PRACTICE, "positions that start again with each sequence keep sequences apart",
            "lags 0..k of the packed tokens; positions are embedded, the pattern does not know them",
            _claim(window(k), ACROSS, "<=", sympy.Integer(0), "k >= 1"),
            "the pattern has to be confined as well: the first tokens of a document see the last of the one before",
            _claim(window(k) & documents, ACROSS, "<=", sympy.Integer(0), "k >= 1"),
        ),
    ]  # fmt: skip
    return found


def _claim(
    subject: Subject, quantity: str, relation: Literal["==", "<=", ">="], expr: Any, assume: str, **given: object
) -> Bound:  # fmt: skip
    if quantity in ("farthest", "contiguous"):
        given.setdefault("layers", L)
    if quantity == "depth":
        given.setdefault("of", "causal")
    return Bound(asking(subject, quantity, **given), relation, sympy.sympify(expr), conditions(assume))


def _list(assumptions: Sequence[Any]) -> str:
    return ", ".join(f"{c.lhs} == {c.rhs}" if isinstance(c, sympy.Eq) else str(c) for c in assumptions)
