"""benchmarks/devices.py counts what ranks send; its page says what its file says; two processes train as one does."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import devices
import devices_model
import devices_page
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / "docs" / "explanation" / "many_devices.md"
EXAMPLE = ROOT / "docs" / "examples" / "train_two_devices.py"


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return json.loads((ROOT / "benchmarks" / "results" / "devices.json").read_text(encoding="utf-8"))


def test_a_small_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "TERMS", ["window(31) | stride(64) & causal"])
    out = tmp_path / "devices.json"
    assert devices.main(["--ranks", "2", "--n", "256", "--parts", "measured", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert {"machine", "versions", "commit", "command", "date"} <= found.keys()
    ours, gathered, ring, _ = found["measured"]["rows"]
    assert ours["as_planned"] and max(ours["forward"]["error"], ours["backward"]["error"]) < 1e-5
    chunk = 2 * 2 * 128 * 32 * 4  # k and v, key heads, tokens, width, bytes
    assert gathered["forward"]["received"] == ring["forward"]["sent"] == [chunk] * 2
    assert ring["backward"]["received"] == [2 * chunk] * 2
    assert sum(ours["forward"]["received"]) <= sum(gathered["forward"]["received"])
    assert all(max(x["forward"]["error"], x["backward"]["error"]) < 1e-5 for x in (gathered, ring))


def test_what_was_measured_is_what_was_planned(report: dict[str, Any]) -> None:
    rows = report["measured"]["rows"]
    ours = [row for row in rows if row["way"] == "pidsl"]
    assert [row["ranks"] for row in ours] == [ranks for ranks in (2, 4, 8) for _ in devices.TERMS]
    for row in ours:
        assert row["as_planned"], row
        for title in ("forward", "backward"):
            assert {x: row[title][x] for x in ("received", "sent")} == row["planned"][title]
            agreements = 3 * (title == "forward")  # on the call, and as it is the first: on its routes, on its programs
            assert row[title]["header"] == [16 * (row["ranks"] - 1) * agreements] * row["ranks"]
    for row in rows:
        passes = [row[title] for title in ("forward", "backward") if "does_not_run" not in row[title]]
        assert passes and all(x["error"] < 1e-5 for x in passes)
        assert len(passes) == 2 or row["way"] == "torch's context parallel"


def test_the_model_is_that_of_the_file(report: dict[str, Any]) -> None:
    assert json.loads(json.dumps(devices_model.operations())) == report["model"]["operations"]
    of, on = devices_model.MODELS[0], devices_model.Cluster()
    for row in report["model"]["clusters"]["rows"]:
        if row["pattern"] == "window(4095)" and row["gpus"] in (8, 64):
            found = devices_model.planned(row["pattern"], 1 << 20, row["gpus"], of)
            assert row["bytes"]["pidsl"] == found.busiest == 4095 * of.key_bytes
            assert row["exchange_seconds"]["pidsl"] == pytest.approx(devices_model.exchange(found, on))
    for row in report["model"]["memory"]["rows"][:4]:
        model = next(x for x in devices_model.MODELS if x.name == row["model"])
        assert {way: devices_model.fewest(way, row["n"], model, on) for way in row["gpus"]} == row["gpus"]


def test_exchanges_of_the_model_by_hand() -> None:
    on = devices_model.Cluster(2, 4.0, 1.0, 0.5)  # two to a node, 4 bytes a second within, 1 between
    of = devices_model.Sizes(kv_heads=1, head_dim=1)  # 4 bytes of a token's k and v
    assert devices_model.gathering(8, 4, of, on) == max(3 * 8 / 4, 2 * 8 / 2 / 1) + 3 * 0.5
    assert devices_model.going_around(8, 4, of, on) == 3 * (8 / 1 + 0.5)
    found = devices_model.planned("window(2)", 8, 4, devices_model.Sizes(heads=1, kv_heads=1, head_dim=1))
    assert devices_model.exchange(found, on) == 8 + 0.5  # two keys of 4 bytes from the other node, of one rank


def test_the_page_says_what_the_file_says(report: dict[str, Any]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert len(list(devices_page.tables(report))) == 4
    assert devices_page.renewed(text, report) == text  # else: python benchmarks/devices.py --page
    assert "This is a model, not a measurement" in text
    on = report["model"]["clusters"]["parameters"]["cluster"]
    speeds = [on[x] / 1e9 for x in ("node_bytes_per_second", "network_bytes_per_second")]
    said = (
        f"{on['gpus_per_node']} GPUs",
        *(f"{x:.0f} GB/s" for x in speeds),
        f"{on['attained_flops'] / 1e12:.0f} TFLOP/s",
    )
    assert all(x in text for x in said)


def losses(text: str) -> list[float]:
    (line,) = re.findall(r"^losses on \d+: (.*)$", text, re.MULTILINE)
    return [float(x) for x in line.split()]


def test_training_on_two_processes(capsys: pytest.CaptureFixture[str]) -> None:
    """The curve of one process, through every step."""
    runpy.run_path(str(EXAMPLE))["main"](steps=5)
    alone = losses(capsys.readouterr().out)
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(EXAMPLE), "--steps", "5"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, check=False)
    # now and then a process with gloo aborts when it exits, after all is said, also in programs of torch alone
    assert "losses on 2" in done.stdout, done.stderr[-2000:]
    assert losses(done.stdout) == pytest.approx(alone, abs=2e-5) and len(alone) == 5
    assert len(set(alone)) == 5
