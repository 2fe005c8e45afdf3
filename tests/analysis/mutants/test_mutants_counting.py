"""Faults planted one at a time where counts, blocks and grids are derived: nothing wrong is proved.

They are planted everywhere: checkers must refuse also where they share the module that is faulty with a finder.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
import sympy
from faults import Fault, accepted, changed, fits, forget, shared_out

import pidsl
from pidsl.analysis import portfolio
from pidsl.analysis.bound import ANY, Bound, Question, asking
from pidsl.analysis.counting import (
    borders,
    counts,
    degrees,
    inclusion,
    largest,
    lattice,
    live_set,
    progressions,
    windows,
)
from pidsl.analysis.formulas import evaluate, plane, quasi
from pidsl.analysis.formulas.words import n
from pidsl.analysis.smaller import axes, between, block_keys, blocks, grids
from pidsl.analysis.ways import Asked, NotMine, Way
from pidsl.language.terms import Empty, Term
from pidsl.relation import counting as relation_counting

Chambers = lattice.Chambers
WINDOW, COMB = pidsl.window(40), pidsl.stride(6) & pidsl.causal
MIXED = (pidsl.window(5) | pidsl.keys(0, None, 4)) & pidsl.causal
ENDS = pidsl.keys(-7, None) | pidsl.window(2)
LATE = pidsl.window(3) | pidsl.keys(300, None) & pidsl.causal
UNION = pidsl.stride(16) | pidsl.stride(7)
BLOCKS = (pidsl.window(3) | pidsl.keys(0, 1)).blocked(8) & pidsl.causal
WHOLE = (pidsl.window(2, 1) | pidsl.keys(-1, None)).blocked(4)
TWO_SIDES = (pidsl.blocks(4) & pidsl.stride(2)).blocked(8)
CUT = (pidsl.window(2) - pidsl.window(0)).blocked(8) | pidsl.causal & pidsl.blocks(8)
LOOK_BACK = (pidsl.blocks(3) & pidsl.causal).blocked(4)
GRID = pidsl.neighborhood((7, 9), (5, 3), causal=(True, False))
SQUARE = pidsl.neighborhood((8, 8), (5, 3))
HALO = pidsl.halo((6, 8), (2, 4), (1, 2))


RIGHT: dict[Question, list[Bound]] = {}  # answers without a fault
Asking = tuple[Question, ...]


def pairs(*terms: Term) -> Asking:
    return tuple(asking(term, "pairs") for term in terms)


def rows(*terms: Term) -> Asking:
    return tuple(asking(term, quantity) for term in terms for quantity in ("degree", "max degree"))


def live(*terms: Term) -> Asking:
    return tuple(asking(term, "live keys") for term in terms)


def reach(*terms: Term) -> Asking:
    each = [(quantity, count) for quantity in ("farthest", "contiguous") for count in (2, ANY)]
    return tuple(asking(term, quantity, layers=count) for term in terms for quantity, count in each)


def depth(*terms: Term) -> Asking:
    return tuple(asking(term, "depth", of=of) for term in terms for of in ("causal", "all"))


COUNTS = (*pairs(WINDOW, COMB, ENDS, LATE), *live(MIXED, pidsl.blocks(6) & pidsl.causal))
BETWEEN = (*pairs(BLOCKS, WHOLE), *rows(WHOLE), *live(BLOCKS))
GRIDS = (*pairs(GRID), *rows(HALO), *live(GRID), *reach(HALO)[1::2], *depth(GRID)[:1])


def without_last(shape: Chambers) -> Chambers:
    return Chambers(shape.starts[:-1] or (0,), shape.period)


def halved(shape: Chambers) -> Chambers:
    divisor = next((d for d in range(2, shape.period + 1) if shape.period % d == 0), 1)
    return Chambers(shape.starts, shape.period // divisor)


def off_by_one(q: quasi.Quasi) -> quasi.Quasi:
    """The linear coefficient of one class."""
    return replace(q, linear=(q.linear[0] + q.bottom, *q.linear[1:]))


def longer_step(one: Any) -> Any:
    return one and replace(one, step=one.step + 1)


FAULTS = [
    Fault(lattice, "_chambers", changed(without_last), COUNTS),
    Fault(lattice, "_chambers", changed(halved), COUNTS),
    Fault(lattice, "_chambers", changed(lambda c: Chambers((0,), c.period)), COUNTS),
    Fault(lattice, "_chambers", changed(lambda c: Chambers(c.starts, 1)), COUNTS),
    Fault(lattice, "by_length", changed(lambda found: found and (found[0], found[1] - found[1])),
          pairs(pidsl.window(2, 3), pidsl.full)),
    Fault(lattice, "by_length", changed(lambda found: found and (found[0], found[0])), pairs(WINDOW, MIXED)),
    Fault(quasi, "interpolate", changed(off_by_one), COUNTS),
    Fault(quasi, "interpolate", changed(lambda q: replace(q, constant=(*q.constant[1:], q.constant[0]))), COUNTS),
    Fault(quasi, "merged", changed(lambda found: [replace(found[-1], start=0)]), COUNTS),
    Fault(quasi, "merged", changed(lambda found: found[:1] + found[2:] if len(found) > 2 else found), COUNTS),
    Fault(progressions, "_progression", changed(longer_step), (*COUNTS, *rows(MIXED, UNION))),
    Fault(progressions, "count_progressions", changed(lambda x: x + 1), COUNTS),
    Fault(progressions, "progressions", changed(lambda found: found[:-1] if len(found) > 1 else found),
          (*COUNTS, *rows(MIXED))),
    Fault(inclusion, "inclusion", changed(lambda found: [(abs(sign), x) for sign, x in found]),
          (*pairs(UNION), *rows(UNION))),
    Fault(counts, "stretches_of", changed(lambda found: [*found[:-1], replace(found[-1], start=found[-1].start + 1)]),
          COUNTS),
    Fault(degrees, "_written", changed(lambda f: f + 1), rows(MIXED, COMB)),
    Fault(progressions, "keys_of_query", changed(lambda found: found[:-1]), rows(MIXED, COMB, UNION)),
    Fault(progressions.Progression, "size", changed(lambda f: f.add_constant_val(1)), rows(MIXED, COMB)),
    Fault(degrees, "_largest", changed(lambda f: f.add_constant_val(-1)), rows(MIXED, COMB)),
    Fault(borders, "borders", changed(lambda lines: first_lines(lines)), rows(MIXED, ENDS)),
    Fault(windows.Windows, "moved", lambda right: lambda self, strip: right(self, strip) + 1, rows(MIXED, COMB)),
    Fault(largest, "_followed", changed(lambda found: (found[0], found[1] * 0)), rows(MIXED, COMB)),
    Fault(plane.Affine, "floor", lambda right: lambda self: replace(right(self), modulus=self.modulus),
          rows(MIXED, COMB)),
    Fault(live_set, "live_set", changed(lambda s: s.coalesce().lexmin()), live(MIXED)),
    Fault(live_set, "live_set", lambda right: lambda term, lookahead=None, page=None, fresh=False: right(
        term, -2 if lookahead is None else lookahead - 1, page, fresh=fresh), live(MIXED, WINDOW)),
    # blocks
    Fault(between, "gcd", lambda right: max, pairs(pidsl.window(2).blocked(4) | pidsl.causal & pidsl.blocks(6))),
    Fault(between, "keys_between", changed(lambda found: (found[0], found[1], found[2] * 0)), rows(BLOCKS, WHOLE)),
    Fault(between, "keys_between", changed(lambda found: (found[0] + 1, found[1], found[2])), rows(BLOCKS, WHOLE)),
    Fault(between, "keys_between", changed(lambda found: (found[0], -found[1], found[2])), rows(BLOCKS)),
    Fault(between, "_pairs", lambda right: lambda s, known: right(s, [*known[:3], *[sympy.Integer(0)] * 5]),
          BETWEEN[:2]),
    Fault(between, "_pairs", lambda right: lambda s, known: right(s, [known[0], *known[2:0:-1], *known[3:]]),
          BETWEEN[:2]),
    Fault(between, "_pairs", lambda right: lambda s, known: right(s + 1, known), BETWEEN[:2]),
    Fault(between, "_some", changed(lambda f: f * 2), BETWEEN[:2]),
    Fault(between, "blocks_of", lambda right: lambda s: sympy.floor(n / s) + 1,
          (*BETWEEN, *reach(WHOLE), *depth(WHOLE))),
    Fault(between, "blocks_of", lambda right: lambda s: sympy.floor(n / s), (*BETWEEN, *reach(WHOLE), *depth(WHOLE))),
    Fault(between, "_live", lambda right: lambda s, known: right(s, (known[1], known[0])), live(BLOCKS, WHOLE)),
    Fault(between, "_live", changed(lambda f: f.args[1][0]), live(BLOCKS, WHOLE)),
    Fault(between, "late", changed(lambda found: (found[0], 0)), reach(TWO_SIDES)),
    Fault(between, "ends", changed(lambda found: "reversed"), reach(LOOK_BACK)),
    Fault(between, "ends", changed(lambda found: "late"), reach(LOOK_BACK)),
    Fault(between, "_by_case", changed(lambda f: f.args[0][0] if f.args else f), reach(LOOK_BACK)),
    Fault(between, "_between", lambda right: lambda term, size, causal: right(term, size, Empty()), BETWEEN),
    Fault(between, "unlike", lambda right: lambda quantity, found: "", (*reach(CUT, CUT.T), *depth(CUT))),
    Fault(between, "between", changed(lambda f: f.subs(n, n + 1)), BETWEEN),
    Fault(between, "between", changed(lambda f: 2 * f), (*reach(WHOLE), *depth(WHOLE))),
    Fault(blocks, "between", changed(lambda f: f + 1), BETWEEN),
    Fault(block_keys, "most_keys", changed(lambda f: f.add_constant_val(1)), rows(BLOCKS, WHOLE)),
    # grids
    Fault(axes, "strides_of", changed(lambda found: found[::-1]), GRIDS),
    Fault(axes.Grid, "strides", lambda right: property(lambda self: tuple(x + 1 for x in right.fget(self))), GRIDS),
    Fault(axes, "_axes", changed(lambda found: found and (found[0].T, *found[1:])), GRIDS),
    Fault(axes, "_axes", changed(lambda found: found and found[::-1]), (*rows(SQUARE), *pairs(SQUARE), *live(SQUARE))),
    Fault(relation_counting, "axes", changed(lambda found: (x := tuple(found)) and (x[0], *x[:-1])),
          (*rows(SQUARE), *reach(SQUARE))),
    Fault(grids, "steps", lambda right: lambda values, x: right(values[:-1] or values, x), (*rows(HALO), *live(GRID))),
    Fault(grids, "_positions", changed(lambda found: [*found[:-1], found[-1] + 1]), (*rows(HALO), *live(GRID))),
    Fault(grids, "_farthest", changed(lambda x: x + 1), reach(GRID)),
    Fault(grids, "_contiguous", changed(lambda x: x + 1), reach(GRID)),
    Fault(grids, "_listed", lambda right: lambda values: right(values[1:] or values), reach(GRID, HALO)),
    Fault(grids, "_connects", lambda right: lambda seen, of: all(x.any(axis=1).all() for x in seen),
          depth(GRID, SQUARE)),
    Fault(grids, "_live", changed(lambda f: f.subs(grids.t, grids.t + 1)), live(GRID, HALO)),
    Fault(grids, "_composed", lambda right: lambda grid: islice(right(grid), 1, None), (*reach(GRID), *depth(GRID))),
    Fault(evaluate, "values_of", changed(lambda found: (found[0] + 1, *found[1:])),
          (*COUNTS[:2], *rows(MIXED), *GRIDS[:2])),
]  # fmt: skip


def first_lines(lines: plane.Lines) -> plane.Lines:
    """Without some of the lines."""
    kept = sorted(lines.lines, key=str)
    lines.lines = set(kept[::2])
    return lines


def answers(question: Question) -> list[Bound]:
    """What each way says that is of this room, as the loop would return it."""
    found = []
    for way in portfolio.WAYS[question.quantity]:
        if way.finder.partition(".")[0] in ("counting", "smaller"):
            bound = said(way, question)
            if bound is not None and bound.is_known:
                found.append(bound)
    return found


def said(way: Way, question: Question) -> Bound | None:
    try:
        return way.find(Asked(question, (), asked_before))
    except (NotMine, Exception):  # a fault may break what works on it
        return None


INNER: dict[Question, Bound] = {}  # what is known between blocks, found without a fault


def asked_before(question: Question, assume: Any = ()) -> Bound:
    return INNER.get(question) or INNER.setdefault(question, portfolio.answer(question))


@pytest.fixture(autouse=True)
def without_small_masks(without_masks: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(grids, "MANY", 0)
    forget("counting", "smaller")
    yield
    forget("counting", "smaller")


def points(bound: Bound) -> list[dict[str, int]]:
    """Where two formulas are compared."""
    sizes = (*range(1, 60), 100, 127, 200, 301, 302, 383, 384, 385, 479, 480, 481, 700, 1000, 4097)
    if bound.quantity == "degree":
        return [{"n": x, "i": k} for x in sizes for k in {0, x // 2, x // 3, x - 1}]
    if bound.quantity == "live keys":
        return [{"t": x} for x in sizes]
    return [{"n": x, "L": count} for x in sizes for count in (0, 1, 2, 3, 7, 12)]


@pytest.mark.parametrize("fault", shared_out(FAULTS), ids=str)
def test_planted_faults_are_refused(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    for q in fault.questions:
        RIGHT.setdefault(q, []) or RIGHT.update({q: answers(q)})
    forget("counting", "smaller")
    fault.plant(monkeypatch, everywhere=True)
    proved = list(accepted(fault, answers))
    monkeypatch.undo()
    forget("counting", "smaller")
    for question, found in proved:
        for right in RIGHT[question]:
            assert fits(found, right, points(right)), (found, right)
