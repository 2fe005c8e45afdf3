"""A small language model over bytes, with the attention as its only variable part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

import pidsl
from pidsl.nn import Attention, SparseAttention

BYTES = 256
ROPE = 10000.0


class DenseAttention(SparseAttention):
    """The baseline: torch's own causal attention between the same projections."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__(dim, heads, pidsl.causal, rope=ROPE)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, *_: Any) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


class Block(nn.Module):
    """`x + attention(norm(x))`, then `x + mlp(norm(x))`."""

    def __init__(self, dim: int, attention: Attention) -> None:
        super().__init__()
        self.attention = attention
        self.attention_norm, self.mlp_norm = nn.RMSNorm(dim), nn.RMSNorm(dim)
        self.widen, self.narrow = nn.Linear(dim, 4 * dim, bias=False), nn.Linear(4 * dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.narrow(F.relu(self.widen(self.mlp_norm(x))).square())


class ByteModel(nn.Module):
    """Predicts each next byte from those before it.

    Args:
        dim: width of the tokens.
        layers: how many blocks.
        attention: makes the attention module of one block.
    """

    def __init__(self, dim: int, layers: int, attention: Callable[[], Attention]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(BYTES, dim)
        self.blocks = nn.ModuleList(Block(dim, attention()) for _ in range(layers))
        self.norm = nn.RMSNorm(dim)
        self.head = nn.Linear(dim, BYTES, bias=False)
        nn.init.normal_(self.embedding.weight, std=0.5)
        for block in self.blocks:  # the residual stream keeps its size with depth
            assert isinstance(block, Block)
            for last in (block.attention.out, block.narrow):
                nn.init.normal_(last.weight, std=(2 * layers * last.in_features) ** -0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [B, n, 256] of the byte after each of `tokens` [B, n]."""
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))

    def loss(self, tokens: Tensor) -> Tensor:
        """Mean cross-entropy in nats of bytes 1 .. n given those before them; `tokens` [B, n + 1]."""
        logits = self(tokens[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())
