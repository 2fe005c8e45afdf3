"""Whether a claimed bound holds: a proof from the exact formula, or the smallest counterexample.

A claim is a `Bound` with a formula that somebody published. Counterexamples are looked for first, by brute force over
small parameters; what survives is compared with the exact formula for all parameters. Neither: unknown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

import numpy as np
import sympy

from pidsl.analysis import documents
from pidsl.analysis import questions as ask
from pidsl.analysis.bound import Bound, Certificate
from pidsl.analysis.consequence import RULE
from pidsl.analysis.formulas import smt
from pidsl.analysis.formulas.words import Value, symbol, value_of
from pidsl.analysis.schedules import LayerRule
from pidsl.analysis.statements import REACH
from pidsl.errors import PidslError
from pidsl.language.terms import Term, is_confined
from pidsl.relation.isl import in_turn
from pidsl.studies.graph import attention_graph

Outcome = Literal["proved", "refuted", "unknown"]
TOKENS = 32  # of the sequences in which counterexamples are looked for
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
        if not _admitted(self.claim, values):
            return False
        actual, _ = _measured(self.claim, values)
        claimed = _claimed(self.claim, values)
        if actual != self.actual or claimed != self.claimed or _holds(self.claim.relation, actual, claimed):
            return False
        if not self.path:
            return True
        graphs = [attention_graph(term, values["n"]) for term in _concrete(self.claim, values)]
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

    What the exact formula assumes, such as a sequence that is long enough, the claim is taken to assume as well.
    """
    try:
        exact: Bound | None = exact_of(claim)
    except PidslError:
        exact = None
    if exact is not None and exact.is_known:
        named = [c for c in exact.assumptions if not smt.follows(claim.assumptions, c)]
        claim = replace(claim, assumptions=(*claim.assumptions, *named))
    found = refute(claim)
    if found is not None:
        return Judgement("refuted", claim, found, exact)
    if exact is not None and exact.relation in ("==", claim.relation):
        stated = replace(claim, certificate=Certificate(RULE, (), (exact,)))
        if stated.proof.check():
            return Judgement("proved", stated, None, exact)
    return Judgement("unknown", claim, None, exact)


def exact_of(claim: Bound) -> Bound:
    """The quantity that a claim is about, by this library's own formulas."""
    subject: Any = claim.subject
    own = [c for c in claim.assumptions if not {s.name for s in c.free_symbols} & {"n", "L", "i", "t"}]
    layers = claim.argument("layers")
    layers = layers if isinstance(layers, int) else None
    match claim.quantity:
        case "farthest":
            return ask.farthest(subject, layers, own)
        case "contiguous":
            return ask.contiguous(subject, layers, own)
        case "depth":
            return ask.depth(subject, None, claim.argument("of"), own)
        case "pairs":
            return ask.pairs(subject, own)
        case "max degree":
            return ask.degree(subject, own).maximum
        case "live keys":
            return ask.live(subject, own)
        case documents.ACROSS:
            return documents.no_leak(subject)
    raise ValueError(claim.quantity)


def refute(claim: Bound) -> Counterexample | None:
    """The first counterexample in the order of the sum of the parameters, then of n; None if there is none so small."""
    if claim.quantity not in (*REACH, "depth", "pairs", "max degree", documents.ACROSS):
        return None
    if claim.quantity != documents.ACROSS and documents.any_confined(claim.subject):
        return None  # which pairs there are depends on the documents
    for numbers in _parameters(claim):
        lengths = [n for n in range(1, TOKENS + 1) if _admitted(claim, {**numbers, "n": n})]
        # what long sequences do not violate, short ones do not: look at all lengths only where it depends on them
        if claim.quantity in REACH and lengths and _violation(claim, {**numbers, "n": lengths[-1]}) is None:
            continue
        for n in lengths:
            found = _violation(claim, {**numbers, "n": n})
            if found is not None:
                return found
    return None


def _violation(claim: Bound, values: dict[str, int]) -> Counterexample | None:
    actual, pair = _measured(claim, values)
    claimed = _claimed(claim, values)
    if _holds(claim.relation, actual, claimed):
        return None
    path: tuple[int, ...] = ()
    if pair is not None and claim.quantity == "farthest":
        path = _path(_masks(claim, values), pair)
    return Counterexample(claim, tuple(values.items()), actual, claimed, pair, path)


def _parameters(claim: Bound) -> Iterator[dict[str, int]]:
    """Values of all symbols but n that the claim admits, small sums first."""
    subject: Any = claim.subject
    own = () if isinstance(subject, tuple) else subject.symbols
    names = sorted({*own, *(claim.symbols - {"n", "t"})})
    for total in range(LARGEST_SUM + 1 if names else 1):
        for numbers in product(range(total + 1), repeat=len(names)):
            values = dict(zip(names, numbers, strict=True))
            if sum(numbers) == total and _admitted(claim, values):
                yield values


