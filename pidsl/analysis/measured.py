"""What the dense masks of a few hundred tokens say a quantity is: the other side of `against_masks`.

Counted from the masks alone, by no relation and no formula.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction
from functools import lru_cache
from typing import Any, cast

import numpy as np
import sympy

from pidsl.analysis import choices
from pidsl.analysis.bound import Bound, Form, Question, Subject, restated
from pidsl.analysis.dense import Bools, contiguous_in, depth_in, farthest_in, times
from pidsl.analysis.formulas.words import Value, holds, symbol, value_of
from pidsl.analysis.schedules import LayerRule
from pidsl.analysis.statements import names_of
from pidsl.errors import PidslError, TooHardError
from pidsl.language.chosen import selection
from pidsl.language.terms import (
    Blocked,
    Blocks,
    Causal,
    Complement,
    Compose,
    Difference,
    Dilated,
    Empty,
    Full,
    Halo,
    Keys,
    Lags,
    Leaf,
    Neighborhood,
    Pairs,
    Power,
    Queries,
    Shift,
    Stride,
    SymmetricDifference,
    Term,
    Where,
    Window,
    walk,
)  # fmt: skip
from pidsl.language.trees import own_values
from pidsl.relation.oracle import dense_mask, table

ENTRIES, FAR_ENTRIES = 400_000, 60_000_000  # of one mask: a millisecond or two, and some tenths of a second
WORTH = {Compose: 4, Power: 4, Neighborhood: 40, Halo: 40, Pairs: 30, Where: 4}  # entries that one of these is worth
WORK, FAR_WORK = 1e7, 6e9  # multiplications of one sequence of layers: a millisecond, and some tenths of a second
CORNER = 96  # tokens of a mask that shorter ones are cut from
LAYERS = 8  # of a number of layers that is a symbol
HORIZON = 160  # tokens after t, within which every key that is ever attended again must be
TOKENS = 64  # the largest t
LIVE = ("live keys", "live pages")
BY_TIME = (*LIVE, "kv bytes")
COUNTED = {"pairs": "<=", "degree": "<=", "max degree": "<=", "average degree": "<=", "sparsity": ">="}
PRODUCTS = {"forward flops": ("q k", "p v"), "backward flops": ("q k", "dO v", "p dO", "dS k", "dS q")}
ELEMENTS = dict.fromkeys(("bf16", "fp16", "bfloat16", "float16"), np.float16) | {
    "fp32": np.float32, "float32": np.float32, "fp64": np.float64, "float64": np.float64
}  # fmt: skip


def measured(bound: Bound, values: dict[str, int], work: float = WORK) -> tuple[Value | None, bool]:
    """The quantity, counted, and whether exactly or at least; None where that takes too long.

    Of patterns from which calls choose, the most, or the least, that any lists make of it: what the relation is about.
    """
    if bound.quantity in PRODUCTS:
        pairs = restated(bound, quantity="pairs", form=None)
        return _times(measured(pairs, values, work), _flops(bound.question))
    if bound.quantity == "decode bytes":
        if values["n"] == 0:
            return 0, True
        return _times(
            measured(restated(bound, quantity="max degree", form=None), values, work), _row_bytes(bound.question)
        )
    if bound.quantity == "received bytes":
        found = measured(restated(bound, quantity="received keys", form=None), values, work)
        return _times(found, _row_bytes(bound.question))
    if bound.quantity in (*LIVE, "received keys", "farthest", "contiguous", "depth") and choices.any_chosen(
        bound.subject
    ):
        most = choices.AT_MOST[bound.quantity] == bound.relation
        found = choices.of_most(bound.subject) if most else choices.of_least(bound.subject)
        return measured(restated(bound, subject=found), values, work)
    if bound.quantity in BY_TIME:
        t = values["t"] if "t" in values else values["n"] - 1
        term = layers_of(bound.subject, values, 1)[0]
        found = _live(bound, term, t) if t >= 0 else (0, True)
        return _times(found, _row_bytes(bound.question)) if bound.quantity == "kv bytes" else found
    n, layers = values["n"], bound.argument("layers")
    if bound.quantity in COUNTED and choices.any_chosen(bound.subject):
        return _of_choices(bound, values), True
    if bound.quantity == "depth":
        return _depth(bound, values, work), True
    if bound.quantity in ("farthest", "contiguous"):
        if layers is None and isinstance(bound.subject, tuple):
            layers = len(bound.subject)
        count = layers if isinstance(layers, int) else values.get("L")
        if count is None or count * n**3 > work:
            return None, True
        seen = _after(layers_of(bound.subject, values, count), n)
        if bound.quantity == "contiguous":
            return contiguous_in(seen), True
        far = farthest_in(seen)
        return -math.inf if far is None else far, True
    if bound.quantity == "received keys" and n > CORNER:
        return None, True
    mask = _mask(layers_of(bound.subject, values, 1)[0], n)
    match bound.quantity:
        case "pairs":
            return int(mask.sum()), True
        case "degree":
            return int(mask[values["i"]].sum()), True
        case "max degree":
            return int(mask.sum(axis=1).max()), True
        case "average degree":
            return Fraction(int(mask.sum()), n), True
        case "received keys":
            return _received(mask), True
        case _:
            return 1 - Fraction(int(mask.sum()), n * n), True


def _received(mask: Bools) -> int:
    """The most keys outside of a .. b - 1 that rows a .. b - 1 attend."""
    most = 0
    for a in range(len(mask)):
        seen = np.logical_or.accumulate(mask[a:], axis=0)
        outside = np.triu(seen, a + 1) if a + 1 < len(mask) else np.zeros_like(seen)  # row b - 1 - a: keys from b on
        most = max(most, int((seen[:, :a].sum(axis=1) + outside.sum(axis=1)).max()))
    return most


def _of_choices(bound: Bound, values: dict[str, int]) -> Value:
    """A count under the lists that make most of it, or under none."""
    term, n = layers_of(bound.subject, values, 1)[0], values["n"]
    forced, possible = (_mask(x, n) for x in (choices.of_least(term), choices.of_most(term)))
    rows = forced.sum(axis=1)
    size = selection(term)
    if bound.relation == COUNTED[bound.quantity] and size is not None:
        block, budget, queries = size.numbers
        blocks = np.add.reduceat(possible & ~forced, np.arange(0, n, block), axis=1, dtype=np.int64)
        rows = rows + np.sort(blocks, axis=1)[:, -budget:].sum(axis=1)
        together = np.add.reduceat(blocks, np.arange(0, n, queries), axis=0)  # one list for a block of queries
        pairs = int(forced.sum() + np.sort(together, axis=1)[:, -budget:].sum())
    else:
        pairs = int(rows.sum())
    match bound.quantity:
        case "degree":
            return int(rows[values["i"]])
        case "max degree":
            return int(rows.max())
        case "pairs":
            return pairs
        case "average degree":
            return Fraction(pairs, n)
        case _:
            return 1 - Fraction(pairs, n * n)


def refuted(bound: Bound, points: Iterable[dict[str, int]], work: float = WORK) -> str:
    """Where masks contradict a bound, among points that its assumptions admit; "" if nowhere."""
    for at in points:
        if not admits(bound.assumptions, at):
            continue
        found, exact = measured(bound, at, work)
        if found is None or agrees(bound.relation, found, value := formula_at(bound.expr, at), exact):
            continue
        where = ", ".join(f"{name} = {x}" for name, x in at.items())
        return f"at {where} it says {bound.relation} {value}, the masks {'' if exact else 'at least '}{found}"
    return ""


def admits(conditions: Iterable[sympy.Basic], values: dict[str, int]) -> bool:
    """Whether conditions hold, or would with numbers for what is still open."""
    at = {symbol(name): value for name, value in values.items()}
    try:
        return all(holds(c, at) for c in conditions if c.free_symbols <= at.keys())
    except ValueError:
        return False


def formula_at(expr: sympy.Expr, values: dict[str, int]) -> Value:
    """The formula at numbers; where it has no value nan, which is no other's equal."""
    try:
        return value_of(expr, {symbol(name): sympy.Integer(value) for name, value in values.items()})
    except ValueError:
        return math.nan


