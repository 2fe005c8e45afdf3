"""Compiled without a GPU: what the machine code of the generated kernels says."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from pidsl import causal, heads, keys, lags, score, stride, window
from pidsl.codegen.choice.together import together
from pidsl.codegen.lower import lower
from pidsl.errors import BackendError
from pidsl.language.terms import Term
from pidsl.runtime.run_triton.ahead import PRODUCTS, Problem, Signature, compile_ahead
from pidsl.runtime.run_triton.machine_code import Code, blocks_of, loops_of, programs_per_multiprocessor


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory):
    patch = pytest.MonkeyPatch()
    patch.setenv("PIDSL_CACHE", str(tmp_path_factory.mktemp("programs")))
    patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("binaries")))
    yield
    patch.undo()


@pytest.mark.parametrize(
    ("term", "head_dim"),
    [(window(63) | stride(256) & causal, 64), pytest.param(window(63), 128, marks=pytest.mark.slow)],
    ids=repr,
)
def test_sm_90_uses_its_tensor_cores_and_does_not_spill(term: Term, head_dim: int) -> None:
    problem = Problem(batch=1, heads=3, key_heads=1, rows=512, keys=512)
    plan = lower(term, head_dim=head_dim, target="cuda:90")
    reports = compile_ahead(plan, "cuda:90", torch.bfloat16, head_dim, problem=problem)
    for report in reports:
        assert report.shared_bytes <= 227 * 1024
        if report.name in PRODUCTS:
            assert report.loops and all(loop.hgmma and not loop.spills for loop in report.loops), report
    launches = sorted((x for report in reports for x in report.launches), key=lambda x: x.number)
    assert [x.number for x in launches] == list(range(len(launches)))
    for name in ("forward", "grad_query", "grad_key"):
        visited = {x for report in reports if report.name == name for launch in report.launches for x in launch.pieces}
        assert visited == set(range(len(plan.pieces)))
    first = launches[0]
    assert not first.filled and first.numbers["n"] == problem.rows and first.numbers["D_PAD"] == head_dim
    assert first.tensors["q"] == (0, 3 * 512 * head_dim * 2, 0, 2)


@pytest.mark.parametrize(  # on the others test_ragged_ahead.py compiles packed documents
    "target", ["cuda:100", *(pytest.param(x, marks=pytest.mark.slow) for x in ("cuda:80", "hip:gfx942"))]
)
def test_other_targets_compile(target: str) -> None:
    reports = compile_ahead(lower(window(63)), target, torch.float16, head_dim=16)
    assert [x.name for x in reports] == ["forward", "row_statistics", "grad_query", "grad_key"]
    assert all(x.registers and x.stack_bytes is not None for x in reports)


def test_odd_head_dims_and_diagonals_compile() -> None:
    reports = compile_ahead(lower(lags(0, 100, 1000)), "cuda:90", torch.float16, head_dim=40, value_dim=72)
    assert not any(report.spills for report in reports)


def test_a_scored_kernel_uses_tensor_cores_and_does_not_spill() -> None:
    everything = score(softcap=50.0, alibi=True, bias=(0, 63), sinks=True, temperature=True, dropout=0.1)
    reports = compile_ahead(replace(lower(window(63)), score=everything), "cuda:90", torch.bfloat16, 64)
    assert [x.name for x in reports] == ["forward", "row_statistics", "grad_query", "grad_key", "grad_score"]
    assert all(x.hgmma for x in reports if x.name != "row_statistics")
    # everything at once is more than 255 registers hold in the key gradient
    assert all(100 * loop.spills < loop.instructions for x in reports for loop in x.loops)
    assert not any(x.spills_in_loops for x in reports if x.name != "grad_key")


def test_softplus_uses_tensor_cores_and_does_not_spill() -> None:
    reports = compile_ahead(replace(lower(window(63)), score=score(normalizer="softplus")), "cuda:90", torch.bfloat16)
    assert all(x.hgmma for x in reports if x.name != "row_statistics")
    assert not any(x.spills for x in reports)


def test_heads_in_one_launch_use_tensor_cores_and_do_not_spill() -> None:
    several = heads([(6, window(63)), (2, window(255) | keys(0, 4) & causal)])
    plan = together(several, lambda term, size: lower(term, size=size))
    assert plan is not None
    reports = compile_ahead(plan, "cuda:90", torch.bfloat16, 64)
    assert {"forward", "row_statistics", "grad_query", "grad_key"} <= {x.name for x in reports}
    assert all(x.hgmma for x in reports if x.name in PRODUCTS)
    assert not any(x.spills_in_loops for x in reports)


def test_compiler_errors_are_told() -> None:
    source = "import triton\nimport triton.language as tl\nFORWARD = 1 / 0\n"
    with pytest.raises(BackendError, match="ZeroDivisionError"):
        compile_ahead(source)


LOOP = """
	.section	.text.forward,"ax",@progbits
	//## File "/lib/standard.py", line 43 inlined at "/p/program.py", line 9
	//## File "/p/program.py", line 9
        /*0000*/                   MOV R1, c[0x0][0x28] ;
        /*0010*/              @!P0 BRA `(.L_x_3) ;
.L_x_1:
        /*0020*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR7], R4 ;
        /*0030*/              @!P0 BRA `(.L_x_2) ;
