"""A mask that is known entry by entry, in few words at its size.

full, empty; a set of lags; some keys and queries beside these; blocks; the last or first keys are padding
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

import pidsl.language.vocabulary as words
from pidsl.interop.runs import any_term, of_runs, runs_of
from pidsl.interop.traced_values import Unreadable
from pidsl.language.terms import Blocks, Causal, Documents, Empty, Full, Keys, Lags, Stride, Term, Window

__all__ = ["of_documents", "of_entries", "of_mask", "packed"]

Bools = NDArray[np.bool_]
FEW = 16  # lags that are listed, and runs of them
MOST_PAIRS = 4096  # that are listed


def of_entries(mask: Bools) -> Term | None:
    """The same, or its pairs where they are few."""
    if (found := of_mask(mask)) is not None:
        return found
    at = np.argwhere(mask)
    return words.pairs([(int(i), int(j)) for i, j in at]) if len(at) <= MOST_PAIRS else None


def packed(mask: Bools) -> tuple[Term, NDArray[np.int64]] | None:
    """The pattern within documents and the document of each token, where no few words say a mask without."""
    return of_documents(mask) if of_mask(mask) is None else None


def of_mask(mask: Bools) -> Term | None:
    """The pattern in a few words that is this mask, bool [n, m], at its size; None: none was found."""
    n, m = mask.shape
    if not n or not m or mask.all():
        return Full()
    if not mask.any():
        return Empty()
    below = bool(not np.triu(mask, 1).any())
    guesses: tuple[Callable[[], Term | None], ...] = (
        lambda: _of_lags(mask), lambda: _of_blocks(mask, below), lambda: _padded(mask), lambda: _beside(mask, below),
        lambda: _of_tiles(mask),
    )  # fmt: skip
    found = (guess() for guess in guesses)
    return next((x for x in found if x is not None and np.array_equal(x.mask(n, m), mask)), None)


def of_documents(mask: Bools) -> tuple[Term, NDArray[np.int64]] | None:
    """The pattern within runs of tokens, `T & documents`, and the run of each token (-1: in no pair); None: no such.

    Args:
        mask: bool [n, n].
    """
    n = len(mask)
    if not n or mask.shape != (n, n) or not mask.any():
        return None
    i, j = np.nonzero(mask)
    starts, stops = (np.bincount(x, minlength=n) for x in (np.minimum(i, j), np.maximum(i, j)))
    inside = np.cumsum(starts - np.concatenate([[0], stops[:-1]]))  # pairs that begin before a token and reach it
    begins = np.cumsum(starts) - starts == np.concatenate([[0], np.cumsum(stops)[:-1]])
    first = np.flatnonzero(begins)
    runs = [(int(a), int(b)) for a, b in zip(first, [*first[1:], n], strict=True) if inside[a]]
    longest = max(runs, key=lambda run: run[1] - run[0])
    pattern = of_mask(mask[slice(*longest), slice(*longest)])
    ids = np.full(n, -1, dtype=np.int64)
    for number, (a, b) in enumerate(runs):
        if pattern is None or not np.array_equal(pattern.mask(b - a), mask[a:b, a:b]):
            return None
        ids[a:b] = number
    if pattern is None:
        return None
    return Documents() if isinstance(pattern, Full) else pattern & Documents(), ids


def _lags(mask: Bools) -> NDArray[np.int64]:
    """How many pairs have each of the lags -(m - 1) .. n - 1."""
    n, m = mask.shape
    lag = np.subtract.outer(np.arange(n), np.arange(m)) + m - 1
    return np.bincount(lag[mask], minlength=n + m - 1)


def _of_lags(mask: Bools) -> Term | None:
    held = _lags(mask)
    every = _lags(np.ones_like(mask))
    return _named(held > 0, (mask.shape[0], mask.shape[1])) if ((held == 0) | (held == every)).all() else None


def _named(held: Bools, shape: tuple[int, int]) -> Term | None:
    """The words for a set of lags -(m - 1) .. n - 1."""
    m = shape[1]
    lags = np.flatnonzero(held) - (m - 1)
    if not len(lags):
        return Empty()
    runs = [(start - (m - 1), stop - m) for start, stop in runs_of(held)]
    if len(runs) > 2 and (found := _periodic(lags, shape)) is not None:
        return found
    if len(runs) > FEW:
        return None
    single = tuple(first for first, last in runs if first == last and first != 0)
    parts = [_run(first, last, shape) for first, last in runs if first != last or first == 0]
    if any(part is None for part in parts):
        return None
    return any_term([*[x for x in parts if x is not None], *([Lags(single)] if single else [])])


def _run(first: int, last: int, shape: tuple[int, int]) -> Term | None:
    n, m = shape
    if first <= -(m - 1) and last >= n - 1:
        return Full()
    if last >= n - 1:
        return Causal() if first == 0 else Causal().shift(first)
    if first <= -(m - 1):
        return ~Causal() if last == -1 else ~Causal().shift(last + 1)
    if first <= 0 <= last:
        return Window(last, -first)
    return Lags(tuple(range(first, last + 1))) if last - first < FEW else None


def _periodic(lags: NDArray[np.int64], shape: tuple[int, int]) -> Term | None:
    """A window and every so manieth lag, both ways or behind only."""
    past = lags[lags >= 0]
    near = int(np.argmin(np.concatenate([np.diff(past) == 1, [False]]))) if len(past) else 0
    far = past[near + 1 :] if near else past
    steps = np.diff(far)
    if len(steps) < 1 or steps[0] < 2 or not (steps == steps[0]).all():
        return None
    period, ahead = int(steps[0]), bool((lags < 0).any())
    if int(far[-1]) + period > shape[0] - 1:  # as far as there are queries
        word: Term = Stride(period, int(far[0]) % period)
        word = word if ahead else word & Causal()
        return Window(near, 0) | word if near else word
    if near or int(far[0]) % period:
        return None
    return Window(int(lags[-1]) // period, int(-lags[0]) // period if ahead else 0).dilated(period)


def _of_blocks(mask: Bools, below: bool) -> Term | None:
    first = mask.argmax(1)
    size = int(np.argmax(first > 0)) if (first > 0).any() else 0
    return None if not size else Blocks(size) & Causal() if below else Blocks(size)


def _of_tiles(mask: Bools) -> Term | None:
    """Tiles of equal size, each full or empty: words for them, or the pairs of blocks."""
    rows, keys = ((mask[1:] != mask[:-1]).any(1), (mask[:, 1:] != mask[:, :-1]).any(0))
    size = int(np.gcd.reduce(np.concatenate([np.flatnonzero(x) + 1 for x in (rows, keys)]), initial=0))
    if size < 2:
        return None
    inner = of_entries(mask[::size, ::size])
    return None if inner is None else inner.blocked(size)


def _beside(mask: Bools, below: bool) -> Term | None:
    """Lags, and keys or queries that attend all there is."""
    shape = mask.shape
    allowed = np.tril(np.ones(shape, dtype=np.bool_)) if below else np.ones(shape, dtype=np.bool_)
    for keys in _some(np.all(mask | ~allowed, axis=0)):
        for queries in _some(np.all(mask, axis=1) & (not below)):
            rest = allowed & ~keys[None, :] & ~queries[:, None]
            held = _lags(mask & rest)
            if not np.array_equal(held, _lags(rest) * (held > 0)):
                continue
            near = _named(held > 0, (mask.shape[0], mask.shape[1]))
            try:
                beside = [of_runs(x, axis) for x, axis in ((keys, "j"), (queries, "i")) if x.any()]
            except Unreadable:
                continue
            if near is not None:
                found = any_term([near, *(x & Causal() for x in beside)] if below else [near, *beside])
                if np.array_equal(found.mask(*shape), mask):
                    return found
    return None


def _some(held: Bools) -> list[Bools]:
    """None of them, those before the last, all: the last keys are attended by few queries, whatever the pattern."""
    inner = held.copy()
    stop = len(held) - int(np.argmin(held[::-1])) if not held.all() else 0
    inner[stop:] = False
    return [x for k, x in enumerate((np.zeros_like(held), inner, held)) if not k or x.any()]


def _padded(mask: Bools) -> Term | None:
    """The last keys are padding, or the first ones."""
    held = np.flatnonzero(mask.any(0))
    first, stop = int(held[0]), int(held[-1]) + 1
    if stop < mask.shape[1]:
        inner = of_mask(mask[:, :stop])
        return None if inner is None else inner & Keys(0, stop, 1)
    if 0 < first < mask.shape[0]:
        inner = of_mask(mask[first:, first:])
        return None if inner is None else inner & Keys(first, None, 1)
    return None
