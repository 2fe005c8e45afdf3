"""Calls are prepared once: what is done again, what is not, and what makes a call another one."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pidsl import causal, pairs, stride, window
from pidsl.codegen.lower import lower
from pidsl.runtime.call.call import Call, Positions
from pidsl.runtime.run_triton import program as module
from pidsl.runtime.run_triton.prepared import Buffer, Facts, facts
from pidsl.runtime.run_triton.program import TritonProgram

interpreted = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="CPU tensors need the interpreter")
LISTED = pairs([(x, x * 7 % 31) for x in range(31)]).blocked(64)
BENCHMARKS = Path(__file__).resolve().parent.parent.parent / "benchmarks"


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The passes that were prepared, in order."""
    done: list[str] = []

    def counted(prepare: Callable[..., Any]) -> Callable[..., Any]:
        def counts(*given: Any) -> Any:
            done.append(prepare.__name__)
            return prepare(*given)

        return counts

    for name in ("prepare_forward", "prepare_backward"):
        monkeypatch.setattr(module, name, counted(getattr(module, name)))
    return done


def call(n: int = 20, **changes: Any) -> Call:
    q, k, v = torch.randn(3, 1, 2, n, 16, generator=torch.Generator().manual_seed(n))
    return Call(q, k, v, 0.25)._replace(**changes)


@interpreted
def test_the_second_call_prepares_nothing(prepared: list[str]) -> None:
    made = TritonProgram(lower(window(5)))
    first, second = call(), call()._replace(q=torch.randn(1, 2, 20, 16), scale=0.5)
    for x in (first, second, first):
        out, lse = made.forward(x)
        made.backward(x, out, lse, out, None, False)
    assert prepared == ["prepare_forward", "prepare_backward"]
    torch.testing.assert_close(made.forward(first)[0], TritonProgram(lower(window(5))).forward(first)[0])


@interpreted
def test_other_forms_are_prepared_for_themselves(prepared: list[str]) -> None:
    made, x = TritonProgram(lower(window(5))), call()
    longer = torch.randn(1, 2, 21, 16)
    storage = torch.randn(1 + x.q.numel())
    others = [
        x._replace(q=longer),
        x._replace(q=torch.randn(1, 20, 2, 16).transpose(1, 2)),
        x._replace(q=x.q.half(), k=x.k.half(), v=x.v.half()),
        x._replace(positions=Positions(3)),
        x._replace(q=storage[1:].view(x.q.shape)),  # 4 bytes beyond an address that 16 divides
    ]
    for number, other in enumerate([x, *others]):
        for _ in range(2):
            made.forward(other)
        assert len(prepared) == number + 1


@interpreted
def test_few_prepared_calls_are_kept(prepared: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FORMS", 2)
    made = TritonProgram(lower(window(5)))
    for n in (4, 5, 4, 6, 4, 5):
        made.forward(call(n))
    assert len(prepared) == 4  # 5 was used least recently when 6 came


def test_facts_of_a_tensor() -> None:
    x = torch.zeros(2, 3, 10, 8)
    assert Facts(*facts(x)) == ((2, 3, 10, 8), (240, 80, 8, 1), torch.float32, True, True)
    assert not Facts(*facts(x.view(-1)[1:481])).aligned and Facts(*facts(x[..., 4:])).aligned
    assert Facts(*facts(x)).reach == 79 and Facts(*facts(x.expand(2, 3, 10, 8)[:, :, :1])).reach == 7


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 10, 8), (1, 0, 5), (4, 1, 1)])
def test_buffers(shape: tuple[int, ...]) -> None:
    made = Buffer(shape, torch.float16, 0.0).made({}, torch.device("cpu"))
    assert Facts(*facts(made)) == Buffer(shape, torch.float16).facts and not made.any()


@interpreted
def test_tables_are_uploaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made, done = TritonProgram(lower(LISTED)), []
    assert made.source.count("LISTS = {") == 1
    upload = torch.tensor

    def counted(*given: Any, **options: Any) -> torch.Tensor:
        done.append(options["device"])
        return upload(*given, **options)

    monkeypatch.setattr(torch, "tensor", counted)
    for n in (70, 65):
        for launches in (made.forward_launches, made.forward):
            launches(call(n))
    assert done == [torch.device("cpu")] * 2  # by queries and by keys


def test_tables_are_on_the_gpu_before_the_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch, "tensor", lambda *_, dtype, device: done.append(device))
    TritonProgram(lower(LISTED))
    assert done == [torch.device("cuda", 1)] * 2
    monkeypatch.delattr(torch.cuda, "current_device")  # a program without tables does not wake a GPU
    TritonProgram(lower(window(5)))


@interpreted
def test_fusion_is_asked_for() -> None:
    made, x = TritonProgram(lower(window(5) | stride(7) & causal)), call()
    launches, out, lse = made.forward_launches(x)
    launches += made.backward_launches(x, out, lse, out, None, False)[0]
    assert len(launches) > 3 and all(launch.options["enable_fp_fusion"] is True for launch in launches)


MOCKED = """
import torch, triton
from launch_overhead import mocked
mock = mocked()
import pidsl
asked = []
run = triton.JITFunction.run
triton.JITFunction.run = lambda self, *given, **named: asked.append(self.fn.__name__) or run(self, *given, **named)
kernel = pidsl.compile(pidsl.window(63), "triton")
q, k, v = torch.zeros(3, 1, 1, 128, 16, dtype=torch.float16)
for _ in range(3):
    kernel(q, k, v)
assert (asked, mock.launches) == (["forward"], 3), (asked, mock.launches)
odd = torch.zeros(1 + q.numel(), dtype=q.dtype)[1:].view(q.shape)
for _ in range(2):
    kernel(odd, k, v), kernel(q, k, v)
assert (asked, mock.launches) == (["forward"] * 2, 7), (asked, mock.launches)
caches = kernel.form.made("triton", 16)._loaded.module.forward.device_caches.values()
one, other = (x for cache in caches for x in cache[0].values())
assert one.asm["ttir"] != other.asm["ttir"]  # pointers that 16 divides, in one of them alone
"""


def test_a_compiled_kernel_is_launched_without_asking_triton(tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment = {**kept, "PIDSL_CACHE": str(tmp_path / "a"), "TRITON_CACHE_DIR": str(tmp_path / "b")}
    environment["PYTHONPATH"] = os.pathsep.join([str(BENCHMARKS), *(path for path in sys.path if path)])
    code = [sys.executable, "-W", "ignore", "-c", MOCKED]
    done = subprocess.run(code, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
