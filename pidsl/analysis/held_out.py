"""Formulas against dense masks of lengths that neither their finder nor their checker needs.

A theorem says at which lengths a formula must be right to be right everywhere. Where finder and checker share the
theorem, or the code that reads from a relation what it needs, a fault in it shows at other lengths only: past the last
of them, just past the start of each case, in long sequences.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

import numpy as np
import sympy

from pidsl.analysis.agreement import values_at
from pidsl.analysis.formulas import i, n
from pidsl.analysis.lattice import Chambers
from pidsl.analysis.plane import evaluate
from pidsl.errors import TooHardError
from pidsl.language.terms import Term
from pidsl.relation import counting
from pidsl.relation.oracle import dense_mask

LONGEST = 200  # lengths up to which dense masks are made
ENTRIES = 400_000  # of the masks for pairs, in all
COUNTED = 1 << 17  # the longest sequence whose pairs are counted query by query


def pairs_differ(term: Term, expr: sympy.Expr, each: list[Chambers], least: int) -> str:
    """Where a formula is not the number of pairs, at some lengths that it was not made from; "" if nowhere.

    Args:
        term: the pattern.
        expr: the formula of its pairs.
        each: chambers that the formula was made from, whose theorem is not relied on here.
        least: the first n that matters.
    """
    starts = sorted({s for own in each for s in own.starts})
    period = max((own.period for own in each), default=1)
    last = (starts[-1] if starts else 0) + 3 * period
    short = [*range(last, last + 2 * period + 12), *(s + k for s in starts for k in (0, 1, 2)), *range(least, 6)]
    entries, at = 0, list[int]()
    for x in dict.fromkeys(short):
        if least <= x <= LONGEST and entries + x * x <= ENTRIES:
            entries += x * x
            at.append(x)
    right = [int(dense_mask(term, x).sum()) for x in at]
    for x in (2 * last + 7, 5 * last + 11):
        if x not in at and x <= COUNTED:
            try:
                right.append(counting.pairs(term, x))
            except TooHardError:
                continue
            at.append(x)
    top, bottom = values_at(expr, n, np.array(at, dtype=object))
    for x, value, count in zip(at, top, right, strict=True):
        if value is None or value != count * bottom:
            return f"at n = {x}, held out, the mask has {count} pairs, not {expr.subs(n, x)}"
    return ""


def keys_differ(term: Term, expr: sympy.Expr, lengths: Iterable[int]) -> str:
    """Where a formula is not the number of keys of a query, in masks of these lengths; "" if nowhere."""
    for length in lengths:
        keys, rows = dense_mask(term, length).sum(axis=1), np.arange(length)
        top, bottom = evaluate(expr, {i: rows, n: np.full(length, length)})
        if (wrong := top != keys * bottom).any():
            k = int(np.argmax(wrong))
            return f"for n = {length}, query {k}: {keys[k]} keys in the mask, not {Fraction(int(top[k]), bottom)}"
    return ""


def largest_differs(term: Term, expr: sympy.Expr, lengths: Iterable[int]) -> str:
    """Where a formula is not the most keys of any query, in masks of these lengths, all >= 1; "" if nowhere."""
    at = list(lengths)
    top, bottom = values_at(expr, n, np.array(at, dtype=object))
    for x, value in zip(at, top, strict=True):
        right = int(dense_mask(term, x).sum(axis=1).max())
        if value is None or value != right * bottom:
            return f"for n = {x} the most keys are {right} in the mask, not {expr.subs(n, x)}"
    return ""
