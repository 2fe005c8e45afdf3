"""Compile a generated Triton program without a GPU, and tell what its kernels cost.

Interpreter mode is fixed when triton is imported, so the compiler runs in a process of its own, with
TRITON_INTERPRET removed. The launches are those that `TritonProgram` would make for contiguous tensors (on the
"meta" device, so nothing is allocated), with the specialisations a real launch would get.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pidsl.errors import BackendError
from pidsl.runtime.run_triton import machine_code
from pidsl.runtime.run_triton.machine_code import LoopReport

if TYPE_CHECKING:
    from pidsl.codegen.plan.nodes import Plan
    from pidsl.runtime.run_triton.launch import Launch

TABLES = ("FORWARD", "GRAD_QUERY", "GRAD_KEY", "GRAD_SCORE")  # of a generated module; each row is a stage


@dataclass(frozen=True, slots=True)
class Problem:
    """The call whose launches are compiled: its sizes, and whether what its score learns gets gradients."""

    batch: int = 2
    heads: int = 4
    key_heads: int = 2
    rows: int = 4096
    keys: int = 4096
    learned: bool = True


@dataclass(frozen=True, slots=True)
class LaunchReport:
    """One launch of a kernel.

    Args:
        number: its place in the order of launches.
        grid: programs.
        stage: which row of its pass's table it belongs to; None for a kernel that is in no table.
        integers: the integer arguments by name, constants too.
        tensors: of each tensor argument the number of its storage, its bytes, and how many heads of batch entries.
        filled: storages that torch filled or copied into before this launch, the first that has them, with their bytes.
    """

    number: int
    grid: int
    stage: int | None = None
    integers: dict[str, int] = field(default_factory=dict)
    tensors: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    filled: tuple[tuple[int, int], ...] = ()

    @classmethod
    def read(cls, found: Mapping[str, Any]) -> LaunchReport:
        """From what `asdict` made, through JSON or not."""
        tensors = {name: tuple(x) for name, x in found["tensors"].items()}
        return cls(**{**found, "tensors": tensors, "filled": tuple(tuple(x) for x in found["filled"])})


@dataclass(frozen=True, slots=True)
class KernelReport:
    """What a compiled kernel costs. Facts that a target does not tell are None.

    Args:
        name: of the kernel.
        warps: per program.
        stages: of the software pipeline.
        shared_bytes: shared memory per program.
        registers: per thread.
        stack_bytes: per thread.
        spills: local-memory loads and stores (LDL, STL) in the machine code.
        spills_in_loops: those that stand in a loop.
        programs: that fit on a multiprocessor at a time.
        hgmma: warp-group tensor-core instructions.
        hmma: warp tensor-core instructions.
        loops: the innermost loops that do the work, in the order of the code.
        instructions: how many of which name, in all the code.
        launches: of this kernel.
    """

    name: str
    warps: int
    stages: int
    shared_bytes: int
    registers: int | None = None
    stack_bytes: int | None = None
    spills: int | None = None
    spills_in_loops: int | None = None
    programs: int | None = None
    hgmma: int | None = None
    hmma: int | None = None
    loops: tuple[LoopReport, ...] = ()
    instructions: dict[str, int] = field(default_factory=dict)
    launches: tuple[LaunchReport, ...] = ()

    @classmethod
    def read(cls, found: Mapping[str, Any]) -> KernelReport:
        """From what `asdict` made, through JSON or not."""
        loops = tuple(LoopReport(**{**x, "waits": tuple(x["waits"])}) for x in found["loops"])
        launches = tuple(LaunchReport.read(x) for x in found["launches"])
        return cls(**{**found, "loops": loops, "launches": launches})


def compile_ahead(
    plan: Plan | str, target: str = "cuda:90", dtype: torch.dtype = torch.bfloat16, head_dim: int = 64,
    value_dim: int | None = None, options: dict[str, int] | None = None, problem: Problem | None = None,
) -> list[KernelReport]:  # fmt: skip
    """Compile every kernel of a plan, or of a generated source, for `target`.

    Args:
        plan: the plan, or the text that `triton_source` made of it.
        target: "cuda:<compute capability>" or "hip:<architecture>".
        dtype: of q, k and v.
        head_dim: D.
        value_dim: Dv; D when None.
        options: launch options (num_warps, num_stages) in place of the launcher's.
        problem: the sizes of the call; those of `Problem` when None.

    Returns:
        One report per kernel, in the order of first launches: forward, then backward.

    Raises:
        BackendError: a kernel does not compile; the message is the compiler's.
    """
    if not isinstance(plan, str):
        from pidsl.codegen.emit_triton.source import triton_source

        plan = triton_source(plan)
    widths = head_dim, head_dim if value_dim is None else value_dim
    request = {
        "source": plan, "kind": str(dtype).removeprefix("torch."), "widths": widths, "target": target,
        "options": options or {}, "problem": asdict(problem or Problem()),
        "precision": torch.get_float32_matmul_precision(),
    }  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, "-c", f"from {__name__} import _compile_request; _compile_request()"]
    text = json.dumps(request)
    done = subprocess.run(command, input=text, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        failure = done.stderr.strip()[-4000:]
        raise BackendError(f"a kernel does not compile for {target}", "a program for that target", where=failure)
    return [KernelReport.read(x) for x in json.loads(done.stdout.splitlines()[-1])]


def _compile_request() -> None:
    """The compiling process: a request on stdin, reports on the last line of stdout."""
    request = json.load(sys.stdin)
    torch.set_float32_matmul_precision(request["precision"])
    problem = Problem(**request["problem"])
    with _Fills() as fills:
        launches, tables = _launches(request["source"], request["kind"], request["widths"], problem)
    reports = _reports(launches, tables, fills, request["target"], request["options"])
    print(json.dumps([asdict(x) for x in reports]))


def _launches(
    source: str, kind: str, widths: tuple[int, int], problem: Problem
) -> tuple[list[Launch], list[Mapping[str, Any]]]:
    """The launches of forward and backward on contiguous tensors, and the rows of the program's tables."""
    from pidsl.runtime.call.call import Call
    from pidsl.runtime.run_triton import cache
    from pidsl.runtime.run_triton.program import TritonProgram

    dtype = getattr(torch, kind)
    batch, heads, key_heads, rows, keys, learned = (getattr(problem, name) for name in Problem.__slots__)
    by_head = torch.empty(heads, dtype=torch.float32, device="meta")
    inputs = dict.fromkeys(("slopes", "sinks", "temperature"), by_head)  # a plain program asks for none of them
    head_dim, value_dim = widths
    shapes = ((heads, rows, head_dim), *((key_heads, keys, x) for x in widths), (heads, rows, value_dim))
    q, k, v, out = (torch.empty(batch, *shape, dtype=dtype, device="meta") for shape in shapes)
    call = Call(q, k, v, 0.125, inputs={**inputs, "bias": by_head[:, None], "seed": 0})
    program = TritonProgram(None, source)
    forward, _, lse = program.forward_launches(call)
    backward, *_ = program.backward_launches(call, out, lse, torch.empty_like(out), torch.empty_like(lse), learned)
    module = cache.load(program.path, source)
    tables: list[Mapping[str, Any]] = [
        {**row, "stage": k} for name in TABLES for k, row in enumerate(getattr(module, name, ()))
    ]
    return forward + backward, tables


