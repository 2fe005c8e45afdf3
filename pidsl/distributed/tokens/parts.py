"""A pattern cut into parts that want different placements.

    near      lags without a common step, or not far, or few keys: what a rank needs lies beside its rows, or is little
    classes   far lags that are all multiples of a period (and a phase): residue classes of positions make them local
    rows      few queries that attend keys anywhere: they are sent to the keys, not the keys to them

A pattern is cut where its words are: `(window(63) | stride(256)) & causal` into `window(63) & causal` and
`stride(256) & causal`, and what overlaps is taken away from the later part. Where some words attend nearly all keys
there are, all keys are gathered whatever else is attended, and nothing is cut off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache, reduce
from math import gcd, inf

from pidsl.analysis.counting.lattice import square, without
from pidsl.distributed.tokens.images import image
from pidsl.distributed.tokens.runs import Run, total
from pidsl.errors import TooHardError
from pidsl.language.expr import evaluate
from pidsl.language.terms import (
    Blocked,
    Difference,
    Dilated,
    Empty,
    Intersection,
    Pairs,
    Shift,
    Term,
    Transpose,
    Union,
    Where,
    require_concrete,
    require_free,
)  # fmt: skip
from pidsl.language.trees import extent, own_values, parts_of
from pidsl.relation.build import rows_relation
from pidsl.relation.isl import in_turn, interval_of, limited, patience, read_map
from pidsl.relation.recognise import recognised
from pidsl.relation.runs import lag_runs

FAR = 1024  # tokens: nearer keys are sent, whatever their lags have in common
FEW = 4096  # queries that are sent to their keys, and keys that are sent to all
MANY = 64  # words that are looked at one by one
DEEP = 64  # operators inside one another
TOKENS, RANKS = 1 << 14, 32  # at which it is asked whether all keys are needed
SOON = 0.1  # of isl's usual limit, for whether parts overlap
NEARLY = 0.9  # of the keys ahead of a rank, for a pattern of past keys


@dataclass(frozen=True, slots=True)
class Part:
    """Some of the pairs of a pattern.

    Args:
        term: the pairs.
        period: of the residue classes that make it local, if it has one; 1: none.
        few: whether it is of few queries that attend keys anywhere.
    """

    term: Term
    period: int = 1
    few: bool = False


@dataclass(frozen=True, slots=True)
class _Wish:
    """What the pairs of some words want; `all`: nearly all keys."""

    period: int = 1
    few: bool = False
    all: bool = False


def split(term: Term) -> tuple[Term, ...]:
    """Disjoint patterns that are `term` together, each for one placement.

    >>> import pidsl
    >>> split(pidsl.window(63) | pidsl.stride(256) & pidsl.causal)
    (window(63), (stride(256) & causal) - window(63))
    >>> split(pidsl.window(9, 9) | pidsl.keys(0, 4) | pidsl.queries(0, 4))
    (queries(0, 4), (window(9, 9) | keys(0, 4)) - queries(0, 4))
    >>> split(pidsl.window(4095) | pidsl.keys(0, 4) & pidsl.causal)
    (window(4095) | keys(0, 4) & causal,)

    Args:
        term: a term without symbols, documents and choices.

    Raises:
        SymbolError, TermError: the term holds symbols, documents or a choice.
    """
    return tuple(part.term for part in parts(term))


@lru_cache(maxsize=1024)
def parts(term: Term) -> tuple[Part, ...]:
    """As `split`, with what is known of each part: few rows first, then what is near, then classes."""
    require_concrete(term, "cut the pattern")
    require_free(term, "how a pattern is cut")
    found = _grouped(term, lambda x: x) if extent(term)[0] <= DEEP else {}
    if len(found) <= 1 or any(wish.all for wish in found):
        wish = next(iter(found), _Wish()) if len(found) == 1 else _Wish()
        return (Part(term, wish.period, wish.few),)
    found = _merged(found)
    if len(found) == 1:
        return (Part(term, next(iter(found)).period),)
    out: list[Part] = []
    before: list[Term] = []
    for wish in sorted(found, key=lambda wish: (not wish.few, wish.period)):
        rest = _without(found[wish], before)
        before.append(found[wish])
        if not isinstance(rest, Empty) and (wish.period == 1 or not _empty(rest)):
            out.append(Part(rest, wish.period, wish.few))
    return tuple(out)


def _without(term: Term, taken: list[Term]) -> Term:
    """The pairs of a term that are in no other one."""
    for other in taken:
        if not _empty(term & other):
            term = _minus(term, other)
    return term


def _minus(a: Term, b: Term) -> Term:
    """The difference, said briefly: `a & c - b` for `a & c - b & c`, `(a - b).blocked(s)` for blocks of one size."""
    if own_values(a)[1:] == own_values(b)[1:]:
        match a, b:
            case (Blocked(x, size), Blocked(y, _)):
                return _minus(x, y).blocked(size)
            case (Dilated(x, step), Dilated(y, _)):
                return _minus(x, y).dilated(step)
            case (Shift(x, by), Shift(y, _)):
                return _minus(x, y).shift(by)
            case (Transpose(x), Transpose(y)):
                return _minus(x, y).T
    whole = a
    while isinstance(whole, Difference):
        whole = whole.left
    own = parts_of(Intersection, whole)
    rest = [x for x in parts_of(Intersection, b) if x not in own]
    return a - reduce(lambda x, y: x & y, rest) if rest else Empty()


def _merged(found: dict[_Wish, Term]) -> dict[_Wish, Term]:
    """Periods of which one divides the other as the smaller one."""
    periods = sorted({wish.period for wish in found})
    out: dict[_Wish, Term] = {}
    for wish, term in found.items():
        least = next(p for p in periods if p > 1 and wish.period % p == 0) if wish.period > 1 else 1
        _add(out, _Wish(least, wish.few), term)
    return out


def _add(groups: dict[_Wish, Term], wish: _Wish, term: Term) -> None:
    groups[wish] = groups[wish] | term if wish in groups else term


# -- words and what they want ------------------------------------------------------------------------------------------


def _grouped(term: Term, whole: Callable[[Term], Term]) -> dict[_Wish, Term]:
    """The words of a term by what they want, each with what stands around it: `whole(x)` for x in place of the term."""
    match term:
        case Union():
            alternatives = parts_of(Union, term)
            if len(alternatives) <= MANY:
                return _of_all((x, whole) for x in alternatives)
        case Intersection(a, b):
            found: dict[_Wish, Term] = {}
            for x in _grouped(a, lambda x: whole(x & b)).values():
                for wish, y in _grouped(b, lambda y, x=x: whole(x & y)).items():  # type: ignore[misc]
                    _add(found, wish, x & y)
            return found
        case Difference(a, b):
            return {wish: x - b for wish, x in _grouped(a, lambda x: whole(x - b)).items()}
        case Blocked(a, size):
            return {wish: x.blocked(size) for wish, x in _grouped(a, lambda x: whole(x.blocked(size))).items()}
        case Dilated(a, step):
            return {wish: x.dilated(step) for wish, x in _grouped(a, lambda x: whole(x.dilated(step))).items()}
        case Shift(a, by):
            return {wish: x.shift(by) for wish, x in _grouped(a, lambda x: whole(x.shift(by))).items()}
        case Transpose(a):
            return {wish: x.T for wish, x in _grouped(a, lambda x: whole(x.T)).items()}
        case Where(pred, _):
            words = recognised(pred)
            if not isinstance(words, Where):
                found = _grouped(words, whole)
                if len(found) > 1:
                    return found
    wanted = _wish(whole(term))
    return {} if wanted is None else {wanted: term}


def _of_all(alternatives: Iterable[tuple[Term, Callable[[Term], Term]]]) -> dict[_Wish, Term]:
    found: dict[_Wish, Term] = {}
    for term, whole in alternatives:
        for wish, x in _grouped(term, whole).items():
            _add(found, wish, x)
    return found


@in_turn
def _wish(term: Term) -> _Wish | None:
    """What a pattern of a few words wants; None: there are no pairs. Where isl cannot say, it is near."""
    try:
        facts = _lags(term)
        if facts is None:
            return None
        if max(abs(facts.least), abs(facts.most)) <= FAR:
            return _Wish()
        endless = facts.least == -inf or facts.most == inf
        if endless and _are_few(term, "i"):
            return _Wish(few=True)
        if endless and _are_few(term, "j"):  # keys that everybody gets
            return _Wish()
        if facts.period > 1:
            return _Wish(facts.period)
        if endless and _everything(term):
            return _Wish(all=True)
    except TooHardError:
        pass
    return _Wish()


@dataclass(frozen=True, slots=True)
class _Lags:
    least: float
    most: float
    period: int


def _lags(term: Term) -> _Lags | None:
    """Between which the lags of a term are, and of which number (and a phase) they are multiples; None: none."""
    match term:
        case Blocked(a, size):
            s = int(evaluate(size, {}))
            inside = _lags(a)
            if inside is None:
                return None
            period = s * inside.period if inside.period > 1 else 1
            return _Lags(s * inside.least - s + 1, s * inside.most + s - 1, period)
        case Intersection(a, b):
            # what lies in few classes, of blocks or of tokens, does so in any part of it
            each = [_lags(x) for x in (a, b)]
            if None in each:
                return None
            own = _by_isl(term)
            if own is None:
                return None
            return _Lags(own.least, own.most, max(own.period, *(x.period for x in each if x is not None)))
        case Difference(a, _):
            own, inside = _by_isl(term), _lags(a)
            if own is None or inside is None:
                return None
            return _Lags(own.least, own.most, max(own.period, inside.period))
        case Pairs(values):
            lags = [i - j for i, j in values]
            step = gcd(*(x - lags[0] for x in lags)) if lags else 0
            return _Lags(min(lags), max(lags), max(step, 1)) if lags else None
    return _by_isl(term)


def _by_isl(term: Term) -> _Lags | None:
    if (runs := lag_runs(term)) is not None and all(first < last for first, last in runs):
        return _Lags(runs[0][0], runs[-1][1], 1) if runs else None
    from pidsl.codegen.choice.parts import lag_facts

    with limited(f"the lags of {term!r}"):
        from pidsl.codegen.choice.parts import lag_facts

        facts = lag_facts(rows_relation(term))
    least, most = (-inf if facts.least is None else facts.least), (inf if facts.most is None else facts.most)
    return _Lags(least, most, facts.step) if least <= most else None


def _are_few(term: Term, side: str) -> bool:
    """Whether it is of few queries i, or few keys j, from the start on or up to the end."""
    with limited(f"the queries and keys of {term!r}"):
        for counted in (side, f"n - 1 - {side}"):
            found = without(square(term).apply(read_map(f"[n] -> {{ [i, j] -> [{counted}] }}")), "n")
            _, most = interval_of(found.coalesce())
            if most is not None and most < FEW:
                return True
    return False


def _everything(term: Term) -> bool:
    """Whether a rank in the middle needs nearly all keys before its own."""
    needed = image(term, TOKENS, (Run(TOKENS // 2, TOKENS // RANKS),))
    return total(needed) >= NEARLY * TOKENS / 2


@in_turn
def _empty(term: Term) -> bool:
    """Whether there is no pair, for any length; False also means "cannot tell"."""
    if isinstance(term, Empty):
        return True
    try:
        with patience(SOON):
            return term.is_empty()
    except TooHardError:
        return False
