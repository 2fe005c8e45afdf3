"""Members of the families with formulas among which every one is that no other member is better than.

Better is meant in the numbers of `points`: keys, cache, received and depth. Beside the families of `search` there are
schedules, whose layers differ:

    window | digits     window(w) in every layer, and in m of the first D layers lags that grow from layer to layer

Layer i = 1 .. m attends 0 .. w and the lags w + u_i c for 0 < c < b_i, where

    u_1 = w (D - m) + 1,    u_(i+1) = w + u_i b_i

Sums of one lag of each of the D layers leave nothing out below u_(m+1): of the D - m layers without lags of their own
they are 0 .. u_1 - 1; and if those of the layers before layer i are 0 .. u_i - 1, then with it they are
0 .. w + u_i - 1, and from each w + u_i c on the next u_i. The last lag is cut to n - u_m where that is enough. With
w = 0 this writes lags in digits of mixed bases, and no pattern of any kind has fewer keys (`limits.least_keys`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from pidsl.analysis.schedules import BaseSchedule
from pidsl.language.schedule import layers as layers_with
from pidsl.language.terms import Term
from pidsl.language.vocabulary import causal, lags, stride
from pidsl.language.vocabulary import window as window_of
from pidsl.studies.limits import least_degree
from pidsl.studies.members import Member, Pattern

FEW = 2  # lags that are told one by one
Found = tuple[Member, int]  # a member, and its depth


def _member(pattern: Callable[..., Pattern], depth: int, **sizes: int) -> Found:
    return Member(tuple(sizes.items()), pattern(*sizes.values())), depth


def of_windows(n: int, layers: int, window: int) -> Iterator[Found]:
    """For each depth the smallest window."""
    for depth in range(1, layers + 1):
        k = max(window, -(-(n - 1) // depth))
        yield _member(window_of, max(1, -(-(n - 1) // max(k, 1))), k=k)


def of_skips(n: int, layers: int, window: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Each depth, with windows and the smallest skip of each, where a larger window has a smaller one.

    With c = ceil((p - 1) / k) <= D, D layers see p (D + 1 - c) + k (c - 1) lags without a gap.
    """
    never = np.int64(1) << 40
    top = max(1, window, n - 1)
    for depth in range(1, layers + 1):
        least_ = max(1, window)
        k = np.arange(least_, min(top, max(least_, -(-(n - 1) // depth))) + 1, dtype=np.int64)
        best = np.where(k * depth >= n - 1, k, never)  # the window is enough by itself
        for c in range(1, depth + 1):
            p = np.maximum(k * (c - 1) + 2, -(-(n - 1 - k * (c - 1)) // (depth + 1 - c)))
            p = np.maximum(p, k + 1)
            best = np.minimum(best, np.where(p <= k * c + 1, p, never))
        before = np.minimum.accumulate(np.concatenate([[never], best[:-1]]))
        at = np.flatnonzero(best < before)
        yield depth, k[at], best[at]


def of_combs(n: int, layers: int, window: int) -> Iterator[Found]:
    """For each depth the one with the smallest degree: all keep and receive every key."""
    make: Callable[..., Pattern] = lambda k, p: window_of(k) | stride(p) & causal  # noqa: E731
    for depth in range(1, layers + 1):
        if depth == 1 or n <= 2:
            yield _member(make, 1, k=max(1, window), p=1)
            continue
        k = np.arange(max(1, window), max(window, -(-(n - 1) // depth)) + 1, dtype=np.int64)
        p = np.where(2 * k * depth - k + 1 >= n - 1, k * depth, k * (depth - 1)) + 1
        p = np.where(k * depth >= n - 1, np.maximum(p, n), p)
        at = int(np.argmin(np.minimum(k + 1, n) + (n - 1) // p))
        yield _member(make, depth, k=int(k[at]), p=int(p[at]))


def of_bases(n: int, layers: int, window: int) -> Iterator[Found]:
    """For each depth the smallest base; none has a window in every layer."""
    for depth in range(1, layers + 1) if window == 0 else ():
        base = max(2, least_degree(n, depth))
        shallow = next(d for d in range(1, depth + 1) if base**d >= n)
        yield Member((("b", base),), BaseSchedule(base)), shallow


def of_digits(n: int, layers: int, window: int) -> Iterator[Found]:
    """For each depth each number of layers with lags of their own; with the window that is asked for, and no larger."""
    for depth in range(1, layers + 1):
        for own in range(1, depth + 1):
            yield _member(partial(digits, n, layers), depth, w=window, m=own, D=depth)


def balanced(n: int, w: int, depth: int, own: int) -> list[int]:
    """The smallest bases with u_(m+1) >= n that differ by one at most, the smaller first."""
    low, high = 0, n  # with bases of `high` each it is enough
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _end([middle] * own, w, depth) >= n else (middle, high)
    for more in range(own + 1):
        bases = [max(low, 1)] * (own - more) + [max(high, 1)] * more
        if _end(bases, w, depth) >= n:
            return bases
    raise AssertionError("bases of n connect n tokens")


def _end(bases: list[int], w: int, depth: int) -> int:
    """u_(m+1): the lags below it are connected."""
    unit = w * (depth - len(bases)) + 1
    for base in bases:
        unit = w + unit * base
    return unit


def digits(n: int, layers: int, w: int, m: int, D: int) -> Pattern:
    """The schedule of `window | digits` for n tokens: m layers with lags of their own, D layers deep.

    >>> digits(64, 5, w=1, m=3, D=4)
    layers([window(1) | lags(3, 5), window(1) | lags(8, 15), window(1) | lags(23, 42), window(1), window(1)])
    """
    found: list[Term] = []
    unit = w * (D - m) + 1
    for base in balanced(n, w, D, m):
        last = base == 1 or len(found) == m - 1
        found.append(_digit(w, unit, base, n - unit if last else w + unit * (base - 1)))
        unit = w + unit * base
    return layers_with([*found, *[window_of(w)] * (layers - m)])


def _digit(w: int, unit: int, base: int, top: int) -> Term:
    """The window and the lags w + unit, w + 2 unit, ..., the last of which is cut to `top`."""
    local = window_of(w)
    if base == 1 or top <= w:
        return local
    if (unit == 1 and w + base - 1 == top) or top <= w + 1:
        return window_of(top)
    if w == 0 and top == unit * (base - 1):
        return window_of(base - 1).dilated(unit)
    before = base - 2
    if before < FEW:
        return local | lags(*sorted({*(w + unit * c for c in range(1, before + 1)), top}))
    return (
        local | window_of(before).dilated(unit).shift(w) | lags(top) if unit > 1 else window_of(w + before) | lags(top)
    )


SKIPS = "window | skip"
FRONTS: dict[str, Callable[[int, int, int], Iterator[Found]]] = {
    "window | digits": of_digits,
    "window | stride": of_combs,
    "base schedule": of_bases,
    "window": of_windows,
}
