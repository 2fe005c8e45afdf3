"""Live keys with symbols: which keys a decoder keeps after the tokens 0 .. t.

A pattern is read as a union of parts, each of which some first keys may attend only:

    keys(0, s) & causal | window(k)      the keys 0 .. s - 1 at lags >= 0, all keys at the lags 0 .. k

Key j is live when some query i > t attends it: when a lag of at least t + 1 - j is attended. With D the largest lag of
a part these are the last D keys of 0 .. t, without a largest one all of them, and of its first keys those among them.
Between blocks, they are the keys from some block on. `live_check` verifies them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import TypeAlias

import sympy

from pidsl.analysis.bound import Bound, Certificate, asking
from pidsl.analysis.domains import domain
from pidsl.analysis.formulas import smt
from pidsl.analysis.formulas.smtlib import Condition
from pidsl.analysis.formulas.words import divides, extreme, from_index, symbol
from pidsl.analysis.symbolic.definition import I, J, NotByLag
from pidsl.analysis.symbolic.lag_counts import steps_to
from pidsl.analysis.symbolic.live_check import check_live
from pidsl.analysis.symbolic.progressions import Progression, Reader, by_first_keys
from pidsl.analysis.ways import Asked, NotMine
from pidsl.language.terms import Blocked, Blocks, Causal, Intersection, Term, Union, Window, walk

METHOD = "live keys by witness"
t = symbol("t")
ZERO = sympy.Integer(0)
Interval: TypeAlias = tuple[sympy.Expr, sympy.Expr, tuple[tuple[Condition, sympy.Expr], ...]]


@dataclass(frozen=True)
class _Part:
    """Keys that stay live.

    Args:
        first: how many of the first keys it is about; None: all.
        start: the first key that is live, if it is one of these, or 0 and less; None: every key stays.
        query: a later one that attends key j!.
        many: how many of the last keys, for people.
        exact: whether all of them are live.
        lemma: of a query i! > t, what helps z3.
    """

    first: sympy.Expr | None
    start: sympy.Expr | None
    query: sympy.Expr
    many: sympy.Expr = ZERO
    exact: bool = True
    lemma: Condition = sympy.true


def live(asked: Asked) -> Bound:
    """How many keys of tokens 0 .. t some later query can still attend, when the sequence may go on for ever.

    Raises:
        NotByLag: it is no union of first keys and patterns that depend on the lag alone, or on that of blocks.
        TermError: contradictory assumptions.
    """
    if (asked.question.lookahead, asked.question.page) != (None, None):
        raise NotMine("with symbols, only keys that later queries ask for are counted")
    return live_by_lag(asked.subject, asked.assume)


def live_by_lag(subject: Term, assume: Iterable[Condition] = ()) -> Bound:
    """The same, of a pattern under assumptions."""
    given = tuple(assume)
    smt.require_consistent([*domain(subject), *given])
    reader = Reader.of(subject, given)
    parts = _read(subject, reader)
    exact = all(part.exact for part in parts)
    size, which, intervals = _counted(parts)
    for first in (part.first for part in parts if part.first is not None):
        if reader.certain(first < 0):
            raise NotByLag(f"keys up to {-first} before the end of a sequence that goes on")
        reader.choose(first >= 0)
    lemmas = tuple(part.lemma for part in parts if part.lemma != sympy.true)
    certificate = Certificate(METHOD, (("intervals", intervals), ("lemmas", lemmas)))
    found = Bound(
        asking(subject, "live keys"), "==" if exact else "<=", size, (*reader.known, t >= 0), certificate, which
    )  # fmt: skip
    if _meets(subject) and not divides(size) and not check_live(found).holds:  # else the loop over ways asks
        raise NotByLag(f"the largest lag of {subject!r} is not proved for all values of the symbols")
    return found


def _read(subject: Term, reader: Reader) -> list[_Part]:
    """The parts of a pattern; those that depend on the lag alone and are about all keys as one."""
    parts = by_first_keys(subject)
    blocks = [(x, _between(x, reader)) for first, x in parts if first is None]
    by_lag = [x for x, found in blocks if found is None]
    found = [part for _, part in blocks if part is not None]
    if by_lag:
        found.append(_by_lag(None, reduce(Union, by_lag), reader))
    return found + [_by_lag(first, x, reader) for first, x in parts if first is not None]


def _between(term: Term, reader: Reader) -> _Part | None:
    """The live keys of a pattern between blocks; None for another."""
    match term:
        case Intersection(a, Causal()) | Intersection(Causal(), a) if not isinstance(a, Causal):
            return _between(a, reader)
        case Blocks(size):
            s = from_index(size)
            back, many, query = ZERO, sympy.Mod(t + 1, s), t + 1
        case Blocked(a, size):
            part = _by_lag(None, a, reader)
            if part.start is None or not part.exact:
                raise NotByLag(f"{term!r} has no last block, or not one that can be told")
            s, back = from_index(size), part.many
            many = t + 1 - s * (sympy.floor((t + 1) / s) - back)
            query = t + 1 if isinstance(a, Window) else extreme(sympy.Max, t + 1, s * (sympy.floor(J / s) + back))
        case _:
            return None
    lemma = s * sympy.floor(I / s) >= s * sympy.floor((t + 1) / s)
    return _Part(None, s * (sympy.floor((t + 1) / s) - back), query, many, lemma=lemma)


def _by_lag(first: sympy.Expr | None, term: Term, reader: Reader) -> _Part:
    """The live keys of a pattern that depends on the lag alone."""
    try:
        past = reader.sides(term).past
    except NotByLag:
        if not isinstance(term, Intersection):
            raise
        return _below(first, term, reader)
    for p in past:
        if p.last is None:
            steps = sympy.floor((sympy.Max(t + 1 - J, p.start) - p.start) / p.step) + 1
            return _Part(first, None, J + p.start + p.step * steps)
    largest = extreme(sympy.Max, *(_end(p, reader) for p in past)) if past else ZERO
    return _Part(first, t + 1 - largest, J + largest, largest, lemma=sympy.And(*map(_no_later_step, past)))


def _no_later_step(p: Progression) -> Condition:
    """A lag of a progression is at most its last step: floors of quotients by a symbol are seldom compared by z3."""
    if p.last is None or p.step == 1 or p.is_single:
        return sympy.true
    steps, most = sympy.floor((I - J - p.start) / p.step), sympy.floor(sympy.expand((p.last - p.start) / p.step))
    return sympy.Or(I - J > p.last, p.step * steps <= p.step * most)


def _below(first: sympy.Expr | None, term: Intersection, reader: Reader) -> _Part:
    """The largest lag of an intersection is at most that of either side."""
    sides = []
    for side in (term.left, term.right):
        try:
            sides.append(_by_lag(None, side, reader))
        except NotByLag:
            continue
    finite = [part.many for part in sides if part.start is not None]
    if not finite:
        raise NotByLag(f"the largest lag of {term!r}")
    largest = extreme(sympy.Min, *finite)
    lemma = sympy.And(*(part.lemma for part in sides))
    return _Part(first, t + 1 - largest, J + largest, largest, exact=False, lemma=lemma)


def _counted(parts: list[_Part]) -> tuple[sympy.Expr, str, tuple[Interval, ...]]:
    """How many keys are live, which in words, and as intervals.

    Raises:
        NotByLag: first keys leave the cache one by one, and there are others.
    """
    end = t + 1
    whole = [part for part in parts if part.first is None]
    firsts = [part for part in parts if part.first is not None]
    for part in whole:
        if part.start is None:
            return end, "all keys 0 .. t", ((ZERO, end, ((sympy.true, part.query),)),)
    starts = [(part.start, part) for part in whole if part.start is not None]
    if all(part.start is None for part in firsts):
        head: list[Interval] = []
        first, kept = ZERO, ZERO
        if firsts:
            first = reduce(sympy.Max, [part.first for part in firsts])
            kept = extreme(sympy.Min, first, end)
            head = [(ZERO, kept, tuple((J < part.first, part.query) for part in firsts))]
        many = [part.many for part in whole if part.many != 0]
        if not many:
            return (kept, f"the first {first} keys", tuple(head)) if firsts else (ZERO, "none", ())
        start = extreme(sympy.Max, kept, reduce(lambda a, b: extreme(sympy.Min, a, b), (x for x, _ in starts)))
        last = (start, end, tuple((J >= x, part.query) for x, part in starts))
        most = extreme(sympy.Max, *many)
        if not firsts and isinstance(most, sympy.Mod):
            return most, "the keys of the block that token t + 1 is in", (last,)
        return extreme(sympy.Min, most + first, end), _last(first, most), (*head, last)
    if whole or len(firsts) > 1:
        raise NotByLag("first keys that are not kept for ever, beside others")
    (part,) = firsts
    upto = extreme(sympy.Min, part.first, end)
    begin = sympy.Max(0, end - part.many)
    size = sympy.Max(0, sympy.Min(part.first, end) - begin)
    which = f"those of the first {part.first} that are among the last {part.many}"
    return size, which, ((extreme(sympy.Min, begin, upto), upto, ((sympy.true, part.query),)),)


def _last(first: sympy.Expr, many: sympy.Expr) -> str:
    kept = "" if first == 0 else f"first {first} and the "
    if many.has(t):
        return f"the {kept}keys from the block of token t + 1 on, or of the last blocks"
    return f"the {kept}last {many} keys"


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
