"""Where some tokens of a longer sequence stand, and terms of their patterns put together.

a | empty -> a    a & full -> a    a - a -> empty    keys(3).T -> queries(3)    lags 5 .. 7 -> window(2).shift(5)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from math import inf
from typing import cast

from pidsl.language.expr import Add, Index, Mul, Var, simplify
from pidsl.language.terms import (
    Blocks,
    Causal,
    Complement,
    Empty,
    Full,
    Keys,
    Lags,
    Queries,
    Term,
    Transpose,
    Window,
)  # fmt: skip
from pidsl.relation.runs import Runs

full, empty = Full(), Empty()
I, J = Var("i"), Var("j")


@dataclass(frozen=True, slots=True)
class View:
    """Local query t is query `row + row_step * t` of n, local key u is key `key + key_step * u` of m.

    Args:
        rows: local queries that there are at most.
        keys: local keys that there are at most.
    """

    row: int
    row_step: int
    key: int
    key_step: int
    n: int
    m: int
    rows: int
    keys: int

    @property
    def lag(self) -> int:
        """Of the first query and the first key."""
        return self.row - self.key

    @property
    def even(self) -> bool:
        """Whether a lag of the sequence is a number of local lags."""
        return self.row_step == self.key_step

    @property
    def same(self) -> bool:
        """Whether every local lag is the lag."""
        return self.lag == 0 and self.row_step == self.key_step == 1

    @property
    def inside(self) -> bool:
        """Whether all local tokens are tokens of the sequence."""
        last = self.key + self.key_step * (self.keys - 1)
        return 0 <= self.key and last < self.m and self.row + self.row_step * (self.rows - 1) < self.n

    @property
    def swapped(self) -> View:
        """With queries for keys."""
        return View(self.key, self.key_step, self.row, self.row_step, self.m, self.n, self.keys, self.rows)

    @property
    def i(self) -> Index:
        """The query's position in the sequence, of the local i."""
        return affine_of(self.row, self.row_step, I)

    @property
    def j(self) -> Index:
        """The key's position."""
        return affine_of(self.key, self.key_step, J)


def word_of(runs: Runs) -> Term:
    """The lags of some runs in words: windows, and single lags together."""
    found: list[Term] = []
    single: list[int] = []
    for first, last in runs:
        if first == -inf and last == inf:
            return full
        if last == inf:
            found.append(Causal() if first == 0 else Causal().shift(int(first)))
        elif first == -inf:
            found.append(~(Causal().shift(int(last) + 1) if last != -1 else Causal()))
        elif first <= 0 <= last:
            found.append(Window(int(last), -int(first)))
        elif first == last or (last - first == 1 and len(runs) > 1):
            single += range(int(first), int(last) + 1)
        else:
            found.append(Window(int(last - first), 0).shift(int(first)))
    found += [Lags(tuple(single))] if single else []
    return reduce(either, found, cast(Term, empty))


def ring_lags(radius: int, view: View) -> Runs:
    """The lags of a ring that some local tokens have."""
    n = view.n
    least, most = view.lag - view.key_step * (view.keys - 1), view.lag + view.row_step * (view.rows - 1)
    found: Runs = [(-inf, inf)] if 2 * radius + 1 >= n else [(-inf, radius - n), (-radius, radius), (n - radius, inf)]
    return [(first, last) for first, last in found if first <= most and last >= least]


def turned(term: Term) -> Term:
    """Queries for keys."""
    match term:
        case Keys(start, stop, step):
            return Queries(start, stop, step)
        case Queries(start, stop, step):
            return Keys(start, stop, step)
        case Full() | Empty() | Blocks():
            return term
        case Transpose(a):
            return a
        case Window(left, right):
            return Window(right, left)
        case _:
            return term.T


def either(a: Term, b: Term) -> Term:
    """`a | b`."""
    if isinstance(a, Empty) or isinstance(b, Full) or a == b:
        return b
    return a if isinstance(b, Empty) or isinstance(a, Full) else a | b


def both(a: Term, b: Term) -> Term:
    """`a & b`."""
    if isinstance(a, Full) or isinstance(b, Empty) or a == b:
        return b
    return a if isinstance(b, Full) or isinstance(a, Empty) else a & b


def without(a: Term, b: Term) -> Term:
    """`a - b`."""
    if isinstance(b, Empty) or isinstance(a, Empty):
        return a
    if isinstance(b, Full) or a == b:
        return empty
    if not isinstance(a, Full):
        return a - b
    return b.of if isinstance(b, Complement) else ~b


def affine_of(first: int, step: int, name: Var) -> Index:
    """`first + step * name`."""
    return simplify(Add(simplify(Mul(step, name)), first))
