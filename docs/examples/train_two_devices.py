"""Train a small model whose sequences are shared out among processes: the loss is that of one process.

    python docs/examples/train_two_devices.py
    torchrun --standalone --nproc-per-node 2 docs/examples/train_two_devices.py

Each sequence is random letters that repeat after 48: what comes next stands 47 tokens back, on the other device for
many of them. Every process holds a share of the tokens of each sequence, and all of the weights.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from pidsl import causal, lags, stride, window
from pidsl.nn import SparseAttention

LETTERS, PERIOD, N, DIM, HEADS = 16, 48, 192, 32, 4
PATTERNS = [window(7) | lags(PERIOD - 1), window(3) | stride(16) & causal]


class Model(nn.Module):
    """Attention under a pattern for each layer, and one MLP: as for one device, but for `context`."""

    def __init__(self, context: Any = None) -> None:
        super().__init__()
        self.embedding = nn.Embedding(LETTERS, DIM)
        self.norms = nn.ModuleList(nn.RMSNorm(DIM) for _ in PATTERNS)
        self.layers = nn.ModuleList(
            SparseAttention(DIM, HEADS, pattern, rope=10000.0, context=context, sharding="zigzag", backend="torch")
            for pattern in PATTERNS
        )
        self.head = nn.Sequential(nn.RMSNorm(DIM), nn.Linear(DIM, 2 * DIM), nn.GELU(), nn.Linear(2 * DIM, LETTERS))

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [B, own tokens, letters] of the letter after each of this process's tokens [B, own tokens]."""
        x = self.embedding(tokens)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = x + layer(norm(x))
        return self.head(x)

    def mine(self, x: Tensor) -> Tensor:
        """What this process holds of all tokens [B, n]."""
        parallel = self.layers[0].parallel
        return x if parallel is None else parallel.shard(x, 1)


def train(context: Any = None, steps: int = 40) -> list[float]:
    """The loss of each step, over the tokens of all processes."""
    torch.manual_seed(0)  # the same weights and batches everywhere
    model = Model(context)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    group, losses = None if context is None else context.get_group(), []
    for _ in range(steps):
        letters = torch.randint(LETTERS, (4, PERIOD)).repeat(1, N // PERIOD + 1)[:, : N + 1]
        tokens, following = model.mine(letters[:, :-1]), model.mine(letters[:, 1:])
        loss = F.cross_entropy(model(tokens).flatten(0, 1), following.flatten(), reduction="sum") / (4 * N)
        optimiser.zero_grad()
        loss.backward()
        whole = loss.detach()
        if group is not None:  # each process has its share of the loss, so of the gradients of weights
            for x in (whole, *(p.grad for p in model.parameters())):
                dist.all_reduce(x, group=group)
        optimiser.step()
        losses.append(whole.item())
    return losses


def main(steps: int = 40) -> None:
    """Train, alone or as one of the processes that torchrun has started; the first of them prints the losses."""
    context = None
    if "RANK" in os.environ:  # torchrun sets it
        dist.init_process_group("gloo")
        context = init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("cp",))["cp"]
    losses = train(context, steps)
    if context is None or context.get_rank() == 0:
        ranks = 1 if context is None else context.size()
        print(f"losses on {ranks}:", *(f"{x:.5f}" for x in losses))
    if context is not None:
        dist.barrier()  # no process ends while another still works
        dist.destroy_process_group()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    main(parser.parse_args().steps)
