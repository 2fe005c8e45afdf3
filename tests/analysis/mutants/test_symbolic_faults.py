"""Faults planted one at a time where patterns with symbols are read and counted: nothing wrong is proved."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import sympy
from faults import Fault, accepted, changed, fits, forget, given, shared_out

from pidsl import blocks, causal, keys, lags, queries, stride, symbols, window
from pidsl.analysis import portfolio
from pidsl.analysis.bound import Bound, asking
from pidsl.analysis.formulas.words import L, n
from pidsl.analysis.schedules import BaseSchedule, SkipSchedule
from pidsl.analysis.symbolic import corner, corners, families, lag_counts, lag_live, lag_reach, progressions, ranks
from pidsl.analysis.symbolic.families import Family
from pidsl.analysis.verdict import Verdict
from pidsl.analysis.ways import Asked

k, p, s = symbols("k p s")
FIRST, COMB = keys(0, s) & causal, stride(p) & causal
SKIP, SINKS, BOTH = window(k) | lags(p), window(k) | FIRST, window(k, k) | keys(0, p)
Asking = tuple[Callable[[], Bound], ...]


def reach(subject: Any, *quantities: str) -> Asking:
    asked = quantities or ("farthest", "contiguous", "depth")
    return tuple(lambda q=q: lag_reach.reach_by_family(subject, q) for q in asked)  # type: ignore[misc]


def pairs(*terms: Any) -> Asking:
    return tuple(lambda t=t: lag_counts.pairs_by_lag(t) for t in terms)  # type: ignore[misc]


def rows(*terms: Any) -> Asking:
    of_query = tuple(lambda t=t: lag_counts.degree_by_lag(t) for t in terms)  # type: ignore[misc]
    most = tuple(lambda t=t: lag_counts.largest_by_degree(lag_counts.degree_by_lag(t)) for t in terms)  # type: ignore[misc]
    return (*of_query, *most)


def areas(*terms: Any) -> Asking:
    return tuple(lambda t=t: corners.pairs_by_corners(t) for t in terms)  # type: ignore[misc]


def keys_of(*terms: Any) -> Asking:
    return tuple(lambda t=t: corners.degree_by_corners(t) for t in terms)  # type: ignore[misc]


def live(*terms: Any) -> Asking:
    return tuple(lambda t=t: lag_live.live_by_lag(t) for t in terms)  # type: ignore[misc]


@dataclass(frozen=True)
class Proposed:
    """What is proposed first of the keys that ranks get, whatever its check says; and what is proved of them."""

    term: Any

    def __call__(self) -> Bound:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ranks, "check", lambda bound: Verdict(True))
            return ranks.received(Asked(asking(self.term, "received keys"), (), portfolio.answer))

    def right(self) -> Bound:
        return portfolio.answer(asking(self.term, "received keys"))


def received(*terms: Any) -> Asking:
    return tuple(map(Proposed, terms))


def more(x: Any) -> Any:
    return x + 1


def answered(quantity: str, change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A family with another formula."""

    def other(family: Family) -> Family:
        answer = family.answers[quantity]
        return replace(family, answers={**family.answers, quantity: replace(answer, expr=change(answer.expr))})

    return changed(other)


def with_(**facts: Any) -> Callable[[Any], Any]:
    return changed(lambda family: replace(family, **facts))


