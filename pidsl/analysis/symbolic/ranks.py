"""Keys that a rank gets from others at most, from the keys that are live and from how far a row sees ahead.

window(k) | keys(0, 4) & causal     live keys == Min(k + 4, t + 1), nothing ahead     received <= Min(k + 4, n - 1)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import sympy

from pidsl.analysis.bound import Bound, Certificate
from pidsl.analysis.formulas.words import extreme, from_index, n
from pidsl.analysis.symbolic.definition import NotByLag
from pidsl.analysis.symbolic.progressions import Reader
from pidsl.analysis.symbolic.ranks_check import ahead, behind, check, t
from pidsl.analysis.ways import Asked
from pidsl.errors import TooHardError
from pidsl.language.terms import Term, Window, walk

RULE = "ranks"
REASON = "of a rank with consecutive tokens, however many ranks share them"
TIMES = sorted({*range(300), *((1 << k) + d for k in range(9, 32) for d in (-1, 0, 1))})


def received(asked: Asked) -> Bound:
    """The most key rows that a rank with consecutive tokens needs of others.

    Raises:
        NotMine: it is not asked of one term.
        TooHardError: how many keys are live, or how far rows see ahead, is unknown, or no formula of them is proved.
    """
    term = asked.pattern
    live = asked.ask(behind(asked.question), asked.assume)
    if live.relation not in ("==", "<="):
        raise TooHardError(f"{live.name} of {live.shown_subject} is unknown", live.reason or "a bound of it")
    for reach, certificate, needs in _ahead(asked, live):
        about_n = [c for c in (*live.assumptions, *needs) if t not in c.free_symbols and c != sympy.true]
        given = tuple(dict.fromkeys([*about_n, n >= 1]))
        for expr in _sums(live.expr, reach):
            bound = Bound(asked.question, "<=", expr, given, certificate, REASON)
            if check(bound).holds:
                return bound
    raise TooHardError(f"the most of {live.expr} over all t", "a formula that grows with t", where=repr(term))


def _ahead(asked: Asked, live: Bound) -> Iterator[tuple[sympy.Expr, Certificate, tuple[sympy.Basic, ...]]]:
    """How far rows may see ahead: from isl, or guesses that the checker decides about."""
    term = asked.pattern
    if not term.symbols:
        found = asked.ask(ahead(asked.question))
        if found.relation in ("==", "<="):
            reach = sympy.Integer(0) if found.expr == -sympy.oo else found.expr
            yield reach, Certificate(RULE, (), (live, found)), found.assumptions
        return
    reader = Reader.of(term, asked.assume)
    for reach in dict.fromkeys(_guesses(term, reader)):
        yield reach, Certificate(RULE, (("ahead", reach),), (live,)), tuple(reader.known)


def _guesses(term: Term, reader: Reader) -> Iterator[sympy.Expr]:
    yield sympy.Integer(0)
    try:
        future = reader.sides(term).future
        if future and all(p.last is not None for p in future):
            yield extreme(sympy.Max, *(cast(sympy.Expr, p.last) for p in future))
    except NotByLag:
        rights = [from_index(part.right) for part in walk(term) if isinstance(part, Window)]
        if rights:
            yield extreme(sympy.Max, *rights)
    yield n - 1


def _sums(live: sympy.Expr, reach: sympy.Expr) -> Iterator[sympy.Expr]:
    """What keys before and after may be together, the simplest formulas first."""
    rest = n - 1
    if reach != rest:
        for most in _largest(live):
            for far in _plain(reach):
                yield most + far if most + far in (0, rest) else sympy.Min(most + far, rest)
    yield rest


def _plain(reach: sympy.Expr) -> Iterator[sympy.Expr]:
    """A number of keys ahead without its cases for short sequences, and with them."""
    if isinstance(reach, sympy.Piecewise):
        yield from (value for value, _ in reach.args if n not in value.free_symbols)
    yield reach
    yield sympy.Max(0, reach)


def _largest(live: sympy.Expr) -> Iterator[sympy.Expr]:
    """What a formula in t may be at most, for 0 <= t <= n - 2."""
    if live.free_symbols <= {t}:
        values = [live.subs(t, x) for x in TIMES]
        if all(x.is_Integer for x in values):
            most = max(values)
            if most in values[:-8]:
                yield most
    if isinstance(live, sympy.Min) and (fixed := [x for x in live.args if t not in x.free_symbols]):
        yield sympy.Min(*fixed)
    yield cast(sympy.Expr, live.subs(t, n - 2))
    rests = {x: x.args[1] - 1 for x in live.atoms(sympy.Mod) if t in x.free_symbols}
    if rests:
        yield cast(sympy.Expr, live.xreplace(rests).subs(t, n - 2))
    if isinstance(live, sympy.Piecewise):
        yield sympy.Max(*(value.subs(t, n - 2) for value, _ in live.args))
