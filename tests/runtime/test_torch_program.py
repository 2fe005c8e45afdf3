"""The torch backend against dense attention in float64: plans written by hand, one per feature of the plan language."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations
from math import gcd
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from pidsl import keys, queries, testing
from pidsl.codegen.emit_torch.source import class_parts, torch_source
from pidsl.codegen.plan.nodes import Piece, Plan
from pidsl.codegen.plan.walks import Lag, Lags, Layout, Run, Runs
from pidsl.language.expr import And, Compare, FloorDiv, Max, Min, Mod, Not, Pred, Truth, Var
from pidsl.language.terms import Term
from pidsl.runtime.call.call import Call, Positions
from pidsl.runtime.call.sums import accumulator
from pidsl.runtime.run_torch import bands, passes, tile_ops, walks
from pidsl.runtime.run_torch import diagonals as diagonal_ops
from pidsl.runtime.run_torch import tiles as equal_tiles
from pidsl.runtime.run_torch.bands import Band, Lattice
from pidsl.runtime.run_torch.program import TorchProgram
from pidsl.runtime.run_torch.views import add_windows, merge_grid
from pidsl.runtime.run_torch.walks import Sizes
from pidsl.testing import assert_matches_dense, shapes, terms

n, m, offset, c, d, t, a, b, r, j = (Var(name) for name in ("n", "m", "offset", "c", "d", "t", "a", "b", "r", "j"))


def both(*preds: Pred) -> Pred:
    result = preds[0]
    for p in preds[1:]:
        result = And(result, p)
    return result


def le(x: Any, y: Any) -> Pred:
    return Compare("<=", x, y)


def tiles(
    rows: int,
    runs: list[Run],
    keep: Pred,
    shifts: tuple[tuple[int, int], ...] = (),
    layout: Layout = Layout(),  # noqa: B008
    grad: tuple[int, list[Run]] | None = None,
) -> Piece:
    forward = Runs(layout, "keys", rows, 1, tuple(runs))
    grad_query = forward if grad is None else Runs(layout, "keys", grad[0], 1, tuple(grad[1]))
    return Piece((keep,), forward, grad_query, None, None, shifts)


def plan_of(
    *pieces: Piece, name: str = "placeholder", attended_keys: Pred | None = None, attended_rows: Pred | None = None
) -> Plan:
    term: Any = name
    return Plan(term, "torch", pieces, attended_keys, attended_rows, None)


Pattern = Callable[[Any, Any, int, int], Any]  # (i, j, n, m) -> bool array


@dataclass(frozen=True)
class Case:
    """A plan and, written independently, the pattern that it is a plan for."""

    name: str
    plan: Plan
    pattern: Pattern

    def mask(self, rows: int, keys: int, shift: int) -> NDArray[np.bool_]:
        i, jj = np.arange(rows)[:, None] + shift, np.arange(keys)[None]
        return np.broadcast_to(self.pattern(i, jj, rows, keys), (rows, keys))


def last_row(rows: int, step: int = 1) -> Any:
    """The last row index of tile t inside its class."""
    count = FloorDiv(n - c + (step - 1), step) if step > 1 else n
    return Min(t * rows + (rows - 1), count - 1)


def window_runs(rows: int, left: int, right: int = 0) -> list[Run]:
    return [Run(False, Max(t * rows + offset - left, 0), Min(last_row(rows) + offset + right, m - 1))]


def window_keep(left: int, right: int = 0) -> Pred:
    return both(le(b - right, a + offset), le(a + offset - left, b))


def window(left: int, right: int = 0, rows: int = 16, grad_rows: int | None = None) -> Piece:
    grad = None if grad_rows is None else (grad_rows, window_runs(grad_rows, left, right))
    return tiles(rows, window_runs(rows, left, right), window_keep(left, right), ((1, 1),), grad=grad)


def split_window(left: int, rows: int) -> Piece:
    """Masked, full and masked runs; the full one may be empty."""
    top = Min(last_row(rows) + offset, m - 1)
    bottom = Max(t * rows + offset - left, 0)
    full_first, full_last = Max(last_row(rows) + offset - left, 0), Min(t * rows + offset, m - 1)
    guard = le(full_first, full_last)
    runs = [
        Run(True, full_first, full_last, guard=guard),
        Run(False, bottom, Min(full_first - 1, m - 1), guard=guard),
        Run(False, full_last + 1, top, guard=guard),
        Run(False, bottom, top, guard=Not(guard)),
    ]
    return tiles(rows, runs, window_keep(left), ((1, 1),))


def causal_stride(period: int, phase: int = 0, rows: int = 16, beyond: int = 0, mixed: bool = False) -> Piece:
    """lag % period == phase and lag >= beyond; `mixed`: with a mask in which the class cannot be told apart."""
    if mixed:
        keep = le(beyond, a * period + c + offset - b * period - d)
    else:
        keep = le(b, a + FloorDiv(c + offset - d - beyond, period))
    top = FloorDiv(last_row(rows, period) * period + c + offset - d - beyond, period)
    keys = FloorDiv(m - d + (period - 1), period)
    runs = [Run(False, 0, Min(top, keys - 1))]
    return tiles(rows, runs, keep, ((1, 1),), Layout(period, period, phase=phase))


def causal_runs(rows: int) -> list[Run]:
    return [
        Run(True, 0, Min(t * rows + offset, m - 1)),
        Run(False, t * rows + offset + 1, Min(last_row(rows) + offset, m - 1)),
    ]


def causal(rows: int = 32) -> Piece:
    return tiles(rows, causal_runs(rows), le(b, a + offset), ((1, 1),))


def blocks(size: int, rows: int) -> Piece:
    i = a + offset
    low = FloorDiv(t * rows + offset, size) * size
    high = FloorDiv(last_row(rows) + offset, size) * size + (size - 1)
    keep = Compare("==", FloorDiv(i, size), FloorDiv(b, size))
    return tiles(rows, [Run(False, low, Min(high, m - 1))], keep, ((size, size),))


def key_class(step: int, chosen: int, rows: int = 16) -> Piece:
    """Causal, and only keys with j % step == chosen."""
    top = FloorDiv(last_row(rows) + offset - chosen, step)
    keys = FloorDiv(m - chosen + (step - 1), step)
    keep = le(b * step + chosen, a + offset)
    return tiles(rows, [Run(False, 0, Min(top, keys - 1))], keep, ((step, 1),), Layout(1, step, key_class=chosen))


def query_class(step: int, chosen: int, left: int, rows: int = 16) -> Piece:
    """Only positions with i % step == chosen, each with its window."""
    i = a * step + c + offset
    first = Max(t * (rows * step) + c + offset - left, 0)
    last = Min(Min(t * (rows * step) + (rows - 1) * step + c, n - 1) + offset, m - 1)
    keep = both(le(b, i), le(i - left, b))
    return tiles(rows, [Run(False, first, last)], keep, ((1, step),), Layout(step, 1, query_class=chosen))


def diagonals(*values: int, keep: Pred | None = None) -> Piece:
    found = (Lag(x, Max(x - offset, 0), Min(n - 1, m - 1 + x - offset), keep) for x in values)
    walk = Lags(Layout(), "keys", tuple(found))
    return Piece((), walk, walk, None, None)


def irregular(rows: int = 8) -> Piece:
    """Keys up to half the position, and of those every third sum: no translation leaves it alone."""
    i = a + offset
    keep = both(le(b * 2, i), Compare("!=", Mod(i * i + b, 3), 0))
    return tiles(rows, [Run(False, 0, Min(FloorDiv(last_row(rows) + offset, 2), m - 1))], keep)


NONE = Truth(False)
CASES = [
    Case("window", plan_of(window(5)), lambda i, j, n, m: (i - j >= 0) & (i - j <= 5)),
    Case(
        "window, other tiles backward", plan_of(window(5, grad_rows=24)), lambda i, j, n, m: (i - j >= 0) & (i - j <= 5)
    ),
    Case("two-sided window", plan_of(window(9, 20)), lambda i, j, n, m: (i - j >= -20) & (i - j <= 9)),
    Case("wide window, split", plan_of(split_window(40, 8)), lambda i, j, n, m: (i - j >= 0) & (i - j <= 40)),
    Case("stride", plan_of(causal_stride(7)), lambda i, j, n, m: (i - j >= 0) & ((i - j) % 7 == 0)),
    Case(
        "stride, phase",
        plan_of(causal_stride(6, 4, 4, mixed=True)),
        lambda i, j, n, m: (i - j >= 0) & ((i - j) % 6 == 4),
    ),
    Case(
        "window or stride",
        plan_of(window(10), causal_stride(8, beyond=11)),
        lambda i, j, n, m: (i - j >= 0) & ((i - j <= 10) | ((i - j) % 8 == 0)),
    ),
    Case(
        "window, stride and lags",
        plan_of(diagonals(33, 61), window(3), causal_stride(16, beyond=4)),
        lambda i, j, n, m: (i - j >= 0) & ((i - j <= 3) | ((i - j) % 16 == 0) | (i - j == 33) | (i - j == 61)),
    ),
    Case(
        "lags", plan_of(diagonals(-3, 0, 1, 2, 4, 8, 100)), lambda i, j, n, m: np.isin(i - j, [-3, 0, 1, 2, 4, 8, 100])
    ),
    Case(
        "lags of even positions",
        plan_of(diagonals(0, 9, keep=Compare("==", Mod(r + offset, 2), 0))),
        lambda i, j, n, m: np.isin(i - j, [0, 9]) & (i % 2 == 0),
    ),
    Case(
        "window and lags",
        plan_of(window(2), diagonals(5, 17)),
        lambda i, j, n, m: ((i - j >= 0) & (i - j <= 2)) | np.isin(i - j, [5, 17]),
    ),
    Case("causal", plan_of(causal()), lambda i, j, n, m: i >= j),
    Case("blocks in equal tiles", plan_of(blocks(16, 32)), lambda i, j, n, m: i // 16 == j // 16),
    Case("blocks across tiles", plan_of(blocks(12, 16)), lambda i, j, n, m: i // 12 == j // 12),
    Case(
        "key class",
        plan_of(key_class(5, 3), attended_keys=And(Compare("==", Mod(j, 5), 3), Compare("<", j, n + offset))),
        lambda i, j, n, m: (i >= j) & (j % 5 == 3),
    ),
    Case(
        "query class",
        plan_of(
            query_class(4, 1, 10),
            attended_rows=both(Compare("==", Mod(r + offset, 4), 1), Compare("<", r + offset - 10, m)),
        ),
        lambda i, j, n, m: (i % 4 == 1) & (i - j >= 0) & (i - j <= 10),
    ),
    Case(
        "no shifts",
        plan_of(irregular()),
        lambda i, j, n, m: (2 * j <= i) & ((i * i + j) % 3 != 0),
    ),
    Case(
        "nothing", plan_of(attended_keys=Truth(False), attended_rows=Truth(False)), lambda i, j, n, m: (i < 0) & (j < 0)
    ),
]
PROGRAMS = [(case, TorchProgram(case.plan)) for case in CASES]


def reference(q: Tensor, k: Tensor, v: Tensor, mask: NDArray[np.bool_], scale: float) -> tuple[Tensor, Tensor]:
    """(out, lse) the slow, obvious way, in the dtype of q."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    keep = torch.from_numpy(mask.copy())
    scores = (q @ k.transpose(-1, -2) * scale).masked_fill(~keep, -torch.inf)
    alive = keep.any(-1)
    lse = torch.logsumexp(scores, -1) if scores.shape[-1] else scores.new_full(scores.shape[:-1], -torch.inf)
    p = torch.exp(scores - torch.where(alive, lse, 0.0).unsqueeze(-1)).masked_fill(~keep, 0.0)
    return p @ v, lse