ALL, SKIPS = SkipSchedule(k, p), reach(SKIP)
FAULTS = [
    # a family misread
    Fault(lag_reach, "window", given(lambda x, *inside: (x + 1, *inside)), reach(window(k))),
    Fault(lag_reach, "window_and_skip", given(lambda a, b: (b, a)), SKIPS[:2]),
    Fault(lag_reach, "window_and_skip", given(lambda a, b: (a, b + 1)), SKIPS[:1]),
    Fault(lag_reach, "window_and_comb", given(lambda a, b: (a - 1, b)), reach(window(k) | COMB, "farthest")),
    Fault(lag_reach, "window_and_comb", given(lambda a, b: (a, 2 * b)), reach(window(k) | COMB, "contiguous")),
    Fault(lag_reach, "multiples", given(lambda d, many: (d + 1, many)), reach(window(k).dilated(p))),
    Fault(lag_reach, "multiples", given(lambda d, many: (d, None)), reach(window(k).dilated(p), "farthest")),
    Fault(lag_reach, "own_block", given(lambda b, back: (b + 1, back)), reach(blocks(p) & causal)),
    Fault(lag_reach, "own_block", given(lambda b, back: (b, not back)), reach(blocks(p), "farthest")),
    Fault(lag_reach, "window_and_sinks", given(lambda a, b: (b, a)), reach(SINKS)),
    Fault(lag_reach, "window_and_sinks", given(lambda a, b: (a, b + 1)), reach(SINKS, "contiguous", "depth")),
    Fault(lag_reach, "by_digits", given(lambda b: (b + 1,)), reach(BaseSchedule(p))),
    Fault(lag_reach, "window_and_some_skips", given(lambda a, b, c: (a, b, c + 1)), reach(ALL, "farthest")),
    Fault(lag_reach, "window_and_some_skips", given(lambda a, b, c: (a, b, c)),
          reach(SkipSchedule(k, p, 2), "farthest")),
    Fault(lag_reach, "by_first_keys", changed(lambda found: [(None, x) for _, x in found]), reach(SINKS)),
    Fault(lag_reach, "_block", lambda right: lambda term: (sympy.Symbol("k", integer=True), True), reach(window(k))),
    # a closed form, a formula or a condition that is wrong
    Fault(families, "ceil_div", lambda right: lambda y, by: sympy.floor(y / by), SKIPS[1:2]),
    Fault(families, "ceil_div", changed(more), SKIPS[1:2]),
    Fault(lag_reach, "window_and_skip", answered("farthest", more), SKIPS[:1]),
    Fault(lag_reach, "window_and_skip", answered("contiguous", lambda e: e - 1), SKIPS[1:2]),
    Fault(lag_reach, "window_and_skip", answered("depth", lambda e: e - 1), SKIPS[2:]),
    Fault(lag_reach, "window_and_comb", answered("depth", more), reach(window(k) | COMB, "depth")),
    Fault(lag_reach, "multiples", answered("depth", lambda e: n), reach(COMB, "depth")),
    Fault(lag_reach, "own_block", answered("depth", lambda e: sympy.oo), reach(blocks(p), "depth")),
    Fault(lag_reach, "by_digits", answered("depth", more), reach(BaseSchedule(p), "depth")),
    Fault(lag_reach, "window_and_skip", with_(needs=()), SKIPS[:1]),
    Fault(lag_reach, "window_and_skip", with_(needs=(L >= 2,)), SKIPS[:1]),
    Fault(lag_reach, "window_and_skip", with_(reached=sympy.true), SKIPS[:1]),
    Fault(lag_reach, "window_and_skip", with_(cuts=tuple((x, (), sympy.false) for x in ("beyond", "first"))),
          SKIPS[:1]),
    Fault(lag_reach, "window", with_(first=(), longer=(), between=()), reach(window(k), "farthest")),
    # progressions of lags
    Fault(progressions.Reader, "common", lambda right: lambda self, x, y: x, (*pairs(window(k) | COMB), *rows(SKIP))),
    Fault(progressions.Reader, "common", lambda right: lambda self, x, y: None,
          pairs(window(k) | COMB, window(k) | window(s))),
    Fault(progressions.Reader, "_transposed", lambda right: lambda self, x: x, pairs(window(k).T | lags(p))),
    Fault(progressions.Reader, "certain", lambda right: lambda self, c: True, (*pairs(SKIP), *rows(lags(p, s)))),
    Fault(progressions, "_scaled", lambda right: lambda x, step: x, pairs(window(k).dilated(p))),
    Fault(progressions, "_merged", lambda right: lambda a, b: a, (*pairs(SKIP), *live(window(k) | lags(p)))),
    Fault(progressions, "_least", lambda right: lambda a, b: a if b is None else b, pairs(window(k) & window(s))),
    Fault(lag_counts, "subsets", changed(lambda found: [x for x in found if x[0] == 1]),
          (*pairs(window(k) | COMB), *rows(SKIP))),
    Fault(lag_counts, "pairs_of", changed(lambda e: e + sympy.Piecewise((1, sympy.Eq(n, 40)), (0, True))),
          pairs(window(k))),
    Fault(lag_counts, "steps_to", changed(more), (*pairs(window(k).dilated(p)), *rows(window(k).dilated(p)))),
    Fault(lag_counts, "_many", changed(more), rows(window(k), window(k, k))),
    Fault(lag_counts, "_is_most", lambda right: lambda *args: "turns", rows(window(k, k))[1:]),
    Fault(lag_counts, "_is_most", lambda right: lambda *args: "most", rows(window(k, k), lags(p))[2:]),
    Fault(lag_counts, "by_cases", changed(lambda e: e - 1), rows(window(k, k))[1:]),
    # corners
    Fault(corners.Corners, "_least", lambda right: lambda self, bounds: frozenset(sorted(bounds, key=str)[:1]),
          areas(SINKS)),
    Fault(corners.Corners, "_meet", lambda right: lambda self, a, b: a, areas(SINKS)),
    Fault(corners.Corners, "_meet", lambda right: lambda self, a, b: None, (*areas(SINKS), *keys_of(BOTH))),
    Fault(corners.Corners, "_lags_to", given(lambda self, last: (self, last + 1)), areas(SINKS)),
    Fault(corners.Corners, "_end", changed(more), areas(SINKS)),
    Fault(corners.Corners, "_ends", changed(lambda ends: (ends[1], ends[0])), areas(SINKS)),
    Fault(corners.Corners, "_ends", changed(lambda ends: (n, n)), areas(SINKS)),
    Fault(corners.Corners, "_transposed", lambda right: lambda self, of: of, areas(SINKS.T)),
    Fault(corners.Corners, "certain", lambda right: lambda self, c: True, areas(BOTH)),
    Fault(corners, "area", changed(lambda e: 2 * e), areas(SINKS)),
    Fault(corners, "row", changed(more), keys_of(SINKS)),
    Fault(corners, "by_cases", changed(lambda e: e.args[0][0] if isinstance(e, sympy.Piecewise) else e + 1),
          areas(SINKS)),
    Fault(corner.Shape, "area", changed(more), areas(causal - keys(0, s))),
    Fault(corner.Shape, "row", changed(more), keys_of(causal - keys(0, s))),
    *(
        Fault(corner.Lagged, name, changed(more), (*areas(SINKS), *keys_of(SINKS)))
        for name in ("row", "area", "many", "before", "sum")
    ),
    Fault(corner.Lagged, "inside", lambda right: lambda self, i, j: i - j < self.last, areas(SINKS)),
    *(Fault(corner.InBlocks, x, changed(more), keys_of(blocks(k) & causal)) for x in ("row", "keys_to")),
    *(Fault(corner.InBlocks, x, changed(more), areas(FIRST | blocks(4) & causal)) for x in ("area", "sum")),
    # live keys
    Fault(lag_live, "_end", changed(more), live(window(k), SKIP)),
    Fault(lag_live, "_end", changed(lambda e: e - 1), live(window(k), SKIP)),
    Fault(lag_live, "_counted", changed(lambda found: (found[0] + 1, *found[1:])), live(SINKS)),
    Fault(lag_live, "_counted", changed(lambda found: (found[0], found[1], found[2][:1])), live(SINKS)),
    Fault(lag_live, "by_first_keys", changed(lambda found: found[:1]), live(SINKS)),
    Fault(lag_live, "_between", changed(lambda part: part and replace(part, many=part.many + 1)),
          live(blocks(k) & causal)),
    # keys that ranks get from others
    Fault(ranks, "_largest", changed(lambda found: [x - 1 for x in found]), received(window(k), SINKS)),
    Fault(ranks, "_sums", changed(lambda found: [x - 1 for x in found]), received(window(k, k), causal)),
    Fault(ranks, "_guesses", changed(lambda found: [sympy.Integer(0)]), received(window(k, k), window(k).T)),
    Fault(ranks, "_guesses", changed(lambda found: [x - 1 for x in found]), received(window(2, k))),
    Fault(ranks, "behind", changed(lambda question: replace(question, subject=window(0))), received(SKIP, SINKS)),
    Fault(ranks, "ahead", changed(lambda question: replace(question, subject=question.subject.T)),
          received(window(1, 5), window(0, 9))),
    Fault(ranks, "ahead", changed(lambda question: replace(question, subject=window(1))), received(window(1, 5))),
]  # fmt: skip


