"""What each rank of benchmarks/devices.py runs: four ways to share attention out, and the bytes of every call."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
from torch import Tensor

import pidsl
from pidsl.distributed import ContextParallel

Given = tuple[Tensor, Tensor, Tensor, Tensor]  # q, k, v of all tokens, and the gradient of the result
HEADER = "all_gather"  # the call by which ranks of pidsl agree before an exchange


@dataclass
class Bytes:
    """What this rank gets from others and sends to others, call by call."""

    calls: list[tuple[str, int, int]] = field(default_factory=list)  # name, received, sent

    def of(self, ours: Callable[[str], bool]) -> dict[str, int]:
        mine = [x for x in self.calls if ours(x[0])]
        return {"received": sum(x[1] for x in mine), "sent": sum(x[2] for x in mine)}


def size(x: Tensor) -> int:
    return x.numel() * x.element_size()


@contextmanager
def counting(ranks: int, rank: int) -> Iterator[Bytes]:
    """Counts what passes through the collectives of torch.distributed, without what a rank sends to itself."""
    found = Bytes()

    def all_to_all_single(out: Tensor, given: Tensor, back: Any = None, there: Any = None, *_: Any, **__: Any) -> Any:
        yields = [[size(x) // ranks] * ranks if s is None else [n * size(x) // max(1, len(x)) for n in s]
                  for x, s in ((out, back), (given, there))]  # fmt: skip
        return tuple(sum(y) - y[rank] for y in yields)

    def all_gather(outs: Sequence[Tensor], given: Tensor, *_: Any, **__: Any) -> Any:
        return sum(size(x) for x in outs) - size(outs[rank]), size(given) * (ranks - 1)

    def all_gather_into_tensor(out: Tensor, given: Tensor, *_: Any, **__: Any) -> Any:
        return size(out) - size(given), size(given) * (ranks - 1)

    def reduce_scatter_tensor(out: Tensor, given: Tensor, *_: Any, **__: Any) -> Any:
        return size(out) * (ranks - 1), size(given) - size(out)

    def batch_isend_irecv(ops: Sequence[Any]) -> Any:
        return tuple(sum(size(x.tensor) for x in ops if x.op is kind) for kind in (dist.irecv, dist.isend))

    def all_gather_single(given: Tensor, *_: Any, **__: Any) -> Any:
        return size(given) * (ranks - 1), size(given) * (ranks - 1)

    def reduce_scatter_single(given: Tensor, *_: Any, **__: Any) -> Any:
        return size(given) // ranks * (ranks - 1), size(given) // ranks * (ranks - 1)

    def wrapped(of: Any, count: Callable[..., Any]) -> Callable[[], None]:
        name = count.__name__
        call = getattr(of, name)

        def counted(*args: Any, **named: Any) -> Any:
            found.calls.append((name, *count(*args, **named)))
            return call(*args, **named)

        setattr(of, name, counted)
        return lambda: setattr(of, name, call)

    plain = (all_to_all_single, all_gather, all_gather_into_tensor, reduce_scatter_tensor, batch_isend_irecv)
    undo = [wrapped(dist, x) for x in plain]
    undo += [
        wrapped(functional, x) for x in (all_gather_single, reduce_scatter_single) if hasattr(functional, x.__name__)
    ]
    try:
        yield found
    finally:
        for back in undo:
            back()


# -- the ways: each a forward pass and what gives the gradients of this rank's rows ----------------------------------

Way = Callable[[], tuple[Tensor, Callable[[], Sequence[Tensor]]]]


def planned(term: pidsl.Term, given: Given, shards: ContextParallel) -> Way:
    q, k, v, grad = (shards.shard(x) for x in given)

    def forward() -> Any:
        leaves = [x.clone().requires_grad_() for x in (q, k, v)]
        out = shards(*leaves)
        return out, lambda: torch.autograd.grad(out, leaves, grad)

    return forward


def chunks(given: Given, rank: int, ranks: int) -> list[Tensor]:
    return [x.chunk(ranks, 2)[rank].contiguous() for x in given]


def gathered(term: pidsl.Term, given: Given, rank: int, ranks: int) -> Way:
    """All keys and values on every rank, the pattern on its own queries."""
    kernel: Any = pidsl.compile(term, "torch")
    q, k, v, grad = chunks(given, rank, ranks)

    def forward() -> Any:
        both = torch.stack([k, v]).movedim(3, 0).contiguous()  # [rows, 2, B, H, D]
        whole = both.new_empty(ranks * len(both), *both.shape[1:])
        dist.all_gather_into_tensor(whole, both)
        leaves = [x.requires_grad_() for x in (q.clone(), *whole.movedim(0, 3).contiguous().unbind(0))]
        out = kernel(*leaves, offset=rank * q.shape[2])

        def backward() -> Sequence[Tensor]:
            dq, *of_keys = torch.autograd.grad(out, leaves, grad)
            sums = torch.stack(of_keys).movedim(3, 0).contiguous()
            mine = torch.empty_like(both)
            dist.reduce_scatter_tensor(mine, sums)
            return dq, *mine.movedim(0, 3).unbind(0)

        return out, backward

    return forward


def around(x: Tensor, rank: int, ranks: int) -> Tensor:
    """What the rank before had; x goes to the next one."""
    got = torch.empty_like(x)
    ways = ((dist.isend, x, rank + 1), (dist.irecv, got, rank - 1))
    for work in dist.batch_isend_irecv([dist.P2POp(op, y, peer % ranks) for op, y, peer in ways]):
        work.wait()
    return got


def ring(term: pidsl.Term, given: Given, rank: int, ranks: int) -> Way:
    """Keys and values go around; backward they do once more, and their gradients with them."""
    kernel: Any = pidsl.compile(term, "torch")
    q, k, v, grad = chunks(given, rank, ranks)
    rows = q.shape[2]

    def part(q: Tensor, there: Tensor, of: int) -> Any:
        return kernel(q, *there.unbind(0), offset=rank * rows, key_offset=of * rows, return_lse=True)

    def forward() -> Any:
        there, parts = torch.stack([k, v]), []
        for step in range(ranks):
            there = around(there, rank, ranks) if step else there
            parts.append(part(q, there, (rank - step) % ranks))
        out, lse = pidsl.merge(parts)

        def backward() -> Sequence[Tensor]:
            there, sums, dq = torch.stack([k, v]), torch.zeros(2, *k.shape), torch.zeros_like(q)
            mine = torch.zeros_like(sums)
            for step in range(ranks):
                there = around(there, rank, ranks) if step else there
                sums = around(sums, rank, ranks) if step > 1 else sums
                leaves = [x.clone().requires_grad_() for x in (q, there)]
                o, l = part(*leaves, (rank - step) % ranks)
                weight = (l - lse).exp().nan_to_num(0.0).detach()[..., None]
                both = weight * grad, (weight * grad * (o - out)).sum(-1).detach()
                d = torch.autograd.grad([o, l], leaves, both)
                dq = dq + d[0]
                if step:
                    sums = sums + d[1]
                else:
                    mine = d[1]
            mine = mine + (around(sums, rank, ranks) if ranks > 1 else 0)
            return dq, *mine.unbind(0)

        return out, backward

    return forward


def of_torch(term: pidsl.Term, given: Given, rank: int, ranks: int) -> Way:
    """torch's own context parallel FlexAttention, not compiled, without its balancer: chunks in order."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.experimental._context_parallel import _attention
    from torch.nn.attention import flex_attention as flex

    class Attention(torch.nn.Module):
        def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Any) -> Any:
            return flex.flex_attention(query, key, value, block_mask=mask, enable_gqa=True)

    n, mesh = given[0].shape[2], init_device_mesh("cpu", (ranks,))
    dense = torch.from_numpy(term.mask(n).copy())
    _attention._cp_options.enable_load_balance = False
    _attention._compiled_create_block_mask = flex.create_block_mask  # compiling it takes half a minute on each rank
    mask = _attention._create_cp_block_mask(lambda b, h, i, j: dense[i, j], 1, 1, n, n, mesh)
    model = Attention()
    _attention._ContextParallel(2, _attention._ContextParallel.AttentionType.FLEX)._apply(model, mesh)
    q, k, v, grad = chunks(given, rank, ranks)

    def backward() -> Sequence[Tensor]:
        leaves = [x.clone().requires_grad_() for x in (q, k, v)]
        return torch.autograd.grad(model(*leaves, mask), leaves, grad)

    return lambda: (model(q, k, v, mask), backward)


