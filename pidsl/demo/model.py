"""A small causal model over tokens, with the attention as its only variable part."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

import pidsl
from pidsl.nn import Attention, SparseAttention

BYTES = 256
IGNORED = -100  # the target where nothing is asked for
ROPE = 10000.0


class DenseAttention(SparseAttention):
    """The baseline: torch's own causal attention between the same projections."""

    def __init__(self, dim: int, heads: int, rope: float | None = ROPE) -> None:
        super().__init__(dim, heads, pidsl.causal, rope=rope)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, *_: Any) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def attention(pattern: pidsl.Term, dim: int, heads: int, rope: float | None = ROPE) -> Attention:
    """The attention of a layer under a pattern: torch's own for dense causal attention."""
    if pattern == pidsl.causal:
        return DenseAttention(dim, heads, rope)
    return SparseAttention(dim, heads, pattern, rope=rope)


class Block(nn.Module):
    """`x + attention(norm(x))`, then `x + mlp(norm(x))`.

    Args:
        dim: width of the tokens.
        attention: between its projections.
        widen: hidden width of the MLP in units of `dim`.
        convolution: the attention is given each token with a projection of the one before it added, as many models of
            this size have (H3, arXiv 2212.14052): then a layer sees a token further than its pattern says.
    """

    def __init__(self, dim: int, attention: Attention, widen: int = 4, convolution: bool = False) -> None:
        super().__init__()
        self.attention = attention
        self.attention_norm, self.mlp_norm = nn.RMSNorm(dim), nn.RMSNorm(dim)
        self.widen, self.narrow = nn.Linear(dim, widen * dim, bias=False), nn.Linear(widen * dim, dim, bias=False)
        self.before = nn.Linear(dim, dim, bias=False) if convolution else None

    def forward(self, x: Tensor) -> Tensor:
        seen = self.attention_norm(x)
        if self.before is not None:
            seen = seen + self.before(F.pad(seen, (0, 0, 1, -1)))
        x = x + self.attention(seen)
        return x + self.narrow(F.relu(self.widen(self.mlp_norm(x))).square())


class Model(nn.Module):
    """Says of each token what is asked there, from it and those before it.

    Args:
        tokens: how many kinds of tokens there are.
        dim: width of the tokens.
        attentions: the attention of each block.
        widen, convolution: as in `Block`.
    """

    def __init__(
        self, tokens: int, dim: int, attentions: Iterable[Attention], widen: int = 4, convolution: bool = False
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, dim)
        self.blocks = nn.ModuleList(Block(dim, attention, widen, convolution) for attention in attentions)
        self.norm = nn.RMSNorm(dim)
        self.head = nn.Linear(dim, tokens, bias=False)
        nn.init.normal_(self.embedding.weight, std=0.5)
        for block in self.blocks:  # the residual stream keeps its size with depth
            assert isinstance(block, Block)
            for last in (block.attention.out, block.narrow):
                nn.init.normal_(last.weight, std=(2 * len(self.blocks) * last.in_features) ** -0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [B, n, kinds] at each of `tokens` [B, n]."""
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats of `targets` [B, n] at `tokens` [B, n], where they are not IGNORED."""
        logits = self(tokens)
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED)
