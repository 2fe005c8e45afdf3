"""What the side by side in machine code is made of: masks, templates, tiles, the model, and the page."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import flex_templates
import gpu_tables
import numpy as np
import pytest
from flex_templates import NoTemplates, Text, source, tiles
from gpu_cases import CASES, GpuCase, blocks
from gpu_limits import broken, broken_by_loops, broken_by_times
from gpu_model import GUESSES, MACHINE, Cost, Touch, Work, makespan, times
from gpu_work import Load, of_plan

import pidsl
from pidsl.codegen.lower import lower
from pidsl.codegen.plan.walks import Runs
from pidsl.codegen.plan.work import computed
from pidsl.runtime.run_triton.ahead import KernelReport, LaunchReport, TensorFacts
from pidsl.runtime.run_triton.machine_code import LoopReport

RESULTS = Path(__file__).parent.parent.parent / "benchmarks" / "results" / "ahead-cuda-90.json"
NAMES = list(CASES)


@pytest.mark.parametrize("name", NAMES)
def test_a_mask_says_what_its_term_says(name: str) -> None:
    case = CASES[name]
    n = min(case.length, 700) if name != "natten" else 4096
    i, j = np.arange(n, dtype=np.int32)[:, None], np.arange(n, dtype=np.int32)[None, :]
    assert np.array_equal(case.attends(i, j), pidsl.parse(case.source).mask(n))


@pytest.mark.parametrize("name", NAMES)
def test_the_text_of_a_mask_says_the_same(name: str) -> None:
    rng = np.random.default_rng(0)
    i, j = (rng.integers(0, CASES[name].length, 20_000, dtype=np.int32) for _ in range(2))
    j[:10_000] = np.maximum(0, i[:10_000] - rng.integers(0, 300, 10_000))
    lines: list[str] = []
    found = CASES[name].attends(Text("i", lines), Text("j", lines))
    stand_in = SimpleNamespace(
        full=lambda shape, x, dtype: np.full(shape, x, dtype=np.int32), int32=None, where=np.where, abs=np.abs,
        minimum=np.minimum, maximum=np.maximum,
    )  # fmt: skip
    values: dict[str, Any] = {"tl": stand_in, "i": i, "j": j}
    exec("\n".join(lines), values)
    assert np.array_equal(values[found.name], CASES[name].attends(i, j))


def test_blocks_hold_the_pairs_of_the_mask() -> None:
    assert blocks("causal").pairs == 32768 * 32769 // 2
    assert ((blocks("causal").kinds == 2).sum(), (blocks("causal").kinds == 1).sum()) == (256 * 255 // 2, 256)
    assert blocks("natten").pairs == 4096 * 169
    assert blocks("longformer").pairs == pidsl.parse(CASES["longformer"].source).pairs(32768)


@pytest.mark.parametrize("task", ["forward", "backward"])
def test_templates_of_the_installed_torch_render(task: str) -> None:
    try:
        text = source(CASES["pi"], task, 64, 16, tiles(90, 64)[task])
    except NoTemplates as error:
        pytest.skip(f"no templates to render: {error}")
    names = {x.name for x in ast.parse(text).body if isinstance(x, ast.FunctionDef)}
    assert f"flex_{task}" in names and len(names) > 3
    assert "% tmp" in text and "{{" not in text


def test_other_templates_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(flex_templates, "TEMPLATES", tmp_path)
    chosen = flex_templates.Tiles(((128, 128),), 3, 4)
    with pytest.raises(NoTemplates, match="No such file"):
        source(CASES["pi"], "forward", 64, 16, chosen)
    for part in flex_templates.PARTS["forward"]:
        (tmp_path / f"{part}.py.jinja").write_text("{{ something_new() }}\n")
    with pytest.raises(NoTemplates, match="something_new"):
        source(CASES["pi"], "forward", 64, 16, chosen)


def test_launches_are_read_as_they_are_made() -> None:
    """Ranges of tiles and of heads, the longest program first, walks split over several programs, results merged."""
    case, heads = GpuCase("causal", CASES["causal"].attends, length=4096), 2
    plan = lower(pidsl.parse("causal"), head_dim=64)
    (piece,) = plan.pieces
    walk = piece.forward
    assert isinstance(walk, Runs)
    own, pairs = -(-case.length // walk.rows), case.batch * heads
    loops = LoopReport({"FFMA": 100}, 8, 8192), LoopReport({"FFMA": 100, "FSEL": 64}, 8, 8192, masked=True)
    size = pairs * case.length * 64 * 2
    usual = {
        "n": case.length, "m": case.length, "group": 1, "D": 64, "V": 64, "TILE": walk.rows, "STEP": 1, "SPLITS": 1,
        "DESCENDING": 0, "classes": 1, "tiles": own, "first_tile": 0, "pairs": pairs, "first_pair": 0, "own_first": 0,
        "own_rows": case.length,
    }  # fmt: skip

    def launch(number: int, start: int = 0, **given: int) -> LaunchReport:
        asked = usual | given
        grid = asked["pairs"] * asked["tiles"] * asked["SPLITS"]
        tensors = {"q": TensorFacts(0, size, 0, 2), "out": TensorFacts(1, size, start, 2)}
        return LaunchReport(number, grid, (0,), asked, tensors)

    def forward(*launches: LaunchReport) -> Load:
        kernel = KernelReport("forward", 8, 3, 0, programs=2, loops=loops, launches=launches)
        after = KernelReport("row_statistics", 4, 1, 0, launches=(LaunchReport(len(launches), 1),))
        return of_plan(plan, [kernel, after], case, heads, 64)["forward"]

    def moved(load: Load) -> float:
        return sum(x.moved_bytes for x in times(load.works))

    whole = forward(launch(0))
    ((_, tiles, _),) = whole.tiles
    assert tiles.sum() * walk.rows * walk.cols == pairs * computed(walk, case.length)
    assert (np.diff(tiles[:own]) >= 0).all() and moved(whole) == 2 * size
    ((_, turned, _),) = forward(launch(0, DESCENDING=1)).tiles
    assert (turned == tiles.reshape(pairs, own)[:, ::-1].ravel()).all()

    half = own // 2
    row = half * walk.rows
    lower_half, upper_half = launch(0, tiles=half), launch(1, first_tile=half, tiles=own - half, SPLITS=4)
    load = forward(lower_half, replace(upper_half, tensors={}))
    (_, first, _), (_, second, parts) = load.tiles
    assert (first == tiles.reshape(pairs, own)[:, :half].ravel()).all()
    assert parts == 4 and second.max() <= tiles.max() // 4 + 2 and len(second) == 4 * pairs * (own - half)
    assert moved(load) == 2 * size * row // case.length
    each = size // pairs
    chunks = forward(*(launch(k, start=2 * k * each, first_pair=2 * k, pairs=2) for k in range(pairs // 2)))
    assert sum(len(x) for _, x, _ in chunks.tiles) == pairs * own
    assert moved(chunks) == 2 * size
    with pytest.raises(ValueError, match="programs"):
        forward(replace(launch(0), grid=7))


def test_merged_parts_are_read_and_rows_of_the_result_written() -> None:
    numbers = {"pairs": 4, "own_rows": 100, "target_first": 50, "target_rows": 1000, "SPLITS": 3, "V": 64}
    tensors = {
        "parts": TensorFacts(0, 3 * 4 * 100 * 64 * 4, 0, 4), "part_lse": TensorFacts(1, 3 * 4 * 100 * 4, 0, 4),
        "out": TensorFacts(2, 4 * 1000 * 64 * 2, 0, 2), "lse": TensorFacts(3, 4 * 1000 * 4, 0, 4),
    }  # fmt: skip
    join = KernelReport("join", 4, 1, 0, launches=(LaunchReport(0, 16, (), numbers, tensors),))
    after = KernelReport("row_statistics", 4, 1, 0, launches=(LaunchReport(1, 1),))
    plan, case = lower(pidsl.parse("causal"), head_dim=64), GpuCase("causal", CASES["causal"].attends, length=8192)
    (work,) = of_plan(plan, [join, after], case, 1, 64)["forward"].works
    sizes = {x.storage: (sum(stop - start for start, stop in x.ranges), x.written) for x in work.touches}
    rows = 4 * 100
    assert sizes == {0: (3 * rows * 256, False), 1: (3 * rows * 4, False), 2: (rows * 128, True), 3: (rows * 4, True)}
    assert work.touches[2].ranges[1] == (1050 * 128, 1150 * 128)


def test_programs_share_multiprocessors() -> None:
    places = MACHINE.multiprocessors
    work = Cost(shared=100.0, alone=150.0)
    assert makespan([], 2) == 0.0
    assert makespan([work], 2) == pytest.approx(150)  # alone, and no faster
    assert makespan([work] * places, 2) == pytest.approx(150)
    assert makespan([work] * places * 2, 2) == pytest.approx(200)  # two share a multiprocessor
    assert makespan([work] * places * 20, 2) == pytest.approx(2000)
    long, short = Cost(1000.0, 1000.0), Cost(10.0, 10.0)
    last, first = [short] * places * 50 + [long], [long] + [short] * places * 50
    assert makespan(last, 1) == pytest.approx(1500) and makespan(first, 1) < 1010  # the longest one starts first


def test_what_stays_in_l2_is_not_moved_again() -> None:
    heads, each = 16, 1 << 22
    size = heads * each

    def moved(*launches: Work) -> float:
        return sum(x.moved_bytes for x in times(launches))

    q, out = Touch("q", ((0, size),)), Touch("out", ((0, size),), written=True)
    assert moved(Work("all", touches=(q, out))) == 2 * size
    left, right = (Touch("running", ((0, 2 * size),), written=x) for x in (True, False))
    two = Work("first", touches=(q, left)), Work("second", touches=(q, right, out))
    assert moved(*two) == 7 * size  # nothing is left for the second launch
    left, right = (Touch("chunk", ((0, 2 * each),), written=x) for x in (True, False))
    by_head = []
    for head in range(heads):
        here = ((head * each, (head + 1) * each),)
        mine, done = Touch("q", here), Touch("out", here, written=True)
        by_head += [Work("first", touches=(mine, left)), Work("second", touches=(mine, right, done))]
    assert moved(*by_head) == 2 * size + 2 * each
    assert GUESSES.l2_bytes < 2 * size


def test_the_committed_results_put_flex_attention_where_it_was_measured() -> None:
    """Published runs on H100 and H200 of causal attention, forward, reach 300 to 450 TFLOP/s."""
    for head_dim, entry in json.loads(RESULTS.read_text())["patterns"]["causal"].items():
        seconds = entry["time"]["flex"]["forward"]["ms"] / 1e3
        rate = 4 * blocks("causal").pairs * 16 * int(head_dim) / seconds
        assert 300e12 < rate < 450e12
        assert entry["time"]["flex"]["forward"]["limit_ms"] >= entry["bound_ms"]["forward"]


def test_no_modelled_time_is_below_its_limits() -> None:
    for by_head_dim in json.loads(RESULTS.read_text())["patterns"].values():
        for entry in by_head_dim.values():
            for directions in entry["time"].values():
                for direction, found in directions.items():
                    assert found["ms"] > found["limit_ms"]
                    assert found["megabytes"] >= entry["compulsory_megabytes"][direction] - 0.2


def test_the_page_says_what_the_results_say(tmp_path: Path) -> None:
    page = tmp_path / "gpu.md"
    page.write_text(gpu_tables.PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    gpu_tables.renew(json.loads(RESULTS.read_text()), page)
    assert page.read_text(encoding="utf-8") == gpu_tables.PAGE.read_text(encoding="utf-8"), "ahead.py --page"


def test_what_does_not_hold_is_said() -> None:
    loop = {
        "masked": False,
        "pairs": 4096,
        "matrix_products": 2,
        "instructions": 1051,
        "n": [64],
        "HGMMA": 8,
        "line": 7,
    }
    loop |= {"wait": "DEPBAR 0"}
    kernel = {"kernel": "forward", "spills_in_loops": 2, "loops": [loop]}
    peer = {"kernel": "flex_forward", "loops": [{**loop, "instructions": 1000}]}
    entry = {"pidsl": [kernel], "flex": [peer]}
    assert list(broken_by_loops("causal", 64, entry)) == [
        "causal D 64 forward: 2 loads and stores of local memory in loops",
        "causal D 64 forward full (line 7): 1051 instructions, at most 1050",
        "causal D 64 forward full (line 7): 1051 instructions, FlexAttention 1000",
        "causal D 64 forward full (line 7): waits for its copies at once",
    ]
    walk = {"kernel": "forward", "programs": 9, "mean_tiles": 30.0, "most_tiles": 95}
    entry = {
        "compulsory_megabytes": {"forward": 100.0},
        "time": {
            "pidsl": {"forward": {"ms": 1.1, "megabytes": 170.0, "walks": [walk]}},
            "flex": {"forward": {"ms": 1.0}},
        },
    }
    assert list(broken_by_times("pi", 64, entry)) == [
        "pi D 64 forward: modelled 1.1 ms, FlexAttention 1.0: 1.10, at most 1.05",
        "pi D 64 forward: 0.9 times as fast as FlexAttention, at least 15.0",
        "pi D 64 forward: 1.70 times the compulsory bytes, at most 1.6",
        "pi D 64 forward forward: a program walks 95 tiles, the mean is 30.0",
    ]
    assert broken({"patterns": {}}) == []