# -- what a rank does ------------------------------------------------------------------------------------------------


def inputs(shape: dict[str, int]) -> Given:
    made = torch.Generator().manual_seed(0)
    heads = (shape["heads"], shape["kv_heads"], shape["kv_heads"], shape["heads"])
    q, k, v, grad = (torch.randn(1, h, shape["n"], shape["head_dim"], generator=made) for h in heads)
    return q, k, v, grad


def measured(source: str, shape: dict[str, int], rank: int, ranks: int) -> list[dict[str, Any]]:
    """Of each way the bytes that this rank gets and sends, and the largest difference from one device."""
    term, given = pidsl.parse(source), inputs(shape)
    leaves = [x.clone().requires_grad_() for x in given[:3]]
    whole = pidsl.compile(term, "torch")(*leaves)
    wanted = [whole.detach(), *torch.autograd.grad(whole, leaves, given[3])]
    shards: Any = ContextParallel(pidsl.compile(term, "torch"))
    shares: dict[str, tuple[Callable[[], Way], Callable[[Tensor], Tensor]]] = {
        "pidsl": (lambda: planned(term, given, shards), shards.shard),
        **{
            name: (lambda make=make: make(term, given, rank, ranks), lambda x: x.chunk(ranks, 2)[rank])
            for name, make in (("all-gather", gathered), ("ring", ring), ("torch's context parallel", of_torch))
        },
    }
    found = []
    for name, (make, share) in shares.items():
        row: dict[str, Any] = {"way": name}
        if name == "pidsl":
            home = shards.shards(shape["n"])
            row["shards"] = [home.kind, home.period]
        passes: dict[str, Callable[[], Any]] = {"forward": make(), "backward": lambda: ()}
        for title in passes:
            with counting(ranks, rank) as calls:
                try:
                    results = passes[title]()
                except Exception as error:  # the ranks run the same, and fail together
                    row[title] = {"does_not_run": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
                    break
            if title == "forward":
                out, passes["backward"] = results
                results = (out,)
            places = (0,) if title == "forward" else (1, 2, 3)
            differences = [(x.detach() - share(wanted[y])).abs() for x, y in zip(results, places, strict=True)]
            header = calls.of(lambda x, name=name: name == "pidsl" and x == HEADER)
            rest = calls.of(lambda x, name=name: name != "pidsl" or x != HEADER)
            error = max((float(x.max()) for x in differences if x.numel()), default=0.0)
            row[title] = {**rest, "header": header["sent"], "error": error}
        found.append(row)
    return found


def serve(rank: int, ranks: int, store: str, jobs: Sequence[tuple[str, dict[str, int]]], answers: Any) -> None:
    """The life of a rank: the jobs one after the other, one answer with the rows of each."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FutureWarning)  # of names that torch 2.11 does not know otherwise
    dist.init_process_group("gloo", f"file://{store}", timedelta(minutes=5), ranks, rank)
    try:
        answers.send([measured(source, shape, rank, ranks) for source, shape in jobs])
        dist.barrier()
    finally:
        dist.destroy_process_group()
