"""Train a small model on packed documents, then generate with the derived cache: the same tokens as without one.

    python docs/examples/generate.py

Each document counts through the letters in steps of its own, "adgbeh...": two letters say what follows. Training packs
documents of several lengths into each row, and nothing is attended across them. Generation appends token by token to a
cache per layer, which holds the keys that the layer's pattern can still ask for, and no others.
"""

from __future__ import annotations

import random
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pidsl
from pidsl import causal, documents, keys, stride, window
from pidsl.nn import SparseAttention

LETTERS, DIM, HEADS = 8, 64, 4
PATTERNS = [window(15) & documents, (window(3) | stride(4) & window(40) | keys(0, 1) & causal) & documents]


class Model(nn.Module):
    """Attention under a pattern for each layer, and one MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(LETTERS, DIM)
        self.norms = nn.ModuleList(nn.RMSNorm(DIM) for _ in PATTERNS)
        self.layers = nn.ModuleList(SparseAttention(DIM, HEADS, pattern, rope=10000.0) for pattern in PATTERNS)
        self.head = nn.Sequential(nn.RMSNorm(DIM), nn.Linear(DIM, 4 * DIM), nn.GELU(), nn.Linear(4 * DIM, LETTERS))

    def forward(self, tokens: Tensor, caches: Any = None, **where: Any) -> Tensor:
        """Logits [B, n, letters] of the letter after each of `tokens` [B, n]."""
        x = self.embedding(tokens)
        for depth, (norm, layer) in enumerate(zip(self.norms, self.layers, strict=True)):
            x = x + layer(norm(x), cache=None if caches is None else caches[depth], **where)
        return self.head(x)

    def caches(self, batch: int) -> list[Any]:
        """An empty cache for each layer."""
        return [
            pidsl.Cache(layer.kernel, batch, layer.kv_heads, layer.head_dim, torch.float32, "cpu")
            for layer in self.layers
        ]


def counted(start: int, step: int, length: int) -> list[int]:
    """`length` letters, each `step` behind the one before."""
    return [(start + step * t) % LETTERS for t in range(length)]


def packed(letters: random.Random, rows: int, total: int) -> tuple[Tensor, Tensor]:
    """Documents one after the other, `total` letters of them in each row, and the document of each letter."""
    tokens: list[list[int]] = []
    ids: list[list[int]] = []
    for _ in range(rows):
        row: list[int] = []
        of: list[int] = []
        while len(row) < total:
            length = min(letters.choice([16, 32, 48]), total - len(row))
            of += [of[-1] + 1 if of else 0] * length
            row += counted(letters.randrange(LETTERS), letters.randrange(1, LETTERS), length)
        tokens.append(row)
        ids.append(of)
    return torch.tensor(tokens), torch.tensor(ids)


def train(model: Model, steps: int, letters: random.Random) -> float:
    """The mean loss of the last steps, in nats per letter."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    last: list[float] = []
    for _ in range(steps):
        tokens, ids = packed(letters, rows=4, total=128)
        logits = model(tokens, documents=ids)
        inside = ids[:, 1:] == ids[:, :-1]  # the first letter of a document follows from nothing
        loss = F.cross_entropy(logits[:, :-1][inside], tokens[:, 1:][inside])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        last.append(loss.item())
    return sum(last[-10:]) / len(last[-10:])


@torch.no_grad()
def generate(model: Model, prompt: Tensor, count: int, caches: Any = None) -> Tensor:
    """`count` letters more, each the most likely one: [B, count]. With caches, each step sees one new letter."""
    tokens, new = prompt, prompt
    for _ in range(count):
        where = {} if caches is not None else {"documents": torch.zeros_like(tokens)}
        logits = model(new if caches is not None else tokens, caches, **where)
        new = logits[:, -1].argmax(-1, keepdim=True)
        tokens = torch.cat([tokens, new], 1)
    return tokens[:, prompt.shape[1] :]


def main(steps: int = 60, count: int = 60) -> bool:
    """Whether the letters with a cache are those without."""
    torch.manual_seed(0)
    letters = random.Random(0)
    model = Model()
    began = time.perf_counter()
    loss = train(model, steps, letters)
    print(f"trained on {steps} batches of packed documents in {time.perf_counter() - began:.0f} s: loss {loss:.3f}")
    right = torch.tensor([counted(start, start + 1, 12 + count) for start in range(4)])
    prompt = right[:, :12]
    caches = model.caches(len(prompt))
    found = generate(model, prompt, count, caches)
    same = torch.equal(found, generate(model, prompt, count))
    print("".join("abcdefgh"[x] for x in prompt[2]), "->", "".join("abcdefgh"[x] for x in found[2, :24]))
    print(f"{(found == right[:, 12:]).float().mean():.0%} of {found.numel()} letters are right")
    tokens = 12 + count - 1  # the last letter is not seen any more
    for layer, cache in zip(model.layers, caches, strict=True):
        held = int((cache.positions[0] >= 0).sum())
        print(f"{layer.kernel.term}: {held} of {tokens} keys held, proved for all lengths: {cache.proof.check()}")
    print("the same letters as without a cache:", same)
    return same


if __name__ == "__main__":
    raise SystemExit(not main())
