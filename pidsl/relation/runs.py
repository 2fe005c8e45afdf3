"""Terms of lags alone as sorted runs of lags, without isl: a union of a thousand lags is a list of a thousand numbers.

causal - lags(1, 2, 7)  ->  [(0, 0), (3, 6), (8, inf)]
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from math import inf

from pidsl.language.expr import (
    Add,
    And,
    Compare,
    Index,
    Max,
    Min,
    Not,
    Or,
    Pred,
    Sub,
    Truth,
    Var,
    evaluate,
    simplify,
)  # fmt: skip
from pidsl.language.terms import (
    Causal,
    Complement,
    Difference,
    Empty,
    Full,
    Intersection,
    Lags,
    Shift,
    SymmetricDifference,
    Term,
    Transpose,
    Union,
    Where,
    Window,
)  # fmt: skip
from pidsl.language.trees import WIDE, bottom_up, extent
from pidsl.relation.loops import Loop

Run = tuple[float, float]  # first and last lag: integers, or -inf and inf
Runs = list[Run]

FEW = 4 * WIDE  # operations; a term of fewer is left to isl


def runs_within(term: Term) -> Mapping[int, Runs]:
    """The runs of each part of a long term that is of lags alone, by its id; of a short one, nothing."""
    order = list(bottom_up(term, lambda t: isinstance(t, Term)))
    length = len(order) + sum(len(t.values) for t in order if isinstance(t, Lags))
    if length + sum(extent(t.pred)[1] for t in order if isinstance(t, Where)) <= FEW:
        return {}
    found: dict[int, Runs] = {}
    for t in order:
        if (runs := _runs(t, found)) is not None:
            found[id(t)] = runs
    return found


@lru_cache(maxsize=1024)
def lag_runs(term: Term) -> Runs | None:
    """The runs of lags that say which pairs a term without symbols has; None for a term of something else too.

    >>> import pidsl
    >>> lag_runs(pidsl.causal - pidsl.lags(1, 2, 7)), lag_runs(pidsl.blocks(8))
    ([(0, 0), (3, 6), (8, inf)], None)
    """
    found: dict[int, Runs] = {}
    for t in bottom_up(term, lambda t: isinstance(t, Term)):
        if (runs := _runs(t, found)) is None:
            return None
        found[id(t)] = runs
    return found[id(term)]


def _runs(term: Term, inside: Mapping[int, Runs]) -> Runs | None:
    def of(*terms: Term) -> list[Runs] | None:
        return [inside[id(t)] for t in terms] if all(id(t) in inside for t in terms) else None

    match term:
        case Full():
            return [(-inf, inf)]
        case Empty():
            return []
        case Causal():
            return [(0, inf)]
        case Window(left, right):
            return [(-evaluate(right, {}), evaluate(left, {}))]
        case Lags(values):
            return merged((x, x) for x in (evaluate(v, {}) for v in values))
        case Where(pred, _):
            return _where(pred)
        case Shift(a, by) if found := of(a):
            return [(first + evaluate(by, {}), last + evaluate(by, {})) for first, last in found[0]]
        case Transpose(a) if found := of(a):
            return [(-last, -first) for first, last in reversed(found[0])]
        case Complement(a) if found := of(a):
            return without(found[0])
        case Union(a, b) if found := of(a, b):
            return merged([*found[0], *found[1]])
        case Intersection(a, b) if found := of(a, b):
            return both(*found)
        case Difference(a, b) if found := of(a, b):
            return both(found[0], without(found[1]))
        case SymmetricDifference(a, b) if found := of(a, b):
            a_only, b_only = both(found[0], without(found[1])), both(found[1], without(found[0]))
            return merged([*a_only, *b_only])
    return None


def _where(p: Pred) -> Runs | None:
    match p:
        case Truth(value):
            return [(-inf, inf)] if value else []
        case Not(a):
            return None if (found := _where(a)) is None else without(found)
        case And(a, b) | Or(a, b):
            x, y = _where(a), _where(b)
            if x is None or y is None:
                return None
            return both(x, y) if isinstance(p, And) else merged([*x, *y])
        case Compare(op, a, b):
            i, j, constant = _linear(Sub(a, b)) or (0, 0, 0)
            if (i, j) not in ((1, -1), (-1, 1)):
                return None
            ends = {"==": (0, 0), "<=": (-inf, 0), "<": (-inf, -1), ">=": (0, inf), ">": (1, inf)}
            first, last = ends.get(op, (0, 0))
            first, last = first - constant, last - constant
            runs: Runs = [(first, last) if i > 0 else (-last, -first)]
            return without(runs) if op == "!=" else runs


def _linear(e: Index) -> tuple[int, int, int] | None:
    """(a, b, c) when e is a * i + b * j + c."""
    match e:
        case int():
            return 0, 0, e
        case Var("i"):
            return 1, 0, 0
        case Var("j"):
            return 0, 1, 0
        case Add(a, b) | Sub(a, b):
            x, y, sign = _linear(a), _linear(b), 1 if isinstance(e, Add) else -1
            if x is not None and y is not None:
                return x[0] + sign * y[0], x[1] + sign * y[1], x[2] + sign * y[2]
    return None


def merged(runs: Iterable[Run]) -> Runs:
    """The lags of any of the runs."""
    found: Runs = []
    for first, last in sorted(runs):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(last, found[-1][1]))
        elif first <= last:
            found.append((first, last))
    return found


def without(runs: Runs) -> Runs:
    """All other lags."""
    ends = [-inf, *(x for first, last in runs for x in (first - 1, last + 1)), inf]
    gaps = zip(ends[::2], ends[1::2], strict=True)
    return [(first, last) for first, last in gaps if first <= last and first < inf and last > -inf]


def both(a: Runs, b: Runs) -> Runs:
    """The lags of a and b."""
    return without(merged([*without(a), *without(b)]))


def condition(run: Run) -> str:
    """The run for isl."""
    first, last = run
    if first == last:
        return f"i - j = {first}"
    ends = [f"{first} <= i - j"] * (first > -inf) + [f"i - j <= {last}"] * (last < inf)
    return " and ".join(ends) or "true"


def loop(run: Run) -> Loop:
    """The keys of query i."""
    first, last = run
    i, m = Var("i"), Var("m")
    start: Index = 0 if last == inf else simplify(Max(simplify(Sub(i, int(last))), 0))
    stop = simplify(Sub(m, 1))
    return Loop(start, stop if first == -inf else simplify(Min(simplify(Sub(i, int(first))), stop)))