def agrees(relation: str, found: Value, claimed: Value, exact: bool = True) -> bool:
    """Whether a claim is compatible with what was found, which is the least it can be where it is not exact."""
    if relation == "<=" or (relation == "==" and not exact):
        return found <= claimed
    if relation == ">=":
        return found >= claimed or (not exact and not math.isnan(claimed))
    return found == claimed


def _times(found: tuple[Value | None, bool], factor: int) -> tuple[Value | None, bool]:
    return None if found[0] is None else found[0] * factor, found[1]


def _flops(question: Question) -> int:
    """A multiply and an add for each element of each product of two rows that a pair takes part in."""
    form = cast(Form, question.form)
    return sum(2 * form.head_dim for _ in PRODUCTS[question.quantity]) * form.heads * form.batch


def _row_bytes(question: Question) -> int:
    """The rows of one key, as arrays."""
    form = cast(Form, question.form)
    widths = (form.head_dim, form.head_dim if form.value_dim is None else form.value_dim)
    return sum(np.empty((form.batch, form.kv_heads, width), ELEMENTS[form.dtype]).nbytes for width in widths)


@lru_cache(maxsize=256)
def _after(layers: tuple[Term, ...], n: int) -> Bools:
    """What layers connect, the one at the input first: of those that only look back a corner, no path leaves it."""
    if n < CORNER and layers and look_back(layers):
        return _after(layers, CORNER)[:n, :n]
    seen = np.eye(n, dtype=np.bool_)
    for term in layers:
        seen = times(_mask(term, n), seen)
    return seen


