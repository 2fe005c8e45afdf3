"""Calls as strangers make them: any strides and dtypes, some gradients alone, checkpointing, several calls at a time;
and what goes wrong on one rank alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from gloo import run
from hypothesis import given, settings
from hypothesis import strategies as st
from test_context import MOVES, RUNS, TIMES, Case, planned
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import pidsl
from pidsl import ArgumentError, TooHardError
from pidsl.distributed import ContextParallel
from pidsl.distributed.running import prepare

FAR = "window(3) | keys(0, 2) | queries(0, 2)"


@dataclass(frozen=True)
class Way:
    """How a call is made: which tensors have gradients, which results are used, what is around it."""

    pattern: str
    n: int
    moves: tuple[Any, ...] = ()
    needs: str = "qkv"
    used: str = "ol"
    around: str = ""
    sinks: bool = False


def alike(x: Tensor, y: Tensor, tolerance: float = 3e-5) -> None:
    torch.testing.assert_close(x, y.to(x.dtype), rtol=tolerance, atol=tolerance)


def tensors(n: int, dtype: torch.dtype = torch.float32, batch: int = 2) -> list[Tensor]:
    """q, k and v; the same on every rank."""
    torch.manual_seed(n)
    shapes = (4, 8), (2, 8), (2, 16)
    return [torch.randn(batch, heads, n, width, dtype=dtype) for heads, width in shapes]


def loss_of(out: Tensor, lse: Tensor, used: str) -> Tensor:
    each = {"o": out.square().sum(), "l": torch.where(lse.isinf(), 0.0, lse).square().sum()}
    return torch.stack([each[x] for x in used]).sum()


def called(call: Callable[..., Any], around: str, *given: Tensor) -> Any:
    if around:
        return checkpoint(call, *given, use_reentrant=around == "reentrant")
    return call(*given)


def parallel_of(group: dist.ProcessGroup, pattern: str, n: int, moves: tuple[Any, ...] = (), **more: Any) -> Any:
    parallel = ContextParallel(pidsl.compile(pidsl.parse(pattern), "torch", **more), group, "contiguous")
    parallel._kept.setups.clear()  # those of other moves
    prepare.plan = planned(Case(pattern, n, parallel.ranks, moves=moves)) if moves else pidsl.distributed.plan
    return parallel


def as_one_device(group: dist.ProcessGroup, way: Way) -> None:
    parallel = parallel_of(group, way.pattern, way.n, way.moves, score=pidsl.score(sinks=True) if way.sinks else None)
    sinks = {"sinks": torch.ones(4, requires_grad=True)} if way.sinks else {}
    whole = [x.requires_grad_(name in way.needs) for name, x in zip("qkv", tensors(way.n), strict=True)]
    mine = [parallel.shard(x.detach()).requires_grad_(x.requires_grad) for x in whole]
    out, lse = parallel.kernel(*whole, return_lse=True, **sinks)
    found = called(partial(parallel, return_lse=True, **sinks), way.around, *mine)
    for x, y in zip(found, (out, lse), strict=True):
        alike(x, parallel.shard(y))
    inside = [x for x in (*whole, *sinks.values()) if x.requires_grad]
    want = torch.autograd.grad(loss_of(out, lse, way.used), inside)
    inside = [x for x in (*mine, *sinks.values()) if x.requires_grad]
    loss_of(*found, way.used).backward(retain_graph=not way.around)
    first = [x.grad for x in inside]
    if not way.around:
        again = torch.autograd.grad(loss_of(*found, way.used), inside)
        assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))
    for x, y in zip(first, want, strict=True):
        if x.dim() == 1:
            dist.all_reduce(x, group=group)
        alike(x, parallel.shard(y) if y.dim() == 4 else y)


WAYS = st.builds(
    Way,
    st.sampled_from(["window(5)", "causal", FAR, "keys(0, 3) & causal", "stride(4) & causal", "lags(20)"]),
    st.sampled_from([0, 1, 3, 24, 37]),
    MOVES,
    st.sampled_from(["qkv", "q", "kv", "v", "qk"]),
    st.sampled_from(["ol", "o", "l"]),
    st.sampled_from(["", "", "checkpoint", "reentrant"]),
    st.booleans(),
)


@settings(RUNS, max_examples=60 * TIMES)
@given(WAYS, st.integers(1, 5))
def test_gradients_of_some_tensors_from_some_results(way: Way, ranks: int) -> None:
    """Ranks that need nothing, have no rows, or compute nothing keep in step with the others going back."""
    run(ranks, as_one_device, way, limit=20)


def odd_tensors(group: dist.ProcessGroup) -> None:
    """Strides, dtypes and modes that one device takes."""
    parallel, kernel = parallel_of(group, "window(9) | stride(4) & causal", 21), None
    kernel = parallel.kernel
    whole = tensors(21)
    want = kernel(*whole)
    mine = [parallel.shard(x) for x in whole]
    alike(parallel(*(x.transpose(1, 3).contiguous().transpose(1, 3) for x in mine)), parallel.shard(want))
    q, k, v = [x.repeat_interleave(2, -1)[..., ::2] for x in mine]
    alike(parallel(q, k, v), parallel.shard(want))
    same = parallel(mine[0][:1].expand(2, -1, -1, -1), *(x[:1].expand(2, -1, -1, -1) for x in mine[1:]))
    alike(same, parallel.shard(want)[:1].expand_as(same))
    with torch.no_grad():
        alike(parallel(*mine), parallel.shard(want))
    with torch.inference_mode():
        alike(parallel(*mine).mul_(2), 2 * parallel.shard(want))
    for dtype in (torch.bfloat16, torch.float16):
        low = [x.to(dtype) for x in mine]
        out = parallel(*low)
        assert out.dtype == dtype
        alike(out.float(), parallel.shard(kernel(*(x.to(dtype) for x in whole))).float(), 0.02)
    leaves = [x.clone().requires_grad_() for x in mine]
    with torch.autocast("cpu", torch.bfloat16):
        out = parallel(*leaves)
    assert out.dtype == torch.bfloat16
    alike(out.float(), parallel.shard(want), 0.03)
    out.sum().backward()
    assert all(x.grad.dtype == torch.float32 for x in leaves)
    none = parallel(*(x[:0] for x in mine))
    assert none.shape == (0, 4, mine[0].shape[2], 16)


def changed_in_place(group: dist.ProcessGroup) -> None:
    """A result may be changed, like that of one device: what needs its old value says so."""
    parallel = parallel_of(group, "window(9)", 21)
    mine = [parallel.shard(x).requires_grad_() for x in tensors(21)]
    out, lse = parallel(*mine, return_lse=True)
    kept = out.detach().clone()
    lse += 1.0
    (2 * lse).sum().backward()
    want = [x.grad for x in mine]
    other = parallel(*mine, return_lse=True)[1]
    alike(*(torch.autograd.grad(2 * other.sum(), mine[0])[0], want[0]))
    with torch.no_grad():
        out.zero_()
        alike(parallel(*mine), kept)


def several_at_a_time(group: dist.ProcessGroup) -> None:
    """Two patterns in turn, all forward before any backward, twice over."""
    near, far = (parallel_of(group, pattern, 21) for pattern in ("window(9)", FAR))
    whole = [x.requires_grad_() for x in tensors(21)]
    mine = [near.shard(x.detach()).requires_grad_() for x in whole]

    def deep(first: Any, second: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        a, b = first(q, k, v), second(q, k, v)
        c = first(b[..., :8], k, v)
        return (a * b + c + second(c[..., 8:], k, v)).square().sum()

    want = torch.autograd.grad(deep(near.kernel, far.kernel, *whole), whole)
    for around in ("", "checkpoint", "reentrant"):
        found = called(partial(deep, near, far), around, *mine)
        for x in mine:
            x.grad = None
        found.backward()
        for x, y in zip(mine, want, strict=True):
            alike(x.grad, near.shard(y), 1e-3)


@pytest.mark.parametrize("what", [odd_tensors, changed_in_place, several_at_a_time])
def test_calls(what: Callable[..., None]) -> None:
    run(3, what)


def plans(group: dist.ProcessGroup) -> None:
    parallel = parallel_of(group, "window(9)", 21)
    found = parallel.plan(21, kv_heads=2, head_dim=8, dtype="fp32")
    assert found.shards == parallel.shards(21) and found.forward.most == 9 * 2 * (8 + 8) * 4
    x = torch.randn(2, 21, 3, generator=torch.Generator().manual_seed(1))
    assert torch.equal(parallel.unshard(parallel.shard(x, 1), 1), x)


def test_what_a_kernel_says_of_its_plan() -> None:
    run(3, plans)


def rows_of_heads(group: dist.ProcessGroup) -> list[list[int]]:
    """Of each pattern of heads: key heads, and rows of the keys that are here for it."""
    heads = pidsl.heads([(3, pidsl.window(3)), (1, pidsl.causal)])
    parallel = parallel_of(group, repr(heads), 40)
    q, k, v = (parallel.shard(torch.ones(1, 4, 40, 8)) for _ in range(3))
    parallel(q, k, v)
    (setup,) = (x for x in parallel._kept.setups.values() if x.pattern == heads)
    return [list(index.shape[1:]) for term in setup.heads for index in setup.work(term)._indices.values()]


def test_heads_of_other_patterns_bring_no_rows_of_zeros() -> None:
    assert run(4, rows_of_heads)[3] == [[3, 3], [1, 30]]


@pytest.mark.parametrize("around", ["", "checkpoint"])
def test_parts_that_go_different_ways(around: str) -> None:
    """As planned: queries of all rows move, the keys of windows and of the first tokens do."""
    run(4, as_one_device, Way(FAR, 64, around=around))


# -- what goes wrong on one rank


def wrong_alone(group: dist.ProcessGroup) -> str:
    """What all ranks are told of the arguments of one."""
    last = dist.get_rank(group) == 2
    parallel = parallel_of(group, "window(9)", 21)
    q, k, v = (parallel.shard(x) for x in tensors(21))
    with pytest.raises(ArgumentError) as caught:
        parallel(q, k, v[:, :, :-1] if last else v)
    parallel(q, k, v)
    return str(caught.value)


def test_what_one_rank_refuses() -> None:
    """The same call on all ranks, as the hint says, is the way out."""
    *others, own = run(3, wrong_alone)
    assert others[0] == others[1] and others[0].startswith("rank 2: v: keys 6 in shape")
    assert own.startswith("v: keys 6 in shape")


def differing(group: dist.ProcessGroup, what: str) -> str:
    last, score = dist.get_rank(group) == 2, pidsl.score(dropout=0.5) if what == "seed" else pidsl.score(sinks=True)
    parallel = parallel_of(group, "window(9)", 21, score=score)
    mine = [parallel.shard(x) for x in tensors(21)]
    more = {"seed": 3 + last} if what == "seed" else {"sinks": torch.ones(4, requires_grad=last)}
    with pytest.raises(ArgumentError) as caught:
        parallel(*mine, **more)
    return str(caught.value)


@pytest.mark.parametrize(
    ("what", "said"), [("seed", "inputs: rank 2 has seed = 4"), ("gradients", "gradients: rank 2 has sinks")]
)
def test_inputs_that_differ(what: str, said: str) -> None:
    assert all(text.startswith(said) for text in run(3, differing, what))


def too_hard(group: dist.ProcessGroup, where: str) -> str:
    """isl's limit strikes on one rank alone."""
    from pidsl.distributed.running import work

    parallel = parallel_of(group, "window(9)", 21)
    mine = [parallel.shard(x) for x in tensors(21)]
    room, name = {"routes": (prepare, "routes"), "calls": (prepare, "meetings"), "programs": (work, "programs_of")}[
        where
    ]
    usual = getattr(room, name)

    def fails(*given: Any, **more: Any) -> Any:
        raise TooHardError("isl's operation limit struck")

    if parallel.rank == 1:
        setattr(room, name, fails)
    with pytest.raises(TooHardError) as caught:
        parallel(*mine)
    setattr(room, name, usual)
    parallel(*mine)
    return str(caught.value)


