"""What every word of the language means, written from its documentation: the oracle of benchmarks/bounds.py.

Nothing here comes from pidsl. A pattern is a function that says, for a query at i and a key at j among n queries and m
keys, whether i attends j; i, j, n and m are integers or NumPy arrays of them that broadcast. The words and operators
are those of the language, so `meaning` reads its source with Python's own parser:

    >>> meaning("window(k) | stride(3) & causal", k=1).mask(4).astype(int)
    array([[1, 0, 0, 0],
           [1, 1, 0, 0],
           [0, 1, 1, 0],
           [1, 0, 1, 1]])

What is asked of a pattern follows from its masks: `pairs` is how many there are, `layers` what several connect,
`farthest`, `contiguous` and `depth` what these show, `live` which keys a later query can still attend.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Attends = Callable[[Any, Any, Any, Any], Any]


@dataclass(frozen=True)
class Meaning:
    """A pattern on all integers; only `mask` clips it to the positions that exist."""

    attends: Attends

    def mask(self, n: int, m: int | None = None) -> Bools:
        m = n if m is None else m
        found = self.attends(np.arange(n)[:, None], np.arange(m)[None, :], n, m)
        return np.broadcast_to(np.asarray(found, dtype=bool), (n, m))

    def __or__(self, other: Meaning) -> Meaning:
        return Meaning(lambda *at: self.attends(*at) | other.attends(*at))

    def __and__(self, other: Meaning) -> Meaning:
        return Meaning(lambda *at: self.attends(*at) & other.attends(*at))

    def __xor__(self, other: Meaning) -> Meaning:
        return Meaning(lambda *at: self.attends(*at) ^ other.attends(*at))

    def __sub__(self, other: Meaning) -> Meaning:
        return self & ~other

    def __invert__(self) -> Meaning:
        return Meaning(lambda *at: np.logical_not(self.attends(*at)))

    @property
    def T(self) -> Meaning:
        return Meaning(lambda i, j, n, m: self.attends(j, i, m, n))

    def __matmul__(self, other: Meaning) -> Meaning:
        """Some token t among the m keys of the last layer, which is `self`, lies between."""

        def attends(i: Any, j: Any, n: Any, m: Any) -> Any:
            i, j, n, m = (np.asarray(x)[..., None] for x in (i, j, n, m))
            t = np.arange(m.max(initial=0))
            return (np.asarray(self.attends(i, t, n, m)) & other.attends(t, j, m, m) & (t < m)).any(-1)

        return Meaning(attends)

    def __pow__(self, layers: int) -> Meaning:
        if layers == 0:
            return Meaning(lambda i, j, n, m: i == j)
        return self if layers == 1 else self @ self ** (layers - 1)

    def shift(self, by: int) -> Meaning:
        return Meaning(lambda i, j, n, m: self.attends(i, j + by, n, m))

    def blocked(self, size: int) -> Meaning:
        """The same between blocks; the last block may be shorter."""
        return Meaning(lambda i, j, n, m: self.attends(i // size, j // size, -(-n // size), -(-m // size)))

    def dilated(self, step: int) -> Meaning:
        """Each residue class is a sequence of its own: class c has the positions c, c + step, ... below the length."""

        def attends(i: Any, j: Any, n: Any, m: Any) -> Any:
            c = i % step
            of_class = (n - c + step - 1) // step, (m - c + step - 1) // step
            return (j % step == c) & self.attends(i // step, j // step, *of_class)

        return Meaning(attends)


# -- words -------------------------------------------------------------------------------------------------------------


def _of_lag(holds: Callable[[Any], Any]) -> Meaning:
    return Meaning(lambda i, j, n, m: holds(i - j))


def _same(i: Any, j: Any, value: bool) -> Any:
    return np.full(np.broadcast(i, j).shape, value)


def window(left: int, right: int = 0) -> Meaning:
    return _of_lag(lambda lag: (-right <= lag) & (lag <= left))


def stride(period: int, phase: int = 0) -> Meaning:
    return _of_lag(lambda lag: lag % period == phase)


def lags(*values: int) -> Meaning:
    return _of_lag(lambda lag: np.isin(lag, values))


def ring(radius: int) -> Meaning:
    """Between the n positions of a square pattern, and nowhere else."""

    def attends(i: Any, j: Any, n: Any, m: Any) -> Any:
        around = np.maximum(n, 1)
        near = np.minimum((i - j) % around, (j - i) % around) <= radius
        return near & (0 <= i) & (i < n) & (0 <= j) & (j < n)

    return Meaning(attends)


def _sliced(x: Any, length: Any, start: int, stop: int | None, step: int) -> Any:
    """Whether x is in range(length)[start:stop:step]: negative bounds count from the end."""
    first = np.maximum(start if start >= 0 else length + start, 0)
    end = length if stop is None else np.minimum(length, stop if stop >= 0 else length + stop)
    return (first <= x) & (x < end) & ((x - first) % step == 0)


def keys(start: int, stop: int | None = None, step: int = 1) -> Meaning:
    return Meaning(lambda i, j, n, m: _sliced(j, m, start, stop, step) & _same(i, j, True))


def queries(start: int, stop: int | None = None, step: int = 1) -> Meaning:
    return Meaning(lambda i, j, n, m: _sliced(i, n, start, stop, step) & _same(i, j, True))


def blocks(size: int) -> Meaning:
    return Meaning(lambda i, j, n, m: i // size == j // size)


def pairs(values: Sequence[tuple[int, int]]) -> Meaning:
    listed = set(values)
    attends = np.vectorize(lambda i, j: (int(i), int(j)) in listed, otypes=[bool])
    return Meaning(lambda i, j, n, m: attends(i, j) if np.broadcast(i, j).size else _same(i, j, False))


def where(condition: Callable[..., Any]) -> Meaning:
    if condition.__code__.co_argcount == 2:
        return Meaning(lambda i, j, n, m: condition(i, j) & _same(i, j, True))
    return Meaning(lambda i, j, n, m: condition(i, j, n, m) & _same(i, j, True))


def _on_grid(shape: Any, near: Callable[[int, Any, Any], Any]) -> Meaning:
    """Both tokens lie on the grid, numbered row by row, and `near(axis, query, key)` holds on every axis."""
    shape = shape if isinstance(shape, tuple) else (shape,)

    def attends(i: Any, j: Any, n: Any, m: Any) -> Any:
        tokens = math.prod(shape)
        found = (0 <= i) & (i < tokens) & (0 <= j) & (j < tokens)
        for axis in reversed(range(len(shape))):
            found = found & near(axis, i % shape[axis], j % shape[axis])
            i, j = i // shape[axis], j // shape[axis]
        return found

    return Meaning(attends)


def _per_axis(shape: Any, value: Any) -> Any:
    return value if isinstance(value, tuple | list) else (value,) * (len(shape) if isinstance(shape, tuple) else 1)


def neighborhood(
    shape: Any, window: Any, stride: Any = 1, dilation: Any = 1, causal: Any = False, border: str = "clamp"
) -> Meaning:
    """Windows of each residue class, around the leader of the query's group of `stride` tokens."""
    windows, strides, dilations, flags = (_per_axis(shape, x) for x in (window, stride, dilation, causal))

    def near(axis: int, y: Any, u: Any) -> Any:
        length = shape[axis] if isinstance(shape, tuple) else shape
        size, group, step = windows[axis], strides[axis], dilations[axis]
        count = (length - y % step + step - 1) // step  # tokens of the class; the query is number t among them
        t = y // step
        if flags[axis]:
            leader = np.minimum(t // group * group + group - 1, count - 1)
            first, last = leader - (size - 1), t
        else:
            leader = np.minimum(t // group * group + group // 2, count - 1)
            first = leader - size // 2
            if border == "clamp":  # inward from the end, then from the start: the whole class where that is shorter
                first = np.maximum(np.minimum(first, count - size), 0)
            last = first + size - 1
        return (u % step == y % step) & (first <= u // step) & (u // step <= last)

    return _on_grid(shape, near)


def halo(shape: Any, block: Any, halo: Any) -> Meaning:
    sizes, grown = _per_axis(shape, block), _per_axis(shape, halo)

    def near(axis: int, y: Any, u: Any) -> Any:
        start = sizes[axis] * (y // sizes[axis])
        return (start - grown[axis] <= u) & (u < start + sizes[axis] + grown[axis])

    return _on_grid(shape, near)


WORDS: dict[str, Any] = {
    "full": Meaning(lambda i, j, n, m: _same(i, j, True)),
    "empty": Meaning(lambda i, j, n, m: _same(i, j, False)),
    "causal": _of_lag(lambda lag: lag >= 0),
    "window": window, "stride": stride, "lags": lags, "ring": ring, "keys": keys, "queries": queries,
    "blocks": blocks, "pairs": pairs, "where": where, "neighborhood": neighborhood, "halo": halo,
    "abs": abs, "minimum": np.minimum, "maximum": np.maximum,
}  # fmt: skip


def meaning(text: str, **symbols: int) -> Meaning:
    """The pattern that source spells, with numbers for its symbols."""
    return eval(text, {"__builtins__": {}, **WORDS, **symbols})


# -- what is asked of a pattern ----------------------------------------------------------------------------------------


def product(a: Bools, b: Bools) -> Bools:
    """What two layers connect, `a` the last."""
    return (a.astype(np.float32) @ b.astype(np.float32)) > 0


def layers(masks: Sequence[Bools], n: int) -> Bools:
    """What layers connect, the one at the input first; without any, each token sees itself."""
    seen = np.eye(n, dtype=bool)
    for mask in masks:
        seen = product(mask, seen)
    return seen


def farthest(seen: Bools) -> float:
    i, j = np.nonzero(seen)
    return int((i - j).max()) if len(i) else -math.inf


def contiguous(seen: Bools) -> int:
    """The largest D such that every token sees itself and all of its D predecessors that exist."""
    holes = (lag - 1 for lag in range(len(seen)) if not np.diagonal(seen, -lag).all())
    return next(holes, len(seen) - 1)


def depth(masks: Sequence[Bools], causal: bool) -> float:
    """The fewest layers >= 1 after which exactly so many connect every pair; a schedule begins again after its last."""
    n = len(masks[0])
    wanted = np.tri(n, dtype=bool) if causal else np.ones((n, n), dtype=bool)
    seen, known, count = masks[0], set(), 1
    while not (seen | ~wanted).all():
        state = (count % len(masks), np.packbits(seen).tobytes())
        if state in known:
            return math.inf
        known.add(state)
        seen, count = product(masks[count % len(masks)], seen), count + 1
    return count


def live(pattern: Meaning, last: int, horizon: int) -> list[int]:
    """How many of the keys 0 .. t some query i > t attends in a sequence of some length n > i, for t = 0 .. last.

    Lengths up to `horizon` are looked at: fewer keys than there are, where one is attended again only later.
    """
    ever = np.zeros((horizon, horizon), dtype=bool)
    for n in range(1, horizon + 1):
        ever[:n, :n] |= pattern.mask(n)
    return [int(ever[t + 1 :, : t + 1].any(0).sum()) for t in range(last + 1)]
