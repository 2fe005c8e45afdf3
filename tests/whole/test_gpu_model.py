"""What the side by side in machine code is made of: masks, templates, tiles, the model, and the page."""

from __future__ import annotations

import ast
import json
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
from gpu_work import Load, of_plan, walked

import pidsl
from pidsl.codegen.lower import lower
from pidsl.codegen.plan.walks import Lags, Runs
from pidsl.codegen.plan.work import computed
from pidsl.runtime.run_triton.ahead import KernelReport, LaunchReport
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


@pytest.mark.parametrize("name", NAMES)
def test_tiles_of_all_programs_are_those_of_the_plan(name: str) -> None:
    n = 4096
    for piece in lower(pidsl.parse(CASES[name].source), head_dim=64).pieces:
        for walk in piece.walks:
            if not isinstance(walk, Lags):
                found = walked(walk, n)
                assert int((found.full + found.masked).sum()) * walk.owned * walk.visited == computed(walk, n)


def test_launches_are_read_as_they_are_made() -> None:
    """Ranges of tiles and of heads, the longest program first, loops split over several programs."""
    case, heads = GpuCase("causal", CASES["causal"].attends, length=4096), 2
    plan = lower(pidsl.parse("causal"), head_dim=64)
    (piece,) = plan.pieces
    walk = piece.forward
    assert isinstance(walk, Runs)
    own = -(-case.length // walk.rows)
    loops = LoopReport({"FFMA": 100}, 8, 8192), LoopReport({"FFMA": 100, "FSEL": 64}, 8, 8192)
    size = case.batch * heads * case.length * 64 * 2

    def forward(*launches: tuple[int, dict[str, int]]) -> Load:
        tensors = {"q": (0, size, 16), "out": (1, size, 16)}
        made = tuple(LaunchReport(k, grid, 0, given, tensors) for k, (grid, given) in enumerate(launches))
        kernel = KernelReport("forward", 8, 3, 0, programs=2, loops=loops, launches=made)
        after = KernelReport("row_statistics", 4, 1, 0, launches=(LaunchReport(len(made), 1),))
        return of_plan(plan, [kernel, after], case, heads, 64)["forward"]

    whole = forward((16 * own, {}))
    ((_, tiles),) = whole.tiles
    assert tiles.sum() * walk.rows * walk.cols == 16 * computed(walk, case.length)
    assert (np.diff(tiles[:own]) >= 0).all() and sum(x.moved_bytes for x in times(whole.works)) == 2 * size
    ((_, reversed_),) = forward((16 * own, {"DESCENDING": 1})).tiles
    assert (reversed_ == tiles.reshape(16, own)[:, ::-1].ravel()).all()
    upper = {"tiles": own // 2, "first_tile": own - own // 2, "SPLITS": 4}
    parts = forward((16 * (own - own // 2), {"tiles": own - own // 2}), (4 * 16 * (own // 2), upper))
    first, second = (x for _, x in parts.tiles)
    assert (first == tiles.reshape(16, own)[:, : own - own // 2].ravel()).all()
    assert second.max() <= tiles.max() // 4 + 2 and len(second) == 64 * (own // 2)
    assert sum(x.moved_bytes for x in times(parts.works)) == 2 * size
    chunks = forward(*((2 * own, {"first_pair": pair}) for pair in range(0, 16, 2)))
    assert sum(len(x) for _, x in chunks.tiles) == 16 * own
    assert sum(x.moved_bytes for x in times(chunks.works)) == 2 * size
    with pytest.raises(ValueError, match="programs"):
        forward((16 * own + 1, {}))


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
    heads, size = 16, 16 * 4e6
    q, out = Touch("q", size, parts=heads), Touch("out", size, written=True, parts=heads)

    def moved(*launches: Work) -> float:
        return sum(x.moved_bytes for x in times(launches))

    assert moved(Work("all", touches=(q, out))) == 2 * size
    left, right = (Touch("running", 2 * size, written=x, parts=heads) for x in (True, False))
    two = Work("first", touches=(q, left)), Work("second", touches=(q, right, out))
    assert moved(*two) == 7 * size  # nothing is left for the second launch
    left, right = (Touch("chunk", 2 * size / heads, written=x) for x in (True, False))
    by_head = []
    for head in range(heads):
        mine = [Touch(x.storage, size, x.written, parts=heads, first=head, count=1) for x in (q, out)]
        by_head += [Work("first", touches=(mine[0], left)), Work("second", touches=(mine[0], right, mine[1]))]
    assert moved(*by_head) == 2 * size + left.size
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
    walk = {"kernel": "forward", "programs": 9, "mean_tiles": 30.0, "most_tiles": 121}
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
        "pi D 64 forward forward: a program walks 121 tiles, the mean is 30.0",
    ]
    assert broken({"patterns": {}}) == []