def _admitted(claim: Bound, values: dict[str, int]) -> bool:
    """Whether the parameters satisfy what the claim assumes and the pattern needs."""
    if values.get("L", 1) < 1:
        return False
    numbers = {symbol(name): value for name, value in values.items()}
    if any(c.subs(numbers) == sympy.false for c in claim.assumptions if c.free_symbols & numbers.keys()):
        return False
    try:
        _concrete(claim, values)
    except PidslError:
        return False
    return True


def _concrete(claim: Bound, values: dict[str, int]) -> list[Term]:
    """The layers that a claim is about, the layer at the input first."""
    subject: Any = claim.subject
    layers = claim.argument("layers")
    count = layers if isinstance(layers, int) else values.get("L", 1)
    if isinstance(subject, tuple):
        return list(subject)
    bound = subject.bind(**{name: values[name] for name in subject.symbols})
    return list(bound.terms(count)) if isinstance(bound, LayerRule) else [bound] * count


def _masks(claim: Bound, values: dict[str, int]) -> list[Any]:
    return [term.mask(values["n"]) for term in _concrete(claim, values)]


def _measured(claim: Bound, values: dict[str, int]) -> tuple[Value, tuple[int, int] | None]:
    """The quantity by counting in dense masks, and a pair that shows it."""
    n = values["n"]
    if claim.quantity == "depth":
        return _depth(claim, values), None
    if claim.quantity == documents.ACROSS:
        return _across(claim, values)
    masks = _masks(claim, values)
    if claim.quantity == "pairs":
        return int(masks[0].sum()), None
    if claim.quantity == "max degree":
        return int(masks[0].sum(1).max(initial=0)), None
    seen = np.eye(n, dtype=bool)
    for mask in masks:
        seen = (mask.astype(np.int64) @ seen.astype(np.int64)) > 0
    if claim.quantity == "farthest":
        i, j = np.nonzero(seen)
        if not len(i):
            return -sympy.oo, None
        k = int(np.argmax(i - j))
        return int(i[k] - j[k]), (int(i[k]), int(j[k]))
    if claim.quantity == "contiguous":
        for lag in range(n):
            missing = np.flatnonzero(~np.diagonal(seen, -lag))
            if len(missing):
                return lag - 1, (int(missing[0]) + lag, int(missing[0]))
        return n - 1, None
    raise ValueError(claim.quantity)


def _depth(claim: Bound, values: dict[str, int]) -> Value:
    n = values["n"]
    subject: Any = claim.subject
    wanted = np.ones((n, n), dtype=bool) if claim.argument("of") == "all" else np.tri(n, dtype=bool)
    seen = np.eye(n, dtype=bool)
    before: set[bytes] = set()
    layer = 0
    bound = subject.bind(**{name: values[name] for name in subject.symbols})
    while True:
        term = bound.layer(layer) if isinstance(bound, LayerRule) else bound
        seen = (term.mask(n).astype(np.int64) @ seen.astype(np.int64)) > 0
        layer += 1
        if (seen | ~wanted).all():
            return layer
        if not isinstance(bound, LayerRule):
            if seen.tobytes() in before:
                return float("inf")
            before.add(seen.tobytes())


def _across(claim: Bound, values: dict[str, int]) -> tuple[Value, tuple[int, int] | None]:
    """The most pairs between documents, over cuts into equal ones; and one of them."""
    n = values["n"]
    (term,) = _concrete(claim, values)
    most: tuple[int, tuple[int, int] | None] = (0, None)
    for ids in [np.arange(n), *(np.arange(n) // k for k in range(2, n))]:
        mask = term.mask(n, documents=ids) if is_confined(term) else term.mask(n)
        i, j = np.nonzero(mask & (ids[:, None] != ids[None, :]))
        if len(i) > most[0]:
            most = len(i), (int(i[0]), int(j[0]))
    return most


def _claimed(claim: Bound, values: dict[str, int]) -> Value:
    return value_of(claim.expr, {symbol(name): sympy.Integer(value) for name, value in values.items()})


def _holds(relation: str, actual: Value, claimed: Value) -> bool:
    return {"==": actual == claimed, "<=": actual <= claimed, ">=": actual >= claimed}[relation]


def _path(masks: list[Any], pair: tuple[int, int]) -> tuple[int, ...]:
    """Key first: one more token per layer, each of which attends the one before it in that layer."""
    i, j = pair
    below = [np.eye(len(masks[0]), dtype=bool)]  # what each token holds of the input, layer by layer
    for mask in masks:
        below.append((mask.astype(np.int64) @ below[-1].astype(np.int64)) > 0)
    path = [i]
    for mask, held in zip(reversed(masks), reversed(below[:-1]), strict=True):
        path.append(int(np.flatnonzero(mask[path[-1]] & held[:, j])[0]))
    return tuple(reversed(path))
