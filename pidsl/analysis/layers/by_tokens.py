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
from pidsl.analysis.layers.check_tokens import DISTINCT, LATEST, SHORT, STEPS, Token
from pidsl.analysis.layers.stacks import stack
from pidsl.analysis.measured import formula_at
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
    return asked.answered(found, Certificate("layers"))


def depth(asked: Asked) -> Bound:
    """Depth, as few tokens suggest, and the tokens to follow for a proof."""
    q, term = asked.question, asked.pattern
    if q.n is not None or q.of is None:
        raise NotMine
    values = [dense.depth_of((term,), x, q.of) for x in range(1, DEPTHS + 1)]
    found = guess(values, sympy.oo, BRANCHES, SEEN)
    if found is None:
        raise TooHardError(f"the depths for up to {DEPTHS} tokens", "a formula that they follow")
    facts = (("tokens", tuple(_tokens(term, q.of, found))),)
    return asked.answered(found, Certificate("depth by tokens", facts))


def _tokens(term: Term, of: Of, found: Formula) -> Iterator[tuple[int | None, int, bool]]:
    """(layers, position, whether it is seen) of tokens that lack others after so many layers (None: any number)."""
    start = max(SHORT, found.least, *branch_starts(found.expr, n))
    if start > LATEST:
        raise TooHardError(f"the depths for up to {DEPTHS} tokens", f"one formula from {LATEST} on")
    depths = {x: formula_at(found.expr, {"n": x}) for x in range(start, start + LAGS)}
    if (
        formula_at(found.expr, {"n": start + GROWN * LAGS}) > max(depths.values())
        or len(set(depths.values())) > DISTINCT
    ):
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
    rows, wanted = _followable(mask, of, token.seen)
    return _followed(rows, token.at % len(mask), wanted[token.at], layers) is not None


def _followable(mask: Bools, of: Of, seen: bool) -> tuple[list[np.ndarray], Bools]:
    """The keys of each token and those that are wanted, or the tokens that see it."""
    layer, wanted = (mask.T, target_of(of, len(mask)).T) if seen else (mask, target_of(of, len(mask)))
    return [np.flatnonzero(row) for row in layer], wanted


def candidates(masks: Sequence[Bools], of: Of, layers: int | None) -> Iterator[Token]:
    """Tokens that say why so many layers (None: any number) are not enough, by dense masks: the quickest first.

    Args:
        masks: of several n, all of which the token is to work for; where none does, those of single n.
        of: the pairs that are wanted.
        layers: how many are not enough.
    """
    each = [_costs(mask, of, layers) for mask in masks]
    found: dict[Token, int] = {}
    for costs in each:
        for token in costs:
            common = [other[token] for other in each if token in other]
            found[token] = max(common) + STEPS * (len(each) - len(common))
    return islice(sorted(found, key=lambda token: (found[token], abs(token.at), token.at)), TRIED)


def _costs(mask: Bools, of: Of, layers: int | None) -> dict[Token, int]:
    """For the tokens of one n that work: the number of layers through which they are followed."""
    n, found = len(mask), {}
    for seen in (False, True):
        rows, wanted = _followable(mask, of, seen)
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
