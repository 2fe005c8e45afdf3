"""Whether 32-bit indices are enough is decided from every tensor that a kernel touches; on the meta device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import triton.language as tl
from torch import Tensor

from pidsl import causal, heads, keys, lags, neighborhood, pairs, score, stride, window
from pidsl.codegen.choice.together import together
from pidsl.codegen.lower import lower
from pidsl.codegen.plan.nodes import Plan
from pidsl.relation.frame import HOME, MOVED
from pidsl.runtime.call.call import Call, Positions
from pidsl.runtime.run_triton.launch import Launch
from pidsl.runtime.run_triton.program import TritonProgram

LIST = pairs([(x, y) for x in range(8) for y in (0, x)])
SCORE = score(softcap=50.0, alibi=True, bias=(0, 63), sinks=True, temperature=True, dropout=0.1)


def of_heads() -> Plan:
    plan = together(heads([(1, window(63)), (1, window(255))]), lambda term, size: lower(term, size=size))
    assert plan is not None
    return plan


PLANS = {
    "band": lambda: lower(window(63)),
    "band and stride": lambda: lower(window(63) | stride(256) & causal),
    "sinks": lambda: lower(window(63) | keys(0, 4) & causal),
    "lags": lambda: lower(lags(0, 1, 1000)),
    "grid": lambda: lower(neighborhood((64, 64), 7)),
    "list": lambda: lower(LIST.blocked(64)),
    "score": lambda: replace(lower(window(63) | stride(256) & causal), score=SCORE),
    "score on a grid": lambda: replace(lower(neighborhood((64, 64), 7)), score=SCORE),
    "heads": of_heads,
}


def meta(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.bfloat16, device="meta")


def launches(plan: Plan, q: Tensor, k: Tensor, v: Tensor, go: Tensor | None = None) -> list[Launch]:
    """All of the forward and the backward pass."""
    by_head = torch.empty(q.shape[1], dtype=torch.float32, device="meta")
    inputs = dict.fromkeys(("slopes", "sinks", "temperature"), by_head)
    call = Call(q, k, v, 0.1, inputs={**inputs, "bias": by_head[:, None].expand(-1, 64), "seed": 0})
    program = TritonProgram(plan)
    forward, _, lse = program.forward_launches(call)
    out = meta(*q.shape[:3], v.shape[3])
    return forward + program.backward_launches(call, out, lse, out if go is None else go, lse, learned=True)[0]


def calls(past: bool) -> Iterator[tuple[str, tuple[Tensor, ...]]]:
    """One tensor after the other, just below 2^31 elements in a head or just past it, whatever the others are."""
    edge = (2**31 >> 7) + (64 if past else -64)  # rows of 128 elements
    few, wide = 1024, 2**31 // 1023 + (4096 if past else -4096)
    yield "out", (meta(1, 2, edge, 8), meta(1, 1, few, 8), meta(1, 1, few, 128))
    yield (
        "dq of expanded queries",
        (meta(1, 2, 1, 128).expand(1, 2, edge, 128), meta(1, 1, few, 128), meta(1, 1, few, 8)),
    )
    yield "dk of expanded keys", (meta(1, 2, few, 128), meta(1, 1, 1, 128).expand(1, 1, edge, 128), meta(1, 1, edge, 8))
    yield "dv of expanded values", (meta(1, 2, few, 8), meta(1, 1, edge, 8), meta(1, 1, 1, 128).expand(1, 1, edge, 128))
    yield (
        "dq with batch and heads expanded",
        (meta(1, 1, edge, 128).expand(3, 2, edge, 128), *[meta(3, 1, few, 128)] * 2),
    )
    q, k, v = meta(1, 2, few, 8), meta(1, 1, few, 8), meta(1, 1, few, 8)
    yield "rows of queries", (meta(1, 2, few, wide)[..., :8], k, v)
    yield "rows of keys", (q, meta(1, 1, few, wide)[..., :8], v)
    yield "rows of values", (q, k, meta(1, 1, few, wide)[..., :8])
    yield "rows of grad_out", (q, k, v, meta(1, 2, few, wide)[..., :8])
    column = 2**31 // 15 + (4096 if past else -4096)
    for x, name in enumerate(("queries", "keys", "values", "grad_out")):
        given = [meta(1, 2, few, 16), meta(1, 1, few, 16), meta(1, 1, few, 16), meta(1, 2, few, 16)]
        given[x] = meta(*given[x].shape[:2], 16, column)[..., :few].mT
        yield f"columns of {name}", tuple(given)


def span(x: Any) -> int:
    """From the first to the last element of one head of one batch entry."""
    if not isinstance(x, Tensor) or x.ndim < 3:
        return 0
    return sum((size - 1) * step for size, step in zip(x.shape[2:], x.stride()[2:], strict=True))


def index(launch: Launch) -> Any:
    """The dtype of its indices; None where a kernel has but 64-bit ones."""
    return launch.arguments["KIND"].INDEX if "KIND" in launch.arguments else None


@pytest.mark.parametrize("plan", PLANS)
def test_every_tensor_of_a_kernel_counts(plan: str) -> None:
    made, seen = PLANS[plan](), set()
    for name, call in calls(past=True):
        for launch in launches(made, *call):
            far = {x for x, value in launch.arguments.items() if span(value) >= 2**31}
            seen |= far
            assert not far or index(launch) in (tl.int64, None), (name, launch.kernel.__name__, far)
    assert seen >= {"q", "k", "v", "out", "grad_out", "grad_q", "grad_k", "grad_v"}


def test_a_row_less_fits_32_bits() -> None:
    made = PLANS["band"]()
    for name, call in calls(past=False):
        for launch in launches(made, *call):
            assert index(launch) in (tl.int32, None), (name, launch.kernel.__name__)


def test_offsets_of_columns_and_of_the_bias_table_are_as_wide_as_they_must_be() -> None:
    from pidsl.codegen.emit_triton.source import triton_source

    source = triton_source(PLANS["score"]())
    assert "column[None, :].to(index.dtype) * column_stride" in source
    assert "column[None, :] * column_stride" not in source
    assert "by_lag = bias + head.to(tl.int64) * KIND.TABLE" in source and '"TABLE": 64' in source


def test_positions_count_too() -> None:
    q = meta(1, 1, 64, 8)
    far = 2**31 - 70
    home, moved = (TritonProgram(lower(window(63), frame=frame)) for frame in (HOME, MOVED))
    for program, offset, key_offset, expected in (
        (home, 0, 0, tl.int32), (home, far, 0, tl.int64), (moved, 9, 3, tl.int32), (moved, 0, far, tl.int64),
    ):  # fmt: skip
        forward, *_ = program.forward_launches(Call(q, q, q, 0.1, Positions(offset, key_offset)))
        assert {index(launch) for launch in forward} == {expected}
