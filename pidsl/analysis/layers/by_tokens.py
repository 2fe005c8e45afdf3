"""Ways that guess a formula from few tokens: for isl to confirm of long sequences, or by following single tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import sympy

from pidsl.analysis import dense
from pidsl.analysis.bound import ANY, Bound, Certificate
from pidsl.analysis.dense import Bools, Of, target_of
from pidsl.analysis.formulas.agreement import branch_starts
from pidsl.analysis.formulas.guess import guess
from pidsl.analysis.formulas.piecewise import Formula
from pidsl.analysis.formulas.words import n
from pidsl.analysis.layers.by_values import value_at
from pidsl.analysis.layers.follow import DISTINCT, LATEST, SHORT, STEPS, Token
from pidsl.analysis.layers.stacks import stack
from pidsl.analysis.ways import Asked, NotMine
from pidsl.errors import TooHardError
from pidsl.language.terms import Term
from pidsl.relation.oracle import dense_mask

LAGS, LAG_BRANCHES = 72, 16  # tokens up to which lags are counted for a guess, and cases of it
DEPTHS, BRANCHES = 84, 24  # and depths
SEEN = 24  # values that follow one rule
SAMPLES = 3  # numbers of tokens whose masks suggest the tokens to follow
TRIED = 6  # tokens that are suggested
GROWN = 1000  # times as many tokens as were looked at, by which a depth that grows has done so


def reach(asked: Asked) -> Bound:
    """Farthest or contiguous of a number of layers, as few tokens suggest; to be confirmed."""
    q = asked.question
    if q.layers == ANY:
        raise NotMine
    layers = stack(asked.subject, q.layers)
    found = guess([dense.reach_of(q.quantity, layers, x) for x in range(1, LAGS + 1)], -sympy.oo, LAG_BRANCHES, SEEN)
    if found is None:
        raise TooHardError(f"the {q.quantity} lags of up to {LAGS} tokens", "a formula that they follow")
    note = "for shorter n the formula has many cases" if found.least > 1 else ""
    return Bound(q, "==", found.expr, found.assumptions, Certificate("layers"), note)


def depth(asked: Asked) -> Bound:
    """Depth, as few tokens suggest, and the tokens to follow for a proof."""
    q = asked.question
    if q.n is not None or q.of is None or not isinstance(q.subject, Term):
        raise NotMine
    values = [dense.depth_of((q.subject,), x, q.of) for x in range(1, DEPTHS + 1)]
    found = guess(values, sympy.oo, BRANCHES, SEEN)
    if found is None:
        raise TooHardError(f"the depths for up to {DEPTHS} tokens", "a formula that they follow")
    reason = "some pair stays out of reach of every number of layers" if found.expr.has(sympy.oo) else ""
    facts = (("tokens", tuple(_tokens(q.subject, q.of, found))),)
    return Bound(q, "==", found.expr, found.assumptions, Certificate("depth by tokens", facts), reason)


def _tokens(term: Term, of: Of, found: Formula) -> Iterator[tuple[int | None, int, bool]]:
    """(layers, position, whether it is seen) of tokens that lack others after so many layers (None: any number)."""
    start = max(SHORT, found.least, *branch_starts(found.expr, n))
    if start > LATEST:
        raise TooHardError(f"the depths for up to {DEPTHS} tokens", f"one formula from {LATEST} on")
    depths = {x: value_at(found.expr, x) for x in range(start, start + LAGS)}
    if value_at(found.expr, start + GROWN * LAGS) > max(depths.values()) or len(set(depths.values())) > DISTINCT:
        raise TooHardError(f"the formula {found.expr}", "finitely many depths")
    masks = {x: dense_mask(term, x) for x in depths}
    monotone = of == "all" or all(mask.diagonal().all() for mask in masks.values())
    lacking: dict[int | None, list[int]] = {}
    for x, depth_ in depths.items():
        fewer: Sequence[int | None] = (None,)
        if isinstance(depth_, int):
            fewer = range(max(1, depth_ - 1) if monotone else 1, depth_)
        for layers in fewer:
            lacking.setdefault(layers, []).append(x)
    for layers, counts in lacking.items():
        while counts:
            tokens = list(candidates([masks[x] for x in counts[:SAMPLES]], of, layers))
            left = [x for x in counts if not any(_shows(masks[x], of, token, layers) for token in tokens)]
            if len(left) == len(counts):
                break
            yield from ((layers, token.at, token.seen) for token in tokens)
            counts = left


def _shows(mask: Bools, of: Of, token: Token, layers: int | None) -> bool:
    layer, wanted = (mask.T, target_of(of, len(mask)).T) if token.seen else (mask, target_of(of, len(mask)))
    rows = [np.flatnonzero(row) for row in layer]
    return _followed(rows, token.at % len(mask), wanted[token.at], layers) is not None


def candidates(masks: Sequence[Bools], target: str, layers: int | None) -> Iterator[Token]:
    """Tokens that say why so many layers (None: any number) are not enough, by dense masks: the quickest first.

    Args:
        masks: of several n, all of which the token is to work for; where none does, those of single n.
        target: "causal" or "all".
        layers: how many are not enough.
    """
    each = [_costs(mask, target_of("causal" if target == "causal" else "all", len(mask)), layers) for mask in masks]
    found: dict[Token, int] = {}
    for costs in each:
        for token in costs:
            common = [other[token] for other in each if token in other]
            found[token] = max(common) + STEPS * (len(each) - len(common))
    return islice(sorted(found, key=lambda token: (found[token], abs(token.at), token.at)), TRIED)


def _costs(mask: Bools, target: Bools, layers: int | None) -> dict[Token, int]:
    """For the tokens of one n that work: the number of layers through which they are followed."""
    n, found = len(mask), {}
    for seen in (False, True):
        layer, wanted = (mask.T, target.T) if seen else (mask, target)
        rows = [np.flatnonzero(row) for row in layer]
        for i in range(n):
            cost = _followed(rows, i, wanted[i], layers)
            if cost is not None:
                found[Token(i if i < n // 2 else i - n, seen)] = cost
    return found


def _followed(rows: list[np.ndarray], i: int, wanted: np.ndarray, layers: int | None) -> int | None:
    now = np.zeros(len(rows), dtype=np.bool_)
    now[i] = True
    past: set[bytes] = set()
    for count in range(1, STEPS + 1):
        after = np.zeros(len(rows), dtype=np.bool_)
        for k in np.flatnonzero(now):
            after[rows[k]] = True
        now = after
        lacking = bool((wanted & ~now).any())
        if layers is not None:
            if count == layers:
                return count if lacking else None
        elif not lacking:
            return None
        elif (key := now.tobytes()) in past:
            return count
        else:
            past.add(key)
    return None
