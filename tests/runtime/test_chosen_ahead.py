"""Chosen blocks in machine code for sm_90: beside the static kernels of the same tiles, without a GPU."""

from __future__ import annotations

import pytest
import torch

from pidsl import causal, chosen, window
from pidsl.codegen.choice.cost import Sizes
from pidsl.codegen.lower import lower
from pidsl.language.terms import Term
from pidsl.runtime.run_triton.ahead import PRODUCTS, KernelReport, Problem, compile_ahead

TILES: Sizes = ((64, 64),) * 3
SMALL = Problem(batch=1, heads=2, key_heads=2, rows=1024, keys=1024)
MORE = 1.05  # times the instructions of a static loop


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory):
    patch = pytest.MonkeyPatch()
    patch.setenv("PIDSL_CACHE", str(tmp_path_factory.mktemp("programs")))
    patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("binaries")))
    yield
    patch.undo()


def kernels(term: Term, head_dim: int, size: Sizes | None = None) -> list[KernelReport]:
    plan = lower(term, head_dim=head_dim, size=size)
    return [x for x in compile_ahead(plan, "cuda:90", torch.bfloat16, head_dim, problem=SMALL) if x.name in PRODUCTS]


@pytest.mark.parametrize("head_dim", [64, 128])
def test_loops_over_full_blocks_are_as_lean_as_static_ones_and_nothing_spills(head_dim: int) -> None:
    static = {x.name: next(y for y in x.loops if not y.masked) for x in kernels(causal, head_dim, TILES)}
    beside = kernels(window(63) & causal | chosen(64, 16), head_dim)  # the second of each pass is that of the choice
    found = {x.name: x for x in beside}
    assert len(beside) == 6 and set(found) == set(static) == {"forward", "grad_query", "grad_key"}
    assert not any(x.spills for x in beside), beside
    for name, kernel in found.items():
        full, masked = kernel.loops
        assert (full.masked, masked.masked) == (False, True)
        assert full.pairs == static[name].pairs and full.hgmma == static[name].hgmma
        assert full.instructions <= MORE * static[name].instructions, (name, full, static[name])
        assert full.prefetches and full.wait != "DEPBAR 0"
