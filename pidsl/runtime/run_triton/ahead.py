"""Compile a generated Triton program without a GPU, and read what it costs from the machine code.

Interpreter mode is fixed when triton is imported, so the compiler runs in a process of its own, with
TRITON_INTERPRET removed. The launches are those that `TritonProgram` would make for contiguous tensors (on the
"meta" device, so nothing is allocated), with the specialisations a real launch would get.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pidsl.errors import BackendError

if TYPE_CHECKING:
    from pidsl.codegen.plan.nodes import Plan
    from pidsl.runtime.run_triton.launch import Launch

_LENGTH = 4096  # of the tensors on the meta device; the kernels do not depend on it
_OPCODE = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?\w+\s+)?([A-Z][\w.]*)([^;]*);")


@dataclass(frozen=True, slots=True)
class LoopReport:
    """An innermost loop of the machine code: `hgmma` and `hmma` are tensor-core instructions (sm_90, sm_80)."""

    instructions: int
    hgmma: int
    hmma: int
    spills: int


@dataclass(frozen=True, slots=True)
class KernelReport:
    """What a compiled kernel costs. Facts that a target does not tell are None.

    Args:
        name: of the kernel.
        warps: per program.
        stages: of the software pipeline.
        shared_bytes: shared memory per program.
        registers: per thread.
        spills: local-memory loads and stores (LDL, STL) in the machine code.
        hgmma: warp-group tensor-core instructions.
        hmma: warp tensor-core instructions.
        loops: the innermost loops, in the order of the code.
    """

    name: str
    warps: int
    stages: int
    shared_bytes: int
    registers: int | None = None
    spills: int | None = None
    hgmma: int | None = None
    hmma: int | None = None
    loops: tuple[LoopReport, ...] = ()


def compile_ahead(
    plan: Plan | str, target: str = "cuda:90", dtype: torch.dtype = torch.bfloat16, head_dim: int = 64,
    value_dim: int | None = None, options: dict[str, int] | None = None,
) -> list[KernelReport]:  # fmt: skip
    """Compile every kernel of a plan, or of a generated source, for `target`.

    Args:
        plan: the plan, or the text that `triton_source` made of it.
        target: "cuda:<compute capability>" or "hip:<architecture>".
        dtype: of q, k and v.
        head_dim: D.
        value_dim: Dv; D when None.
        options: launch options (num_warps, num_stages) in place of the launcher's.

    Returns:
        One report per kernel, in the order of launches: forward, then backward.

    Raises:
        BackendError: a kernel does not compile; the message is the compiler's.
    """
    if not isinstance(plan, str):
        from pidsl.codegen.emit_triton.source import triton_source

        plan = triton_source(plan)
    request = [
        [plan, str(dtype).removeprefix("torch."), head_dim, head_dim if value_dim is None else value_dim],
        [target, options or {}], torch.get_float32_matmul_precision(),
    ]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, "-c", f"from {__name__} import _compile_request; _compile_request()"]
    text = json.dumps(request)
    done = subprocess.run(command, input=text, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        failure = done.stderr.strip()[-4000:]
        raise BackendError(f"a kernel does not compile for {target}", "a program for that target", where=failure)
    reports = json.loads(done.stdout.splitlines()[-1])
    return [KernelReport(**(x | {"loops": tuple(LoopReport(**loop) for loop in x["loops"])})) for x in reports]


def _compile_request() -> None:
    """The compiling process: a request on stdin, reports on the last line of stdout."""
    program, compiler, precision = json.load(sys.stdin)
    torch.set_float32_matmul_precision(precision)
    print(json.dumps([asdict(_compile(launch, *compiler)) for launch in _launches(*program)]))


def _launches(source: str, kind: str, head_dim: int, value_dim: int) -> list[Launch]:
    """The launches of forward and backward on contiguous tensors, 4 query heads on 2 key heads."""
    from pidsl.runtime.call.call import Call
    from pidsl.runtime.run_triton.program import TritonProgram

    dtype = getattr(torch, kind)
    by_head = torch.empty(4, dtype=torch.float32, device="meta")
    inputs = dict.fromkeys(("slopes", "sinks", "temperature"), by_head)  # a plain program asks for none of them
    shapes = ((4, head_dim), (2, head_dim), (2, value_dim), (4, value_dim))
    q, k, v, out = (torch.empty(2, heads, _LENGTH, width, dtype=dtype, device="meta") for heads, width in shapes)
    call = Call(q, k, v, 0.125, inputs={**inputs, "bias": by_head[:, None], "seed": 0})
    program = TritonProgram(None, source)
    forward, _, lse = program.forward_launches(call)
    backward, *_ = program.backward_launches(call, out, lse, out, lse, learned=True)
    return forward + backward


def _compile(launch: Launch, target: str, options: dict[str, int]) -> KernelReport:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    backend, _, arch = target.partition(":")
    gpu = GPUTarget(backend, int(arch) if backend == "cuda" else arch, 32 if backend == "cuda" else 64)
    signature, constants, hints = {}, {}, {}
    for number, parameter in enumerate(launch.kernel.params):
        value = launch.arguments[parameter.name]
        kind, divisible = _specialised(value, constant=parameter.is_constexpr, fixed=parameter.do_not_specialize)
        signature[parameter.name] = kind
        if kind == "constexpr":
            constants[(number,)] = value
        if divisible:
            hints[(number,)] = [["tt.divisibility", 16]]
    source = ASTSource(launch.kernel, signature, constants, hints)
    made = triton.compile(source, target=gpu, options={**launch.options, **options})
    facts = _machine_code(made.asm["cubin"]) if backend == "cuda" else {}
    known = made.metadata
    return KernelReport(launch.kernel.__name__, known.num_warps, known.num_stages, known.shared, **facts)


def _specialised(value: Any, *, constant: bool, fixed: bool) -> tuple[str, bool]:
    """The type Triton gives an argument, and whether it knows that 16 divides it."""
    if constant or value is None:
        return "constexpr", False
    if isinstance(value, torch.Tensor):
        names = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.int32: "i32"}
        return f"*{names[value.dtype]}", True
    if isinstance(value, float):
        return "fp32", False
    if value == 1 and not fixed:
        return "constexpr", False
    return "i32" if -(2**31) <= value < 2**31 else "i64", value % 16 == 0 and not fixed


def _machine_code(cubin: bytes) -> dict[str, Any]:
    """Registers, spills and tensor-core instructions of a cubin, in total and per innermost loop."""
    import triton

    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)

        def cuobjdump(flag: str) -> str:
            run = [str(tools / "cuobjdump"), flag, str(path)]
            return subprocess.run(run, capture_output=True, text=True, check=True).stdout

        usage, sass = cuobjdump("-res-usage"), cuobjdump("-sass")
    registers = [int(x) for x in re.findall(r"REG:(\d+)", usage)]
    code = [(int(at, 16), opcode, rest) for at, opcode, rest in _OPCODE.findall(sass)]
    branches = [(re.search(r"0x([0-9a-f]+)", rest), at) for at, opcode, rest in code if opcode.startswith("BRA")]
    loops = sorted((start, end) for found, end in branches if found and (start := int(found[1], 16)) < end)
    inner = [x for x in loops if not any(x != y and x[0] <= y[0] and y[1] <= x[1] for y in loops)]

    def count(start: int, end: int, *opcodes: str) -> int:
        return sum(start <= at <= end and opcode.startswith(opcodes) for at, opcode, _ in code)

    def costs(start: int, end: int) -> dict[str, int]:
        kinds = {"hgmma": ("HGMMA",), "hmma": ("HMMA",), "spills": ("LDL", "STL")}
        return {name: count(start, end, *opcodes) for name, opcodes in kinds.items()}

    return {
        "registers": max(registers),
        "loops": tuple(LoopReport(instructions=count(*loop, ""), **costs(*loop)) for loop in inner),
        **costs(0, code[-1][0]),
    }
