"""Plans: which layouts are chosen, and that what they visit is exactly the pattern, proved and enumerated."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pidsl
from pidsl import blocks, causal, empty, full, keys, lags, pairs, queries, ring, stride, where, window
from pidsl.codegen.check import check_plan
from pidsl.codegen.choice.cost import BACKENDS
from pidsl.codegen.lower import lower
from pidsl.codegen.plan.nodes import Piece, Plan
from pidsl.codegen.plan.walks import Boxes, Lag, Lags, Layout, Listed, Run, Runs
from pidsl.errors import PlanError, TooHardError
from pidsl.language.expr import Add, Truth, Var, evaluate, holds
from pidsl.language.terms import Ring, Term, walk
from pidsl.testing import terms

TERMS: list[Term] = [
    full, empty, causal, window(255), stride(256) & causal, window(63) | stride(256) & causal, window(5) | stride(16),
    blocks(100), blocks(7), ring(64), window(15).dilated(16), keys(0, 4) | window(40), keys(0, None, 16),
    queries(1, None, 3), keys(1, None, 3) & queries(2, None, 5), lags(*[0] + [2**k for k in range(14)]),
    (window(3) | lags(16)) ** 3, stride(7, 3), stride(4) | stride(6, 1), ~window(3), causal - blocks(8),
    window(2).blocked(16), where(lambda i, j: (i + j) % 5 == 0), keys(-7, None) | window(3), pairs([(0, 0), (9, 2)]),
    where(lambda i, j: i // 2 == j), window(30) & keys(10, 90), lags(-3, 5) | queries(0, 4),
    ring(2).dilated(2), blocks(6) - keys(1, None, 4),
]  # fmt: skip


def visits(plan: Plan, n: int, m: int, offset: int, which: str, key_offset: int = 0) -> np.ndarray:
    """How often the plan computes each pair [n, m], by running its loops one tile at a time."""
    count = np.zeros((n, m), dtype=np.int64)
    lengths = {"n": n, "m": m, "offset": offset, "key_offset": key_offset}
    for piece in plan.pieces:
        match getattr(piece, which):
            case Lags(lags=lags):
                _visit_lags(count, lags, lengths)
            case Boxes() as walk:
                _visit_grid(count, piece, walk, offset, key_offset)
            case Listed():
                _visit_list(count, piece, lengths)
            case Runs() as walk:
                _visit_runs(count, piece, walk, lengths)
    return count


def _visit_lags(count: np.ndarray, lags: tuple[Lag, ...], lengths: dict[str, int]) -> None:
    for x in lags:
        for r in range(evaluate(x.first, lengths), evaluate(x.last, lengths) + 1):
            if x.keep is None or holds(x.keep, {**lengths, "r": r}):
                j = r + lengths["offset"] - x.lag - lengths["key_offset"]
                assert j >= 0
                count[r, j] += 1


def _visit_runs(count: np.ndarray, piece: Piece, walk: Runs, lengths: dict[str, int]) -> None:
    layout = walk.layout
    own_step = layout.query_step if walk.over == "keys" else layout.key_step
    for own_class in range(own_step if layout.linked else 1):
        env: dict[str, Any] = dict(lengths)
        if walk.over == "keys":
            env["c"] = own_class if layout.linked else evaluate(layout.row_class_of(), env)
            env["d"] = evaluate(layout.key_class_of(env["c"]), env)
        else:
            env["d"] = own_class if layout.linked else evaluate(layout.key_class_of(), env)
            env["c"] = evaluate(layout.row_class_of(env["d"]), env)
        _visit_class(count, piece, walk, env)


def _visit_grid(count: np.ndarray, piece: Piece, sweep: Boxes, offset: int, key_offset: int) -> None:
    """The pairs of a grid, one pair at a time: in a box that is visited, and kept by every axis."""
    n, m = count.shape
    tokens = piece.layout.tokens or n + m + offset + key_offset
    for r in range(max(0, min(n, tokens - offset))):
        for j in range(max(0, min(m, tokens - key_offset))):
            a, b = (
                [evaluate(x, {"i": i}) for x in piece.layout.coordinates(Var("i"))]
                for i in (r + offset, j + key_offset)
            )  # fmt: skip
            own, swept = (a, b) if sweep.over == "keys" else (b, a)
            inside = True
            for x, y, size, first, last in zip(own, swept, sweep.own, sweep.first, sweep.last, strict=True):
                t = {"t": x // size}
                inside &= evaluate(first, t) <= y and (last is None or y <= evaluate(last, t))
            kept = all(holds(keep, {"a": x, "b": y}) for keep, x, y in zip(piece.keep, a, b, strict=True))
            count[r, j] += bool(inside and kept)


def _visit_list(count: np.ndarray, piece: Piece, lengths: dict[str, int]) -> None:
    (n, m), size, offset, key_offset = count.shape, piece.layout.size, lengths["offset"], lengths["key_offset"]
    for row, key in piece.layout.blocks:
        for r in range(max(0, row * size - offset), min(n, (row + 1) * size - offset)):
            for j in range(max(0, key * size - key_offset), min(m, (key + 1) * size - key_offset)):
                count[r, j] += bool(holds(piece.keep[0], {**lengths, "r": r, "j": j}))


def _visit_class(count: np.ndarray, piece: Piece, sweep: Runs, env: dict[str, Any]) -> None:
    n, m = count.shape
    layout = piece.layout
    if sweep.over == "keys":
        length, step, cls, size = n, layout.query_step, env["c"], sweep.rows
    else:
        length, step, cls, size = m, layout.key_step, env["d"], sweep.cols
    for t in range(-(-len(range(cls, length, step)) // size)):
        here = {**env, "t": t}
        for run in sweep.runs:
            if run.guard is not None and not holds(run.guard, here):
                continue
            for x in range(evaluate(run.first, here), evaluate(run.last, here) + 1, run.step):
                row_tile, key_tile = (t, x) if sweep.over == "keys" else (x, t)
                a = np.arange(row_tile * sweep.rows, (row_tile + 1) * sweep.rows)
                b = np.arange(key_tile * sweep.cols, (key_tile + 1) * sweep.cols)
                r, j = a * layout.query_step + env["c"], b * layout.key_step + env["d"]
                assert (r < n).any() and (j < m).any(), "a tile that does not exist"
                if run.full and sweep.over == "keys":
                    assert (j < m).all(), "a full tile lacks keys"
                a, r, b, j = a[r < n], r[r < n], b[j < m], j[j < m]
                kept = np.ones((len(a), len(b)), dtype=np.bool_)
                if not run.full:
                    kept &= np.asarray(holds(piece.keep[0], {**env, "a": a[:, None], "b": b[None, :]}))
                count[np.ix_(r, j)] += kept


SIZES = [(1, 1, 0), (7, 7, 0), (70, 70, 0), (133, 133, 0), (5, 90, 85), (40, 17, 0), (17, 60, 9)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("term", TERMS, ids=repr)
def test_plan_is_proved_and_visits_each_pair_once(term: Term, backend: str) -> None:
    plan = lower(term, backend)
    check_plan(plan)
    square = any(isinstance(t, Ring) for t in walk(term))
    for n, m, offset in SIZES:
        if square and n + offset != m:
            continue  # a ring closes over one set of positions
        expected = term.mask(n, m, offset)
        for which in BACKENDS[backend].passes:
            found = visits(plan, n, m, offset, which)
            np.testing.assert_array_equal(found, expected, err_msg=f"{which} {n, m, offset}")


@settings(max_examples=settings.default.max_examples // 2)
@given(
    term=terms(depth=3),
    backend=st.sampled_from(sorted(BACKENDS)),
    n=st.integers(1, 40),
    more=st.integers(0, 20),
    data=st.data(),
)
def test_random_terms(term: Term, backend: str, n: int, more: int, data: st.DataObject) -> None:
    try:
        plan = lower(term, backend)
    except TooHardError:
        return  # the relation itself is beyond isl's limit; test_relation counts these
    with suppress(TooHardError):  # the enumeration below still judges the plan
        check_plan(plan, operations=500_000)
    square = any(isinstance(t, Ring) for t in walk(term))
    m = n + more if square else data.draw(st.integers(1, 60), label="m")
    offset = m - n if square else data.draw(st.integers(0, 30), label="offset")
    expected = term.mask(n, m, offset)
    for which in BACKENDS[backend].passes:
        np.testing.assert_array_equal(visits(plan, n, m, offset, which), expected)
    lengths = {"n": n, "m": m, "offset": offset}
    if plan.attended_keys is not None:
        said = np.broadcast_to(np.asarray(holds(plan.attended_keys, {**lengths, "j": np.arange(m)})), (m,))
        assert_tells(plan, said, expected.any(axis=0))
    if plan.attended_rows is not None:
        said = np.broadcast_to(np.asarray(holds(plan.attended_rows, {**lengths, "r": np.arange(n)})), (n,))
        assert_tells(plan, said, expected.any(axis=1))


def assert_tells(plan: Plan, said: np.ndarray, attended: np.ndarray) -> None:
    assert (said == attended).all() if plan.attended_exact else (said >= attended).all()


def layouts(term: Term, backend: str = "triton") -> list[str]:
    pieces = lower(term, backend).pieces
    return [f"{len(p.forward.lags)} diagonals" if isinstance(p.forward, Lags) else str(p.layout) for p in pieces]


@pytest.mark.parametrize("backend", BACKENDS)
def test_layouts_chosen(backend: str) -> None:
    residue = "residue classes mod 256, lag mod 256 == 0"
    assert layouts(window(255), backend) == ["identity"]
    assert layouts(stride(256) & causal, backend) == [residue]
    assert layouts(window(63) | stride(256) & causal, backend) == ["identity", residue]
    same = where(lambda i, j: ((i - j) % 256 == 0) | (i - j < 64)) & causal  # the same set, said otherwise
    assert layouts(same, backend) == ["identity", residue]
    assert layouts(window(1023) | lags(4096), backend) == [
        "identity",
        "1 diagonals" if backend == "torch" else "identity",
    ]
    assert layouts(keys(3, None, 16), backend) == ["keys 3 mod 16"]
    assert layouts(window(127).dilated(64), backend) == ["residue classes mod 64, lag mod 64 == 0"]
    assert layouts(empty, backend) == []


def test_isolated_lags_are_diagonals() -> None:
    term = lags(*[0] + [2**k for k in range(14)])
    assert layouts(term, "torch") == ["15 diagonals"]
    assert layouts(term, "triton") == ["identity"]  # in tiles together, see test_lag_tiles
    assert layouts(lags(5, 1000), "triton") == ["2 diagonals"]


def test_rejected_layouts_are_remembered_with_their_price() -> None:
    plan = lower(stride(256) & causal, "triton")
    assert any("identity" in x.what and x.cost > 20 for x in plan.rejected)
    assert "rejected: lags 0 .. inf step 256: identity" in str(plan)


def test_full_tiles_are_found() -> None:
    piece = first_tile(lower(causal, "triton"))
    assert any(run.full for run in piece.forward.runs) and any(not run.full for run in piece.forward.runs)
    assert all(run.full for run in first_tile(lower(full, "triton")).grad_query.runs if run.first == 0)


def test_many_parts_become_one_masked_piece() -> None:
    term = pairs([(3 * k, (7 * k) % 50) for k in range(60)])
    (piece,) = lower(term, "torch").pieces
    assert isinstance(piece.forward, Listed)  # as a list it has no parts
    term = term ^ window(20)
    plan = lower(term, "torch")
    assert len(plan.pieces) == 1
    np.testing.assert_array_equal(visits(plan, 60, 55, 2, "forward"), term.mask(60, 55, 2))


def test_printed_plan() -> None:
    text = str(lower(window(9), "triton"))
    assert text.startswith("plan of window(9) for triton\n  piece 0: identity\n")
    assert "mask: (offset + a >= b) & (b + 9 >= offset + a)" in text


def first_tile(plan: Plan) -> Piece:
    return next(plan.walked(Runs))


def moved(piece: Piece, layout: Any) -> Piece:
    """A piece with another layout in all its walks."""
    walks = {x: getattr(piece, x) for x in ("forward", "grad_query", "grad_key")}
    return replace(piece, **{x: walk and replace(walk, layout=layout) for x, walk in walks.items()})


def with_runs(plan: Plan, which: str, runs: tuple[Run, ...]) -> Plan:
    piece = first_tile(plan)
    changed = replace(piece, **{which: replace(getattr(piece, which), runs=runs)})
    return replace(plan, pieces=tuple(changed if p is piece else p for p in plan.pieces))


@pytest.mark.parametrize("which", ["forward", "grad_query", "grad_key"])
def test_checks_catch_wrong_loops(which: str) -> None:
    plan = lower(causal, "triton")
    runs = getattr(first_tile(plan), which).runs
    with pytest.raises(PlanError, match="not visited"):
        check_plan(with_runs(plan, which, runs[1:]))
    with pytest.raises(PlanError, match="not visited"):
        check_plan(with_runs(plan, which, (*runs[:-1], replace(runs[-1], first=Add(runs[-1].first, 1)))))
    with pytest.raises(PlanError, match="again"):
        check_plan(with_runs(plan, which, (*runs, runs[0])))
    with pytest.raises(PlanError, match="not full"):
        check_plan(with_runs(plan, which, tuple(replace(run, full=True) for run in runs)))
    with pytest.raises(PlanError, match="does not exist"):
        check_plan(with_runs(plan, which, (*runs[:-1], replace(runs[-1], last=Add(runs[-1].last, 1)))))


def test_checks_catch_wrong_masks_and_pieces() -> None:
    plan = lower(window(63) | stride(256) & causal, "triton")
    piece = first_tile(plan)
    with pytest.raises(PlanError, match="the mask is not the piece"):
        check_plan(replace(plan, pieces=(replace(piece, keep=(Truth(True),)), *plan.pieces[1:])))
    with pytest.raises(PlanError, match="overlap"):
        check_plan(replace(plan, pieces=(*plan.pieces, piece)))
    with pytest.raises(PlanError, match="union"):
        check_plan(replace(plan, pieces=plan.pieces[1:]))
    strided = plan.pieces[1]
    with pytest.raises(PlanError, match="outside the classes"):
        check_plan(replace(plan, pieces=(piece, moved(strided, Layout(256, 256, phase=3)))))
    with pytest.raises(PlanError, match="attended j"):
        check_plan(replace(plan, attended_keys=Truth(True)))
    plan = lower(lags(0, 5), "triton")
    piece = next(plan.walked(Lags))
    first, second = piece.forward.lags
    wrong = replace(piece, forward=replace(piece.forward, lags=(first, Lag(5, 0, second.last))))
    with pytest.raises(PlanError, match="diagonals are not the piece"):
        check_plan(replace(plan, pieces=(wrong,)))


def test_lowering_needs_numbers() -> None:
    with pytest.raises(pidsl.SymbolError, match="unbound symbol k"):
        lower(window(pidsl.symbols("k")), "torch")


@pytest.mark.parametrize("rows", [8, 48, 2048])
def test_tiles_that_kernels_have_not(rows: int) -> None:
    plan = lower(causal, "triton")
    piece = first_tile(plan)
    with pytest.raises(PlanError, match="power of two from 16 to 1024"):
        check_plan(replace(plan, pieces=(replace(piece, forward=replace(piece.forward, rows=rows)),)))
