"""Compiled without a GPU: what the machine code of the generated kernels says."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from pidsl import causal, stride, window
from pidsl.codegen.lower import lower
from pidsl.errors import BackendError
from pidsl.runtime.ahead import KernelReport, compile_ahead

UNION = window(63) | stride(256) & causal


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory):
    patch = pytest.MonkeyPatch()
    patch.setenv("PIDSL_CACHE", str(tmp_path_factory.mktemp("programs")))
    patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("binaries")))
    yield
    patch.undo()


def spills(reports: list[KernelReport]) -> dict[str, int | None]:
    return {r.name: r.spills for r in reports if r.spills}


@pytest.mark.parametrize("head_dim", [64, 128])
def test_sm_90_uses_its_tensor_cores_and_does_not_spill(head_dim: int) -> None:
    reports = compile_ahead(lower(UNION, head_dim=head_dim), "cuda:90", torch.bfloat16, head_dim)
    assert [r.name for r in reports] == [
        "forward", "forward_mod_256", "row_statistics", "grad_query", "grad_query_mod_256", "grad_key", "grad_key_mod_256",
    ]  # fmt: skip
    for report in reports:
        assert report.shared_bytes <= 227 * 1024
        if report.name != "row_statistics":
            assert report.loops and all(loop.hgmma for loop in report.loops), report
    assert not {name for name in spills(reports) if not name.startswith("grad_key")}
    if head_dim == 64:
        assert not spills(reports)


@pytest.mark.parametrize("target", ["cuda:80", "cuda:100", "hip:gfx942"])
def test_other_targets_compile(target: str) -> None:
    assert len(compile_ahead(lower(window(63)), target, torch.float16, 64)) == 4


def test_odd_head_dims_and_diagonals_compile() -> None:
    from pidsl import lags

    reports = compile_ahead(lower(lags(0, 100, 1000)), "cuda:90", torch.float16, head_dim=40, value_dim=72)
    assert not spills(reports)


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
from pidsl.runtime.triton_program import TritonProgram
program = TritonProgram(lower(window(3)))
x = torch.zeros(1, 1, 4, 16)
for call in (lambda: program.forward(x, x, x, 1.0, 0),
             lambda: program.backward(x, x, x, x, x[..., 0], x, None, 1.0, 0)):
    try:
        call()
    except BackendError as error:
        assert "TRITON_INTERPRET=1" in str(error)
    else:
        raise AssertionError
"""
    import os

    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
