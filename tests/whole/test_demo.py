"""The main job with everything small, and its parts."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import pidsl
from pidsl.console import Progress
from pidsl.demo.measure import MIB, alternate, duration, peak_memory
from pidsl.demo.output import Folder
from pidsl.demo.run import Demo
from pidsl.demo.settings import Copying, Settings
from pidsl.demo.text import standard_library
from pidsl.demo.train import Budget

CPU = torch.device("cpu")
TINY = Settings(
    k=3, period=16, tokens=256, depths=(1, 2), long=128, rounds=2, dim=32, heads=2, layers=2,
    budget=Budget(steps=3, batch=2, length=64, excerpts=2),
    copying=Copying(
        distance=5, k=1, period=4, dim=16, heads=2, budget=Budget(steps=2, batch=2, length=16, excerpts=4)
    ),
)  # fmt: skip


# --- the main job


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("demo") / "new" / "folder"
    return out, Demo(TINY, out, "cpu").run()


def test_every_file_is_there_and_whole(tiny: tuple[Path, dict]) -> None:
    out, _ = tiny
    assert {path.name for path in out.iterdir()} == {"pi_triton.py", "pi_torch.py", "results.json", "figure.png"}
    assert "@triton.jit" in (out / "pi_triton.py").read_text()
    assert (out / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_the_figures(tiny: tuple[Path, dict]) -> None:
    out, results = tiny
    assert json.loads((out / "results.json").read_text()).keys() == results.keys()
    assert [row[2] for row in results["pairs"]] == [term.pairs(256) for term in TINY.patterns.values()]
    assert results["reach"]["pi, single skip"] == {1: "3 / 16", 2: "6 / 32"}
    assert results["backend"] == "torch"
    for rows in results["errors"].values():
        assert [row[0] for row in rows] == ["dense", "ring", "pi", "pi, gated"]
        assert all(float(row[-1]) < 10 for row in rows)  # of tiny sizes: single roundings decide
    names = {"dense SDPA", "pidsl, ring", "pidsl, pi"}
    assert {what: t.keys() for what, t in results["seconds"].items()} == {
        "forward": names, "forward + backward": names,
    }  # fmt: skip


def test_the_models_learn_something_from_the_same_start(tiny: tuple[Path, dict]) -> None:
    runs = tiny[1]["training"]
    assert [run["name"] for run in runs] == ["dense", "ring", "pi"]
    for run in runs:
        assert len(run["bits"]) == len(run["step"]) == 3
        assert run["held_out"] < run["held_out_before"]
        assert 7.5 < run["held_out_before"] < 9.5  # 8 would be no idea at all


def test_what_copies_stands_beside_what_is_seen(tiny: tuple[Path, dict]) -> None:
    models = tiny[1]["copying"]
    assert [(x["name"], x["term"], x["way"]) for x in models] == [
        ("window", "window(2)", None), ("pi", "window(1) | lags(4)", [4, 1]), ("dense", "causal", [5, 0]),
    ]  # fmt: skip
    for model in models:
        assert len(model["bits"]) == len(model["step"]) == 2
        assert model["asked"] == 4 * (16 - 5) and 0 <= model["right"] <= model["asked"]


# --- its parts


def test_the_text_is_the_same_every_time_and_held_out_files_are_others(tmp_path: Path) -> None:
    a, b = standard_library(), standard_library()
    assert torch.equal(a.train, b.train) and torch.equal(a.held_out, b.held_out)
    assert len(a.train) > MIB and len(a.held_out) > MIB // 4
    first = a.batch(2, 50, torch.Generator().manual_seed(3))
    assert torch.equal(first, b.batch(2, 50, torch.Generator().manual_seed(3)))
    assert first.shape == (2, 50) and first.dtype == torch.int64
    assert a.validation(3, 50).shape == (3, 50)
    for k in range(24):
        (tmp_path / f"m{k:02}.py").write_text(f"{k:02}" * 40_000)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "m.py").write_text("x" * 100)
    small = standard_library(tmp_path)
    assert small.files == 24
    assert bytes(small.held_out[:2].tolist()) == b"11" and len(small.held_out) == 160_000
    with pytest.raises(pidsl.PidslError, match="bytes of Python source"):
        standard_library(tmp_path / "tests")


def test_a_file_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "out")
    folder.write("a.txt", "old")

    def fail(path: Path) -> None:
        path.write_text("half")
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        folder.write("a.txt", fail)
    assert [path.name for path in folder.path.iterdir()] == ["a.txt"]
    assert (folder.path / "a.txt").read_text() == "old"
    (tmp_path / "file").touch()
    with pytest.raises(pidsl.PidslError, match="a place to write results"):
        Folder(tmp_path / "file").write("a.txt", "")


def test_progress_is_one_line_on_a_terminal_and_quiet_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    live, log = Terminal(), io.StringIO()
    for to in (live, log):
        with Progress("work", 3, to) as progress:
            for _ in range(3):
                progress.step("note")
    assert live.getvalue().endswith("  work: 0.0 s\n") and "100%" in live.getvalue() and "note" in live.getvalue()
    assert log.getvalue().startswith("  work: ") and log.getvalue().count("\n") == 1


def test_sides_take_turns() -> None:
    called: list[str] = []
    times = alternate({name: lambda name=name: called.append(name) for name in "ab"}, rounds=3, device=CPU)
    assert "".join(called) == "ab" + "ababab"
    assert all(len(t.seconds) == 3 for t in times.values())


def test_peak_memory_sees_what_was_freed_again() -> None:
    with peak_memory(CPU) as peak:
        np.ones(64 * MIB, dtype=np.uint8)
    assert peak.what
    assert 48 * MIB < peak.bytes < 512 * MIB


def test_durations() -> None:
    assert [duration(x) for x in (1.381, 0.0521, 12.34, 123.4, 0.00017, 0)] == [
        "1.38 s", "52.1 ms", "12.3 s", "123 s", "170 us", "0.00 us",
    ]  # fmt: skip


def test_quick_is_smaller() -> None:
    quick = Settings().quick()
    assert quick.long < Settings().long and quick.budget.steps < Settings().budget.steps
    assert quick.copying.budget.steps < Settings().copying.budget.steps
    same = {name: getattr(Settings(), name) for name in ("long", "rounds", "budget", "copying")}
    assert replace(quick, **same) == Settings()