@pytest.mark.parametrize("where", ["routes", "calls", "programs"])
def test_what_is_too_hard_for_one_rank(where: str) -> None:
    assert run(3, too_hard, where) == ["isl's operation limit struck"] * 3


def listed_wrong(group: dist.ProcessGroup) -> str:
    parallel = parallel_of(group, "window(3) | chosen(4, 2, 4)", 24)
    mine = [parallel.shard(x) for x in tensors(24)]
    blocks = torch.zeros(2, 1, 2, 2, dtype=torch.int32)
    with pytest.raises(ArgumentError) as caught:
        parallel(*mine, blocks=torch.full_like(blocks, 9) if parallel.rank == 1 else blocks)
    parallel(*mine, blocks=blocks)
    return str(caught.value)


def test_lists_of_one_rank_that_are_wrong() -> None:
    found = run(3, listed_wrong)
    assert len(set(found)) == 1 and "9" in found[0]


def another_length(group: dist.ProcessGroup) -> list[int]:
    """A sequence of other length, of which the first ranks have as many rows as before."""
    import os

    os.environ["PIDSL_CHECK_VALUES"] = "0"
    try:
        parallel = parallel_of(group, "window(9)", 12)
        return [parallel(*(parallel.shard(x) for x in tensors(n))).shape[2] for n in (12, 11, 12)]
    finally:
        del os.environ["PIDSL_CHECK_VALUES"]


def test_without_checks_of_values_lengths_may_change() -> None:
    assert run(3, another_length) == [[4, 4, 4], [4, 4, 4], [4, 3, 4]]