def points(bound: Bound) -> list[dict[str, int]]:
    """Numbers for everything that is open."""
    names = sorted({x.name for c in (bound.expr, *bound.assumptions) for x in c.free_symbols})
    own: dict[str, tuple[int, ...]] = {
        "n": (1, 2, 7, 16, 23, 40, 41),
        "i": (0, 1, 5, 15),
        "L": (1, 2, 3, 5),
        "t": (0, 3, 9),
    }
    return [
        dict(zip(names, at, strict=True)) for at in itertools.product(*(own.get(x, (1, 2, 3, 5, 8)) for x in names))
    ]


RIGHT: dict[Any, Bound] = {}  # answers without a fault


@pytest.mark.usefixtures("without_masks")
@pytest.mark.parametrize("fault", shared_out(FAULTS), ids=str)
def test_planted_faults_are_refused(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    for ask in fault.questions:
        if ask not in RIGHT:
            RIGHT[ask] = ask.right() if isinstance(ask, Proposed) else ask()
    forget("symbolic")
    fault.plant(monkeypatch)
    proved = list(accepted(fault, lambda ask: [ask()]))
    monkeypatch.undo()
    forget("symbolic")
    for ask, found in proved:
        assert fits(found, RIGHT[ask], points(RIGHT[ask])), (found, RIGHT[ask])


def test_the_largest_of_several_pieces_is_not_taken_from_the_ends() -> None:
    """One query attends all, and no other: degrees neither rise up to it nor fall from it on alone."""
    term = window(k, k) | queries(0, 1)
    premise = corners.degree_by_corners(term)
    found = lag_counts.largest_by_degree(premise)
    assert found.proof.check()
    for at, most in ((n - 1, found.expr), (sympy.Integer(0), found.expr - 1)):
        facts = (("query", at), ("turns", True))
        wrong = replace(found, expr=most, certificate=replace(found.certificate, facts=facts))
        assert not wrong.proof.check()
