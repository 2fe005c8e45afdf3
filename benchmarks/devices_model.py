"""A model of clusters, for benchmarks/devices.py: what exchanges take, and what a rank must hold. Nothing is measured.

Bytes and pairs are those of the plan, exact; bandwidths, latency and what a GPU attains are parameters, given with the
results. An exchange takes as long as that of the slowest rank: what comes from its own node and what comes from others
arrives at the same time, each as fast as its link, and each rank that sends costs the latency once.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np

import pidsl
from pidsl.distributed import Plan, plan

GPUS = [8, 16, 32, 64, 128, 256, 512, 1024]
PATTERNS = ["window(4095)", "window(1023) | stride(1024) & causal", "causal"]


@dataclass(frozen=True)
class Cluster:
    """Bytes and floating-point operations per second, seconds, and bytes."""

    gpus_per_node: int = 8
    node_bytes_per_second: float = 450e9  # what a GPU gets from others of its node
    network_bytes_per_second: float = 50e9  # and from other nodes
    latency_seconds: float = 10e-6  # of each rank that sends something, or each step of a ring
    attained_flops: float = 400e12  # by the attention kernels of one GPU
    memory_bytes: float = 80e9
    reserved_bytes: float = 8e9  # for what is not counted here


@dataclass(frozen=True)
class Sizes:
    """A model, trained in bf16 with Adam; states of weights are shared out among all ranks."""

    name: str = "8 billion parameters, 8 key heads"
    parameters: float = 8e9
    layers: int = 32
    heads: int = 32
    kv_heads: int = 8
    head_dim: int = 128
    state_bytes: int = 16  # per parameter: weight and gradient in bf16, weight and two moments in float32
    layer_bytes: int = 34  # per token and element of the width: what the backward pass of one layer needs

    @property
    def width(self) -> int:
        return self.heads * self.head_dim

    @property
    def key_bytes(self) -> int:
        """Of K and V of a token, in one layer."""
        return 2 * self.kv_heads * self.head_dim * 2


MODELS = [Sizes(), Sizes("7 billion parameters, 32 key heads", 6.7e9, kv_heads=32)]


@lru_cache
def planned(pattern: str, n: int, ranks: int, of: Sizes) -> Plan:
    term = pidsl.parse(pattern)
    return plan(term, n, ranks, kv_heads=of.kv_heads, heads=of.heads, head_dim=of.head_dim, dtype="bf16")


# -- time: n tokens on more and more GPUs ----------------------------------------------------------------------------


def clusters(n: int = 1 << 20, of: Sizes = MODELS[0], on: Cluster = Cluster()) -> dict[str, Any]:
    """Seconds of one layer, forward: the pairs of the busiest rank, and its exchange by each way."""
    rows = []
    for pattern in PATTERNS:
        for ranks in GPUS:
            found = planned(pattern, n, ranks, of)
            row = {
                "pattern": pattern, "gpus": ranks, "sharding": found.shards.kind, "imbalance": float(found.imbalance),
                "compute_seconds": 4 * of.head_dim * int(found.pairs.max()) / on.attained_flops,
                "bytes": {"pidsl": found.busiest, **{x.name: x.forward for x in found.others}},
                "exchange_seconds": {
                    "pidsl": exchange(found, on), "all-gather": gathering(n, ranks, of, on),
                    "ring": going_around(n, ranks, of, on), "Ulysses": ulysses(found, on),
                },
            }  # fmt: skip
            rows.append(row)
    return {"parameters": {"n": n, "model": asdict(of), "cluster": asdict(on)}, "rows": rows}


def exchange(found: Plan, on: Cluster) -> float:
    """The slowest of all ranks, of what it gets and of what it sends."""
    ranks = np.arange(found.shards.ranks)
    bytes_ = found.matrix(np.repeat(ranks, len(ranks)), np.tile(ranks, len(ranks))).reshape(len(ranks), -1)
    return max(_arriving(bytes_, on), _arriving(bytes_.T, on))


def _arriving(bytes_: Any, on: Cluster) -> float:
    """From each row to each column."""
    node = np.arange(len(bytes_)) // on.gpus_per_node
    near = node[:, None] == node[None, :]
    inside = np.where(near, bytes_, 0).sum(0) / on.node_bytes_per_second
    outside = np.where(near, 0, bytes_).sum(0) / on.network_bytes_per_second
    return float((np.maximum(inside, outside) + on.latency_seconds * (bytes_ > 0).sum(0)).max())


def gathering(n: int, ranks: int, of: Sizes, on: Cluster) -> float:
    """As good as it can be: a node gets each key once, its GPUs share that out, and hand it on to one another."""
    own = n / ranks * of.key_bytes
    outside = max(0, ranks - on.gpus_per_node) * own / on.gpus_per_node / on.network_bytes_per_second
    inside = (ranks - 1) * own / on.node_bytes_per_second
    return max(inside, outside) + on.latency_seconds * (ranks - 1)


def going_around(n: int, ranks: int, of: Sizes, on: Cluster) -> float:
    """ranks - 1 steps, each as long as that over the slowest link."""
    speed = on.network_bytes_per_second if ranks > on.gpus_per_node else on.node_bytes_per_second
    return (ranks - 1) * (n / ranks * of.key_bytes / speed + on.latency_seconds)


def ulysses(found: Plan, on: Cluster) -> float | None:
    """As much from each rank; None with more ranks than heads."""
    bytes_ = next(x.forward for x in found.others if x.name == "Ulysses")
    if bytes_ is None:
        return None
    ranks = found.shards.ranks
    each = bytes_ / (ranks - 1)
    near = min(ranks, on.gpus_per_node) - 1
    inside, outside = near * each / on.node_bytes_per_second, (ranks - 1 - near) * each / on.network_bytes_per_second
    return max(inside, outside) + 2 * on.latency_seconds * (ranks - 1)  # to the heads, and back


# -- memory: how many GPUs must there be -------------------------------------------------------------------------------

LENGTHS = [1 << e for e in range(17, 25)]
MOST = 1 << 12  # GPUs
WINDOW = PATTERNS[0]  # what moves for it does not depend on how many ranks there are


def own_bytes(n: int, ranks: int, of: Sizes) -> float:
    """What every way holds: states, the input of each layer of its own tokens, and one layer of its own tokens."""
    tokens = -(-n // ranks)
    per_token = of.layers * of.width * 2 + of.layer_bytes * of.width
    return of.state_bytes * of.parameters / ranks + tokens * per_token


def there_bytes(way: str, n: int, ranks: int, of: Sizes) -> float:
    """What it holds of others while it computes one layer, with the gradients of it."""
    if ranks == 1:
        return 0.0
    if way == "all-gather":
        return 2 * (n - n // ranks) * of.key_bytes
    if way == "ring":  # one to compute with, and one on its way
        return 2 * 2 * -(-n // ranks) * of.key_bytes
    return 2 * planned(way, n, ranks, of).forward.most


def fewest(way: str, n: int, of: Sizes, on: Cluster) -> int | None:
    """The fewest ranks whose memory suffices; None where MOST do not."""

    def fits(ranks: int) -> bool:
        return own_bytes(n, ranks, of) + there_bytes(way, n, ranks, of) <= on.memory_bytes - on.reserved_bytes

    if not fits(MOST):
        return None
    low, high = 0, MOST
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def memory(on: Cluster = Cluster(), models: list[Sizes] = MODELS) -> dict[str, Any]:
    """GPUs that must be there for training on one sequence of n tokens, by each way."""
    rows = []
    for of in models:
        for n in LENGTHS:
            gpus = {way: fewest(way, n, of, on) for way in (WINDOW, "ring", "all-gather")}
            held: dict[str, float] = {}  # where the plan of the window has as few as it can
            if ranks := gpus[WINDOW]:
                held = {"own": own_bytes(n, ranks, of), **{way: there_bytes(way, n, ranks, of) for way in gpus}}
            rows.append({"model": of.name, "n": n, "gpus": gpus, "of_one_rank": held})
    return {"parameters": {"models": [asdict(x) for x in models], "cluster": asdict(on)}, "rows": rows}


# -- operations: how many GPUs for the same tokens per second ---------------------------------------------------------


def operations(models: list[Sizes] = MODELS, window: int = 4096) -> dict[str, Any]:
    """Operations of a training step per token: all keys of the past, over a window. The same on one GPU and on many."""
    rows = []
    small = Sizes("85 million parameters", 85e6, layers=12, heads=12, kv_heads=12, head_dim=64)
    for of in (small, *models):
        rest = 6 * of.parameters

        def step(keys: float, of: Sizes = of, rest: float = rest) -> float:
            return rest + 12 * of.layers * of.width * keys

        for n in [1 << 15, *LENGTHS]:
            near = window - window * (window - 1) / 2 / n  # keys of a query, on average
            rows.append({"model": of.name, "n": n, "ratio": step((n + 1) / 2) / step(near)})
    return {"window": window, "models": [asdict(x) for x in (small, *models)], "rows": rows}