@dataclass(frozen=True)
class Inputs:
    q: Tensor
    k: Tensor
    v: Tensor
    scale: float
    offset: int
    grad_out: Tensor
    grad_lse: Tensor | None

    @property
    def call(self) -> Call:
        return Call(self.q, self.k, self.v, self.scale, Positions(self.offset))

    def exact(self) -> list[Tensor]:
        return [x.detach().double().requires_grad_() for x in (self.q, self.k, self.v)]


def inputs(
    rows: int, keys: int, shift: int = 0, *, batch: int = 2, heads: int = 2, kv_heads: int = 1, dim: int = 16,
    value_dim: int = 16, dtype: torch.dtype = torch.float32, strides: str = "plain", with_lse: bool = False,
    seed: int = 0,
) -> Inputs:  # fmt: skip
    generator = torch.Generator().manual_seed(seed)

    def make(h: int, length: int, width: int) -> Tensor:
        match strides:
            case "heads last":
                x = torch.randn(batch, length, h, width, generator=generator).transpose(1, 2)
            case "expanded":
                x = torch.randn(1, 1, length, width, generator=generator).expand(batch, h, length, width)
            case "gaps":
                x = torch.randn(batch, h, 2 * length, 2 * width, generator=generator)[:, :, ::2, ::2]
            case _:
                x = torch.randn(batch, h, length, width, generator=generator)
        return x.to(dtype)

    q, k, v = make(heads, rows, dim), make(kv_heads, keys, dim), make(kv_heads, keys, value_dim)
    grad_lse = torch.randn(batch, heads, rows, generator=generator) if with_lse else None
    return Inputs(q, k, v, dim**-0.5, shift, make(heads, rows, value_dim), grad_lse)


