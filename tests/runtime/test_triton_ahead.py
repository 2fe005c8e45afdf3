"""Compiled without a GPU: what the machine code of the generated kernels says."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from pidsl import causal, heads, keys, lags, score, stride, window
from pidsl.codegen.choice.together import together
from pidsl.codegen.lower import lower
from pidsl.errors import BackendError
from pidsl.language.terms import Term
from pidsl.runtime.run_triton.ahead import compile_ahead


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory):
    patch = pytest.MonkeyPatch()
    patch.setenv("PIDSL_CACHE", str(tmp_path_factory.mktemp("programs")))
    patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("binaries")))
    yield
    patch.undo()


@pytest.mark.parametrize(("term", "head_dim"), [(window(63) | stride(256) & causal, 64), (window(63), 128)], ids=repr)
def test_sm_90_uses_its_tensor_cores_and_does_not_spill(term: Term, head_dim: int) -> None:
    reports = compile_ahead(lower(term, head_dim=head_dim), "cuda:90", torch.bfloat16, head_dim)
    for report in reports:
        assert report.shared_bytes <= 227 * 1024
        if report.name != "row_statistics":
            assert report.loops and all(loop.hgmma for loop in report.loops), report
        if head_dim == 64 or not report.name.startswith("grad_key"):
            assert report.spills == 0, report
    assert [report.name for report in reports if report.name.endswith("mod_256")] == (
        ["forward_mod_256", "grad_query_mod_256", "grad_key_mod_256"] if head_dim == 64 else []
    )


@pytest.mark.parametrize("target", ["cuda:80", "cuda:100", "hip:gfx942"])
def test_other_targets_compile(target: str) -> None:
    assert len(compile_ahead(lower(window(63)), target, torch.float16, head_dim=16)) == 4


def test_odd_head_dims_and_diagonals_compile() -> None:
    reports = compile_ahead(lower(lags(0, 100, 1000)), "cuda:90", torch.float16, head_dim=40, value_dim=72)
    assert not any(report.spills for report in reports)


def test_a_scored_kernel_uses_tensor_cores_and_does_not_spill() -> None:
    everything = score(softcap=50.0, alibi=True, bias=(0, 63), sinks=True, temperature=True, dropout=0.1)
    reports = compile_ahead(replace(lower(window(63)), score=everything), "cuda:90", torch.bfloat16, 64)
    assert [x.name for x in reports] == ["forward", "row_statistics", "grad_query", "grad_key", "grad_score"]
    assert all(x.hgmma for x in reports if x.name != "row_statistics")
    assert not any(loop.spills for x in reports for loop in x.loops)


def test_heads_in_one_launch_use_tensor_cores_and_do_not_spill() -> None:
    several = heads([(6, window(63)), (2, window(255) | keys(0, 4) & causal)])
    plan = together(several, lambda term, size: lower(term, size=size))
    assert plan is not None
    reports = compile_ahead(plan, "cuda:90", torch.bfloat16, 64)
    assert [x.name for x in reports] == ["forward", "row_statistics", "grad_query", "grad_key", "grad_key_few"]
    assert all(x.hgmma for x in reports if x.name != "row_statistics")
    assert not any(x.spills for x in reports)


def test_compiler_errors_are_told() -> None:
    source = "import triton\nimport triton.language as tl\nFORWARD = 1 / 0\n"
    with pytest.raises(BackendError, match="ZeroDivisionError"):
        compile_ahead(source)


def test_cpu_tensors_are_refused_before_any_launch() -> None:
    code = """
import torch
from pidsl import window
from pidsl.codegen.lower import lower
from pidsl.errors import BackendError
from pidsl.runtime.call.call import Call
from pidsl.runtime.run_triton.program import TritonProgram
program = TritonProgram(lower(window(3)))
x = torch.zeros(1, 1, 4, 16)
given = Call(x, x, x, 1.0)
for call in (lambda: program.forward(given), lambda: program.backward(given, x, x[..., 0], x, None, False)):
    try:
        call()
    except BackendError as error:
        assert "TRITON_INTERPRET=1" in str(error)
    else:
        raise AssertionError
"""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
