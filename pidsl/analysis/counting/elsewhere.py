"""Counts where no derivation looks: a formula is compared with them once more, whatever its checker relies on.

Formulas are found, and verified, from chambers, periods and lines that isl's corners and constraints tell. If one of
them is missing, both are wrong together. So there are counts of another kind, at other places: the dense mask of all
short sequences, and isl's count of the points of the relation for one length, just past the numbers in the pattern,
their sums and products, the cases of the formula, and beyond all of them.
"""

from __future__ import annotations

from random import Random
from typing import Any

import islpy as isl
import numpy as np
import sympy

from pidsl.analysis.bound import Bound
from pidsl.analysis.counting.lattice import rows_of, square, without
from pidsl.analysis.formulas.evaluate import first_difference
from pidsl.analysis.formulas.words import i, n, symbol
from pidsl.analysis.measured import LIVE, TOKENS, admits, longest_mask, refuted, sizes_of, varies
from pidsl.analysis.verdict import Verdict, failed, is_soon
from pidsl.errors import TooHardError
from pidsl.relation.isl import limited, read_map, read_set
from pidsl.relation.lives import asked
from pidsl.relation.oracle import dense_mask

SHORT = 32  # tokens of sequences that are counted one by one, where each length has a mask of its own
MARKS = 14  # lengths near numbers that a pattern or a formula is made of
RUN = 128  # tokens in a row after which live keys are counted
MOST = 20_000  # of them
ROWS = 3  # queries of each of these lengths
DENSE = 1200  # tokens of the longest mask
t = symbol("t")


def also(bound: Bound, found: Verdict) -> Verdict:
    """What was found, unless other counts contradict it."""
    failure = differs(bound) if found.holds else ""
    return failed(failure, *found.steps) if failure else found


def differs(bound: Bound) -> str:
    """Where a formula is not the count that it claims, at some place that it was not made from; "" if nowhere.

    Args:
        bound: a statement about pairs, keys of a query, the most of any query, or live keys or pages.
    """
    if is_soon():
        return ""
    if bound.quantity in LIVE:
        return _live(bound)
    return _short(bound) or _long(bound)


def _live(bound: Bound) -> str:
    """Live keys, of few tokens by dense masks, of others by isl."""
    if why := refuted(bound, ({"t": at} for at in range(TOKENS + 1))):
        return why
    lookahead, page = bound.question.lookahead, bound.question.page
    since = 1 if lookahead is None else -lookahead
    try:
        ever = asked(bound.term, fresh=True)
        with limited("live keys after some token"):
            ever = ever.insert_dims(isl.dim_type.param, 0, 1).set_dim_name(isl.dim_type.param, 0, "t")
            later = ever & read_set(f"[t] -> {{ [i, j] : 0 <= j <= t and i >= t + {since} }}")
            points = later.project_out(isl.dim_type.set, 0, 1)
            if page is not None:
                points = points.apply(read_map(f"{{ [j] -> [floor(j/{page})] }}"))
    except TooHardError:
        return ""
    return _differs_at(bound, t, points)


def _differs_at(bound: Bound, x: sympy.Symbol, points: isl.Set) -> str:
    for at in _places(bound, x):
        if not admits(bound.assumptions, {x.name: at}) or (right := _count(points, {x: at})) is None:
            continue
        if _wrong(bound.expr, {x: [at]}, [right]) is not None:
            return f"at {x} = {at}, held out, the count is {right}, not {bound.expr.subs(x, at)}"
    return ""


def _wrong(expr: sympy.Expr, at: dict[sympy.Symbol, Any], right: Any) -> int | None:
    points = {x: np.array(values).astype(object) for x, values in at.items()}
    return first_difference(expr, points, np.array(right).astype(object))


# -- where to look -----------------------------------------------------------------------------------------------------


