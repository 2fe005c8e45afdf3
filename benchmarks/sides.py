"""The sides of the comparison: what each library needs before the first call, and the call."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from cases import Case
from torch import Tensor

import pidsl

MASK_BYTES_LIMIT = 2 << 30  # SDPA on a CPU turns a bool mask into one of the inputs' dtype
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


class Skip(Exception):
    """This side does not do this: the row says why."""


@dataclass
class Ready:
    """A side that can be called.

    Args:
        attend: out = attend(q, k, v).
        no_backward: "" or why there is none.
        setup: seconds of what had to happen before the first call, by name.
        note: what else a reader should know.
    """

    attend: Attend
    no_backward: str = ""
    setup: dict[str, float] = field(default_factory=dict)
    note: str = ""


def prepare_pidsl(case: Case, q: Tensor, k: Tensor) -> Ready:
    start = time.perf_counter()
    kernel: Any = pidsl.compile(case.term)
    return Ready(lambda q, k, v: kernel(q, k, v), setup={"compile": time.perf_counter() - start})


def prepare_dense(case: Case, q: Tensor, k: Tensor) -> Ready:
    """Dense attention: a different function of the inputs, there for its time only."""
    causal = case.causal
    return Ready(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=causal), note="dense")


def prepare_masked(case: Case, q: Tensor, k: Tensor) -> Ready:
    n, m = q.shape[2], k.shape[2]
    if (needed := n * m * q.element_size()) > MASK_BYTES_LIMIT:
        raise Skip(f"the mask needs {needed / 2**30:.1f} GiB")
    start = time.perf_counter()
    i, j = torch.arange(n, device=q.device)[:, None], torch.arange(m, device=q.device)[None, :]
    mask = case.attends(i, j, n)
    seconds = time.perf_counter() - start
    return Ready(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask), setup={"mask": seconds})


def prepare_flex(case: Case, q: Tensor, k: Tensor) -> Ready:
    from torch.nn.attention import flex_attention as flex

    torch._dynamo.reset()
    n, m = q.shape[2], k.shape[2]
    build = torch.compile(flex.create_block_mask)  # the eager one holds all n * m pairs
    mask_mod = case.mask_mod(n)
    setup: dict[str, float] = {}
    for name in ("mask, first", "mask"):
        start = time.perf_counter()
        mask = build(mask_mod, None, None, n, m, device=q.device)
        if q.is_cuda:
            torch.cuda.synchronize()
        setup[name] = time.perf_counter() - start
    compiled = torch.compile(flex.flex_attention)
    start = time.perf_counter()
    with torch.no_grad():
        compiled(q, k, k, block_mask=mask)
    setup["compile"] = time.perf_counter() - start
    kept = 100 - mask.sparsity()
    return Ready(
        lambda q, k, v: compiled(q, k, v, block_mask=mask),
        no_backward="" if q.is_cuda else "no backward on CPU",
        setup=setup,
        note=f"{kept:.1f} % of the blocks",
    )


SIDES: dict[str, Callable[[Case, Tensor, Tensor], Ready]] = {
    "pidsl": prepare_pidsl,
    "dense SDPA": prepare_dense,
    "masked SDPA": prepare_masked,
    "FlexAttention": prepare_flex,
}
