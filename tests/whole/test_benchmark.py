"""The benchmark runs, judges, and survives a side that fails."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

FOLDER = Path(__file__).resolve().parent.parent.parent / "benchmarks"
SMALL = ["--device", "cpu", "--n", "300", "--heads", "2", "--head-dim", "16", "--quick"]


@pytest.fixture(scope="module")
def peers() -> Iterator[ModuleType]:
    """benchmarks/peers.py as the script it is, imported once; its helpers leave with it."""
    before = set(sys.modules)
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module("peers")
    sys.path.remove(str(FOLDER))
    for name in set(sys.modules) - before:
        if FOLDER.as_posix() in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


def test_a_small_comparison(peers: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "small.json"
    cases = "window-stride,powers,ring,window-sinks"
    assert peers.main([*SMALL, "--out", str(out), "--peers", "pidsl,dense SDPA,masked SDPA", "--cases", cases]) == 0
    report = json.loads(out.read_text())
    assert {"machine", "versions", "commit", "command", "shape"} <= report.keys()
    assert len(report["results"]) == 4 * 3
    for row in report["results"]:
        assert "failed" not in row
        for what in ("forward", "forward+backward"):
            assert len(row[what]["seconds"]) == 3 and row[what]["median_seconds"] > 0
        if row["side"] != "dense SDPA":
            assert row["errors"].keys() == {"out", "dq", "dk", "dv"}
            assert all(error < 1e-4 for error in row["errors"].values())
    said = capsys.readouterr().out
    assert "window(63) | stride(256) & causal" in said and "fwd+bwd" in said


def test_a_side_that_fails_is_a_row(peers: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(case: object, q: object, k: object) -> object:
        raise RuntimeError("no such thing\nand more")

    def breaks_late(case: object, q: object, k: object) -> object:
        def attend(*_: object) -> torch.Tensor:
            raise ValueError("late")

        return sys.modules["sides"].Ready(attend)

    monkeypatch.setitem(peers.SIDES, "pidsl", breaks)
    monkeypatch.setitem(peers.SIDES, "masked SDPA", breaks_late)
    out = tmp_path / "small.json"
    assert peers.main([*SMALL, "--out", str(out), "--peers", "pidsl,masked SDPA", "--cases", "window"]) == 0
    pidsl, masked = json.loads(out.read_text())["results"]
    assert pidsl["failed"] == "RuntimeError: no such thing"
    assert masked["forward"] == masked["forward+backward"] == {"failed": "ValueError: late"}


def test_the_predicates_say_what_the_terms_say(peers: ModuleType) -> None:
    i, j = torch.arange(600)[:, None], torch.arange(600)[None, :]
    for case in peers.CASES.values():
        mask = torch.from_numpy(case.term.mask(600).copy())
        assert torch.equal(mask, case.attends(i, j, 600)), case.name
        assert not (case.causal and (mask & (j > i)).any()), case.name


@pytest.mark.parametrize(
    ("arguments", "said"), [(["--cases", "windw"], "windw; known: window"), (["--peers", "x"], "known: pidsl")]
)
def test_usage(peers: ModuleType, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        peers.main(arguments)
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def test_memory_of_a_forward(peers: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "memory.json"
    assert peers.main(["--memory", "--device", "cpu", "--n", "1024", "--head-dim", "16", "--out", str(out)]) == 0
    found = json.loads(out.read_text())["memory"]
    assert found["peak_resident_bytes"] >= found["before_bytes"] > 0


def test_packed_documents(peers: ModuleType, tmp_path: Path) -> None:
    packed, out = importlib.import_module("packed"), tmp_path / "packed.json"
    small = ["--quick", "--no-flex", "--device", "cpu", "--n", "120", "--documents", "5", "--heads", "1"]
    assert packed.main([*small, "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert sum(report["forward"]["lengths"]) == 120 and len(report["forward"]["lengths"]) == 5
    assert report["forward"]["sides"]["packed"]["error"] < 1e-5
    assert report["sixteen"]["compiled"] == {"python_sources": 0, "dynamo_graphs": 0}


def test_block_masks_for_flex_attention(peers: ModuleType, tmp_path: Path) -> None:
    to_flex, out = importlib.import_module("to_flex"), tmp_path / "to-flex.json"
    small = ["--device", "cpu", "--n", "2048", "--evaluated", "512", "--rounds", "1"]
    assert to_flex.main([*small, "--out", str(out)]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert len(rows) == len(to_flex.TERMS) and all(row["evaluated"]["equal"] for row in rows)


def test_time_from_term_to_source(peers: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, unions = (getattr(sys.modules["compile_time"], name) for name in ("vocabulary", "unions"))
    assert len(whole(0)) > 20
    for (name, a), b in zip(whole(0).items(), whole(1).values(), strict=True):
        assert a != b, f"{name} would come from a cache"
    assert unions(0) == unions(0) and len(set(unions(0)) & set(unions(1))) < len(unions(0)) // 20
    monkeypatch.setattr("compile_time.vocabulary", lambda x: {"window": whole(x)["window"]})
    monkeypatch.setattr("compile_time.UNIONS", 3)
    out = tmp_path / "time.json"
    assert peers.main(["--compile-time", "--device", "cpu", "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    rows = report["compile_time"]
    assert [row["backend"] for row in rows] == ["torch", "triton"]
    for row in rows:
        assert len(row["seconds"]) == len(row["cpu_seconds"]) == 5 and row["peak_python_bytes"] > 0
    for row in report["compile_time_of_unions"]:
        times = row["cpu_seconds"]
        assert 0 < times["median"] <= times["percentile_90"] <= times["maximum"] and row["unions"] == 3


def test_a_mask_that_differs_is_counted(
    peers: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    masks, out = importlib.import_module("masks"), tmp_path / "masks.json"
    monkeypatch.setattr(masks, "LIBRARIES", {"none": ("no_such_module", "", iter), "torch": masks.LIBRARIES["torch"]})
    assert masks.main(["--libraries", "none,torch", "--out", str(out)]) == 0
    assert "none: not installed" in capsys.readouterr().out
    report = json.loads(out.read_text())
    assert report["versions"]["none"] == "not installed" and report["totals"]["unequal"] == 0
    assert report["totals"]["masks"] == report["cases"][0]["masks"] == len(masks.mask_functions.SHAPES)
    (key,) = (key for key in masks.SPELLED if key[0] == "torch")
    monkeypatch.setitem(masks.SPELLED, key, masks.Spelling(*key, "window(3)"))
    assert masks.main(["--libraries", "torch", "--out", str(out)]) == 1
    (case,) = json.loads(out.read_text())["cases"]
    assert case["first"] == "5 x 5: 1 unequal"


def test_chosen_blocks(peers: ModuleType, tmp_path: Path) -> None:
    chosen, out = importlib.import_module("chosen_blocks"), tmp_path / "chosen.json"
    sizes = ["--n", "300", "--heads", "2", "--head-dim", "16", "--budget", "2"]
    small = ["--quick", "--no-flex", "--device", "cpu", *sizes]
    assert chosen.main([*small, "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert report["error"]["pidsl"] < 1e-5
    assert report["forward"].keys() == report["forward+backward"].keys() == {"pidsl", "dense SDPA"}
    lists = chosen.random_lists(2, 5, 2)[0, 1].tolist()
    assert lists[0] == [-1, -1] and all(x < row for row, own in enumerate(lists) for x in own)
    assert all(len({*own}) == 2 for own in lists[2:])


def test_what_a_budget_buys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a model that hardly learned: what it says with the whole budget is what it says with all keys."""
    monkeypatch.syspath_prepend(str(FOLDER))
    budget = importlib.import_module("budget")
    monkeypatch.setattr(budget, "BUDGETS", (1, 32))
    monkeypatch.setattr(
        budget, "accuracy", lambda model, questions: {name: round(model(x).square().mean().item(), 4)
                                                      for name, (x, _) in questions.items()}
    )  # fmt: skip
    out = tmp_path / "new" / "budget.json"
    small = ["--seeds", "1", "--steps", "3", "--gate-steps", "2", "--questions", "2", "--out", str(out)]
    assert budget.main(small) == 0
    report = json.loads(out.read_text())
    assert {"machine", "versions", "command", "sizes"} <= report.keys()
    rows = {(row["selector"], row["budget"]): row for row in report["runs"][0]["rows"]}
    names = {name for name, _ in rows}
    assert names == {"all keys", "window", "SeerGate", "MoBA", "Quest", "random", "largest"}
    for name in names - {"all keys", "window"}:
        assert rows[name, 32] == {**rows["all keys", None], "selector": name, "budget": 32}
        assert rows[name, 1]["recall"] not in (rows["all keys", None]["recall"], rows["window", 0]["recall"])
        assert rows[name, 1]["keys"] == 16 and rows["window", 0]["keys"] == 8
