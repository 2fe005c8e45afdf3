"""Tiles through tensor descriptors: what pointers give, bit for bit, and nothing past the end of a tensor."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pidsl import blocks, causal, full, keys, neighborhood, queries, stride, window
from pidsl.codegen.choice.targets import target
from pidsl.codegen.lower import lower
from pidsl.language.terms import Term
from pidsl.runtime.call.call import Call, Positions
from pidsl.runtime.run_triton import assembly, sweeps
from pidsl.runtime.run_triton.program import TritonProgram

interpreted = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="CPU tensors need the interpreter")
TERMS = {
    "full": full, "causal": causal, "window": window(40), "classes": stride(7) & causal, "blocks": blocks(24),
    "two layouts": window(9) | stride(5) & causal,
}  # fmt: skip


@pytest.fixture(params=[True, False], ids=["descriptors", "pointers"])
def made_for(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> bool:
    """A GPU with descriptors, or without."""
    monkeypatch.setenv("PIDSL_CACHE", str(tmp_path))
    gpu = replace(target("cuda:90"), descriptors=request.param)
    monkeypatch.setattr(assembly, "target_of", lambda device: gpu)
    monkeypatch.setattr(sweeps, "LONG", 0)
    return bool(request.param)


def rows(n: int, heads: int, dtype: torch.dtype) -> Tensor:
    """Of n positions and 16 columns: behind the last row of every head lies NaN."""
    x = torch.randn(1, heads, n + 24, 16, generator=torch.Generator().manual_seed(n + heads)).to(dtype)
    x[:, :, n:] = torch.nan
    return x[:, :, :n]


def run(term: Term, n: int, m: int, dtype: torch.dtype) -> tuple[list[Tensor], set[bool]]:
    """out, lse and gradients, and whether kernels took descriptors."""
    program = TritonProgram(lower(term))
    q, k, v, grad = rows(n, 2, dtype), rows(m, 1, dtype), rows(m, 1, dtype) + 1, rows(n, 2, dtype) * 2
    call = Call(q, k, v, 0.3, Positions(m - n))
    out, lse = program.forward(call)
    found = program.backward(call, out, lse, grad, None, False)
    launches = [*program.forward_launches(call)[0], *program.backward_launches(call, out, lse, grad, None, False)[0]]
    return [out, lse, *found[:3]], {x.arguments["KIND"].TMA for x in launches if "KIND" in x.arguments}


FOUND: dict[tuple[str, torch.dtype], list[Tensor]] = {}


@interpreted
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("name", TERMS)
def test_descriptors_read_what_pointers_read(made_for: bool, name: str, dtype: torch.dtype) -> None:
    found, taken = run(TERMS[name], 75, 75, dtype)  # no multiple of a tile, nor of a step
    assert (True in taken) == made_for
    assert all(x.isfinite().all() for x in found)
    before = FOUND.setdefault((name, dtype), found)
    assert all(map(torch.equal, found, before))


@interpreted
def test_where_descriptors_do_not_go(made_for: bool) -> None:
    for term in (neighborhood((8, 8), 3), full & keys(0, None, 2) & queries(0, None, 2)):  # boxes; what nobody attends
        assert run(term, 64, 64, torch.float16)[1] == {False}
    q = rows(40, 2, torch.float16)[..., ::2]  # an inner stride
    call = Call(q, q, q, 0.3)
    assert {x.arguments["KIND"].TMA for x in TritonProgram(lower(full)).forward_launches(call)[0]} == {False}
