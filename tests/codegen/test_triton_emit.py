"""Generated Triton programs, interpreted: right for every shape, dtype and layout, and readable."""

from __future__ import annotations

import ast
import math
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import triton.language as tl
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from triton.runtime import interpreter

from pidsl import blocks, causal, empty, full, keys, lags, queries, ring, stride, where, window
from pidsl.codegen.choice import choose
from pidsl.codegen.emit_triton.expr import index_source, pred_source
from pidsl.codegen.emit_triton.reach import reach
from pidsl.codegen.emit_triton.source import triton_source
from pidsl.codegen.lower import lower, planned
from pidsl.codegen.plan.nodes import Piece, Plan
from pidsl.codegen.plan.walks import Lag, Lags, Layout, Run, Runs
from pidsl.errors import BackendError, SymbolError, TooHardError
from pidsl.language.algebra import non_negative, separated
from pidsl.language.expr import (
    Abs,
    Add,
    And,
    Compare,
    FloorDiv,
    Max,
    Min,
    Mod,
    Mul,
    Not,
    Or,
    Sub,
    Symbol,
    Truth,
    Var,
)  # fmt: skip
from pidsl.language.terms import Term
from pidsl.runtime.call.call import Call, Positions
from pidsl.runtime.run_triton import assembly
from pidsl.runtime.run_triton.program import TritonProgram
from pidsl.testing import terms

interpreted = pytest.mark.skipif(torch.cuda.is_available(), reason="these tests are for the interpreter")
PI = window(9) | stride(4) & causal


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory):
    patch = pytest.MonkeyPatch()
    patch.setenv("PIDSL_CACHE", str(tmp_path_factory.mktemp("programs")))
    yield
    patch.undo()


@dataclass
class Case:
    """Inputs of one call, and what comes out of it, named."""

    q: Tensor
    k: Tensor
    v: Tensor
    grad_out: Tensor
    grad_lse: Tensor
    offset: int = 0
    scale: float = 0.3

    def run(self, program: TritonProgram) -> dict[str, Tensor]:
        call = Call(self.q, self.k, self.v, self.scale, Positions(self.offset))
        out, lse = program.forward(call)
        *grads, _ = program.backward(call, out, lse, self.grad_out, self.grad_lse, False)
        return dict(zip(("out", "lse", "dq", "dk", "dv"), (out, lse, *grads), strict=True))

    def dense(self, term: Term) -> dict[str, Tensor]:
        """The same by dense attention in float64."""
        mask = torch.from_numpy(term.mask(self.q.shape[2], self.k.shape[2], offset=self.offset).copy())
        q, k, v = (x.detach().double().requires_grad_() for x in (self.q, self.k, self.v))
        group = q.shape[1] // k.shape[1]
        logits = q @ k.repeat_interleave(group, 1).mT * self.scale
        some = mask.any(-1)
        lse = torch.where(mask | ~some[:, None], logits, -torch.inf).logsumexp(-1) if mask.numel() else logits.sum(-1)
        out = torch.where(mask, (logits - lse[..., None]).exp(), 0.0) @ v.repeat_interleave(group, 1)
        loss = (out * self.grad_out.double()).sum() + (lse * some * self.grad_lse.double()).sum()
        loss.backward()
        lse = torch.where(some, lse, -torch.inf)
        assert q.grad is not None and k.grad is not None and v.grad is not None
        return {"out": out.detach(), "lse": lse.detach(), "dq": q.grad, "dk": k.grad, "dv": v.grad}


def case(n: int, m: int | None = None, *, d: int = 16, dv: int = 8, heads: int = 1, group: int = 1, batch: int = 1,
         dtype: torch.dtype = torch.float32, offset: int = 0) -> Case:  # fmt: skip
    g = torch.Generator().manual_seed(1000 * n + d)
    m = n if m is None else m

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g).to(dtype)

    return Case(
        normal(batch, heads * group, n, d),
        normal(batch, heads, m, d),
        normal(batch, heads, m, dv),
        normal(batch, heads * group, n, dv),
        torch.randn((batch, heads * group, n), generator=g),
        offset,
    )


@lru_cache
def program(term: Term) -> TritonProgram:
    return TritonProgram(lower(term))


def check(term: Term, given_case: Case, made: TritonProgram | None = None) -> None:
    got, wanted = given_case.run(made or program(term)), given_case.dense(term)
    tolerance = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 6e-2}[given_case.q.dtype]
    for name, x in got.items():
        assert not x.isnan().any(), name
        y = wanted[name]
        assert torch.equal(x == -torch.inf, y == -torch.inf), name
        x, y = x.double()[y.isfinite()], y[y.isfinite()]
        assert torch.allclose(x, y, rtol=0, atol=tolerance * float(y.abs().max() + 1 if y.numel() else 1)), name
    mask = torch.from_numpy(term.mask(given_case.q.shape[2], given_case.k.shape[2], offset=given_case.offset).copy())
    blind, unseen = ~mask.any(1), ~mask.any(0)
    assert not got["out"][:, :, blind].any() and not got["dq"][:, :, blind].any()
    assert not got["dk"][:, :, unseen].any() and not got["dv"][:, :, unseen].any()


