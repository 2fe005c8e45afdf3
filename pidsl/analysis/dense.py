"""Layers by boolean matrices, for a number of tokens: slower than formulas, and always an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pidsl.errors import TooHardError
from pidsl.language.terms import Term
from pidsl.relation.oracle import dense_mask

Bools = NDArray[np.bool_]
Of = Literal["causal", "all"]
Masks = tuple[Bools, ...]  # one for each axis of a grid; tokens in a row are a grid of one axis
Bits = list[list[int]]  # for each axis, the keys of each position

ROWS = 64  # that are multiplied at a time
WORK = 3e11  # multiplications of single numbers, a few seconds
UNIONS = 3e8  # of 64 bits
BYTES, ROWS_KEPT = 1 << 29, 5e6  # of states that are remembered


def times(a: Bools, b: Bools) -> Bools:
    """The boolean product: who reaches whom through `a` after `b`."""
    return (a.astype(np.float32) @ b.astype(np.float32)) > 0


def farthest_in(seen: Bools) -> int | None:
    """The largest lag of connected pairs; None where there are none."""
    rows = np.flatnonzero(seen.any(axis=1))
    return int((rows - seen[rows].argmax(axis=1)).max()) if len(rows) else None


def contiguous_in(seen: Bools) -> int:
    """The last lag before the first one that some pair lacks."""
    return next((lag - 1 for lag in range(len(seen)) if not np.diagonal(seen, -lag).all()), len(seen) - 1)


MEASURES: dict[str, Callable[[Bools], int | None]] = {"farthest": farthest_in, "contiguous": contiguous_in}


def layered(schedule: Sequence[Masks], work: float = WORK) -> Iterator[tuple[Masks, int]]:
    """What 1, 2, ... layers connect, and how many layers fewer connect the same: 0 if none do.

    A schedule begins again after its last layer. From a state that comes again on, everything does.

    Args:
        schedule: for each layer, the one at the input first, the mask of each axis.
        work: multiplications of single numbers.

    Raises:
        TooHardError: it takes more.
    """
    past: dict[Any, int] = {}
    seen, each = schedule[0], sum(float(len(mask)) ** 3 for mask in schedule[0])
    size = sum(mask.size for mask in seen) / 8
    for done in count(1):
        state = (done % len(schedule), *(np.packbits(mask).tobytes() for mask in seen))
        yield seen, done - past.setdefault(state, done)
        if done * each > work or done * size > BYTES:
            raise TooHardError(f"{done} layers of {_size(seen)} tokens", "a depth, or a cycle, before that")
        seen = tuple(map(times, schedule[done % len(schedule)], seen))


def by_bits(schedule: Sequence[Masks], work: float = UNIONS) -> Iterator[tuple[Bits, int]]:
    """As `layered`, and apart from it: rows are bits of integers."""
    keys = [[[np.flatnonzero(row).tolist() for row in mask] for mask in masks] for masks in schedule]
    seen: Bits = [[1 << p for p in range(len(mask))] for mask in schedule[0]]
    past: dict[Any, int] = {}
    spent = 0.0
    for done in count(1):
        layer = keys[(done - 1) % len(keys)]
        seen = [[_any(before, row) for row in rows] for before, rows in zip(seen, layer, strict=True)]
        state = (done % len(keys), *map(tuple, seen))
        yield seen, done - past.setdefault(state, done)
        spent += sum(len(rows) + sum(map(len, rows)) * max(1, len(rows) / 64) for rows in layer)
        if spent > work or done * sum(map(len, seen)) > ROWS_KEPT:
            raise TooHardError(f"{done} layers of {_size(schedule[0])} tokens", "a depth, or a cycle, before that")


def _any(seen: list[int], keys: list[int]) -> int:
    found = 0
    for key in keys:
        found |= seen[key]
    return found


def _size(masks: Masks) -> str:
    return " x ".join(str(len(mask)) for mask in masks)


def reach_of(quantity: str, layers: Sequence[Term], n: int) -> int | None:
    """Farthest or contiguous of layers, the one at the input first; None for the largest lag of nothing."""
    return reach_in(quantity, [dense_mask(term, n) for term in layers], n)


def reach_in(quantity: str, layers: Sequence[Bools], n: int) -> int | None:
    """Farthest or contiguous of the masks of layers: the first key of each query needs no product of matrices."""
    if quantity == "farthest":
        first = np.arange(n)
        for mask in layers:
            first = np.where(mask, first, n).min(axis=1, initial=n)
        return max((int(i - key) for i, key in enumerate(first) if key < n), default=None)
    if not layers:
        return 0 if n > 1 else n - 1
    seen = layers[0]
    for mask in layers[1:-1]:
        seen = times(mask, seen)
    return contiguous_in(seen) if len(layers) == 1 else _contiguous_after(layers[-1], seen)


def _contiguous_after(mask: Bools, seen: Bools) -> int:
    """Contiguous of one more layer: rows by rows, no keys farther away than what is known to be missing."""
    n, at, reach = len(mask), np.arange(len(mask)), len(mask) - 1
    for start in range(0, n, ROWS):
        first, stop = max(0, start - reach), min(n, start + ROWS)
        lags = at[start:stop, None] - at[None, first:stop]
        missing = lags[(lags >= 0) & ~times(mask[start:stop], seen[:, first:stop])]
        reach = min(reach, int(missing.min(initial=n)) - 1)
        if reach < 0:
            break
    return reach


def target_of(of: Of, n: int) -> Bools:
    """The pairs that depth is about."""
    return np.tri(n, dtype=np.bool_) if of == "causal" else np.ones((n, n), dtype=np.bool_)


def grows(layer: Bools, of: Of) -> bool:
    """Whether L layers connecting all of the target means that L + 1 layers do.

    All pairs: then every token has a key, and every key reaches every token. All causal pairs, with tokens that see
    themselves: one layer more takes nothing away.
    """
    return of == "all" or bool(layer.diagonal().all())


def depth_of(schedule: Sequence[Term], n: int, of: Of) -> int | None:
    """The fewest layers L >= 1 that connect the target; None if no number does.

    Raises:
        TooHardError: it takes too many products of matrices this large.
    """
    masks = [dense_mask(term, n) for term in schedule]
    if len(masks) == 1 and n > 32 and grows(masks[0], of):
        target = target_of(of, n)
        return _search(masks[0], n, lambda seen: bool((seen | ~target).all()))
    return depth_in(masks, of)[0]


def depth_in(schedule: Sequence[Bools], of: Of, work: float = WORK) -> tuple[int | None, int]:
    """As `depth_of`, of masks; and the number of layers after which that is known."""
    target = target_of(of, len(schedule[0]))
    for layers, ((seen,), again) in enumerate(layered([(mask,) for mask in schedule], work), 1):
        if again or not (target & ~seen).any():
            return None if again else layers, layers
    raise AssertionError


def _search(layer: Bools, n: int, enough: Callable[[Bools], bool]) -> int | None:
    """As `depth_of` where more layers are never worse: powers of two, then bisection."""
    if enough(layer):
        return 1
    powers = [layer]
    while not enough(powers[-1]):
        if 1 << len(powers) > 2 * n * n:  # a primitive matrix is full from the power (n - 1)**2 + 1 on (Wielandt)
            return None
        powers.append(times(powers[-1], powers[-1]))
        if (powers[-1] == powers[-2]).all() and not enough(powers[-1]):
            return None
    below, count = powers[-2], 1 << (len(powers) - 2)
    for k in range(len(powers) - 3, -1, -1):
        more = times(below, powers[k])
        if not enough(more):
            below, count = more, count + (1 << k)
    return count + 1


def is_depth(schedule: Sequence[Term], n: int, of: Of, value: int | None) -> str:
    """Why `value` is not the depth, "" if it is: one layer after another, by bits."""
    wanted = [sum(1 << int(j) for j in np.flatnonzero(row)) for row in target_of(of, n)]
    for layers, ((seen,), again) in enumerate(by_bits([(dense_mask(term, n),) for term in schedule]), 1):
        if all(s & w == w for s, w in zip(seen, wanted, strict=True)):
            return "" if layers == value else f"{layers} layers are enough"
        if layers == value:
            return f"{layers} layers are not enough"
        if again:
            return "" if value is None else "no number of layers is enough"
    raise AssertionError
