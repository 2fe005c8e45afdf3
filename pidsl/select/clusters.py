"""Routing by k-means: a query attends the keys of its cluster."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from pidsl.errors import ArgumentError, TermError
from pidsl.select.scores import Per, Rows, wide
from pidsl.select.selector import Selector


class Clusters(Selector):
    """Tokens of the clusters that a query belongs to (Routing Transformer, arXiv 2003.05997).

        c(x) = argmax_c mu_c . x / norm(x)             per key head
        query i lists j <= i with c(k_j) = c(q_i)

    and where these are more than `budget`, those with the largest `mu_c . k_j / norm(k_j)`.

    The published code takes the tokens nearest to each centroid of the whole sequence, so that a choice depends on
    tokens to come; here each query has the nearest ones among those before it. The own token is always listed.

    Args:
        dim: of the heads, D.
        kv_heads: key heads, each with centroids of its own.
        clusters: how many centroids.
        budget: tokens that are listed per query.
        routes: a query goes to so many of the nearest clusters.
        decay: of the moving average in `update`.
        first, local, per: as of a `Selector`; "group": by the mean of a group's queries; not "entry".

    Raises:
        TermError: as of a `Selector`; no clusters, more routes than clusters, or lists of an entry.
    """

    centroids: Tensor

    def __init__(
        self, dim: int, kv_heads: int, clusters: int, budget: int = 256, *, routes: int = 1, decay: float = 0.999,
        first: int = 0, local: int = 1, per: Per = "head",
    ) -> None:  # fmt: skip
        super().__init__(1, budget, 1, first=first, local=local, per=per)
        if not 1 <= routes <= clusters or per == "entry":
            got = f"clusters = {clusters}, routes = {routes}, per = {per!r}"
            raise TermError(got, "1 <= routes <= clusters, lists per head or group", "Clusters(...)")
        self.routes, self.decay = routes, decay
        self.register_buffer("centroids", normalize(torch.randn(kv_heads, clusters, dim), dim=-1))

    def _near(self, x: Tensor) -> Tensor:
        """mu_c . x / norm(x) of [B, Hkv, ..., D] with every centroid."""
        return normalize(wide(x), dim=-1) @ self.centroids.to(wide(x).dtype).mT

    def summarise(self, units: Tensor, first: int) -> Tensor:
        near, cluster = self._near(units.squeeze(3)).max(-1)
        return torch.stack([cluster.to(near.dtype), near], -1)

    def scores(self, q: Tensor, kept: Tensor, rows: Rows) -> Tensor:
        grouped = q.unflatten(1, (kept.shape[1], -1))  # [B, Hkv, heads, t, D]
        grouped = grouped.mean(2, keepdim=True) if self.per == "group" else grouped
        own = self._near(grouped.flatten(2, 3)).topk(self.routes).indices.unflatten(2, grouped.shape[2:4])
        cluster, near = kept[:, :, None, None].unbind(-1)
        inside = torch.stack([cluster == own[..., r : r + 1] for r in range(self.routes)]).any(0)
        return torch.where(inside, near, -torch.inf).flatten(1, 2)

    @torch.no_grad()
    def update(self, q: Tensor, k: Tensor) -> None:
        """Move each centroid: `mu <- decay mu + (1 - decay) m`, m the unit vector along the sum of its unit tokens.

        Queries and keys count alike; a centroid without any stays. Call it once per training step.

        Args:
            q, k: [B, Hq, n, D] and [B, Hkv, m, D].

        Raises:
            ArgumentError: other heads or another head_dim than those of the centroids.
        """
        heads, count, d = self.centroids.shape
        if q.shape[1] % heads or k.shape[1] != heads or {q.shape[3], k.shape[3]} != {d}:
            got = f"q {list(q.shape)}, k {list(k.shape)}"
            expected = f"k with {heads} heads of {d}, q with whole groups of them"
            raise ArgumentError(got, expected, "Clusters(...).update")
        tokens = [x.unflatten(1, (heads, -1)).permute(1, 0, 2, 3, 4).flatten(1, 3) for x in (q, k)]
        x = normalize(wide(torch.cat(tokens, 1)), dim=-1)  # [Hkv, tokens, D]
        own = one_hot((x @ self.centroids.to(x.dtype).mT).argmax(-1), count).to(x.dtype)
        new = normalize(own.mT @ x, dim=-1)
        moved = self.centroids * self.decay + new.to(self.centroids.dtype) * (1 - self.decay)
        self.centroids.copy_(torch.where(own.sum(1)[..., None] > 0, moved, self.centroids))