TERMS = {
    "band": window(7, 2),
    "classes": stride(4) & causal,
    "band and classes": PI,
    "two phases": stride(4, 1) | stride(4, 3),
    "diagonals": lags(0, 1, 2, 4, 8, 16, 32),
    "key classes": (keys(3, None, 8) | window(4)) & causal,
    "query classes": queries(1, None, 8),
    "sinks": keys(0, 4) | window(5),
    "blocks": blocks(20),
    "divisions": where(lambda i, j: ((i - j) % 7 < 3) & (i // 16 >= j // 16)),
    "lengths": where(lambda i, j, n, m: (n > 20) & (j <= i) & (j + n > m)),
    "full": full,
    "empty": empty,
}


@interpreted
@pytest.mark.parametrize("name", TERMS)
def test_agrees_with_dense_attention(name: str) -> None:
    term = TERMS[name]
    check(term, case(66))
    check(term, case(33, 50, offset=21, d=24, group=2))


@interpreted
def test_ring() -> None:
    check(ring(5), case(40))


@interpreted
@pytest.mark.parametrize(("n", "m", "offset"), [(0, 0, 0), (0, 5, 3), (5, 0, 0), (1, 1, 0), (3, 3, 0), (17, 90, 60),
                                                (90, 17, 0), (20, 8, 300)])  # fmt: skip
def test_lengths(n: int, m: int, offset: int) -> None:
    check(PI, case(n, m, offset=offset))
    check(lags(0, 5, 300), case(n, m, offset=offset))


@interpreted
def test_full_tiles_need_no_mask() -> None:
    assert '"BOUNDS": "high", "TILES": "both"' in program(causal).source
    check(causal, case(150))


@interpreted
@pytest.mark.parametrize(("d", "dv"), [(8, 8), (16, 40), (40, 16), (64, 8), (128, 128)])
def test_head_dims(d: int, dv: int) -> None:
    check(PI, case(40, d=d, dv=dv))


@interpreted
@pytest.mark.parametrize("group", [1, 2, 4])
def test_grouped_heads_and_batches(group: int) -> None:
    check(window(5) | lags(9), case(20, heads=2, group=group, batch=2))


@interpreted
def test_strides() -> None:
    term = window(5) | lags(9)
    x = case(20, heads=2, group=2)
    plain = x.run(program(term))
    transposed = replace(
        x,
        q=x.q.transpose(1, 2).contiguous().transpose(1, 2),
        k=x.k.mT.contiguous().mT,
        v=torch.cat([x.v, x.v], -1)[..., ::2].copy_(x.v),
        grad_out=x.grad_out.mT.contiguous().mT,
    )
    for name, y in transposed.run(program(term)).items():
        assert torch.equal(y, plain[name]), name
    expanded = replace(x, k=x.k[:, :1].expand(-1, 2, -1, -1), grad_out=torch.ones(1, 1, 1, 1).expand(1, 4, 20, 8))
    check(term, expanded)


@interpreted
@pytest.mark.parametrize("scale", [0.0, -0.4, 30.0])
def test_scales(scale: float) -> None:
    check(window(9), replace(case(30), scale=scale))


@pytest.fixture
def bfloat16_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the interpreter round and multiply bfloat16 numbers; left alone, it truncates, and multiplies their bits."""
    builder = interpreter.InterpreterBuilder
    cast_impl, create_dot = builder.cast_impl, builder.create_dot

    def cast(self: Any, source: Any, kind: Any) -> Any:
        if source.dtype.scalar == tl.float32 and kind.scalar == tl.bfloat16:
            rounded = torch.from_numpy(source.data).to(torch.bfloat16).view(torch.int16).numpy()
            return interpreter.TensorHandle(rounded.view(np.uint16), tl.bfloat16)
        return cast_impl(self, source, kind)

    def dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        a, b = (cast_impl(self, x, tl.float32) if x.dtype.scalar == tl.bfloat16 else x for x in (a, b))
        return create_dot(self, a, b, *rest)

    monkeypatch.setattr(builder, "cast_impl", cast)
    monkeypatch.setattr(builder, "create_dot", dot)
    monkeypatch.setattr(TritonProgram, "_misread", lambda *_: False)


@interpreted
@pytest.mark.usefixtures("bfloat16_of_a_gpu")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("term", [window(20) | stride(4) & causal, lags(0, 1, 5, 30)], ids=repr)
def test_error_is_at_most_twice_that_of_torch(term: Term, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "with_lags_in_tiles", lambda found, *_: found)  # diagonals are judged here
    x = case(80, d=40, dv=24, dtype=dtype)
    x.grad_lse = torch.zeros_like(x.grad_lse)
    wanted, got = x.dense(term), x.run(TritonProgram(planned(term)))
    q, k, v = (y.detach().clone().requires_grad_() for y in (x.q, x.k, x.v))
    mask = torch.from_numpy(term.mask(80).copy())
    out = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=x.scale)
    out.backward(x.grad_out)
    for name, theirs in {"out": out, "dq": q.grad, "dk": k.grad, "dv": v.grad}.items():
        assert theirs is not None
        allowed = 2 * (theirs.double() - wanted[name]).square().mean().sqrt()
        assert (got[name].double() - wanted[name]).square().mean().sqrt() <= allowed, name


@interpreted
def test_runs_are_bit_identical() -> None:
    x = case(30, heads=1, group=2, dtype=torch.float16)
    first, second = x.run(program(PI)), x.run(program(PI))
    assert all(torch.equal(first[name], second[name]) for name in first)


@interpreted
@pytest.mark.parametrize("name", ["key classes", "query classes", "diagonals", "divisions"])
def test_what_nobody_attends_is_never_used(name: str) -> None:
    term = TERMS[name] & keys(0, 30) & queries(4, None)
    x = case(50)
    mask = torch.from_numpy(term.mask(50).copy())
    clean = x.run(program(term))
    unseen, blind = ~mask.any(0), ~mask.any(1)
    assert unseen.any() and blind.any()
    for y in (x.k, x.v):
        y[:, :, unseen] = torch.nan
    for y in (x.q, x.grad_out, x.grad_lse):
        y[:, :, blind] = torch.nan
    for name, y in x.run(program(term)).items():
        assert torch.equal(y, clean[name]), name


@interpreted
def test_64_bit_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    x = case(40)
    plain = x.run(program(PI))
    monkeypatch.setattr(assembly, "fits_int32", lambda *_: False)
    for name, y in x.run(program(PI)).items():
        assert torch.equal(y, plain[name]), name


@interpreted
@settings(max_examples=max(1, settings.default.max_examples // 5))
@given(terms(3), st.integers(0, 24), st.integers(0, 24), st.integers(0, 12))
def test_random_terms(term: Term, n: int, m: int, offset: int) -> None:
    try:
        made = program(term)
    except TooHardError:
        return
    check(term, case(n, m, offset=offset, d=8), made)


# Plans that the planner does not make (today), by hand.

T, N, M, OFFSET, A, B = (Var(x) for x in ("t", "n", "m", "offset", "a", "b"))


def last(length: Var, size: int) -> FloorDiv:
    return FloorDiv(Sub(length, 1), size)


@interpreted
def test_runs_with_steps_and_guards() -> None:
    """`causal` by all tiles: even ones, odd ones in two guarded runs, on both sides."""
    keep = Compare(">=", Sub(Add(A, OFFSET), B), 0)

    def runs(length: Var) -> tuple[Run, ...]:
        late = Compare(">=", N, 40)
        return (
            Run(False, 0, last(length, 16), 2),
            Run(False, 1, last(length, 16), 2, late),
            Run(False, 1, last(length, 16), 2, Not(late)),
        )

    forward, grad_query = (Runs(Layout(), "keys", rows, 16, runs(M)) for rows in (32, 16))
    grad_key = Runs(Layout(), "queries", 16, 16, runs(N))
    piece = Piece((keep,), forward, grad_query, grad_key, None)
    made = TritonProgram(Plan(causal, "triton", (piece,), None, None, None))
    for n in (30, 50):
        check(causal, case(n, 45, offset=15), made)


@interpreted
def test_only_fixed_query_classes() -> None:
    """No stage owns every row: the launcher fills what no kernel writes."""
    term = queries(0, None, 4)
    layout = Layout(query_step=4, query_class=0)
    over_keys = Runs(layout, "keys", 16, 16, (Run(False, 0, last(M, 16)),))
    over_queries = Runs(layout, "queries", 16, 16, (Run(False, 0, last(N, 16)),))
    piece = Piece((Truth(True),), over_keys, over_keys, over_queries, None)
    made = TritonProgram(Plan(term, "triton", (piece,), None, None, None))
    check(term, case(50), made)
    check(term, case(50, 20, offset=3, dtype=torch.bfloat16), made)


@interpreted
def test_many_diagonals_and_a_mask_on_one() -> None:
    values = (0, 1, 3, 6, 10, 15, 21, 28, 36, 45, 55, 66, 78, 91, 105, 120)
    term = lags(*values[1:]) | lags(0) & queries(0, None, 2)
    r, offset = Var("r"), Var("offset")
    even = Compare("==", Mod(Add(r, offset), 2), 0)
    found = tuple(
        Lag(x, Max(Sub(x, offset), 0), Min(Sub(N, 1), Sub(Add(M, x - 1), offset)), None if x else even) for x in values
    )
    over_keys, over_queries = (Lags(Layout(), over, found) for over in ("keys", "queries"))
    plan = Plan(term, "triton", (Piece((), over_keys, over_keys, over_queries, None),), None, None, None)
    check(term, case(60, 70, offset=33), TritonProgram(plan))
    assert len(triton_source(plan).splitlines()) < 600


# The text.


def test_source_is_deterministic_readable_python() -> None:
    source = triton_source(lower(window(63) | stride(256) & causal))
    assert source == triton_source(lower(window(63) | stride(256) & causal))
    ast.parse(source)
    assert "    window(63) | stride(256) & causal\n" in source
    assert "Piece 1, residue classes mod 256, lag mod 256 == 0: what 64 rows" in source
    assert max(map(len, source.splitlines())) <= 120
    for kernel in ("forward", "grad_query", "grad_key"):
        assert f"\ndef {kernel}(" in source
    assert "if KIND.LAGS" not in source and "import pidsl" not in source


def test_what_a_pattern_adds_to_the_library_is_short() -> None:
    text = triton_source(lower(window(63) | stride(256) & causal)).splitlines()
    library = text.index(next(x for x in text if x.startswith("NUMBERS"))), text.index("FORWARD = [")
    assert len(text) - (library[1] - library[0]) < 80


def test_source_of_an_empty_pattern_has_no_kernels() -> None:
    source = triton_source(lower(empty))
    assert "FORWARD = []" in source and "def forward" not in source


def test_text_cannot_leave_the_header() -> None:
    class Odd:
        def __repr__(self) -> str:
            return 'x """ \\ y'

    ast.parse(triton_source(replace(lower(window(3)), term=Odd())))  # type: ignore[arg-type]


def test_cache_holds_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIDSL_CACHE", str(tmp_path))
    made = TritonProgram(lower(window(31)))
    assert made.path.read_text() == made.source and made.path.parent == tmp_path
    made.path.write_text("damaged")
    again = TritonProgram(lower(window(31)))
    assert again.path.read_text() == made.source


def test_cache_that_cannot_be_written(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path_factory.mktemp("x") / "file"
    file.write_text("")
    monkeypatch.setenv("PIDSL_CACHE", str(file / "folder"))
    with pytest.raises(BackendError, match="PIDSL_CACHE"):
        TritonProgram(lower(window(32)))


@pytest.mark.parametrize(
    ("index", "text"),
    [
        (FloorDiv(A, 3), "a // 3"),
        (Mod(Add(A, 3), 3), "(a + 3) % 3"),
        (FloorDiv(Sub(A, B), 8), "(a - b) >> 3"),
        (Mod(Sub(A, B), 8), "(a - b) & 7"),
        (FloorDiv(Sub(A, B), 3), "_floor_div(a - b, 3)"),
        (Mod(Sub(A, B), 3), "_floor_mod(a - b, 3)"),
        (FloorDiv(Max(Sub(A, B), 0), 3), "tl.maximum(a - b, 0) // 3"),
        (Sub(A, Sub(B, 1)), "a - (b - 1)"),
        (Abs(Mul(Add(A, B), -2)), "tl.abs((a + b) * -2)"),
    ],
)
def test_division_rounds_down(index: object, text: str) -> None:
    assert index_source(index) == text  # type: ignore[arg-type]
    assert non_negative(A) and not non_negative(Sub(A, B)) and non_negative(Mod(Sub(A, B), 3))


def test_predicates() -> None:
    p = Not(And(Compare("<", A, 3), Or(Compare("==", B, 0), Truth(False))))
    assert pred_source(p) == "(a >= 3) | (b != 0) & True"
    lag = Sub(Sub(Mul(Sub(A, B), 4), 9), Mul(B, 0))
    assert pred_source(separated(Compare(">", lag, OFFSET), frozenset("bj"))) == "4 * a - offset - 9 > 4 * b"
    assert pred_source(separated(Compare(">", Sub(B, A), 0), frozenset("bj"))) == "a < b"
    with pytest.raises(SymbolError):
        index_source(Symbol("k"))


def test_reach_bounds_every_intermediate() -> None:
    divided = Compare("<", FloorDiv(Sub(Mul(A, 100), 7), 50), N)
    assert reach([(divided, {"a": (1, 0)})]) == (107, 1)
    constant, slope = reach([(divided, {"a": (1, 0)}), (Mul(A, B), {})])
    assert constant >= 2**31 and math.isfinite(slope)