.L_x_6:
	//## File "/p/program.py", line 60 inlined at "/p/program.py", line 12
	//## File "/p/program.py", line 12
        /*0040*/                   HGMMA.64x64x16.F32.BF16 R24, gdesc[UR12], RZ, !UPT ;
        /*0050*/                   HGMMA.64x32x16.F32.BF16 R24, R4, gdesc[UR12], R24 ;
        /*0060*/                   MUFU.EX2 R9, R9 ;
        /*0070*/              @!PT LDS RZ, [RZ] ;
        /*0080*/                   LDGSTS.E.BYPASS.128 [R4], desc[UR16][R8.64] ;
        /*0090*/                   DEPBAR.LE SB0, 0x2 ;
        /*00a0*/               @P1 BRA `(.L_x_1) ;
.L_x_3:
        /*00b0*/                   STL [R1], R4 ;
.L_x_4:
        /*00c0*/                   LDL R4, [R1] ;
        /*00d0*/                   IADD3 R4, R4, 0x1, RZ ;
        /*00e0*/                   BRA.U UP0, `(.L_x_4) ;
        /*00f0*/                   EXIT ;
.L_x_2:
        /*0100*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR7], R4 ;
        /*0110*/              @!P0 BRA `(.L_x_2) ;
        /*0120*/                   BRA `(.L_x_6) ;
	.section	.text.other,"ax",@progbits
        /*0000*/                   EXIT ;
"""


def test_a_wait_out_of_line_is_part_of_its_loop_and_not_counted() -> None:
    code = Code(tuple(blocks_of(LOOP)), registers=32, stack_bytes=8)
    assert len(code.loops) == 3 == len(loops_of(code.blocks))  # two that work, one that spins
    assert code.counts()["EXIT"] == 1 and code.local_in_loops() == 1
    (loop,) = code.working_loops()
    report = code.report(loop, warps=4, macs_per_pair=128)
    assert report.counts == {
        "BRA": 2, "SYNCS": 1, "HGMMA n64 shared": 1, "HGMMA n32": 1, "EX2": 1, "NOP": 1, "LDGSTS": 1, "DEPBAR": 1,
    }  # fmt: skip
    assert report.pairs == 64 * (64 + 32) * 16 // 128
    assert (report.instructions, report.hgmma, report.spills, report.product_widths) == (9, 2, 0, (32, 64))
    assert (report.waits, report.wait, report.prefetches, report.copied_bytes) == ((2,), "DEPBAR 2", True, 4 * 512)
    assert report.per_tile("HGMMA") == 2 * 4 * 4096 / report.pairs
    assert report.line == 12


def test_loops_in_loops_are_told_apart() -> None:
    inner = (
        LOOP.replace("@!P0 BRA `(.L_x_3)", "NOP")
        .replace("LDL R4, [R1]", "HMMA.16816.F32.BF16 R4, R4, R6, R8")
        .replace("EXIT ;\n.L_x_2", "BRA `(.L_x_1) ;\n.L_x_2")
    )
    code = Code(tuple(blocks_of(inner)), 32, 0)
    assert code.local_in_loops() == 1  # the store now stands in the outer loop
    (loop,) = code.working_loops()
    assert code.report(loop, warps=4).counts == {"HMMA": 1, "IADD3": 1, "BRA": 1}


@pytest.mark.parametrize(
    ("arguments", "programs"),
    [((90, 128, 8, 48 << 10), 2), ((90, 255, 8, 112 << 10), 1), ((90, 124, 4, 40 << 10), 4), ((90, 32, 4, 0), 16),
     ((80, 168, 4, 24 << 10), 3), ((86, 32, 4, 99 << 10), 1), ((75, 32, 4, 0), None)],
)  # fmt: skip
def test_programs_that_fit(arguments: tuple[int, int, int, int], programs: int | None) -> None:
    assert programs_per_multiprocessor(*arguments) == programs


def test_arguments_are_specialised_as_a_launch_would() -> None:
    def parameter(name: str, *, constant: bool = False, fixed: bool = False) -> SimpleNamespace:
        return SimpleNamespace(name=name, is_constexpr=constant, do_not_specialize=fixed)

    def mask() -> None: ...

    given = {
        "q": torch.empty(1, dtype=torch.bfloat16), "none": None, "masks": (mask, mask), "mask": mask, "TILE": 64,
        "n": 1, "step": 1, "stride": 48, "far": 2**40, "scale": 0.5, "flag": True,
        "rows": SimpleNamespace(base=torch.empty(1, dtype=torch.float16), block_shape=[64, 32]),
    }  # fmt: skip
    kernel = SimpleNamespace(
        params=[parameter(x, constant=x in ("masks", "mask", "TILE"), fixed=x == "n") for x in given]
    )
    found = Signature.of(kernel, given)
    assert found.types == {
        "q": "*bf16", "none": "constexpr", "masks": "constexpr", "mask": "constexpr", "TILE": "constexpr", "n": "i32",
        "step": "constexpr", "stride": "i32", "far": "i64", "scale": "fp32", "flag": "u1",
        "rows": "tensordesc<fp16[64, 32]>",
    }  # fmt: skip
    assert found.constants == {(1,): None, (2,): (mask, mask), (3,): mask, (4,): 64, (6,): 1}
    assert [kernel.params[x].name for (x,) in found.hints] == ["q", "stride", "far"]


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