def look_back(layers: Iterable[Term]) -> bool:
    """Whether no layer attends a later key."""
    return all(_corner_looks_back(term) for term in set(layers))


@lru_cache(maxsize=256)
def _corner_looks_back(term: Term) -> bool:
    """Whether masks are corners of a longer one, in which no query attends a later key."""
    return not varies(term) and longest_mask(term) >= CORNER and not np.triu(_mask(term, CORNER), 1).any()


def _depth(bound: Bound, values: dict[str, int], work: float) -> Value | None:
    """The fewest layers that connect the pairs in question; the claimed oo, where the first of a rule do not."""
    n = values["n"]
    endless = isinstance(bound.subject, LayerRule)
    layers = layers_of(bound.subject, values, LAYERS if endless else len(_each(bound.subject)))
    if not layers:
        return None
    of = bound.argument("of")
    if of is None:  # with symbols, only causal pairs are counted
        masks = (_mask(term, n) for term in layers[:1] if not names_of(bound.subject))
        of = "all" if any(np.triu(mask, 1).any() for mask in masks) else "causal"
    if of == "causal" and n <= CORNER and look_back(layers):
        enough = connected(layers_of(bound.subject, values, LAYERS))
        if (soon := next((count for count, tokens in enumerate(enough, 1) if n <= tokens), None)) is not None:
            return soon
    try:
        found, known = depth_in([_mask(term, n) for term in layers], of, work)
    except TooHardError:
        return None
    if endless and (found is None or known > len(layers)):  # layers that were not looked at may be others
        return math.inf if bound.expr == sympy.oo else None
    return math.inf if found is None else found


@lru_cache(maxsize=256)
def connected(layers: tuple[Term, ...]) -> tuple[int, ...]:
    """So many of the first tokens see all before them after the first layer, the first two, ... that only look back."""
    seen, found = np.eye(CORNER, dtype=np.bool_), []
    for term in layers:
        seen = times(_mask(term, CORNER), seen)
        whole = (seen | ~np.tri(CORNER, dtype=np.bool_)).all(axis=1)
        found.append(CORNER if whole.all() else int(whole.argmin()))
    return tuple(found)


