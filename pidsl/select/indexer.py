"""DeepSeek's lightning indexer: a few narrow heads score every token before a query."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pidsl.errors import ArgumentError, TermError
from pidsl.select.scores import Rows, attention, log_softmax, wide
from pidsl.select.selector import Selector


class LightningIndexer(Selector):
    """Tokens by a learned score, one list for all heads (DeepSeek-V3.2, arXiv 2512.02556).

        q_ih = Wq x_i per index head h,   k_j = LayerNorm(Wk y_j),   w_ih = (Ww x_i)_h / sqrt(heads)
        score_ij = sum_h w_ih ReLU(q_ih . k_j) / sqrt(width)

    x_i and y_j are what the call gives as queries and keys, all heads of a token side by side: the queries and keys of
    the attention, or, as published, hidden states as [B, 1, n, dim] for both. The published code keeps k in eight
    bits; this one does not.

    Args:
        q_features, k_features: Hq D and Hkv D of what is given as q and as k.
        budget: tokens that are listed per query.
        heads, width: of the index.
        first, local: tokens that are always listed, as of a `Selector`; local=0: the own one by its score.
        rope: base of a rotation of the index's queries and keys; None: no rotation.

    Raises:
        TermError: as of a `Selector`; sizes that are no positive integers, or a rotation of an odd width.
    """

    def __init__(
        self, q_features: int, k_features: int, budget: int = 2048, *, heads: int = 64, width: int = 128,
        first: int = 0, local: int = 0, rope: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__(1, budget, 1, first=first, local=local, per="entry")
        sizes = {"q_features": q_features, "k_features": k_features, "heads": heads, "width": width}
        if any(x < 1 for x in sizes.values()) or (rope is not None and width % 2):
            got = ", ".join(f"{key} = {x}" for key, x in sizes.items())
            raise TermError(got, "positive integers, width even for a rotation", "LightningIndexer(...)")
        self.heads, self.rope = heads, rope
        self.q_map = nn.Linear(q_features, heads * width, bias=False)
        self.k_map = nn.Linear(k_features, width, bias=False)
        self.k_norm = nn.LayerNorm(width)
        self.weights = nn.Linear(q_features, heads, bias=False)

    def summarise(self, units: Tensor, first: int) -> Tensor:
        x = units.squeeze(3).transpose(1, 2).flatten(2).to(self.k_map.weight.dtype)
        return self._turned(self.k_norm(self.k_map(x))[:, None], first)

    def _turned(self, x: Tensor, first: int) -> Tensor:
        if self.rope is None:
            return x
        from pidsl.nn.rotary import rotate  # when it is called: pidsl.nn has modules that are given selectors

        return rotate(x, self.rope, first)

    def width(self, q: Tensor, kept: Tensor) -> int:
        return q.shape[0] * self.heads * kept.shape[2]

    def scores(self, q: Tensor, kept: Tensor, rows: Rows) -> Tensor:
        x = q.transpose(1, 2).flatten(2).to(self.q_map.weight.dtype)
        indexed = self._turned(self.q_map(x).unflatten(2, (self.heads, -1)).transpose(1, 2), rows.start)
        logits = torch.relu(wide(indexed) @ wide(kept).mT)
        weights = wide(self.weights(x)).mT * (self.heads * kept.shape[3]) ** -0.5
        return (logits * weights[..., None]).sum(1, keepdim=True)

    def divergence(
        self, q: Tensor, k: Tensor, attended: tuple[Tensor, Tensor], *, scale: float | None = None,
        blocks: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """The loss that trains the indexer, a scalar: the mean over queries of KL(target_i || softmax_j(score_ij)).

            target_ij = sum of the causal attention over heads, divided by its sum over j

        over all keys before a query, or over those listed. Made for some queries at once, and again in the backward
        pass. Gradients reach the indexer alone.

        Args:
            q, k: what a call is given.
            attended: the queries and keys of the attention, [B, Hq, n, D] and [B, Hkv, n, D].
            scale: of its logits; None: 1 / sqrt(D).
            blocks: lists of this selector, [B, 1, n, any number]: only these tokens count.

        Raises:
            ArgumentError: as of a call; lists of other queries.
        """
        self._check(q, k, 0)
        self._check(*attended, 0)
        n = q.shape[2]
        if blocks is not None and (blocks.dim() != 4 or blocks.shape[:3] != (q.shape[0], 1, n)):
            expected = f"[{q.shape[0]}, 1, {n}, any number]"
            raise ArgumentError(f"blocks: {list(blocks.shape)}", expected, "LightningIndexer(...).divergence")
        q, k, real_q, real_k = (x.detach()[:, :, :n] for x in (q, k, *attended))
        kept = self.summarise(k[:, :, :, None], 0)
        loss = wide(kept).new_zeros(())

        def part(kept: Tensor, rows: Rows) -> Tensor:
            at = slice(rows.start, rows.end)
            seen = rows.known(q.device)[None, None]
            if blocks is not None:
                lists = blocks[:, :, at].long()
                listed = torch.zeros(*lists.shape[:3], rows.end + 1, dtype=torch.bool, device=q.device)
                seen = (
                    seen
                    & listed.scatter_(3, torch.where((lists < 0) | (lists > rows.end), rows.end, lists), True)[..., :-1]
                )
            with torch.no_grad():
                p = attention(real_q[:, :, at], real_k[:, :, : rows.end], rows.start, scale).sum(1, keepdim=True) * seen
                target = (p / p.sum(-1, keepdim=True).clamp_min(1e-30)).to(loss.dtype)
            found = log_softmax(self.scores(q[:, :, at], self.cut(kept, rows), rows), seen).masked_fill(~seen, 0.0)
            return (torch.special.xlogy(target, target) - target * found).sum()

        wide_enough = max(self.width(q, kept), real_q.shape[0] * real_q.shape[1] * n)
        for rows in self.parts(0, n, wide_enough):
            loss = loss + checkpoint(part, kept, rows, use_reentrant=False)
        return loss / (q.shape[0] * n)
