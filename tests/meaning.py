"""Patterns beside their masks, which are written from the documented meaning of each word with NumPy alone.

A `Meant` is built as its term is, `stride(6, 2) ** 2 & ~causal`; its `mask` asks pidsl for nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import pidsl
from pidsl.language.terms import Term

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
At = Callable[[Ints, Ints, int, int], Bools]  # queries i [a, 1], keys j [1, b], n, m -> [a, b]; any integers i, j


@dataclass(frozen=True)
class Meant:
    """A term and what it means."""

    term: Term
    at: At

    def mask(self, n: int) -> Bools:
        """bool [n, n]."""
        return self._between(np.arange(n), np.arange(n), n, n)

    def _between(self, i: Ints, j: Ints, n: int, m: int) -> Bools:
        return np.broadcast_to(self.at(i.reshape(-1, 1), j.reshape(1, -1), n, m), (i.size, j.size))

    def __or__(self, o: Meant) -> Meant:
        return Meant(self.term | o.term, lambda *x: self.at(*x) | o.at(*x))

    def __and__(self, o: Meant) -> Meant:
        return Meant(self.term & o.term, lambda *x: self.at(*x) & o.at(*x))

    def __sub__(self, o: Meant) -> Meant:
        return Meant(self.term - o.term, lambda *x: self.at(*x) & ~o.at(*x))

    def __xor__(self, o: Meant) -> Meant:
        return Meant(self.term ^ o.term, lambda *x: self.at(*x) ^ o.at(*x))

    def __invert__(self) -> Meant:
        return Meant(~self.term, lambda *x: ~self.at(*x))

    @property
    def T(self) -> Meant:
        return Meant(self.term.T, lambda i, j, n, m: self._between(j, i, m, n).T)

    def __matmul__(self, o: Meant) -> Meant:
        def at(i: Ints, j: Ints, n: int, m: int) -> Bools:
            middle = np.arange(m)
            return _after(self._between(i, middle, n, m), o._between(middle, j, m, m))

        return Meant(self.term @ o.term, at)

    def __pow__(self, layers: int) -> Meant:
        def at(i: Ints, j: Ints, n: int, m: int) -> Bools:
            if layers == 0:
                return i == j
            middle = np.arange(m)
            found = self._between(middle if layers > 1 else i, j, m if layers > 1 else n, m)
            for left in range(layers - 1, 0, -1):
                found = _after(self._between(middle if left > 1 else i, middle, m if left > 1 else n, m), found)
            return found

        return Meant(self.term**layers, at)

    def shift(self, by: int) -> Meant:
        return Meant(self.term.shift(by), lambda i, j, n, m: self._between(i, j + by, n, m))

    def blocked(self, size: int) -> Meant:
        return Meant(
            self.term.blocked(size),
            lambda i, j, n, m: self._between(i // size, j // size, -(-n // size), -(-m // size)),
        )

    def dilated(self, step: int) -> Meant:
        def at(i: Ints, j: Ints, n: int, m: int) -> Bools:
            found = np.zeros((i.size, j.size), dtype=np.bool_)
            for c in range(step):
                here = ((i % step == c) & (j % step == c)).reshape(i.size, j.size)
                found |= here & self._between(i // step, j // step, len(range(c, n, step)), len(range(c, m, step)))
            return found

        return Meant(self.term.dilated(step), at)


def _after(a: Bools, b: Bools) -> Bools:
    return (a.astype(np.float32) @ b.astype(np.float32)) > 0


def _by_lag(term: Term, holds: Callable[[Ints], Bools]) -> Meant:
    return Meant(term, lambda i, j, n, m: holds(i - j))


full = _by_lag(pidsl.full, lambda d: d == d)
empty = _by_lag(pidsl.empty, lambda d: d != d)
causal = _by_lag(pidsl.causal, lambda d: d >= 0)


def window(left: int, right: int = 0) -> Meant:
    return _by_lag(pidsl.window(left, right), lambda d: (d >= -right) & (d <= left))


def stride(period: int, phase: int = 0) -> Meant:
    return _by_lag(pidsl.stride(period, phase), lambda d: d % period == phase)


def lags(*values: int) -> Meant:
    return _by_lag(pidsl.lags(*values), lambda d: np.isin(d, values))


def ring(radius: int) -> Meant:
    def at(i: Ints, j: Ints, n: int, m: int) -> Bools:
        d = (i - j) % max(n, 1)
        inside = (i >= 0) & (i < n) & (j >= 0) & (j < n)
        return inside & (np.minimum(d, max(n, 1) - d) <= radius)

    return Meant(pidsl.ring(radius), at)


def keys(start: int, stop: int | None = None, step: int = 1) -> Meant:
    return Meant(
        pidsl.keys(start, stop, step),
        lambda i, j, n, m: (i == i) & np.isin(j, list(range(m))[start:stop:step]),
    )


def queries(start: int, stop: int | None = None, step: int = 1) -> Meant:
    return Meant(
        pidsl.queries(start, stop, step),
        lambda i, j, n, m: np.isin(i, list(range(n))[start:stop:step]) & (j == j),
    )


def blocks(size: int) -> Meant:
    return Meant(pidsl.blocks(size), lambda i, j, n, m: i // size == j // size)


def classes(a: int, b: int) -> Meant:
    """`where(lambda i, j: i % a == j % b)`."""
    return Meant(pidsl.where(lambda i, j: i % a == j % b), lambda i, j, n, m: i % a == j % b)


def below(a: int, b: int, c: int, d: int) -> Meant:
    """`where(lambda i, j: (a * i + b * j) % c < d)`."""
    return Meant(pidsl.where(lambda i, j: (a * i + b * j) % c < d), lambda i, j, n, m: (a * i + b * j) % c < d)


def random(rng: np.random.Generator, depth: int, most: int = 9) -> Meant:
    """A pattern of up to `depth` operators inside one another, sizes up to `most`."""
    if depth == 0 or rng.random() < 0.25:
        return _word(rng, most)
    a = random(rng, depth - 1, most)
    match rng.integers(12):
        case 0 | 1:
            return a | random(rng, depth - 1, most)
        case 2 | 3:
            return a & random(rng, depth - 1, most)
        case 4:
            return a - random(rng, depth - 1, most)
        case 5:
            return a ^ random(rng, depth - 1, most)
        case 6:
            return ~a if rng.integers(2) else a.T
        case 7:
            return a @ random(rng, depth - 1, most)
        case 8:
            return a ** int(rng.integers(0, 4))
        case 9:
            return a.shift(int(rng.integers(-most, most + 1)))
        case 10:
            return a.blocked(int(rng.integers(1, 6)))
        case _:
            return a.dilated(int(rng.integers(1, 6)))


def _word(rng: np.random.Generator, most: int) -> Meant:
    def one(least: int = 0, top: int = most) -> int:
        return int(rng.integers(least, top + 1))

    match rng.integers(13):
        case 0:
            return (full, causal)[one(0, 1)]
        case 1 | 2:
            return window(one(), one() * one(0, 1))
        case 3 | 4 | 5:
            period = one(1)
            return stride(period, one(0, period - 1))
        case 6:
            return lags(*(one(-most) for _ in range(one(1, 3))))
        case 7:
            return ring(one(0, 4))
        case 8:
            return keys(one(-most), None if one(0, 1) else one(-most), one(1, 4))
        case 9:
            return queries(one(-most), None if one(0, 1) else one(-most), one(1, 4))
        case 10:
            return blocks(one(1))
        case 11:
            return classes(one(1, 5), one(1, 5))
        case _:
            c = one(2, 7)
            return below(one(0, 3), one(-3, 3), c, one(1, c))