def _live(bound: Bound, term: Term, t: int) -> tuple[Value | None, bool]:
    lookahead, page = bound.argument("lookahead"), bound.argument("page")
    first = t + 1 if lookahead is None else max(t - lookahead, 0)
    if t <= TOKENS:
        ever, exact = _ever(term)
        asked = ever[first:, : t + 1]
    else:  # from where on what is attended repeats is known, and a longer sequence takes nothing away
        span = _span(term)
        if span is None or not _grows(term) or (t + 1) * (t + span - first) > FAR_ENTRIES // _worth(term):
            return None, True
        n, exact = t + 1 + span, True
        asked = table(term, np.arange(first, n), np.arange(t + 1), n, n)
    keys = np.flatnonzero(asked.any(axis=0))
    return len(keys) if page is None else len(set((keys // page).tolist())), exact


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


# Words that look at i and j alone, and of which `_repeats` knows from where on they repeat.
REPEATING = (
    Full | Empty | Causal | Window | Stride | Lags | Keys | Queries | Blocks | Pairs | Neighborhood | Halo
)  # fmt: skip


def _span(term: Term) -> int | None:
    """So many tokens after j, whether i attends j has begun to repeat, and repeated; None: that is not told."""
    if not all(isinstance(x, REPEATING) and not _from_the_end(x) for x in walk(term) if isinstance(x, Leaf)):
        return None
    far, period = _repeats(term)
    return far + 2 * period


def _repeats(term: Term) -> tuple[int, int]:
    """From where on whether i attends j is a matter of i modulo the period, the second: generous bounds of both."""
    names: tuple[str, ...] = term.__slots__
    inner = [_repeats(x) for name in names if isinstance(x := getattr(term, name), Term)]
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
    if any(map(_at_lengths, parts)):
        return False
    less = any(isinstance(x, Complement | Difference | SymmetricDifference) for x in parts)
    return not (less and any(isinstance(x, Compose | Power) for x in parts))


@lru_cache(maxsize=256)
def varies(subject: Subject) -> bool:
    """Whether each length needs a mask of its own."""
    return any(isinstance(t, LayerRule) or any(map(_by_length, walk(t))) for t in _each(subject))


def _each(subject: Subject) -> tuple[Any, ...]:
    return subject if isinstance(subject, tuple) else (subject,)


def _by_length(term: Term) -> bool:
    """Whether what is attended depends on n by itself."""
    return isinstance(term, Compose | Power) or _at_lengths(term)


def _at_lengths(term: Term) -> bool:
    """Whether a word looks at n or m, or may do so: one that is not known here."""
    if isinstance(term, Where):
        return term.arity == 4
    return isinstance(term, Leaf) and (not isinstance(term, REPEATING) or _from_the_end(term))


def _from_the_end(term: Term) -> bool:
    return isinstance(term, Keys | Queries) and any(isinstance(x, int) and x < 0 for x in (term.start, term.stop))


@lru_cache(maxsize=256)
def _mask(term: Term, n: int) -> Bools:
    """The mask of n tokens: a corner of a longer one, where that says the same."""
    return dense_mask(term, n) if n > CORNER or varies(term) else _corner(term)[:n, :n]


@lru_cache(maxsize=32)
def _corner(term: Term) -> Bools:
    return dense_mask(term, min(CORNER, longest_mask(term)))


def longest_mask(term: Term, entries: int = ENTRIES) -> int:
    """So many tokens has the longest mask that is looked at."""
    return math.isqrt(entries // _worth(term))


def composed(term: Term) -> bool:
    """Whether its mask is a product of others."""
    return any(isinstance(part, Compose | Power) for part in walk(term))


def sizes_of(terms: Iterable[Term]) -> set[int]:
    """The whole numbers in terms, the tokens of grids, and the last of listed pairs."""
    found: set[int] = set()
    for part in (part for term in terms for part in walk(term)):
        if isinstance(part, Neighborhood | Halo):
            found.add(math.prod(part.shape))
        elif isinstance(part, Lags):
            found.update(abs(x) for x in part.values if isinstance(x, int))
        elif isinstance(part, Pairs):
            found.update(max(place) for place in zip(*part.values, strict=True))
        elif not isinstance(part, Where):
            found.update(abs(x) for x in own_values(part) if isinstance(x, int))
    return found


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


def layers_of(subject: Subject, values: dict[str, int], count: int) -> tuple[Term, ...]:
    """So many layers with numbers for their symbols, the one at the input first; none where the numbers do not fit."""
    names = names_of(subject)
    known = _bound(subject, tuple((name, values[name]) for name in sorted(names))) if names else subject
    if known is None:
        return ()
    if isinstance(known, LayerRule):
        try:
            return known.terms(count)
        except PidslError:  # a step beyond the largest size
            return ()
    return tuple(known[k % len(known)] for k in range(count)) if isinstance(known, tuple) else (known,) * count
