"""How many tiles each program visits: counted at once for all programs, held against loops and against the mask."""

from __future__ import annotations

from itertools import product
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pidsl import causal, empty, full, heads, keys, lags, neighborhood, pairs, queries, stride, where, window
from pidsl.codegen.choice.together import together
from pidsl.codegen.lower import lower
from pidsl.codegen.plan.nodes import Piece
from pidsl.codegen.plan.stages import stages
from pidsl.codegen.plan.walks import Boxes, Lags, Layout, Listed, Runs, Walk
from pidsl.codegen.plan.work import per_program
from pidsl.errors import TooHardError
from pidsl.language.expr import evaluate, holds
from pidsl.language.terms import Term
from pidsl.relation.frame import Frame
from pidsl.testing import terms

TERMS = [
    full, empty, causal, window(3, 50), window(63) | stride(8) & causal, keys(0, 4) | window(30, 30) | queries(2, 5),
    keys(3, None, 16) & causal, queries(1, None, 5), stride(100), lags(0, 5, 40, 77), window(1) | lags(60),
    where(lambda i, j: (i - j) % 7 < 3), neighborhood((6, 7), 3), neighborhood((4, 3, 5), 3) | keys(0, 2),
    pairs([(x, x * 5 % 31) for x in range(31)]).blocked(16),
]  # fmt: skip
SIZES = [(1, 1, 0, 0), (70, 70, 0, 0), (133, 90, 0, 0), (5, 90, 85, 0), (40, 17, 30, 25), (3, 200, 197, 0)]


