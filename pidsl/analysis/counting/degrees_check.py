"""Verifies degrees from the statement alone.

The relation is built again. Its constraints say where the number of keys of query i may change (`borders`), hence at
which i and n the formula must agree with dense masks to be right everywhere (`windows`), and from how many counts the
largest is known for every n (`largest`). Where that takes masks too large, isl finds the first and the last key of
each part and verifies that the keys are the arithmetic progression between them (`progressions`); then their number is
compared. No loops and no maximum are taken from anyone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from math import lcm
from typing import Any

import islpy as isl
import numpy as np
import sympy

from pidsl.analysis.bound import Bound
from pidsl.analysis.counting import elsewhere
from pidsl.analysis.counting.borders import Masks, borders
from pidsl.analysis.counting.inclusion import inclusion
from pidsl.analysis.counting.largest import Largest
from pidsl.analysis.counting.lattice import rows_of, square
from pidsl.analysis.counting.progressions import Progression, progressions, total_size
from pidsl.analysis.counting.windows import Windows
from pidsl.analysis.formulas.agreement import shape_of
from pidsl.analysis.formulas.evaluate import first_difference, values_of
from pidsl.analysis.formulas.piecewise import function, region
from pidsl.analysis.formulas.plane import Lines, collect, of_isl
from pidsl.analysis.formulas.words import i, n
from pidsl.analysis.verdict import Verdict, failed
from pidsl.errors import TooHardError
from pidsl.language.terms import Term
from pidsl.relation.isl import CONTEXT, limited, read_set
from pidsl.relation.pieces import Ints, count_piece

QUICK = 3_000_000  # operations on single numbers for a comparison of a formula with masks that is tried first
WORK = 1_500_000_000  # operations on single numbers for a comparison of a formula with pieces, a few seconds
COMPARED = 150_000  # operations of isl for comparing the formula with the number of keys as functions
POINTS = 100_000  # most n at which the largest is compared
SAMPLES, SAMPLED = 128, 600  # points, and the lengths that they are from, at which terms and pieces are matched
ROWS = "[n, i] -> { : 0 <= i < n }"


def check_degree(bound: Bound) -> Verdict:
    """The formula is the number of keys of query i, for all 0 <= i < n."""
    return _also_elsewhere(bound, _degree(bound))


def _also_elsewhere(bound: Bound, found: Verdict) -> Verdict:
    failure = elsewhere.differs(bound) if found.holds else ""
    return failed(failure, *found.steps) if failure else found


def _degree(bound: Bound) -> Verdict:
    if set(bound.assumptions) != {sympy.Ge(i, 0), sympy.Lt(i, n)}:
        return Verdict(False, failure=f"assumptions {bound.assumptions}")
    term = bound.term
    terms = list(bound.expr.args) if isinstance(bound.expr, sympy.Add) else [bound.expr]
    for way in (partial(_by_masks, work=QUICK), _by_isl, _by_masks):
        try:
            return way(bound, term)
        except TooHardError:
            continue
    pieces = _pieces(_progressions(term))
    steps = [f"the keys of query i are {len(pieces)} parts of arithmetic progressions (isl)"]
    for some_terms, some_pieces in _matched(terms, pieces):
        failure, step = _difference(sympy.Add(*some_terms, evaluate=False), some_pieces, bound)
        if failure:
            return Verdict(False, tuple(steps), failure)
        steps.append(step)
    return Verdict(True, tuple(dict.fromkeys(steps)))


def _by_isl(bound: Bound, term: Term) -> Verdict:
    """The sum of the progressions and the formula as two functions of (i, n), of which isl says whether they differ."""
    with limited("the comparison of the number of keys with the formula", COMPARED):
        keys, steps = _summed(term)
        claimed = function(bound.expr, ("n", "i")).intersect_domain(read_set(ROWS))
        if not (missing := keys.domain() - claimed.domain()).is_empty():
            return Verdict(False, steps, f"no value for {_example(missing)}")
        if not (wrong := keys.ne_set(claimed)).is_empty():
            return Verdict(False, steps, f"not the number of keys for {_example(wrong)}")
    return Verdict(True, (*steps, "the formula is their sum for all i and n (isl)"))


def _by_masks(bound: Bound, term: Term, work: int = WORK) -> Verdict:
    pairs = square(term, fresh=True)
    lines = borders(pairs)
    collect(bound.expr, lines)
    windows = Windows(lines, 0, 2)
    _afford(bound, windows, bound.expr, 0, work)
    masks = Masks(term, pairs, windows.last)
    steps = (
        f"the number of keys and the formula change on {len(lines.lines)} kinds of lines and repeat modulo "
        f"{lines.modulus} (the constraints of the relation)",
    )
    for queries, lengths in windows.cells():
        right = masks(queries, lengths)
        if (k := first_difference(bound.expr, {i: queries, n: lengths}, right)) is not None:
            return Verdict(False, steps, f"query {queries[k]} of n = {lengths[k]} attends {right[k]} keys")
    return Verdict(True, (*steps, f"they agree beside these lines for all n <= {windows.last}, so everywhere"))


def _afford(bound: Bound, windows: Windows, expr: Any, pieces: int, most: int = WORK) -> None:
    work = windows.size() * (int(expr.count_ops()) + 8 * pieces)
    if work > most:
        raise TooHardError(f"{bound.name}: {work} operations to compare all i and n", f"at most {most}")


def _difference(expr: sympy.Expr, pieces: list[Piece], bound: Bound) -> tuple[str, str]:
    """Where a formula is not the sum of the pieces, "" if nowhere; and how that is known."""
    lines = Lines()
    collect(expr, lines)
    with limited("where the number of keys changes"):
        for piece in pieces:
            piece.collect(lines)
    windows = Windows(lines, 0, 2)
    _afford(bound, windows, expr, len(pieces))
    for queries, lengths in windows.cells():
        env = {"n": lengths, "i": queries}
        right = np.zeros(len(queries), dtype=np.int64)
        for piece in pieces:
            right += piece.count(env)
        if (k := first_difference(expr, {i: queries, n: lengths}, right)) is not None:
            return f"query {queries[k]} of n = {lengths[k]}: {expr} is not {right[k]}", ""
    return "", (
        f"{len(pieces)} of them are a sum of terms of the formula: they change on {len(lines.lines)} kinds of lines, "
        f"repeat modulo {lines.modulus}, and agree at all windows of n <= {windows.last}"
    )


def _matched(terms: list[Any], pieces: list[Piece]) -> Iterator[tuple[list[Any], list[Piece]]]:
    """Terms of a sum beside the pieces that seem to be equal to them, for less to compare at a time; then the rest."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, SAMPLED, SAMPLES)
    queries = rng.integers(0, lengths)
    open_: dict[tuple[int, ...], list[Piece]] = {}
    for piece in pieces:
        values = piece.count({"n": lengths, "i": queries})
        open_.setdefault(tuple(values.tolist()), []).append(piece)
    rest = []
    for term in terms:
        top, bottom, _ = values_of(term, {i: queries, n: lengths})
        alike = open_.get(tuple((top // bottom).tolist())) if top.any() else None
        if alike and not (top % bottom).any():
            yield [term], [alike.pop()]
        else:
            rest.append(term)
    left = [piece for alike in open_.values() for piece in alike]
    if rest or left:
        yield rest, left


@dataclass(frozen=True, slots=True)
class Piece:
    """`factor` times the keys of one progression, where their number is one quasi-affine function."""

    factor: int
    domain: isl.Set
    size: isl.Aff

    def collect(self, lines: Lines) -> None:
        lines.modulus = lcm(lines.modulus, of_isl(self.size).modulus)
        for basic in self.domain.get_basic_sets():
            for constraint in basic.get_constraints():
                lines.add(of_isl(constraint.get_aff()))

    def count(self, env: dict[str, Ints]) -> Ints:
        return self.factor * count_piece(self.domain, self.size, env)


def _pieces(signed: list[tuple[int, list[Progression]]]) -> list[Piece]:
    with limited("the number of keys, piece by piece"):
        return [
            Piece(sign, domain.compute_divs(), size)
            for sign, parts in signed
            for part in parts
            for domain, size in part.size().get_pieces()
        ]


def _progressions(term: Term) -> list[tuple[int, list[Progression]]]:
    """Progressions of the keys of query i, those of other terms added and subtracted where the term is too hard."""
    try:
        return [(1, progressions(rows_of(square(term, fresh=True))))]
    except TooHardError:
        signed = inclusion(term)
        if not signed:
            raise
    return [(sign * inner, parts) for sign, part in signed for inner, parts in _progressions(part)]


def check_maximum(bound: Bound) -> Verdict:
    """No query has more keys, and for every n one has as many."""
    return _also_elsewhere(bound, _most(bound))


def _most(bound: Bound) -> Verdict:
    if not bound.assumptions:
        return Verdict(False, failure="claimed for n = 0, where there is no query")
    try:
        return _largest_by_masks(bound)
    except TooHardError:
        keys, steps = _keys(bound)
    with limited("the comparison of a formula of n", 400_000):
        lengths = region(bound.assumptions, ("n",), least=1)
        if lengths.is_empty():
            return Verdict(False, steps, failure="the assumptions contradict each other")
        claimed = function(bound.expr, ("n",))
        if not (missing := lengths - claimed.domain()).is_empty():
            return Verdict(False, steps, failure=f"no value for {_example(missing)}")
        more = keys.gt_set(claimed) & lengths
        if not more.is_empty():
            return Verdict(False, steps, failure=f"more keys for {_example(more)}")
        reached = keys.eq_set(claimed).project_out(isl.dim_type.param, 1, 1)
        if not (never := lengths - reached).is_empty():
            return Verdict(False, steps, failure=f"no query has as many for {_example(never)}")
    return Verdict(True, (*steps, "no query has more keys than the formula, and for every n some query has as many"))


def _largest_by_masks(bound: Bound) -> Verdict:
    """The largest of exact counts, and the formula, for as many n as make them equal."""
    least = getattr(bound.assumptions[0], "rhs", n)
    if not (least.is_Integer and least >= 1) or bound.assumptions != (sympy.Ge(n, least),):
        raise TooHardError(f"assumptions {bound.assumptions}", "n >= a number")
    claimed = shape_of(bound.expr, n)
    term = bound.term
    pairs = square(term, fresh=True)
    lines = borders(pairs)
    windows = Windows(lines, 1, 1)
    largest = Largest(windows, Masks(term, pairs, windows.last))
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
        return Verdict(False, steps, f"for n = {at[k]} the most keys of a query are {right[k]}")
    return Verdict(True, (*steps, f"it is the formula for all n <= {last}, so for every n"))


def _keys(bound: Bound) -> tuple[isl.PwAff, tuple[str, ...]]:
    with limited("the keys of one query, as progressions", 500_000):
        return _summed(bound.term)


def _summed(term: Term) -> tuple[isl.PwAff, tuple[str, ...]]:
    """Keys of query i as one function, by inclusion and exclusion where the term as a whole is too hard."""
    try:
        return _direct(term)
    except TooHardError:
        signed = inclusion(term)
        if not signed:
            raise
    total, steps = None, [f"inclusion and exclusion for {term!r}"]
    for sign, part in signed:
        keys, step = _summed(part)
        keys = keys.scale_val(isl.Val(sign, CONTEXT))
        total = keys if total is None else (total + keys).coalesce()
        steps += [f"{sign} * {part!r}: {line}" for line in step]
    assert total is not None
    return total, tuple(steps)


def _direct(term: Term) -> tuple[isl.PwAff, tuple[str, ...]]:
    parts = progressions(rows_of(square(term, fresh=True)))
    keys = total_size(parts, read_set(ROWS))
    return keys, (f"the keys of query i are {len(parts)} disjoint arithmetic progressions (isl)",)


def _example(wrong: isl.Set) -> str:
    names = [str(wrong.get_dim_name(isl.dim_type.param, k)) for k in range(wrong.dim(isl.dim_type.param))]
    point = wrong.sample_point()
    values = [point.get_coordinate_val(isl.dim_type.param, k).to_python() for k in range(len(names))]
    return ", ".join(f"{name} = {value}" for name, value in zip(names, values, strict=True))
