"""FlashMask's columns: for each key, one or two stretches of queries that do not attend it.

    columns  causal   queries that do not attend key j
    1        True     those before j, and r1 ..
    2        True     those before j, and r1 .. r2 - 1
    2        False    r1 .., and .. r2 - 1
    4        False    r1 .. r2 - 1, and r3 .. r4 - 1

Source: Wang et al., FlashMask, arXiv 2410.01359; `startend_row_indices` of PaddlePaddle's `flashmask_attention`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pidsl.errors import ArgumentError
from pidsl.language.terms import Term

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class FlashMask(NamedTuple):
    """What FlashMask is called with.

    Args:
        startend_row_indices: int32 [1, 1, Tk, 1 | 2 | 4].
        causal: whether queries before key j are masked besides.
    """

    startend_row_indices: Tensor
    causal: bool


class Columns(NamedTuple):
    """The same as numbers, int64 [keys, 1 | 2 | 4]."""

    columns: Ints
    causal: bool


def flash_columns(attended: list[tuple[Ints, Ints]], more: Bools, tokens: int, term: Term) -> Columns:
    """The fewest columns that say which queries attend each key.

    Args:
        attended: the runs of queries that attend each key, (start, stop), ascending; empty ones attend nothing.
        more: keys that further queries attend.
        tokens: how many queries there are.
        term: the pattern, for the message.

    Raises:
        ArgumentError: there are keys of which FlashMask cannot say it.
    """
    masked, count = _masked(attended, tokens)
    if not more.any() and (found := _causal(masked, tokens)) is not None:
        return Columns(found, True)
    if not more.any() and (count <= 2).all():
        return Columns(_full(masked, count, tokens), False)
    key = int(np.argmax(more | (count > 2)))
    got = f"{term!r}, in which the queries that do not attend key {key} are more than two stretches"
    hint = "packing.block_mask(term), which takes any pattern"
    raise ArgumentError(got, "at most two stretches for each key", "packing.flash_mask(term)", hint)


def _causal(masked: Ints, tokens: int) -> Ints | None:
    """One column or two, if nothing before key j attends it and what else is masked is one stretch."""
    first = np.arange(masked.shape[1])
    if len(first) != tokens or not ((first == 0) | ((masked[0, :, 0] == 0) & (masked[0, :, 1] >= first))).all():
        return None
    behind, count = _compact(np.maximum(masked, first[None, :, None]))
    if (count > 1).any():
        return None
    start, stop = (np.where(count > 0, behind[0, :, x], tokens) for x in (0, 1))
    return start[:, None] if (stop == tokens).all() else np.stack([start, stop], 1)


def _full(masked: Ints, count: Ints, tokens: int) -> Ints:
    """Two columns where each stretch begins at the first query or ends at the last, else four."""
    none_above, none_below = np.array([0, 0]), np.array([tokens, tokens])
    above = (count == 2) | ((count == 1) & (masked[0, :, 0] == 0) & (masked[0, :, 1] < tokens))
    upper = np.where(above[:, None], masked[0], none_above)
    rest = np.where(above[:, None], masked[1], masked[0])
    lower = np.where((count > above)[:, None], rest, none_below)
    if (lower[:, 1] == tokens).all() and (upper[:, 0] == 0).all():
        return np.stack([lower[:, 0], upper[:, 1]], 1)
    return np.concatenate([lower, upper], 1)


def _masked(attended: list[tuple[Ints, Ints]], tokens: int) -> tuple[Ints, Ints]:
    """The stretches of queries between the runs, int64 [stretches, keys, 2], and how many of them are not empty."""
    ends = [np.zeros_like(attended[0][0])]
    for start, stop in attended:
        some = stop > start
        ends += [np.where(some, start, ends[-1]), np.where(some, stop, ends[-1])]
    ends.append(np.full_like(ends[0], tokens))
    return _compact(np.stack([np.stack(pair, 1) for pair in zip(ends[::2], ends[1::2], strict=True)]))


def _compact(stretches: Ints) -> tuple[Ints, Ints]:
    """Those that are not empty first; and how many these are."""
    empty = stretches[..., 1] <= stretches[..., 0]
    order = np.argsort(empty, axis=0, kind="stable")
    return np.take_along_axis(stretches, order[..., None], 0), (~empty).sum(0)
