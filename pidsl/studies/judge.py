"""Whether a claimed bound holds: a proof from the exact formula, or the smallest counterexample.

A claim is a `Bound` with a formula that somebody published. Counterexamples are looked for first, by brute force over
small parameters; what survives is compared with the exact formula for all parameters (`consequence`). Neither: unknown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

import numpy as np
import sympy

from pidsl.analysis import documents
from pidsl.analysis.bound import ANY, Bound, Certificate
from pidsl.analysis.consequence import RULE, derived
from pidsl.analysis.formulas import smt
from pidsl.analysis.formulas.words import Value
from pidsl.analysis.held_out import MEASURED
from pidsl.analysis.measured import BY_TIME, FAR_WORK, admits, agrees, formula_at, layers_of, measured
from pidsl.analysis.portfolio import answer, static
from pidsl.analysis.statements import REACH, names_of
from pidsl.errors import PidslError
from pidsl.language.terms import Term, is_confined
from pidsl.relation.isl import in_turn
from pidsl.studies.graph import attention_graph, path

Outcome = Literal["proved", "refuted", "unknown"]
TOKENS = 32  # of the sequences in which counterexamples are looked for
LONGEST = 512  # tokens, where a claim is about one number of them
LARGEST_SUM = 9  # of the parameters of a counterexample


@dataclass(frozen=True)
class Counterexample:
    """Numbers for which a claim is wrong.

    Args:
        claim: what was claimed.
        values: the parameters, n among them.
        actual: the quantity, from the dense masks.
        claimed: the formula.
        pair: (i, j) that shows it, where one does.
        path: the tokens j, ..., i through which key j reaches query i, one more per layer; empty where there is none.
    """

    claim: Bound
    values: tuple[tuple[str, int], ...]
    actual: Value
    claimed: Value
    pair: tuple[int, int] | None = None
    path: tuple[int, ...] = ()

    def check(self) -> bool:
        """Whether the numbers refute the claim: the quantity counted again from dense masks, the path walked."""
        values = dict(self.values)
        if not _admitted(self.claim, values) or _measured(self.claim, values) != self.actual:
            return False
        claimed = formula_at(self.claim.expr, values)
        if claimed != self.claimed or agrees(self.claim.relation, self.actual, claimed):
            return False
        if not self.path:
            return self.pair == _witness(self.claim, values, self.actual)[0]
        graphs = [attention_graph(term, values["n"]) for term in _layers(self.claim, values)]
        steps = list(zip(self.path, self.path[1:], graphs, strict=False))
        walked = len(steps) == len(graphs) and all(graph.has_edge(j, i) for j, i, graph in steps)
        return walked and (self.path[-1], self.path[0]) == self.pair

    def __str__(self) -> str:
        numbers = ", ".join(f"{name} = {value}" for name, value in self.values)
        text = f"{numbers}: {self.claim.name} is {self.actual}, claimed {self.claim.relation} {self.claimed}"
        if self.pair is not None:
            text += f"; query {self.pair[0]} sees key {self.pair[1]}" if self.path else f"; pair {self.pair}"
        if len(self.path) > 2:
            text += " along " + " -> ".join(map(str, self.path))
        return text


@dataclass(frozen=True)
class Judgement:
    """What became of a claim.

    Args:
        outcome: "proved", "refuted" or "unknown".
        claim: the claim, with a proof if it was proved.
        counterexample: if it was refuted.
        exact: the quantity itself, where it is known.
    """

    outcome: Outcome
    claim: Bound
    counterexample: Counterexample | None = None
    exact: Bound | None = None

    def check(self) -> bool:
        """Verify the outcome again: the proof from the statement, or the counterexample by counting."""
        if self.outcome == "proved":
            return self.claim.proof.check()
        return self.counterexample is not None and self.counterexample.check()


@in_turn
def judge(claim: Bound) -> Judgement:
    """Prove a claimed bound, or refute it by a smallest counterexample.

    What the exact formula assumes, such as a sequence that is long enough, the claim is taken to assume as well. A
    proof is the rule `consequence`: the claim follows from the exact formula, whose own proof is checked before.
    """
    exact = exact_of(claim)
    if exact.is_known:
        named = [c for c in exact.assumptions if not smt.follows(claim.assumptions, c)]
        claim = replace(claim, assumptions=(*claim.assumptions, *named))
    found = refute(claim)
    if found is not None:
        return Judgement("refuted", claim, found, exact)
    if exact.relation in ("==", claim.relation):
        stated = replace(claim, certificate=Certificate(RULE, (), (exact,)))
        if stated.proof.check():
            return Judgement("proved", stated, None, exact)
    return Judgement("unknown", claim, None, exact)


def exact_of(claim: Bound) -> Bound:
    """What this library's own formulas say about the quantity of a claim; unknown where they say nothing."""
    if claim.quantity == documents.ACROSS:
        return documents.no_leak(claim.term)
    own = static(claim.assumptions)
    try:
        found = answer(claim.question, own)
        return found if found.question == claim.question else derived(found, claim.question)
    except PidslError as e:
        return Bound(claim.question, "unknown", sympy.nan, reason=str(e))