class _Fills(TorchDispatchMode):
    """Remembers which tensors torch writes to, by its own kernels, while the launches are made."""

    NAMES = frozenset({"new_zeros", "new_full", "zeros", "full", "zeros_like", "full_like", "zero_", "fill_", "copy_"})

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tensors: list[torch.Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in self.NAMES:
            self.tensors.append(found)
        return found


def _reports(
    launches: Iterable[Launch], tables: list[Mapping[str, Any]], fills: _Fills, target: str, options: Mapping[str, int]
) -> list[KernelReport]:
    """One report per kernel that is compiled; launches that differ in nothing else share one."""
    found: dict[Any, KernelReport] = {}
    storages: dict[int, int] = {}
    waiting = {_storage(x): x.numel() * x.element_size() for x in fills.tensors}
    for number, launch in enumerate(launches):
        row = next((x for x in tables if _is_of(launch, x)), None)
        signature = Signature.of(launch.kernel, launch.arguments)
        chosen = {**launch.options, **options}
        key = (id(launch.kernel), *map(repr, (signature, chosen)))
        if key not in found:
            found[key] = compiled(launch.kernel, signature, target, chosen, _work(launch, row))
        tensors = {name: x for name, x in launch.arguments.items() if isinstance(x, torch.Tensor)}
        numbers = {x: storages.setdefault(x, len(storages)) for x in map(_storage, tensors.values())}
        facts = LaunchReport(
            number,
            launch.grid,
            row["stage"] if row else None,
            {name: int(x) for name, x in launch.arguments.items() if isinstance(x, int)},
            {
                name: (numbers[_storage(x)], x.numel() * x.element_size(), prod(x.shape[:2]))
                for name, x in tensors.items()
            },
            tuple((own, waiting.pop(x)) for x, own in numbers.items() if x in waiting),
        )
        found[key] = replace(found[key], launches=(*found[key].launches, facts))
    return list(found.values())


def _work(launch: Launch, row: Mapping[str, Any] | None) -> Work:
    """Of forward's products q k^T and p v; of the gradients' these or their like again."""
    products = {"forward": (1, 1), "grad_query": (2, 1), "grad_key": (2, 2), "grad_score": (1, 1)}
    task = next((x for x in products if launch.kernel.__name__.startswith(x)), None)
    if row is None or task is None:
        return Work()
    by_head_dim, by_value_dim = products[task]
    macs = by_head_dim * launch.arguments["D_PAD"] + by_value_dim * launch.arguments["V_PAD"]
    return Work(row["tile"] * row["swept"], macs)


def _is_of(launch: Launch, row: Mapping[str, Any]) -> bool:
    constants = row.get("constants", {})
    return launch.kernel is row["kernel"] and all(launch.arguments[name] == x for name, x in constants.items())


def _storage(x: torch.Tensor) -> int:
    return x.untyped_storage()._cdata


@dataclass(frozen=True, slots=True)
class Signature:
    """What Triton compiles a kernel for: types, constants, and which arguments 16 divides."""

    types: dict[str, str]
    constants: dict[tuple[int, ...], Any]
    hints: dict[tuple[int, ...], list[list[Any]]]

    @classmethod
    def of(cls, kernel: Any, arguments: Mapping[str, Any]) -> Signature:
        """That of a launch with these arguments."""
        types: dict[str, str] = {}
        constants: dict[tuple[int, ...], Any] = {}
        hints: dict[tuple[int, ...], list[list[Any]]] = {}
        for number, parameter in enumerate(kernel.params):
            value = arguments[parameter.name]
            kind, divisible = specialised(value, constant=parameter.is_constexpr, fixed=parameter.do_not_specialize)
            types[parameter.name] = kind
            if kind == "constexpr":
                constants[(number,)] = value
            if divisible:
                hints[(number,)] = [["tt.divisibility", 16]]
        return cls(types, constants, hints)


def specialised(value: Any, *, constant: bool, fixed: bool) -> tuple[str, bool]:
    """The type Triton gives an argument, and whether it knows that 16 divides it."""
    if constant or value is None:
        return "constexpr", False
    names = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.int32: "i32"}
    if isinstance(value, torch.Tensor):
        return f"*{names[value.dtype]}", True
    if hasattr(value, "block_shape"):  # a tensor descriptor made on the host
        return f"tensordesc<{names[value.base.dtype]}{list(value.block_shape)}>", False
    if isinstance(value, float):
        return "fp32", False
    if isinstance(value, bool):
        return "u1", False
    if value == 1 and not fixed:
        return "constexpr", False
    return "i32" if -(2**31) <= value < 2**31 else "i64", value % 16 == 0 and not fixed


