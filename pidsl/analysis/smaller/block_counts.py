"""Keys and pairs of patterns between blocks of tokens, from those of terms with one token per block.

With blocks of s tokens, query i is number q of block I, and n tokens are N blocks of which the last lacks r:

    i = s I + q,  0 <= q < s,   n = s N - r,  0 <= r < s

A term made of `a.blocked(s)`, `causal` and set operators attends all of another block or nothing of it; `off` says
which. In the query's own block it may attend the tokens up to the query (`low`: which blocks do) and those after it
(`high`). Counting tokens block by block, with `last` the last block that `off` or `high` attend,

    keys(i, n) = s off(I, N) + (q + 1) low(I, N) + (s - 1 - q) high(I, N) - r last(I, N)

where each name stands for the number of keys of query I among N, of a term that knows no blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import gcd
from typing import cast

import sympy

from pidsl.analysis.bound import Bound, asking
from pidsl.analysis.formulas.words import i, n
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
    Power,
    Queries,
    SymmetricDifference,
    Term,
    Transpose,
    Union,
    Window,
    walk,
)

ROWS = (sympy.Ge(i, 0), sympy.Lt(i, n))


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
        return (self.off | self.high) & Keys(-1, None, 1)


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


def _size(term: Term) -> int | None:
    """The largest blocks that a term can be read on, 0 where any do; None if none do."""
    match term:
        case Causal() | Full() | Empty():
            return 0
        case Blocked(_, size) | Blocks(size):
            return cast(int, size)
        case Union(a, b) | Intersection(a, b) | Difference(a, b) | SymmetricDifference(a, b):
            return _common(_size(a), _size(b))
        case Complement(a):
            return _size(a)
        case Compose(a, b) if not (_has_causal(a) or _has_causal(b)):
            return _common(_size(a), _size(b))
        case Transpose(a) if not _has_causal(a):
            return _size(a)
        case Power(a, layers) if not _has_causal(a) and cast(int, layers) >= 1:
            return _size(a)
        case _:
            return None


def _common(a: int | None, b: int | None) -> int | None:
    return None if a is None or b is None else gcd(a, b)


def _has_causal(term: Term) -> bool:
    """Whether a term is causal by itself, not between blocks."""
    match term:
        case Causal():
            return True
        case Union(a, b) | Intersection(a, b) | Difference(a, b) | SymmetricDifference(a, b) | Compose(a, b):
            return _has_causal(a) or _has_causal(b)
        case Complement(a) | Transpose(a) | Power(a, _):
            return _has_causal(a)
        case _:
            return False


def _between(term: Term, size: int, causal: Term) -> Term:
    """The term with a token per block, and `causal` for what depends on the place within blocks."""

    def inner(x: Term) -> Term:
        return _between(x, size, causal)

    match term:
        case Causal():
            return causal
        case Full() | Empty():
            return term
        case Blocked(a, own):
            return a if own == size else Blocked(a, cast(int, own) // size)
        case Blocks(own):
            return Blocks(cast(int, own) // size)
        case Union(a, b):
            return inner(a) | inner(b)
        case Intersection(a, b):
            return inner(a) & inner(b)
        case Difference(a, b):
            return inner(a) - inner(b)
        case SymmetricDifference(a, b):
            return inner(a) ^ inner(b)
        case Complement(a):
            return ~inner(a)
        case Compose(a, b):
            return inner(a) @ inner(b)
        case Transpose(a):
            return inner(a).T
        case Power(a, layers):
            return inner(a) ** layers
        case _:
            raise AssertionError(term)


Of = Callable[[Term], sympy.Expr]


def keys_of_query(found: Levels, degree: Of) -> tuple[sympy.Expr, sympy.Expr, sympy.Expr]:
    """The number of keys as `a + b q - c r`: formulas in i and n, which stand for I and N here.

    Args:
        found: the pattern.
        degree: gives the formula for the keys of query i of a pattern between blocks.
    """
    off, low, high, last = map(degree, (found.off, found.low, found.high, found.last))
    return found.size * off + low + (found.size - 1) * high, low - high, last


def pairs_of(found: Levels, pairs: Of) -> tuple[sympy.Expr, sympy.Expr, sympy.Expr]:
    """The number of pairs as `a - b r + c r**2`: formulas in n, which stands for N here.

    Args:
        found: the pattern.
        pairs: gives the formula for the pairs of a pattern between blocks.
    """
    s, off, low, high = found.size, found.off, found.low, found.high
    key, row = Keys(-1, None, 1), Queries(-1, None, 1)
    each = s**2 * pairs(off) + s * (s + 1) // 2 * pairs(low) + s * (s - 1) // 2 * pairs(high)
    # t = s - r tokens in the last block: t (t + 1) / 2 = s (s + 1) / 2 - r (2 s + 1) / 2 + r**2 / 2
    ends = [pairs(x & key) for x in (low, high)]
    triangles = ((2 * s + 1) * ends[0] + (2 * s - 1) * ends[1]) / 2
    once = s * (pairs(off & key) + pairs(off & row)) + triangles
    return each, _some(once), _some(pairs(off & key & row) + sum(ends) / 2)


def _some(expr: sympy.Expr) -> sympy.Expr:
    """A formula for n >= 1: without blocks, none lacks a token."""
    return expr.replace(lambda x: isinstance(x, sympy.StrictLessThan) and x.args == (n, 1), lambda _: sympy.false)


def degree_of(term: Term) -> sympy.Expr:
    """The formula for the keys of query i.

    Raises:
        TooHardError: it is not known for every n.
    """
    return _known(_degree(term), ROWS)


def pairs_count(term: Term) -> sympy.Expr:
    """The formula for the number of pairs.

    Raises:
        TooHardError: it is not known for every n.
    """
    return _known(_pairs(term), ())


def verified_degree(term: Term) -> sympy.Expr:
    """As `degree_of`, with its proof checked."""
    return _verified(_degree(term), ROWS)


def verified_pairs(term: Term) -> sympy.Expr:
    """As `pairs_count`, with its proof checked."""
    return _verified(_pairs(term), ())


def _degree(term: Term) -> Bound:
    from pidsl.analysis.portfolio import answer

    return answer(asking(term, "degree"))


def _pairs(term: Term) -> Bound:
    from pidsl.analysis.portfolio import answer

    return answer(asking(term, "pairs"))


def _known(bound: Bound, assumptions: tuple[sympy.Basic, ...]) -> sympy.Expr:
    if not bound.is_exact or not set(bound.assumptions) <= set(assumptions):
        raise TooHardError(f"the {bound.name} of {bound.subject!r} for every n", "known", hint=bound.reason)
    return bound.expr


def _verified(bound: Bound, assumptions: tuple[sympy.Basic, ...]) -> sympy.Expr:
    expr = _known(bound, assumptions)
    if not bound.proof.check():
        raise TooHardError(f"the {bound.name} of {bound.subject!r}", "verified")
    return expr