# -- counterexamples ---------------------------------------------------------------------------------------------------


def refute(claim: Bound) -> Counterexample | None:
    """The first counterexample in the order of the sum of the parameters, then of n; None if there is none so small."""
    if claim.quantity not in (*MEASURED, documents.ACROSS):
        return None
    if claim.quantity != documents.ACROSS and documents.any_confined(claim.subject):
        return None  # which pairs there are depends on the documents
    for numbers in _parameters(claim):
        sizes = [*_sizes(claim, numbers)]
        if claim.quantity in (*REACH, documents.ACROSS):
            # what long sequences do not violate, short ones do not: look at all lengths only where it depends on them
            last = next((x for x in reversed(sizes) if _admitted(claim, x)), None)
            if last is None or _violation(claim, last) is None:
                continue
        for values in sizes:
            if _admitted(claim, values) and (found := _violation(claim, values)) is not None:
                return found
    return None


def _violation(claim: Bound, values: dict[str, int]) -> Counterexample | None:
    actual, claimed = _measured(claim, values), formula_at(claim.expr, values)
    if actual is None or agrees(claim.relation, actual, claimed):
        return None
    return Counterexample(claim, tuple(values.items()), actual, claimed, *_witness(claim, values, actual))


def _parameters(claim: Bound) -> Iterator[dict[str, int]]:
    """Values of all symbols but those of sizes that the claim admits, small sums first."""
    layers = {"L"} if claim.question.layers == ANY else set()
    names = sorted(names_of(claim.subject) | (claim.symbols - {"n", "t", "i"}) | layers)
    for total in range(LARGEST_SUM + 1 if names else 1):
        for numbers in product(range(total + 1), repeat=len(names)):
            values = dict(zip(names, numbers, strict=True))
            if sum(numbers) == total and _admitted(claim, values):
                yield values


def _sizes(claim: Bound, numbers: dict[str, int]) -> Iterator[dict[str, int]]:
    """With a number of tokens, of those processed for live keys, and a query for its degree."""
    stated = claim.argument("n")
    if claim.quantity in BY_TIME and stated is None:
        yield from ({**numbers, "t": t} for t in range(TOKENS + 1))
        return
    for n in range(1, TOKENS + 1) if stated is None else [stated] * (stated <= LONGEST):
        queries = range(n) if claim.quantity == "degree" else (None,)
        yield from ({**numbers, "n": n} | ({} if i is None else {"i": i}) for i in queries)


def _admitted(claim: Bound, values: dict[str, int]) -> bool:
    """Whether the parameters satisfy what the claim assumes and the pattern needs."""
    return values.get("L", 1) >= 1 and admits(claim.assumptions, values) and bool(layers_of(claim.subject, values, 1))


def _layers(claim: Bound, values: dict[str, int]) -> tuple[Term, ...]:
    """The layers that a claim is about, the layer at the input first."""
    layers = claim.argument("layers")
    return layers_of(claim.subject, values, layers if isinstance(layers, int) else values.get("L", 1))


def _measured(claim: Bound, values: dict[str, int]) -> Value | None:
    """The quantity by counting in dense masks; None where these do not tell."""
    if claim.quantity == documents.ACROSS:
        return len(_across(claim, values))
    found, exact = measured(claim, values, FAR_WORK)
    return found if exact or claim.relation != ">=" else None  # at least so many do not refute at least


def _witness(claim: Bound, values: dict[str, int], actual: Value) -> tuple[tuple[int, int] | None, tuple[int, ...]]:
    """A pair (i, j) that shows the quantity, and for the farthest the tokens along which it is connected."""
    if claim.quantity == documents.ACROSS:
        return next(iter(_across(claim, values)), None), ()
    if claim.quantity not in REACH or not isinstance(actual, int):
        return None, ()
    far, n = claim.quantity == "farthest", values["n"]
    layers, lag = _layers(claim, values), actual if far else actual + 1
    for i in range(lag, n):
        way = path(layers, i, i - lag, n=n)
        if (way is not None) == far:
            return (i, i - lag), tuple(way or ())
    return None, ()


def _across(claim: Bound, values: dict[str, int]) -> list[tuple[int, int]]:
    """The most pairs between documents, over cuts into equal ones."""
    n, term = values["n"], _layers(claim, values)[0]
    most: list[tuple[int, int]] = []
    for ids in [np.arange(n), *(np.arange(n) // k for k in range(2, n))]:
        mask = term.mask(n, documents=ids) if is_confined(term) else term.mask(n)
        found = np.argwhere(mask & (ids[:, None] != ids[None, :]))
        if len(found) > len(most):
            most = [(int(i), int(j)) for i, j in found]
    return most
