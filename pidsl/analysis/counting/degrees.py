"""How many keys each query attends: formula in (i, n), largest and average, for m = n.

    relation  ->  loops over the keys of query i  ->  iterations as a formula, and as an isl function of (n, i)

The largest over i is a lexicographic maximum that isl decides for every n; the average is pairs / n.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from math import gcd
from typing import Any

import islpy as isl
import sympy

from pidsl.analysis.bound import Bound, exact
from pidsl.analysis.counting.borders import Masks, borders
from pidsl.analysis.counting.inclusion import inclusion
from pidsl.analysis.counting.lattice import rows_of, square
from pidsl.analysis.counting.progressions import loops_of, progressions
from pidsl.analysis.counting.windows import Windows
from pidsl.analysis.formulas import pieces
from pidsl.analysis.formulas.guess import guess
from pidsl.analysis.formulas.piecewise import Formula, formula
from pidsl.analysis.formulas.words import from_index, i, n
from pidsl.analysis.ways import Asked
from pidsl.errors import TooHardError
from pidsl.language import expr as e
from pidsl.language.terms import Term
from pidsl.relation.counting import period_of
from pidsl.relation.isl import CONTEXT, affine, limited, read_set, region, scope
from pidsl.relation.loops import VARIABLE, Loop

ROWS = "[n, i] -> { : 0 <= i < n }"
CYCLE = 100  # iterations after which a loop's own test repeats, at most
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
    rows = rows_of(square(term))
    try:
        loops = loops_of(rows, ROWS)
    except TooHardError:
        return _progressions(rows)
    try:
        return _progressions(rows) if any(x.inside is not None for x in loops) else _parts(loops)
    except TooHardError:
        return _parts(loops)


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
        write: gives the number as a formula in n and i, and the condition on them; not cheap.
        domain: where the condition holds.
        keys: the number, on the domain.
        factor: how many times it counts.
    """

    write: Callable[[], tuple[sympy.Expr, Any]]
    domain: isl.Set
    keys: isl.PwAff
    factor: int = 1

    def times(self, factor: int) -> Part:
        """The part counted `factor` times."""
        keys = self.keys.scale_val(isl.Val(factor, CONTEXT))
        return Part(self.write, self.domain, keys, self.factor * factor)


def _progressions(rows: isl.Set) -> list[Part]:
    """Sizes of arithmetic progressions as functions, a part for each piece of a function."""
    found = []
    with limited("the number of keys as a function"):
        known = read_set(ROWS)
        for one in progressions(rows):
            size = one.size().intersect_domain(known).coalesce()
            for domain, value in size.get_pieces():
                part = isl.PwAff.from_aff(value).intersect_domain(domain)
                found.append(Part(partial(_piece, value, domain.gist(known)), domain, part))
    return found


def _parts(loops: Sequence[Loop]) -> list[Part]:
    """Sizes of loops as functions; only parts with a key.

    Raises:
        TooHardError: a loop's own test does not repeat soon, or isl's operation limit struck.
    """
    found = []
    with limited("the number of keys as a function"):
        rows, names = read_set(ROWS), scope("[n, i] -> { : }")
        for loop in loops:
            for size, guard in _sizes(loop):
                domain = rows if guard is None else rows & region(guard, names)
                if domain.is_empty():
                    continue
                keys = affine(size, names).intersect_domain(domain)
                none = keys.lt_set(keys - keys)
                if not none.is_empty():  # a loop that ends before it begins
                    size = e.Max(size, 0)
                    keys = keys.max(keys - keys)
                found.append(Part(partial(_written, size, guard), domain, keys.coalesce()))
    return found


def _sizes(loop: Loop) -> list[tuple[e.Index, e.Pred | None]]:
    """How many iterations, and when: one entry, or one for each place in a cycle of the loop's own test.

    `for x in range(first, last + 1, step) -> (last - first) // step + 1`
    """
    length = e.simplify(e.Sub(loop.last, loop.first))
    if loop.inside is None:
        return [(e.simplify(e.Add(e.FloorDiv(length, loop.step), 1)), loop.guard)]
    period = period_of(loop.inside)
    cycle = CYCLE + 1 if period is None else period // gcd(period, loop.step)
    if cycle > CYCLE:
        raise TooHardError(f"a test in a loop over keys that repeats after {cycle} of them", f"at most {CYCLE}")
    found: list[tuple[e.Index, e.Pred | None]] = []
    for k in range(cycle):
        at = e.simplify(e.Add(loop.first, k * loop.step))
        test = e.substitute_pred(loop.inside, {VARIABLE: at})
        size = e.simplify(e.Add(e.FloorDiv(e.Sub(length, k * loop.step), cycle * loop.step), 1))
        found.append((size, test if loop.guard is None else e.And(loop.guard, test)))
    return found


def total(parts: Sequence[Part]) -> isl.PwAff:
    """The sum of all parts on 0 <= i < n."""
    rows = read_set(ROWS)
    zero = isl.PwAff.zero_on_domain(isl.LocalSpace.from_space(rows.get_space())).intersect_domain(rows)
    found = zero
    for part in parts:
        found = (found + part.keys.union_add(zero.intersect_domain(rows - part.domain))).coalesce()
    return found


def _formula(part: Part) -> sympy.Expr:
    """A part as a formula, with floor for every remainder: `(i - i % 4) // 4 + 1 -> floor(i/4) + 1`."""
    size, guard = part.write()
    if guard == sympy.true or part.domain.is_equal(read_set(ROWS)):
        return part.factor * size
    return sympy.Piecewise((part.factor * size, guard), (0, True), evaluate=False)


def _written(size: e.Index, guard: e.Pred | None) -> tuple[sympy.Expr, Any]:
    return plain(from_index(size)), sympy.true if guard is None else condition(guard)


def _piece(size: isl.Aff, domain: isl.Set) -> tuple[sympy.Expr, Any]:
    return pieces.plain(size), pieces.membership(domain)


def plain(expr: Any) -> Any:
    """Remainders written with floor, then multiplied out."""
    return sympy.expand(expr.replace(sympy.Mod, lambda a, b: a - b * sympy.floor(a / b)))


_COMPARE: dict[str, Any] = {
    "<": sympy.Lt, "<=": sympy.Le, ">": sympy.Gt, ">=": sympy.Ge, "==": sympy.Eq, "!=": sympy.Ne
}  # fmt: skip


def condition(p: e.Pred) -> Any:
    """A predicate over positions as a sympy condition."""
    match p:
        case e.Compare(op, a, b):
            return _COMPARE[op](plain(from_index(a)), plain(from_index(b)))
        case e.And(a, b):
            return sympy.And(condition(a), condition(b))
        case e.Or(a, b):
            return sympy.Or(condition(a), condition(b))
        case e.Not(a):
            return sympy.Not(condition(a))
        case e.Truth(value):
            return sympy.true if value else sympy.false
