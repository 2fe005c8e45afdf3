"""Verifies degrees from the statement alone.

The relation is built again; isl finds the first and the last key of each part and verifies that the keys are the
arithmetic progression between them (`progressions`). Their number is compared with the formula for as many i and n as
make them equal everywhere (`plane`). No loops and no maximum are taken from anyone.
"""

from __future__ import annotations

from math import lcm

import islpy as isl
import numpy as np
import sympy

from pidsl.analysis.bound import Bound
from pidsl.analysis.counts import inclusion
from pidsl.analysis.counts_check import one_term
from pidsl.analysis.formulas import i, n
from pidsl.analysis.lattice import rows_of, square
from pidsl.analysis.piecewise import function, region
from pidsl.analysis.plane import Lines, collect, evaluate, of_isl
from pidsl.analysis.progressions import CELLS, Progression, count_progressions, progressions, total_size
from pidsl.analysis.proofs import Verdict
from pidsl.errors import TooHardError
from pidsl.language.terms import Term
from pidsl.relation.isl import CONTEXT, limited, read_set
from pidsl.relation.oracle import dense_mask

DENSE = 64  # lengths up to which the dense masks are counted
ROWS = "[n, i] -> { : 0 <= i < n }"


def check_degree(bound: Bound) -> Verdict:
    """The formula is the number of keys of query i, for all 0 <= i < n."""
    if bound.quantity != "degree" or bound.relation != "==" or bound.given:
        return Verdict(False, failure=f"not a degree: {bound.name} {bound.relation}")
    if set(bound.assumptions) != {sympy.Ge(i, 0), sympy.Lt(i, n)}:
        return Verdict(False, failure=f"assumptions {bound.assumptions}")
    term = one_term(bound)
    if bound.expr.free_symbols - {i, n}:
        return Verdict(False, failure=f"other variables than i and n in {bound.expr}")
    signed = _progressions(term)
    lines = Lines()
    collect(bound.expr, lines)
    with limited("where the number of keys changes"):
        for _, parts in signed:
            for part in parts:
                for domain, size in part.size().get_pieces():
                    lines.modulus = lcm(lines.modulus, of_isl(size).modulus)
                    for basic in domain.compute_divs().get_basic_sets():
                        for constraint in basic.get_constraints():
                            lines.add(of_isl(constraint.get_aff()))
    last = lines.last()
    if last * last // 2 > CELLS:
        raise TooHardError(f"{bound.name}: all i < n for n < {last} to compare", f"at most {CELLS} of them")
    queries, lengths = np.tril_indices(last)[::-1]
    lengths = lengths + 1
    top, bottom = evaluate(bound.expr, {i: queries, n: lengths})
    if last <= DENSE:
        right = np.concatenate([dense_mask(term, x).sum(axis=1) for x in range(1, last + 1)])
    else:
        counted = [sign * count_progressions(parts, {"n": lengths, "i": queries}) for sign, parts in signed]
        right = np.sum(counted, axis=0)
    wrong = top != right * bottom
    steps = (
        f"the keys of query i are {sum(len(parts) for _, parts in signed)} arithmetic progressions (isl)",
        f"their number and the formula change on {len(lines.lines)} kinds of lines and repeat modulo {lines.modulus}",
    )
    if wrong.any():
        k = int(np.argmax(wrong))
        return Verdict(False, steps, f"query {queries[k]} of n = {lengths[k]} attends {right[k]} keys")
    return Verdict(True, (*steps, f"they agree for all i < n <= {last}, which is far enough to be equal everywhere"))


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
    if bound.quantity != "max degree" or bound.relation != "==" or bound.given:
        return Verdict(False, failure=f"not a largest degree: {bound.name} {bound.relation}")
    if not bound.assumptions:
        return Verdict(False, failure="claimed for n = 0, where there is no query")
    keys, steps = _keys(bound)
    with limited("the comparison of a formula of n", 400_000):
        lengths = region(bound.assumptions, ("n",), least=1)
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


def _keys(bound: Bound) -> tuple[isl.PwAff, tuple[str, ...]]:
    with limited("the keys of one query, as progressions", 500_000):
        return _summed(one_term(bound))


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
