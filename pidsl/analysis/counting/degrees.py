"""How many keys each query attends: formula in (i, n), largest and average, for m = n.

    relation  ->  the keys of query i, as arithmetic progressions (isl)  ->  their sizes, which are functions of (n, i)

The largest over i is a lexicographic maximum that isl decides for every n; the average is pairs / n.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import islpy as isl
import sympy

from pidsl.analysis.bound import Bound, exact
from pidsl.analysis.counting.borders import Masks, borders
from pidsl.analysis.counting.inclusion import inclusion
from pidsl.analysis.counting.lattice import rows_of, square
from pidsl.analysis.counting.progressions import progressions
from pidsl.analysis.counting.windows import Windows
from pidsl.analysis.formulas import pieces
from pidsl.analysis.formulas.guess import guess
from pidsl.analysis.formulas.piecewise import Formula, formula
from pidsl.analysis.formulas.words import i, n
from pidsl.analysis.ways import Asked
from pidsl.errors import TooHardError
from pidsl.language.terms import Term
from pidsl.relation.isl import CONTEXT, limited, read_set

ROWS = "[n, i] -> { : 0 <= i < n }"
MANY = 5  # parts, from which on a union is taken apart if that gives fewer
GUESS = 20_000  # operations of isl for asking whether a certain query has the most keys
WORK = 150_000  # operations of isl for the largest degree over all; they take up to 80 microseconds each here
GUESSED = 6  # periods of the number of keys, for which the largest is counted before a formula is guessed
BRANCHES = 24  # of the formula of the largest degree


def of_query(asked: Asked) -> Bound:
    """The keys of query i among n."""
    rows = (sympy.Ge(i, 0), sympy.Lt(i, n))
    parts = _keys_of_one(asked.subject)
    return exact(asked.subject, "degree", sympy.Add(*(_formula(p) for p in parts)), "degree", assumptions=rows)


def _keys_of_one(term: Term) -> list[Part]:
    """The keys of one query, for its degree and for the largest."""
    found = _keys_or_why(term)
    if isinstance(found, TooHardError):
        raise TooHardError(found.given, found.expected, found.where, found.hint)
    return found


@lru_cache(maxsize=16)
def _keys_or_why(term: Term) -> list[Part] | TooHardError:
    try:
        with limited(f"the keys of one query of {term!r}", 1_000_000):
            return _keys(term)
    except TooHardError as e:
        return e.with_traceback(None)


def _keys(term: Term) -> list[Part]:
    """The keys of query i: by inclusion and exclusion where that needs no more than `MANY` parts and the term does."""
    try:
        parts = _direct(term)
    except TooHardError:
        if (apart := _apart(term)) is None:
            raise
        return apart
    if len(parts) > MANY and (apart := _apart(term)) is not None and len(apart) < len(parts):
        return apart
    return parts


def _apart(term: Term) -> list[Part] | None:
    try:
        signed = [(sign, _keys(part)) for sign, part in inclusion(term)]
    except TooHardError:
        return None
    return [part.times(sign) for sign, parts in signed for part in parts] if signed else None


def _direct(term: Term) -> list[Part]:
    """The sizes of arithmetic progressions as functions."""
    with limited("the number of keys as a function"):
        known = read_set(ROWS)
        sizes = [one.size().intersect_domain(known).coalesce() for one in progressions(rows_of(square(term)))]
        return [Part(size) for size in sizes if not size.domain().is_empty()]


def largest(asked: Asked) -> Bound:
    """The most keys of any query, for n >= 1, from the keys of each."""
    term = asked.subject
    parts = _keys_of_one(term)
    with limited(f"the largest degree of {term!r}", 100_000):
        keys = total(parts)
        found = formula(_largest(keys), -sympy.oo, 1, BRANCHES)
    return _most(term, found)


def largest_of_few(asked: Asked) -> Bound:
    """What counts at the first n suggest, where that can be verified."""
    term = asked.subject
    pairs = square(term)
    windows = Windows(borders(pairs), 1, 1)
    masks = Masks(term, pairs, windows.start + GUESSED * windows.period)
    values = [masks.largest(x) for x in range(1, windows.start + GUESSED * windows.period + 1)]
    found = guess(values, -sympy.oo, BRANCHES, GUESSED // 2 * windows.period)
    if found is None:
        raise TooHardError("the first values", "a formula that they follow")
    return _most(term, found)


def _most(term: Term, found: Formula) -> Bound:
    return exact(term, "max degree", found.expr, "largest degree", assumptions=found.assumptions)


def _largest(keys: isl.PwAff) -> isl.PwAff:
    """The largest value over i: that of the last or of the first query where it is, else isl's maximum."""
    graph = isl.Set.from_pw_aff(keys)
    for one in ("n - 1", "0"):
        try:
            with limited("whether one query has the most keys", GUESS):
                some = graph.intersect_params(read_set(f"[n, i] -> {{ : i = {one} }}"))
                largest = some.project_out(isl.dim_type.param, 1, 1).dim_max(0)
                if keys.gt_set(largest).is_empty():
                    return largest
        except TooHardError:
            continue
    with limited("the largest degree over all queries", WORK):
        return graph.project_out(isl.dim_type.param, 1, 1).dim_max(0)


@dataclass(frozen=True)
class Part:
    """Some of the keys of query i: a number of them on a part of 0 <= i < n.

    Args:
        keys: the number, where there are any.
        factor: how many times it counts.
    """

    keys: isl.PwAff
    factor: int = 1

    def times(self, factor: int) -> Part:
        """The part counted `factor` times."""
        return Part(self.keys, self.factor * factor)

    @property
    def counted(self) -> isl.PwAff:
        """The number, times the factor."""
        return self.keys.scale_val(isl.Val(self.factor, CONTEXT))


def total(parts: Sequence[Part]) -> isl.PwAff:
    """The sum of all parts on 0 <= i < n."""
    rows = read_set(ROWS)
    zero = isl.PwAff.zero_on_domain(isl.LocalSpace.from_space(rows.get_space())).intersect_domain(rows)
    found = zero
    for part in parts:
        found = (found + part.counted.union_add(zero.intersect_domain(rows - part.keys.domain()))).coalesce()
    return found


def _formula(part: Part) -> sympy.Expr:
    """A part as a formula, 0 where there are no keys: a minimum or a maximum if it is one, else a case per piece."""
    rows, domain = read_set(ROWS), part.keys.domain().coalesce()
    try:
        size = pieces.written(part.keys, domain, most=1)
    except TooHardError:
        each = [(pieces.plain(f), here) for here, f in part.keys.get_pieces()]
    else:
        each = [(size, domain)]
    found = sympy.Integer(0)
    for size, here in each:
        if not here.is_equal(rows):
            size = sympy.Piecewise((size, _tidy(pieces.membership(here.gist(rows)))), (0, True), evaluate=False)
        found += part.factor * size
    return found


def _tidy(condition: Any) -> Any:
    """Comparisons with 0 written with what is added on either side: `i - n + 3 <= 0 -> n >= i + 3`."""
    if isinstance(condition, sympy.And | sympy.Or):
        return condition.func(*map(_tidy, condition.args))
    if not isinstance(condition, sympy.Ge) or condition.rhs != 0:
        return condition
    less = [term for term in sympy.Add.make_args(condition.lhs) if term.could_extract_minus_sign()]
    return sympy.Ge(condition.lhs - sympy.Add(*less), -sympy.Add(*less))
