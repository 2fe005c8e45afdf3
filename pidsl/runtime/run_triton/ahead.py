"""Compile a generated Triton program without a GPU, and tell what its kernels cost.

Interpreter mode is fixed when triton is imported, so the compiler runs in a process of its own, with
TRITON_INTERPRET removed. The launches are those that `TritonProgram` would make for contiguous tensors (on the
"meta" device, so nothing is allocated), with the specialisations a real launch would get.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pidsl.errors import BackendError
from pidsl.runtime.run_triton import machine_code
from pidsl.runtime.run_triton.machine_code import LoopReport

if TYPE_CHECKING:
    from pidsl.codegen.plan.nodes import Plan
    from pidsl.runtime.call.segments import Segments
    from pidsl.runtime.run_triton.launch import Launch, Loaded, Stage

PAGE = 16  # keys of a page
PRODUCTS = {"forward": (1, 1), "grad_query": (2, 1), "grad_key": (2, 2), "grad_score": (1, 1)}  # with D, with Dv


@dataclass(frozen=True, slots=True)
class Problem:
    """The call whose launches are compiled.

    Args:
        batch, heads, key_heads, rows, keys: its sizes.
        learned: what its score learns gets gradients.
        sequences: 0 for a uniform call; else `batch` entries of lengths of their own, or that many packed documents.
        keys_at: "slots" or "pages" for a step of decoding, which has no backward pass: rows are the last ones.
    """

    batch: int = 2
    heads: int = 4
    key_heads: int = 2
    rows: int = 4096
    keys: int = 4096
    learned: bool = True
    sequences: int = 0
    keys_at: str = ""


class TensorFacts(NamedTuple):
    """A tensor argument: the number of the storage it stands in, bytes of that, where it begins there, its items."""

    storage: int
    size: int
    start: int
    itemsize: int


@dataclass(frozen=True, slots=True)
class LaunchReport:
    """One launch of a kernel.

    Args:
        number: its place in the order of launches.
        grid: programs.
        pieces: of the plan, whose pairs it visits; none for a kernel that visits no pairs.
        numbers: the integer arguments by name, and those that the kernel is specialised for.
        tensors: the tensor arguments by name.
        filled: storages that torch filled or copied into before this launch, the first that has them, with their bytes.
    """

    number: int
    grid: int
    pieces: tuple[int, ...] = ()
    numbers: dict[str, int] = field(default_factory=dict)
    tensors: dict[str, TensorFacts] = field(default_factory=dict)
    filled: tuple[tuple[int, int], ...] = ()

    @classmethod
    def read(cls, found: Mapping[str, Any]) -> LaunchReport:
        """From what `asdict` made, through JSON or not."""
        tensors = {name: TensorFacts(*x) for name, x in found["tensors"].items()}
        pieces, filled = tuple(found["pieces"]), tuple((x, size) for x, size in found["filled"])
        return cls(**{**found, "pieces": pieces, "tensors": tensors, "filled": filled})


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
    widths = head_dim, head_dim if value_dim is None else value_dim
    request = {
        **_program(plan), "kind": str(dtype).removeprefix("torch."), "widths": widths, "target": target,
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


def _program(plan: Plan | str) -> dict[str, str]:
    """A program for another process: its text, and the plan but for what isl has of it."""
    if isinstance(plan, str):
        return {"source": plan, "plan": ""}
    from pidsl.codegen.emit_triton.source import triton_source

    pieces = tuple(replace(piece, relation=None) for piece in plan.pieces)
    pickled = pickle.dumps(replace(plan, pieces=pieces, relation=None))
    return {"source": triton_source(plan), "plan": b64encode(pickled).decode()}


def _compile_request() -> None:
    """The compiling process: a request on stdin, reports on the last line of stdout."""
    request = json.load(sys.stdin)
    torch.set_float32_matmul_precision(request["precision"])
    with _Fills() as fills:
        stages = _stages(request)
    print(json.dumps([asdict(x) for x in _reports(stages, fills, request["target"], request["options"])]))


class _Placed(NamedTuple):
    """A launch, and the stage of the program that it belongs to; none for kernels that are the same in all programs."""

    launch: Launch
    name: str
    stage: Stage | None

    @property
    def work(self) -> Work:
        """Of an iteration: forward's products q k^T and p v; the gradients' these or their like again."""
        if self.stage is None:
            return Work()
        kind, (by_head_dim, by_value_dim) = self.launch.arguments["KIND"], PRODUCTS[self.name]
        macs = by_head_dim * _value(kind.D_PAD) + by_value_dim * _value(kind.V_PAD)
        kinds = {"full": (False,), "masked": (True,), "both": (False, True)}
        masked = (x for walk in self.stage.kind.get("WALKS", ()) for x in kinds[walk.get("TILES", "masked")])
        return Work(self.stage.tile * self.stage.swept, macs, tuple(masked))


def _stages(request: Mapping[str, Any]) -> list[_Placed]:
    """The launches of forward and backward on contiguous tensors."""
    from pidsl.codegen.choice.targets import target
    from pidsl.runtime.call.call import START, Call
    from pidsl.runtime.run_triton import cache
    from pidsl.runtime.run_triton.launch import Loaded
    from pidsl.runtime.run_triton.program import TritonProgram

    problem, (head_dim, value_dim) = Problem(**request["problem"]), request["widths"]
    dtype = getattr(torch, request["kind"])
    batch, heads, key_heads, rows, keys = problem.batch, problem.heads, problem.key_heads, problem.rows, problem.keys
    by_head = torch.empty(heads, dtype=torch.float32, device="meta")
    source = request["source"]
    plan = pickle.loads(b64decode(request["plan"])) if request["plan"] else None
    program = TritonProgram(plan, source)
    inputs = {}
    if plan is not None:
        known = dict.fromkeys(("slopes", "sinks", "temperature"), by_head) | {"bias": by_head[:, None], "seed": 0}
        inputs = {name: known[name] for name in plan.score.parameters}
    if hasattr(cache.load(program.path, source), "CHOSEN"):
        block, budget, queries = cache.load(program.path, source).CHOSEN
        shape = batch, key_heads, -(-rows // queries) + problem.sequences, min(budget, -(-keys // block))
        inputs["blocks"] = torch.empty(shape, dtype=torch.int32, device="meta")
    shapes = ((heads, rows, head_dim), (key_heads, keys, head_dim), (key_heads, keys, value_dim))
    q, k, v = (torch.empty(batch, *shape, dtype=dtype, device="meta") for shape in shapes)
    if problem.keys_at == "pages":
        k, v = (x.view(batch * keys // PAGE, key_heads, PAGE, x.shape[3]) for x in (k, v))
    out = torch.empty(batch, heads, rows, value_dim, dtype=dtype, device="meta")
    call = Call(q, k, v, 0.125, _segments(problem) if problem.sequences else START, inputs)
    launches, _, lse = program.forward_launches(call, target(request["target"]))
    if not problem.keys_at:
        learned = problem.learned and bool(inputs)
        grads = torch.empty_like(out), torch.empty_like(lse)
        launches += program.backward_launches(call, out, lse, *grads, learned, target(request["target"]))[0]
    loaded = Loaded(cache.load(program.path, source), plan)
    return [_placed(launch, loaded) for launch in launches]


def _segments(problem: Problem) -> Segments:
    """The sequences of a ragged call."""
    from pidsl.runtime.call.segments import Pages, Segments, Slots

    def table(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.int32, device="meta")

    batch, rows, keys = problem.batch, problem.rows, problem.keys
    square, packed = rows == keys and not problem.keys_at, problem.sequences != batch
    keys_at: Slots | Pages | None = None
    if problem.keys_at:
        slots = Slots(table(1, 4), 0, table(batch, keys))
        keys_at = slots if problem.keys_at == "slots" else Pages(table(batch, keys // PAGE), PAGE)
    return Segments(
        table(problem.sequences, 8), rows, keys, batch * rows, batch * keys, square=square, keys_at=keys_at,
        whole=packed, stop=keys, apart=not packed,
    )  # fmt: skip


def _placed(launch: Launch, loaded: Loaded) -> _Placed:
    from pidsl.runtime.run_triton.assembly import fixed

    name, kind = launch.kernel.__name__, launch.arguments.get("KIND")
    if launch.arguments.get("slope_sums") is not None:
        name = "grad_score"
    for stage in loaded.stages(name.upper()) if name in PRODUCTS else ():
        if all(getattr(kind, x) == fixed(value) for x, value in stage.kind.items()):
            return _Placed(launch, name, stage)
    return _Placed(launch, name, None)


def _value(x: Any) -> Any:
    """A constant of a kernel."""
    return getattr(x, "value", x)


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


def _reports(stages: Iterable[_Placed], fills: _Fills, target: str, options: Mapping[str, Any]) -> list[KernelReport]:
    """One report per kernel that is compiled; launches that differ in nothing else share one."""
    found: dict[Any, KernelReport] = {}
    numbers: dict[int, int] = {}
    waiting = {_storage(x): x.numel() * x.element_size() for x in fills.tensors}
    for number, placed in enumerate(stages):
        launch = placed.launch
        signature = Signature.of(launch.kernel, launch.arguments)
        chosen = {**launch.options, **options}
        key = (id(launch.kernel), *map(repr, (signature, chosen)))
        if key not in found:
            found[key] = replace(compiled(launch.kernel, signature, target, chosen, placed.work), name=placed.name)
        tensors = {name: x for name, x in launch.arguments.items() if isinstance(x, torch.Tensor)}
        own = {x: numbers.setdefault(x, len(numbers)) for x in map(_storage, tensors.values())}
        facts = LaunchReport(
            number,
            launch.grid,
            () if placed.stage is None else tuple(placed.stage.pieces),
            _numbers(launch.arguments),
            {name: _facts(x, own[_storage(x)]) for name, x in tensors.items()},
            tuple((own[x], waiting.pop(x)) for x in own if x in waiting),
        )
        found[key] = replace(found[key], launches=(*found[key].launches, facts))
    return list(found.values())


def _numbers(arguments: Mapping[str, Any]) -> dict[str, int]:
    kind = arguments.get("KIND")
    special = {} if kind is None else {name: _value(x) for name, x in kind._asdict().items()}
    return {name: int(x) for name, x in {**arguments, **special}.items() if isinstance(x, int)}


def _facts(x: torch.Tensor, number: int) -> TensorFacts:
    start = int(x.storage_offset()) * x.element_size()
    return TensorFacts(number, x.untyped_storage().nbytes(), start, x.element_size())


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
    names = {
        torch.float32: "fp32",
        torch.float16: "fp16",
        torch.bfloat16: "bf16",
        torch.int32: "i32",
        torch.int64: "i64",
    }
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
        masked: of every loop in the order of the code, whether it has a mask; () where that is not known.
    """

    pairs: int = 0
    macs_per_pair: int = 0
    masked: tuple[bool, ...] = ()


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
        registers, stack_bytes = machine_code.amd_metadata(made.asm.get("amdgcn", ""))
        return replace(report, registers=registers, stack_bytes=stack_bytes)
    code = machine_code.read(made.asm["cubin"])
    loops = [code.report(x, known.num_warps, work.pairs, work.macs_per_pair) for x in code.working_loops()]
    if len(work.masked) == len(loops):
        loops = [replace(x, masked=masked) for x, masked in zip(loops, work.masked, strict=True)]
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
