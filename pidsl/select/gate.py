"""SeerAttention's gate: a small learned attention between pooled queries and pooled keys."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pidsl.errors import TermError
from pidsl.select.scores import Per, Rows, attention, log_softmax, pooled, products, wide
from pidsl.select.selector import Selector


class SeerGate(Selector):
    """A learned gate on pooled queries and keys before rotation (SeerAttention, arXiv 2410.13276).

        q_r = R(r queries) Wq mean_i q_i               per query head, over the query block
        k_c = R(c block) Wk [max_j k_j, min_j k_j, mean_j k_j]    per key head, over the key block
        gate = softmax_c(q_r . k_c / sqrt(width))      over the blocks that the query block reaches

    with R the rotation of a rotary embedding. The `budget` best blocks are listed, or of these the ones whose gate is
    above `threshold`. With `queries=1` it is the gate for decoding (SeerAttention-R, arXiv 2506.08889) without its
    own projection of a group's queries. The own block is chosen like others, unless it goes on behind the query block.

    Call it, and `distillation`, with queries and keys before their rotation.

    Args:
        dim: of the heads, D.
        heads, kv_heads: query and key heads.
        block, budget, queries, first, per: as of a `Selector`.
        local: as of a `Selector`; None: 0 where query blocks end as key blocks do, else 1.
        width: of the gate's vectors, even.
        rope: base of the rotation's wavelengths; None: no rotation.
        threshold: list only blocks whose gate is above it.

    Raises:
        TermError: as of a `Selector`; a width that is odd, or heads that are not whole groups.
    """

    def __init__(
        self, dim: int, heads: int, kv_heads: int, block: int = 64, budget: int = 16, queries: int = 64, *,
        first: int = 0, local: int | None = None, per: Per = "head", width: int = 128, rope: float | None = 10000.0,
        threshold: float | None = None,
    ) -> None:  # fmt: skip
        local = min(1, queries % block) if local is None else local
        super().__init__(block, budget, queries, first=first, local=local, per=per)
        if width < 1 or width % 2 or heads < 1 or kv_heads < 1 or heads % kv_heads:
            got = f"width = {width}, heads = {heads}, kv_heads = {kv_heads}"
            raise TermError(got, "an even width, and whole groups of heads", "SeerGate(...)")
        self.rope, self.threshold = rope, threshold
        self.q_map = nn.Parameter(torch.empty(heads, dim, width))
        self.k_map = nn.Parameter(torch.empty(kv_heads, 3 * dim, width))
        for x in (*self.q_map, *self.k_map):
            nn.init.xavier_uniform_(x)

    rotated = False

    def summarise(self, units: Tensor, first: int) -> Tensor:
        if not units.shape[2]:
            return units.new_empty(*units.shape[:3], self.k_map.shape[2], dtype=self.k_map.dtype)
        units = wide(units)
        found = torch.cat([units.amax(3), units.amin(3), units.mean(3)], -1).to(self.k_map.dtype) @ self.k_map
        return self._turned(found, first, self.block)

    def _turned(self, x: Tensor, first: int, step: int) -> Tensor:
        if self.rope is None:
            return x
        from pidsl.nn.rotary import rotate  # when it is called: pidsl.nn has modules that are given selectors

        return rotate(x, self.rope, positions=torch.arange(first, first + x.shape[2], device=x.device) * step)

    def log_gate(self, q: Tensor, kept: Tensor, rows: Rows) -> Tensor:
        """Logarithm of the gate, [B, Hq, rows.count, rows.blocks]; -inf where there is no summary to be seen."""
        mapped = self._turned(pooled(q, rows).to(self.q_map.dtype) @ self.q_map, rows.first, self.queries)
        return log_softmax(products(wide(mapped), wide(kept)) * mapped.shape[3] ** -0.5, rows.known(q.device))

    def scores(self, q: Tensor, kept: Tensor, rows: Rows) -> Tensor:
        return self.shared(self.log_gate(q, kept, rows).exp(), kept.shape[1])

    def enough(self, scores: Tensor, always: Tensor, total: Tensor) -> Tensor | None:
        return None if self.threshold is None else scores > self.threshold

    def distillation(
        self, q: Tensor, k: Tensor, attended: tuple[Tensor, Tensor], *, scale: float | None = None
    ) -> Tensor:
        """The loss that trains the gate, a scalar: the Kullback-Leibler divergence to block-max attention.

            target_rc = max of the causal attention p_ij over query block r and key block c, divided by its sum over c

        averaged over heads and query blocks (the published code divides by the number of blocks too, and leaves out
        the first quarter of the query blocks). The attention is made for some query blocks at once. Gradients reach
        the gate alone.

        Args:
            q, k: before rotation, [B, Hq, n, D] and [B, Hkv, n, D].
            attended: the queries and keys that the attention is of, after rotation.
            scale: of its logits; None: 1 / sqrt(D).

        Raises:
            ArgumentError: as of a call.
        """
        self._check(q, k, 0)
        self._check(*attended, 0)
        q, k, (real_q, real_k) = q.detach(), k.detach(), (x.detach() for x in attended)
        n = q.shape[2]
        whole = k[:, :, : n - n % self.block].unflatten(2, (-1, self.block))
        kept = self.summarise(whole, 0)
        if n % self.block:
            kept = torch.cat([kept, self.summarise(k[:, :, None, n - n % self.block :], n // self.block)], 2)
        loss = wide(kept).new_zeros(())
        for rows in self.parts(0, n, q.shape[0] * q.shape[1] * self.queries * n):
            known = rows.known(q.device)
            with torch.no_grad():
                p = attention(real_q[:, :, rows.start : rows.end], real_k[:, :, : rows.end], rows.start, scale)
                target = _largest(_largest(p, self.block, 3), self.queries, 2) * known
                target = (target / target.sum(-1, keepdim=True).clamp_min(1e-30)).to(loss.dtype)
            gate = self.log_gate(q[:, :, rows.start : rows.end], self.cut(kept, rows), rows).masked_fill(~known, 0.0)
            loss = loss + (torch.special.xlogy(target, target) - target * gate).sum()
        return loss / (q.shape[0] * q.shape[1] * -(-n // self.queries))


def _largest(p: Tensor, size: int, axis: int) -> Tensor:
    """The maximum over each `size` of an axis, the last one cut by its end."""
    return torch.stack([x.amax(axis) for x in p.split(size, axis)], axis)
