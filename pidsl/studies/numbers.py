"""Numbers at one n: from the formula where there is one that holds there, else counted one by one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from pidsl.analysis.bound import Bound, asking
from pidsl.analysis.counting.progressions import progressions
from pidsl.analysis.dense import depth_of
from pidsl.analysis.formulas.words import Value
from pidsl.analysis.layers.lags import causal_lags, plus
from pidsl.analysis.measured import measured
from pidsl.analysis.portfolio import answer
from pidsl.analysis.schedules import BaseSchedule
from pidsl.errors import PidslError, SizeError, SymbolError, TooHardError
from pidsl.language.heads import Heads, heads
from pidsl.language.schedule import Schedule, layers
from pidsl.language.terms import Term, is_chosen, of_lags_alone
from pidsl.language.vocabulary import causal, window
from pidsl.relation import counting
from pidsl.relation.isl import limited, read_set
from pidsl.relation.oracle import table
from pidsl.relation.pieces import value_at as value_of
from pidsl.studies.members import Pattern

Answer = tuple[Value, Bound | None]  # a number, and the formula it comes from

COUNTED = 1 << 22  # tokens up to which keys without a formula are counted query by query
FIRST = 1 << 14  # tokens up to which they are in a search, which asks for many patterns once
MATRICES = 1024  # tokens up to which layers without a formula are multiplied out
WORK = 4e10  # multiplications for that, a second
SHIFTED = 1 << 34  # bits, of sums of lags


def value_at(bound: Bound, n: int) -> Answer:
    """The formula at n, or a count where there is none that holds for n."""
    try:
        return bound(t=n - 1) if bound.quantity == "live keys" else bound(n=n), bound
    except (SizeError, TooHardError):
        if (found := _counted(bound, n)) is None:
            raise
        return found, None


def _counted(bound: Bound, n: int) -> Value | None:
    """What a bound is about, counted; None where that takes too long."""
    match bound.quantity:
        case "pairs" if n <= COUNTED:
            return counting.pairs(bound.term, n)
        case "max degree" if n <= COUNTED:
            return int(counting.degree(bound.term, n).max())
        case "farthest" | "contiguous" if n <= MATRICES:
            return measured(bound, {"n": n}, WORK)[0]
    return None


def cost_at(term: Term, n: int) -> tuple[int, int]:
    """Pairs and the largest degree: from the lags, query by query, or from formulas where there are many queries.

    Of what calls choose, the most that any lists make of it.
    """
    if is_chosen(term):
        most = [value_at(answer(asking(term, quantity)), n) for quantity in ("pairs", "max degree")]
        return int(most[0][0]), int(most[1][0])
    lags = lags_of(term, n)
    if lags is not None:
        return int((n - lags).sum()), len(lags)
    if n > FIRST:
        answers = [value_at(answer(asking(term, quantity)), n) for quantity in ("pairs", "max degree")]
        if all(bound is None or bound.is_exact for _, bound in answers):
            return int(answers[0][0]), int(answers[1][0])
    keys = counting.degree(term, n)
    return int(keys.sum()), int(keys.max())


def surely(pattern: Pattern) -> Pattern:
    """What a pattern attends in every call, whatever is chosen."""
    if isinstance(pattern, Term):
        return pattern.forced
    if isinstance(pattern, Schedule):
        return layers([_surely(layer) for layer in pattern])
    return pattern


def _surely(layer: Term | Heads) -> Term | Heads:
    return layer.forced if isinstance(layer, Term) else heads((count, term.forced) for count, term in layer.groups)


@lru_cache(maxsize=32)
def lags_of(term: Term, n: int) -> np.ndarray | None:
    """The lags below n of a pattern that only looks back, and at the lag alone; None of others."""
    if not of_lags_alone(term) or n > COUNTED:
        return None
    try:
        return _listed(term, n)
    except TooHardError:
        return _in_rows(term, n)


def _listed(term: Term, n: int) -> np.ndarray | None:
    """As `lags_of`, from isl's words for them.

    Raises:
        TooHardError: isl has none within its limits.
    """
    lags = causal_lags(term)
    if lags is None:
        return None
    with limited(f"the lags of {term!r} below {n}"):
        parts = progressions(lags & read_set(f"{{ [d] : 0 <= d < {n} }}"))
    one = {"n": np.full(1, n)}
    ends = [(int(value_of(x.first, one)[0]), int(value_of(x.size(), one)[0]), x.step) for x in parts]
    each = [first + max(step, 1) * np.arange(count) for first, count, step in ends]
    return np.sort(np.concatenate([np.empty(0, np.int64), *each]), kind="stable")  # no lag is in two of them


def _in_rows(term: Term, n: int) -> np.ndarray | None:
    """As `lags_of`, from the first row and the last one of the mask."""
    first, last = table(term, np.array([0, n - 1]), np.arange(n), n, n)
    return None if first[1:].any() else n - 1 - np.flatnonzero(last)[::-1]


def depth_within(terms: Sequence[Term], n: int, layers: int) -> float | None:
    """The fewest layers up to so many that connect n tokens; oo where these are too few, None where it is not told.

    Sums of lags are bits of one integer; other patterns are matrices.
    """
    each = [lags_of(term, n) for term in dict.fromkeys(terms)]
    if any(lags is None for lags in each):
        if n > MATRICES:
            return None
        of = "causal" if all(term <= causal for term in terms) else "all"
        try:
            found = depth_of(terms, n, of)  # type: ignore[arg-type]
        except TooHardError:
            return None
        return found if found is not None and found <= layers else math.inf
    runs = dict(zip(dict.fromkeys(terms), map(runs_of, each), strict=True))  # type: ignore[arg-type]
    if sum(len(runs[term]) for term in terms[:layers]) * n > SHIFTED:
        return None
    whole = (1 << n) - 1
    seen = 1
    for layer in range(layers):
        seen = plus(seen, runs[terms[layer % len(terms)]]) & whole
        if seen == whole:
            return layer + 1
    return math.inf


def runs_of(lags: np.ndarray) -> list[tuple[int, int]]:
    """First and last of each run of lags."""
    cuts = np.flatnonzero(np.diff(lags) != 1)
    return list(zip(lags[[0, *cuts + 1]].tolist(), lags[[*cuts, -1]].tolist(), strict=True)) if len(lags) else []


def layers_of(pattern: Pattern, n: int, layers: int) -> tuple[Term, ...]:
    """The term of each layer; a schedule begins again after its last."""
    each = terms_of(pattern, n, layers)
    return tuple(each[layer % len(each)] for layer in range(layers))


def terms_of(pattern: Pattern, n: int, layers: int) -> tuple[Term, ...]:
    """The patterns that are counted: each layer of a schedule; of a base schedule, as many as are asked for."""
    if isinstance(pattern, BaseSchedule):
        if not isinstance(pattern.base, int):
            raise SymbolError(f"{pattern!r}", "a number for the base, to compare patterns")
        base = pattern.base
        return tuple(pattern.layer(k) if base**k < n else window(0) for k in range(layers))
    return pattern.unions if isinstance(pattern, Schedule) else (pattern,)


def reason_of(e: PidslError) -> str:
    """Why there is no answer, in one line."""
    text = e.hint if isinstance(e, TooHardError) and e.hint else f"{e.given}: {e.expected}" if e.expected else e.given
    return " ".join(text.split())
