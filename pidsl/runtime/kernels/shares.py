"""Which heads of q, k and v one launch takes, and how results of several launches become one tensor.

A share is the query heads of one distinct pattern. A program wants the same number of query heads on every key head;
a share of evenly spaced heads is a view, everything else is copied together:

    heads 0 1 2 3        x[:, 0:4]
    heads 0 8 16 24      x[:, 0::8]
    heads 0 1 5          a copy
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import gcd
from typing import Any

import torch
from torch import Tensor

Runs = tuple[tuple[int, int, int], ...]  # (first, count, step), step >= 1


@dataclass(frozen=True, slots=True)
class Shares:
    """The heads of several launches, in the order of the launches.

    Args:
        queries: the query heads of each launch: a partition of all.
        keys: the key heads of each launch, `queries / keys` query heads on each.
    """

    queries: tuple[Runs, ...]
    keys: tuple[Runs, ...]


def shares(heads: tuple[tuple[int, ...], ...], group: int) -> Shares:
    """Views of the query heads of each launch, and of the key heads that they share.

    A key head is repeated where the query heads of a launch do not spread evenly over their key heads.

    >>> shares(((0, 1, 2), (3, 4, 5, 6, 7)), 4)  # key heads: 0; and 0, 1, 1, 1, 1
    Shares(queries=(((0, 3, 1),), ((3, 5, 1),)), keys=(((0, 1, 1),), ((0, 2, 1), (1, 1, 1), (1, 1, 1), (1, 1, 1))))

    Args:
        heads: the query heads of each launch, ascending.
        group: query heads on each key head.
    """
    keys = []
    for mine in heads:
        on_key = Counter(head // group for head in mine)
        even = gcd(*on_key.values())
        keys.append(_runs([key for key, count in on_key.items() for _ in range(count // even)]))
    return Shares(tuple(_runs(mine) for mine in heads), tuple(keys))


def _runs(indices: Sequence[int]) -> Runs:
    """Ascending indices as few slices."""
    found: list[tuple[int, int, int]] = []
    for x in indices:
        if found:
            first, count, step = found[-1]
            gap = x - (first + (count - 1) * step)
            if gap > 0 and (count == 1 or gap == step):
                found[-1] = first, count + 1, gap
                continue
        found.append((x, 1, 1))
    return tuple(found)


def split(x: Tensor, parts: tuple[Runs, ...]) -> tuple[Tensor, ...]:
    """The heads (dimension 1) of each part; views where a part is one run. Differentiable."""
    if torch.compiler.is_compiling():  # what is traced is differentiated as a whole, and its slices need no help
        return tuple(_take(x, runs) for runs in parts)
    return _Split.apply(x, parts)  # type: ignore[no-untyped-call]


def join(parts: tuple[Runs, ...], *results: Tensor) -> Tensor:
    """The inverse of `split` for a partition of the heads: one tensor, written once. Differentiable."""
    if torch.compiler.is_compiling():
        return _put(parts, results)
    return _Join.apply(parts, *results)  # type: ignore[no-untyped-call]


def _slice(run: tuple[int, int, int]) -> slice:
    first, count, step = run
    return slice(first, first + (count - 1) * step + 1, step)


def _take(x: Tensor, runs: Runs) -> Tensor:
    found = [x[:, _slice(run)] for run in runs]
    return found[0] if len(found) == 1 else torch.cat(found, 1)


def _put(parts: tuple[Runs, ...], results: tuple[Tensor, ...]) -> Tensor:
    first = results[0]
    whole = first.new_empty((first.shape[0], sum(x.shape[1] for x in results), *first.shape[2:]))
    for where, mine in _placed(parts, results):
        whole[:, where] = mine
    return whole


def _placed(parts: tuple[Runs, ...], results: Sequence[Tensor]) -> Iterator[tuple[slice, Tensor]]:
    """The heads of each run, and what the results have for them."""
    for runs, result in zip(parts, results, strict=True):
        mine = [result] if len(runs) == 1 else result.split([count for _, count, _ in runs], 1)
        yield from zip(map(_slice, runs), mine, strict=True)


class _Split(torch.autograd.Function):
    """One gradient tensor for all parts: autograd's own slices would each make one, full of zeros."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, parts: tuple[Runs, ...]) -> tuple[Tensor, ...]:
        ctx.parts, ctx.shape = parts, x.shape
        return tuple(_take(x, runs) for runs in parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        total = grads[0].new_zeros(ctx.shape)
        for where, mine in _placed(ctx.parts, grads):
            total[:, where] += mine
        return total, None


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, parts: tuple[Runs, ...], *results: Tensor) -> Tensor:
        ctx.parts = parts
        ctx.set_materialize_grads(False)
        return _put(parts, results)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * (1 + len(ctx.parts))
        return (None, *(_take(grad, runs) for runs in ctx.parts))
