"""How many keys each query attends: a formula in i and n, and the largest of them in n, for m = n.

    relation  ->  the keys of query i, as arithmetic progressions (isl)  ->  their sizes, which are functions of (n, i)

The largest over i is a maximum that isl decides for every n; or counts of few tokens suggest it.
"""

from __future__ import annotations

import islpy as isl
import sympy

from pidsl.analysis.bound import Bound, Certificate, asking
from pidsl.analysis.counting.borders import Masks, borders
from pidsl.analysis.counting.lattice import square
from pidsl.analysis.counting.progressions import Progression, keys_of_query
from pidsl.analysis.counting.windows import Windows
from pidsl.analysis.formulas import pieces
from pidsl.analysis.formulas.guess import guess
from pidsl.analysis.formulas.piecewise import Formula, formula
from pidsl.analysis.formulas.read import function
from pidsl.analysis.formulas.words import i, n
from pidsl.analysis.ways import Asked
from pidsl.errors import TooHardError
from pidsl.relation.isl import limited, read_set

ROWS = "[n, i] -> { : 0 <= i < n }"
ONE_CASE = 10_000  # operations of isl for finding that a size is a minimum or a maximum
GUESS = 20_000  # operations of isl for asking whether a certain query has the most keys
WORK = 150_000  # operations of isl for the largest degree over all; they take up to 80 microseconds each here
GUESSED = 6  # periods of the number of keys, for which the largest is counted before a formula is guessed
BRANCHES = 24  # of the formula of the largest degree


def of_query(asked: Asked) -> Bound:
    """The keys of query i among n: the sizes of its progressions.

    Raises:
        TooHardError: isl finds no progressions, or its operation limit struck.
    """
    with limited(f"the keys of one query of {asked.subject!r}", 1_000_000):
        parts = keys_of_query(asked.subject)
    with limited("the number of keys as a formula", 1_000_000):
        terms = tuple(factor * _written(one) for factor, one in parts)
    certificate = Certificate("degree", (("terms", terms),))
    return Bound(asked.question, "==", sympy.Add(*terms), (sympy.Ge(i, 0), sympy.Lt(i, n)), certificate)


def _written(part: Progression) -> sympy.Expr:
    """The size of a progression, 0 where it is empty: a minimum or a maximum if it is one, else a case per piece."""
    rows = read_set(ROWS)
    size = part.size().intersect_domain(rows).coalesce()
    if size.domain().is_empty():
        return sympy.Integer(0)
    try:
        with limited("a formula of one case", ONE_CASE):
            domain = size.domain().coalesce()
            each = [(pieces.written(size, domain, most=1), domain)]
    except TooHardError:
        each = [(pieces.plain(f), here) for here, f in size.get_pieces()]
    found = sympy.Integer(0)
    for expr, here in each:
        if not (here.is_equal(rows) or _is_none(expr, rows - here)):
            expr = sympy.Piecewise((expr, pieces.membership(here.gist(rows))), (0, True), evaluate=False)
        found += expr
    return found


def _is_none(expr: sympy.Expr, where: isl.Set) -> bool:
    """Whether a formula is 0 somewhere by itself."""
    there = function(expr, ("n", "i")).intersect_domain(where)
    return bool((where - there.domain()).is_empty() and there.ne_set(there - there).is_empty())


def largest(asked: Asked) -> Bound:
    """The most keys of any query, for n >= 1, from the formula for each.

    Raises:
        TooHardError: that is not known, or isl's operation limit struck.
    """
    premise = asked.ask(asking(asked.subject, "degree"))
    if not premise.is_exact or {*premise.assumptions} != {sympy.Ge(i, 0), sympy.Lt(i, n)}:
        raise TooHardError(f"the degree of {asked.subject!r} for every n", "known", hint=premise.reason)
    with limited(f"the largest degree of {asked.subject!r}", 100_000):
        keys = function(premise.expr, ("n", "i")).intersect_domain(read_set(ROWS)).coalesce()
        found = formula(_largest(keys), -sympy.oo, 1, BRANCHES)
    return _most(asked, found, premise)


def largest_of_few(asked: Asked) -> Bound:
    """What counts at the first n suggest, where that can be verified.

    Raises:
        TooHardError: they suggest nothing, or these are too many.
    """
    pairs = square(asked.subject)
    windows = Windows(borders(pairs), 1, 1)
    last = windows.start + GUESSED * windows.period
    masks = Masks(asked.subject, pairs, last)
    found = guess([masks.largest(x) for x in range(1, last + 1)], -sympy.oo, BRANCHES, GUESSED // 2 * windows.period)
    if found is None:
        raise TooHardError("the first values", "a formula that they follow")
    return _most(asked, found)


def _most(asked: Asked, found: Formula, *premises: Bound) -> Bound:
    return Bound(asked.question, "==", found.expr, found.assumptions, Certificate("largest degree", (), premises))


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
