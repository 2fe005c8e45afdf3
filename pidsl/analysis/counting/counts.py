"""How many pairs a pattern attends, a closed form for every n >= 0; and how many keys are live, for every t >= 0.

    relation with m = n  ->  chambers and period (isl)  ->  exact counts at enough n  ->  the quasi-polynomial

Where whether i attends j does not depend on n, a sequence that grows by a token only gains that token's pairs, so
that counts of one-dimensional sets, summed up, are all it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import islpy as isl
import numpy as np
import sympy

from pidsl.analysis.bound import Bound, Certificate, exact
from pidsl.analysis.counting.inclusion import inclusion
from pidsl.analysis.counting.lattice import Chambers, by_length, chambers, rows_of, square
from pidsl.analysis.counting.live_set import live_set
from pidsl.analysis.counting.progressions import SOON, counter, sum_rows
from pidsl.analysis.formulas import quasi
from pidsl.analysis.formulas.words import n, symbol
from pidsl.analysis.ways import Asked
from pidsl.errors import TooHardError
from pidsl.language.terms import Term
from pidsl.relation.isl import disjoint, limited, patience
from pidsl.relation.pieces import Ints

METHOD = "quasi-polynomial"
t = symbol("t")
LISTED = 48  # numbers listed one by one in a formula, from which on it is taken apart if possible
LONGEST = 150_000  # most lengths that are counted one after another


def pairs(asked: Asked) -> Bound:
    """The number of attended pairs for n tokens, m = n, exact for every n >= 0.

    Raises:
        TooHardError: isl's operation limit struck.
    """
    try:
        with patience(SOON):
            return _pairs(asked.subject)
    except TooHardError:
        return _pairs(asked.subject)


def _pairs(term: Term) -> Bound:
    try:
        expr, listed = _direct(term)
    except TooHardError:
        if (apart := _apart(term)) is None:
            raise
        return exact(term, "pairs", apart, METHOD)
    if listed > LISTED and (apart := _apart(term)) is not None:
        expr = apart
    return exact(term, "pairs", expr, METHOD)


def _direct(term: Term) -> tuple[sympy.Expr, int]:
    points = square(term)
    grown = by_length(points)
    stretches = _by_rows(points) if grown is None else _by_length(grown)
    return quasi.expression(quasi.merged(stretches), n)


def live(asked: Asked) -> Bound:
    """How many keys, or pages, a decoding step must keep: of tokens 0 .. t, those that some later query attends.

    A pattern whose meaning depends on n (keys counted from the end, rings) may attend a key at one length and not at
    another; while decoding, the length to come is unknown, so any length counts.

    Raises:
        TooHardError: isl's operation limit struck.
    """
    q = asked.question
    points = live_set(asked.subject, q.lookahead, q.page)
    with limited("the live keys"):
        shape = chambers(points)
    count = counter(points)
    expr, _ = quasi.expression(quasi.merged(stretches_of(shape, lambda times: count({"t": times}))), t)
    return Bound(q, "==", expr, (t >= 0,), Certificate("live keys"))


def _apart(term: Term) -> sympy.Expr | None:
    """A formula from those of other terms, by inclusion and exclusion, where they are short."""
    parts = inclusion(term)
    if not parts:
        return None
    total = sympy.Integer(0)
    for sign, part in parts:
        try:
            expr, listed = _direct(part)
        except TooHardError:
            return None
        if listed > LISTED:
            inner = _apart(part)
            if inner is None:
                return None
            expr = inner
        total += sign * expr
    return total


def _by_length(grown: tuple[isl.Set, isl.Set]) -> list[quasi.Stretch]:
    """Sums of what each token adds."""
    with limited("the chambers of what a token adds"):
        shape = chambers(grown[0]) | chambers(grown[1])
    parts = [counter(x) for x in grown]
    most = shape.starts[-1] + 3 * shape.period
    if most > LONGEST:
        raise TooHardError(f"a formula of period {shape.period} from n = {shape.starts[-1]} on", f"{LONGEST} counts")
    t = np.arange(most)
    added = sum((count({"t": t}) for count in parts), np.zeros(most, dtype=np.int64))
    values = np.concatenate([[0], np.cumsum(added)])
    return stretches_of(shape, lambda x: values[x])


def _by_rows(points: isl.Set) -> list[quasi.Stretch]:
    """Sums over the queries for each n on its own, part by part: each has a period of its own, often a short one."""
    shape, each = Chambers((0,), 1), []
    with limited("the parts of the pairs"):
        parts = [isl.Set.from_basic_set(part) for part in disjoint(points)]
    for part in parts:
        with limited("the chambers of the number of pairs"):
            own = chambers(part)
        each.append(stretches_of(own, partial(sum_rows, count=counter(rows_of(part)))))
        shape |= own
    if 3 * shape.period * len(each) > LONGEST:
        raise TooHardError(f"a formula of period {shape.period}", f"at most {LONGEST} counts")
    return stretches_of(shape, lambda lengths: [sum(quasi.value(s, int(x)) for s in each) for x in lengths])


def stretches_of(shape: Chambers, count: Callable[[Ints], Sequence[int] | Ints]) -> list[quasi.Stretch]:
    """Each chamber's quasi-polynomial, or its values where it is shorter than what determines one."""
    found, wanted = [], []
    nodes = 3 * shape.period
    if nodes > LONGEST:
        raise TooHardError(f"a formula of period {shape.period}", f"{LONGEST} counts")
    for start, stop in zip(shape.starts, [*shape.starts[1:], None], strict=True):
        short = stop is not None and stop - start <= nodes
        wanted.append((start, stop, np.arange(start, stop if short and stop is not None else start + nodes), short))
    values = count(np.concatenate([w[2] for w in wanted]))
    at = 0
    for start, stop, lengths, short in wanted:
        here = [int(v) for v in values[at : at + len(lengths)]]
        at += len(lengths)
        if short:
            found.append(quasi.Stretch(start, stop, None, tuple(here)))
        else:
            found.append(quasi.Stretch(start, stop, quasi.interpolate(here, start, shape.period)))
    return found