def check(case: Case, program: TorchProgram, x: Inputs, tolerance: float) -> None:
    """Forward and backward agree with the dense float64 reference, relative to the size of the values."""
    mask = case.mask(x.q.shape[2], x.k.shape[2], x.offset)
    exact = x.exact()
    want_out, want_lse = reference(*exact, mask, x.scale)
    out, lse = program.forward(x.call)
    assert out.dtype == x.q.dtype
    assert lse.dtype == accumulator(x.q.dtype)
    dead = torch.from_numpy(~mask.any(-1)) if mask.shape[1] else torch.ones(mask.shape[0], dtype=torch.bool)
    assert not out[:, :, dead].any()
    assert (lse[:, :, dead] == -torch.inf).all()
    close(out, want_out, tolerance)
    close(lse[:, :, ~dead], want_lse[:, :, ~dead], tolerance)

    loss = (want_out * x.grad_out.double()).sum()
    if x.grad_lse is not None:
        loss = loss + (want_lse * x.grad_lse.double())[:, :, ~dead].sum()
    want = torch.autograd.grad(loss, exact)
    *got, _ = program.backward(x.call, out, lse, x.grad_out, x.grad_lse, False)
    for g, w, like in zip(got, want, (x.q, x.k, x.v), strict=True):
        assert g.dtype == like.dtype
        close(g, w, 2 * tolerance)


