"""Verifies counts of pairs and of live keys from the statement alone.

The relation is built again, its chambers and periods come from isl, and the formula is compared with counts at as many
points of every chamber as determine a quasi-polynomial (the theorem of `agreement`). The counts come from dense masks
where the lengths are short; else from arithmetic progressions that isl verifies.

Formulas are found from the same chambers and periods. So the formula is compared once more where no chamber says
that it need be: with dense masks beyond the last point, just past the start of each chamber, and for long sequences.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import islpy as isl
import numpy as np
import sympy

from pidsl.analysis.bound import Bound
from pidsl.analysis.counting import elsewhere
from pidsl.analysis.counting.lattice import Chambers, by_length, chambers, rows_of, square
from pidsl.analysis.counting.live_set import live_set
from pidsl.analysis.counting.progressions import counter, sum_rows
from pidsl.analysis.formulas.agreement import shape_of
from pidsl.analysis.formulas.evaluate import first_difference
from pidsl.analysis.formulas.words import n, symbol
from pidsl.analysis.verdict import Verdict
from pidsl.errors import TooHardError
from pidsl.relation.isl import disjoint, limited
from pidsl.relation.oracle import dense_mask
from pidsl.relation.pieces import Ints

DENSE = 400  # lengths up to which the dense masks are counted
t = symbol("t")
POINTS = 1_000_000  # most points at which a formula is compared


def check_pairs(bound: Bound) -> Verdict:
    """The number of pairs, for every n."""
    term = bound.term
    if bound.assumptions not in ((), (n >= 0,)):
        return Verdict(False, failure=f"assumptions {bound.assumptions}")
    points = square(term, fresh=True)
    with limited("the parts of the pairs"):
        parts = [isl.Set.from_basic_set(part) for part in disjoint(points)]
        each = [chambers(part) for part in parts]

    def count(at: Ints) -> Ints:
        last = int(at[-1]) + 1
        if last <= DENSE:
            return np.array([dense_mask(term, x).sum() for x in at], dtype=np.int64)
        if last > POINTS:
            raise TooHardError(f"{bound.name}: {last} lengths to count", f"at most {POINTS}")
        return _pairs_up_to(points, parts, each, last)[at]

    return elsewhere.also(bound, compare(bound, bound.expr, n, each, 2, count))


def compare(
    bound: Bound, expr: sympy.Expr, x: sympy.Symbol, each: list[Chambers], degree: int, count: Callable[[Ints], Ints]
) -> Verdict:  # fmt: skip
    """Whether a formula is a count.

    Args:
        bound: the statement, for the reasons.
        expr: the formula of the count.
        x: its variable.
        each: chambers of the parts of the set that is counted.
        degree: of its count.
        count: the counts at given x, in ascending order.
    """
    own = Chambers((0,), 1)
    for one in each:
        own |= one
    claimed = shape_of(expr, x)
    both = own | Chambers(tuple(sorted(claimed.starts | {0})), claimed.period)
    nodes = (max(degree, claimed.degree) + 1) * both.period
    if len(both.starts) * nodes > POINTS:
        raise TooHardError(f"{bound.name}: {len(both.starts) * nodes} points to compare", f"at most {POINTS}")
    wanted = [
        np.arange(start, start + nodes if stop is None else min(stop, start + nodes))
        for start, stop in zip(both.starts, [*both.starts[1:], None], strict=True)
    ]
    at = np.concatenate(wanted)
    right = count(at).astype(object)
    if (k := first_difference(expr, {x: at.astype(object)}, right)) is not None:
        return Verdict(False, failure=f"at {x} = {at[k]} the count is {right[k]}, not {expr.subs(x, int(at[k]))}")
    return Verdict(
        True,
        (
            f"the count is a quasi-polynomial of degree <= {degree} and period {own.period} from each of "
            f"{x} = {', '.join(map(str, own.starts))} on (isl: vertices of {len(each)} disjoint parts)",
            f"the formula is one of degree {claimed.degree} and period {claimed.period}",
            f"they agree at {len(at)} points, {nodes} in each chamber or all of it: they are equal",
        ),
    )


def _pairs_up_to(points: isl.Set, parts: list[isl.Set], each: list[Chambers], last: int) -> Ints:
    """Pairs for n = 0, ..., last - 1."""
    total = np.zeros(last, dtype=np.int64)
    if (grown := by_length(points)) is not None:
        t = np.arange(last - 1)
        total[1:] = np.cumsum(sum(counter(x)({"t": t}) for x in grown))
        return total
    for part, own in zip(parts, each, strict=True):
        total += continued(own, 2, last, partial(sum_rows, count=counter(rows_of(part))))
    return total


def continued(own: Chambers, degree: int, last: int, count: Callable[[Ints], Ints]) -> Ints:
    """Values at 0, ..., last - 1: counted where a chamber begins, continued by the recurrence of its quasi-polynomial.

    For degree 2 and period p: f(x) = 3 f(x - p) - 3 f(x - 2p) + f(x - 3p).
    """
    found = np.zeros(last, dtype=np.int64)
    p = own.period
    stretches = [(a, min(b, last)) for a, b in zip(own.starts, [*own.starts[1:], last], strict=True) if a < last]
    known = [np.arange(a, min(b, a + (degree + 1) * p)) for a, b in stretches]
    at = np.concatenate(known)
    found[at] = count(at)
    weights = [3, -3, 1] if degree == 2 else [2, -1]
    for (_, stop), begin in zip(stretches, known, strict=True):
        for k in range(int(begin[-1]) + 1, stop, p):
            size = min(p, stop - k)
            found[k : k + size] = sum(w * found[k - d * p : k - d * p + size] for d, w in enumerate(weights, 1))
    return found


def check_live(bound: Bound) -> Verdict:
    """The number of live keys, from the relation built again and counted by progressions."""
    if bound.assumptions not in ((), (sympy.Ge(t, 0),)):
        return Verdict(False, failure=f"assumptions {bound.assumptions}")
    points = live_set(bound.term, bound.argument("lookahead"), bound.argument("page"), fresh=True)
    with limited("the parts of the live keys"):
        each = [chambers(isl.Set.from_basic_set(part)) for part in disjoint(points)]
    count = counter(points)
    return elsewhere.also(bound, compare(bound, bound.expr, t, each, 1, lambda at: count({"t": at})))
