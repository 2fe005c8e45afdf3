"""Live keys of patterns that depend on the lag, with symbols: which keys a decoder keeps after the tokens 0 .. t.

A pattern is read as a union of parts, each of which some first keys may attend only:

    keys(0, s) & causal | window(k)      the keys 0 .. s - 1 at lags >= 0, all keys at the lags 0 .. k

Key j is live when some query i > t attends it: when a lag of at least t + 1 - j is attended. With D the largest lag of
a part these are the last D keys of 0 .. t, without a largest one all of them, and of its first keys those among them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from itertools import product

import sympy

from pidsl.analysis.bound import Bound, Certificate, Relation, asking
from pidsl.analysis.counting import live as memory
from pidsl.analysis.domains import domain
from pidsl.analysis.formulas import smt
from pidsl.analysis.formulas.smtlib import Condition
from pidsl.analysis.formulas.words import extreme, from_index, internal, symbol
from pidsl.analysis.symbolic.definition import NotByLag, holds_at
from pidsl.analysis.symbolic.lag_pairs import steps_to
from pidsl.analysis.symbolic.progressions import Progression, Reader
from pidsl.analysis.verdict import Verdict
from pidsl.analysis.ways import Asked, NotMine
from pidsl.errors import PidslError
from pidsl.language.terms import Blocks, Causal, Full, Intersection, Keys, Term, Union, walk

METHOD = "live keys by witness"
SMALL = (1, 2, 3, 5, 8)  # values of symbols at which a formula is compared with counts
COMPARED = 6  # choices of them
TIMES = (*range(9), 17, 40, 99)
t = symbol("t")
d, y = internal("d"), internal("y")
ENDLESS = sympy.oo  # no lag is the largest


@dataclass(frozen=True)
class _Live:
    """How many keys are live.

    Args:
        size: the number, or an upper bound of it.
        relation: "==" or "<=".
        which: the keys, in words.
        assumptions: what must hold.
        obligations: what proves it.
    """

    size: sympy.Expr
    relation: Relation
    which: str
    assumptions: tuple[Condition, ...]
    obligations: tuple[smt.Obligation, ...]


def live_by_lag(subject: Term, assume: Iterable[Condition] = ()) -> Bound:
    """How many keys of tokens 0 .. t some later query can still attend, when the sequence may go on for ever.

    Raises:
        NotByLag: it is no union of first keys and patterns that depend on the lag alone.
        TermError: contradictory assumptions.
    """
    live = _live(subject, tuple(assume))
    certificate = Certificate(METHOD)
    return Bound(
        asking(subject, "live keys"), live.relation, live.size, live.assumptions, certificate, live.which
    )  # fmt: skip


def live(asked: Asked) -> Bound:
    """`live_by_lag` as a way."""
    if (asked.question.lookahead, asked.question.page) != (None, None):
        raise NotMine("with symbols, only keys that later queries ask for are counted")
    return live_by_lag(asked.subject, asked.assume)


def _live(subject: Term, assume: tuple[Condition, ...]) -> _Live:
    smt.require_consistent([*domain(subject), *assume])
    known = (*domain(subject), *assume)
    if (size := _block(subject)) is not None:
        same = smt.Obligation(
            "the next query is in the block of t + 1",
            (size >= 1, t >= 0),
            sympy.Eq(t + 1 - size * sympy.floor((t + 1) / size), sympy.Mod(t + 1, size)),
        )
        which = "the keys of the block that token t + 1 is in"
        return _Live(sympy.Mod(t + 1, size), "==", which, (*known, t >= 0), (same,))
    parts = _parts(subject)
    whole = [lags for first, lags in parts if first is None]
    reader = Reader.of(subject, assume)
    reaches = [] if not whole else [_Reach.of(reduce(Union, whole), reader)]
    firsts = [(first, _Reach.of(lags, reader)) for first, lags in parts if first is not None]
    for first, _ in firsts:
        if reader.certain(first < 0):
            raise NotByLag(f"keys up to {-first} before the end of a sequence that goes on")
        reader.choose(first >= 0)
    conditions = (*known, *reader.chosen, t >= 0)
    obligations = tuple(o for reach in (*reaches, *(r for _, r in firsts)) for o in reach.obligations(conditions))
    exact = all(reach.exact for reach in (*reaches, *(r for _, r in firsts)))
    size, which = _count(reaches[0].largest if reaches else sympy.Integer(0), firsts)
    found = _Live(size, "==" if exact else "<=", which, conditions, obligations)
    if _meets(subject) and not smt.Prover().all(obligations):
        raise NotByLag(f"the largest lag of {subject!r} is not proved for all values of the symbols")
    return found


def _block(term: Term) -> sympy.Expr | None:
    match term:
        case Blocks(size) | Intersection(Blocks(size), Causal()) | Intersection(Causal(), Blocks(size)):
            return from_index(size)
    return None


def _parts(term: Term) -> list[tuple[sympy.Expr | None, Term]]:
    """Terms whose union this is: how many of the first keys each is about (None: all keys), and at which lags."""
    match term:
        case Keys(0, stop, 1) if stop is not None:
            return [(from_index(stop), Full())]
        case Union(a, b):
            return [*_parts(a), *_parts(b)]
        case Intersection(a, b) if _has_keys(a) or _has_keys(b):
            return [
                (y if x is None else x if y is None else extreme(sympy.Min, x, y), p & q)
                for (x, p), (y, q) in product(_parts(a), _parts(b))
            ]
    return [(None, term)]


def _has_keys(term: Term) -> bool:
    return any(first is not None for first, _ in _parts(term))


def _count(largest: sympy.Expr, firsts: list[tuple[sympy.Expr, _Reach]]) -> tuple[sympy.Expr, str]:
    """The number of keys that are among the last `largest`, or among some first ones and as late as their lags reach.

    Raises:
        NotByLag: the first keys leave the cache one by one, and there are others.
    """
    kept = [first for first, reach in firsts if reach.largest == ENDLESS]
    if largest == ENDLESS:
        return t + 1, "all keys 0 .. t"
    if largest == 0 and not firsts:
        return largest, "none"
    if len(kept) == len(firsts):
        if not kept:
            return extreme(sympy.Min, largest, t + 1), f"the last {largest} keys"
        first = reduce(sympy.Max, kept)
        last = f" and the last {largest} keys" if largest != 0 else " keys"
        return extreme(sympy.Min, largest + first, t + 1), f"the first {first}{last}"
    if largest != 0 or len(firsts) > 1:
        raise NotByLag("first keys that are not kept for ever, beside others")
    ((first, reach),) = firsts
    size = sympy.Max(0, sympy.Min(first, t + 1) - sympy.Max(0, t + 1 - reach.largest))
    return size, f"those of the first {first} that are among the last {reach.largest}"


@dataclass(frozen=True)
class _Reach:
    """The largest lag >= 1 of a term: 0 without any, ENDLESS where there is always a larger one; or at least it."""

    term: Term
    largest: sympy.Expr
    exact: bool
    endless: Progression | None = None

    @staticmethod
    def of(term: Term, reader: Reader) -> _Reach:
        try:
            past = reader.sides(term).past
        except NotByLag:
            if not isinstance(term, Intersection):
                raise
            return _Reach._below(term, reader)
        if endless := [p for p in past if p.last is None]:
            return _Reach(term, ENDLESS, True, endless[0])
        ends = [_end(p, reader) for p in past]
        return _Reach(term, extreme(sympy.Max, *ends) if ends else sympy.Integer(0), True)

    @staticmethod
    def _below(term: Intersection, reader: Reader) -> _Reach:
        """The largest lag of an intersection is at most that of either side."""
        sides = []
        for side in (term.left, term.right):
            try:
                sides.append(_Reach.of(side, reader).largest)
            except NotByLag:
                continue
        finite = [x for x in sides if x != ENDLESS]
        if not finite:
            raise NotByLag(f"the largest lag of {term!r}")
        return _Reach(term, extreme(sympy.Min, *finite), False)

    def obligations(self, conditions: tuple[Condition, ...]) -> list[smt.Obligation]:
        """That the lags are attended, and no larger ones."""
        if self.endless is not None:
            p = self.endless
            later = p.start + p.step * (sympy.floor((sympy.Max(y, p.start) - p.start) / p.step) + 1)
            again = sympy.And(holds_at(self.term, later), later >= y)
            return [smt.Obligation("every key is attended again", (*conditions, y >= 1), again)]
        lag = (*conditions, d >= 1, holds_at(self.term, d))
        found = [smt.Obligation("no lag is larger", lag, d <= self.largest)]
        if self.exact and self.largest != 0:
            attended = (*conditions, self.largest >= 1)
            found.append(smt.Obligation("the largest lag is attended", attended, holds_at(self.term, self.largest)))
        return found


def _end(p: Progression, reader: Reader) -> sympy.Expr:
    """The last lag of a progression, which `last` need not be; 0 for one without lags."""
    assert p.last is not None
    if p.is_single:
        return p.start
    end = p.last if p.step == 1 else p.start + p.step * steps_to(p)
    return end if reader.certain(p.last >= p.start) else sympy.Piecewise((end, p.last >= p.start), (0, True))


def _meets(term: Term) -> bool:
    """Whether progressions meet others than all lags >= 0, so that the largest lag is not one that a word says."""
    return any(isinstance(x, Intersection) and Causal() not in (x.left, x.right) for x in walk(term))


def check_live(bound: Bound) -> Verdict:
    """Verify the largest lags from the term, and the number at small values of the symbols from the relation."""
    assumptions = bound.assumptions
    try:
        live = _live(bound.term, tuple(c for c in assumptions if t not in c.free_symbols))
    except NotByLag as e:
        return Verdict(False, failure=str(e))
    compare = {("==", "=="): sympy.Eq, ("==", "<="): sympy.Ge, ("<=", "<="): sympy.Ge, ("==", ">="): sympy.Le}
    if (holds := compare.get((live.relation, bound.relation))) is None:
        return Verdict(False, failure=f"the number is {live.relation} {live.size}")
    prover = smt.Prover()
    for condition in live.assumptions:
        prover.prove(smt.Obligation(f"assumed: {condition}", assumptions, condition))
    prover.all(live.obligations)
    prover.prove(smt.Obligation("the formula", assumptions, holds(bound.expr - live.size, 0)))
    found = prover.verdict()
    if found.holds and (wrong := _counterexample(bound)):
        return Verdict(False, found.steps, wrong, found.smtlib)
    return found


def _counterexample(bound: Bound) -> str:
    """Small values of the symbols at which isl counts other keys; "" for none."""
    names = sorted(bound.term.symbols)
    compared = 0
    for values in product(SMALL, repeat=len(names)):
        numbers = dict(zip(names, values, strict=True))
        try:
            for at in TIMES:
                bound(t=at, **numbers)
            counted = memory.live(bound.term.bind(**numbers) if names else bound.term).size
        except PidslError:  # outside of the assumptions, or of the domain
            continue
        if not counted.is_known:
            continue
        for at in TIMES:
            right, claimed = counted(t=at), bound(t=at, **numbers)
            if not {"==": claimed == right, "<=": right <= claimed, ">=": right >= claimed}[bound.relation]:
                return f"at {', '.join(f'{k} = {v}' for k, v in {**numbers, 't': at}.items())} the number is {right}"
        compared += 1
        if compared >= COMPARED:
            break
    return ""