def close(got: Tensor, want: Tensor, tolerance: float) -> None:
    assert got.shape == want.shape
    if got.numel():
        error = (got.double() - want.double()).abs().max().item()
        assert error <= tolerance * (1 + want.abs().max().item()), error


ALL = pytest.mark.parametrize(("case", "program"), PROGRAMS, ids=[case.name for case in CASES])


@ALL
def test_float64(case: Case, program: TorchProgram) -> None:
    for size in ((0, 5, 0), (5, 0, 0), (1, 1, 0), (70, 70, 0), (64, 110, 40), (90, 33, 0), (33, 50, 100)):
        check(case, program, inputs(*size, dtype=torch.float64, with_lse=size[0] % 2 == 0), 1e-12)


@ALL
@settings(max_examples=settings.default.max_examples // 10)
@given(data=st.data())
def test_any_shape(case: Case, program: TorchProgram, data: st.DataObject) -> None:
    draw = data.draw
    rows = draw(st.integers(0, 200))
    kv_heads = draw(st.sampled_from([1, 2]))
    dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]))
    dim = draw(st.sampled_from([8, 16, 40, 64, 128]))
    x = inputs(
        rows,
        draw(st.sampled_from([rows, rows, 0, 1, 50, 201])),
        draw(st.sampled_from([0, 0, 1, 13, 100])),
        batch=draw(st.integers(1, 2)),
        heads=kv_heads * draw(st.sampled_from([1, 2])),
        kv_heads=kv_heads,
        dim=dim,
        value_dim=draw(st.sampled_from([dim, dim, 8, 24, 128])),
        dtype=dtype,
        strides=draw(st.sampled_from(["plain", "heads last", "expanded", "gaps"])),
        with_lse=draw(st.booleans()),
        seed=draw(st.integers(0, 1000)),
    )
    tolerance = {torch.float64: 1e-11, torch.float32: 2e-5, torch.float16: 3e-3, torch.bfloat16: 3e-2}[dtype]
    check(case, program, x, tolerance)


