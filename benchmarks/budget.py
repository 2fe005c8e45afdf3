"""What a budget of chosen blocks buys: recall of a small model under lists of several selectors. Prints JSON.

    python benchmarks/budget.py [--steps 700] [--seed 0] > benchmarks/results/budget.json

A transformer is trained with causal attention on two tasks of 256 tokens, and then attends through a window and the
blocks of 8 keys that a selector lists for each query; its weights are those of before. Nothing else is trained, but
for the gate, which is distilled from the attention of the trained model.

- recall (multi-query associative recall, arXiv 2312.04927): keys with a value behind each stand among filler; later
  on some of the keys come again, and what is asked for is their value.
- passkey: a marker with four values behind it stands among filler; at the end the marker comes again.

Every layer begins with a convolution over two tokens, as many models of this size have (H3, arXiv 2212.14052), so
that one layer of attention can recall.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pidsl
import pidsl.select
from pidsl import causal, chosen, window
from pidsl.nn import SparseAttention

N, DIM, HEADS, LAYERS, ROPE = 256, 64, 4, 2, None
FILLER, KEYS, VALUES = 32, 64, 64  # tokens of each kind, in this order; then the marker
MARKER = FILLER + KEYS + VALUES
PAIRS, ASKED, BEHIND = 16, 16, 64  # pairs, how many of them are asked for, and in how many tokens at the end
BLOCK, LOCAL = 8, 7
BUDGETS = (1, 2, 3, 4, 6, 8, 12, 16, 32)
IGNORED = -100


class Layer(nn.Module):
    """A convolution over two tokens, attention, and a perceptron, each added to what comes in."""

    def __init__(self, pattern: pidsl.Term, select: Any) -> None:
        super().__init__()
        self.norm, self.wide_norm = nn.LayerNorm(DIM), nn.LayerNorm(DIM)
        self.before = nn.Linear(DIM, DIM, bias=False)
        self.attention = SparseAttention(DIM, HEADS, pattern, rope=ROPE, select=select, backend="torch")
        self.wide = nn.Sequential(nn.Linear(DIM, 2 * DIM), nn.GELU(), nn.Linear(2 * DIM, DIM))

    def seen(self, x: Tensor) -> Tensor:
        """What the attention is given."""
        x = self.norm(x)
        return x + self.before(F.pad(x, (0, 0, 1, -1)))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.seen(x))
        return x + self.wide(self.wide_norm(x))


class Model(nn.Module):
    """Layers between an embedding and logits [B, n, tokens]."""

    def __init__(self, pattern: pidsl.Term, selects: Any = (None,) * LAYERS) -> None:
        super().__init__()
        self.embedding = nn.Embedding(MARKER + 1, DIM)
        self.layers = nn.ModuleList(Layer(pattern, select) for select in selects)
        self.norm, self.logits = nn.LayerNorm(DIM), nn.Linear(DIM, MARKER + 1)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.logits(self.norm(x))


def recall(batch: int, n: int, made: torch.Generator) -> tuple[Tensor, Tensor]:
    """Tokens [batch, n], and what comes behind each where that is asked for."""
    tokens = torch.randint(FILLER, (batch, n), generator=made)
    targets = torch.full((batch, n), IGNORED)
    pairs, behind = n // 16, n // 4
    keys = torch.rand(batch, KEYS, generator=made).argsort(1)[:, :pairs] + FILLER
    values = torch.randint(FILLER + KEYS, MARKER, (batch, pairs), generator=made)
    at = 2 * torch.rand(batch, (n - behind) // 2, generator=made).argsort(1)[:, :pairs]
    asked = n - behind + 2 * torch.rand(batch, behind // 2, generator=made).argsort(1)[:, :pairs]
    for where in (at, asked):
        tokens.scatter_(1, where, keys).scatter_(1, where + 1, values)
    return tokens, targets.scatter_(1, asked, values)


def passkey(batch: int, n: int, made: torch.Generator) -> tuple[Tensor, Tensor]:
    """The same of one marker, with four values behind it."""
    tokens = torch.randint(FILLER, (batch, n), generator=made)
    targets = torch.full((batch, n), IGNORED)
    values = torch.rand(batch, VALUES, generator=made).argsort(1)[:, :4] + FILLER + KEYS
    said = torch.cat([torch.full((batch, 1), MARKER), values], 1)
    at = torch.randint(n - n // 4 - 5, (batch, 1), generator=made) + torch.arange(5)
    tokens.scatter_(1, at, said)
    tokens[:, -5:], targets[:, -5:-1] = said, values
    return tokens, targets


TASKS = {"recall": recall, "passkey": passkey}


def loss_of(model: Model, tokens: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten(), ignore_index=IGNORED)


def trained(steps: int, batch: int, made: torch.Generator) -> Model:
    """A model with causal attention that has seen both tasks."""
    model = Model(causal)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for step in range(steps):
        n = N >> max(0, 3 - 6 * step // steps)
        half = [task(batch * N // n // 2, n, made) for task in TASKS.values()]
        loss = loss_of(model, *(torch.cat(x) for x in zip(*half, strict=True)))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(step, f"{loss.item():.3f}", f"{time.process_time():.0f}s", file=__import__("sys").stderr)
    return model

if __name__ == "__main__":
    import sys
    torch.set_num_threads(1)
    torch.manual_seed(0)
    made = torch.Generator().manual_seed(0)
    m = trained(int(sys.argv[1]), int(sys.argv[2]), made)
    torch.save(m.state_dict(), "/tmp/models_budget.pt")
    with torch.no_grad():
        for name, task in TASKS.items():
            t, y = task(64, N, made)
            print(name, (m(t).argmax(-1) == y)[y != IGNORED].float().mean())
