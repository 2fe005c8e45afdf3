"""From a predicate to the words of the language that say the same: `(i - j <= 3) & (i >= j) -> window(3)`.

Words are guessed from what the predicate holds (its lags, its divisors, the keys it names), and kept where isl shows
that they attend the same pairs. What no word says stays a `where`; a conjunction or disjunction falls into its parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import reduce
from typing import assert_never

import islpy as isl

from pidsl.errors import TooHardError
from pidsl.language.algebra import negated, positive, tidied
from pidsl.language.expr import (
    Add,
    And,
    Compare,
    FloorDiv,
    Index,
    Mod,
    Not,
    Or,
    Pred,
    Sub,
    Truth,
    Var,
    fold,
    joint,
    simplify,
    vars_in,
    walk,
)  # fmt: skip
from pidsl.language.terms import (
    Blocks,
    Causal,
    Dilated,
    Empty,
    Full,
    Keys,
    Lags,
    Queries,
    Stride,
    Term,
    Where,
    Window,
)  # fmt: skip
from pidsl.language.trees import parts_of
from pidsl.relation.build import relation
from pidsl.relation.isl import coalesced, interval_of, limited, read_map, read_set, region, scope

__all__ = ["recognised"]

OPERATIONS = 100_000  # of isl for one guess
MANY = 24  # comparisons and divisions of a predicate of which words are guessed at all
FEW = 16  # lags that are listed
MOST_LAGS = 256  # between the least and the greatest of these


def recognised(pred: Pred) -> Term:
    """The pattern of a predicate over i and j (and n and m), in words of the language where there are some."""
    return _recognised(tidied(positive(pred)))


def _recognised(pred: Pred) -> Term:
    if isinstance(pred, Truth):
        return Full() if pred.value else Empty()
    if sum(isinstance(x, Compare | FloorDiv | Mod) for x in walk(pred)) <= MANY and (word := _word(pred)) is not None:
        return word
    if not isinstance(pred, And | Or):
        return Where.made(pred)
    kind: type[And | Or] = type(pred)
    parts = list[Pred](parts_of(kind, pred))
    # conditions on the lag alone say one thing together: both ends of a window
    parts = _gathered(parts, lambda x: _lag_of(x) is not None) if isinstance(pred, And) else _apart(parts)
    if len(parts) == 1:
        return Where.made(pred)
    terms = [_recognised(part) for part in parts]
    if isinstance(pred, And) and (whole := _in_blocks(pred, parts, terms)) is not None:
        return whole
    plain = [part for part, term in zip(parts, terms, strict=True) if isinstance(term, Where)]
    words: list[Term] = [term for term in terms if not isinstance(term, Where)]
    if plain:
        words.append(Where.made(reduce(lambda a, b: joint(kind, a, b), plain)))
    both = isinstance(pred, And)
    words = [x for x in words if not isinstance(x, Full if both else Empty)] or words[:1]
    return reduce((lambda a, b: a & b) if both else (lambda a, b: a | b), words)


def _in_blocks(pred: Pred, parts: list[Pred], terms: list[Term]) -> Term | None:
    """Within blocks, conditions on the places in a block are often those on positions: `i % 8 >= j % 8 -> causal`."""
    for k, blocks in enumerate(terms):
        if isinstance(blocks, Blocks) and any(isinstance(term, Where) for term in terms):
            rest = [_without_modulus(part, blocks.size) for x, part in enumerate(parts) if x != k]
            guess = blocks & _recognised(tidied(reduce(lambda a, b: joint(And, a, b), rest)))
            with suppress(TooHardError), limited(f"whether a predicate is {guess!r}", OPERATIONS):
                points = region(pred, scope("[n, m] -> { [i, j] }"))
                pairs = points & read_set("[n, m] -> { [i, j] : 0 <= i < n and 0 <= j < m }")
                return guess if pairs.is_equal(relation(guess).wrap().flatten()) else None
    return None


def _without_modulus(pred: Pred, size: Index) -> Pred:
    places = {Mod(Var(name), size): name for name in "ij"}
    match pred:
        case Compare(op, a, b):
            return Compare(op, _replaced(a, places), _replaced(b, places))
        case And(a, b) | Or(a, b):
            return joint(type(pred), _without_modulus(a, size), _without_modulus(b, size))
        case Not(a):
            return fold(Not(_without_modulus(a, size)))
        case Truth():
            return pred
        case _:
            assert_never(pred)


def _replaced(e: Index, places: dict[Mod, str]) -> Index:
    if isinstance(e, Mod) and e in places:
        return Var(places[e])
    if isinstance(e, Add | Sub):
        return simplify(type(e)(_replaced(e.left, places), _replaced(e.right, places)))
    return e


def _apart(parts: list[Pred]) -> list[Pred]:
    """`a | b & ~a` as `a | b`."""
    others = {tidied(negated(x)) for x in parts if isinstance(x, Compare)}
    found: list[Pred] = []
    for part in parts:
        inside = list(parts_of(And, part))
        kept = [x for x in inside if x not in others]
        whole = kept if len(inside) > 1 and kept else inside
        found.append(reduce(lambda a, b: joint(And, a, b), whole))
    return found


def _gathered(parts: list[Pred], alike: Callable[[Pred], bool]) -> list[Pred]:
    together = [part for part in parts if alike(part)]
    rest = [part for part in parts if not alike(part)]
    return [reduce(lambda a, b: joint(And, a, b), together), *rest] if together else rest


def _lag_of(pred: Pred) -> Pred | None:
    """The comparison, where it compares the lag with a constant."""
    match pred:
        case Compare(_, left, int()) if vars_in(left) == {"i", "j"} and not any(
            isinstance(x, FloorDiv | Mod) for x in walk(left)
        ):
            return pred
    return None


def _word(pred: Pred) -> Term | None:
    """A word that attends exactly these pairs; None: none was found."""
    with suppress(TooHardError), limited("the words of a predicate", OPERATIONS):
        points = region(pred, scope("[n, m] -> { [i, j] }"))
        pairs = coalesced(points & read_set("[n, m] -> { [i, j] : 0 <= i < n and 0 <= j < m }"))
        for guess in _guesses(pred, points):
            if pairs.is_equal(relation(guess).wrap().flatten()):
                return guess
    return None


def _guesses(pred: Pred, points: isl.Set) -> Iterator[Term]:
    names = vars_in(pred)
    divisors = sorted({x.right for x in walk(pred) if isinstance(x, FloorDiv | Mod) and isinstance(x.right, int)})
    yield from (Full(), Empty())
    if names & {"n", "m"}:
        yield from _from_the_end(pred)
    elif len(names) == 1:
        yield from _of_one(points, names == {"j"}, divisors)
    elif names == {"i", "j"}:
        yield from (Blocks(s) for s in divisors)
        yield from _of_lags(points, divisors)


def _of_one(points: isl.Set, of_keys: bool, divisors: list[int]) -> Iterator[Term]:
    """Keys or queries from, to, and in steps."""
    name, word = ("j", Keys) if of_keys else ("i", Queries)
    some = points & read_set(f"[n, m] -> {{ [i, j] : {name} >= 0 }}")
    found = coalesced(some.apply(read_map(f"[n, m] -> {{ [i, j] -> [{name}] }}")))
    first, last = interval_of(found)
    if first is not None:
        yield from (word(first, None if last is None else last + 1, step) for step in (1, *divisors) if step > 0)


def _of_lags(points: isl.Set, divisors: list[int]) -> Iterator[Term]:
    pairs = points & read_set("[n, m] -> { [i, j] : i >= 0 and j >= 0 }")
    lags = coalesced(pairs.apply(read_map("[n, m] -> { [i, j] -> [l] : l = i - j }")))
    again = lags.apply(read_map("[n, m] -> { [l] -> [i, j] : l = i - j and i >= 0 and j >= 0 }"))
    if not again.is_subset(pairs):
        return  # the lag alone does not say it
    least, most = interval_of(lags)
    if least is not None and most is not None:
        if least <= 0 <= most:
            yield Window(most, -least)
            yield from (Dilated(Window(most // p, -least // p), p) for p in divisors if p > 1)
        if most - least < MOST_LAGS:
            found = [x for x in range(least, most + 1) if not (lags & read_set(f"[n, m] -> {{ [{x}] }}")).is_empty()]
            if len(found) <= FEW:
                yield Lags(tuple(found))
    elif least is not None:
        yield Causal() if least == 0 else Causal().shift(least)
    elif most == -1:
        yield ~Causal()
    for period in divisors:
        if period > 1 and not lags.is_empty():
            some = int(lags.sample_point().get_coordinate_val(isl.dim_type.set, 0).to_python())
            yield Stride(period, some % period)


def _from_the_end(pred: Pred) -> Iterator[Term]:
    """The last keys, or queries."""
    for x in walk(pred):
        if isinstance(x, Compare) and isinstance(x.right, int) and x.right != 0:
            for last in (abs(x.right), abs(x.right) + 1):
                yield Keys(-last, None, 1)
                yield Queries(-last, None, 1)
