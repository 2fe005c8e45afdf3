"""What goes wrong between ranks is said on every one of them: another dtype, pattern or number of tokens, a rank that
is gone; and what is wrong with a call or a module is said before anything is sent.

# follows the hints of pidsl/distributed/running/context.py: __init__, _check_rows, _checked
# follows the hints of pidsl/nn/attention.py: _check_parallel, _shared
# follows the hints of pidsl/nn/places.py: place_shared
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from gloo import Died, fresh, run

import pidsl
import pidsl.nn
from pidsl import ArgumentError, BackendError, TermError
from pidsl.distributed import ContextParallel

WINDOW = "window(5)"


def called(group: dist.ProcessGroup, pattern: str, n: int = 20, dtype: torch.dtype = torch.float32, **more: Any) -> Any:
    parallel = ContextParallel(pidsl.compile(pidsl.parse(pattern), "torch", more.get("score")), group, "contiguous")
    x = parallel.shard(torch.ones(1, 2, n, 8, dtype=dtype))
    return parallel(x, x, x, scale=more.get("scale"))


def differing(group: dist.ProcessGroup, odd: dict[str, Any]) -> str:
    """The error of a rank, of which the last one is called differently."""
    given: dict[str, Any] = {"pattern": WINDOW}
    last = dist.get_rank(group) == dist.get_world_size(group) - 1
    with pytest.raises(ArgumentError) as caught:
        called(group, **(given | odd if last else given))
    called(group, WINDOW)  # the group is as good as before
    return str(caught.value)


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        ({"dtype": torch.bfloat16}, "dtype: rank 2 has bfloat16, the others float32"),
        ({"pattern": "window(6)"}, "window(6)"),
        ({"scale": 0.5}, "rank 2 has 0.5"),
        ({"n": 40}, "rank 2 holds 12 tokens"),
    ],
)
def test_ranks_that_differ(odd: dict[str, Any], said: str) -> None:
    found = run(3, differing, odd)
    assert len(set(found)) == 1 and said in found[0]


def killed(group: dist.ProcessGroup, at: int) -> str:
    """The error of a rank whose neighbour dies before, or in the middle of, a call."""
    parallel = ContextParallel(pidsl.compile(pidsl.parse("window(12)"), "torch"), group, "contiguous")
    x = parallel.shard(torch.ones(1, 2, 40, 8)).requires_grad_()
    out = parallel(x, x, x)
    if dist.get_rank(group) == 1:
        if at == 1:  # the others wait for it in the backward pass
            os.kill(os.getpid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    wait: Callable[[], Any] = out.sum().backward if at == 1 else lambda: parallel(x, x, x)
    with pytest.raises(BackendError) as caught:
        wait()
    return str(caught.value)


@pytest.mark.parametrize("at", [0, 1])
def test_a_rank_that_dies(at: int) -> None:
    found = fresh(3, killed, at, timeout=10.0)
    assert found[1] == Died(-9)
    assert all("rank 1" in found[rank] and "died" in found[rank] for rank in (0, 2))


def refused(group: dist.ProcessGroup) -> None:
    """Before anything is sent; a hint is followed where there is one."""
    kernel = pidsl.compile(pidsl.window(3), "torch")
    layers = pidsl.compile(pidsl.layers([pidsl.window(3), pidsl.causal]), "torch")
    with pytest.raises(ArgumentError, match=r"LayerKernels.*\n.*a kernel"):
        ContextParallel(layers, group)
    assert [ContextParallel(own, group).rank for own in layers] == [0, 0]
    with pytest.raises(ArgumentError, match="sharding = 'ring'"):
        ContextParallel(kernel, group, "ring")
    biased = pidsl.compile(pidsl.window(3), "torch", pidsl.score(alibi=True))
    with pytest.raises(ArgumentError, match="its score asks where they stand"):
        ContextParallel(biased, group, 4)
    ContextParallel(biased, group, "zigzag")
    summed = pidsl.compile(pidsl.summaries(pidsl.window(3), [pidsl.spans(4, pidsl.causal)]), "torch")
    with pytest.raises(TermError, match="a term, a gate or heads"):
        ContextParallel(summed, group)
    parallel = ContextParallel(kernel, group, "contiguous")
    x = torch.ones(2, 2, 6, 8)
    for ids, said in (
        (torch.zeros(2, 6), "int32 or int64 ids"),
        (torch.zeros(3, 6, dtype=torch.int64), "3 rows"),
        (torch.zeros(2, 5, dtype=torch.int64), "ids of 5 tokens"),
        (torch.tensor([[0, 1, 0, 2, 2, 2]] * 2), "an earlier run"),
    ):
        with pytest.raises(ArgumentError, match=said):
            parallel(x, x, x, documents=ids)
    parallel(x, x, x, documents=torch.tensor([[0, 1, 2, 3, 3, 3]] * 2))
    confined = ContextParallel(pidsl.compile(pidsl.window(3) & pidsl.documents, "torch"), group, "contiguous")
    with pytest.raises(ArgumentError, match="documents: nothing"):
        confined(x, x, x)
    confined(x, x, x, documents=torch.zeros(6, dtype=torch.int64))


def modules_refused(group: dist.ProcessGroup) -> None:
    choice = pidsl.window(3) | pidsl.chosen(4, 2, 4)
    with pytest.raises(ArgumentError, match="a selector sees the keys of one rank"):
        pidsl.nn.SparseAttention(16, 2, choice, select=pidsl.select.MoBA(4, 2, 4), context=group)
    listed = pidsl.nn.SparseAttention(16, 2, choice, context=group)
    x = torch.ones(1, 8, 16)
    listed(x, blocks=torch.zeros(1, 1, 2, 2, dtype=torch.int32))
    layer = pidsl.nn.SparseAttention(16, 2, pidsl.window(3), context=group)
    cache = pidsl.Cache(layer.kernel, 1, 2, 8, torch.float32, "cpu")
    with pytest.raises(ArgumentError, match="cache: a cache with context"):
        layer(x, cache=cache)
    for more in ({"lengths": 3}, {"offset": 2}):
        with pytest.raises(ArgumentError, match="a value with context"):
            layer(x, **more)
    layer(x, documents=torch.tensor([[0, 0, 0, 1, 1, 1, -1, -1]]))


@pytest.mark.parametrize("what", [refused, modules_refused])
def test_refused(what: Callable[..., None]) -> None:
    run(1, what)


def test_without_a_group() -> None:
    with pytest.raises(ArgumentError, match="init_process_group"):
        ContextParallel(pidsl.compile(pidsl.window(3), "torch"))
