"""Formulas against dense masks, at sizes that no derivation has looked at.

A derivation and its checker can share a mistake, or a library below them can: the masks share nothing with either. So
every formula is compared with them before a question returns it (`ask.soon`), and again, at other sizes, when its
proof is checked (`proofs.verdict_of`): at random lengths, just past the numbers where its cases change, and for some
values of its symbols, the least that are admitted among them. What the masks of a few hundred tokens do not show is
left to the proof.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator
from fractions import Fraction
from functools import lru_cache
from itertools import islice

import numpy as np
import sympy

from pidsl.analysis.bound import Bound, Subject, unknown
from pidsl.analysis.formulas import Periodic, Value, holds, symbol, value_of
from pidsl.analysis.matrices import Bools, contiguous_in, farthest_in, target_of, times
from pidsl.analysis.schedules import LayerRule
from pidsl.analysis.well_formed import names_of
from pidsl.errors import PidslError
from pidsl.language.terms import (
    Blocked,
    Blocks,
    Complement,
    Compose,
    Difference,
    Dilated,
    Halo,
    Keys,
    Lags,
    Neighborhood,
    Pairs,
    Power,
    Queries,
    Ring,
    Shift,
    Stride,
    SymmetricDifference,
    Term,
    Where,
    Window,
    walk,
)  # fmt: skip
from pidsl.relation.oracle import dense_mask, table

FIRST, AGAIN = "before it is returned", "when its proof is checked"  # what the sizes are drawn for

ENTRIES = 400_000  # of one mask, a millisecond or two
WORTH = {Compose: 4, Power: 4, Neighborhood: 40, Halo: 40, Pairs: 30, Where: 4}  # entries that one of these is worth
WORK = 1e7  # multiplications of one sequence of layers, about a millisecond
SHORT = 16  # tokens of short sequences
CORNER = 96  # tokens of a mask that shorter ones are cut from
LAYERS = 8  # of a number of layers that is a symbol
VALUES = 3  # of the symbols of a pattern
SMALL = (0, 1, 2, 3, 4, 5, 7, 10)  # what they are drawn from
TRIES = 60
HORIZON = 160  # tokens after t, within which every key that is ever attended again must be
TOKENS = 64  # the largest t
PARTS = 100  # of a formula that are searched for numbers

MEASURED = (
    "pairs", "sparsity", "degree", "max degree", "average degree", "live keys", "farthest", "contiguous", "depth",
)  # fmt: skip


def kept(bound: Bound) -> Bound:
    """The bound, or unknown where a mask contradicts it."""
    why = refutation(bound, FIRST)
    return bound if not why else unknown(
        bound.subject, bound.quantity, f"a formula was found and thrown away, it is wrong: {why}", dict(bound.given)
    )  # fmt: skip


@lru_cache(maxsize=512)
def refutation(bound: Bound, purpose: str) -> str:
    """Where a mask contradicts a formula, "" if no mask of those that are looked at does.

    >>> import pidsl
    >>> from dataclasses import replace
    >>> bound = pidsl.window(2).pairs()
    >>> refutation(bound, FIRST), bool(refutation(replace(bound, expr=bound.expr + 1), FIRST))
    ('', True)
    """
    if not bound.is_known or bound.quantity not in MEASURED:
        return ""
    for values in _samples(bound, random.Random(f"{purpose}: {bound.quantity} of {bound.shown_subject}")):
        found, exact = _measured(bound, values)
        if found is None:
            continue
        numbers = {symbol(name): sympy.Integer(value) for name, value in values.items()}
        try:
            claimed = value_of(bound.expr, numbers)
        except ValueError:
            claimed = math.nan  # equal to nothing
        if _agree(bound.relation, found, claimed, exact):
            continue
        at = ", ".join(f"{name} = {value}" for name, value in values.items())
        return f"at {at} it says {bound.relation} {claimed}, the masks {'' if exact else 'at least '}{found}"
    return ""


def _agree(relation: str, found: Value, claimed: Value, exact: bool) -> bool:
    """Whether a claim is compatible with what was found, which is the least it can be where it is not exact."""
    if relation == "<=" or (relation == "==" and not exact):
        return found <= claimed
    if relation == ">=":
        return found >= claimed or (not exact and not math.isnan(claimed))
    return found == claimed


# -- where to look -----------------------------------------------------------------------------------------------------


def _samples(bound: Bound, draw: random.Random) -> Iterator[dict[str, int]]:
    """Numbers for everything that is open: the symbols of the pattern, n, i, L and t."""
    for values in _bindings(bound, draw):
        terms = _layers(bound.subject, values, 1)
        longest = min(map(_longest, terms))
        if bound.quantity == "live keys":
            past = {b + k for b in _numbers(bound, values) for k in (-1, 0, 1) if 0 <= b + k <= TOKENS}
            tokens = {0, 1, *draw.sample(range(TOKENS), 8), *draw.sample(sorted(past), min(len(past), 8))}
            yield from _admitted(bound, ({**values, "t": t} for t in sorted(tokens)))
        elif isinstance(count := bound.argument("n"), int):
            yield from [{**values, "n": count}] if count <= longest else []
        else:
            free = {s.name for s in bound.expr.free_symbols | set().union(*(c.free_symbols for c in bound.assumptions))}
            layers: Iterable[int | None] = sorted({1, 2, draw.randint(1, LAYERS)}) if "L" in free else (None,)
            for count in layers:
                here = values if count is None else {**values, "L": count}
                yield from _lengths(bound, here, longest, draw)


def _lengths(bound: Bound, values: dict[str, int], longest: int, draw: random.Random) -> Iterator[dict[str, int]]:
    """Some n up to the longest: small ones, just past a case of the formula, and after what determines the last case.

    A count with a period P is determined by 3 P values from the last case on: then come those that nobody looked at.
    """
    least = _least(bound, values, longest)
    if least is None:
        return
    some = 2 if values else 3 if _varies(bound.subject) else 8
    cases = [b for b in _numbers(bound, values) if least <= b <= longest]
    breaks = sorted({b + k for b in cases for k in (0, 1, 2) if b + k <= longest})
    period = _period(bound.expr)
    tail = range(min(max([least, *cases]) + 3 * period, max(least, longest - period)), longest + 1)[: 2 * period]
    found = {least, *draw.sample(breaks, min(len(breaks), some)), *draw.sample(tail, min(len(tail), 4 * some))}
    found.update(draw.randint(least, min(longest, least + SHORT)) for _ in range(some))
    if bound.quantity == "depth" and _look_back(layers := _layers(bound.subject, values, LAYERS)):
        found.update(n for tokens in _connected(layers) for n in (tokens, tokens + 1) if least <= n <= CORNER)
    lengths = ({**values, "n": n} for n in sorted(found))
    if bound.quantity == "degree":
        lengths = ({**at, "i": i} for at in lengths if at["n"] for i in {at["n"] - 1, draw.randrange(at["n"])})
    yield from _admitted(bound, lengths)


def _period(expr: sympy.Expr) -> int:
    """With which n comes in floors and periodic numbers, as far as masks go."""
    found = 1
    for part in expr.atoms(sympy.floor, sympy.ceiling, sympy.Mod, Periodic):
        if isinstance(part, Periodic):
            own = len(part.args) - 1
        elif isinstance(part, sympy.Mod):
            own = int(part.args[1]) if part.args[1].is_Integer else 1
        else:
            own = math.lcm(*(x.q for x in part.args[0].atoms(sympy.Rational)))
        found = math.lcm(found, own) if math.lcm(found, own) <= CORNER else found
    return found


@lru_cache(maxsize=256)
def _varies(subject: Subject) -> bool:
    """Whether each length needs a mask of its own."""
    terms = subject if isinstance(subject, tuple) else (subject,)
    return any(isinstance(t, LayerRule) or any(map(_by_length, walk(t))) for t in terms)


def _least(bound: Bound, values: dict[str, int], longest: int) -> int | None:
    """The first n that the assumptions admit, up to the longest; they are about sequences that are long enough."""
    about = [c for c in bound.assumptions if symbol("n") in c.free_symbols and not c.has(symbol("i"))]
    low, high = 0 if bound.quantity == "pairs" else 1, longest
    if low > high or not _true(about, {**values, "n": high}):
        return None
    while low < high:
        n = (low + high) // 2
        low, high = (low, n) if _true(about, {**values, "n": n}) else (n + 1, high)
    return low


def _admitted(bound: Bound, points: Iterable[dict[str, int]]) -> Iterator[dict[str, int]]:
    return (at for at in points if _true(bound.assumptions, at))


def _true(conditions: Iterable[sympy.Basic], values: dict[str, int]) -> bool:
    """Whether conditions hold, or would with numbers for what is still open."""
    at = {symbol(name): value for name, value in values.items()}
    try:
        return all(holds(c, at) for c in conditions if c.free_symbols <= at.keys())
    except ValueError:
        return False


def _numbers(bound: Bound, values: dict[str, int]) -> set[int]:
    """Whole numbers that sizes are compared with: where the cases of a formula change, or its assumptions."""
    compared = islice(bound.expr.atoms(sympy.core.relational.Relational, sympy.Min, sympy.Max), PARTS)
    found = {int(x) for part in (*compared, *bound.assumptions) for x in part.atoms(sympy.Integer) if x >= 0}
    return found | set(values.values())


def _bindings(bound: Bound, draw: random.Random) -> Iterator[dict[str, int]]:
    """Values of the symbols of the pattern that the assumptions and the pattern admit: small ones, then any."""
    names = sorted(names_of(bound.subject))
    if not names:
        yield {}
        return
    found: list[dict[str, int]] = []
    for k in range(TRIES):
        most = min(len(SMALL), 2 + k // 4)  # small ones first
        values = {name: SMALL[draw.randrange(most)] for name in names}
        if values in found or not _true(bound.assumptions, values) or not _layers(bound.subject, values, 1):
            continue
        found.append(values)
        yield values
        if len(found) == VALUES:
            return


# -- what the masks say ------------------------------------------------------------------------------------------------


def _measured(bound: Bound, values: dict[str, int]) -> tuple[Value | None, bool]:
    """The quantity, counted, and whether exactly or at least; None where that takes too long."""
    if bound.quantity == "live keys":
        return _live(_layers(bound.subject, values, 1)[0], values["t"])
    n, layers = values["n"], bound.argument("layers")
    if bound.quantity == "depth":
        return _depth(bound, values), True
    if bound.quantity in ("farthest", "contiguous"):
        if layers is None and isinstance(bound.subject, tuple):
            layers = len(bound.subject)
        count = layers if isinstance(layers, int) else values.get("L")
        if count is None or count * n**3 > WORK:
            return None, True
        seen = _after(_layers(bound.subject, values, count), n)
        if bound.quantity == "contiguous":
            return contiguous_in(seen), True
        far = farthest_in(seen)
        return -math.inf if far is None else far, True
    mask = _mask(_layers(bound.subject, values, 1)[0], n)
    match bound.quantity:
        case "pairs":
            return int(mask.sum()), True
        case "degree":
            return int(mask[values["i"]].sum()), True
        case "max degree":
            return int(mask.sum(axis=1).max()), True
        case "average degree":
            return Fraction(int(mask.sum()), n), True
        case _:
            return 1 - Fraction(int(mask.sum()), n * n), True


@lru_cache(maxsize=256)
def _after(layers: tuple[Term, ...], n: int) -> Bools:
    """What layers connect, the one at the input first: of those that only look back a corner, no path leaves it."""
    if n < CORNER and layers and _look_back(layers):
        return _after(layers, CORNER)[:n, :n]
    seen = np.eye(n, dtype=np.bool_)
    for term in layers:
        seen = times(_mask(term, n), seen)
    return seen


def _look_back(layers: Iterable[Term]) -> bool:
    return all(_corner_looks_back(term) for term in set(layers))


@lru_cache(maxsize=256)
def _corner_looks_back(term: Term) -> bool:
    """Whether masks are corners of a longer one, in which no query attends a later key."""
    return not _varies(term) and _longest(term) >= CORNER and not np.triu(_mask(term, CORNER), 1).any()


def _depth(bound: Bound, values: dict[str, int]) -> Value | None:
    """The fewest layers that connect the pairs in question; the claimed oo, where all that are looked at do not."""
    n = values["n"]
    most = LAYERS if isinstance(bound.subject, LayerRule) else 2 * n
    layers = _layers(bound.subject, values, max(1, min(most, int(WORK / n**3))))
    of = bound.argument("of")
    if of is None:  # with symbols, only causal pairs are counted
        masks = (_mask(term, n) for term in layers[:1] if not names_of(bound.subject))
        of = "all" if any(np.triu(mask, 1).any() for mask in masks) else "causal"
    if of == "causal" and n <= CORNER and _look_back(layers):
        enough = _connected(_layers(bound.subject, values, LAYERS))
        return next((count for count, tokens in enumerate(enough, 1) if n <= tokens), _if_infinite(bound))
    target, seen = target_of(of, n), np.eye(n, dtype=np.bool_)
    for count, term in enumerate(layers, 1):
        seen = times(_mask(term, n), seen)
        if (seen | ~target).all():
            return count
    return _if_infinite(bound)


def _if_infinite(bound: Bound) -> Value | None:
    return math.inf if bound.expr == sympy.oo else None


@lru_cache(maxsize=256)
def _connected(layers: tuple[Term, ...]) -> tuple[int, ...]:
    """So many of the first tokens see all before them after the first layer, the first two, ... that only look back."""
    seen, found = np.eye(CORNER, dtype=np.bool_), []
    for term in layers:
        seen = times(_mask(term, CORNER), seen)
        whole = (seen | ~np.tri(CORNER, dtype=np.bool_)).all(axis=1)
        found.append(CORNER if whole.all() else int(whole.argmin()))
    return tuple(found)


def _live(term: Term, t: int) -> tuple[Value | None, bool]:
    ever, exact = _ever(term)
    return int(ever[t + 1 :, : t + 1].any(axis=0).sum()), exact


@lru_cache(maxsize=64)
def _ever(term: Term) -> tuple[Bools, bool]:
    """bool [i, j]: whether query i attends key j <= TOKENS at some length; and whether these i and lengths suffice."""
    span = _span(term)
    rows = TOKENS + 2 + (HORIZON // 4 if span is None else min(span, HORIZON))
    exact = span is not None and span <= HORIZON
    lengths = [rows]
    if not _grows(term):
        lengths, exact = list(range(2, rows + 1, 1 + rows // 6)), False
    ever = np.zeros((rows, TOKENS + 1), dtype=np.bool_)
    for n in lengths:
        keys = np.arange(min(n, TOKENS + 1))
        ever[:n, : len(keys)] |= table(term, np.arange(n), keys, n, n)
    return ever, exact


def _span(term: Term) -> int | None:
    """So many tokens after j, whether i attends j has begun to repeat, and repeated; None: that is not told."""
    parts = list(walk(term))
    if any(isinstance(x, Where | Ring) or _from_the_end(x) for x in parts):
        return None
    far, period = _repeats(term)
    return far + 2 * period


def _repeats(term: Term) -> tuple[int, int]:
    """From where on whether i attends j is a matter of i modulo the period, the second: generous bounds of both."""
    inner = [_repeats(x) for name in term.__slots__ if isinstance(x := getattr(term, name), Term)]
    far, period = max((f for f, _ in inner), default=1), math.lcm(*(p for _, p in inner))
    match term:
        case Window(left, right):
            return int(left) + int(right) + 1, 1  # type: ignore[arg-type]
        case Stride(p, _):
            return 1, int(p)  # type: ignore[arg-type]
        case Lags(values):
            return max((abs(int(v)) for v in values), default=0) + 1, 1  # type: ignore[arg-type]
        case Keys(start, stop, step) | Queries(start, stop, step):
            return abs(int(start)) + abs(int(stop or 0)) + 1, int(step)  # type: ignore[arg-type]
        case Blocks(size):
            return int(size), 1  # type: ignore[arg-type]
        case Pairs(values):
            return max((i for i, _ in values), default=0) + 1, 1
        case Neighborhood(shape) | Halo(shape):
            return math.prod(shape) + 1, 1
        case Shift(_, by):
            return far + abs(int(by)), period  # type: ignore[arg-type]
        case Blocked(_, s) | Dilated(_, s):
            return int(s) * (far + 1), int(s) * period  # type: ignore[arg-type]
        case Compose():
            return sum(f for f, _ in inner) + 2 * period, period
        case Power(_, layers):
            return max(1, int(layers)) * (far + 2 * period), period  # type: ignore[arg-type]
    return far, period


def _grows(term: Term) -> bool:
    """Whether a longer sequence never takes a pair away."""
    parts = list(walk(term))
    if any(isinstance(x, Ring) or (isinstance(x, Where) and x.arity == 4) or _from_the_end(x) for x in parts):
        return False
    less = any(isinstance(x, Complement | Difference | SymmetricDifference) for x in parts)
    return not (less and any(isinstance(x, Compose | Power) for x in parts))


def _by_length(term: Term) -> bool:
    """Whether what is attended depends on n by itself."""
    return (
        isinstance(term, Ring | Compose | Power) or (isinstance(term, Where) and term.arity == 4) or _from_the_end(term)
    )


def _from_the_end(term: Term) -> bool:
    return isinstance(term, Keys | Queries) and any(isinstance(x, int) and x < 0 for x in (term.start, term.stop))


@lru_cache(maxsize=256)
def _mask(term: Term, n: int) -> Bools:
    """The mask of n tokens: a corner of a longer one, where that says the same."""
    return dense_mask(term, n) if n > CORNER or _varies(term) else _corner(term)[:n, :n]


@lru_cache(maxsize=32)
def _corner(term: Term) -> Bools:
    return dense_mask(term, min(CORNER, _longest(term)))


def _longest(term: Term) -> int:
    return math.isqrt(ENTRIES // _worth(term))


@lru_cache(maxsize=256)
def _worth(term: Term) -> int:
    """Steps for an entry of its mask, roughly."""
    return sum(WORTH.get(type(part), 1) for part in walk(term))


@lru_cache(maxsize=1024)
def _bound(subject: Subject, values: tuple[tuple[str, int], ...]) -> Subject | None:
    """The subject with numbers for its symbols; None where they do not fit."""
    at = dict(values)
    try:
        if isinstance(subject, tuple):
            return tuple(t.bind(**{name: at[name] for name in t.symbols}) for t in subject)
        return subject.bind(**{name: at[name] for name in subject.symbols})
    except PidslError:
        return None


def _layers(subject: Subject, values: dict[str, int], count: int) -> tuple[Term, ...]:
    """So many layers with numbers for their symbols, the one at the input first; none where the numbers do not fit."""
    names = names_of(subject)
    known = _bound(subject, tuple((name, values[name]) for name in sorted(names))) if names else subject
    if known is None:
        return ()
    if isinstance(known, LayerRule):
        return known.terms(count)
    return tuple(known[k % len(known)] for k in range(count)) if isinstance(known, tuple) else (known,) * count