def _places(bound: Bound, x: sympy.Symbol) -> list[int]:
    """Values of n, or of t."""
    draw = Random(f"{bound.quantity} of {bound.shown_subject} elsewhere")
    own = sorted(sizes_of([bound.term]) - {0})[:20]
    cases = {int(v) for v in bound.expr.atoms(sympy.Integer) if 0 <= v <= MOST}
    marks = {a + b for a in (0, *own) for b in (0, *own)} | {a * b for a in own for b in own} | cases | {0}
    near = sorted({m + k for m in marks if m <= MOST for k in (-1, 0, 1, 2) if m + k >= 0})
    last = near[-1]
    some = {*draw.sample(near, min(len(near), MARKS)), *(draw.randrange(last + 1) for _ in range(3))}
    if x == t:  # all places in a block, or in a period
        start = draw.randrange(last + 1)
        some.update(range(start, start + min(max(own, default=1), RUN)))
    return sorted({*some, last + draw.randrange(1, 60), 2 * last + draw.randrange(60)})


# -- what is there -----------------------------------------------------------------------------------------------------


def _short(bound: Bound) -> str:
    """All short sequences, by dense masks."""
    term = bound.term
    longest = min(longest_mask(term), DENSE)
    if varies(term):
        each = [(x, dense_mask(term, x).sum(axis=1)) for x in range(min(longest, SHORT) + 1)]
    else:  # a mask is a corner of all that are longer
        keys = np.cumsum(dense_mask(term, longest), axis=1, dtype=np.int64)
        each = [(x, keys[:x, x - 1] if x else keys[:0, 0]) for x in range(longest + 1)]
    each = [(x, keys) for x, keys in each if admits(bound.assumptions, {"n": x})]
    if bound.quantity == "degree":
        draw = Random(f"queries of {term!r}")
        rows = [(x, k, int(keys[k])) for x, keys in each if x for k in (x - 1, draw.randrange(x))]
        return _differs_in_rows(bound, rows)
    measure = np.sum if bound.quantity == "pairs" else np.max
    some = [(x, int(measure(keys))) for x, keys in each if len(keys) or bound.quantity == "pairs"]
    if not some or (k := _wrong(bound.expr, {n: [x for x, _ in some]}, [y for _, y in some])) is None:
        return ""
    return f"at n = {some[k][0]} the count is {some[k][1]}"


def _long(bound: Bound) -> str:
    """Other lengths, by isl."""
    if bound.quantity == "max degree":
        return ""
    try:
        points = square(bound.term, fresh=True)
    except TooHardError:
        return ""  # the other counts are all there are
    if bound.quantity == "pairs":
        return _differs_at(bound, n, points)
    rows, draw = rows_of(points), Random(f"rows of {bound.term!r}")
    some = [(x, k) for x in _places(bound, n) if x for k in {x - 1, *(draw.randrange(x) for _ in range(ROWS))}]
    each = [(x, k, right) for x, k in some if (right := _count(rows, {n: x, i: k})) is not None]
    return _differs_in_rows(bound, each)


def _differs_in_rows(bound: Bound, rows: list[tuple[int, int, int]]) -> str:
    rows = [row for row in rows if admits(bound.assumptions, {"n": row[0], "i": row[1]})]
    if not rows:
        return ""
    lengths, queries, right = zip(*rows, strict=True)
    if (k := _wrong(bound.expr, {n: lengths, i: queries}, right)) is None:
        return ""
    return f"query {queries[k]} of n = {lengths[k]} attends {right[k]} keys"


def _count(points: isl.Set, at: dict[sympy.Symbol, int]) -> int | None:
    """How many points there are for values of the parameters; None where isl needs too long."""
    text = f"[{', '.join(x.name for x in at)}] -> {{ : {' and '.join(f'{x.name} = {v}' for x, v in at.items())} }}"
    try:
        with limited("a count for one length"):
            some = points.intersect_params(read_set(text))
            for x in at:
                some = without(some, x.name)
            return int(some.count_val().to_python())
    except TooHardError:
        return None
