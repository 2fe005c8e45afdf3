"""Modules whose tokens ranks share: layers, DDP, FSDP2, checkpointing and compilation, in real processes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from gloo import fresh, run
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.utils.checkpoint import checkpoint

import pidsl
import pidsl.nn

N = 45
IDS = torch.tensor([[0] * 20 + [1] * 25, [3] * 7 + [-1] * 5 + [4] * 33])


def layers(which: str, context: Any = None) -> nn.Module:
    """A module, the same on every rank."""
    torch.manual_seed(1)
    if which == "pi":
        return pidsl.nn.PiAttention(16, 4, k=3, period=8, rope=10000.0, kv_heads=2, context=context, sharding="zigzag")
    pattern = {
        "plain": pidsl.window(5) | pidsl.stride(8) & pidsl.causal,
        "heads": pidsl.heads([(2, pidsl.window(5)), (2, pidsl.causal)]),
        "documents": (pidsl.window(5) | pidsl.keys(0, 1) & pidsl.causal) & pidsl.documents,
    }[which]
    options = {"output_gate": "head", "affine": True} if which == "plain" else {}
    return pidsl.nn.SparseAttention(
        16, 4, pattern, kv_heads=2, rope=10000.0, context=context, sharding="zigzag", **options
    )


def close(x: Tensor, y: Tensor) -> None:
    torch.testing.assert_close(x, y, rtol=2e-5, atol=2e-5)


def layer_of_all(group: dist.ProcessGroup, which: str) -> None:
    torch.manual_seed(0)
    x, seed = torch.randn(2, N, 16), torch.randn(2, N, 16)
    options = {"documents": IDS} if which == "documents" else {}
    alone, shared = layers(which), layers(which, group)
    want = alone(x, **options)
    (want * seed).sum().backward()
    mine = shared.parallel.shard(x, 1)
    out = shared(mine, **options)
    (out * shared.parallel.shard(seed, 1)).sum().backward()
    close(out, shared.parallel.shard(want, 1))
    close(shared.parallel.unshard(out, 1), want)
    for a, b in zip(alone.parameters(), shared.parameters(), strict=True):
        dist.all_reduce(b.grad, group=group)
        close(b.grad, a.grad)


@pytest.mark.parametrize("which", ["plain", "pi", "heads", "documents"])
@pytest.mark.parametrize("ranks", [1, 3, 4])
def test_layers(which: str, ranks: int) -> None:
    run(ranks, layer_of_all, which)


class Model(nn.Module):
    def __init__(self, context: Any, how: str) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.first = nn.Linear(8, 16)
        kinds = ("plain", "heads") if how == "compile" else ("plain", "pi", "heads")
        self.blocks, again = nn.ModuleList(layers(which, context) for which in kinds), how == "checkpoint"
        self.last, self.again = nn.Linear(16, 4), again

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = x + (checkpoint(block, x, use_reentrant=False) if self.again else block(x))
        return self.last(x)


def trained(_: dist.ProcessGroup, how: str) -> None:
    """Two steps of SGD, on a mesh of data x context: all parameters as those of one process."""
    ranks = dist.get_world_size()
    data = torch.randn(2, ranks // 2, N, 8, generator=torch.Generator().manual_seed(3))
    alone = Model(None, how)
    optimiser = torch.optim.SGD(alone.parameters(), lr=0.05)
    for x in data:
        optimiser.zero_grad()
        alone(x).square().mean().backward()
        optimiser.step()
    mesh = init_device_mesh("cpu", (ranks // 2, 2), mesh_dim_names=("dp", "cp"))
    model, everyone = wrapped(Model(mesh["cp"], how), mesh, how)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    parallel = next(x.parallel for x in everyone.modules() if hasattr(x, "parallel"))
    for x in data:
        mine = parallel.shard(x[mesh.get_local_rank("dp")][None], 1)
        optimiser.zero_grad()
        # the mean over ranks of this is the mean over all tokens of the batch
        loss = model(mine).square().sum() * ranks / (len(x) * N * 4)
        loss.backward()
        optimiser.step()
    for a, b in zip(alone.parameters(), everyone.parameters(), strict=True):
        close(b.full_tensor() if hasattr(b, "full_tensor") else b, a)


def wrapped(model: Model, mesh: DeviceMesh, how: str) -> tuple[Any, Model]:
    """What is called, and what has the parameters."""
    if how == "fsdp":
        from torch.distributed.fsdp import fully_shard

        flat = mesh._flatten("all")
        for block in model.blocks:
            fully_shard(block, mesh=flat)
        return fully_shard(model, mesh=flat), model
    if how == "compile":
        return nn.parallel.DistributedDataParallel(torch.compile(model, backend="aot_eager")), model
    return nn.parallel.DistributedDataParallel(model), model


@pytest.mark.parametrize(("how", "ranks"), [("checkpoint", 4), ("fsdp", 4), ("ddp", 2), ("compile", 2)])
def test_training(how: str, ranks: int) -> None:
    """On a mesh of data x 2 ranks of context."""
    fresh(ranks, trained, how)
