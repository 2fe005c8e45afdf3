"""The table of tiles by target: every row is well formed, and what is launched fits its target."""

from __future__ import annotations

from typing import get_args

import pytest

from pidsl.codegen.choice.targets import DEFAULT, TARGETS, TILES, Kind, kind, neighbours, options, table, target
from pidsl.codegen.plan.walks import LARGEST_TILE, SMALLEST_TILE, Pass

PASSES = get_args(Pass)


@pytest.mark.parametrize("name", [*TARGETS, "cuda:75", "cuda:103", "hip:gfx90a", "xpu:1"])
def test_every_target_has_tiles_that_fit(name: str) -> None:
    where = target(name)
    for head_dim in (16, 64, 128, 256):
        for itemsize in (2, 4):
            row = table(kind(name, head_dim, itemsize))
            for task in PASSES:
                for x in row.of(task):
                    assert all(SMALLEST_TILE <= s <= LARGEST_TILE and not s & (s - 1) for s in (x.rows, x.cols))
                    found = options(name, task, x.rows, x.cols, head_dim, itemsize)
                    swept = x.rows if task == "grad_key" else x.cols
                    assert found["num_stages"] * 2 * swept * head_dim * itemsize <= where.shared
                    assert x.full <= x.masked


def test_tiles_of_the_large_gpu() -> None:
    assert options("cuda:90", "forward", 128, 64, 64, 2) == {"num_warps": 4, "num_stages": 3}
    assert options("cuda:90", "forward", 128, 128, 128, 2) == {"num_warps": 8, "num_stages": 3}
    for head_dim in (64, 128):  # products of 64 rows: the machine has none of 32 that keep it busy
        for task in ("grad_query", "grad_key"):
            large = [x for x in table(Kind("cuda:90", head_dim)).of(task) if x.warps * x.rows * x.cols > 32 * 32 * 4]
            assert all(min(x.rows, x.cols) >= 64 for x in large)


def test_small_cards_keep_their_pipelines() -> None:
    for name in ("cuda:86", "cuda:89", "cuda:120"):
        assert options(name, "forward", 128, 64, 128, 2)["num_stages"] == 3  # 96 of 99 KiB: q is in registers
        assert options(name, "grad_query", 64, 64, 128, 2)["num_stages"] == 2
        assert options(name, "grad_key", 32, 64, 128, 2)["num_stages"] == 3
    assert options("hip:gfx942", "forward", 128, 64, 128, 2)["num_stages"] == 2


def test_exact_products_and_unknown_sizes() -> None:
    assert options("cuda:90", "forward", 128, 64, 64, 4, tensor_cores=False)["num_warps"] == 16
    assert options("cuda:90", "forward", 16, 0, 64, 2) == {"num_warps": 4, "num_stages": 2}  # diagonals
    assert options("cuda:90", "grad_score", 64, 64, 64, 2) == options("cuda:90", "grad_query", 64, 64, 64, 2)


def test_kinds_are_few() -> None:
    kinds = {kind(DEFAULT, head_dim, itemsize)[1:] for head_dim in range(1, 257) for itemsize in (1, 2, 4)}
    assert kinds == {(64, 2), (128, 2), (128, 4), (256, 4)} == {key[1:] for key in TILES}


def test_a_tuner_tries_few() -> None:
    for task in PASSES:
        first, *others = neighbours(Kind(), task, 64, 64)
        assert (first.rows, first.cols) == (64, 64) and 1 <= len(others) <= 3
