"""Depth by boolean matrices, for a number of tokens: slower than formulas, and always an answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pidsl.errors import TooHardError
from pidsl.language.terms import Term
from pidsl.relation.oracle import dense_mask

Bools = NDArray[np.bool_]
Of = Literal["causal", "all"]

ROWS = 64  # that are multiplied at a time
WORK = 3e11  # multiplications of single numbers, a few seconds


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
    target = target_of(of, n)
    if len(masks) == 1 and n > 32 and grows(masks[0], of):
        return _search(masks[0], n, lambda seen: bool((seen | ~target).all()))
    seen, count = masks[0], 1
    kept, kept_at = seen, 1
    while not (seen | ~target).all():
        if count * float(n) ** 3 > WORK:
            raise TooHardError(f"{count} products of {n} x {n} matrices", "a depth, or a cycle, before that")
        seen = times(masks[count % len(masks)], seen)
        count += 1
        if (count - kept_at) % len(masks) == 0 and (seen == kept).all():
            return None  # from here on everything repeats, and nothing on the way was enough
        if count >= 2 * kept_at:
            kept, kept_at = seen, count
    return count


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
    """Why `value` is not the depth, "" if it is: rows as bits of integers, one layer after another."""
    masks = [dense_mask(term, n) for term in schedule]
    steps = [[[int(t) for t in np.flatnonzero(row)] for row in mask] for mask in masks]
    wanted = [sum(1 << int(j) for j in np.flatnonzero(row)) for row in target_of(of, n)]
    seen = [1 << i for i in range(n)]
    past: dict[tuple[int, ...], int] = {}
    layers = 0
    work = sum(map(len, steps[0])) * n / 64
    while True:
        seen = [_any(seen, row) for row in steps[layers % len(steps)]]
        layers += 1
        if all(s & w == w for s, w in zip(seen, wanted, strict=True)):
            return "" if layers == value else f"{layers} layers are enough"
        if layers == value:
            return f"{layers} layers are not enough"
        state = (layers % len(steps), *seen)
        if state in past:
            return "" if value is None else "no number of layers is enough"
        past[state] = layers
        if layers * work > 3e8 or layers * n > 4e6:
            raise TooHardError(f"{layers} layers of {n} tokens", "a depth, or a cycle, before that")


def _any(seen: list[int], keys: list[int]) -> int:
    found = 0
    for t in keys:
        found |= seen[t]
    return found
