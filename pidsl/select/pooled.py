"""Selectors that need no training: MoBA, by the mean key of a block, and Quest, by its smallest and largest one."""

from __future__ import annotations

import torch
from torch import Tensor

from pidsl.select.scores import Per, Rows, pooled, products, wide
from pidsl.select.selector import Selector


class MoBA(Selector):
    """Blocks by the mean of their keys, the own block always (MoBA, arXiv 2502.13189):

        score_rc = q_r . mean of k_j over key block c

    The published one has `queries=1`. With more, q is the mean query of the query block.

    >>> import torch, pidsl.select
    >>> choose = pidsl.select.MoBA(block=64, budget=4, queries=64)
    >>> q, k = torch.randn(1, 8, 1000, 32), torch.randn(1, 2, 1000, 32)
    >>> choose(q, k).shape
    torch.Size([1, 8, 16, 4])

    Args:
        block, budget, queries, first, local, per: as of a `Selector`.

    Raises:
        TermError: as of a `Selector`.
    """

    def __init__(
        self, block: int = 64, budget: int = 16, queries: int = 64, *, first: int = 0, local: int = 1,
        per: Per = "head",
    ) -> None:  # fmt: skip
        super().__init__(block, budget, queries, first=first, local=local, per=per)

    def summarise(self, units: Tensor, first: int) -> Tensor:
        return wide(units).mean(3)

    def scores(self, q: Tensor, kept: Tensor, rows: Rows) -> Tensor:
        return self.shared(products(pooled(q, rows), kept), kept.shape[1])


class Quest(Selector):
    """Blocks by the largest product that any of their keys could have (Quest, arXiv 2406.10774):

        score_rc = sum_d max(q_rd min_j k_jd, q_rd max_j k_jd)          j in key block c

    The published one decodes with pages of `block=16`, `queries=1`. With more queries, q is their mean.

    Args:
        block, budget, queries, first, local, per: as of a `Selector`.

    Raises:
        TermError: as of a `Selector`.
    """

    def __init__(
        self, block: int = 16, budget: int = 64, queries: int = 1, *, first: int = 0, local: int = 1,
        per: Per = "head",
    ) -> None:  # fmt: skip
        super().__init__(block, budget, queries, first=first, local=local, per=per)

    def summarise(self, units: Tensor, first: int) -> Tensor:
        units = wide(units)
        if not units.shape[2]:  # of no units there is no smallest
            return units.new_empty(*units.shape[:3], 2 * units.shape[4])
        return torch.cat([units.amin(3), units.amax(3)], -1)

    def scores(self, q: Tensor, kept: Tensor, rows: Rows) -> Tensor:
        q = pooled(q, rows)
        # the smallest key where q is negative, the largest where it is positive
        return self.shared(products(torch.cat([q.clamp(max=0), q.clamp(min=0)], -1), kept), kept.shape[1])