def loops_of(walk: Walk, env: dict[str, int]) -> np.ndarray:
    """What `per_program` says, one program at a time."""
    n, m, by_keys = env["n"], env["m"], walk.over == "queries"
    match walk:
        case Runs(layout=layout):
            length, step = (m, layout.key_step) if by_keys else (n, layout.query_step)
            fixed = layout.key_class_of() if by_keys else layout.row_class_of()
            classes = range(min(step, length)) if layout.linked else [evaluate(fixed, env)]
            tiles = -(-length // (step * walk.owned))
            return np.array([[_in_runs(walk, c, t, env) for t in range(tiles)] for c in classes]).reshape(-1, tiles)
        case Lags(lags=found):
            each = []
            for t in range(-(-(m if by_keys else n) // walk.owned)):
                own, count = range(t * walk.owned, (t + 1) * walk.owned), 0
                for x in found:
                    rows = range(max(0, evaluate(x.first, env)), min(n - 1, evaluate(x.last, env)) + 1)
                    met = [(r, r + env["offset"] - env["key_offset"] - x.lag) for r in rows]
                    count += any(0 <= j < m and (j if by_keys else r) in own for r, j in met)
                each.append(count)
            return np.array([each])
        case Listed(layout=blocks):
            own = [j if by_keys else i for i, j in blocks.blocks]
            tiles, visited = -(-blocks.size // walk.owned), -(-blocks.size // walk.visited)
            return np.array([[own.count(x) * visited for x in sorted(set(own)) for _ in range(tiles)]])
        case Boxes(layout=grid):
            start, count = (env["key_offset"], m) if by_keys else (env["offset"], n)
            low, high = (env["offset"], n) if by_keys else (env["key_offset"], m)
            high += low
            stop = start + count if grid.tokens is None else min(start + count, grid.tokens)
            block = grid.strides[0] * walk.own[0]
            axes = [range(start // block, max(start // block, -(-stop // block)))]
            axes += [range(-(-(x or 0) // size)) for x, size in zip(grid.lengths[1:], walk.own[1:], strict=True)]
            return np.array([[_in_box(walk, t, low, high) for t in product(*axes)]])


def _in_runs(walk: Runs, own: int, t: int, env: dict[str, int]) -> int:
    layout, by_keys = walk.layout, walk.over == "queries"
    step, length = (layout.key_step, env["m"]) if by_keys else (layout.query_step, env["n"])
    if step * walk.owned * t + own >= length:
        return 0
    here = {**env, "t": t, "d" if by_keys else "c": own}
    if by_keys:
        here["c"] = evaluate(layout.row_class_of(own), env)
    else:
        here["d"] = evaluate(layout.key_class_of(own), env)
    return sum(
        len(range(evaluate(run.first, here), evaluate(run.last, here) + 1, run.step))
        for run in walk.runs
        if run.guard is None or holds(run.guard, here)
    )


def _in_box(walk: Boxes, box: tuple[int, ...], low: int, high: int) -> int:
    found = []
    for axis, t in enumerate(box):
        outer = walk.layout.strides[0] if axis == 0 else 0
        last = walk.last[axis]
        first, end = evaluate(walk.first[axis], {"t": t}), None if last is None else evaluate(last, {"t": t})
        if outer:
            first, end = max(first, low // outer), (high - 1) // outer if end is None else min(end, (high - 1) // outer)
        assert end is not None
        found.append(len(range(first, end + 1, walk.swept[axis])))
    return prod(found)


def assert_counted(term: Term, backend: str, size: tuple[int, int, int, int], mask: np.ndarray) -> None:
    n, m, offset, key_offset = size
    env: dict[str, Any] = {"n": n, "m": m, "offset": offset, "key_offset": key_offset}
    plan = lower(term, backend, frame=Frame(moved=key_offset > 0))
    for piece in plan.pieces:
        for walk in piece.walks:
            found = per_program(walk, n, m, offset, key_offset)
            np.testing.assert_array_equal(found, loops_of(walk, env))
            if isinstance(walk, Runs):
                assert_pairs_have_programs(walk, piece, mask, found, env)
    for task in ("forward", "grad_query", "grad_key") if backend == "triton" else ():
        for stage in stages(plan, task):
            each = [per_program(piece.walk(task), *size) for _, piece in stage.pieces]
            np.testing.assert_array_equal(stage.work(*size), sum(each))
            assert len(each[0]) <= stage.classes


def assert_pairs_have_programs(
    walk: Runs, piece: Piece, mask: np.ndarray, found: np.ndarray, env: dict[str, int]
) -> None:
    """Whoever owns a pair of the piece visits something."""
    layout = walk.layout
    step, own = (layout.key_step, "b") if walk.over == "queries" else (layout.query_step, "a")
    for r, j in np.argwhere(mask).tolist():
        here = {**env, "c": r % layout.query_step, "d": j % layout.key_step}
        here |= {"a": r // layout.query_step, "b": j // layout.key_step}
        if _of_layout(layout, here) and holds(piece.keep[0], here):
            of_class = (j if own == "b" else r) % step if layout.linked else 0
            assert found[of_class, here[own] // walk.owned]


def _of_layout(layout: Layout, env: dict[str, Any]) -> bool:
    """Whether a row and a key are of the classes of a layout."""
    if layout.linked:
        return bool(env["d"] == evaluate(layout.key_class_of(env["c"]), env))
    return bool(env["c"] == evaluate(layout.row_class_of(), env) and env["d"] == evaluate(layout.key_class_of(), env))


@pytest.mark.parametrize("backend", ["triton", "torch"])
@pytest.mark.parametrize("term", TERMS, ids=repr)
def test_every_program_is_counted(term: Term, backend: str) -> None:
    for size in SIZES:
        assert_counted(term, backend, size, term.mask(*size))


@settings(max_examples=settings.default.max_examples // 2)
@given(terms(depth=2), st.sampled_from(["triton", "torch"]), st.data())
def test_programs_of_random_terms(term: Term, backend: str, data: st.DataObject) -> None:
    size = tuple(data.draw(st.integers(low, most)) for low, most in ((1, 80), (1, 80), (0, 40), (0, 40)))
    try:
        assert_counted(term, backend, size, term.mask(*size))
    except TooHardError:
        return  # the relation itself is beyond isl's limit


def test_the_head_with_most_counts() -> None:
    plan = together(heads([(1, window(5)), (1, causal)]), lambda term, size: lower(term, size=size))
    assert plan is not None
    near, all_before = plan.pieces
    assert per_program(near.forward, 1000, 1000).max() <= 3
    rows = near.forward.owned
    assert per_program(all_before.forward, 1000, 1000).max() >= 1000 // rows


def test_programs_without_rows_do_nothing() -> None:
    (piece,) = lower(stride(512) & causal).pieces
    assert per_program(piece.forward, 100, 100).shape == (100, 1)  # of 512 classes, 100 have a row
    (piece,) = (x for x in lower(queries(1, 2)).pieces)
    found = per_program(piece.forward, 32768, 32768)
    assert np.flatnonzero(found.sum(axis=0)).tolist() == [0]


@pytest.mark.parametrize("head_dim", [64, 128])
def test_pieces_that_own_the_same_rows_share_a_kernel(head_dim: int) -> None:
    """Global tokens: what one program does alone is a kernel of its own, which can be split; all else is one kernel."""
    plan = lower(window(256, 256) | keys(0, 1) | queries(0, 1), head_dim=head_dim)
    for task in ("forward", "grad_query", "grad_key"):
        main, few = stages(plan, task)
        assert (main.name, few.name) == (task, f"{task}_few")
        assert few.few and not main.few and few.whole and main.whole
        assert len(main.pieces) == 2 and few.tile == main.tile
        work = few.work(32768, 32768)
        assert np.flatnonzero(work).tolist() == [0] and work[0, 0] > 64
        assert main.work(32768, 32768).max() < 30
    assert not any(stage.few for task in ("forward", "grad_key") for stage in stages(lower(full), task))