@ALL
def test_small_calls_say_the_same(case: Case, program: TorchProgram, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every limit that cuts work into pieces, so low that it cuts here."""
    monkeypatch.setattr(passes, "FORWARD_ELEMENTS", 1000)
    monkeypatch.setattr(passes, "BACKWARD_ELEMENTS", 1000)
    monkeypatch.setattr(equal_tiles, "PACKED_ROWS", 2)
    monkeypatch.setattr(diagonal_ops, "CHUNK_ELEMENTS", 700)
    monkeypatch.setattr(bands, "LARGEST_MASK", 100)
    monkeypatch.setattr(walks, "KEPT_MASKS", 400)
    check(case, TorchProgram(case.plan), inputs(75, 75, heads=4, kv_heads=2, dtype=torch.float64), 1e-12)


@ALL
def test_without_the_flash_operation(case: Case, program: TorchProgram, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tile_ops, "attend", tile_ops.attend_dense)
    monkeypatch.setattr(tile_ops, "attend_backward", tile_ops.attend_dense_backward)
    check(case, program, inputs(60, 60, heads=4, kv_heads=2, dtype=torch.float64, with_lse=True), 1e-12)


@ALL
def test_the_same_bits_every_run(case: Case, program: TorchProgram) -> None:
    x = inputs(100, 100)
    runs = []
    for made in (program, program, TorchProgram(case.plan)):
        out, lse = made.forward(x.call)
        runs.append([out, lse, *made.backward(x.call, out, lse, x.grad_out, None, False)[:3]])
    for again in runs[1:]:
        assert all(torch.equal(first, second) for first, second in zip(runs[0], again, strict=True))


def test_unattended_keys_and_rows_may_hold_nan() -> None:
    for name, dead_queries in (("key class", False), ("query class", True)):
        case, program = next((case, program) for case, program in PROGRAMS if case.name == name)
        x = inputs(64, 64)
        mask = case.mask(64, 64, 0)
        poisoned = replace(x, q=x.q.clone(), k=x.k.clone(), v=x.v.clone(), grad_out=x.grad_out.clone())
        if dead_queries:
            for tensor in (poisoned.q, poisoned.grad_out):
                tensor[:, :, torch.from_numpy(~mask.any(1))] = torch.nan
        else:
            for tensor in (poisoned.k, poisoned.v):
                tensor[:, :, torch.from_numpy(~mask.any(0))] = torch.nan
        results = []
        for y in (x, poisoned):
            out, lse = program.forward(y.call)
            results.append([out, lse, *program.backward(y.call, out, lse, y.grad_out, None, False)[:3]])
        for clean, other in zip(*results, strict=True):
            assert torch.equal(clean, other), name


# -- the schedule: few batches, whatever the length ----------------------------------------------------------------


def band(name: str) -> Band:
    _, program = next(found for found in PROGRAMS if found[0].name == name)
    return next(value for value in vars(program.module).values() if isinstance(value, Band))


def test_equal_tiles_are_one_batch() -> None:
    short, long = (band("window").schedule(Sizes(length, length, 0)).segments for length in (1600, 16_000))
    assert len(short) == len(long) <= 4
    assert max(s.tiles for s in long) >= 16_000 // 16 - 2
    assert sum(s.tiles * s.height for s in long) == 16_000


def test_equal_classes_are_one_batch() -> None:
    segments = band("stride").schedule(Sizes(7 * 16, 7 * 16, 0)).segments
    assert [(s.counts, s.height, s.width) for s in segments] == [((7, 1), 16, 16)]


def test_masks_too_large_to_keep_are_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walks, "KEPT_MASKS", 0)
    segments = band("two-sided window").schedule(Sizes(64, 64, 5)).segments
    assert not any(s.remember for s in segments)


@given(st.lists(st.tuples(st.integers(-6, 6), st.integers(-6, 6)), max_size=3), st.integers(-12, 12))
def test_lattice_contains_its_combinations(shifts: list[tuple[int, int]], factor: int) -> None:
    lattice = Lattice.of(shifts)
    for x, y in shifts:
        if lattice.da:
            assert lattice.contains(factor * x, np.array([factor * y])).all()
    assert invariants([(lattice.da, lattice.db), (0, lattice.free)]) == invariants(shifts)


def invariants(vectors: list[tuple[int, int]]) -> tuple[int, int]:
    """Two lattices, one inside the other, are equal when these are."""
    entries = gcd(*(x for vector in vectors for x in vector))
    return entries, gcd(*(u[0] * v[1] - u[1] * v[0] for u, v in combinations(vectors, 2)))


# -- views and source ----------------------------------------------------------------------------------------------


def test_merge_grid() -> None:
    assert merge_grid((2, 3, 1, 4), [(12, 4, 99, 1)]) == ([24], [[1]])
    assert merge_grid((2, 3), [(3, 1), (6, 2)]) == ([6], [[1], [2]])
    assert merge_grid((2, 3), [(3, 1), (3, 0)]) == ([2, 3], [[3, 1], [3, 0]])
    assert merge_grid((1, 1), [(5, 7)]) == ([], [[]])


@pytest.mark.parametrize("step", [0, 1, 3, 5, 8])
def test_add_windows(step: int) -> None:
    """Windows of 5 rows, `step` apart: coinciding, overlapping, adjacent, apart."""
    grads = torch.randn(2, 4, 5, 3)
    target, want = torch.zeros(2, 40, 3), torch.zeros(2, 40, 3)
    add_windows(target.as_strided((2, 4, 5, 3), (120, 3 * step, 3, 1)), grads)
    for window_index in range(4):
        want[:, step * window_index : step * window_index + 5] += grads[:, window_index]
    torch.testing.assert_close(target, want)


def test_source_is_a_deterministic_program_without_lengths() -> None:
    case = next(case for case in CASES if case.name == "window or stride")
    source = torch_source(case.plan)
    assert source == torch_source(case.plan)
    assert source.startswith('"""Attention over')
    for text in ("PIECE_0 = Band(", "phase=0", ".over(PIECE_0, PIECE_1)", "shifts=((1, 1),)", "piece_1_alike"):
        assert text in source, text


def test_class_parts() -> None:
    part = FloorDiv(c + offset, 256)
    assert list(class_parts(le(b + 1, part + a))) == [part]
    assert list(class_parts(le(b, a * 4 + c))) == [c]
    assert list(class_parts(le(b, a + offset))) == []


RANGES = st.tuples(st.integers(0, 80), st.integers(1, 300))


@settings(max_examples=settings.default.max_examples // 2)
@given(term=terms(depth=2), rows=RANGES, columns=st.none() | RANGES, data=st.data())
def test_patterns_of_some_rows_and_keys_over_many_tiles(
    term: Term, rows: tuple[int, int], columns: tuple[int, int] | None, data: st.DataObject
) -> None:
    """Tiles in which only some rows have keys are no longer like the others, nor those cut at the last key."""
    given_ = data.draw(testing.inputs(shapes(300, head_dims=(8,)), dtypes=("float64",)))
    some = term & queries(*rows) if columns is None else term & queries(*rows) & keys(*columns)
    assert_matches_dense(some, given_, backend="torch")