@dataclass(frozen=True, slots=True)
class Work:
    """What an iteration of a kernel's loops computes.

    Args:
        pairs: of query and key per program, where the machine code does not tell.
        macs_per_pair: multiply-adds of a pair, by which it tells; 0 when it is not to be asked.
    """

    pairs: int = 0
    macs_per_pair: int = 0


def compiled(kernel: Any, signature: Signature, target: str, options: Mapping[str, Any], work: Work) -> KernelReport:
    """Compile one kernel; only in a process without TRITON_INTERPRET.

    Args:
        kernel: of triton.jit.
        signature: what it is compiled for.
        target: as for `compile_ahead`.
        options: launch options.
        work: of an iteration of its loops.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    backend, _, arch = target.partition(":")
    gpu = GPUTarget(backend, int(arch) if backend == "cuda" else arch, 32 if backend == "cuda" else 64)
    source = ASTSource(kernel, signature.types, signature.constants, signature.hints)
    made = triton.compile(source, target=gpu, options=dict(options))
    known = made.metadata
    report = KernelReport(kernel.__name__, known.num_warps, known.num_stages, known.shared)
    if backend != "cuda":
        return replace(report, **machine_code.amd_metadata(made.asm.get("amdgcn", "")))
    code = machine_code.read(made.asm["cubin"])
    loops = [code.report(x, known.num_warps, work.pairs, work.macs_per_pair) for x in code.working_loops()]
    counts = code.counts()
    return replace(
        report,
        registers=code.registers,
        stack_bytes=code.stack_bytes,
        spills=sum(counts[x] for x in machine_code.LOCAL),
        spills_in_loops=code.local_in_loops(),
        programs=machine_code.programs_per_multiprocessor(int(arch), code.registers, known.num_warps, known.shared),
        hgmma=sum(n for x, n in counts.items() if x.startswith("HGMMA")),
        hmma=counts["HMMA"],
        loops=tuple(loops),
        instructions=dict(counts),
    )
