"""Verifies degrees from the statement alone.

The relation is built again; isl finds the first and the last key of each part and verifies that the keys are the
arithmetic progression between them (`progressions`). Their sizes sum to a function of (n, i) with which the formula is
compared for all i and n at once. No loops and no maximum are taken from anyone.
"""

from __future__ import annotations

import islpy as isl
import sympy

from pidsl.analysis.bound import Bound
from pidsl.analysis.counts import inclusion
from pidsl.analysis.formulas import i, n
from pidsl.analysis.lattice import rows_of, square
from pidsl.analysis.piecewise import function, region
from pidsl.analysis.progressions import progressions, total_size
from pidsl.analysis.proofs import Verdict
from pidsl.errors import TooHardError
from pidsl.language.terms import Term
from pidsl.relation.isl import CONTEXT, limited, read_set

ROWS = "[n, i] -> { : 0 <= i < n }"


def check_degree(bound: Bound) -> Verdict:
    """The formula is the number of keys of query i, for all 0 <= i < n."""
    if bound.quantity != "degree" or bound.relation != "==" or bound.given:
        return Verdict(False, failure=f"not a degree: {bound.name} {bound.relation}")
    if set(bound.assumptions) != {sympy.Ge(i, 0), sympy.Lt(i, n)}:
        return Verdict(False, failure=f"assumptions {bound.assumptions}")
    keys, steps = _keys(bound)
    with limited("the comparison of a formula of (n, i)"):
        claimed = function(bound.expr, ("n", "i"))
        rows = read_set(ROWS)
        wrong = (rows - claimed.domain()) | (claimed.ne_set(keys) & rows)
        if not wrong.is_empty():
            return Verdict(False, steps, failure=f"wrong for {_example(wrong)}")
    return Verdict(True, (*steps, "the sum of their sizes is the formula wherever 0 <= i < n (isl)"))


def check_maximum(bound: Bound) -> Verdict:
    """No query has more keys, and for every n one has as many."""
    if bound.quantity != "max degree" or bound.relation != "==" or bound.given:
        return Verdict(False, failure=f"not a largest degree: {bound.name} {bound.relation}")
    if not bound.assumptions:
        return Verdict(False, failure="claimed for n = 0, where there is no query")
    keys, steps = _keys(bound)
    with limited("the comparison of a formula of n"):
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
    assert not isinstance(bound.subject, tuple)
    with limited("the keys of one query, as progressions"):
        return _summed(bound.subject)


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
