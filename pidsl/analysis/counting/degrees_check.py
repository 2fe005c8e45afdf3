"""Verifies degrees from the statement alone.

The relation is built again; isl finds the first and the last key of each part and verifies that the keys are the
arithmetic progression between them (`progressions`); and it compares the size of each with a term of the formula, for
all i and n. The largest is compared with the degree, a premise, by isl; or counted: its constraints say where the
number of keys may change (`borders`), hence from how many counts it is known for every n (`windows`, `largest`).
"""

from __future__ import annotations

from math import lcm

import islpy as isl
import numpy as np
import sympy

from pidsl.analysis.bound import Bound
from pidsl.analysis.counting import elsewhere
from pidsl.analysis.counting.borders import Masks, borders
from pidsl.analysis.counting.largest import Largest
from pidsl.analysis.counting.lattice import square
from pidsl.analysis.counting.progressions import Progression, count_progressions, keys_of_query
from pidsl.analysis.counting.windows import Windows
from pidsl.analysis.formulas.agreement import shape_of
from pidsl.analysis.formulas.evaluate import first_difference, values_of
from pidsl.analysis.formulas.read import function, region
from pidsl.analysis.formulas.words import i, n
from pidsl.analysis.verdict import Verdict, failed
from pidsl.errors import TooHardError
from pidsl.relation.isl import limited, read_set
from pidsl.relation.pieces import Ints

COMPARED = 1_000_000  # operations of isl for comparing a formula with the number of keys
POINTS = 100_000  # most n at which the largest is compared
SAMPLES, SAMPLED = 128, 600  # points, and the lengths that they are from, at which terms and progressions are matched
ROWS = {sympy.Ge(i, 0), sympy.Lt(i, n)}


def check_degree(bound: Bound) -> Verdict:
    """The formula is the number of keys of query i, for all 0 <= i < n: each of its terms is that of a progression."""
    terms = bound.certificate.fact("terms")
    if set(bound.assumptions) != ROWS:
        return failed(f"assumptions {bound.assumptions}")
    if not isinstance(terms, tuple) or not all(isinstance(x, sympy.Expr) for x in terms):
        return failed("no terms")
    if not (bound.expr == (total := sympy.Add(*terms)) or sympy.expand(bound.expr - total) == 0):
        return failed("the terms do not add up to the formula")
    with limited("the number of keys of each query", 1_000_000):
        parts = keys_of_query(bound.term)
    steps = (f"the keys of query i are {len(parts)} arithmetic progressions, each once or by inclusion (isl)",)
    left = _alike(terms)
    with limited("the comparison of the number of keys with the formula", COMPARED):
        for k, (factor, part) in enumerate(parts):
            candidates = left.get(_values(factor, part), [])
            same = (x for x in sorted(candidates, key=lambda x: abs(x[0] - k)) if _is_size(x[1], factor, part))
            if (found := next(same, None)) is None:
                return failed(f"no term of the formula is {factor} times the size of {part.first}", *steps)
            candidates.remove(found)
    if any(left.values()):
        return failed("the formula counts other keys as well", *steps)
    return elsewhere.also(bound, Verdict(True, (*steps, "each term of the formula is the size of one (isl)")))


def _samples() -> tuple[Ints, Ints]:
    draw = np.random.default_rng(0)
    lengths = draw.integers(1, SAMPLED, SAMPLES)
    return lengths, draw.integers(0, lengths)


def _alike(terms: tuple[sympy.Expr, ...]) -> dict[tuple[int, ...], list[tuple[int, sympy.Expr]]]:
    """The terms, each with its place, by their values at some points."""
    lengths, queries = _samples()
    found: dict[tuple[int, ...], list[tuple[int, sympy.Expr]]] = {}
    for k, term in enumerate(terms):
        top, bottom, _ = values_of(term, {i: queries, n: lengths})
        found.setdefault(tuple((top // bottom).tolist()), []).append((k, term))
    return found


def _values(factor: int, part: Progression) -> tuple[int, ...]:
    lengths, queries = _samples()
    return tuple((factor * count_progressions([part], {"n": lengths, "i": queries})).tolist())


def _is_size(term: sympy.Expr, factor: int, part: Progression) -> bool:
    """Whether a term is the size of a progression, so many times, and 0 where it is empty, for all i and n."""
    rows = read_set("[n, i] -> { : 0 <= i < n }")
    size = part.size().intersect_domain(rows).scale_val(isl.Val(factor, rows.get_ctx()))
    claimed = function(term, ("n", "i")).intersect_domain(rows)
    none = claimed.intersect_domain(rows - size.domain())
    return bool(
        (rows - claimed.domain()).is_empty() and claimed.ne_set(size).is_empty() and none.ne_set(none - none).is_empty()
    )


def check_maximum(bound: Bound) -> Verdict:
    """No query has more keys, and for every n one has as many."""
    if not bound.assumptions:
        return failed("claimed for n = 0, where there is no query")
    return elsewhere.also(bound, _by_degree(bound) if bound.certificate.premises else _by_masks(bound))


def _by_degree(bound: Bound) -> Verdict:
    (premise,) = bound.certificate.premises
    of = premise.question
    if (of.subject, of.quantity, premise.relation) != (bound.subject, "degree", "==") or {*premise.assumptions} != ROWS:
        return failed("no premise about the keys of each query")
    with limited("the comparison of the largest degree with the formula", COMPARED):
        keys = function(premise.expr, ("n", "i")).intersect_domain(read_set("[n, i] -> { : 0 <= i < n }"))
        lengths = region(bound.assumptions, ("n",), least=1)
        claimed = function(bound.expr, ("n",))
        if not (lengths - claimed.domain()).is_empty():
            return failed("for some n the formula has no value")
        if not (keys.gt_set(claimed) & lengths).is_empty():
            return failed("some query has more keys")
        if not (lengths - keys.eq_set(claimed).project_out(isl.dim_type.param, 1, 1)).is_empty():
            return failed("for some n no query has as many keys")
    return Verdict(True, ("no query has more keys than the formula, and for every n some query has as many (isl)",))


def _by_masks(bound: Bound) -> Verdict:
    """The largest of exact counts, and the formula, for as many n as make them equal."""
    least = getattr(bound.assumptions[0], "rhs", n)
    if not (least.is_Integer and least >= 1) or bound.assumptions != (sympy.Ge(n, least),):
        raise TooHardError(f"assumptions {bound.assumptions}", "n >= a number")
    claimed = shape_of(bound.expr, n)
    pairs = square(bound.term, fresh=True)
    lines = borders(pairs)
    windows = Windows(lines, 1, 1)
    largest = Largest(windows, Masks(bound.term, pairs, windows.last))
    last = max(largest.stable, *claimed.starts, int(least))
    last += (max(claimed.degree, 1) + 1) * lcm(largest.period, claimed.period)
    if last > POINTS:
        raise TooHardError(f"{bound.name}: {last} points to compare", f"at most {POINTS}")
    at = np.arange(int(least), last + 1).astype(object)
    right = np.array([largest(x) for x in at], dtype=object)
    steps = (
        f"the number of keys changes on {len(lines.lines)} kinds of lines and repeats modulo {lines.modulus}",
        f"so the most is at one of their ends; for n >= {largest.stable} it grows evenly, with period {largest.period}",
    )
    if (k := first_difference(bound.expr, {n: at}, right)) is not None:
        return failed(f"for n = {at[k]} the most keys of a query are {right[k]}", *steps)
    return Verdict(True, (*steps, f"it is the formula for all n <= {last}, so for every n"))
