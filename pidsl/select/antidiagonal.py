"""XAttention: blocks by the sums along antidiagonals of their logits."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from pidsl.errors import TermError
from pidsl.select.scores import Per, Rows, products, softmax, wide
from pidsl.select.selector import Selector


class Antidiagonal(Selector):
    """Blocks by strided antidiagonals of the logits (XAttention, arXiv 2503.16428). With S the stride:

        a_uv = sum_s q_{uS + S-1-s} . k_{vS + s} / (S sqrt(D))      one antidiagonal of every S x S square
        p_u = softmax_v(a_uv)                                       over v <= u
        score_rc = sum of p_uv over the squares of query block r and key block c

    The first blocks and the own ones are listed, then the best until their scores and those of the listed sum to
    `threshold` times the sum of all, or the budget is used up. What is kept of the keys is the keys, in groups of S.

    Args:
        block, budget, queries, first, local, per: as of a `Selector`; block and queries multiples of stride.
        stride: S.
        threshold: share of the scores to cover; None: as many blocks as the budget has.

    Raises:
        TermError: as of a `Selector`; or sizes that are no multiples.
    """

    def __init__(
        self, block: int = 128, budget: int = 64, queries: int = 128, *, first: int = 1, local: int = 1,
        per: Per = "head", stride: int = 16, threshold: float | None = 0.9,
    ) -> None:  # fmt: skip
        super().__init__(block, budget, queries, first=first, local=local, per=per)
        if stride < 1 or block % stride or queries % stride:
            got = f"stride = {stride}, block = {block}, queries = {queries}"
            raise TermError(got, "block and queries multiples of stride", "Antidiagonal(...)")
        self.size = self.stride = stride
        self.threshold = threshold

    def summarise(self, units: Tensor, first: int) -> Tensor:
        return pad(units, (0, 0, 0, self.stride - units.shape[3])).flatten(3)

    def width(self, q: Tensor, kept: Tensor) -> int:
        return super().width(q, kept) * (self.queries // self.stride)

    def scores(self, q: Tensor, kept: Tensor, rows: Rows) -> Tensor:
        s, d, groups = self.stride, q.shape[3], kept.shape[2]
        begin, tokens = rows.first * self.queries, rows.count * self.queries
        q = pad(q, (0, 0, rows.start - begin, begin + tokens - rows.end))
        turned = wide(q).unflatten(2, (-1, s)).flip(3).flatten(3)
        u = torch.arange(tokens // s, device=q.device) + begin // s
        seen = torch.arange(groups, device=q.device) <= u[:, None]
        there = (u * s < rows.end) & (u * s + s > rows.start)  # groups with a token of these queries
        p = softmax(products(turned, wide(kept)) / (s * d**0.5), seen) * there[:, None]
        p = pad(p, (0, -groups % (self.block // s))).unflatten(3, (-1, self.block // s)).sum(4)
        return self.shared(p.unflatten(2, (rows.count, -1)).sum(3), kept.shape[1])

    def enough(self, scores: Tensor, always: Tensor, total: Tensor) -> Tensor | None:
        if self.threshold is None:
            return None
        before = scores.cumsum(-1) - scores  # those that are always listed come first
        return before < self.threshold * total
