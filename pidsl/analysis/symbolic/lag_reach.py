"""Receptive field of the families, with symbols: which family a pattern is, and its proved formulas.

    window(k) | lags(p)   ->   WindowAndSkip: farthest p*L, contiguous k*L, then p*(L + 1 - c) + k*(c - 1), ...

The answer to "depth" is the least number of layers that connects every causal pair.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import reduce
from typing import cast

import sympy

from pidsl.analysis.bound import ANY, Bound, Certificate, Subject, asking
from pidsl.analysis.domains import domain, require_names
from pidsl.analysis.formulas import smt
from pidsl.analysis.formulas.words import CeilLog, L, from_index, n
from pidsl.analysis.schedules import BaseSchedule, LayerRule, SkipSchedule
from pidsl.analysis.symbolic.families import Family, WindowAndSkip, WindowAndSomeSkips, WindowOnly
from pidsl.analysis.symbolic.families_periodic import (
    BaseLags,
    DilatedWindow,
    OwnBlock,
    StrideAlone,
    WindowAndComb,
    WindowAndSinks,
)
from pidsl.analysis.symbolic.lag_sets import Condition, NotByLag, Reader, Sides
from pidsl.analysis.verdict import Verdict
from pidsl.analysis.ways import Asked, NotMine
from pidsl.language.terms import Blocks, Causal, Intersection, Keys, Term, Union

REACH = ("farthest", "contiguous", "depth")


@dataclass(frozen=True)
class Match:
    """A pattern as a member of a family; `assumptions` are what makes it one."""

    family: Family
    assumptions: tuple[Condition, ...]


def match_family(subject: Subject, assume: Iterable[Condition] = ()) -> Match:
    """The family of a pattern.

    Raises:
        NotByLag: it is in none.
        TermError: contradictory assumptions.
    """
    given = tuple(assume)
    if isinstance(subject, LayerRule):
        require_names(subject.symbols, repr(subject))
    if isinstance(subject, BaseSchedule):
        return _match(BaseLags(from_index(subject.base)), given)
    if isinstance(subject, SkipSchedule):
        powers = CeilLog(2, L + 1)  # of two, up to L
        skips = powers if subject.first == 1 else powers - 1
        return _match(WindowAndSomeSkips(from_index(subject.k), from_index(subject.period), skips), given)
    if isinstance(subject, tuple | LayerRule):
        raise NotByLag("a schedule of single layers: ask with numbers")
    smt.require_consistent([*domain(subject), *given])
    known = (*domain(subject), *given)
    block = _block(subject)
    if block is not None:
        return _match(OwnBlock(subject, *block), known)
    sinks, rest = _sinks(subject)
    if rest is None:
        raise NotByLag("sinks and nothing else")
    reader = Reader.of(subject, given)
    sides = reader.sides(rest)
    if sides.future:
        raise NotByLag("it looks ahead: the ends of the sequence matter in every layer")
    family = _by_lag(subject, sides)
    if sinks is not None:
        if not isinstance(family, WindowOnly):
            raise NotByLag("sinks beside more than a window")
        family = WindowAndSinks(subject, family.k, sinks)
    return _match(family, (*known, *reader.chosen))


def _match(family: Family, known: tuple[Condition, ...]) -> Match:
    needs = [c for c in family.needs if c not in (sympy.true, *known)]
    if sympy.false in needs:
        raise NotByLag(f"the sizes are outside those of the family ({family.shown})")
    if not smt.consistent([*known, *needs]):
        if isinstance(family, WindowAndSkip) and smt.follows(known, family.p <= family.k):
            return _match(WindowOnly(family.term, family.k, (family.p,)), known)
        needed = ", ".join(map(str, needs))
        raise NotByLag(f"the formula known ({family.shown}) needs {needed}, which the assumptions exclude")
    stated = [*needs, *known]  # the family's own conditions are the stronger ones
    kept = [c for k, c in enumerate(stated) if not (k >= len(needs) and smt.follows(needs, c))]
    return Match(family, tuple(kept))


def _by_lag(term: Term, sides: Sides) -> Family:
    zero = [p for p in sides.past if p.start == 0 and p.step == 1 and p.last is not None]
    singles = [p for p in sides.past if p.is_single and p.start != 0]
    combs = [p for p in sides.past if p.last is None and p.start == 0 and p.step != 1]
    steps = [p for p in sides.past if p.start == 0 and p.step != 1 and p.last is not None and not p.is_single]
    if len(steps) == len(sides.past) == 1 and steps[0].last is not None:
        k = sympy.cancel(steps[0].last / steps[0].step)
        if k.as_numer_denom()[1] == 1:
            return DilatedWindow(term, k, steps[0].step)
    if len(zero) + len(singles) + len(combs) != len(sides.past) or len(zero) > 1:
        raise NotByLag("it is no window with a skip or a comb")
    k = zero[0].last if zero else sympy.Integer(0)
    assert k is not None
    match singles, combs:
        case [], [] if zero:
            return WindowOnly(term, k)
        case [one], [] if zero:
            return WindowAndSkip(term, k, one.start)
        case [], [one] if k == 0:
            return StrideAlone(term, one.step)
        case [], [one]:
            return WindowAndComb(term, k, one.step)
    raise NotByLag("it is no window with one skip or one comb")


def _block(term: Term) -> tuple[sympy.Expr, bool] | None:
    match term:
        case Blocks(size):
            return from_index(size), False
        case Intersection(Blocks(size), Causal()) | Intersection(Causal(), Blocks(size)):
            return from_index(size), True
    return None


def _sinks(term: Term) -> tuple[sympy.Expr | None, Term | None]:
    """The first keys that every later query sees, and what else there is; None for none of either."""
    sinks: sympy.Expr | None = None
    others: list[Term] = []
    for part in dict.fromkeys(_parts(term)):
        match part:
            case Intersection(Keys(0, stop, 1), Causal()) | Intersection(Causal(), Keys(0, stop, 1)) if (
                stop is not None and sinks is None
            ):
                sinks = from_index(stop)
            case _:
                others.append(part)
    return sinks, (reduce(Union, others) if others else None)


def _parts(term: Term) -> Iterator[Term]:
    """What a term is the union of."""
    match term:
        case Union(a, b):
            yield from _parts(a)
            yield from _parts(b)
        case Intersection(Union(a, b), Causal()) | Intersection(Causal(), Union(a, b)):
            yield from _parts(Intersection(a, Causal()))
            yield from _parts(Intersection(b, Causal()))
        case _:
            yield term


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
    found = match_family(subject, assume)
    answer = found.family.answer(quantity)
    expr, more = answer.expr, answer.assumptions
    if layers is not None:
        expr = expr.subs(L, layers)
        more = tuple(c.subs(L, layers) for c in more)
    more = tuple(c for c in more if c != sympy.true)
    given: dict[str, object] = (
        {"of": "causal"} if quantity == "depth" else {"layers": ANY if layers is None else layers}
    )
    certificate = Certificate("layers by induction")
    return Bound(asking(subject, quantity, **given), "==", expr, (*found.assumptions, *more), certificate, answer.note)


def reach(asked: Asked) -> Bound:
    """`reach_by_family` as a way."""
    return _for_every_n(asked, reach_by_family(asked.subject, asked.question.quantity, _number(asked), asked.assume))


def depth(asked: Asked) -> Bound:
    """`reach_by_family` as a way: the depth for every n."""
    q = asked.question
    if q.n is not None or q.of != "causal":
        raise NotMine("" if q.n is not None else "with symbols, only causal pairs are counted")
    return _for_every_n(asked, reach_by_family(q.subject, "depth", None, asked.assume))


def _number(asked: Asked) -> int | None:
    if isinstance(asked.subject, tuple):
        raise NotByLag("a schedule of single layers: ask with numbers")
    return None if asked.question.layers == ANY else cast(int, asked.question.layers)


def _for_every_n(asked: Asked, found: Bound) -> Bound:
    """The answer; of a pattern with numbers only where it holds for every n, since the ways for numbers know that."""
    if isinstance(asked.subject, LayerRule) or asked.subject.symbols:
        return found
    about_n = [c for c in found.assumptions if n in c.free_symbols]
    if not all(c == (n >= 1) for c in about_n) or sympy.false in found.assumptions:
        raise NotMine
    return found


def check_reach(bound: Bound) -> Verdict:
    """Verify the closed form by induction over the layers, the formula from the closed form."""
    assumptions = bound.assumptions
    try:
        family = match_family(bound.subject, [c for c in assumptions if not c.free_symbols & {n, L}]).family
        answer = family.answer(bound.quantity)
    except NotByLag as e:
        return Verdict(False, failure=str(e))
    layers = bound.argument("layers")
    own, wanted = answer.expr, [*family.needs, *answer.assumptions]
    tokens = bound.argument("n")
    for variable, number in ((L, layers), (n, tokens)):
        if isinstance(number, int):
            own, wanted = own.subs(variable, number), [c.subs(variable, number) for c in wanted]
    prover = smt.Prover()
    known = assumptions
    if not isinstance(bound.subject, LayerRule):
        known = tuple(dict.fromkeys((*assumptions, *domain(bound.term))))
    for condition in wanted:
        if condition != sympy.true:
            prover.prove(smt.Obligation(f"assumed: {condition}", known, condition))
    chosen = [c for c in known if not c.free_symbols & {n, L} and c not in family.needs]  # how the progressions meet
    for o in (*family.closed_form(), *family.theorem(bound.quantity)):
        prover.prove(replace(o, conditions=(*o.conditions, *(c for c in chosen if c not in o.conditions))))
    if own != bound.expr:
        powers = [x for x in own.atoms(sympy.Pow) if not x.exp.is_Integer]
        if powers or own.has(sympy.oo, CeilLog) or bound.expr.has(sympy.oo, sympy.nan):
            return Verdict(False, tuple(prover.steps), f"not the formula {own}")
        for cases in bound.expr.atoms(sympy.Piecewise):
            if cases.args[-1][1] != sympy.true:
                conditions = sympy.Or(*(condition for _, condition in cases.args))
                prover.prove(smt.Obligation("a case for everything", known, conditions))
        prover.prove(smt.Obligation("the formula", known, sympy.Eq(bound.expr - own, 0)))
    return prover.verdict()
