"""Patterns between blocks of tokens: what is known of them, from what is known of patterns with one token per block.

With blocks of s tokens, query i is number q of block I, and n tokens are N blocks of which the last lacks r:

    i = s I + q,  0 <= q < s,   n = s N - r,  0 <= r < s

A term made of `a.blocked(s)`, `causal` and set operators attends all of another block or nothing of it; `off` says
which. In the query's own block it may attend the tokens up to the query (`low`: which blocks do) and those after it
(`high`). Counting tokens block by block, with `last` the last block that `off` or `high` attend,

    keys(i, n) = s off(I, N) + (q + 1) low(I, N) + (s - 1 - q) high(I, N) - r last(I, N)

where each name stands for the number of keys of query I among N, of a term that knows no blocks. Layers connect tokens
of different blocks exactly when they connect their blocks, in so many layers: every block has a token. The farthest
that blocks see is some lag D: tokens see as far as `s D + s - 1`, the last token of a block that is D behind to the
first, and by r less if only the last block sees as far (`Ends`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, reduce
from math import gcd
from typing import Any, Literal, cast

import sympy

from pidsl.analysis.bound import ANY, Bound, Question, asking
from pidsl.analysis.counting.lattice import apply, by_length, square
from pidsl.analysis.formulas.words import L, extreme, i, n, symbol
from pidsl.errors import TooHardError
from pidsl.language.terms import (
    Blocked,
    Blocks,
    Causal,
    Complement,
    Compose,
    Difference,
    Empty,
    Full,
    Intersection,
    Keys,
    Pairs,
    Power,
    Queries,
    SymmetricDifference,
    Term,
    Transpose,
    Union,
    Window,
    walk,
)
from pidsl.relation.isl import limited, read_set

t = symbol("t")
place, lacks = symbol("q"), symbol("r")  # of the query in its block; tokens that the last block lacks
ROWS = (sympy.Ge(i, 0), sympy.Lt(i, n))
KEY, ROW = Keys(-1, None, 1), Queries(-1, None, 1)  # of the last block
Formulas = Sequence[sympy.Expr]
Ends = Literal["reversed", "back", "late", ""]
"""Why one knows whether the last block alone sees as far as any: pairs of blocks are the same from the other end, so
that another one does unless it sees all blocks; they look back and know no n, so that the others see as far as they do
without it; they know no n, and for long sequences the others see as far without it; or one does not know."""


@dataclass(frozen=True, slots=True)
class Levels:
    """A pattern as patterns between blocks.

    Args:
        size: tokens of a block, at least 2.
        off: which block attends all tokens of which.
        low: which blocks attend, of themselves, the tokens up to each query.
        high: which blocks attend, of themselves, the tokens after each query.
    """

    size: int
    off: Term
    low: Term
    high: Term

    @property
    def last(self) -> Term:
        """Which blocks attend what the last block lacks."""
        return (self.off | self.high) & KEY

    @property
    def any(self) -> Term:
        """Which block attends some token of which."""
        some = [x for x in (self.off, self.low, self.high) if x != Empty()]
        return reduce(lambda a, b: a | b, some) if some else Empty()

    @property
    def rebuilt(self) -> Term:
        """The pattern between tokens."""
        off, low, high = (x.blocked(self.size) for x in (self.off, self.low, self.high))
        return off | low & Causal() | high - Causal()


def levels(term: Term) -> Levels | None:
    """A concrete term as patterns between blocks; None where it has none, or is made of other things as well.

    >>> import pidsl
    >>> found = levels(pidsl.window(2).blocked(64) & pidsl.causal)
    >>> found.size, found.off.mask(4).astype(int).tolist()
    (64, [[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0]])
    """
    if not any(isinstance(part, Blocked) for part in walk(term)):
        return None
    size = _size(term)
    if size is None or size < 2:
        return None
    whole = _between(term, size, Full())
    if not _has_causal(term):
        return Levels(size, whole, Empty(), Empty())
    own = Window(0, 0)
    after = _between(term, size, Empty())
    return Levels(size, _between(term, size, Causal()) - own, whole & own, after & own)


def _inside(term: Term) -> dict[str, Term]:
    """The terms that a term is made of, by field."""
    return {name: x for name in term.__match_args__ if isinstance(x := getattr(term, name), Term)}


def _size(term: Term) -> int | None:
    """The largest blocks that a term can be read on, 0 where any do; None if none do."""
    match term:
        case Causal() | Full() | Empty() | Pairs(()):
            return 0
        case Blocked(_, size) | Blocks(size):
            return cast(int, size)
        case Union() | Intersection() | Difference() | SymmetricDifference() | Complement():
            pass
        case Compose() | Transpose() | Power() if not _has_causal(term) and getattr(term, "layers", 1) != 0:
            pass
        case _:
            return None
    sizes = [_size(x) for x in _inside(term).values()]
    return None if None in sizes else gcd(*cast(list[int], sizes))


def _has_causal(term: Term) -> bool:
    """Whether a term is causal by itself, not between blocks."""
    return isinstance(term, Causal) or (
        not isinstance(term, Blocked) and any(_has_causal(x) for x in _inside(term).values())
    )


def _between(term: Term, size: int, causal: Term) -> Term:
    """The term with a token per block, and `causal` for what depends on the place within blocks."""
    match term:
        case Causal():
            return causal
        case Blocked(a, own):
            return a if own == size else Blocked(a, cast(int, own) // size)
        case Blocks(own):
            return Blocks(cast(int, own) // size)
        case _:
            inside = {name: _between(x, size, causal) for name, x in _inside(term).items()}
            return cast(Term, replace(cast(Any, term), **inside))


# -- what is asked between blocks, and what it says about tokens -------------------------------------------------------


def questions(question: Question, found: Levels) -> tuple[Question, ...]:
    """What must be known between blocks to answer a question about tokens."""
    off, low, high = found.off, found.low, found.high
    match question.quantity:
        case "degree" | "max degree":
            return tuple(asking(x, "degree") for x in (off, low, high, found.last))
        case "pairs":
            ends = (low & KEY, high & KEY, off & KEY, off & ROW, off & KEY & ROW)
            return tuple(asking(x, "pairs") for x in (off, low, high, *ends))
        case "live keys":
            return asking(found.any, "live keys"), asking(found.any, "live keys", lookahead=0)
        case _:
            return (replace(question, subject=found.any),)


def unlike(quantity: str, found: Levels) -> str:
    """Why layers do not connect tokens as they connect blocks, "" if they do.

    Pairs of blocks are all pairs of their tokens, or those that look back: then so are the pairs of layers. How far
    they reach takes what a longer sequence does not take away.
    """
    if quantity not in ("depth", "contiguous", "farthest"):
        return ""
    with limited(f"layers of {found.any!r} between blocks"):
        pairs, high = square(found.any), square(found.high)
        if not (square(found.low).is_empty() and high.is_empty()):
            back = read_set("[n] -> { [i, j] : j <= i }")
            if not (high.is_empty() and pairs.is_subset(back)):
                return "some tokens see later ones of their block"
        if quantity == "farthest" and not ends(found):
            return "whether a block attends another depends on n"
    return ""


@lru_cache(maxsize=256)
def ends(found: Levels) -> Ends:
    """How one knows whether the last block alone sees as far as any."""
    pairs = square(found.any)
    if apply(pairs, "[n] -> { [i, j] -> [n - 1 - j, n - 1 - i] }").is_equal(pairs):
        return "reversed"
    if by_length(pairs) is None:
        return ""
    return "back" if pairs.is_subset(read_set("[n] -> { [i, j] : j <= i }")) else "late"


def keys_between(found: Levels, known: Formulas) -> tuple[sympy.Expr, sympy.Expr, sympy.Expr]:
    """The keys of a query as `a + b q - c r`: formulas in i and n, which stand for I and N here."""
    off, low, high, last = known
    return found.size * off + low + (found.size - 1) * high, low - high, last


def between(quantity: str, found: Levels, known: Formulas) -> sympy.Expr:
    """A formula for tokens, from those between blocks that `questions` asks for; in tokens i, n and t.

    Raises:
        TooHardError: blocks do not tell.
    """
    s = sympy.Integer(found.size)
    match quantity:
        case "degree":
            each, per_place, lacking = keys_between(found, known)
            return in_tokens(each + per_place * place - lacking * lacks, found.size)
        case "pairs":
            return in_tokens(_pairs(s, known), found.size)
        case "live keys":
            return _live(s, known)
        case "depth":
            return in_tokens(known[0], found.size)
        case "contiguous":
            far = in_tokens(known[0], found.size)
            return sympy.Piecewise((n - 1, far >= blocks_of(s) - 1), (-1, far < 0), (s * far, True))
        case _:
            some = known[0].replace(lambda x: x == sympy.Eq(L, 0), lambda _: sympy.false)  # `assumed` says so
            return _farthest(found.size, some, ends(found))


def _farthest(size: int, known: sympy.Expr, why: Ends) -> sympy.Expr:
    """The farthest lag of tokens, from that of blocks."""
    s = sympy.Integer(size)

    def most(lag: sympy.Expr) -> sympy.Expr:
        if lag in (n - 1, -sympy.oo):
            return lag
        return s * in_tokens(lag, size) + s - 1

    def cut(lag: sympy.Expr) -> sympy.Expr:
        if lag in (n - 1, -sympy.oo) or lag.is_negative:
            return most(lag)
        return extreme(sympy.Min, n - 1, most(lag))

    if why == "late":
        return _by_case(late(known)[0], most)
    found = _by_case(known, cut, size)
    if why == "reversed" or n not in known.free_symbols or found == n - 1:
        return found
    alone, fewer = (s * in_tokens(x, size) + s - 1 for x in (known, known.subs(n, n - 1)))
    return sympy.Piecewise((found, n <= s), (sympy.Max(fewer, alone - in_tokens(lacks, size), evaluate=False), True))


def _by_case(expr: sympy.Expr, change: Callable[[sympy.Expr], sympy.Expr], size: int = 1) -> sympy.Expr:
    """A formula of blocks as one of tokens, every case changed."""
    if isinstance(expr, sympy.Piecewise):
        cases = ((_by_case(value, change, size), in_tokens(condition, size)) for value, condition in expr.args)
        return sympy.Piecewise(*cases)
    return change(expr)


def late(expr: sympy.Expr) -> tuple[sympy.Expr, int]:
    """What a formula is for long sequences, whatever n is, and from which n on.

    >>> late(sympy.Piecewise((0, n <= 8), (8, True)))
    (8, 9)

    Raises:
        TooHardError: it depends on n for ever.
    """
    start, cases = 1, []
    for value, condition in expr.args if isinstance(expr, sympy.Piecewise) else ((expr, sympy.true),):
        others = []
        for c in condition.args if isinstance(condition, sympy.Or) else (condition,):
            if isinstance(c, sympy.Lt | sympy.Le) and c.lhs == n and c.rhs.is_Integer:
                start = max(start, int(c.rhs) + isinstance(c, sympy.Le))
            else:
                others.append(c)
        if others:
            cases.append((value, sympy.Or(*others)))
    expr = sympy.Piecewise(*cases)
    if n in expr.free_symbols:
        raise TooHardError(f"the formula {expr}", "the same for all long sequences")
    return expr, start


def _pairs(s: sympy.Expr, known: Formulas) -> sympy.Expr:
    """Pairs: `t` tokens of a block attend `t (t + 1) / 2` of it by `low`; the last block has s - r."""
    off, low, high, low_end, high_end, off_key, off_row, off_both = known
    each = s**2 * off + s * (s + 1) / 2 * low + s * (s - 1) / 2 * high
    once = s * (off_key + off_row) + ((2 * s + 1) * low_end + (2 * s - 1) * high_end) / 2
    twice = off_both + (low_end + high_end) / 2
    return each - _some(once) * lacks + _some(twice) * lacks**2


def _some(expr: sympy.Expr) -> sympy.Expr:
    """A formula for n >= 1: without blocks, none lacks a token."""
    return expr.replace(lambda x: isinstance(x, sympy.StrictLessThan) and x.args == (n, 1), lambda _: sympy.false)


def _live(s: sympy.Expr, known: Formulas) -> sympy.Expr:
    """Live keys at t: of whole blocks those that later blocks attend; within a block, its own queries may ask too.

    A block lives on with itself (`own`) if it is one more than those before it that later blocks, or it, attend.
    """
    later, since = known
    block = sympy.floor(t / s)
    before = sympy.Piecewise((0, block < 1), (later.subs(t, block - 1), True))
    own = since.subs(t, block) - before
    within = t - s * block
    return sympy.Piecewise(
        (s * later.subs(t, block), sympy.Eq(within, s - 1)), (s * since.subs(t, block) - (s - 1 - within) * own, True)
    )


def blocks_of(s: sympy.Expr) -> sympy.Expr:
    """How many blocks n tokens are."""
    return sympy.floor((n + s - 1) / s)


def in_tokens(expr: Any, size: int) -> Any:
    """A formula of blocks, in q, r, and i and n for I and N, as one of tokens.

    >>> in_tokens(n * place, 64)
    (i - 64*floor(i/64))*floor(n/64 + 63/64)
    """
    s = sympy.Integer(size)
    blocks, own = blocks_of(s), sympy.floor(i / s)
    values = {i: own, n: blocks, place: i - size * own, lacks: size * blocks - n}

    def put(e: Any) -> Any:
        if e in values:
            return values[e]
        if not (e.args and e.has(*values)):
            return e
        inside = map(put, e.args)
        return extreme(e.func, *inside) if isinstance(e, sympy.Min | sympy.Max) else e.func(*inside)

    return put(expr)


def assumed(question: Question, found: Levels, premises: Sequence[Bound]) -> tuple[sympy.Basic, ...]:
    """The conditions under which a formula for tokens holds, from those between blocks.

    Raises:
        TooHardError: these are others than sequences that are long enough.
    """
    own: dict[str, tuple[sympy.Basic, ...]] = {
        "degree": ROWS, "max degree": (n >= 1,), "pairs": (), "live keys": (t >= 0,)
    }  # fmt: skip
    if question.quantity in own:
        allowed = {*ROWS} if "degree" in question.quantity else {t >= 0, n >= 0}
        if any(set(p.assumptions) - allowed for p in premises):
            raise TooHardError("degrees or counts between blocks for some n", "for every n")
        return own[question.quantity]
    s, made, first = sympy.Integer(found.size), [], sympy.Integer(1)
    if question.layers == 0:
        raise TooHardError("no layer", "one: without any, tokens of a block are not connected")
    if question.layers == ANY:
        made.append(L >= 1)
    why = ends(found) if question.quantity == "farthest" else "reversed"
    one_more = why != "reversed"  # as many blocks, and one
    if why == "late":
        first = s * late(premises[0].expr)[1] + 1
    for c in premises[0].assumptions:
        if n not in c.free_symbols:
            made += [c] if c not in (L >= 0, L >= 1) else []
        elif isinstance(c, sympy.Ge | sympy.Gt) and c.lhs == n and n not in c.rhs.free_symbols:  # N >= x + 1
            least = c.rhs - 1 if isinstance(c, sympy.Ge) else c.rhs
            more = 0 if why == "back" and least == 0 else int(one_more)  # of one block alone all is known
            tokens = sympy.expand(s * (least + more) + 1)
            if tokens.is_Integer:
                first = max(first, tokens)
            else:
                made.append(n >= tokens)
        else:
            raise TooHardError(f"a formula between blocks for {c}", "for n from some number on")
    return (n >= first, *made)
