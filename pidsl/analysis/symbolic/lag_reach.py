"""Receptive field of the families, with symbols: which family a pattern is, and its formulas.

    window(k) | lags(p)   ->   window_and_skip: farthest p*L, contiguous k*L, then p*(L + 1 - c) + k*(c - 1), ...

The answer to "depth" is the least number of layers that connects every causal pair. `induction` proves them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import reduce

import sympy

from pidsl.analysis.bound import ANY, Bound, Certificate, Subject, asking
from pidsl.analysis.consequence import derived
from pidsl.analysis.domains import domain
from pidsl.analysis.formulas import smt
from pidsl.analysis.formulas.smtlib import Condition
from pidsl.analysis.formulas.words import CeilLog, L, from_index, n
from pidsl.analysis.schedules import BaseSchedule, LayerRule, SkipSchedule
from pidsl.analysis.symbolic.definition import NotByLag, rule_domain
from pidsl.analysis.symbolic.families import (
    Family,
    by_digits,
    multiples,
    own_block,
    window,
    window_and_comb,
    window_and_sinks,
    window_and_skip,
    window_and_some_skips,
)
from pidsl.analysis.symbolic.induction import check_reach
from pidsl.analysis.symbolic.progressions import Progression, Reader, Sides, by_first_keys
from pidsl.analysis.ways import Asked, NotMine
from pidsl.language.terms import Blocks, Causal, Intersection, Term, Union

METHOD = "layers by induction"
BACK = Sides((Progression(sympy.Integer(0), sympy.Integer(1), None),), ())  # all lags >= 0


def match_family(subject: Subject, assume: Iterable[Condition] = ()) -> tuple[Family, tuple[Condition, ...]]:
    """The family of a pattern, and the assumptions that make it one.

    Raises:
        NotByLag: it is in none.
        TermError: contradictory assumptions.
    """
    given = tuple(assume)
    if isinstance(subject, LayerRule):
        known = (*rule_domain(subject), *given)
        if isinstance(subject, BaseSchedule):
            return _matched(by_digits(from_index(subject.base)), known)
        if isinstance(subject, SkipSchedule):
            powers = CeilLog(2, L + 1)  # of two, up to L
            skips = powers if subject.first == 1 else powers - 1
            return _matched(window_and_some_skips(from_index(subject.k), from_index(subject.period), skips), known)
    if isinstance(subject, tuple | LayerRule):
        raise NotByLag("a schedule of single layers: ask with numbers")
    known = (*domain(subject), *given)
    smt.require_consistent(known)
    block = _block(subject)
    if block is not None:
        return _matched(own_block(*block), known)
    reader, parts = Reader.of(subject, given), dict.fromkeys(by_first_keys(subject))
    sinks = [first for first, _ in parts if first is not None]
    rest = [lags for first, lags in parts if first is None]
    if len(sinks) > 1 or any(reader.sides(lags) != BACK for first, lags in parts if first is not None) or not rest:
        raise NotByLag("first keys that not every later query sees, or nothing else")
    sides = reader.sides(reduce(Union, rest))
    if sides.future:
        raise NotByLag("it looks ahead: the ends of the sequence matter in every layer")
    known = (*known, *reader.chosen)
    k, skip, comb, steps = _lags(sides)
    if steps is not None and not sinks:
        return _matched(multiples(*steps), known)
    if sinks:
        if k is None or skip is not None or comb is not None:
            raise NotByLag("sinks beside more than a window")
        return _matched(window_and_sinks(k, *sinks), known)
    if k is None:
        raise NotByLag("it is no window with one skip or one comb")
    if skip is not None:
        inside = smt.follows(known, skip <= k)
        return _matched(window(k, (skip,)) if inside else window_and_skip(k, skip), known)
    return _matched(window(k) if comb is None else window_and_comb(k, comb), known)


def _matched(family: Family, known: tuple[Condition, ...]) -> tuple[Family, tuple[Condition, ...]]:
    needs = [c for c in family.needs if c not in (sympy.true, *known)]
    if sympy.false in needs:
        raise NotByLag(f"the sizes are outside those of the family ({family.shown})")
    if not smt.consistent([*known, *needs]):
        needed = ", ".join(map(str, needs))
        raise NotByLag(f"the formula known ({family.shown}) needs {needed}, which the assumptions exclude")
    stated = [*needs, *known]  # the family's own conditions are the stronger ones
    kept = [c for k, c in enumerate(stated) if not (k >= len(needs) and smt.follows(needs, c))]
    own = [c for c in family.needs if c != sympy.true]
    chosen = [c for c in kept if c not in own and not c.free_symbols & {n, L}]  # how the progressions meet
    return replace(family, needs=(*own, *chosen)), tuple(kept)


Lags = tuple[sympy.Expr | None, sympy.Expr | None, sympy.Expr | None, tuple[sympy.Expr, sympy.Expr | None] | None]


def _lags(sides: Sides) -> Lags:
    """The radius of a window, a skip, the period of a comb; or the step of multiples, and how many there are."""
    zero = [p for p in sides.past if p.start == 0 and p.step == 1 and p.last is not None]
    singles = [p for p in sides.past if p.is_single and p.start != 0]
    combs = [p for p in sides.past if p.last is None and p.start == 0 and p.step != 1]
    steps = [p for p in sides.past if p.start == 0 and p.step != 1 and p.last is not None and not p.is_single]
    if len(steps) == len(sides.past) == 1 and steps[0].last is not None:
        k = sympy.cancel(steps[0].last / steps[0].step)
        if k.as_numer_denom()[1] == 1:
            return None, None, None, (steps[0].step, k)
    few = max(len(zero), len(singles), len(combs), len(singles) + len(combs)) <= 1
    if len(zero) + len(singles) + len(combs) != len(sides.past) or not few or (singles and not zero):
        raise NotByLag("it is no window with one skip or one comb")
    k = zero[0].last if zero else None
    if k == 0 and singles and not combs:  # lags 0 and p
        return None, None, None, (singles[0].start, sympy.Integer(1))
    if combs and (k is None or k == 0):
        return None, None, None, (combs[0].step, None)
    return k, singles[0].start if singles else None, combs[0].step if combs else None, None


def _block(term: Term) -> tuple[sympy.Expr, bool] | None:
    match term:
        case Blocks(size):
            return from_index(size), False
        case Intersection(Blocks(size), Causal()) | Intersection(Causal(), Blocks(size)):
            return from_index(size), True
    return None


def reach_by_family(
    subject: Subject, quantity: str, layers: int | None = None, assume: Iterable[Condition] = ()
) -> Bound:
    """The formula of "farthest", "contiguous" or "depth" for a family member.

    Args:
        subject: a term with symbols, or a schedule by powers.
        quantity: which.
        layers: a number, or None for all L.
        assume: conditions on the symbols.

    Raises:
        NotByLag: the pattern is in no family.
        TermError: contradictory assumptions.
    """
    family, assumptions = match_family(subject, assume)
    answer = family.answers.get(quantity)
    if answer is None:
        raise NotByLag("only the farthest lag of this schedule is known for every L")
    more = tuple(c for c in answer.assumptions if c != sympy.true)
    given: dict[str, object] = {"of": "causal"} if quantity == "depth" else {"layers": ANY}
    question, certificate = asking(subject, quantity, **given), Certificate(METHOD, family.facts(quantity))
    found = Bound(question, "==", answer.expr, (*assumptions, *more), certificate, answer.note)
    products = any(len(x.free_symbols) > 1 for c in family.needs for x in c.atoms(sympy.Mul))
    if products and not check_reach(found).holds:
        raise NotByLag("sizes that are products of symbols, which z3 does not decide")
    return found if layers is None else derived(found, replace(question, layers=layers))


def reach(asked: Asked) -> Bound:
    """`reach_by_family` as a way."""
    if isinstance(asked.subject, tuple):
        raise NotByLag("a schedule of single layers: ask with numbers")
    layers = asked.question.layers
    number = layers if isinstance(layers, int) else None
    return _for_every_n(asked, reach_by_family(asked.subject, asked.question.quantity, number, asked.assume))


def depth(asked: Asked) -> Bound:
    """`reach_by_family` as a way: the depth for every n."""
    q = asked.question
    if q.n is not None or q.of != "causal":
        raise NotMine("" if q.n is not None else "with symbols, only causal pairs are counted")
    return _for_every_n(asked, reach_by_family(q.subject, "depth", None, asked.assume))


def _for_every_n(asked: Asked, found: Bound) -> Bound:
    """The answer; of a pattern with numbers only where it holds for every n, since the ways for numbers know that."""
    if isinstance(asked.subject, LayerRule) or asked.subject.symbols:
        return found
    about_n = [c for c in found.assumptions if n in c.free_symbols]
    if not all(c == (n >= 1) for c in about_n) or sympy.false in found.assumptions:
        raise NotMine
    return found
